"""SemanticKITTI and ScribbleKITTI in their published layout (Behley et al., ICCV 2019; Unal et al., CVPR 2022)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from ssl3d.data.datasets.kitti_convert import convert_unit, read_scan
from ssl3d.data.datasets.kitti_root import EXPECTED, KittiRoot, find_root, read_manifest
from ssl3d.data.datasets.kitti_survey import ARCHIVES, PARTIAL, Survey
from ssl3d.data.datasets.layout import (
    UNIT_FRAMES,
    CheckReport,
    ConvertParams,
    Frame,
    LabelSet,
    Layout,
    LayoutUnit,
    Problem,
    RawScan,
    SequenceFiles,
    SequenceReport,
    UnitInfo,
)
from ssl3d.data.spec import DatasetSpec, load_spec


class SemanticKitti:
    """Reads ``<root>/[dataset/]sequences/NN/{velodyne,labels,scribbles,image_2}/FFFFFF.*``, calib.txt and poses.txt."""

    name: ClassVar[str] = "semantickitti"

    def spec(self, classes: str = "single") -> DatasetSpec:
        return load_spec(self.name, classes)

    def check(self, root: Path | str, label_set: LabelSet = "labels", allow_partial: bool = False) -> CheckReport:
        """What is there and what is missing, by names and sizes; see ``Reader``."""
        return self._survey(root, label_set, allow_partial).report

    def discover(self, root: Path | str, label_set: LabelSet = "labels", allow_partial: bool = False) -> Layout:
        """The units of work.

        Args:
            root: folder with ``sequences/`` or ``dataset/sequences/``.
            label_set: ``scribbles`` makes ScribbleKITTI's labels the training labels of train sequences.
            allow_partial: missing scans and labels are warnings.

        Raises:
            DataError: the first error that ``check`` reports.
        """
        layout = self._survey(root, label_set, allow_partial)
        errors = layout.report.errors
        if errors:
            words = ["ssl3d", "prepare", self.name, "--root", str(root), "--check"]
            words += ["--labels", label_set] if label_set != "labels" else []
            raise errors[0].as_error(len(errors) - 1, shlex.join(words))
        return layout

    def read_scan(self, unit: LayoutUnit, position: int, classes: str = "single") -> RawScan:
        """Scan ``position`` of the unit. Raises DataError for what is wrong inside its files."""
        return read_scan(unit, position, self.spec(classes))

    def convert_unit(self, unit: LayoutUnit, out: Mapping[str, Path], params: ConvertParams) -> UnitInfo:
        """Write the unit's shards; see ``kitti_convert.convert_unit``."""
        return convert_unit(unit, out, params, self.spec(params.classes))

    def _survey(self, root: Path | str, label_set: LabelSet, allow_partial: bool) -> Layout:
        place = find_root(root)
        stated = read_manifest(place)
        counts = stated if stated is not None else self.spec().scans_per_sequence
        names = sorted(path.name for path in place.sequences.iterdir() if path.is_dir())
        reports: list[SequenceReport] = []
        units: list[LayoutUnit] = []
        for name in names:
            subset = self.spec().subset_of(name)
            if subset is None or name not in counts:
                continue
            prefix = (place.sequences / name).relative_to(place.root).as_posix()
            survey = Survey(place.sequences / name, prefix, subset, counts[name], label_set, allow_partial)
            report, frames, shared = survey.run()
            reports.append(report)
            units += _units(name, subset, label_set, frames, shared)
        problems = [*self._missing(place, counts, names, allow_partial), *self._unknown(place, counts, names)]
        explained = any(problem.severity == "error" for report in reports for problem in report.problems)
        if not units and not explained:
            where = {"root": place.root, "expected": EXPECTED}
            problems.append(Problem("error", "there are no scans here", where, f"unpack {ARCHIVES['velodyne']}"))
        check = CheckReport(self.name, place.root, label_set, tuple(reports), tuple(problems))
        return Layout(self.name, place.root, label_set, tuple(units), check)

    def _missing(
        self, place: KittiRoot, counts: Mapping[str, int], names: list[str], allow_partial: bool
    ) -> Iterator[Problem]:
        for subset, sequences in self.spec().splits.items():
            absent = [name for name in sequences if name in counts and name not in names]
            if not absent:
                continue
            what = f"sequences of the {subset} set are missing: {', '.join(absent)}"
            tolerated = allow_partial or subset == "test"  # many users never download the test set
            hint = None if tolerated else PARTIAL
            yield Problem("warning" if tolerated else "error", what, {"folder": place.sequences}, hint)

    def _unknown(self, place: KittiRoot, counts: Mapping[str, int], names: Iterable[str]) -> Iterator[Problem]:
        unknown = [name for name in names if name not in counts and not name.startswith(".")]
        if unknown:
            yield Problem(
                "warning",
                f"folders left aside that are no sequences of {self.spec().title}: {', '.join(unknown[:8])}",
                {"folder": place.sequences},
            )


def _units(
    sequence: str, subset: str, label_set: LabelSet, frames: tuple[Frame, ...], shared: SequenceFiles
) -> Iterator[LayoutUnit]:
    for block, members in groupby(frames, key=lambda frame: frame.number // UNIT_FRAMES):
        unit_id = f"{sequence}-{block * UNIT_FRAMES:06d}"
        yield LayoutUnit(unit_id, sequence, subset, label_set, tuple(members), shared)
