"""From scans as a reader gives them to shards: the same for every dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.source import Camera, DatasetReader, RawScan, SourceUnit
from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.shard_writer import ShardWriter, storable, write_shard
from ssl3d.data.spec import DatasetSpec

LABELS: Mapping[str, tuple[str, int]] = {"label": ("u1", 0)}
_EDGES: Mapping[str, tuple[str, int]] = {"edge": ("<i4", 2)}


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
        scan_ids, aliases, num_points: per scan; see ``SourceScan``.
        labelled, scribbled: per scan, whether it has labels, scribbles.
        class_counts: points per class (C) over all labels; ``ignored`` counts the labelled points that are 255.
        scribble_counts: points per class (C) over the scribbles; empty without.
        not_finite, all_zero: rows kept with label 255.
        columns: names of the per-point arrays beside ``points``.
        has_pose: whether the points file has ``pose``.
        digest: xxh3-128 of the raw bytes of all files of the unit, in order.
        warnings: sentences to show.
    """

    unit: str
    group: str
    subset: str
    scan_ids: list[str]
    aliases: list[str]
    num_points: list[int]
    labelled: list[bool]
    scribbled: list[bool]
    class_counts: list[int]
    ignored: int
    scribble_counts: list[int]
    not_finite: int
    all_zero: int
    columns: list[str]
    has_pose: bool
    digest: str
    warnings: list[str]


def convert_unit(reader: DatasetReader, unit: SourceUnit, out: Mapping[str, Path], params: ConvertParams) -> UnitInfo:
    """Write the shards of a unit, scan by scan, in the memory of one scan.

    ``points``: points and the columns of ``Fields`` (per point); origin, scan_id, pose where there is one (per scan).
    ``labels``: label and the truths of ``Fields`` (per point); has_label (per scan; all 255 where False).
    ``scribbles``: label (per point). ``edges``: edge (e, 2) int32 per edge of the mesh.
    ``cameras``: per image name, image, depth (texts), size (2) int32, intrinsic (3, 3), extrinsic (4, 4),
    depth_intrinsic (3, 3) float64, NaN where there is none.

    Args:
        out: name of the product (``unit.products()``) -> file to write.

    Raises:
        DataError: see ``DatasetReader.read_scan``; or the disk is full. No file of ``out`` is left half written.
    """
    spec, digest = reader.spec(params.classes), xxhash.xxh3_128()
    known = unit.num_points is not None
    scans = None if known else [reader.read_scan(unit, position, spec, digest) for position in range(len(unit.scans))]
    counts = [scan.num_points or 0 for scan in unit.scans] if scans is None else [len(scan.points) for scan in scans]
    tally = _Tally(unit, spec, counts)
    lists = _Lists(unit, out, params)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_writer(unit, name, out[name], params, counts))
            for name in unit.products()
            if name not in ("edges", "cameras")
        }
        _write_texts(writers, unit)
        at = 0
        for position, count in enumerate(counts):
            scan = reader.read_scan(unit, position, spec, digest) if scans is None else scans[position]
            _check(unit, position, scan, count)
            _write_scan(writers, unit, position, scan, at)
            tally.add(position, scan)
            lists.add(scan)
            at += count
        attrs = _attrs(unit, spec, digest.hexdigest())
        lists.write(attrs)
        for writer in writers.values():
            writer.attrs.update(attrs)
    return tally.info(digest.hexdigest())


class _Tally:
    """Sums up a unit."""

    def __init__(self, unit: SourceUnit, spec: DatasetSpec, counts: Sequence[int]) -> None:
        self._unit, self._counts, self._classes = unit, list(counts), spec.num_classes
        self._labels, self._scribbles = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self._bad: list[tuple[str, int, int, int]] = []
        self._notes: Counter[str] = Counter()

    def add(self, position: int, scan: RawScan) -> None:
        for sums, label in ((self._labels, scan.label), (self._scribbles, scan.scribble)):
            if label is not None:
                sums += np.bincount(label, minlength=256)
        if scan.not_finite or scan.all_zero:
            name = self._unit.scans[position].scan_id
            self._bad.append((name, scan.not_finite, scan.all_zero, len(scan.points)))
        self._notes.update(scan.notes)

    def info(self, digest: str) -> UnitInfo:
        unit = self._unit
        return UnitInfo(
            unit=unit.id,
            group=unit.group,
            subset=unit.subset,
            scan_ids=[scan.scan_id for scan in unit.scans],
            aliases=[scan.alias for scan in unit.scans],
            num_points=self._counts,
            labelled=[scan.labelled for scan in unit.scans],
            scribbled=[scan.scribbled for scan in unit.scans],
            class_counts=self._labels[: self._classes].tolist(),
            ignored=int(self._labels[IGNORE]),
            scribble_counts=self._scribbles[: self._classes].tolist() if "scribbles" in unit.products() else [],
            not_finite=sum(bad[1] for bad in self._bad),
            all_zero=sum(bad[2] for bad in self._bad),
            columns=sorted(unit.fields.columns),
            has_pose=unit.fields.pose,
            digest=digest,
            warnings=self._warnings(),
        )

    def _warnings(self) -> list[str]:
        texts = []
        if self._bad:
            not_finite, all_zero = sum(bad[1] for bad in self._bad), sum(bad[2] for bad in self._bad)
            kinds = [f"{not_finite} NaN or infinite"] * bool(not_finite) + [f"{all_zero} at (0, 0, 0)"] * bool(all_zero)
            first = self._bad[0]
            texts.append(
                f"{self._unit.id}: points that are no measurement: {' and '.join(kinds)}, in {len(self._bad)} of "
                f"{len(self._unit.scans)} scans (first {first[0]}: {first[1] + first[2]} of {first[3]}); "
                "kept in place with label ignored"
            )
        return texts + [f"{self._unit.id}: {count:,} {kind}" for kind, count in sorted(self._notes.items())]


