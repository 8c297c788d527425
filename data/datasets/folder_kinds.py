"""Which files of a folder are its clouds, and which belong to them: by suffixes, names and sizes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl3d.data.datasets.folder_files import PICKLES, refuse_pickle
from ssl3d.data.datasets.root import ARCHIVES
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.formats.read import SUFFIXES, inspect, split_suffix

_LEAST_SHARE = 0.01
"""A kind of files with less than this share of the bytes is no dataset."""
_LABEL_WORDS = ("label", "seg", "sem", "annot", "mask", "gt", "truth", "class")
LABEL_SUFFIXES = (".label", ".labels")
INSTANCE_WORDS = ("inst",)
TABLES = (".pkl.gz", ".pkl", ".pickle")
IMAGES = (".jpg", ".jpeg", ".png")


def choose_clouds(root: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The clouds, and notes on what was left aside."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        suffix = split_suffix(name)[1]
        if suffix in SUFFIXES and suffix not in LABEL_SUFFIXES and not is_label(name):
            kinds[suffix].append(name)
    notes = [note for suffix in TABLES if suffix in kinds for note in _leave_tables(root, kinds, suffix)]
    if not kinds:
        raise _nothing(root, names)
    sizes = {suffix: sum((root / name).stat().st_size for name in found) for suffix, found in kinds.items()}
    most = max(sizes.values())
    serious = sorted((suffix for suffix in kinds if sizes[suffix] >= _LEAST_SHARE * most), key=lambda s: -sizes[s])
    if len(serious) > 1 and set(serious) != {".las", ".laz"}:
        raise DataError(
            "several kinds of files may be the clouds: "
            + ", ".join(f"{len(kinds[suffix])} {suffix} ({kinds[suffix][0]})" for suffix in serious),
            where={"root": root},
            hint="guess on a folder that holds one kind, or write the description by hand",
        )
    notes += [
        f"{len(found)} {suffix} left aside: too small to be the clouds ({found[0]})"
        for suffix, found in kinds.items()
        if suffix not in serious
    ]
    for suffix in IMAGES:
        images = [name for name in names if name.lower().endswith(suffix)]
        found = f"{len(images)} {suffix} images ({images[0] if images else ''})"
        notes += [f"{found}: describe them in [[images]] with their cameras"] * bool(images)
    return [name for suffix in serious for name in kinds[suffix]], notes


def _leave_tables(root: Path, kinds: dict[str, list[str]], suffix: str) -> Iterator[str]:
    """Takes out pickled tables of other things (boxes, for instance), a folder of one name after the other."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in kinds.pop(suffix):
        folders[Path(name).parent.name].append(name)
    for found in folders.values():
        try:
            columns = [column.lower() for column in inspect(root / found[0]).columns]
        except Ssl3dError:
            columns = [*"xyz"]  # opened as a cloud it says what is wrong with it
        if {*"xyz"} <= {*columns}:
            kinds[suffix].extend(found)
        else:
            yield f"{len(found)} {suffix} left aside: their columns are no points ({found[0]})"


def _nothing(root: Path, names: Sequence[str]) -> DataError:
    for name in names:
        if name.lower().endswith(PICKLES):
            refuse_pickle(str(root / name))
    packed = [name for name in names if name.lower().endswith(ARCHIVES)]
    kinds = " ".join(sorted({split_suffix(name)[1] for name in names})[:12])
    hint = f"unpack {packed[0]}" if packed else f"files that are read: {' '.join(SUFFIXES)}"
    return DataError("no clouds here", where={"root": root, "found": kinds or "no files"}, hint=hint)


def is_label(name: str) -> bool:
    """Whether folder or name say that a file holds labels (or instances) of another."""
    folder, _, stem = Path(name).with_suffix("").as_posix().rpartition("/")
    last, tail = folder.rpartition("/")[2].lower(), stem.lower().replace("-", "_").rpartition("_")[2]
    words = (*_LABEL_WORDS, *INSTANCE_WORDS)
    return any(word in last for word in words) or any(tail.startswith(word) for word in words)


def pattern_of(clouds: Sequence[str], suffix: str) -> str:
    """A glob of the clouds: by the name of their folder where all have the same."""
    folders = {os.path.dirname(name) for name in clouds}  # noqa: PTH120
    suffix = suffix if len({split_suffix(name)[1] for name in clouds}) == 1 else suffix[:-1] + "?"
    if folders == {""}:
        return f"*{suffix}"
    last = {folder.rpartition("/")[2] for folder in folders}
    if len(folders) == 1:
        return f"{next(iter(folders))}/*{suffix}"
    return f"**/{next(iter(last))}/*{suffix}" if len(last) == 1 else f"**/*{suffix}"
