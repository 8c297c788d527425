"""Anyone's scans in a folder, as a description (``my.toml``) says that they are; see ``folder_config``.

The reader is made from the description as text, which prepared datasets keep: later commands need neither the file nor
the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.beside import Beside
from ssl3d.data.datasets.clouds import Block, CloudReader, Frame
from ssl3d.data.datasets.folder_config import HIDDEN_ID, HINT, FolderConfig, beside
from ssl3d.data.datasets.folder_files import cloud_options, cloud_source, label_source, wanted_columns
from ssl3d.data.datasets.folder_survey import survey
from ssl3d.data.datasets.raw import map_labels
from ssl3d.data.datasets.root import read_text
from ssl3d.data.datasets.source import Camera, Layout, ReadOptions, SourceUnit
from ssl3d.data.datasets.spool import TileParams
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats.cloud import Source, Table
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
        done = 0
        for table in source.tables(list(dict.fromkeys([*axes, *others])), rows):
            points = _points([table[axis] for axis in axes], self.config.clouds.scale)
            block = Block(points, self._columns(path, table))
            if self.config.columns.label:
                self._add_labels(block, table[self.config.columns.label], spec, scan.scan_id, path, done)
            elif labels is not None:
                words = labels.take(len(points))
                if len(words) < len(points):
                    labels.end(self._count(source, path, done))
                self._add_labels(block, words, spec, scan.scan_id, labels.path, done)
            if self.config.columns.instance:
                block.truths["instance"] = table[self.config.columns.instance].astype(np.int64).astype(np.uint32)
            done += len(points)
            yield block
        if labels is not None:
            labels.end(done)

    def read_frame(self, unit: SourceUnit, position: int, digest: xxhash.xxh3_128 | None) -> Frame:
        scan = unit.scans[position]
        relative, line = scan.details
        pose = None
        if self.config.poses is not None:
            pose = _pose(scan.files["poses"].path, self.config.poses.files, line)
        return Frame(pose, self._cameras(relative))

    def _count(self, source: Source, path: str, done: int) -> int:
        """Rows of a cloud, for the message that its labels are fewer."""
        if source.count is not None:
            return source.count
        axis = coordinate_columns(source, cloud_options(self.config))[0]
        return sum(len(table[axis]) for table in cloud_source(self.config, path).tables([axis], 1 << 19))

    def _labels(self, path: str, cloud: str, rows: int) -> Beside:
        labels = self.config.labels
        assert labels is not None
        source = label_source(self.config, path)
        if labels.column in source.columns:
            name = labels.column
        elif len(source.columns) == 1:
            name = next(iter(source.columns))
        else:
            raise DataError(
                f"there is no column {labels.column!r}",
                where={"file": path, "field": "labels.column"},
                hint=f"the file has {', '.join(source.columns)}",
            )
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
                where = {"file": path, "scan": scan_id, "row": done + row}
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

    def _cameras(self, relative: str) -> Sequence[Camera]:
        found = []
        for image in self.config.images:
            name = os.path.normpath(beside(image.files, relative))
            if (self.config.base() / name).is_file():
                intrinsic = np.array(image.intrinsic).reshape(3, 3)
                extrinsic = np.array(image.extrinsic).reshape(4, 4)
                found.append(Camera(image.name, Path(name).as_posix(), image.size, intrinsic, extrinsic))
        return found


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


def _pose(path: str, pattern: str, line: int) -> npt.NDArray[np.float64]:
    """Line ``line`` of a file for a folder, or all of a file for one cloud."""
    lines = [text for text in read_text(path).splitlines() if text.strip() and not text.lstrip().startswith("#")]
    single = "{stem}" in pattern or "{path}" in pattern
    if not single and line >= len(lines):
        what = f"the file has {len(lines)} poses, the folder more clouds"
        raise DataError(what, where={"file": path, "row": line}, hint="poses are in the order of the clouds' names")
    text = " ".join(lines) if single else lines[line]
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise DataError(f"a pose holds no numbers: {error}", where={"file": path, "row": line}) from None
    if len(numbers) not in (12, 16) or not np.isfinite(numbers).all():
        what = f"a pose has {len(numbers)} numbers"
        raise DataError(what, where={"file": path, "row": line}, hint="3 x 4 or 4 x 4 finite numbers, row by row")
    return np.array(numbers + [0.0, 0.0, 0.0, 1.0] * (len(numbers) == 12)).reshape(4, 4)
