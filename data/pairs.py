"""Pairs of points and pixels of one scan with its images, in the order of the points (see ``camera``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssl3d.data.camera import (
    DEPTH_TOLERANCE,
    ZBUFFER_CELL,
    ZBUFFER_METERS,
    ZBUFFER_SHARE,
    Projection,
    by_point,
    kept,
    measured,
    not_hidden,
    project,
    resized,
)
from ssl3d.data.datasets.source import Camera
from ssl3d.data.errors import DataError
from ssl3d.data.geometry.threads import in_threads
from ssl3d.data.images import ImageFiles

Occlusion = Literal["none", "zbuffer", "depth"]
MOST_IMAGES = 1 << 15  # of a scan: their numbers are int16
_MIDDLE = (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which points an image shows; see ``camera`` for the tests."""

    occlusion: Occlusion = "none"
    min_depth: float = 1.0
    tolerance: float = DEPTH_TOLERANCE
    cell: int = ZBUFFER_CELL
    share: float = ZBUFFER_SHARE
    meters: float = ZBUFFER_METERS


@dataclass(frozen=True, slots=True)
class Pairs:
    """The P pairs of a scan with its I images, sorted by point, then image.

    Attributes:
        point: (P,) int32 row of the scan.
        image: (P,) int16 position among the images.
        uv: (P, 2) uint16 column and row of the pixel.
        depth: (P,) float32 meters along the optical axis.
        per_image: (I,) int64 pairs of each image.
        measured: rows of the scan that are a measurement.
        lost: images whose camera was lost (matrices that are not finite). untested: images without a depth map where
            depth decides. Neither has pairs.
        odd: images whose optical axis misses their middle: most likely they were resized without their calibration.
    """

    point: npt.NDArray[np.int32]
    image: npt.NDArray[np.int16]
    uv: npt.NDArray[np.uint16]
    depth: npt.NDArray[np.float32]
    per_image: npt.NDArray[np.int64]
    measured: int = 0
    lost: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.point)

    @property
    def paired(self) -> int:
        """Points with at least one pair."""
        return int(np.count_nonzero(np.diff(self.point))) + 1 if len(self.point) else 0


def pair_scan(
    points: npt.NDArray[np.float32],
    origin: npt.NDArray[np.float64],
    cameras: Sequence[Camera],
    files: ImageFiles,
    rule: Rule,
    threads: int = 1,
) -> Pairs:
    """The pairs of a scan.

    Args:
        points: (n, 3) float32 meters relative to ``origin``. Rows that are no measurement have no pairs: prepared
            scans keep them at (0, 0, 0).
        threads: that images are shared by; the result is the same for any number of them.

    Raises:
        DataError: an image is missing, damaged, or of another size than its calibration.
    """
    if len(cameras) > MOST_IMAGES:
        raise DataError(f"{len(cameras):,} images of one scan, {MOST_IMAGES:,} are the most", hint="use fewer frames")
    seen = in_threads(lambda camera: _visible(points, origin, camera, files, rule), cameras, threads)
    lost = [camera for camera in cameras if not _is_known(camera)]
    untested = [camera for camera in cameras if rule.occlusion == "depth" and not camera.depth]
    odd = [camera for camera in cameras if _is_known(camera) and _is_odd(camera)]
    notes = [tuple(camera.image for camera in noted) for noted in (lost, untested, odd)]
    with np.errstate(invalid="ignore"):
        measured = int(np.count_nonzero((points[:, 0] != 0) | (points[:, 1] != 0) | (points[:, 2] != 0)))
    return _joined(len(points), seen, measured, notes)


def check_size(camera: Camera, files: ImageFiles) -> None:
    """DataError for an image of another size than its calibration."""
    found = files.size(camera.image)
    if found != camera.size:
        raise DataError(
            f"an image has {found[0]} x {found[1]} pixels, its calibration is for {camera.size[0]} x {camera.size[1]}",
            where={"file": f"{files.root}/{camera.image}", "camera": camera.name},
            hint="put back the published image; or change the calibration too, and prepare the dataset again",
        )


def depth_lens(camera: Camera, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(3, 3) of the depth image, which has this size: its own, or the color image's in its size."""
    return resized(camera.intrinsic, camera.size, size) if camera.depth_intrinsic is None else camera.depth_intrinsic


def _visible(
    points: npt.NDArray[np.float32], origin: npt.NDArray[np.float64], camera: Camera, files: ImageFiles, rule: Rule
) -> Projection:
    check_size(camera, files)
    if rule.occlusion == "depth" and not camera.depth:
        return _nothing()
    seen = project(
        points,
        camera.extrinsic,
        camera.intrinsic,
        camera.size,
        origin=origin,
        min_depth=rule.min_depth,
        zero_is_none=True,
    )
    if rule.occlusion == "zbuffer":
        keep = not_hidden(seen, camera.size, cell=rule.cell, share=rule.share, meters=rule.meters)
        return kept(seen, keep)
    if rule.occlusion == "depth" and len(seen):
        image = files.depth(camera.depth)
        height, width = image.values.shape
        lens = depth_lens(camera, (width, height))
        keep = measured(points, seen, image, camera.extrinsic, lens, origin=origin, tolerance=rule.tolerance)
        return kept(seen, keep)
    return seen


def _is_known(camera: Camera) -> bool:
    return bool(np.isfinite(camera.extrinsic).all() and np.isfinite(camera.intrinsic).all())


def _is_odd(camera: Camera) -> bool:
    shares = camera.intrinsic[0, 2] / camera.size[0], camera.intrinsic[1, 2] / camera.size[1]
    return not all(_MIDDLE[0] <= share <= _MIDDLE[1] for share in shares)


def _nothing() -> Projection:
    return Projection(np.zeros(0, np.int32), np.zeros((0, 2), np.uint16), np.zeros(0, np.float32))


def _joined(points: int, seen: list[Projection], measured: int, notes: Sequence[tuple[str, ...]]) -> Pairs:
    parts, counts = seen or [_nothing()], np.array([len(part) for part in seen], np.int64)
    if len(parts) == 1:  # in order as it is
        (part,) = parts
        return Pairs(part.point, np.zeros(len(part), np.int16), part.uv, part.depth, counts, measured, *notes)
    order = by_point(points, parts)
    return Pairs(
        np.concatenate([part.point for part in parts])[order],
        np.repeat(np.arange(len(seen), dtype=np.int16), counts)[order],
        np.concatenate([part.uv for part in parts])[order],
        np.concatenate([part.depth for part in parts])[order],
        counts,
        measured,
        *notes,
    )
