"""Sums and maxima of rows over lists of row pairs: what pooling, broadcasting, union and regions are made of.

A :class:`RowMap` says which rows of an input meet in which row of an output. Its sum is linear, and the gradient of a
sum is the sum over the same lists read backwards; the gradient of a maximum goes to the row that won. Both can be
differentiated again. On the CPU the rows are met in a fixed order: results are bit-equal from run to run. Half types
are summed in float32, and long columns of float32 (above ``LONG_COLUMN`` rows per output) in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ssl3d.models.sparse.kernel_map import Engine, KernelMap
from ssl3d.models.sparse.precision import wider

LONG_COLUMN = 64


@dataclass(frozen=True)
class RowMap:
    """Row ``source[i]`` of an input contributes to row ``target[i]`` of an output.

    Attributes:
        pairs: lists (source, target), each two int32 tensors of one length.
        num_in, num_out: rows of the input and of the output.
        one_to_one: no row occurs twice on one side of a list; else there is a single list.
        engine: ``numba`` (CPU only) or ``torch``.
    """

    pairs: Sequence[tuple[Tensor, Tensor]]
    num_in: int
    num_out: int
    one_to_one: bool
    engine: Engine

    @classmethod
    def of_kernel(cls, kernel_map: KernelMap, engine: Engine, device: torch.device) -> RowMap:
        """The pairs of a kernel map; those of an output row are in the order of the kernel's offsets."""
        lists = {p.offset: (p.source, p.target) for p in kernel_map.pairs}
        if kernel_map.identity is not None:
            rows = torch.arange(kernel_map.num_in, dtype=torch.int32, device=device)
            lists[kernel_map.identity] = (rows, rows)
        pairs = [lists[k] for k in sorted(lists)]
        if engine == "numba" and len(pairs) > 1:
            from ssl3d.models.sparse import reduce_numba

            source, target = (torch.cat(rows).numpy() for rows in zip(*pairs, strict=True))
            merged = reduce_numba.by_target(source, target, kernel_map.num_out)
            pairs = [(torch.from_numpy(merged[0]), torch.from_numpy(merged[1]))]
        return cls(pairs, kernel_map.num_in, kernel_map.num_out, engine != "numba", engine)

    @classmethod
    def of_groups(cls, groups: Tensor, count: int, engine: Engine) -> RowMap:
        """Every row goes to its group. ``groups``: (n,) integers in -1..count - 1, -1 for none."""
        target = groups.to(torch.int32)
        source = torch.arange(len(groups), dtype=torch.int32, device=groups.device)
        inside = target >= 0
        if not bool(inside.all()):
            source, target = source[inside], target[inside]
        return cls([(source, target.contiguous())], len(groups), count, False, engine)

    def swapped(self) -> RowMap:
        """Input and output exchanged."""
        pairs = [(target, source) for source, target in self.pairs]
        return RowMap(pairs, self.num_out, self.num_in, self.one_to_one, self.engine)

    @cached_property
    def divisors(self) -> Tensor:
        """(num_out,) int64: how many rows meet in each row of the output, but at least 1."""
        if not self.pairs:
            return torch.ones(self.num_out, dtype=torch.int64)
        counts = torch.bincount(torch.cat([target for _, target in self.pairs]), minlength=self.num_out)
        return counts.clamp_(min=1)


def sum_rows(features: Tensor, rows: RowMap) -> Tensor:
    """(num_in, C) -> (num_out, C), out[t] = sum of the features of all its rows; 0 without any."""
    result: Tensor = _Sum.apply(features, rows, None)
    return result


def mean_rows(features: Tensor, rows: RowMap) -> Tensor:
    """(num_in, C) -> (num_out, C), the sum divided by the number of rows; 0 without any."""
    result: Tensor = _Sum.apply(features, rows, rows.divisors.to(features.device))
    return result


def max_rows(features: Tensor, rows: RowMap) -> tuple[Tensor, Tensor]:
    """(num_in, C) -> maxima (num_out, C) and (num_out, C) int32, the row each of them came from.

    Of equal values the first in the order of the pairs wins and gets the gradient. NaN is greater than any number.
    Without any row: 0, from row -1, and no gradient.
    """
    out, winner = _Max.apply(features, rows)
    return out, winner


