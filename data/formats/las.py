"""``.las``, ``.laz``: airborne recordings, through laspy (extra ``las``). Coordinates are scaled as the header says."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.errors import Ssl3dError
from ssl3d.data.formats.cloud import Options, Source, Table, native
from ssl3d.data.formats.fixed import truncated
from ssl3d.data.formats.laz_chunks import check_chunks
from ssl3d.data.formats.problems import beginning, damaged, no_points, wrong_magic

_RECORD_BYTES = 54
"""The least bytes of a variable length record (LAS 1.4, section 2.5)."""
HINT = "pip install 'ssl3d[las]'"


class LasSource(Source):
    """Points of a LAS or LAZ file: x, y, z, and every dimension of its point format by laspy's name."""

    def __init__(self, path: Path, size: int, laspy: Any) -> None:
        self._laspy = laspy
        with self._reading(path), laspy.open(str(path), read_evlrs=False) as reader:
            header = reader.header
            compressed = bool(header.are_points_compressed)
            count = int(header.point_count)
            columns = dict.fromkeys("xyz", np.dtype(np.float64))
            columns.update(
                {dim.name: _dtype(dim) for dim in header.point_format.dimensions if dim.name not in ("X", "Y", "Z")}
            )
            facts: dict[str, object] = {
                "version": str(header.version),
                "point_format": int(header.point_format.id),
                "compressed": compressed,
                "scales": tuple(float(scale) for scale in header.scales),
                "offsets": tuple(float(offset) for offset in header.offsets),
                "mins": tuple(float(value) for value in header.mins),
                "maxs": tuple(float(value) for value in header.maxs),
                "software": str(header.generating_software).strip("\0 "),
            }
            held = max(0, size - int(header.offset_to_point_data)) // int(header.point_format.size)
        if compressed and not laspy.LazBackend.Lazrs.is_available():
            raise Ssl3dError("reading .laz files needs the package lazrs", where={"file": path}, hint=HINT)
        if count == 0:
            raise no_points(path)
        if compressed:
            with self._reading(path):
                check_chunks(path, size, header)
        if not compressed and held < count:
            raise truncated(path, held, count, "points")
        super().__init__(path, "las", columns, count, facts)

    @contextmanager
    def _reading(self, path: Path, done: int = 0) -> Iterator[None]:
        try:
            yield
        except Ssl3dError:
            raise
        except BaseException as error:  # laspy raises what it likes; a panic of Rust is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise damaged(path, f"the file is damaged: {error}", "copy it again", after_point=done) from error

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        total, count = 0, self.count or 0
        with self._reading(self.path):
            backend = self._laspy.LazBackend.Lazrs  # the parallel one takes memory for chunks as long as a header says
            reader = self._laspy.open(str(self.path), read_evlrs=False, laz_backend=backend)
        with reader:
            while total < count:
                with self._reading(self.path, total):
                    points = reader.read_points(min(chunk, count - total))
                    with np.errstate(all="ignore"):
                        table = {name: native(np.asarray(points[name])) for name in names}
                    rows = len(points)
                if rows == 0:
                    raise truncated(self.path, total, count, "points")
                total += rows
                yield table
        if total < count:
            raise truncated(self.path, total, count, "points")


def _dtype(dimension: Any) -> np.dtype[Any]:
    """The dtype that laspy gives a dimension in."""
    if dimension.is_scaled:
        number = np.dtype(np.float64)
        return number if dimension.num_elements == 1 else np.dtype((number, (dimension.num_elements,)))
    return np.dtype(np.uint8) if dimension.dtype is None else dimension.dtype  # None: a field of bits


def _check_records(path: Path, size: int) -> None:
    """DataError when the header promises more records than there is room for: laspy would look for all of them."""
    head = beginning(path, 104)
    if len(head) < 104:
        raise damaged(path, f"the file is truncated: its header alone is longer than {size} bytes", "copy it again")
    header_bytes, points_at, records = struct.unpack_from("<HII", head, 94)
    if points_at > size or header_bytes + _RECORD_BYTES * records > points_at:
        what = f"the header is damaged: {records} records before the points, which begin at byte {points_at} of {size}"
        raise damaged(path, what, "copy it again", byte=96)


def open_las(path: Path, size: int, options: Options) -> Source:
    """A LAS or LAZ file.

    Raises:
        Ssl3dError: laspy is not installed.
        DataError: it is damaged or holds no points.
    """
    if not beginning(path).startswith(b"LASF"):
        raise wrong_magic(path, "LAS", b"LASF")
    _check_records(path, size)
    try:
        import laspy
    except ImportError:
        raise Ssl3dError(
            "reading .las and .laz files needs the package laspy", where={"file": path}, hint=HINT
        ) from None
    return LasSource(path, size, laspy)
