"""Densities, anchors and the contrast with them against the numbers of DDSEmi's specification, and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl3d.models import anchors
from ssl3d.models.anchors import bank_density, class_density, point_to_anchor, weighted_anchors

FIVE = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]])
ALL = torch.ones(1, 5, dtype=torch.bool)
CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_densities_of_the_specification() -> None:
    assert bank_density(FIVE, ALL, 2)[0].tolist() == pytest.approx([0.70, 0.88, 0.88, 0.70, -0.30])
    with_itself = class_density(FIVE[0], torch.zeros(5, dtype=torch.int64), FIVE, ALL, 2)
    assert with_itself.tolist() == pytest.approx([0.90, 0.98, 0.98, 0.90, 0.50])
    point = class_density(torch.tensor([[0.0, 2.0]]), torch.tensor([0]), FIVE, ALL, 2)
    assert point.tolist() == pytest.approx([0.90])


def test_anchor_of_the_specification() -> None:
    density = bank_density(FIVE, ALL, 2)
    anchor, chosen = weighted_anchors(FIVE, ALL, density, density, 3)
    assert chosen.tolist() == [[1, 2, 0]]  # 0 and 3 are equally dense: the lower one
    assert anchor[0].tolist() == pytest.approx([0.785366, 0.500813], abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(1.0, [0.407606, 1.407606, 2.407606]), (0.5, [0.142932, 2.142932, 4.142932])],
)
def test_contrast_of_the_specification(tau: float, expected: list[float]) -> None:
    f = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    found = point_to_anchor(f, torch.arange(3), CROSS, torch.ones(3, dtype=torch.bool), tau)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_class_without_anchor_is_in_no_denominator() -> None:
    f, there = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([True, True, False])
    loss = point_to_anchor(f, torch.tensor([0]), CROSS, there)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)
    loss.sum().backward()
    assert f.grad is not None and bool(torch.isfinite(f.grad).all())
    only = point_to_anchor(f, torch.tensor([1]), CROSS, torch.tensor([False, True, False]))
    assert only.item() == 0  # a single anchor is no contrast


def test_no_row_is_an_empty_loss_that_is_attached() -> None:
    f = torch.zeros(0, 2, requires_grad=True)
    loss = point_to_anchor(f, torch.zeros(0, dtype=torch.int64), CROSS, torch.zeros(3, dtype=torch.bool)).sum()
    loss.backward()
    assert loss.item() == 0 and f.grad is not None
    assert class_density(f, torch.zeros(0, dtype=torch.int64), FIVE, ALL).shape == (0,)


def slow_density(feature: Tensor, slots: list[Tensor], k: int) -> float:
    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b) / (max(float(a.norm()), 1e-8) * max(float(b.norm()), 1e-8))

    nearest = sorted((cosine(feature, other) for other in slots), reverse=True)[:k]
    return sum(nearest) / len(nearest) if nearest else 1.0


@st.composite
def banks(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    classes, slots, k = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    bank = torch.randn(classes, slots, 3, generator=generator, dtype=torch.float64)
    valid = torch.rand(classes, slots, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    bank[~valid] = 1e6  # what a slot holds that was never written does not matter
    return bank, valid, k


@settings(max_examples=60, deadline=None)
@given(banks(), st.integers(0, 999), st.sampled_from([1, 100, 10_000]))
def test_densities_equal_loops(case: tuple[Tensor, Tensor, int], seed: int, chunk: int) -> None:
    bank, valid, k = case
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 400, (), generator=generator)) if chunk > 1 else 5
    label = torch.randint(0, len(bank), (count,), generator=generator)
    features = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    features[::7] = 0
    expected = [slow_density(f, list(bank[c][valid[c]]), k) for f, c in zip(features, label, strict=True)]
    found = class_density(features, label, bank, valid, k, chunk=chunk)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    inside = bank_density(bank, valid, k, chunk)
    for c in range(len(bank)):
        for s in range(bank.shape[1]):
            others = [bank[c, o] for o in range(bank.shape[1]) if o != s and valid[c, o]]
            assert inside[c, s].item() == pytest.approx(slow_density(bank[c, s], others, k) if valid[c, s] else 0.0)


@settings(max_examples=60, deadline=None)
@given(banks(), st.integers(1, 6))
def test_anchors_equal_loops(case: tuple[Tensor, Tensor, int], most: int) -> None:
    bank, valid, _ = case
    score = (bank[..., 0].abs() * 3).round()  # ties
    weight = bank[..., 1].abs() + 1e-6
    anchors, _ = weighted_anchors(bank, valid, score, weight, most)
    for c in range(len(bank)):
        slots = [s for s in range(bank.shape[1]) if valid[c, s]]
        slots = sorted(slots, key=lambda s: (-float(score[c, s]), s))[:most]
        expected = torch.zeros(3, dtype=torch.float64)
        for s in slots:
            expected += weight[c, s] * bank[c, s]
        expected /= sum(float(weight[c, s]) for s in slots) if slots else 1.0
        torch.testing.assert_close(anchors[c], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from([0.5, 1.0, 3.0]))
def test_contrast_equals_loops(seed: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    anchors = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    there = torch.tensor([True, False, True, True, False])
    label = torch.tensor([0, 2, 3])[torch.randint(0, 3, (20,), generator=generator)]
    found = point_to_anchor(f, label, anchors, there, tau)
    for i in range(20):
        whole = sum(math.exp(float(f[i] @ anchors[c]) / tau) for c in (0, 2, 3))
        mine = math.exp(float(f[i] @ anchors[label[i]]) / tau)
        assert found[i].item() == pytest.approx(-math.log(mine / whole))


@given(
    st.integers(0, 40),
    st.integers(1, 30),
    st.integers(1, 12),
    st.integers(0, 999),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_both_ways_to_the_largest_are_equal(rows: int, slots: int, k: int, seed: int, dtype: torch.dtype) -> None:
    """A loop on the CPU, topk elsewhere: also with equal values, and with fewer that count than are asked for."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 5, (rows, slots), generator=generator).to(dtype)
    values = (values / 4).masked_fill(torch.rand(rows, slots, generator=generator) < seed / 999, -torch.inf)
    torch.testing.assert_close(anchors._by_loop(values, k), anchors._by_topk(values, k))


