"""The folder or the zip in which some program left its predictions. Nothing is unpacked but one file at a time."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType

from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.submission.archive import Archive

BLOCK = 1 << 22
_LOOKED_AT = 10_000
"""So many files are looked at to say where a missing one lies instead."""


class Handed(ABC):
    """Files by their names below ``path``. Use as a context."""

    path: Path

    def __enter__(self) -> Handed:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def __contains__(self, name: object) -> bool: ...

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Names of all files, in any order."""

    @abstractmethod
    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, ``BLOCK`` or fewer at a time. DataError when it cannot be read."""

    @abstractmethod
    def file(self, name: str) -> AbstractContextManager[Path]:
        """A file that may be opened while the block lasts."""

    def where(self, name: str) -> dict[str, object]:
        """Of a file, for messages."""
        return {"file": self.path / name}

    def read(self, name: str) -> bytes:
        """All bytes of a file. DataError when it cannot be read."""
        return b"".join(self.blocks(name))

    def some(self, count: int = 3) -> str:
        """A few names, for messages."""
        shown = sorted(islice(self.names(), 1000))
        return ", ".join(shown[:count]) + (", ..." if len(shown) > count else "") or "nothing"

    def deeper(self, name: str) -> PurePosixPath | None:
        """The folder in here below which a file of that name lies; None where it is not found."""
        for found in islice(self.names(), _LOOKED_AT):
            if found.endswith(f"/{name}"):
                return PurePosixPath(found.removesuffix(f"/{name}"))
        return None


def opened(path: Path) -> Handed:
    """The predictions in a folder or a zip.

    Raises:
        UsageError: there is neither.
        DataError: it is no zip, or a damaged one.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise UsageError("there are no predictions here", where={"predictions": path}, hint="check the path")
    if path.suffix.lower() != ".zip":
        raise UsageError(
            "predictions are a folder or a .zip, this is another file",
            where={"predictions": path},
            hint="name the folder that the files lie in",
        )
    return _Zip(path)


class _Folder(Handed):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __contains__(self, name: object) -> bool:
        return (self.path / str(name)).is_file()

    def names(self) -> Iterator[str]:
        return (path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file())

    def blocks(self, name: str) -> Iterator[bytes]:
        try:
            with (self.path / name).open("rb") as stream:
                while block := stream.read(BLOCK):
                    yield block
        except OSError as error:
            raise DataError(f"a file cannot be read: {error.strerror}", where=self.where(name)) from error

    def file(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.path / name)


class _Zip(Handed):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.__exit__(kind, error, trace)

    def __contains__(self, name: object) -> bool:
        return name in self._archive.entries

    def names(self) -> Iterator[str]:
        return iter(self._archive.entries)

    def where(self, name: str) -> dict[str, object]:
        return {"file": self.path, "entry": name}

    def blocks(self, name: str) -> Iterator[bytes]:
        return self._archive.blocks(name, BLOCK)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ssl3d-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            with path.open("wb") as stream:
                for block in self.blocks(name):
                    stream.write(block)
            yield path


__all__ = ["Handed", "opened"]
