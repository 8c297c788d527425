"""Evaluates a network on every original point of a subset; may be killed at any time, and goes on with the next unit.

The result lies in the run: ``eval/<subset>-<checkpoint>.json`` (``...-ema.json`` of averaged weights) holds the counts,
so that every protocol can be applied later without the network; of a network that predicts instances, their average
precisions too. It is believed only while checkpoint, prepared data
and list of scans are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.dataset import PreparedDataset, ScanRef, TruthSource
from ssl3d.pipeline.evaluation.counts import Counts
from ssl3d.pipeline.evaluation.instance_ap import instance_classes
from ssl3d.pipeline.evaluation.result import EvalResult, hex_colors
from ssl3d.pipeline.evaluation.subject import Subject, predicting
from ssl3d.pipeline.files import digest_value, read_json, remove_tree, write_json, writing
from ssl3d.pipeline.progress import Progress, Silent, Task
from ssl3d.pipeline.splits import SplitResult, find_split

OF_THE_SPLIT = {
    "holdout": (
        "holds no scans out",
        "hold some sequences out, and train on that split: ssl3d split --ratio 10% --holdout 09,10",
    ),
    "unlabelled": ("leaves no point without a label", "choose another subset with --subset"),
}
"""Subsets that the split of a run says; what it lacks, and what to do, when it has none."""

VERSION = 1
"""Raised when the same network would give other counts: old results become stale."""


def evaluate(
    dataset: PreparedDataset,
    subject: Subject,
    *,
    subset: str = "val",
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> EvalResult:
    """The counts of ``subject`` on the labeled scans of ``subset``: computed, or from disk while nothing changed.

    Args:
        subset: ``val``, ``train``, or of the split of the run: ``holdout``, the train scans that it keeps out of
            training, or ``unlabelled``, the points that training sees without a label (a diagnosis, no result).
        device: where the network computes.
        jobs: threads of the network, 0 for all; above 1, one more thread reads ahead.
        overwrite: computes again in any case.

    Raises:
        UsageError: the subset has no scans, or none with labels; the split of the run has none of the kind.
        DataError: the run was trained for other classes, or labels do not fit a scan.
    """
    progress = progress or Silent()
    subject.check_classes(dataset)
    scans = labeled_scans(dataset, subject, subset, progress)
    path = result_path(subject, subset)
    key = result_key(dataset, subject, scans)
    with dataset.handle.workspace.lock(f"eval-{subject.run}", progress):
        cached = EvalResult.load(path)
        if cached is not None and cached.key == key and not overwrite:
            return replace(cached, run=subject.run, held=groups_of(scans))  # the folder may have been renamed
        if cached is not None and not overwrite:
            progress.say(
                f"{subject.name}: the checkpoint or the data changed since its last evaluation: evaluating again"
            )
        with writing(path.parent):
            partial = _partial_folder(path, key, overwrite)
            truth = truth_of(dataset, subject, subset)
            counting = _Counting(dataset, truth, scans, partial, progress, subject.name)
            counts = counting.run(subject, device, jobs)
            result = _result(subject, dataset, subset, counts, scans, key)
            result.save(path)
            remove_tree(partial.parent)
    return result


def cached_result(dataset: PreparedDataset, subject: Subject, subset: str = "val") -> EvalResult | None:
    """The result on disk while it is up to date, else None. Computes nothing."""
    scans = [scan for scan in subset_scans(dataset, subject, subset) if scan.labelled]
    found = EvalResult.load(result_path(subject, subset))
    return found if found is not None and found.key == result_key(dataset, subject, scans) else None


def result_path(subject: Subject, subset: str) -> Path:
    return subject.folder / "eval" / f"{subset}-{subject.key}.json"


def result_key(dataset: PreparedDataset, subject: Subject, scans: Sequence[ScanRef]) -> str:
    """Digest of all that the counts depend on."""
    listed = [[scan.scan_id, scan.num_points] for scan in scans]
    weights = [] if subject.weights == "own" else [subject.weights]  # keys from before there was a choice are right
    passes = [subject.passes.name] if subject.passes.augment else []
    parts = [VERSION, subject.digest, dataset.product.key, dataset.product.content, listed, *weights, *passes]
    return digest_value(parts)


def subset_scans(dataset: PreparedDataset, subject: Subject, subset: str) -> list[ScanRef]:
    """The scans of ``subset``, in order of the dataset; ``holdout`` and ``unlabelled`` are those of the split that
    ``subject`` knows. A scan of which labelled points are shown, and others hidden, is among the unlabelled ones.

    Raises:
        UsageError: the split of the run has none of them, or is no longer there.
    """
    if subset not in OF_THE_SPLIT:
        return dataset.subset(subset)
    found = _split_of(dataset, subject)
    if subset == "holdout":
        chosen = set(found.holdout) if found is not None else set()
    else:
        ids = () if found is None else (*found.unlabelled, *(found.labelled if found.partial else ()))
        chosen = {found.scan_of(scan_id) for scan_id in ids} if found is not None else set()
    if not chosen:
        what, hint = OF_THE_SPLIT[subset]
        raise UsageError(f"the split of the run {what}", where=_of_run(subject), hint=hint)
    return [scan for scan in dataset.scans if scan.scan_id in chosen]


def truth_of(dataset: PreparedDataset, subject: Subject, subset: str) -> TruthSource:
    """The labels that ``subject`` is compared with: of ``unlabelled`` those alone that its training did not see."""
    found = _split_of(dataset, subject) if subset == "unlabelled" else None
    hides = found is not None and (found.partial or found.cut is not None)
    return dataset.truth(besides=dataset.visible(found) if hides else None)


def _split_of(dataset: PreparedDataset, subject: Subject) -> SplitResult | None:
    """The split that the run was trained on; None: it saw all labels. ``UsageError`` when it is no longer there."""
    try:
        return find_split(dataset.handle, subject.split_hash, dataset.product) if subject.split_hash else None
    except UsageError as error:
        raise UsageError(
            "the split that the run was trained on cannot be found: which scans it held out is not known",
            where={**_of_run(subject), "cause": error.what},
            hint="make it again: type the same ssl3d split command",
        ) from error


def _of_run(subject: Subject) -> dict[str, object]:
    return {"run": subject.run, "split": subject.split}


def labeled_scans(dataset: PreparedDataset, subject: Subject, subset: str, progress: Progress) -> list[ScanRef]:
    """The scans of ``subset`` that have labels; says how many have none. ``UsageError`` when nothing is left."""
    return check_labeled(dataset, subset_scans(dataset, subject, subset), subset, progress)


def check_labeled(dataset: PreparedDataset, scans: Sequence[ScanRef], subset: str, progress: Progress) -> list[ScanRef]:
    """Those of ``scans`` that have labels; says how many have none. ``UsageError`` when nothing is left."""
    if not scans:
        counts = {name: len(dataset.subset(name)) for name in ("train", "val", "test")}
        there = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        raise UsageError(
            f"the dataset '{dataset.name}' has no {subset} scans",
            where={"scans": there},
            hint="choose another subset with --subset, or prepare the sequences of this one",
        )
    labeled = [scan for scan in scans if scan.labelled]
    if not labeled:
        raise UsageError(
            f"the {subset} scans of '{dataset.name}' have no labels: there is nothing to compare with",
            hint="write predictions for the benchmark's server: ssl3d predict RUN --out DIR --submit FILE.zip",
        )
    if len(labeled) < len(scans):
        progress.say(f"{len(scans) - len(labeled)} of {len(scans)} {subset} scans have no labels and are left out")
    return labeled


class _Counting:
    """The counts of a list of scans, one unit after the other; finished units are kept in ``folder``."""

    def __init__(
        self,
        dataset: PreparedDataset,
        truth: TruthSource,
        scans: Sequence[ScanRef],
        folder: Path,
        progress: Progress,
        name: str,
    ) -> None:
        self.dataset, self.truth = dataset, truth
        self.units = {unit: list(group) for unit, group in groupby(scans, key=lambda scan: scan.unit)}
        self.folder = folder
        self.progress = progress
        self.name = name
        self.instance_classes = instance_classes(dataset.spec.name, dataset.spec.num_classes)

    def run(self, subject: Subject, device: str, jobs: int) -> Counts:
        total = self._none()
        pending: list[ScanRef] = []
        count = sum(map(len, self.units.values()))
        with self.progress.task(f"evaluate {self.name}", total=count, unit="scan") as task:
            for unit, scans in self.units.items():
                if (kept := self._kept(unit)) is None:
                    pending += scans
                else:
                    total.merge(kept)
                    task.advance(len(scans))
            if pending:
                self._predict(pending, subject, device, jobs, total, task)
        if total.without:
            self.progress.say(f"{total.without} scans have no true instances: only their classes are scored")
        return total

    def _predict(
        self, pending: list[ScanRef], subject: Subject, device: str, jobs: int, total: Counts, task: Task
    ) -> None:
        """Adds the scans of whole units to ``total``, and keeps the counts of each unit."""
        source = self.dataset.source()
        part = self._none()
        with predicting(self.dataset, subject, device, jobs, self.progress) as predictor:
            for scan, found in predictor.predictions(pending, lambda scan: source.view(scan.index)):
                part.add(scan, found.label, found.instances, self.truth)
                task.advance()
                if scan is self.units[scan.unit][-1]:
                    write_json(self._path(scan.unit), part.to_json(), indent=None)
                    total.merge(part)
                    part = self._none()

    def _none(self) -> Counts:
        return Counts.of(self.dataset.spec.num_classes, self.instance_classes)

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}.json"

    def _kept(self, unit: str) -> Counts | None:
        """The counts of a finished unit; None when it has none, or they are damaged (and then says so)."""
        if not self._path(unit).exists():
            return None
        try:
            kept = Counts.from_json(read_json(self._path(unit)) or {}, self.instance_classes)
        except (KeyError, ValueError, TypeError):
            kept = None
        expected = sum(scan.num_points for scan in self.units[unit])
        counted = kept.confusion if kept is not None else None
        if counted is None or counted.num_classes != self.dataset.spec.num_classes or counted.points != expected:
            self.progress.say(f"the counts of {unit} are damaged: counting again")
            return None
        return kept


def _partial_folder(path: Path, key: str, overwrite: bool) -> Path:
    """Where the finished units of this very evaluation are kept; those of another checkpoint or data are removed."""
    wanted = path.with_suffix(".partial") / key[:12]
    if wanted.parent.exists():
        for other in wanted.parent.iterdir():
            if overwrite or other != wanted:
                remove_tree(other)
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted


def _result(
    subject: Subject, dataset: PreparedDataset, subset: str, counts: Counts, scans: Sequence[ScanRef], key: str
) -> EvalResult:
    spec = dataset.spec
    return EvalResult(
        run=subject.run,
        method=subject.method,
        backbone=subject.backbone,
        dataset=dataset.name,
        split=subject.split,
        seed=subject.seed,
        recipe=subject.recipe,
        subset=subset,
        checkpoint=subject.checkpoint,
        step=subject.step(),
        classes=spec.classes,
        colors=hex_colors(spec),
        tail=spec.tail,
        confusion=counts.confusion,
        scans=len(scans),
        key=key,
        weights=subject.weights,
        augment=subject.passes.augment,
        held=groups_of(scans),
        instances=counts.instances.scores() if counts.instances is not None else None,
    )


def groups_of(scans: Sequence[ScanRef]) -> tuple[str, ...]:
    return tuple(sorted({scan.group for scan in scans}))
