"""Rings of features by class against deques, and draws by class against what they promise."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.models.class_bank import ClassRing, draw_per_class, rank_in_class, shared_rand


def test_ring_of_five_worked_by_hand() -> None:
    """Pushes of 3, then 4 (numbered from 1): items 6, 7, 3, 4, 5 in slots 0..4 (GPC's specification)."""
    ring = ClassRing(1, 5, 1)
    ring.push(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, dtype=torch.int64))
    assert ring.valid.tolist() == [[True, True, True, False, False]]
    slots = ring.push(torch.tensor([[4.0], [5.0], [6.0], [7.0]]), torch.zeros(4, dtype=torch.int64))
    assert slots.tolist() == [3, 4, 0, 1]
    assert ring.values[0, :, 0].tolist() == [6, 7, 3, 4, 5]
    assert (ring.count.item(), ring.pointer.item()) == (5, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.lists(st.lists(st.integers(0, 3), max_size=20), max_size=5))
def test_ring_equals_deques(slots: int, pushes: list[list[int]]) -> None:
    ring, expected = ClassRing(4, slots, 1), [deque[float](maxlen=slots) for _ in range(4)]
    number = 0
    for labels in pushes:
        features = torch.arange(number, number + len(labels), dtype=torch.float32)[:, None]
        number += len(labels)
        written = ring.push(features, torch.tensor(labels, dtype=torch.int64))
        for feature, label, slot in zip(features[:, 0].tolist(), labels, written.tolist(), strict=True):
            expected[label].append(feature)
            assert slot == -1 or ring.values[label, slot, 0] == feature
    for label in range(4):
        count, pointer = int(ring.count[label]), int(ring.pointer[label])
        held = ring.values[label, :, 0].tolist()
        in_order = held[:count] if count < slots else held[pointer:] + held[:pointer]
        assert in_order == list(expected[label])
        assert ring.valid[label].tolist() == [slot < count for slot in range(slots)]


def test_ring_is_state() -> None:
    ring, other = ClassRing(2, 3, 2), ClassRing(2, 3, 2)
    ring.push(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))
    other.load_state_dict(ring.state_dict())
    feature, label = torch.ones(1, 2), torch.tensor([1])
    assert ring.push(feature, label).tolist() == other.push(feature, label).tolist() == [2]
    assert torch.equal(ring.values, other.values)


def test_rank_in_class() -> None:
    assert rank_in_class(torch.tensor([2, 0, 2, 2, 0]), 3).tolist() == [0, 0, 1, 2, 1]
    assert rank_in_class(torch.empty(0, dtype=torch.int64), 3).tolist() == []


@pytest.mark.parametrize("most", [2, torch.tensor([2, 0, 5])])
def test_draw_per_class(most: int | torch.Tensor) -> None:
    label = torch.tensor([0, 2, 0, 1, 0, 2, 1, 1, 0])
    rows = draw_per_class(label, most, 3)
    assert rows.tolist() == sorted(set(rows.tolist()))
    limit = [2, 2, 2] if isinstance(most, int) else most.tolist()
    assert torch.bincount(label[rows], minlength=3).tolist() == [min(limit[0], 4), min(limit[1], 3), min(limit[2], 2)]


def test_draws_are_uniform_and_by_their_keys() -> None:
    label = torch.zeros(5, dtype=torch.int64)
    assert draw_per_class(label, 2, 1, keys=torch.tensor([0.5, 0.1, 0.9, 0.2, 0.7])).tolist() == [1, 3]
    torch.manual_seed(0)
    drawn = torch.cat([draw_per_class(label, 2, 1) for _ in range(2000)])
    share = torch.bincount(drawn, minlength=5) / 4000
    assert torch.allclose(share, torch.full((5,), 0.2), atol=0.02)
    assert shared_rand(3, 4, device="cpu").shape == (3, 4)
