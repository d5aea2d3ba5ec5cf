"""Whose rules a number follows; every row names them.

| | `strict` | `clip_benchmark` | `datacomp` |
| --- | --- | --- | --- |
| images | as `--precision` says | mixed precision | float32; mixed for retrieval |
| texts | the same | mixed precision | mixed precision |
| batches, uncut texts | do not matter | as they come | as they come |
| logits of a class | scale of the checkpoint, float32 | 100, mixed precision | 100, float32 |
| ties | to the lowest index, counted | as torch.topk falls | as torch.topk falls |
| main metric | DataComp's choice | acc1 | DataComp's choice |

Mixed precision is PyTorch's autocast: bfloat16 on a CPU, float16 on CUDA. `--precision fp32` with `clip_benchmark` is
its `--no_amp`.

Reference:
    CLIP_benchmark 1.6.2 (LAION-AI), DataComp (mlfoundations), whose numbers open_clip publishes.
"""

from __future__ import annotations

from typing import NamedTuple

from clipib.errors import UserError
from clipib.registry import check_name

STRICT, CLIP_BENCHMARK, DATACOMP = "strict", "clip_benchmark", "datacomp"
PROTOCOLS = (STRICT, CLIP_BENCHMARK, DATACOMP)
AUTO = "auto"
CLIP_BENCHMARK_BATCH = 64  # its default


class Protocol(NamedTuple):
    """precision: of the rows, and of the model's own towers. image_amp, text_amp: under autocast; not of strict."""

    name: str
    precision: str
    image_amp: bool = False
    text_amp: bool = False

    @property
    def is_strict(self) -> bool:
        return self.name == STRICT

    def batch_size(self, asked: int | None) -> int | None:
        """Images at once; None, which leaves it to the memory, is for strict alone: elsewhere features depend on it."""
        return asked if self.is_strict else asked or CLIP_BENCHMARK_BATCH

    def row_params(self, batch_size: int | None) -> dict[str, str]:
        """What rows say of the batch, where features depend on it and it is not CLIP_benchmark's own."""
        return {} if self.is_strict or batch_size == CLIP_BENCHMARK_BATCH else {"batch_size": str(batch_size)}


def choose_protocol(name: str, precision: str, need: str) -> Protocol:
    """The rules of a run.

    Args:
        precision: "auto" is what the protocol asks for.
        need: "label" or "caption", what the task works on.

    Raises:
        UserError: for an unknown protocol, or a precision that it does not know.
    """
    check_name("protocol", name, PROTOCOLS)
    if name == STRICT:
        return Protocol(name, "fp32" if precision == AUTO else precision)
    if name == CLIP_BENCHMARK and precision in (AUTO, "amp", "fp32"):
        amp = precision != "fp32"
        return Protocol(name, "amp" if amp else "fp32", amp, amp)
    if name == DATACOMP and precision == AUTO:
        return Protocol(name, "fp32", False, True) if need == "label" else Protocol(name, "amp", True, True)
    known = "fp32 (its --no_amp) or amp" if name == CLIP_BENCHMARK else "its own"
    raise UserError(f"The protocol '{name}' has no precision '{precision}', only {known}.", hint="Leave it out.")
