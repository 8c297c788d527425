"""The plan of a reproduction is made of commands that exist, can be narrowed, and goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ssl3d.benchmarks import reproduce
from ssl3d.benchmarks.frames import write_frames
from ssl3d.benchmarks.published import FULL, numbers_of
from ssl3d.benchmarks.recipes import RECIPES, find_recipe, select
from ssl3d.benchmarks.reproduce import MINIATURES, make_plan
from ssl3d.cli import app
from ssl3d.data.errors import UsageError
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.registry import list_backbones
from ssl3d.models.methods.registry import list_methods
from ssl3d.pipeline.stages.split import SplitParams
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

HERE = sorted(set(RECIPES) & set(list_methods()))


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A folder with the root of every dataset, as far as names tell."""
    for name in ("kitti/dataset/sequences", "nuscenes/v1.0-trainval", "s3dis/Area_1", "scannet/scans"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize("miniature", [True, False])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_command_of_a_plan_is_valid(name: str, miniature: bool, roots: Path, tmp_path: Path) -> None:
    """Keys of methods that this version does not have are looked at when it has them."""
    recipe = RECIPES[name]
    plan = make_plan(recipe, "synthetic" if miniature else str(roots), tmp_path / "ws")
    assert len(plan.rows) == len(recipe.rows())
    if not miniature:  # there a ratio stands for every list of it
        assert len({train + split for _, split, train in plan.training}) == len(plan.rows)
    for row, split, train in plan.training:
        option, value = split[1], split[2]
        assert option == ("--ratio" if miniature else "--official")
        SplitParams(**{option.removeprefix("--"): value})
        backbone = train[train.index("--backbone") + 1]
        assert backbone in list_backbones()
        assert train[train.index("--dataset") + 1] == split[split.index("--dataset") + 1] == row.dataset
        overrides = [train[place + 1] for place, word in enumerate(train) if word == "--set"]
        if name in HERE:
            resolve(name, backbone=backbone, overrides=overrides, defaults=load_spec(row.dataset).defaults)
        else:
            others = [key for key in overrides if not key.startswith(f"{name}.")]
            resolve("supervised", backbone=backbone, overrides=others, defaults=load_spec(row.dataset).defaults)
    assert {words[1] for words in plan.data if words[0] == "prepare"} == set(recipe.datasets)
    assert [words[0] for words in plan.data].count("synth") == (len(recipe.datasets) if miniature else 0)
    assert all("paper" in words for words in plan.reports) and len(plan.reports) == 3 * len(recipe.datasets)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_rows_name_published_lists_and_published_numbers(name: str) -> None:
    recipe = RECIPES[name]
    numbers = {(number.dataset, number.ratio, number.variant) for number in numbers_of(name)}
    for row in recipe.rows():
        spec = load_spec(row.dataset)
        assert row.lists in spec.official and str(row.ratio) in spec.official[row.lists].lists
        assert (row.dataset, float(row.ratio), row.variant) in numbers, row
        assert row.dataset in MINIATURES
    assert all(recipe.settings[name].differs for name in recipe.datasets)


def test_a_run_that_stands_in_several_tables_is_trained_once() -> None:
    rows = RECIPES["ddsemi"].rows()
    assert len(rows) == len({(row.dataset, row.ratio, row.variant) for row in rows})
    (full,) = [row for row in rows if (row.dataset, row.ratio, row.variant) == ("semantickitti", 10, FULL)]
    assert full.tables == ("table1", "table3", "table4", "table5", "table6")
    # table 1: 4 + 4, 2: 5, 3: 5 more, 4: 4 more, 5 and 6: 8 more each
    assert len(rows) == 8 + 5 + 5 + 4 + 8 + 8


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("", 38), ("table3", 6), ("table2", 5), ("10%", 1 + 1 + 1 + 5 + 1 + 2 + 2), ("nuscenes", 4), ("fifo", 4),
        ("fifo,10%", 1), ("table5 table6", 20), ("table5 1% 10%", 6), ("lasermix-50%", 7), ("full s3dis", 5),
    ],
)  # fmt: skip
def test_only_narrows_the_plan(only: str, count: int) -> None:
    assert len(select(RECIPES["ddsemi"], only)) == count


@pytest.mark.parametrize("only", ["3%", "table9", "fifo nuscenes", "scannet"])
def test_what_matches_nothing_is_refused(only: str) -> None:
    with pytest.raises(UsageError, match="no row of ddsemi matches") as caught:
        select(RECIPES["ddsemi"], only)
    assert "table3" in str(caught.value.hint) and "fifo" in str(caught.value.hint)


