"""SparseConv U-Net (Graham, Engelcke, van der Maaten: 3D Semantic Segmentation with Submanifold Sparse Convolutional
Networks, CVPR 2018), as the PointGroup and GPC codes use it.

Submanifold U-Net of seven levels, tensor strides 1 to 64, of ``m`` channels more at each, with pre-activation blocks.
The modules are named as in the PointGroup code, their parameters as MinkowskiEngine's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from ssl3d.models.backbones.base import Levels
from ssl3d.models.backbones.sparse_levels import MakeNorm, RowHead, SparseUNet, Submanifold
from ssl3d.models.backbones.voxels import LIDAR_CLIP, ClipRange, Taps, VoxelInputs, VoxelParams
from ssl3d.models.sparse import Convolution, ConvolutionTranspose, ReLU, SparseTensor, cat

Scene = Literal["indoor", "outdoor"]
MakeBlock = Callable[[int, int, MakeNorm], nn.Module]

FINEST_STAGES = 5
"""WS3D's stages are the ends of the five finest levels."""


class SpUNetParams(VoxelParams):
    """Parameters of every SparseConv U-Net. Defaults: indoors, as the GPC code."""

    SCENES: ClassVar[dict[str, dict[str, Any]]] = {
        "indoor": {"voxel_size": 0.02, "features": ("color", "xyz_from_min"), "clip": None},
        "outdoor": {"voxel_size": 0.05, "features": ("intensity", "xyz"), "clip": LIDAR_CLIP},
    }
    """What ``scene`` sets of the keys that are not given themselves."""

    scene: Scene = Field("indoor", description="sets voxel_size, features and clip where they are not given")
    voxel_size: float = Field(0.02, gt=0, description="voxel edge in meters; outdoor: 0.05")
    features: tuple[str, ...] = Field(
        ("color", "xyz_from_min"), description="input channels, in this order; outdoor: intensity,xyz"
    )
    clip: ClipRange | None = Field(None, description="kept range in meters, or null; outdoor: +-100, +-100, +-20")
    m: int = Field(16, ge=1, description="channels at the finest level; level l has l times as many")
    levels: int = Field(7, ge=2, le=10, description="resolutions; the tensor stride of the last is 2^(levels - 1)")
    reps: int = Field(2, ge=1, description="blocks per level, on the way down and up")
    block: Literal["residual", "plain"] = Field(
        "residual", description="residual: GPC, PointGroup; plain: one convolution (SparseConvNet's example: reps=1)"
    )
    bn_eps: float = Field(1e-4, gt=0)
    bn_momentum: float = Field(0.1, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _of_scene(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("scene") in cls.SCENES:
            return {**cls.SCENES[values["scene"]], **values}
        return values


class SpUNet32Params(SpUNetParams):
    """Parameters of ``spunet32``."""

    m: int = Field(32, ge=1, description="channels at the finest level; level l has l times as many")


class SpUNetMicroParams(SpUNetParams):
    """Parameters of ``spunet-micro``. Defaults: outdoor scans."""

    SCENES: ClassVar[dict[str, dict[str, Any]]] = {
        "indoor": {**SpUNetParams.SCENES["indoor"], "voxel_size": 0.1},
        "outdoor": {**SpUNetParams.SCENES["outdoor"], "voxel_size": 0.15},
    }

    scene: Scene = Field("outdoor", description="sets voxel_size, features and clip where they are not given")
    voxel_size: float = Field(0.15, gt=0, description="voxel edge in meters; indoor: 0.1")
    features: tuple[str, ...] = Field(
        ("intensity", "xyz"), description="input channels, in this order; indoor: color,xyz_from_min"
    )
    clip: ClipRange | None = Field(LIDAR_CLIP, description="kept range in meters, or null; indoor: null")
    levels: int = Field(5, ge=2, le=10, description="resolutions; the tensor stride of the last is 2^(levels - 1)")
    reps: int = Field(1, ge=1, description="blocks per level, on the way down and up")


class ResidualBlock(nn.Module):
    """BN, ReLU, conv3, BN, ReLU, conv3, + shortcut; nothing after the sum. The shortcut is a 1x1 convolution without BN
    where widths differ."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, submanifold: Submanifold = Convolution) -> None:
        super().__init__()
        self.i_branch = nn.Sequential(Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity())
        self.conv_branch = nn.Sequential(
            norm(inputs),
            ReLU(inplace=True),
            submanifold(inputs, outputs, 3),
            norm(outputs),
            ReLU(inplace=True),
            submanifold(outputs, outputs, 3),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        out: SparseTensor = self.conv_branch(x)
        return out.with_features(out.features.add_(self.i_branch(x).features))


class PlainBlock(nn.Module):
    """BN, ReLU, conv3 (SparseConvNet's "VGG" block)."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, submanifold: Submanifold = Convolution) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(norm(inputs), ReLU(inplace=True), submanifold(inputs, outputs, 3))

    def forward(self, x: SparseTensor) -> SparseTensor:
        out: SparseTensor = self.conv_layers(x)
        return out


class LevelBlock(nn.Module):
    """One level and, inside it, those below.

    Args:
        widths: channels of this level and of each below.
        reps: blocks on the way down, and on the way up.
        block: makes one of them from its widths.
        norm: makes a batch norm from its width.
    """

    def __init__(self, widths: Sequence[int], reps: int, block: MakeBlock, norm: MakeNorm) -> None:
        super().__init__()
        width = widths[0]
        self.blocks = _named(block(width, width, norm) for _ in range(reps))
        self.deepest = len(widths) == 1
        if not self.deepest:
            below = widths[1]
            self.conv = nn.Sequential(norm(width), ReLU(inplace=True), Convolution(width, below, 2, 2))
            self.u = LevelBlock(widths[1:], reps, block, norm)
            self.deconv = nn.Sequential(norm(below), ReLU(inplace=True), ConvolutionTranspose(below, width, 2, 2))
            self.blocks_tail = _named(block(width if i else 2 * width, width, norm) for i in range(reps))

    def forward(self, x: SparseTensor, down: list[SparseTensor], up: list[SparseTensor]) -> SparseTensor:
        """Appends what each level ends with: on the way down to ``down``, on the way up to ``up``."""
        x = self.blocks(x)
        down.append(x)
        if not self.deepest:
            risen = self.deconv(self.u(self.conv(x), down, up))
            x = self.blocks_tail(cat([x, risen]))
            up.append(x)
        return x


class SpUNet(SparseUNet):
    """SparseConv U-Net without its classifier.

    Input: ``VoxelInputs`` with ``in_channels`` features. Output: ``finest`` (M, m) per voxel, and with L levels the
    taps ``enc0`` .. ``enc<L-1>`` (levels 1 to L on the way down, strides 1, 2, 4, ..) and ``dec1`` .. ``dec<L-1>``
    (levels L - 1 to 1 on the way up). All are raw sums (``raw_taps``) but the last, which is ``finest``: after the
    output's batch norm and ReLU. ``stages`` are the ends of the levels 5 to 1.
    """

    name = "spunet16"
    Params = SpUNetParams
    params: SpUNetParams

    def __init__(self, params: SpUNetParams) -> None:
        super().__init__()
        self.params = params
        self.input_spec = params.input_spec
        self.out_channels = params.m
        deepest = params.levels - 1
        up = [f"dec{i}" for i in range(1, params.levels)]
        self.tap_names = (*(f"enc{i}" for i in range(params.levels)), *up)
        self.stages = tuple([f"enc{deepest}", *up][-FINEST_STAGES:])
        self.raw_taps = frozenset(self.tap_names[:-1])

        kind = ResidualBlock if params.block == "residual" else PlainBlock
        block: MakeBlock = partial(kind, submanifold=self.submanifold)
        widths = [level * params.m for level in range(1, params.levels + 1)]
        self.encoder_channels = tuple(widths)
        self.input_conv = nn.Sequential(self.submanifold(params.in_channels, params.m, 3))
        self.unet = LevelBlock(widths, params.reps, block, self.norm)
        self.output_layer = nn.Sequential(self.norm(params.m), ReLU(inplace=True))
        self.apply(initialize)

    def forward(self, inputs: VoxelInputs) -> Levels:
        manager, key = inputs.sites()
        x = SparseTensor(inputs.features, coordinate_map_key=key, coordinate_manager=manager)
        down: list[SparseTensor] = []
        up: list[SparseTensor] = []
        finest = self.output_layer(self.unet(self.input_conv(x), down, up))
        tensors = (*down, *up[:-1], finest)
        return Levels(finest.features, Taps(dict(zip(self.tap_names, tensors, strict=True)), inputs))

    def head(self, num_classes: int) -> nn.Module:
        """A linear layer with PyTorch's initialization on the rows of ``finest``."""
        return RowHead(self.out_channels, num_classes)


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """SparseConvNet's initialization: normal with standard deviation sqrt(2 / (K * in channels)) for every convolution,
    K = 1 for 1x1; up convolutions too. Batch norm starts at weight 1, bias 0."""
    if isinstance(module, (Convolution, ConvolutionTranspose)):
        module.kernel.normal_(0, math.sqrt(2 / (module.volume * module.in_channels)))


def _named(blocks: Iterable[nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"block{i}", block) for i, block in enumerate(blocks)))


class SpUNet32(SpUNet):
    """Twice the width: the backbone of GPC's published results."""

    name = "spunet32"
    Params = SpUNet32Params


class SpUNetMicro(SpUNet):
    """Five levels, one block each, larger voxels: for demonstrations, benchmarks and tests on a CPU."""

    name = "spunet-micro"
    Params = SpUNetMicroParams
