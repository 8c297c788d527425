"""A small dataset whose classes can be learnt, and a plug-in package with a quick backbone."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.models.config import Params
from ssl3d.pipeline.stage import Unit, UnitInputs
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.per_scan import ScanStage, run_on, write_lists, write_points
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import Workspace

FRAMES = {"00": 6, "01": 4, "08": 2}
ENTRY_POINTS = """\
[ssl3d.backbones]
pointwise = ssl3d_test_pointwise:Pointwise
test-pixels = ssl3d_test_kinds:Pixels
test-crops = ssl3d_test_kinds:Crops

[ssl3d.methods]
twophase = ssl3d_test_pointwise:TwoPhase
mixed = ssl3d_test_pairs:Mixed
crops = ssl3d_test_pairs:Crops
regional = ssl3d_test_pairs:Regions
two = ssl3d_test_pairs:Two
parts = ssl3d_test_phases:Parts
several = ssl3d_test_phases:Several
staged = ssl3d_test_phases:Staged
nothing = ssl3d_test_phases:Nothing
rounds = ssl3d_test_phases:Rounds
remembering = ssl3d_test_state:Remembering
measuring = ssl3d_test_state:Measuring
grouped = ssl3d_test_instances:Grouped
"""


@pytest.fixture(scope="session", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Installs the plug-in for this process and its children; the value is its PYTHONPATH."""
    info = tmp_path_factory.mktemp("site") / "ssl3d_test_pointwise-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ssl3d-test-pointwise\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    added = [str(Path(__file__).parent / "plugin"), str(info.parent)]
    before, path = os.environ.get("PYTHONPATH"), list(sys.path)
    sys.path[:0] = added
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *([before] if before else [])])
    yield os.environ["PYTHONPATH"]
    sys.path[:] = path
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _write_layers(root: Path, points: int = 400, seed: int = 0) -> Path:
    """SemanticKITTI's layout; the class of a point is the layer of height that it lies in."""
    rng = np.random.default_rng(seed)
    raw = np.array([40, 10, 50, 70], np.uint32)
    for sequence, frames in FRAMES.items():
        folder = root / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        (folder / "labels").mkdir()
        for frame in range(frames):
            scan = rng.uniform(-20, 20, (points, 4)).astype("<f4")
            layer = rng.integers(0, len(raw), points)
            scan[:, 2] = 3 * layer + rng.uniform(0, 1, points)
            scan[:, 3] = rng.uniform(0, 1, points)
            scan.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            raw[layer].astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
        (folder / "calib.txt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n")
        (folder / "poses.txt").write_text("".join(f"1 0 0 {i} 0 1 0 0 0 0 1 0\n" for i in range(frames)))
    manifest = {"complete": True, "scans_per_sequence": FRAMES}
    (root / "ssl3d_synth.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture(scope="session")
def write_layers() -> Callable[..., Path]:
    """``write_layers(root, points=400)``: SemanticKITTI's layout, as ``prepared`` has it."""
    return _write_layers


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace folder of a prepared and split dataset: 3 labelled scans, 7 unlabelled ones."""
    root = _write_layers(tmp_path_factory.mktemp("layers"))
    space = Workspace.open(tmp_path_factory.mktemp("prepared") / "ws")
    prepare(space, "semantickitti", root, PrepareParams(), jobs=1)
    split(space, SplitParams(ratio="30%"))
    return space.root


@pytest.fixture
def space(prepared: Path, tmp_path: Path) -> Workspace:
    """A workspace of one's own with that dataset (shards are shared, they are never written; ``own`` has its own)."""
    root = tmp_path / "ws"
    root.mkdir()
    for name in ("workspace.json", ".gitignore"):
        (root / name).write_bytes((prepared / name).read_bytes())
    (root / "data").symlink_to(prepared / "data")
    return Workspace.open(root)


@pytest.fixture
def own(prepared: Path, tmp_path: Path) -> Workspace:
    """A workspace with shards of one's own, to be changed."""
    shutil.copytree(prepared, tmp_path / "own", ignore=shutil.ignore_patterns("runs"))
    return Workspace.open(tmp_path / "own")


class CubesParams(Params):
    size: float = 10.0


class Cubes(ScanStage):
    """Regions as ``oversegment`` stores them: cubes, of which those are adjacent whose numbers follow each other."""

    name = "oversegment"
    version = 1
    command = "ssl3d oversegment"
    kind = "regions"
    Params = CubesParams

    @staticmethod
    def run(unit: Unit, params: Any, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        shard = inputs.shard("prepare", "points")
        regions, pairs = [], []
        for position in range(len(shard)):
            cells = np.floor(shard.read("points", position) / params.size)
            ids = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
            ids[:5] = -1
            count = int(ids.max(initial=-1)) + 1
            regions.append({"region_id": ids})
            first = np.arange(max(0, count - 1), dtype=np.int32)
            pairs.append({"region_adj": np.stack([first, first + 1], axis=1)})
        write_points(out / f"{unit.id}.regions.h5", shard, regions, {})
        write_lists(out / f"{unit.id}.adjacency.h5", pairs, {})
        return {}


@pytest.fixture
def cubes() -> Callable[..., StageRun]:
    """``cubes(space, size=10.0)``: the product of a stage ``oversegment`` whose regions are simple."""

    def make(space: Workspace, size: float = 10.0) -> StageRun:
        return run_on(space, lambda data: Cubes(CubesParams(size=size), data))

    return make
