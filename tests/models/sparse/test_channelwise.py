"""Channelwise and separable convolutions against dense ones, finite differences, and their number of weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.backbones.minkunet import MinkUNetMicroParams
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.sparse import (
    ChannelwiseConvolution,
    Convolution,
    CoordinateManager,
    SeparableConvolution,
    SparseTensor,
    SparseTensorError,
)
from ssl3d.models.sparse.channelwise import channelwise


@pytest.fixture
def coordinates() -> Tensor:
    """60 of the 512 sites of a cube, [batch, x, y, z]."""
    cube = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), *[torch.arange(8)] * 3)
    return cube[torch.randperm(len(cube), generator=torch.Generator().manual_seed(0))[:60]]


def dense(features: Tensor, coordinates: Tensor) -> Tensor:
    _, x, y, z = coordinates.unbind(1)
    cube = torch.zeros(1, features.shape[1], 8, 8, 8, dtype=features.dtype)
    cube[0, :, x, y, z] = features.t()
    return cube


def at(cube: Tensor, coordinates: Tensor) -> Tensor:
    _, x, y, z = coordinates.unbind(1)
    return cube[0, :, x, y, z].t()


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), ((3, 1, 5), 1)])
def test_it_is_a_dense_convolution_of_groups_at_the_sites(coordinates: Tensor, size: int, dilation: int) -> None:
    layer = ChannelwiseConvolution(5, size, dilation=dilation).double()
    features = torch.randn(60, 5, dtype=torch.float64)
    found = layer(SparseTensor(features, coordinates)).features
    sizes = layer.kernel_size
    weight = layer.kernel.reshape(*sizes[::-1], 5).permute(3, 2, 1, 0).unsqueeze(1)  # rows: x runs fastest
    padding = tuple(dilation * (s // 2) for s in sizes)
    expected = F.conv3d(dense(features, coordinates), weight, padding=padding, dilation=dilation, groups=5)
    torch.testing.assert_close(found, at(expected, coordinates))


def test_a_separable_one_is_the_convolution_of_the_product_of_its_weights(coordinates: Tensor) -> None:
    layer = SeparableConvolution(5, 7, 3).double()
    features = torch.randn(60, 5, dtype=torch.float64)
    whole = Convolution(5, 7, 3).double()
    with torch.no_grad():
        whole.kernel.copy_(layer.depthwise.kernel[:, :, None] * layer.pointwise.kernel[None])
    x = SparseTensor(features, coordinates)
    torch.testing.assert_close(layer(x).features, whole(x).features)


def test_the_number_of_weights_of_the_specification() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(Convolution(64, 128, 3)) == 221_184
    assert count(SeparableConvolution(64, 128, 3)) == 9_920


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (2, 2), (3, 2)])
def test_its_gradients_are_those_of_finite_differences(coordinates: Tensor, size: int, stride: int) -> None:
    manager = CoordinateManager()
    key = manager.insert(coordinates)
    kernel_map = manager.kernel_map(key, manager.strided(key, stride), size)
    features = torch.randn(60, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(size**3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: channelwise(f, w, kernel_map), (features, weight))
    layer = ChannelwiseConvolution(2, size, stride).double()
    x = SparseTensor(features, coordinates)
    assert layer(x).tensor_stride == (stride,) * 3
    for needs in ((True, False), (False, True)):
        one, other = (
            value.detach().requires_grad_(need) for value, need in zip((features, weight), needs, strict=True)
        )
        channelwise(one, other, kernel_map).sum().backward()
        assert (one.grad is not None, other.grad is not None) == needs


def test_half_types_are_summed_in_float32(coordinates: Tensor) -> None:
    layer = ChannelwiseConvolution(3, 3)
    torch.nn.init.ones_(layer.kernel)
    features = torch.full((60, 3), 40_000.0)
    features[::2] = -40_000.0
    manager = CoordinateManager()
    key = manager.insert(coordinates)
    x = SparseTensor(features.half(), coordinate_map_key=key, coordinate_manager=manager)
    found = layer(x)
    assert found.features.dtype == torch.float16
    expected = layer(SparseTensor(features, coordinate_map_key=key, coordinate_manager=manager)).features
    torch.testing.assert_close(found.features, expected.half())
    with torch.autocast("cpu", torch.bfloat16):
        out = SeparableConvolution(3, 4, 3)(SparseTensor(features, coordinates)).features
    assert torch.isfinite(out).all()


def test_what_does_not_fit_is_refused(coordinates: Tensor) -> None:
    x = SparseTensor(torch.randn(60, 3), coordinates)
    with pytest.raises(SparseTensorError, match="another number of channels"):
        ChannelwiseConvolution(4, 3)(x)
    kernel_map = x.coordinate_manager.kernel_map(x.coordinate_map_key, x.coordinate_map_key, 3)
    for features, weight in [(torch.randn(60, 3), torch.randn(8, 3)), (torch.randn(59, 3), torch.randn(27, 3))]:
        with pytest.raises(SparseTensorError, match="do not fit"):
            channelwise(features, weight, kernel_map)


def test_a_separable_minkunet_is_lighter() -> None:
    light, usual = (make_backbone("minkunet-micro", MinkUNetMicroParams(separable=s)) for s in (True, False))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (light, usual)]
    assert sizes[0] * 3 < sizes[1]
    assert any("depthwise" in name for name in light.state_dict())
    assert not any("depthwise" in name for name in usual.state_dict())
    strided = [module for module in light.modules() if isinstance(module, Convolution) and not module.pointwise]
    assert len(strided) == 4  # the ways down stay what they are


def test_the_key_changes_no_run_that_does_not_use_it() -> None:
    assert "separable" not in MinkUNetMicroParams().model_dump(mode="json")
    assert MinkUNetMicroParams().model_dump()["separable"] is False
    assert MinkUNetMicroParams(separable=True).model_dump(mode="json")["separable"] is True
