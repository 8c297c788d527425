"""Labels for loose files by a trained network: no dataset is needed, and clouds may be of any size.

What the columns of a file are is told by a description; or by that of the folder that the network was trained on; or
it is guessed from the file (``data.datasets.folder_guess``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.folder import Folder, count_rows
from ssl3d.data.datasets.folder_config import FolderConfig, class_color
from ssl3d.data.datasets.folder_files import cloud_options, cloud_source
from ssl3d.data.datasets.folder_guess_text import describe_file
from ssl3d.data.datasets.folder_survey import loose_unit
from ssl3d.data.datasets.source import DatasetReader, SourceUnit
from ssl3d.data.datasets.spool import ROWS, SOURCE_ROW
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.formats.read import coordinate_columns, split_suffix
from ssl3d.data.formats.write import WRITTEN, Labelled, write_labelled
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import DatasetSpec
from ssl3d.pipeline.dataset import scan_features, spec_of
from ssl3d.pipeline.evaluation.subject import Subject, predicting_in
from ssl3d.pipeline.files import write_json, writing
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ssl3d.pipeline.evaluation.predictor import Predictor

LEGEND = "ssl3d_classes.json"
_NEAR = 1000.0
"""Meters; where nothing is known of the training data, clouds this near to the origin keep their frame."""
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LooseFile:
    """One labelled file: where it came from and went to, its points, in how many pieces it was looked at."""

    source: Path
    out: Path
    points: int
    pieces: int


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the data that a network was trained on. ``spec``: None when it is no longer prepared."""

    spec: DatasetSpec | None
    config: FolderConfig | None


