"""Interpolation: worked numbers, dense ``grid_sample``-like loops, gradients, borders and bad points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.models.sparse import CoordinateManager, Interpolation, SparseTensor, SparseTensorError, interpolate
from ssl3d.models.sparse.interpolate import corners
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT

ENGINES = ["numba", "torch"]


def tensor(axes: int, stride: int, engine: str, seed: int = 0, share: float = 0.6, size: int = 4) -> SparseTensor:
    rng = np.random.default_rng(seed)
    sites = np.argwhere(rng.random((2, *[size] * axes)) < share)
    sites[:, 1:] = (sites[:, 1:] - 2) * stride
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    features = torch.from_numpy(rng.normal(size=(len(sites), 3)))
    coordinates = torch.from_numpy(rng.permutation(sites))
    return SparseTensor(features, coordinates, coordinate_manager=manager, tensor_stride=stride)


def somewhere(axes: int, stride: int, count: int = 60, seed: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 3, (count, axes)) * stride
    return torch.from_numpy(np.c_[rng.integers(0, 2, count), points])


def by_loop(x: SparseTensor, points: Tensor, renormalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Linear, and nearest."""
    site = {tuple(c): f for c, f in zip(x.coordinates.tolist(), x.features.detach().numpy(), strict=True)}
    linear, nearest = np.zeros((len(points), x.features.shape[1])), np.zeros((len(points), x.features.shape[1]))
    for i, (b, *place) in enumerate(points.tolist()):
        weight, largest = 0.0, -1.0
        axes = [(math.floor(p / s) * s, math.floor(p / s) * s + s) for p, s in zip(place, x.tensor_stride, strict=True)]
        for corner in itertools.product(*axes[::-1]):
            cell = corner[::-1]
            w = math.prod(1 - abs(p - c) / s for p, c, s in zip(place, cell, x.tensor_stride, strict=True))
            value = site.get((int(b), *cell))
            if value is not None:
                linear[i] += w * value
                weight += w
            if w > largest and (value is not None or not renormalize):
                largest, nearest[i] = w, 0 if value is None else value
        if renormalize and weight > 0:
            linear[i] /= weight
    return linear, nearest


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize(("axes", "stride"), [(2, 1), (3, 1), (3, 4), (4, 2)])
def test_against_a_loop(axes: int, stride: int, renormalize: bool, engine: str) -> None:
    x, points = tensor(axes, stride, engine), somewhere(axes, stride)
    linear, nearest = by_loop(x, points, renormalize)
    found = Interpolation("linear", renormalize)(x, points)
    np.testing.assert_allclose(found, linear, atol=1e-12)
    np.testing.assert_allclose(Interpolation("nearest", renormalize)(x, points), nearest, atol=1e-12)
    assert torch.equal(found, interpolate(x, points, renormalize=renormalize))
    assert (found.abs().sum(1) == 0).any()  # some have no site around them
    order = torch.randperm(len(points))
    assert torch.equal(interpolate(x, points[order], renormalize=renormalize), found[order])


