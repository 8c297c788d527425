"""Closed-form intersections against walking along the ray in small steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.synthetic import intersect as ix

Point = np.ndarray
angles = st.floats(0.0, 2.0 * math.pi)
coordinates = st.floats(-4.0, 4.0)


def ray(x: float, y: float, z: float, azimuth: float, height: float) -> tuple[tuple, tuple]:
    """From a point at least 4 meters away towards the neighborhood of the origin."""
    flat = math.sqrt(max(0.0, 1.0 - height * height))
    d = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), height])
    o = np.array([x, y, z]) * 0.4 - 9.0 * d
    return tuple(o), tuple(d)


def first_inside(inside: Callable[[Point], np.ndarray], o: tuple, d: tuple) -> float:
    t = np.arange(0.0, 20.0, 0.002)
    hit = inside(np.asarray(o) + t[:, None] * np.asarray(d))
    return float(t[np.argmax(hit)]) if hit.any() else math.inf


def agree(found: ix.Hit, walked: float, d: tuple) -> None:
    t, nx, ny, nz, _ = found
    if math.isinf(t) or math.isinf(walked):
        return  # a graze shorter than the step is seen by one only; misses are counted by the exact tests below
    assert abs(t - walked) < 0.003
    assert abs(math.hypot(nx, ny, nz) - 1.0) < 1e-9
    assert nx * d[0] + ny * d[1] + nz * d[2] <= 1e-9


rays = st.builds(ray, coordinates, coordinates, coordinates, angles, st.floats(-0.98, 0.98))


@settings(max_examples=60, deadline=None)
@given(rays, angles)
def test_box(r: tuple, yaw: float) -> None:
    c, s = math.cos(yaw), math.sin(yaw)
    p = np.array([0.3, -0.2, 0.1, 1.5, 0.7, 0.4, c, s, 0, 0, 0, 0])

    def inside(q: Point) -> np.ndarray:
        x, y = q[:, 0] - 0.3, q[:, 1] + 0.2
        return (abs(c * x + s * y) <= 1.5) & (abs(c * y - s * x) <= 0.7) & (abs(q[:, 2] - 0.1) <= 0.4)

    agree(ix.box(p, ix.SOLID, *r, 0.0), first_inside(inside, *r), r[1])


@settings(max_examples=60, deadline=None)
@given(rays, angles, st.floats(-0.95, 0.95))
def test_cylinder(r: tuple, azimuth: float, height: float) -> None:
    flat = math.sqrt(1.0 - height * height)
    axis = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), height])
    p = np.array([0.1, 0.2, -0.3, *axis, 1.8, 0.6, 0, 0, 0, 0])

    def inside(q: Point) -> np.ndarray:
        v = q - p[:3]
        along = v @ axis
        return (along >= 0) & (along <= 1.8) & (np.linalg.norm(v - along[:, None] * axis, axis=1) <= 0.6)

    agree(ix.cylinder(p, ix.SOLID, *r, 0.0), first_inside(inside, *r), r[1])


@settings(max_examples=60, deadline=None)
@given(rays, angles)
def test_ellipsoid(r: tuple, yaw: float) -> None:
    c, s = math.cos(yaw), math.sin(yaw)
    p = np.array([0.0, 0.4, 0.2, 1.2, 0.5, 0.8, c, s, 0, 0, 0, 0])

    def inside(q: Point) -> np.ndarray:
        x, y, z = q[:, 0], q[:, 1] - 0.4, q[:, 2] - 0.2
        return ((c * x + s * y) / 1.2) ** 2 + ((c * y - s * x) / 0.5) ** 2 + (z / 0.8) ** 2 <= 1.0

    agree(ix.ellipsoid(p, *r, 0.0), first_inside(inside, *r), r[1])


@settings(max_examples=60, deadline=None)
@given(rays)
def test_a_hull_of_six_planes_is_the_box(r: tuple) -> None:
    planes = np.array([[1, 0, 0, 1.5, -1], [-1, 0, 0, 1.5, -1], [0, 1, 0, 0.7, -1], [0, -1, 0, 0.7, -1]], float)
    planes = np.vstack([planes, [[0, 0, 1, 0.4, -1], [0, 0, -1, 0.4, -1]]])
    turn = (math.cos(0.7), math.sin(0.7))
    as_hull = ix.hull(np.array([0, 0, 0, 0, 6, 0, *turn, 0, 0, 0, 0], float), planes, *r, 0.0)
    as_box = ix.box(np.array([0, 0, 0, 1.5, 0.7, 0.4, *turn, 0, 0, 0, 0], float), ix.SOLID, *r, 0.0)
    assert as_hull[:4] == pytest.approx(as_box[:4], abs=1e-9)


def test_worked_numbers() -> None:
    o, d = (-5.0, 0.0, 0.0), (1.0, 0.0, 0.0)
    unit_box = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0], float)
    assert ix.box(unit_box, ix.SOLID, o, d, 0.0) == (4.0, -1.0, 0.0, 0.0, 0)
    assert math.isinf(ix.box(unit_box, ix.SOLID, o, (0.0, 1.0, 0.0), 0.0)[0])
    assert math.isinf(ix.box(unit_box, ix.SOLID, o, d, 4.5)[0])
    upright = np.array([0, 0, -1, 0, 0, 1, 2, 0.5, 0, 0, 0, 0], float)
    assert ix.cylinder(upright, ix.SOLID, o, d, 0.0) == (4.5, -1.0, 0.0, 0.0, 0)
    above = ix.cylinder(upright, ix.SOLID, (0.1, 0.0, 5.0), (0.0, 0.0, -1.0), 0.0)
    assert above == (4.0, 0.0, 0.0, 1.0, 2)
    ball = np.array([0, 0, 0, 2, 1, 1, 1, 0, 0, 0, 0, 0], float)
    assert ix.ellipsoid(ball, o, d, 0.0)[:4] == pytest.approx((3.0, -1.0, 0.0, 0.0))


def test_foliage_lets_some_rays_through_and_hits_inside_its_volume() -> None:
    p = np.array([0, 0, 0, 2, 2, 2, 1, 0, 0.5, 0.2, 9, 0], float)
    heights = np.linspace(-1.2, 1.2, 400)
    found = [ix.leaves(p, (-6.0, 0.013, z), (1.0, 0.0, 0.0), 0.0, 20.0, False)[0] for z in heights]
    hit = np.isfinite(found)
    assert 0.3 < hit.mean() < 0.98
    x, z = np.array(found)[hit] - 6.0, heights[hit]
    assert np.all(x**2 + z**2 <= 4.0 + 1e-6)
    assert x.max() - x.min() > 1.5  # returns come from within, not from a shell


def test_foliage_is_the_same_when_the_ray_is_cut_into_pieces() -> None:
    p = np.array([0, 0, 0, 2, 2, 2, 1, 0, 0.4, 0.2, 9, 0], float)
    for z in np.linspace(-1.5, 1.5, 60):
        o, d = (-6.0, 0.3, z), (1.0, 0.0, 0.0)
        whole = ix.leaves(p, o, d, 0.0, 20.0, False)[0]
        pieces = [ix.leaves(p, o, d, a, a + 0.37, False)[0] for a in np.arange(0.0, 20.0, 0.37)]
        assert min(pieces) == whole


def test_pickets_have_gaps() -> None:
    p = np.array([0, 0, 0, 2, 0.01, 1, 1, 0, 0.2, 0.5, 0, 0], float)
    xs = np.linspace(-1.9, 1.9, 400)
    hit = [math.isfinite(ix.box(p, ix.PICKETS, (x, -3.0, 0.0), (0.0, 1.0, 0.0), 0.0)[0]) for x in xs]
    assert 0.4 < np.mean(hit) < 0.6
