"""Readers of datasets whose scans are clouds of any size: read block by block, large ones cut into tiles.

A reader gives blocks (``CloudReader.read_blocks``); small clouds become scans as they are, the others are sorted into
tiles first (``CloudReader.opened``), so that neither reading nor training has more than a tile in memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.raw import check_unchanged
from ssl3d.data.datasets.source import (
    Camera,
    DatasetReader,
    Fields,
    Layout,
    RawScan,
    ReadOptions,
    SourceFile,
    SourceScan,
    SourceUnit,
)
from ssl3d.data.datasets.spool import POSITION, ROWS, SOURCE_ROW, WHOLE, Spool, Tile, TileParams
from ssl3d.data.errors import DataError
from ssl3d.data.formats.read import update_digest
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec

_LABEL = "label"
_TRUTH = "truth:"
_FARTHEST = 1e12
"""Meters."""
_SAMPLE = 10_000
"""Points that decide where an origin is."""
Array = npt.NDArray[Any]


@dataclass(slots=True)
class Block:
    """Rows of a cloud.

    Attributes:
        points: (n, 3) float64 or float32, meters, in the frame of the whole cloud; NaN and infinity are left in.
        columns, truths: as in ``Fields``.
        label: (n,) uint8 train ids; None without.
        rows: (n,) of the file, rising, where some are left out (then ``Fields`` has ``source_row``); None: all of them.
    """

    points: npt.NDArray[np.float64] | npt.NDArray[np.float32]
    columns: dict[str, Array] = field(default_factory=dict)
    label: npt.NDArray[np.uint8] | None = None
    truths: dict[str, Array] = field(default_factory=dict)
    rows: npt.NDArray[np.integer[Any]] | None = None


class Frame(NamedTuple):
    """What a whole cloud has beside its rows."""

    pose: npt.NDArray[np.float64] | None = None
    cameras: Sequence[Camera] = ()


class CloudReader(DatasetReader):
    """A dataset of clouds of any size.

    Attributes:
        tiles: how large clouds are cut.
        own_frame: points keep the origin of their sensor; otherwise scans get one of their own, near their points.
        zero_is_none: rows at (0, 0, 0) are no measurement.
    """

    tiles: TileParams = TileParams()
    own_frame: bool = False
    zero_is_none: bool = False

    @abstractmethod
    def read_blocks(self, unit: SourceUnit, position: int, spec: DatasetSpec, rows: int) -> Iterator[Block]:
        """Scan ``position`` of the unit as it is in its files, at most ``rows`` rows at a time, labels mapped.

        Raises:
            DataError: see ``read_scan``.
        """

    def read_frame(self, unit: SourceUnit, position: int, digest: xxhash.xxh3_128 | None) -> Frame:
        """Pose and cameras of a scan that is not cut."""
        return Frame()

    def is_cut(self, unit: SourceUnit) -> bool:
        """Whether a unit is one cloud that is too large, or may be."""
        return len(unit.scans) == 1 and (unit.num_points is None or unit.num_points > self.tiles.points)

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        """A whole cloud as one scan, whatever its size."""
        blocks = list(self.read_blocks(unit, position, spec, ROWS))
        self._read_digest(unit, position, digest)
        source = unit.scans[position]
        scan = self._scan(unit, source.labelled, _together(blocks, source.files["points"].path), None)
        scan.pose, scan.cameras = self.read_frame(unit, position, digest)
        return scan

    @contextmanager
    def opened(self, unit: SourceUnit, spec: DatasetSpec, folder: Path) -> Iterator[tuple[DatasetReader, SourceUnit]]:
        """A cloud that is too large (or may be) as a unit of its tiles. See ``DatasetReader.opened``.

        Raises:
            DataError: see ``read_blocks`` and ``Spool.add``.
        """
        if not self.is_cut(unit):
            yield self, unit
            return
        cloud = unit.scans[0].files["points"].path
        blocks = self.read_blocks(unit, 0, spec, ROWS)
        held = _up_to(self.tiles.points, blocks)
        if sum(len(block.points) for block in held) <= self.tiles.points:
            whole = HeldCloud(self, unit, _together(held, cloud))
            held.clear()
            yield whole, whole.unit()
            return
        dtype = _row_dtype(unit)
        with Spool(folder, dtype, self.tiles, cloud) as spool:
            while held:
                block = held.pop(0)
                spool.add(_rows(block, dtype), numbered=block.rows is not None)
            for block in blocks:
                spool.add(_rows(block, dtype), numbered=block.rows is not None)
            cut = CutCloud(self, unit, spool, spool.tiles())
            yield cut, cut.unit()

    def _scan(self, unit: SourceUnit, labelled: bool, rows: Mapping[str, Array] | Array, tile: Tile | None) -> RawScan:
        """Rows as a scan relative to an origin; rows that are no measurement are labelled ignored."""
        points = rows[POSITION]
        finite = _finite(points)
        origin = np.zeros(3) if self.own_frame else _origin(points if finite is None else points[finite], tile)
        with np.errstate(over="ignore", invalid="ignore"):  # of rows that become 0 below
            near = np.empty(points.shape, np.float32)
            np.subtract(points, origin, out=near, casting="same_kind")
        scan = RawScan(
            points=near,
            columns={name: np.ascontiguousarray(rows[name]) for name in unit.fields.columns},
            label=np.array(rows[_LABEL]) if labelled else None,
            truths={name: np.ascontiguousarray(rows[_TRUTH + name]) for name in unit.fields.truths} if labelled else {},
            origin=origin,
        )
        if finite is not None:
            scan.points[~finite] = 0
            scan.not_finite = len(points) - int(np.count_nonzero(finite))
            if scan.label is not None:
                scan.label[~finite] = IGNORE
        if self.zero_is_none and (zero := points[:, 0] == 0).any():
            zero &= (points[:, 1] == 0) & (points[:, 2] == 0)
            scan.all_zero = int(np.count_nonzero(zero))
            if scan.label is not None:
                scan.label[zero] = IGNORE
        return scan

    def _read_digest(self, unit: SourceUnit, position: int, digest: xxhash.xxh3_128 | None) -> None:
        """Takes the bytes of the files of a scan, which must be what they were when they were found."""
        for _, file in sorted(unit.scans[position].files.items()):
            if digest is not None:
                update_digest(file.path, digest)
            now = SourceFile.find(file.path)
            check_unchanged(file, -1 if now is None else now.size)


class ReadCloud(DatasetReader):
    """Stands for the reader of a cloud that has been read already."""

    name = "cloud"

    def __init__(self, reader: CloudReader, cloud: SourceUnit) -> None:
        self.reader = reader
        self.cloud = cloud

    def spec(self, classes: str = "single") -> DatasetSpec:
        return self.reader.spec(classes)

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        return self.reader.survey(root, options)


class HeldCloud(ReadCloud):
    """A cloud that need not be cut, in memory: how many rows it has was not known before.

    Args:
        rows: arrays under the names of a row.
    """

    def __init__(self, reader: CloudReader, cloud: SourceUnit, rows: Mapping[str, Array]) -> None:
        super().__init__(reader, cloud)
        self.rows = rows

    def unit(self) -> SourceUnit:
        """The cloud with its number of rows."""
        whole = self.cloud.scans[0]
        return replace(self.cloud, scans=(whole._replace(num_points=len(self.rows[POSITION])),))

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        scan = self.reader._scan(unit, unit.scans[0].labelled, self.rows, None)
        self.reader._read_digest(self.cloud, 0, digest)
        scan.pose, scan.cameras = self.reader.read_frame(self.cloud, 0, digest)
        return scan


class CutCloud(ReadCloud):
    """The tiles of one cloud, read from the spool."""

    def __init__(self, reader: CloudReader, cloud: SourceUnit, spool: Spool, tiles: Sequence[Tile]) -> None:
        super().__init__(reader, cloud)
        self.spool = spool
        self.tiles = tiles

    def unit(self) -> SourceUnit:
        """The cloud as a unit of its tiles."""
        whole = self.cloud.scans[0]
        if len(self.tiles) == 1:
            return replace(self.cloud, scans=(whole._replace(num_points=self.spool.rows),))
        columns = {**self.cloud.fields.columns, SOURCE_ROW: ("u4", 0)}
        fields = Fields(columns, self.cloud.fields.truths)
        return replace(self.cloud, scans=tuple(map(self._scan_of, self.tiles)), fields=fields)

    def _scan_of(self, tile: Tile) -> SourceScan:
        whole = self.cloud.scans[0]
        group, _, name = whole.scan_id.rpartition("/")
        name = tile.name if name == WHOLE else f"{name}_{tile.name}"
        return whole._replace(scan_id=f"{group}/{name}", num_points=tile.count)

    def read_scan(
        self, unit: SourceUnit, position: int, spec: DatasetSpec, digest: xxhash.xxh3_128 | None = None
    ) -> RawScan:
        tile = self.tiles[position]
        scan = self.reader._scan(unit, unit.scans[position].labelled, self.spool.read(tile), tile)
        if position == 0:
            self.reader._read_digest(self.cloud, 0, digest)
        if len(self.tiles) == 1:
            scan.pose, scan.cameras = self.reader.read_frame(self.cloud, 0, digest)
        return scan


def _up_to(rows: int, blocks: Iterator[Block]) -> list[Block]:
    """The first blocks, until they have more than ``rows`` rows; all of a cloud that has not."""
    held: list[Block] = []
    taken = 0
    while taken <= rows and (block := next(blocks, None)) is not None:
        held.append(block)
        taken += len(block.points)
    return held


def _row_dtype(unit: SourceUnit) -> np.dtype[Any]:
    named = [*unit.fields.columns.items(), *((_TRUTH + name, kind) for name, kind in unit.fields.truths.items())]
    columns = [(name, dtype, (width,)) if width else (name, dtype) for name, (dtype, width) in named]
    columns = [item for item in columns if item[0] != SOURCE_ROW]
    return np.dtype([(POSITION, "f8", (3,)), (SOURCE_ROW, "u4"), (_LABEL, "u1"), *columns])


def _rows(block: Block, dtype: np.dtype[Any]) -> Array:
    rows = np.zeros(len(block.points), dtype)
    rows[POSITION] = block.points
    rows[_LABEL] = IGNORE if block.label is None else block.label
    if block.rows is not None:
        rows[SOURCE_ROW] = block.rows
    for name, values in block.columns.items():
        rows[name] = values
    for name, values in block.truths.items():
        rows[_TRUTH + name] = values
    return rows


def _nothing(cloud: str) -> DataError:
    hint = "remove it, or copy it again; or clouds.keep leaves nothing of it"
    return DataError("the file holds no points", where={"file": cloud}, hint=hint)


def _together(blocks: Sequence[Block], cloud: str) -> dict[str, Array]:
    """All rows of a cloud, under the names of a row."""
    parts = [
        {
            POSITION: block.points,
            **block.columns,
            **({} if block.rows is None else {SOURCE_ROW: block.rows.astype(np.uint32)}),
            **({} if block.label is None else {_LABEL: block.label}),
            **{_TRUTH + name: values for name, values in block.truths.items()},
        }
        for block in blocks
    ]
    if not parts:
        raise _nothing(cloud)
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _finite(points: Array) -> npt.NDArray[np.bool_] | None:
    """(n,) rows without NaN, infinity and numbers that are no place on Earth; None where all are."""
    with np.errstate(all="ignore"):
        if points.min(initial=0) > -_FARTHEST and points.max(initial=0) < _FARTHEST:  # NaN is neither
            return None
        axes = np.abs(points) < _FARTHEST
    return np.asarray(axes[:, 0] & axes[:, 1] & axes[:, 2])


def _origin(points: Array, tile: Tile | None) -> npt.NDArray[np.float64]:
    """Whole meters in the middle of the points (of the tile), at the height of the lowest hundredth.

    Coordinates in the millions of meters would lose centimeters in float32. Single outliers do not move it.
    """
    if not len(points):
        return np.zeros(3)
    some = points[:: max(1, len(points) // _SAMPLE)]
    x, y = tile.center if tile is not None and tile.size else np.median(some[:, :2], axis=0)
    return np.floor([x, y, np.percentile(some[:, 2], 1)])
