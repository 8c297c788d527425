"""Which input row meets which output row under which weight.

The order of kernel offsets, and so of the rows of a ``kernel`` parameter (K, in, out), is MinkowskiEngine 0.5.4's: the
*first* spatial axis runs fastest, index k = dx + kx * (dy + ky * dz) with dx in 0..kx-1 and so on. Along an axis of odd
size the offsets are centered (-1, 0, 1), along an axis of even size they start at zero (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.keys import offset_key

Engine = Literal["numba", "torch"]
Triple = tuple[int, int, int]


def triple(value: int | Sequence[int]) -> Triple:
    """``3`` -> ``(3, 3, 3)``; a sequence of three stays."""
    x, y, z = (value,) * 3 if isinstance(value, int) else value
    if min(x, y, z) < 1:
        raise ValueError(f"sizes, strides and dilations are at least 1, got {(x, y, z)}")
    return int(x), int(y), int(z)


def kernel_offsets(kernel_size: Triple, step: Triple) -> list[Triple]:
    """Offsets of a kernel in coordinate units, in the order of the weights. ``step``: tensor stride x dilation."""
    axes = [
        [(i - (size // 2 if size % 2 else 0)) * gap for i in range(size)]
        for size, gap in zip(kernel_size, step, strict=True)
    ]
    return [(x, y, z) for z in axes[2] for y in axes[1] for x in axes[0]]


@dataclass(slots=True)
class CoordinateMap:
    """The sites of one tensor stride.

    Attributes:
        coordinates: (n, 4) int32 [batch, x, y, z], multiples of ``stride``, unique.
        keys: (n,) int64, sorted.
        rows: (n,) int32, the row of ``coordinates`` that each sorted key stands for.
        stride: tensor stride per axis.
    """

    coordinates: Tensor
    keys: Tensor
    rows: Tensor
    stride: Triple

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

    def swapped(self) -> Pairs:
        return Pairs(self.offset, self.target, self.source, self.target_array, self.source_array)


@dataclass(slots=True)
class KernelMap:
    """All pairs of a convolution.

    Attributes:
        pairs: one entry for each kernel offset that has any, in the order of the weights; without ``identity``.
        identity: the offset that maps every row to itself (the center of a submanifold convolution), if any.
        volume: number of kernel offsets K.
        num_in, num_out: rows of the input and of the output.
    """

    pairs: list[Pairs]
    identity: int | None
    volume: int
    num_in: int
    num_out: int

    def swapped(self) -> KernelMap:
        """The map of the transposed convolution: same weights, input and output exchanged."""
        return KernelMap([p.swapped() for p in self.pairs], self.identity, self.volume, self.num_out, self.num_in)

    @property
    def num_pairs(self) -> int:
        """Multiply-adds per (input channel x output channel)."""
        return sum(len(p.source) for p in self.pairs) + (self.num_in if self.identity is not None else 0)


def build_kernel_map(
    source: CoordinateMap, target: CoordinateMap, kernel_size: Triple, dilation: Triple, engine: Engine
) -> KernelMap:
    """The map of out(x) = sum_k W_k in(x + o_k), offsets in units of the input's tensor stride x dilation.

    Of a kernel of odd size between equal sites only half is searched: offset K - 1 - k is offset k seen from the other
    end.
    """
    step = (source.stride[0] * dilation[0], source.stride[1] * dilation[1], source.stride[2] * dilation[2])
    offsets = kernel_offsets(kernel_size, step)
    volume, same = len(offsets), source is target
    identity = offsets.index((0, 0, 0)) if same else None
    mirrored = same and all(size % 2 for size in kernel_size)
    search = [k for k in range(volume // 2 if mirrored else volume) if k != identity]
    found = _join(source, target, [offset_key(offsets[k]) for k in search], engine)
    pairs = [Pairs(k, *arrays) for k, arrays in zip(search, found, strict=True) if len(arrays[0])]
    if mirrored:
        for pair in reversed(pairs.copy()):
            other = pair.swapped()
            other.offset = volume - 1 - pair.offset
            pairs.append(other)
    return KernelMap(pairs, identity, volume, len(source), len(target))


def _join(
    source: CoordinateMap, target: CoordinateMap, deltas: list[int], engine: Engine
) -> list[tuple[Tensor, Tensor, Any, Any]]:
    wanted = torch.tensor(deltas, dtype=torch.int64)
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        ins, outs, begins = maps_numba.join(
            source.keys.numpy(), source.rows.numpy(), target.keys.numpy(), target.rows.numpy(), wanted.numpy()
        )
        cuts = begins.tolist()
        arrays = [(ins[a:b], outs[a:b]) for a, b in pairwise(cuts)]
        return [(torch.from_numpy(i), torch.from_numpy(o), i, o) for i, o in arrays]
    if not deltas:
        return []
    in_rows, out_rows, begin = maps_torch.join(
        source.keys, source.rows, target.keys, target.rows, wanted.to(source.keys.device)
    )
    sizes = begin.diff().tolist()
    split = zip(in_rows.split(sizes), out_rows.split(sizes), strict=True)
    on_cpu = in_rows.device.type == "cpu"
    return [(i, o, i.numpy() if on_cpu else None, o.numpy() if on_cpu else None) for i, o in split]
