"""Semantic3D (Hackel et al. 2017): terrestrial clouds as text, ``x y z intensity r g b`` a line, up to several GB each.

Every cloud is a group. Large ones are cut into tiles ``<cloud>/<ix>_<iy>`` with ``source_row``, small ones are the scan
``<cloud>/all``. Intensity is stored as (i + 2048) / 4096: the scanner's integers lie in -2048..2047.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.beside import Beside
from ssl3d.data.datasets.clouds import Block, CloudReader
from ssl3d.data.datasets.semantic3d_survey import survey
from ssl3d.data.datasets.source import Layout, ReadOptions, SourceUnit
from ssl3d.data.errors import DataError
from ssl3d.data.formats.cloud import Options, Table
from ssl3d.data.formats.text import TextSource
from ssl3d.data.spec import DatasetSpec

_FIELDS = ("x", "y", "z", "intensity", "r", "g", "b")
_AGAIN = "the file is damaged: unpack its archive again"


class Semantic3D(CloudReader):
    """The text files of the publisher."""

    name = "semantic3d"

    def survey(self, root: Path, options: ReadOptions) -> Layout:
        return survey(self.spec(), root, options)

    def read_blocks(self, unit: SourceUnit, position: int, spec: DatasetSpec, rows: int) -> Iterator[Block]:
        scan = unit.scans[position]
        cloud = Path(scan.files["points"].path)
        source = TextSource(cloud, Options(names=_FIELDS, delimiter=" ", decimal=".", comments=""))
        label = _labels(scan.files["labels"].path, str(cloud), rows) if scan.labelled else None
        table = spec.lut()[0]
        done = 0
        for found in source.tables(_FIELDS, rows):
            block = _block(cloud, source.rows.line + done, found)
            done += len(block.points)
            if label is not None:
                ids = label.take(len(block.points))
                block.label = np.full(len(block.points), table[0])
                block.label[: len(ids)] = table[_ids(label.path, label.taken - len(ids), ids, spec.num_classes)]
            yield block
        if label is not None:
            label.end(done)


def _labels(path: str, cloud: str, rows: int) -> Beside:
    source = TextSource(Path(path), Options(names=("label",), delimiter=" ", decimal=".", comments=""))
    return Beside(path, cloud, source.tables(("label",), rows), "label")


def _block(path: Path, line: int, table: Table) -> Block:
    """Rows of the text, checked: a line that is not what the publisher writes is a damaged file."""
    points = np.stack([table[axis] for axis in "xyz"], axis=1)
    if not np.isfinite(points.sum()):
        _check(path, line, "coordinates", points, np.isfinite(points).all(axis=1), "finite")
    intensity = table["intensity"]
    color = np.empty((len(points), 3), np.uint8)
    good = np.ones(len(points), np.bool_)
    with np.errstate(invalid="ignore"):
        _check(path, line, "intensity", intensity, intensity == np.rint(intensity), "an integer")
        for place, channel in enumerate("rgb"):
            color[:, place] = table[channel]
            good &= color[:, place] == table[channel]
    if not good.all():
        found = np.stack([table[channel] for channel in "rgb"], axis=1)
        _check(path, line, "r g b", found, good, "integers within 0..255")
    return Block(points, {"intensity": ((intensity + 2048) / 4096).astype(np.float32), "color": color})


def _check(
    path: Path, line: int, field: str, values: npt.NDArray[np.float64], good: npt.NDArray[np.bool_], kind: str
) -> None:
    if not good.all():
        row = int(np.argmin(good))
        text = " ".join(f"{value:g}" for value in np.atleast_1d(values[row]))
        what = f"{field} {'is' if field == 'intensity' else 'are'} not {kind}: {text}"
        raise DataError(what, where={"file": path, "line": line + row, "field": field}, hint=_AGAIN)


def _ids(path: str, before: int, ids: npt.NDArray[np.float64], classes: int) -> npt.NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        found = ids.astype(np.uint8)
        good = (found == ids) & (found <= classes)
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(
            f"{ids[row]:g} is no label: Semantic3D has 0..{classes}",
            where={"file": path, "line": before + row + 1, "field": "label"},
            hint="labels of another dataset, or damaged: unpack sem8_labels_training.7z again",
        )
    return found
