"""Cylindrical cells, the features of their points, labels. Worked numbers: computed with the public codes' formulas."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import NoElementsError
from ssl3d.models.backbones.cylinder import (
    CylinderGrid,
    CylinderInputSpec,
    IgnoredVote,
    PointEncoder,
    cylindrical,
)
from ssl3d.models.elements import ElementMap
from ssl3d.models.sparse import SparseTensorError
from ssl3d.pipeline.evaluation.confusion import Confusion

MakeView = Callable[..., View]
Point = tuple[float, float, float]

KITTI = CylinderGrid((480, 360, 32))
NUSCENES = CylinderGrid((480, 360, 32), z=(-5.0, 3.0))
LASERMIX = CylinderGrid((240, 180, 20))
COARSE = CylinderGrid((48, 36, 8), (0.0, 12.0), (-2.0, 4.0))


def locate(grid: CylinderGrid, point: Point) -> tuple[tuple[int, ...], np.ndarray]:
    position = cylindrical(np.array([point], np.float32))
    index = grid.index(position)
    return tuple(index[0].tolist()), (position - grid.centers(index))[0]


@pytest.mark.parametrize(
    ("grid", "point", "cell", "offset"),
    [
        (KITTI, (10, 0, -1.7), (95, 179, 11), (0.031315, 0.0, 0.074194)),
        (KITTI, (0, 10, -1.7), (95, 269, 11), (None, -0.004375, None)),
        (KITTI, (-10, 0.0, -1.7), (95, 359, 11), None),
        (KITTI, (-10, -0.0, -1.7), (95, 0, 11), None),
        (KITTI, (60, 0, -1.7), (479, 179, 11), (9.947808, None, None)),
        (KITTI, (30, 40, 0), (479, 232, 20), (-0.052192, None, None)),
        (KITTI, (3, 4, -4.5), (47, 232, 0), (None, None, -0.596774)),
        (KITTI, (3, 4, 2.5), (47, 232, 31), (None, None, 0.403226)),
        (KITTI, (0, 0, 0), (0, 179, 20), None),
        (KITTI, (49.95, 0, 1.99), (478, 179, 30), None),
        (LASERMIX, (10, 0, -1.7), (47, 89, 7), (0.062762, 0.0, -0.068421)),
        (LASERMIX, (60, 0, -1.7), (239, 89, 7), (9.895397, None, None)),
        (LASERMIX, (-10, 0.0, -1.7), (47, 179, 7), None),
        (NUSCENES, (10, 0, -1.7), (95, 179, 12), None),
        (NUSCENES, (3, 4, 2.5), (47, 232, 29), None),
    ],
)
def test_cells_of_points(
    grid: CylinderGrid, point: Point, cell: Point, offset: tuple[float | None, ...] | None
) -> None:
    found, difference = locate(grid, point)
    assert found == cell
    for got, wanted in zip(difference, offset or (None,) * 3, strict=True):
        assert wanted is None or got == pytest.approx(wanted, abs=1e-6)


def test_sizes_of_cells() -> None:
    np.testing.assert_allclose(KITTI.step, (0.104384, 0.017502, 0.193548), atol=5e-7)
    np.testing.assert_allclose(NUSCENES.step, (0.104384, 0.017502, 0.258065), atol=5e-7)
    np.testing.assert_allclose(LASERMIX.step, (0.209205, 0.035102, 0.315789), atol=5e-7)


@pytest.mark.parametrize("cells", [(2, 2, 2), (7, 50, 93), (480, 360, 32), (351, 353, 107)])
def test_the_upper_end_of_a_range_is_the_last_cell_however_the_division_rounds(cells: tuple[int, int, int]) -> None:
    grid = CylinderGrid(cells, (0.3, 51.1), (-3.7, 1.9))
    assert (grid.index(grid.high[None]) == np.array(cells) - 1).all()
    assert (grid.index(np.nextafter(grid.high, grid.low)[None]) < np.array(cells)).all()
    assert (grid.index(grid.low[None]) == 0).all()


def test_a_turn_by_whole_cells_shifts_the_azimuth() -> None:
    rng = np.random.default_rng(0)
    k, step = 5, KITTI.step[1]
    phi = -math.pi + (rng.integers(0, 300, 200) + rng.uniform(0.2, 0.8, 200)) * step
    rho, z = rng.uniform(1, 45, 200), rng.uniform(-3, 1, 200)
    before, after = (
        KITTI.index(cylindrical(np.c_[rho * np.cos(angle), rho * np.sin(angle), z])) for angle in (phi, phi + k * step)
    )
    np.testing.assert_array_equal(after[:, 1] - before[:, 1], k)
    np.testing.assert_array_equal(after[:, 2], before[:, 2])


def test_inputs_of_a_batch(make_view: MakeView) -> None:
    views = [make_view(0, 300), make_view(1, 200, 1)]
    spec = pickle.loads(pickle.dumps(CylinderInputSpec(COARSE)))
    inputs = pickle.loads(pickle.dumps(spec.prepare(views)))
    points = np.concatenate([v.points for v in views])
    position = cylindrical(points)
    index = COARSE.index(position)
    row = inputs.elements.point_to_element.numpy()
    assert row.min() == 0  # none is dropped, though points lie beyond 12 m
    assert (position[:, 0] > 12).any()
    assert inputs.coordinates.dtype == torch.int32
    assert np.array_equal(inputs.coordinates[row].numpy(), np.c_[np.repeat([0, 1], [300, 200]), index])
    assert len(inputs.coordinates.unique(dim=0)) == len(inputs.coordinates) == inputs.elements.num_elements
    assert inputs.features.shape == (500, 9) and inputs.features.dtype == torch.float32
    features = inputs.features.numpy()
    np.testing.assert_allclose(features[:, :3], position - COARSE.centers(index), atol=1e-5)
    np.testing.assert_allclose(features[:, 3:6], position, rtol=1e-6, atol=1e-6)
    assert np.array_equal(features[:, 6:8], points[:, :2])
    assert np.array_equal(features[:, 8:], np.concatenate([v.features["intensity"] for v in views]))
    assert inputs.sites() is inputs.to("cpu").sites()


def test_points_that_are_not_finite_belong_to_no_cell(make_view: MakeView) -> None:
    view = make_view(0, 30)
    broken = view.points.copy()
    broken[3, 1], broken[7, 2] = np.nan, np.inf
    inputs = CylinderInputSpec(COARSE).prepare([replace(view, points=broken)])
    assert (inputs.elements.point_to_element < 0).nonzero().flatten().tolist() == [3, 7]
    assert bool(inputs.features.isfinite().all()) and not bool(inputs.features[[3, 7]].any())
    torch.manual_seed(0)
    encoder = PointEncoder(9, (4, 4, 4, 4), 3)
    whole = encoder(inputs.features, inputs.elements)
    kept = CylinderInputSpec(COARSE).prepare([view.select(np.isfinite(broken).all(1))])
    assert torch.equal(whole, encoder(kept.features, kept.elements))  # in training: they are in no statistics either


def test_bad_views(make_view: MakeView) -> None:
    view = make_view(0, 10)
    nothing = replace(view, points=np.full_like(view.points, np.nan))
    with pytest.raises(NoElementsError, match="finite"):
        CylinderInputSpec(COARSE).prepare([nothing])
    with pytest.raises(NoElementsError, match="has a point"):
        CylinderInputSpec(COARSE).prepare([view.select(np.zeros(10, bool))])
    with pytest.raises(DataError, match="'ring'"):
        CylinderInputSpec(COARSE, ("ring",)).prepare([view])
    both = CylinderInputSpec(COARSE).prepare([view.select(np.zeros(10, bool)), view])
    assert both.coordinates[:, 0].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "vote", "winner"),
    [
        ((IGNORE, IGNORE, 0), "first", IGNORE),
        ((IGNORE, IGNORE, 0), "last", IGNORE),
        ((IGNORE, IGNORE, 0), "none", 0),
        ((IGNORE, 0), "first", IGNORE),
        ((IGNORE, 0), "none", 0),
        ((IGNORE, 3), "last", 3),
        ((1, 0), "none", 0),
        ((2, 2, 0, 0), "first", 0),
        ((2, 2, 0, 0), "last", 0),
        ((IGNORE, IGNORE), "none", IGNORE),
    ],
)
def test_the_label_of_a_cell(labels: tuple[int, ...], vote: IgnoredVote, winner: int) -> None:
    n = len(labels)
    view = View(
        points=np.full((n, 3), [5.0, 1.0, 0.0], np.float32),
        features={"intensity": np.zeros((n, 1), np.float32)},
        rows=np.c_[np.zeros(n, np.int64), np.arange(n)],
        label=np.array(labels, np.uint8),
    )
    spec = CylinderInputSpec(COARSE, ignored_vote=vote)
    inputs = spec.prepare([view])
    target = spec.labels(inputs, inputs.label)
    assert target.dtype == torch.int64 and target.tolist() == [winner]


def test_points_are_scored_not_cells() -> None:
    elements = ElementMap(torch.tensor([0, 0, 0, 1, 1]), 2)
    truth = torch.tensor([0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 1])
    assert torch.equal(elements.reduce(truth, "majority"), predicted)
    confusion = Confusion(2)
    confusion.add(elements.gather(predicted).numpy().astype(np.uint8), truth.numpy().astype(np.uint8))
    both = confusion.counts[:2]
    union = both.sum(0) + both.sum(1) - both.diagonal()
    assert (both.diagonal() / union).tolist() == pytest.approx([2 / 3, 2 / 3])


def test_encoder_has_the_published_parameters() -> None:
    sizes = [p.numel() for p in PointEncoder(9, (64, 128, 256, 256), 16).parameters()]
    assert sum(sizes) == 112_802
    assert sum(sizes[:2]) == 18 and sum(sizes[-2:]) == 4_112
    for f, p in ((10, 16), (66, 16), (9, 8)):
        count = sum(q.numel() for q in PointEncoder(f, (64, 128, 256, 256), p).parameters())
        assert count == 66 * f + 108_096 + 257 * p


def test_maximum_over_the_points_of_a_cell() -> None:
    """Point features (1, -2) and (-3, 4) in one cell are (1, 4); a point without a cell counts nowhere."""
    encoder = PointEncoder(2, (2, 2, 2, 2), 2).eval()
    encoder.points = nn.Sequential(nn.Identity())  # type: ignore[assignment]
    encoder.compress = nn.Sequential(nn.Identity())  # type: ignore[assignment]
    values = torch.tensor([[1.0, -2.0], [9.0, 9.0], [-3.0, 4.0], [-5.0, -6.0]], dtype=torch.float64, requires_grad=True)
    elements = ElementMap(torch.tensor([1, -1, 1, 0]), 2)
    assert encoder(values, elements).tolist() == [[-5, -6], [1, 4]]
    torch.autograd.gradcheck(lambda v: encoder(v, elements), (values,))


def test_identical_points_change_nothing_in_eval_mode(make_view: MakeView) -> None:
    torch.manual_seed(0)
    encoder = PointEncoder(9, (8, 8, 8, 8), 4).eval()
    view = make_view(0, 50)
    twice = view.select(np.r_[np.arange(50), np.arange(10)])
    one, two = (CylinderInputSpec(COARSE).prepare([v]) for v in (view, twice))
    torch.testing.assert_close(
        encoder(one.features, one.elements), encoder(two.features, two.elements), rtol=1e-5, atol=1e-6
    )


def test_a_single_point_cannot_train() -> None:
    encoder = PointEncoder(9, (4, 4, 4, 4), 3)
    with pytest.raises(SparseTensorError, match="more than one point"):
        encoder(torch.zeros(1, 9), ElementMap(torch.zeros(1, dtype=torch.int64), 1))
    assert encoder.eval()(torch.zeros(1, 9), ElementMap(torch.zeros(1, dtype=torch.int64), 1)).shape == (1, 3)
