"""Looking at a folder of scans: which files are clouds, what their columns are, where their labels lie.

Nothing is certain here. Every finding carries the reason, which the description shows beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.folder_config import beside
from ssl3d.data.datasets.folder_guess_frames import (
    GuessedCamera,
    class_names,
    find_cameras,
    find_json_poses,
    relation,
)
from ssl3d.data.datasets.folder_kinds import INSTANCE_WORDS, LABEL_SUFFIXES, choose_clouds, is_label, pattern_of
from ssl3d.data.datasets.folder_survey import files_below
from ssl3d.data.datasets.root import root_names
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.formats.cloud import Options, Source
from ssl3d.data.formats.raw import guess_width
from ssl3d.data.formats.read import inspect, split_suffix

_ROWS = 200_000
"""Rows of a file by which its columns are told apart."""
_LOOKED = 2_000_000
"""Rows of a file whose values are looked at."""
_MEASURED = ("intensity", "color", "label")
_FILES = 20
"""Files that are opened for their values."""
NAMES = {
    "intensity": ("intensity", "i", "reflectance", "remission", "scalar_intensity"),
    "label": (
        *("classification", "label", "labels", "class", "classes", "semantic", "sem", "category", "code"),
        *("scalar_label", "scalar_classification", "scalar_class", "semantic_label", "sem_label", "sem_class"),
    ),
    "instance": ("instance", "instances", "instance_id", "ins", "object", "object_id", "scalar_instance"),
    "ring": ("ring", "laser", "beam"),
}
TRIPLES = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
}
ARRAYS = {"color": ("rgb", "color", "colors", "colour"), "normal": ("normal", "normals")}
Values = dict[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Beside:
    """Labels in files of their own. ``pattern``: see ``folder_config.beside``."""

    pattern: str
    dtype: str
    format: str
    bits: int
    found: int
    why: str


@dataclass(slots=True)
class Guess:
    """What was found.

    Attributes:
        clouds: paths below the root.
        pattern: that matches them.
        names: columns that the files do not name themselves.
        roles: role -> column(s), see ``Columns``.
        reasons: role -> why.
        low, high: of the coordinates, of the files that were looked at.
        ids: raw ids of the labels -> rows, of the files that were looked at.
        zeros: share of rows at (0, 0, 0).
        spacing: median over the files of the distance between points, were they spread evenly over the ground; meters.
        looked: how many files were opened for their values.
        poses, json_poses: pattern of a file of poses; the second in PandaSet's form.
        cameras: with images of the clouds.
        class_names: id -> name, where a file tells.
        notes: what else was seen.
    """

    root: Path
    suffix: str
    clouds: list[str]
    pattern: str
    names: tuple[str, ...] = ()
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    ids: dict[int, int] = field(default_factory=dict)
    labels: Beside | None = None
    poses: str = ""
    json_poses: str = ""
    cameras: list[GuessedCamera] = field(default_factory=list)
    class_names: dict[int, str] = field(default_factory=dict)
    zeros: float = 0.0
    spacing: float = 0.0
    looked: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def frames(self) -> bool:
        """Whether these look like scans of a moving sensor: several in a folder, with KITTI's words or no-returns."""
        several = len(self.clouds) > len({os.path.dirname(name) for name in self.clouds})  # noqa: PTH120
        words = self.labels is not None and self.labels.bits
        return several and bool(words or self.zeros or self.poses or self.json_poses)


def look(root: Path) -> Guess:
    """Everything that can be seen of a folder.

    Raises:
        DataError: nothing in it can be read, or several kinds of files may be the clouds; the message names them.
    """
    root_names(root)
    names = files_below(root)
    clouds, notes = choose_clouds(root, names)
    stem, _ = split_suffix(clouds[0])
    suffix = clouds[0][len(stem) :]
    found = Guess(root, suffix, clouds, pattern_of(clouds, suffix), notes=notes)
    _examine(found, names)
    return found


def look_at(path: Path) -> Guess:
    """What can be seen of one file. DataError when it is damaged, or its columns are not found."""
    suffix = path.name[len(split_suffix(path.name)[0]) :]
    found = Guess(path.absolute().parent, suffix, [path.name], path.name)
    _examine(found, [])
    return found


def _examine(found: Guess, names: Sequence[str]) -> None:
    source = _open_first(found)
    _name_columns(found, source, _values(source))
    _find_labels(found, names)
    _find_poses(found, names)
    if found.json_poses and "d" in source.columns:
        found.notes.append("column d tells PandaSet's lidars apart: keep = { d = [0] } in [clouds] takes the spinning")
    if found.cameras:
        found.notes = [note for note in found.notes if "[[images]]" not in note]
    _measure(found)


# ---------------------------------------------------------------- columns


def _open_first(found: Guess) -> Source:
    path = found.root / found.clouds[0]
    if found.suffix.lower() != ".bin":
        return inspect(path)
    width = guess_width(path)
    if width is None:
        raise DataError(
            "a .bin file does not say how many columns it has, and nothing stands out",
            where={"file": path},
            hint="name them by hand: clouds.names, and clouds.dtype where the numbers are no float32",
        )
    found.names = ("x", "y", "z", *(f"column{number}" for number in range(4, width + 1)))
    found.reasons["names"] = f"{width} float32 columns fit the size and the values best"
    return inspect(path, Options(names=found.names))


