"""``ssl3d bench streets``: what generated streets are made of, beside recordings and SemanticKITTI's published content.

Every figure is measured for each sequence by itself; a subset's figure is the mean over its sequences, each counting
the same (neighboring scans of a drive are near duplicates). Only such means leave this module, never a recording.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.kitti_root import KittiRoot, find_root
from ssl3d.data.datasets.root import MANIFEST, read_manifest
from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.range_image import RangeProjection
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec, SensorSpec, load_spec
from ssl3d.pipeline.progress import Progress

RINGS = (0.0, 10.0, 20.0, 30.0, 50.0, 80.0)
"""Horizontal distances in meters between which densities are taken; farther returns are in no ring."""
VOXELS = (0.05, 0.1, 0.15, 0.3)
RING_VOXEL = 0.3
FAR = 50.0
COLUMNS = 1024
"""Of the range image in which holes are counted."""
FROZEN: Mapping[str, Any] = {
    "generator": "street",
    "generator_version": 1,
    "preset": "bench",
    "seed": 0,
    "sha256": "a899b22723332b9efbb72f314af93a66b8221846924dd965be153b16cfec5532",
}
"""The streets that figures are reported on. Other bytes are another benchmark: a new version, and everything again."""
ROLES = {"train": "train", "dev": "dev", "val": "test"}
"""Subset of the generator -> what it is used for. Its sequences without labels are used for nothing here."""

THINGS = ("car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist")
"""Classes whose objects are numbered."""

Figures = dict[str, float]
_UNITS = {
    "share": "%",
    "returns beyond": "%",
    "points per m2": "points/m2",
    "points": "points",
    "classes": "classes",
    "objects": "objects",
    "pixels": "%",
    "voxels": "voxels",
    "intensity": "",
}


def is_frozen(manifest: Mapping[str, Any]) -> bool:
    """Whether generated streets (their manifest, ``read_streets``) are those that figures are reported on."""
    return all(manifest.get(key) == value for key, value in FROZEN.items())


def read_streets(root: Path) -> dict[str, Any]:
    """The manifest of generated streets, whose scans and labels still have the bytes that it states.

    Raises:
        UsageError: these are no generated streets.
        DataError: the manifest is damaged or of an unfinished generation, or a file is not as it was generated.
    """
    place = find_root(root.expanduser().absolute())
    manifest = _manifest(place)
    if manifest is None:
        raise UsageError(
            "these streets were not generated here",
            where={"root": root, "expected": MANIFEST},
            hint="ssl3d synth street --preset bench --seed 0 --out DIR; recordings go after --real",
        )
    if content_hash(place.sequences, manifest["scans_per_sequence"]) != manifest["sha256"]:
        raise DataError(
            "generated streets are not as they were generated: a scan or label has other bytes",
            where={"root": root, "expected": manifest["sha256"]},
            hint="ssl3d synth street ... --out DIR into an empty folder",
        )
    return manifest


def _manifest(place: KittiRoot) -> dict[str, Any] | None:
    return read_manifest(place.root, place.sequences.parent)


def content_hash(sequences: Path, scans_per_sequence: Mapping[str, int]) -> str:
    """sha256 over scan, label, scan, label...; sequences in the given order, scans by name; hexadecimal."""
    digest = hashlib.sha256()
    for name in scans_per_sequence:
        for scan in sorted((sequences / name / "velodyne").glob("*.bin")):
            digest.update(scan.read_bytes())
            label = sequences / name / "labels" / f"{scan.stem}.label"
            if label.exists():
                digest.update(label.read_bytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- measuring


def lone_holes(filled: npt.NDArray[np.bool_]) -> int:
    """Empty pixels of a range image (height, width) whose neighbors to the left and right are filled, all around."""
    return int(np.count_nonzero(~filled & np.roll(filled, 1, axis=1) & np.roll(filled, -1, axis=1)))


def occupied(points: npt.NDArray[np.float32], size: float) -> int:
    """How many cubes with edges of ``size`` meters, on a grid through the sensor, hold a point of (n, 3)."""
    cells = np.floor(points.astype(np.float64) / size).astype(np.int64)
    cells -= cells.min(axis=0, initial=0)
    sides = cells.max(axis=0, initial=0) + 1
    return len(np.unique((cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2]))


@dataclass
class Tally:
    """Sums over the scans of one sequence.

    Attributes:
        classes: (256,) points of each class, 255 = ignored; labelled scans only.
        bright, bright_squared: (256,) sums of intensity and of its square, likewise.
        in_ring, ring_voxels: (len(RINGS) - 1,) points, and occupied cubes of ``RING_VOXEL``.
        voxels: (len(VOXELS),) occupied cubes.
        objects: (class, number) of every object seen.
        kinds, labelled: classes present, summed over scans with labels, and how many scans those are.
        pixels, holes: filled pixels of the range image, and ``lone_holes``.
    """

    scans: int = 0
    points: int = 0
    far: int = 0
    classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    bright: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    bright_squared: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    in_ring: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(RINGS) - 1, np.int64))
    ring_voxels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(RINGS) - 1, np.int64))
    voxels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(VOXELS), np.int64))
    objects: set[tuple[int, int]] = field(default_factory=set)
    kinds: int = 0
    labelled: int = 0
    pixels: int = 0
    holes: int = 0

    def add(
        self,
        points: npt.NDArray[np.float32],
        intensity: npt.NDArray[np.float32],
        label: npt.NDArray[np.uint8] | None,
        instance: npt.NDArray[np.uint32] | None,
        sensor: SensorSpec,
    ) -> None:
        """One scan.

        Args:
            points: (n, 3) float32 meters, sensor frame.
            intensity: (n,) float32.
            label: (n,) uint8 classes, 255 = ignored; None where the scan has no labels.
            instance: (n,) uint32 number of the object, the same in all scans of the sequence; 0 = none.
            sensor: of the range image.
        """
        self.scans += 1
        self.points += len(points)
        self.far += int(np.count_nonzero(np.linalg.norm(points, axis=1) > FAR))
        ring = np.searchsorted(RINGS, np.hypot(points[:, 0], points[:, 1]), side="right") - 1
        for i in range(len(RINGS) - 1):
            inside = points[ring == i]
            self.in_ring[i] += len(inside)
            self.ring_voxels[i] += occupied(inside, RING_VOXEL)
        filled = RangeProjection.of(points, sensor, width=COLUMNS).filled
        self.pixels += int(np.count_nonzero(filled))
        self.holes += lone_holes(filled)
        self.voxels += [occupied(points, size) for size in VOXELS]
        if label is not None:
            value = intensity.astype(np.float64)
            if instance is not None:
                numbered = instance > 0
                seen = np.stack([label[numbered], instance[numbered]], axis=1).astype(np.int64)
                self.objects |= {(int(index), int(number)) for index, number in np.unique(seen, axis=0)}
            counts = np.bincount(label, minlength=256)
            self.labelled += 1
            self.kinds += int(np.count_nonzero(counts[:IGNORE]))
            self.classes += counts
            self.bright += np.bincount(label, value, minlength=256)
            self.bright_squared += np.bincount(label, value**2, minlength=256)

    def figures(self, spec: DatasetSpec) -> Figures:
        """Name -> figure; see ``unit``. NaN where there is nothing to take it of (a class without points)."""
        found: Figures = {"points per scan": self.points / self.scans}
        found["returns beyond 50 m"] = 100 * _over(self.far, self.points)
        for i, name in enumerate(_ring_names()):
            area = math.pi * (RINGS[i + 1] ** 2 - RINGS[i] ** 2)
            found[f"points per m2, {name}"] = self.in_ring[i] / self.scans / area
            found[f"points per {RING_VOXEL} m voxel, {name}"] = _over(self.in_ring[i], self.ring_voxels[i])
        for size, count in zip(VOXELS, self.voxels, strict=True):
            found[f"voxels of {size} m per scan"] = count / self.scans
        image = self.scans * _sensor(spec).height * COLUMNS
        found["pixels filled"] = 100 * _over(self.pixels, image)
        found["pixels empty alone"] = 100 * _over(self.holes, image)
        found["classes per scan"] = _over(self.kinds, self.labelled)
        for name in THINGS:
            found[f"objects, {name}"] = sum(spec.classes[index] == name for index, _ in self.objects if index != IGNORE)
        total = int(self.classes.sum())
        for index, name in _named_classes(spec):
            found[f"share, {name}"] = 100 * _over(self.classes[index], total)
        for index, name in _named_classes(spec):
            mean = _over(self.bright[index], self.classes[index])
            square = _over(self.bright_squared[index], self.classes[index])
            found[f"intensity, {name}: mean"] = mean
            found[f"intensity, {name}: std"] = math.sqrt(max(0.0, square - mean**2)) if square == square else math.nan
        return found


def unit(name: str) -> str:
    """The unit of a figure of ``Tally.figures``."""
    return next(value for start, value in _UNITS.items() if name.startswith(start))


def mean_figures(sequences: Sequence[Figures]) -> Figures:
    """The mean over sequences, each counting the same (of objects the sum); NaN, for an absent class, is left out."""
    means = {}
    for name in sequences[0]:
        there = [figures[name] for figures in sequences if not math.isnan(figures[name])]
        share = 1 if unit(name) == "objects" else len(there)
        means[name] = sum(there) / share if there else math.nan
    return means


def published_figures(spec: DatasetSpec) -> Figures:
    """What the dataset's authors state of their train sequences: the share of each class of all points, %."""
    ignored = 1.0 - float(spec.content.sum())
    shares = {**dict(enumerate(spec.content.tolist())), IGNORE: ignored}
    return {f"share, {name}": 100 * shares[index] for index, name in _named_classes(spec)}


