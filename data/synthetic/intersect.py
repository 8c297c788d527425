"""Ray against one primitive, in closed form. Rays are ``o + t d`` with unit ``d``; all values float64, meters.

Every function returns ``(t, nx, ny, nz, face)``: the distance of the first surface entered after ``t_min`` (``inf``
when missed), its outward normal, and which face was hit. A ray that starts inside a solid does not see it.
Layout of the parameters of a primitive: see ``Primitives`` in ``primitives.py``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ssl3d.data.synthetic.rng import mix, unit

Hit = tuple[float, float, float, float, int]

BOX, CYLINDER, ELLIPSOID, HULL, LEAF_BALL, LEAF_BOX = range(6)
SOLID, FACADE, PICKETS, MESH, RAILS, WHEEL = range(6)
INF = math.inf


@njit
def see_through(pattern: int, u: float, v: float, period: float, fill: float) -> bool:
    """Whether the point (u, v) of a panel is an opening of its pattern."""
    if pattern == PICKETS:
        return u / period - math.floor(u / period) >= fill
    if pattern == RAILS:
        return v / period - math.floor(v / period) >= fill
    if pattern == MESH:
        a = np.int64(math.floor(u / period))
        b = np.int64(math.floor(v / period))
        return unit(mix(mix(np.uint64(77), np.uint64(a)), np.uint64(b))) >= fill
    return False


@njit
def slab(o: float, d: float, h: float) -> tuple[float, float]:
    """The interval of t in which |o + t d| <= h."""
    if d == 0.0:
        return (-INF, INF) if -h <= o <= h else (INF, -INF)
    a = (-h - o) / d
    b = (h - o) / d
    return (a, b) if a < b else (b, a)


@njit
def box(p: np.ndarray, pattern: int, o: tuple, d: tuple, t_min: float) -> Hit:
    """p: center (3), half sizes (3), cos yaw, sin yaw, pattern period, pattern fill."""
    x, y = o[0] - p[0], o[1] - p[1]
    ox, oy, oz = p[6] * x + p[7] * y, p[6] * y - p[7] * x, o[2] - p[2]
    dx, dy, dz = p[6] * d[0] + p[7] * d[1], p[6] * d[1] - p[7] * d[0], d[2]
    ax, bx = slab(ox, dx, p[3])
    ay, by = slab(oy, dy, p[4])
    az, bz = slab(oz, dz, p[5])
    t, axis = ax, 0
    if ay > t:
        t, axis = ay, 1
    if az > t:
        t, axis = az, 2
    if t > min(bx, by, bz) or t < t_min:
        return INF, 0.0, 0.0, 0.0, 0
    if axis == 2:
        return t, 0.0, 0.0, (-1.0 if dz > 0 else 1.0), 2
    if pattern > FACADE:
        u = (oy + t * dy + p[4]) if axis == 0 else (ox + t * dx + p[3])
        if see_through(pattern, u, oz + t * dz + p[5], p[8], p[9]):
            return INF, 0.0, 0.0, 0.0, 0
    if axis == 0:
        sign = -1.0 if dx > 0 else 1.0
        return t, sign * p[6], sign * p[7], 0.0, 0
    sign = -1.0 if dy > 0 else 1.0
    return t, -sign * p[7], sign * p[6], 0.0, 1


@njit
def cylinder(p: np.ndarray, pattern: int, o: tuple, d: tuple, t_min: float) -> Hit:
    """p: foot of the axis (3), unit axis (3), length, radius. Flat caps; WHEEL opens the caps between rim and hub."""
    vx, vy, vz = o[0] - p[0], o[1] - p[1], o[2] - p[2]
    da = d[0] * p[3] + d[1] * p[4] + d[2] * p[5]
    oa = vx * p[3] + vy * p[4] + vz * p[5]
    ex, ey, ez = d[0] - da * p[3], d[1] - da * p[4], d[2] - da * p[5]
    fx, fy, fz = vx - oa * p[3], vy - oa * p[4], vz - oa * p[5]
    a = ex * ex + ey * ey + ez * ez
    b = ex * fx + ey * fy + ez * fz
    c = fx * fx + fy * fy + fz * fz - p[7] * p[7]
    side_in, side_out = -INF, INF
    if a > 1e-14:
        disc = b * b - a * c
        if disc <= 0.0:
            return INF, 0.0, 0.0, 0.0, 0
        root = math.sqrt(disc)
        side_in, side_out = (-b - root) / a, (-b + root) / a
    elif c > 0.0:
        return INF, 0.0, 0.0, 0.0, 0
    cap_in, cap_out = slab(oa - 0.5 * p[6], da, 0.5 * p[6])
    t = max(side_in, cap_in)
    if t > min(side_out, cap_out) or t < t_min:
        return INF, 0.0, 0.0, 0.0, 0
    if cap_in > side_in:
        if pattern == WHEEL:
            gx, gy, gz = fx + t * ex, fy + t * ey, fz + t * ez
            share = (gx * gx + gy * gy + gz * gz) / (p[7] * p[7])
            if 0.05 < share < 0.72:
                return INF, 0.0, 0.0, 0.0, 0
        sign = -1.0 if da > 0 else 1.0
        return t, sign * p[3], sign * p[4], sign * p[5], 2
    return t, (fx + t * ex) / p[7], (fy + t * ey) / p[7], (fz + t * ez) / p[7], 0


@njit
def ball_interval(p: np.ndarray, o: tuple, d: tuple) -> tuple[float, float]:
    """The interval of t inside the ellipsoid p: center (3), radii (3), cos yaw, sin yaw."""
    x, y = o[0] - p[0], o[1] - p[1]
    ox, oy, oz = (p[6] * x + p[7] * y) / p[3], (p[6] * y - p[7] * x) / p[4], (o[2] - p[2]) / p[5]
    dx, dy, dz = (p[6] * d[0] + p[7] * d[1]) / p[3], (p[6] * d[1] - p[7] * d[0]) / p[4], d[2] / p[5]
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    if disc <= 0.0:
        return INF, -INF
    root = math.sqrt(disc)
    return (-b - root) / a, (-b + root) / a


@njit
def ball_normal(p: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """The outward normal of the ellipsoid p through the point (x, y, z)."""
    u, v = x - p[0], y - p[1]
    a = (p[6] * u + p[7] * v) / (p[3] * p[3])
    b = (p[6] * v - p[7] * u) / (p[4] * p[4])
    c = (z - p[2]) / (p[5] * p[5])
    n = math.sqrt(a * a + b * b + c * c) + 1e-12
    return (p[6] * a - p[7] * b) / n, (p[7] * a + p[6] * b) / n, c / n


@njit
def ellipsoid(p: np.ndarray, o: tuple, d: tuple, t_min: float) -> Hit:
    t, _ = ball_interval(p, o, d)
    if t == INF or t < t_min:
        return INF, 0.0, 0.0, 0.0, 0
    nx, ny, nz = ball_normal(p, o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    return t, nx, ny, nz, 0


@njit
def hull(p: np.ndarray, planes: np.ndarray, o: tuple, d: tuple, t_min: float) -> Hit:
    """A convex body. p: origin (3), first plane, their number, -, cos yaw, sin yaw; planes: n (3), offset, material."""
    x, y = o[0] - p[0], o[1] - p[1]
    ox, oy, oz = p[6] * x + p[7] * y, p[6] * y - p[7] * x, o[2] - p[2]
    dx, dy, dz = p[6] * d[0] + p[7] * d[1], p[6] * d[1] - p[7] * d[0], d[2]
    first = int(p[3])
    t_in, t_out, face = -INF, INF, -1
    for k in range(first, first + int(p[4])):
        speed = planes[k, 0] * dx + planes[k, 1] * dy + planes[k, 2] * dz
        gap = planes[k, 3] - (planes[k, 0] * ox + planes[k, 1] * oy + planes[k, 2] * oz)
        if speed == 0.0:
            if gap < 0.0:
                return INF, 0.0, 0.0, 0.0, 0
        elif speed < 0.0:
            if gap / speed > t_in:
                t_in, face = gap / speed, k
        elif gap / speed < t_out:
            t_out = gap / speed
        if t_in > t_out:
            return INF, 0.0, 0.0, 0.0, 0
    if face < 0 or t_in < t_min:
        return INF, 0.0, 0.0, 0.0, 0
    nx, ny = planes[face, 0], planes[face, 1]
    return t_in, p[6] * nx - p[7] * ny, p[7] * nx + p[6] * ny, planes[face, 2], face


@njit
def leaves(p: np.ndarray, o: tuple, d: tuple, t0: float, t1: float, boxed: bool) -> Hit:
    """Foliage: the first leaf clump met between t0 and t1.

    The volume is a lattice of cells (size p[9]) of which a share p[8] holds a clump, a small sphere at a place that the
    hash of the cell decides: the crown lets through some of the rays, and looks the same from every frame and to the
    camera.
    p: center (3), radii or half sizes (3), cos yaw, sin yaw, density, cell, seed.
    """
    size = p[9]
    if boxed:
        x, y = o[0] - p[0], o[1] - p[1]
        ax, bx = slab(p[6] * x + p[7] * y, p[6] * d[0] + p[7] * d[1], p[3])
        ay, by = slab(p[6] * y - p[7] * x, p[6] * d[1] - p[7] * d[0], p[4])
        az, bz = slab(o[2] - p[2], d[2], p[5])
        a, b = max(ax, ay, az), min(bx, by, bz)
    else:
        a, b = ball_interval(p, o, d)
    start, stop = max(t0, a), min(t1, b)
    t = start
    if t >= stop:
        return INF, 0.0, 0.0, 0.0, 0
    sx, sy, sz = (o[0] + t * d[0]) / size, (o[1] + t * d[1]) / size, (o[2] + t * d[2]) / size
    ix, iy, iz = np.int64(math.floor(sx)), np.int64(math.floor(sy)), np.int64(math.floor(sz))
    kx, ky, kz = (1 if d[0] > 0 else -1), (1 if d[1] > 0 else -1), (1 if d[2] > 0 else -1)
    step_x = size / abs(d[0]) if d[0] != 0.0 else INF
    step_y = size / abs(d[1]) if d[1] != 0.0 else INF
    step_z = size / abs(d[2]) if d[2] != 0.0 else INF
    next_x = t + ((ix + 1 - sx) if kx > 0 else (sx - ix)) * step_x if d[0] != 0.0 else INF
    next_y = t + ((iy + 1 - sy) if ky > 0 else (sy - iy)) * step_y if d[1] != 0.0 else INF
    next_z = t + ((iz + 1 - sz) if kz > 0 else (sz - iz)) * step_z if d[2] != 0.0 else INF
    seed = np.uint64(p[10])
    while t < stop:
        h = mix(mix(mix(seed, np.uint64(ix)), np.uint64(iy)), np.uint64(iz))
        # clumps of clumps: the density itself varies over blocks of four cells
        coarse = mix(mix(mix(seed + np.uint64(1), np.uint64(ix >> 2)), np.uint64(iy >> 2)), np.uint64(iz >> 2))
        if unit(h) < p[8] * (0.25 + 1.5 * unit(coarse)):
            h = mix(h, np.uint64(5))
            radius = 0.26 + 0.24 * unit(h)
            room = 1.0 - 2.0 * radius
            h = mix(h, np.uint64(6))
            cx = (ix + radius + room * unit(h)) * size - o[0]
            h = mix(h, np.uint64(7))
            cy = (iy + radius + room * unit(h)) * size - o[1]
            h = mix(h, np.uint64(8))
            cz = (iz + radius + room * unit(h)) * size - o[2]
            radius *= size
            along = cx * d[0] + cy * d[1] + cz * d[2]
            disc = radius * radius - (cx * cx + cy * cy + cz * cz - along * along)
            if disc > 0.0:
                hit = along - math.sqrt(disc)
                # a clump is leaves, not a ball: a finer lattice decides which of its spots are open
                fine = 0.3 * size
                spot = mix(h, np.uint64(np.int64(math.floor((o[0] + hit * d[0]) / fine))))
                spot = mix(spot, np.uint64(np.int64(math.floor((o[1] + hit * d[1]) / fine))))
                spot = mix(spot, np.uint64(np.int64(math.floor((o[2] + hit * d[2]) / fine))))
                if start <= hit <= stop and unit(spot) < 0.72:
                    nx = (hit * d[0] - cx) / radius
                    ny = (hit * d[1] - cy) / radius
                    nz = (hit * d[2] - cz) / radius
                    return hit, nx, ny, nz, 0
        if next_x <= next_y and next_x <= next_z:
            t, ix, next_x = next_x, ix + kx, next_x + step_x
        elif next_y <= next_z:
            t, iy, next_y = next_y, iy + ky, next_y + step_y
        else:
            t, iz, next_z = next_z, iz + kz, next_z + step_z
    return INF, 0.0, 0.0, 0.0, 0
