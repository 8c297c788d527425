"""Rows of a cloud sorted into square tiles on the disk while they are read, in the memory of one block.

One temporary file holds all rows; a tile is a list of its segments. Crowded tiles are quartered, so that a tile around
a scanner has as many points as one far away. The file has no name while it is open, so that nothing is left behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import DISK_FULL
from ssl3d.data.errors import DataError

ROWS = 1 << 19
"""Rows of a block: what is in memory at a time while a cloud is read."""
WHOLE = "all"
"""Name of the one tile of a cloud that is not cut."""
POSITION = "position"
SOURCE_ROW = "source_row"
_MOST_TILES = 1 << 16
_SMALLEST = 0.01
"""Meters; more points than a tile may hold within a centimeter are copies, which no further cut parts."""
_MOST_CELLS = 1 << 30
_MOST_ROWS = 1 << 32
Array = npt.NDArray[Any]


class TileParams(NamedTuple):
    """How large clouds are cut.

    Attributes:
        points: a cloud of more points is cut; a tile of more points is quartered.
        size: edge of a tile in meters, before it is quartered.
    """

    points: int = 2_000_000
    size: float = 100.0


@dataclass(slots=True)
class Tile:
    """A square of the ground plan, half open.

    Attributes:
        cell: ``<ix>_<iy>``: its lower corner in units of the edge before quartering.
        corner: lower x and y, meters. size: edge, meters; 0 stands for the whole cloud.
        path: a digit per quartering: 0 lower left, 1 lower right, 2 upper left, 3 upper right.
        segments: (first row in the spool, rows); in the order of the cloud.
    """

    cell: str
    corner: tuple[float, float]
    size: float
    path: str = ""
    segments: list[tuple[int, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.cell}-{self.path}" if self.path else self.cell

    @property
    def count(self) -> int:
        return sum(rows for _, rows in self.segments)

    @property
    def center(self) -> tuple[float, float]:
        return self.corner[0] + self.size / 2, self.corner[1] + self.size / 2


class Spool:
    """Rows of a structured dtype with ``position`` (3 float64, meters) and ``source_row`` (u4).

    Args:
        folder: where the temporary file may lie.
        cloud: the file that is cut; for messages.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], params: TileParams, cloud: str) -> None:
        self.dtype = dtype
        self.params = params
        self.cloud = cloud
        self.rows = 0
        self._written = 0
        self._tiles: dict[tuple[int, int], Tile] = {}
        self._before: tuple[float, float] | None = None
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".tiles-")  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: Array, *, numbered: bool = False) -> None:
        """The next rows of the cloud. Rows that are not finite go with those before them.

        Args:
            numbered: they have their ``source_row`` already; otherwise it is set.

        Raises:
            DataError: the cloud is far larger than its tiles, or has 2**32 rows; the disk is full.
        """
        if self.rows + len(rows) > _MOST_ROWS:
            raise DataError(
                "a cloud of more than 4,294,967,295 points", where={"file": self.cloud}, hint="cut it into files"
            )
        if not numbered:
            rows[SOURCE_ROW] = np.arange(self.rows, self.rows + len(rows), dtype=np.uint32)
        self.rows += len(rows)
        cells = np.floor(self._places(rows[POSITION][:, :2]) / self.params.size)
        if len(cells) and np.abs(cells).max() >= _MOST_CELLS:
            raise self._too_wide()
        cells = cells.astype(np.int64)
        keys = (cells[:, 0] + _MOST_CELLS << 32) | (cells[:, 1] + _MOST_CELLS)
        for key, first, count in self._append(rows, keys):
            ix, iy = (key >> 32) - _MOST_CELLS, (key & 0xFFFFFFFF) - _MOST_CELLS
            if (ix, iy) not in self._tiles:
                corner = (ix * self.params.size, iy * self.params.size)
                self._tiles[ix, iy] = Tile(f"{ix}_{iy}", corner, self.params.size)
            self._tiles[ix, iy].segments.append((first, count))
        if len(self._tiles) > _MOST_TILES:
            raise self._too_wide()

    def tiles(self) -> list[Tile]:
        """All tiles, in order of place; crowded ones quartered. One alone where the cloud need not be cut."""
        if self.rows <= self.params.points:
            segments = [segment for tile in self._tiles.values() for segment in tile.segments]
            return [Tile(WHOLE, (0.0, 0.0), 0.0, segments=segments)]
        return [leaf for _, tile in sorted(self._tiles.items()) for leaf in self._leaves(tile)]

    def read(self, tile: Tile) -> Array:
        """The rows of a tile, in the order of the cloud."""
        rows = np.concatenate([self._segment(first, count) for first, count in tile.segments])
        if tile.size == 0:
            rows = rows[np.argsort(rows[SOURCE_ROW])]
        return rows

    def _places(self, xy: Array) -> Array:
        """(n, 2) of rows that are finite, and of the rows before them where they are not."""
        finite = np.isfinite(xy).all(axis=1)
        if not finite.all():
            last = np.maximum.accumulate(np.where(finite, np.arange(len(xy)), -1))
            known = xy[finite][0] if finite.any() else np.zeros(2)
            start = known if self._before is None else np.array(self._before)
            xy = np.where((last >= 0)[:, None], xy[last], start)
        if len(xy):
            self._before = (float(xy[-1, 0]), float(xy[-1, 1]))
        return np.asarray(xy)

    def _append(self, rows: Array, keys: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Stores rows with equal keys together; gives (key, first row in the file, rows)."""
        if not len(rows):
            return
        order = np.argsort(keys, kind="stable") if (keys != keys[0]).any() else None
        found = keys if order is None else keys[order]
        starts = np.flatnonzero(np.r_[True, found[1:] != found[:-1]])
        try:
            self._file.seek(self._written * self.dtype.itemsize)
            self._file.write((rows if order is None else rows[order]).view(np.uint8).data)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise DataError(
                "the disk is full: a large cloud is sorted into tiles beside the prepared scans",
                where={"file": self.cloud},
                hint="free as much space as the cloud takes, or choose another disk by --workspace",
            ) from error
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(found)], strict=True):
            yield int(found[start]), self._written + start, end - start
        self._written += len(rows)

    def _segment(self, first: int, count: int) -> Array:
        self._file.seek(first * self.dtype.itemsize)
        return np.frombuffer(self._file.read(count * self.dtype.itemsize), self.dtype)

    def _leaves(self, tile: Tile) -> Iterator[Tile]:
        if tile.count <= self.params.points or tile.size < _SMALLEST:
            yield tile
            return
        half = tile.size / 2
        corners = [(tile.corner[0] + half * (q % 2), tile.corner[1] + half * (q // 2)) for q in range(4)]
        quarters = [Tile(tile.cell, corner, half, f"{tile.path}{q}") for q, corner in enumerate(corners)]
        for rows in self._blocks(tile):
            right = rows[POSITION][:, 0] >= tile.center[0]
            upper = rows[POSITION][:, 1] >= tile.center[1]
            for key, first, count in self._append(rows, right + 2 * upper.astype(np.int64)):
                quarters[key].segments.append((first, count))
        for quarter in quarters:
            if quarter.segments:
                yield from self._leaves(quarter)

    def _blocks(self, tile: Tile) -> Iterator[Array]:
        for first, count in tile.segments:
            for start in range(0, count, ROWS):
                yield self._segment(first + start, min(ROWS, count - start))

    def _too_wide(self) -> DataError:
        return DataError(
            f"the cloud covers more than {_MOST_TILES:,} tiles of {self.params.size:g} m",
            where={"file": self.cloud},
            hint="its unit is not the meter (scale), or a coordinate is damaged; or choose larger tiles",
        )
