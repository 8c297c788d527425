"""Normals and curvature against numpy's eigenvalues, and where there is no plane."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.geometry.normals import smallest, surface


def all_of(points: object) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    cloud = np.array(points, np.float32)
    found = surface(cloud, nearest_neighbors(cloud, len(cloud)))
    return found.normal, found.curvature


def test_a_square_is_flat() -> None:  # ws3d.md, section 12, test 1
    normal, curvature = all_of([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)])
    assert (curvature == 0).all() and np.abs(normal[:, 2]) == pytest.approx(1)


def test_a_corner_is_curved() -> None:  # eigenvalues 0.0625, 0.25, 0.25
    _, curvature = all_of([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    assert curvature == pytest.approx(1 / 9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1e-3), (1, 1e-2, 1e-3), (3, 2, 1), (1, 1e-3, 1e-3)])
def test_equals_numpy(scale: float, shape: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    points = (scale * (rng.normal(size=(400, 3)) * shape) @ turn.T).astype(np.float32)
    neighbors = nearest_neighbors(points, 12)
    found = surface(points, neighbors)
    near = points[neighbors].astype(np.float64)
    near -= near.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near) / 12)
    assert found.curvature == pytest.approx(values[:, 0] / values.sum(axis=1), abs=1e-9)
    apart = values[:, 1] > 1.01 * values[:, 0]  # else the plane is no plane
    along = np.abs((found.normal * vectors[:, :, 0]).sum(axis=1))
    assert along[apart] == pytest.approx(1, abs=1e-6) and np.linalg.norm(found.normal, axis=1) == pytest.approx(1)


def test_random_matrices_of_any_rank() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        values = np.sort(rng.choice([0.0, 1e-9, 1e-3, 0.5, 1.0, 1.0], 3) * 10.0 ** rng.integers(-12, 12))
        matrix = (vectors * values) @ vectors.T
        x, y, z, share = smallest(matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[1, 1], matrix[1, 2], matrix[2, 2])
        assert np.hypot(np.hypot(x, y), z) == pytest.approx(1)
        if values[1] <= 1e-7 * values[2]:
            continue  # nearly a line: (0, 0, 1), or a plane within rounding
        assert share == pytest.approx(values[0] / values.sum(), abs=1e-8)
        assert np.array([x, y, z]) @ matrix @ np.array([x, y, z]) <= values[0] + 1e-8 * values[2]


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0, 0)],
        [(0, 0, 0), (1, 2, 3)],
        [(4, 4, 4)] * 9,
        [(t, 2 * t, -t) for t in range(9)],
        [(t, 0, 0) for t in (0, 1e-3, 5, 5, 7)],
    ],
)
def test_without_a_plane_it_points_up_and_is_flat(points: list[tuple[float, float, float]]) -> None:
    normal, curvature = all_of(points)
    assert (normal == (0, 0, 1)).all() and (curvature == 0).all()


def test_who_has_no_neighbors_has_no_plane_either() -> None:
    cloud = np.array([(0, 0, np.nan), (0, 0, 0), (1, 0, 0), (0, 0, 1)], np.float32)
    found = surface(cloud, nearest_neighbors(cloud, 4))
    assert found.normal[0].tolist() == [0, 0, 1] and np.abs(found.normal[1:, 1]) == pytest.approx(1)
