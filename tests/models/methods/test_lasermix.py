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
from ssl3d.models.backbones.voxels import VoxelInputSpec
from ssl3d.models.elements import ElementMap
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.losses.lovasz import lovasz_softmax
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.lasermix import LaserMix, LaserMixParams, confident_labels, filled
from ssl3d.models.methods.mean_teacher import MeanTeacher, MeanTeacherParams
from ssl3d.models.teacher import PUBLISHED_STEPS
from ssl3d.pipeline.training.config import resolve

NOW = Progress(0, 1)
STILL = Augmentation(AugmentParams(rotate=0, flip_x=0, flip_y=0, scale_min=1, scale_max=1, translate=0))
STRONG = Augmentation(AugmentParams(drop=0.4, jitter=0.01))
C = 3


class PointSpec(InputSpec):
    """Elements are the points; the coordinates are what the network reads."""

    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
        return Inputs(elements=ElementMap(torch.arange(count), count), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class Coordinates(Backbone):
    """Its features are the coordinates in units of 10 m."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 3
        self.input_spec = PointSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.extras["xyz"] / 10, {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(3, num_classes)


def make_segmenter() -> Segmenter:
    return Segmenter(Coordinates(), C)


def method(seed: int = 0, **params: Any) -> LaserMix:
    torch.manual_seed(seed)
    return LaserMix(LaserMixParams(**params), make_segmenter, C)


def unequal(**params: Any) -> LaserMix:
    """The teacher differs from the student, and is sure of some points only."""
    made = method(**params)
    with torch.no_grad():
        made.teacher.head.weight.mul_(4)
    return made


def view(scan: int, labels: bool, n: int = 50) -> View:
    rng = np.random.default_rng(scan)
    rows = np.stack([np.full(n, scan), np.arange(n)], 1)
    label = rng.choice([0, 1, 2, IGNORE], n) if labels else np.full(n, IGNORE)
    return View((rng.normal(size=(n, 3)) * [10, 10, 3]).astype(np.float32), {}, rows, label.astype(np.uint8))


LABELLED, UNLABELLED = [view(1, True), view(2, True)], [view(3, False), view(4, False)]


def groups(params: LaserMixParams, labelled: Any = LABELLED, unlabelled: Any = UNLABELLED, how: Any = STRONG) -> Any:
    return LaserMix.views(params, labelled, unlabelled, how, np.random.default_rng(7))


def batch_of(params: LaserMixParams, **more: Any) -> dict[str, Inputs]:
    return {name: PointSpec().prepare(views) for name, views in groups(params, **more).items()}


def losses(of: Any, batch: dict[str, Inputs], now: Progress = NOW) -> dict[str, Tensor]:
    (found,) = of.step(batch, now)
    return found


def value(loss: Tensor) -> float:
    return float(loss.detach())


def slow_labels(made: LaserMix, batch: dict[str, Inputs], fills: set[int]) -> list[int]:
    """The label of each mixed point, found by its coordinates; ``fills``: the scans that take the teacher's labels."""
    scans, mixed = batch["all"], batch["mixed"]
    scores = made.teacher(scans).logits.double().softmax(1)
    place = {tuple(point): i for i, point in enumerate(scans.extras["xyz"].tolist())}
    out = []
    for point, row, visible in zip(
        mixed.extras["xyz"].tolist(), mixed.rows.tolist(), mixed.label.tolist(), strict=True
    ):
        label = visible
        if row[0] in fills and visible == IGNORE:
            p = scores[place[tuple(point)]]
            label = int(p.argmax()) if float(p.max()) >= made.params.threshold else IGNORE
        out.append(label)
    return out


# ---------------------------------------------------------------- pseudo labels


def test_a_label_at_the_threshold_counts() -> None:
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.8999, 0.1, 0.0001], [0.0, 1.0, 0.0]])
    assert confident_labels(scores, 0.9).tolist() == [0, 2, IGNORE, 1]
    assert confident_labels(scores, 0.95).tolist() == [IGNORE, IGNORE, IGNORE, 1]
    assert confident_labels(scores, 0.0).tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(("guess", "fills"), [("scans", {3, 4}), ("points", {1, 2, 3, 4})])
