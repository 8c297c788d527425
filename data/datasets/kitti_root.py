"""Finding ``sequences/`` below what the user called the root, and naming the level where it is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl3d.data.datasets.root import RootShape, WrongRoot, folders_in, stated_counts
from ssl3d.data.datasets.root import find_root as find
from ssl3d.data.errors import DataError

EXPECTED = "<root>/sequences/NN/velodyne/FFFFFF.bin or <root>/dataset/sequences/NN/velodyne/FFFFFF.bin"
_SEQUENCE = re.compile(r"\d\d")
_SIGNS = ("velodyne", "labels", "poses.txt", "calib.txt", "image_2")


@dataclass(frozen=True, slots=True)
class KittiRoot:
    """``root``: as the user gave it, absolute. ``sequences``: its folder of sequences."""

    root: Path
    sequences: Path


def find_root(root: Path) -> KittiRoot:
    """Find the folder of sequences.

    Raises:
        WrongRoot: it is not there; the message names the level that was given, and the one that is expected.
        DataError: it is there in another arrangement, or still packed.
    """
    sequences = find(root, _SHAPE) / "sequences"
    _refuse_rearranged(sequences)
    return KittiRoot(root, sequences)


def stated(place: KittiRoot) -> dict[str, int] | None:
    """Scans per sequence that a generated dataset states for itself, None for a recorded one."""
    return stated_counts(place.root, place.sequences.parent)


def _refuse(given: Path, names: Sequence[str]) -> None:
    """The root is too deep, or another layout."""
    _refuse_level(given, names)
    where = {"root": given, "expected": EXPECTED}
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
    if any(_number(child) for name in ("velodyne", "labels") for child in folders_in(given / name)):
        _raise_rearranged(given, "velodyne/NN or labels/NN")


def _is_sequence(folder: Path) -> bool:
    return any((folder / sign).exists() for sign in _SIGNS)


def _refuse_level(given: Path, names: Sequence[str]) -> None:
    """The root is too deep."""
    level, right = "", given
    if any(name.endswith(".bin") for name in names):
        level, right = "a velodyne folder", given.parents[min(2, len(given.parents) - 1)]
    elif any((given / name / sub).is_dir() for name in names for sub in ("velodyne", "labels") if _number(name)):
        level, right = "the folder of sequences itself", given.parent
    elif _is_sequence(given) and not any(_number(child) for child in folders_in(given / "velodyne")):
        level, right = "one sequence", given.parents[min(1, len(given.parents) - 1)]
    if level:
        hint = f"--root {right}" if (right / "sequences").is_dir() else "rename the folder of sequences to `sequences`"
        raise WrongRoot(f"the root is {level}", where={"root": given, "expected": EXPECTED}, hint=hint)


def _refuse_rearranged(sequences: Path) -> None:
    names = folders_in(sequences)
    if any(_number(name) for name in names):
        return
    for name in names:
        if any(_number(child) for child in folders_in(sequences / name)):
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


def _number(name: str) -> bool:
    return _SEQUENCE.fullmatch(name) is not None


_SHAPE = RootShape(
    title="SemanticKITTI",
    expected=EXPECTED,
    is_here=lambda folder: (folder / "sequences").is_dir(),
    inner=("dataset",),
    names=("sequences",),
    refuse=_refuse,
)
