"""Layers with MinkowskiEngine's vocabulary, parameter layout and state-dict names.

``kernel`` is (K, in, out), or (in, out) for a kernel of one cell without stride; ``bias`` is (1, out); the statistics
of a batch norm lie under ``.bn``. Offset order: see ``kernel_map``.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.models.distributed import world_size
from ssl3d.models.sparse import backends
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import Ints, ints
from ssl3d.models.sparse.manager import CoordinateMapKey
from ssl3d.models.sparse.precision import wider
from ssl3d.models.sparse.tensor import SparseTensor, check_strides, given_sites


class _ConvolutionBase(nn.Module):
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Ints,
        stride: int | Ints = 1,
        dilation: int | Ints = 1,
        bias: bool = False,
        *,
        dimension: int | None = None,
        sites: str,
        bounds: Ints | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = ints((in_channels, out_channels), 2)
        given = [len(v) for v in (kernel_size, stride, dilation, bounds) if isinstance(v, Sized)]
        self.dimension = axes = dimension or (given[0] if given else 3)
        self.kernel_size, self.stride, self.dilation = (ints(v, axes) for v in (kernel_size, stride, dilation))
        self.sites, self.bounds = sites, None if bounds is None else ints(bounds, axes)
        self.volume = math.prod(self.kernel_size)
        self.pointwise = self.volume == 1 and max(self.stride) == 1
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
            f"dilation={self.dilation}, bias={self.bias is not None}, sites={self.sites}"
        )

    def forward(self, x: SparseTensor, coordinates: CoordinateMapKey | SparseTensor | None = None) -> SparseTensor:
        """``coordinates``: the sites of the output, those of a tensor or of a key of the same manager, instead of the
        layer's own rule."""
        if x.features.shape[1] != self.in_channels:
            raise SparseTensorError(
                "the layer was made for another number of channels",
                where={"layer": self.in_channels, "input": x.features.shape[1]},
            )
        if self.dimension != x.D:
            raise SparseTensorError(
                "the layer was made for another number of axes",
                where={"layer": self.dimension, "input": x.D},
                hint=f"give the layer dimension={x.D}",
            )
        if self.pointwise and coordinates is None:
            _check_type(x, self.kernel)
            return x.with_features(self.apply_rows(x.features))
        manager, key = x.coordinate_manager, x.coordinate_map_key
        out_key = self.output_sites(x) if coordinates is None else self._given_sites(x, coordinates)
        link = backends.Link(manager, key, out_key, self.kernel_size, self.stride, self.dilation, self.transposed)
        out = backends.convolution(x.features, self.kernel[None] if self.pointwise else self.kernel, link)
        return x.with_features(out if self.bias is None else out + self.bias, out_key)

    def output_sites(self, x: SparseTensor) -> CoordinateMapKey:
        """The key of the output's sites by the layer's own rule."""
        raise NotImplementedError

    def apply_rows(self, features: Tensor) -> Tensor:
        """A pointwise convolution on bare rows: (n, in) -> (n, out)."""
        return F.linear(features, self.kernel.t(), None if self.bias is None else self.bias[0])

    def _given_sites(self, x: SparseTensor, given: CoordinateMapKey | SparseTensor) -> CoordinateMapKey:
        key = given_sites(x, given)
        coarse, fine = (x.tensor_stride, key.stride) if self.transposed else (key.stride, x.tensor_stride)
        check_strides(coarse, fine, self.stride)
        return key


class Convolution(_ConvolutionBase):
    """Sparse convolution, out(y) = sum_k W_k in(s * y + o_k).

    Args:
        kernel_size, stride, dilation: one number or one for each axis.
        bias: add a learned (1, out).
        dimension: number of axes; by default that of the tuples given, else 3.
        sites: where the output is. ``floor``: at the unique floor(x / s), with stride 1 at the input's sites
            (MinkowskiEngine; submanifold). ``reach``: at every y with a site in its window (spconv's SparseConv3d with
            padding kernel_size // 2 and odd kernels).
        bounds: cells of the finest grid along each axis: ``reach`` makes only sites in 0 <= x < bounds.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Ints,
        stride: int | Ints = 1,
        dilation: int | Ints = 1,
        bias: bool = False,
        *,
        dimension: int | None = None,
        sites: Literal["floor", "reach"] = "floor",
        bounds: Ints | None = None,
    ) -> None:
        if sites not in ("floor", "reach"):
            raise SparseTensorError(f"a convolution knows no sites {sites!r}", hint="choose floor or reach")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, bias,
            dimension=dimension, sites=sites, bounds=bounds,
        )  # fmt: skip

    def output_sites(self, x: SparseTensor) -> CoordinateMapKey:
        manager, key = x.coordinate_manager, x.coordinate_map_key
        if self.sites == "reach":
            return manager.reached(key, self.stride, self.kernel_size, self.dilation, self.bounds)
        return key if max(self.stride) == 1 else manager.strided(key, self.stride)


class ConvolutionTranspose(_ConvolutionBase):
    """Transposed convolution, out(s * y + o_k) += W_k in(y).

    Args:
        kernel_size, stride, dilation, bias, dimension: as for ``Convolution``.
        sites: where the output is. ``existing``: at the sites known at tensor stride / ``stride`` (those of the
            encoder). ``generated``: at every s * y + o_k (MinkowskiEngine's generative transposed convolution).
        bounds: cells of the finest grid along each axis: ``generated`` makes only sites in 0 <= x < bounds.
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Ints,
        stride: int | Ints = 1,
        dilation: int | Ints = 1,
        bias: bool = False,
        *,
        dimension: int | None = None,
        sites: Literal["existing", "generated"] = "existing",
        bounds: Ints | None = None,
    ) -> None:
        if sites not in ("existing", "generated"):
            raise SparseTensorError(
                f"a transposed convolution knows no sites {sites!r}", hint="choose existing or generated"
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, bias,
            dimension=dimension, sites=sites, bounds=bounds,
        )  # fmt: skip

    def output_sites(self, x: SparseTensor) -> CoordinateMapKey:
        manager, key = x.coordinate_manager, x.coordinate_map_key
        if self.sites == "generated":
            return manager.generated(key, self.stride, self.kernel_size, self.dilation, self.bounds)
        return key if max(self.stride) == 1 else manager.upsampled(key, self.stride)


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
        if x.features.shape[1] != self.bn.num_features:
            raise SparseTensorError(
                "the layer was made for another number of channels",
                where={"layer": self.bn.num_features, "input": x.features.shape[1]},
            )
        dtype, wide = x.features.dtype, wider(x.features.dtype)
        if wide == dtype and self.bn.weight is not None:
            _check_type(x, self.bn.weight)
        return x.with_features(self.bn(x.features.to(wide)).to(dtype))


def _check_type(x: SparseTensor, parameter: Tensor) -> None:
    """As a convolution over a kernel map has it: features of the parameters' type and device, or under autocast."""
    device = x.features.device
    cast = torch.is_autocast_enabled(device.type) and x.features.dtype != torch.float64
    if device != parameter.device or (x.features.dtype != parameter.dtype and not cast):
        raise SparseTensorError(
            "features and layer differ in type or device",
            where={
                "features": f"{x.features.dtype} {device}",
                "layer": f"{parameter.dtype} {parameter.device}",
            },
            hint="layer.double(), features.float(), .to(device), or torch.autocast for half types",
        )


class ReLU(nn.Module):
    """Rectifier on the features."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.with_features(F.relu(x.features, inplace=self.inplace))
