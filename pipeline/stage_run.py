"""Running a stage: which units are done, which are made now, and how their files become part of the product."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl3d.data.atomic import sync
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.text import size_text
from ssl3d.models.config import Params
from ssl3d.pipeline.executors import run_units
from ssl3d.pipeline.files import digest_value, free_bytes, remove_tree, temporary_files, writing
from ssl3d.pipeline.product import (
    Entry,
    FileStamp,
    JournalWriter,
    Manifest,
    Product,
    remember,
    stamp_file,
    unit_digest,
)
from ssl3d.pipeline.progress import Inside, Progress, listening
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream, stage_key
from ssl3d.pipeline.workspace import DatasetHandle

_SPARE_BYTES = 16 << 20  # for journals, locks and the file system's own tables


@dataclass
class StageRun:
    """What ``run_stage`` did.

    Attributes:
        fresh: ids of units computed now; the others were cached.
        rebuilt: ids of those that had been damaged.
    """

    product: Product
    fresh: list[str] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cached(self) -> int:
        return len(self.product.manifest.plan) - len(self.fresh)


def run_stage(handle: DatasetHandle, stage: Stage, *, jobs: int = 1, progress: Progress) -> StageRun:
    """Makes the product of ``stage``, doing only what is not done yet. Call it with the dataset's lock held.

    Units whose input is bad (``DataError``) do not stop the others; they are reported together at the end.

    Raises:
        DataError: some units could not be made.
        Ssl3dError: a needed product is absent, the disk is full, a worker was killed.
    """
    begun = time.perf_counter()
    upstream = {name: _needed(handle, stage, name) for name in stage.needs}
    _check_company(handle, stage, upstream)
    upstream |= _offered(handle, stage, progress)
    units = [replace(unit, source=unit.source or _source(stage, unit, upstream)) for unit in stage.units(upstream)]
    params, identity = stage.params.model_dump(mode="json"), stage.identity(upstream)
    key = stage_key(stage.name, stage.version, params, identity, {name: item.key for name, item in upstream.items()})
    folder = handle.folder / stage.name / key
    manifest = Manifest(
        stage=stage.name,
        version=stage.version,
        key=key,
        params=params,
        identity=identity,
        needs={name: {"key": item.key, "content": item.content} for name, item in upstream.items()},
        plan={unit.id: unit.source for unit in units},
        watched=stage.watched(),
        about=stage.about(),
    )
    with writing(handle.workspace.root):
        old = Product.load(folder)
        if old is None and (folder / "stage.json").exists():
            progress.say(f"damaged: {folder / 'stage.json'}; everything in this folder is made again")
        _sweep(folder, old, manifest)
        pending, rebuilt = _pending(folder, units, old, progress)
        _check_space(folder, pending)
        fresh = bool(pending) or old is None or old.manifest != replace(manifest, complete=True)
        fresh = fresh or old is None or not stage.finished(old)
        if fresh:
            manifest.write(folder)  # not complete while it is worked on
        handle.update(stage.name, key)
        if fresh:
            if pending:
                stage.begin(folder, jobs, progress)
            _run_pending(stage, folder, pending, upstream, jobs, progress)
            product = _loaded(folder)
            stage.finish(product)
            replace(manifest, complete=True).write(folder)
    return StageRun(_loaded(folder), [unit.id for unit in pending], rebuilt, time.perf_counter() - begun)


def _needed(handle: DatasetHandle, stage: Stage, name: str) -> Product:
    product = handle.product(name)
    if product is None or not product.complete:
        state = "has not been made yet" if product is None else "is not complete"
        raise Ssl3dError(
            f"'{stage.name}' needs the product of '{name}', which {state}",
            where={"dataset": handle.name},
            hint=f"run `ssl3d {name}` first (an interrupted one goes on where it stopped)",
        )
    product.trust(stage.reads.get(name) or product.kinds)
    return product


def _offered(handle: DatasetHandle, stage: Stage, progress: Progress) -> dict[str, Product]:
    """The products of ``optional`` stages that are there; says so where one is not to be used yet."""
    found: dict[str, Product] = {}
    for name in stage.optional:
        product = handle.product(name)
        if product is not None and not product.complete:
            command = product.manifest.about.get("command", f"ssl3d {name}")
            progress.say(f"'{stage.name}' goes without '{name}', which is not complete; to go on with it: {command}")
        elif product is not None:
            found[name] = _needed(handle, stage, name)
    return found


def _check_company(handle: DatasetHandle, stage: Stage, upstream: Upstream) -> None:
    """What is needed has to come from one another: regions of scans that were prepared otherwise fit no point."""
    for name, product in upstream.items():
        for other, used in product.manifest.needs.items():
            there = upstream.get(other)
            if there is not None and (used["key"] != there.key or used["content"] != there.content):
                raise Ssl3dError(
                    f"the product of '{name}' was made from another '{other}' than the current one",
                    where={"dataset": handle.name},
                    hint=f"type: {product.manifest.about.get('command') or f'ssl3d {name}'}",
                )


def _source(stage: Stage, unit: Unit, upstream: Upstream) -> str:
    digests = {
        name: unit_digest(product.done[unit.id], stage.reads.get(name))
        for name, product in upstream.items()
        if unit.id in product.done
    }
    return digest_value(digests)[:16]


def _loaded(folder: Path) -> Product:
    product = Product.load(folder)
    if product is None:
        raise Ssl3dError("the manifest of a product disappeared while it was worked on", where={"folder": folder})
    return product


def _sweep(folder: Path, old: Product | None, manifest: Manifest) -> None:
    """Removes what killed processes and outdated units have left. The lock is held: nobody else writes."""
    for leftover in [*temporary_files(folder), *temporary_files(folder.parents[1])]:
        with suppress(OSError):  # a worker may outlive its killed parent for a moment; the next run tries again
            remove_tree(leftover)
    for unit, entry in (old.entries if old else {}).items():
        if manifest.plan.get(unit) != entry.source:
            _remove_files(folder, entry)


def _remove_files(folder: Path, entry: Entry) -> None:
    for name in entry.files:
        (folder / name).unlink(missing_ok=True)


def _pending(
    folder: Path, units: Sequence[Unit], old: Product | None, progress: Progress
) -> tuple[list[Unit], list[str]]:
    """Units to be made, in order, and the ids of those among them that were damaged (their files are removed)."""
    pending: list[Unit] = []
    damaged: list[str] = []
    touched: list[Entry] = []
    for unit in units:
        entry = old.entries.get(unit.id) if old else None
        if old is None or entry is None or entry.source != unit.source:
            pending.append(unit)
            continue
        sound = old.recheck(entry)
        if sound is None:
            progress.say(f"damaged: {folder.parent.name} {unit.id}; removed, and made again")
            _remove_files(folder, entry)
            damaged.append(unit.id)
            pending.append(unit)
        elif sound is not entry:  # copied or restored: remember the new times
            touched.append(sound)
    remember(folder, touched)
    return pending, damaged


def _check_space(folder: Path, pending: Sequence[Unit]) -> None:
    size = sum(unit.size for unit in pending)
    needed, free = size + _SPARE_BYTES, free_bytes(folder)
    if size and free < needed:
        raise Ssl3dError(
            f"not enough free disk space: about {size_text(needed)} are needed, {size_text(free)} are free",
            where={"folder": folder},
            hint="free some space (ssl3d clean shows what can go), or choose another disk with --workspace DIR",
        )


@dataclass(frozen=True, slots=True)
class _Job:
    run: Callable[[Unit, Any, UnitInputs, Path], Mapping[str, Any]]
    unit: Unit
    params: Params
    inputs: UnitInputs
    out: Path


@dataclass(frozen=True, slots=True)
class _Made:
    digests: Mapping[str, str]
    seconds: float
    info: Mapping[str, Any]


def _make(job: _Job) -> _Made:
    """Runs in a worker. It writes into its own temporary folder only, so an orphan can do no harm."""
    begun = time.perf_counter()
    with writing(job.out.parent):
        shutil.rmtree(job.out, ignore_errors=True)
        job.out.mkdir()
        info = job.run(job.unit, job.params, job.inputs, job.out)
        digests = {}
        for path in sorted(job.out.iterdir()):
            sync(path)
            digests[path.name] = stamp_file(path).digest
    return _Made(digests, time.perf_counter() - begun, info)


def _name(job: _Job) -> str:
    return job.unit.id


def _run_pending(
    stage: Stage, folder: Path, pending: Sequence[Unit], upstream: Upstream, jobs: int, progress: Progress
) -> None:
    folders = {name: product.folder for name, product in upstream.items()}
    workers = 1 if stage.one_process else min(jobs, len(pending))
    if stage.worker_bytes:
        workers = min(workers, 1 + sum(unit.size for unit in pending) // stage.worker_bytes)
    threads = max(1, jobs // max(1, workers))
    at_once = 1  # units in threads of this process: of stages that leave the interpreter's lock alone, small ones
    if stage.in_threads and workers == 1 and pending:
        at_once = min(len(pending), max(1, threads // max(1, int(max(unit.weight for unit in pending)))))
    tasks = [
        _Job(
            type(stage).run,
            unit,
            stage.params,
            UnitInputs(unit.id, folders, threads // at_once, folder),
            folder / f".tmp-{os.getpid()}-{unit.id}",
        )
        for unit in pending
    ]
    failures: list[tuple[str, DataError]] = []
    journal = JournalWriter(folder)
    total = sum(unit.weight for unit in pending)
    try:
        with (
            progress.task(stage.name, total=total, unit=stage.counts) as task,
            listening(inside := Inside(task.advance)),
            closing(run_units(_make, tasks, jobs=workers, threads=at_once, name=_name)) as outcomes,
        ):
            for outcome in outcomes:
                job = outcome.unit
                if outcome.value is not None:
                    journal.add(_publish(folder, job, outcome.value))
                elif isinstance(outcome.error, DataError):
                    failures.append((job.unit.id, outcome.error))
                    _drop_damaged(outcome.error, upstream, progress)
                elif outcome.error is not None:
                    raise outcome.error
                task.advance(inside.rest(job.unit.weight))
    finally:
        journal.close()
        for task_ in tasks:
            shutil.rmtree(task_.out, ignore_errors=True)
    if failures:
        raise _failed(stage, failures, len(pending))


def _drop_damaged(error: DataError, upstream: Upstream, progress: Progress) -> None:
    """Removes a damaged file of a needed stage, so that this stage makes it again the next time."""
    file = Path(str(error.where.get("file", "")))
    if type(error).__name__ == "DamagedShard" and any(file.parent == item.folder for item in upstream.values()):
        progress.say(f"damaged: {file}; removed")
        file.unlink(missing_ok=True)


def _publish(folder: Path, job: _Job, made: _Made) -> Entry:
    files: dict[str, FileStamp] = {}
    for name, digest in made.digests.items():
        (job.out / name).replace(folder / name)
        files[name] = stamp_file(folder / name, digest)
    sync(folder)
    job.out.rmdir()
    return Entry(job.unit.id, job.unit.source, files, made.seconds, made.info)


def _failed(stage: Stage, failures: list[tuple[str, DataError]], total: int) -> DataError:
    failures.sort(key=lambda item: item[0])
    first = failures[0][1]
    again = "the finished units are kept: after the repair, run the same command again and it goes on"
    hint = f"{first.hint}; {again}" if first.hint else again
    if len(failures) == 1:
        return type(first)(first.what, where=first.where, hint=hint)
    others = {f"also {unit}": str(error) for unit, error in failures[1:5]}
    if len(failures) > 5:
        others["and"] = f"{len(failures) - 5} more units"
    what = f"{len(failures)} of {total} units of '{stage.name}' have bad input; the first: {first.what}"
    return DataError(what, where={**first.where, **others}, hint=hint)
