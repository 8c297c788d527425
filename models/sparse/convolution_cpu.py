"""Sparse convolution on the CPU in float32: prepares what the kernels of ``cpu_kernels`` need and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.sparse import cpu_kernels, parallel
from ssl3d.models.sparse.cpu_kernels import FIELDS, GRAIN, LANES, ROWS, WIDE

if TYPE_CHECKING:
    from ssl3d.models.sparse.kernel_map import KernelMap

_PLACE = {name: place for place, name in enumerate(FIELDS)}
_BLOCK_BYTES = 2**19
"""Rows of a block take this much, outputs and inputs together: about a second-level cache."""
_CHUNK_BYTES = 2**14
"""Rows that one tile of weights is multiplied with after the other: half a first-level cache."""
_BLOCKS_PER_THREAD = 4

_GRADIENT_CHUNK = 192
"""Pairs that are copied side by side."""


@dataclass(frozen=True)
class Blocks:
    """A kernel map with the pairs of each offset in ascending order of the target rows, cut into grains of rows.

    Attributes:
        source, target: (P,) int32.
        same: (rows,) int32 0, 1, ...: both ends of the pairs of the identity offset.
        cuts: (grains + 1, K) int64, where the pairs of each grain begin.
    """

    source: np.ndarray
    target: np.ndarray
    same: np.ndarray
    cuts: np.ndarray
    identity: int
    rows: int

    @classmethod
    def of(cls, kernel_map: KernelMap) -> Blocks:
        source, target = kernel_map.source.numpy(), kernel_map.target.numpy()
        begins = np.asarray(kernel_map.begins, np.int64)
        if not cpu_kernels.ascending(target, begins):  # coordinates came unsorted
            offsets = np.repeat(np.arange(kernel_map.volume), np.diff(begins))
            order = np.lexsort((target, offsets))
            source, target = source[order], target[order]
        rows = kernel_map.num_out
        identity = -1 if kernel_map.identity is None else kernel_map.identity
        same = np.arange(rows if identity >= 0 else 0, dtype=np.int32)
        return cls(source, target, same, cpu_kernels.cuts(target, begins, -(-rows // GRAIN)), identity, rows)

    @property
    def grains(self) -> int:
        return len(self.cuts) - 1

    @property
    def volume(self) -> int:
        return self.cuts.shape[1]

    def fields(self) -> dict[str, int]:
        return {
            "source": self.source.ctypes.data,
            "target": self.target.ctypes.data,
            "same": self.same.ctypes.data,
            "cuts": self.cuts.ctypes.data,
            "volume": self.volume,
            "identity": self.identity,
            "grains": self.grains,
            "rows": self.rows,
        }


def product(inputs: Tensor, weights: Tensor, blocks: Blocks) -> Tensor:
    """out[target] = sum of inputs[source] @ weights[k] over the pairs of all offsets k.

    Args:
        inputs: (n, I) float32, contiguous.
        weights: (K, I, O) float32, any strides.

    Returns:
        (blocks.rows, O).
    """
    columns = weights.shape[2]
    if not weights[0].numel():
        return inputs.new_zeros(blocks.rows, columns)
    weights = _padded(weights)
    width, out_width = weights.shape[1:]
    out = inputs.new_empty(blocks.rows, out_width)
    packed = _pack(weights)
    per_block = _grains_per_block(blocks, width + out_width, torch.get_num_threads())
    tasks = -(-blocks.grains // per_block)
    _run(
        cpu_kernels.product, tasks, blocks,
        grains_per_block=per_block, chunk=max(ROWS, _CHUNK_BYTES // (4 * max(width, 1)) // ROWS * ROWS),
        inputs=inputs.data_ptr(), in_width=width, outputs=out.data_ptr(), out_width=out_width,
        weights=packed.data_ptr(),
    )  # fmt: skip
    return out if columns == out_width else out[:, :columns].clone()  # never a view: it may be changed in place


def gradient(inputs: Tensor, outputs: Tensor, blocks: Blocks) -> Tensor:
    """(K, I, O): the sum of outer products inputs[source] x outputs[target] over the pairs of each offset.

    Args:
        inputs: (n, I) float32, contiguous.
        outputs: (blocks.rows, O) float32, contiguous.
    """
    columns = outputs.shape[1]
    if not inputs.shape[1] * columns:
        return inputs.new_zeros(blocks.volume, inputs.shape[1], columns)
    outputs = _padded(outputs)
    width, out_width = inputs.shape[1], outputs.shape[1]
    found = inputs.new_zeros(blocks.volume, width, out_width)
    offsets, shares = _share(blocks, torch.get_num_threads())
    others = -(-torch.get_num_threads() // (len(shares) - 1))  # threads for the same offsets
    column_groups = min(others, -(-out_width // WIDE))
    row_groups = min(-(-others // column_groups), max(width // 16, 1))
    tasks = (len(shares) - 1) * column_groups * row_groups
    chunk = _GRADIENT_CHUNK
    # panels of ROWS and of WIDE columns; see ``cpu_kernels.gradient``
    size = 4 * ((chunk + 3) * (width // ROWS + 1) * ROWS + (chunk + 1) * (out_width // WIDE + 1) * WIDE)
    scratch = torch.empty(tasks * size, dtype=torch.uint8)
    _run(
        cpu_kernels.gradient, tasks, blocks,
        grains_per_block=max(8, _BLOCK_BYTES * 3 // 2 // (4 * GRAIN * (width + out_width))), chunk=chunk,
        inputs=inputs.data_ptr(), in_width=width, outputs=outputs.data_ptr(), out_width=out_width,
        weights=found.data_ptr(), offsets=offsets.ctypes.data, shares=shares.ctypes.data, offset_groups=len(shares) - 1,
        column_groups=column_groups, row_groups=row_groups,
        scratch=scratch.data_ptr(), scratch_size=size,
    )  # fmt: skip
    return found if columns == out_width else found[:, :, :columns].clone()


def _share(blocks: Blocks, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in groups with about as many pairs each, at most a group a thread: a pair is copied once where one thread
    has its offset to itself.

    Returns:
        (offsets, shares): (K,) int64, and (groups + 1,) int64, where each group begins among the offsets.
    """
    pairs = blocks.cuts[-1] - blocks.cuts[0]
    if blocks.identity >= 0:
        pairs[blocks.identity] = blocks.rows
    groups: list[list[int]] = [[] for _ in range(max(1, min(threads, int(pairs.sum() // max(pairs.max(), 1)))))]
    load = np.zeros(len(groups), np.int64)
    for offset in np.argsort(-pairs, kind="stable"):
        lightest = int(load.argmin())
        groups[lightest].append(int(offset))
        load[lightest] += pairs[offset]
    shares = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    return np.array([offset for group in groups for offset in sorted(group)], np.int64), shares


def _padded(matrices: Tensor) -> Tensor:
    """Columns of zeros up to a multiple of LANES."""
    missing = -matrices.shape[-1] % LANES
    return F.pad(matrices, (0, missing)) if missing else matrices


def _run(function: Any, tasks: int, blocks: Blocks, **fields: int) -> None:
    arguments = np.zeros(len(FIELDS), np.int64)
    for name, value in {"tasks": tasks, **blocks.fields(), **fields}.items():
        arguments[_PLACE[name]] = value
    if tasks:
        parallel.run(function, arguments, tasks)


def _grains_per_block(blocks: Blocks, widths: int, threads: int) -> int:
    """As large as the cache allows, as small as the threads need to share the work."""
    fitting = _BLOCK_BYTES // (4 * GRAIN * widths)
    shared = blocks.grains // (_BLOCKS_PER_THREAD * threads) if threads > 1 else blocks.grains
    return max(1, min(max(fitting, 2), shared))


def _pack(weights: Tensor) -> Tensor:
    """(K, I, O), O a multiple of LANES -> (K, I * O): tiles of WIDE columns (I, WIDE) one after the other, then one
    of LANES where it is left."""
    volume, width, columns = weights.shape
    wide = columns // WIDE * WIDE
    tiles = weights[:, :, :wide].reshape(volume, width, wide // WIDE, WIDE).permute(0, 2, 1, 3)
    if wide == columns:
        return tiles.contiguous()
    packed = weights.new_empty(volume, width * columns)
    packed[:, : width * wide].view(volume, wide // WIDE, width, WIDE).copy_(tiles)
    packed[:, width * wide :].view(volume, width, LANES).copy_(weights[:, :, wide:])
    return packed
