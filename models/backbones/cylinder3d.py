"""Cylinder3D (Zhu et al., CVPR 2021): cylindrical cells, flat kernels in two branches, a U-Net of five levels.

Layers follow the public code of the authors, which mmdetection3d, LaserMix, ScribbleKITTI, LiM3D and OpenPCSeg share:
activation before normalization, sums for skips, height halved only twice. Kernel sizes are rho x phi x z.

What the released networks compute is not what their source says: the neighbors of a block's first kernel are used for
all of its kernels. ``geometry`` chooses; see ``KERNELS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.models.backbones.base import Levels
from ssl3d.models.backbones.cylinder import (
    GEOMETRY_CHANNELS,
    Cells,
    CylinderGrid,
    CylinderInputs,
    CylinderInputSpec,
    IgnoredVote,
    PointEncoder,
)
from ssl3d.models.backbones.sparse_levels import MakeNorm, SparseUNet
from ssl3d.models.backbones.voxels import FEATURE_WIDTHS, Taps
from ssl3d.models.config import Params
from ssl3d.models.sparse import (
    Convolution,
    ConvolutionTranspose,
    CoordinateMapKey,
    SparseTensor,
    backends,
    cat,
)

Kernel = tuple[int, int, int]
Geometry = Literal["intended", "first_key", "per_branch"]
Sites = Literal["dilate", "floor"]
Initialization = Literal["fan_in", "spconv1"]

SLOPE = 0.01
STRIDES: tuple[Kernel, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))
RHO_Z, PHI_Z, FULL = (3, 1, 3), (1, 3, 3), (3, 3, 3)
ALONG = ((3, 1, 1), (1, 3, 1), (1, 1, 3))


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of the blocks: those that the weights are made for, and those whose neighbors they are given.

    Attributes:
        context, down: first and second kernel of branch a, then of branch b.
        up: the last three kernels of an up block.
        along: the kernels of the dimension-decomposition context module.
        shared: whether all kernels of a block run on the offsets of its first.
    """

    context: tuple[Kernel, Kernel, Kernel, Kernel] = (PHI_Z, RHO_Z, RHO_Z, PHI_Z)
    down: tuple[Kernel, Kernel, Kernel, Kernel] = (RHO_Z, PHI_Z, PHI_Z, RHO_Z)
    up: tuple[Kernel, Kernel, Kernel] = (PHI_Z, RHO_Z, FULL)
    along: tuple[Kernel, Kernel, Kernel] = ALONG
    shared: bool = False


KERNELS: dict[Geometry, Kernels] = {
    "intended": Kernels(),
    "first_key": Kernels(shared=True),
    "per_branch": Kernels((PHI_Z, PHI_Z, RHO_Z, RHO_Z), (RHO_Z, RHO_Z, PHI_Z, PHI_Z), (PHI_Z, PHI_Z, PHI_Z)),
}
"""``intended``: as the source is written (and OpenPCSeg computes). ``first_key``: as spconv 1 and mmcv compute it,
which find neighbors by a name that a block's layers share (Cylinder3D, ScribbleKITTI, mmdetection3d, LaserMix).
``per_branch``: LiM3D."""


