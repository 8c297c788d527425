"""Rows of a file that lies beside a cloud (labels, mostly), taken as the cloud is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import Table

Array = npt.NDArray[Any]


class Beside:
    """Takes rows of one file in step with those of another.

    Args:
        path, cloud: the files, for messages.
        tables: blocks of columns of the file.
        name: the column.
    """

    def __init__(self, path: str, cloud: str, tables: Iterator[Table], name: str) -> None:
        self.path = path
        self.cloud = cloud
        self.name = name
        self.taken = 0
        self._tables = tables
        self._rest: Array = np.zeros(0)

    def take(self, rows: int) -> Array:
        """The next ``rows`` values, or fewer at the end of the file."""
        parts = [self._rest]
        held = len(self._rest)
        while held < rows:
            table = next(self._tables, None)
            if table is None:
                break
            parts.append(table[self.name])
            held += len(parts[-1])
        parts = [part for part in parts if len(part)]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0)
        self._rest = values[rows:]
        self.taken += min(rows, len(values))
        return np.asarray(values[:rows])

    def end(self, rows: int) -> None:
        """Called when the cloud has ended after ``rows`` rows.

        Raises:
            DataError: the file has another number of rows; the message names both.
        """
        found = self.taken + len(self._rest) + sum(len(table[self.name]) for table in self._tables)
        if found != rows:
            raise DataError(
                f"the cloud has {rows:,} points, the file beside it {found:,} labels",
                where={"file": self.path, "cloud": self.cloud},
                hint="one of them was cut while copying, or they belong to different clouds: unpack both again",
            )
