"""``.npy`` and ``.npz``: arrays of numbers, rows as points; and which of several named arrays hold what."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ssl3d.data.formats.cloud import Array, Options, Source, Table, native
from ssl3d.data.formats.fixed import FixedSource, row_dtype, truncated
from ssl3d.data.formats.problems import beginning, damaged, no_points, wrong_magic

POINT_ARRAYS = ("points", "point", "xyz", "pos", "position", "positions", "coord", "coords", "coordinates", "vertices")
"""Names under which arrays of points circulate."""
_MAGIC = b"\x93NUMPY"
_BAD_ARCHIVE = (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error)
_MOST_COLUMNS = 10_000
Shape = tuple[int, ...]
Kinds = Mapping[str, tuple[Shape, np.dtype[Any]]]


def open_npy(path: Path, size: int, options: Options) -> Source:
    """(n, c) numbers, (n,) numbers, (n,) of a structured dtype, or (h, w, c): h * w rows.

    Raises:
        DataError: it is no array, of Python objects, of another shape, or truncated.
    """
    if not beginning(path).startswith(_MAGIC):
        raise wrong_magic(path, ".npy", _MAGIC)
    with path.open("rb") as handle:
        shape, fortran, dtype = _npy_header(path, handle)
        offset = handle.tell()
    if dtype.names is None:
        width = shape[-1] if len(shape) > 1 else 1
        if not 1 <= len(shape) <= 3 or width == 0:
            raise damaged(path, f"an array of shape {shape} holds no rows of points", "store (points, columns)")
        names = _names_of_width(path, width, options)
        count = int(np.prod(shape, dtype=np.int64)) // width
        fields: list[tuple[str, Any]] = [(name, dtype) for name in names]
    else:
        fields = [(name, dtype[name]) for name in dtype.names]
        count = int(np.prod(shape, dtype=np.int64))
    for name, number in fields:
        check_numbers(path, name, number)
    facts: dict[str, object] = {"shape": shape, "dtype": dtype.str if dtype.names is None else str(dtype)}
    rows = dtype if dtype.names is not None else row_dtype(path, fields)
    if fortran and len(shape) > 1:
        return _FortranSource(path, rows, count, offset, facts, shape, dtype)
    return FixedSource(path, "npy", rows, count, offset, facts)


class _FortranSource(FixedSource):
    """An array stored column by column: a column's part of a block is read where it stands."""

    def __init__(
        self,
        path: Path,
        rows: np.dtype[Any],
        count: int,
        offset: int,
        facts: dict[str, object],
        shape: Shape,
        number: np.dtype[Any],
    ) -> None:
        super().__init__(path, "npy", rows, count, offset, facts)
        if len(shape) > 2:
            raise damaged(path, "an image of points is stored column by column", "store it with order='C'")
        self.number = number

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        count, order = self.count or 0, list(self.columns)
        with self.path.open("rb") as handle:
            for start in range(0, count, chunk):
                rows = min(chunk, count - start)
                table = {}
                for name in names:
                    handle.seek(self.offset + (order.index(name) * count + start) * self.number.itemsize)
                    table[name] = native(np.fromfile(handle, self.number, rows))
                yield table


def _npy_header(path: Path, handle: IO[bytes], **where: object) -> tuple[Shape, bool, np.dtype[Any]]:
    """Shape, whether stored column by column, and dtype; the handle then stands at the first number."""
    try:
        version = npy.read_magic(handle)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(handle)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, zlib.error, tokenize.TokenError) as error:
        raise damaged(path, f"the header of an array is damaged: {error}", "copy it again", **where) from error
    if any(length < 0 for length in shape):
        raise damaged(path, f"the header of an array states the shape {shape}", "copy it again", **where)
    if dtype.hasobject:
        raise damaged(path, "an array holds Python objects, not numbers", "save it as numbers", **where)
    return shape, fortran, dtype


def check_numbers(path: Path, name: str, dtype: np.dtype[Any]) -> None:
    """DataError unless a column holds numbers."""
    if dtype.base.kind not in "fiub":
        raise damaged(path, f"a column holds no numbers but {dtype}", "save it as numbers", column=name)


def _names_of_width(path: Path, width: int, options: Options) -> list[str]:
    """Names of the columns of an (n, width) array."""
    if width > _MOST_COLUMNS:
        raise damaged(path, f"an array of {width} columns holds no rows of points", "store (points, columns)")
    if options.names and len(options.names) != width:
        raise damaged(path, f"the array has {width} columns, {len(options.names)} are named", "name all of them")
    named = ["x", "y", "z"] if width >= 3 else []
    return list(options.names) or named + [f"column{number}" for number in range(len(named) + 1, width + 1)]


