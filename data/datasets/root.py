"""What readers of folders share: finding the level where a layout begins, listing folders, what generated data says.

A user names a folder one level too high or too deep, a zip, a folder of archives: every such mistake has a message that
says which level was given, which one is expected, and what to type next.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl3d.data.datasets.source import ReadOptions, SourceFile, other_case
from ssl3d.data.errors import DataError, UsageError

MANIFEST = "ssl3d_synth.json"
"""What a generated dataset says about itself, at its root."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".7z", ".rar")
_LEVELS = 4


class WrongRoot(DataError):  # noqa: N818  reads as what it is
    """The folder after ``--root`` is not the right one: the command was wrong, the data may be fine."""

    exit_code = UsageError.exit_code


@dataclass(frozen=True)
class RootShape:
    """How the root of a layout is recognized.

    Attributes:
        title: of the dataset.
        expected: the layout in a line, ``<root>/...``.
        is_here: whether the layout begins in a folder.
        inner: folders that an archive may have added, e.g. ``dataset``: the layout may begin in ``<root>/<inner>`` too.
        names: what lies in a root: entries that differ from it in upper and lower case only are named.
        refuse: called with a root where the layout does not begin, and the names in it; raises for mistakes that are
            particular to this dataset.
    """

    title: str
    expected: str
    is_here: Callable[[Path], bool]
    inner: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    refuse: Callable[[Path, Sequence[str]], None] = lambda folder, names: None


def find_root(given: Path, shape: RootShape) -> Path:
    """The folder where the layout begins: ``given`` or one of its ``inner`` folders.

    Args:
        given: absolute.

    Raises:
        WrongRoot: it is not there; the message names the level that was given, and the one that is expected.
        DataError: it is there, but still packed, or may not be read.
    """
    names = root_names(given)
    for base in _bases(given, shape):
        if shape.is_here(base):
            return base
    shape.refuse(given, names)
    where = {"root": given, "expected": shape.expected}
    for name in names:
        if any(shape.is_here(base) for base in _bases(given / name, shape)):
            raise WrongRoot("the root is too high", where=where, hint=f"--root {given / name}")
    for parent in given.parents[:_LEVELS]:
        if any(shape.is_here(base) for base in _bases(parent, shape)):
            raise WrongRoot("the root is too deep", where=where, hint=f"--root {parent}")
    refuse_archives(given, names, shape.expected)
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    other = next(filter(None, (other_case(names, name) for name in (*shape.names, *shape.inner))), None)
    wanted = next((name for name in (*shape.names, *shape.inner) if other and name.lower() == other.lower()), "")
    raise WrongRoot(
        f"no {shape.title} data here",
        where={"root": given, "found": found or "nothing (the folder is empty)", "expected": shape.expected},
        hint=f"rename {other} to {wanted}" if other else "give the folder into which the archives were unpacked",
    )


def _bases(folder: Path, shape: RootShape) -> list[Path]:
    return [folder, *(folder / name for name in shape.inner)]


def root_names(folder: Path) -> list[str]:
    """Visible names in what the user called the root, sorted.

    Raises:
        WrongRoot: it is not there, or is a file.
        DataError: it may not be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
    except FileNotFoundError:
        raise WrongRoot("the root does not exist", where={"root": folder}, hint="check the path after --root") from None
    except NotADirectoryError:
        raise WrongRoot(
            "the root is a file, not a folder",
            where={"root": folder},
            hint="unpack archives first, then give the folder that they were unpacked into",
        ) from None
    except PermissionError:
        raise DataError("the root may not be read", where={"root": folder}, hint="check its permissions") from None


def refuse_archives(folder: Path, names: Sequence[str], expected: str) -> None:
    """DataError when there are archives among the names."""
    archives = [name for name in names if name.lower().endswith(ARCHIVES)]
    if archives:
        raise DataError(
            "the archives are not unpacked",
            where={"root": folder, "expected": expected, "found": archives[0]},
            hint=f"unpack {archives[0]} here",
        )


def folders_in(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none where there is no such folder."""
    listing = list_folder(folder)
    return [] if listing is None else listing.folders


@dataclass(slots=True)
class Listing:
    """What lies in a folder; hidden names are passed over. Links are followed.

    Attributes:
        files: name -> file, in order of name.
        folders: names, in order.
        broken: names that lead nowhere (links), or are neither.
    """

    files: dict[str, SourceFile] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def list_folder(folder: Path | str) -> Listing | None:
    """Everything in a folder, None when there is no such folder. DataError when it may not be read."""
    found = Listing()
    try:
        with os.scandir(folder) as opened:
            entries = sorted(
                (entry for entry in opened if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise DataError("a folder may not be read", where={"folder": folder}, hint="check its permissions") from None
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:
            found.broken.append(entry.name)
            continue
        if stat.S_ISREG(status.st_mode):
            found.files[entry.name] = SourceFile(entry.path, (status.st_size, status.st_mtime_ns))
        elif stat.S_ISDIR(status.st_mode):
            found.folders.append(entry.name)
        else:
            found.broken.append(entry.name)
    return found


def read_text(path: Path | str) -> str:
    """A small text file, bytes that are no UTF-8 replaced. DataError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"a file cannot be read: {error.strerror}",
            where={"file": path},
            hint="check its permissions and the disk",
        ) from error


def read_manifest(*folders: Path) -> dict[str, Any] | None:
    """What a generated dataset says about itself (in the first of the folders that has it), None for a recorded one.

    Raises:
        DataError: the manifest is damaged, or says that generating was not finished.
    """
    path = next((folder / MANIFEST for folder in folders if (folder / MANIFEST).is_file()), None)
    if path is None:
        return None
    try:
        manifest = json.loads(read_text(path))
        complete = bool(manifest["complete"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if not complete:
        raise DataError(
            "this generated dataset is not finished",
            where={"root": path.parent},
            hint="the same `ssl3d synth` command goes on where it stopped",
        )
    return {str(key): value for key, value in manifest.items()}


def stated_counts(*folders: Path, key: str = "scans_per_sequence") -> dict[str, int] | None:
    """Scans per group that a generated dataset states for itself, None for a recorded one; see ``read_manifest``."""
    manifest = read_manifest(*folders)
    if manifest is None:
        return None
    try:
        return {str(group): int(count) for group, count in manifest[key].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        path = next(folder / MANIFEST for folder in folders if (folder / MANIFEST).is_file())
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        "the description of this generated dataset is damaged",
        where={"file": path, "field": error},
        hint="generate it again: ssl3d synth ... --overwrite",
    )


def refuse_version(options: ReadOptions, title: str) -> None:
    """UsageError where a version was asked for of a dataset that has only one."""
    if options.version:
        raise UsageError(
            f"{title} has no versions to choose from",
            where={"version": options.version},
            hint="leave --version away",
        )
