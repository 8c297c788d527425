"""Boundary and semantic branches on one encoder (WS3D, ECCV 2022; the shape follows JSENet, Hu et al., ECCV 2020).

Five side heads look at the encoder's levels: the three finest say where boundaries are, the next two which classes. An
edge decoder with weights of its own, fused with what the side heads say, gives the boundary logit; the backbone's own
decoder is the region branch. A refinement lets each correct the other once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.errors import UsageError
from ssl3d.models.backbones.base import Backbone, Inputs, Levels, Output, Segmenter
from ssl3d.models.backbones.sparse_levels import MakeNorm, RowHead, SparseUNet
from ssl3d.models.backbones.spunet import LevelBlock, ResidualBlock, initialize
from ssl3d.models.backbones.voxels import SiteInputs, Taps
from ssl3d.models.losses.boundary import edge_map
from ssl3d.models.sparse import (
    Convolution,
    ConvolutionTranspose,
    ReLU,
    SparseTensor,
    cat,
    region_gather,
)

BOUNDARY_SIDES = ("enc0", "enc1", "enc2")
SEMANTIC_SIDES = ("enc3", "enc4")
REFINE_WIDTH = 16
REFINE_LEVELS = 3
LEAK = 0.2
"""Slope of LeakyReLU (JSENet)."""


@dataclass(slots=True)
class Branches:
    """What the network says in training, over the M voxels of the batch.

    Attributes:
        boundary: logits (M, 1), the last one counts: of the three side heads, of the fused edge, and refined.
        semantic: logits (M, C): of the two side heads, of the region branch, and refined.
        region: logits (M, C) of the region branch, which is one of ``semantic``.
        sites: a tensor on the voxels.
        levels: what the backbone returned.
    """

    boundary: list[Tensor]
    semantic: list[Tensor]
    region: Tensor
    sites: SparseTensor
    levels: Levels


class SideHead(nn.Module):
    """Linear, batch norm, LeakyReLU, linear; on the sum of a pre-activation network (``raw``) after a batch norm and
    LeakyReLU of its own."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm, raw: bool = False) -> None:
        super().__init__()
        self.before = norm(inputs) if raw else None
        self.linear = Convolution(inputs, inputs, 1)
        self.norm = norm(inputs)
        self.logits = RowHead(inputs, outputs)

    def forward(self, x: SparseTensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        if self.before is not None:
            x = _leaky(self.before(x))
        out: Tensor = self.logits(_leaky(self.norm(self.linear(x))).features)
        return out


class EdgeDecoder(nn.Module):
    """From the coarsest level of an encoder up to the finest: transposed convolution, skip connection, block."""

    def __init__(self, widths: Sequence[int], norm: MakeNorm) -> None:
        super().__init__()
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.rise = nn.ModuleList(
            nn.Sequential(norm(below), ReLU(), ConvolutionTranspose(below, width, 2, 2)) for below, width in pairs
        )
        self.blocks = nn.ModuleList(ResidualBlock(2 * width, width, norm) for _, width in pairs)
        self.output = nn.Sequential(norm(widths[0]), ReLU(inplace=True))

    def forward(self, encoder: Sequence[SparseTensor]) -> SparseTensor:
        """``encoder``: its levels, the finest first."""
        x = encoder[-1]
        for rise, block, skip in zip(self.rise, self.blocks, encoder[-2::-1], strict=True):
            x = block(cat([skip, rise(x)]))
        out: SparseTensor = self.output(x)
        return out


class Refinement(nn.Module):
    """A small U-Net on logits of the finest voxels."""

    def __init__(self, inputs: int, outputs: int, norm: MakeNorm) -> None:
        super().__init__()
        widths = [REFINE_WIDTH * level for level in range(1, REFINE_LEVELS + 1)]
        self.input_conv = Convolution(inputs, REFINE_WIDTH, 3)
        self.unet = LevelBlock(widths, 1, ResidualBlock, norm)
        self.output = nn.Sequential(norm(REFINE_WIDTH), ReLU(inplace=True))
        self.logits = RowHead(REFINE_WIDTH, outputs)

    def forward(self, x: SparseTensor) -> Tensor:
        """(M, inputs) -> (M, outputs)."""
        out: Tensor = self.logits(self.output(self.unet(self.input_conv(x), [], [])).features)
        return out


class BoundaryNetwork(Segmenter):
    """A backbone with an encoder of at least five levels, and everything that is built on it.

    As a segmenter it has two classes, 0 and 1 = boundary, so that whatever predicts scans predicts boundaries: the
    softmax of (0, logit) is (1 - b, b).

    Args:
        backbone: a sparse U-Net on cubic voxels.
        classes: C of the region branch.
        refine: whether the branches correct each other.

    Raises:
        UsageError: the backbone is none of these.
    """

    def __init__(self, backbone: Backbone, classes: int, refine: bool = True) -> None:
        super().__init__(backbone, classes)
        self.classes, self.num_classes = classes, 2
        sides = (*BOUNDARY_SIDES, *SEMANTIC_SIDES)
        if not isinstance(backbone, SparseUNet) or len(backbone.encoder_channels) < len(sides):
            raise UsageError(
                f"the boundary network cannot be built on the backbone '{backbone.name}'",
                hint=f"it needs a sparse U-Net of at least {len(sides)} levels of cubic voxels: spunet16, minkunet14, "
                "or quick ones, spunet-micro and minkunet-micro",
            )
        widths, norm = backbone.encoder_channels, backbone.norm
        self.encoder = tuple(f"enc{level}" for level in range(len(widths)))
        self.sides = nn.ModuleDict(
            {
                name: SideHead(widths[i], 1 if name in BOUNDARY_SIDES else classes, norm, name in backbone.raw_taps)
                for i, name in enumerate(sides)
            }
        )
        self.edge_decoder = EdgeDecoder(widths, norm)
        self.fuse = SideHead(widths[0] + len(BOUNDARY_SIDES) + len(SEMANTIC_SIDES) * classes, 1, norm)
        self.refine_edge = Refinement(2, 1, norm) if refine else None
        self.refine_region = Refinement(classes + 1, classes, norm) if refine else None
        for name, module in self.named_modules():
            if not name.startswith(("backbone", "head")) and not isinstance(module, RowHead):
                initialize(module)

    def branches(self, inputs: Inputs) -> Branches:
        """Every output that a loss looks at."""
        assert isinstance(inputs, SiteInputs)
        levels = self.backbone(inputs)
        taps = levels.taps
        assert isinstance(taps, Taps)
        encoder = [taps.tensor(name) for name in self.encoder]
        side = {
            name: region_gather(head(encoder[i]), taps.finest_to_row(name))
            for i, (name, head) in enumerate(self.sides.items())
        }
        edge = self.edge_decoder(encoder)
        logit = self.fuse(edge.with_features(torch.cat([_wide(edge.features), *side.values()], 1)))
        region = self.classify(levels.finest, inputs).float()
        boundary = [*(side[name] for name in BOUNDARY_SIDES), logit]
        semantic = [*(side[name] for name in SEMANTIC_SIDES), region]
        if self.refine_edge is not None and self.refine_region is not None:
            edges = edge_map(region.softmax(1), edge)
            boundary.append(
                logit + self.refine_edge(edge.with_features(torch.stack([edges, logit[:, 0].sigmoid()], 1)))
            )
            semantic.append(self.refine_region(edge.with_features(torch.cat([region, logit], 1))))
        return Branches(boundary, semantic, region, edge, levels)

    def forward(self, inputs: Inputs) -> Output:
        found = self.branches(inputs)
        logit = found.boundary[-1].float()
        return Output(torch.cat([torch.zeros_like(logit), logit], 1), found.levels)


def _leaky(x: SparseTensor) -> SparseTensor:
    return x.with_features(F.leaky_relu(x.features, LEAK))


def _wide(features: Tensor) -> Tensor:
    """Rows in float32, as the logits of side heads are."""
    return features if features.dtype == torch.float64 else features.float()


__all__ = ["BoundaryNetwork", "Branches", "EdgeDecoder", "Refinement", "SideHead"]
