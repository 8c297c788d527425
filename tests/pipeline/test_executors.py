from __future__ import annotations

import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.executors import run_units
from ssl3d.pipeline.stages.choose import parse_ratio

# functions of importable modules: spawned workers cannot import test files


@pytest.mark.parametrize(("jobs", "threads"), [(1, 1), (3, 1), (1, 3)])
def test_every_unit_has_one_outcome(jobs: int, threads: int) -> None:
    outcomes = run_units(operator.neg, range(20), jobs=jobs, threads=threads)
    found = {outcome.unit: outcome.value for outcome in outcomes}
    assert found == {number: -number for number in range(20)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_for_the_user_is_an_outcome_and_keeps_its_parts(jobs: int) -> None:
    found = {outcome.unit: outcome for outcome in run_units(parse_ratio, ["1%", "7", "0.5"], jobs=jobs)}
    assert found["1%"].value == "0.01" and found["0.5"].value == "0.5"
    error = found["7"].error
    assert isinstance(error, UsageError) and error.hint == "did you mean 7%?"


@pytest.mark.parametrize(("jobs", "threads"), [(1, 1), (2, 1), (1, 2)])
def test_any_other_error_stops_the_work(jobs: int, threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_units(divmod_by, [1, 0, 2], jobs=jobs, threads=threads))
    assert not multiprocessing.active_children()


divmod_by = (10).__floordiv__  # picklable: a bound method of a number


def test_a_killed_worker_is_an_error_that_names_the_units_under_way() -> None:
    with pytest.raises(Ssl3dError, match="ended unexpectedly") as caught:
        list(run_units(os._exit, [9, 9], jobs=2, name=lambda unit: f"unit-{unit}"))
    assert "unit-9" in str(caught.value.where["under way"])
    assert "--jobs" in str(caught.value.hint)


def test_closing_the_iterator_ends_the_workers_at_once() -> None:
    outcomes = run_units(time.sleep, [0.0, 600.0, 600.0], jobs=2)
    next(outcomes)
    outcomes.close()
    assert not multiprocessing.active_children()


def test_threads_have_as_many_units_under_way_as_there_are_of_them() -> None:
    meeting = threading.Barrier(3)  # broken, an error, unless three units are under way at once

    def meet(_: int) -> bool:
        return meeting.wait(timeout=30) >= 0

    assert all(outcome.value for outcome in run_units(meet, range(6), threads=3))


def test_workers_use_one_thread() -> None:
    values = {outcome.value for outcome in run_units(os.getenv, ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"], jobs=2)}
    assert values == {"1"}


def test_workers_end_when_their_parent_is_killed() -> None:
    script = (
        "import time\nfrom ssl3d.pipeline.executors import run_units\n"
        "if __name__ == '__main__':\n"
        "    for outcome in run_units(time.sleep, [0, 0, 600, 600], jobs=2): print('done', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
