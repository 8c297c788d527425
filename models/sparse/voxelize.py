"""Points to voxels, and what points carry to their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl3d.models.elements import ElementMap
from ssl3d.models.sparse import maps_torch, regions
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Engine, engine_of
from ssl3d.models.sparse.keys import AXES, BATCH_LIMIT, COORDINATE_LIMIT, pack, unpack
from ssl3d.models.sparse.sites import check_coordinates
from ssl3d.models.sparse.tensor import check_tensors

Clip = Sequence[tuple[float, float]]
VoxelRule = Literal["mean", "sum", "max", "first", "majority"]
"""What a voxel gets of its points. In MinkowskiEngine's words: ``UNWEIGHTED_AVERAGE``, ``UNWEIGHTED_SUM``,
``MAX_POOL``, and for ``RANDOM_SUBSAMPLE`` the first point in the order of the input, which is no matter of chance."""

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
        points: (P, D) float, D = 2, 3 or 4 axes, meters.
        voxel_size: edge length in meters, or one per axis.
        batch: (P,) integers, index of each point's cloud (default: all 0).
        clip: kept range (low, high) per axis in meters; points outside have no voxel, nor have points not finite.
        engine: ``numba`` (CPU) or ``torch``; by default what suits the device.

    Returns:
        coordinates (M, 1 + D) int32 [batch, x, ...], unique, sorted; and (P,) int64 row of each point, -1 for none.

    Raises:
        SparseTensorError: wrong shapes, types or devices; a coordinate does not fit +-``keys.COORDINATE_LIMIT``; a
            voxel size is not positive, or a bound of ``clip`` is not a number.
    """
    axes = _check_points(points, batch)
    voxel, limits = _grid(voxel_size, clip, axes)
    points = _exact(points).contiguous()
    if batch is None:
        batch = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    if _engine(points, engine) == "numba":
        from ssl3d.models.sparse import maps_numba

        array, outside = maps_numba.voxel_keys(
            points.numpy(), batch.to(torch.int32).contiguous().numpy(), voxel, limits
        )
        keys = torch.from_numpy(array)
    else:
        keys, outside = maps_torch.voxel_keys(
            points, batch, torch.from_numpy(voxel).to(points.device), torch.from_numpy(limits).to(points.device)
        )
    if outside:
        raise SparseTensorError(
            "points lie too far out for the voxel grid",
            where={
                "points": outside,
                "limit in voxels": f"+-{COORDINATE_LIMIT[axes]} with {axes} axes",
                "voxel_size": voxel_size,
            },
            hint="use a larger voxel_size, or clip the range",
        )
    unique, inverse = _grouped(keys, engine)
    return unpack(unique, axes), inverse


def unique_voxels(coordinates: Tensor, engine: Engine | None = None) -> tuple[Tensor, Tensor]:
    """The different ones of integer coordinates.

    Args:
        coordinates: (P, 1 + D) integers [batch, x, ...], D = 2, 3 or 4.
        engine: ``numba`` (CPU) or ``torch``; by default what suits the device.

    Returns:
        coordinates (M, 1 + D) int32, unique, sorted; and (P,) int64 row of each point.

    Raises:
        SparseTensorError: wrong shape, not integers, out of range.
    """
    axes = len(check_coordinates(coordinates, 1, _engine(coordinates, engine)))
    unique, inverse = _grouped(pack(coordinates.detach()), engine)
    return unpack(unique, axes), inverse


def voxel_mean(values: Tensor, inverse: Tensor, count: int, engine: Engine | None = None) -> Tensor:
    """(P, F) float per point -> (count, F) float32 mean per voxel, without gradient (see ``voxel_reduce``).
    ``inverse`` from ``voxelize``."""
    if values.dim() != 2 or not values.is_floating_point():
        raise SparseTensorError(
            "values have to be floating point numbers (P, F)", where={"values": f"{tuple(values.shape)} {values.dtype}"}
        )
    _check_inverse(values, inverse, count)
    values, inverse = _exact(values), inverse.long()
    if _engine(values, engine) == "numba":
        from ssl3d.models.sparse import maps_numba

        return torch.from_numpy(maps_numba.group_mean(values.numpy(), inverse.numpy(), count))
    return maps_torch.group_mean(values, inverse, count)


def voxel_reduce(
    values: Tensor,
    inverse: Tensor,
    count: int,
    how: VoxelRule,
    *,
    ignore: int | None = None,
    engine: Engine | None = None,
) -> Tensor:
    """What each voxel gets of its points. ``mean``, ``sum``, ``max`` and ``first`` carry gradients.

    Args:
        values: (P, C) float; for ``first`` any (P, ...); for ``majority`` labels (P,), integers >= 0.
        inverse: (P,) integers, row of each point's voxel, -1 for none.
        count: number of voxels M.
        how: ``mean``, ``sum``, ``max`` per channel (of equal values the first point has the gradient; NaN is greater
            than any number): 0 for a voxel without points. ``first``: of the first point in the order of the input.
            ``majority``: the most frequent label; ties go to the smaller one.
        ignore: ``majority`` only: this label does not vote; voxels without a vote get it (0 without ``ignore``).
        engine: ``numba`` (CPU) or ``torch``; by default what suits the device.

    Returns:
        (M, ...) of the type of ``values``.

    Raises:
        SparseTensorError: shapes, types or devices do not fit, a row is not in -1..M - 1, or (``first``) a voxel has no
            point.
    """
    if how == "mean":
        return regions.region_mean(values, inverse, count, engine)
    if how == "sum":
        return regions.region_sum(values, inverse, count, engine)
    if how == "max":
        return regions.region_max(values, inverse, count, engine)
    if how not in ("first", "majority"):
        raise SparseTensorError(f"unknown rule {how!r}", hint="choose from mean, sum, max, first, majority")
    if how == "majority" and (values.dim() != 1 or values.dtype not in _INTEGERS):
        raise SparseTensorError(
            "labels have to be integers (P,)", where={"labels": f"{tuple(values.shape)} {values.dtype}"}
        )
    _check_inverse(values, inverse, count)
    if how == "majority":
        _check_labels(values, ignore)
    try:
        return ElementMap(inverse.long(), count).reduce(values, how, ignore=ignore)
    except ValueError as error:
        raise SparseTensorError("a voxel has no point that could be its first") from error


