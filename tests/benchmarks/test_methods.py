"""What ``ssl3d bench methods`` makes of a log and of the rival's clock, in numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl3d.benchmarks.frames import write_frames
from ssl3d.benchmarks.methods import DATASET, Trained, method_rows, prepare_scans, read_run, voxel_size
from ssl3d.benchmarks.streets import occupied
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.training.config import DatasetRef, SplitRef, resolve
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

SHARES = {"data": 0.1, "to_device": 0.0, "forward": 0.4, "backward": 0.3, "optimizer": 0.1, "other": 0.1}


def test_a_log_is_read_from_its_second_line_on(tmp_path: Path) -> None:
    """Steps 10 to 30 took 20 s, with shares as they are; a slow start is in the first line only. One checkpoint of 9 s
    comes every 180 s, which is every 180 steps of 1 s: 0.05 s a step."""
    data = DatasetRef(name="streets", key="k", classes=("a", "b"), protocol="semantickitti")
    split = SplitRef(name="half", hash="h", labelled=1, unlabelled=1)
    run = RunDirectory.create(Workspace.open(tmp_path / "ws"), resolve("supervised").bound(data, split))
    start = {**dict.fromkeys(SHARES, 0.0), "other": 1.0}
    mixed = {name: (20 * SHARES[name] + 30 * start[name]) / 50 for name in SHARES}
    lines = [(10, 30.0, start), (20, 40.0, SHARES), (30, 50.0, mixed)]
    text = [
        json.dumps({"step": step, "losses": {}, "lr": 0.1, "seconds": seconds, "time_share": shares})
        for step, seconds, shares in lines
    ]
    (run.path / "metrics.jsonl").write_text("\n".join(text) + "\n")
    run.write_status("finished", step=30, steps=30, seconds=59.0)
    found = read_run(run, memory_mb=123)
    assert found.sections == pytest.approx(SHARES)
    assert found.checkpoint == pytest.approx(9 / 180)
    assert found.step == pytest.approx(1.05) and found.passes == pytest.approx(0.8)
    other = {**dict.fromkeys(SHARES, 0.0), "other": 1.0}
    text = [
        json.dumps({"step": step, "losses": {}, "lr": 0.1, "seconds": seconds, "time_share": other})
        for step, seconds in ((10, 5.0), (20, 10.0), (30, 60.0), (40, 80.0))
    ]
    (run.path / "metrics.jsonl").write_text("\n".join(text) + "\n")
    of_last_phase = read_run(run, memory_mb=123, begins=13)  # it is measured from step 30 on
    assert of_last_phase.sections["other"] == pytest.approx(2.0)


def test_rows_charge_the_trainer_with_what_neither_batch_nor_method_explains() -> None:
    """1 s a step, 0.8 s of it passes, 0.1 s batch; the method itself needs 0.06 s: 0.04 s are the trainer's, 4%."""
    ours = Trained(SHARES, checkpoint=0.0, memory_mb=200)
    fed = Trained({**SHARES, "data": 0.0, "other": 0.2}, checkpoint=0.0, memory_mb=200)
    plain = {"data": 0.1, "after": 0.06, "step": 0.95, "elements": 20_000.0, "memory_mb": 150, "beyond": 0.12}
    step, beyond, own, overhead, batch, waits, memory = method_rows("m", ours, fed, plain, jobs=2)
    assert own["name"] == "cost of m beyond forward and backward passes"
    assert (own["ours"], own["theirs"]) == (pytest.approx(12), 15) and own["ratio"] == pytest.approx(1.25)
    assert (step["ours"], step["theirs"]) == (pytest.approx(1000), pytest.approx(950))
    assert step["ratio"] == pytest.approx(0.95)
    assert (beyond["ours"], beyond["theirs"]) == (pytest.approx(200), pytest.approx(160))
    assert overhead["ours"] == pytest.approx(4) and overhead["ratio"] == pytest.approx(1.25)
    assert (batch["ours"], batch["theirs"]) == (pytest.approx(100), pytest.approx(800))
    assert waits["ours"] == 0.01  # nothing that the log could tell
    assert memory["ratio"] == pytest.approx(0.75)


def test_the_edge_of_voxels_is_the_one_that_comes_nearest(tmp_path: Path) -> None:
    frames = {"00": 2, "08": 1}
    write_frames(tmp_path / "streets", frames, num_points=2000)
    (tmp_path / "streets" / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": frames}))
    space = prepare_scans(tmp_path, tmp_path / "streets", "tiny", jobs=1)
    dataset = PreparedDataset(space.dataset(DATASET))
    edge, voxels = voxel_size(dataset, 1500)
    source = dataset.source()
    clouds = [source.view(scan.index).points for scan in dataset.subset("train")]

    def off(meters: float) -> float:
        return abs(sum(occupied(cloud, meters) for cloud in clouds) / len(clouds) - 1500)

    assert off(edge) == pytest.approx(abs(voxels - 1500))
    assert all(off(edge) <= off(other) for other in (edge - 0.01, edge + 0.01))
