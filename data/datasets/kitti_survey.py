"""What is there of one sequence, judged by names and sizes alone: problems are found before anything is converted."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ssl3d.data.datasets.kitti_files import Numbered, count_poses, list_numbered, read_calib
from ssl3d.data.datasets.source import GroupReport, LabelSet, Problem, SourceFile, SourceScan, other_case
from ssl3d.data.errors import DataError

POINT_BYTES = 16
LABEL_BYTES = 4
PARTIAL = "download and unpack the rest, or add --allow-partial to go on with what is there"
ARCHIVES = {
    "velodyne": "data_odometry_velodyne.zip",
    "labels": "data_odometry_labels.zip",
    "scribbles": "the ScribbleKITTI archive (scribbles.zip)",
    "calib": "data_odometry_calib.zip",
}
_SHOWN = 5
Files = dict[int, SourceFile]


@dataclass(slots=True)
class Survey:
    """One sequence while it is looked at.

    Args:
        folder: ``.../sequences/NN``.
        subset: train, val or test.
        expected: scans in the complete dataset.
        allow_partial: whether missing scans and labels are warnings.
    """

    folder: Path
    subset: str
    expected: int
    label_set: LabelSet
    allow_partial: bool
    problems: list[Problem] = field(default_factory=list)

    @property
    def sequence(self) -> str:
        return self.folder.name

    def run(self) -> tuple[GroupReport, tuple[SourceScan, ...], dict[str, SourceFile]]:
        """Look at everything. The scans, and the files they share, are usable only if the report has no errors."""
        scans = self._listed("velodyne", ".bin")
        if scans is None:
            self._no_scans()
            scans = Numbered()
        points = dict(sorted(scans.files.items()))
        if points:
            self._numbers(points)
        elif scans.strays:
            self._add(
                "error",
                "no file in velodyne/ is named FFFFFF.bin (six digits)",
                {"folder": self.folder / "velodyne", "found": scans.strays[0]},
                "names of ten digits are KITTI's raw layout; SemanticKITTI belongs to the odometry archives",
            )
        self._sizes(points)
        labels = self._labels(points)
        scribbles = self._scribbles(points)
        pictures = list_numbered(self.folder / "image_2", ".png", ".jpg")
        images = pictures.files if pictures else {}
        shared, lines, calib = self._shared(points)
        found = {"points": points, "labels": labels, "scribbles": scribbles, "image": images}
        frames = tuple(self._scan(number, found) for number in points)
        report = GroupReport(
            group=self.sequence,
            subset=self.subset,
            scans=len(points),
            expected=self.expected,
            facts={
                "labels": len(labels.keys() & points.keys()),
                "scribbles": len(scribbles.keys() & points.keys()),
                "images": len(images.keys() & points.keys()),
                "poses": "-" if lines is None else str(lines),
                "calib": calib,
            },
            problems=tuple(self.problems),
        )
        return report, frames, shared

    def _add(
        self, severity: Literal["error", "warning"], what: str, where: dict[str, object], hint: str | None = None
    ) -> None:
        self.problems.append(Problem(severity, what, {"group": self.sequence, **where}, hint))

    def _add_partial(self, what: str, where: dict[str, object], hint: str = PARTIAL) -> None:
        """Something is missing: an error unless the user said that it may be."""
        if self.allow_partial:
            self._add("warning", what, where)
        else:
            self._add("error", what, where, hint)

    def _listed(self, name: str, suffix: str) -> Numbered | None:
        folder = self.folder / name
        found = list_numbered(folder, suffix)
        if found is not None and found.broken:
            self._add(
                "error",
                f"{_count(found.broken, 'file')} in {name}/ cannot be opened: links that lead nowhere, or folders",
                {"file": folder / min(found.broken)},
                "fetch what the links point to (git annex get, a disk that is not mounted), or remove them",
            )
        if found is not None and found.files and found.strays:
            self._add(
                "warning",
                f"{_count(found.strays, 'file')} in {name}/ left aside: not named FFFFFF{suffix}",
                {"file": folder / min(found.strays)},
            )
        return found

    def _absent(self, name: str) -> str:
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if other := other_case(names, name):
            return f"the folder is called {other}, rename it to {name}"
        return f"{ARCHIVES[name]} is not unpacked here"

    def _no_scans(self) -> None:
        what = f"no velodyne folder: {self._absent('velodyne')}"
        if self.subset == "test":  # the label and calib archives leave such folders for users who never test
            self._add("warning", what + " (test sequence, left out)", {"folder": self.folder})
        else:
            self._add_partial(what, {"folder": self.folder})

    def _numbers(self, points: Files) -> None:
        """Gaps, and the count of the complete dataset."""
        folder = self.folder / "velodyne"
        last = max(points)
        gaps = sorted(set(range(last + 1)) - points.keys())
        if gaps:
            self._add_partial(
                f"frame numbers have gaps: {len(gaps)} of 000000..{last:06d} missing",
                {"folder": folder, "missing": _ranges(gaps)},
            )
        if len(points) == self.expected and not gaps:
            return
        first = next((n for n in range(self.expected) if n not in points), None)
        where: dict[str, object] = {"folder": folder, "expected": self.expected, "found": len(points)}
        if last >= self.expected:
            extra = sum(number >= self.expected for number in points)
            self._add_partial(
                f"{extra} more scans than the sequence has",
                {**where, "first one too many": f"{min(n for n in points if n >= self.expected):06d}"},
                "scans of another sequence or dataset are among them; --allow-partial takes them as they are",
            )
        elif first is not None and first > last:
            self._add_partial(
                "scans are missing at the end of the sequence", {**where, "first missing": f"{first:06d}"}
            )
        elif first is not None and last + 1 < self.expected:
            self._add_partial("scans are missing", {**where, "first missing": f"{first:06d}"})

    def _sizes(self, points: Files) -> None:
        cut = [number for number, file in points.items() if file.size % POINT_BYTES]
        if cut:
            size = points[cut[0]].size
            self._add(
                "error",
                f"truncated scan: {size} bytes are no multiple of {POINT_BYTES} ({size % POINT_BYTES} left over)"
                + _also(cut),
                {"file": self.folder / "velodyne" / f"{cut[0]:06d}.bin"},
                f"the download or the copy was cut: unpack {ARCHIVES['velodyne']} again",
            )
        empty = [number for number, file in points.items() if file.size == 0]
        if empty:
            self._add(
                "warning",
                f"{_count(empty, 'scan')} without any point (zero bytes), kept as empty scans",
                {"file": self.folder / "velodyne" / f"{empty[0]:06d}.bin"},
                "a cut download leaves such files",
            )

    def _labels(self, points: Files) -> Files:
        found = self._listed("labels", ".label")
        files = found.files if found else {}
        missing = [number for number in points if number not in files]
        if missing and points and self.subset != "test":
            folder = self.folder / "labels"
            if not files:
                self._add_partial(
                    f"no labels in a {self.subset} sequence: {self._absent('labels')}",
                    {"folder": folder},
                    "unpack it into the same root; --allow-partial takes the scans as unlabeled",
                )
            else:
                self._add_partial(
                    f"{_count(missing, 'scan')} of {len(points)} without a label file",
                    {"folder": folder, "missing": _ranges(missing)},
                )
        self._counts(points, files, "labels")
        return files

    def _scribbles(self, points: Files) -> Files:
        if self.label_set != "scribbles" or self.subset != "train":
            return {}
        found = self._listed("scribbles", ".label")
        files = found.files if found else {}
        missing = [number for number in points if number not in files]
        if points and not files:
            self._add_partial(
                "scribbles were asked for, but there are none",
                {"folder": self.folder / "scribbles"},
                f"unpack {ARCHIVES['scribbles']} into the same root, or prepare without --labels scribbles",
            )
        elif missing:
            self._add_partial(
                f"{_count(missing, 'scan')} of {len(points)} without scribbles",
                {"folder": self.folder / "scribbles", "missing": _ranges(missing)},
            )
        self._counts(points, files, "scribbles")
        return files

    def _counts(self, points: Files, files: Files, folder: str) -> None:
        """A label file belongs to its scan if it has as many entries."""
        wrong = [
            number
            for number, file in points.items()
            if number in files
            and files[number].size * (POINT_BYTES // LABEL_BYTES) != file.size
            and file.size % POINT_BYTES == 0
        ]
        if not wrong:
            return
        number = wrong[0]
        scan, labels = points[number].size // POINT_BYTES, files[number].size / LABEL_BYTES
        self._add(
            "error",
            f"the labels are not of this scan: {scan} points, {labels:g} labels" + _also(wrong),
            {
                "scan": self.folder / "velodyne" / f"{number:06d}.bin",
                folder: self.folder / folder / f"{number:06d}.label",
            },
            "labels of another sequence or dataset were copied here, or a download was cut",
        )

    def _shared(self, points: Files) -> tuple[dict[str, SourceFile], int | None, str]:
        """calib.txt, and poses.txt where it can be used: it needs ``Tr``; without, scans go on without poses."""
        calib_path, poses_path = self.folder / "calib.txt", self.folder / "poses.txt"
        calib_file, poses_file = SourceFile.find(calib_path), SourceFile.find(poses_path)
        calib = self._calib(calib_path) if calib_file else "missing"
        lines = count_poses(poses_path) if poses_file else None
        if not points:
            return {}, lines, calib
        if calib == "missing":
            self._add("warning", "no calib.txt: scans are stored without poses", {"folder": self.folder}, _CALIB_HINT)
        if lines is None:
            self._add("warning", "no poses.txt: scans are stored without poses", {"folder": self.folder})
        elif lines <= max(points) or (lines > self.expected > max(points)):
            self._add(
                "error",
                f"poses.txt has {lines} lines for {self.expected} scans (frames up to {max(points):06d} are here)",
                {"file": poses_path},
                "it belongs to another sequence or was cut: take it from the label archive again, or remove it",
            )
        shared = {"calib": calib_file} if calib_file and calib in ("ok", "no P2") else {}
        return shared | ({"poses": poses_file} if shared and poses_file else {}), lines, calib

    def _calib(self, path: Path) -> str:
        try:
            matrices = read_calib(path)
        except DataError as error:
            self._add("error", error.what, error.where, error.hint)
            return "damaged"
        if "Tr" not in matrices or abs(np.linalg.det(matrices["Tr"])) < 1e-6:
            self._add(
                "warning",
                "calib.txt has no (usable) Tr: scans are stored without poses, and images cannot be used",
                {"file": path},
                _CALIB_HINT,
            )
            return "no Tr"
        if "P2" not in matrices or abs(np.linalg.det(matrices["P2"])) < 1e-6:
            if (self.folder / "image_2").is_dir():
                self._add("warning", "calib.txt has no (usable) P2: images cannot be used", {"file": path}, _CALIB_HINT)
            return "no P2"
        return "ok"

    def _scan(self, number: int, found: dict[str, Files]) -> SourceScan:
        files = {role: files[number] for role, files in found.items() if number in files}
        size = files["points"].size // POINT_BYTES
        return SourceScan(
            f"{self.sequence}/{number:06d}", files, size, "labels" in files, "scribbles" in files, details=number
        )


_CALIB_HINT = f"the calib.txt of the color and gray archives has no Tr: take {ARCHIVES['calib']}"


def _count(items: Collection[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _also(numbers: list[int]) -> str:
    return f", and {len(numbers) - 1} more in this sequence" if len(numbers) > 1 else ""


def _ranges(numbers: Iterable[int]) -> str:
    """The first few runs of a rising list, as ``000003..000007, 000010, ...``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        elif len(runs) == _SHOWN:
            runs.append([number, number])
            break
        else:
            runs.append([number, number])
    texts = [f"{a:06d}" if a == b else f"{a:06d}..{b:06d}" for a, b in runs[:_SHOWN]]
    return ", ".join(texts) + (", ..." if len(runs) > _SHOWN else "")
