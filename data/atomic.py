"""Writing a file so that nobody ever meets half of it: under a temporary name beside it, renamed when whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that mean: no more may be written (disk, quota, size limit)."""


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of ``path``, for this process alone.

    The suffix loses its dot: the official SemanticKITTI evaluator takes every file with ``.label`` in its name.
    """
    return path.with_name(f".{path.name.replace('.', '-')}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a temporary file name, which becomes ``path`` when the block ends, and is removed when the block fails.

    Args:
        durable: also wait until the file and its new name are on the disk.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Writes ``content`` to ``path``, whole or not at all; its folder has to exist."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Waits until a file is on the disk, or (where the system can, POSIX) the renames inside a folder are."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
