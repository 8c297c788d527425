"""Stages of LiM3D in miniature: every point an element, coordinates for features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.losses.lovasz import lovasz_softmax
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.lim3d import LiM3D, LiM3DParams, guess_of
from ssl3d.models.prediction import Prediction
from ssl3d.models.teacher import PUBLISHED_STEPS

STAGE1, STAGE3 = Progress(0, 5), Progress(0, 5, phase=1, total_step=5, total_steps=10)


class PointSpec(InputSpec):
    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
        return Inputs(elements=ElementMap(torch.arange(count), count), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class Coordinates(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.out_channels, self.input_spec = 3, PointSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(self.layer(inputs.extras["xyz"]), {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(3, num_classes)


def method(classes: int = 3, **params: Any) -> LiM3D:
    torch.manual_seed(0)
    return LiM3D(LiM3DParams(**params), lambda: Segmenter(Coordinates(), classes), classes)


def scan(points: int = 60, seed: int = 0, labelled: float = 0.5) -> View:
    rng = np.random.default_rng(seed)
    rows = np.stack([np.full(points, seed), np.arange(points)], 1)
    label = np.where(rng.random(points) < labelled, rng.integers(0, 3, points), IGNORE).astype(np.uint8)
    return View(rng.normal(0, 20, (points, 3)).astype(np.float32), {}, rows, label)


def with_guesses(view: View) -> View:
    rng = np.random.default_rng(5)
    view.extras["crb_label"] = rng.integers(0, 3, len(view)).astype(np.uint8)
    view.extras["crb_doubt"] = rng.random(len(view)).astype(np.float16)
    return view


def batch_of(made: LiM3D, *views: View, phase: int = 1) -> dict[str, Inputs]:
    augment, rng = Augmentation(AugmentParams(drop=0.3)), np.random.default_rng(1)
    groups = LiM3D.views(made.params, views[:1], views[1:], augment, rng, phase)
    return {name: PointSpec().prepare(group) for name, group in groups.items()}


def losses(made: LiM3D, batch: dict[str, Inputs], now: Progress = STAGE3) -> dict[str, Tensor]:
    (found,) = made.step(batch, now)
    return found


def test_stage_1_is_l_1() -> None:
    """(1/N) [sum CE + sum KL(p_t || p_s)] + Lovasz, over the elements one by one."""
    made = method(teacher_view="same")
    made.teacher.load_state_dict({k: v * 0.5 for k, v in made.segmenter.state_dict().items()})
    batch = batch_of(made, scan(), scan(seed=1, labelled=0), phase=0)
    found = losses(made, batch, STAGE1)
    inputs = batch["all"]
    z_s, z_t = (net(inputs).logits.detach().double() for net in (made.segmenter, made.teacher))
    ce = kl = 0.0
    for s, t, y in zip(z_s.log_softmax(1), z_t.log_softmax(1), inputs.label.tolist(), strict=True):
        if y == IGNORE:
            kl += float((t.exp() * (t - s)).sum())
        else:
            ce -= float(s[y])
    n = len(z_s)
    assert float(found["ce"].detach()) == pytest.approx(ce / n, rel=1e-5)
    assert float(found["consistency"].detach()) == pytest.approx(kl / n, rel=1e-5)
    assert float(found["lovasz"].detach()) == pytest.approx(
        float(lovasz_softmax(z_s.softmax(1), inputs.label)), rel=1e-5
    )
    assert set(found) == {"ce", "consistency", "lovasz"}


def test_stage_3_learns_from_what_is_surer_than_its_limit_and_agrees_elsewhere() -> None:
    made = method(teacher_view="same", lambda_u=2.0, lambda_c=0.0)
    made.teacher.load_state_dict({k: v * 0.5 for k, v in made.segmenter.state_dict().items()})
    made.limit.copy_(torch.rand(3, 10, generator=torch.Generator().manual_seed(3)))
    view = with_guesses(scan())
    batch = batch_of(made, view)
    found = losses(made, batch)
    inputs = batch["all"]
    z_s, z_t = (net(inputs).logits.detach().double() for net in (made.segmenter, made.teacher))
    pseudo = kl = 0.0
    used = []
    for m, row in enumerate(inputs.rows[:, 1].tolist()):
        if view.label[row] != IGNORE:
            continue
        label, ring = int(view.extras["crb_label"][row]), min(int(np.hypot(*view.points[row, :2]) // 5), 9)
        s, t = z_s[m].log_softmax(0), z_t[m].log_softmax(0)
        if view.extras["crb_doubt"][row] < float(made.limit[label, ring]):
            pseudo -= float(s[label])
            used.append(label)
        else:
            kl += float((t.exp() * (t - s)).sum())
    n = len(z_s)
    assert 5 < len(used) < 30
    assert float(found["pseudo"].detach()) == pytest.approx(2 * pseudo / n, rel=1e-5)
    assert float(found["consistency"].detach()) == pytest.approx(2 * kl / n, rel=1e-5)
    assert made.pseudo.take().tolist() == [*np.bincount(used, minlength=3), int((inputs.label == IGNORE).sum())]
    assert "contrast" not in found
    sure = []
    for n in inputs.rows[:, 1].tolist():
        label, ring = int(view.extras["crb_label"][n]), min(int(np.hypot(*view.points[n, :2]) // 5), 9)
        if view.label[n] != IGNORE and view.extras["crb_doubt"][n] < float(made.limit[label, ring]):
            sure.append((view.label[n], label))
    precision = made.measures.describe(made.measures.take())["classes"]["precision"]
    assert precision == pytest.approx([np.mean([y == c for y, k in sure if k == c]) for c in range(3)], rel=1e-4)


def test_stage_3_without_pseudo_labels_and_with_contrast() -> None:
    made = method(4, crb=False, bank=7, low_rank=2)
    with torch.no_grad():
        made.segmenter.head.weight *= 3  # sure enough for anchors
    made.teacher.load_state_dict(made.segmenter.state_dict())
    batch = batch_of(made, scan(), scan(seed=1, labelled=0))
    assert batch["teacher"].elements.num_elements == 120 > batch["all"].elements.num_elements
    found = losses(made, batch)
    assert set(found) == {"ce", "lovasz", "consistency", "contrast"}
    assert float(found["contrast"].detach()) > 0.1
    assert made.contrast is not None and int(made.contrast.bank.count.max()) == 7
    sum(found.values()).backward()  # type: ignore[union-attr]
    learning = [*made.segmenter.parameters(), *made.projector.parameters()]
    assert all(parameter.grad is not None for parameter in learning)
    assert all(p.grad is None for module in (made.teacher, made.teacher_projector) for p in module.parameters())


def test_a_batch_without_any_label_has_zero_supervised_losses() -> None:
    found = losses(method(), batch_of(method(), scan(labelled=0)))
    assert float(found["ce"].detach()) == float(found["lovasz"].detach()) == float(found["pseudo"].detach()) == 0
    assert all(torch.isfinite(value) for value in found.values())


class Context:
    """What ``on_enter`` gets, with predictions made on the spot."""

    progress, partial = STAGE3, True

    def __init__(self, views: list[View], scores: Any) -> None:
        self.views, self.scores, self.asked = views, scores, None

    def predict_train(self, writer: Any, *, segmenter: Any = None, scores: bool = False, **_: Any) -> Any:
        assert scores
        self.asked = segmenter
        for view in self.views:
            p = self.scores(view)
            yield view, writer(view, Prediction(p.argmax(1).astype(np.uint8), p))


@pytest.mark.parametrize("tta", [True, False])
def test_stage_2_keeps_the_surest_half_of_each_class_at_each_distance(tta: bool) -> None:
    made = method(tta=tta)
    rng = np.random.default_rng(0)
    views = [scan(300, seed) for seed in range(3)]
    table = {id(view): rng.dirichlet([1, 1, 1], len(view)).astype(np.float32) for view in views}
    context = Context(views, lambda view: table[id(view)])
    made._label(context)  # type: ignore[arg-type]
    assert (context.asked is made.teacher) == (not tta)
    label = np.concatenate([np.where(v.label == IGNORE, table[id(v)].argmax(1), IGNORE) for v in views])
    sure = np.concatenate([table[id(v)].max(1) for v in views])
    ring = np.concatenate([np.minimum(np.hypot(v.points[:, 0], v.points[:, 1]) // 5, 9) for v in views])
    for c in range(3):
        for a in range(10):
            mine = sure[(label == c) & (ring == a)]
            kept = (np.float16(1 - mine) < float(made.limit[c, a])).sum()
            assert kept == pytest.approx(round(len(mine) / 2), abs=1)  # of equal float16 at the limit none


def test_what_is_kept_of_a_scan() -> None:
    view = View(np.zeros((3, 3), np.float32), {}, np.zeros((3, 2), np.int64), np.array([IGNORE, 1, IGNORE], np.uint8))
    p = np.array([[0.25, 0.75], [0.25, 0.75], [0, 0]], np.float32)
    prediction = Prediction(np.array([1, 0, IGNORE], np.uint8), p)
    kept = guess_of(view, prediction, partial=True).points
    assert kept["crb_label"].tolist() == [1, 0, IGNORE] and kept["crb_label"].dtype == np.uint8
    # in a scan that is labelled as a whole, a point without a label is of no class
    assert guess_of(view, prediction, partial=False).points["crb_label"].tolist() == [IGNORE, 0, IGNORE]
    assert kept["crb_doubt"].tolist() == [0.25, 0.25, 1] and kept["crb_doubt"].dtype == np.float16


def test_stage_3_begins_with_new_weights_that_no_generator_decides() -> None:
    made = method(crb=False)
    trained = {k: v.clone() for k, v in made.segmenter.state_dict().items()}
    seen = []
    for _ in range(2):
        torch.randn(3)
        before = torch.get_rng_state()
        made._label(Context([], None))  # type: ignore[arg-type]
        assert torch.equal(before, torch.get_rng_state())
        seen.append({k: v.clone() for k, v in made.segmenter.state_dict().items()})
        assert all(torch.equal(v, made.teacher.state_dict()[k]) for k, v in seen[-1].items())
    assert all(torch.equal(v, seen[1][k]) and not torch.equal(v, trained[k]) for k, v in seen[0].items())
    kept = method(crb=False, from_scratch=False)
    kept._label(Context([], None))  # type: ignore[arg-type]
    assert all(torch.equal(v, trained[k]) for k, v in kept.segmenter.state_dict().items())


def test_phases_averages_and_what_is_scaled() -> None:
    made = method()
    first, second = made.phases(11)
    assert (first.steps, second.steps, first.restarts, second.restarts) == (5, 6, False, True)
    assert [phase.steps for phase in method(stage1_steps=11).phases(11)] == [11]
    assert [phase.steps for phase in method(stage1_steps=4).phases(11)] == [4, 7]
    assert method(from_scratch=False).phases(4)[1].restarts is False
    assert made.ema_keep(STAGE3) == 0 and method(from_scratch=False).ema_keep(STAGE3) == pytest.approx(1 - 1 / 6)
    full, short = LiM3DParams().settled(PUBLISHED_STEPS), LiM3DParams().settled(PUBLISHED_STEPS // 10)
    assert (full.alpha, full.w, full.bank, full.stage1_steps) == (0.99, 1, 30_000, PUBLISHED_STEPS // 2)
    assert (short.alpha, short.bank) == (pytest.approx(0.99**10), 3000)
    assert LiM3DParams(bank=5).settled(10**9).bank == 5 and LiM3DParams().settled(10**9).bank == 30_000
    assert LiM3DParams().settled(100).settled(100) == LiM3DParams().settled(100)


def test_the_annulus_is_that_of_the_scan_as_it_was() -> None:
    view = with_guesses(scan(200))
    groups = LiM3D.views(
        LiM3DParams(), [view], [], Augmentation(AugmentParams(translate=30.0)), np.random.default_rng(0), 1
    )
    for group in groups.values():
        rows = group[0].rows[:, 1]
        expected = np.minimum(np.hypot(view.points[rows, 0], view.points[rows, 1]) // 5, 9)
        assert np.array_equal(group[0].extras["crb_annulus"], expected)
    assert "crb_annulus" not in view.extras


def test_datasets_without_a_sensor_are_refused() -> None:
    LiM3D.check(LiM3DParams(), load_spec("semantickitti"))
    with pytest.raises(UsageError, match="spinning sensor"):
        LiM3D.check(LiM3DParams(), load_spec("scannet"))
