"""The stage ``density``: its product, what methods read of it, its cache, threads and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import UsageError
from ssl3d.data.geometry.density import neighbor_counts
from ssl3d.data.store import ShardReader
from ssl3d.pipeline.dataset import Places, PreparedDataset
from ssl3d.pipeline.stage_run import StageRun
from ssl3d.pipeline.stages.density import DensityStage, summarize_density
from ssl3d.pipeline.stages.per_scan import run_on, stage_params
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.training.extras import stage_extras, with_extras
from ssl3d.pipeline.workspace import Workspace


def density(workspace: Workspace, *overrides: str, jobs: int = 1) -> StageRun:
    return run_on(workspace, lambda dataset: DensityStage.of(dataset, overrides), jobs=jobs)


def test_methods_find_counts_and_their_range_in_the_view(made: Workspace) -> None:
    density(made, "density.radius=20")
    dataset = PreparedDataset(made.dataset())
    keys, extras = stage_extras(made.dataset(), ["density"], Places.of(dataset.scans))
    assert list(keys) == ["density"]
    for scan in dataset.scans:
        view = with_extras(dataset.source(), extras).view(scan.index)
        counts = view.extras["geom_count"]
        assert counts.dtype == np.int32
        assert counts.tolist() == neighbor_counts(view.points, 20).tolist()
        seen = counts[counts > 0]
        assert (int(view.scan["geom_min"]), int(view.scan["geom_max"])) == (
            seen.min(),
            seen.max(),
        ) and seen.max() > seen.min()


def test_the_product_says_how_it_was_made(made: Workspace) -> None:
    run = density(made, "density.radius=0.25")
    file = sorted(run.product.folder.glob("*.density.h5"))[0]
    assert ShardReader(file).attrs == {"radius": 0.25, "source": "stored points"}
    assert run.product.manifest.about["command"] == "ssl3d density --set radius=0.25"
    assert density(made, "radius=0.25").fresh == []


def test_another_radius_is_another_product_and_the_first_stays(made: Workspace) -> None:
    first = density(made)
    second = density(made, "density.radius=0.3")
    assert second.product.key != first.product.key and len(second.fresh) == len(first.fresh)
    again = density(made)
    assert again.product.key == first.product.key and not again.fresh


def test_workers_and_threads_change_no_byte(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(run: StageRun) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in run.product.folder.glob("*.h5")}
        for entry in run.product.done.values():
            for name in entry.files:
                (run.product.folder / name).unlink()
        return found

    alone = files(density(made))
    threads = files(density(made, jobs=4))
    monkeypatch.setattr(DensityStage, "worker_bytes", 0)
    assert alone == threads == files(density(made, jobs=2))


def test_units_of_one_scan_side_by_side_change_no_byte(workspace: Workspace, make_kitti: Any, tmp_path: Path) -> None:
    root = make_kitti(tmp_path / "one-by-one", dict.fromkeys(("00", "01", "02", "08", "11"), 1), points=3000)
    prepare(workspace, "semantickitti", root)
    alone = density(workspace, "density.radius=4").product
    kept = {path.name: path.read_bytes() for path in alone.folder.glob("*.h5")}
    for name in kept:
        (alone.folder / name).unlink()
    again = density(workspace, "density.radius=4", jobs=3)
    assert len(kept) == 5 and len(again.rebuilt) == 5
    assert kept == {path.name: path.read_bytes() for path in again.product.folder.glob("*.h5")}


def test_a_changed_scan_is_counted_again(made: Workspace, kitti: Path) -> None:
    density(made)
    cloud = sorted(kitti.rglob("*.bin"))[0]
    points = np.fromfile(cloud, "<f4")
    points[0] += 1
    cloud.unlink()
    points.tofile(cloud)
    prepare(made, "semantickitti", kitti)
    assert len(density(made).fresh) == 1


def test_the_summary_comes_from_the_journal(made: Workspace) -> None:
    run = density(made)
    dataset = PreparedDataset(made.dataset())
    summary = summarize_density(run.product, {scan.unit: scan.subset for scan in dataset.scans})
    assert {row[0] for row in summary.rows} == {scan.subset for scan in dataset.scans}
    assert sum(row[1] for row in summary.rows) == len(dataset.scans)
    for _, _, points, quantiles in summary.rows:
        assert points > 0 and list(quantiles) == sorted(quantiles)


@pytest.mark.parametrize(
    ("override", "message"), [("radios=1", "radius"), ("radius=0", "greater than 0"), ("radius=nan", "number")]
)
def test_wrong_parameters(made: Workspace, override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        density(made, override)
    assert message in f"{caught.value} {caught.value.hint}"


def test_each_dataset_has_its_radius() -> None:
    from ssl3d.data.spec import load_spec
    from ssl3d.pipeline.stages.density import DensityParams

    usual: dict[str, Any] = {"semantickitti": 0.5, "nuscenes": 1.0, "s3dis": 0.1, "scannet": 0.1}
    for name, radius in usual.items():
        assert stage_params("density", DensityParams, load_spec(name)).radius == radius
