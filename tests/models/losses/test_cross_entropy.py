from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.losses.cross_entropy import cross_entropy


def test_worked_number() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 1, 0], [5, 5, 5]])
    assert cross_entropy(logits, torch.tensor([0, 2, IGNORE])).item() == pytest.approx(0.895495, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_equal_to_torch(seed: int, weighted: bool) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(20, 4, dtype=torch.float64)
    target = torch.randint(0, 4, (20,))
    target[torch.rand(20) < 0.3] = IGNORE
    target[0] = 1
    weights = torch.rand(4, dtype=torch.float64) + 0.1 if weighted else None
    expected = F.cross_entropy(logits, target, weights, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, target, weights), expected)


def test_nothing_visible_is_an_exact_zero_in_the_graph() -> None:
    logits = torch.full((3, 2), float("inf"), requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), IGNORE))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros(3, 2))


def test_rows_without_a_label_take_no_part() -> None:
    logits = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, IGNORE]))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and torch.equal(logits.grad[1], torch.zeros(2))


def test_classes_of_zero_weight() -> None:
    logits = torch.randn(2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and bool((logits.grad == 0).all())


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(50, 5).half()
    target = torch.randint(0, 5, (50,))
    loss = cross_entropy(logits, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, cross_entropy(logits.float(), target))
