"""Convolutions onto sites of every rule, in 2D and 3D: against dense convolutions and worked numbers; arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.sparse import Convolution, ConvolutionTranspose, CoordinateManager, SparseTensor, SparseTensorError

ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])
SHAPE = (12, 10, 6)
"""Cells of the dense grids along x, y, z."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors this small more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dense_convolution(
    grid: Tensor, weight: Tensor, size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """(B, I, ...) -> (B, O, ...): windows centered for odd sizes, beginning at the cell for even ones."""
    before = [d * (k // 2) if k % 2 else 0 for k, d in zip(size, dilation, strict=True)]
    after = [d * (k - 1) - b for k, d, b in zip(size, dilation, before, strict=True)]
    pads = [pad for pair in zip(before[::-1], after[::-1], strict=True) for pad in pair]
    convolve = F.conv3d if len(size) == 3 else F.conv2d
    return convolve(F.pad(grid, pads), weight, stride=stride, dilation=dilation)


def dense_weight(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    """(K, I, O), first axis fastest -> (O, I, x, ...)."""
    return kernel.reshape(*size[::-1], *kernel.shape[1:]).permute(*reversed(range(len(size) + 2)))


@settings(max_examples=15, deadline=None)
@given(
    data=st.data(),
    axes=st.sampled_from([2, 3]),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.02, 0.15, 0.9]),
    engine=st.sampled_from(["numba", "torch"]),
)
def test_equal_to_dense_convolution(data: st.DataObject, axes: int, seed: int, share: float, engine: str) -> None:
    torch.manual_seed(seed)
    shape = SHAPE[:axes]
    size = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    stride, dilation = (data.draw(st.tuples(*[st.integers(1, 2)] * axes)) for _ in range(2))
    coordinates = (torch.rand(2, *shape) < share).nonzero()
    x = SparseTensor(
        torch.randn(len(coordinates), 2, dtype=torch.float64),
        coordinates[torch.randperm(len(coordinates))],
        coordinate_manager=CoordinateManager(engine),  # type: ignore[arg-type]
        batch_size=2,
    )
    grid = x.dense((2, 2, *shape))[0]

    for sites in ("floor", "reach"):
        down = Convolution(2, 3, size, stride, dilation, sites=sites, bounds=shape).double()  # type: ignore[arg-type]
        kernel = down.kernel[None] if down.pointwise else down.kernel
        expected = dense_convolution(grid, dense_weight(kernel, size), size, stride, dilation)
        coarse = down(x)
        places = coarse.C.long() // torch.tensor([1, *stride])
        torch.testing.assert_close(coarse.F, expected.movedim(1, -1)[tuple(places.t())], rtol=1e-9, atol=1e-9)
        if sites == "reach":  # no active window is missing
            torch.testing.assert_close(coarse.dense(expected.shape)[0], expected, rtol=1e-9, atol=1e-9)

    for sites in ("existing", "generated"):
        up = ConvolutionTranspose(3, 2, size, stride, dilation, sites=sites, bounds=shape).double()  # type: ignore[arg-type]
        kernel = up.kernel[None] if up.pointwise else up.kernel
        blank = torch.zeros_like(grid, requires_grad=True)
        weight = dense_weight(kernel.transpose(1, 2), size).detach()
        forward = dense_convolution(blank, weight, size, stride, dilation)  # whose gradient is the transposed one
        (expected,) = torch.autograd.grad(forward, blank, coarse.dense(forward.shape)[0])
        at_input = max(stride) == 1 and sites == "existing"  # the layer's rule is then the sites of its own input
        fine = up(coarse, x if at_input else None)
        if sites == "existing":
            assert fine.coordinate_map_key == x.coordinate_map_key
            found = expected.movedim(1, -1)[tuple(fine.C.long().t())]
            torch.testing.assert_close(fine.F, found, rtol=1e-9, atol=1e-9)
        else:
            torch.testing.assert_close(fine.dense(expected.shape)[0], expected, rtol=1e-9, atol=1e-9)


@ENGINES
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 3, 3), [6805, 50, 3502, 5704]),
        ((3, 1, 3), [6085, 3052, 500, 5074]),
        ((3, 3, 3), [16944, 6945, 13611, 15833]),
        ((3, 1, 1), [32, 21, 200, 2000]),
        ((1, 3, 1), [302, 20, 201, 2000]),
        ((1, 1, 3), [3002, 20, 200, 2001]),
    ],
)
def test_flat_kernels(size: tuple[int, int, int], expected: list[int], engine: str) -> None:
    """Weights 1, 2, ... with the *last* axis fastest, as spconv stores them."""
    sites = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    x = SparseTensor(torch.tensor([[1.0], [10.0], [100.0], [1000.0]]), sites, coordinate_manager=manager)
    layer = Convolution(1, 1, size)
    stored = torch.arange(1.0, math.prod(size) + 1).reshape(size)
    layer.kernel.data = stored.permute(2, 1, 0).reshape(-1, 1, 1)
    assert layer(x).F.flatten().tolist() == expected


def on_line(xs: list[int], values: list[float], engine: str) -> SparseTensor:
    coordinates = torch.tensor([[0, x, 0] for x in xs])
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    return SparseTensor(torch.tensor(values)[:, None], coordinates, coordinate_manager=manager)


