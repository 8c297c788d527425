"""A run evaluated with its own weights and with their average, and on the scans that its split held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import cached_result, evaluate, result_path, subset_scans
from ssl3d.pipeline.evaluation.gallery import draw_scans
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.evaluation.write import MANIFEST, predict
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.build import load_predictor
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

SMALL = ["train.workers=0", "augment.rotate=10", "train.lr=0.05"]


def trained(space: Workspace, *overrides: str, method: str = "supervised", steps: int = 8) -> RunDirectory:
    config = resolve(method, backbone="pointwise", steps=steps, seed=0, overrides=[*SMALL, *overrides])
    return train(space, config, device="cpu", jobs=1)


def same(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    here = module.state_dict()
    return here.keys() == weights.keys() and all(torch.equal(here[name], weights[name]) for name in here)


@pytest.mark.parametrize(("method", "part"), [("supervised", "segmenter."), ("mean_teacher", "teacher.")])
def test_the_average_of_the_student_is_loaded_the_same_for_every_method(
    space: Workspace, method: str, part: str
) -> None:
    run = trained(space, "train.ema=0.9", method=method)
    saved = checkpoint.load(run.checkpoint_path())
    own, average = load_predictor(run, weights="own")[0], load_predictor(run, weights="ema")[0]
    assert same(average, saved["average"]) and not average.training
    predictor = {name[len(part) :]: value for name, value in saved["model"].items() if name.startswith(part)}
    assert same(own, predictor)
    assert not same(own, saved["average"])
    assert same(load_predictor(run)[0], saved["average"])


def test_a_run_without_an_average_says_so(space: Workspace) -> None:
    run = trained(space, steps=2)
    assert subject_of(run).weights == subject_of(run, "own").weights == "own"
    assert load_predictor(run)[0] is not None
    for ask in (lambda: subject_of(run, "ema"), lambda: load_predictor(run, weights="ema")):
        with pytest.raises(UsageError, match=r"no average.*train\.ema=0\.99"):
            ask()


def test_a_checkpoint_without_the_average_that_its_run_keeps_is_not_believed(space: Workspace) -> None:
    run = trained(space, "train.ema=0.9", steps=2)
    saved = checkpoint.load(run.checkpoint_path())
    checkpoint.save(run.checkpoint_path(), {**saved, "average": None})
    assert load_predictor(run, weights="own")[0] is not None
    with pytest.raises(Ssl3dError, match="does not fit"):
        load_predictor(run)


def test_results_pictures_and_predictions_of_both_lie_side_by_side(space: Workspace, tmp_path: Path) -> None:
    run, dataset = trained(space, "train.ema=0.9"), PreparedDataset(space.dataset())
    own, average = subject_of(run, "own"), subject_of(run)
    assert (own.name, average.name) == (run.name, f"{run.name} (ema)")
    first, second = evaluate(dataset, own), evaluate(dataset, average)
    assert (first.weights, second.weights) == ("own", "ema")
    assert first.confusion != second.confusion
    names = sorted(path.name for path in (run.path / "eval").iterdir())
    assert names == ["val-last-ema.json", "val-last.json"]
    assert (cached_result(dataset, own), cached_result(dataset, average)) == (first, second)
    mine, theirs = (draw_scans(dataset, subject, 1)[0] for subject in (own, average))
    assert mine != theirs and mine.read_bytes() != theirs.read_bytes()

    out = tmp_path / "out"
    predict(dataset, own, out)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest.pop("weights") == "own"
    (out / MANIFEST).write_text(json.dumps(manifest))  # as it was written before there was a choice
    assert predict(dataset, own, out).written == 0
    with pytest.raises(UsageError, match="weights 'own'"):
        predict(dataset, average, out)
    predict(dataset, average, tmp_path / "other")
    found = [np.fromfile(next(folder.rglob("*.label")), "<u4") for folder in (out, tmp_path / "other")]
    assert len(found[0]) == len(found[1]) and (found[0] != found[1]).any()


@pytest.fixture
def held(prepared: Path, tmp_path: Path) -> Workspace:
    """The dataset of ``space``, split so that sequence 01 is held out."""
    root = Path(PreparedDataset(Workspace.open(prepared).dataset()).product.manifest.identity["root"])
    space = Workspace.open(tmp_path / "held")
    prepare(space, "semantickitti", root, PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="50%", holdout=("01",)))
    return space


def test_the_holdout_of_the_runs_own_split_is_evaluated(held: Workspace) -> None:
    run, dataset = trained(held, steps=30), PreparedDataset(held.dataset())
    subject = subject_of(run)
    split(held, SplitParams(ratio="10%"))  # the current split is another by now, and holds nothing out
    assert [scan.scan_id for scan in subset_scans(dataset, subject, "holdout")] == [f"01/{i:06d}" for i in range(4)]
    result = evaluate(dataset, subject, subset="holdout")
    assert (result.subset, result.scans, result.points) == ("holdout", 4, 4 * 400)
    assert result_path(subject, "holdout").name == "holdout-last.json"
    assert cached_result(dataset, subject, "holdout") == result
    assert evaluate(dataset, subject).scans == 2  # sequence 08


def test_a_split_without_holdout_and_one_that_is_gone_say_what_to_type(held: Workspace, space: Workspace) -> None:
    run = trained(space, steps=2)
    with pytest.raises(UsageError, match=r"holds no scans out.*--holdout 09,10"):
        evaluate(PreparedDataset(space.dataset()), subject_of(run), subset="holdout")
    subject, dataset = subject_of(trained(held, steps=2)), PreparedDataset(held.dataset())
    for file in dataset.handle.product("split").folder.glob("*"):  # type: ignore[union-attr]
        file.unlink()
    with pytest.raises(Ssl3dError, match="ssl3d split"):
        evaluate(dataset, subject, subset="holdout")
