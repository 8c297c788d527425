"""What is there of one version of nuScenes, judged by its tables, names and sizes: before anything is converted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ssl3d.data.datasets.nuscenes_scan import Details, Seen, counts_differ
from ssl3d.data.datasets.nuscenes_tables import CAMERAS, LABEL_ARCHIVE, LIDAR, METADATA, Recording, Scene, Tables
from ssl3d.data.datasets.root import Listing, folders_in, list_folder
from ssl3d.data.datasets.source import (
    Fields,
    GroupReport,
    Problem,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
    other_case,
)
from ssl3d.data.official import list_family

POINT_BYTES = 20
UNIT_SCANS = 64
VERSIONS: Mapping[str, Mapping[str, str]] = {
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-test": {"test": "test"},
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
}
"""Version -> subset -> published list of its scenes."""
PARTIAL = "download and unpack the rest, or add --allow-partial to go on with what is there"
BLOBS = "a scan may lie in any of the archives v1.0-trainval01_blobs.tgz .. v1.0-trainval10_blobs.tgz: all are needed"
_COLUMNS = {"intensity": ("<f4", 0), "ring": ("u1", 0)}
_SUFFIX = "_lidarseg.bin"


def scenes_of(version: str) -> dict[str, str]:
    """Scene -> subset, of a version."""
    family = list_family("nuscenes", "scenes")
    return {scene: subset for subset, which in VERSIONS[version].items() for scene in family.ids(which)}


@dataclass(slots=True)
class _Met:
    """Key frames of one kind of problem: how many, and the first."""

    count: int = 0
    first: Any = None

    def add(self, item: Any) -> None:
        self.count += 1
        self.first = item if self.count == 1 else self.first


@dataclass(slots=True)
class VersionSurvey:
    """One version while it is looked at.

    Args:
        root: folder of ``samples/``, ``lidarseg/`` and of the tables.
        stated: scene -> scans, of generated data; None for the recorded dataset.
    """

    root: Path
    tables: Tables
    options: ReadOptions
    stated: Mapping[str, int] | None
    problems: list[Problem] = field(default_factory=list)
    _folders: dict[str, Listing | None] = field(default_factory=dict)
    _images: dict[str, frozenset[str]] = field(default_factory=dict)
    _met: dict[str, _Met] = field(default_factory=dict)

    def run(self) -> tuple[list[GroupReport], list[SourceUnit]]:
        """Look at everything. The units are usable only if there are no errors."""
        subsets = self._subsets()
        self._label_table()
        groups: list[GroupReport] = []
        units: list[SourceUnit] = []
        for scene in self.tables.scenes:
            if scene.name in subsets:
                found = list(self._scene(scene, subsets[scene.name]))
                groups.append(self._report(scene, subsets[scene.name], [scan for _, scan in found]))
                units += _units(scene.name, subsets[scene.name], found, self.options)
        self._files()
        self._labels()
        return groups, units

    def _add(self, severity: Literal["error", "warning"], what: str, where: Mapping[str, object], hint: str) -> None:
        self.problems.append(Problem(severity, what, {"version": self.tables.version, **where}, hint))

    def _add_partial(self, what: str, where: Mapping[str, object], hint: str = PARTIAL) -> None:
        """Something is missing: an error unless the user said that it may be."""
        self._add("warning" if self.options.allow_partial else "error", what, where, hint)

    def _meet(self, kind: str, item: Any) -> None:
        self._met.setdefault(kind, _Met()).add(item)

    def _subsets(self) -> dict[str, str]:
        """The scenes to take, and whether they are those of the version."""
        known, version = scenes_of(self.tables.version), self.tables.version
        names = [scene.name for scene in self.tables.scenes]
        wanted = list(known) if self.stated is None else [name for name in self.stated if name in known]
        table = self.root / version / "scene.json"
        missing = [name for name in wanted if name not in names]
        if missing:
            self._add_partial(
                f"{len(missing)} of the {len(wanted)} scenes of {version} are not in its tables",
                {"file": table, "field": "name", "first missing": missing[0], "found": _few(names)},
                f"tables of another version lie in this folder: {METADATA}",
            )
        strange = [name for name in names if name not in known]
        if strange:
            what = f"{len(strange)} scenes left aside that {version} does not have"
            self._add("warning", what, {"file": table, "field": "name", "found": _few(strange)}, "")
        return {name: known[name] for name in names if name in known}

    def _label_table(self) -> None:
        tables = self.tables
        if tables.labels is None and tables.version != "v1.0-test":
            self._add_partial(
                "there is no table of labels",
                {"file": self.root / tables.version / "lidarseg.json"},
                f"unpack {LABEL_ARCHIVE} into the root: its tables go to {tables.version}/, its labels to lidarseg/",
            )
        if tables.unlabelable:
            self._add(
                "error",
                f"{len(tables.unlabelable)} label files belong to sweeps: only key frames of the lidar are labelled",
                {
                    "file": self.root / tables.version / "lidarseg.json",
                    "field": "sample_data_token",
                    "first": tables.unlabelable[0],
                },
                f"this is not the table of {LABEL_ARCHIVE}: unpack it again",
            )

    def _scene(self, scene: Scene, subset: str) -> Iterator[tuple[int, SourceScan]]:
        """The scans of a scene that are there, each with its place in the scene."""
        tokens = self._walk(scene)
        for place, token in enumerate(tokens):
            frame = self.tables.frames.get(token, {})
            if LIDAR not in frame:
                self._meet("no recording", token)
                continue
            points = self._find(frame[LIDAR].file)
            if points is None:
                self._meet("no points", self.root / frame[LIDAR].file)
                continue
            yield place, self._scan(f"{scene.name}/{token}", subset, points, frame)

    def _walk(self, scene: Scene) -> list[str]:
        """Tokens of the samples, in order of time."""
        tokens: list[str] = []
        token = scene.first
        while token and len(tokens) <= scene.stated:
            tokens.append(token)
            if token == scene.last or token not in self.tables.following:
                break
            token = self.tables.following[token]
        if len(tokens) != scene.stated or tokens[-1:] != [scene.last]:
            self._add(
                "error",
                f"the samples of a scene are not those that its table states: {len(tokens)} found, "
                f"{scene.stated} stated",
                {"file": self.root / self.tables.version / "sample.json", "scene": scene.name, "field": "next"},
                METADATA,
            )
        return [token for token in tokens if token in self.tables.following]

    def _scan(self, scan_id: str, subset: str, points: SourceFile, frame: Mapping[str, Recording]) -> SourceScan:
        lidar, tables = frame[LIDAR], self.tables
        if points.size % POINT_BYTES:
            self._meet("truncated", points)
        elif not points.size:
            self._meet("empty", points)
        files = {"points": points}
        if tables.labels is not None and subset != "test":
            self._add_labels(files, scan_id, tables.labels.get(lidar.token))
        if tables.panoptic and lidar.token in tables.panoptic:
            panoptic = self._find(tables.panoptic[lidar.token])
            self._meet("no panoptic" if panoptic is None else "panoptic", scan_id)
            files |= {"panoptic": panoptic} if panoptic else {}
        calibration = tables.calibrations[lidar.calibration]
        details = Details(calibration.mount, tables.ego[lidar.ego], tuple(self._cameras(frame)))
        return SourceScan(
            scan_id, files, points.size // POINT_BYTES, "labels" in files, details=details, alias=lidar.token
        )

    def _add_labels(self, files: dict[str, SourceFile], scan_id: str, name: str | None) -> None:
        if name is None:
            self._meet("no record", scan_id)
            return
        labels, points = self._find(name), files["points"]
        if labels is None:
            self._meet("no labels", self.root / name)
            return
        self._meet("labels", scan_id)
        files["labels"] = labels
        if labels.size * POINT_BYTES != points.size and points.size % POINT_BYTES == 0:
            self._meet("other count", (scan_id, labels, points))

    def _cameras(self, frame: Mapping[str, Recording]) -> Iterator[Seen]:
        """The views whose images are there."""
        for name in CAMERAS:
            recording = frame.get(name)
            if recording is None:
                continue
            file = PurePosixPath(recording.file)
            if file.name not in self._image_names(str(file.parent)):
                self._meet("no image", self.root / file)
                continue
            self._meet("image", file)
            calibration = self.tables.calibrations[recording.calibration]
            ego = self.tables.ego[recording.ego]
            yield Seen(name, recording.file, recording.size, calibration.intrinsic, calibration.mount, ego)

    def _image_names(self, folder: str) -> frozenset[str]:
        if folder not in self._images:
            try:
                self._images[folder] = frozenset(os.listdir(self.root / folder))  # noqa: PTH208
            except OSError:
                self._images[folder] = frozenset()
        return self._images[folder]

    def _find(self, name: str) -> SourceFile | None:
        """A file by its name in the tables, relative to the root."""
        folder, _, base = name.rpartition("/")
        listing = self._listing(folder)
        return listing.files.get(base) if listing else None

    def _listing(self, folder: str) -> Listing | None:
        if folder not in self._folders:
            self._folders[folder] = list_folder(self.root / folder)
            listing = self._folders[folder]
            if listing and listing.broken:
                self._add(
                    "error",
                    f"{len(listing.broken)} files in {folder} cannot be opened: links that lead nowhere",
                    {"file": self.root / folder / listing.broken[0]},
                    "fetch what the links point to (git annex get, a disk that is not mounted), or remove them",
                )
        return self._folders[folder]

    def _report(self, scene: Scene, subset: str, scans: Sequence[SourceScan]) -> GroupReport:
        facts = {
            "labels": sum(scan.labelled for scan in scans),
            "instances": sum("panoptic" in scan.files for scan in scans),
            "images": sum(len(scan.details.cameras) == len(CAMERAS) for scan in scans),
        }
        expected = scene.stated if self.stated is None else self.stated.get(scene.name)
        return GroupReport(scene.name, subset, len(scans), expected, facts)

    def _files(self) -> None:
        """Problems of the scans, one sentence for all of a kind."""
        met = self._met
        if found := met.get("no recording"):
            self._add_partial(
                f"{found.count} samples have no key frame of {LIDAR} in the tables",
                {"file": self.root / self.tables.version / "sample_data.json", "first": found.first},
                METADATA,
            )
        if found := met.get("no points"):
            self._add_partial(
                f"{found.count} scans are missing that the tables name",
                {"first missing": found.first},
                self._renamed(found.first) or f"{BLOBS}; {PARTIAL}",
            )
        if found := met.get("truncated"):
            size = found.first.size
            self._add(
                "error",
                f"truncated scan: {size} bytes are no multiple of {POINT_BYTES}" + _more(found),
                {"file": found.first.path},
                "the download or the copy was cut: unpack its blob archive again",
            )
        if found := met.get("empty"):
            what = f"{found.count} scans without any point (zero bytes), kept as empty scans"
            self._add("warning", what, {"file": found.first.path}, "a cut download leaves such files")
        if "image" in met and (found := met.get("no image")):
            what = f"{found.count} of {found.count + met['image'].count} images are missing, these views are left out"
            self._add("warning", what, {"first missing": found.first}, "unpack the rest of the blob archives")

    def _renamed(self, missing: Path) -> str:
        """What to do where a folder on the way to a file has a name in other case."""
        for parent in missing.relative_to(self.root).parents:
            above = self.root / parent.parent
            if parent.name and (other := other_case(folders_in(above), parent.name)):
                return f"rename {above / other} to {parent.name}"
        return ""

    def _labels(self) -> None:
        met, version = self._met, self.tables.version
        folder = self.root / "lidarseg" / version
        if found := met.get("no record"):
            self._add_partial(
                f"{found.count} key frames have no record of labels",
                {"file": self.root / version / "lidarseg.json", "first": found.first},
                f"this is not the table of {LABEL_ARCHIVE}: unpack it again, or add --allow-partial",
            )
        if found := met.get("other count"):
            scan_id, labels, points = found.first
            error = counts_differ(scan_id, labels, points.size // POINT_BYTES, labels.size)
            self._add("error", error.what + _more(found), {**error.where, "points": points.path}, error.hint or "")
        records = len(self.tables.labels or ())
        listing = self._listing(f"lidarseg/{version}") if records else None
        files = [name for name in (listing.files if listing else ()) if name.endswith(_SUFFIX)]
        if records and len(files) != records:
            missing = met.get("no labels")
            nested = None if listing else self._nested(version)
            what = f"{len(files)} label files, but {records} records in lidarseg.json"
            where: dict[str, object] = {"folder": folder}
            where |= {"first missing": missing.first} if missing else {}
            hint = self._renamed(folder / "file") or f"unpack {LABEL_ARCHIVE} into the root; {PARTIAL}"
            if nested:
                what, where = "the label files lie too deep", {"found": nested, "expected": folder}
                hint = f"mv {nested} {folder}"
            self._add_partial(what, where, hint)
        elif found := met.get("no labels"):
            what = f"{found.count} label files are missing that lidarseg.json names"
            self._add_partial(what, {"first missing": found.first})
        if (found := met.get("no panoptic")) and not met.get("panoptic"):
            what = "there is a table of instances, but no file of it: scans are stored without instances"
            self._add("warning", what, {"folder": self.root / "panoptic" / version}, "unpack the panoptic archive")
        elif found:
            what = f"{found.count} panoptic files are missing: some scans are stored without instances"
            self._add("warning", what, {"first": found.first}, "unpack the panoptic archive again")

    def _nested(self, version: str) -> Path | None:
        """Where an archive that was unpacked one level too deep left the labels."""
        tried = [self.root / "lidarseg" / "lidarseg" / version, self.root / "lidarseg" / version / version]
        tried += [self.root / name / "lidarseg" / version for name in folders_in(self.root)]
        return next((folder for folder in tried if folder.is_dir()), None)


def _units(
    scene: str, subset: str, scans: Sequence[tuple[int, SourceScan]], options: ReadOptions
) -> Iterator[SourceUnit]:
    key: Callable[[tuple[int, SourceScan]], int] = lambda item: item[0] // UNIT_SCANS  # noqa: E731
    for block, items in groupby(scans, key=key):
        members = tuple(scan for _, scan in items)
        labelled = [scan for scan in members if scan.labelled]
        has_instances = bool(labelled) and all("panoptic" in scan.files for scan in labelled)
        fields = Fields(
            columns=_COLUMNS,
            truths={"instance": ("<u4", 0)} if has_instances else {},
            pose=True,
            cameras=any(scan.details.cameras for scan in members),
        )
        yield SourceUnit(f"{scene}-{block * UNIT_SCANS:03d}", scene, subset, options.label_set, members, fields)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"


def _more(found: _Met) -> str:
    return f", and {found.count - 1} more" if found.count > 1 else ""
