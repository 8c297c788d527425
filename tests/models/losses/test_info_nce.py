"""InfoNCE of points: the numbers of GPC's specification, and loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.losses.info_nce import BLOCKS, info_nce

ANCHOR, POSITIVE = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]])
NEGATIVES = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
ZERO = torch.tensor([0])


def slow(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor,
    t: float = 0.1,
    anchor_label: Tensor | None = None,
    negative_label: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """The formula as it is written, one anchor and one negative after another."""
    losses = []
    for a in range(len(anchor)):
        pos = torch.exp(anchor[a] @ positive[a] / t)
        neg = anchor.new_zeros(())
        for j in range(len(negatives)):
            other = anchor_label is None or negative_label is None or anchor_label[a] != negative_label[j]
            if other and (same is None or same[a] != j):
                neg = neg + torch.exp(anchor[a] @ negatives[j] / t)
        losses.append(-torch.log(pos / (pos + neg)))
    return torch.stack(losses) if losses else anchor.sum(1)


def drawn(anchors: int, negatives: int, channels: int = 5, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, channels, dtype=torch.float64, generator=generator), dim=1)

    def numbers(low: int, high: int, rows: int) -> Tensor:
        return torch.randint(low, high, (rows,), generator=generator)

    return {
        "anchor": unit(anchors),
        "positive": unit(anchors),
        "negatives": unit(negatives),
        "anchor_label": numbers(0, 3, anchors),
        "negative_label": numbers(0, 3, negatives),
        "same": numbers(-1, negatives, anchors),
    }


@pytest.mark.parametrize(
    ("labels", "first", "expected"),
    [
        ([1, 2, 0], [0.0, 1.0], 0.000335422),
        (None, [0.0, 1.0], 0.127223446),
        ([1, 2, 0], [0.8, 0.6], math.log(2)),
    ],
)
def test_numbers_of_the_specification(labels: list[int] | None, first: list[float], expected: float) -> None:
    negatives = torch.cat([torch.tensor([first]), NEGATIVES[1:]])
    guide = {} if labels is None else {"anchor_label": ZERO, "negative_label": torch.tensor(labels)}
    assert float(info_nce(ANCHOR, POSITIVE, negatives, 0.1, **guide)) == pytest.approx(expected, rel=2e-6)


def test_the_pair_itself_is_no_negative() -> None:
    negatives = torch.cat([POSITIVE, NEGATIVES])
    found = info_nce(ANCHOR.repeat(2, 1), POSITIVE.repeat(2, 1), negatives, same=torch.tensor([0, -1]))
    assert found.tolist() == pytest.approx([0.127223446, 0.127223446 + math.log1p(1 / math.exp(0.127223446))], rel=1e-5)


@pytest.mark.parametrize(("anchors", "negatives"), [(7, 9), (2 * BLOCKS["cpu"] + 3, 4), (1, 1), (3, 0), (0, 5), (0, 0)])
@pytest.mark.parametrize("t", [0.1, 1.0])
def test_equals_the_loops_with_their_gradients(anchors: int, negatives: int, t: float) -> None:
    batch = drawn(anchors, negatives) if negatives else drawn(anchors, 1)
    if not negatives:
        batch |= {"negatives": batch["negatives"][:0], "negative_label": ZERO[:0], "same": batch["same"].fill_(-1)}
    weights = torch.arange(1.0, anchors + 1, dtype=torch.float64)
    gradients = []
    values = []
    for loss in (slow, info_nce):
        leaves = [batch[name].clone().requires_grad_() for name in ("anchor", "positive")]
        labels = (batch["anchor_label"], batch["negative_label"], batch["same"])
        value = loss(*leaves, batch["negatives"], t, *labels)
        (value * weights).sum().backward()
        values.append(value.detach())
        gradients.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_gradients_by_differences() -> None:
    batch = drawn(4, 6)
    leaves = [batch.pop(name).requires_grad_() for name in ("anchor", "positive")]
    assert torch.autograd.gradcheck(lambda a, p: info_nce(a, p, temperature=0.3, **batch), leaves)


def test_negatives_get_no_gradient_and_nothing_is_changed() -> None:
    batch = drawn(4, 6)
    before = {name: value.clone() for name, value in batch.items()}
    batch["negatives"].requires_grad_()
    batch["anchor"].requires_grad_()
    info_nce(**batch).sum().backward()
    assert batch["negatives"].grad is None and batch["anchor"].grad is not None
    assert all(torch.equal(value, before[name]) for name, value in batch.items())


def test_without_a_negative_that_counts_the_loss_is_zero_and_still_attached() -> None:
    anchor = ANCHOR.clone().requires_grad_()
    loss = info_nce(anchor, POSITIVE, NEGATIVES, anchor_label=ZERO, negative_label=torch.zeros(3, dtype=torch.int64))
    loss.sum().backward()
    assert loss.tolist() == [0] and anchor.grad is not None and anchor.grad.tolist() == [[0, 0]]


@pytest.mark.parametrize("t", [0.011, 0.1])
def test_ten_thousand_equal_negatives_and_a_small_temperature(t: float) -> None:
    """exp(1 / t) overflows float16 at once, and float32 for t < 0.0113."""
    anchor = ANCHOR.clone().requires_grad_()
    loss = info_nce(anchor, -ANCHOR, ANCHOR.repeat(10_000, 1), t)
    assert float(loss.detach()) == pytest.approx(2 / t + math.log(10_000), rel=1e-5)
    loss.backward()
    assert anchor.grad is not None and anchor.grad[0, 0] == pytest.approx(2 / t, rel=1e-4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_in_float32_also_under_autocast(kind: torch.dtype) -> None:
    batch = drawn(5, 40, channels=32)
    halves = {name: value.to(kind) if value.is_floating_point() else value for name, value in batch.items()}
    wanted = info_nce(
        **{name: value.double() if value.is_floating_point() else value for name, value in halves.items()}
    )
    anchor = halves.pop("anchor").requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce(anchor, **halves)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert anchor.grad is not None and anchor.grad.dtype == kind
