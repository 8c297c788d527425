"""What a run goes on from besides weights: state of other kinds, the weights it began with, and kept predictions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace


def config_of(method: str, *overrides: str, steps: int = 8) -> RunConfig:
    return resolve(method, backbone="pointwise", steps=steps, overrides=["train.workers=0", *overrides])


def model(run: RunDirectory) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return weights


def stop_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    """The session ends as a full disk ends it, after so many checkpoints."""
    real, left = checkpoint.save_last, [saves]

    def save_last(folder: Path, value: Any) -> None:
        if not left[0]:
            raise Ssl3dError("stopped")
        left[0] -= 1
        real(folder, value)

    monkeypatch.setattr(checkpoint, "save_last", save_last)


def begun(space: Workspace, config: RunConfig, saves: int, **more: Any) -> RunDirectory:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, saves)
        with pytest.raises(Ssl3dError, match="stopped"):
            train(space, config, device="cpu", jobs=1, **more)
    return RunDirectory.list(space)[-1]


def test_state_of_every_kind_goes_on(space: Workspace) -> None:
    config = config_of("remembering", "train.checkpoint_every=3")
    run = begun(space, config, saves=1)
    train(space, config, device="cpu", jobs=1)
    found = model(run)
    extra = found.pop("_extra_state")
    train(space, config, overwrite=True, device="cpu", jobs=1)
    whole = model(run)
    expected = whole.pop("_extra_state")
    assert extra["steps"] == expected["steps"] == {"taken": 8}
    assert torch.equal(extra["bank"], expected["bank"])
    assert found["lowest"].isfinite().all()
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_a_run_from_the_weights_of_another_keeps_them_when_it_has_no_checkpoint_yet(space: Workspace) -> None:
    source = train(space, config_of("supervised"), device="cpu", jobs=1)
    config = config_of("supervised", "train.lr=1e-9", steps=2)
    run = begun(space, config, saves=0, init_from=source.name)
    assert train(space, resume=run.name, device="cpu", jobs=1).finished
    found = model(run)
    assert train(space, config, init_from=source.name, overwrite=True, device="cpu", jobs=1).name == run.name
    assert all(torch.equal(found[name], value) for name, value in model(run).items())
    run.clear()
    checkpoint.save(source.checkpoint_path(), {**checkpoint.load(source.checkpoint_path()), "step": 7})
    with pytest.raises(UsageError, match="the weights that the run begins with are others by now"):
        train(space, resume=run.name, device="cpu", jobs=1)


@pytest.mark.parametrize("kind", ["gone", "altered"])
def test_a_phase_whose_predictions_are_spoiled_is_not_gone_on_with(space: Workspace, kind: str) -> None:
    config = config_of("rounds", "train.checkpoint_every=2", steps=12)
    run = begun(space, config, saves=5)
    folder = run.path / "predictions" / "phase1-0"
    if kind == "gone":
        shutil.rmtree(folder)
    else:  # values of a point: nothing in a shard tells
        path = sorted(folder.glob("*.predictions.h5"))[-1]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"predictions that this phase learns from are missing or damaged.*phase1-0"):
        train(space, resume=run.name, device="cpu", jobs=1)