def _named_classes(spec: DatasetSpec) -> list[tuple[int, str]]:
    return [*enumerate(spec.classes), (IGNORE, "ignored")]


def _ring_names() -> list[str]:
    return [f"{near:.0f}-{far:.0f} m" for near, far in pairwise(RINGS)]


def _sensor(spec: DatasetSpec) -> SensorSpec:
    assert spec.sensor is not None  # streets are a LiDAR's
    return spec.sensor


def _over(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan


# ---------------------------------------------------------------- the whole comparison


def measure(root: Path, *, progress: Progress) -> dict[str, Tally]:
    """Sums over the labelled scans of each sequence of a SemanticKITTI root (complete or not).

    Raises:
        DataError: no scan has labels; or see ``SemanticKitti.discover`` and ``read_scan``.
    """
    reader = SemanticKitti()
    spec = reader.spec()
    layout = reader.discover(root, ReadOptions(allow_partial=True))
    chosen = [(unit, i) for unit, i in layout.scans() if unit.scans[i].labelled]
    if not chosen:
        raise DataError("no scan here has labels", where={"root": root}, hint="unpack the archive of labels as well")
    tallies: dict[str, Tally] = {}
    with progress.task(f"measure {root.name}", len(chosen), "scan") as task:
        for unit, position in chosen:
            scan = reader.read_scan(unit, position, spec)
            tallies.setdefault(unit.group, Tally()).add(
                scan.points, scan.columns["intensity"], scan.label, scan.truths["instance"], _sensor(spec)
            )
            task.advance()
    return tallies


def run(streets: Path, real: Path | None, *, progress: Progress) -> dict[str, Any]:
    """Everything that ``--json`` holds but the machine.

    Args:
        streets: generated streets; written by ``ssl3d synth street``.
        real: recordings in SemanticKITTI's layout, any number of scans; only their means are kept.

    Raises:
        UsageError, DataError: see ``read_streets`` and ``measure``; ``real`` was generated.

    Returns:
        ``streets``: which they are, and whether they are the frozen ones. ``subsets``: train, dev, test -> sequences,
        scans, points, and ``figures``; ``sequences``: the figures of each. ``published``; ``real`` likewise or None.
        ``results``: for every subset and figure a row of ours and theirs (``ratio``: ours / theirs, 1 = alike).
    """
    manifest = read_streets(streets)
    if real is not None and _manifest(find_root(real.expanduser().absolute())) is not None:
        raise UsageError("these are no recordings: they were generated", where={"root": real}, hint="--streets DIR")
    spec = load_spec("semantickitti")
    tallies = measure(streets, progress=progress)
    roles = {ROLES[name]: members for name, members in manifest["subsets"].items() if name in ROLES}
    subsets = {role: _summary({name: tallies[name] for name in members}, spec) for role, members in roles.items()}
    recorded = _summary(measure(real, progress=progress), spec) if real is not None else None
    published = published_figures(spec)
    known = {"SemanticKITTI, content of the train set as published": published}
    if recorded is not None:
        known[f"recorded, mean over {len(recorded['sequences'])} sequences"] = recorded["figures"]
    return {
        "streets": {**{key: manifest[key] for key in FROZEN}, "frozen": is_frozen(manifest)},
        "subsets": subsets,
        "published": published,
        "real": recorded,
        "results": [row for role, summary in subsets.items() for row in _rows(role, summary["figures"], known)],
    }


def _summary(tallies: Mapping[str, Tally], spec: DatasetSpec) -> dict[str, Any]:
    figures = {name: tally.figures(spec) for name, tally in tallies.items()}
    return {
        "scans": sum(tally.scans for tally in tallies.values()),
        "points": sum(tally.points for tally in tallies.values()),
        "figures": _without_nan(mean_figures(list(figures.values()))),
        "sequences": {name: _without_nan(found) for name, found in figures.items()},
    }


def _without_nan(figures: Figures) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}  # JSON has no NaN


