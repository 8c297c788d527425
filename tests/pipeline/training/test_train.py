from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.training import checkpoint
from ssl3d.pipeline.training.config import RunConfig, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import SECTIONS, TrainStatus
from ssl3d.pipeline.training.trainer import InterruptedRun, load_predictor, train
from ssl3d.pipeline.workspace import Workspace

LEARN = ["augment.rotate=10", "train.log_every=5", "backbone.dropout=0", "train.lr=0.05"]
HERE = "train.workers=0"


def small(*overrides: str, method: str = "supervised", steps: int = 6, seed: int = 0) -> RunConfig:
    return resolve(method, backbone="pointwise", steps=steps, seed=seed, overrides=[HERE, *overrides])


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.checkpoint_path())["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Seen:
    def __init__(self) -> None:
        self.all: list[TrainStatus] = []

    def update(self, status: TrainStatus) -> None:
        self.all.append(status)


def test_supervised_learns_and_leaves_a_record(space: Workspace, heard) -> None:  # type: ignore[no-untyped-def]
    seen = Seen()
    run = train(
        space, small(*LEARN, steps=60), device="cpu", jobs=1, progress=heard, display=seen, command="ssl3d train"
    )
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["visible_miou"] > 90
    assert lines[-1]["losses"]["ce"] < lines[0]["losses"]["ce"] / 2
    assert set(lines[0]) == {
        "step", "losses", "lr", "visible_miou", "scans_per_s", "seconds", "memory_mb", "gpu_memory_mb", "time_share"
    }  # fmt: skip
    assert sum(lines[-1]["time_share"].values()) == pytest.approx(1, abs=0.01)
    assert [status.step for status in seen.all] == list(range(1, 61))
    assert seen.all[-1].visible_miou == lines[-1]["visible_miou"]
    assert seen.all[-1].eta_s == 0
    status = run.status()
    assert run.state == status["state"] == "finished"
    assert (status["step"], status["steps"]) == (60, 60)
    assert set(status["time_split"]) == set(SECTIONS)
    assert "inside forward, backward and optimizer" in heard.text
    assert (run.path / "command.txt").read_text() == "ssl3d train\n"
    (session,) = json.loads((run.path / "environment.json").read_text())["sessions"]
    assert session["versions"]["torch"] == torch.__version__
    assert (session["device"], session["precision"], session["threads"]) == ("cpu", "fp32", 1)
    assert run.config.split is not None
    assert run.config.split.hash
    assert run.config.data.protocol == "semantickitti"
    assert list(run.tensorboard.glob("events.*"))
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.pt"]


def test_the_predictor_predicts(space: Workspace) -> None:
    run = train(space, small(*LEARN, steps=60), device="cpu", jobs=1)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    segmenter, config = load_predictor(run)
    assert torch.equal(torch.get_rng_state(), before)
    assert not segmenter.training
    assert config.num_classes == segmenter.num_classes == 19
    from ssl3d.pipeline.dataset import PreparedDataset

    data = PreparedDataset(space.dataset())
    scan = data.subset("val")[0]
    inputs = segmenter.backbone.prepare([data.source().view(scan.index)])
    predicted = segmenter(inputs).logits.argmax(1).numpy()
    assert np.mean(predicted == data.truth().label(scan.index)) > 0.9


def test_workers_and_threads_of_loading_change_no_bit(space: Workspace) -> None:
    one = train(space, small("train.workers=1", method="twophase"), device="cpu", jobs=1)
    first = weights(one)
    two = train(space, small(method="twophase"), device="cpu", jobs=1, overwrite=True)
    assert one.name == two.name
    assert same(first, weights(two))
    assert not same(first, weights(train(space, small(method="twophase", seed=1), device="cpu", jobs=1)))


def test_a_finished_run_is_left_alone_unless_overwritten(space: Workspace, heard) -> None:  # type: ignore[no-untyped-def]
    run = train(space, small(), device="cpu", jobs=1)
    stamp = run.checkpoint_path().stat().st_mtime_ns
    again = train(space, small("train.log_every=1"), device="cpu", jobs=1, progress=heard)
    assert again.path == run.path
    assert "is finished" in heard.text
    assert run.checkpoint_path().stat().st_mtime_ns == stamp
    train(space, small(), device="cpu", jobs=1, overwrite=True)
    assert run.checkpoint_path().stat().st_mtime_ns != stamp
    assert [item.name for item in RunDirectory.list(space)] == [run.name]


def test_interrupted_with_ctrl_c_and_resumed_is_the_same_run(space: Workspace, heard) -> None:  # type: ignore[no-untyped-def]
    whole = train(space, small("train.log_every=2", method="twophase", steps=10), device="cpu", jobs=1)
    expected, lines = weights(whole), whole.metrics()
    config = small("train.log_every=2", "twophase.interrupt_at=6", method="twophase", steps=10)
    with pytest.raises(InterruptedRun, match=r"after step 7 of 10.*ssl3d train --resume"):
        train(space, config, device="cpu", jobs=1)
    stopped = next(run for run in RunDirectory.list(space) if run.path != whole.path)
    assert (stopped.state, stopped.status()["step"]) == ("interrupted", 7)
    train(space, resume=stopped.name, device="cpu", jobs=1, progress=heard)
    assert "goes on after step 7 of 10" in heard.text
    assert stopped.state == "finished"
    assert same(weights(stopped), expected)
    keep = ("step", "losses", "lr", "visible_miou")
    assert [{k: line[k] for k in keep} for line in stopped.metrics()] == [{k: a[k] for k in keep} for a in lines]
    sessions = json.loads((stopped.path / "environment.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 7]


def test_phases_freeze_what_they_say(space: Workspace) -> None:
    half = train(space, small(method="twophase", steps=1), device="cpu", jobs=1)  # 0 steps of the first phase
    torch.manual_seed(0)
    from ssl3d.pipeline.training.build import build_method

    fresh = build_method(half.config)[0].state_dict()
    moved = {name for name, value in weights(half).items() if not torch.equal(value, fresh[name])}
    assert moved == {"segmenter.head.weight", "segmenter.head.bias"}


def test_resume_with_other_parameters_is_refused(space: Workspace) -> None:
    run = train(space, small(), device="cpu", jobs=1)
    with pytest.raises(UsageError, match="other parameters") as caught:
        train(space, small("train.lr=0.3"), resume=run.name, device="cpu")
    assert caught.value.where["optimizer.lr"] == "0.005 in the run, 0.3 now"
    with pytest.raises(UsageError, match="did you mean"):
        train(space, resume=run.name.replace("supervised", "supervisd"), device="cpu")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(space: Workspace) -> None:
    config = small("twophase.poison_at=3", method="twophase", steps=10)
    with pytest.raises(Ssl3dError, match=r"bad is nan at step 3.*--set optimizer.lr=") as caught:
        train(space, config, device="cpu", jobs=1)
    (run,) = RunDirectory.list(space)
    assert run.state == "failed"
    assert "diverged" in run.status()["message"]
    saved = torch.load(run.path / "nonfinite.pt", weights_only=True)
    assert (saved["step"], saved["name"], len(saved["scans"])) == (3, "bad", 4)
    assert saved["batch"]["labelled"]["features"].shape[1] == 4
    assert saved["model"].keys() == saved["model"].keys() | {"segmenter.head.weight"}
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert {"step", "loss", "scans", "saved"} <= set(caught.value.where)


@pytest.mark.parametrize("clip", [10, 0])
def test_a_gradient_that_is_not_finite_moves_no_weight(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, clip: int
) -> None:
    import ssl3d.models.losses.segmentation as module

    real = module.cross_entropy

    def exploding(logits: torch.Tensor, target: torch.Tensor, weights: None = None) -> torch.Tensor:
        loss = real(logits, target, weights)
        return loss + (logits * 0).sum().sqrt()  # 0 forward, inf * 0 backward

    monkeypatch.setattr(module, "cross_entropy", exploding)
    with pytest.raises(Ssl3dError, match="gradient is nan at step 0"):
        train(space, small(f"train.clip={clip}"), device="cpu", jobs=1)
    (run,) = RunDirectory.list(space)
    saved = torch.load(run.path / "nonfinite.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_two_processes_cannot_train_one_run(space: Workspace) -> None:
    config = small(steps=4)
    run = train(space, config, device="cpu", jobs=1)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with RunDirectory(run.path).lock():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(30)
    try:
        assert run.is_locked()
        with pytest.raises(Ssl3dError, match=rf"process {os.getpid()} on .* is training this run"):
            train(space, config, device="cpu", overwrite=True)
    finally:
        leave.set()
        thread.join()
    assert not run.is_locked()


def test_a_checkpoint_of_another_class_count(space: Workspace) -> None:
    run = train(space, small(steps=2), device="cpu", jobs=1)
    path = run.checkpoint_path()
    value = checkpoint.load(path)
    checkpoint.save(path, {**value, "num_classes": 22})
    with pytest.raises(Ssl3dError, match="has 22 classes, the run has 19"):
        load_predictor(run)
    run.write_status("interrupted")
    with pytest.raises(Ssl3dError, match="has 22 classes, the run has 19"):
        train(space, resume=run.name, device="cpu", jobs=1)


def test_init_from_begins_a_new_run(space: Workspace) -> None:
    source = train(space, small(*LEARN, steps=40), device="cpu", jobs=1)
    tiny = [*LEARN, "train.log_every=1", "train.lr=1e-9", "train.clip=0"]
    run = train(space, small(*tiny, steps=1), init_from=source.name, device="cpu", jobs=1)
    assert run.name != source.name
    assert run.metrics()[0]["losses"]["ce"] == pytest.approx(source.metrics()[-1]["losses"]["ce"], rel=0.5)
    assert run.config.init_from is not None
    assert run.config.init_from.run == source.name
    copied = space.root / "weights.pt"  # out of its run: method and backbone are taken to be the same
    shutil.copy(source.checkpoint_path(), copied)
    alone = train(space, small(*tiny, steps=1), init_from=copied, device="cpu", jobs=1)
    assert same(weights(run), weights(alone))
    with pytest.raises(Ssl3dError, match="does not fit"):
        train(space, small(*tiny, "backbone.width=8"), init_from=copied, device="cpu", jobs=1)


def test_a_damaged_checkpoint_falls_back(space: Workspace, heard) -> None:  # type: ignore[no-untyped-def]
    config = small("twophase.interrupt_at=6", "train.checkpoint_every=3", method="twophase", steps=10)
    with pytest.raises(InterruptedRun):
        train(space, config, device="cpu", jobs=1)
    (run,) = RunDirectory.list(space)
    run.checkpoint_path().write_bytes(run.checkpoint_path().read_bytes()[:-2000])
    with pytest.raises(InterruptedRun):  # step 6 again
        train(space, config, device="cpu", jobs=1, progress=heard)
    assert "is damaged" in heard.text
    assert "goes on after step 6" in heard.text
    train(space, config, device="cpu", jobs=1)
    whole = train(space, small(method="twophase", steps=10), device="cpu", jobs=1)
    assert same(weights(run), weights(whole))


def test_what_killed_sessions_left_is_swept(space: Workspace) -> None:
    config = small("twophase.interrupt_at=6", "train.log_every=1", method="twophase", steps=10)
    with pytest.raises(InterruptedRun):
        train(space, config, device="cpu", jobs=1)
    (run,) = RunDirectory.list(space)
    (run.checkpoints / ".last.pt.1.tmp").write_bytes(b"half a checkpoint")
    (run.path / ".metrics.jsonl.1.tmp").write_bytes(b"{")
    (run.checkpoints / checkpoint.LAST).unlink()  # as if killed before the first checkpoint, with events written
    with pytest.raises(InterruptedRun):
        train(space, config, device="cpu", jobs=1)
    train(space, config, device="cpu", jobs=1)
    assert [file.name for file in run.checkpoints.iterdir()] == [checkpoint.LAST]
    assert not list(run.path.glob(".*.tmp"))
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert [event.step for event in events.Scalars("training/lr")] == list(range(1, 11))


def test_batches_with_nothing_to_train_on(space: Workspace, heard) -> None:  # type: ignore[no-untyped-def]
    config = resolve(
        "supervised",
        backbone="minkunet-micro",
        steps=60,
        overrides=[HERE, "backbone.voxel_size=500", "backbone.clip=none", "train.batch=1", "augment.translate=200"],
    )
    with pytest.raises(Ssl3dError, match="hold nothing to train on"):
        train(space, config, device="cpu", jobs=1, progress=heard)
    assert heard.text.count("is skipped") == 3


def test_what_is_missing_is_said(tmp_path: Path, space: Workspace) -> None:
    with pytest.raises(UsageError, match="ssl3d prepare"):
        train(Workspace.open(tmp_path / "new"), small(), device="cpu")
    with pytest.raises(UsageError, match="no split is called 'nosuch'"):
        train(space, small(), split="nosuch", device="cpu")
    with pytest.raises(UsageError, match="no device"):
        train(space, small(), device="tpu")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(space, small("train.precision=fp16"), device="cpu")
    with pytest.raises(UsageError, match="nothing to train"):
        train(space, device="cpu")


def test_a_split_of_which_no_point_has_a_class_is_refused(tmp_path: Path, space: Workspace) -> None:
    root = tmp_path / "kitti"
    shutil.copytree(PreparedDataset(space.dataset()).product.manifest.identity["root"], root)
    label = root / "sequences" / "00" / "labels" / "000000.label"
    label.write_bytes(bytes(label.stat().st_size))
    (tmp_path / "list.txt").write_text("00/000000\n")
    own = Workspace.open(tmp_path / "own")
    prepare(own, "semantickitti", root, PrepareParams(), jobs=1)
    split(own, SplitParams(list_file=tmp_path / "list.txt"))
    with pytest.raises(UsageError, match="no point of the labelled scans has a class"):
        train(own, small(), device="cpu", jobs=1)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace(space: Workspace) -> None:
    space.root.chmod(0o555)
    try:
        with pytest.raises(Ssl3dError, match="cannot be written"):
            train(space, small(), device="cpu")
    finally:
        space.root.chmod(0o755)


def test_bf16_on_the_cpu_trains(space: Workspace) -> None:
    run = train(space, small(*LEARN, "train.precision=bf16", steps=40), device="cpu", jobs=1)
    assert run.metrics()[-1]["losses"]["ce"] < run.metrics()[0]["losses"]["ce"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "poly", "constant"])
def test_every_optimizer_and_schedule_learns(space: Workspace, optimizer: str, schedule: str) -> None:
    names = [f"optimizer.name={optimizer}", f"schedule.name={schedule}", "train.lr=0.05"]
    run = train(space, small(*LEARN[:-1], *names, steps=30), device="cpu", jobs=1)
    assert run.metrics()[-1]["losses"]["ce"] < 0.8 * run.metrics()[0]["losses"]["ce"]


@pytest.mark.parametrize(("backbone", "narrow"), [("minkunet-micro", []), ("spunet-micro", ["backbone.m=8"])])
def test_sparse_networks_overfit(space: Workspace, backbone: str, narrow: list[str]) -> None:
    still = ["augment.rotate=0", "augment.flip_x=0", "augment.flip_y=0", "augment.translate=0"]
    voxels = ["backbone.voxel_size=1", "train.batch=1", "train.lr=0.02"]
    config = resolve("supervised", backbone=backbone, steps=60, overrides=[HERE, *still, *voxels, *narrow])
    run = train(space, config, device="cpu", jobs=1)
    assert run.metrics()[-1]["visible_miou"] > 90


def test_training_needs_no_hidden_label(space: Workspace, tmp_path: Path) -> None:
    expected = weights(train(space, small(method="twophase"), device="cpu", jobs=1))
    root = tmp_path / "blind"
    shutil.copytree(space.root, root, ignore=shutil.ignore_patterns("runs", "*.labels.h5"))
    assert not list(root.rglob("*.labels.h5"))
    assert list(root.rglob("*.visible.h5"))
    assert same(expected, weights(train(Workspace.open(root), small(method="twophase"), device="cpu", jobs=1)))
