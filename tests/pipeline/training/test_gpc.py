"""GPC in whole runs: on LiDAR scans and in rooms, with labels on some points, interrupted and gone on with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl3d.data.datasets.root import MANIFEST
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, train
from ssl3d.pipeline.workspace import Workspace

SMALL = ["gpc.bank.slots=60", "gpc.num_neg=400", "gpc.num_pos=150", "gpc.conf_thresh=0.4", "gpc.crop_min_points=50"]
QUICK = ["train.workers=0", "train.batch=1", "train.log_every=2", "train.lr=0.05", "gpc.crop_min_overlap=20", *SMALL]


def config_of(space: Workspace, *overrides: str, backbone: str = "pointwise", steps: int = 12) -> RunConfig:
    defaults = PreparedDataset(space.dataset()).spec.defaults
    return resolve("gpc", backbone=backbone, steps=steps, overrides=[*QUICK, *overrides], defaults=defaults)


def trained(space: Workspace, *overrides: str, backbone: str = "pointwise", steps: int = 12) -> RunDirectory:
    return train(space, config_of(space, *overrides, backbone=backbone, steps=steps), device="cpu", jobs=1)


def predicts_all(space: Workspace, run: RunDirectory) -> float:
    data = PreparedDataset(space.dataset())
    result = evaluate(data, subject_of(run))
    assert result.confusion.points == sum(scan.num_points for scan in data.subset("val"))
    return result.scores(data.protocol).overall_accuracy


def test_on_lidar_scans_labels_come_first_and_fans_follow(space: Workspace) -> None:
    run = trained(space, steps=60)
    assert (run.config.method_params.crop, run.config.method_params.hard_point_ce) == ("fan", 0.9)  # type: ignore[attr-defined]
    lines = run.metrics()
    first = int(60 * 0.47)
    assert all(list(line["losses"]) == ["ce"] for line in lines if line["step"] <= first)
    guided = [line for line in lines if line["step"] > first + 1]
    assert all(np.isfinite(line["losses"]["contrast"]) for line in guided)
    assert max(line["lr"] for line in guided) < 0.2 * max(line["lr"] for line in lines)
    measures = guided[-1]["measures"]
    assert 20 < measures["means"]["pairs"] <= 150 and 0 <= measures["means"]["gated"] <= 1
    assert 0 < guided[-1]["pseudo_labels"]["share"] <= 1
    assert any(share is not None for share in measures["classes"]["precision"])
    assert predicts_all(space, run) > 0.5  # a guess is right for a quarter of the points


def test_pretraining_leaves_the_projector_as_it_was(space: Workspace) -> None:
    """Then one step, whose rate is as good as zero."""
    run = trained(space, "gpc.pretrain=0.95", "gpc.lr_scale=1e-12", steps=20)
    found = checkpoint.load(run.checkpoint_path())["model"]
    other = trained(space, "gpc.pretrain=0.95", "gpc.lr_scale=1e-12", steps=40)
    assert torch.equal(found["projector.weight"], checkpoint.load(other.checkpoint_path())["model"]["projector.weight"])
    assert not torch.equal(found["segmenter.head.weight"], torch.zeros_like(found["segmenter.head.weight"]))
    assert int(found["bank.count"].sum()) > 0


@pytest.mark.parametrize("bank", ["true", "false"])
def test_labels_on_some_points_of_every_scan(own: Workspace, bank: str) -> None:
    split(own, SplitParams(regime="points", ratio="5%"))
    run = trained(own, f"gpc.bank.enabled={bank}", "gpc.pretrain=0", "gpc.prepare_iter=2", steps=8)
    lines = run.metrics()
    assert "contrast" not in lines[0]["losses"] and lines[-1]["losses"]["contrast"] > 0
    assert lines[-1]["pseudo_labels"]["share"] > 0


def test_interrupted_and_gone_on_with_ends_with_the_same_bits(space: Workspace, prepared: Path, tmp_path: Path) -> None:
    settings = ["gpc.pretrain=0.3", "train.ema=0.9", "gpc.bank.slots=30", "gpc.balanced_negatives=false"]
    whole = trained(link(prepared, tmp_path / "whole"), *settings)
    for step in (2, 4, 9):  # in the first phase, just after it, well in the second
        with pytest.raises(InterruptedRun):
            train(space, config_of(space, *settings), device="cpu", jobs=1, display=StopAtStep(step))
    run = trained(space, *settings)
    assert run.name == whole.name
    expected, found = (checkpoint.load(item.checkpoint_path()) for item in (whole, run))
    assert int(expected["model"]["bank.count"].sum()) > 30
    for part in ("model", "average"):
        assert expected[part].keys() == found[part].keys()
        assert all(torch.equal(value, found[part][name]) for name, value in expected[part].items())
    logged = [[{key: line[key] for key in ("losses", "measures")} for line in item.metrics()] for item in (whole, run)]
    assert logged[0] == logged[1]


class StopAtStep:
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, status: TrainStatus) -> None:
        if status.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def link(prepared: Path, root: Path) -> Workspace:
    root.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (root / name).write_bytes((prepared / name).read_bytes())
    (root / "data").symlink_to(prepared / "data")
    return Workspace.open(root)


def write_rooms(root: Path) -> Path:
    """S3DIS's layout in miniature: a floor, a ceiling and a table in each room of 6 x 6 m."""
    rng = np.random.default_rng(0)
    heights = {"floor_1": (0, 0.1, 900), "ceiling_1": (2.5, 2.6, 900), "table_1": (0.7, 0.9, 300)}
    rooms = {"Area_1": ["office_1", "office_2", "office_3", "office_4"], "Area_5": ["office_1"]}
    for area, names in rooms.items():
        for name in names:
            folder = root / area / name / "Annotations"
            folder.mkdir(parents=True)
            every = []
            for thing, (low, high, count) in heights.items():
                xyz = rng.uniform([0, 0, low], [6, 6, high], (count, 3))
                every.append(np.hstack([xyz, rng.integers(0, 256, (count, 3))]))
                np.savetxt(folder / f"{thing}.txt", every[-1], "%.3f %.3f %.3f %d %d %d")
            np.savetxt(root / area / name / f"{name}.txt", np.concatenate(every), "%.3f %.3f %.3f %d %d %d")
        alignment = ["## Global alignment ##", "## Disjoint Space Name Angle ##", *(f"{name} 0" for name in names)]
        (root / area / f"{area}_alignmentAngle.txt").write_text("\n".join(alignment) + "\n")
    counts = {area: len(names) for area, names in rooms.items()}
    (root / MANIFEST).write_text(json.dumps({"complete": True, "scans_per_sequence": counts}))
    return root


def test_in_rooms_columns_are_cut_in_one_run_from_scratch(tmp_path: Path) -> None:
    space = Workspace.open(tmp_path / "ws")
    prepare(space, "s3dis", write_rooms(tmp_path / "rooms"), PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="50%"))
    settings = ["backbone.voxel_size=0.2", "gpc.prepare_iter=2", "gpc.crop_min_overlap=200"]
    run = trained(space, *settings, backbone="minkunet-micro", steps=8)
    assert (run.config.method_params.crop, run.config.method_params.pretrain) == ("column", 0)  # type: ignore[attr-defined]
    lines = run.metrics()
    assert list(lines[0]["losses"]) == ["ce"] and lines[-1]["losses"]["contrast"] > 0
    assert lines[-1]["measures"]["means"]["pairs"] == 150
    predicts_all(space, run)
