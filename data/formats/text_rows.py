"""Rows of a text file as matrices, block by block: parsed by several threads, memory bounded by the block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import F64
from ssl3d.data.formats.digits import PADDING
from ssl3d.data.formats.problems import damaged
from ssl3d.data.formats.text_kernel import (
    GOOD,
    TOO_FEW,
    TOO_MANY,
    behind_last_line,
    behind_line,
    behind_lines,
    count_lines,
    parse_lines,
)

_SMALLEST_BLOCK, _LARGEST_BLOCK = 1 << 16, 1 << 25
_BYTES_OF_A_ROW = 40
_LONGEST_LINE = 1 << 20
_WORK_OF_A_THREAD = 1 << 18
"""Bytes for which one more thread pays."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of a text file are and how they are written.

    Attributes:
        path: the file.
        offset: byte of the first row.
        line: number of its line, from 1.
        names: of the columns, for messages.
        delimiter: between fields; a space stands for any run of blanks.
        point: the decimal point.
        comments: bytes that begin a comment.
        limit: lines to read; None: all to the end of the file.
    """

    path: Path
    offset: int
    line: int
    names: tuple[str, ...]
    delimiter: str = " "
    point: str = "."
    comments: str = ""
    limit: int | None = None

    def read(self, wanted: Sequence[int], chunk: int) -> Iterator[F64]:
        """(n, len(wanted)) float64 of the fields ``wanted``, n at most ``chunk``.

        Raises:
            DataError: a row has too few or too many fields, or a wanted one is no number.
        """
        line = self.line
        threads = numba.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            for data, end in self._blocks(chunk):
                matrix, lines = self._parse(data, end, line, wanted, pool, threads)
                line += lines
                for start in range(0, len(matrix), chunk):
                    yield matrix[start : start + chunk]

    def _blocks(self, chunk: int) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
        """A buffer that holds whole lines, and where they end. It is used again for the next ones."""
        size = min(max(chunk * _BYTES_OF_A_ROW, _SMALLEST_BLOCK), _LARGEST_BLOCK)
        buffer = np.empty(_LONGEST_LINE + size + PADDING, np.uint8)
        left = self.limit
        held = 0  # bytes of a line that is not whole
        with self.path.open("rb", buffering=0) as handle:
            handle.seek(self.offset)
            while left is None or left > 0:
                more = handle.readinto(buffer[held : held + size].data)
                total = held + more
                if not more:
                    if not held:
                        return
                    buffer[total] = ord("\n")
                    total += 1
                end = behind_last_line(buffer, held, total)
                end = end if end > held else 0
                rest = total - end
                if rest > _LONGEST_LINE:
                    raise damaged(self.path, "a line is longer than a megabyte", "this is no text file of points")
                if left is not None:
                    end, lines = behind_lines(buffer, 0, end, left)
                    left -= lines
                if end:
                    yield buffer, end
                if not more:
                    return
                buffer[:rest] = buffer[total - rest : total]
                held = rest

    def _parse(
        self,
        data: npt.NDArray[np.uint8],
        end: int,
        first: int,
        wanted: Sequence[int],
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> tuple[F64, int]:
        """The rows of ``data[:end]``, whose first line is line ``first``, and how many lines it has."""
        parts = max(1, min(threads, end // _WORK_OF_A_THREAD))
        cuts = [0, *(behind_line(data, k * end // parts, end) for k in range(1, parts)), end]
        tops = [0]
        for begin, behind in pairwise(cuts):
            tops.append(tops[-1] + count_lines(data, begin, behind))
        lines = tops[-1]
        comments = np.zeros(256, np.bool_)
        comments[list(self.comments.encode())] = True
        slots = np.full(len(self.names), -1, np.int64)
        slots[list(wanted)] = np.arange(len(wanted)) * lines
        out = np.empty(lines * len(wanted))

        def part(k: int) -> tuple[int, int, int, int, int]:
            found: tuple[int, int, int, int, int] = parse_lines(
                data, cuts[k], cuts[k + 1], ord(self.delimiter), ord(self.point), comments, slots, out, tops[k]
            )
            return found

        results = [part(0)] if parts == 1 else list(pool.map(part, range(parts)))
        for top, (_, code, line, at, field) in zip(tops, results, strict=False):
            if code != GOOD:
                text = data[at : behind_line(data, at, end) - 1].tobytes()
                raise self._wrong(code, first + top + line, text.decode("utf-8", "replace"), field)
        matrix = out.reshape(len(wanted), lines).T  # columns lie together: those who want one get it as it is
        if all(rows == tops[k + 1] - tops[k] for k, (rows, *_) in enumerate(results)):
            return matrix, lines
        return np.concatenate([matrix[tops[k] : tops[k] + rows] for k, (rows, *_) in enumerate(results)]), lines

    def _wrong(self, code: int, line: int, text: str, field: int) -> DataError:
        width = len(self.names)
        shown = text.strip()[:60]
        if code in (TOO_FEW, TOO_MANY):
            what = f"a row has {'fewer' if code == TOO_FEW else 'more'} than {width} fields: {shown!r}"
            return damaged(self.path, what, "the file is damaged, or its delimiter is another", line=line)
        fields = text.split() if self.delimiter == " " else text.split(self.delimiter)
        value = fields[field].strip(' "\t\r')[:40] if field < len(fields) else shown
        return damaged(
            self.path,
            f"a field is no number: {value!r}",
            "correct it, or leave the column out",
            line=line,
            column=f"{field + 1} ({self.names[field]})",
        )