def predict_files(
    workspace: Workspace,
    subject: Subject,
    dataset: str,
    files: Sequence[Path],
    out: Path,
    *,
    form: str | None = None,
    config: FolderConfig | None = None,
    device: str = "cpu",
    jobs: int = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[LooseFile]:
    """Writes ``<out>/<name>.<form>`` for every file, each whole or not at all, and a legend of the labels.

    Labels are the ids of the dataset that the network was trained on, as long as that is prepared, else class numbers.

    Args:
        dataset: name of the dataset that the network was trained on.
        form: npz, ply, las or laz; None: as the file itself where it is one of these, else npz.
        config: says what the columns are.

    Raises:
        UsageError: unknown form, two files of one name, a file that is there already; a file lacks what the network
            reads.
        DataError: a file is damaged, or its columns are not found.
    """
    progress, out = progress or Silent(), out.expanduser().absolute()
    places = _places(files, out, form, overwrite)
    known = _known(workspace, dataset, subject)
    done = []
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with (
            predicting_in(workspace, subject, device, jobs, progress) as predictor,
            progress.task(f"predict {subject.name}", total=len(places), unit="file") as task,
        ):
            for file, place in places:
                described, own_frame = _describe(file, config, known)
                cloud = Folder(described.text())
                cloud.own_frame = own_frame
                with cloud.opened(loose_unit(described, file), cloud.spec(), out) as (reader, unit):
                    rows = count_rows(described, str(file)) if described.clouds.keep else unit.num_points or 0
                    label = _label(predictor, reader, unit, rows)
                _write(file, place, described, label, known, len(subject.classes))
                done.append(LooseFile(file, place, len(label), len(unit.scans)))
                task.advance()
        write_json(out / LEGEND, _legend(subject, known))
    return done


def _places(files: Sequence[Path], out: Path, form: str | None, overwrite: bool) -> list[tuple[Path, Path]]:
    if form is not None and f".{form}" not in WRITTEN:
        raise UsageError(
            f"loose files are not written as {form!r}", hint=f"--format {'|'.join(kind[1:] for kind in WRITTEN)}"
        )
    places: dict[Path, Path] = {}
    for file in files:
        stem, own = split_suffix(file.name)
        suffix = f".{form}" if form is not None else own if own in WRITTEN else ".npz"
        place = out / f"{stem}{suffix}"
        if place in places:
            raise UsageError(
                "two files have the same name",
                where={"file": file, "other": places[place]},
                hint="label them one after the other, each with an --out of its own",
            )
        if not file.is_file():
            raise UsageError("there is no such file", where={"file": file}, hint="check the path")
        if place.exists() and (not overwrite or place.samefile(file)):
            what = "the labels would replace the file itself" if place.samefile(file) else "the file is there already"
            raise UsageError(what, where={"file": place}, hint="choose another folder with --out DIR, or --overwrite")
        places[place] = file
    return [(file, place) for place, file in places.items()]


def _known(workspace: Workspace, dataset: str, subject: Subject) -> _Known:
    try:
        product = workspace.dataset(dataset).product("prepare")
        spec = None if product is None else spec_of(product)
    except Ssl3dError:
        return _Known(None, None)
    if product is None or spec is None or spec.classes != subject.classes:
        return _Known(None, None)
    identity = product.manifest.identity
    text = identity.get("config", "") if identity["reader"] == Folder.name else ""
    return _Known(spec, FolderConfig.from_text(text) if text else None)


def _describe(file: Path, config: FolderConfig | None, known: _Known) -> tuple[FolderConfig, bool]:
    """The description of one file, without what lies beside it; and whether its points keep their frame.

    The description of the training data holds for files of the same kind.
    """
    trained = known.config
    if config is None and trained is not None:
        kinds = {split_suffix(pattern)[1] for pattern in trained.clouds.files}
        config = trained if split_suffix(file.name)[1] in kinds else None
    found = describe_file(file) if config is None else config
    clouds = found.clouds.model_copy(update={"files": (file.name,), "exclude": (), "group": "cloud"})
    columns = found.columns.model_copy(update={"label": "", "instance": ""})
    described = FolderConfig(
        name=found.name,
        root=str(file.absolute().parent),
        clouds=clouds,
        columns=columns,
        classes=found.classes,
        poses=found.poses if _has_own_pose(found) else None,
        sensor=found.sensor,
        tiles=found.tiles,
    )
    frame = config or trained
    if frame is not None:
        in_world = frame.poses is not None and frame.poses.world and described.poses is None
        return described, not in_world and (frame.sensor is not None or frame.poses is not None)
    if known.spec is not None:
        return described, known.spec.sensor is not None
    return described, _is_near(described, file)


def _has_own_pose(config: FolderConfig) -> bool:
    """Whether points are in the world, and a file by itself tells which pose it has."""
    poses = config.poses
    return poses is not None and poses.world and (poses.by == "stem" or "{stem}" in poses.files)


def _is_near(config: FolderConfig, file: Path) -> bool:
    source = cloud_source(config, str(file))
    axes = coordinate_columns(source, cloud_options(config))
    table = next(iter(source.tables(axes, ROWS)))
    return all(float(np.nanmax(np.abs(table[axis]))) * config.clouds.scale < _NEAR for axis in axes)


def _label(predictor: Predictor, reader: DatasetReader, unit: SourceUnit, count: int) -> Labels:
    """(count,) classes of all rows of a file, 255 where nothing is predicted."""
    rows: dict[int, npt.NDArray[np.uint32] | None] = {}
    spec = reader.spec()
    label: Labels = np.full(count, IGNORE, np.uint8)

    def load(position: int) -> View:
        scan = reader.read_scan(unit, position, spec)
        rows[position] = scan.columns.pop(SOURCE_ROW, None)
        size = len(scan.points)
        ids = np.stack([np.full(size, position, np.int64), np.arange(size)], axis=1)
        name = Path(unit.scans[position].files["points"].path).name
        facts = {"scan_id": name, "origin": scan.origin, "pose": None}
        return View(scan.points, scan_features(scan.columns), ids, np.full(size, IGNORE, np.uint8), scan=facts)

    try:
        for position, found in predictor.labels(range(len(unit.scans)), load):
            place = rows.pop(position)
            label[slice(None) if place is None else place] = found
    except DataError as error:
        if "features" not in error.where:
            raise
        hint = "name the columns that hold it in a description: --config my.toml (ssl3d prepare folder --guess DIR)"
        what = error.what.replace("this dataset", "this file")
        raise UsageError(what, where=error.where, hint=hint) from None
    return label


def _write(file: Path, place: Path, described: FolderConfig, label: Labels, known: _Known, classes: int) -> None:
    """The points as they are in the file, with labels and the colors of their classes. In memory are the labels."""
    source = cloud_source(described, str(file))
    axes = coordinate_columns(source, cloud_options(described))
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".ssl3d-") as folder:
        points = np.memmap(Path(folder) / "points", np.float64, "w+", shape=(len(label), 3))
        color = np.memmap(Path(folder) / "color", np.uint8, "w+", shape=(len(label), 3))
        ids, colors = _tables(known, classes)
        done = 0
        for table in source.tables(axes, ROWS):
            count = len(table[axes[0]])
            if done + count > len(label):
                raise DataError("a file grew while it was in use", where={"file": file}, hint="start again")
            rows = slice(done, done + count)
            points[rows] = np.stack([table[axis] for axis in axes], axis=1)
            color[rows] = colors[label[rows]]
            done += count
        narrow = ids.astype(np.min_scalar_type(int(ids.max())))  # one array of the whole cloud is in memory
        write_labelled(place, Labelled(points, narrow[label], color=color, header=source.header))
        del points, color


def _tables(known: _Known, classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Class (255: nothing is predicted) -> written id, -> color."""
    ids, colors = np.arange(256), np.zeros((256, 3), np.uint8)
    if known.spec is not None:
        ids[:classes] = [known.spec.learning_map_inv[number] for number in range(classes)]
        ids[IGNORE] = 0
        colors[:classes] = known.spec.colors
    else:
        colors[:classes] = [class_color(number) for number in range(classes)]
    return ids, colors


def _legend(subject: Subject, known: _Known) -> dict[str, Any]:
    ids, _ = _tables(known, len(subject.classes))
    names = {str(int(ids[number])): name for number, name in enumerate(subject.classes)}
    return {
        "run": subject.run,
        "checkpoint": subject.checkpoint,
        "weights": subject.weights,
        "nothing_predicted": int(ids[IGNORE]),
        "classes": names,
    }
