"""The way between points and what a network computes on: voxels, pixels or the points themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "any", "first", "majority"]


@dataclass(slots=True)
class ElementMap:
    """Which element each point belongs to.

    Attributes:
        point_to_element: (P,) int64, -1 where the point has no element (cropped, clipped, dropped).
        num_elements: M.
    """

    point_to_element: Tensor
    num_elements: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ElementMap:
        return ElementMap(self.point_to_element.to(device, non_blocking=non_blocking), self.num_elements)

    def gather(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(M, ...) per element -> (P, ...) per point; ``fill`` where a point has no element."""
        index = self.point_to_element
        if not self.num_elements:
            return values.new_full((len(index), *values.shape[1:]), fill)
        missing = index < 0
        if not bool(missing.any()):
            return values[index]
        return values[index.clamp(min=0)].masked_fill(missing.reshape(-1, *[1] * (values.dim() - 1)), fill)

    def reduce(self, values: Tensor, how: Reduction, *, ignore: int | None = None) -> Tensor:
        """(P, ...) per point -> (M, ...) per element. Points without an element take no part.

        Args:
            values: per-point values; for ``majority`` a label >= 0 (P,) of an integer type, for ``any`` boolean (P,).
            how: ``mean`` (float, summed in float32 at least; 0 for an element without points), ``any``, ``first``
                (lowest row; raises ``ValueError`` for an element without points), or ``majority`` (ties go to the
                smaller label).
            ignore: ``majority`` only: this label does not vote; elements without a vote get it (0 without ``ignore``).
        """
        index = self.point_to_element
        keep = index >= 0
        if not bool(keep.all()):
            index, values = index[keep], values[keep]
        if how == "mean":
            return self._mean(values, index)
        if how == "any":
            out = torch.zeros(self.num_elements, dtype=torch.bool, device=values.device)
            out[index[values.bool()]] = True
            return out
        if how == "first":
            order = torch.arange(len(index), device=index.device)
            first = torch.full((self.num_elements,), len(index), device=index.device)
            first.scatter_reduce_(0, index, order, "amin")
            if bool((first == len(index)).any()):
                raise ValueError("reduce('first'): an element has no point")
            return values[first]
        if how == "majority":
            return self._majority(values, index, ignore)
        raise ValueError(f"unknown reduction {how!r}")

    def _mean(self, values: Tensor, index: Tensor) -> Tensor:
        dtype = torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else values.dtype
        total = values.new_zeros(self.num_elements, *values.shape[1:], dtype=dtype)
        total = total.index_add(0, index, values.to(dtype))
        count = torch.bincount(index, minlength=self.num_elements).clamp(min=1).to(dtype)
        return (total / count.reshape(-1, *[1] * (values.dim() - 1))).to(values.dtype)

    def _majority(self, label: Tensor, index: Tensor, ignore: int | None) -> Tensor:
        if ignore is not None:
            voting = label != ignore
            label, index = label[voting], index[voting]
        out = torch.full((self.num_elements,), ignore or 0, dtype=label.dtype, device=label.device)
        out[index] = label  # some vote of each element: right wherever its points agree, which is nearly everywhere
        disputed = torch.zeros(self.num_elements, dtype=torch.bool, device=label.device)
        disputed[index[out[index] != label]] = True
        counted = disputed[index]
        label, index = label[counted].long(), index[counted]
        if len(label):
            classes = int(label.max()) + 1
            ballots, votes = torch.unique(index * classes + label, return_counts=True)
            element, label = ballots // classes, ballots % classes
            # most votes first, then the smaller label, as one number: the same on every device
            rank = votes * classes + (classes - 1 - label)
            best = torch.zeros(self.num_elements, dtype=torch.int64, device=label.device)
            best.scatter_reduce_(0, element, rank, "amax")
            winner = classes - 1 - best % classes
            out = torch.where(disputed, winner.to(out.dtype), out)
        return out
