"""The seam below the layers: who computes, what a library is told, and what is said when it cannot."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import get_args

import pytest
import torch
from torch import Tensor

from ssl3d.cli import options
from ssl3d.data.errors import UsageError
from ssl3d.models.sparse import Convolution, ConvolutionTranspose, CoordinateManager, SparseTensor, backends, functional
from ssl3d.models.sparse.backends import minkowski, spconv, use_backend
from ssl3d.models.sparse.backends.base import Native
from ssl3d.models.sparse.derived import derived
from ssl3d.models.sparse.kernel_map import KernelMap
from ssl3d.pipeline.training.config import TrainParams

Sites = Callable[..., Tensor]


class Watched(Native):
    """Our own backend, which notes what it is asked for."""

    def __init__(self) -> None:
        self.links: list[backends.Link] = []

    def convolution(self, features: Tensor, weight: Tensor, link: backends.Link) -> Tensor:
        self.links.append(link)
        return super().convolution(features, weight, link)


def test_every_list_of_backends_names_the_same() -> None:
    assert get_args(TrainParams.model_fields["sparse_backend"].annotation) == backends.BACKENDS
    assert get_args(options.BackendName) == backends.BACKENDS


def test_layers_ask_the_chosen_backend(random_sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr(backends, "_chosen", watched)
    coordinates = random_sites(6, 0.4, 1)
    x = SparseTensor(torch.randn(len(coordinates), 2), coordinates)
    coarse = Convolution(2, 3, 2, 2)(x)
    ConvolutionTranspose(3, 2, 2, 2)(coarse)
    Convolution(2, 2, (3, 1, 3), dilation=2)(x)
    Convolution(2, 2, 1)(x)  # a matrix product: nobody is asked
    down, up, across = watched.links
    assert (down.in_key, down.out_key) == (x.coordinate_map_key, coarse.coordinate_map_key)
    assert (up.in_key, up.out_key, up.transposed) == (down.out_key, down.in_key, True)
    assert (down.stride, across.kernel_size, across.dilation) == ((2, 2, 2), (3, 1, 3), (2, 2, 2))


def test_the_choice_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr(backends, "_chosen", watched)
    with pytest.raises(RuntimeError, match="inside"), use_backend("native") as backend:
        assert backends.chosen_backend() is backend is not watched
        raise RuntimeError("inside")
    assert backends.chosen_backend() is watched


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UsageError, match="no sparse backend 'torchsparse'") as caught:
        backends.set_backend("torchsparse")  # type: ignore[arg-type]
    assert "native, minkowski, spconv" in str(caught.value.hint)
    assert backends.chosen_backend().name == "native"


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    monkeypatch.setitem(sys.modules, "spconv", None)
    cached = (minkowski.library, minkowski.load, spconv.library, spconv.load)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize(("name", "then"), [("minkowski", "make minkowski"), ("spconv", "pip install spconv")])
def test_a_missing_library_is_a_wrong_command(name: str, then: str) -> None:
    with pytest.raises(UsageError) as caught:
        backends.check_backend(name, "cpu", training=True)
    assert then in str(caught.value.hint)
    assert backends.chosen_backend().name == "native"


def test_what_is_made_for_a_manager_goes_with_it() -> None:
    class Made:
        pass

    manager = CoordinateManager()
    made = weakref.ref(derived(manager, "name", Made))
    assert derived(manager, "name", Made) is made() is not derived(manager, "another", Made)
    del manager
    gc.collect()
    assert made() is None


def spconv_reads(features: Tensor, weight: Tensor, lists: spconv.PairLists, rows: int) -> Tensor:
    """What spconv makes of pair lists: in the submanifold case the middle is one product, and the counts behind the
    middle are those before it, mirrored."""
    volume = len(weight)
    out = torch.zeros(rows, weight.shape[2], dtype=features.dtype)
    for k in range(volume):
        if lists.submanifold and k == volume // 2:
            out += features @ weight[k]
            continue
        count = int(lists.counts[volume - 1 - k if lists.submanifold and k > volume // 2 else k])
        source, target = lists.pairs[0, k, :count].long(), lists.pairs[1, k, :count].long()
        out.index_add_(0, target, features[source] @ weight[k])
    return out


@pytest.mark.parametrize("kind", ["same", "even", "down", "up", "odd stride", "no pairs"])
def test_pair_lists_for_spconv_say_what_the_kernel_map_says(random_sites: Sites, kind: str) -> None:
    torch.manual_seed(0)
    manager = CoordinateManager()
    key = manager.insert(random_sites(6, 0.3, 2, low=-3))
    coarse = manager.strided(key, 2)
    kernel_map: KernelMap = {
        "same": lambda: manager.kernel_map(key, key, 3, 2),
        "even": lambda: manager.kernel_map(key, key, 2),
        "down": lambda: manager.kernel_map(key, coarse, 2),
        "up": lambda: manager.kernel_map(coarse, key, 2, 1, True),
        "odd stride": lambda: manager.kernel_map(key, coarse, 3),
        "no pairs": lambda: manager.kernel_map(key, manager.insert(torch.tensor([[0, 99, 99, 99]])), 3),
    }[kind]()
    lists = spconv.pair_lists(kernel_map, torch.device("cpu"))
    features = torch.randn(kernel_map.num_in, 2, dtype=torch.float64)
    weight = torch.randn(kernel_map.volume, 2, 3, dtype=torch.float64)
    expected = functional.convolution(features, weight, kernel_map)
    torch.testing.assert_close(spconv_reads(features, weight, lists, kernel_map.num_out), expected)
    assert lists.submanifold == (kind == "same")


needs_spconv = pytest.mark.skipif(find_spec("spconv") is None, reason="spconv is not installed (make minkowski)")


@needs_spconv
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spconv_infers_on_the_cpu(random_sites: Sites, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    coordinates = random_sites(10, 0.2, 3, batches=2, low=-5)
    x = SparseTensor(torch.randn(len(coordinates), 5, dtype=dtype), coordinates)
    layers = [
        Convolution(5, 8, 3), Convolution(8, 8, 2, 2), Convolution(8, 6, 3, dilation=2, bias=True),
        ConvolutionTranspose(6, 4, 2, 2), Convolution(4, 4, 2), Convolution(4, 4, (3, 1, 5)), Convolution(4, 4, 3, 3),
    ]  # fmt: skip
    network = torch.nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        ours = network(x).F
        with use_backend("spconv"):
            theirs = network(x).F
    torch.testing.assert_close(
        theirs, ours, rtol=0, atol=float(ours.abs().max()) * (1e-5 if dtype.itemsize < 8 else 1e-12)
    )


@needs_spconv
def test_spconv_is_right_with_several_threads(random_sites: Sites) -> None:
    """Its own threads would give some rows wrong, others each time, on inputs this large."""
    torch.manual_seed(0)
    coordinates = random_sites(40, 0.3)
    x, layer = SparseTensor(torch.randn(len(coordinates), 32), coordinates), Convolution(32, 32, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad(), use_backend("spconv"):
            results = [layer(x).F for _ in range(4)]
        assert torch.get_num_threads() == 2
        with torch.no_grad():
            torch.testing.assert_close(results[0], layer(x).F, rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results)


@needs_spconv
def test_spconv_does_not_train_on_the_cpu(random_sites: Sites) -> None:
    coordinates = random_sites(4)
    x = SparseTensor(torch.ones(len(coordinates), 2), coordinates)
    with use_backend("spconv"), pytest.raises(UsageError, match="no gradients on the CPU"):
        Convolution(2, 2, 3)(x)
    with pytest.raises(UsageError, match="no gradients on the CPU"):
        backends.check_backend("spconv", "cpu", training=True)
    backends.check_backend("spconv", "cpu", training=False)
