from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.mixing import inclination_bands, joined, mix_bands
from ssl3d.data.scan import IGNORE, View

SPECIFIED = np.array([[10, 0, 0.6], [10, 0, -0.6], [10, 0, -1.8], [10, 0, -3.8], [10, 0, 2], [5, 0, -4]], np.float32)


def view(points: np.ndarray, scan: int = 0, seed: int = 0) -> View:
    rng, n = np.random.default_rng(seed), len(points)
    return View(
        points=np.asarray(points, np.float32),
        features={"intensity": rng.random((n, 1), np.float32)},
        rows=np.stack([np.full(n, scan), rng.permutation(3 * n)[:n]], 1),
        label=rng.choice([0, 1, 2, IGNORE], n).astype(np.uint8),
        extras={"density": rng.random(n), "region": np.arange(n)},
        scan={"scan_id": f"00/{scan:06d}", "pose": np.eye(4)},
    )


def cloud(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)) * [10, 10, 3]


def facts(of: View) -> list[tuple[float, ...]]:
    """Everything that is true of each point."""
    columns = [of.points, of.features["intensity"], of.rows, of.label[:, None], of.extras["density"][:, None]]
    return sorted(tuple(row) for row in np.concatenate([column.astype(np.float64) for column in columns], 1))


def slow_band(point: np.ndarray, bands: int, up: float, down: float) -> int:
    """As the specification has it: clamped, then compared with every edge."""
    x, y, z = (float(value) for value in point)
    low, high = math.radians(down), math.radians(up)
    phi = min(max(math.atan2(z, math.sqrt(x * x + y * y)), low + 1e-5), high - 1e-5)
    edges = [high - j * (high - low) / bands for j in range(bands + 1)]
    (band,) = (j for j in range(bands) if edges[j + 1] < phi <= edges[j])
    return band


def test_bands_of_the_specification() -> None:
    assert inclination_bands(SPECIFIED, 4, 3, -25).tolist() == [0, 0, 1, 3, 0, 3]
    first, second = mix_bands(view(SPECIFIED), view(cloud(0, 0)), np.array([0, 0, 1, 3, 0, 3]), np.zeros(0, np.int64))
    assert first.points.tolist() == SPECIFIED[[0, 1, 4]].tolist()
    assert second.points.tolist() == SPECIFIED[[2, 3, 5]].tolist()


@pytest.mark.parametrize(
    ("degrees", "band"), [(3, 0), (-3.999, 0), (-4.001, 1), (-11.001, 2), (-17.999, 2), (-18.001, 3)]
)
def test_edges_of_the_specification(degrees: float, band: int) -> None:
    at = np.array([[math.cos(math.radians(degrees)), 0, math.sin(math.radians(degrees))]])
    assert inclination_bands(at, 4, 3, -25).tolist() == [band]


def test_an_edge_belongs_to_the_band_below_it() -> None:
    assert inclination_bands(np.array([[5.0, 0, 0], [5.0, 0, -1e-9], [5.0, 0, 1e-9]]), 2, 10, -10).tolist() == [1, 1, 0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([(3.0, -25.0), (10.0, -30.0), (7.0, -16.0)]))
def test_bands_are_those_of_a_loop(seed: int, bands: int, fov: tuple[float, float]) -> None:
    points = cloud(30, seed)
    assert inclination_bands(points, bands, *fov).tolist() == [slow_band(point, bands, *fov) for point in points]


def test_points_without_a_direction_have_a_band_too() -> None:
    odd = np.array([[0, 0, 0], [0, 0, 5], [0, 0, -5], [np.nan, 1, 1], [np.inf, 0, 0]])
    assert set(inclination_bands(odd, 5, 3, -25).tolist()) <= set(range(5))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 40), st.integers(0, 40))
def test_every_point_is_in_one_mixed_scan_with_all_that_belongs_to_it(seed: int, bands: int, n: int, m: int) -> None:
    a, b = view(cloud(n, seed), 3, seed), view(cloud(m, seed + 1), 8, seed + 1)
    before = facts(a) + facts(b)
    of_a, of_b = (inclination_bands(scan.points, bands, 3, -25) for scan in (a, b))
    one, two = mix_bands(a, b, of_a, of_b, extras=("density",))
    assert len(one) + len(two) == n + m
    assert sorted(facts(one) + facts(two)) == sorted(before)
    for mixed, even in ((one, 3), (two, 8)):  # who gives the even bands
        for scan, band in zip(mixed.rows[:, 0], inclination_bands(mixed.points, bands, 3, -25), strict=True):
            assert (scan == even) == (band % 2 == 0)
        assert list(mixed.extras) == ["density"] and mixed.points.dtype == np.float32
    back = mix_bands(one, two, *(inclination_bands(scan.points, bands, 3, -25) for scan in (one, two)), ("density",))
    assert [facts(scan) for scan in back] == [facts(a), facts(b)]
    if bands == 1:
        assert facts(one) == facts(a) and facts(two) == facts(b)


def test_what_belongs_to_a_scan_does_not_survive() -> None:
    both = joined(view(SPECIFIED, 1), view(SPECIFIED, 2))
    assert both.extras == {} and both.scan == {"scan_id": "00/000001+00/000002"}


def test_scans_of_different_features_are_refused() -> None:
    plain = view(SPECIFIED)
    plain.features = {}
    with pytest.raises(ValueError, match="cannot be mixed"):
        joined(view(SPECIFIED), plain)
