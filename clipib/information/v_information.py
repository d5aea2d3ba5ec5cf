"""What a probe of a given family can read from features: V-information, on rows that it was not fitted on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipib.information.logistic import (
    Rows,
    Softmax,
    choose_logistic,
    cross_entropies,
    log_probabilities,
    standardise,
    turn,
)
from clipib.information.mlp import Based, fit_mlp

FAMILIES = ("logistic", "mlp")


class Labelled(NamedTuple):
    """Rows of one split.

    features: (n, d) of any float type.
    labels: (n,) whole numbers, the values of the attribute.
    given: (n, s) what is known anyway, such as the one-hot values of shared content; None for nothing.
    """

    features: Tensor
    labels: Tensor
    given: Tensor | None = None


class VInformation(NamedTuple):
    """A held-out reading; see `v_information`.

    value_nats: h_without_nats - h_with_nats, not clipped.
    standard_error_nats: of `value_nats` over judged rows, if they are independent; the probes are taken as fixed.
    h_without_nats, h_with_nats: held-out cross-entropies without and with the features.
    entropy_share: value_nats / h_without_nats, at most 1.
    accuracy: share of the judged rows whose likeliest value is right.
    majority_share: the same without the features; where nothing is given, the share of the commonest value.
    n: judged rows.
    differences: (n,) what each judged row adds to the value, for intervals that keep the rows of one image together.
    """

    value_nats: float
    standard_error_nats: float
    h_without_nats: float
    h_with_nats: float
    entropy_share: float
    accuracy: float
    majority_share: float
    n: int
    differences: Tensor


def v_information(
    fit: Labelled, calibrate: Labelled, evaluate: Labelled, *, family: str = "logistic", seed: int = 0
) -> VInformation:
    """I_V(Z -> A), or I_V(Z -> A | S) where S is given: what probes of one family gain from the features.

        I_V = H_V(A | S) - H_V(A | Z, S),   H_V(A | .) = E -log p(a | .) over the judged rows

    `logistic`: multinomial logistic on features standardised by the fit rows, the ridge chosen on the calibration
    rows. `mlp`: one hidden layer of 256 added to the log probabilities of the probe without features, the epoch chosen
    on the calibration rows. Either can ignore the features, so that more of them cost little. Without features and
    with nothing given the probe is Laplace's rule, the frequencies with one more row of each value.

    Status: a lower bound of I(Z; A | S) in expectation, up to the cost of the frequencies without features, about
    (K - 1) / (2 n) with n the fit rows; far below it where the family cannot read what is there. It may rise when Z
    is processed. Under a logistic probe without a ridge an independent attribute costs d (K - 1) / (2 n): values
    below 0 are what an estimate of 0 looks like, and are returned as they are. An `mlp` that learnt nothing returns
    exactly 0. H(A | S) is the ceiling.

    Args:
        fit, calibrate, evaluate: three disjoint sets of rows of equal width, each with two or more values.
        family: one of `FAMILIES`.
        seed: of the mlp; nothing is drawn for logistic.

    Returns:
        `VInformation`, in nats.

    Raises:
        ValueError: for an unknown family, shapes that differ, NaN or infinite features, one value in a split, features
            that do not vary.

    Reference:
        Xu et al., 2020, A theory of usable information under computational constraints, 2002.10689. Conditioning:
        Hewitt et al., 2021, Conditional probing, 2109.09234.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> label = torch.randint(0, 2, (3000,), generator=generator)
        >>> split = [Labelled(y[:, None] * 8.0, y) for y in label.split(1000)]
        >>> found = v_information(*split)
        >>> round(found.h_without_nats, 2), round(found.value_nats, 2), found.accuracy
        (0.69, 0.69, 1.0)
    """
    if family not in FAMILIES:
        raise ValueError(f"expected one of {', '.join(FAMILIES)}, got {family!r}")
    splits = (fit, calibrate, evaluate)
    features, sides = _checked(splits)
    values, codes = torch.cat([split.labels.cpu() for split in splits]).unique(return_inverse=True)
    labels = codes.split([len(split.labels) for split in splits])
    features = standardise(*features)
    without, given = _logistic_without(sides, labels, len(values))
    if family == "logistic":
        log_p = _logistic_with(turn(*features), sides, labels, given)
    else:
        if sides[0].shape[1]:
            without = _mlp(sides, without, labels, seed)
        log_p = _mlp([torch.cat(x, 1) for x in zip(features, sides)], without, labels, seed)[-1]
    return _reading(without[-1], log_p, labels[-1])


class _Given(NamedTuple):
    """The logistic probe of what is given alone, and the strength of its ridge."""

    model: Softmax
    strength: float


def _logistic_without(sides: list[Tensor], labels: tuple[Tensor, ...], classes: int) -> tuple[list[Tensor], _Given]:
    """log p(a | s) of all splits."""
    fit, calibrate, _ = map(Rows, sides, labels)
    given = _Given(*choose_logistic(fit, calibrate, classes=classes))
    return [log_probabilities(given.model, side) for side in sides], given


def _logistic_with(features: list[Tensor], sides: list[Tensor], labels: tuple[Tensor, ...], given: _Given) -> Tensor:
    """log p(a | z, s) of the judged rows.

    What is given keeps its own ridge, so that the strongest one on the features leads back to the probe without them.
    """
    joined = [torch.cat(x, 1) for x in zip(features, sides)]
    fit, calibrate, _ = map(Rows, joined, labels)
    weight, bias = given.model
    start = Softmax(torch.cat([weight.new_zeros(features[0].shape[1], len(bias)), weight]), bias)
    side = torch.full((len(weight),), given.strength, dtype=torch.float64)
    model, _ = choose_logistic(fit, calibrate, classes=len(bias), side=side, start=start)
    return log_probabilities(model, joined[-1])


def _mlp(features: list[Tensor], base: list[Tensor], labels: tuple[Tensor, ...], seed: int) -> list[Tensor]:
    """log p of all splits by an mlp that starts from the base."""
    fit, calibrate, _ = splits = [Based(x.float(), b.float(), a) for x, b, a in zip(features, base, labels)]
    model = fit_mlp(fit, calibrate, seed=seed)
    return [model.log_probabilities(x, b).double() for x, b, _ in splits]


def _reading(without: Tensor, log_p: Tensor, labels: Tensor) -> VInformation:
    before, after = cross_entropies(without, labels), cross_entropies(log_p, labels)
    differences, n = before - after, len(labels)
    value, h_without = float(differences.mean()), float(before.mean())
    right = [float((p.argmax(1) == labels).double().mean()) for p in (log_p, without)]
    error = float(differences.std()) / n**0.5
    return VInformation(value, error, h_without, float(after.mean()), value / h_without, *right, n, differences)


def _checked(splits: tuple[Labelled, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Features and what is given of the three splits, on the CPU; (n, 0) where nothing is."""
    features = [split.features.detach().cpu() for split in splits]
    sides = [x.new_zeros(len(x), 0) if s.given is None else s.given.detach().cpu() for x, s in zip(features, splits)]
    for name, x, side, split in zip(("fit", "calibrate", "evaluate"), features, sides, splits):
        shapes = f"{tuple(x.shape)}, {tuple(side.shape)} and {tuple(split.labels.shape)}"
        if x.ndim != 2 or side.ndim != 2 or split.labels.ndim != 1 or not len(x) == len(side) == len(split.labels):
            raise ValueError(f"expected {name} of (n, d), (n, s) and (n,), got {shapes}")
        if x.shape[1] != features[0].shape[1] or side.shape[1] != sides[0].shape[1]:
            raise ValueError(f"expected {name} as wide as fit, {tuple(features[0].shape)}, got {shapes}")
        if not bool(torch.isfinite(x).all() and torch.isfinite(side).all()):
            raise ValueError(f"expected finite features in {name}, got NaN or infinite values")
        if split.labels.is_floating_point() or len(split.labels.unique()) < 2:
            raise ValueError(f"expected {name} with two or more values of the attribute, got {split.labels.unique()}")
    return features, [side.double() for side in sides]
