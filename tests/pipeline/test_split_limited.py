"""WS3D's limited reconstruction: whole scans while they fit, and the next one cut in two."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.splits import SplitResult, find_split
from ssl3d.pipeline.stages.choose import choose_limited, seeded_order
from ssl3d.pipeline.stages.points import cut_scan
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, show_split, split
from ssl3d.pipeline.workspace import Workspace

# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("percent", "whole", "cut"), [(25, 0, 250), (30, 1, 0), (45, 2, 50), (1, 0, 10), (100, 4, 0), (40, 2, 0)]
)
def test_worked_numbers(percent: int, whole: int, cut: int) -> None:
    """Scenes of 100, 200, 300, 400 points, drawn in the order 2, 0, 3, 1."""
    assert choose_limited([300, 100, 400, 200], round(Fraction(percent, 100) * 1000)) == (whole, cut)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 700))
def test_the_target_is_met_by_the_point(sizes: list[int], target: int) -> None:
    whole, cut = choose_limited(sizes, target)
    assert sum(sizes[:whole]) + cut == min(target, sum(sizes))
    assert cut == 0 or 0 < cut < sizes[whole]


def test_the_cut_runs_across_the_longer_horizontal_extent() -> None:
    points = np.array(
        [[0, 5, 9], [0, 1, 0], [1, 4, 2], [1, 1, 3], [0.5, 3, 50]], np.float32
    )  # y spans 4, z does not count
    assert cut_scan(points, 2).tolist() == [1, 0, 1, 0, 1]
    assert cut_scan(points, 1).tolist() == [1, 0, 1, 1, 1]  # of equal coordinates the first
    assert cut_scan(points[:, [1, 0, 2]], 3).tolist() == [1, 0, 1, 0, 0]  # along x
    square = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], np.float32)
    assert cut_scan(square, 1).tolist() == [1, 0, 1]  # of equal extents x


@given(st.integers(2, 40), st.integers(0, 2**31), st.data())
def test_a_cut_is_a_partition_by_place(n: int, seed: int, data: st.DataObject) -> None:
    points = np.random.default_rng(seed).integers(0, 5, (n, 3)).astype(np.float32)
    count = data.draw(st.integers(1, n - 1))
    part = cut_scan(points, count)
    axis = int(np.ptp(points[:, 1]) > np.ptp(points[:, 0]))
    assert (part == 0).sum() == count
    assert points[part == 0, axis].max() <= points[part == 1, axis].min()


# ---------------------------------------------------------------- the split


@pytest.fixture(scope="module")
def prepared_once(kitti_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "ws"
    prepare(Workspace.open(root), "semantickitti", kitti_once)
    return root


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def run(workspace: Workspace, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(**{"protocol": "limited", **params}))


def test_two_parts_of_one_scan(prepared: Workspace) -> None:
    result = run(prepared, ratio="35%")
    dataset = PreparedDataset(prepared.dataset())
    train = dataset.subset("train")
    total = sum(scan.num_points for scan in train)
    target = round(Fraction(35, 100) * total)
    order = [dataset.by_id[name] for name in seeded_order([scan.scan_id for scan in train], 0)]
    whole, rest = choose_limited([scan.num_points for scan in order], target)
    cut = result.cut
    assert cut is not None and whole > 1 and (cut.scan, cut.points) == (order[whole].scan_id, rest)
    assert cut.of == order[whole].num_points and result.name == "scan-35%-limited-seed0"
    taken = {scan.scan_id for scan in order[:whole]}
    assert set(result.labelled) == taken | {f"{cut.scan}:a"}
    assert set(result.unlabelled) == {scan.scan_id for scan in order[whole + 1 :]} | {f"{cut.scan}:b"}
    assert not result.partial and result.budget.train_scans == len(train)

    visible, truth, points = dataset.visible(result), dataset.truth(), dataset.source()
    views = [visible.view(index) for index in visible.labelled.tolist()]
    assert sum(len(view) for view in views) == target
    assert result.budget.labelled_points == sum(int((view.label != IGNORE).sum()) for view in views)
    a, b = (visible.view(len(dataset.scans) + number) for number in (0, 1))
    parent = dataset.by_id[cut.scan]
    full = points.view(parent.index)
    assert (len(a), len(b)) == (cut.points, cut.of - cut.points)
    assert sorted([*a.rows[:, 1], *b.rows[:, 1]]) == list(range(cut.of))  # rows of the scan that they were cut from
    for view in (a, b):
        assert set(view.rows[:, 0]) == {parent.index}
        np.testing.assert_array_equal(view.points, full.points[view.rows[:, 1]])
        np.testing.assert_array_equal(view.features["intensity"], full.features["intensity"][view.rows[:, 1]])
        np.testing.assert_array_equal(view.scan["origin"], full.scan["origin"])
    assert (a.scan["scan_id"], b.scan["scan_id"]) == cut.parts
    np.testing.assert_array_equal(a.label, truth.label(parent.index)[a.rows[:, 1]])
    np.testing.assert_array_equal(visible.label(len(dataset.scans)), a.label)
    assert set(b.label) == {IGNORE} and len(visible) == len(dataset.scans) + 2
    part = cut_scan(full.points, cut.points)
    np.testing.assert_array_equal(np.flatnonzero(part == 0), a.rows[:, 1])


def test_nothing_is_cut_where_whole_scans_fit(prepared: Workspace) -> None:
    everything, plain = run(prepared, ratio="100%"), run(prepared, ratio="100%", protocol=None)
    assert everything.cut is None and everything.hash == plain.hash and everything.unlabelled == ()
    assert "cut" not in json.loads((everything.folder / "split.json").read_text())
    tiny = run(prepared, ratio="0.1%")
    assert tiny.cut is not None and tiny.cut.points == 1 and tiny.labelled == (tiny.cut.parts[0],)


def test_the_description_is_read_back_and_shown(prepared: Workspace) -> None:
    result = run(prepared, ratio="35%", holdout="01", transductive=True)
    assert find_split(prepared.dataset()) == result == SplitResult.load(result.folder)
    assert result.cut is not None and result.cut.scan.startswith("00")
    train = [scan for scan in PreparedDataset(prepared.dataset()).subset("train") if scan.group == "00"]
    assert result.budget.train_points == sum(scan.num_points for scan in train)
    view = show_split(prepared.dataset())
    shown = {name: (labelled, hidden) for name, labelled, hidden in view.groups}
    assert shown["08"] == (0, 3) and sum(shown["00"]) == len(train) + 1  # both parts
    product = prepared.dataset().product("split", result.key)
    assert product is not None and product.manifest.about["command"] == (
        "ssl3d split --ratio 35% --protocol limited --seed 0 --holdout 01 --transductive"
    )


def test_seeds_and_ratios(prepared: Workspace) -> None:
    small, large, other = run(prepared, ratio="35%"), run(prepared, ratio="60%"), run(prepared, ratio="35%", seed=1)
    assert len({small.hash, large.hash, other.hash}) == 3
    assert small.cut is not None
    assert set(small.labelled) - set(small.cut.parts) <= set(large.labelled)
    assert run(prepared, ratio="0.35").key == small.key


def test_points_that_moved_change_the_cut(prepared: Workspace, kitti: Path, tmp_path: Path) -> None:
    other = Workspace.open(tmp_path / "other")
    prepare(other, "semantickitti", kitti)
    first = run(other, ratio="35%")
    assert first.cut is not None
    file = kitti / "sequences" / first.cut.scan.replace("/", "/velodyne/")
    points = np.fromfile(file.with_suffix(".bin"), "<f4").reshape(-1, 4)
    points[:, :2] = points[::-1, :2]
    points.tofile(file.with_suffix(".bin"))
    prepare(other, "semantickitti", kitti)
    with pytest.raises(DataError, match="prepared anew"):
        find_split(other.dataset())
    again = run(other, ratio="35%")
    assert again.labelled == first.labelled and again.hash != first.hash


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "takes whole scans by a share"),
        ({"official": "gpc-5%"}, "takes whole scans by a share"),
        ({"regime": "points", "ratio": "5%"}, "takes whole scans by a share"),
        ({"regime": "1pt"}, "takes whole scans by a share"),
        ({"regime": "sequence", "ratio": "5%"}, "draws groups"),
        ({"ratio": "5%", "protocol": "limits"}, "did you mean limited"),
    ],
)
def test_combinations_that_make_no_sense(prepared: Workspace, params: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(prepared, **params)
