"""One scan of nuScenes: points, labels, instances, where the car was, and what its six cameras saw."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.nuscenes_tables import Rigid
from ssl3d.data.datasets.raw import first_three, map_labels, mend_points, note_intensity, read_binary, read_bytes
from ssl3d.data.datasets.rigid import from_quaternion, inverse
from ssl3d.data.datasets.source import Camera, RawScan, SourceFile, SourceScan
from ssl3d.data.errors import DataError
from ssl3d.data.spec import DatasetSpec

RINGS = 32
INTENSITY = 255
_PER_CATEGORY = 1000
_STRANGE = f"points with an intensity outside of 0..{INTENSITY}: is this another sensor's data in the same layout?"


class Seen(NamedTuple):
    """A camera when it took its image: the calibration in the car, and the car (``ego``) in the world at that time."""

    name: str
    image: str
    size: tuple[int, int]
    intrinsic: tuple[float, ...]
    mount: Rigid
    ego: Rigid


class Details(NamedTuple):
    """What a scan needs besides its files.

    Attributes:
        mount, ego: of the lidar, as in ``Seen``.
    """

    mount: Rigid
    ego: Rigid
    cameras: tuple[Seen, ...]


def read(scan: SourceScan, spec: DatasetSpec, digest: xxhash.xxh3_128 | None) -> RawScan:
    """The scan with ``intensity`` (n,) float32 0..1, the file's 0..255 divided by 255 (as Pointcept does), and ``ring``
    (n,) uint8 0..31.

    The frame is the lidar's: x right, y forward, z up. Returns from the car itself are kept.

    Raises:
        DataError: a file changed, or is not what it should be.
    """
    file = scan.files["points"]
    rows = read_binary(file, "<f4", digest, columns=5)
    details: Details = scan.details
    raw = RawScan(first_three(rows), pose=matrix(details.ego) @ matrix(details.mount), cameras=cameras(details))
    raw.columns = {"intensity": rows[:, 3] / np.float32(INTENSITY), "ring": _rings(rows[:, 4], scan, file)}
    if (labels := scan.files.get("labels")) is not None:
        ids = read_binary(labels, "u1", digest)
        _check_count(len(ids), len(rows), scan, "labels")
        raw.label, raw.raw_counts = map_labels(ids, spec, scan.scan_id, labels.path)
    if (panoptic := scan.files.get("panoptic")) is not None:
        raw.truths["instance"] = _instances(panoptic, scan, len(rows), digest)
    mend_points(raw, zero_is_none=False, measured=("intensity",))
    note_intensity(raw, _STRANGE)
    return raw


def _rings(values: npt.NDArray[np.float32], scan: SourceScan, file: SourceFile) -> npt.NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        ring = values.astype(np.uint8)
    strange = (ring != values) | (ring >= RINGS)
    if strange.any():
        raise DataError(
            f"the fifth number of a point is no ring index 0..{RINGS - 1}: {int(strange.sum())} of {len(ring)} points",
            where={"file": file.path, "scan": scan.scan_id, "field": "ring", "found": values[strange][0]},
            hint="the file is no N x 5 float32 (x, y, z, intensity, ring): unpack its blob archive again",
        )
    return ring


def _check_count(found: int, points: int, scan: SourceScan, role: str) -> None:
    if found != points:
        raise counts_differ(scan.scan_id, scan.files[role], points, found)


def counts_differ(scan_id: str, labels: SourceFile, points: int, found: int) -> DataError:
    """The error of labels that are not of their scan; the hint says what the counts look like."""
    hint = "the files are of two scans, or a download was cut: unpack both archives again"
    if found == points * 5 // 4:
        hint = "the labels were made reading the scan as N x 4 numbers, it is N x 5: unpack the lidarseg archive again"
    elif points and found in (2 * points, 4 * points, 8 * points):
        hint = "one byte a point was expected, these are wider numbers: unpack the lidarseg archive again"
    return DataError(
        f"the labels are not of this scan: {points} points, {found} labels",
        where={"file": labels.path, "scan": scan_id},
        hint=hint,
    )


def _instances(
    file: SourceFile, scan: SourceScan, points: int, digest: xxhash.xxh3_128 | None
) -> npt.NDArray[np.uint32]:
    """(n,) uint32: category * 1000 + instance as in the file, 0 for points of no instance."""
    content = io.BytesIO(read_bytes(file, digest))
    try:
        with np.load(content, allow_pickle=False) as archive:
            values = np.asarray(archive["data"])
        if values.dtype.kind not in "ui":
            raise ValueError(f"data is {values.dtype}, whole numbers were expected")
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"a panoptic file is damaged: {error}",
            where={"file": file.path, "scan": scan.scan_id, "field": "data"},
            hint="unpack the panoptic archive again (nuScenes-panoptic-v1.0-all.tar.gz)",
        ) from error
    _check_count(values.size, points, scan, "panoptic")
    values = values.reshape(-1).astype(np.uint32)
    return np.where(values % _PER_CATEGORY > 0, values, np.uint32(0))


def cameras(details: Details) -> tuple[Camera, ...]:
    """The cameras: lidar -> car at the time of the scan -> world -> car at the time of the image -> camera.

    The car moves between the two times: one position for both is off by tens of centimeters.
    """
    to_world = matrix(details.ego) @ matrix(details.mount)
    return tuple(
        Camera(
            name=seen.name,
            image=seen.image,
            size=seen.size,
            intrinsic=np.array(seen.intrinsic).reshape(3, 3),
            extrinsic=inverse(matrix(seen.ego) @ matrix(seen.mount)) @ to_world,
        )
        for seen in details.cameras
    )


def matrix(rigid: Rigid) -> npt.NDArray[np.float64]:
    """(4, 4) of a translation and a quaternion w, x, y, z."""
    return from_quaternion(rigid[:3], rigid[3:])
