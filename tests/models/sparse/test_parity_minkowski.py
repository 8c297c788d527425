"""The engine against MinkowskiEngine 0.5.4 itself, where it is built: .venv-minkowski/bin/python -m pytest FILE."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl3d.benchmarks.parity import LayerCase, Row, compare_layer, random_coordinates, row
from ssl3d.benchmarks.parity_networks import CLASSES, NETWORKS, Reference, both, make_inputs, pass_rows, wavy_ground
from ssl3d.benchmarks.parity_operators import compare_interpolation, compare_operator, operator_cases
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.backbones.voxels import VoxelInputs
from ssl3d.models.sparse import BatchNorm, Convolution, ConvolutionTranspose, CoordinateManager, ReLU, SparseTensor
from ssl3d.models.sparse.backends import BackendName, chosen_backend, use_backend

pytestmark = [
    pytest.mark.skipif(
        find_spec("MinkowskiEngine") is None,
        reason="MinkowskiEngine is not installed here (make minkowski, make test-all)",
    ),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

EXACT, ROUGH = 1e-11, 2e-5
"""Largest difference relative to the largest value: of float64, and of one operator in float32."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def check(rows: list[Row], tolerance: float | None = None) -> None:
    for found in rows:
        assert found.relative <= (tolerance or (EXACT if found.dtype == "float64" else ROUGH)), found


def layers(dimension: int) -> st.SearchStrategy[LayerCase]:
    size = st.sampled_from([1, 2, 3, 5] if dimension < 4 else [1, 2, 3])
    channels = st.integers(1, 64 if dimension < 4 else 8)
    return st.builds(
        LayerCase,
        kernel=st.one_of(size, st.tuples(*[size] * dimension)),
        stride=st.sampled_from([1, 2, 3]),
        dilation=st.sampled_from([1, 1, 2, 3]),
        transposed=st.booleans(),
        channels=st.tuples(channels, channels),
        dimension=st.just(dimension),
        bias=st.booleans(),
    )


@settings(max_examples=80, deadline=None)
@given(
    case=st.sampled_from([2, 3, 3, 3, 4]).flatmap(layers),
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 2, 40, 300]),
    span=st.sampled_from([2, 8, 40]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_convolutions(case: LayerCase, seed: int, count: int, span: int, dtype: torch.dtype) -> None:
    """Sites, output, gradients of input, weights and bias; one state dict for both."""
    check(compare_layer(case, random_coordinates(case.dimension, seed, count, span), dtype, seed))


@settings(max_examples=30, deadline=None)
@given(
    case=st.builds(
        LayerCase,
        kernel=st.sampled_from([1, 2, 3, (3, 1, 2)]),
        stride=st.sampled_from([2, 3]),
        dilation=st.sampled_from([1, 2]),
        transposed=st.just(True),
        generated=st.just(True),
    ),
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 40, 300]),
)
def test_generative_transposed_convolutions(case: LayerCase, seed: int, count: int) -> None:
    check(compare_layer(case, random_coordinates(3, seed, count), torch.float64, seed))


@DTYPES
@pytest.mark.parametrize("case", list(operator_cases()), ids=str)
def test_operators(case, dtype: torch.dtype) -> None:
    check(compare_operator(case, random_coordinates(3, 7), dtype))


@DTYPES
def test_interpolation(dtype: torch.dtype) -> None:
    check(compare_interpolation(random_coordinates(3, 8), dtype))


# ---------------------------------------------------------------- whole networks


@pytest.fixture(scope="module")
def batch() -> tuple[VoxelInputs, Tensor]:
    return make_inputs(points=6000, voxel_size=0.6)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_the_same_function(name: str, batch: tuple[VoxelInputs, Tensor]) -> None:
    """Logits, every weight's gradient, running statistics. One state dict for both, there and back.

    In float32 rounding changes the sign of a few inputs of ReLUs, where the derivative jumps; with the signs of float64
    the gradients agree, too.
    """
    torch.manual_seed(0)
    ours = Segmenter(make_backbone(name), CLASSES)
    exact = both(ours, torch.float64, *batch)
    check(pass_rows(name, *exact), 1e-10)
    check(pass_rows(name, *both(ours, torch.float32, *batch))[:1], 1e-4)
    check(pass_rows(name, *both(ours, torch.float32, *batch, like=exact)), 1e-4)


