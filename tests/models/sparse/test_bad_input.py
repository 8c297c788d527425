"""What nobody should give the engine, and edges of what one may: the right result or an error that names the fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from ssl3d.models.sparse import (
    AvgPooling,
    BatchNorm,
    Convolution,
    CoordinateManager,
    GlobalMaxPooling,
    MaxPooling,
    Pruning,
    SparseTensor,
    SparseTensorError,
    TensorField,
    interpolate,
    region_max,
    region_sum,
    voxel_mean,
    voxel_reduce,
    voxelize,
)

MakeSites = Callable[..., Tensor]
ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])
THREE = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 5, 5, 5]])


def three(channels: int = 4, dtype: torch.dtype = torch.float32) -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    return SparseTensor(torch.randn(3, channels, generator=generator).to(dtype), THREE)


def refused(function: Callable[[], object], match: str) -> None:
    with pytest.raises(SparseTensorError, match=match):
        function()


# ---------------------------------------------------------------- sites


# ---------------------------------------------------------------- features


def test_only_tensors() -> None:
    features, coordinates = torch.ones(3, 4), THREE
    bad: Any = ((features, coordinates.tolist()), (features.numpy(), coordinates), (features.to_sparse(), coordinates))
    for values in bad:
        refused(lambda values=values: SparseTensor(*values), r"dense torch\.Tensor")
        refused(lambda values=values: TensorField(*values), r"dense torch\.Tensor")
    x = three()
    refused(lambda: interpolate(x, THREE.tolist()), "points have to be")  # type: ignore[arg-type]
    refused(lambda: Pruning()(x, [True] * 3), "mask have to be")  # type: ignore[arg-type]
    refused(lambda: voxelize(np.zeros((3, 3)), 1.0), "points have to be")  # type: ignore[arg-type]
    refused(lambda: voxelize(torch.zeros(3, 3), "a"), "voxel_size")  # type: ignore[arg-type]
    refused(lambda: voxelize(torch.zeros(3, 3), 1.0, clip=((0, 1), (0, 1), (0,))), "clip")  # type: ignore[arg-type]


def test_features_of_other_rows_are_refused_when_they_are_set() -> None:
    x = three()
    for features in (torch.ones(2, 4), torch.ones(4, 4), torch.ones(3), torch.ones(3, 4, dtype=torch.int32)):
        with pytest.raises(SparseTensorError, match="one row for each coordinate"):
            x.features = features
    x.features = torch.ones(3, 2)
    assert x.F.sum() == 6


def test_types_and_channels_of_layers() -> None:
    for dtype in (torch.float64, torch.float16):
        x = three(dtype=dtype)
        for layer in (Convolution(4, 2, 1), Convolution(4, 2, 1, bias=True), Convolution(4, 2, 3)):
            refused(lambda layer=layer, x=x: layer(x), "fit each other|differ in type")
        assert Convolution(4, 2, 1).to(dtype)(x).F.dtype == dtype
    refused(lambda: BatchNorm(4)(three(dtype=torch.float64)), "differ in type")
    for layer in (BatchNorm(5), BatchNorm(5).eval()):
        refused(lambda layer=layer: layer(three()), "another number of channels")
    with torch.autocast("cpu", torch.bfloat16):
        assert Convolution(4, 2, 1)(three(dtype=torch.float16)).F.dtype == torch.bfloat16
    x = three()
    refused(lambda: x + x.with_features(torch.ones(3, 2)), "different numbers of channels")


def test_dense_grids_beyond_all_numbers() -> None:
    corner = torch.tensor([[127, 7679, 7679, 7679, 7679]])
    refused(lambda: SparseTensor(torch.ones(1, 4096), corner).dense(), "too large")
    refused(lambda: three().dense(min_coordinate=(0, 0)), "for each of 3 axes")


@ENGINES
def test_maxima_over_nothing_have_gradients(engine: Any) -> None:
    for layer in (GlobalMaxPooling(), MaxPooling(2, 2), MaxPooling(3)):
        features = torch.zeros(0, 4, requires_grad=True)
        manager = CoordinateManager(engine)
        x = SparseTensor(features, torch.zeros(0, 4, dtype=torch.int32), coordinate_manager=manager, batch_size=3)
        (grad,) = torch.autograd.grad(layer(x).F.sum(), features, create_graph=True)
        assert grad.shape == (0, 4)
    values = torch.zeros(0, 2, requires_grad=True)
    region_max(values, torch.zeros(0, dtype=torch.int64), 5, engine=engine).sum().backward()
    assert values.grad is not None


@ENGINES
def test_gradients_of_gradients_of_interpolation(random_sites: MakeSites, engine: Any) -> None:
    sites = random_sites(3, 0.6)
    x = SparseTensor(torch.zeros(len(sites), 1), sites, coordinate_manager=CoordinateManager(engine))
    features = torch.randn(len(sites), 2, dtype=torch.float64, requires_grad=True)
    places = (torch.rand(5, 3, dtype=torch.float64) * 0.8 + torch.arange(5)[:, None] % 2 + 0.1).requires_grad_()

    def at(features: Tensor, places: Tensor) -> Tensor:
        return interpolate(x.with_features(features), torch.cat([torch.zeros(5, 1, dtype=torch.float64), places], 1))

    assert gradgradcheck(at, (features, places))


def test_inference_mode_leaves_maps_that_train(random_sites: MakeSites) -> None:
    sites = random_sites(5)
    layers = (Convolution(4, 4, 3), MaxPooling(3, 2), AvgPooling(2, 2))
    with torch.inference_mode():
        x = SparseTensor(torch.randn(len(sites), 4), sites)
        for layer in layers:
            layer(x)
    for layer in layers:
        features = torch.randn(len(sites), 4, requires_grad=True)
        layer(x.with_features(features)).F.sum().backward()
        assert features.grad is not None and bool(features.grad.any())


# ---------------------------------------------------------------- points


def test_rows_of_voxels_are_checked_before_a_mean() -> None:
    values = torch.ones(4, 2)
    for rows in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0, 1 << 40]), torch.tensor([0, 0, 0, -2])):
        refused(lambda rows=rows: voxel_mean(values, rows, 3), "out of range")
    for rows in (torch.zeros(3, dtype=torch.int64), torch.zeros(4)):
        refused(lambda rows=rows: voxel_mean(values, rows, 3), "row of its voxel")
    refused(lambda: voxel_mean(values[:, 0], torch.zeros(4, dtype=torch.int64), 3), r"\(P, F\)")
    rows = torch.tensor([0, 0, 1, -1], dtype=torch.int32)
    for kind in (values.half(), values.double(), values.requires_grad_()):
        assert voxel_mean(kind, rows, 2).tolist() == [[1, 1], [1, 1]]


def test_ids_are_no_counts() -> None:
    """Packed ids, such as instance << 16 | class, may not silently wrap around or fill the memory."""
    ids = torch.tensor([3 << 30, 1])
    for rule in (region_sum, region_max):
        refused(lambda rule=rule: rule(torch.ones(2, 1), ids), "too many regions")
    rows = torch.tensor([0, 0])
    for labels in (torch.tensor([-1, 2]), torch.tensor([1 << 61, 2])):
        refused(lambda labels=labels: voxel_reduce(labels, rows, 1, "majority"), "labels that vote")
    assert voxel_reduce(torch.tensor([-1, 2]), rows, 1, "majority", ignore=-1).tolist() == [2]
    few = torch.tensor([1, 2], dtype=torch.uint8)
    refused(lambda: voxel_reduce(few, rows, 1, "majority", ignore=300), "ignore is no number")
