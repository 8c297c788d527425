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
        out = values[index.clamp(min=0)] if self.num_elements else values.new_zeros(len(index), *values.shape[1:])
        missing = index < 0
        if bool(missing.any()):
            out = out.masked_fill(missing.reshape(-1, *[1] * (out.dim() - 1)), fill)
        return out

    def reduce(self, values: Tensor, how: Reduction, *, ignore: int | None = None) -> Tensor:
        """(P, ...) per point -> (M, ...) per element.

        Args:
            values: per-point values; for ``majority`` an integer label (P,), for ``any`` boolean (P,).
            how: ``mean`` (float; 0 for an element without points), ``any``, ``first`` (lowest row), or
                ``majority`` (ties go to the smaller label).
            ignore: ``majority`` only: this label does not vote; elements without a vote get it.
        """
        keep = self.point_to_element >= 0
        index, values = self.point_to_element[keep], values[keep]
        m = self.num_elements
        if how == "mean":
            total = values.new_zeros(m, *values.shape[1:]).index_add_(0, index, values)
            count = torch.bincount(index, minlength=m).clamp(min=1).to(values.dtype)
            return total / count.reshape(-1, *[1] * (values.dim() - 1))
        if how == "any":
            return torch.zeros(m, dtype=torch.bool, device=values.device).index_put_(
                (index[values.bool()],), torch.tensor(True, device=values.device)
            )
        if how == "first":
            order = torch.arange(len(index), device=index.device)
            first = torch.full((m,), len(index), device=index.device).scatter_reduce_(0, index, order, "amin")
            if bool((first == len(index)).any()):
                raise ValueError("reduce('first'): an element has no point")
            return values[first]
        return self._majority(values, index, ignore)

    def _majority(self, label: Tensor, index: Tensor, ignore: int | None) -> Tensor:
        if ignore is not None:
            voting = label != ignore
            label, index = label[voting], index[voting]
        fill = ignore if ignore is not None else 0
        if not len(label):
            return torch.full((self.num_elements,), fill, dtype=label.dtype, device=label.device)
        classes = int(label.max()) + 1
        votes = torch.bincount(index * classes + label.long(), minlength=self.num_elements * classes)
        votes = votes.reshape(self.num_elements, classes)
        most, winner = votes.max(1)  # CPU and CUDA may break ties differently, so take the first maximum explicitly
        winner = (votes == most[:, None]).to(torch.uint8).argmax(1)
        return torch.where(most > 0, winner, fill).to(label.dtype)
