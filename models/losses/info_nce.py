"""InfoNCE of single points: an anchor is drawn to its positive, and driven from what belongs to other classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCKS = {"cpu": 64}
BLOCK = 1000
"""Anchors that are looked at together: with 10,000 negatives 40 MB, or on the CPU 2.5 MB, which its caches hold."""


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: float = 0.1,
    anchor_label: Tensor | None = None,
    negative_label: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """``l_a = -log(exp(e_a.p_a / t) / (exp(e_a.p_a / t) + sum_j g_aj exp(e_a.n_j / t)))`` (GPC, official code).

    ``g_aj`` is 0 where the negative has the label of the anchor, and where it is the very point of the pair; 1
    elsewhere. An anchor without any negative that counts has the loss 0.

    Computed in log space, in float32 at least and so under autocast too. The negatives get no gradient. Anchors are
    taken in blocks, and their gradient is computed on the way: nothing of size A x N is kept.

    Args:
        anchor: (A, D), usually unit vectors.
        positive: (A, D). Detach it where it should stay put.
        negatives: (N, D).
        temperature: t.
        anchor_label, negative_label: (A,), (N,) int64; None: no negative is dropped for its label.
        same: (A,) int64, which of the negatives is the anchor's own pair and does not count, -1 for none.

    Returns:
        (A,) losses of the anchors.
    """
    kind = torch.float64 if anchor.dtype == torch.float64 else torch.float32
    anchor, positive, negatives = (rows.to(kind) for rows in (anchor, positive, negatives.detach()))
    with torch.autocast(anchor.device.type, enabled=False):
        losses: Tensor = _InfoNCE.apply(anchor, positive, negatives, temperature, anchor_label, negative_label, same)
    return losses


class _InfoNCE(torch.autograd.Function):
    """With ``q_aj`` the share of negative j in the sum of all terms, and ``r_a`` that of all negatives:
    ``dl/de_a = (sum_j q_aj n_j - r_a p_a) / t`` and ``dl/dp_a = -r_a e_a / t``."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        positive: Tensor,
        negatives: Tensor,
        temperature: float,
        anchor_label: Tensor | None,
        negative_label: Tensor | None,
        same: Tensor | None,
    ) -> Tensor:
        losses, to_anchor, to_positive = (
            anchor.new_empty(len(anchor)),
            torch.empty_like(anchor),
            torch.empty_like(anchor),
        )
        block = BLOCKS.get(anchor.device.type, BLOCK)
        for begin in range(0, len(anchor), block):
            part = slice(begin, begin + block)
            e, p = anchor[part], positive[part]
            logits = (e / temperature) @ negatives.T
            if anchor_label is not None and negative_label is not None:
                logits.masked_fill_(anchor_label[part, None] == negative_label, -torch.inf)
            if same is not None:
                row = (same[part] >= 0).nonzero().squeeze(1)
                logits[row, same[part][row]] = -torch.inf
            own = (e * p).sum(1) / temperature
            top = torch.maximum(own, logits.amax(1)) if logits.shape[1] else own
            logits.sub_(top[:, None]).exp_()
            total = logits.sum(1)
            margin = own - top - total.log()
            losses[part] = -F.logsigmoid(margin)
            share = torch.sigmoid(-margin)[:, None] / temperature
            # each negative's share of the whole sum
            weights = logits.div_(((total + (own - top).exp()) * temperature)[:, None])
            torch.sub(weights @ negatives, share * p, out=to_anchor[part])
            torch.mul(share, -e, out=to_positive[part])
        ctx.save_for_backward(to_anchor, to_positive)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_anchor, to_positive = ctx.saved_tensors
        each = gradient[:, None]
        needs = ctx.needs_input_grad
        return each * to_anchor if needs[0] else None, each * to_positive if needs[1] else None, *[None] * 5


__all__ = ["info_nce"]
