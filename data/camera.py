"""Points in images: which points of a scan a camera sees, at which pixel and how far away.

A pixel of a point is ``s [u, v, 1]^T = K (R x + t)`` with the depth s along the optical axis. A point is kept, in this
order, if (1) it is farther ahead than ``min_depth``: the pixel of a point behind a camera may lie inside its image;
(2) the nearest pixel, (floor(u + 0.5), floor(v + 0.5)), is one of the image; (3) nothing hides it, if that is tested.

Coordinates are float32 relative to an origin in float64. The origin goes into the camera's matrix, in float64: world
coordinates in the millions lose nothing, and no moved copy of the points is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

ZBUFFER_CELL = 4
ZBUFFER_SHARE, ZBUFFER_METERS = 0.02, 0.3
"""Pixels of a side of a cell; by how much more than the nearest of a cell, in shares and meters, others may be away."""
DEPTH_TOLERANCE = 0.05
"""Meters between a point and what the depth camera has measured there (CLIP2Scene)."""

F64 = npt.NDArray[np.float64]
_LARGEST_SIDE = 1 << 16  # pixels are stored as uint16


@dataclass(frozen=True, slots=True)
class Projection:
    """The p points that an image shows, in rising order.

    Attributes:
        point: (p,) int32 rows of the points.
        uv: (p, 2) uint16 column and row of the pixel.
        depth: (p,) float32 meters along the optical axis.
    """

    point: npt.NDArray[np.int32]
    uv: npt.NDArray[np.uint16]
    depth: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.point)


class DepthImage(NamedTuple):
    """What a depth camera measured: ``values`` (h, w) uint16, ``per_meter`` of them a meter, 0: nothing measured."""

    values: npt.NDArray[np.uint16]
    per_meter: float = 1000.0


def project(
    points: npt.NDArray[np.float32],
    extrinsic: F64,
    intrinsic: F64,
    size: tuple[int, int],
    *,
    origin: npt.ArrayLike = (0.0, 0.0, 0.0),
    min_depth: float = 1.0,
    zero_is_none: bool = False,
) -> Projection:
    """The points in front of a camera and inside its image (tests 1 and 2).

    Args:
        points: (n, 3) float32 meters relative to ``origin``. Rows that are not finite are nowhere.
        extrinsic: (4, 4) or (3, 4), from the frame of the points (origin included) to the camera's, z ahead. One that
            is not finite (a camera that was lost) sees nothing.
        intrinsic: (3, 3), or a projection matrix (3, 4) such as KITTI's P2.
        size: width and height of the image.
        min_depth: meters; only points farther away are kept.
        zero_is_none: rows at (0, 0, 0) are no points.
    """
    width, height = size
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise ValueError(f"an image of {width} x {height} pixels")
    matrix = projection_matrix(extrinsic, intrinsic, origin)
    point, uv = np.empty(len(points), np.int32), np.empty((len(points), 2), np.uint16)
    depth = np.empty(len(points), np.float32)
    count = 0
    if np.isfinite(matrix).all():
        count = _project(_rows(points), matrix, width, height, min_depth, zero_is_none, point, uv, depth)
    return Projection(point[:count].copy(), uv[:count].copy(), depth[:count].copy())


def projection_matrix(extrinsic: F64, intrinsic: F64, origin: npt.ArrayLike = (0.0, 0.0, 0.0)) -> F64:
    """(3, 4) float64 that takes points relative to ``origin`` to (s u, s v, s); see ``project``."""
    full = np.eye(4)
    full[: len(extrinsic)] = extrinsic
    with np.errstate(invalid="ignore", over="ignore"):
        # the two large numbers of world coordinates cancel here, before focal lengths multiply what is left
        full[:3, 3] += full[:3, :3] @ np.asarray(origin, np.float64)
        return np.asarray(intrinsic, np.float64) @ (full if np.shape(intrinsic)[1] == 4 else full[:3])


def resized(intrinsic: F64, size: tuple[int, int], wanted: tuple[int, int]) -> F64:
    """The matrix (3, 3) for the same picture in another size: fx w'/w, cx (w' - 1) / (w - 1), as ScanNet's tools."""
    out = np.array(intrinsic, np.float64)
    for axis in (0, 1):
        if size[axis] > 1 and size[axis] != wanted[axis]:
            out[axis, axis] *= wanted[axis] / size[axis]
            out[axis, 2] *= (wanted[axis] - 1) / (size[axis] - 1)
    return out


