"""CBST through the trainer: predictions of the training set, thresholds, labels on disk, rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader
from ssl3d.models.methods.cbst import PSEUDO
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

QUICK = ["train.workers=0", "train.log_every=2", "train.lr=0.05"]


def trained(space: Workspace, *overrides: str) -> RunDirectory:
    config = resolve("cbst", backbone="pointwise", steps=16, overrides=[*QUICK, *overrides])
    return train(space, config, device="cpu", jobs=1)


def labels_on_disk(run: RunDirectory) -> tuple[str, dict[str, np.ndarray]]:
    """Name of the folder, and the pseudo labels of each unit."""
    (folder,) = (run.path / "predictions").iterdir()
    return folder.name, {path.name[:2]: ShardReader(path).array(PSEUDO) for path in sorted(folder.glob("*.h5"))}


@pytest.mark.parametrize("regime", ["scan", "points"])
def test_one_threshold_keeps_the_share_that_was_asked_for(own: Workspace, regime: str) -> None:
    """Thresholds of the first pass, labels of the second: together they select q of all target points."""
    split(own, SplitParams(regime=regime, ratio="30%" if regime == "scan" else "5%"))
    run = trained(own, "cbst.policy=global", "cbst.ratio_relabel=false", "cbst.rounds=2", "cbst.q_0=0.3")
    folder, found = labels_on_disk(run)
    assert folder == "phase2-1"  # of the last round; what was counted for its thresholds is gone
    source = PreparedDataset(own.dataset()).visible()
    scans = [*source.labelled.tolist(), *source.unlabelled.tolist()]
    assert sum(map(len, found.values())) == 400 * len(scans) == 4000
    pseudo, target = [], []
    for index in scans:
        unit, position = source.places.units[source.places.unit[index]], int(source.places.position[index])
        pseudo.append(found[unit[:2]][400 * position : 400 * (position + 1)])
        hidden = source.view(index).label == IGNORE
        target.append(hidden if regime == "points" else np.full(400, index in source.unlabelled))
    label, wanted = np.concatenate(pseudo), np.concatenate(target)
    assert (label[wanted] != IGNORE).mean() == pytest.approx(0.35, abs=0.002)
    limits = checkpoint.load(run.checkpoint_path())["model"]["thresholds"]
    assert 0 < limits[0] < 1 and torch.equal(limits, limits[:1].expand(19))


def test_a_run_and_its_evaluation(space: Workspace) -> None:
    run = trained(space, "schedule.name=constant", "schedule.warmup_steps=0")
    lines = run.metrics()
    assert [sorted(line["losses"]) for line in lines] == [["ce"]] * 4 + [["ce", "target"]] * 4
    assert ["pseudo_labels" in line for line in lines] == [False] * 4 + [True] * 4
    assert all(0 < line["pseudo_labels"]["share"] < 1 for line in lines[4:])
    told = [line["measures"]["classes"] for line in lines]
    assert [[any(value is not None for value in each[name]) for name in ("used", "precision")] for each in told] == [
        [late, late] for late in [False] * 4 + [True] * 4
    ]
    assert [line["lr"] / 0.05 for line in lines] == pytest.approx([1] * 5 + [0.5**0.5] * 2 + [0.5])
    result = evaluate(PreparedDataset(space.dataset()), subject_of(run))
    assert result.method == "cbst" and result.confusion.points == 800
