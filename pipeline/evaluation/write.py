"""Writes predictions in the layout that a benchmark's own tools read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ssl3d.data.atomic import DISK_FULL, write_whole
from ssl3d.data.errors import UsageError
from ssl3d.data.spec import SUBSETS
from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
from ssl3d.pipeline.evaluation.subject import Subject, predicting
from ssl3d.pipeline.files import read_json, write_json, writing
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.submission.archive import pack
from ssl3d.pipeline.submission.formats import HIDDEN, format_of

MANIFEST = "ssl3d_predict.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class PredictResult:
    """What ``predict`` did: in which format, scans written now, scans kept from before, points in both, subsets."""

    out: Path
    format: str
    written: int
    kept: int
    points: int
    subsets: tuple[str, ...]


def predict(
    dataset: PreparedDataset,
    subject: Subject,
    out: Path,
    *,
    format: str | None = None,
    subsets: Sequence[str] | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
    submit: Path | None = None,
) -> PredictResult:
    """Writes a file for every scan of the subsets, each whole or not at all.

    Args:
        out: folder for the layout, outside the dataset. Files of the same checkpoint that it already holds are kept.
        format: name in ``FORMATS``; None: the dataset's own.
        subsets: ``train``, ``val``, ``test``; None for ``val`` and ``test`` as far as they have scans.
        overwrite: replaces the predictions of another run or checkpoint.
        submit: also packs everything into this zip. It holds one subset, by default ``test``, or ``val`` where there
            are no test scans.

    Raises:
        UsageError: unknown format, no such scans, ``out`` is inside the dataset or holds other predictions.
        DataError: the run was trained for other classes.
    """
    progress = progress or Silent()
    writer = format_of(format, dataset.spec)
    subject.check_classes(dataset)
    names, scans = _chosen(dataset, subsets if submit is None else _submitted(dataset, subsets))
    out = out.expanduser().absolute()
    _refuse_dataset(out, dataset)
    with dataset.handle.workspace.lock(f"predict-{subject.run}", progress), writing(out):
        files = {name: [writer.path(scan) for scan in scans if scan.subset == name] for name in names}
        with _usable(out):
            _begin(out, _identity(dataset, subject, writer.name), files, overwrite)
        kept = [scan for scan in scans if _finished(out / writer.path(scan), writer.size(scan.num_points))]
        done = {scan.index for scan in kept}
        pending = [scan for scan in scans if scan.index not in done]
        with progress.task(f"predict {subject.name}", total=len(scans), unit="scan") as task:
            task.advance(len(kept))
            if pending:
                ahead, source = dataset.source(), dataset.source()  # ahead is read by another thread
                with predicting(dataset, subject, device, jobs, progress) as predictor:
                    for scan, label in predictor.labels(pending, lambda scan: ahead.view(scan.index)):
                        content = writer.encode(label, dataset.spec, partial(source.view, scan.index))
                        write_whole(out / writer.path(scan), content)
                        task.advance()
        further = writer.finish(out, scans, _uses(dataset, subject))
        if submit is not None:
            packed = [path for path in (*map(writer.path, scans), *further) if not path.parts[0].startswith(HIDDEN)]
            with writing(submit.absolute().parent), progress.task("pack", total=len(packed), unit="file") as task:
                pack(out, packed, submit, task)
    return PredictResult(out, writer.name, len(pending), len(kept), sum(scan.num_points for scan in scans), names)


def _uses(dataset: PreparedDataset, subject: Subject) -> dict[str, bool]:
    """What the method was trained with, as submissions have to say it."""
    from ssl3d.models.methods.registry import get_method

    images = {"caption", "pair"} & set(get_method(subject.method).needs)
    return {
        "use_lidar": dataset.spec.sensor is not None,
        "use_camera": bool(images),
        "use_external": subject.external or "caption" in images,
    }


def _submitted(dataset: PreparedDataset, subsets: Sequence[str] | None) -> Sequence[str]:
    """The one subset that a submission is of."""
    if subsets is not None and len(subsets) > 1:
        raise UsageError(
            "a submission is of one subset", where={"--subset": ", ".join(subsets)}, hint="name one of them"
        )
    return subsets or ("test" if dataset.subset("test") else "val",)


def _chosen(dataset: PreparedDataset, subsets: Sequence[str] | None) -> tuple[tuple[str, ...], list[ScanRef]]:
    names = tuple(dict.fromkeys(subsets if subsets is not None else ("val", "test")))
    found = {name: dataset.subset(name) for name in names}
    empty = [name for name, scans in found.items() if not scans]
    if empty and (subsets is not None or len(empty) == len(names)):
        there = [name for name in SUBSETS if dataset.subset(name)]
        raise UsageError(
            f"the dataset '{dataset.name}' has no {' or '.join(empty)} scans",
            hint=f"choose with --subset from: {', '.join(there)}",
        )
    names = tuple(name for name in names if found[name])
    return names, [scan for name in names for scan in found[name]]


def _refuse_dataset(out: Path, dataset: PreparedDataset) -> None:
    root = Path(dataset.product.manifest.identity["root"]).resolve()
    if out.resolve() == root or root in out.resolve().parents:
        raise UsageError(
            "predictions are not written into the dataset's own folder",
            where={"out": out, "dataset": root},
            hint="choose another folder with --out DIR",
        )


def _identity(dataset: PreparedDataset, subject: Subject, format: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "format": format,
        "run": subject.run,
        "checkpoint": subject.checkpoint,
        "digest": subject.digest,
        "weights": subject.weights,
        "augment": list(subject.passes.augment),
        "dataset": dataset.name,
        "prepared": dataset.product.key,
    }


@contextmanager
def _usable(out: Path) -> Iterator[None]:
    """Says that it is ``--out`` which cannot be written; a full disk is left to ``writing``."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UsageError(
            f"predictions cannot be written here: {error.strerror}",
            where={"out": out},
            hint="choose another folder with --out DIR",
        ) from error


