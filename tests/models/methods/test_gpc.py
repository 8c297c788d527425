"""GPC against loops in float64, the numbers of its specification, and what happens at its edges."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.crops import Column, Fan, Whole
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.class_bank import ClassRing
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.gpc import (
    GPC,
    GUIDED,
    PRETRAINING,
    SEMANTICKITTI_WEIGHTS,
    GPCParams,
    draw_pairs,
    draw_slots,
    hard_targets,
)
from ssl3d.models.rows import match_pairs, point_to_view

FILE = Path(__file__).parent / "gpc_cases.py"
SPEC = importlib.util.spec_from_file_location("gpc_cases", FILE)
assert SPEC and SPEC.loader
cases = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # dataclasses look there
SPEC.loader.exec_module(cases)

NOW = cases.NOW
ALL = {"num_pos": 10_000, "num_neg": 10_000, "prepare_iter": 0}


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(("classes", "pairs", "slots"), [(13, 76, 769), (19, 52, 526), (20, 50, 500)])
def test_quotas_of_the_specification(classes: int, pairs: int, slots: int) -> None:
    label = torch.arange(classes).repeat(2000)
    scan = torch.zeros_like(label)
    chosen = draw_pairs(scan, label, 1000, 1, classes)
    assert len(chosen) == 1000
    first = torch.bincount(label[chosen[: classes * pairs]], minlength=classes)
    assert first.tolist() == [pairs] * classes
    made = GPC(GPCParams(embedding=2), lambda: Segmenter(cases.Coordinates(), classes), classes)
    nothing = torch.empty(0, dtype=torch.int64)
    for negatives in made._negatives(torch.empty(0, 2), nothing, nothing, nothing):
        assert torch.bincount(negatives.label, minlength=classes).tolist() == [slots] * classes
        assert len(negatives.embedding) == classes * slots


def test_balanced_pairs_of_the_specification() -> None:
    label = torch.repeat_interleave(torch.arange(3), torch.tensor([900, 40, 60]))
    label = label[torch.randperm(1000)]
    chosen = draw_pairs(torch.zeros_like(label), label, 300, 1, 3)
    assert len(chosen) == 300
    assert torch.bincount(label[chosen[:200]]).tolist() == [100, 40, 60]
    assert len(chosen[:200].unique()) == 200 and len(chosen[200:].unique()) == 100


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 40), st.integers(1, 3), st.booleans())
def test_pairs_against_loops(seed: int, points: int, count: int, scans: int, balanced: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scan = torch.randint(0, scans, (points,), generator=generator)
    label = torch.randint(0, 4, (points,), generator=generator)
    chosen = draw_pairs(scan, label, count, scans, 4, balanced)
    total = 0
    for number in range(scans):
        of_scan = (scan == number).nonzero()[:, 0].tolist()
        expected = 0
        if balanced:
            expected = sum(min(count // 4, sum(int(label[i]) == c for i in of_scan)) for c in range(4))
        rest = min(count - expected, len(of_scan))
        drawn = chosen[scan[chosen] == number].tolist()
        assert len(drawn) == expected + rest
        assert max((drawn.count(i) for i in drawn), default=0) <= 1 + (expected > 0)
        total += len(drawn)
    assert total == len(chosen)


def ring(counts: list[int], slots: int) -> ClassRing:
    bank = ClassRing(len(counts), slots, 1)
    label = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    bank.push(torch.zeros(len(label), 1), label)
    return bank


def test_slots_are_drawn_from_those_that_were_written() -> None:
    bank = ring([9, 2, 0, 5], 10)
    torch.manual_seed(0)
    seen = torch.zeros(4, 10, dtype=torch.int64)
    for _ in range(300):
        cell, slot = draw_slots(bank, 0, 3)
        assert cell.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert len({*zip(cell.tolist(), slot.tolist(), strict=True)}) == 12
        seen[cell, slot] += 1
    assert seen[1].tolist() == [300] * 3 + [0] * 7  # two written, then the first of the others
    assert seen[2].tolist() == [300] * 3 + [0] * 7
    assert seen[0, 9] == 0 and (seen[0, :9] > 60).all() and (seen[0, :9] < 140).all()
    assert (seen[3, 5:] == 0).all() and (seen[3, :5] > 130).all()
    assert len(draw_slots(bank, 0, 50)[0]) == 40


def test_slots_drawn_evenly_from_all_classes() -> None:
    bank = ring([90, 10, 0, 100], 100)
    torch.manual_seed(0)
    cell, slot = draw_slots(bank, 50, None)
    assert [(cell < 2).sum().item(), (cell >= 2).sum().item()] == [50, 50]
    assert (slot < bank.count[cell]).all()
    assert torch.bincount(cell, minlength=4)[[2, 3]].tolist() == [0, 50]
    shares = torch.bincount(torch.cat([draw_slots(bank, 10, None)[0] for _ in range(200)]), minlength=4) / 2000
    assert shares[0] == pytest.approx(0.9, abs=0.05)
    assert len(draw_slots(bank, 10_000, None)[0]) == 400


# ---------------------------------------------------------------- the whole contrast, in loops


class Slow:
    """``L_unsup`` as it is written, when all that can be drawn is drawn: every pair, every slot."""

    def __init__(self, made: GPC) -> None:
        self.p, self.classes = made.params, made.num_classes
        self.weight = made.projector.weight.detach().clone().requires_grad_()
        self.bias = made.projector.bias.detach().clone().requires_grad_()
        bank = made.bank
        self.ring = None if bank is None else [[v.clone() for v in cell] for cell in bank.values]
        self.pointer, self.count = [0] * 2 * self.classes, [0] * 2 * self.classes

    def embedding(self, features: Tensor) -> Tensor:
        return F.normalize(features.double() @ self.weight.T + self.bias, dim=1)

    def __call__(self, crops: Any) -> Tensor:
        p, element = self.p, crops.elements.point_to_element.tolist()
        probability = crops.features[:, : self.classes].float().softmax(1)
        w, label = (value.tolist() for value in probability.max(1))
        e = self.embedding(crops.features)
        view = point_to_view(crops).tolist()
        rows = [tuple(row) for row in crops.rows.tolist()]
        origin: dict[tuple[int, int], int] = {}
        batch: list[tuple[Tensor, int, int]] = []
        for i, element_of in enumerate(element):
            if element_of < 0:
                continue
            cell = view[i] % 2 * self.classes + label[element_of]
            batch.append((e[element_of].detach(), cell, i))
            if self.ring is None:
                continue
            slot, size = self.pointer[cell], len(self.ring[cell])
            self.ring[cell][slot] = e[element_of].detach()
            origin[cell, slot] = i
            self.pointer[cell], self.count[cell] = (slot + 1) % size, min(self.count[cell] + 1, size)
        pools: list[list[tuple[Tensor, int, int]]] = [[], []]
        if self.ring is None:
            for vector, cell, i in batch:
                pools[cell // self.classes].append((vector, cell % self.classes, i))
        else:
            for cell, vectors in enumerate(self.ring):
                for slot, vector in enumerate(vectors):
                    if slot < self.count[cell] or not p.bank.mask_unwritten:
                        pools[cell // self.classes].append((vector, cell % self.classes, origin.get((cell, slot), -1)))
        loss = e.new_zeros(())
        for anchor_side, positive_side in ((0, 1), (1, 0)):
            each = []
            for i, row in enumerate(rows):
                for k, other in enumerate(rows):
                    partner = view[k] == view[i] + positive_side - anchor_side
                    if view[i] % 2 != anchor_side or not partner or other != row or element[i] < 0 or element[k] < 0:
                        continue
                    if p.conf_guidance and w[element[k]] < p.conf_thresh:
                        continue
                    anchor, positive = e[element[i]], e[element[k]]
                    positive = positive.detach() if p.stopgrad_positive else positive
                    pos = torch.exp(anchor @ positive / p.temperature)
                    neg = e.new_zeros(())
                    for vector, of_class, point in pools[positive_side]:
                        if point in (i, k) or (p.pseudo_guidance and of_class == label[element[i]]):
                            continue
                        neg = neg + torch.exp(anchor @ vector / p.temperature)
                    each.append(-torch.log(pos / (pos + neg)))
            if each:
                loss = loss + torch.stack(each).mean()
        return loss


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"bank": {"mask_unwritten": True, "slots": 40}},
        {"bank": {"enabled": False}},
        {"bank": {"enabled": False}, "balanced_negatives": False},
        {"pseudo_guidance": False, "bank": {"slots": 15}},
        {"conf_guidance": False},
        {"stopgrad_positive": False, "temperature": 0.5},
        {"balanced_positives": False, "balanced_negatives": False},
    ],
)
def test_the_contrast_equals_its_loops(params: dict[str, Any]) -> None:
    made = cases.method(**ALL, **params)
    slow = Slow(made)
    for step in range(2):
        scans = [cases.scan(30, 4, step), cases.scan(17, 4, step)]  # of the same number: views are kept apart
        crops = cases.CellSpec().prepare([crop for view in scans for crop in cases.pair(view, step)])
        assert (crops.elements.point_to_element < 0).any()
        assert len(crops.rows) > crops.elements.num_elements
        found, expected = made._contrast(crops), slow(crops)
        assert float(expected.detach()) > 0.01
        torch.testing.assert_close(found, expected)
        made.zero_grad()
        found.backward()
        slow.weight.grad = slow.bias.grad = None
        expected.backward()
        torch.testing.assert_close(made.projector.weight.grad, slow.weight.grad)
        torch.testing.assert_close(made.projector.bias.grad, slow.bias.grad)
        if slow.ring is not None:
            assert made.bank is not None
            torch.testing.assert_close(made.bank.values, torch.stack([torch.stack(cell) for cell in slow.ring]))
            assert made.bank.count.tolist() == slow.count and made.bank.pointer.tolist() == slow.pointer


# ---------------------------------------------------------------- gates and gradients


def two_points(first: list[float], second: list[float]) -> Any:
    """The crops of a scan of one point, and of another, which gives negatives."""
    other = [-4.0, -4.0, 1.5]
    views = [
        View(np.array([point], np.float32), {}, np.array([[number, 0]]), np.full(1, IGNORE, np.uint8))
        for number, point in ((0, first), (0, second), (1, other), (1, other))
    ]
    crops = cases.CellSpec().prepare(views)
    crops.features.requires_grad_()
    return crops


SURE, UNSURE = [3.0, -0.5, -0.5], [0.9, 0.2, 0.2]


@pytest.mark.parametrize(("stopgrad", "moves"), [(True, [False, True]), (False, [True, True])])
def test_the_positive_decides_and_stays_put(stopgrad: bool, moves: list[bool]) -> None:
    """w_1 > 0.75 > w_2: only direction 2 counts, whose anchor is the point in crop 2."""
    crops = two_points(SURE, UNSURE)
    made = cases.method(**ALL, conf_thresh=0.75, stopgrad_positive=stopgrad)
    loss = made._contrast(crops)
    loss.backward()
    assert float(loss.detach()) > 0
    assert [bool(crops.features.grad[element].abs().sum() > 1e-12) for element in (0, 1)] == moves
    assert made.measures.take()[:, -1].tolist() == [
        6,
        8,
    ]  # three of four directions; each pair is drawn for its class, and again


def test_where_nothing_is_sure_the_loss_is_zero_with_zero_gradients() -> None:
    crops = two_points(UNSURE, UNSURE)
    made = cases.method(**ALL, conf_thresh=1.0)
    loss = made._contrast(crops)
    loss.backward()
    assert float(loss.detach()) == 0 and not crops.features.grad.any() and not made.projector.weight.grad.any()


def test_where_nothing_overlaps_the_loss_is_zero_and_the_bank_is_filled_all_the_same() -> None:
    crops = cases.CellSpec().prepare([cases.scan(20, 0), cases.scan(20, 1)])
    crops.features.requires_grad_()
    made = cases.method(**ALL)
    loss = made._contrast(crops)
    loss.backward()
    assert float(loss.detach()) == 0 and not made.projector.weight.grad.any()
    assert made.bank is not None and int(made.bank.count.sum()) > 4


def test_without_negatives_of_other_classes_the_loss_is_zero() -> None:
    """All of one pseudo label, and nothing of others was ever seen."""
    rng = np.random.default_rng(0)
    points = rng.uniform([6, 0, 0], [6.5, 0.5, 0.5], (20, 3))
    view = View(
        points.astype(np.float32),
        {},
        np.stack([np.zeros(20, np.int64), np.arange(20)], 1),
        np.full(20, IGNORE, np.uint8),
    )
    crops = cases.CellSpec().prepare([view, view])
    loss = cases.method(**ALL, bank={"mask_unwritten": True})._contrast(crops)
    assert float(loss.detach()) == 0 and loss.requires_grad
    assert float(cases.method(**ALL)._contrast(crops).detach()) > 0  # random unit vectors stand for classes never seen


def test_the_bank_begins_with_random_unit_vectors() -> None:
    made = cases.method()
    assert made.bank is not None and made.bank.values.shape == (6, 6, 4)
    torch.testing.assert_close(made.bank.values.norm(dim=2), torch.ones(6, 6, dtype=torch.float64))
    assert len(made.bank.values.reshape(-1, 4).unique(dim=0)) == 36
    assert made.bank.count.tolist() == [0] * 6 and cases.method(bank={"enabled": False}).bank is None
    assert {"bank.values", "bank.count", "bank.pointer"} <= set(made.state_dict())


def test_at_most_so_many_of_a_class_join() -> None:
    made = cases.method(**ALL, bank={"slots": 50, "enqueue": 3})
    made._contrast(cases.CellSpec().prepare(cases.pair(cases.scan(200, 0))))
    assert made.bank is not None and made.bank.count.tolist() == [3] * 6


def test_the_same_labels_under_half_precision() -> None:
    made = cases.method(**ALL).float()
    crops = cases.CellSpec().prepare(cases.pair(cases.scan(60, 0)))
    crops.features = crops.features.float()
    torch.manual_seed(0)
    expected = float(made._contrast(crops).detach())
    other = cases.method(**ALL).float()
    crops.features = crops.features.bfloat16().float().bfloat16()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = other._contrast(crops)
    assert found.dtype == torch.float32 and float(found.detach()) == pytest.approx(expected, rel=0.05)


# ---------------------------------------------------------------- steps


def batch(labels: bool = True) -> dict[str, Any]:
    view = cases.scan(40, 9)
    return cases.batch_of([cases.labelled(view) if labels else view], cases.pair(cases.scan(40, 0)))


def losses(made: GPC, of: dict[str, Any], now: Progress = NOW) -> dict[str, Tensor]:
    (found,) = made.step(of, now)
    return found


def test_losses_are_weighted() -> None:
    torch.manual_seed(1)
    one = losses(cases.method(lambda_unsup=1.0, **ALL), batch())
    other = losses(cases.method(lambda_sup=3.0, **ALL), batch())
    assert float(other["ce"].detach()) == pytest.approx(3 * float(one["ce"].detach()))
    assert float(other["contrast"].detach()) == pytest.approx(0.1 * float(one["contrast"].detach()))


def test_warm_up_draws_no_crops() -> None:
    made = cases.method(prepare_iter=5)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert list(losses(made, batch(), Progress(4, 20, phase=GUIDED))) == ["ce"]
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert list(losses(made, batch(), Progress(5, 20, phase=GUIDED))) == ["ce", "contrast"]


def test_no_label_at_all_is_an_exact_zero() -> None:
    found = losses(cases.method(**ALL, hard_point_ce=0.9), batch(labels=False))
    assert float(found["ce"].detach()) == 0 and found["ce"].requires_grad and float(found["contrast"].detach()) > 0


def test_labels_of_crops_are_not_learnt_from() -> None:
    found = []
    for garbage in (False, True):
        made, of = cases.method(**ALL), batch()
        if garbage:
            of["crops"].label = torch.arange(len(of["crops"].label)) % 3
        value = losses(made, of)
        sum(value.values()).backward()  # type: ignore[union-attr]
        found.append([*value.values(), made.projector.weight.grad, *made.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_is_counted() -> None:
    made = cases.method(**ALL, conf_thresh=0.75)
    of = batch()
    losses(made, of)
    crops, seen = of["crops"], of["labelled"]
    w, label = crops.features.float().softmax(1).max(1)
    counts = made.pseudo.take()
    assert counts.tolist() == [*torch.bincount(label[w >= 0.75], minlength=3).tolist(), crops.elements.num_elements]
    sums, totals = made.measures.take()
    assert sums[:3].tolist() == counts[:3].tolist()
    assert totals[:3].tolist() == torch.bincount(label, minlength=3).tolist()
    target = cases.CellSpec().labels(seen, seen.label)
    w, label = seen.features.float().softmax(1).max(1)
    counted = (w >= 0.75) & (target != IGNORE)
    assert totals[3:6].tolist() == torch.bincount(label[counted], minlength=3).tolist()
    assert sums[3:6].tolist() == torch.bincount(label[counted & (label == target)], minlength=3).tolist()
    one, two = match_pairs(crops)
    inside = (crops.elements.point_to_element[one] >= 0) & (crops.elements.point_to_element[two] >= 0)
    assert (sums[6], totals[6]) == (2 * int(inside.sum()), 1)  # each twice: its class's share, and the rest
    assert made.live.take().sum() == int((target != IGNORE).sum())


def test_hard_points() -> None:
    logits = torch.tensor([[9.0, 0], [1, 0], [9, 0], [0, 1.0]])
    assert hard_targets(logits, torch.tensor([0, 1, IGNORE, 0]), 0.9).tolist() == [IGNORE, 1, IGNORE, 0]
    assert hard_targets(logits, torch.tensor([IGNORE, IGNORE, 0, IGNORE]), 0.9).tolist() == [IGNORE, IGNORE, 0, IGNORE]
    assert hard_targets(logits, torch.tensor([0, IGNORE, 0, IGNORE]), 0.9).tolist() == [0, *[IGNORE] * 3]
    assert hard_targets(logits, torch.full((4,), IGNORE), 0.9).tolist() == [IGNORE] * 4
    assert hard_targets(logits[:0], torch.empty(0, dtype=torch.int64), 0.9).tolist() == []
    assert torch.isfinite(logits).all()


def test_hard_points_are_for_the_guided_phase() -> None:
    made = cases.method(**ALL, hard_point_ce=0.8, pretrain=0.5)
    of = batch()
    everything = losses(made, {"labelled": of["labelled"]}, Progress(0, 5, phase=PRETRAINING))
    assert torch.equal(everything["ce"], losses(cases.method(**ALL), of)["ce"])
    logits, target = of["labelled"].features, cases.CellSpec().labels(of["labelled"], of["labelled"].label)
    hard = (target != IGNORE) & (logits.softmax(1).amax(1) < 0.8)
    assert 0 < int(hard.sum()) < int((target != IGNORE).sum())
    torch.testing.assert_close(losses(made, of)["ce"], F.cross_entropy(logits[hard], target[hard]))


def test_class_weights() -> None:
    of = batch()
    of["labelled"].label[:3] = torch.tensor([0, 1, 2])
    plain, weighted = (
        float(losses(cases.method(**ALL, ce_class_weights=w), of)["ce"].detach()) for w in (None, (1.0, 5.0, 0.0))
    )
    target = cases.CellSpec().labels(of["labelled"], of["labelled"].label)
    logits = of["labelled"].features
    expected = F.cross_entropy(logits, target, torch.tensor([1.0, 5, 0]).double(), ignore_index=IGNORE)
    assert weighted == pytest.approx(float(expected)) and weighted != pytest.approx(plain)
    with pytest.raises(ValueError, match="2 class weights do not fit 3 classes"):
        cases.method(ce_class_weights=(1.0, 2.0))


# ---------------------------------------------------------------- parameters and phases


def test_what_depends_on_the_steps() -> None:
    def settled(steps: int, **params: Any) -> tuple[int | None, float | None]:
        found = GPCParams(**params).settled(steps)
        return found.prepare_iter, found.lr_scale

    assert [settled(steps) for steps in (38_000, 8000, 2000, 10)] == [(200, 1), (200, 1), (50, 1), (0, 1)]
    assert settled(2000, pretrain=0.47) == (0, 0.1)
    assert settled(2000, pretrain=0.47, prepare_iter=7, lr_scale=0.5) == (7, 0.5)


def test_phases_share_the_steps() -> None:
    for share, steps, expected in ((0, 100, [0, 100]), (0.47, 100, [47, 53]), (0.99, 10, [9, 1]), (0.5, 1, [0, 1])):
        made = cases.method(pretrain=share)
        phases = made.phases(steps)
        assert [phase.steps for phase in phases] == expected
        assert phases[PRETRAINING].trainable == [made.segmenter] and phases[GUIDED].trainable is None
        assert [phase.lr_scale for phase in phases] == [1, 0.1 if share else 1]


def test_bad_parameters_are_refused() -> None:
    for wrong in (
        {"pretrain": 1},
        {"crop": "cube"},
        {"temperature": 0},
        {"conf_thresh": 1.1},
        {"ce_class_weights": (-1,)},
    ):
        with pytest.raises(ValidationError):
            GPCParams(**wrong)


def test_what_does_not_suit_a_dataset_is_refused() -> None:
    kitti, rooms = load_spec("semantickitti"), load_spec("s3dis")
    GPC.check(GPCParams(crop="fan", ce_class_weights="semantickitti"), kitti)
    GPC.check(GPCParams(crop="column", ce_class_weights=(1.0,) * 13), rooms)
    with pytest.raises(UsageError, match="spinning sensor") as caught:
        GPC.check(GPCParams(crop="fan"), rooms)
    assert "gpc.crop=column" in str(caught.value.hint)
    for weights, spec in (("semantickitti", rooms), ((1.0,) * 12, rooms), ("semantickitti", load_spec("semanticposs"))):
        with pytest.raises(UsageError, match="class weights do not fit"):
            GPC.check(GPCParams(ce_class_weights=weights), spec)
    assert tuple(SEMANTICKITTI_WEIGHTS) == kitti.classes and GPCParams().class_weights is None


@pytest.mark.parametrize(
    ("name", "kind"), [("semantickitti", Fan), ("nuscenes", Fan), ("s3dis", Column), ("scannet", Column)]
)
def test_datasets_say_how_to_crop(name: str, kind: type) -> None:
    words = dict(item.split("=", 1) for item in load_spec(name).defaults)
    crops = GPCParams(crop=words["gpc.crop"]).crops
    assert isinstance(crops, kind) and isinstance(GPCParams().crops, Whole)
    assert ("gpc.pretrain" in words) == (kind is Fan)


# ---------------------------------------------------------------- views


def scene(seed: int, labels: bool) -> View:
    rng = np.random.default_rng(seed)
    rows = np.stack([np.full(4000, seed), np.arange(4000)], 1)
    label = rng.integers(0, 3, 4000) if labels else np.full(4000, IGNORE)
    return View(rng.uniform(-5, 5, (4000, 3)).astype(np.float32), {}, rows, label.astype(np.uint8))


def test_views_of_the_phases() -> None:
    params = GPCParams(crop="column", crop_min_points=100, crop_min_overlap=50)
    augment = Augmentation(AugmentParams())
    labelled, unlabelled = [scene(0, True), scene(1, True)], [scene(2, False), scene(3, False)]
    rng = np.random.default_rng(0)
    first = GPC.views(params, labelled, unlabelled, augment, rng, PRETRAINING)
    assert list(first) == ["labelled"] and [len(view) for view in first["labelled"]] == [4000, 4000]
    guided = GPC.views(params, labelled, unlabelled, augment, rng, GUIDED)
    assert list(guided) == ["labelled", "crops"]
    assert all(100 < len(view) < 1000 for view in guided["labelled"])
    assert [view.rows[0, 0] for view in guided["crops"]] == [2, 2, 3, 3]
    for one, two, view in ((*guided["crops"][:2], unlabelled[0]), (*guided["crops"][2:], unlabelled[1])):
        shared = np.intersect1d(one.rows[:, 1], two.rows[:, 1])
        assert len(shared) > 50
        seen = [crop.points[np.isin(crop.rows[:, 1], shared)] for crop in (one, two)]
        assert np.abs(seen[0] - seen[1]).max() > 0.1  # each has an augmentation of its own
        assert (one.label == IGNORE).all() and len(one) < len(view)
    whole = GPC.views(params.model_copy(update={"crop_labelled": False}), labelled, unlabelled, augment, rng, GUIDED)
    assert [len(view) for view in whole["labelled"]] == [4000, 4000]


def test_labels_on_some_points_of_every_scan() -> None:
    """There is no unlabelled scan: the labelled ones take their place."""
    params = GPCParams(crop="none")
    views = GPC.views(params, [scene(5, True)], [], Augmentation(AugmentParams()), np.random.default_rng(0), GUIDED)
    assert [len(view) for view in views["crops"]] == [4000, 4000]
    assert [view.rows[0, 0] for view in views["crops"]] == [5, 5]
    crops = cases.CellSpec().prepare(views["crops"])
    made = cases.method(**ALL)
    made._contrast(crops)
    assert made.pseudo.take()[-1] == 0  # all of these have a label


# ---------------------------------------------------------------- processes


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """All cases in two processes."""
    folder = tmp_path_factory.mktemp("both")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, str(FILE), str(number), str(folder)], env=environment, stderr=subprocess.PIPE)
        for number in range(2)
    ]
    try:
        problems = [process.communicate(timeout=300)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(problems)
    first, second = (torch.load(folder / f"{number}.pt") for number in range(2))
    return first, second


@pytest.mark.parametrize("name", [*cases.SETTINGS, "hard targets"])
def test_two_processes_are_one(name: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    alone = cases.hard() if name == "hard targets" else cases.train(cases.SETTINGS[name])
    first, second = (part["found"][name] for part in both)
    assert alone.keys() == first.keys() == second.keys()
    for key, expected in alone.items():
        a, b = first[key], second[key]
        if key.startswith("same"):
            assert torch.equal(a, b), key
            torch.testing.assert_close(a, expected, msg=lambda m, k=key: f"{k}: {m}")
        else:
            found = a + b if key.startswith("sum") else torch.cat([a, b])
            torch.testing.assert_close(found, expected, msg=lambda m, k=key: f"{k}: {m}")
    if name == "bank":
        assert float(alone["sum contrast 1"]) > 0.01 and math.isfinite(float(alone["sum ce 1"]))


def test_what_two_processes_draw_at_random_is_the_same_bank(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, two = (part["bank"] for part in both)
    assert one["bank.count"].tolist() == [15] * 6  # 5 of a class and step, of both processes together
    assert all(torch.equal(value, two[name]) for name, value in one.items())
