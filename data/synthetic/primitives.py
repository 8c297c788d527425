"""The solids of a scene, gathered while it is laid out and handed to the ray caster as arrays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.synthetic.intersect import BOX, CYLINDER, ELLIPSOID, HULL, LEAF_BALL, LEAF_BOX, SOLID
from ssl3d.data.synthetic.materials import Paint
from ssl3d.data.synthetic.rng import cos_sin

Vec3 = tuple[float, float, float]
Plane = tuple[float, float, float, float, int]


class PrimitiveArrays(NamedTuple):
    """``kind, pattern, material`` (n,) uint8; ``label, instance`` (n,) uint16; the rest float64: ``params`` (n, 12),
    ``bounds`` (n, 6: low, high), ``reflectance`` (n,), ``rgb`` (n, 3), ``planes`` (m, 5: normal, offset, material)."""

    kind: npt.NDArray[np.uint8]
    pattern: npt.NDArray[np.uint8]
    material: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint16]
    instance: npt.NDArray[np.uint16]
    params: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float64]
    reflectance: npt.NDArray[np.float64]
    rgb: npt.NDArray[np.float64]
    planes: npt.NDArray[np.float64]


class Primitives:
    """Growing lists of primitives. Coordinates passed to the methods are world meters, z up."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, Paint, int, int, list[float], list[float]]] = []
        self._planes: list[Plane] = []

    def __len__(self) -> int:
        return len(self._rows)

    def _add(
        self, kind: int, pattern: int, paint: Paint, tag: tuple[int, int], params: list[float], bounds: list[float]
    ) -> None:
        params = params + [0.0] * (12 - len(params))
        self._rows.append((kind, pattern, paint, tag[0], tag[1], params, bounds))

    def box(
        self,
        center: Vec3,
        half: Vec3,
        turn: tuple[float, float],
        paint: Paint,
        tag: tuple[int, int],
        pattern: int = SOLID,
        extra: tuple[float, ...] = (),
    ) -> None:
        """``turn``: (cos, sin) of the yaw; ``tag``: (raw label, instance); ``extra``: numbers of the pattern."""
        params = [*center, *half, *turn, *extra]
        self._add(BOX, pattern, paint, tag, params, _box_bounds(center, half, turn))

    def tube(
        self, foot: Vec3, head: Vec3, radius: float, paint: Paint, tag: tuple[int, int], pattern: int = SOLID
    ) -> None:
        """A cylinder with flat caps from ``foot`` to ``head``."""
        axis = [b - a for a, b in zip(foot, head, strict=True)]
        length = math.sqrt(axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2])
        unit_axis = [a / length for a in axis]
        low, high = [], []
        for k in range(3):
            reach = radius * math.sqrt(max(0.0, 1.0 - unit_axis[k] * unit_axis[k])) + 1e-6
            low.append(min(foot[k], head[k]) - reach)
            high.append(max(foot[k], head[k]) + reach)
        self._add(CYLINDER, pattern, paint, tag, [*foot, *unit_axis, length, radius], low + high)

    def ball(self, center: Vec3, radii: Vec3, turn: tuple[float, float], paint: Paint, tag: tuple[int, int]) -> None:
        self._add(ELLIPSOID, SOLID, paint, tag, [*center, *radii, *turn], _box_bounds(center, radii, turn))

    def foliage(
        self,
        center: Vec3,
        size: Vec3,
        turn: tuple[float, float],
        paint: Paint,
        tag: tuple[int, int],
        density: float,
        cell: float,
        boxed: bool = False,
    ) -> None:
        """A volume of leaf clumps; ``density``: share of its cells (of size ``cell``) that hold a clump."""
        seed = float(len(self._rows) + 1)
        params = [*center, *size, *turn, density, cell, seed]
        self._add(LEAF_BOX if boxed else LEAF_BALL, SOLID, paint, tag, params, _box_bounds(center, size, turn))

    def hull(
        self,
        origin: Vec3,
        turn: tuple[float, float],
        planes: list[Plane],
        reach: Vec3,
        paint: Paint,
        tag: tuple[int, int],
    ) -> None:
        """A convex body: all p with n.p <= offset in its own frame; ``reach``: (|x|, |y|, highest z) there, z >= 0."""
        params = [*origin, float(len(self._planes)), float(len(planes)), 0.0, *turn]
        self._planes.extend(planes)
        middle = (origin[0], origin[1], origin[2] + 0.5 * reach[2])
        self._add(HULL, SOLID, paint, tag, params, _box_bounds(middle, (reach[0], reach[1], 0.5 * reach[2]), turn))

    def arrays(self) -> PrimitiveArrays:
        rows = self._rows
        n = len(rows)
        return PrimitiveArrays(
            kind=np.array([r[0] for r in rows], np.uint8),
            pattern=np.array([r[1] for r in rows], np.uint8),
            material=np.array([r[2].material for r in rows], np.uint8),
            label=np.array([r[3] for r in rows], np.uint16),
            instance=np.array([r[4] for r in rows], np.uint16),
            params=np.array([r[5] for r in rows], np.float64).reshape(n, 12),
            bounds=np.array([r[6] for r in rows], np.float64).reshape(n, 6),
            reflectance=np.array([r[2].reflectance for r in rows], np.float64),
            rgb=np.array([r[2].rgb for r in rows], np.float64).reshape(n, 3),
            planes=np.array(self._planes, np.float64).reshape(len(self._planes), 5),
        )


