"""Prepared scans, as training and evaluation read them.

Three sources, so that nobody sees more than he may: ``ScanSource`` (points, no labels), ``VisibleSource`` (and the
labels that the split shows), ``TruthSource`` (all labels, for evaluation only). They are small, picklable and open
their files lazily in each process; none needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.store import ShardReader
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.splits import SplitResult, find_split, subset_under
from ssl3d.pipeline.stages.prepare import check_version
from ssl3d.pipeline.workspace import DatasetHandle

if TYPE_CHECKING:
    from ssl3d.data.spec import DatasetSpec


FEATURES = {"intensity": 1, "color": 3, "normal": 3}
"""Per-point arrays of prepared scans that networks read -> width."""


@dataclass(frozen=True, slots=True)
class ScanRef:
    """One prepared scan.

    Attributes:
        index: its number in the dataset (in order of unit and position).
        scan_id: ``<group>/<name>``, e.g. ``08/000123``.
        group: the sequence, scene, room or area that it belongs to.
        subset: ``train``, ``val`` or ``test``.
        unit, position: the shard that holds it, and which scan of the shard it is.
        labelled: the dataset has (full) labels for it, for evaluation.
        annotated: it has labels of the chosen set (all labels, or scribbles), which a split may show.
        alias: what the dataset's own tools call its predictions, where that is not in ``scan_id``.
    """

    index: int
    scan_id: str
    group: str
    subset: str
    unit: str
    position: int
    num_points: int
    labelled: bool
    annotated: bool
    alias: str = ""


class PreparedDataset:
    """The scans of a dataset that ``ssl3d prepare`` has finished.

    Args:
        key: of a prepared product that is not the current one.
        val: groups for validation in place of the dataset's own, see ``subset_under``.

    Raises:
        UsageError: nothing was prepared, or not to its end, or by another version of ssl3d; no scan that may be used
            so belongs to a group of ``val``.
    """

    def __init__(self, handle: DatasetHandle, *, key: str | None = None, val: Sequence[str] = ()) -> None:
        product = handle.product("prepare", key)
        if product is None or not product.complete:
            done = (
                f"{len(product.done)} of {len(product.manifest.plan)} units are done" if product else "nothing is done"
            )
            raise UsageError(
                f"the dataset '{handle.name}' is not prepared: {done}",
                where={"workspace": handle.workspace.root},
                hint="run your `ssl3d prepare` command again: it goes on with the first unfinished unit",
            )
        check_version(product)
        self.handle = handle
        self.product = product
        self.val = tuple(val)
        self.scans = scans_of(product)
        if val:
            _check_groups(val, self.scans)
            self.scans = [replace(scan, subset=subset_under(val, scan.group, scan.subset)) for scan in self.scans]

    @property
    def name(self) -> str:
        return self.handle.name

    @cached_property
    def spec(self) -> DatasetSpec:
        spec = spec_of(self.product)
        if not self.val:
            return spec
        groups = [(group, subset) for subset, members in spec.splits.items() for group in members]
        now = [(group, subset_under(self.val, group, subset)) for group, subset in groups]
        return replace(spec, splits={name: tuple(g for g, subset in now if subset == name) for name in spec.splits})

    @property
    def version(self) -> str:
        """The ``--version`` that it was prepared with."""
        return str(self.product.manifest.params.get("version", ""))

    @property
    def protocol(self) -> str:
        """Name of the protocol of its numbers, which says what is for validation where the field disagrees."""
        from ssl3d.pipeline.evaluation.protocols import protocol_of

        held = sorted({scan.group for scan in self.subset("val")}) or self.spec.splits["val"]
        return protocol_of(self.spec.name, held)

    @cached_property
    def by_id(self) -> dict[str, ScanRef]:
        return {scan.scan_id: scan for scan in self.scans}

    def subset(self, name: str) -> list[ScanRef]:
        """The scans of ``train``, ``val`` or ``test``."""
        return [scan for scan in self.scans if scan.subset == name]

    def source(self) -> ScanSource:
        self.product.trust(("points",))
        return ScanSource(str(self.product.folder), Places.of(self.scans))

    def visible(self, split: SplitResult | str | None = None) -> VisibleSource:
        """The scans with the labels that a split (default: the current one) shows."""
        found = split if isinstance(split, SplitResult) else find_split(self.handle, split)
        if found.prepare != self.product.key:
            raise DataError(
                "the split belongs to scans that were prepared otherwise",
                where={"split": found.name},
                hint="run your `ssl3d split` command again",
            )
        cut = found.cut
        index = {scan.scan_id: scan.index for scan in self.scans}
        index |= {part: len(self.scans) + number for number, part in enumerate(cut.parts if cut else ())}
        try:
            labelled = [index[scan_id] for scan_id in found.labelled]
            unlabelled = [index[scan_id] for scan_id in found.unlabelled]
            shown = [self.by_id[found.scan_of(scan_id)] for scan_id in found.labelled]
        except KeyError as error:
            raise DataError(
                f"the split names a scan that is no longer prepared: {error.args[0]}",
                where={"split": found.name},
                hint="run your `ssl3d split` command again",
            ) from None
        product = self.handle.product("split", found.key)
        if product is None:
            raise DataError("the split was removed", where={"split": found.name}, hint="run your `ssl3d split` again")
        product.trust(("visible",))
        row = np.full(len(self.scans), -1, np.int32)
        begun: dict[str, int] = {}
        for scan in shown:  # in order of index, as the rows of the shards are
            row[scan.index] = begun.get(scan.unit, 0)
            begun[scan.unit] = begun.get(scan.unit, 0) + 1
        chosen = np.array(labelled, np.int64), np.array(unlabelled, np.int64)
        if cut is None:
            return VisibleSource(self.source(), str(found.folder), *chosen, row)
        from ssl3d.pipeline.cut_scan import CutSource

        return CutSource(self.source(), str(found.folder), *chosen, row, self.by_id[cut.scan].index, cut.parts)

    def truth(self, besides: VisibleSource | None = None) -> TruthSource:
        """All labels, or those alone that ``besides`` does not show. For evaluation; never for training."""
        self.product.trust(("labels",))
        has = np.array([scan.labelled for scan in self.scans], np.bool_)
        return TruthSource(str(self.product.folder), Places.of(self.scans), has, besides)


def _check_groups(val: Sequence[str], scans: Sequence[ScanRef]) -> None:
    """Raises ``UsageError`` for a group that cannot be used for validation, or when nothing is left to train on."""
    subsets = {scan.group: scan.subset for scan in scans}
    usable = sorted(group for group, subset in subsets.items() if subset != "test")
    shown = ", ".join(usable[:12]) + (", ..." if len(usable) > 12 else "")
    for name in val:
        if name not in usable:
            why = "its labels are not public" if name in subsets else "no prepared scan belongs to it"
            raise UsageError(f"'{name}' cannot be used for validation: {why}", hint=f"after --val: {shown}")
    if not set(usable) - set(val):
        raise UsageError("--val takes every scan: nothing is left to train on", hint=f"leave one of these out: {shown}")


def scans_of(product: Product) -> list[ScanRef]:
    """The scans of a prepare product, in order of unit and position; read from its journal alone."""
    found: list[ScanRef] = []
    scribbles = product.manifest.params["label_set"] == "scribbles"
    for unit in sorted(product.done):
        info = product.done[unit].info
        group, subset = info["group"], info["subset"]
        rows = zip(
            *(info[name] for name in ("scan_ids", "num_points", "labelled", "scribbled", "aliases")), strict=True
        )
        for position, (scan_id, points, labelled, scribbled, alias) in enumerate(rows):
            known = bool(scribbled if scribbles and subset == "train" else labelled)
            found.append(
                ScanRef(len(found), scan_id, group, subset, unit, position, points, bool(labelled), known, alias)
            )
    return found


def spec_of(product: Product) -> DatasetSpec:
    """The specification (classes, maps, splits) that a prepare product was made with.

    Raises:
        UsageError: it was made by another version of ssl3d.
    """
    from ssl3d.data.datasets.registry import get_reader

    check_version(product)
    identity = product.manifest.identity
    spec = get_reader(identity["reader"], identity.get("config", "")).spec(product.manifest.params["classes"])
    return replace(spec, splits=_splits_of(product, spec.splits))


def _splits_of(product: Product, published: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The published subsets, with groups that were prepared where they were (a user's division, another fold)."""
    from ssl3d.data.spec import SUBSETS

    found = {entry.info["group"]: entry.info["subset"] for _, entry in sorted(product.done.items())}
    groups = {group: found.get(group, subset) for subset, members in published.items() for group in members} | found
    return {subset: tuple(group for group, place in groups.items() if place == subset) for subset in SUBSETS}


