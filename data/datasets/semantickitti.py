"""SemanticKITTI and ScribbleKITTI in their published layout (Behley et al., ICCV 2019; Unal et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import xxhash

from ssl3d.data.datasets.kitti_convert import fields, read_scan
from ssl3d.data.datasets.kitti_root import EXPECTED, KittiRoot, find_root, stated
from ssl3d.data.datasets.kitti_survey import ARCHIVES, PARTIAL, Survey
from ssl3d.data.datasets.root import refuse_version
from ssl3d.data.datasets.source import (
    CheckReport,
    DatasetReader,
    GroupReport,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.spec import DatasetSpec

UNIT_FRAMES = 64
"""Frame numbers in a unit of work; blocks are aligned, so a sequence that grows only adds units at its end."""


class SemanticKitti(DatasetReader):
    """Reads ``<root>/[dataset/]sequences/NN/{velodyne,labels,scribbles,image_2}/FFFFFF.*``, calib.txt and poses.txt.

    A unit holds the frames of one sequence within one block of ``UNIT_FRAMES`` frame numbers; its id is ``SS-FFFFFF``,
    FFFFFF = first frame number of the block (whether or not that frame is there).
    """

    name: ClassVar[str] = "semantickitti"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        """See ``DatasetReader``. ``scribbles`` makes ScribbleKITTI's labels those that train sequences train with."""
        refuse_version(options, self.spec().title)
        place = find_root(root)
        given = stated(place)
        counts = given if given is not None else self.spec().scans_per_sequence
        names = sorted(path.name for path in place.sequences.iterdir() if path.is_dir())
        reports: list[GroupReport] = []
        units: list[SourceUnit] = []
        for name in names:
            subset = self.spec().subset_of(name)
            if subset is None or name not in counts:
                continue
            folder = place.sequences / name
            survey = Survey(folder, subset, counts[name], options.label_set, options.allow_partial)
            report, scans, shared = survey.run()
            reports.append(report)
            units += _units(report, options, scans, shared, folder.relative_to(root).as_posix())
        problems = [*self._missing(place, counts, names, options.allow_partial), *self._unknown(place, counts, names)]
        explained = any(problem.severity == "error" for report in reports for problem in report.problems)
        if not units and not explained:
            where = {"root": place.root, "expected": EXPECTED}
            problems.append(Problem("error", "there are no scans here", where, f"unpack {ARCHIVES['velodyne']}"))
        return Layout(self.name, root, tuple(units), CheckReport(self.name, root, tuple(reports), tuple(problems)))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """See ``DatasetReader``."""
        return read_scan(unit, position, spec, digest)

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
    report: GroupReport,
    options: ReadOptions,
    scans: tuple[SourceScan, ...],
    shared: Mapping[str, SourceFile],
    folder: str,
) -> Iterator[SourceUnit]:
    for block, members in groupby(scans, key=lambda scan: int(scan.details) // UNIT_FRAMES):
        part = tuple(members)
        pictured = report.facts["calib"] == "ok" and any("image" in scan.files for scan in part)
        yield SourceUnit(
            id=f"{report.group}-{block * UNIT_FRAMES:06d}",
            group=report.group,
            subset=report.subset,
            label_set=options.label_set,
            scans=part,
            fields=fields(pose="poses" in shared, cameras=pictured),
            shared=shared,
            details=folder,
        )