class Cylinder3DParams(Params):
    """Parameters of every Cylinder3D. Defaults: the authors' network on SemanticKITTI."""

    grid: Cells = Field((480, 360, 32), description="cells in distance, azimuth, height")
    rho: tuple[float, float] = Field((0.0, 50.0), description="range of distances in meters; points beyond are kept")
    z: tuple[float, float] = Field((-4.0, 2.0), description="range of heights in meters (nuScenes: -5 to 3)")
    features: tuple[str, ...] = Field(("intensity",), description="sensor channels besides the eight of position")
    point_widths: tuple[int, int, int, int] = Field((64, 128, 256, 256), description="linear layers on points")
    compressed: int = Field(16, ge=1, description="channels of a cell that enter the U-Net")
    base_channels: int = Field(32, ge=1, description="width at the finest level; doubled at each of four levels")
    down_sites: Sites = Field("dilate", description="coarse sites: all that a window reaches, or floor(x / stride)")
    geometry: Geometry = Field("intended", description="intended, first_key (released networks), per_branch (LiM3D)")
    initialization: Initialization = Field("fan_in", description="fan_in, or spconv1: its smaller bounds")
    ignored_vote: IgnoredVote = Field("none", description="points without a label vote too: none, first, last")
    bn_eps: float = Field(1e-5, gt=0)
    bn_momentum: float = Field(0.1, gt=0, le=1)

    @field_validator("features")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        channels = [name for name in FEATURE_WIDTHS if not name.startswith("xyz")]
        if unknown := [name for name in names if name not in channels]:
            raise ValueError(f"unknown sensor channels {unknown}; choose from {', '.join(channels)}")
        return names

    @field_validator("grid")
    @classmethod
    def _two_cells(cls, grid: Cells) -> Cells:
        if min(grid) < 2:
            raise ValueError("an axis has at least two cells (the last one is for what is out of range)")
        return grid

    @field_validator("rho", "z")
    @classmethod
    def _ordered(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if not -math.inf < limits[0] < limits[1] < math.inf:
            raise ValueError("a range is two numbers, the lower one first")
        return limits

    @field_validator("point_widths")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if min(widths) < 1:
            raise ValueError("widths are at least 1")
        return widths

    @property
    def in_channels(self) -> int:
        return GEOMETRY_CHANNELS + sum(FEATURE_WIDTHS[name] for name in self.features)


class LaserMixParams(Cylinder3DParams):
    """Parameters of ``cylinder3d-lasermix``: a coarser grid, not fewer channels."""

    grid: Cells = Field((240, 180, 20), description="cells in distance, azimuth, height")


class MicroParams(Cylinder3DParams):
    """Parameters of ``cylinder3d-micro``."""

    grid: Cells = Field((240, 180, 20), description="cells in distance, azimuth, height")
    point_widths: tuple[int, int, int, int] = Field((16, 32, 64, 64), description="linear layers on points")
    compressed: int = Field(8, ge=1, description="channels of a cell that enter the U-Net")
    base_channels: int = Field(8, ge=1, description="width at the finest level; doubled at each of four levels")
    down_sites: Sites = Field("floor", description="coarse sites: all that a window reaches, or floor(x / stride)")


class SharedConvolution(Convolution):
    """A submanifold convolution that runs on the offsets of another kernel (of its block's first layer).

    Weights meet offsets in the order in which both are stored: 3x1x3 and 1x3x3 exchange rho and phi; of a 3x3x3 on
    1x3x3 only the slice of rho index 0 is used, and the others get no gradient.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Kernel, executed: Kernel) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.executed = executed

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, executed={self.executed}"

    def forward(self, x: SparseTensor, coordinates: CoordinateMapKey | SparseTensor | None = None) -> SparseTensor:
        if self.executed == self.kernel_size:
            return super().forward(x, coordinates)
        # rho runs fastest in our order of weights, so its index 0 is every third of a 3x3x3
        weight = self.kernel[:: self.volume // math.prod(self.executed)]
        key = x.coordinate_map_key
        out_key = key if coordinates is None else self._given_sites(x, coordinates)
        link = backends.Link(
            x.coordinate_manager, key, out_key, self.executed, self.stride, self.dilation, transposed=False
        )
        return x.with_features(backends.convolution(x.features, weight, link), out_key)


class ActivatedConvolution(nn.Module):
    """Submanifold convolution, leaky ReLU, batch norm, in this order."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, executed: Kernel, norm: MakeNorm) -> None:
        super().__init__()
        self.conv = SharedConvolution(inputs, outputs, kernel, executed)
        self.norm = norm(outputs)

    def forward(self, x: SparseTensor) -> SparseTensor:
        x = self.conv(x)
        out: SparseTensor = self.norm(x.with_features(F.leaky_relu(x.features, SLOPE)))
        return out


class Branches(nn.Module):
    """The sum of two branches of two activated convolutions each, without an identity path: the context block, and the
    first half of a down block (its skip)."""

    def __init__(
        self, inputs: int, outputs: int, kernels: tuple[Kernel, Kernel, Kernel, Kernel], shared: bool, norm: MakeNorm
    ) -> None:
        super().__init__()
        run = (kernels[0],) * 4 if shared else kernels
        self.a = nn.Sequential(
            ActivatedConvolution(inputs, outputs, kernels[0], run[0], norm),
            ActivatedConvolution(outputs, outputs, kernels[1], run[1], norm),
        )
        self.b = nn.Sequential(
            ActivatedConvolution(inputs, outputs, kernels[2], run[2], norm),
            ActivatedConvolution(outputs, outputs, kernels[3], run[3], norm),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        out: SparseTensor = self.a(x) + self.b(x)
        return out


class Down(nn.Module):
    """Two branches, which are the skip, and a strided convolution of it without norm or activation."""

    def __init__(self, inputs: int, outputs: int, kernels: Kernels, pool: Convolution, norm: MakeNorm) -> None:
        super().__init__()
        self.branches = Branches(inputs, outputs, kernels.down, kernels.shared, norm)
        self.pool = pool

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """The coarser tensor, and the skip."""
        skip = self.branches(x)
        return self.pool(skip), skip


class Up(nn.Module):
    """A convolution at the coarse sites, a transposed one onto the sites of the skip, their sum, three convolutions."""

    def __init__(self, inputs: int, outputs: int, kernels: Kernels, stride: Kernel, norm: MakeNorm) -> None:
        super().__init__()
        self.before = ActivatedConvolution(inputs, outputs, FULL, FULL, norm)
        self.unpool = ConvolutionTranspose(outputs, outputs, 3, stride)
        self.after = nn.Sequential(
            *(
                ActivatedConvolution(outputs, outputs, kernel, kernels.up[0] if kernels.shared else kernel, norm)
                for kernel in kernels.up
            )
        )

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        out: SparseTensor = self.after(self.unpool(self.before(x), skip) + skip)
        return out


class DimensionContext(nn.Module):
    """Dimension-decomposition context: features times the sum of three gates, one along each axis, each in 0 .. 1.

    Here the norm comes before the activation.
    """

    def __init__(self, channels: int, kernels: Kernels, norm: MakeNorm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SharedConvolution(channels, channels, kernel, kernels.along[0] if kernels.shared else kernel)
            for kernel in kernels.along
        )
        self.norms = nn.ModuleList(norm(channels) for _ in kernels.along)

    def forward(self, x: SparseTensor) -> SparseTensor:
        gates = [norm(conv(x)).features.sigmoid() for conv, norm in zip(self.convs, self.norms, strict=True)]
        return x.with_features((gates[0] + gates[1] + gates[2]) * x.features)


class Cylinder3D(SparseUNet):
    """Cylinder3D without its classifier.

    Input: ``CylinderInputs``. Output: ``finest`` (M, 4 * base_channels) per cell, and the taps ``enc0`` (context block,
    stride 1), ``enc1`` .. ``enc4`` (after each down block) and ``dec1`` .. ``dec4`` (after each up block). ``stride``
    of a level is that in distance and azimuth: 2, 4, 8, 16; in height it is 2, 4, 4, 4.
    """

    name = "cylinder3d"
    elements = "cylinder cells"
    Params = Cylinder3DParams
    params: Cylinder3DParams
    tap_names = ("enc0", "enc1", "enc2", "enc3", "enc4", "dec1", "dec2", "dec3", "dec4")
    stages = ("enc4", "dec1", "dec2", "dec3", "dec4")
    raw_taps = frozenset({"enc1", "enc2", "enc3", "enc4"})

    def __init__(self, params: Cylinder3DParams) -> None:
        super().__init__()
        self.params = params
        grid = CylinderGrid(params.grid, params.rho, params.z)
        self.input_spec = CylinderInputSpec(grid, params.features, params.ignored_vote)
        self.encoder = PointEncoder(
            params.in_channels, params.point_widths, params.compressed, params.bn_eps, params.bn_momentum
        )
        kernels, b = KERNELS[params.geometry], params.base_channels
        self.context = Branches(params.compressed, b, kernels.context, kernels.shared, self.norm)
        self.down1 = self._down(b, 2 * b, 1)
        self.down2 = self._down(2 * b, 4 * b, 2)
        self.down3 = self._down(4 * b, 8 * b, 3)
        self.down4 = self._down(8 * b, 16 * b, 4)
        self.up1 = Up(16 * b, 16 * b, kernels, STRIDES[3], self.norm)
        self.up2 = Up(16 * b, 8 * b, kernels, STRIDES[2], self.norm)
        self.up3 = Up(8 * b, 4 * b, kernels, STRIDES[1], self.norm)
        self.up4 = Up(4 * b, 2 * b, kernels, STRIDES[0], self.norm)
        self.gates = DimensionContext(2 * b, kernels, self.norm)
        self.out_channels = 4 * b
        self.apply(partial(initialize, rule=params.initialization))

    def _down(self, inputs: int, outputs: int, level: int) -> Down:
        stride, grid = STRIDES[level - 1], self.params.grid
        if self.params.down_sites == "dilate":
            pool = Convolution(outputs, outputs, 3, stride, sites="reach", bounds=grid)
        else:
            pool = Convolution(outputs, outputs, 3, stride)
        return Down(inputs, outputs, KERNELS[self.params.geometry], pool, self.norm)

    def forward(self, inputs: CylinderInputs) -> Levels:
        manager, key = inputs.sites()
        cells = self.encoder(inputs.features, inputs.elements)
        x = SparseTensor(cells, coordinate_map_key=key, coordinate_manager=manager)
        enc0 = self.context(x)
        enc1, skip1 = self.down1(enc0)
        enc2, skip2 = self.down2(enc1)
        enc3, skip3 = self.down3(enc2)
        enc4, skip4 = self.down4(enc3)
        dec1 = self.up1(enc4, skip4)
        dec2 = self.up2(dec1, skip3)
        dec3 = self.up3(dec2, skip2)
        dec4 = self.up4(dec3, skip1)
        finest = cat([self.gates(dec4), dec4])
        tensors = (enc0, enc1, enc2, enc3, enc4, dec1, dec2, dec3, dec4)
        return Levels(finest.features, Taps(dict(zip(self.tap_names, tensors, strict=True)), inputs))

    def head(self, num_classes: int) -> nn.Module:
        """A submanifold 3x3x3 convolution with bias, on a sparse tensor: ``classify`` knows the sites.

        A method with a pointwise classifier of its own puts that on ``finest`` instead."""
        head = Convolution(self.out_channels, num_classes, 3, bias=True)
        initialize(head, self.params.initialization)
        return head

    def classify(self, head: nn.Module, features: Tensor, inputs: CylinderInputs) -> Tensor:
        manager, key = inputs.sites()
        logits: Tensor = head(SparseTensor(features, coordinate_map_key=key, coordinate_manager=manager)).features
        return logits


@torch.no_grad()
def initialize(module: nn.Module, rule: Initialization) -> None:
    """Kernels and bias of a convolution, uniform within 1 / sqrt(K * in channels).

    ``spconv1``: within 1 / sqrt(k_phi * k_z * in * out channels), as torch takes the fan of a weight that spconv 1 and
    mmcv store as (k_rho, k_phi, k_z, in, out). Batch norm hides the difference, except in the transposed layers.
    """
    if isinstance(module, Convolution | ConvolutionTranspose):
        fan = module.volume * module.in_channels
        if rule == "spconv1":
            fan = math.prod(module.kernel_size[1:]) * module.in_channels * module.out_channels
        bound = 1 / math.sqrt(fan)
        module.kernel.uniform_(-bound, bound)
        if module.bias is not None:
            module.bias.uniform_(-bound, bound)


class Cylinder3DLaserMix(Cylinder3D):
    """LaserMix's "smaller" Cylinder3D: half as many cells along each axis."""

    name = "cylinder3d-lasermix"
    Params = LaserMixParams


class Cylinder3DMicro(Cylinder3D):
    """A quarter of the width on LaserMix's grid, coarse sites by floor: for benchmarks and tests on a CPU."""

    name = "cylinder3d-micro"
    Params = MicroParams