def test_mixed_points_have_their_label_or_the_teachers(guess: str, fills: set[int]) -> None:
    made = unequal(threshold=0.7, guess=guess)
    batch = batch_of(made.params)
    scores = made.teacher(batch["all"]).logits.softmax(1)
    label = filled(batch["mixed"], batch["all"], confident_labels(scores, 0.7))
    assert label.tolist() == slow_labels(made, batch, fills)
    taken = (batch["mixed"].label == IGNORE) & (label != IGNORE)
    assert 10 < int(taken.sum()) < int((batch["mixed"].label == IGNORE).sum())


def test_one_scan_twice_in_a_batch_takes_the_labels_of_its_own_augmentation() -> None:
    made = unequal(threshold=0.6)
    batch = batch_of(made.params, unlabelled=[view(3, False), view(3, False)])
    scores = made.teacher(batch["all"]).logits.softmax(1)
    guess = confident_labels(scores, 0.6)
    twice = {row: set() for row in range(50)}
    for row, label in zip(batch["all"].rows.tolist(), guess.tolist(), strict=True):
        if row[0] == 3:
            twice[row[1]].add(label)
    assert max(map(len, twice.values())) == 2  # else this shows nothing
    assert filled(batch["mixed"], batch["all"], guess).tolist() == slow_labels(made, batch, {3})


def test_without_unlabelled_scans_labelled_ones_are_mixed_and_their_other_points_guessed() -> None:
    made = unequal(threshold=0.6)
    batch = batch_of(made.params, unlabelled=[])
    assert len(batch["all"].view_offsets) == len(batch["mixed"].view_offsets) == 3
    for begin, end in zip(batch["mixed"].view_offsets[:-1], batch["mixed"].view_offsets[1:], strict=True):
        assert batch["mixed"].rows[begin:end, 0].unique().tolist() == [1, 2]
    scores = made.teacher(batch["all"]).logits.softmax(1)
    label = filled(batch["mixed"], batch["all"], confident_labels(scores, 0.6))
    assert label.tolist() == slow_labels(made, batch, {1, 2})
    assert int(((batch["mixed"].label == IGNORE) & (label != IGNORE)).sum()) > 3
    assert LaserMix.item_scans(made.params, False) == 2 and LaserMix.item_scans(made.params, True) == 1


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("lambda_lov", [0.0, 3.0])
def test_losses_are_those_of_separate_steps(lambda_lov: float) -> None:
    made = unequal(threshold=0.7, w_sup=0.5, w_mix=2.0, w_mt=250.0, lambda_lov=lambda_lov)
    batch = batch_of(made.params)
    found = losses(made, batch)

    def supervised(logits: Tensor, target: Tensor) -> float:
        lovasz = lambda_lov * lovasz_softmax(logits.softmax(1), target) if lambda_lov else torch.zeros(())
        return value(cross_entropy(logits, target) + lovasz)

    student = made.segmenter(batch["all"]).logits
    teacher = made.teacher(batch["all"]).logits.softmax(1)
    expected_sup = 0.5 * supervised(student, batch["all"].label)
    label = torch.tensor(slow_labels(made, batch, {3, 4}))
    expected_mix = 2.0 * supervised(made.segmenter(batch["mixed"]).logits, label)
    expected_mt = 250.0 * value((student.softmax(1) - teacher).square().mean())
    got = {name: value(loss) for name, loss in found.items()}
    lov = [got.get("lovasz", 0.0), got.get("mixed_lovasz", 0.0)]
    assert got["ce"] + lov[0] == pytest.approx(expected_sup, rel=1e-5)
    assert got["mixed_ce"] + lov[1] == pytest.approx(expected_mix, rel=1e-5)
    assert got["consistency"] == pytest.approx(expected_mt, rel=1e-5)
    assert min(expected_sup, expected_mix, expected_mt) > 0.01 and (lov[0] > 0) == bool(lambda_lov)


