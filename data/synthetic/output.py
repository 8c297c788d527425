"""A folder that a generator fills: whose it is, what a killed call left there, the workers, the manifest at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ssl3d.data.atomic import write_whole
from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.workers import worker_pool

T = TypeVar("T")

STARTED = "ssl3d_synth.partial.json"
"""Stands in for the manifest until everything is written."""


def write_file(path: Path, content: bytes) -> None:
    """Writes a file of the dataset, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


@contextmanager
def writing(out: Path, what: str) -> Iterator[None]:
    """Turns the system's errors in the block into one that a user can act on. ``what``: is generated."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Cannot write the generated {what}: {error.strerror or error}.",
            where={"file": error.filename or out},
            hint="Free some space or choose another --out; the same command then goes on where it stopped.",
        ) from error


def claim(
    out: Path,
    identity: Mapping[str, object],
    what: str,
    *,
    owned: Sequence[str],
    foreign: str,
    complete: Callable[[], bool],
    overwrite: bool,
) -> None:
    """Makes sure that ``out`` is ours to write to, and notes there what it is going to hold.

    Args:
        identity: generator, version, layout, preset, seed: what decides every byte.
        what: is generated, in the plural ("streets").
        owned: patterns of the files this layout consists of, the only ones that ``overwrite`` removes.
        foreign: a pattern; where a file or folder like it is and nothing says that we made it, this is someone's data.
        complete: whether every file is there.

    Raises:
        UsageError: ``out`` is a file, someone's dataset, or holds something else of ours and ``overwrite`` is not set.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("The output is not a folder.", where={"file": out}, hint="Choose another --out.")
    held = _held(out)
    strange = next(iter(sorted(out.glob(foreign))), None) if held is None else None
    if strange is not None:
        raise UsageError(
            "The output folder holds data that was not generated here.",
            where={"file": strange},
            hint="Choose an empty --out.",
        )
    if held is not None and held and _layout(held) != _layout(identity):
        raise UsageError(
            f"The output folder holds generated data in the layout of {_layout(held)}.",
            where={"file": out},
            hint="Choose another --out.",
        )
    if held is not None and any(held.get(key) != value for key, value in identity.items()):
        if not overwrite:
            raise UsageError(
                f"The output folder holds other {what}: preset {held.get('preset')}, seed {held.get('seed')}, "
                f"generator version {held.get('generator_version')}.",
                where={"file": out},
                hint="Choose another --out, or add --overwrite to replace them.",
            )
        _remove(out, owned)
    _remove_stale(out)
    if not ((out / MANIFEST).exists() and complete()):
        write_file(out / STARTED, (json.dumps(dict(identity), indent=1) + "\n").encode())
        (out / MANIFEST).unlink(missing_ok=True)


def _layout(identity: Mapping[str, object]) -> object:
    return identity.get("layout", "semantickitti")  # the first layout there was is not named in its manifests


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


def _remove(out: Path, owned: Sequence[str]) -> None:
    """Removes the files of these patterns, then the folders that this leaves empty."""
    for name in (MANIFEST, STARTED):
        (out / name).unlink(missing_ok=True)
    folders: set[Path] = set()
    for pattern in owned:
        for path in list(out.glob(pattern)):
            path.unlink()
            folders.update(p for p in path.parents if out in p.parents)
    for folder in sorted(folders, key=lambda p: len(p.parts), reverse=True):
        with suppress(OSError):  # holds something else
            folder.rmdir()


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


def in_workers(function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[T]:
    """``function(*task)`` for every task: in order in this process (``jobs`` 1), or in ``jobs`` others as they end.

    Raises:
        Ssl3dError: a worker process died.
    """
    if jobs <= 1:
        for task in tasks:
            yield function(*task)
        return
    try:
        with worker_pool(max(1, min(jobs, len(tasks)))) as pool:
            for future in as_completed([pool.submit(function, *task) for task in tasks]):
                yield future.result()
    except BrokenProcessPool as error:
        raise Ssl3dError(
            "A worker process died (often: out of memory).",
            hint="Run the same command again with a smaller --jobs: it goes on where it stopped.",
        ) from error


def written_bytes(out: Path) -> int:
    """Of all files below ``out``."""
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def finish(out: Path, manifest: Mapping[str, object]) -> None:
    """The manifest, last of all: who finds it finds a complete dataset."""
    write_file(out / MANIFEST, (json.dumps(dict(manifest), indent=1) + "\n").encode())
    (out / STARTED).unlink(missing_ok=True)
