"""Anyone's scans in a folder, as a description (``my.toml``) says that they are; see ``folder_config``.

The reader is made from the description as text, which prepared datasets keep: later commands need neither the file nor
the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.beside import Beside
from ssl3d.data.datasets.clouds import Block, CloudReader, Frame
from ssl3d.data.datasets.folder_config import HIDDEN_ID, HINT, FolderConfig
from ssl3d.data.datasets.folder_files import cloud_options, cloud_source, label_column, label_source, wanted_columns
from ssl3d.data.datasets.folder_frames import POSES, cameras, read_pose
from ssl3d.data.datasets.folder_survey import survey
from ssl3d.data.datasets.raw import map_labels
from ssl3d.data.datasets.rigid import Motion, inverse
from ssl3d.data.datasets.source import Layout, ReadOptions, SourceScan, SourceUnit
from ssl3d.data.datasets.spool import TileParams
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats.cloud import Table
from ssl3d.data.formats.read import coordinate_columns
from ssl3d.data.spec import DatasetSpec, parse_spec

Array = npt.NDArray[Any]


class Folder(CloudReader):
    """Clouds of one description.

    Args:
        config: ``FolderConfig.text()``.
    """

    name = "folder"

    def __init__(self, config: str = "") -> None:
        if not config:
            raise UsageError("a folder of scans needs a description", hint=f"--config my.toml; {HINT}")
        self.text = config
        self.config = FolderConfig.from_text(config)
        self.tiles = TileParams(self.config.tiles.points, self.config.tiles.size)
        self.own_frame = self.config.sensor is not None or self.config.poses is not None
        self.in_world = self.config.poses is not None and self.config.poses.world
        self.zero_is_none = self.config.clouds.zero_is_none

    def spec(self, classes: str = "single") -> DatasetSpec:
        return parse_spec(self.config.spec_table(), classes)

    def command(self, root: Path | str) -> list[str]:
        return ["ssl3d", "prepare", "folder", "--config", self.config.file, "--root", str(root)]

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        return survey(self.config, self.text, root, options)

    def read_blocks(self, unit: SourceUnit, position: int, spec: DatasetSpec, rows: int) -> Iterator[Block]:
        scan = unit.scans[position]
        path = scan.files["points"].path
        source = cloud_source(self.config, path)
        axes = coordinate_columns(source, cloud_options(self.config))
        others = list(wanted_columns(self.config).values())
        labels = self._labels(scan.files["labels"].path, path, rows) if "labels" in scan.files else None
        pose = self._pose(scan) if self.in_world else None
        done = 0
        for table in source.tables(list(dict.fromkeys([*axes, *others])), rows):
            count, words = len(table[axes[0]]), None
            if labels is not None:
                words = labels.take(count)
                if len(words) < count:
                    labels.end(count_rows(self.config, path))
            kept = self._kept(table)
            if kept is not None:
                table = {name: values[kept] for name, values in table.items()}
                words = None if words is None else words[kept]
            points = _points([table[axis] for axis in axes], self.config.clouds.scale)
            block = Block(points, self._columns(path, table), rows=None if kept is None else kept + done)
            if pose is not None:
                _to_sensor(block, pose, self.zero_is_none)
            if self.config.columns.label:
                self._add_labels(block, table[self.config.columns.label], spec, scan.scan_id, path, done)
            elif labels is not None and words is not None:
                self._add_labels(block, words, spec, scan.scan_id, labels.path, done)
            if self.config.columns.instance:
                block.truths["instance"] = table[self.config.columns.instance].astype(np.int64).astype(np.uint32)
            done += count
            if len(points):
                yield block
        if labels is not None:
            labels.end(done)

    def read_frame(self, unit: SourceUnit, position: int, digest: xxhash.xxh3_128 | None) -> Frame:
        scan = unit.scans[position]
        relative, line = scan.details
        pose = self._pose(scan)
        root = Path(scan.files["points"].path.removesuffix(relative))
        seen = cameras(self.config, root, scan.files, relative, line, np.eye(4) if pose is None else pose)
        return Frame(pose, seen)

    def _kept(self, table: Table) -> npt.NDArray[np.intp] | None:
        """The rows of a block that ``clouds.keep`` chooses; None: all."""
        masks = []
        for name, values in self.config.clouds.keep.items():
            if table[name].ndim != 1:
                raise DataError("rows are chosen by a column of one number", where={"field": f"clouds.keep.{name}"})
            masks.append(np.isin(table[name], values))
        return np.flatnonzero(np.logical_and.reduce(masks)) if masks else None

    def _labels(self, path: str, cloud: str, rows: int) -> Beside:
        source = label_source(self.config, path)
        name = label_column(self.config, source)
        return Beside(path, cloud, source.tables([name], rows), name)

    def _columns(self, path: str, table: Table) -> dict[str, Array]:
        columns, found = self.config.columns, dict[str, Array]()
        if columns.intensity:
            low, high = columns.intensity_range
            values = table[columns.intensity]
            if (low, high) != (0.0, 1.0):
                values = (values.astype(np.float64) - low) / (high - low)
            found["intensity"] = values.astype(np.float32)
        if columns.color:
            color = _joined(path, table, columns.color, "color").astype(np.float64) * (255 / columns.color_max)
            found["color"] = np.nan_to_num(color.round()).clip(0, 255).astype(np.uint8)
        if columns.normal:
            found["normal"] = _joined(path, table, columns.normal, "normal").astype(np.float32)
        if columns.ring:
            ring = table[columns.ring]
            if len(ring) and (ring.min() < 0 or ring.max() > 255):
                raise DataError("rings are not within 0..255", where={"file": path, "field": "columns.ring"})
            found["ring"] = ring.astype(np.uint8)
        return found

    def _add_labels(self, block: Block, words: Array, spec: DatasetSpec, scan_id: str, path: str, done: int) -> None:
        """Raw ids become train ids, and the bits above them instances."""
        if words.ndim != 1:
            raise DataError("a label is one number a point", where={"file": path, "scan": scan_id}, hint=HINT)
        if words.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                whole = words == np.rint(words)
            if not whole.all():
                row = int(np.argmin(whole))
                number = done + row if block.rows is None else int(block.rows[row])
                where = {"file": path, "scan": scan_id, "row": number}
                raise DataError(f"a label is no whole number: {words[row]:g}", where=where, hint="name another column")
        bits = self.config.labels.bits if self.config.labels is not None else 0
        ids = words.astype(np.int64)
        if bits:
            block.truths["instance"] = (ids >> bits).astype(np.uint32)
            ids = ids & ((1 << bits) - 1)
        for raw in self.config.ignored:
            if not 0 <= raw <= HIDDEN_ID:
                ids[ids == raw] = HIDDEN_ID
        try:
            block.label = map_labels(ids, spec, scan_id, path)[0]
        except DataError as error:
            hint = f"add them to [classes], or to [ignored], of {self.config.file}"
            raise DataError(error.what, where=error.where, hint=hint) from None

    def _pose(self, scan: SourceScan) -> Motion | None:
        if self.config.poses is None:
            return None
        return read_pose(scan.files[POSES].path, self.config.poses, *scan.details)


def count_rows(config: FolderConfig, path: str) -> int:
    """Rows of a cloud, those too that ``clouds.keep`` leaves out; a text is read for it."""
    source = cloud_source(config, path)
    if source.count is not None:
        return source.count
    axis = coordinate_columns(source, cloud_options(config))[0]
    return sum(len(table[axis]) for table in source.tables([axis], 1 << 19))


def _to_sensor(block: Block, pose: Motion, zero_is_none: bool) -> None:
    """Rows in the world as the sensor sees them; rows at (0, 0, 0) that are no measurement stay there."""
    back = inverse(pose)
    missing = (block.points == 0).all(axis=1) if zero_is_none else None
    block.points = block.points @ back[:3, :3].T + back[:3, 3]
    if missing is not None:
        block.points[missing] = 0
    if "normal" in block.columns:
        block.columns["normal"] = (block.columns["normal"] @ back[:3, :3].T).astype(np.float32)


def _points(axes: Sequence[Array], scale: float) -> npt.NDArray[np.float64] | npt.NDArray[np.float32]:
    """(n, 3) meters; numbers that are stored in 32 bits stay so."""
    small = scale == 1 and all(axis.dtype == np.float32 for axis in axes)
    points = np.empty((len(axes[0]), 3), np.float32 if small else np.float64)
    for column, values in enumerate(axes):
        points[:, column] = values
    if scale != 1:
        points *= scale
    return points


def _joined(path: str, table: Table, names: Sequence[str], role: str) -> Array:
    """(n, 3): three columns, or one that holds three numbers."""
    values = table[names[0]] if len(names) == 1 else np.stack([table[name] for name in names], axis=1)
    if values.ndim != 2 or values.shape[1] != 3:
        raise DataError(f"{role} is not three numbers a point", where={"file": path, "field": f"columns.{role}"})
    return values
