from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssl3d.data.errors import UsageError
from ssl3d.models.config import Params
from ssl3d.pipeline import graph
from ssl3d.pipeline.clean import clean
from ssl3d.pipeline.graph import StageStatus, graph_status
from ssl3d.pipeline.stage import Stage
from ssl3d.pipeline.stages.prepare import PrepareParams, PrepareStage, prepare
from ssl3d.pipeline.stages.split import SplitParams, SplitStage, split
from ssl3d.pipeline.workspace import Workspace


def states(workspace: Workspace) -> dict[str, StageStatus]:
    return {status.name: status for status in graph_status(workspace)}


def test_an_empty_workspace_has_no_stages(workspace: Workspace) -> None:
    assert graph_status(workspace.ensure()) == []


def test_what_is_there_is_counted(made: Workspace) -> None:
    found = states(made)
    assert list(found) == list(graph.STAGES)
    for status in (found["prepare"], found["split"]):
        assert (status.state, status.why) == ("cached", "") and status.units_done == status.units_total > 0
    product = made.dataset().product("prepare")
    assert product is not None
    files = [path.stat().st_size for path in product.folder.glob("*.h5")]
    assert found["prepare"].bytes == sum(files) and found["prepare"].seconds > 0


def test_a_stage_that_was_never_run_says_what_to_type(workspace: Workspace, kitti_once: Path) -> None:
    prepare(workspace, "semantickitti", kitti_once)
    status = states(workspace)["split"]
    assert status.state == "missing" and "ssl3d split" in status.why


def test_other_parameters_upstream_make_stale(made: Workspace, kitti: Path) -> None:
    prepare(made, "semantickitti", kitti, PrepareParams(classes="multiscan"))
    found = states(made)
    assert found["prepare"].state == "cached" and found["prepare"].also == 1
    assert found["split"].state == "stale" and "'prepare' has other parameters" in found["split"].why


def test_another_version_makes_stale(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitStage, "version", SplitStage.version + 1)
    status = states(made)["split"]
    assert status.state == "stale" and "the stage changed" in status.why


def test_a_changed_source_folder_is_seen_and_then_the_units_downstream(made: Workspace, kitti: Path) -> None:
    label = kitti / "sequences/00/labels/000001.label"
    data = bytearray(label.read_bytes())
    data[:4] = (40).to_bytes(4, "little")
    label.unlink()
    label.write_bytes(data)
    found = states(made)
    assert found["prepare"].state == "stale" and str(label.parent) in found["prepare"].why
    assert found["split"].state == "stale" and "prepare" in found["split"].why
    assert prepare(made, "semantickitti", kitti).fresh == 1
    found = states(made)
    assert found["prepare"].state == "cached"
    assert found["split"].state == "stale" and "new or changed units" in found["split"].why
    split(made, SplitParams(ratio="30%"))
    assert states(made)["split"].state == "cached"


def test_a_dataset_that_is_not_mounted_is_no_change(made: Workspace, kitti: Path) -> None:
    shutil.rmtree(kitti)
    assert states(made)["prepare"].state == "cached"


def test_interrupted_and_damaged_work(made: Workspace, kitti: Path) -> None:
    handle = made.dataset()
    prepared, chosen = handle.product("prepare"), handle.product("split")
    assert prepared is not None and chosen is not None
    next(chosen.folder.glob("*.h5")).write_bytes(b"")
    status = states(made)["split"]
    assert status.state == "damaged" and "ssl3d split --ratio 30% --seed 0" in status.why
    (chosen.folder / "split.json").unlink()
    replace(prepared.manifest, complete=False).write(prepared.folder)
    journal = prepared.folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    status = states(made)["prepare"]
    assert status.state == "partial" and "3 of 4 units" in status.why
    assert status.why.endswith(f"ssl3d prepare semantickitti --root {kitti}")


def test_a_missing_summary_is_damage(made: Workspace) -> None:
    next(made.root.rglob("split.json")).unlink()
    status = states(made)["split"]
    assert status.state == "damaged" and "split.json" in status.why


def test_copied_workspaces_wait_for_a_check(made: Workspace, kitti: Path) -> None:
    for path in made.root.rglob("*.points.h5"):
        os.utime(path, ns=(0, 0))
    status = states(made)["prepare"]
    assert status.state == "cached" and "4 units have new file times" in status.why
    assert prepare(made, "semantickitti", kitti).fresh == 0
    assert states(made)["prepare"].why == ""


