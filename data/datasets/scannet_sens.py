"""``.sens``: the RGB-D stream of a ScanNet scan (format of github.com/ScanNet/ScanNet, SensReader).

Frames are compressed and of varying length, so the file is indexed once by hopping from frame to frame; images are
read one at a time.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import check_unchanged, unreadable
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.errors import DataError

_VERSION = 4
_START, _CAMERAS, _FRAME = struct.Struct("<IQ"), struct.Struct("<64f2i4IfQ"), struct.Struct("<16f4Q")
_LONGEST_NAME = 1 << 12
_COLOR_RAW, _COLOR_PNG, _COLOR_JPEG = range(3)
_DEPTH_RAW, _DEPTH_ZLIB = range(2)
_LARGEST_IMAGE = 1 << 15
_BROKEN_IMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises."""
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SensIndex:
    """Everything in a ``.sens`` file but the images.

    Attributes:
        path: the file.
        intrinsic, extrinsic: (4, 4) float64 of the color camera; intrinsic_depth: of the depth camera.
        color_kind: 0 raw, 1 png, 2 jpeg. depth_kind: 0 raw, 1 zlib, 2 occi.
        color_size, depth_size: width and height.
        depth_shift: units of depth per meter.
        poses: (f, 4, 4) float64 camera to the frame of the mesh; not finite where the camera was lost.
        color, depth: (f, 2) int64 first byte and bytes of each image.
    """

    path: str
    intrinsic: F64
    extrinsic: F64
    intrinsic_depth: F64
    color_kind: int
    depth_kind: int
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    poses: F64
    color: I64
    depth: I64

    def __len__(self) -> int:
        return len(self.poses)

    def read_color(self, frame: int) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8. DataError when the image is damaged."""
        content = self._content(self.color, frame)
        width, height = self.color_size
        if self.color_kind == _COLOR_RAW:
            if len(content) != width * height * 3:
                raise self._damaged("a color image has the wrong length", frame)
            return np.frombuffer(content, np.uint8).reshape(height, width, 3).copy()
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.array(image.convert("RGB"))
        except _BROKEN_IMAGE as error:
            raise self._damaged("a color image is damaged", frame) from error
        except Image.DecompressionBombError as error:
            raise self._damaged("a color image is absurdly large", frame) from error
        if pixels.shape != (height, width, 3):
            raise self._damaged(f"a color image has {pixels.shape[1]} x {pixels.shape[0]} pixels", frame)
        return pixels

    def read_depth(self, frame: int) -> npt.NDArray[np.uint16]:
        """(height, width) uint16, in units of 1 / ``depth_shift`` meters, 0 = none. DataError when it is damaged."""
        content = self._content(self.depth, frame)
        width, height = self.depth_size
        if self.depth_kind not in (_DEPTH_RAW, _DEPTH_ZLIB):
            raise self._damaged("depth images are in the compression `occi`, which is not read", frame)
        try:
            content = zlib.decompress(content) if self.depth_kind == _DEPTH_ZLIB else content
        except zlib.error as error:
            raise self._damaged("a depth image is damaged", frame) from error
        if len(content) != width * height * 2:
            raise self._damaged("a depth image has the wrong length", frame)
        return np.frombuffer(content, "<u2").reshape(height, width).astype(np.uint16)

    def _content(self, place: I64, frame: int) -> bytes:
        begin, size = place[frame].tolist()
        try:
            with open(self.path, "rb") as stream:  # noqa: PTH123
                stream.seek(begin)
                content = stream.read(size)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if len(content) < size:
            raise self._damaged("the file ends within an image", frame)
        return content

    def _damaged(self, what: str, frame: int) -> DataError:
        return _damaged(self.path, what, frame=frame)


def read_sens(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> SensIndex:
    """Index a file; images are not read.

    Args:
        digest: takes the bytes that are read: the header and what stands before the images of each frame.

    Raises:
        DataError: it cannot be read, is no such file, or is truncated.
    """
    try:
        with open(file.path, "rb", buffering=0) as stream:  # noqa: PTH123
            check_unchanged(file, stream.seek(0, io.SEEK_END))
            stream.seek(0)
            return _read(_Reader(stream, file, digest))
    except OSError as error:
        raise unreadable(file.path, error) from error


def read_reference(root: Path | str, reference: str) -> npt.NDArray[Any]:
    """An image of ``Camera.image`` or ``Camera.depth`` of the form ``<path>.sens#color/12``.

    It indexes the file each time: for many images keep what ``read_sens`` gives.

    Raises:
        DataError: there is no such file or frame, or it is damaged.
    """
    path, _, place = reference.rpartition("#")
    kind, _, number = place.partition("/")
    file = SourceFile.find(Path(root) / path)
    if file is None or kind not in ("color", "depth") or not number.isdecimal():
        raise DataError("no such image", where={"root": root, "image": reference}, hint="prepare the dataset again")
    index = read_sens(file)
    if int(number) >= len(index):
        raise _damaged(file.path, f"the file has {len(index)} frames", frame=int(number))
    return index.read_color(int(number)) if kind == "color" else index.read_depth(int(number))


@dataclass(slots=True)
class _Reader:
    stream: BinaryIO | io.FileIO
    file: SourceFile
    digest: xxhash.xxh3_128 | None
    at: int = 0

    def take(self, size: int, what: str) -> bytes:
        self.stream.seek(self.at)
        content = self.stream.read(size) or b""
        if len(content) < size:
            raise _damaged(self.file.path, f"truncated: the file ends within {what}", byte=self.at)
        if self.digest is not None:
            self.digest.update(content)
        self.at += size
        return content


def _read(reader: _Reader) -> SensIndex:
    file = reader.file
    version, length = _START.unpack(reader.take(_START.size, "its header"))
    if version != _VERSION or length > _LONGEST_NAME:
        raise DataError(
            f"this is no .sens file of version {_VERSION}", where={"file": file.path, "field": f"version {version}"}
        )
    reader.take(length, "its header")
    *numbers, color_kind, depth_kind, cw, ch, dw, dh, shift, count = _CAMERAS.unpack(
        reader.take(_CAMERAS.size, "its header")
    )
    matrices = np.array(numbers).reshape(4, 4, 4)
    if count * _FRAME.size > file.size:
        raise _damaged(file.path, f"truncated, or its header is damaged: {count} frames in {file.size} bytes")
    kinds, sizes = (color_kind in range(3), depth_kind in range(3)), (cw, ch, dw, dh)
    lens = matrices[0][:3, :3]
    if not all(kinds) or not all(0 < size <= _LARGEST_IMAGE for size in sizes):
        raise _damaged(file.path, "its header is damaged", field="compression and size of images")
    if not np.isfinite(lens).all() or lens[0, 0] <= 0 or lens[1, 1] <= 0:
        raise _damaged(file.path, "its header is damaged", field="intrinsic matrix")
    poses, places = np.empty((count, 16)), np.empty((count, 2, 2), np.int64)
    for frame in range(count):
        *poses[frame], _, _, color, depth = _FRAME.unpack(reader.take(_FRAME.size, f"frame {frame} of {count}"))
        if reader.at + color + depth > file.size:
            raise _damaged(file.path, f"truncated: the file ends within frame {frame} of {count}", byte=reader.at)
        places[frame] = (reader.at, color), (reader.at + color, depth)
        reader.at += color + depth
    return SensIndex(
        path=file.path,
        intrinsic=matrices[0],
        extrinsic=matrices[1],
        intrinsic_depth=matrices[2],
        color_kind=color_kind,
        depth_kind=depth_kind,
        color_size=(cw, ch),
        depth_size=(dw, dh),
        depth_shift=shift,
        poses=poses.reshape(-1, 4, 4),
        color=places[:, 0],
        depth=places[:, 1],
    )


def _damaged(path: str, what: str, **where: object) -> DataError:
    return DataError(
        what,
        where={"file": path, **where},
        hint="the download was cut: download it again, or remove it to go on without images",
    )
