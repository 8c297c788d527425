"""How right a run is on what its training saw without a label, and where it is sure."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.prediction import Prediction
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.confidence import Confidence, confidence
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.splits import find_split
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training.build import load_predictor
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

REGIMES = {
    "scans": SplitParams(ratio="30%"),
    "points": SplitParams(regime="points", ratio="2%"),
    "limited": SplitParams(ratio="35%", protocol="limited"),  # half of a scan
    "all": SplitParams(ratio="100%"),
}


def trained(space: Workspace) -> RunDirectory:
    config = resolve("supervised", backbone="pointwise", steps=30, overrides=["train.workers=0", "train.lr=0.05"])
    return train(space, config, device="cpu", jobs=1)


def hidden(data: PreparedDataset) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Index, truth, and which points hide their class, of every scan to train on."""
    visible, truth = data.visible(), data.truth()
    for scan in data.subset("train"):
        label = truth.label(scan.index)
        yield scan.index, label, (visible.view(scan.index).label == IGNORE) & (label != IGNORE)


def scores_of(network: Segmenter, data: PreparedDataset, index: int) -> np.ndarray:
    """Computed without the product's predictor."""
    with torch.no_grad():
        return network(network.backbone.prepare([data.source().view(index)])).logits.softmax(1).numpy()


@pytest.mark.parametrize("regime", ["scans", "points", "limited"])
def test_counts_are_of_hidden_labels_alone(own: Workspace, regime: str) -> None:
    split(own, REGIMES[regime])
    run, data = trained(own), PreparedDataset(own.dataset())
    subject, network = subject_of(run), load_predictor(run)[0]
    confusion, counts, shown = np.zeros((19, 19), np.int64), np.zeros((3, 19), np.int64), 0
    above = 0.6
    for index, label, chosen in hidden(data):
        scores = scores_of(network, data, index)[chosen]
        found, truth = scores.argmax(1), label[chosen]
        np.add.at(confusion, (found, truth), 1)
        sure = scores.max(1) > above
        for row, part in enumerate((found, found[sure], found[sure & (found == truth)])):
            np.add.at(counts[row], part, 1)
        shown += int((~chosen).any() and chosen.any())
    assert (shown > 0) == (regime != "scans")  # scans that show some points and hide others
    result = evaluate(data, subject, subset="unlabelled")
    assert np.array_equal(result.confusion.counts[:19], confusion) and not result.confusion.counts[19].any()
    assert result.subset == "unlabelled" and (run.path / "eval" / "unlabelled-last.json").exists()
    sure_of = confidence(data, subject, above)
    assert np.array_equal(sure_of.counts, counts) and 0 < counts[1].sum() < counts[0].sum()
    told = json.loads(json.dumps(sure_of.to_json()))
    assert told["all"]["predicted"] == counts[0].sum()
    assert told["all"]["precision"] == pytest.approx(100 * counts[2].sum() / counts[1].sum())
    assert evaluate(data, subject).subset == "val"  # another file


def test_scans_are_those_of_the_split_that_the_run_was_trained_on(own: Workspace) -> None:
    split(own, REGIMES["scans"])
    run, data = trained(own), PreparedDataset(own.dataset())
    ids = find_split(own.dataset()).unlabelled
    split(own, SplitParams(ratio="70%"))
    assert evaluate(data, subject_of(run), subset="unlabelled").scans == len(ids) == 7
    assert confidence(data, subject_of(run), 0.9).scans == 7
    assert confidence(data, subject_of(run), 0.9, subset="val").scans == 2


def test_what_cannot_be_answered(own: Workspace) -> None:
    split(own, REGIMES["all"])
    run, data = trained(own), PreparedDataset(own.dataset())
    for ask in (evaluate, lambda d, s, subset: confidence(d, s, 0.9, subset=subset)):
        with pytest.raises(UsageError, match="leaves no point without a label"):
            ask(data, subject_of(run), subset="unlabelled")
    with pytest.raises(UsageError, match=r"lies in 0\.\.1, and 1.5 does not"):
        confidence(data, subject_of(run), 1.5)


def test_one_scan_by_hand() -> None:
    counts = Confidence("r", "m", "b", "d", "s", "own", "unlabelled", 0.9, ("car", "road"), np.zeros((3, 2), int), 1)
    scores = np.array([[0.95, 0.05], [0.9, 0.1], [0.02, 0.98], [0.01, 0.99], [0.0, 1.0], [0, 0]], np.float32)
    label = np.array([0, 0, 1, 1, 1, IGNORE], np.uint8)
    counts.add(Prediction(label, scores), np.array([0, 0, 0, 1, IGNORE, 1], np.uint8))
    total = ("all", 4, 75.0, pytest.approx(200 / 3))
    assert counts.rows() == [("car", 2, 50.0, 100.0), ("road", 2, 100.0, 50.0), total]
    empty = Confidence("r", "m", "b", "d", "s", "own", "val", 0.9, ("car",), np.zeros((3, 1), int), 0)
    assert empty.to_json()["classes"] == {"car": {"predicted": 0, "share": None, "precision": None}}
