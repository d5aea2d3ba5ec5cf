"""What clipib adds to a dual encoder: sets of points made of its tokens, and a bias for sigmoid losses.

The towers stay what they are. The head lies in a file of its own, so that plain open_clip opens the rest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipib.errors import UserError
from clipib.models.towers import token_widths
from clipib.scoring.features import Features

if TYPE_CHECKING:
    from clipib.models.model import Model

HEAD_FILE = "head.safetensors"
POINT_POOLINGS = ("attention", "topk")
GATE_SPEED = 10.0  # Adam moves a number by its rate a step: at 1e-3 a gate opens within a hundred steps
SIGNED_LIMIT = 100.0  # of the weights of `wpse`, as in its public configuration


class PointSets(nn.Module):
    """m weighted unit points for every item, all of them at its embedding before training.

        point_i = normalise(embedding + 10 gate_i * delta(token_i)),   gates 0 at the start

    `attention`: token_i is what the i-th learned query attends to; `topk`: the token with the i-th highest learned
    score, times that score's sigmoid, so that the score learns; an item of fewer tokens repeats its last choice.

    Weights are a softmax of linear scores of the tokens (`kme`, positive), or (1 + 100 tanh(score / 100)) / m (`wpse`,
    of either sign); the scores are 0 at the start, the weights 1 / m. Tokens are layer-normalised first, since some
    towers give them raw.

    Args:
        signed: weights of either sign. token_width: W. width: D of the embedding.

    Reference:
        Learnable point sets of tokens as in WPSE (Uesaka et al., 2025, 2404.19228), whose points are all tokens; gates
        that begin at the embedding are ours. How KME-CLIP chooses its points is not known.
    """

    def __init__(self, *, signed: bool, points: int, pooling: str, token_width: int, width: int) -> None:
        super().__init__()
        self.signed, self.pooling = signed, pooling
        self.norm = nn.LayerNorm(token_width)
        n_queries = points if pooling == "attention" else 1
        self.n_points = points
        self.queries = nn.Parameter(torch.randn(n_queries, token_width) / math.sqrt(token_width))
        self.delta = nn.Linear(token_width, width, bias=False)
        nn.init.normal_(self.delta.weight, std=1 / math.sqrt(token_width * width))  # |delta| is 1 on unit variance
        self.gates = nn.Parameter(torch.zeros(points))
        self.scores = nn.Parameter(torch.zeros(token_width))

    def forward(self, embeddings: Tensor, tokens: Tensor, mask: Tensor) -> Features:
        """Points and weights of n items.

        Args:
            embeddings: (n, D) unit norm. tokens: (n, T, W). mask: (n, T) bool, at least one True a row.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = self.norm(tokens.float())
            chosen = (self._attend if self.pooling == "attention" else self._choose)(tokens, mask)  # (n, m, W)
            points = embeddings.float()[:, None] + GATE_SPEED * self.gates[:, None] * self.delta(chosen)
            score = chosen @ self.scores
            if self.signed:
                weights = (1 + SIGNED_LIMIT * torch.tanh(score / SIGNED_LIMIT)) / self.n_points
            else:
                weights = F.softmax(score, dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
            return Features(F.normalize(points, dim=-1), weights)

    def _attend(self, tokens: Tensor, mask: Tensor) -> Tensor:
        logits = self.queries @ tokens.mT  # (n, m, T)
        attention = F.softmax(logits.masked_fill(~mask[:, None], -torch.inf), dim=-1)
        return attention @ tokens

    def _choose(self, tokens: Tensor, mask: Tensor) -> Tensor:
        scores = (tokens @ self.queries[0]).masked_fill(~mask, -torch.inf)  # (n, T)
        n_chosen = min(self.n_points, tokens.shape[1])
        _, order = scores.topk(n_chosen, dim=-1)
        place = torch.arange(self.n_points, device=tokens.device)
        place = torch.minimum(place, mask.sum(-1, keepdim=True) - 1)  # (n, m): an item of few tokens repeats its last
        which = order.gather(1, place)
        chosen = tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[-1]))
        return chosen * 2 * torch.sigmoid(scores.gather(1, which))[..., None]


class Head(nn.Module):
    """Point sets of both towers, a bias, or both.

    Args:
        similarity: "kme" or "wpse" where there are points, "" for a bias alone.
        points, pooling: how many points a side and how they are chosen, see `PointSets`.
        token_widths: of image and text tokens. width: of the embeddings.
        bias: whether there is a logit bias.
    """

    def __init__(
        self,
        *,
        similarity: str = "",
        points: int = 0,
        pooling: str = "attention",
        token_widths: tuple[int, int] = (0, 0),
        width: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "similarity": similarity,
            "points": points,
            "pooling": pooling,
            "token_widths": list(token_widths),
            "width": width,
            "bias": bias,
        }
        sides = [
            PointSets(signed=similarity == "wpse", points=points, pooling=pooling, token_width=w, width=width)
            if points
            else None
            for w in token_widths
        ]
        self.image, self.text = sides
        self.logit_bias = nn.Parameter(torch.zeros(())) if bias else None
        self.bias_is_new = bias

    @property
    def has_points(self) -> bool:
        return self.image is not None

    @property
    def similarity(self) -> str:
        return self.config["similarity"]

    @torch.no_grad()
    def start_bias(self, value: float) -> None:
        """Set a bias that was not trained yet; others stay."""
        if self.bias_is_new:
            self.logit_bias.fill_(value)
            self.bias_is_new = False


def make_head(
    model: Model,
    *,
    similarity: str = "",
    points: int = 8,
    pooling: str = "attention",
    bias: bool = False,
    seed: int = 0,
) -> Head:
    """A new head for a model, on its device.

    Args:
        similarity: "kme", "wpse", or "" for none of the points.
        seed: of its random weights.

    Raises:
        UserError: when a tower has no tokens to make points of.
    """
    shape = {}
    if similarity:
        shape = {
            "points": points,
            "pooling": pooling,
            "token_widths": token_widths(model.module),
            "width": embedding_width(model),
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(similarity=similarity, bias=bias, **shape)
    return head.to(model.device)


@torch.no_grad()
def embedding_width(model: Model) -> int:
    """D of the towers' embedding, from one short text."""
    return model.embed_texts(model.tokenize(["a"]), hidden=True).features.shape[-1]


def save_head(head: Head, folder: Path) -> None:
    """Write the weights of a head beside those of the towers."""
    from safetensors.torch import save_file

    state = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
    save_file(state, folder / HEAD_FILE, metadata={"format": "pt"})


def load_head(folder: Path, config: dict[str, Any]) -> Head:
    """The head of a checkpoint folder, in float32 on the CPU.

    Raises:
        UserError: when it is missing, damaged or of another shape than the record says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / HEAD_FILE
    if not path.is_file():
        hint = "Without it the checkpoint scores otherwise than it was trained to; restore the file."
        raise UserError(f"'{folder}' lacks {HEAD_FILE}, the head that its record names.", hint=hint)
    try:
        head = Head(**config)
        head.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        raise UserError(f"The head '{path}' is damaged, or of another shape than its record says.") from error
    head.bias_is_new = False
    return head.eval()
