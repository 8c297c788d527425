"""Graph-based segmentation: the worked example, a literal implementation, weights, odd edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.geometry.felzenszwalb import edge_weights, neighbor_edges, segment_graph
from ssl3d.data.geometry.neighbors import nearest_neighbors

Edges = npt.NDArray[np.int32]
CHAIN = np.array([(0, 1), (1, 2), (2, 3), (3, 4)], np.int32)
WEIGHTS = np.array([0.001, 0.002, 0.5, 0.001], np.float32)


def segmented_slowly(count: int, edges: Edges, weights: npt.NDArray[np.float32], k: float, smallest: int) -> list[int]:
    segments = [{p} for p in range(count)]
    limit = {p: np.float32(k) for p in range(count)}
    of = list(range(count))

    def join(a: int, b: int) -> int:
        a, b = min(a, b), max(a, b)
        segments[a] |= segments[b]
        for p in segments[b]:
            of[p] = a
        return a

    order = sorted(np.flatnonzero(~np.isnan(weights)).tolist(), key=lambda e: weights[e])
    for e in order:
        a, b = of[edges[e, 0]], of[edges[e, 1]]
        if a != b and weights[e] <= limit[a] and weights[e] <= limit[b]:
            a = join(a, b)
            limit[a] = weights[e] + np.float32(k) / np.float32(len(segments[a]))
    for e in order:
        a, b = of[edges[e, 0]], of[edges[e, 1]]
        if a != b and min(len(segments[a]), len(segments[b])) < smallest:
            join(a, b)
    return np.unique(of, return_inverse=True)[1].tolist()


def test_the_worked_example() -> None:  # ws3d.md, section 12, test 3
    assert segment_graph(5, CHAIN, WEIGHTS, threshold=0.01, smallest=1).tolist() == [0, 0, 0, 1, 1]
    assert segment_graph(5, CHAIN, WEIGHTS, threshold=0.01, smallest=3).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_literal_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, 80, (300, 2)).astype(np.int32)
    weights = rng.exponential(0.02, 300).astype(np.float32)
    if seed % 2:
        weights = np.round(weights, 2) - np.float32(0.01)  # ties, zeros, and weights just below zero
    weights[rng.integers(0, 300, 5)] = np.nan
    found = segment_graph(80, edges, weights, threshold=0.05, smallest=1 + seed)
    assert found.dtype == np.int32 and found.tolist() == segmented_slowly(80, edges, weights, 0.05, 1 + seed)


def test_concave_bends_count_more_than_convex_ones() -> None:
    points = np.array([(0, 0, 0), (1, 0, 0)], np.float32)
    roof = np.array([(-0.6, 0, 0.8), (0.6, 0, 0.8)], np.float32)  # normals lean apart: a ridge between them
    edges = np.array([(0, 1), (1, 0)], np.int32)
    bend = 1 - 0.28
    assert edge_weights(points, roof, edges, oriented=True) == pytest.approx([bend**2] * 2)
    assert edge_weights(points, roof[::-1], edges, oriented=True) == pytest.approx([bend] * 2)
    assert edge_weights(points, roof * np.array([[1], [-1]]), edges, oriented=False) == pytest.approx([bend] * 2)
    assert edge_weights(points[[0, 0]], roof, edges, oriented=True) == pytest.approx([bend] * 2)  # no direction


def test_edges_of_neighbors_are_listed_once() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    points[7] = np.nan
    neighbors = nearest_neighbors(points, 6)
    wanted = {(min(a, int(b)), max(a, int(b))) for a in range(200) for b in neighbors[a] if b not in (-1, a)}
    edges = neighbor_edges(neighbors)
    found = [(min(a, b), max(a, b)) for a, b in edges.tolist()]
    assert len(found) == len(wanted) and set(found) == wanted


def test_graphs_without_edges() -> None:
    none = np.zeros((0, 2), np.int32)
    assert segment_graph(3, none, np.zeros(0, np.float32)).tolist() == [0, 1, 2]
    assert segment_graph(0, none, np.zeros(0, np.float32)).tolist() == []
    nan = np.full(4, np.nan, np.float32)
    assert segment_graph(5, CHAIN, nan, smallest=9).tolist() == [0, 1, 2, 3, 4]