def test_data_says_which_tables_there_are(roots: Path, tmp_path: Path) -> None:
    recipe = RECIPES["ddsemi"]
    everything = make_plan(recipe, str(roots), tmp_path)
    assert dict(everything.roots) == {
        "semantickitti": roots / "kitti", "nuscenes": roots / "nuscenes", "s3dis": roots / "s3dis",
    }  # fmt: skip
    two = make_plan(recipe, f"{roots / 'kitti' / 'dataset'}, {roots / 's3dis'}", tmp_path)
    assert list(two.roots) == ["semantickitti", "s3dis"]
    assert list(make_plan(recipe, str(roots / "nuscenes"), tmp_path).roots) == ["nuscenes"]
    for data, why in ((roots / "scannet", "no dataset of ddsemi is here"), (tmp_path / "nothing", "DATA is no folder")):
        with pytest.raises(UsageError, match=why):
            make_plan(recipe, str(data), tmp_path)
    (roots / "again" / "Area_2").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds s3dis twice"):
        make_plan(recipe, str(roots), tmp_path)
    with pytest.raises(UsageError, match="no row of ddsemi matches s3dis"):
        make_plan(recipe, str(roots / "kitti"), tmp_path, "s3dis")


def test_a_method_that_is_not_here_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssl3d.models.methods.registry.list_methods", lambda: ["supervised"])
    assert find_recipe("supervised") is RECIPES["supervised"]
    with pytest.raises(UsageError, match="does not have the method"):
        find_recipe("ddsemi")
    with pytest.raises(UsageError, match="no table to reproduce") as caught:
        find_recipe("dsemi")
    assert "did you mean ddsemi?" in str(caught.value.hint)
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["ddsemi"])
    assert stopped.value.code == 2 and "does not have the method" in capsys.readouterr().err


def test_the_plan_is_printed_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = ["--workspace", str(tmp_path / "ws")]
    assert reproduce.main(["supervised", "--dry-run", "--only", "semantickitti 10%", *place]) == 0
    out = capsys.readouterr().out
    assert "published 56.1 mIoU" in out and "$ ssl3d synth street" in out and "150 training steps are left" in out
    assert not (tmp_path / "ws").exists()
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["supervised", "--only", "3%", *place])
    assert stopped.value.code == 2 and "no row of supervised matches" in capsys.readouterr().err


def run_here(words: Sequence[str]) -> int:
    return app.run([*words, *(() if words[0] == "synth" else ("--jobs", "1"))])


def test_a_miniature_from_data_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the middle it goes on; a training that fails does not stop the others; the tables are kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "PRESET", "tiny")
    small = replace(MINIATURES["semantickitti"], steps=2, keys=("train.batch=1", "backbone.voxel_size=1"))
    monkeypatch.setattr(reproduce, "MINIATURES", {"semantickitti": small})
    monkeypatch.setattr(reproduce, "CALIBRATION_STEPS", 1)
    done: list[tuple[str, ...]] = []
    codes = {"train": [130]}

    def run(words: Sequence[str]) -> int:
        done.append(tuple(words))
        if codes.get(words[0]):
            return codes[words[0]].pop()
        return run_here(words)

    monkeypatch.setattr(reproduce, "run_command", run)
    command = ["supervised", "--only", "semantickitti 20% 50%", "--keep"]
    assert reproduce.main(command) == 130
    assert [words[0] for words in done] == ["synth", "prepare", "split", "train"]
    said = capsys.readouterr()
    assert "goes on from here" in said.err and "steps of each phase" in said.out

    done.clear()
    codes["train"] = [1]
    assert reproduce.main(command) == 1  # the first training fails, the second does not
    assert [words[0] for words in done] == ["synth", "prepare", "split", "train", "split", "train", *["eval"] * 3]
    assert "failed: supervised, semantickitti 20% (lasermix)" in capsys.readouterr().err

    done.clear()
    assert reproduce.main(command) == 0
    assert "about" in (out := capsys.readouterr().out) and "as runs here went" in out
    space = Workspace.open(tmp_path / "reproduce" / "supervised-synthetic", create=False)
    assert [run.finished for run in RunDirectory.list(space)] == [True, True]
    kept = tmp_path / "benchmarks" / "results"
    value = json.loads((kept / "reproduce-supervised.json").read_text())
    assert value["data"] == "generated data, in miniature"
    assert value["command"] == 'make reproduce-supervised DATA=synthetic ONLY="semantickitti 20% 50%"'
    assert len(value["reports"]["semantickitti"]["runs"]) == 2
    lines = value["reports"]["semantickitti"]["published"]
    assert {(line["ratio"], line["comparable"]) for line in lines} == {(20.0, False), (50.0, False)}
    assert all(line["differs"][0] == "generated data" for line in lines)
    text = (kept / "reproduce-supervised.md").read_text()
    assert "## semantickitti" in text and "not comparable: generated data" in text
    assert str(tmp_path) not in text + json.dumps(value)


def test_frames_for_measurements_have_the_published_layout(tmp_path: Path) -> None:
    files = write_frames(tmp_path, {"00": 2, "11": 1}, num_points=10)
    sizes = {str(path.relative_to(tmp_path)): path.stat().st_size for path in files}
    assert sizes == {
        "sequences/00/velodyne/000000.bin": 160,
        "sequences/00/labels/000000.label": 40,
        "sequences/00/velodyne/000001.bin": 160,
        "sequences/00/labels/000001.label": 40,
        "sequences/11/velodyne/000000.bin": 160,
    }
