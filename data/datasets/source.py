"""What readers of datasets speak in: the files that were found, the scans in them, and what a reader promises.

A reader finds the units of work of a published layout by names and sizes alone (``survey``), and reads one scan at a
time (``read_scan``). Writing shards is the same for all of them (``convert``).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import DatasetSpec, load_spec

LabelSet = Literal["labels", "scribbles"]
Severity = Literal["error", "warning"]
Stamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""
Array = npt.NDArray[Any]


class SourceFile(NamedTuple):
    """A file of the user's: absolute path, and what it looked like when it was found."""

    path: str
    stamp: Stamp

    @property
    def size(self) -> int:
        return self.stamp[0]

    @classmethod
    def find(cls, path: Path | str) -> SourceFile | None:
        """None where there is no such regular file. Links are followed."""
        try:
            status = os.stat(path)  # noqa: PTH116  a third of the time of Path.stat
        except OSError:
            return None
        return cls(str(path), (status.st_size, status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (``error``) or noteworthy (``warning``) with the user's files."""

    severity: Severity
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


class SourceScan(NamedTuple):
    """A scan and the files it is made from.

    Attributes:
        scan_id: unique in the dataset, ``<group>/<name>``.
        files: role (``points``, ``labels``, ...) -> file; what ``read_scan`` needs.
        num_points: None where only reading tells (text); such a scan is alone in its unit.
        labelled, scribbled: whether it has (all) labels, and scribbles.
        details: whatever else its reader needs: plain values, so that it can be sent to workers and hashed by ``repr``.
        alias: what the dataset's own tools call its labels and predictions, where that is not in ``scan_id``.
    """

    scan_id: str
    files: Mapping[str, SourceFile]
    num_points: int | None
    labelled: bool = False
    scribbled: bool = False
    details: Any = None
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Fields:
    """What the scans of a unit have beside ``points``; all of them have the same.

    Attributes:
        columns: per-point array -> (dtype, width; 0: one number a point), e.g. ``color`` -> ("u1", 3). Standard names:
            ``intensity`` f4, ``color`` u1 x 3, ``normal`` f4 x 3, ``ring`` u1, ``segment`` i4 (of the dataset's own
            oversegmentation, -1: none), ``source_row`` u4 (row in the file, where a cloud is cut into scans).
        truths: per-point arrays of labelled scans, which training never opens: ``instance`` u4, ``moving`` bool.
        pose: scans have poses. edges: of a mesh. cameras: images.
    """

    columns: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    truths: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    pose: bool = False
    edges: bool = False
    cameras: bool = False


@dataclass(frozen=True, slots=True)
class SourceUnit:
    """A unit of work: scans of one group, at most about 256 MB, or one room or scene.

    Attributes:
        id: a file name, unique in the dataset; the same whatever else is in the folder.
        group: the sequence, scene, room or area that its scans belong to; what splits hold out.
        subset: train, val or test.
        label_set: what the training labels are.
        shared: role -> file that all its scans need.
        details: as in ``SourceScan``.
    """

    id: str
    group: str
    subset: str
    label_set: LabelSet
    scans: tuple[SourceScan, ...]
    fields: Fields
    shared: Mapping[str, SourceFile] = field(default_factory=dict)
    details: Any = None

    @property
    def num_points(self) -> int | None:
        """None where a scan of it has to be read to know."""
        counts = [scan.num_points for scan in self.scans]
        return None if None in counts else sum(count for count in counts if count is not None)

    def products(self) -> tuple[str, ...]:
        """Names of the files that are written for it (``<unit>.<name>.h5``)."""
        names = ["points"]
        names += ["labels"] if any(scan.labelled for scan in self.scans) else []
        names += ["scribbles"] if any(scan.scribbled for scan in self.scans) else []
        names += ["edges"] if self.fields.edges else []
        return (*names, *(["cameras"] if self.fields.cameras else []))

    def files(self) -> Iterator[SourceFile]:
        """Everything that it is made from."""
        yield from self.shared.values()
        for scan in self.scans:
            yield from scan.files.values()

    def signature(self) -> str:
        """Hash of the names, sizes and modification times of all files, and of everything else it says (32 hex)."""
        scans = [(*scan._replace(files={}), _stamps(scan.files)) for scan in self.scans]
        fields = (sorted(self.fields.columns.items()), sorted(self.fields.truths.items()))
        parts = (self.id, self.subset, self.label_set, _stamps(self.shared), self.details, fields, scans)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _stamps(files: Mapping[str, SourceFile]) -> list[tuple[str, str, Stamp]]:
    return [(role, os.path.basename(file.path), file.stamp) for role, file in sorted(files.items())]  # noqa: PTH119


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What was found of one group (sequence, scene, area).

    Attributes:
        scans, expected: scans found, and in the complete dataset (None = not known).
        facts: further columns of the table, the same for all groups of a dataset: texts, or how many scans have it.
    """

    group: str
    subset: str
    scans: int
    expected: int | None
    facts: Mapping[str, str | int]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What ``prepare --check`` shows. ``problems``: of the root as a whole; see ``all_problems``."""

    dataset: str
    root: Path
    groups: tuple[GroupReport, ...]
    problems: tuple[Problem, ...] = ()

    def all_problems(self) -> tuple[Problem, ...]:
        return self.problems + tuple(problem for group in self.groups for problem in group.problems)

    def grouped(self) -> tuple[Problem, ...]:
        """The problems with equal ones of several groups as one; their ``group`` lists all of them."""
        same: dict[tuple[str, str], list[tuple[str, Problem]]] = {}
        for name, problem in [("", p) for p in self.problems] + [(g.group, p) for g in self.groups for p in g.problems]:
            same.setdefault((problem.severity, problem.what), []).append((name, problem))
        merged = []
        for found in same.values():
            names, first = [name for name, _ in found if name], found[0][1]
            merged.append(replace(first, where={**first.where, "group": ", ".join(names)}) if len(names) > 1 else first)
        return tuple(merged)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.all_problems() if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.all_problems() if problem.severity == "warning")

    @property
    def ok(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True)
class Layout:
    """A dataset folder that may be converted.

    Attributes:
        reader: name of the reader.
        root: the folder the user named, absolute; image paths are relative to it.
        units: in order of id.
        report: what was found.
        config: what the reader was made with, see ``DatasetReader``.
    """

    reader: str
    root: Path
    units: tuple[SourceUnit, ...]
    report: CheckReport
    config: str = ""

    @property
    def num_scans(self) -> int:
        return sum(len(unit.scans) for unit in self.units)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.report.grouped() if problem.severity == "warning")

    def scans(self) -> Iterator[tuple[SourceUnit, int]]:
        """Every scan as (unit, position), as ``read_scan`` takes it."""
        for unit in self.units:
            yield from ((unit, position) for position in range(len(unit.scans)))