def not_hidden(
    seen: Projection,
    size: tuple[int, int],
    *,
    cell: int = ZBUFFER_CELL,
    share: float = ZBUFFER_SHARE,
    meters: float = ZBUFFER_METERS,
) -> npt.NDArray[np.bool_]:
    """(p,) bool: whether no other point hides it. Within a cell of ``cell`` x ``cell`` pixels points are kept up to a
    depth of ``nearest * (1 + share) + meters``."""
    columns, rows = -(-size[0] // cell), -(-size[1] // cell)
    return _not_hidden(seen.uv, seen.depth, cell, columns, rows, share, meters)


def measured(
    points: npt.NDArray[np.float32],
    seen: Projection,
    image: DepthImage,
    extrinsic: F64,
    intrinsic: F64,
    *,
    origin: npt.ArrayLike = (0.0, 0.0, 0.0),
    tolerance: float = DEPTH_TOLERANCE,
) -> npt.NDArray[np.bool_]:
    """(p,) bool: whether the depth camera measured something at the point: its own pixel is inside, d > 0 and
    ``|d - s| <= tolerance``.

    Args:
        seen: of the color image; its depth is compared.
        intrinsic: (3, 3) of the *depth* image, in its own size. Color and depth share their extrinsic.
    """
    matrix = projection_matrix(extrinsic, intrinsic, origin)
    if not np.isfinite(matrix).all():
        return np.zeros(len(seen), np.bool_)
    values = np.ascontiguousarray(image.values)
    return _measured(_rows(points), seen.point, seen.depth, matrix, values, image.per_meter, tolerance)


def kept(seen: Projection, keep: npt.NDArray[np.bool_]) -> Projection:
    """The part of a projection."""
    return Projection(seen.point[keep], seen.uv[keep], seen.depth[keep])


def by_point(points: int, images: list[Projection]) -> npt.NDArray[np.int64]:
    """The order (P,) that sorts the joined projections of several images by point, then by image.

    Args:
        points: number of points of the scan.
    """
    if not images:
        return np.zeros(0, np.int64)
    return _by_point(points, np.concatenate([seen.point for seen in images]))


def _rows(points: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(points, np.float32).reshape(-1, 3)


@njit(cache=True, nogil=True)
def _project(
    points: np.ndarray,
    matrix: np.ndarray,
    width: int,
    height: int,
    min_depth: float,
    zero_is_none: bool,
    point: np.ndarray,
    uv: np.ndarray,
    depth: np.ndarray,
) -> int:
    m00, m01, m02, m03 = matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3]
    m10, m11, m12, m13 = matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[1, 3]
    m20, m21, m22, m23 = matrix[2, 0], matrix[2, 1], matrix[2, 2], matrix[2, 3]
    count = 0
    for i in range(len(points)):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        s = m20 * x + m21 * y + m22 * z + m23
        if not s > min_depth:  # false for NaN as well
            continue
        if zero_is_none and x == 0.0 and y == 0.0 and z == 0.0:
            continue
        a = (m00 * x + m01 * y + m02 * z + m03) / s + 0.5
        if not (a >= 0.0 and a < width):
            continue
        b = (m10 * x + m11 * y + m12 * z + m13) / s + 0.5
        if not (b >= 0.0 and b < height):
            continue
        point[count] = i
        uv[count, 0] = np.uint16(a)  # of numbers that are not negative this is the floor
        uv[count, 1] = np.uint16(b)
        depth[count] = s
        count += 1
    return count


@njit(cache=True, nogil=True)
def _not_hidden(
    uv: np.ndarray, depth: np.ndarray, cell: int, columns: int, rows: int, share: float, meters: float
) -> np.ndarray:
    nearest = np.full(columns * rows, np.inf, np.float32)
    for i in range(len(depth)):
        at = (uv[i, 1] // cell) * columns + uv[i, 0] // cell
        nearest[at] = min(nearest[at], depth[i])
    keep = np.empty(len(depth), np.bool_)
    for i in range(len(depth)):
        at = (uv[i, 1] // cell) * columns + uv[i, 0] // cell
        keep[i] = np.float64(depth[i]) <= np.float64(nearest[at]) * (1.0 + share) + meters
    return keep


@njit(cache=True, nogil=True)
def _measured(
    points: np.ndarray,
    point: np.ndarray,
    depth: np.ndarray,
    matrix: np.ndarray,
    values: np.ndarray,
    per_meter: float,
    tolerance: float,
) -> np.ndarray:
    height, width = values.shape
    keep = np.zeros(len(point), np.bool_)
    for k in range(len(point)):
        i = point[k]
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        s = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        a = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / s + 0.5
        b = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / s + 0.5
        if a >= 0.0 and a < width and b >= 0.0 and b < height:
            d = values[int(b), int(a)] / per_meter
            keep[k] = d > 0.0 and abs(d - depth[k]) <= tolerance
    return keep


@njit(cache=True, nogil=True)
def _by_point(points: int, joined: np.ndarray) -> np.ndarray:
    """Counting sort; stable, so that the images of a point stay in order."""
    begin = np.zeros(points + 1, np.int64)
    for i in joined:
        begin[i + 1] += 1
    for i in range(points):
        begin[i + 1] += begin[i]
    order = np.empty(len(joined), np.int64)
    for k in range(len(joined)):
        i = joined[k]
        order[begin[i]] = k
        begin[i] += 1
    return order
