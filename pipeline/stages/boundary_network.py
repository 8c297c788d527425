"""The network of ``boundary`` in the product's folder: training it there, and predicting the scans of a unit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.boundary.network import BoundaryNetwork
from ssl3d.models.sparse.backends import use_backend
from ssl3d.pipeline.dataset import Places, ScanSource
from ssl3d.pipeline.evaluation.predictor import Predictor
from ssl3d.pipeline.files import remove_tree
from ssl3d.pipeline.progress import Progress, Task
from ssl3d.pipeline.stage import UnitInputs
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.build import TrainingData, load_predictor
from ssl3d.pipeline.training.config import RunConfig
from ssl3d.pipeline.training.device import reproducible
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import train_at


def check_backbone(config: RunConfig, classes: int) -> None:
    """Raises ``UsageError`` when no boundary network can be built on the backbone. Draws no weights."""
    with torch.device("meta"):
        BoundaryNetwork(make_backbone(config.backbone, config.backbone_params), classes)


def make_network(
    path: Path,
    config: RunConfig,
    data: TrainingData,
    device: torch.device,
    jobs: int,
    progress: Progress,
    again: str,
) -> None:
    """Trains the network in ``path``, goes on with it, or does nothing when it is finished.

    One that is damaged is trained again. The finished network of another product (of other regions, or another rule)
    with the same configuration is copied.
    """
    if path.exists() and not _sound(path, config):
        progress.say(f"damaged: {path}; removed, and trained again")
        remove_tree(path)
    if not path.exists() and (other := _trained_elsewhere(path, config)):
        copy = path.with_name(f".tmp-{path.name}")
        shutil.copytree(other, copy, ignore=shutil.ignore_patterns(".lock", ".*.tmp"))
        copy.rename(path)
    if RunDirectory(path).finished:
        return
    with progress.task("training", total=config.train.steps, unit="step") as task:
        train_at(path, config, data, device=device, jobs=jobs, progress=progress, display=_Bar(task), again=again)


class _Bar:
    """Draws training as a bar."""

    def __init__(self, task: Task) -> None:
        self.task, self.step = task, 0

    def update(self, status: TrainStatus) -> None:
        self.task.advance(status.step - self.step)
        self.step = status.step
        self.task.note(", ".join(f"{name} {value:.3f}" for name, value in status.losses.items()))


def _sound(path: Path, config: RunConfig) -> bool:
    """Whether training can go on from ``path``, or its finished network be used."""
    run = RunDirectory(path)
    try:
        if run.finished:
            checkpoint.load(run.checkpoint_path())
        else:
            checkpoint.load_last(run.checkpoints, lambda text: None)
        return run.config.hash == config.hash
    except Ssl3dError:
        return False


def _trained_elsewhere(path: Path, config: RunConfig) -> Path | None:
    for other in sorted(path.parents[1].glob(f"*/{path.name}")):
        if RunDirectory(other).finished and _sound(other, config):
            return other
    return None


@dataclass(frozen=True, slots=True)
class Predicted:
    """One scan.

    Attributes:
        view: without labels.
        probability: (n,) float16, of being a boundary point.
        seen: False when all of it is cropped or not finite: the probability is 0 throughout then.
    """

    view: View
    probability: npt.NDArray[np.float16]
    seen: bool


def predict_unit(inputs: UnitInputs, network: Path, device: str) -> Iterator[Predicted]:
    """The scans of a prepared unit, in order. Points that the network does not see take what the nearest one has."""
    count = len(inputs.shard("prepare", "points"))
    places = Places((inputs.unit,), np.zeros(count, np.int32), np.arange(count, dtype=np.int32))
    source = ScanSource(str(inputs.folders["prepare"]), places)
    place = torch.device(device)
    segmenter, config = _loaded(network, device, (network / "checkpoints" / checkpoint.LAST).stat().st_mtime_ns)
    views: dict[int, View] = {}

    def load(position: int) -> View:
        return views.setdefault(position, source.view(position))

    with use_backend(config.train.sparse_backend), reproducible(inputs.threads, place):
        predictor = Predictor(segmenter, place, prefetch=place.type != "cpu")
        for position, prediction in predictor.predictions(range(count), load, scores=True):
            assert prediction.scores is not None
            probability = prediction.scores[:, 1].astype(np.float16)
            yield Predicted(views.pop(position), probability, not count or bool(prediction.scores.any()))


@lru_cache(maxsize=1)
def _loaded(network: Path, device: str, written: int) -> tuple[Segmenter, RunConfig]:
    """``written``: when the checkpoint was, so that another one is not taken for it."""
    return load_predictor(RunDirectory(network), device)
