"""Which input row meets which output row under which weight.

The order of kernel offsets, and so of the rows of a ``kernel`` parameter (K, in, out), is MinkowskiEngine 0.5.4's: the
*first* spatial axis runs fastest, index k = dx + kx * (dy + ky * dz) with dx in 0..kx-1 and so on. Along an axis of odd
size the offsets are centered (-1, 0, 1), along an axis of even size they start at zero (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.keys import offset_key

Engine = Literal["numba", "torch"]
Ints = tuple[int, ...]
"""One number for each spatial axis."""


def ints(value: int | Sequence[int], axes: int) -> Ints:
    """``3`` -> ``(3, 3, 3)`` with three axes; a sequence of as many numbers stays. All have to be at least 1."""
    numbers = (value,) * axes if isinstance(value, int) else tuple(int(v) for v in value)
    if len(numbers) != axes or min(numbers) < 1:
        raise SparseTensorError(
            f"sizes, strides and dilations are one number, or one for each of {axes} axes, and at least 1",
            where={"given": value},
        )
    return numbers


def times(a: Ints, b: Ints) -> Ints:
    """Axis by axis."""
    return tuple(x * y for x, y in zip(a, b, strict=True))


def kernel_offsets(kernel_size: Ints, step: Ints) -> list[Ints]:
    """Offsets of a kernel in coordinate units, in the order of the weights. ``step``: tensor stride x dilation."""
    axes = [
        [(i - (size // 2 if size % 2 else 0)) * gap for i in range(size)]
        for size, gap in zip(kernel_size, step, strict=True)
    ]
    return [offset[::-1] for offset in product(*axes[::-1])]


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


@dataclass(slots=True)
class Pairs:
    """The pairs of one kernel offset: row ``source[i]`` contributes to row ``target[i]``. Targets are unique.

    ``source_array`` and ``target_array`` are the same memory for the CPU kernels (None elsewhere).
    """

    offset: int
    source: Tensor
    target: Tensor
    source_array: Any = None
    target_array: Any = None


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

    @property
    def volume(self) -> int:
        """Number of kernel offsets K."""
        return len(self.begins) - 1

    @cached_property
    def pairs(self) -> list[Pairs]:
        """Views of ``source`` and ``target``: one entry for each kernel offset that has any, without ``identity``."""
        arrays = (self.source.numpy(), self.target.numpy()) if self.source.device.type == "cpu" else None
        found = []
        for offset in range(self.volume):
            part = slice(self.begins[offset], self.begins[offset + 1])
            if part.start < part.stop:
                views = (None, None) if arrays is None else (arrays[0][part], arrays[1][part])
                found.append(Pairs(offset, self.source[part], self.target[part], *views))
        return found

    def swapped(self) -> KernelMap:
        """The map of the transposed convolution: same weights, input and output exchanged."""
        return KernelMap(self.target, self.source, self.begins, self.identity, self.num_out, self.num_in)

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
    volume, same = len(offsets), source is target
    identity = offsets.index((0,) * len(kernel_size)) if same else None
    mirrored = same and all(size % 2 for size in kernel_size)
    search = [k for k in range(volume // 2 if mirrored else volume) if k != identity]
    ins, outs, sizes = _join(source, target, [offset_key(offsets[k]) for k in search], engine)
    counts = dict(zip(search, sizes, strict=True))
    if mirrored:
        parts = ins.split(sizes), outs.split(sizes)
        ins, outs = torch.cat([ins, *parts[1][::-1]]), torch.cat([outs, *parts[0][::-1]])
        counts |= {volume - 1 - k: count for k, count in counts.items()}
    begins = [0]
    for k in range(volume):
        begins.append(begins[-1] + counts.get(k, 0))
    return KernelMap(ins, outs, tuple(begins), identity, len(source), len(target))


def _join(
    source: CoordinateMap, target: CoordinateMap, deltas: list[int], engine: Engine
) -> tuple[Tensor, Tensor, list[int]]:
    """Input rows and output rows of the pairs, offset after offset, and how many each offset has."""
    wanted = torch.tensor(deltas, dtype=torch.int64)
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        found_in, found_out, begins = maps_numba.join(
            source.keys.numpy(), source.rows.numpy(), target.keys.numpy(), target.rows.numpy(), wanted.numpy()
        )
        ins, outs, begin = torch.from_numpy(found_in), torch.from_numpy(found_out), torch.from_numpy(begins)
    else:
        ins, outs, begin = maps_torch.join(
            source.keys, source.rows, target.keys, target.rows, wanted.to(source.keys.device)
        )
    return ins, outs, begin.diff().tolist()