@dataclass(frozen=True)
class Places:
    """Where scan i lies: ``units[unit[i]]``, row ``position[i]``."""

    units: tuple[str, ...]
    unit: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]

    @classmethod
    def of(cls, scans: Sequence[ScanRef]) -> Places:
        units = sorted({scan.unit for scan in scans})
        number = {unit: i for i, unit in enumerate(units)}
        unit = np.array([number[scan.unit] for scan in scans], np.int32)
        return cls(tuple(units), unit, np.array([scan.position for scan in scans], np.int32))


@dataclass
class Shards:
    """Readers of one kind of file, opened when first needed in each process."""

    folder: str
    kind: str
    readers: dict[str, ShardReader] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "kind": self.kind, "readers": {}}

    def path(self, unit: str) -> Path:
        return Path(self.folder) / f"{unit}.{self.kind}.h5"

    def __getitem__(self, unit: str) -> ShardReader:
        reader = self.readers.get(unit)
        if reader is None:
            reader = self.readers[unit] = ShardReader(self.path(unit))
        return reader


class ScanSource:
    """Points of every scan with what was measured of them; all labels IGNORE."""

    def __init__(self, folder: str, places: Places) -> None:
        self.places = places
        self._shards = Shards(folder, "points")

    def __len__(self) -> int:
        return len(self.places.unit)

    def view(self, index: int) -> View:
        """Scan ``index`` (0-based, see ``ScanRef``), with its origin and (or None) its pose.

        Features are ``intensity`` (n, 1), ``color`` (n, 3) in 0..1 and ``normal`` (n, 3), those that the dataset has;
        all else that the dataset has per point (``ring``, ``segment``, ``source_row``) is in ``extras`` as stored.
        """
        unit, position = self.places.units[self.places.unit[index]], int(self.places.position[index])
        reader = self._shards[unit]
        columns = [name for name in reader.names if name != "points" and not reader.is_per_scan(name)]
        names = ["points", *columns, "origin", "scan_id", *(["pose"] if "pose" in reader else [])]
        read = reader.read_many(names, position)
        points = read["points"]
        scan: dict[str, Any] = {"scan_id": str(read["scan_id"]), "origin": read["origin"], "pose": read.get("pose")}
        rows = np.empty((len(points), 2), np.int64)
        rows[:, 0] = index
        rows[:, 1] = np.arange(len(points))
        return View(
            points=points,
            features=scan_features(read),
            rows=rows,
            label=np.full(len(points), IGNORE, np.uint8),
            extras={name: read[name] for name in columns if name not in FEATURES},
            scan=scan,
        )


