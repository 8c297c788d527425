"""DDSEmi's banks against the numbers of its specification, against a slow bank, and how they are filled."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl3d.data.scan import IGNORE, View
from ssl3d.models.density_bank import (
    DensityBank,
    Update,
    candidates_of,
    draw_candidates,
    merge_candidates,
)
from ssl3d.models.prediction import Prediction

ZERO = torch.zeros(1, dtype=torch.int64)


def one(x: float, y: float, confidence: float = 1.0) -> Tensor:
    return torch.tensor([[x, y, confidence]])


def moved(old: tuple[float, float], new: tuple[float, float], clamp: bool = True) -> list[float]:
    """The global feature ``old`` after an iteration in which ``new`` is the only local one."""
    bank = DensityBank(1, 2, 2, clamp_beta=clamp)
    bank.fill(torch.cat([one(*old), one(*new)]), torch.zeros(2, dtype=torch.int64))
    bank.update(torch.zeros(0, 3), ZERO[:0], torch.rand(1, 1))
    return [round(value, 6) for value in bank.features[0, 0].tolist()]


def test_progressive_update_of_the_specification() -> None:
    assert moved((1, 0), (0.6, 0.8)) == pytest.approx([0.76, 0.48])
    assert moved((1, 0), (0, 1)) == [1, 0]
    assert moved((1, 0), (-1, 0)) == [1, 0]
    assert moved((1, 0), (-1, 0), clamp=False) == [3, 0]
    assert moved((1, 0), (2, 0)) == [2, 0]
    assert moved((0, 0), (2, 0)) == [0, 0]  # norm zero: cosine 0


def test_confidence_moves_by_the_same_beta() -> None:
    bank = DensityBank(1, 2, 2)
    bank.fill(torch.cat([one(1, 0, 0.9), one(0.6, 0.8, 0.8)]), torch.zeros(2, dtype=torch.int64))
    bank.update(torch.zeros(0, 3), ZERO[:0], torch.zeros(1, 1))
    assert bank.confidence[0].tolist() == pytest.approx([0.4 * 0.9 + 0.6 * 0.8, 0.8])


def test_global_first_then_local() -> None:
    """Eq. 1 looks at the local part as the iteration before has left it."""
    bank = DensityBank(1, 2, 2)
    bank.fill(torch.cat([one(1, 0), one(0, 1)]), torch.zeros(2, dtype=torch.int64))
    bank.update(one(2, 0), ZERO, torch.zeros(1, 1))
    assert bank.features[0].tolist() == [[1, 0], [2, 0]]
    bank.update(torch.zeros(0, 3), ZERO[:0], torch.zeros(1, 1))
    assert bank.features[0].tolist() == [[2, 0], [2, 0]]


def test_one_more_than_the_local_slots_drops_exactly_the_oldest() -> None:
    bank = DensityBank(1, 250, 1, "fifo")
    numbers = torch.arange(1.0, 252.0)[:, None].expand(251, 2)
    for row in numbers:
        bank.update(row[None], ZERO, torch.zeros(1, 0))
    assert sorted(bank.features[0, :, 0].tolist()) == numbers[1:, 0].tolist()


def test_fewer_features_than_slots_are_split_evenly_and_the_rest_stays_invalid() -> None:
    bank = DensityBank(3, 10, 1)
    label = torch.tensor([0] * 10 + [1] * 3)
    bank.fill(torch.arange(13.0)[:, None].expand(13, 2), label)
    assert bank.valid.sum(1).tolist() == [10, 3, 0]
    assert (bank.global_part.count.tolist(), bank.local_part.count.tolist()) == ([5, 2, 0], [5, 1, 0])
    assert bank.features[0, :, 0].tolist() == list(range(10))  # first half global
    assert bank.features[1, [0, 1, 5], 0].tolist() == [10, 11, 12]


def test_what_the_local_part_forgets_fills_global_slots() -> None:
    bank, ones = DensityBank(1, 4, 5), torch.eye(5, 6)  # orthogonal: Eq. 1 moves none
    for number in range(5):
        bank.update(ones[number : number + 1], ZERO, torch.zeros(1, 2))
        assert bank.global_part.count.tolist() == [[0, 0, 1, 2, 2][number]]
    assert torch.equal(bank.global_part.values[0], ones[:2])
    assert torch.equal(bank.local_part.values[0], ones[[4, 3]])


class SlowBank:
    """One class, in lists."""

    def __init__(self, slots: int, update: Update) -> None:
        local = {"both": slots // 2, "progressive": 0, "fifo": slots}[update]
        self.most_global, self.kept, self.queue = slots - local, [], deque[Tensor](maxlen=local)

    def fill(self, rows: list[Tensor]) -> None:
        first = -(-len(rows) // 2) if self.queue.maxlen and self.most_global else len(rows) * (self.most_global > 0)
        self.kept, rest = list(rows[:first]), rows[first:]
        self.queue.extend(rest)

    def update(self, rows: list[Tensor], draw: list[float], in_slots: list[Tensor]) -> None:
        """``in_slots``: the local features by slot, which the draws count."""
        source = in_slots if self.queue.maxlen else rows
        if source:
            for i, old in enumerate(self.kept):
                new = source[int(draw[i] * len(source))]
                beta = float(old[:-1] @ new[:-1]) / max(float(old[:-1].norm() * new[:-1].norm()), 1e-16)
                beta = min(max(beta, 0.0), 1.0)
                self.kept[i] = (1 - beta) * old + beta * new
        for row in rows:
            forgotten = row
            if self.queue.maxlen:
                forgotten = self.queue[0] if len(self.queue) == self.queue.maxlen else None
                self.queue.append(row)
            if forgotten is not None and len(self.kept) < self.most_global:
                self.kept.append(forgotten)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["both", "progressive", "fifo"]),
    st.integers(2, 9),
    st.lists(st.lists(st.integers(0, 2), max_size=10), min_size=1, max_size=5),
    st.integers(0, 999),
)
def test_bank_equals_lists(update: Update, slots: int, pushes: list[list[int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = DensityBank(3, slots, 2, update)
    for buffer in (bank.global_part, bank.local_part):
        buffer.values = buffer.values.double()
    slow = [SlowBank(slots, update) for _ in range(3)]
    for number, labels in enumerate(pushes):
        most = slots if number == 0 else bank.pool
        labels = [c for i, c in enumerate(labels) if labels[:i].count(c) < most]
        label = torch.tensor(labels, dtype=torch.int64)
        rows = torch.randn(len(labels), 3, generator=generator, dtype=torch.float64)
        draws = torch.rand(3, bank.global_part.slots, generator=generator, dtype=torch.float64)
        of_class = [[row for row, c in zip(rows, labels, strict=True) if c == k] for k in range(3)]
        local = [list(bank.local_part.values[k, : int(bank.local_part.count[k])].clone()) for k in range(3)]
        if number == 0:
            bank.fill(rows, label)
        else:
            bank.update(rows, label, draws)
        for k in range(3):
            if number == 0:
                slow[k].fill(of_class[k])
            else:
                slow[k].update(of_class[k], draws[k].tolist(), local[k])
            kept = bank.global_part.values[k, : int(bank.global_part.count[k])]
            assert len(kept) == len(slow[k].kept)
            for found, expected in zip(kept, slow[k].kept, strict=True):
                torch.testing.assert_close(found, expected)
            queue = {tuple(row.tolist()) for row in bank.local_part.values[k, : int(bank.local_part.count[k])]}
            assert queue == {tuple(row.tolist()) for row in slow[k].queue}
            assert int(bank.valid[k].sum()) == len(kept) + len(slow[k].queue)


def test_bank_is_state_and_goes_on_the_same() -> None:
    torch.manual_seed(0)
    bank, other = DensityBank(2, 6, 3), DensityBank(2, 6, 3)
    label = torch.randint(0, 2, (5,))
    for _ in range(3):
        bank.update(torch.randn(5, 4), label, torch.rand(2, 3))
    other.load_state_dict(bank.state_dict())
    rows, draws = torch.randn(5, 4), torch.rand(2, 3)
    for each in (bank, other):
        each.update(rows, label, draws)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in bank.state_dict().items())


def test_a_drawn_feature_is_any_valid_one() -> None:
    bank = DensityBank(2, 6, 1)
    bank.fill(torch.arange(1.0, 5.0)[:, None].expand(4, 2), torch.tensor([0, 0, 0, 0]))
    found = [bank.draw(torch.tensor([u, u]))[:, 0].tolist() for u in (0.0, 0.3, 0.6, 0.999999)]
    assert found == [[1, 0], [2, 0], [3, 0], [4, 0]]


# ---------------------------------------------------------------- candidates


def test_all_candidates_where_they_are_few_and_a_draw_by_points_where_not() -> None:
    torch.manual_seed(0)
    rows, label = torch.arange(5.0)[:, None], torch.tensor([1, 0, 1, 1, 0])
    found, of = draw_candidates(rows, label, torch.ones(5), 3, 2)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4] and of.tolist() == label.tolist()
    points = torch.tensor([1.0, 1.0, 3.0, 6.0, 1.0])
    drawn = torch.zeros(5)
    for _ in range(3000):
        found, _ = draw_candidates(rows, label, points, 1, 2)
        assert len(found) == 2
        drawn[found[:, 0].long()] += 1
    assert (drawn / 3000).tolist() == pytest.approx([0.1, 0.5, 0.3, 0.6, 0.5], abs=0.03)
    none, of = draw_candidates(rows[:0], label[:0], points[:0], 3, 2)
    assert none.shape == (0, 1) and of.shape == (0,)


def scan(
    number: int, label: list[int], predicted: list[int], score: list[float], feature: list[float]
) -> tuple[View, Prediction]:
    """``score`` is that of the predicted class, of three."""
    n = len(label)
    rows = np.stack([np.full(n, number), np.arange(n)], 1)
    scores = np.repeat((1 - np.array(score, np.float32))[:, None] / 2, 3, 1)
    scores[np.arange(n), predicted] = score
    features = np.array(feature, np.float32)[:, None] * np.ones((1, 2), np.float32)
    view = View(np.zeros((n, 3), np.float32), {}, rows, np.array(label, np.uint8))
    return view, Prediction(np.array(predicted, np.uint8), scores, features)


def filled(scans: list[tuple[View, Prediction]], most: int, seed: int = 0) -> list[list[float]]:
    """The features drawn of each class, sorted."""
    stored = [candidates_of(*each, lambda f: 10 * f[:, :1], most, 0.8, seed) for each in scans]
    rows, label = merge_candidates((each.facts for each in stored), most)
    assert rows.dtype == torch.float32 and label.dtype == torch.int64
    return [sorted(rows[label == c, 0].tolist()) for c in range(3)]


def test_sure_and_right_features_come_first_then_right_ones_then_any() -> None:
    a = scan(0, [0, 0, 0, 0, IGNORE, 1], [0, 0, 1, 0, 0, 1], [0.9, 0.7, 0.99, 0.95, 0.99, 0.5], [1, 2, 3, 4, 5, 6])
    b = scan(1, [0, 2], [0, 2], [0.99, 0.8], [7, 8])
    assert filled([a, b], 3) == [[10, 40, 70], [60], [80]]  # sure ones: 1, 4 and 7; 0.8 is not above 0.8
    assert filled([a, b], 4) == [[10, 20, 40, 70], [60], [80]]
    assert filled([a, b], 9) == [[10, 20, 30, 40, 70], [60], [80]]


def test_no_feature_is_there_twice_in_a_class() -> None:
    """Points of a voxel share a feature: it counts once, for each class that its points have."""
    a = scan(0, [0, 0, 0, 1], [0, 0, 0, 0], [0.9] * 4, [1, 1, 2, 1])
    assert filled([a], 3) == [[10, 20], [10], []]


def test_the_stored_confidence_is_that_of_the_own_class() -> None:
    view, prediction = scan(0, [0, 1], [0, 0], [0.9, 0.6], [1, 2])
    facts = candidates_of(view, prediction, lambda f: f, 5, 0.8, 0).facts
    assert dict(zip(facts["label"].tolist(), facts["confidence"].tolist(), strict=True)) == pytest.approx(
        {0: 0.9, 1: 0.2}
    )


def test_a_scan_without_labels_or_that_the_network_does_not_see_gives_nothing() -> None:
    blind = scan(0, [IGNORE, IGNORE], [0, 1], [0.9, 0.9], [1, 2])
    unseen_view, seen = scan(1, [0, 1], [0, 1], [0.9, 0.9], [3, 4])
    assert seen.scores is not None and seen.features is not None
    unseen = Prediction(np.full(2, IGNORE, np.uint8), 0 * seen.scores, 0 * seen.features)
    assert filled([blind, (unseen_view, unseen)], 5) == [[], [], []]
    assert filled([blind, (unseen_view, seen)], 5) == [[30], [40], []]


def test_the_draw_over_scans_is_uniform_over_points_and_repeats_itself() -> None:
    counts = np.zeros(6)
    for seed in range(800):
        scans = [
            scan(0, [0] * 4, [0] * 4, [0.9] * 4, [0, 1, 2, 3]),
            scan(1, [0] * 6, [0] * 6, [0.9] * 6, [4, 4, 4, 5, 5, 5]),
        ]
        drawn = filled(scans, 2, seed)[0]
        assert drawn == filled(scans, 2, seed)[0] and len(drawn) == 2
        for feature in drawn:
            counts[round(feature / 10)] += 1
    # 1/10 first, then 1/9 or 1/7: of voxels of 1, 1, 1, 1, 3 and 3 points two different ones
    first = np.array([1, 1, 1, 1, 3, 3]) / 10
    expected = [first[i] + sum(first[j] * first[i] / (1 - first[j]) for j in range(6) if j != i) for i in range(6)]
    assert counts / 800 == pytest.approx(expected, abs=0.06)


def test_the_order_of_filling_does_not_tell_the_tiers() -> None:
    """Else the global half would hold the sure features, and the local half the rest."""
    n = 400
    score = [0.9] * (n // 2) + [0.5] * (n // 2)
    stored = candidates_of(*scan(0, [0] * n, [0] * n, score, list(range(n))), lambda f: f, n, 0.8, 0)
    rows, _ = merge_candidates([stored.facts], n)
    assert 0.4 < float((rows[: n // 2, -1] > 0.8).float().mean()) < 0.6
