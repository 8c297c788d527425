"""Densities of features among those of their class, anchors made of the densest, and the contrast of points with them.

DDSEmi (Density-Guided Semi-Supervised 3D Semantic Segmentation with Dual-Space Hardness Sampling, CVPR 2024), Eqs. 2
to 8. A bank is (C, S, D) features and (C, S) bool: which slots were ever written. All of it is batched over the classes
and computed in float32 at least, whatever the features are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.class_bank import rank_in_class
from ssl3d.models.sparse.parallel import in_threads

BLOCK = 128
"""Rows of one class that are compared with its slots at once; the last block of a class is filled up."""
SMALL_NORM = 1e-8
SMALL_DENSITY = 1e-6


@torch.no_grad()
def class_density(
    features: Tensor,
    label: Tensor,
    bank: Tensor,
    valid: Tensor,
    k: int = 8,
    *,
    own_slot: Tensor | None = None,
    chunk: int = 65536,
) -> Tensor:
    """Eq. 2: d(f), the mean cosine of f and the k valid features of its class that are most similar to it.

    All valid ones where they are fewer, 1 where there is none. A feature of norm zero has the cosine 0.

    Args:
        features: (N, D) float.
        label: (N,) int64 in 0..C-1.
        bank, valid: (C, S, D) float, (C, S) bool.
        own_slot: (N,) int64: the slot of its class in which a row itself lies, which does not count.
        chunk: so many similarities to S slots are held at a time.

    Returns:
        (N,) float in [-1, 1].
    """
    classes, slots = valid.shape
    side, slot_side = (F.normalize(_wide(values), dim=-1, eps=SMALL_NORM) for values in (features, bank))
    # a column that adds 0 to the cosine with a valid slot, and -inf to that with another
    hidden = torch.zeros_like(slot_side[..., :1]).masked_fill_(~valid[..., None], -torch.inf)
    side, slot_side = torch.cat([side, torch.ones_like(side[:, :1])], 1), torch.cat([slot_side, hidden], 2)
    # the rows of a class stand together and fill whole blocks
    blocks = (torch.bincount(label, minlength=classes) + BLOCK - 1) // BLOCK
    place = (blocks.cumsum(0) - blocks)[label] * BLOCK + rank_in_class(label, classes)
    of_block = torch.repeat_interleave(torch.arange(classes, device=label.device), blocks)
    table = side.new_ones(len(of_block) * BLOCK, side.shape[1])
    table[place] = side
    own = label.new_full((len(table),), -1)
    if own_slot is not None:
        own[place] = own_slot
    out = table.new_empty(len(table))
    step = max(1, chunk // BLOCK)
    for first in range(0, len(of_block), step):
        chosen = of_block[first : first + step]
        mine = slice(first * BLOCK, (first + len(chosen)) * BLOCK)
        with torch.autocast(table.device.type, enabled=False):
            cosine = torch.bmm(table[mine].view(len(chosen), BLOCK, -1), slot_side[chosen].mT).view(-1, slots)
        if own_slot is not None:
            inside = (own[mine] >= 0).nonzero().squeeze(1)
            cosine[inside, own[mine][inside]] = -torch.inf
        out[mine] = _mean_of_largest(cosine, k)
    return out[place]


@torch.no_grad()
def bank_density(bank: Tensor, valid: Tensor, k: int = 8, chunk: int = 65536) -> Tensor:
    """Eq. 2 for the features in the bank, each without itself: (C, S) float; 0 in slots that are not valid."""
    label, slot = valid.nonzero(as_tuple=True)
    out = _wide(bank).new_zeros(valid.shape)
    out[label, slot] = class_density(bank[label, slot], label, bank, valid, k, own_slot=slot, chunk=chunk)
    return out


@torch.no_grad()
def weighted_anchors(
    bank: Tensor, valid: Tensor, score: Tensor, weight: Tensor, most: int = 16
) -> tuple[Tensor, Tensor]:
    """Eq. 3: for each class the mean of the ``most`` valid features with the largest score (ties: the lower slot).

    Args:
        bank, valid: (C, S, D) float, (C, S) bool.
        score: (C, S) float, what is chosen by.
        weight: (C, S) float above 0, what the mean is weighted by. DDSEmi: both are the density, the weight at least
            ``SMALL_DENSITY``.

    Returns:
        (C, D) float anchors; (C, min(most, S)) int64, the slots that they are made of, of which those count that are
        valid: they come first. A class without a valid slot has none: its anchor is zero.
    """
    order = torch.sort(_wide(score).masked_fill(~valid, -torch.inf), dim=1, descending=True, stable=True).indices
    chosen = order[:, :most]
    share = _wide(weight).masked_fill(~valid, 0).gather(1, chosen)
    share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
    rows = torch.arange(len(bank), device=bank.device)[:, None]
    return (share[..., None] * _wide(bank)[rows, chosen]).sum(1), chosen


def point_to_anchor(features: Tensor, label: Tensor, anchors: Tensor, there: Tensor, tau: float = 1.0) -> Tensor:
    """Eqs. 4, 5, 7, 8: ``-log [exp(f . p_y / tau) / sum_c exp(f . p_c / tau)]`` of each row.

    The paper prints the denominator as ``exp(sum_c ...)``, which is no contrast: the loss would have no lower bound and
    a constant gradient.

    Args:
        features: (N, D) float.
        label: (N,) int64; their classes have an anchor.
        anchors: (C, D) float.
        there: (C,) bool: classes that have an anchor; the others are left out of the sum.

    Returns:
        (N,) float.
    """
    features = _wide(features)
    with torch.autocast(features.device.type, enabled=False):
        logits = features @ anchors.to(features.dtype).T / tau
    return F.cross_entropy(logits.masked_fill(~there, -torch.inf), label, reduction="none")


def _mean_of_largest(cosine: Tensor, k: int) -> Tensor:
    """(N,) mean of the k largest finite values of each row; of all where they are fewer, 1 where there is none."""
    return _by_loop(cosine, k) if cosine.device.type == "cpu" else _by_topk(cosine, k)


def _by_topk(cosine: Tensor, k: int) -> Tensor:
    top = cosine.topk(min(k, cosine.shape[1]), dim=1, sorted=False).values
    finite = top > -torch.inf
    count = finite.sum(1)
    return torch.where(count > 0, top.masked_fill(~finite, 0).sum(1) / count.clamp(min=1), 1.0)


def _by_loop(cosine: Tensor, k: int) -> Tensor:
    """In a quarter of the time that topk takes on the CPU, where it was most of a step's work on the banks."""
    from ssl3d.models.largest_numba import mean_of_largest

    out, threads = cosine.new_empty(len(cosine)), torch.get_num_threads()
    rows, means = (np.array_split(values.numpy(), threads) for values in (cosine, out))
    in_threads(lambda part: mean_of_largest(rows[part], k, means[part]), threads)
    return out


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


__all__ = ["SMALL_DENSITY", "bank_density", "class_density", "point_to_anchor", "weighted_anchors"]
