from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

GARBAGE = [b"", b"[1, 2]", b"\xff\x00{", b"{", b'{"created": "yesterday", "train": 3, "dataset": "x", "method": 5}']


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    workspace = Workspace.open(tmp_path / "w")
    workspace.ensure()
    return workspace.runs_dir


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_folder_does_not_hide_the_others(runs: Path, garbage: bytes) -> None:
    for name, config, status in (("good", b'{"created": 5}', b'{"state": "finished"}'), ("bad", garbage, garbage)):
        (runs / name).mkdir(parents=True)
        (runs / name / "config.json").write_bytes(config)
        (runs / name / "status.json").write_bytes(status)
    (runs / "folder" / "config.json").mkdir(parents=True)
    (runs / "file").write_bytes(garbage)
    (runs / "dangling").symlink_to("nowhere")
    bad, good = RunDirectory.list(Workspace.open(runs.parent))
    assert (bad.name, bad.state, bad.finished) == ("bad", "new", False)
    assert (good.name, good.state) == ("good", "finished")
    with pytest.raises(Ssl3dError, match=r"unreadable.*bad/config.json"):
        _ = bad.config


def test_a_status_of_the_wrong_types_is_none(runs: Path) -> None:
    run = RunDirectory(runs / "odd")
    run.path.mkdir(parents=True)
    for state in (7, "flying"):
        (run.path / "status.json").write_text(json.dumps({"state": state, "step": "a", "seconds": []}))
        assert run.state == "new"
        assert "seconds" not in run.status()


def test_lines_that_are_no_metrics_are_left_out(runs: Path) -> None:
    run = RunDirectory(runs / "odd")
    run.path.mkdir(parents=True)
    good = {"step": 10, "losses": {"ce": 1.0}, "lr": 0.1}
    lines = ["5", "[1]", '{"step": "x", "losses": {}, "lr": 1}', json.dumps(good), '{"step": 20, "los']
    (run.path / "metrics.jsonl").write_text("\n".join(lines))
    assert run.metrics() == [good]
    run.truncate_metrics(10)
    assert (run.path / "metrics.jsonl").read_text() == json.dumps(good) + "\n"


def test_a_wrong_command_leaves_no_run(space: Workspace) -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(space, resolve("supervised", backbone="pointwise", overrides=["train.precision=fp16"]), device="cpu")
    assert RunDirectory.list(space) == []
