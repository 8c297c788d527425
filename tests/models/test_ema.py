from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssl3d.models.ema import ema_update, freeze, keep_rate, scaled_keep


class One(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))


def test_warm_up_is_a_running_mean() -> None:
    average = One(100.0)
    seen = []
    for step, value in enumerate((2.0, 4.0, 6.0)):
        ema_update(average, One(value), keep_rate(0.999, step))
        seen.append(float(average.value.detach()))
    assert seen == pytest.approx([2, 3, 4])
    assert [keep_rate(0.999, step) for step in range(3)] == pytest.approx([0, 0.5, 2 / 3])


@pytest.mark.parametrize(("alpha", "steps", "expected"), [(0.999, 1000, 0.367695), (0.99, 100, 0.366032)])
def test_without_warm_up(alpha: float, steps: int, expected: float) -> None:
    average, source = One(1.0), One(0.0)
    for step in range(steps):
        ema_update(average, source, keep_rate(alpha, step, warm_up=False))
    assert float(average.value.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_copy_is_exact_also_over_numbers_that_are_none() -> None:
    average, source = One(float("nan")), One(0.1)
    ema_update(average, source, 0.0)
    assert torch.equal(average.value, source.value)


@pytest.mark.parametrize(("policy", "mean"), [("own", 0.0), ("ema", 2.5), ("copy", 10.0)])
def test_policies_of_buffers(policy: str, mean: float) -> None:
    average, source = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    assert source.running_mean is not None and source.num_batches_tracked is not None
    source.running_mean.fill_(10)
    source.num_batches_tracked.fill_(7)
    ema_update(average, source, 0.75, policy)  # type: ignore[arg-type]
    assert float(average.running_mean) == mean  # type: ignore[arg-type]
    assert int(average.num_batches_tracked) == (0 if policy == "own" else 7)  # type: ignore[arg-type]


def test_structures_have_to_be_the_same() -> None:
    with pytest.raises(ValueError, match="differ in 'weight'"):
        ema_update(nn.Linear(2, 3), nn.Linear(3, 3), 0.5)
    with pytest.raises(ValueError, match="differ in"):
        ema_update(nn.Linear(2, 3), nn.Linear(2, 3, bias=False), 0.5)


def test_a_frozen_average_takes_no_gradient_and_is_still_averaged() -> None:
    source = One(4.0)
    average = copy.deepcopy(source)
    freeze(average)
    assert not average.value.requires_grad
    with torch.no_grad():
        source.value.fill_(0)
    ema_update(average, source, 0.5)
    assert float(average.value) == 2


def test_half_lives_scale_with_the_steps() -> None:
    assert scaled_keep(0.99, 25_000, 25_000) == 0.99
    assert scaled_keep(0.99, 25_000, 50_000) == 0.99  # never longer than published
    assert scaled_keep(0.99, 25_000, 2_500) == pytest.approx(0.904382, rel=1e-6)
