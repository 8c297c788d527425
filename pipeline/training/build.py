"""From a configuration to its parts: the data of a run, the method's network, and a trained predictor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ssl3d.data.augment import Augmentation
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.spec import DatasetSpec
from ssl3d.models.backbones.base import InputSpec, Segmenter
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.ema import ema_update
from ssl3d.models.methods.base import Method, Phase
from ssl3d.models.methods.registry import get_method
from ssl3d.pipeline.cut_scan import CutSource, ExtrasOfParts
from ssl3d.pipeline.dataset import Places, PreparedDataset
from ssl3d.pipeline.files import digest_file
from ssl3d.pipeline.training import checkpoint, public_checkpoint
from ssl3d.pipeline.training.batches import BatchMaker, Stream, batch_items
from ssl3d.pipeline.training.config import DatasetRef, InitRef, RunConfig, SplitRef
from ssl3d.pipeline.training.extras import ExtraSource, ViewSource, stage_extras, with_extras
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.weights import Weights, resolve_weights

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import Workspace


@dataclass(frozen=True)
class TrainingData:
    """What a run may see: scans with the labels that the split shows, and products of stages.

    Attributes:
        source: every scan of the dataset, then the parts of one that the split has cut; labels are IGNORE unless the
            split shows them.
        labelled, unlabelled: indices of the scans that batches are drawn from.
        spec: what the dataset is.
        places: where scan i lies.
    """

    dataset: DatasetRef
    split: SplitRef
    source: ViewSource
    labelled: Sequence[int]
    unlabelled: Sequence[int]
    scan_ids: Sequence[str]
    places: Places
    spec: DatasetSpec

    def stream(self, labelled: bool, batch: int, extras: Sequence[ExtraSource] = ()) -> Stream:
        indices = self.labelled if labelled else self.unlabelled
        ids = [self.scan_ids[index] for index in indices]
        return Stream(with_extras(self.source, extras), indices, ids, batch)


def open_data(workspace: Workspace, dataset: str | None, split: str | None, needs: Sequence[str] = ()) -> TrainingData:
    """The prepared dataset and its split (default: the current ones), with the products of the stages ``needs``.

    Raises:
        UsageError: not prepared, not split, no labelled scan or point, or a stage was not run; says what to type.
    """
    from ssl3d.pipeline.splits import find_split

    prepared = PreparedDataset(workspace.dataset(dataset))
    found = find_split(prepared.handle, split)
    if found.val:
        prepared = PreparedDataset(prepared.handle, val=found.val)
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
    stages, of_scans = stage_extras(prepared.handle, needs, visible.scans.places, found.key)
    extras: Sequence[ExtraSource] = of_scans
    if isinstance(visible, CutSource):
        extras = [ExtrasOfParts(extra, visible) for extra in of_scans]
    return TrainingData(
        dataset=DatasetRef(
            name=prepared.name,
            key=prepared.product.key,
            classes=tuple(prepared.spec.classes),
            protocol=prepared.protocol,
            stages=stages,
            version=prepared.version,
        ),
        split=SplitRef(
            name=name,
            hash=found.hash,
            labelled=len(visible.labelled),
            unlabelled=len(visible.unlabelled),
            partial=found.partial,
            val=found.val,
        ),
        source=with_extras(visible, extras),
        labelled=visible.labelled.tolist(),
        unlabelled=visible.unlabelled.tolist(),
        scan_ids=[*(scan.scan_id for scan in prepared.scans), *visible.parts],
        places=visible.places,
        spec=prepared.spec,
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


def check_method(config: RunConfig, data: TrainingData) -> None:
    """Raises ``UsageError`` when the method makes no sense on the dataset or with the backbone, or when it learns from
    what has no label and the split leaves nothing without."""
    method = get_method(config.method)
    method.check(config.method_params, data.spec)
    if method.elements and (elements := get_backbone(config.backbone).elements) not in method.elements:
        fitting = [name for name in list_backbones() if get_backbone(name).elements in method.elements]
        raise UsageError(
            f"{config.method} works on {' or '.join(method.elements)}, and {config.backbone} computes on {elements}",
            hint=f"choose another --backbone: {', '.join(fitting) or 'none that is installed fits'}",
        )
    if method.uses_unlabelled and not data.unlabelled and not data.split.partial:
        raise UsageError(
            f"{config.method} learns from unlabelled scans, and the split has none",
            where={"split": data.split.name},
            hint="choose a smaller ratio (ssl3d split --ratio 10%), or train supervised",
        )


def check_share(config: RunConfig, data: TrainingData, processes: int) -> None:
    """Raises ``UsageError`` when the processes cannot have equally many items of each batch."""
    method = get_method(config.method)
    unlabelled = method.uses_unlabelled and bool(data.unlabelled)
    items = batch_items(
        method, config.method_params, config.train.batch, config.batch_unlabelled if unlabelled else None
    )
    if items % processes == 0:
        return
    fitting = " or ".join(str(count) for count in range(1, items + 1) if items % count == 0)
    where: dict[str, object] = {"train.batch": config.train.batch}
    where |= {"train.batch_unlabelled": config.batch_unlabelled} if unlabelled else {}
    share = processes * (1 if unlabelled else method.item_scans(config.method_params, False))
    raise UsageError(
        f"{processes} processes cannot share the {items} items of a batch equally",
        where=where,
        hint=f"make batches that they can share (--set train.batch={-(-config.train.batch // share) * share}), "
        f"or start {fitting} processes",
    )


def batch_maker(
    config: RunConfig,
    data: TrainingData,
    method: type[Method],
    input_spec: InputSpec,
    extras: Sequence[ExtraSource] = (),
    process: int = 0,
    processes: int = 1,
    phases: Sequence[Phase] = (),
) -> BatchMaker:
    """``extras``: what later phases read besides the products of stages. ``process`` of ``processes``: whose share.
    ``phases``: those of the run, so that a batch knows its own."""
    unlabelled = method.uses_unlabelled and bool(data.unlabelled)
    return BatchMaker(
        method=method,
        params=config.method_params,
        input_spec=input_spec,
        augmentation=Augmentation(config.augment),
        labelled=data.stream(True, config.train.batch, extras),
        unlabelled=data.stream(False, config.batch_unlabelled, extras) if unlabelled else None,
        seed=config.seed,
        max_points=config.train.max_points,
        process=process,
        processes=processes,
        phase_ends=tuple(accumulate(phase.steps for phase in phases)),
    )


def load_predictor(
    run: RunDirectory, device: torch.device | str = "cpu", weights: Weights = "auto"
) -> tuple[Segmenter, RunConfig]:
    """The trained network of a run, in eval mode on ``device``.

    Args:
        weights: ``own`` (``Method.predictor()``), ``ema`` (the average of ``Method.student()``), or ``auto``: the
            average where the run keeps one.

    Raises:
        UsageError: the run has no checkpoint yet, or not the average that is asked for.
        Ssl3dError: the checkpoint is damaged, or does not fit the run (number of classes, names or shapes of tensors).
    """
    config, path = run.config, run.checkpoint_path()
    loaded = checkpoint.load(path)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced: nobody's generator should move
        method, _ = build_method(config)
    if resolve_weights(run, weights) == "ema":
        segmenter = method.student()
        averaged = {**loaded, "model": loaded.get("average") or {}}
        checkpoint.load_weights(segmenter, averaged, config.num_classes, path)
    else:
        checkpoint.load_weights(method, loaded, config.num_classes, path)
        segmenter = method.predictor()
    return segmenter.to(device).eval(), config


def find_weights(workspace: Workspace, origin: str | Path) -> tuple[Path, InitRef]:
    """``--init-from``: a run by name, its folder, a checkpoint file of one, or an imported one."""
    if Path(origin).is_file():
        path = Path(origin).absolute()
        return path, InitRef(run=str(path), digest=digest_file(path))
    run = RunDirectory.open(workspace, str(origin))
    path = run.checkpoint_path()
    return path, InitRef(run=run.name, digest=digest_file(path))


def find_again(workspace: Workspace, init: InitRef) -> Path:
    """The checkpoint that a run has to begin with, found again. ``UsageError`` when it is another one by now."""
    path, found = find_weights(workspace, init.run)
    if found.digest != init.digest:
        raise UsageError(
            "the weights that the run begins with are others by now, and it has no checkpoint of its own yet",
            where={"weights": path},
            hint="begin a new run: type its command again, with --init-from",
        )
    return path


def init_weights(method: Method, path: Path, config: RunConfig) -> str | None:
    """Starts ``method``'s student and predictor from the predictor of the run that owns the checkpoint ``path``; a file
    that was copied out of its run has to be of the same method and backbone. An imported file belongs to no run; what
    was taken of it is returned."""
    run, loaded = RunDirectory(path.parent.parent), checkpoint.load(path)
    if public_checkpoint.MARK in loaded:
        return public_checkpoint.start_from_imported(method, loaded, config, path)
    origin = run.config if run.exists else config
    with torch.random.fork_rng(devices=[]):
        other, _ = build_method(origin)
    checkpoint.load_weights(other, loaded, origin.num_classes, path)
    weights = {**loaded, "model": other.predictor().state_dict()}
    for network in (method.student(), method.predictor()):  # one and the same, unless the predictor is an average
        checkpoint.load_weights(network, weights, config.num_classes, path)
    for average, source in method.ema_pairs():  # also one that is not evaluated
        ema_update(average, source, 0.0, "copy")
    return None


__all__ = [
    "TrainingData",
    "batch_maker",
    "build_method",
    "check_method",
    "check_share",
    "find_again",
    "find_weights",
    "init_weights",
    "load_predictor",
    "open_data",
]
