from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.training.clock import StepClock
from ssl3d.pipeline.training.device import Compute, plan_threads, reproducible, select_device
from ssl3d.pipeline.training.status import SECTIONS

CPU = torch.device("cpu")


@given(jobs=st.integers(0, 64), workers=st.none() | st.integers(0, 8), device=st.sampled_from(["cpu", "cuda"]))
def test_threads_add_up_to_jobs(jobs: int, workers: int | None, device: str) -> None:
    processes, threads = plan_threads(jobs, workers, torch.device(device))
    assert threads >= 1
    assert processes + threads == max(1, jobs) or threads == 1
    assert workers is None or processes == workers


def test_defaults_of_workers() -> None:
    assert plan_threads(2, None, CPU) == (0, 2)
    assert plan_threads(16, None, CPU) == (2, 14)
    assert plan_threads(2, None, torch.device("cuda")) == (1, 1)
    assert plan_threads(16, None, torch.device("cuda")) == (4, 12)


def test_devices() -> None:
    assert select_device("cpu") == CPU
    assert select_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "meta", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(UsageError):
            select_device(wrong)


def test_precision() -> None:
    assert Compute.choose(CPU, "auto").precision == "fp32"
    with Compute.choose(CPU, "bf16").autocast():
        assert (torch.zeros(2, 2) @ torch.zeros(2, 2)).dtype == torch.bfloat16
    assert not Compute.choose(CPU, "fp32").scaler().is_enabled()


def test_settings_of_torch_are_given_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(before[0] + 1, CPU):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_the_clock_accounts_for_all_time() -> None:
    clock = StepClock(CPU, {"forward": 100.0})
    with clock.section("forward"):
        sum(range(100_000))
    with clock.section("data"):
        pass
    seconds = clock.read()
    assert set(seconds) == set(SECTIONS)
    assert seconds["forward"] > 100
    assert sum(seconds.values()) == pytest.approx(clock.total_seconds, rel=1e-3)
    share = clock.share()
    assert sum(share.values()) == pytest.approx(1)
    assert min(share.values()) >= 0
