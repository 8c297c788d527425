"""What training does with too few labels, none at all, and with runs of another version."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.loader import step_items
from ssl3d.models.methods.base import Stored
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.splits import find_split
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, show_split, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import resolve
from ssl3d.pipeline.training.predictions import KeptScans
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.trainer import train
from ssl3d.pipeline.workspace import Workspace

LEARN = ["augment.rotate=10", "backbone.dropout=0", "train.lr=0.05", "train.log_every=1"]
PLAIN = ["optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "schedule.name=constant",
         "schedule.warmup_steps=0", "train.clip=0", "train.lr=0.1", "train.batch=1", "train.log_every=1"]  # fmt: skip
HERE = "train.workers=0"
Relabelled = Callable[..., Workspace]


def trained(space: Workspace, method: str, *overrides: str, steps: int = 6) -> RunDirectory:
    config = resolve(method, backbone="pointwise", steps=steps, overrides=[HERE, *overrides])
    return train(space, config, device="cpu", jobs=1)


def model(run: RunDirectory) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = checkpoint.load(run.checkpoint_path())["model"]
    return weights


def finite(run: RunDirectory) -> bool:
    losses = [value for line in run.metrics() for value in line["losses"].values()]
    return all(map(math.isfinite, losses)) and all(
        bool(value.isfinite().all()) for value in model(run).values() if value.is_floating_point()
    )


@pytest.fixture
def relabelled(space: Workspace, tmp_path: Path) -> Relabelled:
    """``relabelled({"00/000000": edit}, "00/000000", ...)``: other raw labels, and a split of a list."""

    def make(edits: dict[str, Callable[[np.ndarray], np.ndarray]], *labelled: str) -> Workspace:
        root = tmp_path / "kitti"
        shutil.copytree(PreparedDataset(space.dataset()).product.manifest.identity["root"], root)
        for scan, edit in edits.items():
            sequence, frame = scan.split("/")
            path = root / "sequences" / sequence / "labels" / f"{frame}.label"
            edit(np.fromfile(path, "<u4")).astype("<u4").tofile(path)
        (tmp_path / "list.txt").write_text("\n".join(labelled) + "\n")
        made = Workspace.open(tmp_path / "relabelled")
        prepare(made, "semantickitti", root, PrepareParams(), jobs=1)
        split(made, SplitParams(list_file=tmp_path / "list.txt"))
        return made

    return make


# ---------------------------------------------------------------- few scans, few labels


@pytest.mark.parametrize("method", ["mean_teacher", "rounds"])
def test_without_an_unlabelled_scan_nothing_is_begun(own: Workspace, method: str) -> None:
    split(own, SplitParams(ratio="100%"))
    with pytest.raises(UsageError, match=rf"{method} learns from unlabelled scans.*ssl3d split --ratio 10%"):
        trained(own, method)
    assert not own.runs_dir.exists() or not list(own.runs_dir.iterdir())
    assert trained(own, "supervised", steps=2).finished


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_one_labelled_scan_is_drawn_as_often_as_a_batch_needs_it(own: Workspace, method: str) -> None:
    split(own, SplitParams(ratio="1%"))
    assert find_split(own.dataset()).budget.labelled_scans == 1
    run = trained(own, method, *LEARN, "train.batch=3", steps=30)
    assert finite(run)
    assert run.metrics()[-1]["losses"]["ce"] < run.metrics()[0]["losses"]["ce"] / 2


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_a_class_without_a_visible_label_is_named_and_does_no_harm(relabelled: Relabelled, method: str) -> None:
    hide = {"00/000000": lambda raw: np.where(raw == 50, 0, raw)}
    space = relabelled(hide, "00/000000")
    assert show_split(space.dataset()).no_label == ("building",)
    run = trained(space, method, *LEARN, steps=40)
    assert finite(run)
    data = PreparedDataset(space.dataset())
    scores = evaluate(data, subject_of(run)).scores(data.spec.name)
    assert scores.miou > 0.1  # 3 of 19 classes are there to be found
    assert scores.iou[data.spec.classes.index("building")] == pytest.approx(0, abs=0.05)  # there, and never learnt
    assert run.metrics()[-1]["visible_miou"] > 50  # over the classes that are visible


def test_a_batch_without_a_label_moves_nothing_but_by_weight_decay(relabelled: Relabelled) -> None:
    space = relabelled({"00/000001": np.zeros_like}, "00/000000", "00/000001")
    empty = [step for step in range(8) if step_items(0, step, 0, 2, 1) == [1]]
    assert len(empty) == 4
    lines = trained(space, "supervised", *PLAIN, steps=8).metrics()
    assert [line["step"] - 1 for line in lines if line["losses"]["ce"] == 0] == empty
    step = empty[1]
    before, after = (model(trained(space, "supervised", *PLAIN, steps=n)) for n in (step, step + 1))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.rsplit(".", 1)[1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}
    decay = [*PLAIN, "optimizer.weight_decay=0.2"]
    before, after = (model(trained(space, "supervised", *decay, steps=n)) for n in (step, step + 1))
    for name in before.keys() - moved:
        torch.testing.assert_close(after[name], before[name] * (1 - 0.1 * 0.2))
    assert finite(trained(space, "mean_teacher", *PLAIN, "train.lr=0.01"))


# ---------------------------------------------------------------- runs of other versions


def test_a_run_of_a_newer_version_asks_for_an_upgrade(space: Workspace) -> None:
    run = trained(space, "supervised", steps=2)
    saved = checkpoint.load(run.checkpoint_path())
    run.write_status("interrupted")
    checkpoint.save(run.checkpoint_path(), {**saved, "schema": checkpoint.SCHEMA + 1})
    with pytest.raises(Ssl3dError, match=r"newer ssl3d.*pip install -U ssl3d"):
        train(space, resume=run.name, device="cpu", jobs=1)
    with pytest.raises(Ssl3dError, match=r"newer ssl3d.*pip install -U ssl3d"):
        evaluate(PreparedDataset(space.dataset()), subject_of(run))
    config = run.path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "schema": 99}))
    with pytest.raises(Ssl3dError, match=r"has schema 99.*pip install -U ssl3d"):
        train(space, resume=run.name, device="cpu", jobs=1)


def test_a_run_of_an_older_version_is_evaluated_and_begun_again_but_not_gone_on_with(space: Workspace) -> None:
    run = trained(space, "twophase", steps=4)
    before = model(run)
    saved = checkpoint.load(run.checkpoint_path())
    for key in ("average", "entered", "kept"):
        del saved[key]
    del saved["window"]["pseudo"]
    checkpoint.save(run.checkpoint_path(), {**saved, "schema": 1, "step": 3, "phase_step": 1})
    config = json.loads((run.path / "config.json").read_text())
    for section, key in (("train", "ema"), ("dataset", "stages"), ("split", "partial")):
        del config[section][key]
    (run.path / "config.json").write_text(json.dumps(config))
    run = RunDirectory(run.path)
    run.write_status("interrupted")
    with pytest.raises(Ssl3dError, match=r"an older ssl3d has begun this run.*--overwrite.*--init-from"):
        train(space, resume=run.name, device="cpu", jobs=1)
    assert evaluate(PreparedDataset(space.dataset()), subject_of(run)).confusion.points == 800
    again = train(space, resume=run.name, overwrite=True, device="cpu", jobs=1)
    assert again.path == run.path
    assert all(torch.equal(value, model(again)[name]) for name, value in before.items())


def test_init_from_starts_the_student_and_its_average(space: Workspace) -> None:
    source = trained(space, "supervised", *LEARN, steps=20)
    still = ["train.lr=1e-12", "optimizer.weight_decay=0", "mean_teacher.bn_buffers=copy"]
    config = resolve("mean_teacher", backbone="pointwise", steps=1, overrides=[HERE, *still])
    found = model(train(space, config, init_from=source.name, device="cpu", jobs=1))
    for name, value in model(source).items():
        if name.endswith(("weight", "bias")):
            for network in ("segmenter", "teacher"):
                torch.testing.assert_close(found[name.replace("segmenter", network, 1)], value)


# ---------------------------------------------------------------- predictions on disk


@pytest.fixture
def kept(space: Workspace, tmp_path: Path) -> KeptScans:
    visible = PreparedDataset(space.dataset()).visible()
    return KeptScans(tmp_path / "kept", visible.scans.places, visible, [0, 2, 7])


def stored(kept: KeptScans, index: int, *names: str) -> Stored:
    size = len(kept.source.view(index))
    return Stored({name: np.full(size, index, np.int16) for name in names}, {"sum": np.arange(index)})


def test_kept_predictions_come_back_scan_by_scan(kept: KeptScans) -> None:
    first, second = kept.units
    kept.folder.mkdir()
    kept.write(first, [stored(kept, 0, "a", "b"), stored(kept, 2, "a", "b")])
    kept.write(second, [stored(kept, 7, "a", "b")])
    for _ in range(2):
        for (view, item), index in zip(kept, [0, 2, 7], strict=True):
            assert view.rows[0, 0] == index
            assert {name: set(values.tolist()) for name, values in item.points.items()} == {"a": {index}, "b": {index}}
            assert np.array_equal(item.facts["sum"], np.arange(index))


def test_scans_of_which_different_arrays_are_kept_are_refused(kept: KeptScans) -> None:
    first = next(iter(kept.units))
    kept.folder.mkdir()
    for names in (("a",), ()), ((), ("a",)), (("a",), ("b",)):
        with pytest.raises(ValueError, match="of every scan the same arrays"):
            kept.write(first, [stored(kept, 0, *names[0]), stored(kept, 2, *names[1])])
    short = Stored({"a": np.zeros(3, np.int16)})
    with pytest.raises(ValueError, match="'a' has to be kept for every point"):
        kept.write(first, [stored(kept, 0, "a"), short])
    assert not kept.sound(first)


@pytest.mark.parametrize("kind", ["predictions.h5", "facts.npz"])
def test_damaged_predictions_are_made_again(kept: KeptScans, kind: str) -> None:
    first = next(iter(kept.units))
    kept.folder.mkdir()
    kept.write(first, [stored(kept, 0, "a"), stored(kept, 2, "a")])
    assert kept.sound(first)
    path = kept.folder / f"{first}.{kind}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not kept.sound(first)
    assert not (kept.folder / f"{first}.predictions.h5").exists()
    (kept.folder / f"{first}.facts.npz").unlink()
    assert not kept.sound(first)
