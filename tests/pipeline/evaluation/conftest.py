"""A network small enough to know its answer by hand: each voxel gets the class of the nearest anchor point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.config import Params
from ssl3d.models.elements import ElementMap
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.evaluation.subject import Subject
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.workspace import Workspace

sys.path.append(str(Path(__file__).parents[1] / "training" / "plugin"))  # ssl3d_test_kinds: networks shared by tests

ANCHORS = np.array([[x, y, 0] for x in (0, 10, 20, 30, 40) for y in (0, 10, 20, 30)], np.float32)


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
    def make(
        size: float = 0.5, reach: float = 1e6, cuts: Sequence[tuple[float, float]] = (), classes: int = 4
    ) -> Segmenter:
        return Segmenter(GridBackbone(size, reach, cuts), classes)

    return make


@pytest.fixture
def nearest_anchor() -> Callable[[np.ndarray], np.ndarray]:
    def nearest(points: np.ndarray, classes: int = 4) -> np.ndarray:
        return np.linalg.norm(points[:, None] - ANCHORS[:classes], axis=2).argmin(1).astype(np.uint8)

    return nearest


@pytest.fixture
def make_view() -> Callable[..., View]:
    """n random points around the anchors, none within 0.6 m of a border between two of them."""

    def make(n: int, seed: int = 0, index: int = 0, scan_id: str = "08/000000") -> View:
        rng = np.random.default_rng(seed)
        offset = rng.uniform(-4.4, 4.4, (n, 3)).astype(np.float32)
        points = ANCHORS[rng.integers(0, 4, n)] + offset
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
            "recipe": "r",
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


CALIB = "".join(f"P{i}: 7 0 6 0 0 7 2 0 0 0 1 0\n" for i in range(4)) + "Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
FRAMES = {"00": 2, "08": 66, "11": 3}  # 66 frames are two units of work


@pytest.fixture(scope="session")
def kitti_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SemanticKITTI layout with few points a scan, labels of every raw id, instance ids in the upper half word."""
    root = tmp_path_factory.mktemp("kitti")
    rng = np.random.default_rng(0)
    raw_ids = np.array(sorted(load_spec("semantickitti").learning_map), np.uint32)
    for sequence, count in FRAMES.items():
        folder = root / "dataset" / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        (folder / "labels").mkdir()
        (folder / "calib.txt").write_text(CALIB)
        (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * count)
        (folder / "times.txt").write_text("".join(f"{i / 10}\n" for i in range(count)))
        for frame in range(count):
            n = int(rng.integers(50, 80))
            nearest = rng.integers(0, 19, n)
            points = np.c_[ANCHORS[nearest] + rng.uniform(-4.4, 4.4, (n, 3)), rng.random(n)].astype("<f4")
            if frame == 1:
                points[7, 0] = np.nan
            points.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            if sequence != "11":
                right = np.array([load_spec("semantickitti").learning_map_inv[int(i)] for i in nearest], np.uint32)
                raw = np.where(rng.random(n) < 0.6, right, rng.choice(raw_ids, n))
                raw[np.isnan(points[:, 0])] = 0  # prepare ignores the label of such a point anyway
                (raw | rng.integers(0, 9, n) << 16).astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
        if sequence == "11":
            (folder / "labels").rmdir()
    return root


@pytest.fixture(scope="session")
def prepared(kitti_root: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    workspace = Workspace.open(tmp_path_factory.mktemp("workspace"))
    prepare(workspace, "semantickitti", kitti_root, PrepareParams(allow_partial=True))
    return PreparedDataset(workspace.dataset())


@pytest.fixture
def make_subject(tmp_path: Path, make_segmenter: Callable[..., Segmenter]) -> Callable[..., Subject]:
    """The anchor network as a trained run; ``calls`` collects the device of every time that it is loaded."""

    def make(calls: list[str] | None = None, reach: float = 1e6, **changes: Any) -> Subject:
        def load(device: str) -> Segmenter:
            if calls is not None:
                calls.append(device)
            return make_segmenter(classes=19, reach=reach)

        facts: dict[str, Any] = {
            "run": "a-run",
            "method": "supervised",
            "backbone": "grid",
            "split": "1pct",
            "seed": 0,
            "recipe": "r",
            "checkpoint": "last",
            "digest": "1234",
            "classes": load_spec("semantickitti").classes,
            "folder": tmp_path / "a-run",
            "step": lambda: 7,
            "load": load,
        }
        return Subject(**{**facts, **changes})

    return make


def _official_scores(truth_files: list[Path], prediction_files: list[Path]) -> tuple[float, float, list[float]]:
    """The official evaluator in slow motion: raw ids of both files through the learning map, one point at a time."""
    spec = load_spec("semantickitti")
    learning_map = {raw: 0 if train == 255 else train + 1 for raw, train in spec.learning_map.items()}
    counts = [[0] * 20 for _ in range(20)]
    for truth_file, prediction_file in zip(truth_files, prediction_files, strict=True):
        truth, prediction = (np.fromfile(file, np.uint32).tolist() for file in (truth_file, prediction_file))
        assert len(truth) == len(prediction)
        for gt, pred in zip(truth, prediction, strict=True):
            counts[learning_map[pred & 0xFFFF]][learning_map[gt & 0xFFFF]] += 1
    for row in counts:
        row[0] = 0  # points without a truth
    iou, correct, predicted = [], 0, 0
    for c in range(1, 20):
        tp = counts[c][c]
        fp = sum(counts[c]) - tp
        fn = sum(row[c] for row in counts) - tp
        iou.append(tp / (tp + fp + fn + 1e-15))
        correct, predicted = correct + tp, predicted + tp + fp
    return sum(iou) / 19, correct / (predicted + 1e-15), iou


@pytest.fixture(scope="session")
def official_scores() -> Callable[[list[Path], list[Path]], tuple[float, float, list[float]]]:
    """Files of truth, files of predictions -> mIoU, accuracy, IoU of SemanticKITTI."""
    return _official_scores