class _Lists:
    """Products whose lengths are only known at the end: edges and cameras, collected in memory."""

    def __init__(self, unit: SourceUnit, out: Mapping[str, Path], params: ConvertParams) -> None:
        self._out, self._params = out, params
        self._fields = unit.fields
        self._edges: list[npt.NDArray[np.int32]] = []
        self._cameras: list[Sequence[Camera]] = []

    def add(self, scan: RawScan) -> None:
        if self._fields.edges:
            self._edges.append(np.zeros((0, 2), np.int32) if scan.edges is None else scan.edges)
        if self._fields.cameras:
            self._cameras.append(scan.cameras)

    def write(self, attrs: Mapping[str, Any]) -> None:
        how: dict[str, Any] = {"per_scan": (), "compress": self._params.compress, "sync": self._params.sync}
        if self._fields.edges:
            arrays: dict[str, Any] = {"offsets": _offsets(self._edges), "edge": _joined(self._edges, "<i4", (2,))}
            write_shard(self._out["edges"], arrays, attrs, **how)
        if self._fields.cameras:
            every = [camera for cameras in self._cameras for camera in cameras]
            arrays = {
                "offsets": _offsets(self._cameras),
                **{name: np.array([getattr(c, name) for c in every], "U") for name in ("name", "image", "depth")},
                "size": _joined([[camera.size] for camera in every], "<i4", (2,)),
                "intrinsic": _joined([[camera.intrinsic] for camera in every], "<f8", (3, 3)),
                "extrinsic": _joined([[camera.extrinsic] for camera in every], "<f8", (4, 4)),
                "depth_intrinsic": _joined([[_lens(camera.depth_intrinsic)] for camera in every], "<f8", (3, 3)),
            }
            write_shard(self._out["cameras"], arrays, attrs, **how)


def _lens(matrix: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    return np.full((3, 3), np.nan) if matrix is None else matrix


def _offsets(items: Sequence[Any]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *map(len, items)], dtype=np.int64)


def _joined(items: Sequence[Any], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    arrays = [np.asarray(item, dtype) for item in items]
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros((0, *shape), dtype), *arrays])


def _writer(unit: SourceUnit, name: str, path: Path, params: ConvertParams, counts: Sequence[int]) -> ShardWriter:
    offsets = np.cumsum([0, *counts], dtype=np.int64)
    points, scans = int(offsets[-1]), len(counts)
    wanted = {
        "points": {"points": ("<f4", 3), **unit.fields.columns},
        "labels": {**LABELS, **unit.fields.truths},
        "scribbles": LABELS,
    }[name]
    arrays: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        key: ((points, width) if width else (points,), dtype) for key, (dtype, width) in wanted.items()
    }
    per_scan: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {}
    if name == "points":
        ids = _scan_ids(unit)
        per_scan = {"origin": ((scans, 3), "<f8"), "scan_id": (ids.shape, ids.dtype)}
        per_scan |= {"pose": ((scans, 4, 4), "<f8")} if unit.fields.pose else {}
    elif name == "labels":
        per_scan = {"has_label": ((scans,), np.bool_)}
    return ShardWriter(
        path, offsets, {**arrays, **per_scan}, per_scan=per_scan.keys(), compress=params.compress, sync=params.sync
    )


def _scan_ids(unit: SourceUnit) -> npt.NDArray[Any]:
    return storable(np.array([scan.scan_id for scan in unit.scans]))


def _write_texts(writers: Mapping[str, ShardWriter], unit: SourceUnit) -> None:
    writers["points"].write("scan_id", _scan_ids(unit))
    if "labels" in writers:
        writers["labels"].write("has_label", np.array([scan.labelled for scan in unit.scans]))


def _check(unit: SourceUnit, position: int, scan: RawScan, count: int) -> None:
    """A reader that gives other lengths than it promised would shift all that follows."""
    arrays = {"points": scan.points, **scan.columns, **scan.truths, "label": scan.label, "scribble": scan.scribble}
    wrong = {name: len(values) for name, values in arrays.items() if values is not None and len(values) != count}
    if wrong:
        name, length = next(iter(wrong.items()))
        raise DataError(
            f"the scan has {count} points, but {length} rows of {name}",
            where={"scan": unit.scans[position].scan_id, "field": name},
            hint="the file changed since it was found, or its reader is wrong",
        )


def _write_scan(writers: Mapping[str, ShardWriter], unit: SourceUnit, position: int, scan: RawScan, at: int) -> None:
    n, points = len(scan.points), writers["points"]
    points.write("points", scan.points, at)
    for name in unit.fields.columns:
        points.write(name, scan.columns[name], at)
    points.write("origin", scan.origin[None], position)
    if unit.fields.pose:
        points.write("pose", (np.full((4, 4), np.nan) if scan.pose is None else scan.pose)[None], position)
    hidden = np.full(n, IGNORE, np.uint8)  # a scan without labels in a unit that has some
    if "labels" in writers:
        writers["labels"].write("label", hidden if scan.label is None else scan.label, at)
        for name, (dtype, width) in unit.fields.truths.items():
            empty = np.zeros((n, width) if width else n, dtype)
            writers["labels"].write(name, scan.truths.get(name, empty), at)
    if "scribbles" in writers:
        writers["scribbles"].write("label", hidden if scan.scribble is None else scan.scribble, at)


def _attrs(unit: SourceUnit, spec: DatasetSpec, digest: str) -> dict[str, Any]:
    return {
        "dataset": spec.name,
        "classes": spec.variant,
        "unit": unit.id,
        "group": unit.group,
        "subset": unit.subset,
        "length_unit": "m",
        "source_digest": digest,
    }
