"""Layers with MinkowskiEngine's vocabulary, parameter layout and state-dict names.

``kernel`` is (K, in, out), or (in, out) for a kernel of one cell without stride; ``bias`` is (1, out); the statistics
of a batch norm lie under ``.bn``. Offset order: see ``kernel_map``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.models.distributed import world_size
from ssl3d.models.sparse import backends
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Triple, triple
from ssl3d.models.sparse.tensor import SparseTensor


class _ConvolutionBase(nn.Module):
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Triple,
        stride: int | Triple = 1,
        dilation: int | Triple = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation = triple(kernel_size), triple(stride), triple(dilation)
        self.volume = math.prod(self.kernel_size)
        self.pointwise = self.volume == 1 and self.stride == (1, 1, 1)
        shape = (in_channels, out_channels) if self.pointwise else (self.volume, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """MinkowskiEngine's: uniform(-1/sqrt(n), 1/sqrt(n)), n = K * in channels (out channels when transposed)."""
        channels = self.out_channels if self.transposed else self.in_channels
        bound = 1 / math.sqrt(channels * self.volume)
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"dilation={self.dilation}, bias={self.bias is not None}"
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        if x.features.shape[1] != self.in_channels:
            raise SparseTensorError(
                "the layer was made for another number of channels",
                where={"layer": self.in_channels, "input": x.features.shape[1]},
            )
        if self.pointwise:
            return x.with_features(self.apply_rows(x.features))
        manager, key = x.coordinate_manager, x.coordinate_map_key
        if self.stride == (1, 1, 1):
            out_key = key
        else:
            out_key = (manager.upsampled if self.transposed else manager.strided)(key, self.stride)
        link = backends.Link(manager, key, out_key, self.kernel_size, self.stride, self.dilation, self.transposed)
        out = backends.convolution(x.features, self.kernel, link)
        return x.with_features(out if self.bias is None else out + self.bias, out_key)

    def apply_rows(self, features: Tensor) -> Tensor:
        """A pointwise convolution on bare rows: (n, in) -> (n, out)."""
        return F.linear(features, self.kernel.t(), None if self.bias is None else self.bias[0])


class Convolution(_ConvolutionBase):
    """Sparse convolution, out(x) = sum_k W_k in(x + o_k).

    With stride 1 the output sites are the input's (submanifold); with stride s they are the unique floor(x / s).

    Args:
        kernel_size, stride, dilation: one number or one for each of x, y, z.
        bias: add a learned (1, out).
    """


class ConvolutionTranspose(_ConvolutionBase):
    """Transposed convolution onto the *existing* sites at tensor stride / ``stride`` (those of the encoder)."""

    transposed = True


class BatchNorm(nn.Module):
    """Batch norm over the rows; statistics in float32 also for half-precision features."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(num_features, eps=eps, momentum=momentum)

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self.training and len(x) < 2 and world_size() == 1:  # among several, ``bn`` counts the rows of all
            raise SparseTensorError(
                "batch norm needs more than one voxel in the batch when it trains",
                where={"tensor stride": x.tensor_stride},
                hint="use larger crops, more scans in a batch, or a smaller voxel_size",
            )
        half = x.features.dtype in (torch.float16, torch.bfloat16)
        features = self.bn(x.features.float() if half else x.features)
        return x.with_features(features.to(x.features.dtype))


class ReLU(nn.Module):
    """Rectifier on the features."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.with_features(F.relu(x.features, inplace=self.inplace))
