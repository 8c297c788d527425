"""S3DIS in its published layout (Armeni et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import map_labels, mend_points, read_bytes
from ssl3d.data.datasets.root import WrongRoot, find_root, list_folder, stated_counts
from ssl3d.data.datasets.s3dis_survey import (
    ARCHIVES,
    AREA,
    PARTIAL,
    AreaSurvey,
    archive_of,
    class_of,
    read_angles,
    refuse_both,
    shape,
)
from ssl3d.data.datasets.s3dis_text import TextRows, count_rows, read_rows
from ssl3d.data.datasets.source import (
    CheckReport,
    DatasetReader,
    Fields,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.official import list_family
from ssl3d.data.spec import DatasetSpec

F64 = npt.NDArray[np.float64]
_FAR = 1e5
"""Meters from the origin at which no building is."""


class S3dis(DatasetReader):
    """Reads ``<root>/[Stanford3dDataset_v1.2[_Aligned_Version]/]Area_k/<room>/Annotations/<class>_<n>.txt``.

    A unit is one room, its group the area. The points are those of all objects in order of file name (the file of the
    room holds nearly the same ones in another order); an object is an instance, from 1 on. Coordinates are relative to
    the lowest corner of the room. In the plain archive ``pose`` turns the room about its middle by the published angle,
    which makes walls parallel to the axes; the aligned archive is turned already.
    """

    name: ClassVar[str] = "s3dis"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        """See ``DatasetReader``. ``options.version``: ``plain`` or ``aligned``, to be sure of the archive."""
        refuse_both(root)
        base = find_root(root, shape())
        spec = self.spec()
        stated = stated_counts(base)
        counts = spec.scans_per_sequence if stated is None else stated
        published = _published() if stated is None else {}
        listing = list_folder(base)
        names = [name for name in (listing.folders if listing else []) if AREA.fullmatch(name)]
        areas = []
        for name in names:
            if name in counts:
                rooms = published.get(name) if stated is None else None
                subset = spec.subset_of(name) or "train"
                areas.append(AreaSurvey(base / name, subset, rooms, counts[name], spec.classes, options.allow_partial))
        reports = tuple(area.run() for area in areas)
        units = tuple(unit for area in areas for unit in _units(area))
        aligned = {area.area: area.alignment is not None for area in areas}
        _refuse_archive(base, archive_of(aligned), options)
        problems = [*_missing(base, counts, names, options.allow_partial), *_mixed(base, aligned, options)]
        if not units and not any(problem.severity == "error" for report in reports for problem in report.problems):
            problems.append(Problem("error", "there are no rooms here", {"root": root}, PARTIAL))
        return Layout(self.name, root, units, CheckReport(self.name, root, reports, tuple(problems)))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """See ``DatasetReader``."""
        scan = unit.scans[position]
        notes: dict[str, int] = {}
        names = [name for name in scan.files if name != "room"] if scan.labelled else ["room"]
        parts: list[TextRows] = []
        for name in names:
            parts.append(read_rows(scan.files[name], digest))
            _note_mended(notes, scan.files[name].path, parts[-1].mended)
            if not len(parts[-1].points):
                notes[f"object without points ({name})"] = 1
        lengths = [len(part.points) for part in parts]
        if not sum(lengths):
            where = {"scan": scan.scan_id, "folder": Path(scan.files[names[0]].path).parent}
            raise DataError("the room has no points", where=where, hint="unpack the archive again")
        low, high = _corners(parts)
        if max(np.abs(low).max(), np.abs(high).max()) > _FAR:
            raise _far_away(scan, names, parts)
        raw = RawScan(_relative(parts, low), {"color": np.concatenate([part.color for part in parts])})
        raw.origin, raw.notes = low, notes
        if scan.labelled:
            ids = np.repeat([class_of(name, spec.classes) for name in names], lengths)
            raw.label, raw.raw_counts = map_labels(ids, spec, scan.scan_id, scan.files[names[0]].path)
            raw.truths["instance"] = np.repeat(np.arange(1, len(names) + 1, dtype=np.uint32), lengths)
            _compare(notes, scan, len(raw.points), digest)
        if unit.fields.pose:
            file = unit.shared["alignment"]
            angle = read_angles(file, read_bytes(file, digest))[scan.scan_id.partition("/")[2]]
            raw.pose = turned(angle, (low + high) / 2)
        mend_points(raw, zero_is_none=False)
        return raw


def turned(angle: float, middle: F64) -> F64:
    """(4, 4) rotation about the vertical axis through ``middle`` by ``-angle`` degrees.

    The published angle says how far the building's axes are turned from those of the room.
    """
    radians = -np.deg2rad(angle)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle
    return matrix


def _corners(parts: list[TextRows]) -> tuple[F64, F64]:
    """Lowest and highest corner of the finite points; the origin where there is none."""
    lows, highs = [], []
    for part in parts:
        finite = part.points
        if not np.isfinite(finite.sum()):
            finite = finite[np.logical_and.reduce(np.isfinite(finite), axis=1)]
        if len(finite):
            lows.append(finite.min(axis=0))
            highs.append(finite.max(axis=0))
    return (np.min(lows, axis=0), np.max(highs, axis=0)) if lows else (np.zeros(3), np.zeros(3))


def _relative(parts: list[TextRows], origin: F64) -> npt.NDArray[np.float32]:
    """(n, 3) float32 of all parts, without a second copy of the float64 numbers."""
    points, at = np.empty((sum(len(part.points) for part in parts), 3), np.float32), 0
    for part in parts:
        np.subtract(part.points, origin, out=points[at : at + len(part.points)], casting="same_kind")
        at += len(part.points)
    return points


def _far_away(scan: SourceScan, names: list[str], parts: list[TextRows]) -> DataError:
    name, row = next(
        (name, int(rows[0]))
        for name, part in zip(names, parts, strict=True)
        if len(rows := np.flatnonzero((np.isfinite(part.points) & (np.abs(part.points) > _FAR)).any(axis=1)))
    )
    return DataError(
        "a point is further away than any building",
        where={"file": scan.files[name].path, "scan": scan.scan_id, "point": row + 1},
        hint="unpack the file from its archive again",
    )


def _note_mended(notes: dict[str, int], path: str, lines: list[int], use: str = "mended") -> None:
    if lines:
        listed = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
        kind = f"damaged byte{'s' if len(lines) > 1 else ''} {use} in {Path(path).name}, line {listed}"
        notes[kind] = len(lines)


def _compare(notes: dict[str, int], scan: SourceScan, points: int, digest: xxhash.xxh3_128 | None) -> None:
    """The file of the room should have as many points as its objects."""
    if "room" not in scan.files:
        return
    file = scan.files["room"]
    lines, damaged = count_rows(file, digest)
    _note_mended(notes, file.path, damaged, "found (points come from Annotations)")
    if lines != points:
        notes[f"points in {Path(file.path).name}, but {points:,} in Annotations, which are used"] = lines


def _units(area: AreaSurvey) -> Iterator[SourceUnit]:
    for scan in area.scans:
        pose = scan.details is not None
        yield SourceUnit(
            id=scan.scan_id.replace("/", "_"),
            group=area.area,
            subset=area.subset,
            label_set="labels",
            scans=(scan,),
            fields=Fields({"color": ("u1", 3)}, {"instance": ("<u4", 0)} if scan.labelled else {}, pose=pose),
            shared={"alignment": area.alignment} if pose and area.alignment is not None else {},
        )


def _published() -> dict[str, list[str]]:
    """Area -> rooms."""
    rooms: dict[str, list[str]] = {}
    for name in list_family("s3dis", "rooms").ids("all"):
        area, _, room = name.partition("/")
        rooms.setdefault(area, []).append(room)
    return rooms


def _missing(base: Path, counts: Mapping[str, int], names: list[str], allow_partial: bool) -> Iterator[Problem]:
    absent = [name for name in counts if name not in names]
    if absent:
        what = f"areas are missing: {', '.join(absent)}"
        hint = None if allow_partial else PARTIAL
        yield Problem("warning" if allow_partial else "error", what, {"folder": base}, hint)
    unknown = [name for name in names if name not in counts]
    if unknown:
        yield Problem("warning", f"areas left aside that S3DIS has not: {', '.join(unknown)}", {"folder": base})


def _mixed(base: Path, aligned: Mapping[str, bool], options: ReadOptions) -> Iterator[Problem]:
    if archive_of(aligned) is None:
        have, lack = ([name for name, has in aligned.items() if has is kind] for kind in (True, False))
        yield Problem(
            "warning" if options.allow_partial else "error",
            "areas of both archives are mixed: some have an alignment file, others are aligned already",
            {"folder": base, "with alignment": ", ".join(have), "without": ", ".join(lack)},
            f"unpack all areas from {ARCHIVES['plain']}.zip, or all from {ARCHIVES['aligned']}.zip",
        )


def _refuse_archive(base: Path, found: str | None, options: ReadOptions) -> None:
    """Another archive was asked for than is here."""
    if not options.version:
        return
    if options.version not in ARCHIVES:
        raise UsageError(f"S3DIS has no version {options.version!r}", hint=f"after --version: {' or '.join(ARCHIVES)}")
    if found is not None and found != options.version:
        lacks = "has no alignment files" if found == "aligned" else "has alignment files"
        raise WrongRoot(
            f"this looks like the {found} archive, which {lacks}, not like the {options.version} one",
            where={"root": base, "expected": ARCHIVES[options.version], "found": ARCHIVES[found]},
            hint=f"unpack {ARCHIVES[options.version]}.zip",
        )
