"""``ssl3d bench sparse`` on tiny clouds: real processes, our own layers in the place of a rival's, and the figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.benchmarks import sparse, sparse_report, sparse_scans
from ssl3d.benchmarks.rivals import native
from ssl3d.benchmarks.rivals.worker import Conversation, Segmenter
from ssl3d.benchmarks.sparse_plan import Measurement, measurements
from ssl3d.benchmarks.sparse_scans import Voxels, real_scans
from ssl3d.benchmarks.sparse_sides import Compared, Library, Side, SideError, compare, largest_difference
from ssl3d.cli import app
from ssl3d.data.errors import DataError, UsageError
from ssl3d.models.backbones.minkunet import MinkUNet34, MinkUNet34Params
from ssl3d.pipeline.progress import Silent

STEP = Measurement("step MinkUNet18 0.4m b2", "step", "minkowski", "MinkUNet18", 0.4, 2)


def cloud(seed: int, points: int = 1500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform((-6, -6, -1, 0), (6, 6, 1, 1), (points, 4)).astype(np.float32)


@pytest.fixture
def voxels(tmp_path: Path) -> Voxels:
    return Voxels(tmp_path, {"": [cloud(0), cloud(1)]})


@pytest.fixture
def bench(tmp_path: Path) -> sparse.Bench:
    return sparse.Bench(tmp_path / "bench", {}, 1, Silent(), quick=True)


class BuiltOfLayers(native.Engine):
    """Our own layers, put together as a rival's are: the network of the worker, not the one of ssl3d."""

    def network(self, blocks: list[int], inputs: int, classes: int) -> Any:
        return None

    def convert(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head = {"final.weight": state["final.kernel"].t(), "final.bias": state["final.bias"][0]}
        return {**{f"net.{k}": v for k, v in state.items() if not k.startswith("final.")}, **head}


# ---------------------------------------------------------------- both sides do the same


def test_the_network_that_rivals_get_is_ours(voxels: Voxels, bench: sparse.Bench) -> None:
    """The same weights fill it, with none left, and two losses agree: so do its gradients."""
    task = sparse._task(bench, Measurement("m", "step", "minkowski", "MinkUNet18", 0.8), voxels)
    ours = Conversation(native.Engine()).answer({"do": "load", "task": task})
    theirs = Conversation(BuiltOfLayers()).answer({"do": "load", "task": task})
    assert largest_difference(ours["check"], theirs["check"]) < 1e-4
    assert len(ours["check"]) == 2 and ours["check"][0] != ours["check"][1]


def test_the_deeper_network_has_the_same_parameters_too() -> None:
    blocks = list(MinkUNet34Params().blocks)
    with torch.device("meta"):
        ours = native.Segmenter(MinkUNet34(MinkUNet34Params()), 19).state_dict()
        theirs = Segmenter(native.Engine(), blocks, 4, 19).state_dict()
    plain = {name.removeprefix("net."): value for name, value in ours.items()}
    wanted = BuiltOfLayers().convert(plain)
    assert {name: value.shape for name, value in theirs.items()} == {n: v.shape for n, v in wanted.items()}


def test_inference_maps_and_operators_are_the_same_in_both(voxels: Voxels, bench: sparse.Bench) -> None:
    ours, theirs = Conversation(native.Engine()), Conversation(BuiltOfLayers())
    kinds = [Measurement("i", "infer", "minkowski", "MinkUNet18", 0.8), Measurement("m", "maps", "minkowski", "", 0.8)]
    for name in ("conv3", "down2", "up2", "conv1"):
        details = {"operator": name, "channels": 8, "stride": 2, "backward": True}
        kinds.append(Measurement(name, "operator", "minkowski", size=0.8, details=details))
    for measurement in kinds:
        order = {"do": "load", "task": sparse._task(bench, measurement, voxels)}
        said, other = ours.answer(order), theirs.answer(order)
        assert largest_difference(said["check"], other["check"]) < 1e-5, measurement.name
        assert ours.answer({"do": "turn"})["seconds"] != 0


def test_the_check_of_an_operator_sees_how_many_pairs_there_are(voxels: Voxels, bench: sparse.Bench) -> None:
    """Features of one and weights of 1 / channels: a submanifold convolution counts neighbours, the sum all pairs."""
    details = {"operator": "conv3", "channels": 8, "stride": 1, "backward": False}
    measurement = Measurement("op", "operator", "minkowski", size=0.8, details=details)
    said = Conversation(native.Engine()).answer({"do": "load", "task": sparse._task(bench, measurement, voxels)})
    assert said["check"][0] == pytest.approx(8 * said["pairs"])
    assert said["check"][2:] == [said["sites"], 8]


def test_unequal_numbers_are_never_close() -> None:
    assert largest_difference([3.0, 2.0], [3.0, 2.0003]) == pytest.approx(1e-4)
    assert largest_difference([1.0], [1.0, 2.0]) == np.inf
    assert largest_difference([np.nan], [np.nan]) == np.inf


# ---------------------------------------------------------------- processes


def test_turns_are_taken_and_paired(voxels: Voxels, bench: sparse.Bench) -> None:
    """Against ourselves in a second process: equal numbers, and one ratio for each pair of turns."""
    details = {"operator": "conv3", "channels": 8, "stride": 1, "backward": True}
    task = sparse._task(bench, Measurement("op", "operator", "minkowski", size=0.8, details=details), voxels)
    with Side(Library("native", sys.executable)) as ours, Side(Library("native", sys.executable)) as theirs:
        found = compare(task, ours, theirs, seconds=0.01)
        assert found.difference == 0 and found.sites == voxels.count(Path(task["data"]))
        assert len(found.ours) == len(found.theirs) == 3
        assert found.ratio == sorted(found.ratios)[1] > 0
        assert found.peak_mb[0] > 100
        with pytest.raises(SideError, match="native failed: KeyError"):
            ours.ask("load", task={**task, "kind": "nothing"})


def test_a_side_that_dies_is_named_with_what_it_said(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such engine here >&2\nexit 3\n")
    python.chmod(0o755)
    with Side(Library("minkowski", str(python))) as side, pytest.raises(SideError, match=r"ended \(3\)") as caught:
        side.ask("hello")
    assert caught.value.where["it said"] == "no such engine here"


def test_different_results_are_not_compared() -> None:
    class Said:
        def __init__(self, check: list[float]) -> None:
            self.check, self.library = check, Library("minkowski", "python")

        def ask(self, do: str, **more: Any) -> dict[str, Any]:
            return {"check": self.check, "seconds": 1.0, "sites": 1, "peak_mb": 1.0}

    with pytest.raises(SideError, match="do not compute the same"):
        compare({}, Said([1.0]), Said([1.1]), 1)  # type: ignore[arg-type]
    assert compare({}, Said([1.0]), Said([1.0001]), 1).ratio == 1  # type: ignore[arg-type]


# ---------------------------------------------------------------- rows


def test_names_are_unique_and_those_of_the_claims() -> None:
    names = [name for measurement in measurements(False, 4) for name in measurement.names]
    assert len(names) == len(set(names))
    wanted = ("step MinkUNet18 0.05m b1", "memory MinkUNet34 0.1m b4", "infer MinkUNet34 0.05m b1 vs spconv")
    assert {*wanted, "maps MinkUNet 0.05m b1", "step MinkUNet18 0.05m b4 real"} <= set(names)
    assert not any("real" in name for m in measurements(False, 0) for name in m.names)
    assert not any(m.scans and m.batch == 4 for m in measurements(False, 2))
    operators = {(m.details["operator"], m.details["channels"]) for m in measurements(False, 0) if m.details}
    assert operators >= {(name, width) for name in ("conv3", "down2", "up2", "conv1") for width in (16, 96, 256)}


def test_a_row_holds_the_middle_ratio_and_memory(bench: sparse.Bench) -> None:
    """Turns of 1, 2, 4 s against 3, 4, 4 s: ratios 3, 2, 1. 100 MB against 150."""
    bench.libraries["minkowski"] = Library("minkowski", "python")
    bench.versions["minkowski"] = "MinkowskiEngine 0.5.4 (torch 2.13.0)"
    step, memory = sparse._rows(bench, STEP, Compared([1, 2, 4], [3, 4, 4], (100.0, 150.0), 10, None, 1e-6))
    assert (step["ours"], step["theirs"], step["ratio"], step["unit"]) == (2, 4, 2, "s")
    assert step["ratios"] == [1, 3] and step["rival"] == "MinkowskiEngine 0.5.4 (torch 2.13.0), 1 thread"
    assert (memory["name"], memory["ratio"], memory["unit"]) == ("memory MinkUNet18 0.4m b2", 1.5, "MB")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A plan of two rows on small clouds. Holds how many scans were asked for."""
    asked: list[int] = []
    plan = []
    for name in ("conv3", "down2"):  # of one group: they share a process
        details = {"operator": name, "channels": 8, "stride": 1, "backward": False}
        plan.append(Measurement(f"op {name} 8ch stride1 forward", "operator", "minkowski", size=0.8, details=details))

    def scans(folder: Path, count: int, said: Any) -> list[np.ndarray]:
        asked.append(count)
        return [cloud(seed) for seed in range(count)]

    monkeypatch.setattr(sparse, "measurements", lambda quick, real: plan)
    monkeypatch.setattr(sparse, "street_scans", scans)
    return asked


def test_without_a_rival_ours_are_measured_and_the_command_succeeds(
    small: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sparse, "default_python", lambda engine: None)
    file, page = tmp_path / "out" / "sparse.json", tmp_path / "page.md"
    page.write_text("before\n<!-- sparse: begin -->\nold\n<!-- sparse: end -->\nafter\n")
    words = ["bench", "sparse", "--json", str(file), "--jobs", "1", "--quick", "--docs", str(page)]
    assert app.run(words) == 0
    assert "make minkowski" in " ".join(capsys.readouterr().out.split())
    value = json.loads(file.read_text())
    assert [row["name"] for row in value["results"]] == ["op conv3 8ch stride1 forward", "op down2 8ch stride1 forward"]
    for row in value["results"]:
        assert row["ours"] > 0 and row["theirs"] is None and row["ratio"] is None
    assert "| conv3 | 8 | 1 |" in page.read_text() and "old" not in page.read_text()

    kept = value["results"][0] | {"ours": 12345.0}
    value["results"] = [kept, value["results"][1] | {"state": "of other code"}]
    file.write_text(json.dumps(value))
    assert app.run([*words, "--resume"]) == 0
    again = json.loads(file.read_text())["results"]
    assert again[0]["ours"] == 12345.0 and again[1]["state"] == kept["state"] and len(small) == 2


def test_a_default_rival_that_does_not_import_is_left_out_and_a_named_one_is_an_error(
    small: list[int], bench: sparse.Bench
) -> None:
    bench.pythons, bench.guessed = {"minkowski": "/nowhere/python"}, frozenset({"minkowski"})
    rows = sparse.run(bench, only="op conv3")
    assert [row["theirs"] for row in rows] == [None]
    bench.guessed = frozenset()
    with pytest.raises(UsageError) as caught:
        sparse.run(bench)
    assert "--minkowski" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no row has such a name"):
        sparse.run(bench, only="nothing of the kind")


def test_a_measurement_that_fails_hinders_no_other(small: list[int], bench: sparse.Bench) -> None:
    first, second = sparse.measurements(False, 0)
    first.details["kind"] = "nothing of the kind"  # an order that no side understands
    rows = sparse.run(bench)
    assert [row["name"] for row in rows] == [second.name]
    assert list(bench.failed) == [first.name] and "KeyError" in bench.failed[first.name].what


def test_tables_hold_every_row_once() -> None:
    def row(name: str, ours: float, theirs: float | None, unit: str) -> dict[str, Any]:
        ratio = None if theirs is None else theirs / ours
        label = "MinkowskiEngine 0.5.4"
        return {"name": name, "rival": label, "ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "voxels": 9}

    rows = [
        row("step MinkUNet18 0.05m b1", 2.0, 8.0, "s"),
        row("op conv3 64ch stride4 forward", 2.0, 3.0, "ms"),
        row("op conv3 64ch stride4 forward+backward", 4.0, None, "ms"),
    ]
    lines = sparse_report.markdown(rows, {"command": "ssl3d bench sparse"}).splitlines()
    assert "| step MinkUNet18 0.05m b1 | 9 | 2 s | 8 s | 4.00 | MinkowskiEngine 0.5.4 |" in lines
    assert "| conv3 | 64 | 4 | 9 | 2 | 1.50 | 4 | - |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables[:3]} == {7} and {line.count("|") for line in tables[3:]} == {9}


# ---------------------------------------------------------------- inputs


def test_generated_scans_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def scan(number: int) -> np.ndarray:
        made.append(number)
        return cloud(number)

    monkeypatch.setattr(sparse_scans, "street_scan", scan)
    first = sparse_scans.street_scans(tmp_path, 2)
    again = sparse_scans.street_scans(tmp_path, 2)
    assert made == [0, 1] and all((a == b).all() for a, b in zip(first, again, strict=True))


def test_recordings_are_found_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "sequences" / "00" / "velodyne"
    folder.mkdir(parents=True)
    for number in range(6):
        cloud(number, 10 + number).tofile(folder / f"{number:06d}.bin")
    (tmp_path / "other.bin").write_bytes(b"123")
    assert [len(found) for found in real_scans(tmp_path, 4)] == [10, 12, 13, 15]
    assert len(real_scans(folder / "000001.bin", 4)) == 1
    with pytest.raises(DataError):
        real_scans(tmp_path / "other.bin", 1)
    with pytest.raises(UsageError):
        real_scans(tmp_path / "nothing", 1)


def test_voxels_are_those_of_the_backbone(voxels: Voxels) -> None:
    with np.load(voxels.batch("", 0.4, 2)) as arrays:
        coordinates, labels = arrays["coordinates"], arrays["labels"]
    points = np.concatenate(
        [np.c_[np.full(len(c), b), np.floor(c[:, :3] / 0.4)] for b, c in enumerate(voxels.scans[""])]
    )
    assert {tuple(row) for row in coordinates} == {tuple(row) for row in points.astype(int)}
    assert coordinates.dtype == np.int32 and labels.min() >= 0 and labels.max() < sparse_scans.CLASSES
    assert len(np.unique(labels)) > 3
