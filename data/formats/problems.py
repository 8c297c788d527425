"""What can be wrong with a file before its format matters, and how to say it."""

from __future__ import annotations

from pathlib import Path

from ssl3d.data.errors import DataError

_BEGINNINGS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a .npy array"),
    (b"LASF", "a LAS or LAZ file"),
    (b"ply", "a PLY file"),
    (b"# .PCD", "a PCD file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML file"),
    (b"\x80\x04\x95", "a Python pickle"),
)


def damaged(path: Path, what: str, hint: str | None = None, **where: object) -> DataError:
    """An error that names the file, and the line, byte or field in it."""
    return DataError(what, where={"file": path, **where}, hint=hint)


def file_size(path: Path) -> int:
    """Bytes of a file that can be opened and is not empty.

    Raises:
        DataError: it is not there, no file, unreadable or empty.
    """
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except FileNotFoundError:
        raise damaged(path, "there is no such file", "check the path; patterns are relative to the root") from None
    except IsADirectoryError:
        raise damaged(path, "a folder stands where a file should be") from None
    except OSError as error:
        raise damaged(path, f"a file cannot be read: {error.strerror}", "check its permissions and the disk") from error
    if size == 0:
        raise damaged(path, "the file is empty", "copy it again from where it came")
    return size


def beginning(path: Path, size: int = 64) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as handle:
        return handle.read(size)


def looks_like(head: bytes, shortest: int = 3) -> str | None:
    """What the first bytes of a file say that it is; None when they say nothing.

    Args:
        shortest: bytes of a sign that counts. Plain numbers begin with any three bytes once in 17 million files.
    """
    return next((name for magic, name in _BEGINNINGS if len(magic) >= shortest and head.startswith(magic)), None)


def wrong_magic(path: Path, kind: str, magic: bytes) -> DataError:
    """The file does not begin like its suffix says."""
    head = beginning(path)
    found = looks_like(head)
    return damaged(
        path,
        f"this is no {kind} file: it does not begin with {magic.decode('ascii', 'backslashreplace')!r}",
        f"it looks like {found}" if found else f"it begins with {head[:8]!r}; copy it again or correct its suffix",
        byte=0,
    )


def no_points(path: Path) -> DataError:
    """Nothing in the file to label."""
    return damaged(path, "the file holds no points", "leave it out of the pattern of clouds")
