"""``ssl3d synth street``: generated drives in the published layout of SemanticKITTI, with images.

Every file is a function of (generator version, preset, seed, sequence, frame) alone: the same on any machine, with any
number of processes, and however often the generation was killed and started again. (Of the images this holds for the
pixels; how PNG packs them is up to the zlib at hand.)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.kitti_root import MANIFEST
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.synthetic.frames import (
    MAX_LABEL,
    FrameFiles,
    frame_files,
    lidar_poses,
    write_file,
    write_frame,
    write_frames,
    write_tables,
)
from ssl3d.data.synthetic.presets import PRESETS, StreetPreset
from ssl3d.data.workers import worker_pool

__all__ = ["GENERATOR_VERSION", "PRESETS", "StreetSummary", "generate_street", "lidar_poses", "planned_scans"]

GENERATOR_VERSION = 1
"""Raised whenever the same preset and seed give other bytes than before."""

STARTED = "ssl3d_synth.partial.json"
_BLOCK = 10

_CLASSES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("car", (10, 252)),
    ("bicycle", (11,)),
    ("motorcycle", (15,)),
    ("truck", (18, 258)),
    ("other-vehicle", (13, 16, 20, 256, 257, 259)),
    ("person", (30, 254)),
    ("bicyclist", (31, 253)),
    ("motorcyclist", (32, 255)),
    ("road", (40, 60)),
    ("parking", (44,)),
    ("sidewalk", (48,)),
    ("other-ground", (49,)),
    ("building", (50,)),
    ("fence", (51,)),
    ("vegetation", (70,)),
    ("trunk", (71,)),
    ("terrain", (72,)),
    ("pole", (80,)),
    ("traffic-sign", (81,)),
    ("unlabeled", (0, 1, 52, 99)),
)


@dataclass(frozen=True)
class StreetSummary:
    """``points``: by class name, over all labeled scans; ``bytes``: of all files; ``seconds``: this call took."""

    scans: int
    points: dict[str, int]
    bytes: int
    seconds: float


def planned_scans(preset: str) -> int:
    """How often ``generate_street`` will call ``on_scan``."""
    return sum(drive.scans for drive in _preset(preset).sequences)


def generate_street(
    out: Path,
    preset: str,
    seed: int,
    *,
    jobs: int = 1,
    on_scan: Callable[[], None] | None = None,
    overwrite: bool = False,
) -> StreetSummary:
    """Writes the streets of ``preset`` and ``seed`` under ``out``; finished files of an earlier call are kept.

    Args:
        out: becomes a SemanticKITTI root (``out/sequences/NN/...``).
        jobs: processes.
        on_scan: called in this process after each scan, also for those found finished.
        overwrite: replace what another preset, seed or generator version left in ``out``.

    Raises:
        UsageError: unknown preset; ``out`` holds something else.
        DataError: a file cannot be written.
    """
    start = time.monotonic()
    plan, out = _preset(preset), Path(out)
    try:
        _claim(out, plan, seed, overwrite)
        counts: dict[str, npt.NDArray[np.int64]] = {}
        for sequence, found in _scans(out, plan, seed, jobs):
            counts[sequence] = counts.get(sequence, np.zeros(MAX_LABEL, np.int64)) + found
            if on_scan is not None:
                on_scan()
        _finish(out, plan, seed, counts)
    except OSError as error:
        raise DataError(
            f"Cannot write the generated streets: {error.strerror or error}.",
            where={"file": error.filename or out},
            hint="Free some space or choose another --out; the same command then goes on where it stopped.",
        ) from error
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    total = sum(counts.values(), np.zeros(MAX_LABEL, np.int64))
    return StreetSummary(planned_scans(preset), _by_class(total), size, time.monotonic() - start)


def _preset(name: str) -> StreetPreset:
    if name not in PRESETS:
        raise UsageError(f"There is no street preset {name!r}.", hint=f"Use one of: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _by_class(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    return {name: int(sum(counts[raw] for raw in ids)) for name, ids in _CLASSES}


def _all_files(out: Path, plan: StreetPreset) -> Iterator[FrameFiles]:
    for drive in plan.sequences:
        for frame in range(drive.scans):
            yield frame_files(out, plan, drive, frame)


def _identity(plan: StreetPreset, seed: int) -> dict[str, object]:
    return {"generator": "street", "generator_version": GENERATOR_VERSION, "preset": plan.name, "seed": seed}


def _claim(out: Path, plan: StreetPreset, seed: int, overwrite: bool) -> None:
    """Makes sure that ``out`` is ours to write to, and notes there what it is going to hold."""
    if out.exists() and not out.is_dir():
        raise UsageError("The output is not a folder.", where={"file": out}, hint="Choose another --out.")
    identity = _identity(plan, seed)
    held = _held(out)
    if held is None and (out / "sequences").is_dir() and any((out / "sequences").iterdir()):
        raise UsageError(
            "The output folder holds sequences that were not generated here.",
            where={"file": out / "sequences"},
            hint="Choose an empty --out.",
        )
    if held is not None and any(held.get(key) != value for key, value in identity.items()):
        if not overwrite:
            raise UsageError(
                f"The output folder holds other streets: preset {held.get('preset')}, seed {held.get('seed')}, "
                f"generator version {held.get('generator_version')}.",
                where={"file": out},
                hint="Choose another --out, or add --overwrite to replace them.",
            )
        _remove_generated(out)
    _remove_stale(out)
    complete = (out / MANIFEST).exists() and all(files.finished() for files in _all_files(out, plan))
    if not complete:
        write_file(out / STARTED, (json.dumps(identity, indent=1) + "\n").encode())
        (out / MANIFEST).unlink(missing_ok=True)


def _held(out: Path) -> dict[str, object] | None:
    """The manifest of what ``out`` holds; None when nothing of ours, empty when unreadable."""
    for name in (MANIFEST, STARTED):
        if (out / name).exists():
            try:
                held = json.loads((out / name).read_text(encoding="utf-8"))
            except ValueError:
                return {}
            return held if isinstance(held, dict) else {}
    return None


def _remove_generated(out: Path) -> None:
    """Removes the files this generator writes, and nothing else, from ``out``."""
    for name in (MANIFEST, STARTED):
        (out / name).unlink(missing_ok=True)
    for sequence in (out / "sequences").glob("[0-9][0-9]"):
        for pattern in ("velodyne/*.bin", "labels/*.label", "image_2/*.png", "calib.txt", "poses.txt", "times.txt"):
            for path in sequence.glob(pattern):
                path.unlink()
        for folder in ("velodyne", "labels", "image_2", ""):
            with suppress(OSError):  # holds something else, or is not there
                (sequence / folder).rmdir()


def _remove_stale(out: Path) -> None:
    """Removes the temporary files of processes that are gone."""
    for path in out.rglob(".*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not _alive(int(number)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _scans(out: Path, plan: StreetPreset, seed: int, jobs: int) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """(sequence, points by raw id) of scan after scan, in no particular order."""
    blocks = [
        (drive.name, tuple(range(first, min(first + _BLOCK, drive.scans))))
        for drive in plan.sequences
        for first in range(0, drive.scans, _BLOCK)
    ]
    if jobs <= 1:
        for drive in plan.sequences:
            write_tables(out, plan.name, seed, drive.name)
            for frame in range(drive.scans):
                yield drive.name, write_frame(out, plan.name, seed, drive.name, frame)
        return
    try:
        with worker_pool(min(jobs, len(blocks))) as pool:
            tables = [pool.submit(write_tables, out, plan.name, seed, drive.name) for drive in plan.sequences]
            futures = {pool.submit(write_frames, out, plan.name, seed, name, frames): name for name, frames in blocks}
            for future in as_completed(futures):
                for counts in future.result():
                    yield futures[future], counts
            for table in tables:
                table.result()
    except BrokenProcessPool as error:
        raise Ssl3dError(
            "A worker process died (often: out of memory).",
            hint="Run the same command again with a smaller --jobs: it goes on where it stopped.",
        ) from error


def _finish(out: Path, plan: StreetPreset, seed: int, counts: dict[str, npt.NDArray[np.int64]]) -> None:
    """The manifest, last of all: who finds it finds a complete dataset."""
    if (out / MANIFEST).exists():
        return
    digest = hashlib.sha256()
    for files in _all_files(out, plan):
        digest.update(files.scan.read_bytes())
        if files.label is not None:
            digest.update(files.label.read_bytes())
    subsets: dict[str, list[str]] = {}
    for drive in plan.sequences:
        subsets.setdefault(drive.subset, []).append(drive.name)
    manifest = {
        **_identity(plan, seed),
        "complete": True,
        "scans_per_sequence": {drive.name: drive.scans for drive in plan.sequences},
        "subsets": subsets,
        "points_per_class": {name: _by_class(found) for name, found in sorted(counts.items())},
        "sha256": digest.hexdigest(),
    }
    write_file(out / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    (out / STARTED).unlink(missing_ok=True)