def test_without_mixing_it_is_mean_teacher_bit_for_bit() -> None:
    made = method(w_mix=0, w_mt=50)
    torch.manual_seed(0)
    other = MeanTeacher(MeanTeacherParams(w=50), make_segmenter, C)
    rng = [np.random.default_rng(3) for _ in range(2)]
    mine = LaserMix.views(made.params, LABELLED, UNLABELLED, STRONG, rng[0])
    theirs = MeanTeacher.views(other.params, LABELLED, UNLABELLED, STRONG, rng[1])
    assert list(mine) == list(theirs) == ["all"] and LaserMix.item_scans(made.params, False) == 1
    with torch.no_grad():
        for one in (made, other):
            one.teacher.head.weight.mul_(2)
    here = losses(made, {"all": PointSpec().prepare(mine["all"])})
    there = losses(other, {"all": PointSpec().prepare(theirs["all"])})
    assert {name: value(loss) for name, loss in here.items()} == {name: value(loss) for name, loss in there.items()}


@pytest.mark.parametrize("params", [{"mix": "none"}, {"m": (1,)}])
def test_one_band_is_the_scans_as_they_are(params: dict[str, Any]) -> None:
    found = groups(LaserMixParams(**params))
    first, second = found["mixed"][0::2], found["mixed"][1::2]
    for mixed, scan in zip([*first, *second], found["all"], strict=True):
        assert mixed.points.tolist() == scan.points.tolist() and mixed.label.tolist() == scan.label.tolist()


def test_teacher_and_student_see_the_same_points_and_no_gradient_reaches_the_teacher() -> None:
    made = unequal(threshold=0.5)
    batch = batch_of(made.params)
    mixed, scans = (sorted(batch[name].extras["xyz"].tolist()) for name in ("mixed", "all"))
    assert mixed == scans
    sum(losses(made, batch).values()).backward()  # type: ignore[union-attr]
    gradient = made.segmenter.head.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 1e-3
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in made.teacher.parameters())


def test_nothing_that_the_teacher_is_sure_of_and_no_label_is_a_zero_with_zero_gradients() -> None:
    made = method(threshold=1.0, w_mt=0)
    blank = [view(1, False), view(2, False)]
    found = losses(made, batch_of(made.params, labelled=blank))
    assert list(found) == ["ce", "mixed_ce"]
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert [value(loss) for loss in found.values()] == [0, 0]
    gradient = made.segmenter.head.weight.grad
    assert gradient is not None and not gradient.any()


def test_a_scan_within_one_band_leaves_the_other_mixed_scan_without_it() -> None:
    flat = view(1, True)
    flat.points[:, 2] = 0  # inclination 0: the first band of any number
    made = unequal(threshold=0.5)
    found = groups(made.params, labelled=[flat], unlabelled=[view(3, False)], how=STILL)
    assert (found["mixed"][0].rows[:, 0] == 1).sum() == 50 and not (found["mixed"][1].rows[:, 0] == 1).any()
    batch = {name: PointSpec().prepare(views) for name, views in found.items()}
    assert all(torch.isfinite(loss) for loss in losses(made, batch).values())


def test_labels_of_voxels_are_those_of_their_points() -> None:
    """The teacher's voxels and the mixed ones differ: labels go over the points, and vote."""
    params = LaserMixParams()
    spec = VoxelInputSpec(2.0, ("xyz",))
    batch = {name: spec.prepare(views) for name, views in groups(params).items()}
    scans, mixed = batch["all"], batch["mixed"]
    guess = torch.arange(scans.elements.num_elements) % C
    label = filled(mixed, scans, guess)
    target = spec.labels(mixed, label)
    place = {tuple(p): i for i, p in enumerate(torch.cat([scans.rows], 1).tolist())}
    for voxel in range(0, mixed.elements.num_elements, 3):
        votes = [0] * C
        for point in (mixed.elements.point_to_element == voxel).nonzero().squeeze(1).tolist():
            row = tuple(mixed.rows[point].tolist())
            own = int(guess[scans.elements.point_to_element[place[row]]]) if row[0] > 2 else int(mixed.label[point])
            if own != IGNORE:
                votes[own] += 1
        assert int(target[voxel]) == (votes.index(max(votes)) if any(votes) else IGNORE)


