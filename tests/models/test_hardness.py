"""Geometric densities and hardness against the numbers of DDSEmi's specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.geometry.density import neighbor_counts
from ssl3d.models.hardness import Scale, geometric_density, hardness


def d_g(counts: list[int], scale: Scale = "minmax") -> list[float]:
    found = geometric_density(np.array(counts, np.int32), min(counts), max(counts), scale)
    assert found.dtype == np.float32
    return [float(value) for value in found]


def test_geometric_density_of_the_specification() -> None:
    assert d_g([3, 7, 11]) == [0, 0.5, 1]
    line = np.stack([0.1 * np.arange(5), np.zeros(5), np.zeros(5)], 1)
    counts = neighbor_counts(line, 0.15)
    assert counts.tolist() == [2, 3, 3, 3, 2]
    assert d_g(counts.tolist()) == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("scale", ["minmax", "log-minmax", "rank"])
def test_every_scale_rises_from_0_to_1_and_constant_counts_are_0(scale: Scale) -> None:
    counts = np.random.default_rng(0).integers(1, 500, 200)
    found = np.array(d_g(counts.tolist(), scale))
    order = np.argsort(counts)
    assert (np.diff(found[order]) >= 0).all()
    assert found.min() == 0 and found.max() == pytest.approx(1)
    assert d_g([4, 4, 4], scale) == [0, 0, 0]
    assert geometric_density(np.zeros(0, np.int32), 0, 0, scale).shape == (0,)


def test_other_scales_by_hand() -> None:
    assert d_g([1, 10, 100], "log-minmax") == pytest.approx([0, 0.5, 1])
    assert d_g([5, 1, 5, 9], "rank") == pytest.approx([1 / 3, 0, 1 / 3, 1])


@pytest.mark.parametrize("scale", ["minmax", "log-minmax", "rank"])
def test_points_without_coordinates_stay_within_bounds(scale: Scale) -> None:
    """Their count is 0, below the least of the others."""
    found = geometric_density(np.array([0, 4, 8], np.int32), 4, 8, scale)
    assert ((found >= 0) & (found <= 1)).all() and found[2] == 1


def test_the_part_of_a_scan_keeps_the_scale_of_the_scan() -> None:
    whole = geometric_density(np.array([2, 6, 10, 4]), 2, 10)
    assert np.array_equal(geometric_density(np.array([6, 4]), 2, 10), whole[[1, 3]])


GEOMETRIC, FEATURE = [0.0, 0.5, 1.0], [0.2, 0.6, 1.0]


@pytest.mark.parametrize(
    ("given", "h", "r"),
    [
        ((GEOMETRIC, FEATURE), [0.91, 0.505, 0.1], [1.801980, 1, 0.198020]),
        ((GEOMETRIC, None), [1, 0.55, 0.1], [1.818182, 1, 0.181818]),
        ((None, FEATURE), [0.82, 0.46, 0.1], [1.782609, 1, 0.217391]),
        ((GEOMETRIC, [-0.5, 0.6, 1.0]), [1.225, 0.505, 0.1], [2.008197, 0.827869, 0.163934]),
        ((GEOMETRIC, FEATURE, 1.2), [0.88, 0.34, 0.1], [2, 0.772727, 0.227273]),
    ],
)
def test_hardness_of_the_specification(given: tuple[Any, ...], h: list[float], r: list[float]) -> None:
    densities = [None if value is None else torch.tensor(value) for value in given[:2]]
    found = hardness(densities[0], densities[1], *given[2:])
    assert found.tolist() == pytest.approx(h)
    assert (found / found.mean()).tolist() == pytest.approx(r, abs=1e-6)
