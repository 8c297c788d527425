"""Regions of similar normals (WS3D, section 3.1, steps 2 to 4; after PCL's region growing)."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.geometry.normals import Surface

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def grow_regions(
    points: Floats,
    neighbors: Rows,
    surface: Surface,
    *,
    angle_deg: float,
    max_curvature: float,
    reach: float | npt.NDArray[np.floating[Any]],
    extent: float | npt.NDArray[np.floating[Any]] = np.inf,
) -> Rows:
    """Regions that grow from the flattest points over neighbors with nearly the same normal.

    Points are visited by rising curvature (ties by row); one without a region opens one. From there, each of its
    neighbors without a region joins when it is within reach and the angle between the two normals is at most
    ``angle_deg``; it passes the region on when its own curvature is at most ``max_curvature``.

    Args:
        points: (n, 3) float32 meters.
        neighbors: (n, k) rows, -1 is nobody. Points without any (themselves not either) get no region.
        reach: farthest distance to a neighbor, meters; or (n,), one for each point that grows.
        extent: farthest distance to the point that opened the region, meters; or (n,), one for each that opens.

    Returns:
        (n,) int32 region of each point, numbered in the order in which they open; -1 without one.
    """
    reaches, extents = (_of_each(limit, len(points)) for limit in (reach, extent))
    order = np.argsort(surface.curvature, kind="stable").astype(np.int32)
    found = np.full(len(points), -1, np.int32)
    _grow(
        points,
        neighbors,
        surface.normal,
        surface.curvature,
        order,
        np.cos(np.radians(angle_deg)),
        max_curvature,
        reaches,
        extents,
        found,
    )
    return found


def _of_each(limit: float | npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.float64]:
    """(n,) squares of a distance."""
    return np.ascontiguousarray(np.broadcast_to(np.square(limit, dtype=np.float64), count))


def merge_small(regions: Rows, neighbors: Rows, smallest: int) -> Rows:
    """Merges regions of fewer than ``smallest`` points into a neighbor, the smallest first (ties: the lower id).

    The neighbor is the one with the most links: pairs (point, one of its neighbors) with one end in each. Ties go to
    the lower id. A region without neighbors stays.

    Args:
        regions: (n,) ids from 0 on, -1 without one. neighbors: (n, k) rows, -1 is nobody.

    Returns:
        (n,) int32 ids 0..R-1 without gaps, in the order of the old ids.
    """
    count = int(regions.max(initial=-1)) + 1
    sizes = np.bincount(regions[regions >= 0], minlength=count)
    merged = np.arange(count)
    if count > 1:
        members = np.argsort(regions, kind="stable")[np.count_nonzero(regions < 0) :].astype(np.int32)
        small = np.zeros(count + 1, np.bool_)  # the last one: of points without a region
        small[:count] = sizes < smallest
        starts, links = _links_to(regions, neighbors, small)
        _merge(regions, neighbors, members, starts, links, sizes.copy(), smallest, merged)
    found = regions.copy()
    found[regions >= 0] = merged[regions[regions >= 0]]
    return relabel(found)


def relabel(regions: npt.NDArray[np.integer]) -> Rows:
    """(n,) int32: ids 0..R-1 without gaps, in the order of the old ones; negative ids become -1."""
    known = regions >= 0
    found = np.full(len(regions), -1, np.int32)
    found[known] = np.unique(regions[known], return_inverse=True)[1]
    return found


@njit(nogil=True)
def _square(points: Floats, a: int, b: int) -> float:
    dx = np.float64(points[a, 0]) - points[b, 0]
    dy = np.float64(points[a, 1]) - points[b, 1]
    dz = np.float64(points[a, 2]) - points[b, 2]
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _grow(
    points: Floats,
    neighbors: Rows,
    normal: npt.NDArray[np.float64],
    curvature: npt.NDArray[np.float64],
    order: Rows,
    cosine: float,
    flat: float,
    reach: npt.NDArray[np.float64],
    extent: npt.NDArray[np.float64],
    found: Rows,
) -> None:
    queue = np.empty(len(points), np.int32)
    opened = 0
    for start in order:
        if found[start] >= 0 or neighbors[start, 0] < 0:
            continue
        found[start] = opened
        queue[0] = start
        head, tail = 0, 1
        while head < tail:
            q = queue[head]
            head += 1
            for p in neighbors[q]:
                if p < 0 or found[p] >= 0:
                    continue
                if _square(points, p, q) > reach[q] or _square(points, p, start) > extent[start]:
                    continue
                dot = normal[p, 0] * normal[q, 0] + normal[p, 1] * normal[q, 1] + normal[p, 2] * normal[q, 2]
                if abs(dot) < cosine:
                    continue
                found[p] = opened
                if curvature[p] <= flat:
                    queue[tail] = p
                    tail += 1
        opened += 1


@njit(cache=True, nogil=True)
def _links_to(regions: Rows, neighbors: Rows, small: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], Rows]:
    """For each point p of a small region, the points that have p as a neighbor: ``links[starts[p]:starts[p + 1]]``."""
    count, k = neighbors.shape
    starts = np.zeros(count + 1, np.int64)
    for q in range(count):
        for j in range(k):
            p = neighbors[q, j]
            if p >= 0 and small[regions[p]]:
                starts[p + 1] += 1
    for p in range(count):
        starts[p + 1] += starts[p]
    links = np.empty(starts[count], np.int32)
    filled = starts[:-1].copy()
    for q in range(count):
        for j in range(k):
            p = neighbors[q, j]
            if p >= 0 and small[regions[p]]:
                links[filled[p]] = q
                filled[p] += 1
    return starts, links


@njit(nogil=True)
def _root(merged: npt.NDArray[np.int64], region: int) -> int:
    while merged[region] != region:
        merged[region] = merged[merged[region]]
        region = merged[region]
    return region


@njit(cache=True, nogil=True)
def _merge(
    regions: Rows,
    neighbors: Rows,
    members: Rows,
    starts: npt.NDArray[np.int64],
    links: Rows,
    sizes: npt.NDArray[np.int64],
    smallest: int,
    merged: npt.NDArray[np.int64],
) -> None:
    """A region is as good as gone when it merges, so its points are walked then; it doubles at least each time, so no
    point is walked more than log2(smallest) times."""
    count = len(sizes)
    head = np.full(count, -1, np.int64)  # lists of points, joined as regions are
    tail = np.full(count, -1, np.int64)
    after = np.full(len(regions), -1, np.int64)
    for p in members[::-1]:
        region = regions[p]
        after[p] = head[region]
        if head[region] < 0:
            tail[region] = p
        head[region] = p
    shared = np.zeros(count, np.int64)
    touched = np.empty(count, np.int64)
    heap = [np.int64(sizes[region] * count + region) for region in range(count) if 0 < sizes[region] < smallest]
    heapq.heapify(heap)
    while heap:
        key = heapq.heappop(heap)
        region = key % count
        if merged[region] != region or sizes[region] != key // count:
            continue  # it has merged or grown since
        seen = 0
        p = head[region]
        while p >= 0:
            for q in neighbors[p]:
                if q >= 0 and regions[q] >= 0:
                    other = _root(merged, regions[q])
                    if shared[other] == 0:
                        touched[seen] = other
                        seen += 1
                    shared[other] += 1
            for at in range(starts[p], starts[p + 1]):
                if regions[links[at]] >= 0:
                    other = _root(merged, regions[links[at]])
                    if shared[other] == 0:
                        touched[seen] = other
                        seen += 1
                    shared[other] += 1
            p = after[p]
        best, most = -1, 0
        for other in touched[:seen]:
            if other != region and (shared[other] > most or (shared[other] == most and other < best)):
                best, most = other, shared[other]
            shared[other] = 0
        if best < 0:
            continue
        merged[region] = best
        after[tail[best]] = head[region]
        tail[best] = tail[region]
        sizes[best] += sizes[region]
        if sizes[best] < smallest:
            heapq.heappush(heap, np.int64(sizes[best] * count + best))
    for region in range(count):
        merged[region] = _root(merged, region)
