from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.range_image import RangeProjection
from ssl3d.data.spec import load_spec

SENSOR = load_spec("semantickitti").sensor  # +3 / -25 degrees, 64 x 2048


def at(azimuth_deg: float, pitch_deg: float, distance: float) -> list[float]:
    """A point by azimuth (to the left of forward), elevation and distance."""
    a, p = np.radians([azimuth_deg, pitch_deg])
    return [distance * np.cos(p) * np.cos(a), distance * np.cos(p) * np.sin(a), distance * np.sin(p)]


def test_worked_pixels() -> None:
    points = np.array(
        [at(0.01, -11.1, 10), at(89.9, 2.9, 10), at(-90.01, -24.9, 10), at(179.99, 30, 5), at(0.01, -60, 5)]
    )
    projection = RangeProjection.of(points, SENSOR)
    # forward is the middle, left is a quarter, right three quarters, just past the back on the left is column 0
    assert projection.col.tolist() == [1023, 512, 1536, 0, 1023]
    # -11 degrees, just above this, is the middle of 3..-25; outside of the view is clamped to the border
    assert projection.row.tolist() == [32, 0, 63, 0, 63]
    assert np.allclose(projection.distance, [10, 10, 10, 5, 5])


def test_the_nearest_point_wins_and_point_0_is_kept() -> None:
    points = np.array([at(0.01, -11.1, 3), at(0.01, -11.1, 9), at(0.01, -11.1, 6)], np.float32)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        projection = RangeProjection.of(points[order], SENSOR)
        assert order[projection.pixel_point[32, 1023]] == 0
        assert projection.filled.sum() == 1
        assert projection.image(projection.distance, empty=-1)[32, 1023] == np.float32(3)


def test_an_empty_scan() -> None:
    projection = RangeProjection.of(np.zeros((0, 3), np.float32), SENSOR)
    assert not projection.filled.any()
    assert projection.image(np.zeros((0, 3), np.uint8)).shape == (64, 2048, 3)


@given(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([(64, 2048), (32, 512)]))
def test_pixels_hold_the_nearest_of_their_points(seed: int, n: int, size: tuple[int, int]) -> None:
    points = np.random.default_rng(seed).normal(0, [20, 20, 2], (n, 3)).astype(np.float32)
    points[0] = 0  # the sensor itself: no direction, but a pixel
    projection = RangeProjection.of(points, SENSOR, height=size[0], width=size[1])
    assert projection.pixel_point.shape == size
    flat = projection.row.astype(np.int64) * size[1] + projection.col
    assert sorted(np.flatnonzero(projection.filled.ravel())) == sorted(set(flat.tolist()))
    nearest = projection.at_points(projection.image(projection.distance))
    for pixel in set(flat.tolist()):
        members = flat == pixel
        assert (nearest[members] == projection.distance[members].min()).all()
