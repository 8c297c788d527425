"""nuScenes-lidarseg in its published layout (Caesar et al., CVPR 2020; Fong et al., RA-L 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import xxhash

from ssl3d.data.datasets import nuscenes_scan
from ssl3d.data.datasets.nuscenes_survey import PARTIAL, VERSIONS, VersionSurvey
from ssl3d.data.datasets.nuscenes_tables import LABEL_ARCHIVE, METADATA, check_categories, load_tables
from ssl3d.data.datasets.root import RootShape, WrongRoot, find_root, folders_in, stated_counts
from ssl3d.data.datasets.source import (
    CheckReport,
    DatasetReader,
    GroupReport,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceUnit,
)
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import DatasetSpec

_EXPECTED = "<root>/v1.0-trainval/*.json, <root>/samples/LIDAR_TOP/*.pcd.bin, <root>/lidarseg/v1.0-trainval/*.bin"
_TOGETHER = ["v1.0-test", "v1.0-trainval"]


class NuScenes(DatasetReader):
    """Reads the key frames of ``<root>/{v1.0-*,samples,lidarseg,panoptic}``.

    A scan is ``<scene>/<token of the sample>``, as published lists name samples; a unit is at most 64 of a scene. The
    tables of v1.0-trainval and v1.0-test are taken together; of other versions in one folder ``--version`` chooses.
    """

    name: ClassVar[str] = "nuscenes"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        find_root(root, _SHAPE)
        stated = stated_counts(root)
        groups: list[GroupReport] = []
        units: list[SourceUnit] = []
        problems: list[Problem] = []
        for version in _choose(root, options.version):
            try:
                tables = load_tables(root / version)
                if tables.labels:
                    check_categories(root / version / "category.json", self.spec())
            except DataError as error:
                problems.append(Problem("error", error.what, error.where, error.hint))
                continue
            survey = VersionSurvey(root, tables, options, stated)
            found, made = survey.run()
            groups += found
            units += made
            problems += survey.problems
        if not units and not any(problem.severity == "error" for problem in problems):
            problems.append(Problem("error", "there are no scans here", {"root": root, "expected": _EXPECTED}, PARTIAL))
        units.sort(key=lambda unit: unit.id)
        return Layout(self.name, root, tuple(units), CheckReport(self.name, root, tuple(groups), tuple(problems)))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """See ``nuscenes_scan.read``."""
        return nuscenes_scan.read(unit.scans[position], spec, digest)


def _versions(folder: Path) -> list[str]:
    """The folders of tables in a root (folders of labels have the same names)."""
    return [name for name in sorted(VERSIONS) if any((folder / name).glob("*.json"))]


def _choose(root: Path, wanted: str) -> list[str]:
    """The versions to read.

    Raises:
        UsageError: the wanted one is not there, or several are and none was wanted.
    """
    found = _versions(root)
    if wanted:
        name = wanted if wanted.startswith("v") else f"v1.0-{wanted}"
        if name not in found:
            raise UsageError(
                f"there is no version {wanted!r} in this folder",
                where={"root": root},
                hint=f"there is: {', '.join(found)}",
            )
        return [name]
    if len(found) > 1 and found != _TOGETHER:
        choices = " or ".join(f"--version {name}" for name in reversed(found))
        raise UsageError(
            f"several versions are in this folder: {', '.join(found)}",
            where={"root": root},
            hint=f"choose: {choices} (the scenes of v1.0-mini are part of v1.0-trainval)",
        )
    return found


def _refuse(root: Path, names: Sequence[str]) -> None:
    """Mistakes that are particular to nuScenes, in a folder without tables."""
    where = {"root": root, "expected": _EXPECTED}
    if _versions(root.parent):  # too deep, which find_root says
        return
    if other := next((name for name in names if name not in VERSIONS and name.lower() in VERSIONS), None):
        raise WrongRoot(
            f"there are no tables named {other.lower()}", where=where, hint=f"rename {other} to {other.lower()}"
        )
    folders = [name for name in folders_in(root) if name.startswith("v1.0-")]
    if folders:
        what = "holds no tables" if folders[0] in VERSIONS else f"is no version: there are {', '.join(VERSIONS)}"
        raise DataError(f"{folders[0]} {what}", where=where, hint=METADATA)
    if "samples" in names:
        raise DataError("there are scans, but no tables", where={**where, "missing": "v1.0-*"}, hint=METADATA)
    if "lidarseg" in names:
        hint = f"{METADATA}, into the root of {LABEL_ARCHIVE}; the scans too"
        raise DataError("there are labels, but neither tables nor scans", where=where, hint=hint)


_SHAPE = RootShape(
    title="nuScenes",
    expected=_EXPECTED,
    is_here=lambda folder: bool(_versions(folder)),
    names=(*VERSIONS, "samples", "lidarseg"),
    refuse=_refuse,
)
