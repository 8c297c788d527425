from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.mean_teacher import MeanTeacher, MeanTeacherParams, ramp
from ssl3d.models.teacher import PUBLISHED_STEPS

NOW = Progress(0, 1)


class PairSpec(InputSpec):
    """Elements are the points; the coordinates are what the network reads."""

    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
        return Inputs(elements=ElementMap(torch.arange(count), count), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class Coordinates(Backbone):
    """Its features are the coordinates, after a batch norm if asked."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.out_channels = 3
        self.input_spec = PairSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(self.norm(inputs.extras["xyz"]), {})

    def head(self, num_classes: int) -> nn.Module:
        layer = nn.Linear(3, num_classes, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(num_classes, 3))
        return layer


def method(norm: bool = False, **params: Any) -> MeanTeacher:
    return MeanTeacher(MeanTeacherParams(**params), lambda: Segmenter(Coordinates(norm), 3), 3)


def view(points: Sequence[Sequence[float]], labels: Sequence[int]) -> View:
    rows = np.stack([np.zeros(len(points), np.int64), np.arange(len(points))], 1)
    return View(np.array(points, np.float32), {}, rows, np.array(labels, np.uint8))


def inputs(points: Sequence[Sequence[float]], labels: Sequence[int]) -> Inputs:
    return PairSpec().prepare([view(points, labels)])


def losses(of: MeanTeacher, batch: dict[str, Inputs], now: Progress = NOW) -> dict[str, Tensor]:
    (found,) = of.step(batch, now)
    return found


def differing(**params: Any) -> MeanTeacher:
    """z_s = (2,0,0), (0,1,0) and z_t = (1,0,0), (0,1,0) on the points of the specification."""
    made = method(**params)
    with torch.no_grad():
        made.teacher.head.weight.copy_(torch.diag(torch.tensor([0.5, 1.0, 1.0])))
    return made


TWO = inputs([[2, 0, 0], [0, 1, 0]], [IGNORE, IGNORE])


@pytest.mark.parametrize(("params", "expected"), [({"w": 1}, 0.0111165), ({"w": 250}, 2.779113)])
def test_mse_of_the_specification(params: dict[str, float], expected: float) -> None:
    found = losses(differing(**params), {"all": TWO})
    assert float(found["consistency"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found["ce"].detach()) == 0


def test_kl_of_the_specification() -> None:
    found = losses(differing(consistency="kl"), {"all": TWO})
    assert float(found["consistency"].detach()) == pytest.approx(0.0559916, rel=1e-5)


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_equal_networks_agree_and_no_gradient_reaches_the_teacher(distance: str) -> None:
    made = method(consistency=distance)
    sum(losses(made, {"all": TWO}).values()).backward()  # type: ignore[union-attr]
    gradient = made.segmenter.head.weight.grad
    assert gradient is not None and float(gradient.abs().max()) < 1e-6
    other = differing(consistency=distance)
    found = losses(other, {"all": TWO})
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert other.segmenter.head.weight.grad is not None and float(other.segmenter.head.weight.grad.abs().max()) > 1e-3
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in other.teacher.parameters())


def test_ramp_of_the_specification() -> None:
    assert [ramp(k, 30) for k in (0, 15, 30, 45)] == pytest.approx([0.0067379, 0.2865048, 1, 1], rel=1e-5)
    assert ramp(7.5, 30) == pytest.approx(0.0600547, rel=1e-5)  # type: ignore[arg-type]
    assert ramp(0, 0) == 1
    at_first = losses(differing(w=1, ramp_steps=30), {"all": TWO}, Progress(0, 60, total_step=0))
    assert float(at_first["consistency"].detach()) == pytest.approx(0.0111165 * 0.0067379, rel=1e-4)


def test_points_of_a_class_count_as_labels_and_all_points_for_the_consistency() -> None:
    labelled = inputs([[2, 0, 0], [0, 1, 0], [5, 5, 5]], [0, 2, IGNORE])
    found = losses(differing(w=1), {"all": labelled})
    assert float(found["ce"].detach()) == pytest.approx(0.895495, rel=1e-5)
    # p_s and p_t of the third point: (1/3, 1/3, 1/3) against softmax(2.5, 5, 5)
    third = (torch.full((3,), 1 / 3) - torch.tensor([2.5, 5.0, 5.0]).softmax(0)).square().sum()
    assert float(found["consistency"].detach()) == pytest.approx((2 * 3 * 0.0111165 + float(third)) / 9, rel=1e-4)


def test_scribblekitti_asks_the_unlabelled_points_only_and_divides_by_all() -> None:
    labelled = inputs([[2, 0, 0], [0, 1, 0], [2, 0, 0]], [0, 2, IGNORE])
    made = differing(consistency="kl", consistency_on="unlabelled", divide_by="all")
    found = losses(made, {"all": labelled})
    assert float(found["ce"].detach()) == pytest.approx(2 / 3 * 0.895495, rel=1e-5)
    assert float(found["consistency"].detach()) == pytest.approx(2 * 0.0559916 / 3, rel=1e-5)


def test_the_order_of_points_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(40, 3)), rng.choice([0, 1, 2, IGNORE], 40)
    order = rng.permutation(40)
    made = differing(lambda_lov=1.0)
    here = losses(made, {"all": inputs(points.tolist(), labels.tolist())})
    there = losses(made, {"all": inputs(points[order].tolist(), labels[order].tolist())})
    for name in here:
        assert float(here[name].detach()) == pytest.approx(float(there[name].detach()), rel=1e-5)


def test_a_batch_without_any_label_has_a_zero_supervised_loss_and_still_a_gradient() -> None:
    found = losses(differing(), {"all": TWO})
    assert float(found["ce"].detach()) == 0
    assert found["ce"].requires_grad and float(found["consistency"].detach()) > 0


def test_own_buffers_are_filled_by_the_teachers_own_passes() -> None:
    made = method(norm=True)
    made.train()
    batch = inputs([[1, 2, 3], [3, 2, 1], [5, 2, 8]], [0, 1, 2])
    losses(made, {"all": batch})
    made.after_step(NOW)
    mean = batch.extras["xyz"].mean(0)
    torch.testing.assert_close(made.teacher.backbone.norm.running_mean, 0.1 * mean)
    assert made.teacher.training


@pytest.mark.parametrize("policy", ["ema", "copy"])
def test_other_buffers_follow_the_student_and_the_teacher_is_in_eval_mode(policy: str) -> None:
    made = method(norm=True, bn_buffers=policy, alpha=0.5, warm_up=False)
    made.train()
    assert made.segmenter.training and not made.teacher.training
    batch = inputs([[1, 2, 3], [3, 2, 1], [5, 2, 8]], [0, 1, 2])
    losses(made, {"all": batch})
    made.after_step(NOW)
    share = 1.0 if policy == "copy" else 0.5
    expected = share * made.segmenter.backbone.norm.running_mean
    torch.testing.assert_close(made.teacher.backbone.norm.running_mean, expected)
    assert int(made.teacher.backbone.norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_the_first_average_is_the_student_and_warm_up_can_be_switched_off() -> None:
    made = differing(alpha=0.99)
    made.after_step(Progress(0, 10, total_step=0))
    torch.testing.assert_close(made.teacher.head.weight, made.segmenter.head.weight, rtol=0, atol=0)
    made = differing(alpha=0.99, warm_up=False)
    made.after_step(Progress(0, 10, total_step=0))
    assert float(made.teacher.head.weight[0, 0].detach()) == pytest.approx(0.505)


def test_defaults_are_the_published_ones_scaled_to_the_steps() -> None:
    full = MeanTeacherParams().settled(PUBLISHED_STEPS)
    assert (full.alpha, full.w) == (0.99, 200)
    short = MeanTeacherParams().settled(PUBLISHED_STEPS // 10)
    assert short.alpha == pytest.approx(0.99**10)  # a tenth of the half-life
    assert MeanTeacherParams().settled(10 * PUBLISHED_STEPS).alpha == 0.99
    assert MeanTeacherParams(consistency="kl").settled(1).w == 1
    assert MeanTeacherParams(alpha=0.5, w=3).settled(1).alpha == 0.5


def test_a_weak_view_keeps_every_point_and_is_matched_by_rows() -> None:
    rng = np.random.default_rng(1)
    scan = view(rng.normal(size=(50, 3)).tolist(), rng.integers(0, 3, 50).tolist())
    strong = Augmentation(AugmentParams(drop=0.5, jitter=0.01))
    groups = MeanTeacher.views(MeanTeacherParams(teacher_view="weak"), [scan], [], strong, np.random.default_rng(3))
    mine, weak = groups["all"][0], groups["teacher"][0]
    assert len(mine) < len(weak) == 50
    np.testing.assert_allclose(np.linalg.norm(weak.points, axis=1), np.linalg.norm(scan.points, axis=1), rtol=1e-5)
    spec = PairSpec()
    shuffled = weak.select(np.random.default_rng(4).permutation(50))
    made = differing(w=1)
    batch = {"all": spec.prepare([mine]), "teacher": spec.prepare([shuffled])}
    found = losses(made, batch)
    place = {int(row): i for i, row in enumerate(shuffled.rows[:, 1])}
    order = [place[int(row)] for row in mine.rows[:, 1]]
    teacher = (torch.from_numpy(shuffled.points[order]) @ torch.diag(torch.tensor([0.5, 1.0, 1.0]))).softmax(1)
    expected = (torch.from_numpy(mine.points).softmax(1) - teacher).square().mean()
    assert float(found["consistency"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_weak_view_of_voxels_is_brought_to_the_students_voxels() -> None:
    """A teacher that sees the scan elsewhere has other voxels; constant scores have to arrive as they are."""
    rng = np.random.default_rng(2)
    points = rng.uniform(-4, 4, (300, 3)).astype(np.float32)
    rows = np.stack([np.zeros(300, np.int64), np.arange(300)], 1)
    scan = View(points, {"intensity": np.ones((300, 1), np.float32)}, rows, np.zeros(300, np.uint8))
    torch.manual_seed(0)
    made = MeanTeacher(MeanTeacherParams(w=1, teacher_view="weak"), micro, 3)
    for segmenter in (made.segmenter, made.teacher):
        segmenter.head = Constant()
    groups = MeanTeacher.views(made.params, [scan], [scan], Augmentation(AugmentParams(drop=0.3)), rng)
    spec = made.segmenter.backbone.input_spec
    batch = {name: spec.prepare(views) for name, views in groups.items()}
    assert batch["all"].elements.num_elements != batch["teacher"].elements.num_elements
    assert float(losses(made, batch)["consistency"].detach()) == pytest.approx(0, abs=1e-12)


def micro() -> Segmenter:
    return Segmenter(make_backbone("minkunet-micro"), 3)


class Constant(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows[:, :3] * 0 + torch.tensor([0.0, 1.0, 2.0])


def test_the_teacher_is_evaluated_and_counts_as_pseudo_labels() -> None:
    made = method()
    assert made.predictor() is made.teacher and made.student() is made.segmenter
    assert method(evaluate_on="student").predictor().head.weight.requires_grad
    losses(made, {"all": inputs([[2, 0, 0], [0, 1, 0], [0, 3, 0]], [0, IGNORE, IGNORE])})
    assert made.pseudo.take().tolist() == [0, 2, 0, 2]
    assert made.live.take()[0].tolist() == [1, 0, 0]
