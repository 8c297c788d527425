"""Writing shards: see ``store.py`` for what they are."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import DISK_FULL, temporary_beside
from ssl3d.data.errors import DataError
from ssl3d.data.shard_format import PER_SCAN, ROLES_ATTR, SCHEMA_ATTR, SCHEMA_VERSION, Array, Place, check_lengths

_CHUNK_ROWS = 1 << 15


class _Sketch(io.RawIOBase):
    """Stands for the file before HDF5: keeps what it writes as a list of pieces, in memory.

    HDF5 may crash the process when a write of its own fails (full disk). So it writes here, where nothing fails, and
    the pieces, a few kilobytes of structure, are written to the disk by ``ShardWriter``.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytearray]] = []
        self.size = 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def write(self, data: Any) -> int:
        piece = bytes(data)
        if self.pieces and self.pieces[-1][0] + len(self.pieces[-1][1]) == self._at:
            self.pieces[-1][1].extend(piece)  # HDF5 writes what lies together one after the other
        else:
            self.pieces.append((self._at, bytearray(piece)))
        self._at += len(piece)
        self.size = max(self.size, self._at)
        return len(piece)

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        view[:] = bytes(len(view))
        for at, piece in self.pieces:
            begin, end = max(at, self._at), min(at + len(piece), self._at + len(view))
            if begin < end:
                view[begin - self._at : end - self._at] = piece[begin - at : end - at]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size


