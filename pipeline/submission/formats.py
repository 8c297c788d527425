"""Predictions as the tools of each dataset read and write them: one file a scan, or one for a cloud that was cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.atomic import replacing, write_whole
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats.integers import whole_numbers
from ssl3d.data.formats.read import inspect, table_blocks
from ssl3d.data.formats.write import WRITTEN, Labelled, labelled_bytes
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import DatasetSpec, load_spec
from ssl3d.data.text import nearest
from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
from ssl3d.pipeline.submission.handed import Handed
from ssl3d.pipeline.submission.nuscenes import submission_json
from ssl3d.pipeline.submission.rules import Expected

Labels = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.integer[Any]]
_PAIR = np.dtype([("row", "<u4"), ("id", "u1")])
HIDDEN = "."
"""First letter of folders that hold what is needed to go on, and are no part of a submission."""
_ROWS = 1 << 22
"""Lines that are made at once."""


class PredictionFormat(ABC):
    """How predictions are written, and how those of other programs are read.

    Attributes:
        name: as typed after ``--format``.
        datasets: whose scans can be written so; () for any.
        clouds: whether a submitted file speaks of a whole cloud, from which the scans were cut as tiles.
        strict: whether the official evaluation refuses ids that are none of the dataset's.
    """

    name: str
    datasets: tuple[str, ...] = ()
    clouds: bool = False
    strict: bool = False

    @abstractmethod
    def path(self, scan: ScanRef) -> PurePosixPath:
        """The file of a scan, below the output folder."""

    def submitted(self, scan: ScanRef) -> PurePosixPath:
        """The file that holds its predictions in a submission."""
        return self.path(scan)

    @abstractmethod
    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        """Its content.

        Args:
            label: (n,) uint8 classes, 255 where nothing is predicted.
            view: reads the scan again, for formats that need more than labels.
        """

    @abstractmethod
    def ids(self, handed: Handed, file: str) -> Iterator[Ids]:
        """The ids in a file, as they stand there, in blocks. DataError when it cannot be read or holds other things.

        Args:
            file: as ``submitted`` names it.
        """

    def classes(self, spec: DatasetSpec) -> Mapping[int, int]:
        """Id in a file -> class, 255 for ids that stand for none."""
        return {0: IGNORE, **spec.learning_map}

    def size(self, points: int) -> int | None:
        """Bytes of a file, by which a finished one is recognized; None where its being there is enough."""
        return None

    def finish(self, out: Path, scans: Sequence[ScanRef], uses: Mapping[str, bool]) -> list[PurePosixPath]:
        """What is written once all scans are there.

        Args:
            uses: what the method was trained with: ``use_camera``, ``use_lidar``, ``use_external`` ...

        Returns:
            Further files that belong to a submission.
        """
        return []


class KittiFormat(PredictionFormat):
    """SemanticKITTI, and datasets in its layout: uint32 original ids, merged classes as the static one."""

    name = "semantickitti"
    datasets = ("semantickitti", "semanticposs")

    def path(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath("sequences", scan.group, "predictions", scan.scan_id.split("/")[1] + ".label")

    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        return spec.to_raw(label).astype("<u4").tobytes()

    def ids(self, handed: Handed, file: str) -> Iterator[Ids]:
        """Without the numbers of instances in the upper halves."""
        content = handed.read(file)
        if len(content) % 4:
            raise DataError(
                f"{len(content)} bytes are no multiple of 4: labels are uint32",
                where=handed.where(file),
                hint="write ids.astype('<u4').tofile(file)",
            )
        yield np.frombuffer(content, "<u4") & 0xFFFF

    def size(self, points: int) -> int:
        return 4 * points


class NuScenesFormat(PredictionFormat):
    """nuScenes: uint8, train ids from 1. Its evaluation takes no other: points without a prediction become the class
    that most points of their scan have."""

    name = "nuscenes"
    datasets = ("nuscenes",)
    strict = True

    def path(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath("lidarseg", scan.subset, f"{scan.alias}_lidarseg.bin")

    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        counts = np.bincount(label[label != IGNORE], minlength=spec.num_classes)
        return (np.where(label == IGNORE, counts.argmax(), label) + 1).astype(np.uint8).tobytes()

    def ids(self, handed: Handed, file: str) -> Iterator[Ids]:
        yield np.frombuffer(handed.read(file), np.uint8)

    def classes(self, spec: DatasetSpec) -> Mapping[int, int]:
        return {c + 1: c for c in range(spec.num_classes)}

    def size(self, points: int) -> int:
        return points

    def finish(self, out: Path, scans: Sequence[ScanRef], uses: Mapping[str, bool]) -> list[PurePosixPath]:
        files = [PurePosixPath(subset, "submission.json") for subset in sorted({scan.subset for scan in scans})]
        for file in files:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            write_whole(out / file, submission_json(uses))
        return files


class TextFormat(PredictionFormat):
    """One id a line and point."""

    def ids(self, handed: Handed, file: str) -> Iterator[Ids]:
        return whole_numbers(handed.blocks(file), handed.where(file))


class ScanNetFormat(TextFormat):
    """ScanNet: text, one NYU40 id a line and vertex; 0 where nothing is predicted."""

    name = "scannet"
    datasets = ("scannet",)

    def path(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath(scan.scan_id.split("/")[-1] + ".txt")

    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        return as_lines(spec.to_raw(label))


class Semantic3DFormat(TextFormat):
    """Semantic3D: text, one id 1..8 a line, for every point of a cloud in its order, by the names of the submissions.

    Tiles are kept as (row, id) in ``.tiles/`` until the cloud is complete."""

    name = "semantic3d"
    datasets = ("semantic3d",)
    clouds = True

    def path(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath(f"{HIDDEN}tiles", f"{scan.scan_id}.bin")

    def submitted(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath(load_spec(self.name).submission.get(scan.group, f"{scan.group}.labels"))

    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        rows = view().extras.get("source_row", np.arange(len(label)))
        pairs = np.empty(len(label), _PAIR)
        pairs["row"], pairs["id"] = rows, np.maximum(spec.to_raw(label), 1)
        return pairs.tobytes()

    def size(self, points: int) -> int:
        return 5 * points

    def finish(self, out: Path, scans: Sequence[ScanRef], uses: Mapping[str, bool]) -> list[PurePosixPath]:
        clouds: dict[str, list[ScanRef]] = {}
        for scan in scans:
            clouds.setdefault(scan.group, []).append(scan)
        files = []
        for tiles in clouds.values():
            file = self.submitted(tiles[0])
            ids = np.zeros(sum(tile.num_points for tile in tiles), np.uint8)
            for tile in tiles:
                pairs = np.fromfile(out / self.path(tile), _PAIR)
                ids[pairs["row"]] = pairs["id"]
            with replacing(out / file) as temporary, temporary.open("wb") as stream:
                for begin in range(0, len(ids), _ROWS):
                    stream.write(as_lines(ids[begin : begin + _ROWS]))
            files.append(file)
        return files


class PointsFormat(PredictionFormat):
    """Points in the frame of the dataset (origin added), original ids, colors of the classes; for any dataset."""

    def __init__(self, name: str) -> None:
        self.name = name

    def path(self, scan: ScanRef) -> PurePosixPath:
        return PurePosixPath(f"{scan.scan_id}.{self.name}")

    def encode(self, label: Labels, spec: DatasetSpec, view: Callable[[], View]) -> bytes:
        scan = view()
        colors = np.zeros((IGNORE + 1, 3), np.uint8)
        colors[: spec.num_classes] = spec.colors
        points = scan.points + np.asarray(scan.scan["origin"], np.float64)
        return labelled_bytes(f".{self.name}", Labelled(points, spec.to_raw(label), color=colors[label]))

    def ids(self, handed: Handed, file: str) -> Iterator[Ids]:
        """The column ``label``, or where a .las has none, ``classification``."""
        with handed.file(file) as path:
            try:
                columns = {column.lower() for column in inspect(path).columns}
                name = "classification" if "label" not in columns and "classification" in columns else "label"
                for block in table_blocks(path, columns=[name]):
                    yield _whole(block[name], handed.where(file))
            except DataError as error:  # of a file that a zip holds, the path is not the user's
                raise DataError(error.what, where={**error.where, **handed.where(file)}, hint=error.hint) from error


def _whole(ids: npt.NDArray[Any], where: Mapping[str, object]) -> Ids:
    """(n,) whole numbers, which may be stored as others."""
    if ids.ndim == 1 and ids.dtype.kind in "iub":
        return ids.astype(np.int64) if ids.dtype.kind == "b" else ids
    if ids.ndim == 1 and ids.dtype.kind == "f" and np.isfinite(ids).all() and (ids == np.rint(ids)).all():
        return ids.astype(np.int64)
    raise DataError(
        f"labels are {ids.shape} {ids.dtype}, not one whole number a point", where={**where, "field": "label"}
    )


def as_lines(ids: npt.NDArray[np.integer]) -> bytes:
    """Whole numbers of up to three digits, one a line."""
    words = np.array([f"{number}\n".encode() for number in range(1000)])
    lengths = np.array([len(f"{number}\n") for number in range(1000)])
    wide = words[ids].view(np.uint8).reshape(len(ids), words.itemsize)
    return bytes(wide[np.arange(words.itemsize) < lengths[ids][:, None]].tobytes())


FORMATS: Mapping[str, PredictionFormat] = {
    each.name: each
    for each in (
        KittiFormat(),
        NuScenesFormat(),
        ScanNetFormat(),
        Semantic3DFormat(),
        *(PointsFormat(kind.removeprefix(".")) for kind in WRITTEN),
    )
}
"""By the name typed after ``--format``."""


def format_of(name: str | None, dataset: DatasetSpec) -> PredictionFormat:
    """The format of that name, by default the dataset's own, or .npz files of points where it has none.

    Raises:
        UsageError: there is none, or scans of this dataset cannot be written so.
    """
    fitting = [each.name for each in FORMATS.values() if dataset.name in (each.datasets or (dataset.name,))]
    chosen = name or fitting[0]  # its own, if it has one, else points
    if chosen not in FORMATS:
        near = nearest(chosen, FORMATS)
        raise UsageError(
            f"there is no prediction format '{chosen}'",
            hint=(f"did you mean '{near}'? " if near else "") + f"Formats: {', '.join(FORMATS)}",
        )
    if chosen not in fitting:
        raise UsageError(
            f"scans of {dataset.title} cannot be written in the format '{chosen}'",
            hint=f"formats for it: {', '.join(fitting)}",
        )
    return FORMATS[chosen]


def expected_files(dataset: PreparedDataset, subset: str) -> Expected:
    """The files that a submission for a subset of a prepared dataset has, with the points of each.

    Raises:
        UsageError: the subset has no scans, or the dataset no format of its own.
    """
    scans = dataset.subset(subset)
    if not scans:
        raise UsageError(
            f"the dataset '{dataset.name}' has no {subset} scans",
            hint="--subset val, for what was predicted of validation scans",
        )
    points: dict[str, int | None] = {}
    writer = format_of(None, dataset.spec)
    for scan in scans:
        file = str(writer.submitted(scan))
        points[file] = (points.get(file) or 0) + scan.num_points
    return Expected(points, f"the {len(scans)} {subset} scans of the prepared dataset '{dataset.name}'")


__all__ = ["FORMATS", "HIDDEN", "PredictionFormat", "expected_files", "format_of"]
