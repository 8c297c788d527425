"""From the files of a SemanticKITTI scan to arrays."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.kitti_files import calibration, image_size, read_pose
from ssl3d.data.datasets.raw import first_three, map_labels, mend_points, note_intensity, read_binary
from ssl3d.data.datasets.source import Camera, Fields, RawScan, SourceFile, SourceUnit
from ssl3d.data.spec import DatasetSpec

_STRANGE = "points with a remission outside of 0..1: is this another sensor's data in the same layout?"
_NO_IMAGE = "images left out that are neither PNG nor JPEG"


def fields(*, pose: bool, cameras: bool) -> Fields:
    """What scans of a unit have."""
    columns, truths = {"intensity": ("<f4", 0)}, {"instance": ("<u4", 0), "moving": ("?", 0)}
    return Fields(columns, truths, pose=pose, cameras=cameras)


def read_scan(unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None) -> RawScan:
    """One scan of a unit, checked and mapped; ``details`` of the unit: the sequence's folder, of the scan: its number.

    Raises:
        DataError: a file changed since it was found, cannot be read, or has label ids that the spec does not know.
    """
    source = unit.scans[position]
    raw = read_binary(source.files["points"], "<f4", digest, columns=4)
    scan = RawScan(first_three(raw), {"intensity": np.ascontiguousarray(raw[:, 3])})
    if (file := source.files.get("labels")) is not None:
        words = read_binary(file, "<u4", digest)
        ids = words.view("<u2")[::2].astype(np.intp)
        scan.label, scan.raw_counts = map_labels(ids, spec, source.scan_id, file.path)
        scan.truths = {"instance": words >> np.uint32(16), "moving": _moving(ids, scan.raw_counts, spec)}
    if (file := source.files.get("scribbles")) is not None:
        words = read_binary(file, "<u4", digest)
        scan.scribble, _ = map_labels(words.view("<u2")[::2].astype(np.intp), spec, source.scan_id, file.path)
    mend_points(scan, zero_is_none=True, measured=("intensity",))
    note_intensity(scan, _STRANGE)
    if unit.fields.pose:
        scan.pose = read_pose(unit.shared["poses"], unit.shared["calib"], source.details)
    if unit.fields.cameras and "image" in source.files:
        size = image_size(source.files["image"].path)
        if size is None:
            scan.notes[_NO_IMAGE] = 1
        else:
            scan.cameras = (_camera(unit, source.files["image"], size),)
    return scan


def _moving(ids: npt.NDArray[np.intp], counts: Mapping[int, int], spec: DatasetSpec) -> npt.NDArray[np.bool_]:
    present = [raw for raw in counts if raw in spec.moving]
    if not present:
        return np.zeros(len(ids), np.bool_)
    table = np.zeros(max(counts) + 1, np.bool_)
    table[present] = True
    return table.take(ids)


def _camera(unit: SourceUnit, image: SourceFile, size: tuple[int, int]) -> Camera:
    """The left color camera: its pixel of a point is ``P2 Tr [x y z 1]``, and P2 = K [1 | K^-1 p] for its column p."""
    matrices = calibration(unit.shared["calib"])
    intrinsic, extrinsic = matrices["P2"][:3, :3], matrices["Tr"].copy()
    extrinsic[:3, 3] += np.linalg.solve(intrinsic, matrices["P2"][:3, 3])
    path = posixpath.join(unit.details, "image_2", image.path.rpartition("/")[2])
    return Camera("image_2", path, size, intrinsic, extrinsic)
