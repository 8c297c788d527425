"""Graph-based segmentation (Felzenszwalb and Huttenlocher 2004) by normals, with the rules of ScanNet's segmentator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

THRESHOLD, SMALLEST = 0.01, 20
"""``k`` of the criterion and the fewest vertices of a segment, as ScanNet's segments were made with."""


def neighbor_edges(neighbors: Rows) -> Rows:
    """(e, 2) int32: pairs of which at least one is a neighbor of the other, each once.

    Args:
        neighbors: (n, k) rows, -1 is nobody.
    """
    edges: Rows = _edges(neighbors)
    return edges


def edge_weights(points: Floats, normal: npt.NDArray[np.floating[Any]], edges: Rows, *, oriented: bool) -> Floats:
    """(e,) float32: how much the surface bends along an edge (a, b), ``1 - n_a . n_b``.

    Where it is convex (``n_b`` points ahead along the edge) the square of that counts: things end at concave edges.
    NaN at points without a normal.

    Args:
        points, normal: (n, 3). edges: (e, 2) rows.
        oriented: normals point away from the surface. Otherwise the absolute product counts, and nothing is convex.
    """
    return _weights(np.ascontiguousarray(points, np.float32), np.ascontiguousarray(normal, np.float32), edges, oriented)


def segment_graph(
    count: int, edges: Rows, weights: Floats, *, threshold: float = THRESHOLD, smallest: int = SMALLEST
) -> Rows:
    """Segments of a graph.

    Edges are taken by rising weight (ties in their order). One joins two segments if its weight exceeds neither's
    limit; the limit of a segment is the weight that joined it last plus ``threshold`` over its size (``threshold`` for
    a single point). Then, in the same order, edges join segments of which one has fewer than ``smallest`` points.

    Args:
        count: points. edges: (e, 2) rows. weights: (e,); edges with a NaN are left out.

    Returns:
        (count,) int32 ids 0..R-1, in the order of the first points.
    """
    order = np.sort(_keys(weights))  # unique keys: the vectorized, unstable sort gives the one order there is
    known = order[: np.searchsorted(order, np.uint64(0xFF800001) << np.uint64(32))]
    segments: Rows = _join(count, edges, weights, known, np.float32(threshold), smallest)
    return segments


@njit(cache=True, nogil=True)
def _edges(neighbors: Rows) -> Rows:
    count, k = neighbors.shape
    edges = np.empty((count * k, 2), np.int32)
    found = 0
    for a in range(count):
        for j in range(k):
            b = neighbors[a, j]
            if b < 0 or b == a:
                continue
            once = a < b
            if not once:  # b comes before a, and has listed the pair if a is its neighbor
                once = True
                for other in neighbors[b]:
                    if other == a:
                        once = False
                        break
            if once:
                edges[found, 0] = a
                edges[found, 1] = b
                found += 1
    return edges[:found].copy()


@njit(cache=True, nogil=True)
def _weights(points: Floats, normal: Floats, edges: Rows, oriented: bool) -> Floats:
    # in float32 and in this order of operations, as the segmentator computes
    weights = np.empty(len(edges), np.float32)
    one, zero = np.float32(1), np.float32(0)
    for e in range(len(edges)):
        a, b = edges[e, 0], edges[e, 1]
        dot = normal[a, 0] * normal[b, 0] + normal[a, 1] * normal[b, 1] + normal[a, 2] * normal[b, 2]
        if not oriented:
            weights[e] = one - abs(dot)
            continue
        dx, dy, dz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        weight = one - dot
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        if length > zero:
            ahead = normal[b, 0] * (dx / length) + normal[b, 1] * (dy / length) + normal[b, 2] * (dz / length)
            if ahead > zero:
                weight = weight * weight
        weights[e] = weight
    return weights


def _keys(weights: Floats) -> npt.NDArray[np.uint64]:
    """Sortable: the weight in the upper half (floats order like whole numbers once signs are flipped), then the
    number of the edge."""
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    bits = np.where(
        np.isnan(weights), np.uint32(0xFFFFFFFF), bits ^ ((bits >> 31) * np.uint32(0x7FFFFFFF) | np.uint32(0x80000000))
    )
    return bits.astype(np.uint64) << np.uint64(32) | np.arange(len(weights), dtype=np.uint64)


@njit(nogil=True)
def _root(parent: Rows, p: int) -> int:
    while parent[p] != p:
        parent[p] = parent[parent[p]]
        p = parent[p]
    return p


@njit(cache=True, nogil=True)
def _join(
    count: int, edges: Rows, weights: Floats, order: npt.NDArray[np.uint64], threshold: np.float32, smallest: int
) -> Rows:
    parent = np.arange(count).astype(np.int32)
    size = np.ones(count, np.int32)
    limit = np.full(count, threshold, np.float32)
    left = np.empty(len(order), np.int64)  # edges that did not join anything
    kept = 0
    for key in order:
        e = np.int64(key & np.uint64(0xFFFFFFFF))
        a, b = _root(parent, edges[e, 0]), _root(parent, edges[e, 1])
        if a == b:
            continue
        weight = weights[e]
        if weight <= limit[a] and weight <= limit[b]:
            a, b = min(a, b), max(a, b)
            parent[b] = a
            size[a] += size[b]
            limit[a] = weight + threshold / np.float32(size[a])
        else:
            left[kept] = e
            kept += 1
    for e in left[:kept]:
        a, b = _root(parent, edges[e, 0]), _root(parent, edges[e, 1])
        if a != b and (size[a] < smallest or size[b] < smallest):
            a, b = min(a, b), max(a, b)
            parent[b] = a
            size[a] += size[b]
    segments = np.empty(count, np.int32)
    found = 0
    for p in range(count):  # a root is the first point of its segment
        if parent[p] == p:
            segments[p] = found
            found += 1
        else:
            segments[p] = segments[_root(parent, p)]
    return segments
