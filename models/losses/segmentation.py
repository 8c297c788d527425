"""The losses on labels that every method shares."""

from __future__ import annotations

from torch import Tensor

from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.lovasz import lovasz_softmax


def segmentation_losses(
    logits: Tensor, target: Tensor, lambda_lov: float = 0.0, class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """``ce``, and with a weight ``lovasz`` times it (the LaserMix code's sum for a backbone).

    Args:
        logits: (M, C).
        target: (M,) int64 in 0..C-1, or IGNORE.
        class_weights: (C,) float, of the cross-entropy alone.
    """
    losses = {"ce": cross_entropy(logits, target, class_weights)}
    if lambda_lov:
        losses["lovasz"] = lambda_lov * lovasz_softmax(logits.float().softmax(1), target)
    return losses


__all__ = ["segmentation_losses"]
