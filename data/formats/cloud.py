"""What every reader of loose files gives: a `Cloud`; and what every format implements: a `Source`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
Table = dict[str, Array]
"""Columns by name, each (n,) or (n, c), in the machine's byte order."""

ROWS = 1 << 17
"""Rows of a block when the caller names no number: a few megabytes, which stay in the caches of a processor."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a file does not say of itself.

    Attributes:
        coordinates: names of the columns that are x, y and z; upper case is found too.
        names: the columns of a file that does not name its own, in the stored order (.bin, .npy, .txt, the array of
            points in an .npz or .h5); for a text file with a header line they replace it.
        dtype: numbers of a .bin file, in numpy's spelling.
        dataset: the array of an .npz or .h5 file that holds the points; empty: found.
        delimiter: between the fields of a text file, a space for any run of spaces and tabs; empty: found.
        decimal: the decimal point of a text file; empty: found.
        comments: bytes that begin a comment at the start of a line or of a field.
        skip: lines of a text file to pass over.
    """

    coordinates: tuple[str, str, str] = ("x", "y", "z")
    names: tuple[str, ...] = ()
    dtype: str = "<f4"
    dataset: str = ""
    delimiter: str = ""
    decimal: str = ""
    comments: str = "#%/"
    skip: int = 0


@dataclass(slots=True)
class Mesh:
    """What joins the points.

    Attributes:
        faces: (m, 3) int64 rows of points; polygons are fans of triangles. None: the file has none.
        edges: (e, 2) int64 rows of points, or None.
    """

    faces: I64 | None = None
    edges: I64 | None = None


@dataclass(slots=True)
class Cloud:
    """Points of a file, or of one block of it.

    Attributes:
        points: (n, 3) float64, in the file's unit and frame.
        columns: the others by name, (n,) or (n, c), with the dtype they are stored in.
        not_finite: how many rows hold NaN or an infinity, by column; ``points`` stands for the coordinates.
        header: facts of the file's header.
        mesh: only of a file read as a whole.
    """

    points: F64
    columns: Table
    not_finite: dict[str, int] = field(default_factory=dict)
    header: dict[str, object] = field(default_factory=dict)
    mesh: Mesh = field(default_factory=Mesh)


class Source(ABC):
    """An opened file: what it says of itself, and its rows in blocks.

    Attributes:
        path: the file.
        format: ``bin``, ``npy``, ``npz``, ``ply``, ``pcd``, ``las``, ``text``, ``h5`` or ``frame``.
        columns: name -> dtype, in the stored order; (c,) sub-arrays for columns of several numbers.
        count: rows, None when only reading tells (text).
        header: facts of the header.
    """

    def __init__(
        self, path: Path, format: str, columns: dict[str, np.dtype[Any]], count: int | None, header: dict[str, object]
    ) -> None:
        self.path = path
        self.format = format
        self.columns = columns
        self.count = count
        self.header = header

    @abstractmethod
    def tables(self, names: Sequence[str], chunk: int) -> Iterator[Table]:
        """The named columns, at most ``chunk`` rows at a time. DataError when the file is damaged."""

    def mesh(self) -> Mesh:
        """Faces and edges. DataError when they are damaged."""
        return Mesh()


def native(values: Array) -> Array:
    """Contiguous, in the machine's byte order."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
