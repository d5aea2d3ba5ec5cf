"""Figures: what is drawn where, that nothing is cut or printed over, and equal bytes for equal input."""

import ast
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from clipib.tasks import figure_style, figures
from clipib.tasks.figures import Bar, PlanePoint

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(0)
PMI = RNG.normal(size=300)
ALPHAS = np.geomspace(0.1, 10, 41)
PREDICTED = np.linspace(-5, 3, 9)
LONG = "ViT-B-32/laion2b_s34b_b79k, fine-tuned with cibr at some rate"


def point(name, private, shared, half=0.1):
    return PlanePoint(name, private, private - half, private + half, shared, shared - half, shared + half)


def bars(checkpoints, values=(0.4, -0.02)):
    groups = {"image nuisance": ["tint", "flip"], "unmentioned": ["digit", "brightness_of_the_picture"]}
    return [
        Bar(attribute, group, checkpoint, value, value - 0.05, value + 0.05, 0.5 if "un" in group else None, 0.69)
        for group, attributes in groups.items()
        for attribute, value in zip(attributes, values)
        for checkpoint in checkpoints
    ]


def pmi(**more):
    options = {"slope": 0.8, "title": "Score against PMI"} | more
    return figures.score_against_pmi(0.8 * PMI[:50], PMI[:50], 0.8 * PMI + 0.1, PMI, **options)


def ratio(empirical=0.7 * PREDICTED, weight=np.ones(9) / 9, error=np.full(9, 0.2)):
    return figures.ratio_calibration(
        PREDICTED - 0.1, PREDICTED, empirical, error, weight, nats=0.1234, title="Ratio calibration"
    )


def norms(testable=(True, True)):
    return figures.log_norms(0.3 * PMI, 0.1 + 0 * PMI, PMI[:7], 2.0, testable=testable, title="Normalisation")


def gain(truth=1.0):
    return figures.scale_gain(ALPHAS, ALPHAS - 0.6 * ALPHAS**2, best=1 / 1.2, truth=truth, title="Scale")


def spectra():
    curves = {"scores": 50 * np.arange(1, 65.0) ** -1.5, "true PMI": np.r_[np.full(9, 3.0), np.zeros(31)]}
    return figures.spectra(curves, title="Spectra")


def plane(names=("pretrained", "clip", LONG), **more):
    points = [point(name, 0.3 * i, 2 + 0.1 * i) for i, name in enumerate(names)]
    return figures.information_plane(points, x_label="private, image nuisance (nats)", title="Plane", **more)


def nuisance(checkpoints=("pretrained", "clip", "cibr")):
    return figures.nuisance_bars(bars(checkpoints), title="Nuisance")


USUAL = {
    "pmi": pmi,
    "ratio": ratio,
    "norms": norms,
    "gain": gain,
    "spectra": spectra,
    "plane": lambda: plane(ceiling=3.0, truth=2.5, arrows=[(0, 1), (0, 2)]),
    "nuisance": nuisance,
}
HARD = {
    "pmi of one pair": lambda: figures.score_against_pmi([0.3], [0.5], [1.0], [2.0], slope=0, title=LONG * 2),
    "ratio of one bin": lambda: figures.ratio_calibration([1], [1], [2], [0], [0], nats=0.0, title=LONG),
    "norms not testable": lambda: norms((False, False)),
    "norms of one": lambda: figures.log_norms([0.3], 0.1, [1e-3], [2e-3], testable=(True, False), title="One"),
    "gain at one alpha": lambda: figures.scale_gain([1.0], [0.0], best=1.0, title=""),
    "spectra of one value": lambda: figures.spectra({"$x_1$": [1.0]}, title="$"),
    "eight curves": lambda: figures.spectra({f"{LONG} {i}": ALPHAS**-i for i in range(1, 9)}, title="Eight"),
    "eight points": lambda: plane([f"{LONG} {i}" for i in range(8)], ceiling=8.52, arrows=[(0, i) for i in range(8)]),
    "one point": lambda: figures.information_plane(
        [PlanePoint("_a", 1.0, None, None, -0.2, None, None)], arrows=[(0, 0)], x_label="private (nats)", title="One"
    ),
    "one bar": lambda: figures.nuisance_bars([Bar("flip", "image nuisance", LONG, -0.0213, None, None)], title="One"),
    "eight bars": lambda: nuisance([f"{LONG} {i}" for i in range(8)]),
}


