"""Neighborhoods of a spinning LiDAR, on a flat road as its beams hit it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.geometry.normals import surface
from ssl3d.data.geometry.sensor_metric import grows_with_range, sensor_metric

STEP = np.radians(0.18)


def road() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Points where beams 0.44 degrees apart meet the ground 1.73 m below, and their rings; the ground is rough."""
    down = np.radians(np.arange(3.0, 20.0, 0.44))
    azimuth = np.arange(-np.pi, np.pi, STEP)
    distance = (1.73 / np.tan(down))[:, None]
    rough = np.random.default_rng(0).normal(0, 0.01, (len(down), len(azimuth)))
    points = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), -1.73 + rough], axis=-1)
    return points.reshape(-1, 3).astype(np.float32), np.repeat(np.arange(len(down)), len(azimuth))


def test_neighbors_of_far_points_lie_on_several_rings_and_give_the_normal() -> None:
    points, ring = road()
    far = np.linalg.norm(points, axis=1) > 15
    plain = nearest_neighbors(points, 30)
    assert np.median([len(set(ring[row])) for row in plain[far]]) == 1  # what the metric is for
    seen = nearest_neighbors(sensor_metric(points, aspect=0.4, range_weight=0.15), 30)
    inner = far & (ring > 2)
    assert min(len(set(ring[row])) for row in seen[inner]) >= 3
    up, guessed = (np.abs(surface(points, found).normal[inner, 2]) for found in (seen, plain))
    assert up.min() > 0.99 and np.quantile(guessed, 0.1) < 0.9


def test_there_is_no_seam_behind_the_sensor() -> None:
    points, ring = road()
    seen = nearest_neighbors(sensor_metric(points, aspect=0.4, range_weight=0.15), 30)
    behind = np.flatnonzero((np.arctan2(points[:, 1], points[:, 0]) > np.pi - 1.5 * STEP) & (ring == 20))
    sides = np.sign(points[seen[behind], 1])
    assert (sides > 0).any() and (sides < 0).any()


def test_turning_the_sensor_and_scaling_the_world_change_no_neighbor() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(-20, 20, (3000, 3)) * (1, 1, 0.1)
    turn = np.array([[np.cos(2), -np.sin(2), 0], [np.sin(2), np.cos(2), 0], [0, 0, 1]])
    first, turned, scaled = (
        nearest_neighbors(sensor_metric(cloud, aspect=0.4, range_weight=0.15), 8)
        for cloud in (points, points @ turn.T, 4 * points)
    )
    assert (first == turned).mean() > 0.999 and (first == scaled).mean() > 0.999  # but for rounding


def test_points_without_a_place() -> None:
    places = sensor_metric(
        np.array([(0, 0, 0), (np.nan, 1, 1), (np.inf, 0, 0), (0, 0, 2), (1, 0, 0)]), aspect=1, range_weight=0.5
    )
    assert np.isfinite(places).all(axis=1).tolist() == [False, False, False, True, True]
    assert places[3] == pytest.approx((0, 0, np.sqrt(2) * np.pi / 2)) and places[4] == pytest.approx((1, 0, 0))


def test_lengths_grow_beyond_a_range() -> None:
    assert grows_with_range(np.array([(3, 4, 0), (0, 10, 0), (0, 0, 25)]), 10.0).tolist() == [1, 1, 2.5]
