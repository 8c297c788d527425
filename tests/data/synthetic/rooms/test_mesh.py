"""Surfaces from distance fields, and segments of meshes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ssl3d.data.synthetic.rooms.fusion import Field, Surface, extract, make_field
from ssl3d.data.synthetic.rooms.segments import majority, segment


def ball(radius: float = 0.4, size: float = 0.05) -> tuple[Field, np.ndarray]:
    """The exact distance field of a ball about the middle of a cube of one meter."""
    field = make_field(size, (1.0, 1.0, 1.0))
    cells = np.stack(np.meshgrid(*map(np.arange, field.total.shape), indexing="ij"), axis=-1)
    places = field.origin + (cells + 0.5) * size
    away = np.linalg.norm(places - 0.5, axis=-1) - radius
    field.weight[:] = 2.0
    field.total[:] = 2.0 * away
    field.solid[:] = np.where(places[..., 0] < 0.5, 3, 8)
    return field, places


def edges_of(surface: Surface) -> Counter[tuple[int, int]]:
    faces = surface.faces
    both = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), axis=1)
    return Counter(map(tuple, both.tolist()))


def test_the_surface_of_a_ball_is_a_closed_sphere_seen_from_outside() -> None:
    surface = extract(ball()[0])
    away = np.linalg.norm(surface.points - 0.5, axis=1)
    assert np.abs(away - 0.4).max() < 0.005
    assert set(edges_of(surface).values()) == {2}
    assert len(surface.points) - len(edges_of(surface)) + len(surface.faces) == 2  # Euler
    corners = surface.points[surface.faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.all(np.sum(across * (corners.mean(axis=1) - 0.5), axis=1) > 0)
    outward = (surface.points - 0.5) / away[:, None]
    assert np.sum(surface.normals * outward, axis=1).min() > 0.95
    clear = np.abs(surface.points[:, 0] - 0.5) > 0.05
    assert np.array_equal(surface.solids[clear], np.where(surface.points[clear, 0] < 0.5, 3, 8))


def test_what_was_not_seen_is_a_hole() -> None:
    field, places = ball()
    field.weight[places[..., 2] > 0.6] = 0.0
    surface = extract(field)
    assert 0.5 < surface.points[:, 2].max() < 0.65
    assert set(edges_of(surface).values()) == {1, 2}
    assert set(surface.faces.ravel().tolist()) == set(range(len(surface.points)))


def grid(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = heights.shape
    y, x = np.divmod(np.arange(rows * columns), columns)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate((np.stack((a, b, c), 1), np.stack((a, c, d), 1))).astype(np.int32)
    return np.stack((0.03 * x, 0.03 * y, heights.ravel()), axis=1), faces


def test_segments_end_at_creases_between_things_and_at_edges_of_color() -> None:
    flat = np.zeros((20, 40))
    gray = np.full((800, 3), 128, np.uint8)
    assert len(np.unique(segment(*grid(flat), gray))) == 1
    crease = flat + np.maximum(0, np.arange(40) - 20) * 0.03  # a floor and a slope that meets it
    found = segment(*grid(crease), gray).reshape(20, 40)
    assert len(np.unique(found[:, :20])) == len(np.unique(found[:, 21:])) == 1 and found[0, 0] != found[0, 21]
    half = gray.copy()
    half.reshape(20, 40, 3)[:, 20:] = 30
    found = segment(*grid(flat), half).reshape(20, 40)
    assert len(np.unique(found)) == 2 and len(np.unique(found[:, :20])) == 1
    assert found[0, 0] == 0 and found[0, 20] == 20  # named by their first vertex


def test_small_segments_join_their_neighbors() -> None:
    colors = np.full((800, 3), 128, np.uint8)
    colors.reshape(20, 40, 3)[8:11, 8:11] = 10  # 9 vertices
    assert len(np.unique(segment(*grid(np.zeros((20, 40))), colors))) == 1
    assert len(np.unique(segment(*grid(np.zeros((20, 40))), colors, smallest=5))) == 2


@pytest.mark.parametrize(
    ("instances", "expected"), [([4, 4, 2, 5, 5, 5], [4, 4, 4, 5, 5, 5]), ([4, 2, 0, 2, 1, 1], [0, 0, 0, 1, 1, 1])]
)
def test_a_segment_belongs_to_what_most_of_it_is(instances: list[int], expected: list[int]) -> None:
    segments = np.array([7, 7, 7, 9, 9, 9], np.int32)
    assert majority(segments, np.array(instances, np.int32), 6).tolist() == expected
