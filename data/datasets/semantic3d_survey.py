"""Which clouds of Semantic3D are there, by names and sizes alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ssl3d.data.datasets.root import Listing, RootShape, find_root, list_folder, stated_counts
from ssl3d.data.datasets.source import (
    CheckReport,
    Fields,
    GroupReport,
    Layout,
    Problem,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.datasets.spool import WHOLE
from ssl3d.data.errors import UsageError
from ssl3d.data.spec import SUBSETS, DatasetSpec
from ssl3d.data.text import nearest, size_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_EXPECTED = "<root>/<cloud>.txt, and <cloud>.labels for each train cloud"
_LABELS = "sem8_labels_training.7z"
_SHORT = "station1_xyz_intensity_rgb"
"""What the archive of a train cloud, alone of all, unpacks to."""
_LONG = f"neugasse_{_SHORT}"
_FIELDS = Fields({"intensity": ("f4", 0), "color": ("u1", 3)})
_DOWNLOAD = "download and unpack it, or go on without with --allow-partial"


@dataclass(slots=True)
class Found:
    """The files of one cloud."""

    points: SourceFile | None = None
    labels: SourceFile | None = None
    archive: str = ""


def survey(spec: DatasetSpec, root: Path, options: ReadOptions) -> Layout:
    """All clouds and all problems. See ``DatasetReader.survey``.

    Args:
        options: ``version`` names the choice of validation clouds: randlanet (default), kpconv or spg.
    """
    held_out = _validation(options.version)
    shape = RootShape(spec.title, _EXPECTED, _is_here, ("original_data",))
    base = find_root(root, shape)
    listing = list_folder(base) or Listing()
    subsets = {cloud: subset for subset in SUBSETS for cloud in spec.splits[subset]}
    subsets |= {cloud: "val" if cloud in held_out else "train" for cloud, is_in in subsets.items() if is_in != "test"}
    found, strange = _sorted_files(listing, base, list(subsets))
    stated = stated_counts(base)
    expected = set(stated) if stated is not None else {cloud for cloud, is_in in subsets.items() if is_in != "test"}
    groups, units = [], []
    for cloud in sorted({*found, *expected}, key=lambda name: (SUBSETS.index(subsets.get(name, "test")), name)):
        files = found.get(cloud, Found())
        subset = subsets.get(cloud, "test")
        problems = tuple(_problems(cloud, subset, files, base, options.allow_partial))
        facts: dict[str, str | int] = {"labels": int(files.labels is not None)}
        facts["size"] = size_text(files.points.size) if files.points else "-"
        groups.append(GroupReport(cloud, subset, int(files.points is not None), 1, facts, problems))
        if files.points is not None:
            units.append(_unit(cloud, subset, files.points, files.labels))
    general = (*strange, *_general(listing, base, subsets, found))
    report = CheckReport(spec.name, base, tuple(groups), general)
    return Layout(spec.name, base, tuple(sorted(units, key=lambda unit: unit.id)), report)


@lru_cache(maxsize=1)
def _choices() -> dict[str, tuple[str, ...]]:
    file = resources.files("ssl3d.data.datasets").joinpath("semantic3d.toml")
    table = tomllib.loads(file.read_text(encoding="utf-8"))["validation"]
    return {name: tuple(clouds) for name, clouds in table.items()}


def _validation(version: str) -> tuple[str, ...]:
    """The train clouds that are held out."""
    choices = _choices()
    if version and version not in choices:
        raise UsageError(
            f"Semantic3D has no division {version!r} into train and validation",
            hint=f"there are {', '.join(choices)}: the clouds that their authors hold out",
        )
    return choices[version or "randlanet"]


def _is_here(folder: Path) -> bool:
    listing = list_folder(folder)
    return listing is not None and any(name.lower().endswith((".txt", ".labels")) for name in listing.files)


def _sorted_files(listing: Listing, base: Path, known: Sequence[str]) -> tuple[dict[str, Found], list[Problem]]:
    """The files of every known cloud, and a problem for every name that is not known."""
    found: dict[str, Found] = {}
    problems = []
    for name, file in listing.files.items():
        cloud, suffix = name.partition(".")[::2]
        if suffix not in ("txt", "labels", "7z", "txt.7z") or name == _LABELS:
            continue
        if cloud not in known:
            if suffix in ("txt", "labels"):
                problems.append(_unknown(base, name, cloud, known))
            continue
        files = found.setdefault(cloud, Found())
        if suffix == "txt":
            files.points = file
        elif suffix == "labels":
            files.labels = file
        else:
            files.archive = name
    return found, problems


def _unknown(base: Path, name: str, cloud: str, known: Sequence[str]) -> Problem:
    suffix = name[len(cloud) :]
    if cloud == _SHORT:
        what, near = "the archive of neugasse_station1 unpacks to a name that the labels do not have", _LONG
    else:
        what, near = "no cloud of Semantic3D has this name", nearest(cloud, known, 0.5) or ""
    hint = f"rename it to {near}{suffix}" if near else "move it out of this folder"
    return Problem("error", what, {"file": base / name}, hint)


def _problems(cloud: str, subset: str, files: Found, base: Path, partial: bool) -> list[Problem]:
    place: dict[str, object] = {"file": base / f"{cloud}.txt"}
    if files.points is None:
        if files.archive:
            hint = f"unpack it here: 7z x {files.archive}"
            return [Problem("error", "a cloud is not unpacked", {"file": base / files.archive}, hint)]
        return [Problem("warning" if partial else "error", "a cloud is missing", place, None if partial else _DOWNLOAD)]
    if files.points.size == 0:
        return [Problem("error", "the file is empty", place, "unpack its archive again")]
    labels: dict[str, object] = {"file": base / f"{cloud}.labels"}
    if subset == "test" and files.labels is not None:
        what = "a test cloud with labels: its truth is not public, so these are somebody's predictions"
        return [Problem("error", what, labels, "move it out of this folder")]
    if subset != "test" and files.labels is None:
        hint = f"unpack {_LABELS} beside the clouds, or go on without with --allow-partial"
        what = "a train cloud has no labels"
        return [Problem("warning" if partial else "error", what, labels, None if partial else hint)]
    return []


def _general(listing: Listing, base: Path, subsets: Mapping[str, str], found: Mapping[str, Found]) -> list[Problem]:
    problems = []
    if listing.broken:
        where: dict[str, Any] = {"file": base / listing.broken[0]}
        problems.append(Problem("error", "a file cannot be opened: a link that leads nowhere", where, "fetch it"))
    there = {cloud for cloud, files in found.items() if files.points is not None}
    if not any(subsets[cloud] == "test" for cloud in there):
        what = "no test cloud is here: nothing can be handed in"
        problems.append(Problem("warning", what, {"root": base}, "download the four clouds of reduced-8"))
    return problems


def _unit(cloud: str, subset: str, points: SourceFile, labels: SourceFile | None) -> SourceUnit:
    files = {"points": points, **({"labels": labels} if labels is not None else {})}
    scan = SourceScan(f"{cloud}/{WHOLE}", files, None, labelled=labels is not None)
    return SourceUnit(cloud, cloud, subset, "labels", (scan,), _FIELDS)