def test_the_order_of_slots_does_not_matter() -> None:
    torch.manual_seed(0)
    bank, valid = torch.randn(3, 40, 5), torch.rand(3, 40) < 0.8
    order = torch.randperm(40)
    here, there = (
        weighted_anchors(b, v, (d := bank_density(b, v)), d.clamp(min=1e-6))[0]
        for b, v in ((bank, valid), (bank[:, order], valid[:, order]))
    )
    torch.testing.assert_close(here, there)


def test_half_precision_is_computed_in_single() -> None:
    torch.manual_seed(0)
    f, label = 300 * torch.randn(50, 8), torch.randint(0, 2, (50,))
    anchors, there = 300 * torch.randn(2, 8), torch.ones(2, dtype=torch.bool)
    bank, valid = torch.randn(2, 30, 8), torch.ones(2, 30, dtype=torch.bool)
    exact = class_density(f, label, bank, valid)
    half = point_to_anchor(f.half(), label, anchors, there)  # dot products of 1e6: infinite in half precision
    assert half.dtype == torch.float32 and bool(torch.isfinite(half).all())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_density(f, label, bank, valid), exact)
        same = point_to_anchor(f, label, anchors, there)
    assert torch.equal(same, point_to_anchor(f, label, anchors, there))


def test_density_anchors_find_the_main_mode() -> None:
    """300 features of the main mode, 100 of a second one, 100 outliers: closer to the main mode than the plain mean."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        main, second = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator), dim=1)
        blobs = [main + 0.1 * torch.randn(300, 3, generator=generator), torch.randn(100, 3, generator=generator)]
        blobs.append(second + 0.1 * torch.randn(100, 3, generator=generator))
        bank, valid = torch.cat(blobs)[None], torch.ones(1, 500, dtype=torch.bool)
        density = bank_density(bank, valid)
        anchor = weighted_anchors(bank, valid, density, density.clamp(min=1e-6))[0][0]
        angle, plain = (torch.cosine_similarity(v, main, dim=0) for v in (anchor, bank[0].mean(0)))
        assert angle > plain