def _values(source: Source, names: Sequence[str] = (), rows: int = _ROWS) -> Values:
    """The first rows of columns (default: all) of numbers."""
    return next(iter(source.tables(names or list(source.columns), rows)))


def _name_columns(found: Guess, source: Source, sample: Values) -> None:
    lower = {name.lower(): name for name in reversed(source.columns)}
    if not all(axis in lower for axis in "xyz"):
        raise DataError(
            "no columns are named x, y and z",
            where={"file": source.path, "columns": ", ".join(source.columns)},
            hint="write columns.coordinates by hand",
        )
    for role, known in NAMES.items():
        hits = [lower[name] for name in known if name in lower]
        if hits:
            found.roles[role], found.reasons[role] = (hits[0],), f"by its name, in {source.path.name}"
        if len(hits) > 1:
            found.notes.append(f"columns that may be the {role} too: {', '.join(hits[1:])}")
    for role, triples in TRIPLES.items():
        hit = next((triple for triple in triples if all(name in lower for name in triple)), None)
        single = next((lower[name] for name in ARRAYS[role] if name in lower), None)
        if hit is not None:
            found.roles[role] = tuple(lower[name] for name in hit)
        elif single is not None and source.columns[single].shape == (3,):
            found.roles[role] = (single,)
        if role in found.roles:
            found.reasons[role] = f"by the names, in {source.path.name}"
    if any(name.startswith("column") for name in source.columns):
        _name_by_values(found, list(source.columns), sample)


def _name_by_values(found: Guess, names: list[str], sample: Values) -> None:
    """Columns without names: what lies behind x y z, told by the numbers."""
    rest = [name for name in names if name.startswith("column")]
    with np.errstate(invalid="ignore"):
        whole = {name: bool((sample[name] == np.rint(sample[name])).all()) for name in rest}
    spans = {name: (float(np.nanmin(sample[name])), float(np.nanmax(sample[name]))) for name in rest}

    def colors(three: Sequence[str]) -> bool:
        low, high = min(spans[name][0] for name in three), max(spans[name][1] for name in three)
        return len(three) == 3 and low >= 0 and (high <= 1 or (high <= 255 and all(whole[name] for name in three)))

    def few(name: str) -> bool:
        return whole[name] and spans[name][1] <= 255 and len(np.unique(sample[name])) <= 64

    roles: dict[str, str] = {}
    if len(rest) >= 3 and colors(rest[:3]):
        roles |= dict(zip(rest, ("r", "g", "b"), strict=False))
        roles |= {rest[3]: "label"} if len(rest) == 4 and few(rest[3]) else {}
    elif len(rest) >= 4 and colors(rest[1:4]):
        roles |= dict(zip(rest, ("intensity", "r", "g", "b"), strict=False))
        roles |= {rest[4]: "label"} if len(rest) == 5 and few(rest[4]) else {}
    elif rest:
        roles[rest[0]] = "label" if found.suffix.lower() != ".bin" and len(rest) == 1 and few(rest[0]) else "intensity"
        if len(rest) > 1 and few(rest[1]):
            roles[rest[1]] = "ring" if found.suffix.lower() == ".bin" else "label"
    found.names = tuple(roles.get(name, name) for name in names)
    for name, role in roles.items():
        low, high = spans[name]
        found.reasons["color" if role in "rgb" else role] = (
            f"by its place ({name}) and values ({low:g} to {high:g}); check it"
        )
    found.roles |= {role: (role,) for role in ("intensity", "ring", "label") if role in found.names}
    if {"r", "g", "b"} <= set(found.names):
        found.roles["color"] = ("r", "g", "b")


# ---------------------------------------------------------------- what lies beside


def _find_labels(found: Guess, names: Sequence[str]) -> None:
    """Files of labels beside the clouds: with their name, in a folder or with an ending that says so."""
    if "label" in found.roles:
        return
    cloud = found.clouds[0]
    stem = split_suffix(os.path.basename(cloud))[0]  # noqa: PTH119
    near = [
        name
        for name in names
        if name != cloud
        and (Path(name).suffix.lower() in LABEL_SUFFIXES or is_label(name))
        and Path(name).stem.startswith(stem)
        and not any(word in name.lower() for word in INSTANCE_WORDS)
    ]
    patterns = dict.fromkeys(_relation(cloud, name) for name in near)
    there = set(names)
    best: tuple[int, str] = (0, "")
    for pattern in patterns:
        hits = sum(os.path.normpath(beside(pattern, name)) in there for name in found.clouds)
        best = max(best, (hits, pattern), key=lambda pair: pair[0])
    if not best[0]:
        return
    if len(patterns) > 1:
        found.notes.append(f"other files that may be labels: {', '.join(p for p in patterns if p != best[1])}")
    _describe_labels(found, best[1], best[0])
    if found.labels is not None:
        found.class_names = class_names(found.root, os.path.normpath(beside(best[1], cloud)), names)


