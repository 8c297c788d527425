"""Crops and pairs of crops: what they promise, on any scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.crops import IOU, TRIES, Column, Crops, Fan, Whole, column_iou, fan_iou
from ssl3d.data.scan import View

SEEDS = st.integers(0, 2**32 - 1)


def view_of(points: np.ndarray) -> View:
    rows = np.stack([np.full(len(points), 3), np.arange(len(points))], 1)
    return View(points.astype(np.float32), {}, rows, (np.arange(len(points)) % 5).astype(np.uint8))


def scattered(count: int, low: float = -6, high: float = 6, seed: int = 0) -> View:
    return view_of(np.random.default_rng(seed).uniform(low, high, (count, 3)))


def grid(edge: float, cells: int) -> View:
    """Points at the centers of the cells of a square: counts of points are areas."""
    axis = (np.arange(cells) + 0.5) * edge / cells
    x, y = np.meshgrid(axis, axis)
    return view_of(np.stack([x.ravel(), y.ravel(), np.linspace(-50, 50, cells * cells)], 1))


def common(first: View, second: View) -> np.ndarray:
    return np.intersect1d(first.rows[:, 1], second.rows[:, 1])


def iou(first: View, second: View) -> float:
    shared = len(common(first, second))
    return shared / (len(first) + len(second) - shared)


# ---------------------------------------------------------------- formulas


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=2), st.floats(0.5, 5))
def test_iou_of_columns_is_that_of_areas(offset: list[float], size: float) -> None:
    def covered(center: float, x: np.ndarray) -> np.ndarray:
        return np.abs(x - center) <= size / 2

    x = np.linspace(-8, 8, 3201)
    one = covered(0, x).sum() ** 2
    two = np.prod([covered(shift, x).sum() for shift in offset])
    both = np.prod([(covered(0, x) & covered(shift, x)).sum() for shift in offset])
    assert column_iou(np.array(offset), size) == pytest.approx(both / (one + two - both), abs=0.03)


def test_iou_of_columns_by_hand() -> None:
    offsets = np.array([[0, 0], [1, 0], [1, 1], [2, 0], [3, 5]])
    np.testing.assert_allclose(column_iou(offsets, 2.0), [1, 2 / 6, 1 / 7, 0, 0])


@given(st.floats(-10, 10), st.floats(1, 180), st.floats(1, 180))
def test_iou_of_fans_is_that_of_angles(offset: float, half: float, other: float) -> None:
    half, other = np.deg2rad(half), np.deg2rad(other)
    angle = np.linspace(-np.pi, np.pi, 20_001)

    def covered(center: float, width: float) -> np.ndarray:
        return np.cos(angle - center) >= np.cos(width)

    first, second = covered(0, half), covered(offset, other)
    expected = (first & second).sum() / (first | second).sum()
    assert fan_iou(np.array([offset]), half, np.array([other]))[0] == pytest.approx(expected, abs=0.03)


def test_two_wide_fans_meet_on_both_sides() -> None:
    half = np.deg2rad(150)  # opposite: 120 degrees in common twice over, of 360
    assert fan_iou(np.array([np.pi]), half, np.array([half]))[0] == pytest.approx(240 / 360)


# ---------------------------------------------------------------- pairs


@given(SEEDS)
def test_two_columns_overlap_within_bounds_and_hold_the_same_points(seed: int) -> None:
    view = grid(10.0, 100)
    first, second = Column(size=3.5).pair(view, np.random.default_rng(seed))
    rows = common(first, second)
    assert IOU[0] - 0.03 <= iou(first, second) <= IOU[1] or np.array_equal(first.rows, second.rows)
    for crop in (first, second):
        extent = crop.points.max(0) - crop.points.min(0)
        np.testing.assert_allclose(extent[:2], 3.4, atol=0.101)  # within the scene: nowhere narrower than the column
        np.testing.assert_array_equal(view.points[crop.rows[:, 1]], crop.points)
    both = [crop.points[np.isin(crop.rows[:, 1], rows)] for crop in (first, second)]
    np.testing.assert_array_equal(both[0], both[1])


@given(SEEDS)
def test_two_fans_overlap_within_bounds(seed: int) -> None:
    angle = np.linspace(-np.pi, np.pi, 3600, endpoint=False)
    view = view_of(np.stack([np.cos(angle) * 9, np.sin(angle) * 9, angle], 1))
    first, second = Fan().pair(view, np.random.default_rng(seed))
    assert IOU[0] - 0.01 <= iou(first, second) <= IOU[1] + 0.01 or np.array_equal(first.rows, second.rows)
    assert len(common(first, second))
    for crop in (first, second):
        assert 1199 <= len(crop) <= 3600  # 120 to 360 degrees


def test_nearly_equal_draws_are_replaced_by_the_same_crop() -> None:
    """A scene that both columns fill is one where no second center fits: the first crop is taken twice."""
    view = grid(3.0, 30)
    first, second = Column(size=3.5).pair(view, np.random.default_rng(0))
    np.testing.assert_array_equal(first.rows, second.rows)
    assert len(first) == len(view)


def test_pairs_are_drawn_anew_until_they_share_enough() -> None:
    view = scattered(2000)
    few = [len(common(*Column(size=3.5).pair(view, np.random.default_rng(seed)))) for seed in range(40)]
    enough = [
        len(common(*Column(size=3.5, min_overlap=90).pair(view, np.random.default_rng(seed)))) for seed in range(40)
    ]
    assert min(few) <= 90 < min(enough)


@pytest.mark.parametrize("crops", [Column(10**9, 10**9), Column(1999, 1999), Fan(10**9, 10**9), Fan(1999, 1999)])
def test_what_cannot_be_had_ends_with_the_most_there_is(crops: Crops) -> None:
    view = scattered(2000)
    first, second = crops.pair(view, np.random.default_rng(0))
    assert 0 < len(common(first, second)) <= 2000
    assert 0 < len(crops.one(view, np.random.default_rng(0))) <= 2000


def test_the_best_of_all_tries_is_taken() -> None:
    view = scattered(2000)
    crops = Column(min_overlap=1998)
    best = len(common(*crops.pair(view, np.random.default_rng(5))))
    rng = np.random.default_rng(5)
    assert best == max(len(common(*Column().pair(view, rng))) for _ in range(TRIES))


# ---------------------------------------------------------------- single crops


def test_a_column_is_unlimited_in_height_and_within_the_scene() -> None:
    view = grid(10.0, 100)
    heights = []
    for seed in range(10):
        crop = Column(size=3.5).one(view, np.random.default_rng(seed))
        assert len(crop) == pytest.approx(35**2, abs=75)
        heights.append(np.ptp(crop.points[:, 2]))
    assert min(heights) > 30


def test_a_single_crop_is_drawn_anew_until_it_holds_enough() -> None:
    dense, thin = scattered(3000, -6, -3), scattered(50, 3, 6, seed=1)
    view = view_of(np.concatenate([dense.points, thin.points, thin.points * [1, -1, 1]]))
    sizes = [len(Column(min_points=1000, size=2.9).one(view, np.random.default_rng(seed))) for seed in range(30)]
    assert min(sizes) > 1000


def test_a_single_fan_lies_around_the_azimuth_of_a_point() -> None:
    angle = np.linspace(-np.pi, np.pi, 3600, endpoint=False)
    view = view_of(np.stack([np.cos(angle), np.sin(angle), angle], 1) * 20)
    crop = Fan(narrowest=90, widest=90).one(view, np.random.default_rng(0))
    assert len(crop) == pytest.approx(900, abs=2)
    whole = Fan(narrowest=360, widest=360).one(view, np.random.default_rng(0))
    np.testing.assert_array_equal(whole.rows, view.rows)


# ---------------------------------------------------------------- any scan


@given(SEEDS, st.integers(1, 30), st.sampled_from([Column(5, 5), Fan(5, 5), Whole(), Column(size=0.1)]))
def test_no_crop_of_any_scan_is_empty(seed: int, count: int, crops: Crops) -> None:
    rng = np.random.default_rng(seed)
    view = view_of(rng.normal(0, rng.choice([1e-6, 1, 100, 1e5]), (count, 3)))
    assert len(crops.one(view, rng))
    assert len(common(*crops.pair(view, rng)))


@pytest.mark.parametrize("crops", [Column(), Fan(), Whole()])
def test_points_that_are_not_finite_and_none_at_all(crops: Crops) -> None:
    points = np.random.default_rng(0).normal(0, 3, (200, 3))
    points[::7, 1] = np.nan
    points[::11, 2] = np.inf
    for crop in (
        *crops.pair(view_of(points), np.random.default_rng(0)),
        crops.one(view_of(points), np.random.default_rng(0)),
    ):
        assert len(crop) and (isinstance(crops, Whole) or np.isfinite(crop.points).all())
    lost = view_of(np.full((4, 3), np.nan))
    assert [len(crop) for crop in crops.pair(lost, np.random.default_rng(0))] == [4, 4]
    assert len(crops.one(view_of(np.zeros((0, 3))), np.random.default_rng(0))) == 0


@pytest.mark.parametrize("crops", [Column(), Fan()])
def test_crops_are_functions_of_view_and_generator(crops: Crops) -> None:
    view = scattered(500)
    once, again = (crops.pair(view, np.random.default_rng(9)) for _ in range(2))
    other = crops.pair(view, np.random.default_rng(10))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
    assert not np.array_equal(once[0].rows, other[0].rows)
    assert len(view) == 500
