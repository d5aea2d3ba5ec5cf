"""The part of a report that tells of one data set: its metrics, classes, confusion, worst and flipped samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipib.progress import counted
from clipib.tasks.contenders import Contender, Key, params_of
from clipib.tasks.markup import Html, breakable, details, table, tag
from clipib.tasks.per_class import PerClass, per_class
from clipib.tasks.pictures import Pictures, Thumbnail
from clipib.tasks.report_charts import MOST_BARS, MOST_CELLS, MOST_SERIES, confusion_chart, recall_chart
from clipib.tasks.report_page import Deltas, anchor, badge, metric_name, metric_table, name_of
from clipib.tasks.report_samples import Sample, Shown, flipped_samples, worst_samples
from clipib.tasks.results import Row
from clipib.tasks.runs import Run
from clipib.tasks.sound_samples import trouble_of

MOST_PAIRS = 25  # confused pairs
CLASSIFIED = ("acc1", "mean_per_class_recall", "macro_f1")  # whose samples tell of classes
SAMPLED = ("acc1", "image_retrieval_recall@1", "text_retrieval_recall@1")  # whose flips are shown


def dataset_section(keys: Sequence[Key], contenders: Sequence[Contender], deltas: Deltas, pictures: Pictures) -> Html:
    """All that is known of one data set.

    Args:
        keys: those of the data set. deltas: differences to the first contender.
    """
    first = next(c.cells[keys[0]] for c in contenders if keys[0] in c.cells)
    partial = f"a seeded sample of {first.limit:,}" if first.limit else ""
    about = ", ".join(filter(None, (first.command, f"protocol {first.protocol}", partial)))
    body = [
        tag("h2", name_of(keys[0].dataset, keys[0].split), id=anchor(keys[0])),
        tag("p", about, class_="quiet"),
        metric_table(keys, contenders, deltas, by_dataset=False, caption="All metrics"),
    ]
    troubles = dict.fromkeys(
        trouble
        for c in contenders
        for key in keys
        if key in c.cells and (trouble := trouble_of(c.runs[key], c.cells[key]))
    )
    body += [tag("p", f"{trouble[:1].upper()}{trouble[1:]}: it is left out.", class_="warn") for trouble in troubles]
    for way in dict.fromkeys(key.params for key in keys if _is_told(key)):
        own = [key for key in keys if key.params == way]
        if classes := [(c, found) for c in contenders if (found := _classes(c, own))]:
            body += class_part(classes, contenders, of=_way(way))
    body += sample_part(keys, contenders, deltas, pictures)
    return tag("section", body)


def class_part(
    classes: Sequence[tuple[Contender, PerClass]], contenders: Sequence[Contender], *, of: str = ""
) -> list[Html]:
    """Recall by class, a table of all classes, and what is taken for what.

    Args:
        of: how the classes were told, for the headings.
    """
    classes = classes[:MOST_SERIES]
    first, base = classes[0]
    order, names = base.worst_first(), base.classnames
    recalls = np.array([[_at(found.table.recall, k) for k in order] for _, found in classes])  # (series, classes)
    spread = recalls.max(axis=0) - recalls.min(axis=0)
    few = np.argsort(-spread, kind="stable")[:MOST_BARS] if len(classes) > 1 else np.arange(len(order))[:MOST_BARS]
    letters = [c.letter for c, _ in classes]
    what = f"largest difference first, then lowest of {first.letter}" if len(classes) > 1 else "lowest first"
    more = f", and {len(order) - len(few):,} more in the table" if len(order) > len(few) else ""
    left_out = len(contenders) - len(classes)
    parts = [
        tag("h3", f"Recall by class{of}"),
        tag("p", [badge(c, contenders.index(c)) for c, _ in classes], f" {what}{more}", class_="quiet"),
        recall_chart(
            [names[k] for k in order[few]],
            [int(base.table.n[k]) for k in order[few]],
            recalls[:, few].tolist(),
            letters,
            [contenders.index(c) for c, _ in classes],
        ),
        tag("p", f"{counted(left_out, 'checkpoint')} not shown here.", class_="quiet") if left_out else None,
        details("All classes as a table", _class_table(classes, order)),
        tag("h3", f"What is taken for what{of}"),
    ]
    if len(names) > MOST_CELLS:
        return [*parts, _pairs_table(classes)]
    for place, (contender, found) in enumerate(classes):
        chart = confusion_chart(found.classnames, found.confusion)
        told = f"Confusion matrix of {contender.letter}: rows are the true classes"
        parts.append(details(told, chart, open_=place == 0))
    return [*parts, details("The most confused pairs as a table", _pairs_table(classes))]


def sample_part(keys: Sequence[Key], contenders: Sequence[Contender], deltas: Deltas, pictures: Pictures) -> list[Html]:
    """The worst samples of each contender, and those that flipped between the baseline and each other one."""
    wanted = [key for key in keys if key.metric in SAMPLED and _is_told(key)]
    commands = {(key.command, key.params): key for key in reversed(wanted)}
    parts = []
    for contender in contenders[:MOST_SERIES]:
        for key in commands.values():
            if key in contender.cells:
                run, row = contender.runs[key], contender.cells[key]
                parts += _galleries(worst_samples(run, row), run, row, pictures, of=contender.letter + _way(key.params))
    flips, base = [], contenders[0]
    for other in contenders[1:MOST_SERIES]:
        for key in wanted:
            delta = deltas.get((other.letter, key))
            if delta and delta.difference:  # joined sample by sample
                runs, rows = (base.runs[key], other.runs[key]), (base.cells[key], other.cells[key])
                shown = flipped_samples(*runs, *rows, base.letter + other.letter)
                flips += _galleries(shown, runs[0], rows[0], pictures, of=metric_name(key.metric, key.params))
    return [
        *([tag("h3", "Worst samples"), parts] if parts else []),
        *([tag("h3", "Flipped samples"), flips] if flips else []),
    ]


def _galleries(found: Sequence[Shown], run: Run, row: Row, pictures: Pictures, *, of: str) -> list[Html]:
    """Rows of pictures with what is said of them; without pictures where the data cannot be opened."""
    if not any(shown.samples for shown in found):
        return []
    why = pictures.why_missing(run, row)
    parts = [tag("p", f"No pictures: {why}", class_="quiet")] if why else []
    for shown in found:
        if shown.samples:
            count = f"{len(shown.samples):,} of {shown.n:,}" if shown.n > len(shown.samples) else f"{shown.n:,}"
            figures = [
                _figure(sample, None if why else pictures.thumbnail(run, row, sample.sample_id), why)
                for sample in shown.samples
            ]
            parts += [tag("h4", f"{of}: {shown.title} ({count})"), tag("div", figures, class_="samples")]
    return parts


def _figure(sample: Sample, picture: Thumbnail | None, why: str) -> Html:
    """A picture in a frame, which is left out where there are no pictures at all, and what is said of it."""
    image = None
    if picture:
        told = f"{sample.lines[0]}: {sample.sample_id}"
        image = tag("img", src=picture.url, width=picture.width, height=picture.height, alt=told)
    below = [
        tag("b", sample.lines[0]),
        (tag("span", line) for line in (*sample.lines[1:], breakable(sample.sample_id))),
    ]
    return tag("figure", None if why else tag("div", image, class_="frame"), tag("figcaption", below))


def _classes(contender: Contender, keys: Sequence[Key]) -> PerClass | None:
    key = next((k for k in keys if k.metric in CLASSIFIED and k in contender.cells), None)
    if key is None or trouble_of(contender.runs[key], contender.cells[key]):
        return None
    return per_class(contender.runs[key], contender.cells[key])


def _is_told(key: Key) -> bool:
    """Whether classes and samples are told of: those of a whole evaluation, or of a probe that learnt from all."""
    params = params_of(key.params)
    return not params or (set(params) == {"probe", "shots"} and params["shots"] == "all")


def _way(params: str) -> str:
    """How classes were told, behind a heading; nothing where it is by the text."""
    return f" ({params_of(params)['probe']} probe, all images)" if params else ""


def _class_table(classes: Sequence[tuple[Contender, PerClass]], order: np.ndarray) -> Html:
    measures = [(c.letter, name) for c, _ in classes for name in ("recall", "precision", "F1", "taken for")]
    header = ["class", "n", *(f"{letter} {name}" for letter, name in measures)]
    lines = []
    for k in order:
        cells = []
        for _, found in classes:
            t, most = found.table, int(_at(found.table.mistaken_for, k, -1))
            mistake = f"{found.classnames[most]} ({t.n_mistaken[k]:,})" if most >= 0 else ""
            cells += [_share(_at(t.recall, k)), _share(_at(t.precision, k)), _share(_at(t.f1, k)), mistake]
        lines.append([classes[0][1].classnames[k], f"{classes[0][1].table.n[k]:,}", *cells])
    return table(header, lines)


def _pairs_table(classes: Sequence[tuple[Contender, PerClass]]) -> Html:
    """The pairs of classes that are confused most often, by the most of any contender."""
    size = max(len(found.classnames) for _, found in classes)
    names = max((found.classnames for _, found in classes), key=len)
    counts = np.zeros((len(classes), size, size), dtype=np.int64)
    for i, (_, found) in enumerate(classes):
        k = len(found.classnames)
        counts[i, :k, :k] = found.confusion
        np.fill_diagonal(counts[i], 0)
    most = counts.max(axis=0)
    order = np.argsort(-most, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(flat), size) for flat in order if most.flat[flat] > 0]
    if not pairs:
        return tag("p", "No image was taken for another class.")
    n = classes[0][1].table.n
    lines = [[names[i], names[j], f"{int(_at(n, i, 0)):,}", *(f"{c:,}" for c in counts[:, i, j])] for i, j in pairs]
    total = int((most > 0).sum())
    which = f"the {len(pairs)} most frequent of {total:,} pairs" if total > len(pairs) else "all pairs"
    header = ["class", "taken for", "n", *(c.letter for c, _ in classes)]
    return table(header, lines, left=2, caption=f"How many images of a class are taken for another: {which}")


def _at(values: np.ndarray, k: int, otherwise: float = float("nan")) -> float:
    """A class that a contender never met has no entry."""
    return float(values[k]) if k < len(values) else otherwise


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
