"""``.bin``: rows of numbers and nothing else; how many columns they have is the user's to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats.cloud import Options, Source
from ssl3d.data.formats.fixed import FixedSource, row_dtype
from ssl3d.data.formats.problems import beginning, damaged, looks_like

_WIDTHS = range(3, 13)
_SAMPLE = 2 * 27_720
"""Numbers that are looked at: whole rows of every width."""
_LEAST_GAIN = 0.05
_SHARE_OF_GAIN = 0.8


def open_raw(path: Path, size: int, options: Options) -> Source:
    """Rows of ``len(options.names)`` numbers of ``options.dtype``.

    Raises:
        UsageError: the dtype is unknown.
        DataError: the columns are not named, or the size is no multiple of a row.
    """
    try:
        number = np.dtype(options.dtype)
    except TypeError:
        raise UsageError(
            f"unknown type of number {options.dtype!r}", hint="one of '<f4', '<f8', '<u4', '<u2', 'u1', '<i4', '<i8'"
        ) from None
    if number.kind not in "fiub" or not number.itemsize:
        raise UsageError(f"a .bin file holds numbers, not {options.dtype!r}", hint="for example '<f4'")
    found = looks_like(beginning(path), shortest=4)
    if found:
        raise damaged(path, f"this is no file of plain numbers: it looks like {found}", byte=0)
    if not options.names:
        raise _unnamed(path, size)
    dtype = row_dtype(path, [(name, number) for name in options.names])
    if size % dtype.itemsize:
        fits = [str(width) for width in range(1, 13) if size % (width * number.itemsize) == 0]
        raise damaged(
            path,
            f"{size} bytes are no whole number of rows of {len(options.names)} numbers ({dtype.itemsize} bytes)",
            f"the size fits {', '.join(fits)} columns" if fits else "the file is truncated, or of another type",
            byte=size - size % dtype.itemsize,
        )
    return FixedSource(path, "bin", dtype, size // dtype.itemsize, 0, {"dtype": number.str})


def guess_width(path: Path) -> int | None:
    """How many float32 columns a .bin file seems to have, 3 to 12; None when no number stands out.

    Knowing the column of a number tells something about its size (heights, intensities and colors have ranges of their
    own), in whatever order the points are; a wrong width mixes the columns. So the entropy of the leading bits, given
    the column, is least at the right width and its multiples: the smallest width with most of the gain is taken.
    """
    size = path.stat().st_size
    fitting = [width for width in _WIDTHS if size and size % (4 * width) == 0]
    if not fitting:
        return None
    leading = np.fromfile(path, "<u4", _SAMPLE) >> np.uint32(20)  # sign, exponent, 3 bits of the fraction
    whole = _entropy(leading, 1)
    gains = [whole - _entropy(leading, width) for width in fitting]
    if max(gains) < _LEAST_GAIN:
        return None
    return next(width for width, gain in zip(fitting, gains, strict=True) if gain >= _SHARE_OF_GAIN * max(gains))


def _entropy(words: npt.NDArray[np.integer[Any]], width: int) -> float:
    """Bits a number, given its column, with the correction of G. A. Miller (1955) for small samples."""
    rows = words[: len(words) // width * width].reshape(-1, width)
    total = 0.0
    for column in rows.T:
        counts = np.unique(column, return_counts=True)[1]
        share = counts / len(rows)
        total -= float(share @ np.log2(share)) - (len(counts) - 1) / (2 * len(rows) * np.log(2))
    return total / width


def _unnamed(path: Path, size: int) -> DataError:
    width = guess_width(path) if size % 4 == 0 else None
    return damaged(
        path,
        "a .bin file does not name its columns",
        f"name them; it looks like {width} float32 columns" if width else "name them, in the stored order",
    )
