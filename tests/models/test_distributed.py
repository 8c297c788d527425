"""Two processes compute what one does on all rows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl3d.models import distributed as d

FILE = Path(__file__).parent / "distributed_cases.py"
SPEC = importlib.util.spec_from_file_location("distributed_cases", FILE)
assert SPEC and SPEC.loader
cases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cases)

Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """All cases in two processes."""
    folder = tmp_path_factory.mktemp("pair")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, str(FILE), str(number), str(folder)], env=environment, stderr=subprocess.PIPE)
        for number in range(2)
    ]
    try:
        problems = [process.communicate(timeout=120)[1].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(problems)
    first, second = (torch.load(folder / f"{number}.pt") for number in range(2))
    return first, second


@pytest.mark.parametrize("name", cases.CASES)
def test_two_processes_are_one(name: str, pair: tuple[Results, Results]) -> None:
    alone, (first, second) = cases.CASES[name](), (part[name] for part in pair)
    assert alone.keys() == first.keys() == second.keys()
    loose: dict[str, Any] = {"rtol": 2e-2, "atol": 2e-2} if "half" in name else {}
    for key, expected in alone.items():
        a, b = first[key], second[key]
        if key.startswith("same"):
            torch.testing.assert_close(a, expected, **loose)
            torch.testing.assert_close(b, expected, **loose)
        else:
            torch.testing.assert_close(a + b if key.startswith("sum") else torch.cat([a, b]), expected, **loose)


def test_no_label_anywhere_is_an_exact_zero(pair: tuple[Results, Results]) -> None:
    for part in pair:
        for name in ("cross_entropies", "lovasz"):
            assert part[name]["sum loss none"].item() == 0
            assert torch.equal(part[name]["rows gradient none"], torch.zeros_like(part[name]["rows gradient none"]))


def test_alone_nothing_is_changed() -> None:
    layer, x = nn.BatchNorm1d(3), torch.randn(4, 3)
    assert (d.world_size(), d.rank()) == (1, 0)
    assert type(d.synchronize_batch_norm(nn.Sequential(layer))[0]) is nn.BatchNorm1d
    assert d.all_reduce_sum(x) is x and d.gather_rows(x) is x
    assert torch.equal(d.total(3), torch.tensor(3))
    assert torch.equal(d.global_mean(x), x.mean())
    assert d.global_mean(x, torch.zeros(4, dtype=torch.bool)).item() == 0


def test_gradient_of_batch_norm() -> None:
    """The formula itself, against differences (in a group of one process)."""
    x, layer = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), nn.BatchNorm1d(3).double()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert torch.autograd.gradcheck(
            lambda x, w, b: d._Normalize.apply(x, w, b, layer.eps)[0], (x, layer.weight, layer.bias)
        )
    finally:
        dist.destroy_process_group()
