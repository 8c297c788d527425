"""Integer coordinates of 2, 3 or 4 spatial axes as sortable 64-bit keys.

A coordinate [b, x, y, z] becomes ``b << 54 | (x + H) << 36 | (y + H) << 18 | (z + H)`` with H = 2^17; with 2 axes a
field has 27 bits, with 4 axes 14. Keys sort like coordinates do, and a kernel offset is one number added to a key: no
field overflows as long as coordinates stay under ``COORDINATE_LIMIT`` and offsets under ``REACH_LIMIT``. In 3D the
limit is 6.5 km from the origin at voxels of 0.05 m.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from ssl3d.models.sparse.errors import SparseTensorError

AXES = (2, 3, 4)
"""Numbers of spatial axes that keys exist for; the tables below are by this number."""
FIELD_BITS = {2: 27, 3: 18, 4: 14}
REACH_LIMIT = {2: 1 << 16, 3: 1 << 10, 4: 1 << 9}
"""A kernel may reach less than so many finest voxels away (offset * dilation * tensor stride)."""
COORDINATE_LIMIT = {axes: (1 << FIELD_BITS[axes] - 1) - REACH_LIMIT[axes] for axes in AXES}
"""Valid coordinates are -COORDINATE_LIMIT <= x < COORDINATE_LIMIT: 67,043,328 in 2D, 130,048 in 3D, 7,680 in 4D."""
BATCH_LIMIT = {axes: 1 << (63 - axes * FIELD_BITS[axes]) for axes in AXES}
"""Clouds in one batch: 512 in 2D and 3D, 128 in 4D."""


def half(axes: int) -> int:
    """What is added to a coordinate so that its field is not negative."""
    return 1 << (FIELD_BITS[axes] - 1)


def offset_key(offset: tuple[int, ...]) -> int:
    """What to add to a key in order to move by ``offset``."""
    axes = len(offset)
    if max(map(abs, offset)) >= REACH_LIMIT[axes]:
        raise SparseTensorError(
            "a kernel reaches too far for the coordinate keys",
            where={"offset in voxels": offset, "limit": REACH_LIMIT[axes]},
            hint="use a smaller kernel, dilation or stride",
        )
    key = 0
    for value in offset:
        key = (key << FIELD_BITS[axes]) + value
    return key


def pack(coordinates: Tensor) -> Tensor:
    """(n, 1 + D) integers [batch, x, ...], within the limits -> (n,) int64 keys."""
    axes = coordinates.shape[1] - 1
    fields = coordinates.long().unbind(1)
    keys = fields[0]
    for field in fields[1:]:
        keys = (keys << FIELD_BITS[axes]) + (field + half(axes))
    return keys


def unpack(keys: Tensor, axes: int) -> Tensor:
    """(n,) int64 keys -> (n, 1 + axes) int32 coordinates."""
    bits = FIELD_BITS[axes]
    mask = (1 << bits) - 1
    fields = [keys >> axes * bits]
    fields += [((keys >> place * bits) & mask) - half(axes) for place in reversed(range(axes))]
    return torch.stack(fields, 1).to(torch.int32)


def coarse_mask(stride: tuple[int, ...]) -> int | None:
    """What a key is masked with to floor each coordinate to a multiple of its stride; only for powers of two."""
    axes = len(stride)
    if any(s & (s - 1) for s in stride):
        return None
    return ~sum((s - 1) << FIELD_BITS[axes] * (axes - 1 - axis) for axis, s in enumerate(stride))


def check_batch_size(batch_size: int, axes: int) -> None:
    """Raises ``SparseTensorError`` unless a batch can have so many clouds."""
    if not isinstance(batch_size, Integral) or not 0 <= batch_size <= BATCH_LIMIT[axes]:
        raise SparseTensorError(
            f"a batch has 0 to {BATCH_LIMIT[axes]} clouds with {axes} axes", where={"batch size": batch_size}
        )


def check_range(lowest: Sequence[int], highest: Sequence[int]) -> None:
    """Raises ``SparseTensorError`` unless coordinates between these two [batch, x, ...] fit a key."""
    axes = len(lowest) - 1
    if lowest[0] < 0 or highest[0] >= BATCH_LIMIT[axes]:
        raise SparseTensorError(
            f"batch indices have to be in 0..{BATCH_LIMIT[axes] - 1}",
            where={"found": f"{lowest[0]}..{highest[0]}", "columns": "batch index, then the spatial axes"},
        )
    limit = COORDINATE_LIMIT[axes]
    if min(lowest[1:]) < -limit or max(highest[1:]) >= limit:
        raise SparseTensorError(
            "voxel coordinates are out of range",
            where={"found": f"{min(lowest[1:])}..{max(highest[1:])}", "limit": f"+-{limit} with {axes} axes"},
            hint="points are taken relative to their scan's origin; use a larger voxel_size or clip the scan",
        )