def drawn_texts(figure):
    """Texts on the paper; ticks beyond the ends of their axis have labels as well, which are not drawn."""
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            unseen |= {t for tick in ticks if not low <= tick.get_loc() <= high for t in tick.findobj(Text)}
    return [t for t in figure.findobj(Text) if t not in unseen and t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize("name", [*USUAL, *HARD])
def test_no_text_is_cut_small_or_printed_over_another(name):
    figure = (USUAL | HARD)[name]()
    with figures.house_style():
        figure.draw_without_rendering()
        texts = drawn_texts(figure)
        boxes = [t.get_window_extent() for t in texts]
    paper = figure.bbox.padded(0.5)  # half a pixel, to which glyphs are rounded
    for text, box in zip(texts, boxes):
        assert text.get_fontsize() >= 7.5
        assert "$" not in text.get_text().replace(r"\$", "")  # the exponents of mathematics are smaller
        assert paper.x0 <= box.x0 and paper.y0 <= box.y0 and box.x1 <= paper.x1 and box.y1 <= paper.y1, text
    for (one, a), (other, b) in combinations(zip(texts, boxes), 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


@pytest.mark.parametrize("name", USUAL)
def test_files_are_equal_when_drawn_again(name, tmp_path):
    figure = USUAL[name]()
    png, svg = figures.save_figure(figure, tmp_path / "new" / "folder", name)
    first = png.read_bytes(), svg.read_bytes()
    assert set(png.parent.iterdir()) == {png, svg}
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "savefig.bbox": "tight"}):
        again = USUAL[name]()
        again.draw_without_rendering()  # looked at once before it is saved
        figures.save_figure(again, png.parent, name)
        assert (png.read_bytes(), svg.read_bytes()) == first
        assert matplotlib.rcParams["font.size"] == 20
    assert imread(png).shape[1] == 670  # 85 mm at 200 dpi
    text = svg.read_text()
    assert "nats)</text>" in text or name == "spectra"
    assert figure.get_suptitle() in text and "<dc:date>" not in text


def test_scores_stand_over_their_pmi():
    figure = pmi()
    for panel, n in zip(figure.axes[:2], (50, 300)):
        assert panel.collections[0].get_array().sum() == n
        assert f"n = {n}" in panel.get_title("left")
        ideal, fitted = panel.lines
        assert ideal.get_slope() == 1 and fitted.get_slope() == 0.8
        assert fitted.get_xy1() == pytest.approx((PMI.mean(), 0.8 * PMI.mean() + 0.1), abs=1e-12)


def test_an_empty_bin_is_left_out_and_counted():
    empirical, error = 0.7 * PREDICTED, np.full(9, 0.2)
    empirical[[0, 8]], error[[0, 8]] = (-np.inf, np.inf), np.nan
    weight = np.arange(9) / 36
    (panel,) = ratio(empirical, weight, error).axes
    segments, dots = panel.collections
    assert dots.get_offsets().data == pytest.approx(np.stack([PREDICTED, empirical], 1)[1:8])
    assert np.stack(segments.get_segments())[:, :, 1] == pytest.approx(
        np.stack([empirical - 0.4, empirical + 0.4], 1)[1:8]
    )
    areas = dots.get_sizes() - 8
    assert areas / areas[-1] == pytest.approx(weight[1:8] / weight[7])
    assert panel.get_title("left") == "mean distance 0.123 nats; empty bins: 2"
    assert panel.get_xlim() == panel.get_ylim()


def test_norms_tell_spread_and_band():
    images, texts = norms(testable=(True, False)).axes
    values = 0.3 * PMI
    share = np.mean(abs(values) <= 0.2)
    assert images.get_title("left").startswith(f"{share:.0%} of images within")
    assert f"spread {values.std():.2g} nats, by sampling alone 0.1" in images.get_title("left")
    assert texts.get_title("left").startswith("100% of texts")
    assert not images.texts and "not testable" in texts.texts[0].get_text()
    assert sum(bar.get_height() for bar in images.containers[0]) == 300
    band = images.patches[0].get_bbox()
    assert (band.x0, band.x1) == pytest.approx((-0.2, 0.2))


def test_the_gain_is_seen_from_the_value_of_a_constant_to_the_truth():
    (panel,) = gain().axes
    low, high = panel.get_ylim()
    assert -0.3 < low < 0 and 1.0 < high < 1.1  # from 0.4 at alpha = 1 the value falls to -50 at 10
    assert panel.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in panel.lines[1:4]] == pytest.approx([1, 1 / 1.2, 1 / 1.2])
    below = figures.scale_gain([0.9, 1, 1.1], [-5.2, -5, -5.3], best=1, title="All below zero").axes[0]
    assert -5.4 < below.get_ylim()[0] < -5.3 and below.get_ylim()[1] < -4.9 and below.get_xscale() == "linear"


def test_spectra_fall_and_rounding_errors_leave_the_frame():
    figure = figures.spectra({"a": [1.0, 3.0, 2.0, 1e-12], "b": [0.5]}, title="Spectra")
    (panel,) = figure.axes
    assert panel.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0, 1e-12]
    assert panel.get_ylim() == pytest.approx((0.5 / 1.6, 3 * 1.6))


