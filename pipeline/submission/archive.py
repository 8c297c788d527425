"""Submission archives: packed so that official validators accept them, and opened without trusting them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType

from ssl3d.data.atomic import replacing
from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.progress import Task

_MOMENT = (1980, 1, 1, 0, 0, 0)  # equal content, equal bytes
LARGEST_RATIO = 2000
"""Deflate cannot do better than about 1000 to 1: an entry that claims more is damaged, or made to fill a disk."""


def pack(folder: Path, files: Iterable[PurePosixPath], target: Path, task: Task | None = None) -> int:
    """Puts files of a folder into a zip, whole or not at all: their folders first, as entries of their own (the
    validator of SemanticKITTI asks for these), in sorted order, and the same bytes for the same content.

    Args:
        files: relative to ``folder``.

    Returns:
        How many files.
    """
    names = sorted(set(files))
    folders = sorted({parent for name in names for parent in name.parents if parent.name})
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for name in folders:
            out.writestr(zipfile.ZipInfo(f"{name}/", _MOMENT), b"")
        for name in names:
            entry = zipfile.ZipInfo(str(name), _MOMENT)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with (folder / name).open("rb") as source, out.open(entry, "w", force_zip64=True) as stream:
                while block := source.read(1 << 20):
                    stream.write(block)
            if task is not None:
                task.advance()
    return len(names)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive: its name there, and its size in bytes when unpacked."""

    name: str
    size: int


class Archive:
    """A zip to look into. Use as a context.

    Raises:
        UsageError: there is no such file, or its name does not end with ``.zip``.
        DataError: it is no zip, or cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError("there is no such file", where={"file": path}, hint="check the path of the .zip")
        if path.suffix != ".zip":
            raise UsageError(
                "the name of a submission has to end with .zip: servers refuse others", where={"file": path}
            )
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(
                f"this is no whole zip: {error}", where={"file": path}, hint="pack it again: ssl3d predict ... --submit"
            ) from error
        self.folders = {info.filename.rstrip("/") for info in self._zip.infolist() if info.is_dir()}
        self.entries: Mapping[str, Entry] = {
            info.filename: Entry(info.filename, info.file_size) for info in self._zip.infolist() if not info.is_dir()
        }
        self.repeated = len([info for info in self._zip.infolist() if not info.is_dir()]) - len(self.entries)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def size(self) -> int:
        return os.stat(self.path).st_size  # noqa: PTH116

    def read(self, name: str) -> bytes:
        """The content of an entry. DataError when it is damaged."""
        return b"".join(self.blocks(name, 1 << 24))

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """The content of an entry, at most ``size`` bytes at a time. DataError when it is damaged."""
        info = self._zip.getinfo(name)
        try:
            if info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
                raise ValueError(f"{info.file_size} bytes from {info.compress_size}")
            with self._zip.open(info) as stream:
                while block := stream.read(size):
                    yield block
        except Exception as error:  # zlib, CRC, unknown compression, encryption: all mean that it cannot be read
            raise DataError(
                f"an entry of the archive cannot be unpacked: {error}",
                where={"file": self.path, "entry": name},
                hint="pack it again: ssl3d predict ... --submit",
            ) from error
