from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.supervised import Supervised, SupervisedParams

NOW = Progress(0, 1)


class PointSpec(InputSpec):
    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
        return Inputs(elements=ElementMap(torch.arange(count), count), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class Identity(Backbone):
    """Its features are the coordinates: with the identity as a head, the coordinates are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 3
        self.input_spec = PointSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.extras["xyz"], {})

    def head(self, num_classes: int) -> nn.Module:
        layer = nn.Linear(3, num_classes, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(3))
        return layer


def method(lambda_lov: float = 0.0) -> Supervised:
    return Supervised(SupervisedParams(lambda_lov=lambda_lov), lambda: Segmenter(Identity(), 3), 3)


def batch(logits: list[list[float]], labels: list[int]) -> dict[str, Inputs]:
    points = np.array(logits, np.float32)
    rows = np.stack([np.zeros(len(points), np.int64), np.arange(len(points))], 1)
    return {"labelled": PointSpec().prepare([View(points, {}, rows, np.array(labels, np.uint8))])}


def test_cross_entropy_of_the_specification() -> None:
    (losses,) = method().step(batch([[2, 0, 0], [0, 1, 0], [5, 5, 5]], [0, 2, IGNORE]), NOW)
    assert list(losses) == ["ce"]
    assert losses["ce"].item() == pytest.approx(0.895495, abs=1e-6)


def test_lovasz_is_added_with_its_weight() -> None:
    given = batch([[1, 0, 0], [0, 2, 1], [0, 0, 1]], [0, 1, 1])
    (one,) = method(1.0).step(given, NOW)
    (three,) = method(3.0).step(given, NOW)
    assert one["lovasz"].item() > 0
    assert three["lovasz"].item() == pytest.approx(3 * one["lovasz"].item())
    assert three["ce"].item() == pytest.approx(one["ce"].item())


@pytest.mark.parametrize("lambda_lov", [0.0, 1.0])
def test_without_a_visible_label_the_loss_is_an_attached_zero(lambda_lov: float) -> None:
    trained = method(lambda_lov)
    (losses,) = trained.step(batch([[1, 0, 0], [0, 2, 1]], [IGNORE, IGNORE]), NOW)
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == 0.0
    total.backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in trained.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in trained.parameters())


def test_live_confusion_counts_visible_points_only() -> None:
    trained = method()
    list(trained.step(batch([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]], [0, 1, 1, IGNORE]), NOW))
    np.testing.assert_array_equal(trained.live.take(), [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    assert trained.live.take().sum() == 0


def test_the_predictor_is_the_trained_network_and_has_no_ignored_channel() -> None:
    trained = method()
    assert set(trained.predictor().parameters()) == set(trained.parameters())
    assert trained.predictor()(batch([[1, 0, 0]], [0])["labelled"]).logits.shape == (1, 3)


def test_views_are_labelled_only_and_phases_use_the_whole_budget() -> None:
    view = View(np.zeros((2, 3), np.float32), {}, np.zeros((2, 2), np.int64), np.zeros(2, np.uint8))
    calls: list[int] = []

    def augment(v: View, rng: np.random.Generator) -> View:
        calls.append(len(v))
        return v

    groups = Supervised.views(SupervisedParams(), [view, view], [], augment, np.random.default_rng(0))
    assert list(groups) == ["labelled"]
    assert calls == [2, 2]
    assert [phase.steps for phase in method().phases(17)] == [17]
    assert not Supervised.uses_unlabelled