def _rows(
    role: str, ours: Mapping[str, float | None], known: Mapping[str, Mapping[str, float | None]]
) -> Iterator[dict[str, Any]]:
    for rival, figures in known.items():
        for name, theirs in figures.items():
            mine = ours[name]
            ratio = mine / theirs if mine is not None and theirs else None
            yield {
                "name": f"{name} ({role})",
                "rival": rival,
                "ours": mine,
                "theirs": theirs,
                "ratio": ratio,
                "unit": unit(name),
            }


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """``run``'s answer to look at: names of columns, and rows of text. Intensities are only in the file."""
    subsets = {role: found["subsets"][role] for role in ROLES.values() if role in found["subsets"]}
    real = found["real"]
    everything = [figures for summary in subsets.values() for figures in summary["sequences"].values()]
    columns = ["figure", *subsets, "sequences", "published"]
    columns += ["recorded", "its sequences"] if real else []
    rows = []
    for name in next(iter(subsets.values()))["figures"]:
        if name.startswith("intensity"):
            continue
        shown = partial(text, whole=unit(name) == "objects")
        cells = [shown(summary["figures"][name]) for summary in subsets.values()]
        cells += [_spread([figures[name] for figures in everything], shown), shown(found["published"].get(name))]
        if real:
            cells += [shown(real["figures"][name]), _spread([one[name] for one in real["sequences"].values()], shown)]
        rows.append([f"{name}, %" if unit(name) == "%" else name, *cells])
    return columns, rows