def joined(a: PrimitiveArrays, b: PrimitiveArrays) -> PrimitiveArrays:
    """Both lists of primitives as one (static scene and the actors of one frame)."""
    params = b.params.copy()
    hulls = b.kind == HULL
    params[hulls, 3] += len(a.planes)
    moved = b._replace(params=params)
    return PrimitiveArrays(*(np.concatenate((p, q)) for p, q in zip(_arrays(a), _arrays(moved), strict=True)))


def _arrays(primitives: PrimitiveArrays) -> list[npt.NDArray[Any]]:
    return list(primitives)


def _box_bounds(center: Vec3, half: Vec3, turn: tuple[float, float]) -> list[float]:
    c, s = abs(turn[0]), abs(turn[1])
    x, y = c * half[0] + s * half[1], s * half[0] + c * half[1]
    return [center[0] - x, center[1] - y, center[2] - half[2], center[0] + x, center[1] + y, center[2] + half[2]]


class Frame(NamedTuple):
    """A place to build an object at: origin on the ground, heading as (cos, sin)."""

    x: float
    y: float
    z: float
    turn: tuple[float, float]

    def at(self, p: Vec3) -> Vec3:
        c, s = self.turn
        return self.x + c * p[0] - s * p[1], self.y + s * p[0] + c * p[1], self.z + p[2]

    def shifted(self, p: Vec3, yaw: float = 0.0) -> Frame:
        c, s = cos_sin(yaw)
        a, b = self.turn
        return Frame(*self.at(p), (a * c - b * s, b * c + a * s))


class Builder:
    """Adds parts in the coordinates of one object (x forward, y left, z up from the ground)."""

    def __init__(self, primitives: Primitives, frame: Frame, label: int, instance: int = 0) -> None:
        self.primitives, self.frame, self.tag = primitives, frame, (label, instance)

    def tagged(self, label: int, instance: int = 0) -> Builder:
        return Builder(self.primitives, self.frame, label, instance)

    def box(self, center: Vec3, half: Vec3, paint: Paint, pattern: int = SOLID, extra: tuple[float, ...] = ()) -> None:
        self.primitives.box(self.frame.at(center), half, self.frame.turn, paint, self.tag, pattern, extra)

    def tube(self, foot: Vec3, head: Vec3, radius: float, paint: Paint, pattern: int = SOLID) -> None:
        self.primitives.tube(self.frame.at(foot), self.frame.at(head), radius, paint, self.tag, pattern)

    def ball(self, center: Vec3, radii: Vec3, paint: Paint) -> None:
        self.primitives.ball(self.frame.at(center), radii, self.frame.turn, paint, self.tag)

    def leaves(self, center: Vec3, size: Vec3, paint: Paint, density: float, cell: float, boxed: bool = False) -> None:
        at = self.frame.at(center)
        self.primitives.foliage(at, size, self.frame.turn, paint, self.tag, density, cell, boxed)

    def profile(
        self,
        outline: list[tuple[float, float]],
        half_width: float,
        paint: Paint,
        base: float = 0.0,
        lean: float = 0.0,
        faces: dict[int, int] | None = None,
        side: int = -1,
    ) -> None:
        """A convex outline in (x, z), counter-clockwise seen from the right, drawn out to +-``half_width`` in y.

        ``lean``: how far the sides come in per meter of height; ``faces``: material by edge of the outline; ``side``:
        material of the two sides. ``base`` is added to all z.
        """
        planes: list[Plane] = []
        outline = [(x, z + base) for x, z in outline]
        low = min(z for _, z in outline)
        for k, (x0, z0) in enumerate(outline):
            x1, z1 = outline[(k + 1) % len(outline)]
            nx, nz = z1 - z0, x0 - x1
            n = math.sqrt(nx * nx + nz * nz)
            nx, nz = nx / n, nz / n
            planes.append((nx, 0.0, nz, nx * x0 + nz * z0, (faces or {}).get(k, -1)))
        n = math.sqrt(1.0 + lean * lean)
        offset = (half_width + lean * low) / n
        planes.append((0.0, 1.0 / n, lean / n, offset, side))
        planes.append((0.0, -1.0 / n, lean / n, offset, side))
        reach = (max(abs(x) for x, _ in outline), half_width, max(z for _, z in outline))
        self.primitives.hull(self.frame.at((0.0, 0.0, 0.0)), self.frame.turn, planes, reach, paint, self.tag)
