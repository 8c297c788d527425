"""Regimes ``points`` and ``1pt``, from prepared scans to what training reads."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stages.points import draw_points, scan_keys
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, SplitResult, show_split, split
from ssl3d.pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def prepared_once(kitti_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "ws"
    prepare(Workspace.open(root), "semantickitti", kitti_once)
    return root


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def run(workspace: Workspace, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(**params))


def shown(workspace: Workspace, result: SplitResult) -> dict[str, np.ndarray]:
    """Scan id -> (n,) visible labels, as training reads them."""
    dataset = PreparedDataset(workspace.dataset())
    source = dataset.visible(result)
    return {dataset.scans[i].scan_id: source.view(i).label for i in source.labelled.tolist()}


@pytest.mark.parametrize("protocol", ["raw", "class", "voxel", "voxel-first"])
def test_every_scan_shows_what_its_protocol_draws(prepared: Workspace, protocol: str) -> None:
    result = run(prepared, regime="points", ratio="10%", protocol=protocol, seed=3)
    assert result.name == f"points-10%-{protocol}-seed3" and result.partial
    assert len(result.labelled) == 10 and result.unlabelled == ()
    dataset = PreparedDataset(prepared.dataset())
    truth, points = dataset.truth(), dataset.source()
    visible, clicks = shown(prepared, result), 0
    for scan in dataset.subset("train"):
        keys = scan_keys(3, scan.scan_id, scan.num_points)
        where = points.view(scan.index).points
        drawn = draw_points(protocol, truth.label(scan.index), Fraction(1, 10), keys, where)
        np.testing.assert_array_equal(visible[scan.scan_id], drawn.label)
        clicks += drawn.clicks
    labels = np.concatenate(list(visible.values()))
    assert result.budget.clicks == clicks
    assert result.budget.labelled_points == (labels != IGNORE).sum()
    assert list(result.budget.per_class) == np.bincount(labels, minlength=256)[:19].tolist()
    assert result.budget.partial_scans == 10


def test_one_point_per_class(prepared: Workspace) -> None:
    one, three = run(prepared, regime="1pt"), run(prepared, regime="1pt", per_class=3)
    assert (one.name, three.name) == ("1pt-seed0", "3pt-seed0")
    dataset = PreparedDataset(prepared.dataset())
    more = shown(prepared, three)
    for scan_id, label in shown(prepared, one).items():
        full = dataset.truth().label(dataset.by_id[scan_id].index)
        assert sorted(label[label != IGNORE]) == sorted(set(full) - {IGNORE})
        assert set(np.flatnonzero(label != IGNORE)) <= set(np.flatnonzero(more[scan_id] != IGNORE))
    assert one.budget.clicks == one.budget.labelled_points == sum(one.budget.per_class)
    assert run(prepared, regime="1pt", per_class=1).key == one.key


def test_draws_of_a_scan_do_not_depend_on_others(prepared: Workspace) -> None:
    everything = shown(prepared, run(prepared, regime="points", ratio="10%"))
    fewer = shown(prepared, run(prepared, regime="points", ratio="10%", holdout="00"))
    assert sorted(fewer) == [f"01/00000{i}" for i in range(4)]
    for scan_id, label in fewer.items():
        np.testing.assert_array_equal(label, everything[scan_id])


def test_the_default_protocol_is_raw_and_ratios_nest(prepared: Workspace) -> None:
    small, large = run(prepared, regime="points", ratio="2%"), run(prepared, regime="points", ratio="20%")
    assert run(prepared, regime="points", ratio="2%", protocol="raw").key == small.key
    inside, outside = shown(prepared, small), shown(prepared, large)
    for scan_id, label in inside.items():
        assert (label != IGNORE).sum() == 1  # floor(0.02 x 60..95) is 1
        assert (outside[scan_id][label != IGNORE] == label[label != IGNORE]).all()
    assert run(prepared, regime="points", ratio="2%", seed=1).hash != small.hash


def test_all_points_are_no_partial_labels(prepared: Workspace) -> None:
    result, whole = run(prepared, regime="points", ratio="100%"), run(prepared, ratio="100%")
    assert not result.partial and result.budget.partial_scans == 0
    assert result.hash == whole.hash and result.budget == whole.budget


def test_a_scan_without_a_visible_point_is_unlabelled(kitti: Path, workspace: Workspace) -> None:
    for scan_id in ("00/000001", "01/000000", "01/000001", "01/000002", "01/000003"):
        file = kitti / "sequences" / scan_id.replace("/", "/labels/")
        words = file.with_suffix(".label")
        np.zeros(words.stat().st_size // 4, "<u4").tofile(words)  # all unlabeled
    prepare(workspace, "semantickitti", kitti)
    for params in ({"regime": "1pt"}, {"regime": "points", "ratio": "5%", "protocol": "voxel"}):
        result = run(workspace, **params)
        assert result.unlabelled == ("00/000001", "01/000000", "01/000001", "01/000002", "01/000003")
        assert len(result.labelled) == 5 and result.budget.labelled_scans == 5
        visible = shown(workspace, result)
        assert all((label != IGNORE).any() for label in visible.values())
    source = PreparedDataset(workspace.dataset()).visible()
    assert set(source.view(1).label) == {IGNORE}
    whole = run(workspace, ratio="100%")  # whole scans were annotated, whatever was found in them
    assert len(whole.labelled) == 10


def test_scribbles_are_drawn_from(kitti: Path, workspace: Workspace) -> None:
    for file in sorted(kitti.glob("sequences/0[01]/labels/*.label")):
        scribble = file.parents[1] / "scribbles" / file.name
        scribble.parent.mkdir(exist_ok=True)
        words = np.fromfile(file, "<u4")
        words[::2] = 0
        words.tofile(scribble)
    prepare(workspace, "semantickitti", kitti, PrepareParams(label_set="scribbles"))
    visible = shown(workspace, run(workspace, regime="points", ratio="10%"))
    for label in visible.values():
        rows = np.flatnonzero(label != IGNORE)
        assert len(rows) == max(1, len(label) // 10) and (rows % 2 == 1).all()


def test_moved_points_change_voxels_and_nothing_else(prepared: Workspace, kitti: Path, tmp_path: Path) -> None:
    other = Workspace.open(tmp_path / "other")
    prepare(other, "semantickitti", kitti)
    before = [run(other, regime="points", ratio="10%", protocol=name) for name in ("raw", "voxel")]
    for file in kitti.glob("sequences/0[01]/velodyne/*.bin"):
        points = np.fromfile(file, "<f4").reshape(-1, 4)
        points[:, :3] = 1  # one voxel
        points.tofile(file)
    prepare(other, "semantickitti", kitti)
    raw, voxel = (run(other, regime="points", ratio="10%", protocol=name) for name in ("raw", "voxel"))
    assert raw.hash == before[0].hash and voxel.hash != before[1].hash
    assert voxel.budget.clicks == len(voxel.labelled)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"regime": "points"}, "needs the share"),
        ({"regime": "points", "official": "lasermix-1%"}, "--official"),
        ({"regime": "points", "ratio": "1%", "list_file": "x.txt"}, "--list"),
        ({"regime": "points", "ratio": "1%", "protocol": "voxels"}, "did you mean voxel"),
        ({"regime": "points", "ratio": "1%", "per_class": 2}, "--per-class"),
        ({"regime": "1pt", "ratio": "1%"}, "--ratio"),
        ({"regime": "1pt", "protocol": "class"}, "--protocol"),
        ({"ratio": "1%", "protocol": "raw"}, "--protocol"),
        ({"ratio": "1%", "per_class": 1}, "--per-class"),
        ({"ratio": "1%", "allow_missing": True}, "--allow-missing"),
        ({"regime": "scene", "official": "lasermix-1%"}, "--official"),
        ({"regime": "scene", "list_file": "x.txt"}, "--list"),
        ({"regime": "scene"}, "which scans"),
        ({"regime": "", "ratio": "1%"}, "regime"),
    ],
)
def test_combinations_that_make_no_sense(params: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        SplitParams(**params)
    assert caught.value.exit_code == 2 and caught.value.hint


def test_a_class_without_a_visible_label_is_named(prepared: Workspace, kitti: Path, tmp_path: Path) -> None:
    result = run(prepared, regime="points", ratio="0.1%")  # one point a scan
    view = show_split(prepared.dataset())
    absent = {"car", "bicycle", "road", "sidewalk", "building", "vegetation", "terrain", "traffic-sign"} - {
        name for name, count in zip(result.classes, result.budget.per_class, strict=True) if count
    }
    assert set(view.no_label) == absent != set()
    value = json.loads(json.dumps(view.to_json()))
    assert set(value["no_label"]) == absent and value["partial"] is True and value["budget"]["partial_scans"] == 10
    assert value["share"] == pytest.approx(10 / result.budget.train_points)


def test_it_can_be_typed_again(prepared: Workspace) -> None:
    for params, command in (
        (
            {
                "regime": "points",
                "ratio": "0.1%",
                "protocol": "voxel",
                "seed": 2,
                "holdout": "01",
                "transductive": True,
            },
            "ssl3d split --regime points --ratio 0.1% --protocol voxel --seed 2 --holdout 01 --transductive",
        ),
        ({"regime": "1pt", "per_class": 2}, "ssl3d split --regime 1pt --per-class 2 --seed 0"),
        ({"regime": "scene", "ratio": "50%"}, "ssl3d split --regime scene --ratio 50% --seed 0"),
    ):
        result = run(prepared, **params)
        product = prepared.dataset().product("split", result.key)
        assert product is not None and product.manifest.about["command"] == command
