"""Rows of a text file as matrices, block by block: parsed by several threads, memory bounded by the block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import F64
from ssl3d.data.formats.problems import damaged
from ssl3d.data.formats.text_kernel import GOOD, TOO_FEW, TOO_MANY, parse_lines

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
        slots = np.full(len(self.names), -1, np.int64)
        slots[list(wanted)] = np.arange(len(wanted))
        line = self.line
        threads = numba.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            for block in self._blocks(chunk):
                matrix, lines = self._parse(block, line, slots, len(wanted), pool, threads)
                line += lines
                for start in range(0, len(matrix), chunk):
                    yield matrix[start : start + chunk]

    def _blocks(self, chunk: int) -> Iterator[bytes]:
        """Whole lines with their line feeds."""
        size = min(max(chunk * _BYTES_OF_A_ROW, _SMALLEST_BLOCK), _LARGEST_BLOCK)
        left = self.limit
        rest = b""
        with self.path.open("rb") as handle:
            handle.seek(self.offset)
            while left is None or left > 0:
                more = handle.read(size)
                block = rest + more
                if not more:
                    if not rest:
                        return
                    block += b"\n"
                cut = block.rfind(b"\n") + 1
                block, rest = block[:cut], block[cut:]
                if len(rest) > _LONGEST_LINE:
                    raise damaged(self.path, "a line is longer than a megabyte", "this is no text file of points")
                if left is not None:
                    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))[:left]
                    block = block[: int(ends[-1]) + 1] if len(ends) else b""
                    left -= len(ends)
                if block:
                    yield block
                if not more:
                    return

    def _parse(
        self,
        block: bytes,
        first: int,
        slots: np.ndarray,
        width: int,
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> tuple[F64, int]:
        """The rows of a block whose first line is line ``first``, and how many lines it has."""
        parts = max(1, min(threads, len(block) // _WORK_OF_A_THREAD))
        cuts = [0, *(block.find(b"\n", k * len(block) // parts) + 1 for k in range(1, parts)), len(block)]
        data = np.frombuffer(block, np.uint8)
        tops = [0]
        for k in range(parts):
            tops.append(tops[-1] + int(np.count_nonzero(data[cuts[k] : cuts[k + 1]] == ord("\n"))))
        comments = np.zeros(256, np.bool_)
        comments[list(self.comments.encode())] = True
        out = np.empty((tops[-1], width))

        def part(k: int) -> tuple[int, int, int, int, int]:
            found: tuple[int, int, int, int, int] = parse_lines(
                data,
                cuts[k],
                cuts[k + 1],
                ord(self.delimiter),
                ord(self.point),
                comments,
                slots,
                out[tops[k] : tops[k + 1]],
            )
            return found

        results = [part(0)] if parts == 1 else list(pool.map(part, range(parts)))
        for top, (_, code, line, at, field) in zip(tops, results, strict=False):
            if code != GOOD:
                text = block[at : block.index(b"\n", at)]
                raise self._wrong(code, first + top + line, text.decode("utf-8", "replace"), field)
        if all(rows == tops[k + 1] - tops[k] for k, (rows, *_) in enumerate(results)):
            return out, tops[-1]
        return np.concatenate([out[tops[k] : tops[k] + rows] for k, (rows, *_) in enumerate(results)]), tops[-1]

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
