"""What the sparse U-Nets share: how their taps are named, their batch norm, and a classifier on the rows of voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl3d.models.backbones.base import Backbone
from ssl3d.models.sparse import BatchNorm, Convolution, SeparableConvolution

Submanifold = type[Convolution] | type[SeparableConvolution]
"""A convolution without stride."""
MakeNorm = Callable[[int], BatchNorm]
"""A batch norm for so many channels."""


class SparseUNet(Backbone):
    """A U-Net of sparse convolutions over ``SiteInputs``.

    Attributes:
        params: have ``bn_eps`` and ``bn_momentum``.
        tap_names: ``enc0`` .. (down to the bottleneck), then ``dec1`` .. (up to tensor stride 1).
        stages: the taps that WS3D calls stages 1 to 5: tensor strides 16, 8, 4, 2, 1.
        raw_taps: those that are sums with no batch norm and ReLU after them (pre-activation networks): a head on one
            starts with batch norm and ReLU.
        encoder_channels: of ``enc0``, ``enc1`` .., for who builds a decoder of its own on them; each level has twice
            the tensor stride of the one before along every axis. Empty where that is not so.
    """

    elements = "voxels"
    params: Any
    tap_names: tuple[str, ...]
    stages: tuple[str, ...]
    raw_taps: frozenset[str] = frozenset()
    encoder_channels: tuple[int, ...] = ()

    @property
    def submanifold(self) -> Submanifold:
        """What its convolutions without stride are (``params.separable``, where it has the key)."""
        return SeparableConvolution if getattr(self.params, "separable", False) else Convolution

    def norm(self, channels: int) -> BatchNorm:
        """A batch norm with the parameters of this network."""
        return BatchNorm(channels, self.params.bn_eps, self.params.bn_momentum)


class RowHead(Convolution):
    """A pointwise convolution with bias on bare rows, (M, in) -> (M, out): ``kernel`` (in, out), ``bias`` (1, out).

    It computes in the type of its parameters (float32) also under autocast and on rows of a half type.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        with torch.autocast(x.device.type, enabled=False):
            return self.apply_rows(x.to(self.kernel.dtype))
