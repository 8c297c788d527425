"""Pooling rows by a region (segment, superpoint) id of each, and giving region features back to the rows.

Rows are points or voxels; ids are 0..S - 1, with -1 for a row of no region. They are plain tensors, not sparse ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse import reduce
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Engine, engine_of
from ssl3d.models.sparse.reduce import RowMap

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MOST_REGIONS = 1 << 31


def region_sum(features: Tensor, regions: Tensor, count: int | None = None, engine: Engine | None = None) -> Tensor:
    """Sum of the rows of each region.

    Args:
        features: (n, C) float.
        regions: (n,) integers, -1 for none, on the same device.
        count: number of regions S; by default the largest id + 1.
        engine: ``numba`` (CPU) or ``torch``; by default what suits the device.

    Returns:
        (S, C) of the type of ``features``; 0 for a region without rows.

    Raises:
        SparseTensorError: shapes, types or devices do not fit, or an id is not in -1..S - 1.
    """
    return reduce.sum_rows(features, _rows(features, regions, count, engine, len(features)))


def region_mean(features: Tensor, regions: Tensor, count: int | None = None, engine: Engine | None = None) -> Tensor:
    """Mean of the rows of each region; otherwise as ``region_sum``."""
    return reduce.mean_rows(features, _rows(features, regions, count, engine, len(features)))


def region_max(features: Tensor, regions: Tensor, count: int | None = None, engine: Engine | None = None) -> Tensor:
    """Maximum of the rows of each region per channel; otherwise as ``region_sum``.

    Of equal values the first row gets the gradient. NaN is greater than any number.
    """
    return reduce.max_rows(features, _rows(features, regions, count, engine, len(features)))[0]


def region_gather(values: Tensor, regions: Tensor, engine: Engine | None = None) -> Tensor:
    """(S, C) per region -> (n, C) per row; 0 for a row of no region. ``regions``, ``engine``: as in ``region_sum``."""
    return reduce.sum_rows(values, _rows(values, regions, len(values), engine, len(regions)).swapped())


def _rows(features: Tensor, regions: Tensor, count: int | None, engine: Engine | None, expected: int) -> RowMap:
    if features.dim() != 2 or not features.is_floating_point():
        raise SparseTensorError(
            "region features have to be floating point numbers (n, C)",
            where={"features": f"{tuple(features.shape)} {features.dtype}"},
        )
    if regions.shape != (expected,) or regions.dtype not in _INTEGERS or regions.device != features.device:
        raise SparseTensorError(
            "regions have to be one integer for each row, on the device of the features",
            where={
                "regions": f"{tuple(regions.shape)} {regions.dtype} {regions.device}",
                "rows": f"{expected} on {features.device}",
            },
        )
    low, high = (int(v) for v in torch.aminmax(regions)) if len(regions) else (-1, -1)
    count = max(high + 1, 0) if count is None else count
    if low < -1 or high >= count:
        raise SparseTensorError(
            "region ids are out of range", where={"found": f"{low}..{high}", "allowed": f"-1..{count - 1}"}
        )
    if count > _MOST_REGIONS:  # rows are counted in int32
        raise SparseTensorError(
            "too many regions",
            where={"regions": count, "limit": _MOST_REGIONS},
            hint="number the ids that occur: torch.unique(regions, return_inverse=True)",
        )
    return RowMap.of_groups(regions, count, engine or engine_of(regions.device))