def describe(found: Mapping[str, Any]) -> str:
    """Which streets they are, and a line for each subset."""
    which = found["streets"]
    name = f"preset {which['preset']}, seed {which['seed']}, generator version {which['generator_version']}"
    state = "frozen" if which["frozen"] else "not the frozen ones: figures are not reported on them"
    lines = [
        f"{role} ({', '.join(part['sequences'])}): {part['scans']} scans, {part['points']:,} points"
        for role, part in found["subsets"].items()
    ]
    if (real := found["real"]) is not None:
        lines.append(f"recorded ({', '.join(real['sequences'])}): {real['scans']} scans, {real['points']:,} points")
    return "\n".join([f"{name} ({state})", f"sha256 {which['sha256']}", *lines])


def text(value: float | None, *, whole: bool = False) -> str:
    """Three digits: ``56789 -> '56,800'``, ``0.01234 -> '0.0123'``, ``3 -> '3.00'`` (``whole``: 3); ``-`` for none."""
    if value is None:
        return "-"
    if not whole and value and abs(value) < 1000:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 4)}f}"
    return f"{round(value, -2 if value >= 10_000 else 0):,.0f}"


def _spread(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    there = [value for value in values if value is not None]
    return f"{shown(min(there))}..{shown(max(there))}" if there else "-"
