"""MinkUNet (Choy, Gwak, Savarese: 4D Spatio-Temporal ConvNets, CVPR 2019), with MinkowskiEngine's module names.

Submanifold residual U-Net of five levels, tensor strides 1 to 16. Layer widths, orders and initialization follow
MinkowskiEngine's published example network; the LiDAR stem (two convolutions of 3 instead of one of 5), input features
and clip range follow the MinkUNet of the LaserMix code.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, field_validator, model_serializer
from torch import nn
from torch.nn import functional as F

from ssl3d.models.backbones.base import Levels
from ssl3d.models.backbones.sparse_levels import MakeNorm, RowHead, SparseUNet
from ssl3d.models.backbones.voxels import Taps, VoxelInputs, VoxelParams
from ssl3d.models.sparse import Convolution, ConvolutionTranspose, ReLU, SeparableConvolution, SparseTensor, cat

Decoder = Literal["base", "A", "B", "C", "D", "34A", "34B"]
Submanifold = type[Convolution] | type[SeparableConvolution]
"""A convolution without stride."""
Blocks = tuple[int, int, int, int, int, int, int, int]
BLOCKS_HELP = "residual blocks per stage, encoder then decoder"

INIT_WIDTH = 32
ENCODER_WIDTHS = (32, 64, 128, 256)
DECODER_WIDTHS = {
    "base": (256, 128, 96, 96),
    "A": (128, 128, 96, 96),
    "B": (128, 128, 128, 128),
    "C": (192, 192, 128, 128),
    "D": (384, 384, 384, 384),
    "34A": (256, 128, 64, 64),
    "34B": (256, 128, 64, 32),
}
"""By the letter of the published variants: MinkUNet14A, 18A, 14B, ...; their 34C is ``base``."""
WS3D_STAGES = ("enc4", "dec1", "dec2", "dec3", "dec4")
"""The taps that WS3D calls stages 1 to 5: tensor strides 16, 8, 4, 2, 1."""


class MinkUNetParams(VoxelParams):
    """Parameters of every MinkUNet. Defaults: outdoor LiDAR."""

    stem: Literal["double3", "conv5"] = Field("double3", description="double3: two 3x3x3 (LiDAR); conv5: one")
    stem_kernel: Literal[3, 5] = Field(5, description="kernel of the conv5 stem")
    blocks: Blocks = Field((2, 2, 2, 2, 2, 2, 2, 2), description=BLOCKS_HELP)
    decoder: Decoder = Field(
        "base", description="decoder widths: 256,128,96,96; or of a published variant, A: 128,128,96,96"
    )
    width: float = Field(1.0, gt=0, description="multiplier of all widths, rounded to multiples of 8")
    bn_eps: float = Field(1e-5, gt=0)
    bn_momentum: float = Field(0.1, gt=0, le=1)
    separable: bool = Field(
        False, description="convolutions without stride become channelwise and 1x1 ones (LiM3D: SDSC)"
    )

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """In JSON without a key that came later and is not used: runs of before stay what they are."""
        value: dict[str, Any] = handler(self)
        if info.mode == "json" and not self.separable:
            del value["separable"]
        return value

    @field_validator("blocks")
    @classmethod
    def _at_least_one(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if min(blocks) < 1:
            raise ValueError("every stage needs at least one block (it changes the number of channels)")
        return blocks


class MinkUNet14Params(MinkUNetParams):
    """Parameters of ``minkunet14``."""

    blocks: Blocks = Field((1, 1, 1, 1, 1, 1, 1, 1), description=BLOCKS_HELP)


class MinkUNet34Params(MinkUNetParams):
    """Parameters of ``minkunet34``."""

    blocks: Blocks = Field((2, 3, 4, 6, 2, 2, 2, 2), description=BLOCKS_HELP)


class MinkUNetMicroParams(MinkUNetParams):
    """Parameters of ``minkunet-micro``."""

    voxel_size: float = Field(0.15, gt=0, description="voxel edge in meters")
    blocks: Blocks = Field((1, 1, 1, 1, 1, 1, 1, 1), description=BLOCKS_HELP)
    decoder: Decoder = Field("A", description="decoder widths before the multiplier: 128,128,96,96")
    width: float = Field(0.25, gt=0, description="multiplier of all widths, rounded to multiples of 8")


class BasicBlock(nn.Module):
    """conv3, BN, ReLU, conv3, BN, + shortcut, ReLU. The shortcut is a 1x1 convolution with BN where widths differ."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, submanifold: Submanifold) -> None:
        super().__init__()
        self.conv1 = submanifold(inputs, outputs, 3)
        self.norm1 = norm(outputs)
        self.conv2 = submanifold(outputs, outputs, 3)
        self.norm2 = norm(outputs)
        self.relu = ReLU(inplace=True)
        self.downsample = nn.Sequential(Convolution(inputs, outputs, 1), norm(outputs)) if inputs != outputs else None

    def forward(self, x: SparseTensor) -> SparseTensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return out.with_features(F.relu_(out.features.add_(shortcut.features)))


