"""From the files of SemanticKITTI to arrays and shards."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.kitti_files import read_calib, read_poses
from ssl3d.data.datasets.layout import ConvertParams, Frame, LayoutUnit, RawScan, Stamp, UnitInfo
from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.shard_writer import ShardWriter, storable
from ssl3d.data.spec import DatasetSpec

_XYZ_AND_REST = np.dtype([("xyz", "V12"), ("remission", "<f4")])


def read_scan(unit: LayoutUnit, position: int, spec: DatasetSpec) -> RawScan:
    """One scan of a unit, checked and mapped.

    Raises:
        DataError: a file changed since it was found, cannot be read, or has label ids that the spec does not know.
    """
    frame = unit.frames[position]
    poses = _poses(unit, [frame.number])
    return _read_frame(frame, spec, None if poses is None else poses[0], xxhash.xxh3_128())


def convert_unit(unit: LayoutUnit, out: Mapping[str, Path], params: ConvertParams, spec: DatasetSpec) -> UnitInfo:
    """Write the shards of a unit, scan by scan, in the memory of one scan.

    ``points``: points, intensity (per point); origin, scan_id, image, and pose where there is one (per scan).
    ``labels``: label, instance, moving (per point); has_label (per scan; all 255 where False).
    ``scribbles``: label (per point).

    Args:
        out: name of the product (``unit.products()``) -> file to write.

    Raises:
        DataError: see ``read_scan``; or the disk is full. No file of ``out`` is left half written.
    """
    poses = _poses(unit, [frame.number for frame in unit.frames])
    tally = _Tally(unit, spec)
    digest = xxhash.xxh3_128()
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_writer(unit, name, out[name], params)) for name in unit.products()}
        _write_shared(writers, unit, poses)
        at = 0
        for frame in unit.frames:
            scan = _read_frame(frame, spec, None, digest)
            _write_scan(writers, scan, at)
            tally.add(scan)
            at += frame.num_points
        for writer in writers.values():
            writer.attrs.update(_attrs(unit, spec, digest.hexdigest()))
    return tally.info(poses is not None, digest.hexdigest())


class _Tally:
    """Sums up a unit."""

    def __init__(self, unit: LayoutUnit, spec: DatasetSpec) -> None:
        self._unit = unit
        self._classes = np.zeros(256, np.int64)
        self._scribbles = np.zeros(256, np.int64)
        self._num_classes = spec.num_classes
        self._bad: list[tuple[str, int, int, int]] = []
        self._range = (0.0, 1.0)

    def add(self, scan: RawScan) -> None:
        for sums, label in ((self._classes, scan.label), (self._scribbles, scan.scribble)):
            if label is not None:
                sums += np.bincount(label, minlength=256)
        if scan.not_finite or scan.all_zero:
            self._bad.append((scan.scan_id, scan.not_finite, scan.all_zero, len(scan.points)))
        if len(scan.intensity):
            low, high = float(scan.intensity.min()), float(scan.intensity.max())
            self._range = min(self._range[0], low), max(self._range[1], high)

    def info(self, has_pose: bool, digest: str) -> UnitInfo:
        unit, classes = self._unit, self._num_classes
        return UnitInfo(
            unit=unit.id,
            sequence=unit.sequence,
            subset=unit.subset,
            scan_ids=[frame.scan_id for frame in unit.frames],
            num_points=[frame.num_points for frame in unit.frames],
            labelled=[frame.label is not None for frame in unit.frames],
            class_counts=self._classes[:classes].tolist(),
            ignored=int(self._classes[IGNORE]),
            scribble_counts=self._scribbles[:classes].tolist() if "scribbles" in unit.products() else [],
            not_finite=sum(bad[1] for bad in self._bad),
            all_zero=sum(bad[2] for bad in self._bad),
            has_pose=has_pose,
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
                f"{len(self._unit.frames)} scans (first {first[0]}: {first[1] + first[2]} of {first[3]}); "
                "kept in place with label ignored"
            )
        low, high = self._range
        if low < 0 or high > 1:
            texts.append(
                f"{self._unit.id}: remission is {low:g}..{high:g}, SemanticKITTI's is 0..1: "
                "is this another sensor's data in the same layout?"
            )
        return texts


def _read_frame(
    frame: Frame, spec: DatasetSpec, pose: npt.NDArray[np.float64] | None, digest: xxhash.xxh3_128
) -> RawScan:
    raw = _read(frame.points, frame.points_stamp, np.dtype("<f4"), digest).reshape(-1, 4)
    # one strided copy of 12-byte items is twice as quick as raw[:, :3]
    points = np.ascontiguousarray(raw.view(_XYZ_AND_REST)["xyz"]).view("<f4").reshape(-1, 3)
    intensity = np.ascontiguousarray(raw[:, 3])
    bad, not_finite, all_zero = _bad_rows(raw)
    if not_finite:
        finite = np.isfinite(raw).all(axis=1)
        points[~finite], intensity[~finite] = 0, 0
    scan = RawScan(
        frame.scan_id, points, intensity, None, None, None, None, pose, frame.image, {}, not_finite, all_zero, ""
    )
    if frame.label is not None and frame.label_stamp is not None:
        words = _read(frame.label, frame.label_stamp, np.dtype("<u4"), digest)
        ids = words.view("<u2")[::2].astype(np.intp)
        scan.label, scan.raw_counts = _map(ids, spec, frame, frame.label)
        scan.instance = words >> np.uint32(16)
        scan.moving = _moving(ids, scan.raw_counts, spec)
        if bad is not None:
            scan.label[bad] = IGNORE
    if frame.scribble is not None and frame.scribble_stamp is not None:
        words = _read(frame.scribble, frame.scribble_stamp, np.dtype("<u4"), digest)
        scan.scribble, _ = _map(words.view("<u2")[::2].astype(np.intp), spec, frame, frame.scribble)
        if bad is not None:
            scan.scribble[bad] = IGNORE
    scan.digest = digest.hexdigest()
    return scan


def _bad_rows(raw: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.bool_] | None, int, int]:
    """Rows that are not finite or at (0, 0, 0): mask (None when there are none), and how many of each."""
    flat = raw.ravel()
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(np.dot(flat, flat))  # NaN and infinity survive the sum; large numbers may too
    not_finite = ~np.isfinite(raw).all(axis=1) if suspicious else np.zeros(0, np.bool_)
    x_zero = raw[:, 0] == 0
    all_zero = x_zero & (raw[:, 1] == 0) & (raw[:, 2] == 0) if x_zero.any() else np.zeros(0, np.bool_)
    counts = int(np.count_nonzero(not_finite)), int(np.count_nonzero(all_zero))
    if not any(counts):
        return None, 0, 0
    bad = np.zeros(len(raw), np.bool_)
    for mask in (not_finite, all_zero):
        if mask.size:
            bad |= mask
    return bad, *counts


def _map(
    ids: npt.NDArray[np.intp], spec: DatasetSpec, frame: Frame, path: str
) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
    table, known = spec.lut()
    histogram = np.bincount(ids)
    present = np.flatnonzero(histogram)
    counts = dict(zip(present.tolist(), histogram[present].tolist(), strict=True))
    unknown = {raw: count for raw, count in counts.items() if not known[raw]}
    if unknown:
        remapped = max((raw for raw in counts if raw != IGNORE), default=IGNORE) <= spec.num_classes
        raise DataError(
            f"label ids that {spec.title} does not have",
            where={
                "file": path,
                "scan": frame.scan_id,
                "ids": ", ".join(f"{raw} ({count} points)" for raw, count in list(unknown.items())[:8]),
            },
            hint=(
                f"all ids are within 0..{spec.num_classes} (or {IGNORE}): a script has remapped the files in place to "
                "train ids; unpack the label archive again"
                if remapped
                else "labels of another dataset, or damaged: unpack the label archive again"
            ),
        )
    return table.take(ids), counts


def _moving(ids: npt.NDArray[np.intp], counts: Mapping[int, int], spec: DatasetSpec) -> npt.NDArray[np.bool_]:
    present = [raw for raw in counts if raw in spec.moving]
    if not present:
        return np.zeros(len(ids), np.bool_)
    table = np.zeros(max(counts) + 1, np.bool_)
    table[present] = True
    return table.take(ids)


def _read(path: str, stamp: Stamp, dtype: np.dtype[Any], digest: xxhash.xxh3_128) -> npt.NDArray[Any]:
    try:
        values = np.fromfile(path, dtype)
    except OSError as error:
        raise DataError(
            f"a file cannot be read: {error.strerror or error}",
            where={"file": path},
            hint="check its permissions and the disk",
        ) from error
    if values.nbytes != stamp[0]:
        raise DataError(
            f"a file changed while it was in use: {stamp[0]} bytes when found, {values.nbytes} now",
            where={"file": path},
            hint="wait until copying or unpacking has ended, then start the command again",
        )
    digest.update(values.data)
    return values


def _poses(unit: LayoutUnit, frames: list[int]) -> npt.NDArray[np.float64] | None:
    shared = unit.shared
    if shared.poses is None or shared.calib is None:
        return None
    return read_poses(shared.poses, frames, read_calib(shared.calib)["Tr"])


def _writer(unit: LayoutUnit, name: str, path: Path, params: ConvertParams) -> ShardWriter:
    offsets = np.cumsum([0, *(frame.num_points for frame in unit.frames)], dtype=np.int64)
    points, scans = int(offsets[-1]), len(unit.frames)
    arrays: dict[str, tuple[tuple[int, ...], npt.DTypeLike]]
    if name == "points":
        arrays = {"points": ((points, 3), "<f4"), "intensity": ((points,), "<f4"), "origin": ((scans, 3), "<f8")}
        arrays |= {key: (values.shape, values.dtype) for key, values in _texts(unit).items()}
        if unit.shared.poses is not None:
            arrays["pose"] = ((scans, 4, 4), "<f8")
    elif name == "labels":
        arrays = {"label": ((points,), "u1"), "instance": ((points,), "<u4"), "moving": ((points,), np.bool_)}
        arrays["has_label"] = ((scans,), np.bool_)
    else:
        arrays = {"label": ((points,), "u1")}
    per_scan = arrays.keys() & {"origin", "scan_id", "image", "pose", "has_label"}
    return ShardWriter(path, offsets, arrays, per_scan=per_scan, compress=params.compress, sync=params.sync)


def _texts(unit: LayoutUnit) -> dict[str, npt.NDArray[Any]]:
    return {
        "scan_id": storable(np.array([frame.scan_id for frame in unit.frames])),
        "image": storable(np.array([frame.image for frame in unit.frames])),
    }


def _write_shared(writers: Mapping[str, ShardWriter], unit: LayoutUnit, poses: npt.NDArray[np.float64] | None) -> None:
    writers["points"].write("origin", np.zeros((len(unit.frames), 3)))  # points are relative to the sensor already
    for key, values in _texts(unit).items():
        writers["points"].write(key, values)
    if poses is not None:
        writers["points"].write("pose", poses)
    if "labels" in writers:
        writers["labels"].write("has_label", np.array([frame.label is not None for frame in unit.frames]))


def _write_scan(writers: Mapping[str, ShardWriter], scan: RawScan, at: int) -> None:
    n = len(scan.points)
    writers["points"].write("points", scan.points, at)
    writers["points"].write("intensity", scan.intensity, at)
    hidden = np.full(n, IGNORE, np.uint8)  # a scan without labels in a unit that has some
    if "labels" in writers:
        writers["labels"].write("label", hidden if scan.label is None else scan.label, at)
        writers["labels"].write("instance", np.zeros(n, np.uint32) if scan.instance is None else scan.instance, at)
        writers["labels"].write("moving", np.zeros(n, np.bool_) if scan.moving is None else scan.moving, at)
    if "scribbles" in writers:
        writers["scribbles"].write("label", hidden if scan.scribble is None else scan.scribble, at)


def _attrs(unit: LayoutUnit, spec: DatasetSpec, digest: str) -> dict[str, Any]:
    return {
        "dataset": spec.name,
        "classes": spec.variant,
        "unit": unit.id,
        "sequence": unit.sequence,
        "subset": unit.subset,
        "length_unit": "m",
        "source_digest": digest,
    }
