"""Over-segmentation of a mesh by a graph criterion (Felzenszwalb and Huttenlocher 2004), as ScanNet's segments are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

THRESHOLD, SMALLEST = 0.01, 20
"""``k`` of the criterion (part of the published file name: ``0.010000``) and the fewest vertices of a segment."""
_COLOR = 1.5
"""Weight of the squared difference of colors (of 0..1) beside that of normals."""


@njit(cache=True)
def _normals(points: np.ndarray, faces: np.ndarray, out: np.ndarray) -> None:
    """Unit normals of vertices: the mean of their faces', by area."""
    for m in range(len(faces)):
        a, b, c = faces[m, 0], faces[m, 1], faces[m, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for p in (a, b, c):
            out[p, 0] += nx
            out[p, 1] += ny
            out[p, 2] += nz
    for p in range(len(out)):
        length = np.sqrt(out[p, 0] * out[p, 0] + out[p, 1] * out[p, 1] + out[p, 2] * out[p, 2]) + 1e-12
        for axis in range(3):
            out[p, axis] /= length


@njit(cache=True)
def _weights(
    points: np.ndarray, normals: np.ndarray, rgb: np.ndarray, edges: np.ndarray, weight: float, out: np.ndarray
) -> None:
    """How unlike the ends of edges are: angle of their normals (its square where the surface is convex: edges of one
    thing rather than between two) and color."""
    for m in range(len(edges)):
        a, b = edges[m, 0], edges[m, 1]
        dot, along, length, tone = 0.0, 0.0, 1e-12, 0.0
        for axis in range(3):
            d = points[b, axis] - points[a, axis]
            dot += normals[a, axis] * normals[b, axis]
            along += normals[b, axis] * d
            length += d * d
            c = (np.float64(rgb[a, axis]) - np.float64(rgb[b, axis])) / 255.0
            tone += c * c
        bend = max(0.0, 1.0 - dot)
        if along > 0.0:
            bend = bend * bend
        out[m] = bend + weight * tone


@njit
def _root(parent: np.ndarray, k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@njit(cache=True)
def _join(
    edges: np.ndarray, weights: np.ndarray, order: np.ndarray, threshold: float, smallest: int, count: int
) -> np.ndarray:
    parent = np.arange(count)
    size = np.ones(count, np.int64)
    limit = np.full(count, threshold)
    for m in order:
        a, b = _root(parent, edges[m, 0]), _root(parent, edges[m, 1])
        if a != b and weights[m] <= limit[a] and weights[m] <= limit[b]:
            a, b = min(a, b), max(a, b)
            parent[b] = a
            size[a] += size[b]
            limit[a] = weights[m] + threshold / size[a]
    for m in order:
        a, b = _root(parent, edges[m, 0]), _root(parent, edges[m, 1])
        if a != b and (size[a] < smallest or size[b] < smallest):
            a, b = min(a, b), max(a, b)
            parent[b] = a
            size[a] += size[b]
    out = np.empty(count, np.int32)
    for k in range(count):
        out[k] = _root(parent, k)
    return out


def segment(
    points: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int32],
    rgb: npt.NDArray[np.uint8],
    threshold: float = THRESHOLD,
    smallest: int = SMALLEST,
) -> npt.NDArray[np.int32]:
    """(n,) int32 segment of every vertex: the number of its first vertex, so ids are not contiguous.

    Args:
        points: (n, 3) float64; ``faces`` (m, 3) int32; ``rgb`` (n, 3) uint8.
    """
    normals = np.zeros_like(points)
    _normals(points, faces, normals)
    both = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2]))
    both = np.sort(both, axis=1).astype(np.int64)
    keys = np.unique(both[:, 0] * len(points) + both[:, 1])
    edges = np.stack((keys // max(1, len(points)), keys % max(1, len(points))), axis=1)
    weights = np.zeros(len(edges))
    _weights(points, normals, rgb, edges, _COLOR, weights)
    order = np.argsort(weights, kind="stable")
    return _join(edges, weights, order, threshold, smallest, len(points))


def majority(segments: npt.NDArray[np.int32], instances: npt.NDArray[np.int32], number: int) -> npt.NDArray[np.int32]:
    """(n,) int32: for every vertex the most frequent of ``instances`` (below ``number``) in its segment; whoever
    annotates can only choose whole segments. Ties go to the lower instance."""
    _, which = np.unique(segments, return_inverse=True)
    keys, counts = np.unique(which.astype(np.int64) * number + instances, return_counts=True)
    order = np.lexsort((keys, -counts, keys // number))
    first = np.unique(keys[order] // number, return_index=True)[1]
    chosen = (keys[order][first] % number).astype(np.int32)
    return chosen[which]
