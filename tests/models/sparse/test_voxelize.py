"""Points to voxels in 2, 3 and 4 axes, what voxels get of their points, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl3d.models.sparse import (
    Convolution,
    CoordinateManager,
    SparseTensor,
    SparseTensorError,
    TensorField,
    unique_voxels,
    voxel_reduce,
    voxelize,
)
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT
from ssl3d.models.sparse.voxelize import VoxelRule

ENGINES = ["numba", "torch"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_voxels_of_any_number_of_axes(engine, axes: int) -> None:
    rng = np.random.default_rng(axes)
    points = rng.uniform(-2, 2, (200, axes))
    points[7] = np.nan
    batch = rng.integers(0, 3, 200)
    sizes = [0.5, 0.3, 0.7, 1.0][:axes]
    coordinates, inverse = voxelize(torch.from_numpy(points), sizes, batch=torch.from_numpy(batch), engine=engine)
    expected = np.c_[batch, np.floor(points / sizes)]
    expected[7] = -1
    kept = np.arange(200) != 7
    assert coordinates.dtype == torch.int32 and inverse.dtype == torch.int64 and inverse[7] == -1
    assert np.array_equal(coordinates[inverse[kept]].numpy(), expected[kept])
    assert torch.equal(coordinates, torch.unique(coordinates, dim=0))
    again, rows = unique_voxels(torch.from_numpy(expected[kept].astype(np.int64)), engine=engine)
    assert torch.equal(again, coordinates) and torch.equal(rows, inverse[kept])


@pytest.mark.parametrize("engine", ENGINES)
def test_any_layout_of_memory_and_type(engine) -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(-4, 4, (50, 3)).astype(np.float32))
    batch = torch.from_numpy(rng.integers(0, 2, 50))
    expected = voxelize(points, 0.5, batch=batch, engine=engine)
    wide = torch.stack([points, points], 2)[:, :, 0].requires_grad_()
    assert not wide.is_contiguous()
    for cloud, clouds in (
        (wide, batch.to(torch.int16)),
        (points.t().contiguous().t(), batch.repeat_interleave(2)[::2]),
    ):
        found = voxelize(cloud, 0.5, batch=clouds, engine=engine)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    half = voxelize(points.half(), 0.5, batch=batch, engine=engine)
    assert torch.equal(half[0], voxelize(points.half().float(), 0.5, batch=batch, engine=engine)[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_none_one_and_all_in_one(engine) -> None:
    for axes in (2, 3, 4):
        coordinates, inverse = voxelize(torch.zeros(0, axes), 1.0, engine=engine)
        assert coordinates.shape == (0, 1 + axes) and inverse.shape == (0,)
        coordinates, inverse = voxelize(torch.full((5, axes), 0.5), 1.0, engine=engine)
        assert coordinates.tolist() == [[0] * (1 + axes)] and inverse.tolist() == [0] * 5
        edge = torch.tensor([[0] + [-COORDINATE_LIMIT[axes]] * axes, [0] + [COORDINATE_LIMIT[axes] - 1] * axes])
        assert torch.equal(unique_voxels(edge, engine=engine)[0], edge.int())
    coordinates, inverse = voxelize(torch.full((3, 3), torch.nan), 1.0, engine=engine)
    assert len(coordinates) == 0 and inverse.tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 3, dtype=torch.int32), 1.0), "unique_voxels"),
        ((torch.zeros(4, 1), 1.0), r"2, 3 or 4 axes"),
        ((torch.zeros(4, 5), 1.0), r"2, 3 or 4 axes"),
        ((torch.zeros(12), 1.0), r"2, 3 or 4 axes"),
        ((torch.zeros(4, 3), [1.0, 1.0]), "for each of 3 axes"),
        ((torch.zeros(4, 3), [1.0, -1.0, 1.0]), "positive"),
        ((torch.zeros(4, 3), float("nan")), "positive"),
        ((torch.full((4, 4), 1e4), 1.0), r"\+-7680 with 4 axes"),
    ],
)
def test_bad_points(arguments: tuple, message: str) -> None:
    for engine in ENGINES:
        with pytest.raises(SparseTensorError, match=message):
            voxelize(*arguments, engine=engine)


def test_bad_companions() -> None:
    points = torch.zeros(4, 2)
    for batch in (torch.zeros(3, dtype=torch.int32), torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64)):
        with pytest.raises(SparseTensorError, match="one integer for each point"):
            voxelize(points, 1.0, batch=batch)
    with pytest.raises(SparseTensorError, match="batch indices"):
        voxelize(points, 1.0, batch=torch.full((4,), BATCH_LIMIT[2]))
    for clip in ([(0, 1)], [(0, 1), (0, float("nan"))]):
        with pytest.raises(SparseTensorError, match="clip"):
            voxelize(points, 1.0, clip=clip)
    with pytest.raises(SparseTensorError, match="integers"):
        unique_voxels(torch.zeros(4, 4))


# ---------------------------------------------------------------- rules


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), size=st.integers(0, 60))
def test_rules_against_a_loop(seed: int, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, count, size)
    values = rng.integers(-3, 4, (size, 3)).astype(np.float64)
    label = rng.integers(0, 4, size)
    cloud, inverse = torch.from_numpy(values), torch.from_numpy(rows)
    for row in range(count):
        mine = values[rows == row]
        expected = {
            "mean": mine.mean(0) if len(mine) else np.zeros(3),
            "sum": mine.sum(0),
            "max": mine.max(0) if len(mine) else np.zeros(3),
        }
        for how, value in expected.items():
            for engine in ENGINES:
                found = voxel_reduce(cloud, inverse, count, how, engine=engine)  # type: ignore[arg-type]
                np.testing.assert_allclose(found[row], value, atol=1e-12)
        votes = np.bincount(label[(rows == row) & (label != 2)], minlength=4)
        majority = voxel_reduce(torch.from_numpy(label), inverse, count, "majority", ignore=2)
        assert majority[row] == (votes.argmax() if votes.any() else 2)
    if set(rows) >= set(range(count)):
        first = voxel_reduce(cloud, inverse, count, "first")
        assert [row.tolist() for row in first] == [values[rows == row][0].tolist() for row in range(count)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["mean", "sum", "max", "first"])
def test_gradients_of_rules(engine, how: VoxelRule) -> None:
    torch.manual_seed(0)
    inverse = torch.tensor([1, 0, 1, -1, 2, 2, 2, 0])
    values = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: voxel_reduce(v, inverse, 3, how, engine=engine), values)


def test_bad_rules() -> None:
    inverse = torch.tensor([0, 1])
    with pytest.raises(SparseTensorError, match="unknown rule 'median'"):
        voxel_reduce(torch.zeros(2, 1), inverse, 2, "median")  # type: ignore[arg-type]
    with pytest.raises(SparseTensorError, match="out of range"):
        voxel_reduce(torch.zeros(2, 1), inverse, 1, "first")
    with pytest.raises(SparseTensorError, match="out of range"):
        voxel_reduce(torch.zeros(2, 1), inverse, 1, "max")
    with pytest.raises(SparseTensorError, match="no point that could be its first"):
        voxel_reduce(torch.zeros(2, 1), inverse, 3, "first")
    with pytest.raises(SparseTensorError, match="labels have to be integers"):
        voxel_reduce(torch.zeros(2), inverse, 2, "majority")
    with pytest.raises(SparseTensorError, match="row of its voxel"):
        voxel_reduce(torch.zeros(3, 1), inverse, 2, "first")


# ---------------------------------------------------------------- fields

POINTS = torch.tensor([[0, 1.2, 0, 0], [0, -0.3, 0, 0], [0, 1.9, 0.5, 0.1], [1, 1.2, 0, 0], [0, 1.0, 0, 0]])
VALUES = torch.tensor([[1.0, 5], [2, 2], [6, 3], [4, 4], [2, 7]])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [3, 5]), ("sum", [9, 15]), ("max", [6, 7]), ("first", [1, 5])],
)
def test_duplicates_by_an_explicit_rule(engine, how: VoxelRule, expected: list[float]) -> None:
    field = TensorField(VALUES, POINTS, coordinate_manager=CoordinateManager(engine))
    assert field.inverse.tolist() == [1, 0, 1, 2, 1]
    sparse = field.sparse(how)
    assert sparse.coordinates.tolist() == [[0, -1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]
    assert sparse.features.tolist() == [[2, 2], expected, [4, 4]]
    assert field.sparse("sum").coordinate_map_key == sparse.coordinate_map_key and sparse.batch_size == 2
    assert torch.equal(sparse.slice(field), sparse.features[[1, 0, 1, 2, 1]])
    whole = TensorField(VALUES, POINTS.floor().int(), coordinate_manager=CoordinateManager(engine))
    assert torch.equal(whole.sparse(how).features, sparse.features)


def test_a_network_on_a_field_and_back() -> None:
    torch.manual_seed(0)
    values = VALUES.double().requires_grad_()
    convolution = Convolution(2, 3, 3).double()
    down = Convolution(3, 2, 2, 2).double()

    def network(features: Tensor) -> Tensor:
        field = TensorField(features, POINTS)
        fine = convolution(field.sparse("mean"))
        return torch.cat([fine.slice(field), down(fine).slice(field)], 1)

    out = network(values)
    assert out.shape == (5, 5) and torch.equal(out[0], out[4]) and not torch.equal(out[0], out[1])
    assert torch.autograd.gradcheck(network, values)


def test_strides_and_pruned_sites() -> None:
    field = TensorField(VALUES, POINTS, tensor_stride=(2, 1, 1), batch_size=4)
    sparse = field.sparse("first")
    assert sparse.coordinates.tolist() == [[0, -2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert sparse.tensor_stride == (2, 1, 1) and sparse.batch_size == 4
    manager = field.coordinate_manager
    kept = SparseTensor(
        sparse.features[:2], sparse.coordinates[:2], coordinate_manager=manager, tensor_stride=(2, 1, 1)
    )
    assert kept.slice(field).tolist() == [[1, 5], [2, 2], [1, 5], [0, 0], [1, 5]]
    assert len(TensorField(torch.zeros(0, 2), torch.zeros(0, 4)).sparse("max")) == 0


@pytest.mark.parametrize(
    ("features", "coordinates", "message"),
    [
        (VALUES, POINTS.masked_fill(POINTS == 1.9, torch.nan), r"finite.*row 2"),
        (VALUES, POINTS.masked_fill(POINTS == 1.9, -torch.inf), r"finite.*row 2"),
        (VALUES, POINTS.masked_fill(POINTS == 1.9, 1e30), "out of range"),
        (VALUES, POINTS + torch.tensor([0.5, 0, 0, 0]), "whole numbers"),
        (VALUES, POINTS - torch.tensor([1.0, 0, 0, 0]), "batch"),
        (VALUES, POINTS[:, :2], "2, 3 or 4 axes"),
        (VALUES, POINTS[:2], "one row for each point"),
        (VALUES.int(), POINTS, "floating point"),
        (VALUES, POINTS > 0, "integers"),
    ],
)
def test_bad_fields(features: Tensor, coordinates: Tensor, message: str) -> None:
    with pytest.raises(SparseTensorError, match=message):
        TensorField(features, coordinates)


def test_what_a_field_cannot_do() -> None:
    field = TensorField(VALUES, POINTS)
    with pytest.raises(SparseTensorError, match="majority"):
        field.sparse("majority")
    with pytest.raises(SparseTensorError, match="another coordinate manager"):
        TensorField(VALUES, POINTS).sparse("mean").slice(field)