WATCH = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from ssl3d.pipeline.graph import graph_status
from ssl3d.pipeline.workspace import Workspace
assert len(graph_status(Workspace.open(sys.argv[1], create=False))) >= 2
assert not {"torch", "numba", "scipy", "matplotlib", "h5py", "numpy"} & set(sys.modules)
assert not [name for name in opened if name.endswith((".h5", ".bin", ".label"))]
"""


def test_status_opens_no_shard_and_imports_nothing_heavy(made: Workspace) -> None:
    subprocess.run([sys.executable, "-c", WATCH, str(made.root)], check=True)


def test_status_does_not_wait(made: Workspace) -> None:
    with made.lock("data-semantickitti"), made.lock("workspace"):
        assert states(made)["prepare"].state == "cached"


def test_later_stages_register_in_order_of_work(monkeypatch: pytest.MonkeyPatch, made: Workspace) -> None:
    class Gravity(Stage):
        name = "gravity"
        version = 1
        needs = ("prepare",)
        command = "ssl3d gravity"
        units = PrepareStage.units
        run = PrepareStage.run

    monkeypatch.setattr(graph, "STAGES", dict(graph.STAGES))
    graph.register(Gravity)
    assert states(made)["gravity"].why == "type: ssl3d gravity"
    with pytest.raises(ValueError, match="there already"):
        graph.register(Gravity)
    Gravity.needs = ("regions",)  # type: ignore[assignment]
    Gravity.name = "other"
    with pytest.raises(ValueError, match="regions"):
        graph.register(Gravity)
    assert Gravity(Params()).identity({}) == {}


def test_clean_removes_what_no_command_would_use(made: Workspace, kitti: Path) -> None:
    other = split(made, SplitParams(ratio="50%"))
    assert clean(made) == []  # both splits fit the prepared scans
    prepare(made, "semantickitti", kitti, PrepareParams(classes="multiscan"))
    kept = made.dataset().product("prepare")
    assert kept is not None
    (kept.folder / ".tmp-1-x").mkdir()
    listed = clean(made, dry_run=True)
    assert other.folder.exists() and len(listed) == 4  # a prepared product, two splits, one leftover
    assert clean(made) == listed
    assert not other.folder.exists() and kept.folder.exists() and not any(path.exists() for path, _ in listed)
    assert sum(size for _, size in listed) > 1000
    found = states(made)
    assert (found["prepare"].state, found["split"].state) == ("cached", "missing")


def test_clean_a_stage_and_everything(made: Workspace, kitti: Path) -> None:
    (made.runs_dir / "a").mkdir(parents=True)
    assert [path.name for path, _ in clean(made, what="runs")] == ["a"]
    assert len(clean(made, what="prepare")) == 1
    found = states(made)
    assert (found["prepare"].state, found["split"].state) == ("missing", "stale")
    clean(made, what="all")
    assert graph_status(made) == [] and made.current is None
    assert prepare(made, "semantickitti", kitti).fresh == 4


def test_clean_of_something_unknown_names_what_there_is(made: Workspace) -> None:
    with pytest.raises(UsageError) as caught:
        clean(made, what="splits")
    assert "split" in str(caught.value.hint)


def test_a_second_dataset_stands_beside_the_first(made: Workspace, kitti_once: Path, heard: Any) -> None:
    prepare(made, "semantickitti", kitti_once, name="another", progress=heard)
    assert [(status.dataset, status.name) for status in graph_status(made)] == [
        (dataset, stage) for dataset in ("another", "semantickitti") for stage in graph.STAGES
    ]


def test_the_command_that_makes_a_product_again_is_known(
    workspace: Workspace, kitti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = kitti.rename(tmp_path / "my kitti")
    prepare(workspace, "semantickitti", root, PrepareParams(classes="multiscan", allow_partial=True), name="mine")
    split(workspace, SplitParams(ratio="0.5", seed=3, transductive=True))
    for stage in (PrepareStage, SplitStage):
        monkeypatch.setattr(stage, "version", stage.version + 1)
    found = states(workspace)
    options = "--classes multiscan --name mine --allow-partial"
    assert found["prepare"].why.endswith(f"type: ssl3d prepare semantickitti --root '{root}' {options}")
    assert found["split"].why.endswith("type: ssl3d split --ratio 50% --seed 3 --transductive --dataset mine")
