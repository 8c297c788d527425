"""Losses of semantic boundaries (WS3D, ECCV 2022; JSENet, Hu et al., ECCV 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.distributed import global_mean
from ssl3d.models.sparse import AvgPooling, SparseTensor

_NEIGHBORS = AvgPooling(3)


def boundary_focal(logits: Tensor, target: Tensor, exponent: float = 2.0) -> Tensor:
    """Eq. 1 of WS3D: L = -1/N sum_n [(1 - b)^a t log b + b^a (1 - t) log(1 - b)], b = sigmoid(logit).

    The minus sign covers both terms. Computed from logits in float32 at least, so that b = 0 and b = 1 are harmless.
    Rows that are not known take no part, whatever their logits; without any other the loss is an exact zero attached to
    the graph. Among several processes the denominator is that of all of them.

    Args:
        logits: (M,) or (M, 1) float.
        target: (M,) integers: 1 boundary, 0 none, ``IGNORE`` not known.
        exponent: a, the focusing exponent.

    Returns:
        scalar.
    """
    known = target != IGNORE
    x, is_boundary = logits.reshape(-1)[known], target[known] == 1
    x = x if x.dtype == torch.float64 else x.float()
    right = torch.where(is_boundary, x, -x)  # b of a boundary, 1 - b of another point
    return global_mean(-(exponent * F.logsigmoid(-right)).exp() * F.logsigmoid(right))


def edge_map(probabilities: Tensor, sites: SparseTensor, known: Tensor | None = None) -> Tensor:
    """JSENet's edges of a segmentation: sum over classes of |mean over the neighbors - own probability|.

    Neighbors are the voxels at most one step away along each axis that exist, the voxel itself included.

    Args:
        probabilities: (M, C) float.
        sites: any tensor on the voxels of these rows.
        known: (M,) bool; the others are nobody's neighbors, and get 0. None: all are known.

    Returns:
        (M,), between 0 and 2 for rows that sum to 1.
    """
    if known is None:
        mean = _NEIGHBORS(sites.with_features(probabilities)).features
        return (mean - probabilities).abs().sum(1)
    share = known.to(probabilities)[:, None]
    both = torch.cat([probabilities.masked_fill(~known[:, None], 0), share], 1)
    mean = _NEIGHBORS(sites.with_features(both)).features
    mean = mean[:, :-1] / mean[:, -1:].clamp(min=torch.finfo(mean.dtype).tiny)
    return (mean - probabilities).abs().sum(1).masked_fill(~known, 0)


def edge_map_loss(probabilities: Tensor, target: Tensor, sites: SparseTensor) -> Tensor:
    """Mean absolute difference between the edges of a prediction and of the ground truth, over the labelled voxels.

    Both see labelled neighbors only. Without a label: an exact zero attached to the graph.

    Args:
        probabilities: (M, C) float.
        target: (M,) int64 in 0..C-1, or ``IGNORE``.
        sites: any tensor on these voxels.

    Returns:
        scalar.
    """
    known = target != IGNORE
    p = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    truth = torch.zeros_like(p)
    truth[known, target[known]] = 1
    return global_mean((edge_map(p, sites, known) - edge_map(truth, sites, known)).abs(), known)


__all__ = ["boundary_focal", "edge_map", "edge_map_loss"]
