"""Cross-entropy over the visible labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.distributed import global_mean


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """L = sum_V w_y (-log p_y) / sum_V w_y over V, the rows with a label (w = 1 by default: the mean).

    Computed in float32 at least. Rows without a label take no part, whatever their logits (also NaN). Without any label
    the loss is an exact zero attached to the graph, with zero gradients. Among several processes the denominator is
    that of all of them: their losses sum to L of the global batch.

    Args:
        logits: (M, C) float.
        target: (M,) int64 in 0..C-1, or IGNORE.
        class_weights: (C,) float, not negative.

    Returns:
        scalar.
    """
    valid = target != IGNORE
    if not bool(valid.all()):
        logits, target = logits[valid], target[valid]
    logits = _at_least_float32(logits)
    loss = -F.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)
    return global_mean(loss, weights=None if class_weights is None else class_weights.to(loss)[target])


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
