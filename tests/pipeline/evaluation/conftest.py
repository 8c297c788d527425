"""A network small enough to know its answer by hand: each voxel gets the class of the nearest anchor point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.result import EvalResult

ANCHORS = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]], np.float32)


@dataclass(slots=True, kw_only=True)
class GridInputs(Inputs):
    centers: Tensor


class GridSpec(InputSpec):
    """Voxels of ``size`` meters; points farther than ``reach`` from the origin have no voxel."""

    def __init__(self, size: float, reach: float) -> None:
        self.size, self.reach = size, reach

    def prepare(self, views: Sequence[View]) -> GridInputs:
        points = np.concatenate([view.points for view in views])
        kept = np.linalg.norm(points, axis=1) <= self.reach
        voxels, inverse = np.unique(np.floor(points[kept] / self.size), axis=0, return_inverse=True)
        element = np.full(len(points), -1, np.int64)
        element[kept] = inverse.ravel()
        centers = torch.from_numpy(((voxels + 0.5) * self.size).astype(np.float32))
        shared = collate_points(views)
        return GridInputs(elements=ElementMap(torch.from_numpy(element), len(voxels)), centers=centers, **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


class GridBackbone(Backbone):
    """Passes the voxel centers on. ``cuts``: x intervals that are looked at in passes of their own."""

    name = "grid"
    Params = Params
    out_channels = 3

    def __init__(self, size: float, reach: float, cuts: Sequence[tuple[float, float]] = ()) -> None:
        super().__init__()
        self.input_spec = GridSpec(size, reach)
        self.cuts = cuts

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.centers, {})

    def head(self, num_classes: int) -> nn.Module:
        head = nn.Linear(3, num_classes)  # argmax of 2ax - |a|^2 is the nearest anchor
        anchors = torch.from_numpy(ANCHORS[:num_classes])
        head.weight.data, head.bias.data = 2 * anchors, -anchors.square().sum(1)
        return head

    def chunks(self, view: View) -> Iterator[View]:
        if not self.cuts:
            yield view
        for low, high in self.cuts:
            yield view.select((view.points[:, 0] >= low) & (view.points[:, 0] < high))


@pytest.fixture
def make_segmenter() -> Callable[..., Segmenter]:
    def make(size: float = 0.5, reach: float = 1e6, cuts: Sequence[tuple[float, float]] = ()) -> Segmenter:
        return Segmenter(GridBackbone(size, reach, cuts), len(ANCHORS))

    return make


@pytest.fixture
def nearest_anchor() -> Callable[[np.ndarray], np.ndarray]:
    def nearest(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - ANCHORS, axis=2).argmin(1).astype(np.uint8)

    return nearest


@pytest.fixture
def make_view() -> Callable[..., View]:
    """n random points around the anchors, none within 0.6 m of a border between two of them."""

    def make(n: int, seed: int = 0, index: int = 0, scan_id: str = "08/000000") -> View:
        rng = np.random.default_rng(seed)
        offset = rng.uniform(-4.4, 4.4, (n, 3)).astype(np.float32)
        points = ANCHORS[rng.integers(0, len(ANCHORS), n)] + offset
        rows = np.stack([np.full(n, index), np.arange(n)], axis=1).astype(np.int64)
        return View(points, {}, rows, np.full(n, IGNORE, np.uint8), scan={"scan_id": scan_id})

    return make


@pytest.fixture
def make_result() -> Callable[..., EvalResult]:
    """A result whose IoU are known: class i is right in ``correct[i]`` of 1000 points and else taken for the next."""

    def make(run: str = "run", correct: Sequence[int] = (900, 500, 100), **changes: Any) -> EvalResult:
        names = ("car", "other-vehicle", "traffic-sign", "pole")[: len(correct)]
        confusion = Confusion(len(correct))
        for index, count in enumerate(correct):
            confusion.counts[index, index] += count
            confusion.counts[(index + 1) % len(correct), index] += 1000 - count if count else 0
        facts: dict[str, Any] = {
            "run": run,
            "method": "supervised",
            "backbone": "minkunet18",
            "dataset": "semantickitti",
            "split": "1%",
            "seed": 0,
            "subset": "val",
            "checkpoint": "last",
            "step": 2000,
            "classes": names,
            "colors": ("#6496f5", "#0000ff", "#ff0000", "#fff096")[: len(names)],
            "tail": names[-1:],
            "confusion": confusion,
            "scans": 3,
            "key": "k",
        }
        return EvalResult(**{**facts, **changes})

    return make
