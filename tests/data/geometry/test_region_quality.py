"""Purity and boundary recall of regions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.region_quality import count_boundaries, count_pure


def test_purity_counts_the_most_frequent_label_of_each_region() -> None:
    region = np.array([0, 0, 0, 1, 1, -1, 2, 2], np.int32)
    label = np.array([4, 4, 5, 7, 255, 4, 255, 255], np.uint8)
    assert count_pure(region, label) == (3, 4)
    assert count_pure(np.full(3, -1, np.int32), np.zeros(3, np.uint8)) == (0, 0)


def test_recall_looks_at_points_beside_another_label() -> None:
    points = np.zeros((7, 3), np.float32)
    points[:, 0] = [0, 1, 2, 3, 4, 5, 9]
    label = np.array([0, 0, 0, 1, 1, 1, 255], np.uint8)
    exact, beside = np.array([0, 0, 0, 1, 1, 1, 1], np.int32), np.array([0, 0, 0, 0, 1, 1, 1], np.int32)

    def count(region: npt.NDArray[np.int32], reach: float) -> tuple[int, int]:
        return count_boundaries(points, region, label, reach, neighbors=2)

    # the two nearest of 2 are 1 and 3, those of 3 are 2 and 4
    assert count(exact, 1.5) == (2, 2) and count(beside, 1.5) == (1, 2) and count(np.zeros(7, np.int32), 1.5) == (0, 2)
    assert count(exact, 1.0) == (0, 0)  # nearer than, not as near as
    assert count_boundaries(points, exact, np.full(7, 255, np.uint8), 9.0) == (0, 0)
    assert count_boundaries(points[:2], exact[:2], label[:2], 9.0) == (0, 0)  # fewer points than neighbors