@pytest.mark.parametrize("engine", ENGINES)
def test_worked_numbers(engine) -> None:
    sites = torch.tensor([[0, 0, 0], [0, 2, 0], [0, 0, 2]])
    x = SparseTensor(
        torch.tensor([[1.0], [10], [100]]), sites, tensor_stride=2, coordinate_manager=CoordinateManager(engine)
    )
    points = torch.tensor([[0, 0, 0], [0, 0.5, 0], [0, 0.5, 0.5], [0, 2, 0], [0, -0.5, 0], [1, 0, 0], [0, 1, 0]])
    # (0.5, 0.5): 9/16 of 1, 3/16 of 10, 3/16 of 100, 1/16 of the missing corner
    expected = [1, 0.75 + 2.5, 0.5625 + 1.875 + 18.75, 10, 0.75, 0, 5.5]
    assert interpolate(x, points)[:, 0].tolist() == expected
    scaled = interpolate(x, points, renormalize=True)[:, 0].tolist()
    assert scaled == pytest.approx([1, 3.25, expected[2] * 16 / 15, 10, 1, 0, 5.5])
    assert interpolate(x, points, "nearest")[:, 0].tolist() == [1, 1, 1, 10, 1, 0, 1]
    rows, weights = corners(x, points[2:3])
    assert rows.tolist() == [[0, 1, 2, -1]] and weights.tolist() == [[0.5625, 0.1875, 0.1875, 0.0625]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize(("axes", "stride"), [(2, 1), (3, 2), (4, 1)])
def test_gradients(axes: int, stride: int, renormalize: bool, engine: str) -> None:
    x = tensor(axes, stride, engine, size=2)
    x = x.with_features(x.features[:, :2])
    points = somewhere(axes, stride, 3, seed=3)
    points[:, 1:] = points[:, 1:] / 3 - 1.1 * stride  # near the sites
    place = points[:, 1:].clone().requires_grad_()
    features = x.features.clone().requires_grad_()

    def linear(features: Tensor, place: Tensor) -> Tensor:
        cloud = torch.cat([points[:, :1], place], 1)
        return interpolate(x.with_features(features), cloud, renormalize=renormalize)

    assert torch.autograd.gradcheck(linear, (features, place))

    def nearest(features: Tensor) -> Tensor:
        return interpolate(x.with_features(features), points, "nearest", renormalize=renormalize)

    assert torch.autograd.gradcheck(nearest, features)


@pytest.mark.parametrize("engine", ENGINES)
def test_not_a_number_stays_where_it_is(engine) -> None:
    x = tensor(3, 1, engine, share=1.0)
    spoiled = x.features.clone()
    spoiled[0] = torch.nan
    at_sites = x.coordinates.double()
    found = interpolate(x.with_features(spoiled), at_sites)
    assert torch.equal(found[1:], x.features[1:]) and found[0].isnan().all()


def test_types_and_layout() -> None:
    x, points = tensor(3, 1, "numba"), somewhere(3, 1)
    expected = interpolate(x, points)
    for dtype, atol in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)):
        found = interpolate(x.with_features(x.features.to(dtype)), points.float())
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=atol, rtol=0)
    columns = x.with_features(x.features.t().contiguous().t())
    assert torch.equal(interpolate(columns, points.t().contiguous().t()), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_empty_and_far_away(engine) -> None:
    x = tensor(3, 1, engine)
    assert interpolate(x, torch.zeros(0, 4)).shape == (0, 3)
    none = SparseTensor(
        torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.int32), coordinate_manager=CoordinateManager(engine)
    )
    assert interpolate(none, torch.zeros(3, 4)).tolist() == [[0, 0]] * 3
    limit = COORDINATE_LIMIT[3]
    far = torch.tensor(
        [[0, 1e30, 0, 0], [0, -1e30, 0, 0], [0, limit, 0, 0], [1, 0, 0, -limit - 2]], dtype=torch.float64
    )
    assert interpolate(x, far, renormalize=True).abs().sum() == 0
    ends = torch.tensor([[0, limit - 1, -limit, 0], [0, -limit, limit - 1, 0]])
    edge = SparseTensor(torch.tensor([[1.0], [2.0]]), ends, coordinate_manager=CoordinateManager(engine))
    half = ends.double() + torch.tensor([0, 0.5, 0.25, 0])
    assert interpolate(edge, half)[:, 0].tolist() == [0.375, 0.75]
    assert interpolate(edge, ends.double() - torch.tensor([0, 0.5, 0, 0]))[:, 0].tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(2, 3), r"\(P, 4\)"),
        (torch.zeros(4), r"\(P, 4\)"),
        (torch.zeros(2, 4, dtype=torch.int32), "floating point"),
        (torch.tensor([[0, 0, torch.nan, 0]]), "finite.*row 0"),
        (torch.tensor([[0, 0, torch.inf, 0]]), "finite"),
        (torch.tensor([[0.5, 0, 0, 0]]), "whole numbers"),
        (torch.tensor([[-1.0, 0, 0, 0]]), "whole numbers in 0"),
        (torch.tensor([[float(BATCH_LIMIT[3]), 0, 0, 0]]), "whole numbers in 0"),
    ],
)
def test_bad_points(points: Tensor, message: str) -> None:
    with pytest.raises(SparseTensorError, match=message):
        interpolate(tensor(3, 1, "numba"), points)


def test_unknown_mode() -> None:
    with pytest.raises(SparseTensorError, match="linear or nearest"):
        interpolate(tensor(3, 1, "numba"), torch.zeros(1, 4), "cubic")  # type: ignore[arg-type]