def by_x(tensor: SparseTensor) -> dict[int, float]:
    step = tensor.tensor_stride[0]
    return {int(c[1]) // step: float(f) for c, f in zip(tensor.C, tensor.F[:, 0].detach(), strict=True)}


@ENGINES
def test_strided_along_a_line(engine: str) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    x = on_line([0, 1, 3], [1.0, 10.0, 100.0], engine)
    reach, floor = (Convolution(1, 1, (3, 1), (2, 1), sites=sites) for sites in ("reach", "floor"))
    up = ConvolutionTranspose(1, 1, (3, 1), (2, 1))
    for layer in (reach, floor, up):
        layer.kernel.data = weights
    assert by_x(reach(x)) == {0: 32, 1: 310, 2: 100}
    assert by_x(floor(x)) == {0: 32, 1: 310}
    back = up(reach(x))
    assert by_x(back) == {0: 64, 1: 406, 3: 1030} and back.coordinate_map_key == x.coordinate_map_key

    border = Convolution(1, 1, (3, 1), (2, 1), sites="reach", bounds=(480, 1))
    border.kernel.data = weights
    assert by_x(border(on_line([478, 479], [1.0, 10.0], engine))) == {239: 32}


def test_output_on_given_sites() -> None:
    x = on_line([0, 1, 3], [1.0, 10.0, 100.0], "numba")
    other = x.coordinate_manager.insert(torch.tensor([[0, 2, 0], [0, 9, 0]]))
    layer, pointwise = Convolution(1, 1, (3, 1)), Convolution(1, 1, 1, dimension=2)
    layer.kernel.data = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert by_x(layer(x, other)) == {2: 310, 9: 0}
    target = x.with_features(torch.zeros(2, 1), other)
    assert by_x(layer(x, target)) == {2: 310, 9: 0}
    assert by_x(pointwise(layer(x, other), x)) == {0: 0, 1: 0, 3: 0}
    with pytest.raises(SparseTensorError, match="another tensor stride"):
        Convolution(1, 1, (3, 1), (2, 1))(x, other)
    with pytest.raises(SparseTensorError, match="different coordinate manager"):
        layer(x, on_line([2], [0.0], "numba"))


def test_layers_of_another_kind_are_refused() -> None:
    x = on_line([0], [1.0], "numba")
    with pytest.raises(SparseTensorError, match=r"axes.*dimension=2"):
        Convolution(1, 1, 3)(x)
    for make in (Convolution, ConvolutionTranspose):
        with pytest.raises(SparseTensorError, match="no sites 'dilate'"):
            make(1, 1, 3, sites="dilate")  # type: ignore[arg-type]
    with pytest.raises(SparseTensorError, match="one for each of 2 axes"):
        Convolution(1, 1, (3, 3), (2, 2, 2))


def test_arithmetic() -> None:
    x = on_line([4, -2], [1.0, 2.0], "numba")
    y = x.with_features(torch.tensor([[10.0], [20.0]]))
    for result, expected in (
        (x + y, [11, 22]),
        (y - x, [9, 18]),
        (x * y, [10, 40]),
        (x + 1, [2, 3]),
        (1 + x, [2, 3]),
        (1 - x, [0, -1]),
        (3 * x, [3, 6]),
        (-x, [-1, -2]),
        (x * torch.tensor(0.5), [0.5, 1]),
        (x - torch.tensor([[1.0], [5.0]]), [0, -3]),
    ):
        assert isinstance(result, SparseTensor) and result.F.flatten().tolist() == expected
        assert result.coordinate_map_key == x.coordinate_map_key
    with pytest.raises(SparseTensorError, match="different sites"):
        x * x.with_features(y.F, x.coordinate_manager.strided(x.coordinate_map_key, 2))
    with pytest.raises(SparseTensorError, match="one row for each coordinate"):
        x + torch.ones(5, 2, 1)
    with pytest.raises(TypeError):
        x + "1"  # type: ignore[operator]


def test_dense() -> None:
    coordinates = torch.tensor([[1, -4, 2], [0, 2, 0]])
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x = SparseTensor(features, coordinates, tensor_stride=(2, 2), batch_size=3)
    grid, first, stride = x.dense(min_coordinate=(-4, 0))
    assert grid.shape == (3, 2, 4, 2) and first == (-4, 0) and stride == (2, 2)
    assert grid[1, :, 0, 1].tolist() == [1, 2] and grid[0, :, 3, 0].tolist() == [3, 4] and grid.sum() == 10
    assert x.dense(min_coordinate=(-4, 0), contract_stride=False)[0].shape == (3, 2, 7, 3)
    assert x.dense((4, 2, 9, 9), (-4, 0))[0].shape == (4, 2, 9, 9)
    grid.square().sum().backward()
    assert features.grad is not None and np.array_equal(features.grad.numpy(), 2 * features.detach().numpy())
    for shape, low in ((None, None), ((3, 2, 3, 2), (-4, 0)), ((2, 2, 9, 9), (-4, 0)), ((3, 1, 9, 9), (-4, 0))):
        with pytest.raises(SparseTensorError, match="do not fit"):
            x.dense(shape, low)
    with pytest.raises(SparseTensorError, match="too large"):
        x.dense((3, 2, 1 << 20, 1 << 20), (-4, 0))
