"""What a reader of a published dataset finds, and what it promises. Every reader speaks in these types."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.data.spec import DatasetSpec

UNIT_FRAMES = 64
"""Frame numbers in a unit of work; blocks are aligned, so a sequence that grows only adds units at its end."""

LabelSet = Literal["labels", "scribbles"]
Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (``error``) or noteworthy (``warning``) with the user's files."""

    severity: Literal["error", "warning"]
    what: str
    where: Mapping[str, object] = field(default_factory=dict)
    hint: str | None = None

    def as_error(self, others: int = 0, command: str = "") -> DataError:
        """The error to raise. ``others``: how many more there are, listed by ``command``."""
        hint = self.hint
        if others:
            more = f"{others} more problem{'s' if others > 1 else ''}: `{command}` lists them"
            hint = f"{hint} ({more})" if hint else more
        return DataError(self.what, where=self.where, hint=hint)


class Frame(NamedTuple):
    """One scan and its files. Paths are absolute, except ``image``, which is relative to the root ("" = none)."""

    scan_id: str
    number: int
    points: str
    points_stamp: Stamp
    num_points: int
    label: str | None
    label_stamp: Stamp | None
    scribble: str | None
    scribble_stamp: Stamp | None
    image: str


@dataclass(frozen=True, slots=True)
class SequenceFiles:
    """Files that the scans of a sequence share, None where missing. With ``poses`` there is a calib.txt with ``Tr``."""

    calib: str | None = None
    calib_stamp: Stamp | None = None
    poses: str | None = None
    poses_stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class LayoutUnit:
    """A unit of work: the frames of one sequence within one block of ``UNIT_FRAMES`` frame numbers.

    Attributes:
        id: ``SS-FFFFFF``, FFFFFF = first frame number of the block (whether or not that frame is there).
        subset: train, val or test.
        label_set: what the training labels are.
    """

    id: str
    sequence: str
    subset: str
    label_set: LabelSet
    frames: tuple[Frame, ...]
    shared: SequenceFiles

    @property
    def num_points(self) -> int:
        return sum(frame.num_points for frame in self.frames)

    def products(self) -> tuple[str, ...]:
        """Names of the files that ``convert_unit`` writes for it (``<unit>.<name>.h5``)."""
        names = ["points"]
        if any(frame.label for frame in self.frames):
            names.append("labels")
        if any(frame.scribble for frame in self.frames):
            names.append("scribbles")
        return tuple(names)

    def signature(self) -> str:
        """Hash of the names, sizes and modification times of everything that the unit is made from (32 hex digits)."""
        shared = self.shared
        parts: list[object] = [self.id, self.subset, self.label_set, shared.calib_stamp, shared.poses_stamp]
        parts += [(f.scan_id, f.points_stamp, f.label_stamp, f.scribble_stamp, f.image) for f in self.frames]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """What was found of one sequence.

    Attributes:
        frames, expected: scans found, and in the complete dataset (None = the dataset does not have this sequence).
        labels, scribbles, images: how many of the frames have one.
        poses: lines of poses.txt, None without the file.
        calib: ``Tr`` (complete), ``no Tr``, or ``missing``.
    """

    sequence: str
    subset: str
    frames: int
    expected: int | None
    labels: int
    scribbles: int
    images: int
    poses: int | None
    calib: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``prepare --check`` shows. ``problems``: of the root as a whole; see ``all_problems``."""

    dataset: str
    root: Path
    label_set: str
    sequences: tuple[SequenceReport, ...]
    problems: tuple[Problem, ...]

    def all_problems(self) -> tuple[Problem, ...]:
        return self.problems + tuple(p for sequence in self.sequences for p in sequence.problems)

    def grouped(self) -> tuple[Problem, ...]:
        """The problems with equal ones of several sequences as one; their ``sequence`` lists all of them."""
        groups: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.all_problems():
            groups.setdefault((problem.severity, problem.what), []).append(problem)
        merged = []
        for group in groups.values():
            first = group[0]
            if len(group) > 1:
                sequences = ", ".join(str(problem.where.get("sequence", "")) for problem in group)
                first = replace(first, where={**first.where, "sequence": sequences})
            merged.append(first)
        return tuple(merged)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.all_problems() if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.all_problems() if p.severity == "warning")

    @property
    def ok(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True)
class Layout:
    """A dataset folder that may be converted.

    Attributes:
        reader: name of the reader.
        root: the folder the user named; image paths are relative to it.
        units: in order of sequence and frame.
        report: what was found; ``warnings`` are to be shown.
    """

    reader: str
    root: Path
    label_set: LabelSet
    units: tuple[LayoutUnit, ...]
    report: CheckReport

    @property
    def num_scans(self) -> int:
        return sum(len(unit.frames) for unit in self.units)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.report.grouped() if problem.severity == "warning")

    def frames(self) -> Iterator[tuple[LayoutUnit, Frame]]:
        for unit in self.units:
            for frame in unit.frames:
                yield unit, frame


@dataclass(slots=True)
class RawScan:
    """A scan as it is in the dataset, with train ids.

    Attributes:
        points: (n, 3) float32 meters, sensor frame; rows that are not finite are (0, 0, 0).
        intensity: (n,) float32.
        label: (n,) uint8 train ids, 255 = ignored; None where the scan has no labels.
        instance: (n,) uint32, upper half of the label word; None without labels.
        moving: (n,) bool; None without labels.
        scribble: (n,) uint8 like ``label``; None without scribbles.
        pose: (4, 4) float64, sensor to world; None where the sequence has none.
        raw_counts: raw id -> points, of the labels.
        not_finite, all_zero: rows with NaN or infinity, rows at (0, 0, 0); both are labelled 255.
        digest: xxh3-128 of the raw bytes of all its files.
    """

    scan_id: str
    points: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8] | None
    instance: npt.NDArray[np.uint32] | None
    moving: npt.NDArray[np.bool_] | None
    scribble: npt.NDArray[np.uint8] | None
    pose: npt.NDArray[np.float64] | None
    image: str
    raw_counts: dict[int, int]
    not_finite: int
    all_zero: int
    digest: str


@dataclass(frozen=True, slots=True)
class ConvertParams:
    """What changes the shards. ``classes``: class list of the spec. ``compress``: None, ``lzf`` or ``gzip``."""

    classes: str = "single"
    compress: str | None = None
    sync: bool = True


@dataclass(frozen=True, slots=True)
class UnitInfo:
    """What ``convert_unit`` did; plain values, so that it goes into a journal as it is (``dataclasses.asdict``).

    Attributes:
        scan_ids, num_points: per scan.
        labelled: per scan, whether it has labels.
        class_counts: points per class (C) over all labels; ``ignored`` counts the labelled points that are 255.
        scribble_counts: points per class (C) over the scribbles; empty without.
        not_finite, all_zero: rows kept with label 255.
        has_pose: whether the points file has ``pose``.
        digest: xxh3-128 of the raw bytes of all files of the unit, in order.
        warnings: sentences to show.
    """

    unit: str
    sequence: str
    subset: str
    scan_ids: list[str]
    num_points: list[int]
    labelled: list[bool]
    class_counts: list[int]
    ignored: int
    scribble_counts: list[int]
    not_finite: int
    all_zero: int
    has_pose: bool
    digest: str
    warnings: list[str]


class Reader(Protocol):
    """A published layout. Other packages register theirs under ``ssl3d.datasets`` (called without arguments)."""

    name: ClassVar[str]

    def spec(self, classes: str = "single") -> DatasetSpec: ...

    def check(self, root: Path | str, label_set: LabelSet = "labels", allow_partial: bool = False) -> CheckReport:
        """What is there and what is missing. Raises DataError only where nothing of the layout is found."""

    def discover(self, root: Path | str, label_set: LabelSet = "labels", allow_partial: bool = False) -> Layout:
        """The units of work. Raises DataError for the first error of ``check``. Reads names and sizes, no scans."""

    def read_scan(self, unit: LayoutUnit, position: int, classes: str = "single") -> RawScan:
        """Scan ``position`` of the unit."""

    def convert_unit(self, unit: LayoutUnit, out: Mapping[str, Path], params: ConvertParams) -> UnitInfo:
        """Write the unit's ``products()`` to ``out[name]``. A pure function of the files and ``params``."""
