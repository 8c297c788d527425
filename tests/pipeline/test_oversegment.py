"""The stage ``oversegment``: its products, what methods read of them, its cache, threads, workers and report."""

from __future__ import annotations

import builtins
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import UsageError
from ssl3d.data.geometry.region_quality import count_pure
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader
from ssl3d.pipeline.dataset import Places, PreparedDataset
from ssl3d.pipeline.progress import Silent
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.oversegment import OversegmentParams, OversegmentStage
from ssl3d.pipeline.stages.oversegment_report import advice, summarize_sizes, visible_quality
from ssl3d.pipeline.stages.per_scan import run_on, stage_params
from ssl3d.pipeline.stages.regions import cut
from ssl3d.pipeline.training.extras import stage_extras, with_extras
from ssl3d.pipeline.workspace import Workspace


def oversegment(workspace: Workspace, *overrides: str, jobs: int = 1) -> StageRun:
    return run_on(workspace, lambda dataset: OversegmentStage.of(dataset, overrides), jobs=jobs)


def test_methods_find_regions_in_the_view(made: Workspace) -> None:
    run = oversegment(made, "reach=20", "extent=none", "smallest=1", "adjacency_reach=30")
    dataset = PreparedDataset(made.dataset())
    _, extras = stage_extras(made.dataset(), ["oversegment"], Places.of(dataset.scans))
    params = OversegmentParams(**run.product.manifest.params)
    for scan in dataset.scans:
        view = with_extras(dataset.source(), extras).view(scan.index)
        expected = cut(view.points, params)
        assert view.extras["region_id"].tolist() == expected.region.tolist()
        assert view.extras["normal"].shape == (len(view), 3) and view.extras["curvature"].dtype == np.float16
        assert len(expected.adjacent) > 1 and view.scan["region_adj"].tolist() == expected.adjacent.tolist()


def test_the_product_says_how_it_was_made(made: Workspace) -> None:
    run = oversegment(made, "oversegment.angle=12", "max_range=none")
    for kind in ("regions", "adjacency"):
        attrs = ShardReader(sorted(run.product.folder.glob(f"*.{kind}.h5"))[0]).attrs
        assert attrs["angle"] == 12 and attrs["max_range"] == "none" and attrs["algorithm"] == "region-growing"
    assert run.product.manifest.about["command"] == "ssl3d oversegment --set max_range=None --set angle=12.0"
    assert oversegment(made, "angle=12", "max_range=None").fresh == []
    assert oversegment(made, "algorithm=felzenszwalb").product.key != run.product.key


def test_workers_and_threads_change_no_byte(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(run: StageRun) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in run.product.folder.glob("*.h5")}
        for entry in run.product.done.values():
            for name in entry.files:
                (run.product.folder / name).unlink()
        return found

    alone = files(oversegment(made))
    threads = files(oversegment(made, jobs=4))
    monkeypatch.setattr(OversegmentStage, "worker_bytes", 0)
    assert alone == threads == files(oversegment(made, jobs=2))


def test_the_stage_opens_no_labels(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for module, name in ((builtins, "open"), (os, "open")):
        real = getattr(module, name)

        def watched(path: Any, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            opened.append(str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    oversegment(made)
    assert any("points.h5" in path for path in opened)
    assert not [path for path in opened if "labels.h5" in path or "visible.h5" in path]


def test_quality_is_measured_on_visible_labels_only(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = oversegment(made, "reach=20", "smallest=1", "adjacency_reach=30")
    dataset = PreparedDataset(made.dataset())
    monkeypatch.setattr(PreparedDataset, "truth", None)
    found = visible_quality(dataset, run.product, progress=Silent())
    assert found is not None and found.scans == found.labelled == len(dataset.visible().labelled)
    good = known = 0
    source = dataset.visible()
    for index in source.labelled:
        scan = dataset.scans[index]
        region = ShardReader(run.product.folder / f"{scan.unit}.regions.h5").read("region_id", scan.position)
        a, b = count_pure(region, source.label(int(index)))
        good, known = good + a, known + b
    assert found.points == known and found.purity == good / known and 0 <= found.recall <= 1 and found.edges > 0


def test_quality_of_a_scan_that_the_split_cuts(made: Workspace) -> None:
    from ssl3d.pipeline.stages.split import SplitParams, split

    split(made, SplitParams(ratio="30%", protocol="limited"))
    dataset = PreparedDataset(made.dataset())
    source = dataset.visible()
    assert source.labelled.max() >= len(dataset.scans)  # a part
    run = oversegment(made, "reach=20", "smallest=1")
    found = visible_quality(dataset, run.product, progress=Silent())
    known = sum(int((source.view(int(index)).label != 255).sum()) for index in source.labelled)
    assert found is not None and found.scans == len(source.labelled) and 0 < found.points <= known


def test_quality_needs_a_split(workspace: Workspace, kitti: Path) -> None:
    from ssl3d.pipeline.stages.prepare import prepare

    prepare(workspace, "semantickitti", kitti)
    run = oversegment(workspace)
    assert visible_quality(PreparedDataset(workspace.dataset()), run.product, progress=Silent()) is None


def test_sizes_come_from_the_journal(made: Workspace) -> None:
    run = oversegment(made, "reach=20", "max_range=30", "smallest=1")
    dataset = PreparedDataset(made.dataset())
    rows = summarize_sizes(run.product, dataset)
    assert {row.subset for row in rows} == {scan.subset for scan in dataset.scans}
    assert sum(row.scans for row in rows) == len(dataset.scans)
    for row in rows:
        assert row.least <= row.regions <= row.most and row.smallest <= row.median <= row.largest
        assert 0 < row.without < 1
    params = run.product.manifest.params
    assert "larger reach" in str(advice(rows, params)) and "reach=100" in str(advice(rows, params))
    grown = [replace(row, largest=500.0) for row in rows]
    assert advice(grown, params) is None
    assert "smaller angle" in str(advice([replace(row, regions=1.0) for row in grown], params))
    assert advice([], params) == "no point has a region"
    assert "without segments" in str(advice([replace(rows[0], without=1.0)], {**params, "algorithm": "shipped"}))


def test_only_scannet_ships_segments(made: Workspace) -> None:
    with pytest.raises(UsageError, match="came without segments"):
        oversegment(made, "algorithm=shipped")


@pytest.mark.parametrize(
    ("override", "message"), [("angel=1", "angle"), ("reach=0", "greater than 0"), ("algorithm=fast", "felzenszwalb")]
)
def test_wrong_parameters(made: Workspace, override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        oversegment(made, override)
    assert message in f"{caught.value} {caught.value.hint}"


def test_each_dataset_has_its_parameters() -> None:
    def of(name: str) -> OversegmentParams:
        found = stage_params("oversegment", OversegmentParams, load_spec(name))
        assert isinstance(found, OversegmentParams)
        return found

    for name in ("semantickitti", "semanticposs", "nuscenes"):
        assert (of(name).neighborhood, of(name).voxel, of(name).max_range) == ("sensor", None, 51.2)
    assert (of("scannet").neighborhood, of("scannet").voxel, of("scannet").adjacency_reach) == ("metric", 0.02, 0.06)
    assert of("semantic3d").voxel == 0.1
