from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.scan import IGNORE
from ssl3d.models.losses.lovasz import lovasz_softmax


def test_worked_numbers() -> None:
    p = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]], requires_grad=True)
    loss = lovasz_softmax(p, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(0.433333, abs=1e-6)
    loss.backward()
    # d loss / d p = -+ gradient / 2 classes: minus where the row is of the class
    assert p.grad is not None
    expected_0, expected_1 = [-0.333333, -0.5, 0.166667], [0.0, 0.5, -0.5]
    assert p.grad[:, 0].tolist() == pytest.approx([g / 2 for g in expected_0], abs=1e-6)
    assert p.grad[:, 1].tolist() == pytest.approx([g / 2 for g in expected_1], abs=1e-6)


def test_perfect_prediction_is_zero() -> None:
    target = torch.tensor([0, 2, 1, 2])
    assert lovasz_softmax(torch.eye(3)[target], target).item() == 0


def reference(p: np.ndarray, y: np.ndarray) -> float:
    """The definition, literally: sums of set functions in sorted order."""
    losses = []
    for c in np.unique(y):
        member = (y == c).astype(float)
        errors = np.abs(member - p[:, c])
        order = np.argsort(-errors, kind="stable")
        total, previous, loss = member.sum(), 0.0, 0.0
        for i in range(len(order)):
            g = member[order[: i + 1]]
            jaccard = 1 - (total - g.sum()) / (total + (1 - g).sum())
            loss += errors[order[i]] * (jaccard - previous)
            previous = jaccard
        losses.append(loss)
    return float(np.mean(losses))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_equal_to_the_definition(seed: int) -> None:
    torch.manual_seed(seed)
    p = torch.randn(30, 4, dtype=torch.float64).softmax(1)
    y = torch.randint(0, 4, (30,))
    y[torch.rand(30) < 0.3] = IGNORE
    y[0] = 3
    visible = y != IGNORE
    expected = reference(p[visible].numpy(), y[visible].numpy())
    assert lovasz_softmax(p, y).item() == pytest.approx(expected, abs=1e-12)


def test_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 3, (12,))
    assert torch.autograd.gradcheck(lambda z: lovasz_softmax(z.softmax(1), y), (logits,))


def test_nothing_visible_is_an_exact_zero_in_the_graph() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = lovasz_softmax(logits.softmax(1), torch.full((3,), IGNORE))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros(3, 2))


def test_half_precision_is_computed_in_float32() -> None:
    p = torch.rand(50, 5).half()
    y = torch.randint(0, 5, (50,))
    assert torch.equal(lovasz_softmax(p, y), lovasz_softmax(p.float(), y))