def add_to_winners(values: Tensor, winner: Tensor, num_in: int, engine: Engine) -> Tensor:
    """(num_out, C) -> (num_in, C): each value goes back to the row it came from; several add up, the rest is 0."""
    result: Tensor = _ToWinners.apply(values, winner, num_in, engine)
    return result


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: RowMap, counts: Tensor | None) -> Tensor:
        ctx.rows, ctx.counts = rows, counts
        pairs = sum(len(source) for source, _ in rows.pairs)
        out = _accumulator(features, rows, wide=pairs > LONG_COLUMN * rows.num_out)
        if rows.engine == "numba":
            from ssl3d.models.sparse import reduce_numba

            values, sums = _array(features), out.numpy()
            for source, target in rows.pairs:
                reduce_numba.add_rows(values, source.numpy(), target.numpy(), sums)
        else:
            for source, target in rows.pairs:
                out.index_add_(0, target, features.index_select(0, source).to(out.dtype))
        if counts is not None:
            out /= counts[:, None]
        return out.to(features.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.counts is not None:
            grad = grad / ctx.counts[:, None]
        return _Sum.apply(grad, ctx.rows.swapped(), None), None, None


class _Max(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: RowMap) -> tuple[Tensor, Tensor]:
        values = features.detach().contiguous()
        if rows.engine == "numba":
            from ssl3d.models.sparse import reduce_numba

            array = _array(values)
            out_array = torch.full((rows.num_out, values.shape[1]), -torch.inf, dtype=wider(values.dtype))
            winner = torch.full((rows.num_out, values.shape[1]), -1, dtype=torch.int32)
            for source, target in rows.pairs:
                reduce_numba.max_rows(array, source.numpy(), target.numpy(), out_array.numpy(), winner.numpy())
            out = out_array.to(values.dtype)
        else:
            out, winner = (_max_one_to_one if rows.one_to_one else _max_grouped)(values, rows)
        if winner.shape[1]:
            out[winner[:, 0] < 0] = 0  # a row without pairs lacks them in every channel
        ctx.save_for_backward(winner)
        ctx.rows = rows
        ctx.mark_non_differentiable(winner)
        return out, winner

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        return add_to_winners(grad, winner, ctx.rows.num_in, ctx.rows.engine), None


class _ToWinners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, winner: Tensor, num_in: int, engine: Engine) -> Tensor:
        ctx.save_for_backward(winner)
        out = values.new_zeros(num_in, values.shape[1], dtype=wider(values.dtype))
        if engine == "numba":
            from ssl3d.models.sparse import reduce_numba

            reduce_numba.add_to_winners(_array(values), winner.numpy(), out.numpy())
        elif num_in:
            kept = values.to(out.dtype).masked_fill(winner < 0, 0)
            out.scatter_add_(0, winner.clamp(min=0).long(), kept)
        return out.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (winner,) = ctx.saved_tensors
        if not len(grad):  # nothing to gather from
            return grad.new_zeros(winner.shape), None, None, None
        return grad.gather(0, winner.clamp(min=0).long()).masked_fill(winner < 0, 0), None, None, None


def _max_one_to_one(values: Tensor, rows: RowMap) -> tuple[Tensor, Tensor]:
    """As ``reduce_numba.max_rows``, list after list."""
    out = values.new_full((rows.num_out, values.shape[1]), -torch.inf)
    winner = torch.full_like(out, -1, dtype=torch.int32)
    for source, target in rows.pairs:
        new, old, best = values.index_select(0, source), out.index_select(0, target), winner.index_select(0, target)
        take = (~(new <= old) & (old == old)) | (best < 0)
        out.index_copy_(0, target.long(), torch.where(take, new, old))
        winner.index_copy_(0, target.long(), torch.where(take, source[:, None], best))
    return out, winner


def _max_grouped(values: Tensor, rows: RowMap) -> tuple[Tensor, Tensor]:
    """As ``reduce_numba.max_rows`` for one list whose targets repeat."""
    (source, target), channels = rows.pairs[0], values.shape[1]
    out = values.new_full((rows.num_out, channels), -torch.inf)
    if not len(source):
        return out, torch.full_like(out, -1, dtype=torch.int32)
    index = target.long()[:, None].expand(-1, channels)
    picked = values.index_select(0, source)
    out.scatter_reduce_(0, index, picked, "amax")
    best = out.gather(0, index)
    won = (picked == best) | (picked.isnan() & best.isnan())
    # by the place in the list, so that the first of equal values wins
    place = torch.arange(len(source), device=values.device)[:, None].where(won, len(source))
    first = torch.full((rows.num_out, channels), len(source), device=values.device)
    first.scatter_reduce_(0, index, place, "amin")
    none = first == len(source)
    return out, source[first.masked_fill(none, 0)].masked_fill(none, -1)


def _accumulator(features: Tensor, rows: RowMap, wide: bool) -> Tensor:
    dtype = torch.float64 if wide and rows.engine == "numba" else wider(features.dtype)
    return features.new_zeros(rows.num_out, features.shape[1], dtype=dtype)


def _array(features: Tensor) -> Any:
    """For the CPU kernels: contiguous, at least float32."""
    return features.detach().to(wider(features.dtype)).contiguous().numpy()
