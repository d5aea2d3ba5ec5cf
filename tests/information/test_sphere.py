import math

import pytest
import torch
from largest import Largest
from scipy.integrate import quad

from clipib.information import sphere
from clipib.information.sphere import alignment, anisotropy, uniformity, uniformity_floor


def draw(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def naive_pairs(features):
    """Squared distances and cosines of all pairs i < j, by loops."""
    rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in features.tolist()]
    pairs = [(rows[i], rows[j]) for i in range(len(rows)) for j in range(i + 1, len(rows))]
    squares = [sum((a - b) ** 2 for a, b in zip(u, v)) for u, v in pairs]
    return squares, [sum(a * b for a, b in zip(u, v)) for u, v in pairs]


@pytest.mark.parametrize("n, d", [(2, 1), (7, 3), (63, 5)])
def test_uniformity_and_anisotropy_equal_loops(n, d):
    x = draw(n, d, seed=n, shift=0.4)
    squares, cosines = naive_pairs(x)
    expected = math.log(sum(math.exp(-2 * s) for s in squares) / len(squares))
    assert uniformity(x) == pytest.approx(expected, abs=1e-12)
    assert anisotropy(x) == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)


@pytest.mark.parametrize("n", [63, 64, 65, 129])
def test_uniformity_is_the_same_in_small_tiles(monkeypatch, n):
    x = draw(n, 5)
    whole = uniformity(x)
    monkeypatch.setattr(sphere, "BLOCK", 16)
    assert uniformity(x) == pytest.approx(whole, abs=1e-12)


def test_uniformity_never_holds_all_pairs(monkeypatch):
    monkeypatch.setattr(sphere, "BLOCK", 16)
    with Largest() as largest:
        uniformity(draw(257, 4))
    assert largest.numel == 257 * 4


def potential_at_width(scale, d):
    """The integral of exp(scale cos a) over the sphere, up to a constant."""
    return quad(lambda a: math.exp(scale * math.cos(a)) * math.sin(a) ** (d - 2), 0, math.pi)[0]


def test_uniformity_of_the_whole_sphere():
    """Closed forms of E exp(4 t): cosh 4 on two points, sinh(4)/4 on the sphere, else the density of a cosine."""
    assert uniformity_floor(1) == pytest.approx(-4 + math.log(math.cosh(4)), abs=1e-12)
    assert uniformity_floor(3) == pytest.approx(-4 + math.log(math.sinh(4) / 4), abs=1e-12)
    for d in (2, 7, 64):
        mean = potential_at_width(4, d) / potential_at_width(0, d)
        assert uniformity_floor(d) == pytest.approx(-4 + math.log(mean), abs=1e-8)
    assert uniformity_floor(512) == pytest.approx(-3.984, abs=5e-4)
    assert uniformity_floor(8) == pytest.approx(-3.083, abs=5e-4)


@pytest.mark.parametrize("d", [2, 8, 512])
def test_evenly_spread_rows_reach_the_floor(d):
    """Distinct pairs have no self term, so the mean over draws is the floor; 5 draws, 4 s.e. and Jensen's 1/n."""
    found = torch.tensor([uniformity(draw(700, d, seed=seed)) for seed in range(5)])
    assert abs(found.mean() - uniformity_floor(d)) < 4 * found.std() / 5**0.5 + 1 / 700
    assert uniformity(draw(700, d, shift=0.5)) > uniformity_floor(d) + 0.1


def test_a_finite_sample_can_undercut_the_floor():
    """d + 1 vertices of a simplex have cosine -1/d; two opposite points are the extreme."""
    d = 8
    corners = torch.eye(d + 1) - 1 / (d + 1)
    assert uniformity(corners) == pytest.approx(-4 - 4 / d, abs=1e-6)  # float32 features
    assert uniformity(corners) < uniformity_floor(d)
    assert uniformity(torch.tensor([[1.0], [-1.0]])) == -8
    assert anisotropy(corners) == pytest.approx(-1 / d, abs=1e-6)


def test_alignment_is_two_minus_twice_the_cosine():
    image, text = draw(63, 5), draw(63, 5, seed=1)
    cosine = torch.nn.functional.cosine_similarity(image, text).mean()
    assert alignment(image, text) == pytest.approx(float(2 - 2 * cosine), abs=1e-12)
    assert alignment(image, 7 * image) == pytest.approx(0, abs=1e-12)
    assert alignment(image, -image) == pytest.approx(4, abs=1e-12)


def test_one_point_is_as_anisotropic_as_can_be():
    x = torch.full((5, 3), 0.1)
    assert anisotropy(x) == pytest.approx(1, abs=1e-12)
    assert uniformity(x) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_stored_features(dtype, atol):
    """The tolerance is the relative rounding of the dtype, 2^-24, 2^-11 and 2^-8, times 4."""
    x = draw(63, 16, shift=0.4)
    for number in (uniformity, anisotropy):
        assert number(x.to(dtype)) == pytest.approx(number(x), abs=atol)


@pytest.mark.parametrize("number", [uniformity, anisotropy, lambda x: alignment(x, x)])
def test_bad_features_are_refused(number):
    with pytest.raises(ValueError, match="at least 2 rows"):
        number(draw(1, 3))
    with pytest.raises(ValueError, match="rows of zeros"):
        number(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="expected finite"):
        number(torch.full((3, 3), torch.nan))


def test_a_sphere_has_a_width():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        uniformity_floor(0)