def test_points_intervals_arrows_and_levels_of_the_plane():
    (panel,) = plane(ceiling=2.9, truth=2.5, arrows=[(0, 1), (0, 2)]).axes
    dots = [line for line in panel.lines if len(line.get_xdata()) == 1]
    assert np.concatenate([dot.get_xydata() for dot in dots]) == pytest.approx(
        np.array([[0, 2], [0.3, 2.1], [0.6, 2.2]])
    )
    ends = [line.get_xydata().tolist() for line in panel.lines[:2]]
    assert np.array(ends) == pytest.approx(np.array([[[-0.1, 2], [0.1, 2]], [[0, 1.9], [0, 2.1]]]))
    assert [(a.xyann, a.xy) for a in panel.texts] == [((0, 2), (0.3, 2.1)), ((0, 2), (0.6, 2.2))]
    assert [line.get_ydata()[0] for line in panel.lines[-2:]] == [2.5, 2.9]
    assert panel.get_ylim()[1] > 2.9


def test_a_ceiling_far_above_is_told_and_does_not_press_the_points_together():
    figure = plane(ceiling=8.52)
    assert figure.axes[0].get_ylim()[1] < 3
    assert figure.legends[0].get_texts()[-1].get_text() == "log N = 8.52 (above)"


def test_bars_have_their_lengths_and_missing_ones_leave_a_gap():
    rows = bars(("pretrained", "clip"))
    del rows[3]  # flip of clip
    figure = figures.nuisance_bars(rows, title="Nuisance")
    drawn = [bar for panel in figure.axes for container in panel.containers for bar in container]
    assert [bar.get_width() for bar in drawn] == pytest.approx([row.value for row in rows])
    centres = [bar.get_y() + bar.get_height() / 2 for bar in drawn]
    assert centres == pytest.approx([-0.2, 0.2, 0.8, -0.2, 0.2, 0.8, 1.2])
    assert figure.axes[0].get_ylim() == (1.5, -0.5)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(names) == {"pretrained", "clip", "H(attribute)", "H(attribute | other side)"}


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="finite scores_p, got 1 of 2"):
        figures.score_against_pmi([1, np.nan], [1, 2], [1], [1], slope=1, title="")
    with pytest.raises(ValueError, match=r"one shape \(n,\).*\(2,\), \(1,\)"):
        figures.score_against_pmi([1], [1, 2], [1], [1], slope=1, title="")
    with pytest.raises(ValueError, match="n >= 1"):
        figures.log_norms([], 0.1, [1], 0.1, testable=(True, True), title="")
    with pytest.raises(ValueError, match="got 9 bins without"):
        ratio(np.full(9, -np.inf))
    with pytest.raises(ValueError, match="increasing"):
        figures.scale_gain([1, 0.5], [1, 2], best=1, title="")
    with pytest.raises(ValueError, match="around 1 and 3"):
        figures.scale_gain([0.5, 2], [1, 2], best=3, title="")
    with pytest.raises(ValueError, match="singular values of 'a', got 0"):
        figures.spectra({"a": [0, 0]}, title="")
    with pytest.raises(ValueError, match="got none"):
        figures.spectra({}, title="")
    with pytest.raises(ValueError, match="finite numbers, got 1"):
        figures.information_plane([point("a", 1, 2)._replace(shared_high=np.inf)], x_label="", title="")
    with pytest.raises(ValueError, match=r"got two for .*'tint'"):
        figures.nuisance_bars(bars(("a", "a")), title="")
    for draw in (figures.information_plane, figures.nuisance_bars):
        with pytest.raises(ValueError, match="got none"):
            draw([], title="", **({"x_label": ""} if draw is figures.information_plane else {}))


def test_names_stay_what_they_are():
    assert figure_style.plain("$x_1$", 46) == r"\$x_1\$"
    assert figure_style.plain("brightness_of_the_picture", 16) == "brightness_of_\nthe_picture"
    assert figure_style.plain("_a", 16) == " _a"  # some versions leave names with a first underscore out of legends


def test_a_long_legend_takes_nothing_from_the_panel():
    short, long = plane(("a",)), plane([f"{LONG} {i}" for i in range(8)])
    inches = [figure.axes[0].get_position().height * figure.get_figheight() for figure in (short, long)]
    assert 0 <= inches[1] - inches[0] < 0.3  # a second line of a name is a little lower than the 0.16 of a first one


def test_no_two_series_look_alike():
    with figures.house_style():
        looks = [figure_style.look_of(i) for i in range(24)]
    assert len({(look.colour, look.marker) for look in looks}) == 24
    for kind in ("marker", "hatch", "line"):
        assert len({getattr(look, kind) for look in looks[:5]}) == 5
    assert len({look.marker for look in looks[:8]}) == 8


@pytest.mark.parametrize("module", [figures, figure_style], ids=["figures", "figure_style"])
def test_matplotlib_is_imported_when_something_is_drawn_and_pyplot_never(module):
    source = Path(module.__file__).read_text()
    assert "pyplot" not in source
    heads = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not any("matplotlib" in ast.unparse(node) for node in heads)
