"""Pictures of some scans of a subset, as one network sees them."""

from __future__ import annotations

from pathlib import Path

from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
from ssl3d.pipeline.evaluation.evaluate import labeled_scans, result_key
from ssl3d.pipeline.evaluation.pictures import scan_picture
from ssl3d.pipeline.evaluation.subject import Subject, predicting
from ssl3d.pipeline.files import writing
from ssl3d.pipeline.progress import Progress, Silent


def draw_scans(
    dataset: PreparedDataset,
    subject: Subject,
    count: int,
    *,
    subset: str = "val",
    folder: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes a PNG (truth, prediction, errors) of ``count`` labeled scans, spread evenly over the subset.

    Args:
        folder: where to write (default: ``pictures/`` in the run). Pictures of the same checkpoint on the same data
            that are there already are kept.

    Returns:
        The files, in order of the scans.

    Raises:
        UsageError: the subset has no labeled scans.
        DataError: the run was trained for other classes.
    """
    progress = progress or Silent()
    subject.check_classes(dataset)
    scans = spread(labeled_scans(dataset, subject, subset, progress), count)
    folder = folder or subject.folder / "pictures"
    key = result_key(dataset, subject, scans)[:8]
    files = {scan.index: folder / f"{subset}-{scan.scan_id.replace('/', '-')}-{key}.png" for scan in scans}
    pending = [scan for scan in scans if not files[scan.index].exists()]
    if pending:
        ahead, source, truth = dataset.source(), dataset.source(), dataset.truth()  # ahead is read by another thread
        with (
            writing(folder),
            progress.task(f"draw {subject.name}", total=len(pending), unit="picture") as task,
            predicting(dataset, subject, device, jobs, progress) as predictor,
        ):
            for scan, label in predictor.labels(pending, lambda scan: ahead.view(scan.index)):
                points = source.view(scan.index).points
                title = f"{scan.scan_id}, {subject.name}"
                scan_picture(points, truth.label(scan.index), label, dataset.spec, files[scan.index], title=title)
                task.advance()
    return [files[scan.index] for scan in scans]


def spread(scans: list[ScanRef], count: int) -> list[ScanRef]:
    """``count`` scans at equal distances, the middle ones of ``count`` equal parts; all where there are not more."""
    if count >= len(scans):
        return list(scans)
    return [scans[(2 * part + 1) * len(scans) // (2 * count)] for part in range(count)]