def _begin(
    out: Path, identity: Mapping[str, Any], files: Mapping[str, Sequence[PurePosixPath]], overwrite: bool
) -> None:
    """Makes ``out`` a folder of this identity for these subsets.

    A file is trusted when the manifest has the same identity and names its subset. Others are refused, or removed
    (before the manifest claims them) with ``overwrite``.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(
            "this is a file, predictions need a folder", where={"out": out}, hint="choose another place with --out DIR"
        )
    manifest = read_json(out / MANIFEST) or {}
    if manifest:
        manifest = {"weights": "own", "augment": [], **manifest}  # from before there was a choice
    same = {name: manifest.get(name) for name in identity} == dict(identity)
    covered = set(manifest.get("subsets", ())) if same else set()
    doubtful = [path for subset in files if overwrite or subset not in covered for path in files[subset]]
    present = [path for path in doubtful if (out / path).exists()]
    if not overwrite and (present or (manifest and not same)):
        raise UsageError(
            "the folder holds predictions of " + (_whose(manifest) if manifest and not same else "unknown origin"),
            where={"out": out, **({"file": present[0]} if present else {})},
            hint="choose another folder with --out DIR, or replace them with --overwrite",
        )
    for path in present:
        (out / path).unlink()
    for folder in sorted({out / path.parent for paths in files.values() for path in paths}):
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(".*.tmp"):  # of a killed process
            torn.unlink(missing_ok=True)
    write_json(out / MANIFEST, {**identity, "subsets": sorted({*files, *covered})})


def _whose(manifest: Mapping[str, Any]) -> str:
    facts = {name: manifest.get(name) for name in ("run", "dataset", "weights")}
    return f"another run, checkpoint or weights ({', '.join(f'{name} {value!r}' for name, value in facts.items())})"


def _finished(path: Path, size: int | None) -> bool:
    try:
        return path.stat().st_size == size or size is None
    except FileNotFoundError:
        return False
