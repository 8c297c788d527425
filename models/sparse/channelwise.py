"""Convolutions that do not mix channels, and those made of one and a 1x1 convolution (depthwise separable).

Multiplications are few, so this is index, product and ``index_add_`` in torch on any device, whatever the backend of
the ordinary convolutions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Ints, KernelMap, ints
from ssl3d.models.sparse.modules import Convolution
from ssl3d.models.sparse.precision import wider
from ssl3d.models.sparse.tensor import SparseTensor


def channelwise(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """out(y) = sum_k w_k * in(s * y + o_k), channel by channel; half types are summed in float32.

    Args:
        features: (num_in, C).
        weight: (K, C), in the order of ``kernel_map.kernel_offsets``.

    Returns:
        (num_out, C), in the type of ``features``.

    Raises:
        SparseTensorError: features or weights that do not fit the map or each other.
    """
    if (
        weight.shape != (kernel_map.volume, features.shape[1])
        or len(features) != kernel_map.num_in
        or weight.device != features.device
    ):
        raise SparseTensorError(
            "features, weights and kernel map do not fit each other",
            where={
                "features": f"{tuple(features.shape)} {features.device}",
                "weights": f"{tuple(weight.shape)} {weight.device}",
                "rows of the input, kernel offsets": (kernel_map.num_in, kernel_map.volume),
            },
        )
    wide = torch.promote_types(wider(features.dtype), wider(weight.dtype))
    result: Tensor = _Channelwise.apply(features.to(wide), weight.to(wide), kernel_map)
    return result.to(features.dtype)


class _Channelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return _sum(features, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        kernel_map, (need_features, need_weight) = ctx.kernel_map, ctx.needs_input_grad[:2]
        to_features = _sum(grad, weight, kernel_map.reverse) if need_features else None
        if not need_weight:
            return to_features, None, None
        to_weight = torch.zeros_like(weight)
        if kernel_map.identity is not None:
            to_weight[kernel_map.identity] = (features * grad).sum(0)
        for offset, source, target in kernel_map.pairs:
            to_weight[offset] = (features[source] * grad[target]).sum(0)
        return to_features, to_weight, None


def _sum(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    if kernel_map.identity is not None:
        out = features * weight[kernel_map.identity]
    else:
        out = features.new_zeros(kernel_map.num_out, features.shape[1])
    for offset, source, target in kernel_map.pairs:
        out.index_add_(0, target, features[source] * weight[offset])
    return out


class ChannelwiseConvolution(nn.Module):
    """One filter a channel (MinkowskiChannelwiseConvolution): with stride 1 submanifold, else on floor(x / stride).

    ``kernel`` is (K, C). It starts uniform in +-1/sqrt(K).

    Args:
        kernel_size, stride, dilation: one number or one for each axis.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Ints,
        stride: int | Ints = 1,
        dilation: int | Ints = 1,
        dimension: int = 3,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size, self.stride, self.dilation = (ints(v, dimension) for v in (kernel_size, stride, dilation))
        self.kernel = nn.Parameter(torch.empty(math.prod(self.kernel_size), channels))
        bound = 1 / math.sqrt(len(self.kernel))
        nn.init.uniform_(self.kernel, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"

    def forward(self, x: SparseTensor) -> SparseTensor:
        if x.features.shape[1] != self.channels or len(self.kernel_size) != x.D:
            raise SparseTensorError(
                "the layer was made for another number of channels or axes",
                where={"layer": (self.channels, len(self.kernel_size)), "input": (x.features.shape[1], x.D)},
            )
        manager, key = x.coordinate_manager, x.coordinate_map_key
        out_key = key if max(self.stride) == 1 else manager.strided(key, self.stride)
        kernel_map = manager.kernel_map(key, out_key, self.kernel_size, self.dilation)
        return x.with_features(channelwise(x.features, self.kernel, kernel_map), out_key)


class SeparableConvolution(nn.Module):
    """A channelwise and a 1x1 convolution in place of a submanifold one: K in + in out weights, not K in out (SDSC of
    LiM3D, CVPR 2023). No bias, and nothing between the two."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Ints) -> None:
        super().__init__()
        self.depthwise = ChannelwiseConvolution(in_channels, kernel_size)
        self.pointwise = Convolution(in_channels, out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        out: SparseTensor = self.pointwise(self.depthwise(x))
        return out


__all__ = ["ChannelwiseConvolution", "SeparableConvolution", "channelwise"]
