"""Small file helpers that a kill, a full disk or a read-only folder cannot surprise."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from ssl3d.data.atomic import DISK_FULL, write_whole
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.text import size_text

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def errno_of(error: BaseException) -> int | None:
    """The error number; HDF5 hides it in its message ("... errno = 28, error message = ...")."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"errno\s*=?\s*(\d+)", str(error), re.IGNORECASE)
    return int(found[1]) if found else None


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turns a full disk or a read-only folder into an ``Ssl3dError``; errors of other kinds and places pass."""
    try:
        yield
    except DataError as error:  # a shard writer has put it into words: but it is no fault of the data
        if isinstance(error.__cause__, (OSError, RuntimeError)) and errno_of(error.__cause__) in DISK_FULL | _READ_ONLY:
            raise Ssl3dError(error.what, where=error.where, hint=error.hint) from error
        raise
    except OSError as error:
        if isinstance(error.filename, str) and not Path(error.filename).is_relative_to(where):
            raise
        number = errno_of(error)
        if number in DISK_FULL:
            raise Ssl3dError(
                "the disk is full" if number == errno.ENOSPC else "no more may be written here (quota or size limit)",
                where={"folder": where, "free": size_text(free_bytes(where))},
                hint="free some space (ssl3d clean shows what can go) and run the same command again: it goes on",
            ) from error
        if number in _READ_ONLY:
            raise Ssl3dError(
                "the workspace cannot be written",
                where={"folder": where, "reason": os.strerror(number)},
                hint="give yourself write permission there, or choose another place with --workspace DIR",
            ) from error
        raise


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Writes ``value`` as JSON with sorted keys, whole or not at all, and waits until it is on the disk."""
    write_whole(path, (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode(), durable=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when the file is absent or holds no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def digest_file(path: Path) -> str:
    """xxh3-64 of the bytes of ``path``, hexadecimal."""
    state = xxhash.xxh3_64()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def digest_value(value: Any) -> str:
    """xxh3-128 of the canonical JSON of ``value``, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # bytes of a path that are no UTF-8 come as lone surrogates
    return xxhash.xxh3_128(text.encode(errors="surrogateescape")).hexdigest()


def temporary_files(folder: Path) -> list[Path]:
    """What writers that were killed have left directly in ``folder``."""
    return sorted([*folder.glob(".tmp-*"), *folder.glob(".*.tmp")])


def free_bytes(folder: Path) -> int:
    """Free space of the file system of ``folder`` or of its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder (links are not followed; what vanishes meanwhile is nothing)."""
    total = 0
    below = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    for file in below if path.is_dir() and not path.is_symlink() else [path]:
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total


def remove_tree(path: Path) -> None:
    """Removes a file or a folder with all that it holds; one that is already gone is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