class MinkUNet(SparseUNet):
    """MinkUNet without its classifier.

    Input: ``VoxelInputs`` with ``in_channels`` features. Output: ``finest`` (M, 96) per voxel, and the taps ``enc0``
    (stem, stride 1), ``enc1`` .. ``enc4`` (after block1 .. block4, strides 2, 4, 8, 16) and ``dec1`` .. ``dec4`` (after
    block5 .. block8, strides 8, 4, 2, 1). WS3D's five stages are ``WS3D_STAGES``.
    """

    name = "minkunet18"
    Params = MinkUNetParams
    params: MinkUNetParams
    tap_names = ("enc0", "enc1", "enc2", "enc3", "enc4", "dec1", "dec2", "dec3", "dec4")
    stages = WS3D_STAGES

    def __init__(self, params: MinkUNetParams) -> None:
        super().__init__()
        self.params = params
        self.input_spec = params.input_spec
        stem = _scaled(INIT_WIDTH, params.width)
        e1, e2, e3, e4 = (_scaled(w, params.width) for w in ENCODER_WIDTHS)
        d1, d2, d3, d4 = (_scaled(w, params.width) for w in DECODER_WIDTHS[params.decoder])
        n = params.blocks
        self.out_channels = d4
        self.encoder_channels = (stem, e1, e2, e3, e4)
        self.relu = ReLU(inplace=True)

        size = params.stem_kernel if params.stem == "conv5" else 3
        self.submanifold: Submanifold = SeparableConvolution if params.separable else Convolution
        self.conv0p1s1 = self.submanifold(params.in_channels, stem, size)
        self.bn0 = self.norm(stem)
        if params.stem == "double3":
            self.conv0bp1s1 = self.submanifold(stem, stem, 3)
            self.bn0b = self.norm(stem)
        self.conv1p1s2, self.bn1 = Convolution(stem, stem, 2, 2), self.norm(stem)
        self.block1 = self._stage(stem, e1, n[0])
        self.conv2p2s2, self.bn2 = Convolution(e1, e1, 2, 2), self.norm(e1)
        self.block2 = self._stage(e1, e2, n[1])
        self.conv3p4s2, self.bn3 = Convolution(e2, e2, 2, 2), self.norm(e2)
        self.block3 = self._stage(e2, e3, n[2])
        self.conv4p8s2, self.bn4 = Convolution(e3, e3, 2, 2), self.norm(e3)
        self.block4 = self._stage(e3, e4, n[3])
        self.convtr4p16s2, self.bntr4 = ConvolutionTranspose(e4, d1, 2, 2), self.norm(d1)
        self.block5 = self._stage(d1 + e3, d1, n[4])
        self.convtr5p8s2, self.bntr5 = ConvolutionTranspose(d1, d2, 2, 2), self.norm(d2)
        self.block6 = self._stage(d2 + e2, d2, n[5])
        self.convtr6p4s2, self.bntr6 = ConvolutionTranspose(d2, d3, 2, 2), self.norm(d3)
        self.block7 = self._stage(d3 + e1, d3, n[6])
        self.convtr7p2s2, self.bntr7 = ConvolutionTranspose(d3, d4, 2, 2), self.norm(d4)
        self.block8 = self._stage(d4 + stem, d4, n[7])
        self.apply(initialize)

    def _stage(self, inputs: int, outputs: int, count: int) -> nn.Sequential:
        widths = [inputs, *[outputs] * (count - 1)]
        blocks = [BasicBlock(width, outputs, self.norm, self.submanifold) for width in widths]
        return nn.Sequential(*blocks)

    def forward(self, inputs: VoxelInputs) -> Levels:
        manager, key = inputs.sites()
        x = SparseTensor(inputs.features, coordinate_map_key=key, coordinate_manager=manager)
        x = self.relu(self.bn0(self.conv0p1s1(x)))
        if self.params.stem == "double3":
            x = self.relu(self.bn0b(self.conv0bp1s1(x)))
        enc0 = x
        enc1 = self.block1(self.relu(self.bn1(self.conv1p1s2(enc0))))
        enc2 = self.block2(self.relu(self.bn2(self.conv2p2s2(enc1))))
        enc3 = self.block3(self.relu(self.bn3(self.conv3p4s2(enc2))))
        enc4 = self.block4(self.relu(self.bn4(self.conv4p8s2(enc3))))
        dec1 = self.block5(cat([self.relu(self.bntr4(self.convtr4p16s2(enc4))), enc3]))
        dec2 = self.block6(cat([self.relu(self.bntr5(self.convtr5p8s2(dec1))), enc2]))
        dec3 = self.block7(cat([self.relu(self.bntr6(self.convtr6p4s2(dec2))), enc1]))
        dec4 = self.block8(cat([self.relu(self.bntr7(self.convtr7p2s2(dec3))), enc0]))
        tensors = (enc0, enc1, enc2, enc3, enc4, dec1, dec2, dec3, dec4)
        return Levels(dec4.features, Taps(dict(zip(self.tap_names, tensors, strict=True)), inputs))

    def head(self, num_classes: int) -> nn.Module:
        """MinkowskiEngine's ``final``: a 1x1 convolution with bias on the rows of ``finest``."""
        head = RowHead(self.out_channels, num_classes)
        initialize(head)
        return head


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """MinkowskiEngine's initialization of this network, its quirks included.

    Ordinary convolutions: normal with standard deviation sqrt(2 / fan_out), fan_out = K * out channels; but kernels of
    1x1 are stored as (in, out) matrices, for which it takes the number of *input* channels as fan_out. Channelwise and
    transposed convolutions and biases keep their uniform default; batch norm starts at weight 1, bias 0.
    """
    if isinstance(module, Convolution):
        fan_out = module.in_channels if module.pointwise else module.volume * module.out_channels
        module.kernel.normal_(0, math.sqrt(2 / fan_out))


def _scaled(width: int, multiplier: float) -> int:
    return width if multiplier == 1 else max(8, round(width * multiplier / 8) * 8)


class MinkUNet14(MinkUNet):
    """One residual block a stage."""

    name = "minkunet14"
    Params = MinkUNet14Params


class MinkUNet34(MinkUNet):
    """2, 3, 4, 6 residual blocks in the encoder, 2 in the decoder ("34C")."""

    name = "minkunet34"
    Params = MinkUNet34Params


class MinkUNetMicro(MinkUNet):
    """A quarter of the width, one block a stage, larger voxels: for demonstrations, benchmarks and tests on a CPU."""

    name = "minkunet-micro"
    Params = MinkUNetMicroParams
