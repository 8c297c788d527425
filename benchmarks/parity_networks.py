"""Whole MinkUNets against the same network built of MinkowskiEngine's layers, with one state dict.

In float32 each engine is also compared with its own float64, to tell whose the rounding is. Gradients then differ by up
to 15% although the outputs agree to 3e-6: a few of the millions of inputs of ReLUs lie so near zero that rounding
changes their sign, and there the derivative jumps from 0 to 1. So float32 is run once more with the signs of float64 at
every ReLU: what is left is the error of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssl3d.benchmarks.parity import Comparison, Row, row
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
    """A training pass: logits (M, C), gradients by parameter, running statistics afterwards, signs at ReLUs."""

    logits: Tensor
    grads: dict[str, Tensor]
    statistics: dict[str, Tensor]
    signs: Signs

    def narrowed(self) -> Pass:
        """In float32."""
        grads, statistics = ({name: t.float() for name, t in part.items()} for part in (self.grads, self.statistics))
        return Pass(self.logits.float(), grads, statistics, self.signs)


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


class Signs(TorchFunctionMode):
    """Keeps which inputs of every ReLU are positive, or decides it.

    Args:
        imposed: what another pass of the same network has kept.
    """

    def __init__(self, imposed: list[Tensor] | None = None) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.imposed = imposed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.relu, torch.relu, torch.relu_):
            return func(*args, **(kwargs or {}))
        self.kept.append(args[0].detach() > 0)
        return func(*args, **(kwargs or {})) if self.imposed is None else args[0] * self.imposed[len(self.kept) - 1]

    def differing(self, other: Signs) -> int:
        assert len(self.kept) == len(other.kept)
        return sum(int((a != b).sum()) for a, b in zip(self.kept, other.kept, strict=True))

    @property
    def count(self) -> int:
        return sum(mask.numel() for mask in self.kept)


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


def run(network: nn.Module, forward: Any, labels: Tensor, signs: Signs) -> Pass:
    """One forward and backward pass of cross-entropy in training mode; parameters and statistics are put back."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train().zero_grad()
    with signs:
        logits: Tensor = forward()
    F.cross_entropy(logits, labels).backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    statistics = {name: b.clone() for name, b in network.named_buffers() if b.is_floating_point()}
    network.load_state_dict(before)
    network.zero_grad()
    return Pass(logits.detach(), grads, statistics, signs)


def both(
    ours: Segmenter, dtype: torch.dtype, inputs: VoxelInputs, labels: Tensor, like: tuple[Pass, Pass] | None = None
) -> tuple[Pass, Pass]:
    """A pass of ours and of the reference that has its state dict. ``ours`` stays in ``dtype``.

    Args:
        like: passes of both whose signs are imposed (each on its own: the engines order coarse rows differently).
    """
    ours.to(dtype)
    reference = Reference(ours).to(dtype)
    reference.load_state_dict(ours.state_dict())
    ours.load_state_dict(reference.state_dict())
    features = inputs.features.to(dtype)
    given = inputs.map(lambda value: features if value is inputs.features else value)
    signs = [Signs(None if like is None else like[side].signs.kept) for side in (0, 1)]
    mine = run(ours, lambda: ours(given).logits, labels, signs[0])
    theirs = run(reference, partial(reference, features, inputs.coordinates), labels, signs[1])
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
    """The network in float64, in float32, in float32 with the signs of float64, and float32 against float64."""
    torch.manual_seed(0)
    ours = Segmenter(make_backbone(name), CLASSES)
    exact = both(ours, torch.float64, inputs, labels)
    rough = both(ours, torch.float32, inputs, labels)
    held = both(ours, torch.float32, inputs, labels, like=exact)
    rows = [*pass_rows(name, *exact), *pass_rows(name, *rough)]
    rows += pass_rows(f"{name}, ReLUs with the signs of float64", *held)
    for whose, wide, single in zip(("ours", "MinkowskiEngine's"), exact, rough, strict=True):
        case, count = f"{name}, {whose} in float32 against float64", single.signs.count
        rows += pass_rows(case, single, wide.narrowed())
        rows.append(Row(case, "signs at ReLUs", "float32", single.signs.differing(wide.signs), count, f"of {count}"))
    return rows


def network_comparisons() -> list[Comparison]:
    """Each MinkUNet, on one batch."""
    inputs, labels = make_inputs()
    return [partial(network_rows, name, inputs, labels) for name in NETWORKS]
