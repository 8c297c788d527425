"""Files whose rows all have the same bytes: read in blocks through a buffer, so that memory does not grow with them.

A buffer and no memory map: the pages of a map count as memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.cloud import Array, Source, Table, native
from ssl3d.data.formats.problems import damaged, no_points


def row_dtype(path: Path, fields: Sequence[tuple[str, Any]]) -> np.dtype[Any]:
    """The dtype of a packed row. DataError when two fields have one name."""
    names = [name for name, _ in fields]
    for name in names:
        if names.count(name) > 1:
            raise damaged(path, "two columns have the same name", "name the columns apart", column=name)
    return np.dtype([(name, dtype) for name, dtype in fields])


def fixed_rows(path: Path, offset: int, dtype: np.dtype[Any], count: int, chunk: int) -> Iterator[Array]:
    """Rows of a file from byte ``offset`` on, (n,) of the structured ``dtype``.

    Raises:
        DataError: the file ends before ``count`` rows.
    """
    with path.open("rb") as handle:
        handle.seek(offset)
        done = 0
        while done < count:
            rows: Array = np.fromfile(handle, dtype, min(chunk, count - done))
            if len(rows) == 0:
                raise truncated(path, done, count, "rows")
            done += len(rows)
            yield rows


def truncated(path: Path, got: int, expected: int, kind: str) -> Exception:
    """The file ends before what its header promises."""
    return damaged(path, f"the file is truncated: it holds {got} of {expected} {kind}", "copy it again")


class FixedSource(Source):
    """Rows of a structured dtype from a byte on.

    Raises:
        DataError: there are no rows, or fewer than ``count``.
    """

    def __init__(
        self, path: Path, format: str, dtype: np.dtype[Any], count: int, offset: int, header: dict[str, object]
    ) -> None:
        names = dtype.names or ()
        super().__init__(path, format, {name: dtype[name].newbyteorder("=") for name in names}, count, header)
        self.offset = offset
        self.dtype = dtype
        if count == 0 or dtype.itemsize == 0:
            raise no_points(path)
        held = max(0, path.stat().st_size - offset) // dtype.itemsize
        if held < count:
            raise truncated(path, held, count, "points")

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        count = self.count or 0
        for rows in fixed_rows(self.path, self.offset, self.dtype, count, chunk):
            yield {name: native(rows[name]) for name in names}
