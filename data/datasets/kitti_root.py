"""Finding ``sequences/`` below what the user called the root, and naming the level where it is not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ssl3d.data.datasets.kitti_files import read_text
from ssl3d.data.errors import DataError, UsageError

EXPECTED = "<root>/sequences/NN/velodyne/FFFFFF.bin or <root>/dataset/sequences/NN/velodyne/FFFFFF.bin"
MANIFEST = "ssl3d_synth.json"
"""What a generated dataset says about itself, at its root."""
_SEQUENCE = re.compile(r"\d\d")
_SIGNS = ("velodyne", "labels", "poses.txt", "calib.txt", "image_2")


class WrongRoot(DataError):  # noqa: N818  reads as what it is
    """The folder after ``--root`` is not the right one: the command was wrong, the data may be fine."""

    exit_code = UsageError.exit_code


@dataclass(frozen=True, slots=True)
class KittiRoot:
    """``root``: as the user gave it, absolute. ``sequences``: its folder of sequences."""

    root: Path
    sequences: Path


def find_root(root: Path | str) -> KittiRoot:
    """Find the folder of sequences.

    Raises:
        WrongRoot: it is not there; the message names the level that was given, and the one that is expected.
        DataError: it is there in another arrangement, or still packed.
    """
    given = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100  resolve() would lose the user's links
    names = _names(given)
    for base in (given, given / "dataset"):
        if (base / "sequences").is_dir():
            _refuse_rearranged(base / "sequences")
            return KittiRoot(given, base / "sequences")
    _refuse_level(given, names)
    _refuse_neighbors(given, names)
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    other = other_case(names, "sequences") or other_case(names, "dataset")
    raise WrongRoot(
        "no SemanticKITTI data here",
        where={"root": given, "found": found or "nothing (the folder is empty)", "expected": EXPECTED},
        hint=f"rename {other} to {other.lower()}" if other else "give the folder into which the archives were unpacked",
    )


def other_case(names: Iterable[str], wanted: str) -> str | None:
    """The name that differs from ``wanted`` in upper and lower case only, if there is one and not ``wanted`` itself."""
    found = [name for name in names if name.lower() == wanted]
    return found[0] if found and wanted not in found else None


def read_manifest(root: KittiRoot) -> dict[str, int] | None:
    """Scans per sequence that a generated dataset states for itself, None for a recorded one.

    Raises:
        DataError: the manifest is damaged, or says that generating was not finished.
    """
    path = next((p for p in (root.root / MANIFEST, root.sequences.parent / MANIFEST) if p.is_file()), None)
    if path is None:
        return None
    try:
        manifest = json.loads(read_text(path))
        complete = bool(manifest["complete"])
        counts = {str(sequence): int(count) for sequence, count in manifest["scans_per_sequence"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "the description of this generated dataset is damaged",
            where={"file": path, "field": error},
            hint="generate it again: ssl3d synth street ... --overwrite",
        ) from error
    if not complete:
        raise DataError(
            "this generated dataset is not finished",
            where={"root": root.root},
            hint="the same `ssl3d synth street` command goes on where it stopped",
        )
    return counts


def _names(folder: Path) -> list[str]:
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


def _is_sequence(folder: Path) -> bool:
    return any((folder / sign).exists() for sign in _SIGNS)


def _refuse_level(given: Path, names: list[str]) -> None:
    """The root is too deep."""
    level, right = "", given
    if any(name.endswith(".bin") for name in names):
        level, right = "a velodyne folder", given.parents[min(2, len(given.parents) - 1)]
    elif any((given / name / sub).is_dir() for name in names for sub in ("velodyne", "labels") if _number(name)):
        level, right = "the folder of sequences itself", given.parent
    elif _is_sequence(given) and not any(_number(child) for child in _folders(given / "velodyne")):
        level, right = "one sequence", given.parents[min(1, len(given.parents) - 1)]
    if level:
        hint = f"--root {right}" if (right / "sequences").is_dir() else "rename the folder of sequences to `sequences`"
        raise WrongRoot(f"the root is {level}", where={"root": given, "expected": EXPECTED}, hint=hint)


def _refuse_neighbors(given: Path, names: list[str]) -> None:
    """The root is too high, or another layout."""
    where = {"root": given, "expected": EXPECTED}
    for name in names:
        if any((given / name / sub / "sequences").is_dir() for sub in ("", "dataset")):
            raise WrongRoot("the root is too high", where=where, hint=f"--root {given / name}")
    if any(name in ("training", "testing") for name in names):
        raise DataError(
            "this is KITTI's object detection layout (training/, testing/), which has no sequences",
            where=where,
            hint="SemanticKITTI belongs to the KITTI odometry archives: data_odometry_velodyne.zip",
        )
    if any(re.fullmatch(r"\d{4}_\d\d_\d\d", name) for name in names):
        raise DataError(
            "this is KITTI's raw layout (drives by date), not the odometry layout",
            where=where,
            hint="SemanticKITTI belongs to the KITTI odometry archives: data_odometry_velodyne.zip",
        )
    if any(_number(child) for name in ("velodyne", "labels") for child in _folders(given / name)):
        _raise_rearranged(given, "velodyne/NN or labels/NN")
    archives = [name for name in names if name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))]
    if archives:
        raise DataError(
            "the archives are not unpacked", where={**where, "found": archives[0]}, hint=f"unzip {archives[0]} here"
        )


def _refuse_rearranged(sequences: Path) -> None:
    names = _folders(sequences)
    if any(_number(name) for name in names):
        return
    for name in names:
        if any(_number(child) for child in _folders(sequences / name)):
            _raise_rearranged(sequences, f"sequences/{name}/NN")
    raise DataError(
        "the folder of sequences holds no sequence",
        where={"folder": sequences, "found": ", ".join(names[:8]) or "nothing"},
        hint=f"expected {EXPECTED}",
    )


def _raise_rearranged(folder: Path, found: str) -> None:
    raise DataError(
        f"the dataset was re-arranged: found {found}",
        where={"folder": folder, "expected": EXPECTED},
        hint="links restore the published layout without a copy: ln -s <folder of .bin files> sequences/NN/velodyne",
    )


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(name for name in _names(folder) if (folder / name).is_dir())


def _number(name: str) -> bool:
    return _SEQUENCE.fullmatch(name) is not None
