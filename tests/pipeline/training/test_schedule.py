from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.pipeline.training.config import ScheduleParams
from ssl3d.pipeline.training.schedule import learning_rate

NAMES = st.sampled_from(["onecycle", "cosine", "poly", "constant"])


def test_onecycle_is_torchs() -> None:
    steps, peak = 200, 0.01
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert learning_rate(ScheduleParams(), peak, step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_published_minkunet_schedule() -> None:
    params = ScheduleParams(name="cosine", warmup_steps=125)
    assert learning_rate(params, 0.24, 0, 25_000) == pytest.approx(0.24 * 0.008)
    assert learning_rate(params, 0.24, 125, 25_000) == pytest.approx(0.24)
    middle = learning_rate(params, 0.24, 125 + (25_000 - 125) // 2, 25_000)
    assert middle == pytest.approx(0.12, rel=1e-3)
    assert learning_rate(params, 0.24, 25_000, 25_000) == pytest.approx(1e-5)


def test_poly() -> None:
    params = ScheduleParams(name="poly", warmup_steps=0, min_lr=0, power=0.9)
    assert learning_rate(params, 1.0, 50, 100) == pytest.approx(0.5**0.9)


@settings(max_examples=200, deadline=None)
@given(name=NAMES, steps=st.integers(1, 300), warmup=st.integers(0, 400), peak=st.floats(1e-4, 1))
def test_every_rate_is_positive_and_at_most_the_peak(name: str, steps: int, warmup: int, peak: float) -> None:
    params = ScheduleParams.model_validate({"name": name, "warmup_steps": warmup, "min_lr": 1e-5})
    rates = [learning_rate(params, peak, step, steps) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    if name == "onecycle" and steps > 1:
        assert max(rates) > peak / 2
