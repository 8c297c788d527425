"""A method that predicts instances: trained, evaluated, reported; its numbers are those of its predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl3d.cli import app
from ssl3d.data.errors import Ssl3dError
from ssl3d.models.prediction import Instances
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.instance_ap import InstanceAP
from ssl3d.pipeline.evaluation.passes import Passes
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.evaluation.subject import predicting, subject_of
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def trained(write_layers: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """On layers whose left and right halves are instances (1 and 2)."""
    root = write_layers(tmp_path_factory.mktemp("layers"), points=1600)
    for file in root.rglob("*.bin"):
        x = np.fromfile(file, "<f4").reshape(-1, 4)[:, 0]
        labels = file.parents[1] / "labels" / f"{file.stem}.label"
        (np.fromfile(labels, "<u4") | (1 + (x > 0)).astype(np.uint32) << 16).astype("<u4").tofile(labels)
    space = Workspace.open(tmp_path_factory.mktemp("grouped") / "ws")
    prepare(space, "semantickitti", root, PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="30%"))
    learn = ["train.workers=0", "augment.rotate=10", "backbone.dropout=0", "train.lr=0.05"]
    config = resolve("grouped", backbone="pointwise", steps=60, seed=0, overrides=learn)
    return train(space, config, device="cpu", jobs=1)


def dataset_of(run: RunDirectory) -> PreparedDataset:
    return PreparedDataset(Workspace.open(run.path.parents[1]).dataset())


class Killed(BaseException):
    pass


class Killer(Silent):
    """Dies after so many scans."""

    def __init__(self, after: int) -> None:
        self.left = after

    def task(self, name: str, total: float | None, unit: str = ""):  # type: ignore[no-untyped-def]
        killer = self

        class Bar:
            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *error: object) -> None: ...

            def note(self, text: str) -> None: ...

            def advance(self, amount: float = 1) -> None:
                killer.left -= int(amount)
                if killer.left <= 0:
                    raise Killed

        return Bar()


def test_average_precisions_are_those_of_the_predictions(trained: RunDirectory) -> None:
    dataset, subject = dataset_of(trained), subject_of(trained)
    result = evaluate(dataset, subject)
    expected = InstanceAP(range(dataset.spec.num_classes))
    source, truth = dataset.source(), dataset.truth()
    scans = dataset.subset("val")
    with predicting(dataset, subject, "cpu", 1, Silent()) as predictor:
        for scan, found in predictor.predictions(scans, lambda scan: source.view(scan.index)):
            assert found.instances is not None
            x = source.view(scan.index).points[:, 0]
            for k in range(len(found.instances)):  # by what the method says of itself
                rows = found.instances.points_of(k)
                assert len({*(x[rows] > 0).tolist()}) == 1 and {*found.label[rows].tolist()} == {
                    found.instances.label[k]
                }
            expected.add(found.instances, truth.label(scan.index), truth.instance(scan.index))
    assert result.instances is not None
    assert result.instances.to_json() == expected.scores().to_json()
    assert result.instances.mean_ap50 > 0.9  # four layers of height can be learnt
    assert sum(result.instances.targets) == 2 * 4 * len(scans)
    assert result.scores("semantickitti").miou > 0.15
    kept = EvalResult.load(next((trained.path / "eval").glob("*.json")))
    assert kept is not None and kept.instances is not None
    assert kept.instances.to_json() == result.instances.to_json()


def test_a_killed_evaluation_goes_on_with_the_overlaps_of_finished_units(trained: RunDirectory) -> None:
    dataset, subject = dataset_of(trained), subject_of(trained)
    whole = evaluate(dataset, subject, subset="train", overwrite=True)
    assert len({scan.unit for scan in dataset.subset("train")}) == 2
    (trained.path / "eval" / f"train-{subject.key}.json").unlink()
    with pytest.raises(Killed):
        evaluate(dataset, subject, subset="train", progress=Killer(9))
    again = evaluate(dataset, subject, subset="train")
    assert again.instances is not None and whole.instances is not None
    assert again.instances.to_json() == whole.instances.to_json()
    assert again.confusion == whole.confusion


def test_copies_of_a_scan_cannot_vote_on_instances(trained: RunDirectory) -> None:
    with pytest.raises(Ssl3dError, match="instances of different passes") as caught:
        evaluate(dataset_of(trained), subject_of(trained, "auto", Passes(("flip",))))
    assert "--tta" in (caught.value.hint or "")


def test_a_run_and_its_classes_and_instances_stand_in_one_report(
    trained: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--workspace", str(trained.path.parents[1]), "--jobs", "1", "--device", "cpu"]
    capsys.readouterr()
    assert app.run(["eval", "--report", "json", *where]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["protocol"] == "semantickitti" and run["miou"] > 15
    assert run["instances"]["protocol"] == "scannet-instance"
    assert run["instances"]["ap25"] >= run["instances"]["ap50"] >= run["instances"]["ap"] > 50
    named = {name: values["targets"] for name, values in run["instances"]["classes"].items() if values["targets"]}
    assert named == dict.fromkeys(("car", "road", "building", "vegetation"), 4)
    assert app.run(["eval", *where]) == 0
    table = capsys.readouterr().out
    assert "mIoU" in table and "scannet-instance" in table and "AP50" in table


def test_scans_without_true_instances_count_for_classes_only(trained: RunDirectory) -> None:
    from ssl3d.pipeline.evaluation.counts import Counts

    dataset = dataset_of(trained)
    scan, truth = dataset.subset("val")[0], dataset.truth()
    label = truth.label(scan.index)
    one = Instances.from_masks(np.ones((1, len(label)), np.bool_), np.zeros(1, np.uint8), np.ones(1, np.float32))
    counts = Counts.of(19, (0, 1))
    truth.has_instance = lambda index: False  # type: ignore[method-assign]
    counts.add(scan, label, one, truth)
    assert (counts.without, counts.instances, counts.confusion.points) == (1, None, len(label))
    again = Counts.from_json(json.loads(json.dumps(counts.to_json())), (0, 1))
    assert (again.without, again.instances) == (1, None)
