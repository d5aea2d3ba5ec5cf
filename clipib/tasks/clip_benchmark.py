"""Classification and retrieval computed operation by operation as CLIP_benchmark does, ties included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipib.embeddings.batches import as_computed
from clipib.metrics.classification import Predictions, predict

if TYPE_CHECKING:
    from torch import Tensor

SCALE = 100.0


def mean_prompts(prompts: np.ndarray, sizes: Sequence[int], device: str, *, amp: bool) -> Tensor:
    """The classifier (D, K): of each class the mean of its unit prompt features, normalised again.

    Args:
        prompts: (sum of sizes, D) features of all prompts, class by class. sizes: (K,) prompts of each class.
    """
    import torch

    classes = []
    with torch.no_grad(), torch.autocast(device, enabled=amp):
        for own in as_computed(prompts, device, amp=amp).split(list(sizes)):
            mean = own.mean(dim=0)
            mean /= mean.norm()
            classes.append(mean)
    return torch.stack(classes, dim=1)


def class_logits(images: np.ndarray, classifier: Tensor, *, batch_size: int, amp: bool) -> Tensor:
    """(N, K) float32 logits on the CPU, batch by batch."""
    import torch

    features = as_computed(images, classifier.device.type, amp=amp)
    if not amp:
        classifier = classifier.float()
    with torch.no_grad(), torch.autocast(classifier.device.type, enabled=amp):
        parts = [(SCALE * batch @ classifier).float().cpu() for batch in features.split(batch_size)]
    return torch.cat(parts)


def predict_by_topk(logits: Tensor, labels: np.ndarray) -> Predictions:
    """Predictions whose accuracies come from `topk`, in which equal logits fall as they may, and classes from `argmax`.

    The rank of a target that is not among the first five (the first, below five classes) is only known to be no better.
    """
    top = logits.topk(5 if logits.shape[1] >= 5 else 1, dim=1).indices.numpy()  # (N, k)
    hit = top == labels[:, None]
    found = predict(logits.numpy(), labels)
    rank = np.where(hit.any(1), hit.argmax(1), np.maximum(found.target_rank, top.shape[1]))
    return found._replace(predicted=logits.argmax(1).numpy(), target_rank=rank)


def average_precision_by_sort(scores: Tensor, labels: np.ndarray) -> float:
    """Mean over all classes of average precision by one sort, in which equal scores fall as they may."""
    import torch

    targets = torch.from_numpy(labels)
    found = torch.zeros(scores.shape[1])
    places = torch.arange(1, len(scores) + 1).float()
    for k in range(scores.shape[1]):
        truth = targets[scores[:, k].sort(descending=True).indices, k]
        precision = truth.float().cumsum(0) / places
        found[k] = precision[truth.bool()].sum() / max(float(truth.sum()), 1)
    return found.mean().item()


def retrieval_hits(
    images: np.ndarray,
    texts: np.ndarray,
    image_of_text: np.ndarray,
    ks: Sequence[int],
    *,
    device: str,
    amp: bool,
    batch_size: int,
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Which queries find an own item among their first k, by `topk` over whole rows of scores.

    All N x M scores are computed at once, as CLIP_benchmark does: the last bits of a product depend on its shape.

    Returns:
        k -> (M,) bool of texts that look for their image, and k -> (N,) bool of images that look for a text.
    """
    import torch

    side = [as_computed(x, device, amp=amp).cpu() for x in (texts, images)]
    scores = side[0] @ side[1].t()  # (M, N)
    own = torch.from_numpy(image_of_text)
    to_image, to_text = {}, {}
    for k in ks:
        found = [s.to(device).topk(min(k, s.shape[1]), dim=1).indices.cpu() for s in scores.split(batch_size)]
        to_image[k] = (torch.cat(found) == own[:, None]).any(1).numpy()
        found = [s.to(device).topk(min(k, s.shape[1]), dim=1).indices.cpu() for s in scores.T.split(batch_size)]
        to_text[k] = (own[torch.cat(found)] == torch.arange(len(images))[:, None]).any(1).numpy()
    return to_image, to_text
