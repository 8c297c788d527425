"""Images of a ScanNet scan with the poses of their camera: exported folders, or the ``.sens`` stream itself.

Folders are ``color``, ``depth``, ``pose`` and ``intrinsic`` of a scan, or those of ``scannet_frames_25k/<scan>``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.camera import resized
from ssl3d.data.datasets.raw import read_bytes
from ssl3d.data.datasets.root import list_folder
from ssl3d.data.datasets.scannet_sens import read_sens
from ssl3d.data.datasets.source import Camera, SourceFile
from ssl3d.data.errors import DataError

LOST = "camera frames without a pose (the camera was lost), left out"
SUBSET = "scannet_frames_25k"
_NUMBER = re.compile(r"\d+")
_INTRINSIC = ("intrinsic/intrinsic_{}.txt", "intrinsics_{}.txt")
_IMAGES = (".jpg", ".jpeg", ".png")
F64 = npt.NDArray[np.float64]


class FrameFolder(NamedTuple):
    """An export as it was found: the folder, and its poses summed up, so that changes are noticed."""

    path: str
    poses: int
    bytes: int
    newest: int


@dataclass(slots=True)
class Frames:
    """Cameras of a scan, and how many frames were left out because nobody knows where the camera was."""

    cameras: list[Camera]
    lost: int


def find_frames(folder: Path) -> FrameFolder | None:
    """An export with poses and images; None where there is none. DataError when it may not be read."""
    poses, color = list_folder(folder / "pose"), folder / "color"
    if poses is None or not color.is_dir():
        return None
    stamps = [file.stamp for name, file in poses.files.items() if name.endswith(".txt")]
    if not stamps:
        return None
    return FrameFolder(str(folder), len(stamps), sum(s[0] for s in stamps), max(s[1] for s in stamps))


def exported_frames(
    found: FrameFolder, root: Path, sizes: Mapping[str, str], digest: xxhash.xxh3_128 | None = None
) -> Frames:
    """The images of an export.

    Args:
        root: what paths are relative to.
        sizes: what ``<scan>.txt`` says; the images may have been made smaller than ``colorWidth`` x ``colorHeight``.

    Raises:
        DataError: a pose or the intrinsic matrix is damaged or missing, or the first image cannot be opened.
    """
    folder = Path(found.path)
    images, depths = _numbered(folder / "color", _IMAGES), _numbered(folder / "depth", (".png",))
    poses = _numbered(folder / "pose", (".txt",))
    frames = [number for number in poses if number in images]
    if not frames:
        raise DataError(
            "no pose belongs to an image", where={"folder": folder}, hint="export color/ and pose/ of the same frames"
        )
    size = _image_size(images[frames[0]])
    lens = _intrinsic(folder, "color", digest)
    if lens is None:
        raise DataError(
            "frames were exported without the intrinsic matrix of their camera",
            where={"folder": folder, "field": _INTRINSIC[0].format("color")},
            hint="export the intrinsics too, or move the frames elsewhere to go on without images",
        )
    intrinsic, depth_lens = _scaled(lens, sizes, size, "color"), None
    if depths and (lens := _intrinsic(folder, "depth", digest)) is not None:
        depth_lens = _scaled(lens, sizes, _image_size(next(iter(depths.values()))), "depth")
    cameras, lost = [], 0
    for number in frames:
        pose = read_matrix(poses[number], digest)
        if not np.isfinite(pose).all():
            lost += 1
            continue
        depth = _relative(depths[number].path, root) if number in depths else ""
        image = _relative(images[number].path, root)
        extrinsic = _inverse(pose, poses[number].path)
        cameras.append(
            Camera(Path(image).stem, image, size, intrinsic, extrinsic, depth, depth_lens if depth else None)
        )
    return Frames(cameras, lost)


def sens_frames(file: SourceFile, root: Path, digest: xxhash.xxh3_128 | None = None) -> Frames:
    """The images of a stream; ``Camera.image`` is ``<path>.sens#color/<frame>`` (see ``read_reference``).

    Raises:
        DataError: the file is damaged.
    """
    index = read_sens(file, digest)
    path, intrinsic = _relative(file.path, root), index.intrinsic[:3, :3]
    depth_lens = index.intrinsic_depth[:3, :3] if _is_lens(index.intrinsic_depth) else None
    good: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(index.poses.reshape(-1, 16)), axis=1)
    cameras = [
        Camera(
            str(frame),
            f"{path}#color/{frame}",
            index.color_size,
            intrinsic,
            _inverse(index.poses[frame], file.path, frame),
            f"{path}#depth/{frame}",
            depth_lens,
        )
        for frame in np.flatnonzero(good).tolist()
    ]
    return Frames(cameras, int(len(good) - np.count_nonzero(good)))


def read_matrix(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> F64:
    """(4, 4) float64 of a text file with 16 numbers, or 9 (padded). DataError for any other."""
    content = read_bytes(file, digest).decode("utf-8", "replace")
    matrix = parse_matrix(content.split())
    if matrix is None:
        raise DataError(
            "a text file of a camera is not a matrix of 4 x 4 numbers",
            where={"file": file.path, "found": content[:60]},
            hint="export the frames again",
        )
    return matrix


def parse_matrix(words: Sequence[str]) -> F64 | None:
    """(4, 4) float64 of 16 or 9 words in rows; None when they are no numbers."""
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return None
    if len(numbers) not in (9, 16):
        return None
    side = 3 if len(numbers) == 9 else 4
    matrix = np.eye(4)
    matrix[:side, :side] = numbers.reshape(side, side)
    return matrix


def _numbered(folder: Path, suffixes: Sequence[str]) -> dict[int, SourceFile]:
    """Frame number -> file, in rising order."""
    listing = list_folder(folder)
    if listing is None:
        return {}
    found = {}
    for name, file in listing.files.items():
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() in suffixes and _NUMBER.fullmatch(stem):
            found[int(stem)] = file
    return dict(sorted(found.items()))


def _intrinsic(folder: Path, kind: str, digest: xxhash.xxh3_128 | None) -> F64 | None:
    """(3, 3) of the ``color`` or ``depth`` camera; None where it was not exported."""
    file = next(filter(None, (SourceFile.find(folder / name.format(kind)) for name in _INTRINSIC)), None)
    if file is None:
        return None
    matrix: F64 = read_matrix(file, digest)[:3, :3]
    if not _is_lens(matrix):
        raise DataError("the intrinsic matrix is damaged", where={"file": file.path}, hint="export it again")
    return matrix


def _is_lens(matrix: F64) -> bool:
    return bool(np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0)


def _image_size(file: SourceFile) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(file.path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            "an image cannot be opened", where={"file": file.path}, hint="export the frames again"
        ) from error


def _scaled(intrinsic: F64, sizes: Mapping[str, str], size: tuple[int, int], kind: str) -> F64:
    """The matrix for images that were made smaller than ``<kind>Width`` x ``<kind>Height``."""
    names = (f"{kind}Width", f"{kind}Height")
    width, height = (
        int(sizes[name]) if sizes.get(name, "").isdecimal() else found for name, found in zip(names, size, strict=True)
    )
    return resized(intrinsic, (width, height), size)


def _inverse(pose: F64, path: str, frame: int | None = None) -> F64:
    try:
        inverse: F64 = np.linalg.inv(pose).astype(np.float64)
    except np.linalg.LinAlgError:
        where = {"file": path, **({} if frame is None else {"frame": frame})}
        raise DataError("the pose of a camera has no inverse", where=where, hint="export the frames again") from None
    return inverse


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")
