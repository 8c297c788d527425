"""Reflectivity and its histograms: worked numbers, loops, and points that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssl3d.data.reflectivity import CELLS, reflectivity, reflectivity_histogram, with_derived
from ssl3d.data.scan import IGNORE, View

POINTS = np.array([[3, 4, 0], [6, 8, 0], [0, 0, 2]], np.float32)
INTENSITY = np.array([[0.5], [0.25], [0.1]], np.float32)


def view_of(points: np.ndarray, intensity: np.ndarray | None) -> View:
    rows = np.stack([np.zeros(len(points), np.int64), np.arange(len(points))], 1)
    features = {} if intensity is None else {"intensity": intensity}
    return View(points, features, rows, np.full(len(points), IGNORE, np.uint8))


def test_the_worked_number() -> None:
    assert reflectivity(POINTS, INTENSITY)[:, 0].tolist() == pytest.approx([0.5, 1, 0.016])
    assert reflectivity(POINTS, INTENSITY * np.float32(0.9))[:, 0].tolist() == pytest.approx([0.5, 1, 0.016])


def test_without_any_echo_or_point_it_is_zero() -> None:
    assert reflectivity(POINTS, INTENSITY * 0).tolist() == [[0], [0], [0]]
    assert reflectivity(POINTS[:0], INTENSITY[:0]).shape == (0, 1)
    broken = np.concatenate([POINTS, np.array([[np.nan, 1, 1], [np.inf, 0, 0]], np.float32)])
    strong = np.concatenate([INTENSITY, np.ones((2, 1), np.float32)])
    found = reflectivity(broken, strong)
    assert found[:, 0].tolist() == pytest.approx([0.5, 1, 0.016, 0, 0])
    shares = reflectivity_histogram(broken, found)
    assert not shares[3:].any() and np.isfinite(shares).all()
    assert reflectivity_histogram(POINTS[:0], found[:0]).shape == (0, 30)


def test_a_point_alone_has_a_histogram_of_one() -> None:
    values = np.array([[0.5], [1.0], [0.016]], np.float32)
    shares = reflectivity_histogram(POINTS, values).reshape(3, 3, 10)
    assert (shares.sum(2) == 1).all()
    assert shares.argmax(2).tolist() == [[5] * 3, [9] * 3, [0] * 3]


def test_histograms_equal_loops() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 25, (400, 3)).astype(np.float32)
    values = rng.random((400, 1)).astype(np.float32)
    found = reflectivity_histogram(points, values)
    for scale, (rings, sectors) in enumerate(CELLS):
        cells: dict[tuple[int, int], list[float]] = {}
        places = []
        for (x, y, _), value in zip(points.tolist(), values[:, 0].tolist(), strict=True):
            ring = min(int(math.hypot(x, y) / (50 / rings)), rings - 1)
            place = ring, min(int((math.atan2(y, x) + math.pi) / (2 * math.pi / sectors)), sectors - 1)
            cells.setdefault(place, []).append(value)
            places.append(place)
        for n in range(0, 400, 7):
            inside = cells[places[n]]
            expected = [sum(min(int(v * 10), 9) == b for v in inside) / len(inside) for b in range(10)]
            assert found[n, 10 * scale : 10 * scale + 10].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_view_gets_what_is_asked_for_and_keeps_what_it_has() -> None:
    view = view_of(POINTS, INTENSITY)
    assert with_derived(view, ["xyz", "intensity"]) is view
    made = with_derived(view, ["reflectivity_histogram"])
    assert set(made.features) == {"intensity", "reflectivity_histogram"} and set(view.features) == {"intensity"}
    both = with_derived(made, ["reflectivity", "reflectivity_histogram"])
    assert both.features["reflectivity_histogram"] is made.features["reflectivity_histogram"]
    assert set(with_derived(view_of(POINTS, None), ["reflectivity"]).features) == set()
