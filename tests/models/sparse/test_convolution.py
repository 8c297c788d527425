"""Sparse convolutions against worked numbers, dense convolutions and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.sparse import (
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    SparseTensor,
    SparseTensorError,
    cat,
)
from ssl3d.models.sparse.functional import convolution

Sites = Callable[..., Tensor]
ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])


def on_line(xs: list[int], values: list[float], engine: str) -> SparseTensor:
    coordinates = torch.tensor([[0, x, 0, 0] for x in xs], dtype=torch.int32)
    return SparseTensor(torch.tensor(values)[:, None], coordinates, coordinate_manager=CoordinateManager(engine))


def by_x(tensor: SparseTensor) -> dict[int, float]:
    return {int(c[1]): float(f) for c, f in zip(tensor.C, tensor.F[:, 0].detach(), strict=True)}


def set_weights(layer: Convolution | ConvolutionTranspose, values: list[float]) -> None:
    layer.kernel.data = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)


@ENGINES
def test_worked_numbers_in_one_dimension(engine: str) -> None:
    x = on_line([3, 0, 1], [100.0, 1.0, 10.0], engine)
    same = Convolution(1, 1, (3, 1, 1))
    set_weights(same, [1, 2, 3])
    assert by_x(same(x)) == {0: 32, 1: 21, 3: 200}

    down = Convolution(1, 1, (2, 1, 1), (2, 1, 1))
    set_weights(down, [1, 2])
    coarse = down(x)
    assert coarse.tensor_stride == (2, 1, 1)
    assert by_x(coarse) == {0: 21, 2: 200}

    up = ConvolutionTranspose(1, 1, (2, 1, 1), (2, 1, 1))
    set_weights(up, [1, 2])
    fine = up(coarse)
    assert fine.coordinate_map_key == x.coordinate_map_key
    assert by_x(fine) == {0: 21, 1: 42, 3: 400}


@ENGINES
def test_negative_coordinates_are_floored(engine: str) -> None:
    down = Convolution(1, 1, (2, 1, 1), (2, 1, 1))
    set_weights(down, [1, 2])
    assert by_x(down(on_line([-3, -1, 0], [1.0, 10.0, 100.0], engine))) == {-4: 2, -2: 20, 0: 100}


@ENGINES
def test_first_axis_of_the_kernel_runs_fastest(engine: str) -> None:
    """MinkowskiEngine's order: weight dx + 3 * (dy + 3 * dz) reads the input at x + (dx - 1, dy - 1, dz - 1)."""
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    x = SparseTensor(
        torch.tensor([[1.0], [10.0], [100.0], [1000.0]]), coordinates, coordinate_manager=CoordinateManager(engine)
    )
    layer = Convolution(1, 1, 3)
    picked = {}
    for k in range(27):
        layer.kernel.data.zero_()
        layer.kernel.data[k] = 1
        picked[k] = layer(x).F[0].item()
    assert {k: v for k, v in picked.items() if v} == {13: 1, 14: 10, 16: 100, 22: 1000}


def dense(x: SparseTensor, size: int, low: int, batches: int) -> Tensor:
    grid = torch.zeros(batches, x.F.shape[1], size, size, size, dtype=x.F.dtype)
    b, i, j, k = (x.C.long() - torch.tensor([0, low, low, low])).unbind(1)
    grid[b, :, i, j, k] = x.F
    return grid


def dense_weight(kernel: Tensor, size: int) -> Tensor:
    """(K, I, O), first axis fastest -> (O, I, x, y, z)."""
    return kernel.reshape(size, size, size, *kernel.shape[1:]).permute(4, 3, 2, 1, 0)


