from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl3d.cli import app
from ssl3d.cli.commands.synth import LAYOUTS
from ssl3d.data.synthetic.rooms import generate


def test_the_command_offers_the_layouts_that_are_written() -> None:
    assert LAYOUTS["rooms"] == generate.LAYOUTS


def test_rooms_are_made_as_scannet_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rooms"
    assert app.run(["synth", "rooms", "--preset", "tiny", "--seed", "4", "--out", str(out), "--jobs", "1"]) == 0
    said = capsys.readouterr().err
    assert "9 rooms" in said and "prepare scannet --root" in said
    manifest = json.loads((out / "ssl3d_synth.json").read_text())
    assert (manifest["generator"], manifest["layout"], manifest["seed"]) == ("rooms", "scannet", 4)


def test_a_layout_of_streets_is_none_of_rooms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["synth", "rooms", "--layout", "nuscenes", "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "nuscenes" in error and "s3dis" in error and "semantic3d" not in error
    assert not (tmp_path / "x").exists()
