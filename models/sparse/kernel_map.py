"""Which input row meets which output row under which weight.

The order of kernel offsets, and so of the rows of a ``kernel`` parameter (K, in, out), is MinkowskiEngine 0.5.4's: the
*first* spatial axis runs fastest, index k = dx + kx * (dy + ky * dz) with dx in 0..kx-1 and so on. Along an axis of odd
size the offsets are centered (-1, 0, 1), along an axis of even size they start at zero (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.keys import offset_key

if TYPE_CHECKING:
    from ssl3d.models.sparse.convolution_cpu import Blocks

Engine = Literal["numba", "torch"]
LARGEST_KERNEL = 1 << 18
"""Cells of a kernel: each has a list of pairs of its own."""
Ints = tuple[int, ...]
"""One number for each spatial axis."""


def ints(value: int | Sequence[int], axes: int) -> Ints:
    """``3`` -> ``(3, 3, 3)`` with three axes; a sequence of as many numbers stays. All have to be at least 1."""
    given: Any = value  # numbers and arrays of other libraries will do
    try:
        numbers = tuple(index(number) for number in (given if hasattr(given, "__len__") else (given,) * axes))
    except TypeError:  # no integers
        numbers = ()
    if not numbers or len(numbers) != axes or min(numbers) < 1:
        raise SparseTensorError(
            f"sizes, strides, dilations and channels are one integer, or one for each of {axes} axes, and at least 1",
            where={"given": value},
        )
    return numbers


def times(a: Ints, b: Ints) -> Ints:
    """Axis by axis."""
    return tuple(x * y for x, y in zip(a, b, strict=True))


def axis_offsets(kernel_size: Ints, step: Ints) -> list[list[int]]:
    """Offsets of a kernel along each axis, in coordinate units. ``step``: tensor stride x dilation."""
    return [
        [(i - (size // 2 if size % 2 else 0)) * gap for i in range(size)]
        for size, gap in zip(kernel_size, step, strict=True)
    ]


def kernel_offsets(kernel_size: Ints, step: Ints) -> list[Ints]:
    """Offsets of a kernel in coordinate units, in the order of the weights. ``step``: tensor stride x dilation."""
    if prod(kernel_size) > LARGEST_KERNEL:
        raise SparseTensorError(
            "the kernel is too large",
            where={"kernel size": kernel_size, "cells": prod(kernel_size), "limit": LARGEST_KERNEL},
            hint="a pooling as large as its stride has no such limit",
        )
    return [offset[::-1] for offset in product(*axis_offsets(kernel_size, step)[::-1])]


def engine_of(device: torch.device) -> Engine:
    """What suits a device."""
    return "numba" if device.type == "cpu" else "torch"


@dataclass(slots=True)
class CoordinateMap:
    """The sites of one tensor stride.

    Attributes:
        coordinates: (n, 1 + D) int32 [batch, x, ...], multiples of ``stride``, unique; n may be 0.
        keys: (n,) int64, sorted.
        rows: (n,) int32, the row of ``coordinates`` that each sorted key stands for.
        stride: tensor stride per axis.
    """

    coordinates: Tensor
    keys: Tensor
    rows: Tensor
    stride: Ints

    def __len__(self) -> int:
        return len(self.keys)


class Pairs(NamedTuple):
    """The pairs of one kernel offset: row ``source[i]`` contributes to row ``target[i]``. Targets are unique."""

    offset: int
    source: Tensor
    target: Tensor


@dataclass
class KernelMap:
    """All pairs of a convolution: row ``source[i]`` contributes to row ``target[i]``.

    Attributes:
        source, target: (P,) int32, offset after offset in the order of the weights; within an offset both ascend in the
            order of the sorted keys and both are unique. Without those of ``identity``.
        begins: K + 1 numbers; the pairs of offset k are begins[k] : begins[k + 1].
        identity: the offset that maps every row to itself (the center of a submanifold convolution), if any.
        num_in, num_out: rows of the input and of the output.
    """

    source: Tensor
    target: Tensor
    begins: tuple[int, ...]
    identity: int | None
    num_in: int
    num_out: int
    _reversed: bool = field(default=False, repr=False)
    _blocks: dict[bool, Blocks] = field(default_factory=dict, repr=False, compare=False)  # of both directions

    @property
    def volume(self) -> int:
        """Number of kernel offsets K."""
        return len(self.begins) - 1

    @cached_property
    def pairs(self) -> list[Pairs]:
        """Views of ``source`` and ``target``: one entry for each kernel offset that has any, without ``identity``."""
        parts = [slice(begin, end) for begin, end in pairwise(self.begins)]
        found = [Pairs(k, self.source[part], self.target[part]) for k, part in enumerate(parts)]
        return [pair for pair in found if len(pair.source)]

    @cached_property
    def reverse(self) -> KernelMap:
        """The map of the transposed convolution: same weights, input and output exchanged."""
        ends = self.target, self.source, self.begins, self.identity, self.num_out, self.num_in
        return KernelMap(*ends, not self._reversed, self._blocks)

    @property
    def blocks(self) -> Blocks:
        """What the CPU kernels need, found once, also for the reverse of the reverse."""
        from ssl3d.models.sparse.convolution_cpu import Blocks

        if self._reversed not in self._blocks:
            self._blocks[self._reversed] = Blocks.of(self)
        return self._blocks[self._reversed]

    @property
    def num_pairs(self) -> int:
        """Multiply-adds per (input channel x output channel)."""
        return len(self.source) + (self.num_in if self.identity is not None else 0)


def build_kernel_map(
    source: CoordinateMap, target: CoordinateMap, kernel_size: Ints, dilation: Ints, engine: Engine
) -> KernelMap:
    """The map of out(x) = sum_k W_k in(x + o_k), offsets in units of the input's tensor stride x dilation.

    Of a kernel of odd size between equal sites only half is searched: offset K - 1 - k is offset k seen from the other
    end.
    """
    offsets = kernel_offsets(kernel_size, times(source.stride, dilation))
    deltas = [offset_key(offset) for offset in offsets]
    volume, same = len(offsets), source is target
    identity = offsets.index((0,) * len(kernel_size)) if same else None
    mirrored = same and all(size % 2 for size in kernel_size)
    search = [k for k in range(volume) if k != identity and not (mirrored and deltas[k] > 0)]
    ins, outs = _join(source, target, [deltas[k] for k in search], engine)
    found = dict(zip(search, zip(ins, outs, strict=True), strict=True))
    if mirrored:
        found |= {volume - 1 - k: (rows_out, rows_in) for k, (rows_in, rows_out) in found.items()}
    begins, inputs, outputs = [0], [source.rows[:0]], [source.rows[:0]]
    for k in range(volume):
        rows_in, rows_out = found.get(k, ([], []))
        inputs += rows_in
        outputs += rows_out
        begins.append(begins[-1] + sum(map(len, rows_in)))
    return KernelMap(torch.cat(inputs), torch.cat(outputs), tuple(begins), identity, len(source), len(target))


def _join(
    source: CoordinateMap, target: CoordinateMap, deltas: list[int], engine: Engine
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The input rows and the output rows of the pairs of each offset, in pieces."""
    wanted = torch.tensor(deltas, dtype=torch.int64)
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        keys = source.keys.numpy(), source.rows.numpy(), target.keys.numpy(), target.rows.numpy()
        found = maps_numba.join(*keys, wanted.numpy(), source.stride[-1], torch.get_num_threads())
        ins, outs = ([[torch.from_numpy(piece) for piece in pieces] for pieces in end] for end in found)
        return ins, outs
    rows_in, rows_out = maps_torch.join(
        source.keys, source.rows, target.keys, target.rows, wanted.to(source.keys.device)
    )
    return [[rows] for rows in rows_in], [[rows] for rows in rows_out]
