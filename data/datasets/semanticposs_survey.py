"""What is there of one sequence of SemanticPOSS, by names and sizes: problems are found before a scan is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

from ssl3d.data.datasets.kitti_files import list_numbered
from ssl3d.data.datasets.root import folders_in
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

ROWS, COLUMNS = 40, 1800
CELLS = ROWS * COLUMNS
POINT_BYTES, LABEL_BYTES = 16, 4
UNIT_SCANS = 64
PARTIAL = "download and unpack the rest, or add --allow-partial to go on with what is there"
_AGAIN = "the download or the copy was cut: unpack the archive again"
_ABSENT = "only range images need tags: without them scans are stored without ring and column"
_IMAGE = {"ring": ("u1", 0), "column": ("<u2", 0)}

Files = dict[int, SourceFile]


def tag_size_differs(file: SourceFile) -> Problem:
    """A tag file has one byte for each cell of the image."""
    return Problem(
        "error",
        f"a tag file has {file.size} bytes, one of {ROWS} x {COLUMNS} cells has {CELLS}",
        {"file": file.path},
        f"{_AGAIN}; {_ABSENT}",
    )


@dataclass(slots=True)
class SequenceSurvey:
    """One sequence while it is looked at.

    Args:
        folder: ``.../sequences/NN``.
        expected: scans that it should have; None where nobody says.
    """

    folder: Path
    subset: str
    expected: int | None
    options: ReadOptions
    problems: list[Problem] = field(default_factory=list)

    def run(self) -> tuple[GroupReport, list[SourceUnit]]:
        """Look at everything. The units are usable only if the report has no errors."""
        points = self._listed("velodyne", ".bin")
        labels = self._listed("labels", ".label")
        tags = self._listed("tag", ".tag")
        self._points(points)
        self._labels(points, labels)
        self._tags(points, tags)
        for name, files in (("labels", labels), ("tag", tags)):
            if others := sorted(files.keys() - points.keys()):
                what = f"{len(others)} files in {name}/ belong to no scan; files are paired by their number"
                self._add("warning", what, {"file": files[others[0]].path})
        report = GroupReport(
            self.folder.name,
            self.subset,
            len(points),
            self.expected,
            {"labels": len(labels.keys() & points.keys()), "tags": len(tags.keys() & points.keys())},
            tuple(self.problems),
        )
        return report, list(self._units(points, labels, tags))

    def _add(
        self, severity: Literal["error", "warning"], what: str, where: Mapping[str, object], hint: str | None = None
    ) -> None:
        self.problems.append(Problem(severity, what, {"sequence": self.folder.name, **where}, hint))

    def _add_partial(self, what: str, where: Mapping[str, object], hint: str = PARTIAL) -> None:
        """Something is missing: an error unless the user said that it may be."""
        if self.options.allow_partial:
            self._add("warning", what, where)
        else:
            self._add("error", what, where, hint)

    def _listed(self, name: str, suffix: str) -> Files:
        """Number -> file, in order of number."""
        folder = self.folder / name
        found = list_numbered(folder, suffix)
        if found is None:
            return {}
        if found.broken:
            self._add(
                "error",
                f"{len(found.broken)} files in {name}/ cannot be opened: links that lead nowhere, or folders",
                {"file": folder / min(found.broken)},
                "fetch what the links point to (git annex get, a disk that is not mounted), or remove them",
            )
        if found.strays:
            severity: Literal["error", "warning"] = "warning" if found.files else "error"
            what = f"{len(found.strays)} files in {name}/ left aside: not named FFFFFF{suffix} (six digits)"
            self._add(severity, what, {"file": folder / min(found.strays)}, "names as the archive has them are needed")
        return dict(sorted(found.files.items()))

    def _absent(self, name: str) -> str:
        other = other_case(folders_in(self.folder), name)
        return f"rename {self.folder / other} to {name}" if other else PARTIAL

    def _points(self, points: Files) -> None:
        folder = self.folder / "velodyne"
        if not points and not self.problems:
            self._add_partial("a sequence has no scans", {"folder": folder}, self._absent("velodyne"))
        if self.expected is not None and len(points) != self.expected:
            where = {"folder": folder, "expected": self.expected, "found": len(points)}
            self._add_partial("a sequence has another number of scans than it should", where)
        elif gaps := [number for number in range(max(points, default=-1)) if number not in points]:
            what = f"frame numbers have gaps: {len(gaps)} of 000000..{max(points):06d} missing"
            self._add("warning", what, {"folder": folder, "first missing": f"{gaps[0]:06d}"}, "is the copy complete?")
        for file in points.values():
            if file.size % POINT_BYTES:
                what = f"truncated scan: {file.size} bytes are no multiple of {POINT_BYTES}"
                self._add("error", what, {"file": file.path}, _AGAIN)
            elif file.size > CELLS * POINT_BYTES:
                self._add(
                    "error",
                    f"a scan has {file.size // POINT_BYTES} points, the sensor has {CELLS} cells",
                    {"file": file.path},
                    "scans of another dataset; SemanticKITTI's lie in the same folders: ssl3d prepare semantickitti",
                )
            elif not file.size:
                self._add("warning", "a scan without any point (zero bytes), kept", {"file": file.path})

    def _labels(self, points: Files, labels: Files) -> None:
        missing = [number for number in points if number not in labels]
        if missing:
            folder = self.folder / "labels"
            where = {"folder": folder, "first missing": f"{missing[0]:06d}.label"}
            hint = PARTIAL if labels else self._absent("labels")
            self._add_partial(f"{len(missing)} of {len(points)} scans have no labels", where, hint)
        for number, file in labels.items():
            scan = points.get(number)
            if scan and file.size * (POINT_BYTES // LABEL_BYTES) != scan.size and scan.size % POINT_BYTES == 0:
                self._add(
                    "error",
                    f"the labels are not of this scan: {scan.size // POINT_BYTES} points, "
                    f"{file.size / LABEL_BYTES:g} labels",
                    {"file": file.path, "points file": scan.path},
                    "files of two scans, or a download was cut: unpack the archive again",
                )

    def _tags(self, points: Files, tags: Files) -> None:
        missing = [number for number in points if number not in tags]
        where = {"folder": self.folder / "tag"}
        if missing and not tags:
            self._add("warning", f"there are no tags: {_ABSENT}", where, self._absent("tag"))
        elif missing:
            self._add_partial(
                f"{len(missing)} of {len(points)} scans have no tag",
                {**where, "first missing": f"{missing[0]:06d}.tag"},
                f"{_ABSENT}; unpack the rest, or add --allow-partial",
            )
        for number, file in tags.items():
            if number in points and file.size != CELLS:
                problem = tag_size_differs(file)
                self._add("error", problem.what, problem.where, problem.hint)

    def _units(self, points: Files, labels: Files, tags: Files) -> Iterator[SourceUnit]:
        """Blocks of 64 frame numbers."""
        group = self.folder.name
        for block, numbers in groupby(points, key=lambda number: number // UNIT_SCANS):
            members = tuple(numbers)
            columns = {"intensity": ("<f4", 0)} | (_IMAGE if all(number in tags for number in members) else {})
            scans = []
            for number in members:
                roles = {"points": points, "labels": labels, "tag": tags if "ring" in columns else {}}
                files = {role: found[number] for role, found in roles.items() if number in found}
                count = points[number].size // POINT_BYTES
                scans.append(SourceScan(f"{group}/{number:06d}", files, count, number in labels))
            yield SourceUnit(
                id=f"{group}-{block * UNIT_SCANS:06d}",
                group=group,
                subset=self.subset,
                label_set=self.options.label_set,
                scans=tuple(scans),
                fields=Fields(columns, {"instance": ("<u4", 0)}),
            )
