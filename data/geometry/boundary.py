"""Where semantic classes meet: boundary points of a labelled scan, and which pairs of regions lie on one (WS3D)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.cells import STRIDE_Y, STRIDE_Z, Cells, lower_bound
from ssl3d.data.geometry.threads import equal_shares, in_threads
from ssl3d.data.scan import IGNORE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

ROUNDING = 1e-6
"""Points that are a radius apart on paper are still that in float32: radii reach this share further."""
_COLUMNS = 9
_SHARES_PER_THREAD = 8


def boundary_points(points: npt.NDArray[np.floating[Any]], label: U8, radius: float, threads: int = 1) -> U8:
    """Semantic boundaries (JSENet, Hu et al., ECCV 2020): a point is one if a point of another class is near.

    Points that are ignored, or whose coordinates are not finite, are neither centers nor witnesses.

    Args:
        points: (n, 3) meters.
        label: (n,) uint8 classes, 255 where ignored or hidden.
        radius: meters, above 0; a distance of exactly ``radius`` counts.
        threads: does not change the result.

    Returns:
        (n,) uint8: 1 boundary, 0 none, 255 where it is not known.

    Raises:
        ValueError: another number of labels than points, or a radius that is not above 0.
    """
    _check_radius(radius)
    if label.shape != (len(points),):
        raise ValueError(f"{label.shape} labels for {len(points)} points")
    known = np.flatnonzero((label != IGNORE) & np.isfinite(points).all(axis=1))
    out = np.full(len(points), IGNORE, np.uint8)
    out[known] = 0
    cells = Cells.of(points[known], _reach(radius))
    if not len(cells):
        return out
    classes = label[known][cells.rows]
    first = cells.start[:-1]
    lowest, highest = np.minimum.reduceat(classes, first), np.maximum.reduceat(classes, first)
    sizes = np.diff(cells.start)
    shares = equal_shares(sizes * (sizes + 16), threads * _SHARES_PER_THREAD if threads > 1 else 1)
    found = np.zeros(len(classes), np.uint8)
    limit = _reach(radius) ** 2

    def mark(share: tuple[int, int]) -> None:
        _mark(cells.xyz, cells.keys, cells.start, classes, lowest, highest, limit, share[0], share[1], found)

    in_threads(mark, shares, threads)
    out[known[cells.rows]] = found
    return out


def pair_labels(boundary: npt.NDArray[np.bool_], region: I32, pairs: I32, min_points: int = 1) -> U8:
    """Eq. 2 of WS3D: a pair of adjacent regions is labelled 1 if both hold boundary points.

    Args:
        boundary: (n,) bool.
        region: (n,) int32 region of each point, -1 for none.
        pairs: (E, 2) int32.
        min_points: so many boundary points make a region one that holds them.

    Returns:
        (E,) uint8, 0 or 1.
    """
    _check_regions(boundary, region, pairs)
    inside = region[boundary & (region >= 0)]
    count = np.bincount(inside, minlength=int(pairs.max(initial=-1)) + 1)
    return np.asarray((count[pairs] >= min_points).all(axis=1), np.uint8)


def interface_labels(
    points: npt.NDArray[np.floating[Any]],
    boundary: npt.NDArray[np.bool_],
    region: I32,
    pairs: I32,
    radius: float,
    min_points: int = 1,
) -> U8:
    """As ``pair_labels``, but of a region only the boundary points within ``radius`` of the other one count.

    Args:
        points: (n, 3) meters; those that are not finite count nowhere.
        radius: meters, above 0.
        boundary, region, pairs, min_points: as in ``pair_labels``; no pair stands twice, in either order.

    Returns:
        (E,) uint8, 0 or 1.
    """
    _check_radius(radius)
    _check_regions(boundary, region, pairs)
    kept = np.flatnonzero((region >= 0) & np.isfinite(points).all(axis=1))
    cells = Cells.of(points[kept], _reach(radius))
    if not len(pairs) or not len(cells):
        return np.zeros(len(pairs), np.uint8)
    # both directions of each pair, so that a point finds its own side by (own region, other region)
    width = int(max(region.max(), pairs.max())) + 1
    both = np.concatenate([pairs, pairs[:, ::-1]]).astype(np.int64)
    side = both[:, 0] * width + both[:, 1]
    order = np.argsort(side)
    rows = kept[cells.rows]
    count = np.zeros(len(side), np.int64)
    flagged, own = boundary[rows], region[rows].astype(np.int64)
    _touch(cells.xyz, cells.keys, cells.start, flagged, own, _reach(radius) ** 2, width, side[order], count)
    enough = np.zeros(len(side), np.bool_)
    enough[order] = count >= min_points
    return np.asarray(enough[: len(pairs)] & enough[len(pairs) :], np.uint8)


def _reach(radius: float) -> float:
    return radius * (1 + ROUNDING)


def _check_radius(radius: float) -> None:
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"a radius of {radius} m")


def _check_regions(boundary: npt.NDArray[np.bool_], region: I32, pairs: I32) -> None:
    if boundary.shape != region.shape or boundary.dtype != np.bool_:
        raise ValueError(f"{boundary.shape} {boundary.dtype} boundaries for {region.shape} regions")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.min(initial=0) < 0:
        raise ValueError(f"pairs of regions are (E, 2) ids from 0 on, not {pairs.shape}")


@numba.njit(cache=True, nogil=True, inline="always")
def _column_key(column: int) -> int:
    """What the column of cells along x, one of the nine around a cell, adds to a key."""
    return (column % 3 - 1) * STRIDE_Y + (column // 3 - 1) * STRIDE_Z


@numba.njit(cache=True, nogil=True)
def _mark(
    xyz: F64,
    keys: I64,
    start: I64,
    classes: U8,
    lowest: U8,
    highest: U8,
    limit: float,
    begin: int,
    end: int,
    found: U8,
) -> None:
    """Marks boundary points among those of the cells ``begin`` to ``end``; ``lowest``, ``highest``: class of a cell's
    points. Most cells have only their own class around them: their points are not looked at."""
    x, y, z = xyz[0], xyz[1], xyz[2]
    at = np.empty(_COLUMNS, np.int64)  # keys rise, so a search begins where the last one ended
    for column in range(_COLUMNS):
        at[column] = lower_bound(keys, keys[begin] + _column_key(column) - 1, 0)
    near = np.empty(3 * _COLUMNS, np.int64)
    for cell in range(begin, end):
        count, least, most = 0, lowest[cell], highest[cell]
        for column in range(_COLUMNS):
            first = keys[cell] + _column_key(column) - 1
            other = lower_bound(keys, first, at[column])
            at[column] = other
            while other < len(keys) and keys[other] <= first + 2:
                least, most = min(least, lowest[other]), max(most, highest[other])
                near[count] = other
                count += 1
                other += 1
        if least == most:
            continue
        for point in range(start[cell], start[cell + 1]):
            own = classes[point]
            for k in range(count):
                other = near[k]
                if lowest[other] == own and highest[other] == own:
                    continue
                for witness in range(start[other], start[other + 1]):
                    if classes[witness] != own:
                        dx, dy, dz = x[witness] - x[point], y[witness] - y[point], z[witness] - z[point]
                        if dx * dx + dy * dy + dz * dz <= limit:
                            found[point] = 1
                            break
                if found[point]:
                    break


@numba.njit(cache=True, nogil=True)
def _touch(
    xyz: F64,
    keys: I64,
    start: I64,
    boundary: npt.NDArray[np.bool_],
    region: I64,
    limit: float,
    width: int,
    sides: I64,
    count: I64,
) -> None:
    """Adds each boundary point to the sides ``own region * width + other region`` (sorted) of the regions near it."""
    x, y, z = xyz[0], xyz[1], xyz[2]
    last = np.full(len(sides), -1, np.int64)  # the point that a side has counted last
    for cell in range(len(keys)):
        if not boundary[start[cell] : start[cell + 1]].any():
            continue
        for column in range(_COLUMNS):
            first = keys[cell] + _column_key(column) - 1
            other = lower_bound(keys, first, 0)
            while other < len(keys) and keys[other] <= first + 2:
                for point in range(start[cell], start[cell + 1]):
                    if not boundary[point]:
                        continue
                    before = region[point]
                    for witness in range(start[other], start[other + 1]):
                        if region[witness] == before:  # its own, or the one that was looked at just now
                            continue
                        dx, dy, dz = x[witness] - x[point], y[witness] - y[point], z[witness] - z[point]
                        if dx * dx + dy * dy + dz * dz > limit:
                            continue
                        before = region[witness]
                        if before == region[point]:
                            continue
                        side = lower_bound(sides, region[point] * width + before, 0)
                        if side < len(sides) and sides[side] == region[point] * width + before and last[side] != point:
                            last[side] = point
                            count[side] += 1
                other += 1


__all__ = ["boundary_points", "interface_labels", "pair_labels"]
