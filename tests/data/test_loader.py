from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.loader import WorkerTracebackError, batches, epoch_order, step_items, step_rng


@dataclass(frozen=True)
class Maker:
    """A picklable batch maker; ``fail_at`` raises, ``die_at`` kills its process."""

    seed: int
    fail_at: int = -1
    die_at: int = -1
    wrong_at: int = -1

    def __call__(self, step: int) -> dict[str, object]:
        if step == self.fail_at:
            raise DataError("the scan is damaged", where={"scan": "00/000007"}, hint="fetch it again")
        if step == self.wrong_at:
            raise ZeroDivisionError("no such thing")
        if step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        values = torch.from_numpy(step_rng(self.seed, step, 0).random(8))
        items = step_items(self.seed, step, 0, 5, 2)
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return {"step": step, "values": values, "items": items, "threads": torch.get_num_threads(), "deaf": ignored}


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 17), batch=st.integers(1, 9))
def test_each_epoch_meets_every_item_once(seed: int, count: int, batch: int) -> None:
    seen = [item for step in range(3 * count) for item in step_items(seed, step, 0, count, batch)]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_depends_on_seed_epoch_and_stream() -> None:
    orders = [tuple(epoch_order(*key, 50)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(epoch_order(0, 0, 0, 50))


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        step_items(0, 0, 0, 0, 1)


def test_workers_change_nothing_and_neither_does_the_start() -> None:
    here = list(batches(Maker(3), 0, 6))
    spawned = list(batches(Maker(3), 0, 6, workers=2))
    resumed = list(batches(Maker(3), 4, 6, workers=0))
    assert [b["step"] for b in spawned] == list(range(6))
    for a, b in [*zip(here, spawned, strict=True), *zip(here[4:], resumed, strict=True)]:
        assert torch.equal(a["values"], b["values"])
        assert a["items"] == b["items"]
    assert {(b["threads"], b["deaf"]) for b in spawned} == {(1, True)}
    assert not here[0]["deaf"]


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(batches(Maker(0), 0, 3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_arrive_with_their_fields(workers: int) -> None:
    source = batches(Maker(0, fail_at=2), 0, 5, workers=workers)
    assert [next(source)["step"], next(source)["step"]] == [0, 1]
    with pytest.raises(DataError) as caught:
        next(source)
    assert caught.value.where == {"scan": "00/000007"}
    assert caught.value.hint == "fetch it again"
    assert isinstance(caught.value.__cause__, WorkerTracebackError)
    assert "test_loader.py" in str(caught.value.__cause__)


def test_an_unforeseen_error_names_the_step() -> None:
    with pytest.raises(Ssl3dError, match="step 1 failed: ZeroDivisionError"):
        list(batches(Maker(0, wrong_at=1), 0, 3))


def test_a_worker_that_dies_is_a_clear_error() -> None:
    with pytest.raises(Ssl3dError, match="worker died") as caught:
        list(batches(Maker(0, die_at=1), 0, 3, workers=1))
    assert "train.workers=0" in str(caught.value)


def test_workers_that_are_still_starting_end_with_a_killed_parent() -> None:
    script = (
        "from ssl3d.data.loader import batches\n"
        "if __name__ == '__main__':\n"
        "    source = batches(abs, 0, 9**9, workers=1)\n"
        "    print('started', flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_nothing_to_do() -> None:
    assert list(batches(Maker(0), 5, 5, workers=1)) == []


def test_rng_streams_differ() -> None:
    assert step_rng(0, 1, 0).random() != step_rng(0, 1, 1).random()
    np.testing.assert_array_equal(step_rng(5, 9, 1).random(3), step_rng(5, 9, 1).random(3))
