"""SemanticPOSS in its published layout (Pan et al., IV 2020)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import first_three, map_labels, mend_points, note_intensity, read_binary
from ssl3d.data.datasets.root import RootShape, find_root, folders_in, stated_counts
from ssl3d.data.datasets.semanticposs_survey import (
    CELLS,
    COLUMNS,
    PARTIAL,
    SequenceSurvey,
    tag_size_differs,
)
from ssl3d.data.datasets.source import (
    CheckReport,
    DatasetReader,
    GroupReport,
    Layout,
    Problem,
    RawScan,
    ReadOptions,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import DatasetSpec

UNDOCUMENTED = (1, 18, 19, 20)
"""Raw ids that occur although nobody says what they are."""
_EXPECTED = "<root>/sequences/00..05/{velodyne,labels,tag} or <root>/dataset/sequences/00..05/{velodyne,labels,tag}"
_UNDOCUMENTED = f"points with undocumented ids ({', '.join(map(str, UNDOCUMENTED))}), ignored"
_STRANGE = "points with an intensity outside of 0..255: is this another sensor's data in the same layout?"
_VERSION = re.compile(r"(semanticposs[-_])?(val[-_]?)?(?P<held>0[23])")
_DIGIT = re.compile(r"\d")


class SemanticPoss(DatasetReader):
    """Reads ``<root>/[dataset/]sequences/NN/{velodyne,labels,tag}/FFFFFF.*``; scans are paired by number.

    Papers hold out one of two sequences: 02 (CENet, COARSE3D; here unless another is asked for) or 03 (ALSO, NOPS,
    CoSMix: ``--version val03``). Their numbers must not be compared.
    """

    name: ClassVar[str] = "semanticposs"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        held = _held_out(options.version)
        base = find_root(root, _SHAPE)
        stated = stated_counts(root, base)
        known = [name for names in self.spec().splits.values() for name in names]
        wanted = sorted(known if stated is None else [name for name in stated if name in known])
        names = folders_in(base / "sequences")
        groups: list[GroupReport] = []
        units: list[SourceUnit] = []
        for name in (name for name in wanted if name in names):
            subset, expected = "val" if name == held else "train", stated[name] if stated else None
            survey = SequenceSurvey(base / "sequences" / name, subset, expected, options)
            report, made = survey.run()
            groups.append(report)
            units += made
        problems = list(_problems(base / "sequences", names, wanted, options.allow_partial))
        wrong = any(problem.severity == "error" for group in groups for problem in group.problems)
        if not units and not wrong and not any(problem.severity == "error" for problem in problems):
            problems.append(Problem("error", "there are no scans here", {"root": root, "expected": _EXPECTED}, PARTIAL))
        return Layout(self.name, root, tuple(units), CheckReport(self.name, root, tuple(groups), tuple(problems)))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """The scan with ``intensity`` (n,) float32 0..1 (the file's by 255), ``instance`` (n,) uint32, and, of
        its tag, its cell.

        ``ring`` (n,) uint8, 0..39, and ``column`` (n,) uint16, 0..1799, are the row and column of each point in the
        range image of 40 x 1800: no two points of a scan share one, so nothing is lost by that image.

        Raises:
            DataError: a file changed, or is not what it should be.
        """
        source = unit.scans[position]
        rows = read_binary(source.files["points"], "<f4", digest, columns=4)
        scan = RawScan(first_three(rows), {"intensity": rows[:, 3] / np.float32(255)})
        if (file := source.files.get("labels")) is not None:
            words = read_binary(file, "<u4", digest)
            scan.label, scan.raw_counts = map_labels(words.view("<u2")[::2], spec, source.scan_id, file.path)
            scan.truths["instance"] = words >> np.uint32(16)
            if strange := sum(scan.raw_counts.get(raw, 0) for raw in UNDOCUMENTED):
                scan.notes[_UNDOCUMENTED] = strange
        if "ring" in unit.fields.columns:
            cells = _cells(source, len(rows), digest)
            scan.columns["ring"] = (cells // COLUMNS).astype(np.uint8)
            scan.columns["column"] = (cells % COLUMNS).astype(np.uint16)
        mend_points(scan, zero_is_none=False, measured=("intensity",))
        note_intensity(scan, _STRANGE)
        return scan


def _held_out(version: str) -> str:
    """The sequence that is for validation. UsageError for a version that nobody uses."""
    found = _VERSION.fullmatch(version.lower() or "val02")
    if found is None:
        raise UsageError(
            f"SemanticPOSS has no version {version!r}",
            where={"version": version},
            hint="val02 (CENet, COARSE3D; the same as none) or val03 (ALSO, NOPS, CoSMix): the sequence held out",
        )
    return found["held"]


def _cells(scan: SourceScan, points: int, digest: xxhash.xxh3_128 | None) -> npt.NDArray[np.intp]:
    """(n,) number of the cell of each point: the k-th cell that holds one holds point k."""
    file = scan.files["tag"]
    tag = read_binary(file, "u1", digest)
    where = {"file": file.path, "scan": scan.scan_id, "points file": scan.files["points"].path}
    if len(tag) != CELLS:
        raise tag_size_differs(file).as_error()
    if tag.max() > 1:
        what = f"a tag is 0 or 1, found {int(tag.max())}"
        raise DataError(what, where=where, hint="this is no tag file: unpack the archive again")
    cells = np.flatnonzero(tag)
    if len(cells) != points:
        raise DataError(
            f"the tag is not of this scan: {len(cells)} cells hold a point, the scan has {points} points",
            where=where,
            hint="files of two scans, or points were removed: unpack the archive again",
        )
    return cells


def _problems(folder: Path, names: Sequence[str], wanted: Sequence[str], allow_partial: bool) -> Iterator[Problem]:
    """Of the folder of sequences as a whole."""
    short = [name for name in names if _DIGIT.fullmatch(name)]
    if short:
        yield Problem(
            "error",
            f"sequences are named {', '.join(short)}, 00..05 were expected",
            {"folder": folder, "expected": _EXPECTED},
            f"mv {folder / short[0]} {folder / f'0{short[0]}'}, and so on",
        )
    missing = [name for name in wanted if name not in names]
    if missing and not short:
        what, where = f"sequences are missing: {', '.join(missing)}", {"folder": folder}
        yield Problem("warning", what, where) if allow_partial else Problem("error", what, where, PARTIAL)
    unknown = [name for name in names if name not in wanted and name not in short]
    if unknown:
        what = f"folders left aside that are no sequences of SemanticPOSS: {', '.join(unknown[:8])}"
        yield Problem("warning", what, {"folder": folder})


def _refuse(root: Path, names: Sequence[str]) -> None:
    """Sequences without the folder that should hold them."""
    found = [name for name in folders_in(root) if (root / name / "velodyne").is_dir() or (root / name / "tag").is_dir()]
    if found and root.name != "sequences":
        raise DataError(
            f"sequences lie outside of a folder `sequences`: {', '.join(found[:8])}",
            where={"root": root, "expected": _EXPECTED},
            hint=f"make the folder and move them into it: mkdir {root / 'sequences'}",
        )


_SHAPE = RootShape(
    title="SemanticPOSS",
    expected=_EXPECTED,
    is_here=lambda folder: (folder / "sequences").is_dir(),
    inner=("dataset",),
    names=("sequences",),
    refuse=_refuse,
)
