"""Another fold: groups for validation in place of the dataset's own (``ssl3d split --val``)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.splits import find_split
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, SplitResult, show_split, split
from ssl3d.pipeline.training.build import open_data
from ssl3d.pipeline.workspace import Workspace

FRAMES = {"00": 3, "01": 2, "02": 2, "08": 4, "11": 2}


@pytest.fixture(scope="module")
def prepared_once(make_kitti: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("val")
    prepare(Workspace.open(folder / "ws"), "semantickitti", make_kitti(folder / "kitti", FRAMES))
    return folder / "ws"


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def run(workspace: Workspace, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(**params))


def groups(ids: tuple[str, ...]) -> set[str]:
    return {scan_id[:2] for scan_id in ids}


def test_the_groups_trade_places(prepared: Workspace) -> None:
    result = run(prepared, ratio="50%", val="01")
    assert result.name == "scan-50%-seed0-val-01" and result.val == ("01",)
    assert groups((*result.labelled, *result.unlabelled)) == {"00", "02", "08"}
    assert len(result.labelled) == 4 and result.budget.train_scans == 9
    plain = PreparedDataset(prepared.dataset())
    dataset = PreparedDataset(prepared.dataset(), val=result.val)
    assert groups(tuple(scan.scan_id for scan in dataset.subset("val"))) == {"01"}
    assert [scan.index for scan in dataset.scans] == [scan.index for scan in plain.scans]
    assert "08" in dataset.spec.splits["train"] and dataset.spec.splits["val"] == ("01",)
    assert dataset.spec.splits["test"] == plain.spec.splits["test"] and plain.spec.splits["val"] == ("08",)
    shown = dataset.visible(result)
    assert {dataset.scans[index].group for index in shown.labelled.tolist()} <= {"00", "02", "08"}
    assert not list(result.folder.glob("01*.visible.h5"))


def test_what_the_share_of_each_class_is_of(prepared: Workspace) -> None:
    everything = run(prepared, ratio="100%", val="01")
    view = show_split(prepared.dataset())
    assert view.class_points == everything.budget.per_class
    assert [name for name, *_ in view.groups] == ["00", "02", "08"]
    more = run(prepared, ratio="50%", val="01", holdout="08", transductive=True)
    assert groups(more.holdout) == {"08"} and "01" in groups(more.unlabelled) and "01" not in groups(more.labelled)


def test_the_dataset_s_own_choice_is_no_other_split(prepared: Workspace) -> None:
    plain, own = run(prepared, ratio="50%"), run(prepared, ratio="50%", val="08")
    assert (own.key, own.hash, own.name) == (plain.key, plain.hash, plain.name)
    assert run(prepared, ratio="50%", val=["08", "01"]).name == "scan-50%-seed0-val-01-08"


def test_a_run_knows_it(prepared: Workspace) -> None:
    run(prepared, ratio="50%", val="01")
    data = open_data(prepared, None, None)
    assert data.split.val == ("01",) and data.split.name == "scan-50pct-seed0-val-01"
    other = run(prepared, ratio="50%", val="02")
    assert other.hash != data.split.hash


def test_it_can_be_typed_again(prepared: Workspace) -> None:
    result = run(prepared, ratio="50%", holdout="02", val="01, 08")
    product = prepared.dataset().product("split", result.key)
    assert product is not None
    assert product.manifest.about["command"] == "ssl3d split --ratio 50% --seed 0 --holdout 02 --val 01,08"
    assert find_split(prepared.dataset()) == result
    assert json.loads((result.folder / "split.json").read_text())["params"]["val"] == ["01", "08"]


@pytest.mark.parametrize(
    ("val", "says"),
    [
        ("07", "'07' cannot be used for validation: no prepared scan"),
        ("11", "'11' cannot be used for validation: its labels are not public"),
        ("00,01,02,08", "takes every scan"),
    ],
)
def test_what_cannot_be_for_validation(prepared: Workspace, val: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        run(prepared, ratio="50%", val=val)
    assert "00, 01, 02, 08" in str(caught.value.hint)


def test_a_published_list_needs_its_own_fold(prepared: Workspace) -> None:
    with pytest.raises(UsageError, match="are not prepared with labels"):
        run(prepared, official="gpc-5%", val="01")
