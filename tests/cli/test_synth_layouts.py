from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.cli import app
from ssl3d.cli.commands.synth import LAYOUTS
from ssl3d.data.synthetic import layouts


def test_the_command_offers_the_layouts_that_are_written() -> None:
    assert LAYOUTS["street"] == layouts.LAYOUTS
    assert [layouts.layout_of(name).name for name in layouts.LAYOUTS] == list(layouts.LAYOUTS)


def test_an_unknown_layout_is_a_wrong_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["synth", "street", "--layout", "kitti360", "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "kitti360" in error and "semanticposs" in error
    assert not (tmp_path / "x").exists()
