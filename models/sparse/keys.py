"""Integer coordinates as sortable 64-bit keys.

A coordinate (b, x, y, z) becomes ``b << 54 | (x + H) << 36 | (y + H) << 18 | (z + H)`` with H = 2^17. Keys sort like
coordinates do, and a kernel offset is one number added to a key: no field overflows as long as |x|, |y|, |z| stay
under ``COORDINATE_LIMIT`` and an offset under ``REACH_LIMIT``. At voxels of 0.05 m the limit is 6.5 km from the origin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError

FIELD_BITS = 18
HALF = 1 << (FIELD_BITS - 1)
FIELD_MASK = (1 << FIELD_BITS) - 1
REACH_LIMIT = 1 << 10
"""A kernel may reach at most so many finest voxels away (kernel_size // 2 * dilation * tensor stride)."""
COORDINATE_LIMIT = HALF - REACH_LIMIT
"""Valid coordinates are -COORDINATE_LIMIT <= x < COORDINATE_LIMIT (here 130,048)."""
BATCH_LIMIT = 1 << (63 - 3 * FIELD_BITS)
"""Clouds in one batch (here 512)."""


def offset_key(offset: tuple[int, int, int]) -> int:
    """What to add to a key in order to move by ``offset``."""
    if max(map(abs, offset)) >= REACH_LIMIT:
        raise SparseTensorError(
            "a kernel reaches too far for the coordinate keys",
            where={"offset in voxels": offset, "limit": REACH_LIMIT},
            hint="use a smaller kernel, dilation or stride",
        )
    return (offset[0] << 2 * FIELD_BITS) + (offset[1] << FIELD_BITS) + offset[2]


def pack(coordinates: Tensor) -> Tensor:
    """(n, 4) integers [batch, x, y, z], within the limits -> (n,) int64 keys."""
    b, x, y, z = coordinates.long().unbind(1)
    return ((b << 3 * FIELD_BITS) + ((x + HALF) << 2 * FIELD_BITS)) + ((y + HALF) << FIELD_BITS) + (z + HALF)


def unpack(keys: Tensor) -> Tensor:
    """(n,) int64 keys -> (n, 4) int32 coordinates."""
    fields = [keys >> 3 * FIELD_BITS]
    fields += [((keys >> shift * FIELD_BITS) & FIELD_MASK) - HALF for shift in (2, 1, 0)]
    return torch.stack(fields, 1).to(torch.int32)


def check_range(coordinates: Tensor) -> None:
    """Raises ``SparseTensorError`` unless every coordinate fits a key. ``coordinates``: (n, 4) integers, n > 0."""
    low, high = torch.aminmax(coordinates, dim=0)
    lowest, highest = low.tolist(), high.tolist()
    if lowest[0] < 0 or highest[0] >= BATCH_LIMIT:
        raise SparseTensorError(
            f"batch indices have to be in 0..{BATCH_LIMIT - 1}", where={"found": f"{lowest[0]}..{highest[0]}"}
        )
    if min(lowest[1:]) < -COORDINATE_LIMIT or max(highest[1:]) >= COORDINATE_LIMIT:
        raise SparseTensorError(
            "voxel coordinates are out of range",
            where={"found": f"{min(lowest[1:])}..{max(highest[1:])}", "limit": f"+-{COORDINATE_LIMIT}"},
            hint="points are taken relative to their scan's origin; use a larger voxel_size or clip the scan",
        )