class Places:
    """Which array, and which of its columns, each column of the file is.

    Attributes:
        columns: name -> dtype.
        places: name -> (key of the array, its column; None: the array itself).
        count: rows.
        others: keys of arrays that have another number of rows.
    """

    def __init__(self, path: Path, kinds: Kinds, options: Options) -> None:
        self.columns: dict[str, np.dtype[Any]] = {}
        self.places: dict[str, tuple[str, int | str | None]] = {}
        if not kinds:
            raise damaged(path, "the file holds no arrays")
        key = options.dataset or _points_key(path, kinds)
        if key not in kinds:
            raise damaged(path, f"there is no array {key!r}", f"it holds {', '.join(kinds)}")
        shape, dtype = kinds[key]
        if not 1 <= len(shape) <= 2:
            raise damaged(path, f"an array of shape {shape} holds no rows of points", dataset=key)
        self.count = shape[0]
        if self.count == 0:
            raise no_points(path)
        self._add_main(path, key, shape, dtype, options)
        folder = key.rpartition("/")[0]
        self.others = []
        for name, (shape, dtype) in kinds.items():
            if name == key:
                continue
            if len(shape) not in (1, 2) or shape[0] != self.count or dtype.kind not in "fiub" or 0 in shape:
                self.others.append(name)
                continue
            short = name.removeprefix(folder + "/") if folder else name
            short = name if short in self.columns else short
            single = len(shape) == 1
            self.columns[short] = native_dtype(dtype, () if single or shape[1] == 1 else shape[1:])
            self.places[short] = (name, None)

    def _add_main(self, path: Path, key: str, shape: Shape, dtype: np.dtype[Any], options: Options) -> None:
        if dtype.names is not None:
            for field in dtype.names:
                check_numbers(path, field, dtype[field])
                self.columns[field] = native_dtype(dtype[field].base, dtype[field].shape)
                self.places[field] = (key, field)
            return
        check_numbers(path, key, dtype)
        if len(shape) == 1:
            name = options.names[0] if len(options.names) == 1 else key.rpartition("/")[2]
            self.columns[name], self.places[name] = native_dtype(dtype), (key, None)
            return
        for column, name in enumerate(_names_of_width(path, shape[1], options)):
            self.columns[name], self.places[name] = native_dtype(dtype), (key, column)

    def table(self, names: Sequence[str], arrays: Mapping[str, Array]) -> Table:
        """The named columns of rows of the arrays that they need."""
        table = {}
        for name in names:
            key, part = self.places[name]
            rows = arrays[key]
            if part is None:
                values = rows[:, 0] if rows.ndim == 2 and self.columns[name].shape == () else rows
            else:
                values = rows[part] if isinstance(part, str) else rows[:, part]
            table[name] = native(values)
        return table

    def keys(self, names: Sequence[str]) -> list[str]:
        """The arrays that the named columns need."""
        return list(dict.fromkeys(self.places[name][0] for name in names))


def native_dtype(dtype: np.dtype[Any], shape: Shape = ()) -> np.dtype[Any]:
    """The dtype in the machine's byte order, for columns of several numbers with their shape."""
    return np.dtype((dtype.newbyteorder("="), shape)) if shape else dtype.newbyteorder("=")


def _points_key(path: Path, kinds: Kinds) -> str:
    """The array that holds the points."""
    wide = [key for key, (shape, dtype) in kinds.items() if dtype.names or (len(shape) == 2 and shape[1] >= 3)]
    named = [key for key in wide if key.rpartition("/")[2].lower() in POINT_ARRAYS]
    lower = {key.lower(): key for key in kinds}
    if not named and all(axis in lower for axis in "xyz"):
        return lower["x"]
    real = [key for key in wide if kinds[key][1].names or kinds[key][1].kind == "f"]
    for found in (named, real, wide, list(kinds)):
        if len(found) == 1:
            return found[0]
        if found:
            raise damaged(path, "several arrays may hold the points", f"name one of them: {', '.join(found)}")
    raise no_points(path)


class NpzSource(Source):
    """Arrays of an .npz file, read block by block, but for those stored column by column."""

    def __init__(self, path: Path, options: Options) -> None:
        self.members: dict[str, tuple[Shape, bool, np.dtype[Any]]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        with archive.open(member) as handle:
                            self.members[member[:-4]] = _npy_header(path, handle, dataset=member[:-4])
        except _BAD_ARCHIVE as error:
            raise damaged(path, f"the archive is damaged: {error}", "copy it again") from error
        kinds = {key: (shape, dtype) for key, (shape, _, dtype) in self.members.items()}
        self.layout = Places(path, kinds, options)
        facts: dict[str, object] = {"others": self.layout.others}
        super().__init__(path, "npz", self.layout.columns, self.layout.count, facts)

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        keys = self.layout.keys(names)
        count = self.layout.count
        try:
            with ExitStack() as stack:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                handles = {key: stack.enter_context(archive.open(f"{key}.npy")) for key in keys}
                for key in keys:
                    _npy_header(self.path, handles[key], dataset=key)
                whole = {key: self._fortran(key, handles[key]) for key in keys if self.members[key][1]}
                for start in range(0, count, chunk):
                    rows = min(chunk, count - start)
                    arrays = {
                        key: whole[key][start : start + rows] if key in whole else self._read(key, handles[key], rows)
                        for key in keys
                    }
                    yield self.layout.table(names, arrays)
        except _BAD_ARCHIVE as error:
            raise damaged(self.path, f"the archive is damaged: {error}", "copy it again") from error

    def _read(self, key: str, handle: IO[bytes], rows: int) -> Array:
        shape, _, dtype = self.members[key]
        needed = rows * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        data = handle.read(needed)
        if len(data) < needed:
            raise truncated(self.path, len(data), needed, f"bytes of array {key!r}")
        return np.frombuffer(data, dtype).reshape(rows, *shape[1:])

    def _fortran(self, key: str, handle: IO[bytes]) -> Array:
        """A whole array that is stored column by column."""
        shape, _, dtype = self.members[key]
        data = handle.read()
        needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(data) != needed:
            raise truncated(self.path, len(data), needed, f"bytes of array {key!r}")
        return np.frombuffer(data, dtype).reshape(shape, order="F")


def open_npz(path: Path, size: int, options: Options) -> Source:
    """The arrays of an archive that have as many rows as the points. DataError when it is damaged."""
    if not beginning(path).startswith(b"PK"):
        raise wrong_magic(path, ".npz", b"PK")
    return NpzSource(path, options)
