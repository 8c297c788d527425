"""The CPU kernels of the convolution against the same sums in float64, for every shape of tile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl3d.models.sparse import CoordinateManager, KernelMap, SparseTensorError, convolution_cpu, parallel
from ssl3d.models.sparse.functional import convolution

MakeSites = Callable[..., Tensor]


@pytest.fixture
def threads() -> Callable[[int], None]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def maps(sites: Tensor) -> dict[str, KernelMap]:
    manager = CoordinateManager()
    fine = manager.insert(sites)
    coarse = manager.strided(fine, 2)
    return {
        "same": manager.kernel_map(fine, fine, 3),
        "down": manager.kernel_map(fine, coarse, 2),
        "up": manager.kernel_map(coarse, fine, 2, transposed=True),
    }


def gradients(features: Tensor, weight: Tensor, kernel_map: KernelMap, grad: Tensor) -> tuple[Tensor, ...]:
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()
    out = convolution(features, weight, kernel_map)
    return out.detach(), *torch.autograd.grad(out, (features, weight), grad.to(out.dtype))


@pytest.mark.parametrize("inputs", [1, 4, 6, 8, 19, 33])
@pytest.mark.parametrize("outputs", [1, 8, 16, 20, 24, 40])
def test_every_width(random_sites: MakeSites, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs * 100 + outputs)
    shuffled = random_sites(9, 0.6, batches=2)
    for given in (shuffled, torch.unique(shuffled, dim=0)):
        for kernel_map in maps(given).values():
            features = torch.randn(kernel_map.num_in, inputs, generator=generator)
            weight = torch.randn(kernel_map.volume, inputs, outputs, generator=generator)
            grad = torch.randn(kernel_map.num_out, outputs, generator=generator)
            ours = gradients(features, weight, kernel_map, grad)
            exact = gradients(features.double(), weight.double(), kernel_map, grad.double())
            for found, wanted in zip(ours, exact, strict=True):
                scale = float(wanted.abs().max())
                assert torch.allclose(found.double(), wanted, rtol=0, atol=scale * 1e-5)


def test_the_number_and_kind_of_threads_changes_no_bit(
    random_sites: MakeSites, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_map = maps(random_sites(18, 0.6))["same"]
    features, weight = torch.randn(kernel_map.num_in, 32), torch.randn(27, 32, 48)
    grad = torch.randn(kernel_map.num_out, 48)
    threads(1)
    one = gradients(features, weight, kernel_map, grad)
    for number in (2, 3, 5):
        threads(number)
        for team in (parallel._team(), parallel._in_python_threads):
            monkeypatch.setattr(parallel, "_team", lambda team=team: team)
            assert all(
                torch.equal(a, b) for a, b in zip(one, gradients(features, weight, kernel_map, grad), strict=True)
            )
            monkeypatch.undo()


def test_what_is_not_a_number_stays_where_it_belongs(random_sites: MakeSites) -> None:
    """Tiles are wider than rows may be: nothing may leak into the next row."""
    kernel_map = maps(random_sites(7, 0.6))["same"]
    features = torch.ones(kernel_map.num_in, 3)
    features[5, 1] = float("nan")
    touched = {int(t) for s, t in zip(kernel_map.source, kernel_map.target, strict=True) if s == 5} | {5}
    out = convolution(features, torch.ones(27, 3, 5), kernel_map)
    assert {int(row) for row in out.isnan().any(1).nonzero()} == touched


def test_operands_that_do_not_fit_are_refused(random_sites: MakeSites) -> None:
    kernel_map = maps(random_sites(5))["same"]
    features, weight = torch.zeros(kernel_map.num_in, 4), torch.zeros(27, 4, 8)
    for bad in ((features[1:], weight), (features[:, 1:], weight), (features, weight[1:]), (features.double(), weight)):
        with pytest.raises(SparseTensorError, match="do not fit"):
            convolution(*bad, kernel_map)


def test_rows_without_any_neighbor_are_zero() -> None:
    manager = CoordinateManager()
    a = manager.insert(torch.tensor([[0, 0, 0, 0], [0, 50, 0, 0]], dtype=torch.int32))
    b = manager.insert(torch.tensor([[0, 0, 0, 1], [0, 99, 0, 0]], dtype=torch.int32))
    out = convolution(torch.ones(2, 3), torch.ones(27, 3, 4), manager.kernel_map(a, b, 3))
    assert out.tolist() == [[3.0] * 4, [0.0] * 4]


def test_blocks_are_cut_at_every_grain(random_sites: MakeSites) -> None:
    kernel_map = maps(random_sites(15, 0.8))["same"]
    blocks = kernel_map.blocks
    assert blocks.cuts[0].tolist() == list(kernel_map.begins[:-1])
    assert blocks.cuts[-1].tolist() == list(kernel_map.begins[1:])
    for grain in range(blocks.grains):
        for k in range(blocks.volume):
            rows = blocks.target[blocks.cuts[grain, k] : blocks.cuts[grain + 1, k]] // convolution_cpu.GRAIN
            assert (rows == grain).all()


def test_results_are_contiguous_and_may_be_changed_in_place() -> None:
    manager = CoordinateManager()
    key = manager.insert(torch.tensor([[0, 1, 2, 3]], dtype=torch.int32))
    weight = torch.ones(27, 3, 5, requires_grad=True)
    out = convolution(torch.ones(1, 3), weight, manager.kernel_map(key, key, 3))
    assert out.is_contiguous() and out.relu_().sum() == 15
    out.sum().backward()
    assert weight.grad is not None and weight.grad.is_contiguous() and weight.grad.sum() == 15


def test_what_the_kernels_need_is_found_once_for_each_direction(random_sites: MakeSites) -> None:
    """Transposed convolutions hold the reverse of a map, and their gradients the reverse of that."""
    kernel_map = maps(random_sites(7, 0.6))["same"]
    reverse = kernel_map.reverse
    assert reverse.reverse.blocks is kernel_map.blocks
    assert reverse.blocks is kernel_map.reverse.blocks and reverse.blocks is not kernel_map.blocks
    assert reverse.blocks.rows == kernel_map.num_in


_RESULTS = """
import hashlib, torch
from ssl3d.models.sparse import Convolution, SparseTensor, cpu_tiles
generator = torch.Generator().manual_seed(3)
sites = torch.randint(0, 12, (700, 4), generator=generator).unique(dim=0)
sites[:, 0] = 0
sites = sites.unique(dim=0)
state = hashlib.sha256()
for inputs, outputs in ((20, 72), (33, 40)):
    layer = Convolution(inputs, outputs, 3)
    layer.kernel.data = torch.randn(layer.kernel.shape, generator=generator)
    x = torch.randn(len(sites), inputs, generator=generator).requires_grad_()
    out = layer(SparseTensor(x, sites)).features
    out.backward(torch.randn(out.shape, generator=generator))
    for value in (out.detach(), x.grad, layer.kernel.grad):
        state.update(value.numpy().tobytes())
print(cpu_tiles.LANES, state.hexdigest())
"""


def test_tiles_of_every_processor_give_the_same_bits(tmp_path: Path) -> None:
    def lanes_and_bits(**settings: str) -> list[str]:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **settings}
        done = subprocess.run([sys.executable, "-c", _RESULTS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    usual = lanes_and_bits()
    if usual[0] != "16":
        pytest.skip("this processor has no AVX-512, whose tiles would differ")
    assert lanes_and_bits(NUMBA_CPU_FEATURES="+avx2,+fma,+avx,+sse4.2,+bmi,+bmi2") == ["8", usual[1]]
