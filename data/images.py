"""The images of a dataset, by the references of ``Camera``: files below its root, or frames of a ``.sens`` stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.camera import DepthImage
from ssl3d.data.datasets.kitti_files import image_size
from ssl3d.data.datasets.scannet_sens import SensIndex, read_sens
from ssl3d.data.datasets.source import Camera, SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.store import ShardReader

STREAM_STEP = 100
"""Every so many frames of a stream are used: neighbors show the same (ScanNet's subset of 25,000 frames does so)."""
_AGAIN = "mount the disk, or run your `ssl3d prepare` command again: views whose image is gone are left out"
_BROKEN = "copy or unpack the image again"


class ImageFiles:
    """Reads images. Picklable; keeps the index of the stream that was read last.

    Args:
        root: the folder that references are relative to.

    Raises (from every method):
        DataError: the image is missing or damaged; names the file.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)

    def size(self, reference: str) -> tuple[int, int]:
        """Width and height, from the head of the file."""
        if "#" in reference:
            index, _, _ = self._stream(reference)
            return index.color_size
        path = self._path(reference)
        size = image_size(path)
        return size if size is not None else _opened(path, None)

    def color(self, reference: str) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        if "#" in reference:
            index, _, frame = self._stream(reference)
            return index.read_color(frame)
        pixels: npt.NDArray[np.uint8] = _opened(self._path(reference), "RGB")
        return pixels

    def depth(self, reference: str) -> DepthImage:
        """A depth map. PNGs hold 16-bit millimeters."""
        if "#" in reference:
            index, _, frame = self._stream(reference)
            return DepthImage(index.read_depth(frame), index.depth_shift)
        path = self._path(reference)
        values = _opened(path, "depth")
        if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
            found = f"{values.dtype}, {'x'.join(map(str, values.shape))}"
            raise DataError("a depth map is not one 16-bit number a pixel", where={"file": path, "found": found})
        return DepthImage(values.astype(np.uint16))

    def _path(self, reference: str) -> str:
        path = os.path.join(self.root, reference)  # noqa: PTH118
        if not os.path.isfile(path):  # noqa: PTH113
            raise DataError("an image is missing", where={"file": path}, hint=_AGAIN)
        return path

    def _stream(self, reference: str) -> tuple[SensIndex, str, int]:
        path, _, place = reference.rpartition("#")
        kind, _, number = place.partition("/")
        file = SourceFile.find(Path(self.root) / path)
        if file is None:
            raise DataError("a stream of images is missing", where={"file": Path(self.root) / path}, hint=_AGAIN)
        index = _indexed(file)
        if kind not in ("color", "depth") or not number.isdecimal() or int(number) >= len(index):
            what = f"the stream has {len(index)} frames, and not this one"
            raise DataError(what, where={"file": file.path, "frame": place}, hint=_AGAIN)
        return index, kind, int(number)


def stored_cameras(cameras: ShardReader, position: int) -> list[Camera]:
    """The images of scan ``position``, as ``convert_unit`` has written them to ``<unit>.cameras.h5``."""
    names = ("name", "image", "size", "intrinsic", "extrinsic", "depth", "depth_intrinsic")
    rows = zip(*cameras.read_many(names, position).values(), strict=True)
    return [
        Camera(
            str(name),
            str(image),
            (int(size[0]), int(size[1])),
            intrinsic,
            extrinsic,
            str(depth),
            lens if np.isfinite(lens).all() else None,
        )
        for name, image, size, intrinsic, extrinsic, depth, lens in rows
    ]


def chosen_frames(references: Sequence[str], step: int = STREAM_STEP) -> list[int]:
    """Positions of the images to work with: frames of a stream whose number ``step`` divides; all exported images."""
    numbers = [reference.rpartition("/")[2] if "#" in reference else "" for reference in references]
    return [k for k, number in enumerate(numbers) if not number.isdecimal() or int(number) % step == 0]


@lru_cache(maxsize=2)
def _indexed(file: SourceFile) -> SensIndex:
    return read_sens(file)


def _opened(path: str, mode: str | None) -> Any:
    """Size of an image (``None``), its pixels (``RGB``), or its numbers as they are (``depth``)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if mode is None:
                return image.size
            return np.array(image if mode == "depth" else image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise DataError("an image is absurdly large", where={"file": path}, hint=_BROKEN) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise DataError(f"an image cannot be read: {error}", where={"file": path}, hint=_BROKEN) from error