# ---------------------------------------------------------------- what it says, parameters


def test_what_is_counted() -> None:
    made = unequal(threshold=0.7)
    batch = batch_of(made.params)
    losses(made, batch)
    scores = made.teacher(batch["all"]).logits.detach().softmax(1)
    best, sure, y = scores.argmax(1), scores.max(1).values >= 0.7, batch["all"].label
    hidden = batch["all"].rows[:, 0] >= 3
    expected = [int((hidden & sure & (best == c)).sum()) for c in range(C)]
    assert made.pseudo.take().tolist() == [*expected, int(hidden.sum())]
    said = made.measures.describe(made.measures.take())
    for c in range(C):
        share = float(sure[hidden & (best == c)].double().mean()) if (hidden & (best == c)).any() else None
        assert said["classes"]["used"][c] == (share if share is None else pytest.approx(share, rel=1e-4))
        chosen = (y != IGNORE) & sure & (best == c)
        right = float((y == best)[chosen].double().mean()) if chosen.any() else None
        assert said["classes"]["precision"][c] == (right if right is None else pytest.approx(right, rel=1e-4))
    target = torch.tensor(slow_labels(made, batch, {3, 4}))
    assert said["means"]["mixed_with_target"] == pytest.approx(float((target != IGNORE).double().mean()), rel=1e-4)


def test_defaults_are_the_published_ones_and_alpha_follows_the_steps() -> None:
    full = LaserMixParams().settled(PUBLISHED_STEPS)
    assert (full.alpha, full.warm_up, full.threshold, full.w_sup, full.w_mix, full.w_mt) == (
        0.99,
        False,
        0.9,
        1,
        1,
        200,
    )
    assert (full.fov_up, full.fov_down, full.m) == (3, -25, (3, 4, 5, 6))
    assert LaserMixParams().settled(PUBLISHED_STEPS // 10).alpha == pytest.approx(0.99**10)
    made = method(alpha=0.9)
    begun = made.teacher.head.weight.detach().clone()
    with torch.no_grad():
        made.segmenter.head.weight.add_(1)
    made.after_step(NOW)
    torch.testing.assert_close(made.teacher.head.weight.detach(), begun + 0.1)
    assert made.predictor() is made.teacher and made.student() is made.segmenter


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("semantickitti", (3, -25, (3, 4, 5, 6), 0.9, 200)),
        ("nuscenes", (10, -30, (3, 4, 5, 6), 0.95, 500)),
        ("semanticposs", (7, -16, (3, 4, 5, 6), 0.9, 200)),
    ],
)
def test_defaults_of_a_dataset(dataset: str, expected: tuple[Any, ...]) -> None:
    spec = load_spec(dataset)
    p: Any = resolve("lasermix", defaults=spec.defaults).method_params
    assert (p.fov_up, p.fov_down, p.m, p.threshold, p.w_mt) == expected
    assert spec.sensor is not None and (spec.sensor.fov_up_deg, spec.sensor.fov_down_deg) == expected[:2]
    q: Any = resolve("cps", defaults=spec.defaults).method_params
    assert (q.fov_up, q.fov_down, q.m) == expected[:3]
    typed: Any = resolve("lasermix", defaults=spec.defaults, overrides=["m=4,5,6,7,8", "fov_up=2"]).method_params
    assert (typed.m, typed.fov_up) == ((4, 5, 6, 7, 8), 2)


def test_rooms_are_refused() -> None:
    with pytest.raises(UsageError, match="spinning sensor"):
        LaserMix.check(LaserMixParams(), load_spec("s3dis"))
    LaserMix.check(LaserMixParams(), load_spec("nuscenes"))
