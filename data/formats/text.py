"""``.txt``, ``.csv``, ``.xyz``, ``.pts``, ``.asc``: one point a line, any delimiter, with or without a header.

All columns are float64 (integers are exact up to 2**53); columns that nobody asks for may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl3d.data.formats.cloud import Options, Source, Table
from ssl3d.data.formats.fixed import truncated
from ssl3d.data.formats.problems import damaged, no_points
from ssl3d.data.formats.text_layout import find_layout
from ssl3d.data.formats.text_rows import Rows


class TextSource(Source):
    """Rows of a text file. DataError when its beginning is not understood."""

    def __init__(self, path: Path, options: Options) -> None:
        layout = find_layout(path, options)
        facts: dict[str, object] = {
            "delimiter": layout.delimiter,
            "decimal": layout.point,
            "named": layout.header,
            "first_line": layout.line,
        }
        super().__init__(path, "text", dict.fromkeys(layout.names, np.dtype(np.float64)), layout.declared, facts)
        self.rows = Rows(
            path, layout.offset, layout.line, layout.names, layout.delimiter, layout.point, options.comments
        )

    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        wanted = [self.rows.names.index(name) for name in names]
        total = 0
        for matrix in self.rows.read(wanted, chunk):
            total += len(matrix)
            yield {name: matrix[:, column] for column, name in enumerate(names)}
        if total == 0:
            raise no_points(self.path)
        if self.count is not None and total < self.count:
            raise truncated(self.path, total, self.count, "points that its first line declares")
        if self.count is not None and total > self.count:
            raise damaged(self.path, f"the first line declares {self.count} points, {total} follow", line=1)


def open_text(path: Path, size: int, options: Options) -> Source:
    """A text file of ``size`` bytes. DataError, UsageError when its beginning is not understood."""
    return TextSource(path, options)
