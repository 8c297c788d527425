"""Reading loose files by their suffix: as clouds, or as plain columns (labels, for instance)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import xxhash

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats.cloud import ROWS, Array, Cloud, Options, Source, Table
from ssl3d.data.formats.problems import damaged, file_size, no_points
from ssl3d.data.text import nearest

_OPENERS = {
    **dict.fromkeys((".bin", ".label"), ("raw", "open_raw")),
    ".npy": ("arrays", "open_npy"),
    ".npz": ("arrays", "open_npz"),
    ".ply": ("ply", "open_ply"),
    ".pcd": ("pcd", "open_pcd"),
    **dict.fromkeys((".las", ".laz"), ("las", "open_las")),
    **dict.fromkeys((".txt", ".csv", ".xyz", ".asc", ".pts", ".tsv"), ("text", "open_text")),
    **dict.fromkeys((".h5", ".hdf5"), ("hdf5", "open_hdf5")),
    **dict.fromkeys((".pkl", ".pickle", ".pkl.gz"), ("frames", "open_frame")),
}
SUFFIXES = tuple(_OPENERS)
"""Suffixes, in any case, of the files that are read."""


def split_suffix(path: str) -> tuple[str, str]:
    """A path without its suffix, and the suffix in lower case; ``.pkl.gz`` is one."""
    stem, suffix = os.path.splitext(path)  # noqa: PTH122
    if suffix.lower() == ".gz" and stem.lower().endswith(".pkl"):
        stem, suffix = stem[:-4], path[-7:]
    return stem, suffix.lower()


def inspect(path: Path | str, options: Options | None = None) -> Source:
    """Opens a file and reads its header: format, columns, number of rows.

    Raises:
        UsageError: its suffix is unknown.
        DataError: it cannot be read, or its header is damaged; empty files and such without points too.
        Ssl3dError: a package that reads it is not installed.
    """
    path = Path(path)
    opener = _OPENERS.get(split_suffix(path.name)[1])
    if opener is None:
        raise UsageError(
            f"unknown suffix {path.suffix!r} of a file of points",
            where={"file": path},
            hint=f"known: {' '.join(SUFFIXES)}",
        )
    size = file_size(path)
    module, name = opener
    open_source: Callable[[Path, int, Options], Source]
    open_source = getattr(import_module(f"ssl3d.data.formats.{module}"), name)
    return open_source(path, size, options or Options())


def read_cloud(path: Path | str, options: Options | None = None, *, columns: Sequence[str] | None = None) -> Cloud:
    """A whole file, faces and edges included.

    Args:
        path: the file.
        options: what the file does not say of itself.
        columns: names of those to read besides the coordinates; None: all.

    Raises:
        DataError: as ``inspect``, while reading too; a column is not there.
    """
    options = options or Options()
    source = inspect(path, options)
    whole = _joined(list(_clouds(source, columns, ROWS, options)))
    whole.mesh = source.mesh()
    return whole


def read_blocks(
    path: Path | str, options: Options | None = None, rows: int = ROWS, *, columns: Sequence[str] | None = None
) -> Iterator[Cloud]:
    """The points of a file, at most ``rows`` at a time, in the stored order. Faces and edges are left out.

    Memory is bounded by ``rows``, but for compressed .pcd files and .npz arrays stored column by column.

    Args, Raises:
        as ``read_cloud``. UsageError: ``rows`` is not positive.
    """
    options = options or Options()
    return _clouds(inspect(path, options), columns, rows, options)


def read_table(path: Path | str, options: Options | None = None, *, columns: Sequence[str] | None = None) -> Table:
    """The columns of a whole file, whatever they are: labels, for instance.

    Args, Raises: as ``read_cloud``; ``columns`` are all columns to read.
    """
    tables = list(table_blocks(path, options, columns=columns))
    return {name: _concatenated([table[name] for table in tables]) for name in tables[0]}


def table_blocks(
    path: Path | str, options: Options | None = None, rows: int = ROWS, *, columns: Sequence[str] | None = None
) -> Iterator[Table]:
    """The columns of a file, at most ``rows`` rows at a time. Args, Raises: as ``read_table`` and ``read_blocks``."""
    return _tables(inspect(path, options), columns, rows)


def update_digest(path: Path | str, digest: xxhash.xxh3_128) -> None:
    """Adds the bytes of a file to a digest. DataError when it cannot be read."""
    file_size(Path(path))
    buffer = memoryview(bytearray(1 << 20))  # stays in the caches of a processor
    with Path(path).open("rb", buffering=0) as handle:
        while size := handle.readinto(buffer):
            digest.update(buffer[:size])


def _tables(source: Source, columns: Sequence[str] | None, rows: int) -> Iterator[Table]:
    if rows < 1:
        raise UsageError(f"a block has at least one row, not {rows}")
    names = list(source.columns) if columns is None else list(dict.fromkeys(columns))
    if not names:
        raise UsageError("no column is asked for", where={"file": source.path})
    for name in names:
        if name not in source.columns:
            raise _no_column(source, name)
    empty = True
    for table in source.tables(names, rows):
        empty = False
        yield table
    if empty:
        raise no_points(source.path)


def _clouds(source: Source, columns: Sequence[str] | None, rows: int, options: Options) -> Iterator[Cloud]:
    axes = coordinate_columns(source, options)
    others = [name for name in source.columns if name not in axes] if columns is None else list(columns)
    for table in _tables(source, [*axes, *others], rows):
        points = np.empty((len(table[axes[0]]), 3))
        with np.errstate(invalid="ignore"):  # NaN of any kind
            for axis, name in enumerate(axes):
                points[:, axis] = table[name]
        kept = {name: table[name] for name in dict.fromkeys(others)}
        yield Cloud(points, kept, _not_finite({"points": points, **kept}), dict(source.header))


def coordinate_columns(source: Source, options: Options) -> list[str]:
    """The columns that are x, y and z; upper case is found too.

    Raises:
        DataError: one of them is not there.
    """
    lower = {name.lower(): name for name in reversed(source.columns)}
    found = []
    for name in options.coordinates:
        known = name if name in source.columns else lower.get(name.lower())
        if known is None:
            raise _no_column(source, name)
        if source.columns[known].shape:
            raise damaged(source.path, "a coordinate has several numbers a point", column=known)
        found.append(known)
    return found


def _no_column(source: Source, name: str) -> DataError:
    near = nearest(name, source.columns)
    hint = f"did you mean {near!r}? " if near else ""
    return damaged(source.path, f"there is no column {name!r}", f"{hint}the file has {', '.join(source.columns)}")


def _not_finite(columns: Mapping[str, Array]) -> dict[str, int]:
    """How many rows hold NaN or an infinity, of the columns that have any."""
    counts = {}
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = [name for name, values in columns.items() if values.dtype.kind == "f" and _no_sum(values)]
    for name in suspicious:
        good = np.isfinite(columns[name])
        bad = len(good) - int(np.count_nonzero(good if good.ndim == 1 else good.all(axis=1)))
        if bad:
            counts[name] = bad
    return counts


def _no_sum(values: Array) -> bool:
    """Whether the sum is NaN or infinite: so it is with every such number, and with very large ones."""
    return not np.isfinite(values.sum())


def _joined(parts: list[Cloud]) -> Cloud:
    counts: dict[str, int] = {}
    for part in parts:
        for name, bad in part.not_finite.items():
            counts[name] = counts.get(name, 0) + bad
    columns = {name: _concatenated([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Cloud(_concatenated([part.points for part in parts]), columns, counts, parts[0].header)


def _concatenated(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