class ShardWriter:
    """Writes a shard whose array sizes are known beforehand, piece by piece, in constant memory (unless compressed).

    Used as a context manager: leaving it normally syncs and renames the file; leaving it by an exception removes it.

    Args:
        path: the final name.
        offsets: (S + 1,) int64, from 0 to N, not decreasing.
        arrays: name -> (shape, dtype); the first axis is N (per point) or S (per scan).
        per_scan: names of per-scan arrays; by default found from the lengths and ``PER_SCAN``.
        compress: None, ``lzf`` or ``gzip`` (smaller, and 5 to 25 times slower to read).
        sync: wait until the data is on the disk before renaming.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        offsets: npt.ArrayLike,
        arrays: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]],
        *,
        per_scan: Collection[str] | None = None,
        compress: str | None = None,
        sync: bool = True,
    ) -> None:
        self.path = Path(path)
        self.attrs: dict[str, Any] = {}
        self._sync = sync
        self._handle = -1
        self._temporary = temporary_beside(self.path)
        table = np.ascontiguousarray(offsets, np.int64)
        self._per_scan = _roles(table, arrays, per_scan)
        self._places = {"offsets": Place(table.shape, np.dtype("<i8"), None)}
        self._places |= {n: Place(tuple(shape), np.dtype(dtype), None) for n, (shape, dtype) in arrays.items()}
        self._bytes = sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in self._places.values())
        self._sketch = _Sketch()
        self._file = h5py.File(self._sketch, "w", libver=("v110", "v110"))
        for name, place in self._places.items():
            self._places[name] = _create(self._file, name, place, compress)
        with self._guard():
            self._handle = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self.write("offsets", table)

    def write(self, name: str, values: Array, start: int = 0) -> None:
        """Store ``values`` as the rows of ``name`` from ``start`` on."""
        place = self._places[name]
        data = np.ascontiguousarray(values, place.dtype)
        if data.shape[1:] != place.shape[1:] or start + len(data) > place.shape[0]:
            raise ValueError(f"{name}: {data.shape} rows from {start} do not fit into {place.shape}")
        if not data.size:
            return
        if place.at is None:
            self._file[name][start : start + len(data)] = data
        else:  # beside HDF5, into space that it has allocated: saves its locks and copies
            self._put(data.reshape(-1).view(np.uint8).data, place.at + start * (data.nbytes // len(data)))

    def _put(self, data: memoryview | bytes | bytearray, at: int) -> None:
        rest = memoryview(data)
        with self._guard():
            while rest:
                written = os.pwrite(self._handle, rest, at)
                at, rest = at + written, rest[written:]

    def close(self) -> None:
        """Write structure and attributes, sync, and give the file its name."""
        own = {SCHEMA_ATTR: SCHEMA_VERSION, ROLES_ATTR: ",".join(sorted(self._per_scan))}
        for name, value in {**self.attrs, **own}.items():
            # texts of variable length would lie in a heap without checksum, where damage can hang HDF5
            _set_attribute(self._file, name, np.bytes_(value.encode()) if isinstance(value, str) else value)
        self._file.close()
        for at, piece in self._sketch.pieces:
            self._put(piece, at)
        with self._guard():
            os.ftruncate(self._handle, self._sketch.size)
            if self._sync:
                os.fsync(self._handle)
            os.close(self._handle)
            self._handle = -1
            self._temporary.replace(self.path)

    def discard(self) -> None:
        """Give up: close and remove the temporary file."""
        self._file.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise _write_error(error, self.path, self._bytes) from error


def write_shard(
    path: Path | str,
    arrays: Mapping[str, npt.ArrayLike],
    attrs: Mapping[str, Any] | None = None,
    *,
    per_scan: Collection[str] | None = None,
    compress: str | None = None,
    sync: bool = True,
) -> None:
    """Write a shard from arrays in memory, ``offsets`` among them. Texts are stored as UTF-8. See ``ShardWriter``."""
    ready = {name: storable(np.asarray(values)) for name, values in arrays.items()}
    offsets = ready.pop("offsets")
    layout = {name: (values.shape, values.dtype) for name, values in ready.items()}
    with ShardWriter(path, offsets, layout, per_scan=per_scan, compress=compress, sync=sync) as writer:
        for name, values in ready.items():
            writer.write(name, values)
        writer.attrs.update(attrs or {})


def _roles(
    offsets: npt.NDArray[np.int64],
    arrays: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]],
    per_scan: Collection[str] | None,
) -> frozenset[str]:
    scans, points = len(offsets) - 1, int(offsets[-1])

    def is_per_scan(name: str, rows: int) -> bool:
        return name in PER_SCAN if scans == points else rows == scans

    roles = frozenset(
        per_scan if per_scan is not None else (n for n, (shape, _) in arrays.items() if is_per_scan(n, shape[0]))
    )
    check_lengths(offsets, {n: Place(tuple(s), np.dtype(d), None) for n, (s, d) in arrays.items()}, roles)
    return roles


def _create(file: h5py.File, name: str, place: Place, compress: str | None) -> Place:
    if compress is not None and 0 not in place.shape:
        chunk = (min(_CHUNK_ROWS, place.shape[0]), *place.shape[1:])
        file.create_dataset(
            name, place.shape, place.dtype, chunks=chunk, compression=compress, shuffle=True, fletcher32=True
        )
        return place
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)  # equal content, equal bytes
    kind = h5py.h5t.py_create(place.dtype, logical=True)
    data = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(place.shape), plist)
    return Place(place.shape, place.dtype, data.get_offset())


def _set_attribute(file: h5py.File, name: str, value: Any) -> None:
    """As ``file.attrs[name] = value`` of a new name, in a fifth of the time."""
    data = np.asarray(value)
    kind = h5py.h5t.py_create(data.dtype, logical=True)
    stored = h5py.h5t.py_create(data.dtype) if data.dtype == np.bool_ else kind
    h5py.h5a.create(file.id, name.encode(), kind, h5py.h5s.create_simple(data.shape)).write(data, mtype=stored)


def storable(values: Array) -> Array:
    """The array as it can be stored: texts as UTF-8 bytes of one length."""
    if values.dtype.kind == "U":
        values = np.char.encode(values, "utf-8")
    if values.dtype.kind == "S" and values.dtype.itemsize == 0:
        values = values.astype("S1")  # HDF5 has no empty text type
    return values


def _write_error(error: OSError, path: Path, size: int) -> DataError:
    if error.errno in DISK_FULL:
        return DataError(
            f"the disk is full: {size / 1e6:.0f} MB are needed for this file",
            where={"file": path},
            hint="free space or choose another disk by --workspace; the same command goes on where it stopped",
        )
    return DataError(
        f"cannot write a shard: {error.strerror or error}",
        where={"file": path},
        hint="check the folder and its permissions",
    )
