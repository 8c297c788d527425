"""Contrast with unreliable features: the worked numbers, and all of it against loops over elements and classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.elements import ElementMap
from ssl3d.models.losses.unreliable import UnreliableContrast, entropy, percentiles
from ssl3d.models.rows import random_keys

FOUR = torch.tensor([[0.97, 0.02, 0.01], [0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3]])


def test_entropies_and_percentiles_of_the_specification() -> None:
    found = entropy(FOUR)
    assert found.tolist() == pytest.approx([0.153838, 0.639032, 1.029653, 1.098612], abs=1e-6)
    low, high = percentiles(found, (0.4, 0.8)).tolist()
    assert (low, high) == (pytest.approx(0.717156, abs=1e-6), pytest.approx(1.057237, abs=1e-6))
    assert (found < low).tolist() == [True, True, False, False]
    assert (found > high).tolist() == [False, False, False, True]
    assert entropy(torch.tensor([[1.0, 0.0]])).tolist() == [0]


def test_percentiles_are_numpys_and_nothing_has_none() -> None:
    values = torch.randn(101, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(values.numpy(), [0.0, 0.123, 0.8, 1.0])
    assert percentiles(values, (0.0, 0.123, 0.8, 1.0)).numpy() == pytest.approx(expected, rel=1e-5)
    assert percentiles(values[:1], (0.4, 0.8)).tolist() == [values[0].item()] * 2
    assert percentiles(values[:0], (0.4, 0.8)).isnan().all()


def identity(count: int, scan: int = 0) -> tuple[ElementMap, Tensor]:
    rows = torch.stack([torch.full((count,), scan), torch.arange(count)], 1)
    return ElementMap(torch.arange(count), count), rows


def test_the_loss_of_the_specification() -> None:
    """Anchors that equal their positives, and banks of two orthogonal features: of each class 0.239545."""
    made = UnreliableContrast(2, 4, 8, negatives=2, ranks=(1, 2))
    features = torch.eye(4)[[0, 1]].requires_grad_()
    for c in range(2):
        made.bank.push(torch.eye(4)[[2, 3]], torch.tensor([c, c]))
    made.push = 1
    elements, rows = identity(2)
    p = torch.eye(2)
    found = made(
        features, features.detach(), p, torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool), elements, rows, 0
    )
    assert float(found.detach()) == pytest.approx(0.239545, abs=1e-6)
    assert made.bank.count.tolist() == [2, 2]  # no element is a negative: labels are their first choice
    found.backward()
    assert features.grad is not None


def batch(seed: int, count: int = 80, classes: int = 6, channels: int = 5) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    p = torch.randn(count, classes, generator=rng).mul(2).softmax(1)
    target = torch.randint(classes, (count,), generator=rng)
    target[torch.rand(count, generator=rng) < 0.6] = IGNORE
    sizes = torch.randint(1, 4, (count,), generator=rng)  # points of each element
    index = torch.cat([torch.repeat_interleave(torch.arange(count), sizes), torch.tensor([-1, -1])])
    rows = torch.stack([torch.full((len(index),), seed), torch.randperm(len(index), generator=rng)], 1)
    return {
        "student": torch.randn(count, channels, generator=rng).requires_grad_(),
        "teacher": torch.randn(count, channels, generator=rng),
        "probabilities": p,
        "target": target,
        "guided": torch.rand(count, generator=rng) < 0.9,
        "elements": ElementMap(index, count),
        "rows": rows,
        "seed": seed,
    }


def reference(made: UnreliableContrast, given: dict[str, Any], bank: list[list[Tensor]]) -> float:
    """Section 3, one element after the other. ``bank``: of each class its features, the latest last."""
    p, target, guided = given["probabilities"].double(), given["target"], given["guided"]
    index, keys = given["elements"].point_to_element, random_keys(given["rows"], given["seed"])
    count, classes = p.shape
    key = [min((int(k) for k, e in zip(keys, index, strict=True) if e == m), default=0) for m in range(count)]
    h = [-sum(float(q) * math.log(float(q)) for q in row if q > 0) for row in p]
    of_points = [h[e] for e in index.tolist() if e >= 0 and guided[e] and target[e] == IGNORE]
    low, high = np.quantile(of_points, made.shares)
    order = [sorted(range(classes), key=lambda c, row=row: -float(row[c])) for row in p]
    member: dict[int, list[int]] = {c: [] for c in range(classes)}
    negative: dict[int, list[int]] = {c: [] for c in range(classes)}
    for m in range(count):
        if not guided[m]:
            continue
        if target[m] != IGNORE:
            member[int(target[m])].append(m)
            for c in order[m][: made.ranks[0]]:
                if c != target[m]:
                    negative[c].append(m)
        elif h[m] < low:
            member[order[m][0]].append(m)
        elif h[m] > high:
            for c in order[m][made.ranks[0] : made.ranks[1]]:
                negative[c].append(m)
    anchors = {}
    for c in range(classes):
        drawn = sorted(sorted(negative[c], key=lambda m: key[m])[: made.push])
        bank[c] = [*bank[c], *(given["teacher"][m].double() for m in drawn)][-made.bank.slots :]
        sure = [m for m in member[c] if p[m, c] > made.sure]
        anchors[c] = sorted(sorted(sure, key=lambda m: key[m])[: made.anchors])
    present = [c for c in range(classes) if anchors[c]]
    if len(present) < 2:
        return 0.0
    # the slot that each draw names
    flat = sorted((m, c) for c in present if bank[c] for m in anchors[c])
    number = random_keys(torch.cartesian_prod(torch.arange(len(flat)), torch.arange(made.negatives)), ~given["seed"])
    drawn_keys = number.reshape(len(flat), made.negatives)
    means = []
    for c in present:
        if not bank[c]:
            continue
        positive = torch.stack([given["teacher"][m].double() for m in member[c]]).mean(0)
        each = []
        for m in anchors[c]:
            anchor = given["student"][m].detach().double()
            slots = [int(k) % len(bank[c]) for k in drawn_keys[flat.index((m, c))]]
            ring = made.bank.values[c].double()
            top = math.exp(float(F.cosine_similarity(anchor, positive, dim=0)) / made.tau)
            rest = sum(math.exp(float(F.cosine_similarity(anchor, ring[s], dim=0)) / made.tau) for s in slots)
            each.append(-math.log(top / (top + rest)))
        means.append(sum(each) / len(each))
    return sum(means) / len(means) if means else 0.0


@pytest.mark.parametrize("limits", [{}, {"anchors": 2, "push": 3, "negatives": 7, "tau": 0.1}])
def test_steps_equal_the_loops(limits: dict[str, Any]) -> None:
    made = UnreliableContrast(6, 5, 12, low=0.5, high=0.7, ranks=(2, 5), **{"anchors": 8, "push": 6} | limits)
    bank: list[list[Tensor]] = [[] for _ in range(6)]
    for seed in range(4):
        given = batch(seed)
        found = made(**given)
        assert float(found.detach()) == pytest.approx(reference(made, given, bank), rel=1e-5)
        for c in range(6):
            held, count, pointer = made.bank.values[c], int(made.bank.count[c]), int(made.bank.pointer[c])
            in_order = held[:count].roll(-pointer, 0) if count == made.bank.slots else held[:count]
            expected = torch.stack(bank[c]).float() if bank[c] else held[:0]
            torch.testing.assert_close(in_order, expected)
        found.backward()
        gradient = given["student"].grad
        assert gradient is not None and 0 < int(gradient.any(1).sum()) <= 6 * made.anchors


def test_draws_do_not_depend_on_the_order_of_points_or_move_a_generator() -> None:
    given, before = batch(3), torch.get_rng_state()
    made = UnreliableContrast(6, 5, 40, anchors=3, push=5, ranks=(2, 5))
    first = float(made(**given).detach())
    assert torch.equal(before, torch.get_rng_state())
    again = UnreliableContrast(6, 5, 40, anchors=3, push=5, ranks=(2, 5))
    order = torch.randperm(len(given["rows"]))
    elements = ElementMap(given["elements"].point_to_element[order], given["elements"].num_elements)
    assert float(again(**given | {"rows": given["rows"][order], "elements": elements}).detach()) == first
    other = UnreliableContrast(6, 5, 40, anchors=3, push=5, ranks=(2, 5))
    assert float(other(**given | {"seed": 4}).detach()) != first


@pytest.mark.parametrize("what", ["one class", "no label and equal entropies", "empty bank", "nothing guided"])
def test_edges_are_exact_zeros_attached_to_the_graph(what: str) -> None:
    given = batch(0)
    made = UnreliableContrast(6, 5, 12, ranks=(2, 5))
    if what == "one class":
        given["probabilities"] = F.one_hot(torch.zeros(80, dtype=torch.int64), 6) * 0.9 + 0.1 / 6
        given["target"] = torch.zeros(80, dtype=torch.int64)
        made.bank.push(torch.randn(6, 5), torch.arange(6))
    elif what == "no label and equal entropies":
        given["probabilities"] = torch.full((80, 6), 1 / 6)
        given["target"] = torch.full((80,), IGNORE)
    elif what == "empty bank":
        given["target"] = given["probabilities"].argmax(1)  # reliable or not, nobody is a negative
        made.ranks = (1, 2)
    else:
        given["guided"] = torch.zeros(80, dtype=torch.bool)
    found = made(**given)
    assert float(found.detach()) == 0
    found.backward()
    assert given["student"].grad is not None and not given["student"].grad.any()
    assert not made.bank.count.any() or what == "one class"


def test_half_precision_features_do_not_overflow() -> None:
    given = batch(1)
    given["student"] = (given["student"].detach() * 300).half().requires_grad_()
    given["teacher"] = (given["teacher"] * 300).half()
    made = UnreliableContrast(6, 5, 12, ranks=(2, 5), tau=0.01)
    for _ in range(2):
        found = made(**given)
    assert found.dtype == torch.float32 and torch.isfinite(found)


def test_autocast_changes_no_bit() -> None:
    found = []
    for enabled in (False, True):
        made = UnreliableContrast(6, 5, 12, ranks=(2, 5))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            made(**batch(0))
            found.append(made(**batch(1)).detach())
    assert torch.equal(*found) and found[0] > 0
