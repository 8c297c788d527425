"""From a configuration to its parts: the data of a run, the method's network, and a trained predictor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ssl3d.data.augment import Augmentation
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.models.backbones.base import InputSpec, Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.methods.base import Method
from ssl3d.models.methods.registry import get_method
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.files import digest_file
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.batches import BatchMaker, Stream, ViewSource
from ssl3d.pipeline.training.config import DatasetRef, InitRef, RunConfig, SplitRef
from ssl3d.pipeline.training.run import RunDirectory

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import Workspace


@dataclass(frozen=True)
class TrainingData:
    """What a run may see: the labelled scans with their visible labels, and the points of the unlabelled ones."""

    dataset: DatasetRef
    split: SplitRef
    visible: ViewSource
    points: ViewSource
    labelled: Sequence[int]
    unlabelled: Sequence[int]
    scan_ids: Sequence[str]

    def stream(self, labelled: bool, batch: int) -> Stream:
        indices = self.labelled if labelled else self.unlabelled
        ids = [self.scan_ids[index] for index in indices]
        return Stream(self.visible if labelled else self.points, indices, ids, batch)


def open_data(workspace: Workspace, dataset: str | None, split: str | None) -> TrainingData:
    """The prepared dataset and its split (default: the current ones).

    Raises:
        UsageError: not prepared, not split, or no labelled scan or point; says what to type.
    """
    from ssl3d.pipeline.splits import find_split

    prepared = PreparedDataset(workspace.dataset(dataset))
    found = find_split(prepared.handle, split)
    visible = prepared.visible(found)
    if not len(visible.labelled):
        raise UsageError(
            "the split has no labelled scan", where={"split": found.name}, hint="type: ssl3d split --ratio 1%"
        )
    if not found.budget.labelled_points:
        raise UsageError(
            "no point of the labelled scans has a class: there is nothing to learn from",
            where={"split": found.name, "labelled scans": len(found.labelled)},
            hint="choose other scans (ssl3d split --ratio 1% --seed 1), or more of them",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "", found.name.replace("%", "pct"))
    return TrainingData(
        dataset=DatasetRef(
            name=prepared.name,
            key=prepared.product.key,
            classes=tuple(prepared.spec.classes),
            protocol=prepared.spec.name,
        ),
        split=SplitRef(name=name, hash=found.hash, labelled=len(visible.labelled), unlabelled=len(visible.unlabelled)),
        visible=visible,
        points=visible.scans,
        labelled=visible.labelled.tolist(),
        unlabelled=visible.unlabelled.tolist(),
        scan_ids=[scan.scan_id for scan in prepared.scans],
    )


def build_method(config: RunConfig) -> tuple[Method, InputSpec]:
    """The method with freshly drawn weights (from torch's global generator), and the encoder of its inputs."""
    specs: list[InputSpec] = []

    def make_segmenter() -> Segmenter:
        backbone = make_backbone(config.backbone, config.backbone_params)
        specs.append(backbone.input_spec)
        return Segmenter(backbone, config.num_classes)

    method = get_method(config.method)(config.method_params, make_segmenter, config.num_classes)
    if not specs:
        raise Ssl3dError(f"the method {config.method!r} built no segmenter")
    return method, specs[0]


def batch_maker(config: RunConfig, data: TrainingData, method: type[Method], input_spec: InputSpec) -> BatchMaker:
    """Raises ``UsageError`` when the method needs unlabelled scans and the split has none."""
    if method.uses_unlabelled and not data.unlabelled:
        raise UsageError(
            f"{config.method} learns from unlabelled scans, and the split has none",
            where={"split": data.split.name},
            hint="choose a smaller ratio (ssl3d split --ratio 10%), or train supervised",
        )
    return BatchMaker(
        method=method,
        params=config.method_params,
        input_spec=input_spec,
        augmentation=Augmentation(config.augment),
        labelled=data.stream(True, config.train.batch),
        unlabelled=data.stream(False, config.batch_unlabelled) if method.uses_unlabelled else None,
        seed=config.seed,
        max_points=config.train.max_points,
    )


def load_predictor(run: RunDirectory, device: torch.device | str = "cpu") -> tuple[Segmenter, RunConfig]:
    """The trained network of a run, in eval mode on ``device``.

    Raises:
        UsageError: the run has no checkpoint yet.
        Ssl3dError: the checkpoint is damaged, or does not fit the run (number of classes, names or shapes of tensors).
    """
    config, path = run.config, run.checkpoint_path()
    loaded = checkpoint.load(path)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced: nobody's generator should move
        method, _ = build_method(config)
    checkpoint.load_weights(method, loaded, config.num_classes, path)
    segmenter = method.predictor()
    return segmenter.to(device).eval(), config


def find_weights(workspace: Workspace, origin: str | Path) -> tuple[Path, InitRef]:
    """``--init-from``: a run by name, its folder, or a checkpoint file of one."""
    if Path(origin).is_file():
        path = Path(origin).absolute()
        return path, InitRef(run=str(path), digest=digest_file(path))
    run = RunDirectory.open(workspace, str(origin))
    path = run.checkpoint_path()
    return path, InitRef(run=run.name, digest=digest_file(path))


def init_weights(method: Method, path: Path, config: RunConfig) -> None:
    """Starts ``method``'s predictor from the predictor of the run that owns the checkpoint ``path``; a file that was
    copied out of its run has to be of the same method and backbone."""
    run, loaded = RunDirectory(path.parent.parent), checkpoint.load(path)
    origin = run.config if run.exists else config
    with torch.random.fork_rng(devices=[]):
        other, _ = build_method(origin)
    checkpoint.load_weights(other, loaded, origin.num_classes, path)
    weights = {**loaded, "model": other.predictor().state_dict()}
    checkpoint.load_weights(method.predictor(), weights, config.num_classes, path)


__all__ = [
    "TrainingData",
    "batch_maker",
    "build_method",
    "find_weights",
    "init_weights",
    "load_predictor",
    "open_data",
]
