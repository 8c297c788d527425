"""Whole groups of scans, scans that are held out, and splits that older versions left."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.files import digest_value
from ssl3d.pipeline.splits import SPLIT_FILE, SplitResult, find_split
from ssl3d.pipeline.stage import stage_key
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, SplitStage, show_split, split
from ssl3d.pipeline.workspace import Workspace

SEVEN, OTHER_SEVEN = "00 01 02 03 04 05 06", "00 01 02 03 04 05 07"
FRAMES = {"00": 3, "01": 2, "02": 2, "03": 1, "04": 2, "08": 2}


@pytest.fixture(scope="module")
def prepared_once(make_kitti: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    prepare(Workspace.open(folder / "ws"), "semantickitti", make_kitti(folder / "kitti", FRAMES))
    return folder / "ws"


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def run(workspace: Workspace, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(**params))


def groups(ids: tuple[str, ...]) -> set[str]:
    return {scan_id[:2] for scan_id in ids}


@pytest.mark.parametrize(("ratio", "count"), [("1%", 1), ("39%", 1), ("40%", 2), ("100%", 5)])
def test_a_ratio_of_whole_sequences(prepared: Workspace, ratio: str, count: int) -> None:
    result = run(prepared, regime="sequence", ratio=ratio)
    assert len(groups(result.labelled)) == count
    assert not groups(result.labelled) & groups(result.unlabelled)
    assert len(result.labelled) == sum(FRAMES[name] for name in groups(result.labelled))
    assert not result.partial and result.name == f"sequence-{ratio}-seed0"


def test_groups_nest_and_follow_the_seed(prepared: Workspace) -> None:
    chosen = [groups(run(prepared, regime="scene", ratio=f"{20 * n}%").labelled) for n in range(1, 6)]
    assert all(small < large for small, large in pairwise(chosen))
    others = [groups(run(prepared, regime="scene", ratio="20%", seed=seed).labelled) for seed in range(8)]
    assert len({tuple(names) for names in others}) > 1
    same = run(prepared, regime="sequence", ratio="40%")
    assert same.hash == run(prepared, regime="scene", ratio="40%").hash  # two words for the same groups


def test_unknown_regimes_name_those_of_the_dataset(prepared: Workspace) -> None:
    with pytest.raises(UsageError, match="SemanticKITTI has no regime 'room'") as caught:
        run(prepared, ratio="10%", regime="room")
    assert caught.value.hint == "after --regime: scan, scene, sequence, points, 1pt"


def test_lists_may_name_whole_groups(prepared: Workspace, tmp_path: Path) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text("02  # all of it\n00/000001\n")
    result = run(prepared, list_file=listed)
    assert result.labelled == ("00/000001", "02/000000", "02/000001")


@pytest.mark.parametrize(
    ("lines", "holdout", "says"),
    [
        ("02/000000\n02", "", "line 2: 02/000000 is already in line 1"),
        ("02\n02/000001", "", "line 2: 02/000001 is already in line 1"),
        ("08", "", "line 1: 08 belongs to the val subset"),
        ("08/000000", "", "line 1: 08/000000 belongs to the val subset"),
        ("77", "", "line 1: 77 is not among the prepared scans"),
        ("scene0000", "", "line 1: 'scene0000' is not a scan id"),
        ("02", "02", "line 1: 02 is held out"),
        ("02/000001", "02", r"line 1: 02/000001 is held out \(--holdout 02\)"),
    ],
)
def test_a_wrong_line_is_named(prepared: Workspace, tmp_path: Path, lines: str, holdout: str, says: str) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text(lines)
    with pytest.raises(DataError, match=says):
        run(prepared, list_file=listed, holdout=holdout)


def test_the_holdout_is_neither_labelled_nor_unlabelled(prepared: Workspace) -> None:
    result = run(prepared, ratio="50%", holdout="04, 03")
    assert result.holdout == ("03/000000", "04/000000", "04/000001")
    assert len(result.labelled) == 3 and len(result.unlabelled) == 4  # half of 7, of 10 scans
    assert not groups((*result.labelled, *result.unlabelled)) & {"03", "04"}
    assert result.name == "scan-50%-seed0-holdout-03-04"
    dataset = PreparedDataset(prepared.dataset())
    kept = [scan for scan in dataset.subset("train") if scan.group not in ("03", "04")]
    assert result.budget.train_scans == 7 and result.budget.train_points == sum(scan.num_points for scan in kept)
    assert dataset.visible(result).labelled.tolist() == [dataset.by_id[i].index for i in result.labelled]
    view = show_split(prepared.dataset())
    assert [name for name, *_ in view.groups] == ["00", "01", "02"]
    everything = run(prepared, ratio="100%", holdout=("03", "04"))
    assert everything.budget.per_class == view.class_points


def test_the_holdout_is_part_of_key_and_hash(prepared: Workspace, tmp_path: Path) -> None:
    listed = tmp_path / "mine.txt"
    listed.write_text("00\n")
    plain, held = run(prepared, list_file=listed), run(prepared, list_file=listed, holdout="04")
    assert plain.labelled == held.labelled
    assert plain.hash != held.hash and plain.key != held.key
    assert run(prepared, list_file=listed, holdout=["04", "04"]).key == held.key
    assert find_split(prepared.dataset(), held.name) == held
    with_val = run(prepared, list_file=listed, holdout="04", transductive=True)
    assert with_val.holdout == held.holdout and "08" in groups(with_val.unlabelled)


@pytest.mark.parametrize(
    ("holdout", "says"),
    [
        ("07", "'07' cannot be held out: no prepared train scan"),
        ("08", "'08' cannot be held out: it belongs to the val subset"),
        ("00,01,02,03,04", "takes every scan"),
    ],
)
def test_what_cannot_be_held_out(prepared: Workspace, holdout: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        run(prepared, ratio="50%", holdout=holdout)
    assert "00, 01, 02, 03, 04" in str(caught.value.hint)


def test_many_groups_make_no_long_name(tmp_path: Path, make_kitti: Any) -> None:
    workspace = Workspace.open(tmp_path / "ws")
    prepare(workspace, "semantickitti", make_kitti(tmp_path / "kitti", {f"{i:02}": 1 for i in range(11)}, points=9))
    seven, others = (run(workspace, ratio="50%", holdout=names.split()).name for names in (SEVEN, OTHER_SEVEN))
    assert seven.startswith("scan-50%-seed0-holdout-7of-") and len(seven) < 40 and others != seven


def test_one_group_left_is_enough(prepared: Workspace) -> None:
    result = run(prepared, regime="scene", ratio="1%", holdout="00,01,02,04")
    assert result.labelled == ("03/000000",) and result.unlabelled == ()


def test_a_published_list_without_what_is_held_out(tmp_path: Path, make_kitti: Any) -> None:
    workspace = Workspace.open(tmp_path / "ws")
    prepare(workspace, "semantickitti", make_kitti(tmp_path / "kitti", {"07": 3, "09": 5, "08": 1}, points=9))
    result = run(workspace, official="gpc-5%", allow_missing=True)
    assert result.name == "gpc-5%-5scans" and set(groups(result.labelled)) == {"09"}
    with pytest.raises(UsageError, match="is held out"):
        run(workspace, official="GPC 5", allow_missing=True, holdout="09")
    part = run(workspace, official="gpc-10%", allow_missing=True, holdout="07")
    assert part.labelled == result.labelled and part.name == "gpc-10%-5scans-holdout-07"


def test_unknown_published_lists_say_what_there_is(prepared: Workspace) -> None:
    with pytest.raises(UsageError, match="no published list 'gpc-1%'") as caught:
        run(prepared, official="gpc-1%")
    for name in ("lasermix-50%", "lim3d-2%", "gpc-40%"):
        assert name in str(caught.value.hint)


def as_older(folder: Path) -> None:
    """Rewrites split.json as the version before regimes of points wrote it."""
    path = folder / SPLIT_FILE
    value = {
        key: item for key, item in json.loads(path.read_text()).items() if key not in ("holdout", "partial", "check")
    }
    del value["budget"]["partial_scans"]
    path.write_text(json.dumps({**value, "check": digest_value(value)}))


def test_older_splits_are_read_and_keep_key_and_hash(prepared: Workspace) -> None:
    result = run(prepared, ratio="30%")
    as_older(result.folder)
    assert find_split(prepared.dataset()) == result  # an absent holdout is an empty one
    assert find_split(prepared.dataset(), "scan-30%-seed0").partial is False
    assert run(prepared, ratio="30%") == result
    assert "holdout" in json.loads((result.folder / SPLIT_FILE).read_text())


def test_the_key_of_a_split_of_whole_scans_is_that_of_older_versions(prepared: Workspace) -> None:
    result = run(prepared, ratio="30%")
    params = {
        "regime": "scan",
        "ratio": "0.3",
        "official": None,
        "list_file": None,
        "seed": 0,
        "transductive": False,
        "allow_missing": False,
    }
    identity = {"scans": digest_value([list(result.labelled), list(result.unlabelled)])}
    needs = {"prepare": result.prepare}
    assert result.params == params
    assert result.key == stage_key("split", SplitStage.version, params, identity, needs)
    assert SplitStage.version == 1
