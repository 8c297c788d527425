"""Points to voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Engine
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT, unpack

Clip = Sequence[tuple[float, float]]


def voxelize(
    points: Tensor,
    voxel_size: float | Sequence[float],
    *,
    batch: Tensor | None = None,
    clip: Clip | None = None,
    engine: Engine | None = None,
) -> tuple[Tensor, Tensor]:
    """Voxels of points: coordinate = floor(xyz / voxel_size), which also below zero rounds down.

    Args:
        points: (P, 3) float, meters.
        voxel_size: edge length in meters, or one per axis.
        batch: (P,) integers, index of each point's cloud (default: all 0).
        clip: kept range (low, high) per axis in meters; points outside have no voxel, nor have points not finite.
        engine: ``numba`` (CPU) or ``torch``; by default what suits the device.

    Returns:
        coordinates (M, 4) int32 [batch, x, y, z], unique, sorted; and (P,) int64 row of each point, -1 for none.

    Raises:
        SparseTensorError: a coordinate does not fit +-``keys.COORDINATE_LIMIT``, or a voxel size is not positive.
    """
    voxel = np.broadcast_to(np.asarray(voxel_size, np.float64), 3).copy()
    if not (np.isfinite(voxel).all() and (voxel > 0).all()):
        raise SparseTensorError("voxel_size has to be positive", where={"voxel_size": voxel_size})
    limits = np.full((3, 2), np.inf) * [-1, 1] if clip is None else np.asarray(clip, np.float64)
    if batch is None:
        batch = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    elif len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < BATCH_LIMIT[3]:
        raise SparseTensorError(f"batch indices have to be in 0..{BATCH_LIMIT[3] - 1}")
    if (engine or ("numba" if points.device.type == "cpu" else "torch")) == "numba":
        from ssl3d.models.sparse import maps_numba

        array, outside = maps_numba.voxel_keys(points.numpy(), batch.to(torch.int32).numpy(), voxel, limits)
        unique_array, inverse_array = maps_numba.group(array, np.argsort(array))
        unique, inverse = torch.from_numpy(unique_array), torch.from_numpy(inverse_array)
    else:
        keys, outside = maps_torch.voxel_keys(
            points, batch, torch.from_numpy(voxel).to(points.device), torch.from_numpy(limits).to(points.device)
        )
        unique, inverse = maps_torch.group(keys)
    if outside:
        raise SparseTensorError(
            "points lie too far out for the voxel grid",
            where={"points": outside, "limit in voxels": f"+-{COORDINATE_LIMIT[3]}", "voxel_size": voxel_size},
            hint="use a larger voxel_size, or clip the range",
        )
    return unpack(unique, 3), inverse


def voxel_mean(values: Tensor, inverse: Tensor, count: int, engine: Engine | None = None) -> Tensor:
    """(P, F) float32 per point -> (count, F) float32 mean per voxel. ``inverse`` from ``voxelize``."""
    if (engine or ("numba" if values.device.type == "cpu" else "torch")) == "numba":
        from ssl3d.models.sparse import maps_numba

        return torch.from_numpy(maps_numba.group_mean(values.numpy(), inverse.numpy(), count))
    return maps_torch.group_mean(values, inverse, count)
