"""Scores of predictions that lie in files, whoever wrote them: a folder or a zip in a format of the dataset.

Nothing is kept: files of others may change at any time, and reading them is all that it takes. In memory are the
predictions of one file, and of instances one mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.pipeline.dataset import PreparedDataset, ScanRef, TruthSource
from ssl3d.pipeline.evaluation.counts import Counts
from ssl3d.pipeline.evaluation.evaluate import check_labeled, groups_of
from ssl3d.pipeline.evaluation.instance_ap import instance_classes
from ssl3d.pipeline.evaluation.protocols import protocol_of
from ssl3d.pipeline.evaluation.result import EvalResult, hex_colors
from ssl3d.pipeline.progress import Progress, Silent, Task
from ssl3d.pipeline.submission.handed import Handed, opened
from ssl3d.pipeline.submission.read import Found, Reading, find
from ssl3d.pipeline.submission.scannet_masks import instances_of

METHOD = "predictions"
"""In the place of a method, in reports."""


def score_files(
    dataset: PreparedDataset,
    path: Path,
    *,
    form: str | None = None,
    subset: str = "val",
    progress: Progress | None = None,
) -> EvalResult:
    """Scores the predictions in ``path`` on every point of the labeled scans of ``subset``.

    Args:
        path: a folder or a .zip.
        form: the format; None: recognized by the names of the files.
        subset: ``val`` or ``train``.

    Raises:
        UsageError: no such files or format, or a subset without labels.
        DataError: a file is missing, damaged, or does not fit its scan; or ``dataset`` does not know true instances.
    """
    progress = progress or Silent()
    scans = check_labeled(dataset, dataset.subset(subset), subset, progress)
    spec = dataset.spec
    counts = Counts.of(spec.num_classes, instance_classes(spec.name, spec.num_classes))
    with opened(path) as handed:
        found = find(handed, spec, scans, form)
        with progress.task(f"score {path.name}", total=len(scans), unit="scan") as task:
            if found.instances:
                _add_instances(dataset, handed, found, counts, task)
            else:
                reading = Reading(handed, spec, found)
                _add_labels(dataset, reading, counts, task)
                if (remark := reading.remark()) is not None:
                    progress.say(remark)
    return EvalResult(
        run=path.resolve().name,
        method=METHOD,
        backbone="-",
        dataset=dataset.name,
        split="-",
        seed=0,
        recipe=str(path.resolve()),
        subset=subset,
        checkpoint=f"files ({found.name})",
        step=0,
        classes=spec.classes,
        colors=hex_colors(spec),
        tail=spec.tail,
        confusion=counts.confusion,
        scans=len(scans),
        key="",
        held=groups_of(scans),
        instances=counts.instances.scores() if counts.instances is not None else None,
    )


def protocol_for(dataset: PreparedDataset, subset: str) -> str:
    """The protocol of a dataset's numbers on the scans of a subset."""
    held = sorted({scan.group for scan in dataset.subset(subset)})
    return protocol_of(dataset.spec.name, held)


def _add_labels(dataset: PreparedDataset, reading: Reading, counts: Counts, task: Task) -> None:
    truth = dataset.truth()
    for file, scans in reading.found.files.items():
        label = reading.labels(file)
        for scan, rows in _rows(dataset, scans, reading.found.format.clouds):
            counts.add(scan, label if rows is None else label[rows], None, truth)
            task.advance()


def _rows(
    dataset: PreparedDataset, scans: tuple[ScanRef, ...], clouds: bool
) -> Iterator[tuple[ScanRef, npt.NDArray[np.integer] | None]]:
    """The scans of a file, and which rows of the file they are; None: all, in order."""
    source = dataset.source()
    for scan in scans:
        yield scan, source.view(scan.index).extras.get("source_row") if clouds else None


def _add_instances(dataset: PreparedDataset, handed: Handed, found: Found, counts: Counts, task: Task) -> None:
    truth, spec = dataset.truth(), dataset.spec
    collected = counts.collected()
    classes = {spec.learning_map_inv[c]: c for c in counts.instance_classes}
    for file, (scan, *_) in found.files.items():
        instance = _true_instances(truth, scan)
        masks = instances_of(handed, file, scan.scan_id, scan.num_points, classes)
        collected.add_masks(masks, truth.label(scan.index), instance)
        task.advance()


def _true_instances(truth: TruthSource, scan: ScanRef) -> npt.NDArray[np.uint32]:
    if not truth.has_instance(scan.index):
        raise DataError(
            "the true instances of a scan are not known: its labels came without objects",
            where={"scan": scan.scan_id},
            hint="get <scan>.aggregation.json and <scan>_vh_clean_2.0.010000.segs.json, and prepare the dataset again",
        )
    return truth.instance(scan.index)


__all__ = ["METHOD", "protocol_for", "score_files"]
