"""Lovász-softmax (Berman, Rannen Triki, Blaschko: The Lovász-Softmax loss, CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.data.scan import IGNORE
from ssl3d.models.distributed import gather_rows, world_size


def lovasz_softmax(probabilities: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes present in the target of the Lovász extension of the Jaccard loss.

    For class c: errors e_n = |1[y_n = c] - p_nc| in descending order; J_i = 1 - inter_i / union_i with inter_i =
    G - sum_{j<=i} g_j and union_i = G + sum_{j<=i} (1 - g_j); loss_c = sum_i e_(i) (J_i - J_{i-1}). Computed in float32
    at least. Rows without a label take no part; without any label the loss is an exact zero attached to the graph.
    It is no mean over rows: among several processes each gathers the rows of all, and returns its equal share of the
    loss of the global batch.

    Args:
        probabilities: (M, C) float, e.g. a softmax.
        target: (M,) int64 in 0..C-1, or IGNORE.

    Returns:
        scalar.
    """
    valid = target != IGNORE
    p, y = gather_rows(probabilities[valid]), gather_rows(target[valid])
    p = p if p.dtype == torch.float64 else p.float()
    if not len(y):
        return p.sum()
    # all present classes at once, one row each; equal errors keep their order, so that runs are reproducible
    present = torch.unique(y)
    member = (present[:, None] == y[None]).to(p.dtype)
    errors, order = torch.sort((member - p.t()[present]).abs(), dim=1, descending=True, stable=True)
    with torch.no_grad():
        gradient = _jaccard_gradient(member.gather(1, order))
    return (errors * gradient).sum(1).mean() / world_size()


def _jaccard_gradient(member: Tensor) -> Tensor:
    """(K, M) sorted membership per class -> the increments J_i - J_{i-1}."""
    exact = member.double()  # differences of near-equal numbers
    total = exact.sum(1, keepdim=True)
    jaccard = 1 - (total - exact.cumsum(1)) / (total + (1 - exact).cumsum(1))
    jaccard[:, 1:] = jaccard[:, 1:] - jaccard[:, :-1]
    return jaccard.to(member.dtype)
