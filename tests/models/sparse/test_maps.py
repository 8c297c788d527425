"""Coordinates, kernel maps and voxels: the CPU kernels against the torch operations, and every bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from ssl3d.models.sparse import (
    CoordinateManager,
    SparseTensor,
    SparseTensorError,
    kernel_offsets,
    voxel_mean,
    voxelize,
)
from ssl3d.models.sparse.kernel_map import KernelMap
from ssl3d.models.sparse.keys import BATCH_LIMIT, COORDINATE_LIMIT, pack, unpack

Sites = Callable[..., Tensor]


def as_set(kernel_map: KernelMap) -> set[tuple[int, int, int]]:
    found = set()
    for p in kernel_map.pairs:
        found |= {(p.offset, i, o) for i, o in zip(p.source.tolist(), p.target.tolist(), strict=True)}
    if kernel_map.identity is not None:
        found |= {(kernel_map.identity, i, i) for i in range(kernel_map.num_in)}
    return found


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (2, 1), (3, 2), ((3, 1, 2), 1)])
def test_both_engines_and_brute_force_agree(random_sites: Sites, size: int, dilation: int) -> None:
    coordinates = random_sites(6, 0.25, 7, batches=2, low=-3)
    maps = []
    for engine in ("numba", "torch"):
        manager = CoordinateManager(engine)  # type: ignore[arg-type]
        key = manager.insert(coordinates)
        coarse = manager.strided(key, 2)
        maps.append(
            [
                as_set(manager.kernel_map(key, key, size, dilation)),
                as_set(manager.kernel_map(key, coarse, size, dilation)),
                as_set(manager.kernel_map(coarse, key, size, dilation, transposed=True)),
            ]
        )
    assert maps[0] == maps[1]
    row = {tuple(c): i for i, c in enumerate(coordinates.tolist())}
    sizes = (size,) * 3 if isinstance(size, int) else size
    expected = {
        (k, row[(b, x + dx, y + dy, z + dz)], o)
        for k, (dx, dy, dz) in enumerate(kernel_offsets(sizes, (dilation,) * 3))
        for (b, x, y, z), o in row.items()
        if (b, x + dx, y + dy, z + dz) in row
    }
    assert maps[0][0] == expected


def test_pairs_are_counted_and_cached(random_sites: Sites) -> None:
    manager = CoordinateManager()
    key = manager.insert(random_sites(6, 0.5))
    first = manager.kernel_map(key, key, 3)
    assert first.num_pairs == len(as_set(first))
    assert manager.kernel_map(key, key, (3, 3, 3)) is first
    assert manager.strided(key, 2) == manager.strided(key, (2, 2, 2))


def test_offset_order() -> None:
    assert kernel_offsets((3, 1, 1), (2, 2, 2)) == [(-2, 0, 0), (0, 0, 0), (2, 0, 0)]
    assert kernel_offsets((2, 2, 2), (1, 1, 1))[:5] == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)]


@given(
    npst.arrays(
        np.int32,
        st.tuples(st.integers(1, 20), st.just(3)),
        elements=st.integers(-COORDINATE_LIMIT[3], COORDINATE_LIMIT[3] - 1),
    ),
    st.integers(0, BATCH_LIMIT[3] - 1),
)
def test_keys_round_trip_and_sort_like_coordinates(xyz: np.ndarray, batch: int) -> None:
    coordinates = torch.from_numpy(np.concatenate([np.full((len(xyz), 1), batch, np.int32), xyz], 1))
    keys = pack(coordinates)
    assert torch.equal(unpack(keys, 3), coordinates)
    assert [coordinates[i].tolist() for i in keys.argsort(stable=True)] == sorted(coordinates.tolist())


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_parents(random_sites: Sites, engine: str) -> None:
    manager = CoordinateManager(engine)  # type: ignore[arg-type]
    coordinates = random_sites(9, 0.2, 2, batches=2, low=-5)
    key = manager.insert(coordinates)
    coarse = manager.strided(manager.strided(key, 2), 2)
    rows = manager.parents(key, coarse)
    assert rows.dtype == torch.int64
    expected = torch.cat([coordinates[:, :1], torch.div(coordinates[:, 1:], 4, rounding_mode="floor") * 4], 1)
    assert torch.equal(manager.coordinates(coarse)[rows], expected)


@pytest.mark.parametrize(
    ("coordinates", "stride", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int32), 1, r"\(n, 1 \+ D\)"),
        (torch.zeros(2, 4), 1, "integers"),
        (torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2], [0, 1, 1, 1]]), 1, "unique"),
        (torch.tensor([[0, COORDINATE_LIMIT[3], 0, 0]]), 1, "out of range"),
        (torch.tensor([[0, 0, -COORDINATE_LIMIT[3] - 1, 0]]), 1, "out of range"),
        (torch.tensor([[-1, 0, 0, 0]]), 1, "batch"),
        (torch.tensor([[BATCH_LIMIT[3], 0, 0, 0]]), 1, "batch"),
        (torch.tensor([[0, 3, 0, 0]]), 2, "multiples"),
    ],
)
def test_bad_coordinates(coordinates: Tensor, stride: int, message: str) -> None:
    with pytest.raises(SparseTensorError, match=message):
        CoordinateManager().insert(coordinates, stride)


def test_bad_tensors(random_sites: Sites) -> None:
    coordinates = random_sites(4)
    good = SparseTensor(torch.ones(len(coordinates), 1), coordinates)
    for features in (torch.ones(1, 1), torch.ones(len(coordinates)), torch.ones(len(coordinates), 1).int()):
        with pytest.raises(SparseTensorError, match="one row for each coordinate"):
            good.with_features(features)
    with pytest.raises(SparseTensorError, match="needs coordinates"):
        SparseTensor(torch.ones(1, 1))
    with pytest.raises(SparseTensorError, match="not both"):
        SparseTensor(good.F, coordinates, coordinate_map_key=good.coordinate_map_key)
    with pytest.raises(SparseTensorError, match="no coordinates are known"):
        SparseTensor(good.F, coordinate_map_key=good.coordinate_map_key, coordinate_manager=CoordinateManager())
    with pytest.raises(SparseTensorError, match="too far"):
        good.coordinate_manager.kernel_map(good.coordinate_map_key, good.coordinate_map_key, 3, 2000)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_voxelize_worked_example(engine: str) -> None:
    points = torch.tensor([[0.005, 0.01, 0], [0.0195, 0, 0], [0.021, 0.039, 0], [-0.001, 0, 0]], dtype=torch.float64)

    def voxels(shifted: Tensor) -> list[list[int]]:
        coordinates, inverse = voxelize(shifted, 0.02, engine=engine)  # type: ignore[arg-type]
        return coordinates[inverse][:, 1:3].tolist()

    assert voxels(points - points.min(0).values) == [[0, 0], [1, 0], [1, 1], [0, 0]]
    assert voxels(points) == [[0, 0], [0, 0], [1, 1], [-1, 0]]


@settings(max_examples=25, deadline=None)
@given(
    points=npst.arrays(
        np.float32,
        st.tuples(st.integers(0, 60), st.just(3)),
        elements=st.one_of(st.floats(-3, 3, width=32), st.sampled_from([np.nan, np.inf, -np.inf])),
    ),
    clip=st.sampled_from([None, ((-1.0, 1.0), (-2.0, 2.0), (-1.0, 0.5))]),
    seed=st.integers(0, 100),
)
def test_voxelize_properties(points: np.ndarray, clip: tuple[tuple[float, float], ...] | None, seed: int) -> None:
    cloud = torch.from_numpy(points)
    batch = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, len(points)).astype(np.int32))
    coordinates, inverse = voxelize(cloud, (0.3, 0.5, 0.3), batch=batch, clip=clip, engine="numba")
    other, other_inverse = voxelize(cloud, (0.3, 0.5, 0.3), batch=batch, clip=clip, engine="torch")
    assert torch.equal(coordinates, other) and torch.equal(inverse, other_inverse)
    low, high = np.array(clip or [(-np.inf, np.inf)] * 3).T
    inside = np.isfinite(points).all(1) & (points >= low).all(1) & (points <= high).all(1)
    assert np.array_equal(inverse.numpy() >= 0, inside)
    expected = np.floor(points[inside].astype(np.float64) / [0.3, 0.5, 0.3]).astype(np.int32)
    assert np.array_equal(coordinates[inverse[inside]].numpy(), np.c_[batch.numpy()[inside], expected])
    assert torch.equal(coordinates.unique(dim=0), coordinates)  # sorted, without duplicates, each one used
    assert set(inverse[inside].tolist()) == set(range(len(coordinates)))
    mean = voxel_mean(cloud, inverse, len(coordinates))
    torch.testing.assert_close(mean, voxel_mean(cloud, inverse, len(coordinates), engine="torch"))
    for row in range(len(coordinates)):
        np.testing.assert_allclose(mean[row], points[inverse.numpy() == row].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_voxelize_bad_input(engine: str) -> None:
    far = torch.tensor([[1e6, 0, 0], [0, 0, 0]])
    with pytest.raises(SparseTensorError, match="too far out"):
        voxelize(far, 0.05, engine=engine)  # type: ignore[arg-type]
    with pytest.raises(SparseTensorError, match="positive"):
        voxelize(far, 0.0, engine=engine)  # type: ignore[arg-type]
    with pytest.raises(SparseTensorError, match="batch"):
        voxelize(far, 1e3, batch=torch.tensor([0, BATCH_LIMIT[3]]), engine=engine)  # type: ignore[arg-type]


def test_importing_the_engine_compiles_nothing() -> None:
    code = "import sys, ssl3d.models.sparse, ssl3d.models.backbones.minkunet; print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
