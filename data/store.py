"""Shards: ragged arrays of several scans, concatenated in one HDF5 file.

A shard holds ``offsets`` (S + 1) int64 and arrays that are either *per point* (N rows, scan i is
``offsets[i]:offsets[i + 1]``) or *per scan* (S rows). Three choices make it quick and hard to break:

- arrays are contiguous and uncompressed unless asked otherwise, so a scan is read with one ``pread`` at the array's
  place in the file, past HDF5 and its global lock; nothing stays open between reads, so readers can be pickled, forked
  and used from threads, and thousands of shards need no file handles;
- the file uses HDF5's 1.10 format, whose metadata blocks carry checksums: a damaged structure is found by HDF5 and
  reported as ``DamagedShard``. Older layouts are refused, since HDF5 may crash on damaged ones;
- a shard is written under a temporary name, synced and renamed: a file with the right name is whole.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.data.shard_format import (
    CHECKSUMMED_SUPERBLOCKS,
    REBUILD,
    ROLES_ATTR,
    SCHEMA_ATTR,
    SCHEMA_VERSION,
    SIGNATURE,
    Array,
    DamagedShard,
    Place,
    check_lengths,
)
from ssl3d.data.shard_writer import ShardWriter, write_shard

__all__ = ["SCHEMA_VERSION", "DamagedShard", "ShardReader", "ShardWriter", "write_shard"]


@dataclass(frozen=True, slots=True)
class _Index:
    stamp: tuple[int, int, int]
    offsets: npt.NDArray[np.int64]
    places: dict[str, Place]
    per_scan: frozenset[str]
    attrs: dict[str, Any]


class ShardReader:
    """Reads scans from a shard. Opens nothing until asked; safe to pickle, fork, and share between threads.

    Raises (from every method that looks into the file):
        DamagedShard: the file is cut, overwritten or not a shard.
        DataError: it is missing, unreadable, or of a newer schema.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._name = os.fspath(path)
        self._index: _Index | None = None

    def __repr__(self) -> str:
        return f"ShardReader({self._name!r})"

    def __getstate__(self) -> str:
        return self._name

    def __setstate__(self, name: str) -> None:
        self.__init__(name)  # type: ignore[misc]

    def __len__(self) -> int:
        """Number of scans."""
        return len(self.offsets) - 1

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(S + 1,) int64, read-only."""
        return self._load().offsets

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays (without ``offsets``)."""
        return tuple(self._load().places)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the file: text, numbers, small arrays."""
        return dict(self._load().attrs)

    def __contains__(self, name: object) -> bool:
        return name in self._load().places

    def is_per_scan(self, name: str) -> bool:
        return name in self._load().per_scan

    def read(self, name: str, index: int) -> Array:
        """Array ``name`` of scan ``index``: (n, ...) where it is per point, one row (...) where it is per scan."""
        (values,) = self._read((name,), index)
        return values

    def read_many(self, names: Collection[str], index: int) -> dict[str, Array]:
        """Several arrays of scan ``index``, opening the file once."""
        return dict(zip(names, self._read(names, index), strict=True))

    def array(self, name: str) -> Array:
        """The whole array ``name``, all scans. Texts come as a str array."""
        load = self._load()
        if name == "offsets":
            return load.offsets.copy()
        place = self._place(load, name)
        with self._opened(load) as handle, self._translated():
            return _text(self._rows(handle, name, place, 0, place.shape[0]))

    def _read(self, names: Collection[str], index: int) -> list[Array]:
        load = self._load()
        count = len(load.offsets) - 1
        if not -count <= index < count:
            raise IndexError(f"scan {index} of {count} in {self._name}")
        index %= count
        begin, end = load.offsets[index : index + 2].tolist()
        places = [self._place(load, name) for name in names]
        values = []
        with self._opened(load) as handle, self._translated():
            for name, place in zip(names, places, strict=True):
                if name in load.per_scan:
                    values.append(_text(self._rows(handle, name, place, index, index + 1))[0])
                else:
                    values.append(_text(self._rows(handle, name, place, begin, end)))
        return values

    def _place(self, load: _Index, name: str) -> Place:
        try:
            return load.places[name]
        except KeyError:
            raise KeyError(f"{self._name} has no {name!r}; it has {', '.join(load.places)}") from None

    def _rows(self, handle: int, name: str, place: Place, begin: int, end: int) -> Array:
        if place.at is None:
            with h5py.File(self._name, "r", locking=False) as file:
                stored: Array = file[name][begin:end]
                return stored
        values = np.empty((end - begin, *place.shape[1:]), place.dtype)
        if values.nbytes:
            at = place.at + begin * (values.nbytes // (end - begin))
            _read_into(handle, values, at, self._name)
        # a flipped byte must not make a bool that is neither
        return values.view(np.uint8) != 0 if place.dtype == np.bool_ else values

    def _load(self) -> _Index:
        if self._index is None:
            with self._translated():
                self._index = _open_index(self._name)
        return self._index

    @contextmanager
    def _opened(self, load: _Index) -> Iterator[int]:
        """A handle for the length of one read, on the very file that was indexed."""
        with self._translated():
            handle = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _stamp(os.fstat(handle)) != load.stamp:
                raise DataError(
                    "a shard changed while it was in use",
                    where={"file": self._name},
                    hint="another process rebuilt it: start the command again",
                )
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError("a shard is missing", where={"file": self._name}, hint=REBUILD) from None
        except PermissionError:
            raise DataError(
                "a shard may not be read", where={"file": self._name}, hint="check its permissions"
            ) from None
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
            raise DamagedShard(f"a shard is damaged: {error}", where={"file": self._name}, hint=REBUILD) from error


def _open_index(path: str) -> _Index:
    status = os.stat(path)  # noqa: PTH116  a str, thousands of times
    with open(path, "rb") as raw:  # noqa: PTH123
        head = raw.read(len(SIGNATURE) + 1)
    if head[:-1] != SIGNATURE or head[-1] not in CHECKSUMMED_SUPERBLOCKS:
        raise ValueError("not an HDF5 file of the kind that ssl3d writes")
    with h5py.File(path, "r", locking=False) as file:
        attrs = {name: _plain(value) for name, value in file.attrs.items()}
        schema = attrs.pop(SCHEMA_ATTR, None)
        if schema is None:
            raise ValueError("not a shard of ssl3d")
        if int(schema) > SCHEMA_VERSION:
            raise DataError(
                f"a shard has schema {schema}, this ssl3d reads up to {SCHEMA_VERSION}",
                where={"file": path},
                hint="it was written by a newer ssl3d: pip install -U ssl3d, or prepare into another --workspace",
            )
        per_scan = frozenset(filter(None, str(attrs.pop(ROLES_ATTR)).split(",")))
        places = {name: _place_of(name, data, status.st_size) for name, data in file.items()}
        offsets = np.asarray(file["offsets"][...], np.int64)
    del places["offsets"]
    check_lengths(offsets, places, per_scan)
    offsets.flags.writeable = False
    return _Index(_stamp(status), offsets, places, per_scan, attrs)


def _place_of(name: str, data: h5py.Dataset | None, file_size: int) -> Place:
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"the array {name} cannot be opened")
    at = data.id.get_offset() if data.chunks is None else None
    size = int(np.prod(data.shape)) * data.dtype.itemsize
    if at is not None and at + size > file_size:
        raise ValueError(f"{name} ends at byte {at + size} of {file_size}")
    if data.chunks is None and size == 0:
        at = 0  # HDF5 gives no place to an array without rows
    return Place(tuple(data.shape), data.dtype, at)


def _read_into(handle: int, values: Array, at: int, path: str) -> None:
    rest = values.reshape(-1).view(np.uint8).data
    while rest:
        got = os.preadv(handle, [rest], at)
        if got <= 0:
            raise DamagedShard(f"a shard ends at byte {at}", where={"file": path}, hint=REBUILD)
        at, rest = at + got, rest[got:]


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _text(values: Array) -> Array:
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def _plain(value: Any) -> Any:
    if isinstance(value, np.bytes_):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
