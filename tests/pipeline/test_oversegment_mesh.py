"""``oversegment`` on meshes: ScanNet's layout, one generated scene and one without annotation."""

from __future__ import annotations

import numpy as np
import pytest

from ssl3d.data.geometry.region_growing import relabel
from ssl3d.data.store import ShardReader
from ssl3d.data.synthetic.rooms.presets import PRESETS, scannet_places
from ssl3d.data.synthetic.rooms.scannet import write_scene
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.oversegment import OversegmentStage
from ssl3d.pipeline.stages.oversegment_report import advice, summarize_sizes
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.stages.regions import Mesh, cut
from ssl3d.pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("rooms")
    places = scannet_places(PRESETS["tiny"])
    for subset in ("train", "test"):
        name = next(place.name for place in places if place.subset == subset)
        write_scene(folder / "scannet", "tiny", 0, name)
    workspace = Workspace.open(folder / "workspace")
    prepare(workspace, "scannet", folder / "scannet", PrepareParams(allow_partial=True))
    return workspace


def oversegment(workspace: Workspace, *overrides: str) -> StageRun:
    return run_on(workspace, lambda dataset: OversegmentStage.of(dataset, overrides))


def test_segments_that_were_shipped(scenes: Workspace) -> None:
    run = oversegment(scenes, "algorithm=shipped")
    dataset = PreparedDataset(scenes.dataset())
    for scan in dataset.scans:
        given = ShardReader(dataset.product.folder / f"{scan.unit}.points.h5").read("segment", scan.position)
        region = ShardReader(run.product.folder / f"{scan.unit}.regions.h5").read("region_id", scan.position)
        assert region.tolist() == relabel(given).tolist()
        assert (region.max() > 20) == (scan.subset == "train")
    hint = advice(summarize_sizes(run.product, dataset), run.product.manifest.params)
    assert "most points of test have no region" in str(hint)


def test_the_mesh_is_read_where_it_is_asked_for(scenes: Workspace) -> None:
    on_mesh = oversegment(scenes, "algorithm=felzenszwalb")
    on_graph = oversegment(scenes, "algorithm=felzenszwalb", "mesh=false")
    dataset = PreparedDataset(scenes.dataset())
    for scan in dataset.scans:
        points, edges = (ShardReader(dataset.product.folder / f"{scan.unit}.{kind}.h5") for kind in ("points", "edges"))
        mesh = Mesh(edges.read("edge", scan.position), points.read("normal", scan.position))
        for run, given in ((on_mesh, mesh), (on_graph, None)):
            params = OversegmentStage.Params(**run.product.manifest.params)
            expected = cut(points.read("points", scan.position), params, mesh=given)
            read = ShardReader(run.product.folder / f"{scan.unit}.regions.h5").read("region_id", scan.position)
            assert read.tolist() == expected.region.tolist() and 10 < expected.region.max() < 2000
    assert OversegmentStage.of(dataset, ["algorithm=felzenszwalb"]).reads == {"prepare": ("points", "edges")}
    assert OversegmentStage.of(dataset).reads == {"prepare": ("points", "edges")}  # ScanNet's default
    grown = OversegmentStage.of(dataset, ["algorithm=region-growing"])
    assert grown.reads == {"prepare": ("points",)}
    assert np.all([unit.work is False for unit in grown.units({})])
