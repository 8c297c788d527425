"""The stage ``subsample``: thinned scans as views, and the projection that methods read."""

from __future__ import annotations

import numpy as np

from ssl3d.data.geometry.neighbors import nearest_in
from ssl3d.data.geometry.subsample import grid_subsample
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import Places, PreparedDataset
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.subsample import SubsampleStage, thinned_tree, thinned_view
from ssl3d.pipeline.training.extras import stage_extras, with_extras
from ssl3d.pipeline.workspace import Workspace


def test_a_thinned_scan_and_the_way_back(made: Workspace) -> None:
    product = run_on(made, lambda dataset: SubsampleStage.of(dataset, ["subsample.grid=20"])).product
    dataset = PreparedDataset(made.dataset())
    _, extras = stage_extras(made.dataset(), ["subsample"], Places.of(dataset.scans))
    whole = with_extras(dataset.source(), extras)
    thinned = 0
    for scan in dataset.scans:
        view, small = whole.view(scan.index), thinned_view(product, scan)
        expected = grid_subsample(view.points, 20)
        assert small.points.tolist() == expected.points.tolist()
        assert view.extras["cell"].tolist() == expected.cell.tolist()
        assert view.extras["nearest"].tolist() == expected.nearest.tolist()
        assert (small.rows[:, 0] == scan.index).all() and small.rows[:, 1].tolist() == expected.row.tolist()
        np.testing.assert_allclose(small.features["intensity"], expected.mean(view.features["intensity"]))
        assert (small.label == IGNORE).all()
        nearest, distance = nearest_in(thinned_tree(product, scan), view.points, 1)
        assert nearest[:, 0].tolist() == view.extras["nearest"].tolist() and np.isfinite(distance).all()
        thinned += len(view) - len(small)
    assert thinned > 0


def test_the_second_run_does_nothing(made: Workspace) -> None:
    first = run_on(made, SubsampleStage.of)
    assert first.fresh and not run_on(made, SubsampleStage.of, jobs=2).fresh