def read(grid: Tensor, coordinates: Tensor, low: int, stride: int) -> Tensor:
    b, i, j, k = coordinates.long().unbind(1)
    return grid[b, :, (i - low) // stride, (j - low) // stride, (k - low) // stride]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.02, 0.3, 0.9]),
    engine=st.sampled_from(["numba", "torch"]),
    low=st.sampled_from([0, -4, -8]),
)
def test_equal_to_dense_convolution(random_sites: Sites, seed: int, share: float, engine: str, low: int) -> None:
    torch.manual_seed(seed)
    coordinates = random_sites(8, share, seed, batches=2, low=low)
    x = SparseTensor(
        torch.randn(len(coordinates), 3, dtype=torch.float64), coordinates, coordinate_manager=CoordinateManager(engine)
    )
    grid = dense(x, 8, low, 2)
    for size, dilation in ((3, 1), (5, 1), (3, 2)):
        layer = Convolution(3, 4, size, dilation=dilation, bias=True).double()
        expected = F.conv3d(
            grid,
            dense_weight(layer.kernel, size),
            layer.bias[0],  # type: ignore[index]
            padding=dilation * (size // 2),
            dilation=dilation,
        )
        torch.testing.assert_close(layer(x).F, read(expected, x.C, low, 1), rtol=1e-9, atol=1e-9)

    down = Convolution(3, 4, 2, 2).double()
    coarse = down(x)
    expected = F.conv3d(grid, dense_weight(down.kernel, 2), stride=2)
    torch.testing.assert_close(coarse.F, read(expected, coarse.C, low, 2), rtol=1e-9, atol=1e-9)
    assert set(map(tuple, coarse.C.tolist())) == {
        (b, i // 2 * 2, j // 2 * 2, k // 2 * 2) for b, i, j, k in x.C.tolist()
    }

    up = ConvolutionTranspose(4, 5, 2, 2).double()
    fine = up(coarse)
    coarse_grid = torch.zeros_like(expected)
    b, i, j, k = coarse.C.long().unbind(1)
    coarse_grid[b, :, (i - low) // 2, (j - low) // 2, (k - low) // 2] = coarse.F
    weight = dense_weight(up.kernel, 2).transpose(0, 1)
    torch.testing.assert_close(
        fine.F, read(F.conv_transpose3d(coarse_grid, weight, stride=2), x.C, low, 1), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("kind", ["same", "down", "up", "strided3"])
def test_gradients(random_sites: Sites, engine: str, kind: str) -> None:
    torch.manual_seed(0)
    manager = CoordinateManager(engine)
    key = manager.insert(random_sites(4, 0.3, 1))
    coarse = manager.strided(key, 2)
    size = 3 if kind in ("same", "strided3") else 2
    ends = {"same": (key, key), "down": (key, coarse), "strided3": (key, coarse), "up": (coarse, key)}[kind]
    kernel_map = manager.kernel_map(*ends, size, 1, kind == "up")
    features = torch.randn(kernel_map.num_in, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(size**3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: convolution(f, w, kernel_map), (features, weight))
    # an input that needs no gradient (the stem) gets none, and the weight's is the same
    convolution(features, weight, kernel_map).square().sum().backward()
    full = weight.grad
    weight.grad = None
    convolution(features.detach(), weight, kernel_map).square().sum().backward()
    assert full is not None and weight.grad is not None and torch.equal(full, weight.grad)


def test_two_runs_are_bit_equal(random_sites: Sites) -> None:
    coordinates = random_sites(24, 0.2, 3)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        layer = Convolution(8, 16, 3)
        features = torch.randn(len(coordinates), 8, requires_grad=True)
        out = layer(SparseTensor(features, coordinates)).F
        out.square().sum().backward()
        assert features.grad is not None and layer.kernel.grad is not None
        results.append((out.detach(), features.grad, layer.kernel.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_precision_sums_in_float32(random_sites: Sites) -> None:
    torch.manual_seed(0)
    coordinates = random_sites(12, 0.4, 5)
    x = SparseTensor(torch.randn(len(coordinates), 16), coordinates)
    layer, norm = Convolution(16, 16, 3), BatchNorm(16)
    exact = layer(x).F
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        normed = norm(half)
        normed.F.float().square().sum().backward()
    assert half.F.dtype == normed.F.dtype == torch.bfloat16
    assert norm.bn.running_mean is not None and norm.bn.running_mean.dtype == torch.float32
    assert layer.kernel.grad is not None and layer.kernel.grad.dtype == torch.float32
    assert (half.F.float() - exact).abs().max() < 0.02 * exact.abs().max()


def test_parameters_are_laid_out_as_in_minkowski_engine() -> None:
    assert Convolution(4, 8, 3).kernel.shape == (27, 4, 8)
    assert ConvolutionTranspose(4, 8, 2, 2).kernel.shape == (8, 4, 8)
    pointwise = Convolution(4, 8, 1, bias=True)
    assert pointwise.kernel.shape == (4, 8) and pointwise.bias is not None and pointwise.bias.shape == (1, 8)
    assert "bn.running_var" in BatchNorm(3).state_dict()


def test_pointwise_convolution_is_a_matrix_product(random_sites: Sites) -> None:
    coordinates = random_sites(4)
    x = SparseTensor(torch.randn(len(coordinates), 3), coordinates)
    layer = Convolution(3, 2, 1, bias=True)
    assert layer.bias is not None
    torch.testing.assert_close(layer(x).F, x.F @ layer.kernel + layer.bias)


def test_concatenation_and_sum_need_the_same_sites(random_sites: Sites) -> None:
    coordinates = random_sites(4)
    a, b = (SparseTensor(torch.ones(len(coordinates), 2), coordinates) for _ in range(2))
    assert cat([a, a.with_features(a.F * 2)]).F.shape == (len(a), 4)
    assert torch.equal((a + a).F, 2 * a.F)
    with pytest.raises(SparseTensorError, match="different coordinate managers"):
        cat([a, b])
    with pytest.raises(SparseTensorError, match="different sites"):
        a + Convolution(2, 2, 2, 2)(a)


def test_misuse_is_explained(random_sites: Sites) -> None:
    coordinates = random_sites(4)
    x = SparseTensor(torch.ones(len(coordinates), 2), coordinates)
    with pytest.raises(SparseTensorError, match="another number of channels"):
        Convolution(3, 2, 3)(x)
    with pytest.raises(SparseTensorError, match="not divisible"):
        ConvolutionTranspose(2, 2, 2, 2)(x)
    alone = SparseTensor(torch.ones(1, 2), torch.tensor([[0, 4, 4, 4]]), tensor_stride=4)
    with pytest.raises(SparseTensorError, match="no coordinates are known"):
        ConvolutionTranspose(2, 2, 2, 2)(alone)
    with pytest.raises(SparseTensorError, match="more than one voxel"):
        BatchNorm(2)(alone)
    assert BatchNorm(2).eval()(alone).F.shape == (1, 2)
