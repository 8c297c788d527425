"""Loose files, labelled by a network whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.folder_config import FolderConfig, parse_config
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats import read_cloud
from ssl3d.data.scan import View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.voxels import point_feature
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.loose import LEGEND, LooseFile, predict_files
from ssl3d.pipeline.evaluation.subject import Subject
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.workspace import Workspace

MakeSubject = Callable[..., Subject]
Nearest = Callable[..., np.ndarray]
SPEC = load_spec("semantickitti")


def run(dataset: PreparedDataset, subject: Subject, *files: Path, out: Path, **how: object) -> list[LooseFile]:
    return predict_files(dataset.handle.workspace, subject, dataset.name, files, out, **how)  # type: ignore[arg-type]


def points_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-4, 44, (count, 3)).astype(np.float32) * [1, 0.8, 0.1]


def raw(classes: np.ndarray) -> list[int]:
    return [SPEC.learning_map_inv[int(each)] for each in classes]


@pytest.mark.parametrize("form", ["npz", "ply", "las"])
def test_every_point_gets_an_id_of_the_dataset(
    prepared: PreparedDataset, make_subject: MakeSubject, nearest_anchor: Nearest, tmp_path: Path, form: str
) -> None:
    points = points_of(200)
    np.savetxt(tmp_path / "a.csv", points, delimiter=",", header="x,y,z", comments="", fmt="%.4f")
    (done,) = run(prepared, make_subject(), tmp_path / "a.csv", out=tmp_path / "out", form=form)
    assert done == LooseFile(tmp_path / "a.csv", tmp_path / "out" / f"a.{form}", 200, 1)
    cloud = read_cloud(done.out)
    assert np.abs(cloud.points - np.round(points, 4)).max() < 0.0011
    label = cloud.columns["classification" if form == "las" else "label"]
    assert label.tolist() == raw(nearest_anchor(np.round(points, 4), 19))
    legend = json.loads((tmp_path / "out" / LEGEND).read_text())
    assert legend["classes"]["10"] == "car" and legend["nothing_predicted"] == 0


def test_a_large_cloud_is_looked_at_in_tiles(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    points = points_of(4000) + np.array([651_000, 6_861_000, 100])
    np.save(tmp_path / "far.npy", points)
    config = FolderConfig.model_validate(
        {
            "name": "x",
            "clouds": {"files": ["*"]},
            "classes": {"1": "a"},
            "tiles": {"points": 1000, "size": 20.0},
        }
    )
    (done,) = run(prepared, make_subject(), tmp_path / "far.npy", out=tmp_path / "out", config=config)
    assert done.points == 4000 and done.pieces >= 4 and done.out.suffix == ".npz"
    cloud = read_cloud(done.out)
    assert np.array_equal(cloud.points, points)  # float64, in the order of the file
    assert set(cloud.columns["label"].tolist()) <= set(SPEC.learning_map_inv.values())


def test_without_the_dataset_labels_are_class_numbers(
    prepared: PreparedDataset, make_subject: MakeSubject, nearest_anchor: Nearest, tmp_path: Path
) -> None:
    points = points_of(100)
    np.save(tmp_path / "a.npy", points)
    subject = make_subject(classes=tuple(f"c{number}" for number in range(19)))
    (done,) = run(prepared, subject, tmp_path / "a.npy", out=tmp_path / "out")
    assert read_cloud(done.out).columns["label"].tolist() == nearest_anchor(points, 19).tolist()
    assert json.loads((tmp_path / "out" / LEGEND).read_text())["classes"]["0"] == "c0"


def test_points_that_are_not_finite_get_a_label_too(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    points = points_of(50)
    points[7, 1] = np.nan
    np.save(tmp_path / "a.npy", points)
    (done,) = run(prepared, make_subject(), tmp_path / "a.npy", out=tmp_path / "out")
    cloud = read_cloud(done.out)
    assert len(cloud.points) == 50 and np.isnan(cloud.points[7, 1])


def test_what_cannot_be_done(prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "c.npy", points_of(30))
    first, second = tmp_path / "a" / "c.npy", tmp_path / "b" / "c.npy"
    with pytest.raises(UsageError, match="two files have the same name"):
        run(prepared, make_subject(), first, second, out=out)
    with pytest.raises(UsageError, match="not written as 'obj'"):
        run(prepared, make_subject(), first, out=out, form="obj")
    with pytest.raises(UsageError, match="no such file"):
        run(prepared, make_subject(), tmp_path / "d.npy", out=out)
    run(prepared, make_subject(), first, out=out)
    with pytest.raises(UsageError, match="there already"):
        run(prepared, make_subject(), first, out=out)
    run(prepared, make_subject(), first, out=out, overwrite=True)
    own = out / "c.npz"
    with pytest.raises(UsageError, match="replace the file itself"):
        run(prepared, make_subject(), own, out=out, overwrite=True)


def test_damaged_files_leave_nothing_behind(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", points_of(30))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-100])
    with pytest.raises(DataError, match="truncated") as caught:
        run(prepared, make_subject(), tmp_path / "a.npy", out=tmp_path / "out")
    assert "a.npy" in str(caught.value.where["file"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_of_own_scans_knows_their_columns(
    make_subject: MakeSubject, nearest_anchor: Nearest, tmp_path: Path
) -> None:
    """What was prepared says what the columns are, and what the written ids mean, without its files."""
    root = tmp_path / "mine"
    root.mkdir()
    for number in range(2):
        rows = np.column_stack([points_of(60, number) * 1000, np.arange(60) % 2 + 5])
        np.savetxt(root / f"c{number}.csv", rows, delimiter=",", header="E,N,H,code", comments="", fmt="%.3f")
    table = {
        "name": "mine",
        "root": str(root),
        "clouds": {"files": ["c*.csv"], "scale": 0.001},
        "columns": {"coordinates": ["E", "N", "H"], "label": "code"},
        "classes": {str(raw): f"kind {raw}" for raw in range(5, 24)},
    }
    config = parse_config(table, tmp_path / "my.toml")
    workspace = Workspace.open(tmp_path / "ws")
    prepare(workspace, "folder", root, config=config.text(), name="mine")
    dataset = PreparedDataset(workspace.dataset())
    new = tmp_path / "new.csv"
    (root / "c0.csv").rename(new)
    (done,) = run(dataset, make_subject(classes=dataset.spec.classes), new, out=tmp_path / "out")
    low = np.percentile(points_of(60)[:, 2], 1)
    origin = np.floor([*np.median(points_of(60)[:, :2], axis=0), low])
    expected = nearest_anchor(points_of(60) - origin, 19) + 5  # seen from the middle of the cloud, written as codes
    found = read_cloud(done.out)
    assert np.abs(found.points - points_of(60) * 1000).max() < 0.001  # as they are in the file: millimeters
    assert (found.columns["label"] == expected).mean() > 0.95  # the network sees voxels


def test_a_feature_that_the_file_lacks_is_named(
    prepared: PreparedDataset, make_subject: MakeSubject, make_segmenter: Callable[..., Segmenter], tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", points_of(30))

    def chunks(view: View) -> Iterator[View]:
        point_feature([view], "intensity")
        yield view

    segmenter = make_segmenter(classes=19)
    segmenter.backbone.chunks = chunks  # type: ignore[method-assign]
    subject = make_subject(load=lambda device: segmenter)
    with pytest.raises(UsageError, match="'intensity', which this file does not have") as caught:
        run(prepared, subject, tmp_path / "a.npy", out=tmp_path / "out")
    assert "--config" in str(caught.value.hint)
