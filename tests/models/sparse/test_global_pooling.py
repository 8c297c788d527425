"""Pooling over batch items, broadcasting and instance norm: against slow loops and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.sparse import (
    Broadcast,
    BroadcastAddition,
    BroadcastConcatenation,
    BroadcastMultiplication,
    CoordinateManager,
    GlobalAvgPooling,
    GlobalMaxPooling,
    GlobalSumPooling,
    InstanceNorm,
    SparseTensor,
    SparseTensorError,
    StableInstanceNorm,
)

ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])
POOLS = (GlobalSumPooling, GlobalAvgPooling, GlobalMaxPooling)
BATCH = [2, 0, 0, 2, 2, 0, 4]
"""Batch item of each row: 1 and 3 have none, and 5 neither."""


def batch_of(engine: str = "numba", axes: int = 3, channels: int = 3, requires_grad: bool = False) -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    coordinates = torch.zeros(len(BATCH), 1 + axes, dtype=torch.int32)
    coordinates[:, 0], coordinates[:, 1] = torch.tensor(BATCH), torch.arange(len(BATCH)) - 3
    features = torch.randn(len(BATCH), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(
        features.requires_grad_(requires_grad),
        coordinates,
        coordinate_manager=CoordinateManager(engine),
        batch_size=6,
    )


@ENGINES
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_global_pooling(axes: int, engine: str) -> None:
    x = batch_of(engine, axes)
    for pool, reduce in zip(POOLS, (lambda r: r.sum(0), lambda r: r.mean(0), lambda r: r.amax(0)), strict=True):
        out = pool()(x)
        assert out.C.tolist() == [[b] + [0] * axes for b in range(6)]
        for b, row in enumerate(out.F):
            rows = x.F[torch.tensor(BATCH) == b]
            torch.testing.assert_close(row, reduce(rows) if len(rows) else torch.zeros(3, dtype=torch.float64))
        assert pool()(x).coordinate_map_key == out.coordinate_map_key
        assert torch.equal(pool()(x, batch_size=5).F, out.F[:5])
        with pytest.raises(SparseTensorError, match="more batch items"):
            pool()(x, batch_size=4)


@ENGINES
def test_gradients(engine: str) -> None:
    x = batch_of(engine, requires_grad=True)
    for pool in POOLS:
        assert torch.autograd.gradcheck(lambda f, pool=pool: pool()(x.with_features(f)).F, x.F)
    pooled = GlobalAvgPooling()(x)
    for layer in (Broadcast(), BroadcastAddition(), BroadcastMultiplication(), BroadcastConcatenation()):
        values = pooled.F.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda f, g, layer=layer: layer(x.with_features(f), pooled.with_features(g)).F, (x.F, values)
        )
    norm = InstanceNorm(3).double()
    torch.nn.init.normal_(norm.weight)
    # not the last row: the only one of its batch item, with a variance of 0, it is too steep for finite differences
    mixed = batch_of(engine).F @ torch.ones(3, 3).double().tril()
    assert torch.autograd.gradcheck(
        lambda f, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, x.with_features(f)).F[:6],
        (mixed.requires_grad_(), norm.weight, norm.bias),
    )


@ENGINES
def test_broadcasting(engine: str) -> None:
    x = batch_of(engine)
    pooled = GlobalSumPooling()(x)
    spread = pooled.F[torch.tensor(BATCH)]
    assert torch.equal(Broadcast()(x, pooled).F, spread)
    assert torch.equal(BroadcastAddition()(x, pooled).F, x.F + spread)
    assert torch.equal(BroadcastMultiplication()(x, pooled).F, x.F * spread)
    wide = pooled.with_features(pooled.F[:, :2])
    out = BroadcastConcatenation()(x, wide)
    assert torch.equal(out.F, torch.cat([x.F, spread[:, :2]], 1)) and out.coordinate_map_key == x.coordinate_map_key
    # rows are found by their batch index, not by their place
    shuffled = SparseTensor(
        torch.tensor([[40.0], [0.0], [20.0]]),
        torch.tensor([[4, 1, 1, 1], [0, 2, 2, 2], [2, 0, 0, 0]]),
        coordinate_manager=x.coordinate_manager,
    )
    assert Broadcast()(x, shuffled).F[:, 0].tolist() == [10.0 * b for b in BATCH]


def test_misuse_of_broadcasting_is_explained() -> None:
    x = batch_of()
    pooled = GlobalSumPooling()(x)
    with pytest.raises(SparseTensorError, match="different coordinate managers"):
        BroadcastAddition()(x, GlobalSumPooling()(batch_of()))
    with pytest.raises(SparseTensorError, match="numbers of channels"):
        BroadcastMultiplication()(x, pooled.with_features(pooled.F[:, :2]))
    with pytest.raises(SparseTensorError, match="several sites"):
        Broadcast()(x, x)
    lacking = SparseTensor(
        torch.zeros(2, 3), torch.tensor([[0, 0, 0, 0], [2, 0, 0, 0]]), coordinate_manager=x.coordinate_manager
    )
    with pytest.raises(SparseTensorError, match=r"no row for a batch item(.|\n)*4"):
        Broadcast()(x, lacking)
    with pytest.raises(SparseTensorError, match="another number of channels"):
        InstanceNorm(4)(x)


@ENGINES
def test_equal_values_nan_and_halves(engine: str) -> None:
    x = batch_of(engine, channels=1)
    ties = torch.zeros(len(BATCH), 1, requires_grad=True)
    GlobalMaxPooling()(x.with_features(ties)).F.sum().backward()
    assert ties.grad is not None and ties.grad[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 1]  # the first row of each
    values = torch.ones(len(BATCH), 1)
    values[4] = math.nan
    for pool in POOLS:
        assert pool()(x.with_features(values)).F.isnan()[:, 0].tolist() == [False, False, True, False, False, False]

    many = torch.zeros(3000, 4, dtype=torch.int32)
    many[:, 1] = torch.arange(3000)
    ones = SparseTensor(torch.ones(3000, 1).bfloat16(), many, coordinate_manager=CoordinateManager(engine))
    with torch.autocast("cpu", torch.bfloat16):
        assert GlobalAvgPooling()(ones).F.item() == 1 and GlobalSumPooling()(ones).F.dtype == torch.bfloat16
        glob = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
        Broadcast()(ones, GlobalSumPooling()(ones).with_features(glob)).F.sum().backward()
    assert glob.grad is not None and abs(glob.grad.item() - 3000) <= 8  # the spacing of bfloat16 there is 16


def test_long_columns_are_exact() -> None:
    """A plain float32 sum of ones far from zero would be off by much more."""
    many = torch.zeros(200_000, 4, dtype=torch.int32)
    many[:, 1], many[:, 2] = torch.arange(200_000) % 1000, torch.arange(200_000) // 1000
    features = 1000 + torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    x = SparseTensor(features, many)
    mean = features.double().mean()
    assert abs(GlobalAvgPooling()(x).F.item() - mean) < 1e-4
    torch.testing.assert_close(
        InstanceNorm(1)(x).F.double(),
        (features.double() - mean) / features.double().std(correction=0),
        atol=1e-4,
        rtol=0,
    )


@ENGINES
def test_instance_norm(engine: str) -> None:
    x = batch_of(engine)
    for layer, eps in ((InstanceNorm(3), 1e-8), (StableInstanceNorm(3), 1e-6)):
        assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {"weight": (1, 3), "bias": (1, 3)}
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
        out = layer.double()(x).F
        for b in (0, 2):
            rows = torch.tensor(BATCH) == b
            expected = F.instance_norm(x.F[rows].t()[None], weight=layer.weight[0], bias=layer.bias[0], eps=eps)
            torch.testing.assert_close(out[rows], expected[0].t())
        torch.testing.assert_close(out[6:], layer.bias)  # a batch item of one site
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x.with_features(x.F.bfloat16())).F
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double()[:6], out[:6], atol=0.1, rtol=0.05)


def test_without_sites() -> None:
    empty = torch.zeros(0, 4, dtype=torch.int32)
    x = SparseTensor(torch.zeros(0, 3, requires_grad=True), empty, batch_size=2)
    for pool in POOLS:
        pooled = pool()(x)
        assert torch.equal(pooled.F, torch.zeros(2, 3))
        out = InstanceNorm(3)(BroadcastAddition()(x, pooled))
        assert out.F.shape == (0, 3)
        (out.F.sum() + pooled.F.sum()).backward()
    assert GlobalAvgPooling()(SparseTensor(torch.zeros(0, 3), empty)).F.shape == (0, 3)


def test_two_runs_are_bit_equal() -> None:
    def run() -> tuple[Tensor, Tensor]:
        x = batch_of(requires_grad=True)
        out = BroadcastMultiplication()(InstanceNorm(3).double()(x), GlobalAvgPooling()(x)).F
        out.square().sum().backward()
        assert x.F.grad is not None
        return out.detach(), x.F.grad

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))
