"""The head that a loss needs on the checkpoint where training begins."""

from __future__ import annotations

from clipib.errors import UserError
from clipib.losses.composed import Loss
from clipib.models.head import POINT_POOLINGS, Head, make_head
from clipib.models.model import Model
from clipib.progress import Progress
from clipib.registry import check_name

DEFAULT_POINTS = 8
HEAD_LR = 1e-3  # new layers learn little at the rates that trained towers bear


def check_points(loss: Loss, points: int | None, pooling: str | None) -> None:
    """Refuse options for points where the similarity has none.

    Raises:
        UserError: for those, an impossible number or an unknown pooling.
    """
    if pooling is not None:
        check_name("point pooling", pooling, POINT_POOLINGS)
    if points is not None and points < 1:
        raise UserError(f"--points {points} is no number of at least 1.", hint="Try --points 8.")
    if not loss.needs_points and (points is not None or pooling is not None):
        flag = f"--points {points}" if points is not None else f"--point-pooling {pooling}"
        raise UserError(
            f"{flag} goes with sets of points; the similarity {loss.similarity_name} compares single embeddings.",
            hint="Take --loss kme or --loss wpse.",
        )


def head_for(
    model: Model, loss: Loss, *, points: int | None, pooling: str | None, seed: int, progress: Progress
) -> Head | None:
    """The model's own head where it fits the loss, else a new one, or none where none is needed.

    Raises:
        UserError: when a tower has no tokens, or the model's own points are others than those asked for.
    """
    before = model.head
    keeps_bias = before is not None and before.logit_bias is not None
    bias = keeps_bias or (loss.needs_bias and model.logit_bias is None)
    if loss.needs_points and model.has_points and before.similarity == loss.similarity_name:
        _check_own_points(before, points, pooling)
        return before if bias == keeps_bias else _with_bias(before, model)
    if model.has_points:
        progress.warn(f"the checkpoint's points for {before.similarity} are dropped: the loss compares otherwise")
    if not (loss.needs_points or bias):
        return None
    head = make_head(
        model,
        similarity=loss.similarity_name if loss.needs_points else "",
        points=points or DEFAULT_POINTS,
        pooling=pooling or POINT_POOLINGS[0],
        bias=bias,
        seed=seed,
    )
    if keeps_bias:
        head.start_bias(float(before.logit_bias.detach()))
    return head


def _check_own_points(head: Head, points: int | None, pooling: str | None) -> None:
    own = head.config
    for flag, asked, is_ in (("--points", points, own["points"]), ("--point-pooling", pooling, own["pooling"])):
        if asked is not None and asked != is_:
            hint = f"Leave {flag} out, or start from a checkpoint without points."
            raise UserError(f"The checkpoint has a point head with {flag} {is_}, not {asked}.", hint=hint)


def _with_bias(head: Head, model: Model) -> Head:
    """The same points with a bias that is new."""
    grown = Head(**{**head.config, "bias": True}).to(model.device)
    grown.load_state_dict(head.state_dict(), strict=False)
    return grown
