"""Normals and curvature of a point cloud from the scatter of its neighbors (WS3D, section 3.1, as in PCL)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

_FLAT = 1e-8
"""Share of the largest eigenvalue below which the middle one is nothing: neighbors on a line within 1/10,000."""


class Surface(NamedTuple):
    """What the neighborhood of each point looks like.

    Attributes:
        normal: (n, 3) float64 unit vectors, of no particular sign; (0, 0, 1) where the neighbors span no plane.
        curvature: (n,) float64, smallest eigenvalue of the covariance as a share of all three, 0..1/3.
    """

    normal: npt.NDArray[np.float64]
    curvature: npt.NDArray[np.float64]


def surface(points: Floats, neighbors: Rows) -> Surface:
    """Normals and curvatures.

    The covariance of the neighbors of a point has eigenvalues l0 <= l1 <= l2; its normal is the eigenvector of l0,
    its curvature l0 / (l0 + l1 + l2). Fewer than three neighbors, or neighbors on a line: (0, 0, 1) and 0.

    Args:
        points: (n, 3) float32.
        neighbors: (n, k) rows of ``points``, itself among them; -1 is nobody.
    """
    normal, curvature = np.empty((len(points), 3)), np.empty(len(points))
    _surface(points, neighbors, normal, curvature)
    return Surface(normal, curvature)


@njit(cache=True, nogil=True)
def _surface(
    points: Floats, neighbors: Rows, normal: npt.NDArray[np.float64], curvature: npt.NDArray[np.float64]
) -> None:
    for i in range(len(points)):
        x, y, z = np.float64(points[i, 0]), np.float64(points[i, 1]), np.float64(points[i, 2])
        count = 0
        sx = sy = sz = xx = xy = xz = yy = yz = zz = 0.0
        for j in neighbors[i]:
            if j < 0:
                continue
            dx, dy, dz = points[j, 0] - x, points[j, 1] - y, points[j, 2] - z  # about the point: no cancellation
            count += 1
            sx += dx
            sy += dy
            sz += dz
            xx += dx * dx
            xy += dx * dy
            xz += dx * dz
            yy += dy * dy
            yz += dy * dz
            zz += dz * dz
        normal[i, 0], normal[i, 1], normal[i, 2], curvature[i] = 0.0, 0.0, 1.0, 0.0
        if count < 3:
            continue
        xx, xy, xz = xx - sx * sx / count, xy - sx * sy / count, xz - sx * sz / count
        yy, yz, zz = yy - sy * sy / count, yz - sy * sz / count, zz - sz * sz / count
        nx, ny, nz, share = smallest(xx, xy, xz, yy, yz, zz)
        normal[i, 0], normal[i, 1], normal[i, 2], curvature[i] = nx, ny, nz, share


@njit(nogil=True)
def smallest(xx: float, xy: float, xz: float, yy: float, yz: float, zz: float) -> tuple[float, float, float, float]:
    """Eigenvector of the smallest eigenvalue of a symmetric positive 3 x 3 matrix, and its share of the trace.

    Eigenvalues in closed form; the eigenvector of the one that is farthest from the others first, the next one in the
    plane at right angles to it, where the problem is 2 x 2 (Eberly, "A robust eigensolver for 3 x 3 symmetric
    matrices"). (0, 0, 1) and 0 for matrices of rank 0 and 1.
    """
    scale = max(abs(xx), abs(xy), abs(xz), abs(yy), abs(yz), abs(zz))
    if not scale > 0.0 or scale == np.inf:
        return 0.0, 0.0, 1.0, 0.0
    xx, xy, xz, yy, yz, zz = xx / scale, xy / scale, xz / scale, yy / scale, yz / scale, zz / scale
    mean = (xx + yy + zz) / 3.0
    ax, ay, az = xx - mean, yy - mean, zz - mean
    spread = np.sqrt((ax * ax + ay * ay + az * az + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
    if spread < 1e-14 * mean:
        return 0.0, 0.0, 1.0, 1.0 / 3.0  # a ball: every direction is as good
    det = ax * (ay * az - yz * yz) - xy * (xy * az - yz * xz) + xz * (xy * yz - ay * xz)
    half = min(1.0, max(-1.0, det / (2.0 * spread * spread * spread)))
    angle = np.arccos(half) / 3.0
    high = mean + 2.0 * spread * np.cos(angle)
    low = mean + 2.0 * spread * np.cos(angle + 2.0943951023931953)
    if half >= 0.0:  # the largest stands apart
        ux, uy, uz = _eigenvector(xx, xy, xz, yy, yz, zz, high)
    else:
        ux, uy, uz = _eigenvector(xx, xy, xz, yy, yz, zz, low)
    px, py, pz, qx, qy, qz = _plane(ux, uy, uz)
    # the matrix in the plane of p and q
    mpx, mpy, mpz = xx * px + xy * py + xz * pz, xy * px + yy * py + yz * pz, xz * px + yz * py + zz * pz
    mqx, mqy, mqz = xx * qx + xy * qy + xz * qz, xy * qx + yy * qy + yz * qz, xz * qx + yz * qy + zz * qz
    a, b, c = px * mpx + py * mpy + pz * mpz, px * mqx + py * mqy + pz * mqz, qx * mqx + qy * mqy + qz * mqz
    root = np.sqrt(0.25 * (a - c) * (a - c) + b * b)
    upper, lower = 0.5 * (a + c) + root, 0.5 * (a + c) - root
    first = xx * ux * ux + yy * uy * uy + zz * uz * uz + 2.0 * (xy * ux * uy + xz * ux * uz + yz * uy * uz)
    if half >= 0.0:
        if upper <= _FLAT * first:
            return 0.0, 0.0, 1.0, 0.0
        # the eigenvector of ``lower``: at right angles to the row of (M - lower) that is longer
        s, t = a - lower, c - lower
        if s >= t:
            cp, cq, length = -b, s, np.sqrt(b * b + s * s)
        else:
            cp, cq, length = t, -b, np.sqrt(b * b + t * t)
        if length == 0.0:
            cp, cq, length = 1.0, 0.0, 1.0
        nx, ny, nz = (cp * px + cq * qx) / length, (cp * py + cq * qy) / length, (cp * pz + cq * qz) / length
        least = lower
    else:
        if lower <= _FLAT * upper:
            return 0.0, 0.0, 1.0, 0.0
        nx, ny, nz, least = ux, uy, uz, first
    return nx, ny, nz, max(0.0, least) / (3.0 * mean)


@njit(nogil=True)
def _eigenvector(
    xx: float, xy: float, xz: float, yy: float, yz: float, zz: float, value: float
) -> tuple[float, float, float]:
    """The unit vector at right angles to all rows of M - ``value``, which is a simple eigenvalue."""
    ax, ay, az = xx - value, yy - value, zz - value
    x01, y01, z01 = xy * yz - xz * ay, xz * xy - ax * yz, ax * ay - xy * xy
    x02, y02, z02 = xy * az - xz * yz, xz * xz - ax * az, ax * yz - xy * xz
    x12, y12, z12 = ay * az - yz * yz, yz * xz - xy * az, xy * yz - ay * xz
    d01 = x01 * x01 + y01 * y01 + z01 * z01
    d02 = x02 * x02 + y02 * y02 + z02 * z02
    d12 = x12 * x12 + y12 * y12 + z12 * z12
    if d01 >= d02 and d01 >= d12:
        length = np.sqrt(d01)
        return x01 / length, y01 / length, z01 / length
    if d02 >= d12:
        length = np.sqrt(d02)
        return x02 / length, y02 / length, z02 / length
    length = np.sqrt(d12)
    return x12 / length, y12 / length, z12 / length


@njit(nogil=True)
def _plane(ux: float, uy: float, uz: float) -> tuple[float, float, float, float, float, float]:
    """Two unit vectors that are at right angles to a unit vector and to each other."""
    if abs(ux) > abs(uy):
        length = np.sqrt(ux * ux + uz * uz)
        px, py, pz = -uz / length, 0.0, ux / length
    else:
        length = np.sqrt(uy * uy + uz * uz)
        px, py, pz = 0.0, uz / length, -uy / length
    return px, py, pz, uy * pz - uz * py, uz * px - ux * pz, ux * py - uy * px
