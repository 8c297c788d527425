"""Coordinate managers: families of sites, the rules that make them, freed memory, and every bad input."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl3d.models.sparse import (
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    SparseTensor,
    SparseTensorError,
    kernel_offsets,
)
from ssl3d.models.sparse.kernel_map import KernelMap
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT, pack, unpack

Sites = Callable[..., Tensor]
ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])
Site = tuple[int, ...]


def draw_sites(axes: int, seed: int, size: int = 5, count: int = 14, low: int = -3) -> Tensor:
    """Up to ``count`` unique sites (n, 1 + axes) of two clouds in random order."""
    rng = np.random.default_rng(seed)
    sites = np.concatenate([rng.integers(0, 2, (count, 1)), rng.integers(low, low + size, (count, axes))], 1)
    return torch.from_numpy(rng.permutation(np.unique(sites, axis=0)).astype(np.int32))


def as_tuples(coordinates: Tensor) -> list[Site]:
    return [tuple(row) for row in coordinates.tolist()]


def triples(kernel_map: KernelMap) -> set[tuple[int, int, int]]:
    """(offset, input row, output row) of every pair; checks that the flat arrays and the views agree."""
    pairs = list(zip(kernel_map.source.tolist(), kernel_map.target.tolist(), strict=True))
    ends = list(pairwise(kernel_map.begins))
    found = [(k, *pair) for k, (first, last) in enumerate(ends) for pair in pairs[first:last]]
    views = [
        (p.offset, *pair) for p in kernel_map.pairs for pair in zip(p.source.tolist(), p.target.tolist(), strict=True)
    ]
    assert views == found and len(pairs) == len(found)
    if kernel_map.identity is not None:
        found += [(kernel_map.identity, i, i) for i in range(kernel_map.num_in)]
    assert len(found) == len(set(found)) == kernel_map.num_pairs
    return set(found)


def brute_force(ins: list[Site], outs: list[Site], offsets: list[Site]) -> set[tuple[int, int, int]]:
    row = {site: i for i, site in enumerate(ins)}
    moved = [
        (k, (site[0], *(a + b for a, b in zip(site[1:], offset, strict=True))), o)
        for k, offset in enumerate(offsets)
        for o, site in enumerate(outs)
    ]
    return {(k, row[site], o) for k, site, o in moved if site in row}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), axes=st.sampled_from([2, 3, 4]), seed=st.integers(0, 1000))
def test_sites_and_maps_equal_brute_force(data: st.DataObject, axes: int, seed: int) -> None:
    per_axis = st.tuples(*[st.integers(1, 3)] * axes)
    size, stride, dilation = data.draw(per_axis), data.draw(per_axis), data.draw(per_axis)
    bounds = data.draw(st.none() | st.tuples(*[st.integers(1, 6)] * axes))
    coordinates = draw_sites(axes, seed)
    fine = as_tuples(coordinates)
    down = kernel_offsets(size, dilation)

    def inside(site: Site) -> bool:
        return bounds is None or all(0 <= x < n for x, n in zip(site[1:], bounds, strict=True))

    for engine in ("numba", "torch"):
        manager = CoordinateManager(engine)  # type: ignore[arg-type]
        key = manager.insert(coordinates)
        floored = manager.strided(key, stride)
        assert set(as_tuples(manager.coordinates(floored))) == {
            (b, *(x // s * s for x, s in zip(xs, stride, strict=True))) for b, *xs in fine
        }
        reached = manager.reached(key, stride, size, dilation, bounds)
        windows = {(b, *(x - o for x, o in zip(xs, offset, strict=True))) for (b, *xs), offset in product(fine, down)}
        assert set(as_tuples(manager.coordinates(reached))) == {
            y for y in windows if all(x % s == 0 for x, s in zip(y[1:], stride, strict=True)) and inside(y)
        }
        generated = manager.generated(floored, stride, size, dilation, bounds)
        grown = {
            (b, *(x + o for x, o in zip(xs, offset, strict=True)))
            for (b, *xs), offset in product(as_tuples(manager.coordinates(floored)), down)
        }
        assert set(as_tuples(manager.coordinates(generated))) == {y for y in grown if inside(y)}
        for a, b in ((key, key), (key, floored), (key, reached), (generated, floored)):
            ends = as_tuples(manager.coordinates(a)), as_tuples(manager.coordinates(b))
            expected = brute_force(*ends, down)
            assert triples(manager.kernel_map(a, b, size, dilation)) == expected
            back = triples(manager.kernel_map(b, a, size, dilation, transposed=True))
            assert {(k, i, o) for k, o, i in back} == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_map(random_sites: Sites, threads: int) -> None:
    coordinates = random_sites(60, 0.5, 1)  # enough for each thread to get a share
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        manager = CoordinateManager("numba")
        key = manager.insert(coordinates)
        fast = manager.kernel_map(key, key, 3)
    finally:
        torch.set_num_threads(before)
    other = CoordinateManager("torch")
    own = other.insert(coordinates)
    slow = other.kernel_map(own, own, 3)
    assert torch.equal(fast.source, slow.source) and torch.equal(fast.target, slow.target)
    assert fast.begins == slow.begins


@ENGINES
def test_pairs_ascend_in_the_order_of_the_keys(random_sites: Sites, engine: str) -> None:
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    coordinates = random_sites(7, 0.4, 3, batches=2, low=-2)
    key = manager.insert(coordinates)
    coarse = manager.strided(key, (2, 1, 3))
    for a, b in ((key, key), (key, coarse)):
        for pair in manager.kernel_map(a, b, 3).pairs:
            for rows, end in ((pair.source, a), (pair.target, b)):
                keys = pack(manager.coordinates(end))[rows.long()]
                assert rows.dtype == torch.int32 and bool((keys[1:] > keys[:-1]).all())


def test_layers_share_maps_by_what_they_connect(random_sites: Sites) -> None:
    manager = CoordinateManager()
    key = manager.insert(random_sites(6))
    assert manager.reached(key, 2, 3) == manager.reached(key, (2, 2, 2), (3, 3, 3), 1)
    different = [manager.reached(key, 2, 3), manager.reached(key, 2, 2), manager.reached(key, 2, 3, 2)]
    different += [manager.reached(key, 2, 3, bounds=(4, 4, 4)), manager.strided(key, 2), key]
    assert len(set(different)) == len(different)
    # flat kernels of one volume on the same sites are different maps, whatever layer asks first
    flat = [manager.kernel_map(key, key, size) for size in ((1, 3, 3), (3, 1, 3), (3, 3, 1))]
    assert len({id(m) for m in flat}) == 3 and manager.kernel_map(key, key, (1, 3, 3)) is flat[0]


def test_decoder_returns_through_every_family(random_sites: Sites) -> None:
    manager = CoordinateManager()
    levels = [manager.insert(random_sites(16, 0.02, 4))]
    for stride in ((2, 2, 2), (2, 2, 1)):
        levels.append(manager.reached(levels[-1], stride, 3))
    assert levels[2].stride == (4, 4, 2)
    assert manager.upsampled(levels[2], (2, 2, 1)) == levels[1]
    assert manager.upsampled(levels[1], 2) == levels[0]
    grown = manager.generated(levels[2], (4, 4, 2), 2)
    assert grown not in levels and manager.upsampled(manager.strided(grown, 2), 2) == grown


def test_growth_of_one_voxel_in_cylinder3d() -> None:
    bounds = (480, 360, 32)
    for site, expected in (((95, 179, 11), [8, 8, 16, 24]), ((96, 176, 16), [1, 1, 3, 5])):
        manager = CoordinateManager()
        key, sizes = manager.insert(torch.tensor([[0, *site]])), []
        for stride in ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1)):
            key = manager.reached(key, stride, 3, bounds=bounds)
            sizes.append(len(manager.map(key)))
        assert sizes == expected


def test_maps_are_freed_with_the_last_tensor(random_sites: Sites) -> None:
    coordinates = random_sites(6, 0.3)
    layers = [Convolution(2, 2, 3), Convolution(2, 2, 2, 2), ConvolutionTranspose(2, 2, 2, 2)]
    gc.disable()
    try:
        x = SparseTensor(torch.randn(len(coordinates), 2, requires_grad=True), coordinates)
        manager = x.coordinate_manager
        y = x
        for layer in layers:
            y = layer(y)
        y.F.sum().backward()
        kernel_map = manager.kernel_map(x.coordinate_map_key, x.coordinate_map_key, 3)
        held = [weakref.ref(thing) for thing in (manager, kernel_map, x, y, y.F)]
        del x, y, manager, kernel_map
        assert [ref() for ref in held] == [None] * len(held)
    finally:
        gc.enable()


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_keys_at_the_limits(axes: int) -> None:
    limit, last = COORDINATE_LIMIT[axes], BATCH_LIMIT[axes] - 1
    corners = torch.tensor(list(product([0, last], *[[-limit, limit - 1]] * axes)))
    keys = pack(corners)
    assert torch.equal(unpack(keys, axes), corners.int())
    assert bool((keys[1:] > keys[:-1]).all())
    for engine in ("numba", "torch"):
        manager = CoordinateManager(engine)  # type: ignore[arg-type]
        key = manager.insert(corners)
        assert manager.kernel_map(key, key, 3).num_pairs == len(corners)  # nothing wraps around
        assert manager.batch_size(key) == last + 1
        for bad in ([0, limit], [0, -limit - 1], [-1, 0], [last + 1, 0]):
            with pytest.raises(SparseTensorError, match="out of range" if bad[1] else "batch"):
                manager.insert(torch.tensor([[*bad, *[0] * (axes - 1)]]))
        with pytest.raises(SparseTensorError, match=rf"out of range.*{limit} with {axes} axes"):
            manager.generated(key, 1, 3)


def test_far_coordinates() -> None:
    """2^20 voxels from the origin: fine in 2D, an error that names the limit in 3D."""
    far = torch.tensor([[0, 1 << 20, -(1 << 20)], [0, (1 << 20) + 1, -(1 << 20)]])
    x = SparseTensor(torch.tensor([[1.0], [10.0]]), far)
    layer = Convolution(1, 1, (3, 1))
    layer.kernel.data = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert layer(x).F.flatten().tolist() == [32, 21]
    with pytest.raises(SparseTensorError, match="130048 with 3 axes"):
        SparseTensor(torch.ones(1, 1), torch.tensor([[0, 1 << 20, 0, 0]]))
    near = torch.tensor([[0, -(1 << 17) + 1024, 0, 0], [0, (1 << 17) - 1025, 0, 0]])
    assert len(Convolution(1, 1, 3)(SparseTensor(torch.ones(2, 1), near))) == 2


@ENGINES
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_tensors_without_sites_and_empty_clouds(engine: str, axes: int) -> None:
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    features = torch.zeros(0, 2, requires_grad=True)
    x = SparseTensor(features, torch.zeros(0, 1 + axes, dtype=torch.int32), coordinate_manager=manager, batch_size=2)
    layers = (
        Convolution(2, 3, 3, dimension=axes),
        Convolution(3, 3, 3, 2, dimension=axes, sites="reach"),
        ConvolutionTranspose(3, 3, 2, 2, dimension=axes, sites="generated"),
        Convolution(3, 2, 2, 2, dimension=axes),
        ConvolutionTranspose(2, 1, 2, 2, dimension=axes, bias=True),
    )
    for layer in layers:
        x = layer(x)
    x.F.sum().backward()
    assert x.F.shape == (0, 1) and features.grad is not None and features.grad.shape == (0, 2)
    assert x.batch_size == 2 and [len(f) for f in x.decomposed_features] == [0, 0]

    gap = torch.zeros(2, 1 + axes, dtype=torch.int64)
    gap[:, 0] = torch.tensor([2, 0])  # cloud 1 is empty, and cloud 3 at the end
    y = SparseTensor(torch.tensor([[5.0], [7.0]]), gap, batch_size=4)
    assert [f.flatten().tolist() for f in y.decomposed_features] == [[7], [], [5], []]
    assert [tuple(c.shape) for c in y.decomposed_coordinates] == [(1, axes), (0, axes), (1, axes), (0, axes)]
    both = y.decomposed_coordinates_and_features
    assert [[len(part) for part in parts] for parts in both] == [[1, 0, 1, 0], [1, 0, 1, 0]]
    assert y.with_features(y.F, y.coordinate_manager.strided(y.coordinate_map_key, 2)).batch_size == 4


def test_one_voxel() -> None:
    x = SparseTensor(torch.tensor([[2.0]]), torch.tensor([[0, 5, -7, 3]]))
    layer = Convolution(1, 1, 3)
    assert layer(x).F.item() == pytest.approx(2 * layer.kernel[13].item())


def test_input_need_not_be_contiguous(random_sites: Sites) -> None:
    torch.manual_seed(0)
    coordinates = random_sites(6, 0.3)
    features = torch.randn(3, len(coordinates))
    layer = Convolution(3, 2, 3)
    expected = layer(SparseTensor(features.t().contiguous(), coordinates)).F
    for dtype in (torch.int64, torch.int32, torch.int16):
        spread = torch.zeros(len(coordinates), 8, dtype=dtype)
        spread[:, ::2] = coordinates
        assert torch.equal(layer(SparseTensor(features.t(), spread[:, ::2])).F, expected)
    assert torch.equal(layer(SparseTensor(features.t(), coordinates.t().contiguous().t())).F, expected)


def test_misuse_is_explained() -> None:
    manager = CoordinateManager()
    key = manager.insert(torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(SparseTensorError, match="same number of axes"):
        manager.insert(torch.zeros(1, 3, dtype=torch.int32))
    with pytest.raises(SparseTensorError, match="not under the batch size"):
        manager.insert(torch.tensor([[3, 0, 0, 0]]), batch_size=3)
    with pytest.raises(SparseTensorError, match="integers"):
        manager.insert(torch.tensor([[0.0, torch.nan, 0.0, 0.0]]))
    for bad in (0, (1, 2), (3, 3, 0)):
        with pytest.raises(SparseTensorError, match="at least 1"):
            manager.kernel_map(key, key, bad)
    with pytest.raises(SparseTensorError, match="too large"):
        manager.strided(key, 4096)
    with pytest.raises(SparseTensorError, match="not divisible"):
        manager.generated(key, 2, 2)
