from __future__ import annotations

import numpy as np
import pytest

from ssl3d.pipeline.evaluation.back_projection import BackProjection


def cloud(*points: tuple[float, float, float]) -> np.ndarray:
    return np.array(points, np.float32)


def test_every_point_takes_the_label_of_its_nearest_thinned_point() -> None:
    back = BackProjection(cloud((0, 0, 0), (1, 0, 0), (0, 0, 5)), np.array([3, 7, 255], np.uint8))
    found = back(cloud((0.4, 0, 0), (0.6, 0, 0), (0, 0, 2.4), (0, 0, 2.6), (-100, 0, 0), (1, 0, 0)))
    assert found.dtype == np.uint8
    assert found.tolist() == [3, 7, 3, 255, 3, 7]


@pytest.mark.parametrize("seed", range(5))
def test_against_all_distances_whole_and_piece_by_piece(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thinned = rng.uniform(-50, 50, (200, 3)).astype(np.float32)
    label = rng.integers(0, 8, 200).astype(np.uint8)
    points = rng.uniform(-60, 60, (700, 3)).astype(np.float32)
    distance = np.linalg.norm(points[:, None].astype(np.float64) - thinned, axis=2)
    back = BackProjection(thinned, label)
    found = back(points)
    assert np.array_equal(found, label[distance.argmin(1)])
    assert np.array_equal(found, np.concatenate([back(part) for part in np.array_split(points, 7)]))
    assert np.array_equal(found, BackProjection(thinned, label)(np.asfortranarray(points)))


def test_thinned_points_keep_their_own_labels_and_ties_take_one_of_the_nearest() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3).astype(np.float32)
    label = np.arange(64).astype(np.uint8)
    back = BackProjection(grid, label)
    assert np.array_equal(back(grid), label)
    middle = back(cloud((0.5, 0.5, 0.5)))
    assert np.array_equal(back(cloud((0.5, 0.5, 0.5))), middle)
    assert (grid[middle[0]] <= 1).all()


def test_one_thinned_point_and_no_point() -> None:
    back = BackProjection(cloud((1, 2, 3)), np.array([4], np.uint8))
    assert back(cloud((0, 0, 0), (9, 9, 9))).tolist() == [4, 4]
    assert back(np.zeros((0, 3), np.float32)).tolist() == []


def test_what_is_no_cloud_is_an_error() -> None:
    points, label = cloud((0, 0, 0), (1, 1, 1)), np.array([1, 2], np.uint8)
    with pytest.raises(ValueError, match="no point to take a label from"):
        BackProjection(points[:0], label[:0])
    for wrong in (label[:1], label.astype(np.int64), label[:, None]):
        with pytest.raises(ValueError, match="labels are"):
            BackProjection(points, wrong)
    for cut in (points[:, :2], points.astype(np.float64), points[0]):
        with pytest.raises(ValueError, match="float32"):
            BackProjection(points, label)(cut)
    for value in (np.nan, np.inf):
        bad = cloud((0, 0, 0), (0, value, 0))
        with pytest.raises(ValueError, match="not finite: point 1"):
            BackProjection(bad, label)
        with pytest.raises(ValueError, match="not finite: point 1"):
            BackProjection(points, label)(bad)