def test_weights_of_minkowski_engine_are_taken_over(batch: tuple[VoxelInputs, Tensor]) -> None:
    """What MinkowskiEngine drew and what its batch norms have seen, in evaluation."""
    torch.manual_seed(0)
    ours = Segmenter(make_backbone("minkunet14"), CLASSES)
    reference = Reference(ours)
    inputs, _ = batch
    reference.train()(inputs.features, inputs.coordinates)
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        theirs = reference.eval()(inputs.features, inputs.coordinates)
        check([row("logits", "output", ours.eval()(inputs).logits, theirs)], 1e-4)


# ---------------------------------------------------------------- the backend


@pytest.mark.parametrize("backend", ["minkowski", "spconv"])
@pytest.mark.parametrize("name", ["minkunet-micro", "spunet-micro", "cylinder3d-micro"])
def test_backbones_on_every_backend(name: str, backend: BackendName) -> None:
    if find_spec(backend) is None and backend == "spconv":
        pytest.skip("spconv has no wheel for this machine")
    torch.manual_seed(0)
    network = Segmenter(make_backbone(name, {"scene": "outdoor"} if "spunet" in name else {}), CLASSES).eval()
    inputs = network.backbone.input_spec.prepare([wavy_ground(2000, seed) for seed in (0, 1)])
    with torch.no_grad():
        ours = network(inputs).logits
        with use_backend(backend):
            theirs = network(inputs).logits
    check([row(name, backend, ours, theirs)], 1e-4)


def chain(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        Convolution(4, 8, 3), BatchNorm(8), ReLU(), Convolution(8, 16, 2, 2, bias=True), Convolution(16, 16, 1),
        Convolution(16, 8, (3, 1, 5), dilation=2), ConvolutionTranspose(8, 8, 3, 2), Convolution(8, 3, 5),
        Convolution(3, 3, 3, 3), ConvolutionTranspose(3, 2, 3, 3, bias=True), Convolution(2, 2, 2),
    ).to(dtype)  # fmt: skip


def passed(network: nn.Module, x: SparseTensor) -> dict[str, Tensor]:
    """Output and gradients of a pass."""
    network.zero_grad()
    features = x.features.detach().clone().requires_grad_()
    out = network(x.with_features(features)).F
    out.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert features.grad is not None and len(grads) == len(list(network.parameters()))
    return {"output": out.detach(), "input": features.grad, **grads}


@DTYPES
def test_backend_computes_what_the_native_one_does(random_sites: Callable[..., Tensor], dtype: torch.dtype) -> None:
    coordinates = random_sites(10, 0.3, 4, batches=2, low=-5)  # in random order: rows have to be ours
    x = SparseTensor(torch.randn(len(coordinates), 4, dtype=dtype), coordinates)
    network = chain(dtype)
    ours = passed(network, x)
    with use_backend("minkowski"):
        assert chosen_backend().library == "MinkowskiEngine 0.5.4"
        theirs = passed(network, x)
    check([row("chain", name, ours[name], theirs[name]) for name in ours], 1e-10 if dtype == torch.float64 else 1e-4)


def test_backend_under_autocast(random_sites: Callable[..., Tensor]) -> None:
    coordinates = random_sites(8, 0.3, 4)
    x = SparseTensor(torch.randn(len(coordinates), 4), coordinates)
    layer = Convolution(4, 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x).F
        with use_backend("minkowski"):
            theirs = layer(x).F
    assert theirs.dtype == ours.dtype
    check([row("bfloat16", "output", ours.float(), theirs.float())], 0.02)


def test_backend_takes_empty_tensors() -> None:
    x = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.int32))
    with use_backend("minkowski"):
        assert Convolution(4, 8, 2, 2)(x).F.shape == (0, 8)


def test_backend_forgets_the_sites_with_their_manager(random_sites: Callable[..., Tensor]) -> None:
    manager = CoordinateManager()
    coordinates = random_sites(6)
    x = SparseTensor(torch.ones(len(coordinates), 2), coordinates, coordinate_manager=manager)
    with use_backend("minkowski") as backend:
        Convolution(2, 2, 3)(x).F.sum().backward()
        mirror = weakref.ref(backend._mirrors[manager])  # type: ignore[attr-defined]
        del x, manager
        gc.collect()
    assert mirror() is None