@dataclass(frozen=True, slots=True)
class Camera:
    """An image of a scan.

    Attributes:
        name: which camera, e.g. ``CAM_FRONT``; the frame number of a hand-held one.
        image, depth: paths relative to the root; "" = none.
        size: width and height in pixels.
        intrinsic: (3, 3) float64.
        extrinsic: (4, 4) float64, from the frame of the scan's points (origin included) to the camera's (z forward).
        depth_intrinsic: (3, 3) float64 of the depth image, in its own size; None: those of ``intrinsic``, scaled.
    """

    name: str
    image: str
    size: tuple[int, int]
    intrinsic: npt.NDArray[np.float64]
    extrinsic: npt.NDArray[np.float64]
    depth: str = ""
    depth_intrinsic: npt.NDArray[np.float64] | None = None


@dataclass(slots=True)
class RawScan:
    """A scan as it is in the dataset, with train ids.

    Attributes:
        points: (n, 3) float32 meters, relative to ``origin``; rows that are not finite are (0, 0, 0).
        columns, truths: the arrays of ``Fields``, (n,) or (n, width).
        label, scribble: (n,) uint8 train ids, 255 = ignored; None without.
        origin: (3,) float64 meters.
        pose: (4, 4) float64, frame of the scan to world; None without.
        edges: (e, 2) int32 rows of points that a mesh connects, each pair once, a < b; None without.
        raw_counts: raw id -> points, of the labels.
        not_finite, all_zero: rows with NaN or infinity, rows at (0, 0, 0) that are no measurement; both labelled 255.
        notes: kinds of defects that were met and mended, each with how many: sentences are made of them per unit.
    """

    points: npt.NDArray[np.float32]
    columns: dict[str, Array] = field(default_factory=dict)
    label: npt.NDArray[np.uint8] | None = None
    truths: dict[str, Array] = field(default_factory=dict)
    scribble: npt.NDArray[np.uint8] | None = None
    origin: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    pose: npt.NDArray[np.float64] | None = None
    edges: npt.NDArray[np.int32] | None = None
    cameras: Sequence[Camera] = ()
    raw_counts: dict[int, int] = field(default_factory=dict)
    not_finite: int = 0
    all_zero: int = 0
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user may say about a dataset.

    Attributes:
        label_set: ``scribbles`` makes ScribbleKITTI's labels the training labels.
        allow_partial: missing scans and labels are warnings.
        version: which of several versions in one folder (nuScenes: ``v1.0-mini``); "": the only one there.
    """

    label_set: LabelSet = "labels"
    allow_partial: bool = False
    version: str = ""


class DatasetReader(ABC):
    """A published layout. Other packages register theirs under ``ssl3d.datasets`` (called without arguments).

    A new one is this class with ``name``, ``survey`` and ``read_scan`` in ``<name>.py``, and ``<name>.toml`` beside it.
    A reader of folders that users describe is called with their description, a text that says everything its results
    depend on; its layouts carry it as ``config``, and workers and later commands make the reader from it.
    """

    name: ClassVar[str]

    def spec(self, classes: str = "single") -> DatasetSpec:
        """The classes, splits and sensor. ``classes``: class list; every dataset has one called ``single``."""
        return load_spec(self.name, classes)

    @abstractmethod
    def survey(self, root: Path, options: ReadOptions) -> Layout:
        """All units and all problems, by names, sizes and small text files; no scan is read.

        Args:
            root: absolute.

        Raises:
            DataError: nothing of the layout is there (the message names the level that was given and the expected one).
        """

    @abstractmethod
    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """Scan ``position`` of the unit, checked and mapped.

        Args:
            digest: takes the raw bytes of every file that is read.

        Raises:
            DataError: a file changed since it was found, cannot be read, or is wrong inside.
        """

    def opened(
        self, unit: SourceUnit, spec: DatasetSpec, folder: Path
    ) -> AbstractContextManager[tuple[DatasetReader, SourceUnit]]:
        """What ``convert_unit`` takes for a unit: this reader and the unit, or what stands for them (a cut cloud).

        Args:
            folder: where temporary files may be kept while the block lasts.
        """
        return nullcontext((self, unit))

    def command(self, root: Path | str) -> list[str]:
        """The words of ``ssl3d prepare`` for a root, without further options."""
        return ["ssl3d", "prepare", self.name, "--root", str(root)]

    def check(self, root: Path | str, options: ReadOptions | None = None) -> CheckReport:
        """What is there and what is missing. DataError only where nothing of the layout is found."""
        return self._survey(root, options or ReadOptions()).report

    def discover(self, root: Path | str, options: ReadOptions | None = None) -> Layout:
        """The units of work. DataError for the first error that ``check`` reports."""
        options = options or ReadOptions()
        layout = self._survey(root, options)
        if errors := layout.report.errors:
            words = [*self.command(root), "--check"]
            words += ["--labels", options.label_set] if options.label_set != "labels" else []
            words += ["--version", options.version] if options.version else []
            raise errors[0].as_error(len(errors) - 1, shlex.join(words))
        return layout

    def _survey(self, root: Path | str, options: ReadOptions) -> Layout:
        spec = self.spec()
        if options.label_set not in spec.label_sets:
            raise UsageError(
                f"{spec.title} has no {options.label_set} to train with",
                where={"labels": options.label_set},
                hint=f"after --labels: {', '.join(spec.label_sets)}",
            )
        return self.survey(Path(os.path.abspath(Path(root).expanduser())), options)  # noqa: PTH100  keeps links


def other_case(names: Iterable[str], wanted: str) -> str | None:
    """The name that differs from ``wanted`` in upper and lower case only, if there is one and not ``wanted`` itself."""
    names = list(names)
    found = [name for name in names if name.lower() == wanted.lower()]
    return found[0] if found and wanted not in found else None