def _relation(cloud: str, label: str) -> str:
    """The pattern that leads from a cloud to its labels."""
    stem = split_suffix(os.path.basename(cloud))[0]  # noqa: PTH119
    folder, name = os.path.split(label)
    return f"{relation(cloud, folder)}/{{stem}}{name[len(stem) :]}"


def _describe_labels(found: Guess, pattern: str, hits: int) -> None:
    """How the labels are stored: plain numbers tell it by their size."""
    cloud = next(name for name in found.clouds if (found.root / beside(pattern, name)).is_file())
    path = Path(os.path.normpath(found.root / beside(pattern, cloud)))
    suffix = path.suffix.lower()
    labels = Beside(pattern, "<u4", "", 0, hits, f"{path.relative_to(found.root).as_posix()} lies beside {cloud}")
    if suffix == ".labels":
        labels.format = "text"
    elif suffix in (".label", ".bin"):
        rows = inspect(found.root / cloud, Options(names=found.names)).count
        width, rest = divmod(path.stat().st_size, rows or 1)
        kinds = {1: "u1", 2: "<u2", 4: "<u4", 8: "<i8"}
        if rest or width not in kinds:
            found.notes.append(f"{path.name} does not fit {rows:,} points: labels left out")
            return
        labels.dtype = kinds[width]
        labels.bits = 16 if width == 4 else 0
        labels.why += f", with {width} byte{'s' * (width > 1)} a point"
    found.labels = labels


def _find_poses(found: Guess, names: Sequence[str]) -> None:
    folder = os.path.dirname(found.clouds[0])  # noqa: PTH120
    for pattern in ("{folder}/poses.txt", "{folder}/../poses.txt"):
        if os.path.normpath(beside(pattern, found.clouds[0])) in names and folder:
            found.poses = pattern
    found.json_poses = find_json_poses(found.root, found.clouds[0], names)
    found.cameras = find_cameras(found.root, found.clouds[0], names)


# ---------------------------------------------------------------- values


def _measure(found: Guess) -> None:
    """Ranges and ids, from the beginning of some of the files."""
    step = max(1, len(found.clouds) // _FILES)
    rows = zeros = 0
    spacings = []
    for name in found.clouds[::step][:_FILES]:
        try:
            source = inspect(found.root / name, Options(names=found.names))
            lower = {column.lower(): column for column in reversed(source.columns)}
            wanted = [
                *(lower[axis] for axis in "xyz"),
                *(column for role in _MEASURED for column in found.roles.get(role, ())),
            ]
            sample = _values(source, wanted, _LOOKED)
            points = np.stack([sample[lower[axis]] for axis in "xyz"], axis=1).astype(np.float64)
            ids = _ids(found, name, sample)
        except (Ssl3dError, KeyError) as error:
            found.notes.append(f"{name} cannot be read: {error.what if isinstance(error, Ssl3dError) else error}")
            continue
        found.looked += 1
        good = points[np.isfinite(points).all(axis=1)]
        rows, zeros = rows + len(points), zeros + int(np.count_nonzero((good == 0).all(axis=1)))
        if len(good):
            found.low = np.minimum(found.low or np.inf, good.min(axis=0)).tolist()
            spacings.append(float(np.sqrt(np.ptp(good[:, :2], axis=0).prod() / len(good))))
            found.high = np.maximum(found.high or -np.inf, good.max(axis=0)).tolist()
        for role in ("intensity", "color"):
            for column in found.roles.get(role, ()):
                low, high = found.ranges.get(role, (np.inf, -np.inf))
                values = sample[column]
                found.ranges[role] = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
        for raw, count in zip(*np.unique(ids, return_counts=True), strict=True):
            found.ids[int(raw)] = found.ids.get(int(raw), 0) + int(count)
    found.zeros = zeros / rows if rows else 0.0
    found.spacing = float(np.median(spacings)) if spacings else 0.0


def _ids(found: Guess, name: str, sample: Values) -> npt.NDArray[np.int64]:
    """Raw ids of a cloud, as far as it was read."""
    if "label" in found.roles:
        values = sample[found.roles["label"][0]]
    elif found.labels is not None:
        path = Path(os.path.normpath(found.root / beside(found.labels.pattern, name)))
        if not path.is_file():
            return np.zeros(0, np.int64)
        options = Options(names=("label",), dtype=found.labels.dtype)
        if found.labels.format == "text":
            from ssl3d.data.formats.text import TextSource

            source: Source = TextSource(path, options)
        else:
            source = inspect(path, options)
        values = next(iter(_values(source, (), _LOOKED).values()))
    else:
        return np.zeros(0, np.int64)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        found.notes.append(f"labels of {name} are no whole numbers: is it another column?")
        return np.zeros(0, np.int64)
    ids = values.astype(np.int64)
    return ids & 0xFFFF if found.labels is not None and found.labels.bits else ids
