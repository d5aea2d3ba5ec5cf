"""The pictures of `clipib ib-analyze` that put checkpoints side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipib.tasks.measured import Measure, Report
from clipib.tasks.pairs import training_record

if TYPE_CHECKING:
    from clipib.models.model import Model

Measured = list[tuple["Model", Report]]
SIGMA = 0.3  # of the bound that stands for what is private where no attribute is known
GROUPS = {
    "image_nuisance_v_nats": "image nuisance",
    "text_nuisance_v_nats": "text nuisance",
    "image_unmentioned_v_nats": "unmentioned",
    "text_unmentioned_v_nats": "unmentioned",
}


def plane_of(measured: Measured) -> Any:
    """What checkpoints share over what images keep for themselves, with an arrow from parent to fine-tune.

    The horizontal axis is the sum of the V-information of the image nuisances; where none was probed, the log det
    bound on what the image side keeps.
    """
    from clipib.tasks import figures

    nuisance = all(_of(report, "image_nuisance_v_nats") for _, report in measured)
    points, names = [], names_of(measured)
    for name, (_, report) in zip(names, measured):
        shared = _of(report, "shared_own_score_nats")[0]
        if nuisance:
            parts = _of(report, "image_nuisance_v_nats")
        else:
            parts = [m for m in _of(report, "private_bound_logdet_nats", side="image") if m.params["sigma"] == SIGMA]
        value = sum(m.value for m in parts)
        half = sum((m.high - m.value) ** 2 for m in parts) ** 0.5
        points.append(
            figures.PlanePoint(name, value, value - half, value + half, shared.value, shared.low, shared.high)
        )
    truths = [m.value / s.value for _, r in measured for m, s in _truth(r) if s.value]
    label = "image nuisance, V-information (nats)" if nuisance else f"image, log det bound at sigma {SIGMA} (nats)"
    return figures.information_plane(
        points,
        ceiling=max(_of(report, "shared_ceiling_nats")[0].value for _, report in measured),
        truth=truths[0] if truths else None,
        arrows=arrows_of(measured),
        x_label=label,
        title="Shared and private",
    )


def _truth(report: Report) -> list[tuple[Measure, Measure]]:
    return list(zip(_of(report, "shared_own_score_nats"), _of(report, "shared_fraction_of_true")))


def arrows_of(measured: Measured) -> list[tuple[int, int]]:
    """(parent, fine-tune) by place, where both are among the checkpoints."""
    place = {model.fingerprint: i for i, (model, _) in enumerate(measured)}
    parents = [(training_record(model).get("base") or {}).get("sha256") for model, _ in measured]
    return [(place[parent], i) for i, parent in enumerate(parents) if parent in place]


def names_of(measured: Measured) -> list[str]:
    """The shortest tails of the checkpoints' places that tell them apart."""
    full = [f"{m.name}/{m.pretrained}" if m.folder is None else str(m.folder) for m, _ in measured]
    for length in range(1, 12):
        short = ["/".join(text.split("/")[-length:]) for text in full]
        if len(set(short)) == len(set(full)) and not set(short) & {"best", "last"}:
            return short
    return full


def bars_of(measured: Measured) -> Any | None:
    """How much of every attribute the embeddings tell; None where none was probed."""
    from clipib.tasks import figures

    bars = []
    for name, (_, report) in zip(names_of(measured), measured):
        for m in report.measures:
            if m.metric in GROUPS:
                attribute = m.params["attribute"]
                stem = m.metric.removesuffix("_v_nats")
                floor = _of(report, f"{stem}_floor_nats", attribute=attribute)
                entropy = _of(report, f"{stem}_entropy_nats", attribute=attribute)[0].value
                known = floor[0].value if floor else None
                bars.append(figures.Bar(attribute, GROUPS[m.metric], name, m.value, m.low, m.high, known, entropy))
    return figures.nuisance_bars(bars, title="What embeddings tell") if bars else None


def _of(report: Report, metric: str, **params: object) -> list[Measure]:
    return [m for m in report.measures if m.metric == metric and params.items() <= dict(m.params).items()]
