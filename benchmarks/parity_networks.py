"""Whole MinkUNets against the same network built of MinkowskiEngine's layers, with one state dict.

In float32 both are also compared with the float64 run of ours: what of their difference is rounding, and whose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.benchmarks.parity import Row, row
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.minkunet import MinkUNet
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.backbones.voxels import VoxelInputs
from ssl3d.models.sparse.backends.minkowski import library

NETWORKS = ("minkunet14", "minkunet18", "minkunet34")
CLASSES = 19


@dataclass(frozen=True)
class Pass:
    """A training pass: logits (M, C), the loss's gradients by parameter, and running statistics afterwards."""

    logits: Tensor
    grads: dict[str, Tensor]
    statistics: dict[str, Tensor]

    def narrowed(self) -> Pass:
        """In float32."""
        grads, statistics = ({name: t.float() for name, t in part.items()} for part in (self.grads, self.statistics))
        return Pass(self.logits.float(), grads, statistics)


class Reference(nn.Module):
    """A MinkUNet of MinkowskiEngine's layers; its state dict is that of our ``Segmenter``."""

    def __init__(self, ours: Segmenter) -> None:
        super().__init__()
        from ssl3d.benchmarks.rivals.minkowski import MinkowskiLayers
        from ssl3d.benchmarks.rivals.worker import MinkUNet as Plan

        assert isinstance(ours.backbone, MinkUNet)
        params, engine = ours.backbone.params, library()
        self.backbone = Plan(MinkowskiLayers(), list(params.blocks), params.in_channels)
        self.head: nn.Module = engine.MinkowskiConvolution(
            ours.backbone.out_channels, CLASSES, kernel_size=1, bias=True, dimension=3
        )

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        engine = library()
        manager = engine.CoordinateManager(D=3, coordinate_map_type=engine.CoordinateMapType.CPU)
        key, _ = manager.insert_and_map(coordinates, 1)
        x = engine.SparseTensor(features, coordinate_map_key=key, coordinate_manager=manager)
        logits: Tensor = self.head(self.backbone(x)).F
        return logits


def wavy_ground(points: int, seed: int = 0, width: float = 40.0) -> View:
    """A ground with walls: surfaces, as a scan has, with many voxels at every level."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-width / 2, width / 2, (points, 2))
    wall = rng.random(points) < 0.3
    xy[wall, 0] = np.round(xy[wall, 0] / 8) * 8
    z = np.where(wall, rng.uniform(-1, 4, points), np.sin(xy[:, 0]) + np.cos(xy[:, 1] / 2))
    return View(
        points=np.c_[xy, z].astype(np.float32),
        features={"intensity": rng.random((points, 1)).astype(np.float32)},
        rows=np.c_[np.zeros(points, np.int64), np.arange(points)],
        label=rng.integers(0, CLASSES, points).astype(np.uint8),
    )


def make_inputs(points: int = 20_000, voxel_size: float = 0.3) -> tuple[VoxelInputs, Tensor]:
    """A batch of two clouds, and a class for each voxel."""
    spec = make_backbone("minkunet14", {"voxel_size": voxel_size}).input_spec
    inputs = spec.prepare([wavy_ground(points // 2, seed) for seed in (0, 1)])
    assert isinstance(inputs, VoxelInputs)
    return inputs, spec.labels(inputs, inputs.label)


def run(network: nn.Module, forward: Any, labels: Tensor) -> Pass:
    """One forward and backward pass of cross-entropy in training mode; parameters and statistics are put back."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train().zero_grad()
    logits: Tensor = forward()
    F.cross_entropy(logits, labels).backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    statistics = {name: b.clone() for name, b in network.named_buffers() if b.is_floating_point()}
    network.load_state_dict(before)
    network.zero_grad()
    return Pass(logits.detach(), grads, statistics)


def both(ours: Segmenter, dtype: torch.dtype, inputs: VoxelInputs, labels: Tensor) -> tuple[Pass, Pass]:
    """A pass of ours and of the reference that has its state dict. ``ours`` stays in ``dtype``."""
    ours.to(dtype)
    reference = Reference(ours).to(dtype)
    reference.load_state_dict(ours.state_dict())
    ours.load_state_dict(reference.state_dict())
    features = inputs.features.to(dtype)
    given = inputs.map(lambda value: features if value is inputs.features else value)
    mine = run(ours, lambda: ours(given).logits, labels)
    theirs = run(reference, partial(reference, features, inputs.coordinates), labels)
    return mine, theirs


def pass_rows(case: str, ours: Pass, theirs: Pass) -> list[Row]:
    """Logits, running statistics, and the parameter whose gradient differs most, relative to its largest entry."""
    rows = [row(case, "output", ours.logits, theirs.logits, f"{len(ours.logits)} sites")]
    for quantity, mine, other in (
        ("gradient of the weights", ours.grads, theirs.grads),
        ("running statistics", ours.statistics, theirs.statistics),
    ):
        assert mine.keys() == other.keys()
        each = [row(case, quantity, mine[name], other[name], f"worst of {len(mine)}: {name}") for name in mine]
        rows.append(max(each, key=lambda found: found.relative))
    return rows


def network_rows(name: str, inputs: VoxelInputs, labels: Tensor) -> list[Row]:
    """The network in float64 and in float32, and both float32 runs against float64."""
    torch.manual_seed(0)
    ours = Segmenter(make_backbone(name), CLASSES)
    exact = both(ours, torch.float64, inputs, labels)
    rough = both(ours, torch.float32, inputs, labels)
    rows = [*pass_rows(name, *exact), *pass_rows(name, *rough)]
    wide = exact[0].narrowed()
    for whose, single in zip(("ours", "MinkowskiEngine's"), rough, strict=True):
        rows += pass_rows(f"{name}, {whose} in float32 against float64", single, wide)
    return rows


def all_network_rows() -> Iterator[list[Row]]:
    inputs, labels = make_inputs()
    for name in NETWORKS:
        yield network_rows(name, inputs, labels)
