"""Rows of text whose header states the type of every column: PLY and PCD files in ASCII."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.data.formats.cloud import Array, Table
from ssl3d.data.formats.fixed import truncated
from ssl3d.data.formats.problems import damaged
from ssl3d.data.formats.text_rows import Rows


def text_table(rows: Rows, columns: Mapping[str, np.dtype[Any]], names: Sequence[str], chunk: int) -> Iterator[Table]:
    """Columns of rows of text in the dtypes that a header states; ``rows.limit`` of them.

    Raises:
        DataError: there are fewer rows, or a number does not fit its dtype.
    """
    done = 0
    for matrix in rows.read([rows.names.index(name) for name in names], chunk):
        yield {
            name: _fitting(rows.path, matrix[:, column], columns[name], name, rows.line + done)
            for column, name in enumerate(names)
        }
        done += len(matrix)
    if rows.limit is not None and done < rows.limit:
        raise truncated(rows.path, done, rows.limit, "rows")


def _fitting(path: Path, values: Array, dtype: np.dtype[Any], name: str, line: int) -> Array:
    """Numbers read from text in the dtype of their column."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(dtype.newbyteorder("="))
    limits = np.iinfo(dtype)
    good = (values >= float(limits.min)) & (values < float(int(limits.max) + 1)) & (values == np.rint(values))
    if not good.all():
        row = int(np.argmin(good))
        raise damaged(path, f"{values[row]:g} is no {dtype.name}", line=line + row, property=name)
    return values.astype(dtype.newbyteorder("="))
