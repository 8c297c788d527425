"""Exact k nearest neighbors of every point of a cloud, by a k-d tree.

Our own tree rather than pykdtree's: which of several equally near points is taken is stated (the lower index), so
results are the same on every machine; NaN and heaps of equal points are no trouble; and a search has one thread and
no lock, so scans can be searched side by side (pykdtree starts OpenMP's threads in each of them).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.geometry.threads import in_threads

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_LEAF = 16
_STACK = 96
_BLOCK = 1 << 13


class Tree(NamedTuple):
    """A balanced k-d tree over the finite points of a cloud.

    Attributes:
        points: (m, 3) float32, leaf after leaf.
        order: (m,) int32, their rows in the cloud.
        box: (nodes, 6) float32, lowest and highest coordinates of each node.
        first: (nodes,) int32, the lowest row in each node.
        begin, end: (nodes,) int32, the node's points; ``left``: (nodes,) its left child (the right one follows), or 0.
    """

    points: Floats
    order: Rows
    box: Floats
    first: Rows
    begin: Rows
    end: Rows
    left: Rows


def build_tree(points: npt.NDArray[np.float32]) -> Tree:
    """The tree over those of ``points`` (n, 3) whose coordinates are all finite."""
    cloud = np.ascontiguousarray(points, np.float32)
    order = np.flatnonzero(np.isfinite(cloud).all(axis=1)).astype(np.int32)
    return Tree(*_build(cloud, order))


def nearest_neighbors(points: npt.NDArray[np.float32], k: int, *, threads: int = 1) -> Rows:
    """The ``k`` nearest points of each point: first itself, then by distance, equal distances by index.

    Args:
        points: (n, 3) float32.
        threads: how many share the work; the result is the same.

    Returns:
        (n, k) int32 rows of ``points``; -1 where there are fewer than ``k``, and throughout for points that are not
        finite (which are nobody's neighbors).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    tree = build_tree(points)
    found = np.full((len(points), k), -1, np.int32)
    count = len(tree.order)
    in_threads(lambda at: _search(*tree, at, min(at + _BLOCK, count), found), range(0, count, _BLOCK), threads)
    return found


@njit(nogil=True)
def _less(points: Floats, axis: int, a: int, b: int) -> bool:
    va, vb = points[a, axis], points[b, axis]
    return va < vb or (va == vb and a < b)


@njit(nogil=True)
def _split(points: Floats, axis: int, order: Rows, begin: int, end: int, middle: int) -> None:
    """Quickselect: the rows of ``order[begin:end]`` before ``middle`` are below the others (ties: by row)."""
    lo, hi = begin, end - 1
    while lo < hi:
        mid = (lo + hi) // 2
        if _less(points, axis, order[mid], order[lo]):
            order[mid], order[lo] = order[lo], order[mid]
        if _less(points, axis, order[hi], order[lo]):
            order[hi], order[lo] = order[lo], order[hi]
        if _less(points, axis, order[hi], order[mid]):
            order[hi], order[mid] = order[mid], order[hi]
        pivot = order[mid]
        i, j = lo, hi
        while i <= j:
            while _less(points, axis, order[i], pivot):
                i += 1
            while _less(points, axis, pivot, order[j]):
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            hi = j
        elif middle >= i:
            lo = i
        else:
            return


@njit(cache=True, nogil=True)
def _build(points: Floats, order: Rows) -> tuple[Floats, Rows, Floats, Rows, Rows, Rows, Rows]:
    count = len(order)
    size = 1
    while size * _LEAF < count:
        size *= 2
    size *= 2
    box = np.empty((size, 6), np.float32)
    first = np.empty(size, np.int32)
    begin, end, left = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    end[0] = count
    used = 1
    node = 0
    while node < used:  # parents before children
        b, e = begin[node], end[node]
        lowest = np.int32(2147483647)
        for axis in range(3):
            box[node, axis], box[node, axis + 3] = np.inf, -np.inf
        for at in range(b, e):
            row = order[at]
            lowest = min(lowest, row)
            for axis in range(3):
                value = points[row, axis]
                box[node, axis] = min(box[node, axis], value)
                box[node, axis + 3] = max(box[node, axis + 3], value)
        first[node] = lowest
        if e - b > _LEAF:
            axis = 0
            for other in range(1, 3):
                if box[node, other + 3] - box[node, other] > box[node, axis + 3] - box[node, axis]:
                    axis = other
            middle = (b + e) // 2
            _split(points, axis, order, b, e, middle)
            left[node] = used
            begin[used], end[used] = b, middle
            begin[used + 1], end[used + 1] = middle, e
            used += 2
        node += 1
    sorted_points = np.empty((count, 3), np.float32)
    for at in range(count):
        for axis in range(3):
            sorted_points[at, axis] = points[order[at], axis]
    return sorted_points, order, box[:used], first[:used], begin[:used], end[:used], left[:used]


@njit(nogil=True)
def _outside(box: Floats, node: int, x: float, y: float, z: float) -> float:
    """Squared distance of a point to a node's box: never above that to a point in it, also after rounding."""
    dx = max(box[node, 0] - x, x - box[node, 3], 0.0)
    dy = max(box[node, 1] - y, y - box[node, 4], 0.0)
    dz = max(box[node, 2] - z, z - box[node, 5], 0.0)
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _search(
    points: Floats,
    order: Rows,
    box: Floats,
    first: Rows,
    begin: Rows,
    end: Rows,
    left: Rows,
    start: int,
    stop: int,
    found: Rows,
) -> None:
    """Fills the rows of ``found`` that belong to the tree's points ``start`` to ``stop``."""
    k = found.shape[1]
    near = np.empty(k, np.float64)
    rows = np.empty(k, np.int32)
    stack = np.empty(_STACK, np.int32)
    bound = np.empty(_STACK, np.float64)
    farthest = np.inf  # squared, of the k nearest of the point before
    for at in range(start, stop):
        x, y, z = np.float64(points[at, 0]), np.float64(points[at, 1]), np.float64(points[at, 2])
        own = order[at]
        most = np.inf
        if farthest < np.inf:  # those k points are no farther from here than that and the step between the two
            dx, dy, dz = points[at - 1, 0] - x, points[at - 1, 1] - y, points[at - 1, 2] - z
            most = np.sqrt(farthest) + np.sqrt(dx * dx + dy * dy + dz * dz)
            most = most * most * (1.0 + 1e-9)
        near[0], rows[0] = -1.0, own  # itself comes first, also among equal points
        have = 1
        last = np.int32(2147483647)  # of points as far as ``most``, those with a lower row than this count
        if k == 1:
            most = -1.0
        stack[0], bound[0] = 0, 0.0
        depth = 1
        while depth:
            depth -= 1
            node = stack[depth]
            if bound[depth] > most or (bound[depth] == most and first[node] > last):
                continue
            while left[node]:
                a = left[node]
                b = a + 1
                da, db = _outside(box, a, x, y, z), _outside(box, b, x, y, z)
                if db < da or (db == da and first[b] < first[a]):
                    a, b, da, db = b, a, db, da
                if db < most or (db == most and first[b] < last):
                    stack[depth], bound[depth] = b, db
                    depth += 1
                node = a
            for other in range(begin[node], end[node]):
                dx, dy, dz = points[other, 0] - x, points[other, 1] - y, points[other, 2] - z
                square = dx * dx + dy * dy + dz * dz
                if square > most:
                    continue
                row = order[other]
                if row == own or (square == most and row > last):
                    continue
                place = have if have < k else k - 1
                have = min(have + 1, k)
                while near[place - 1] > square or (near[place - 1] == square and rows[place - 1] > row):
                    near[place], rows[place] = near[place - 1], rows[place - 1]
                    place -= 1
                near[place], rows[place] = square, row
                if have == k:
                    most, last = near[k - 1], rows[k - 1]
        farthest = near[k - 1] if have == k and k > 1 else np.inf
        for place in range(have):
            found[own, place] = rows[place]


def nearest_in(tree: Tree, places: npt.NDArray[np.floating[Any]], k: int, *, threads: int = 1) -> tuple[Rows, Floats]:
    """The ``k`` points of the tree nearest to any places, equal distances by row.

    Args:
        places: (q, 3) meters.
        threads: how many share the work; the result is the same.

    Returns:
        (q, k) int32 rows of the cloud, -1 where there are fewer than ``k`` and for places that are not finite; and
        (q, k) float32 distances in meters, infinite there.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    found, distance = np.full((len(places), k), -1, np.int32), np.full((len(places), k), np.inf, np.float32)
    at = np.ascontiguousarray(places, np.float64)
    count = len(at) if len(tree.order) else 0
    blocks = range(0, count, _BLOCK)
    in_threads(lambda b: _search_places(*tree, at[b : b + _BLOCK], found[b:], distance[b:]), blocks, threads)
    return found, distance


@njit(cache=True, nogil=True)
def _search_places(
    points: Floats,
    order: Rows,
    box: Floats,
    first: Rows,
    begin: Rows,
    end: Rows,
    left: Rows,
    places: npt.NDArray[np.float64],
    found: Rows,
    distance: Floats,
) -> None:
    k = found.shape[1]
    near = np.empty(k, np.float64)
    stack, bound = np.empty(_STACK, np.int32), np.empty(_STACK, np.float64)
    for q in range(len(places)):
        x, y, z = places[q]
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            continue
        rows = found[q]
        have = 0
        stack[0], bound[0], depth = 0, 0.0, 1
        while depth:
            depth -= 1
            node = stack[depth]
            if have == k and (
                bound[depth] > near[k - 1] or (bound[depth] == near[k - 1] and first[node] > rows[k - 1])
            ):
                continue
            while left[node]:
                a = left[node]
                b = a + 1
                da, db = _outside(box, a, x, y, z), _outside(box, b, x, y, z)
                if db < da:
                    a, b, da, db = b, a, db, da
                stack[depth], bound[depth] = b, db
                depth += 1
                node = a
            for other in range(begin[node], end[node]):
                dx, dy, dz = points[other, 0] - x, points[other, 1] - y, points[other, 2] - z
                square, row = dx * dx + dy * dy + dz * dz, order[other]
                if have == k and (square > near[k - 1] or (square == near[k - 1] and row > rows[k - 1])):
                    continue
                place = min(have, k - 1)
                have = min(have + 1, k)
                while place and (square < near[place - 1] or (square == near[place - 1] and row < rows[place - 1])):
                    near[place], rows[place] = near[place - 1], rows[place - 1]
                    place -= 1
                near[place], rows[place] = square, row
        for i in range(have):
            distance[q, i] = np.sqrt(near[i])