# ---------------------------------------------------------------- checks


def _engine(like: Tensor, engine: Engine | None) -> Engine:
    return engine or engine_of(like.device)


def _exact(values: Tensor) -> Tensor:
    """Without gradient, in float32 or float64."""
    values = values.detach()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _grouped(keys: Tensor, engine: Engine | None) -> tuple[Tensor, Tensor]:
    """Unique keys, sorted, and the place of each among them (-1 for that of no voxel)."""
    if _engine(keys, engine) == "numba":
        from ssl3d.models.sparse import maps_numba

        array = keys.numpy()
        unique, inverse = maps_numba.group(array, np.argsort(array))
        return torch.from_numpy(unique), torch.from_numpy(inverse)
    return maps_torch.group(keys)


def _check_points(points: Tensor, batch: Tensor | None) -> int:
    """Number of axes of points that can be voxelized."""
    check_tensors(points=points, **({} if batch is None else {"batch": batch}))
    if points.dim() != 2 or points.shape[1] not in AXES or not points.is_floating_point():
        raise SparseTensorError(
            "points have to be floating point numbers (P, D) with D = 2, 3 or 4 axes",
            where={"points": f"{tuple(points.shape)} {points.dtype}"},
            hint="integer coordinates: unique_voxels",
        )
    axes = points.shape[1]
    if batch is None:
        return axes
    if batch.shape != points.shape[:1] or batch.dtype not in _INTEGERS or batch.device != points.device:
        raise SparseTensorError(
            "batch has to be one integer for each point, on the same device",
            where={
                "batch": f"{tuple(batch.shape)} {batch.dtype} {batch.device}",
                "points": f"{len(points)} on {points.device}",
            },
        )
    if len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < BATCH_LIMIT[axes]:
        raise SparseTensorError(
            f"batch indices have to be in 0..{BATCH_LIMIT[axes] - 1}",
            where={"found": f"{int(batch.min())}..{int(batch.max())}"},
        )
    return axes


def _grid(voxel_size: float | Sequence[float], clip: Clip | None, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) edge lengths and (D, 2) kept range, float64."""
    edges = _numbers(voxel_size)
    if edges.shape not in ((), (1,), (axes,)) or not (np.isfinite(edges).all() and (edges > 0).all()):
        raise SparseTensorError(
            f"voxel_size has to be positive: one number, or one for each of {axes} axes",
            where={"voxel_size": voxel_size},
        )
    limits = np.full((axes, 2), np.inf) * [-1, 1] if clip is None else _numbers(clip)
    if limits.shape != (axes, 2) or np.isnan(limits).any():
        raise SparseTensorError(f"clip has to be (low, high) for each of {axes} axes", where={"clip": clip})
    return np.broadcast_to(edges, axes).copy(), limits


def _check_labels(labels: Tensor, ignore: int | None) -> None:
    """Labels are counted as numbers below 2^31; that which has no vote may be any number of their type."""
    if ignore is not None and not torch.iinfo(labels.dtype).min <= ignore <= torch.iinfo(labels.dtype).max:
        raise SparseTensorError(
            "ignore is no number of the labels' type", where={"ignore": ignore, "type": labels.dtype}
        )
    voting = labels if ignore is None else labels[labels != ignore]
    low, high = (int(v) for v in torch.aminmax(voting)) if len(voting) else (0, 0)
    if low < 0 or high >= 1 << 31:
        raise SparseTensorError(
            "labels that vote have to be in 0..2^31 - 1",
            where={"found": f"{low}..{high}"},
            hint="a label that stands for none: ignore=...",
        )


def _numbers(values: object) -> np.ndarray:
    """As float64; what holds no numbers, or lists of unequal length, as none."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return np.empty((0, 0, 0))


def _check_inverse(values: Tensor, inverse: Tensor, count: int) -> None:
    if inverse.shape != values.shape[:1] or inverse.dtype not in _INTEGERS or inverse.device != values.device:
        raise SparseTensorError(
            "every point needs the row of its voxel, an integer on the same device",
            where={
                "rows": f"{tuple(inverse.shape)} {inverse.dtype} {inverse.device}",
                "values": f"{tuple(values.shape)} on {values.device}",
            },
        )
    if len(inverse) and not -1 <= int(inverse.min()) <= int(inverse.max()) < count:
        raise SparseTensorError(
            "rows of voxels are out of range",
            where={"found": f"{int(inverse.min())}..{int(inverse.max())}", "allowed": f"-1..{count - 1}"},
        )
