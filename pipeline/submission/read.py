"""Predictions that any program wrote in a format of the dataset, as classes of every point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec
from ssl3d.data.text import nearest
from ssl3d.pipeline.dataset import ScanRef
from ssl3d.pipeline.submission import scannet_masks
from ssl3d.pipeline.submission.formats import FORMATS, Ids, PredictionFormat
from ssl3d.pipeline.submission.handed import Handed

_IDS = 1 << 16


@dataclass(frozen=True)
class Found:
    """What was found in a folder or a zip.

    Attributes:
        format: how classes are read; of ``instances``, how files are called.
        instances: whether they are ScanNet's instances, and not classes.
        files: name -> the scans that it speaks of: one, or the tiles of a cloud.
    """

    format: PredictionFormat
    instances: bool
    files: Mapping[str, tuple[ScanRef, ...]]

    @property
    def name(self) -> str:
        return scannet_masks.NAME if self.instances else self.format.name


def find(handed: Handed, spec: DatasetSpec, scans: Sequence[ScanRef], name: str | None = None) -> Found:
    """Recognizes the format by the names of the files, and sees that every scan has its file.

    Args:
        name: of the format; None: the one that files here have.

    Raises:
        UsageError: an unknown format, none or several in here.
        DataError: a scan has no file, or some files hold classes and others instances.
    """
    fitting = [each for each in FORMATS.values() if spec.name in (each.datasets or (spec.name,))]
    base = "scannet" if name == scannet_masks.NAME else name  # lists of instances are called as files of classes are
    wanted = [each for each in fitting if base in (None, each.name)]
    if not wanted:
        raise _unknown(spec, fitting, str(name))
    present = {each.name: _files(each, scans) for each in wanted}
    there = [each for each in wanted if name is not None or any(file in handed for file in present[each.name])]
    if not there:
        raise _nothing(handed, spec, fitting, scans)
    if len(there) > 1:
        raise UsageError(
            f"here are predictions in several formats: {', '.join(each.name for each in there)}",
            where={"predictions": handed.path},
            hint=f"say which ones to score: --format {there[0].name}",
        )
    files = present[there[0].name]
    _check_complete(handed, files)
    return Found(there[0], there[0].name == "scannet" and _hold_instances(handed, files, name), files)


def _unknown(spec: DatasetSpec, fitting: Sequence[PredictionFormat], name: str) -> UsageError:
    names = [each.name for each in fitting]
    names += [scannet_masks.NAME] if "scannet" in names else []
    near = nearest(name, names)
    return UsageError(
        f"predictions for {spec.title} are not read in a format '{name}'",
        hint=(f"did you mean '{near}'? " if near else "") + f"formats for it: {', '.join(names)}",
    )


def _files(format: PredictionFormat, scans: Sequence[ScanRef]) -> dict[str, tuple[ScanRef, ...]]:
    found: dict[str, list[ScanRef]] = {}
    for scan in scans:
        found.setdefault(str(format.submitted(scan)), []).append(scan)
    return {name: tuple(members) for name, members in found.items()}


def _nothing(
    handed: Handed, spec: DatasetSpec, fitting: Sequence[PredictionFormat], scans: Sequence[ScanRef]
) -> UsageError:
    wanted = {str(each.submitted(scan)) for each in fitting for scan in (scans[0], scans[-1])}
    places = {place for name in sorted(wanted) if (place := handed.deeper(name)) is not None}
    own = fitting[0].submitted(scans[0])
    hint = f"the first scan, {scans[0].scan_id}, is expected in {own} (or another format: --help)"
    if places:
        deeper = sorted(places)[0]
        below = f"--predictions {handed.path / deeper}" if handed.path.is_dir() else f"zip the content of {deeper}/"
        hint = f"they lie deeper: {below}"
    return UsageError(
        f"here are no predictions for the scans of {spec.title}",
        where={"predictions": handed.path, "files here": handed.some()},
        hint=hint,
    )


def _check_complete(handed: Handed, files: Mapping[str, tuple[ScanRef, ...]]) -> None:
    missing = [name for name in files if name not in handed]
    if missing:
        first = files[missing[0]]
        raise DataError(
            f"predictions are missing: {len(missing)} of {len(files)} files",
            where={
                "predictions": handed.path,
                "scan": first[0].scan_id if len(first) == 1 else first[0].group,
                "file": missing[0],
            },
            hint="every scan of the subset is scored: predict the missing ones too",
        )


def _hold_instances(handed: Handed, files: Mapping[str, tuple[ScanRef, ...]], name: str | None) -> bool:
    """Whether the files list instances; those that do and those that do not must not be mixed."""
    first: dict[bool, str] = {}
    for file in files:
        kind = scannet_masks.is_list(handed, file)
        if kind is not None:
            first.setdefault(kind, file)
    if len(first) == 2 or (name is not None and first and (name == scannet_masks.NAME) not in first):
        other = first[name != scannet_masks.NAME] if name is not None else first[False]
        raise DataError(
            "a file holds one class a vertex where instances are listed elsewhere"
            if name is None
            else f"a file is not in the format '{name}'",
            where={**handed.where(other), **({"instances in": first[True]} if name is None else {})},
            hint="put classes and instances into folders of their own",
        )
    return True in first or (not first and name == scannet_masks.NAME)


@dataclass
class Reading:
    """Reads classes file by file, and remembers ids that the dataset does not have.

    Attributes:
        unknown: id -> points; ``first``: a file with one of them.
        points: so many were read.
    """

    handed: Handed
    spec: DatasetSpec
    found: Found
    unknown: dict[int, int] = field(default_factory=dict)
    first: str = ""
    points: int = 0

    def labels(self, file: str) -> npt.NDArray[np.uint8]:
        """(n,) uint8 classes of all points that the scans of a file have; IGNORE for ids that stand for none.

        Raises:
            DataError: the file has another number of ids, or an id that the official evaluation refuses.
        """
        scans = self.found.files[file]
        wanted, count = sum(scan.num_points for scan in scans), 0
        label = np.empty(wanted, np.uint8)
        for ids in self.found.format.ids(self.handed, file):
            if count + len(ids) <= wanted:
                label[count : count + len(ids)] = self._classes(ids, file)
            count += len(ids)
        if count != wanted:
            raise DataError(
                f"{count} labels for {wanted} points",
                where={**self.handed.where(file), "scan": self._scan(file)},
                hint="every point of the scan is scored: one id for each, in the order of the dataset's file",
            )
        self.points += count
        return label

    def _scan(self, file: str) -> str:
        scans = self.found.files[file]
        return scans[0].scan_id if len(scans) == 1 else scans[0].group

    def _classes(self, ids: Ids, file: str) -> npt.NDArray[np.uint8]:
        table, known = self._tables
        inside = (ids >= 0) & (ids < _IDS)
        place = np.where(inside, ids, 0).astype(np.intp)
        strange = ~(inside & known[place])
        if strange.any():
            self._meet(ids[strange], file)
        return np.where(strange, np.uint8(IGNORE), table[place])

    @cached_property
    def _tables(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        table, known = np.full(_IDS, IGNORE, np.uint8), np.zeros(_IDS, np.bool_)
        for raw, c in self.found.format.classes(self.spec).items():
            table[raw], known[raw] = c, True
        return table, known

    def _meet(self, ids: Ids, file: str) -> None:
        values, counts = np.unique(ids, return_counts=True)
        if self.found.format.strict:
            allowed = sorted(self.found.format.classes(self.spec))
            raise DataError(
                f"id {values[0]} ({counts[0]} points): the official evaluation takes {allowed[0]}..{allowed[-1]} only",
                where={**self.handed.where(file), "scan": self._scan(file)},
                hint="write the ids of the evaluated classes, for every point",
            )
        self.first = self.first or file
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value in self.unknown or len(self.unknown) < _IDS:
                self.unknown[value] = self.unknown.get(value, 0) + count

    def remark(self) -> str | None:
        """What is to be said about unknown ids; None when there were none."""
        if not self.unknown:
            return None
        shown = ", ".join(map(str, sorted(self.unknown)[:8])) + (", ..." if len(self.unknown) > 8 else "")
        count = sum(self.unknown.values())
        return (
            f"{count} of {self.points} points ({100 * count / self.points:.1f}%) have ids that {self.spec.title} does "
            f"not have ({shown}; first in {self.first}): they count as misses, as in the official evaluation. "
            "Files hold original ids, not the numbers that networks are trained with"
        )


__all__ = ["Found", "Reading", "find"]
