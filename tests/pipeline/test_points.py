from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.stages.points import Drawn, draw_per_class, draw_points, scan_keys, voxels_of
from ssl3d.pipeline.stages.split_params import PROTOCOLS

PERCENT = Fraction(1, 100)


def scan(n: int, seed: int = 0, ignored: float = 0.1, size: float = 2.0) -> tuple[npt.NDArray, npt.NDArray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, n).astype(np.uint8)
    label[rng.random(n) < ignored] = IGNORE
    return rng.uniform(0, size, (n, 3)).astype(np.float32), label


def visible(drawn: Drawn) -> npt.NDArray:
    return np.flatnonzero(drawn.label != IGNORE)


def test_keys_are_the_same_on_every_machine_and_belong_to_one_scan() -> None:
    keys = scan_keys(0, "00/000000", 3)
    assert keys.dtype == np.uint64
    assert keys.tolist() == [17154329867720987816, 10313344221734862560, 14694877376373114855]
    assert scan_keys(0, "00/000000", 5)[:3].tolist() == keys.tolist()
    for other in (scan_keys(1, "00/000000", 3), scan_keys(0, "00/000001", 3)):
        assert not set(other.tolist()) & set(keys.tolist())


@pytest.mark.parametrize(
    ("n", "ratio", "count"),
    [
        (120_000, "0.00001", 1),
        (120_000, "0.0001", 12),
        (120_000, "0.001", 120),
        (120_000, "0.01", 1200),
        (99, "0.01", 1),
    ],
)
def test_raw_draws_floor_of_all_raw_points(n: int, ratio: str, count: int) -> None:
    _, label = scan(n)
    drawn = draw_points("raw", label, Fraction(ratio), scan_keys(0, "s", n))
    rows = visible(drawn)
    assert len(rows) == drawn.clicks == count
    np.testing.assert_array_equal(drawn.label[rows], label[rows])


def test_raw_counts_ignored_points_but_never_draws_them() -> None:
    label = np.full(1000, IGNORE, np.uint8)
    label[[3, 500]] = 7
    keys = scan_keys(0, "s", 1000)
    assert visible(draw_points("raw", label, Fraction(1, 500), keys)).tolist() == [3, 500]  # 2 of 1000 raw points
    assert visible(draw_points("raw", label, Fraction(1, 2), keys)).tolist() == [3, 500]  # there are no more
    assert len(visible(draw_points("raw", label, Fraction(1, 1000), keys))) == 1


def test_class_draws_from_every_class_that_is_present() -> None:
    label = np.repeat(np.array([0, 3, 9, IGNORE], np.uint8), [250, 99, 1, 50])
    drawn = draw_points("class", label, PERCENT, scan_keys(0, "s", 400))
    counts = np.bincount(drawn.label[visible(drawn)], minlength=10)
    assert counts[[0, 3, 9]].tolist() == [2, 1, 1] and counts.sum() == drawn.clicks == 4


def test_one_point_of_every_class_and_several() -> None:
    _, label = scan(5000)
    keys = scan_keys(0, "s", 5000)
    one, three = (draw_per_class(label, lambda count, k=k: k, keys) for k in (1, 3))
    assert sorted(one.label[visible(one)]) == [0, 1, 2, 3, 4] and one.clicks == 5
    assert three.clicks == 15 and set(visible(one)) < set(visible(three))
    nothing = draw_per_class(np.full(4, IGNORE, np.uint8), lambda count: 1, keys[:4])
    assert nothing.clicks == 0 and len(visible(nothing)) == 0


def test_points_of_one_class_are_drawn_uniformly() -> None:
    label = np.zeros(10, np.uint8)
    hits = np.zeros(10)
    for number in range(2000):
        hits[visible(draw_points("raw", label, Fraction(3, 10), scan_keys(0, f"{number}", 10)))] += 1
    assert hits.sum() == 6000
    assert np.abs(hits - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)  # five standard deviations


def test_voxels_start_half_a_cell_before_the_least_corner() -> None:
    # cells of 0.06 m, the first from -0.03 to 0.03 around the least corner
    along = np.array([0.0, 0.029, 0.031, 0.089, 0.091, 0.0], np.float32) + 5
    points = np.stack([along, np.full(6, -3, np.float32), np.full(6, 1, np.float32)], 1)
    first, voxel = voxels_of(points)
    assert first.tolist() == [0, 2, 4]
    assert voxel.tolist() == [0, 0, 1, 1, 2, 0]
    assert [len(part) for part in voxels_of(points[:0])] == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12])
def test_coordinates_without_a_grid_are_an_error(bad: float) -> None:
    points = np.zeros((3, 3), np.float32)
    points[1] = bad
    with pytest.raises(DataError, match="too far apart"):
        voxels_of(points)


def test_a_drawn_voxel_labels_all_its_points_as_its_first() -> None:
    # three cells; the first point of the second is ignored, so it is never drawn
    points = np.array([[0, 0, 0], [1, 0, 0], [0.01, 0, 0], [1, 0, 0.01], [2, 0, 0]], np.float32)
    label = np.array([4, IGNORE, 1, 2, 3], np.uint8)
    keys = scan_keys(0, "s", 5)
    everything = draw_points("voxel", label, Fraction(1), keys, points)
    assert everything.label.tolist() == [4, IGNORE, 4, IGNORE, 3]  # row 2 takes the label of row 0, right or wrong
    assert everything.clicks == 2
    first = draw_points("voxel-first", label, Fraction(1), keys, points)
    assert first.label.tolist() == [4, IGNORE, IGNORE, IGNORE, 3] and first.clicks == 2


@pytest.mark.parametrize(("ratio", "voxels"), [("0.00001", 1), ("0.001", 12), ("0.0016", 19)])
def test_as_many_voxels_as_the_share_of_points_rounded(ratio: str, voxels: int) -> None:
    points, label = scan(12_000)  # 12, and 19.2 -> 19; 0.12 -> at least 1
    keys = scan_keys(3, "s", 12_000)
    drawn = draw_points("voxel", label, Fraction(ratio), keys, points)
    first = draw_points("voxel-first", label, Fraction(ratio), keys, points)
    _, voxel = voxels_of(points)
    assert drawn.clicks == first.clicks == len(visible(first)) == voxels == len(set(voxel[visible(drawn)]))
    assert set(visible(first)) <= set(visible(drawn))
    assert len(visible(drawn)) == np.isin(voxel, voxel[visible(first)]).sum()  # whole voxels, ignored points too


def test_rounding_is_to_nearest() -> None:
    points, label = scan(1600, ignored=0, size=50.0)
    keys = scan_keys(0, "s", 1600)
    assert draw_points("voxel", label, Fraction("0.001"), keys, points).clicks == 2  # 1.6
    assert draw_points("raw", label, Fraction("0.001"), keys).clicks == 1


@given(st.sampled_from(list(PROTOCOLS)), st.integers(1, 400), st.integers(1, 1000), st.integers(1, 1000))
def test_smaller_ratios_lie_inside_larger_ones(protocol: str, n: int, one: int, other: int) -> None:
    points, label = scan(n, seed=n, ignored=0.5, size=0.5)
    keys = scan_keys(0, "s", n)
    small, large = (draw_points(protocol, label, Fraction(part, 1000), keys, points) for part in sorted((one, other)))
    assert set(visible(small)) <= set(visible(large)) and small.clicks <= large.clicks
    both = visible(small)
    np.testing.assert_array_equal(small.label[both], large.label[both])
