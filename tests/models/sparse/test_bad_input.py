"""What nobody should give the engine, and edges of what one may: the right result or an error that names the fault."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck

from ssl3d.models.sparse import (
    AvgPooling,
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    GlobalMaxPooling,
    GlobalSumPooling,
    MaxPooling,
    PoolingTranspose,
    Pruning,
    SparseTensor,
    SparseTensorError,
    SumPooling,
    TensorField,
    Union,
    interpolate,
    region_max,
    region_sum,
    voxel_mean,
    voxel_reduce,
    voxelize,
)
from ssl3d.models.sparse.functional import convolution
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT

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


@ENGINES
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_clouds_up_to_the_last_batch_index_have_their_pairs(engine: Any, axes: int) -> None:
    """Keys of the upper half of the batch indices have their highest bit but the sign set."""
    clouds = BATCH_LIMIT[axes]
    high = COORDINATE_LIMIT[axes] - 1
    line = torch.tensor([[high - 2] * axes, [high - 1] * axes, [high] * axes])
    batch = torch.arange(clouds).repeat_interleave(3)
    manager = CoordinateManager(engine)
    key = manager.insert(torch.cat([batch[:, None], line.repeat(clouds, 1)], 1))
    same = manager.kernel_map(key, key, 3)
    assert same.num_pairs == clouds * 7  # three centers, and two neighbors seen from both ends
    for pair in same.pairs:
        assert torch.equal(batch[pair.source.long()], batch[pair.target.long()])
    coarse = manager.strided(key, 2)
    assert manager.kernel_map(key, coarse, 2).num_pairs == clouds * 3
    assert bool((manager.parents(key, coarse) >= 0).all())


def test_tensor_strides_that_no_key_has_room_for() -> None:
    for stride in (1025, (1, 1 << 20, 1), 10**9):
        refused(lambda stride=stride: SparseTensor(torch.ones(1, 1), THREE[:1], tensor_stride=stride), "too large")
    assert len(SparseTensor(torch.ones(1, 1), THREE[:1], tensor_stride=1024)) == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_coordinates_of_any_integers(dtype: torch.dtype) -> None:
    x = SparseTensor(torch.ones(3, 1), (THREE * 2).to(dtype), tensor_stride=2)
    assert x.C.dtype == torch.int32 and torch.equal(x.C, 2 * THREE.int())
    refused(lambda: SparseTensor(torch.ones(3, 1), THREE.to(dtype), tensor_stride=2), "multiples of the tensor stride")


@pytest.mark.parametrize("value", [0, -1, 2.5, (2.5, 2, 2), "222", None, (2, 2), (2, 2, 0)])
def test_sizes_are_integers(value: Any) -> None:
    x = three()
    refused(lambda: SparseTensor(torch.ones(3, 1), THREE * 0, tensor_stride=value), "at least 1")
    refused(lambda: SumPooling(2, value)(x), "at least 1")
    if value != (2, 2):  # a layer of two axes
        refused(lambda: Convolution(4, 2, value), "at least 1")
        refused(lambda: Convolution(4, 2, 3, dilation=value), "at least 1")


@pytest.mark.parametrize("value", [np.int64(2), [2, 2, 2], np.array([2, 2, 2]), torch.tensor([2, 2, 2])])
def test_integers_of_any_library(value: Any) -> None:
    assert Convolution(4, 2, value, value).stride == (2, 2, 2)
    assert SumPooling(value, value)(three()).tensor_stride == (2, 2, 2)


@pytest.mark.parametrize("channels", [(0, 4), (4, 0), (-1, 4), (2.5, 4)])
def test_layers_have_channels(channels: tuple[int, int]) -> None:
    for size in (1, 3):
        refused(lambda size=size: Convolution(*channels, size), "channels")


def test_kernels_of_more_cells_than_anyone_waits_for() -> None:
    for layer in (SumPooling(2001), MaxPooling(10**9, 2), PoolingTranspose(10**5, sites="generated")):
        refused(lambda layer=layer: layer(three()), "the kernel is too large")
    assert len(SumPooling(512, 512)(three())) == 1


def test_batch_sizes() -> None:
    for size in (-1, 513, 10**9, 2.5, "3"):
        refused(lambda size=size: SparseTensor(torch.ones(3, 1), THREE, batch_size=size), "0 to 512 clouds")
        refused(lambda size=size: GlobalSumPooling()(three(), size), "0 to 512 clouds")
    assert GlobalSumPooling()(three(), 512).F.shape == (512, 4)


def test_the_callers_coordinates_may_change_afterwards() -> None:
    coordinates = THREE.int()
    x = SparseTensor(torch.ones(3, 1), coordinates)
    coordinates.zero_()
    assert torch.equal(x.C, THREE.int()) and len(SumPooling(2, 2)(x)) == 2


def test_a_key_names_nothing_in_another_manager() -> None:
    x, y = three(), three()
    refused(lambda: Convolution(4, 2, 3)(x, y.coordinate_map_key), "no coordinates are known")
    refused(lambda: x.with_features(x.F, y.coordinate_map_key), "no coordinates are known")
    for layer in (Convolution(4, 2, 3), SumPooling(3)):
        refused(lambda layer=layer: layer(x, THREE), "a sparse tensor or a key")


@torch.no_grad()
def test_copies_go_on_as_the_original(random_sites: MakeSites) -> None:
    sites = random_sites(5, batches=2)
    x = SparseTensor(torch.randn(len(sites), 4), sites)
    layers = nn.ModuleList([Convolution(4, 4, 3), Convolution(4, 4, 2, 2), ConvolutionTranspose(4, 4, 2, 2)])

    def through(x: SparseTensor, layers: nn.ModuleList) -> Tensor:
        y = layers[2](layers[1](layers[0](x)))
        some = Pruning()(y, torch.arange(len(y)) % 2 == 0)
        out: Tensor = Union()([some, y]).F
        return out

    before = through(x, layers)
    for copied in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        y, same = copied(x), copied(layers)
        assert y.coordinate_manager is not x.coordinate_manager and torch.equal(through(y, same), before)
        key = y.coordinate_manager.insert(sites)
        assert key != y.coordinate_map_key and torch.equal(through(y, same), before)


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


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 8), (3, 0), (0, 0)])
def test_convolutions_of_no_channels(inputs: int, outputs: int) -> None:
    manager = CoordinateManager()
    key = manager.insert(THREE)
    features = torch.ones(3, inputs, requires_grad=True)
    weight = torch.ones(27, inputs, outputs, requires_grad=True)
    out = convolution(features, weight, manager.kernel_map(key, key, 3))
    out.sum().backward()
    assert out.shape == (3, outputs) and not out.any()
    assert features.grad is not None and weight.grad is not None and not features.grad.any()
    refused(lambda: convolution(features, weight[0], manager.kernel_map(key, key, 3)), "fit each other")


@pytest.mark.parametrize("kind", ["same", "down", "up"])
def test_gradients_of_gradients(random_sites: MakeSites, kind: str) -> None:
    manager = CoordinateManager()
    fine = manager.insert(random_sites(3, 0.5))
    coarse = manager.strided(fine, 2)
    kernel_map = {
        "same": manager.kernel_map(fine, fine, 3),
        "down": manager.kernel_map(fine, coarse, 2),
        "up": manager.kernel_map(coarse, fine, 2, transposed=True),
    }[kind]
    features = torch.randn(kernel_map.num_in, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(kernel_map.volume, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda f, w: convolution(f, w, kernel_map), (features, weight))

    def penalty(dtype: torch.dtype) -> Tensor:
        f, w = (value.detach().to(dtype).requires_grad_() for value in (features, weight))
        (slope,) = torch.autograd.grad(convolution(f, w, kernel_map).sum(), f, create_graph=True)
        (found,) = torch.autograd.grad(slope.square().sum(), w)
        return found.double()

    assert penalty(torch.float64).any() and torch.allclose(penalty(torch.float32), penalty(torch.float64), 1e-4, 1e-5)


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
