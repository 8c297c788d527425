"""From depth maps to a mesh: a truncated signed distance field (Curless and Levoy 1996), and its zero level by naive
surface nets (Gibson 1998). Where no map saw both sides of a surface, the mesh has a hole, as in real reconstructions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ssl3d.data.synthetic.rooms.depth import DepthMap
from ssl3d.data.synthetic.rooms.path import Lens

_BEFORE, _BEHIND = 3.0, 2.2
"""How far the field reaches in front of a surface and behind it, in voxels."""


class Field(NamedTuple):
    """Voxels (nx, ny, nz) of ``size`` meters from ``origin`` (3,): weighted sum of distances, weight, the primitive
    that came nearest and how near."""

    origin: npt.NDArray[np.float64]
    size: float
    total: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
    solid: npt.NDArray[np.int32]
    nearest: npt.NDArray[np.float32]


class Surface(NamedTuple):
    """``points``, ``normals`` (n, 3) float64; ``solids`` (n,) int32 primitive; ``faces`` (m, 3) int32."""

    points: npt.NDArray[np.float64]
    normals: npt.NDArray[np.float64]
    solids: npt.NDArray[np.int32]
    faces: npt.NDArray[np.int32]


def make_field(size: float, extent: tuple[float, float, float]) -> Field:
    """For a room of ``extent`` meters from (0, 0, 0), with some voxels around it."""
    shape = tuple(math.ceil(side / size) + 12 for side in extent)
    origin = np.full(3, -5.37 * size)  # no wall on a voxel's middle
    zeros = np.zeros(shape)
    return Field(origin, size, zeros, np.zeros(shape), np.full(shape, -1, np.int32), np.full(shape, 9.0, np.float32))


@njit(cache=True)
def _integrate(
    field: Field, z: np.ndarray, solid: np.ndarray, normal: np.ndarray, pose: np.ndarray, lens: np.ndarray
) -> None:
    size, origin = field.size, field.origin
    nx, ny, nz = field.total.shape
    for v in range(z.shape[0]):
        for u in range(z.shape[1]):
            depth = z[v, u]
            if depth <= 0.0:
                continue
            a, b = (u - lens[2]) / lens[0] * depth, (v - lens[3]) / lens[1] * depth
            x = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2] * depth + pose[0, 3]
            y = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2] * depth + pose[1, 3]
            h = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2] * depth + pose[2, 3]
            dx, dy, dz = x - pose[0, 3], y - pose[1, 3], h - pose[2, 3]
            t = math.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx / t, dy / t, dz / t
            n0, n1, n2 = normal[v, u, 0], normal[v, u, 1], normal[v, u, 2]
            incidence = max(0.15, -(dx * n0 + dy * n1 + dz * n2))
            weight = incidence / (depth * depth)
            reach = min(_BEFORE * size / incidence, 6.0 * size)
            s, stop = -reach, min(_BEHIND * size / incidence, 4.0 * size)
            last = -1
            while s <= stop:
                i = int((x + s * dx - origin[0]) / size)
                j = int((y + s * dy - origin[1]) / size)
                k = int((h + s * dz - origin[2]) / size)
                s += 0.5 * size
                if i < 0 or j < 0 or k < 0 or i >= nx or j >= ny or k >= nz:
                    continue
                at = (i * ny + j) * nz + k
                if at == last:
                    continue
                last = at
                away = (origin[0] + (i + 0.5) * size - x) * n0 + (origin[1] + (j + 0.5) * size - y) * n1
                away += (origin[2] + (k + 0.5) * size - h) * n2
                if away < -_BEHIND * size or away > _BEFORE * size:
                    continue
                field.total[i, j, k] += weight * away
                field.weight[i, j, k] += weight
                if abs(away) < field.nearest[i, j, k]:
                    field.nearest[i, j, k] = abs(away)
                    field.solid[i, j, k] = solid[v, u]


def integrate(field: Field, found: DepthMap, pose: npt.NDArray[np.float64], lens: Lens) -> None:
    """Adds a depth map that was measured at ``pose`` (4, 4: camera to room)."""
    _integrate(field, found.z, found.solid, found.normal, pose, np.array(lens, np.float64))


@njit
def _value(field: Field, i: int, j: int, k: int) -> float:
    return field.total[i, j, k] / field.weight[i, j, k]


@njit(cache=True)
def _vertices(field: Field, index: np.ndarray, points: np.ndarray, normals: np.ndarray, solids: np.ndarray) -> int:
    """One vertex in every cell of eight known voxels whose signs differ: the mean of the zeros on its edges. Returns
    how many; fills the arrays as far as they reach."""
    nx, ny, nz = field.total.shape
    count = 0
    f = np.empty(8)
    for i in range(nx - 1):
        for j in range(ny - 1):
            for k in range(nz - 1):
                negative, known = 0, True
                for c in range(8):
                    a, b, e = i + (c & 1), j + (c >> 1 & 1), k + (c >> 2)
                    if field.weight[a, b, e] == 0.0:
                        known = False
                        break
                    f[c] = _value(field, a, b, e)
                    negative += 1 if f[c] < 0.0 else 0
                if not known or negative == 0 or negative == 8:
                    continue
                if count < len(points):
                    index[i, j, k] = count
                    _place(f, points[count])
                    for axis in range(3):
                        points[count, axis] += (i, j, k)[axis] + 0.5
                        points[count, axis] = field.origin[axis] + field.size * points[count, axis]
                    _slope(f, normals[count])
                    closest = 9.0
                    for c in range(8):
                        if abs(f[c]) < closest:
                            closest = abs(f[c])
                            solids[count] = field.solid[i + (c & 1), j + (c >> 1 & 1), k + (c >> 2)]
                count += 1
    return count


@njit
def _place(f: np.ndarray, out: np.ndarray) -> None:
    """The mean of the zeros on the twelve edges of a cell with corner values f (bit 0: x, 1: y, 2: z)."""
    crossings = 0
    for axis in range(3):
        bit = 1 << axis
        for c in range(8):
            if c & bit or (f[c] < 0.0) == (f[c | bit] < 0.0):
                continue
            share = f[c] / (f[c] - f[c | bit])
            for other in range(3):
                out[other] += share if other == axis else (1.0 if c >> other & 1 else 0.0)
            crossings += 1
    for axis in range(3):
        out[axis] /= crossings


@njit
def _slope(f: np.ndarray, out: np.ndarray) -> None:
    """The direction in which the distance grows."""
    length = 1e-12
    for axis in range(3):
        bit = 1 << axis
        for c in range(8):
            out[axis] += f[c] if c & bit else -f[c]
        length += out[axis] * out[axis]
    length = math.sqrt(length)
    for axis in range(3):
        out[axis] /= length


@njit(cache=True)
def _faces(field: Field, index: np.ndarray, points: np.ndarray, faces: np.ndarray) -> int:
    """Two triangles around every voxel edge on which the sign changes, seen from outside counter-clockwise."""
    nx, ny, nz = field.total.shape
    count = 0
    for i in range(1, nx - 1):
        for j in range(1, ny - 1):
            for k in range(1, nz - 1):
                if field.weight[i, j, k] == 0.0:
                    continue
                inside = _value(field, i, j, k) < 0.0
                for axis in range(3):
                    a, b, c = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if field.weight[a, b, c] == 0.0 or (_value(field, a, b, c) < 0.0) == inside:
                        continue
                    if axis == 0:
                        quad = (index[i, j - 1, k - 1], index[i, j, k - 1], index[i, j, k], index[i, j - 1, k])
                    elif axis == 1:
                        quad = (index[i - 1, j, k - 1], index[i - 1, j, k], index[i, j, k], index[i, j, k - 1])
                    else:
                        quad = (index[i - 1, j - 1, k], index[i, j - 1, k], index[i, j, k], index[i - 1, j, k])
                    if min(quad[0], quad[1], quad[2], quad[3]) < 0:
                        continue
                    if not inside:
                        quad = (quad[0], quad[3], quad[2], quad[1])
                    if count + 1 < len(faces):
                        _split(points, quad, faces, count)
                    count += 2
    return count


@njit
def _split(points: np.ndarray, quad: tuple, faces: np.ndarray, at: int) -> None:
    """Into two triangles, along the shorter diagonal."""
    first, second = 0.0, 0.0
    for axis in range(3):
        a = points[quad[0], axis] - points[quad[2], axis]
        b = points[quad[1], axis] - points[quad[3], axis]
        first, second = first + a * a, second + b * b
    r = 0 if first <= second else 1
    for k in range(3):
        faces[at, k] = quad[(r + k) % 4]
        faces[at + 1, k] = quad[(r + (0, 2, 3)[k]) % 4]


def extract(field: Field) -> Surface:
    """The mesh of a field; vertices that belong to no face are left out."""
    index = np.full(field.total.shape, -1, np.int32)
    nothing = np.zeros((0, 3))
    count = _vertices(field, index, nothing, nothing, np.zeros(0, np.int32))
    points, normals, solids = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros(count, np.int32)
    _vertices(field, index, points, normals, solids)
    faces = np.zeros((_faces(field, index, points, np.zeros((0, 3), np.int32)), 3), np.int32)
    _faces(field, index, points, faces)
    used = np.zeros(count, bool)
    used[faces.ravel()] = True
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    return Surface(points[used], normals[used], solids[used], renumbered[faces])
