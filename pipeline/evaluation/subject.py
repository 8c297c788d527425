"""What is evaluated: a trained network, and what a report says about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ssl3d.data.errors import DataError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.passes import Passes
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS
from ssl3d.pipeline.evaluation.result import display_name
from ssl3d.pipeline.files import digest_file
from ssl3d.pipeline.machine import usable_cores
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.workspace import Workspace, ensure_numba_cache

if TYPE_CHECKING:
    from ssl3d.models.backbones.base import Segmenter
    from ssl3d.pipeline.evaluation.predictor import Predictor
    from ssl3d.pipeline.training.config import DatasetRef
    from ssl3d.pipeline.training.run import RunDirectory
    from ssl3d.pipeline.training.weights import Resolved, Weights


@dataclass(frozen=True)
class Subject:
    """A trained network.

    Attributes:
        run, method, backbone, split, seed, recipe: see ``EvalResult``.
        checkpoint: ``last`` (or what ``best`` was selected on).
        digest: of the checkpoint; another digest makes results stale.
        classes: names of the classes that it was trained for, in order.
        folder: of the run; results are kept in its ``eval/``.
        step: the optimizer steps of the checkpoint; only called when something has to be computed, as is
        load: device -> the network.
        weights: which of its weights: its ``own``, or ``ema``, their average.
        split_hash: of the split that it was trained on; None: it saw all labels.
        passes: how it looks at a scan.
        external: it began with weights from elsewhere.
    """

    run: str
    method: str
    backbone: str
    split: str
    seed: int
    recipe: str
    checkpoint: str
    digest: str
    classes: tuple[str, ...]
    folder: Path
    step: Callable[[], int]
    load: Callable[[str], Segmenter]
    weights: Resolved = "own"
    split_hash: str | None = None
    passes: Passes = field(default_factory=Passes)
    external: bool = False

    @property
    def name(self) -> str:
        """The run, its weights where they are not its own, and test-time augmentation; for people."""
        return display_name(self.run, self.weights, self.passes.augment)

    @property
    def key(self) -> str:
        """The checkpoint, its weights and its passes, as file names say it."""
        ema = ["ema"] if self.weights == "ema" else []
        return "-".join([self.checkpoint, *ema, *filter(None, [self.passes.name])])

    def check_classes(self, dataset: PreparedDataset) -> None:
        """Raises ``DataError`` when the network was trained for other classes than the dataset has."""
        if self.classes != dataset.spec.classes:
            raise DataError(
                f"the run knows {len(self.classes)} classes, the dataset '{dataset.name}' has "
                f"{dataset.spec.num_classes}, or the same in another order",
                where={"run": self.run, "dataset": dataset.name},
                hint="evaluate it on the dataset that it was trained on, prepared with the same --classes",
            )


def subject_of(run: RunDirectory, weights: Weights = "auto", passes: Passes | None = None) -> Subject:
    """The network of a run: of the checkpoint that counts. Imports no torch.

    Args:
        weights: ``auto`` means the averaged weights where the run keeps an average.

    Raises:
        UsageError: it has no checkpoint yet, or not the average that is asked for.
    """
    from ssl3d.pipeline.training.weights import resolve_weights

    resolved = resolve_weights(run, weights)

    def load(device: str) -> Segmenter:
        from ssl3d.pipeline.training.build import load_predictor

        return load_predictor(run, device, resolved)[0]

    config = run.config
    return Subject(
        run=run.name,
        method=config.method,
        backbone=config.backbone,
        split=config.split.name if config.split is not None else "all",
        seed=config.seed,
        recipe=config.recipe,
        checkpoint=run.checkpoint_name,
        digest=digest_file(run.checkpoint_path()),
        classes=config.data.classes,
        folder=run.path,
        step=run.checkpoint_step,
        load=load,
        weights=resolved,
        split_hash=config.split.hash if config.split is not None else None,
        passes=passes or Passes(),
        external=config.init_from is not None,
    )


class Datasets:
    """``dataset_of`` for many runs; what several of them share is read once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[tuple[object, ...], PreparedDataset] = {}

    def of(self, run: RunDirectory) -> PreparedDataset:
        data, split = run.config.data, run.config.split
        key = (data.name, data.key, data.protocol, split and split.val)
        if key not in self._known:
            self._known[key] = dataset_of(self._workspace, run)
        return self._known[key]


def dataset_of(workspace: Workspace, run: RunDirectory, *, test: bool = False) -> PreparedDataset:
    """The scans that a run was trained on, with the same ones for validation.

    The current product of its dataset, or where that was prepared with others for validation, the run's own.

    Args:
        test: scans for a server are wanted: the current product in any case where the run's own has none (nuScenes'
            v1.0-test, prepared after the training).

    Raises:
        UsageError: the dataset is not prepared any more.
        DataError: the current product has others for validation, and the run's own is gone.
    """
    config = run.config
    handle = workspace.dataset(config.data.name)
    current, own = handle.product("prepare"), handle.product("prepare", config.data.key)
    divided = [product and product.manifest.params.get("version") for product in (current, own)]
    key = own.key if own is not None and own.complete and divided[0] != divided[1] else None
    if test and own is not None and current is not None and _has_test(current) > _has_test(own):
        key = None
    dataset = PreparedDataset(handle, key=key, val=config.split.val if config.split is not None else ())
    if own is None and not _held_out_alike(dataset, config.data):
        raise DataError(
            "the run was trained with other scans for validation than the dataset has now",
            where={
                "run": run.name,
                "trained": f"version '{config.data.version or ''}', protocol {config.data.protocol}",
                "prepared now": f"version '{dataset.version}', protocol {dataset.protocol}",
            },
            hint="prepare the dataset with the --version that the run was trained on",
        )
    return dataset


def _held_out_alike(dataset: PreparedDataset, data: DatasetRef) -> bool:
    """Whether a dataset has the scans for validation that a run has not seen, as far as names tell."""
    named = PROTOCOLS[dataset.protocol].held != ()
    return dataset.protocol == data.protocol and (named or data.version in (None, dataset.version))


def _has_test(product: Product) -> bool:
    return any(entry.info["subset"] == "test" for entry in product.done.values())


def predicting(
    dataset: PreparedDataset, subject: Subject, device: str, jobs: int, progress: Progress
) -> AbstractContextManager[Predictor]:
    """See ``predicting_in``."""
    return predicting_in(dataset.handle.workspace, subject, device, jobs, progress)


@contextmanager
def predicting_in(
    workspace: Workspace, subject: Subject, device: str, jobs: int, progress: Progress
) -> Iterator[Predictor]:
    """The predictor of ``subject``, with ``jobs`` threads for the network (0: all) while the block lasts.

    With more than one, or another device, a further thread reads ahead.
    """
    ensure_numba_cache(workspace)
    import torch

    from ssl3d.pipeline.evaluation.predictor import Predictor

    threads = torch.get_num_threads()
    jobs = jobs or usable_cores()
    torch.set_num_threads(jobs)
    try:
        yield Predictor(
            subject.load(device),
            device,
            passes=subject.passes,
            prefetch=jobs > 1 or device != "cpu",
            progress=progress,
        )
    finally:
        torch.set_num_threads(threads)
