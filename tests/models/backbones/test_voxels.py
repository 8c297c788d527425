from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.voxels import VoxelInputSpec, point_feature

MakeView = Callable[..., View]


def test_voxels_of_a_batch(make_view: MakeView) -> None:
    views = [make_view(0, 300), make_view(1, 200, 1)]
    spec = pickle.loads(pickle.dumps(VoxelInputSpec(0.5, clip=((-8, 8), (-8, 8), (-5, 5)))))
    inputs = spec.prepare(views)
    assert inputs.coordinates.dtype == torch.int32 and inputs.features.dtype == torch.float32
    assert inputs.view_offsets.tolist() == [0, 300, 500]
    points = np.concatenate([v.points for v in views])
    row = inputs.elements.point_to_element.numpy()
    inside = (np.abs(points[:, :2]) <= 8).all(1)
    assert np.array_equal(row >= 0, inside) and not inside.all()
    expected = np.floor(points.astype(np.float64) / 0.5)[inside]
    coordinates = inputs.coordinates[row[inside]].numpy()
    assert np.array_equal(coordinates[:, 1:], expected)
    assert np.array_equal(coordinates[:, 0], np.repeat([0, 1], [300, 200])[inside])
    assert inputs.features.shape == (len(inputs.coordinates), 4)
    for m in (0, len(inputs.coordinates) - 1):
        np.testing.assert_allclose(inputs.features[m, :3], points[row == m].mean(0), rtol=1e-5)
    intensity = np.concatenate([v.features["intensity"] for v in views])
    np.testing.assert_allclose(inputs.features[0, 3], intensity[row == 0].mean(), rtol=1e-5)
    target = spec.labels(inputs, inputs.label)
    assert target.shape == (len(inputs.coordinates),) and target.dtype == torch.int64
    hidden = spec.labels(inputs, torch.full_like(inputs.label, IGNORE))
    assert hidden.unique().tolist() == [IGNORE]


def test_batches_are_picklable_and_share_their_maps(make_view: MakeView) -> None:
    inputs = pickle.loads(pickle.dumps(VoxelInputSpec(0.5).prepare([make_view()])))
    assert inputs.sites() is inputs.sites()
    assert inputs.to("cpu").sites() is inputs.sites()
    assert inputs.to("meta").coordinates.device.type == "meta"


def test_bad_views(make_view: MakeView) -> None:
    view = make_view(0, 10)
    with pytest.raises(DataError, match="'color'"):
        VoxelInputSpec(0.5, ("xyz", "color")).prepare([view])
    with pytest.raises(ValueError, match="no view of this batch has a point within"):
        VoxelInputSpec(0.5, clip=((50, 60), (0, 1), (0, 1))).prepare([view])
    empty = view.select(np.zeros(10, bool))
    with pytest.raises(ValueError, match="has a point"):
        VoxelInputSpec(0.5).prepare([empty])
    both = VoxelInputSpec(0.5).prepare([empty, view])  # an empty cloud beside another is no error
    assert both.coordinates[:, 0].unique().tolist() == [1]


def test_points_that_are_not_finite_belong_to_no_voxel(make_view: MakeView) -> None:
    view = make_view(0, 10)
    broken = view.points.copy()
    broken[3, 1] = np.nan
    inputs = VoxelInputSpec(0.5).prepare([replace(view, points=broken)])
    assert (inputs.elements.point_to_element < 0).nonzero().flatten().tolist() == [3]
    assert bool(inputs.features.isfinite().all())


def test_features_as_the_network_reads_them(make_view: MakeView) -> None:
    first, second = make_view(0, 40), make_view(1, 30)
    views = []
    for view, add in ((first, 100.0), (second, -50.0)):
        color = np.tile(np.float32([0, 0.5, 1]), (len(view), 1))
        moved = view.moved(view.points + np.float32([add, 0, 0]))
        views.append(replace(moved, features={**view.features, "color": color}))
    spec = VoxelInputSpec(1e-3, ("color", "xyz_from_min", "xyz_from_mean", "intensity"))  # each point its own voxel
    inputs = spec.prepare(views)
    at_points = inputs.elements.gather(inputs.features).numpy()
    assert np.array_equal(at_points[:, :3], np.tile(np.float32([-1, 0, 1]), (70, 1)))
    for view, rows in zip(views, np.split(at_points, [40]), strict=True):
        np.testing.assert_allclose(rows[:, 3:6], view.points - view.points.min(0), atol=1e-4)
        assert np.array_equal(rows[:, 3:6].min(0), [0, 0, 0])
        np.testing.assert_allclose(rows[:, 6:9], view.points - view.points.mean(0), atol=1e-4)
        assert np.array_equal(rows[:, 9:], view.features["intensity"])


def test_points_that_are_not_finite_shift_nothing(make_view: MakeView) -> None:
    view = make_view(0, 10)
    broken = view.points.copy()
    broken[3] = [np.nan, -1e6, np.inf]
    kept = np.arange(10) != 3
    for name in ("xyz_from_min", "xyz_from_mean"):
        expected = point_feature([view.select(kept)], name)
        assert np.array_equal(point_feature([replace(view, points=broken)], name)[kept], expected)
    nothing = replace(view, points=np.full_like(broken, np.nan))
    assert point_feature([nothing, view.select(np.zeros(10, bool))], "xyz_from_mean").shape == (10, 3)


def test_views_without_a_voxel_count(make_view: MakeView) -> None:
    """Also the last one of a batch, which no coordinate names."""
    spec = VoxelInputSpec(0.5, clip=((-12, 12), (-12, 12), (-5, 5)))
    views = [make_view(0, 300), replace(make_view(1, 200), points=make_view(1, 200).points + np.float32(100))]
    for given, batch_size in ((views, 2), (views[::-1], 2), (views[:1], 1)):
        manager, key = spec.prepare(given).sites()
        assert manager.batch_size(key) == batch_size
