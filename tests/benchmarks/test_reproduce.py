"""The plan of a reproduction is made of commands that exist, and can be narrowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ssl3d.benchmarks import reproduce
from ssl3d.benchmarks.frames import write_frames
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.registry import list_backbones
from ssl3d.pipeline.stages.split import SplitParams
from ssl3d.pipeline.training.config import resolve


@pytest.mark.parametrize("data", ["synthetic", "/data/kitti"])
@pytest.mark.parametrize("name", sorted(reproduce.RECIPES))
def test_every_command_of_a_plan_is_valid(name: str, data: str, tmp_path: Path) -> None:
    recipe = reproduce.RECIPES[name]
    commands = reproduce.plan(recipe, data, tmp_path)
    trained = [command for command in commands if command[0] == "train"]
    assert len(trained) == len(recipe.rows)
    for command in trained:
        overrides = [command[i + 1] for i, word in enumerate(command) if word == "--set"]
        backbone = command[command.index("--backbone") + 1]
        assert backbone in list_backbones()
        resolve(command[1], backbone=backbone, overrides=overrides)
    for command in commands:
        if command[0] == "split":
            SplitParams(**{command[1].removeprefix("--"): command[2]})


def test_official_rows_name_published_lists() -> None:
    spec = load_spec("semantickitti")
    for row in reproduce.RECIPES["supervised"].rows:
        assert row.official is not None
        list_name, percent = row.official.removesuffix("%").split("-")
        assert spec.official_list(list_name, percent)


def test_only_narrows_the_plan_and_refuses_what_matches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = reproduce.plan(reproduce.RECIPES["supervised"], "/data/kitti", tmp_path, "10%")
    assert [command[2] for command in commands if command[0] == "split"] == ["lasermix-10%"]
    monkeypatch.setattr(sys, "argv", ["reproduce", "supervised", "--only", "3%", "--workspace", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 2
    assert "no row matches" in capsys.readouterr().err


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