def scan_features(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """What networks read of the per-point arrays of a scan: name -> (n, k) float32."""
    return {name: _feature(name, columns[name]) for name in columns if name in FEATURES}


def _feature(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(n, k) float32; whole numbers are shares of their largest."""
    scaled = values if values.dtype.kind == "f" else values / np.float32(np.iinfo(values.dtype).max)
    return scaled.astype(np.float32, copy=False).reshape(len(values), FEATURES[name])


class VisibleSource:
    """The scans with the labels that a split shows. Opens points and visible labels, never the full labels.

    Attributes:
        labelled, unlabelled: (L,), (U,) int64 indices of scans.
        parts: ids of the parts of a scan that is cut; see ``CutSource``.
    """

    parts: tuple[str, ...] = ()

    def __init__(
        self,
        scans: ScanSource,
        folder: str,
        labelled: npt.NDArray[np.int64],
        unlabelled: npt.NDArray[np.int64],
        row: npt.NDArray[np.int32],
    ) -> None:
        self.scans = scans
        self.labelled = labelled
        self.unlabelled = unlabelled
        self._row = row
        self._shards = Shards(folder, "visible")

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def places(self) -> Places:
        """Where what is kept of a scan may lie."""
        return self.scans.places

    def view(self, index: int) -> View:
        """Scan ``index``; its labels are IGNORE throughout unless the split shows them."""
        view = self.scans.view(index)
        view.extras.pop("source_row", None)  # where predictions go back to; only scans that were cut have it
        if self._row[index] >= 0:
            view.label = self.label(index)
            if len(view.label) != len(view):
                raise outdated(self.reader_of(index))
        return view

    def label(self, index: int) -> npt.NDArray[np.uint8]:
        """(n,) uint8 visible labels of a *labelled* scan."""
        reader, row = self.reader_of(index), int(self._row[index])
        if row < 0:
            raise ValueError(f"the split shows no labels of scan {index}")
        if int(reader.read("scan_index", row)) != int(self.scans.places.position[index]):
            raise outdated(reader)
        return reader.read("label", row)

    def reader_of(self, index: int) -> ShardReader:
        """The visible labels of the unit that scan ``index`` lies in."""
        return self._shards[self.scans.places.units[self.scans.places.unit[index]]]


def outdated(reader: ShardReader) -> DataError:
    """The error of visible labels that are not those of the prepared scans."""
    return DataError(
        "the visible labels do not belong to the prepared scans",
        where={"file": reader.path},
        hint="run your `ssl3d split` command again",
    )


class TruthSource:
    """The labels of the dataset, for evaluation only; those that ``besides`` shows are IGNORE."""

    def __init__(
        self, folder: str, places: Places, has: npt.NDArray[np.bool_], besides: VisibleSource | None = None
    ) -> None:
        self.places = places
        self.has = has
        self.besides = besides
        self._shards = Shards(folder, "labels")

    def label(self, index: int) -> npt.NDArray[np.uint8]:
        """(n,) uint8 train ids, 255 = ignored. DataError for a scan without labels."""
        label = self._read("label", index)
        if self.besides is not None:
            label[self.besides.view(index).label != IGNORE] = IGNORE
        return label

    def instance(self, index: int) -> npt.NDArray[np.uint32]:
        """(n,) uint32 instance ids, 0 for points of no instance; see ``has_instance``."""
        return self._read("instance", index)

    def has_instance(self, index: int) -> bool:
        """Whether the dataset knows the instances of this scan."""
        unit = self.places.units[self.places.unit[index]]
        return bool(self.has[index]) and "instance" in self._shards[unit]

    def moving(self, index: int) -> npt.NDArray[np.bool_]:
        """(n,) whether the point belongs to something that moves."""
        return self._read("moving", index)

    def _read(self, name: str, index: int) -> npt.NDArray[Any]:
        unit = self.places.units[self.places.unit[index]]
        if not self.has[index]:
            raise DataError(
                "this scan has no labels",
                where={"unit": unit, "position": int(self.places.position[index])},
                hint="choose a subset with labels (train or val)",
            )
        return self._shards[unit].read(name, int(self.places.position[index]))
