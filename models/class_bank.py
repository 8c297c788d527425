"""Features kept by class: a ring of slots for each class, and how rows are drawn for it.

Banks of DDSEmi, GPC and LiM3D are made of these. All of it is batched: no loop over classes, rows or slots. Among
several processes every one holds the same bank: gather what is pushed (``gather_rows``), draw with ``shared_rand``.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl3d.models.distributed import world_size


class ClassRing(nn.Module):
    """For each of C classes the last S features that were pushed (first in, first out).

    Attributes:
        values: (C, S, D) float32 buffer.
        count: (C,) int64 buffer, how many slots of a class were ever written: slots 0..count-1 are valid.
        pointer: (C,) int64 buffer, the slot that is written next: the oldest one once all are valid.
    """

    values: Tensor
    count: Tensor
    pointer: Tensor

    def __init__(self, num_classes: int, slots: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(num_classes, slots, channels))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    @property
    def slots(self) -> int:
        return self.values.shape[1]

    @property
    def valid(self) -> Tensor:
        """(C, S) bool."""
        return torch.arange(self.slots, device=self.count.device) < self.count[:, None]

    @torch.no_grad()
    def push(self, features: Tensor, label: Tensor) -> Tensor:
        """Writes rows into the rings of their classes, in their order; of more than S of a class, the last S.

        Args:
            features: (M, D) float.
            label: (M,) int64 in 0..C-1.

        Returns:
            (M,) int64: the slot of its class that a row was written to; -1 where a later row took its place.
        """
        position = rank_in_class(label, len(self.count))
        pushed = torch.bincount(label, minlength=len(self.count))
        kept = position >= pushed[label] - self.slots
        slot = (self.pointer[label] + position) % self.slots
        self.values[label[kept], slot[kept]] = features[kept].to(self.values.dtype)
        self.pointer.copy_((self.pointer + pushed) % self.slots)
        self.count.copy_((self.count + pushed).clamp(max=self.slots))
        return slot.masked_fill(~kept, -1)


def rank_in_class(label: Tensor, num_classes: int) -> Tensor:
    """(M,) int64: how many earlier rows have the label of row m. ``label``: (M,) int64 in 0..C-1."""
    order = torch.sort(label, stable=True).indices
    counts = torch.bincount(label, minlength=num_classes)
    begins = counts.cumsum(0) - counts
    rank = torch.empty_like(label)
    rank[order] = torch.arange(len(label), device=label.device) - begins[label[order]]
    return rank


def draw_per_class(label: Tensor, most: int | Tensor, num_classes: int, keys: Tensor | None = None) -> Tensor:
    """Rows drawn uniformly without replacement, at most ``most`` of each class; all of a class that has no more.

    Args:
        label: (M,) int64 in 0..C-1.
        most: of every class, or (C,) int64.
        keys: (M,) float, what is drawn by: the smallest of a class are taken. None: ``torch.rand``.

    Returns:
        (K,) int64 rows, rising.
    """
    keys = torch.rand(len(label), device=label.device) if keys is None else keys
    shuffled = torch.sort(keys, stable=True).indices
    rank = rank_in_class(label[shuffled], num_classes)
    limit = most if isinstance(most, int) else most[label[shuffled]]
    return torch.sort(shuffled[rank < limit]).values


def shared_rand(*shape: int, device: torch.device | str) -> Tensor:
    """Uniform numbers in [0, 1), float32, the same ones in every process: the first one draws."""
    drawn = torch.rand(*shape, device=device)
    if world_size() > 1:
        dist.broadcast(drawn, 0)
    return drawn


__all__ = ["ClassRing", "draw_per_class", "rank_in_class", "shared_rand"]
