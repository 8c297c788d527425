"""Pooling rows by region ids, and back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssl3d.models.sparse import SparseTensorError, region_gather, region_max, region_mean, region_sum

ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])


@ENGINES
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_worked_numbers(engine: str, dtype: torch.dtype) -> None:
    features = torch.tensor([[1.0, -5.0], [2.0, -4.0], [4.0, -9.0], [8.0, 8.0]])
    regions = torch.tensor([2, 0, 2, -1], dtype=dtype)
    assert region_sum(features, regions, engine=engine).tolist() == [[2, -4], [0, 0], [5, -14]]
    assert region_mean(features, regions, engine=engine).tolist() == [[2, -4], [0, 0], [2.5, -7]]
    pooled = region_max(features, regions, 4, engine=engine)
    assert pooled.tolist() == [[2, -4], [0, 0], [4, -5], [0, 0]]
    assert region_gather(pooled, regions, engine=engine).tolist() == [[4, -5], [2, -4], [4, -5], [0, 0]]


@ENGINES
def test_equal_to_a_loop_and_gradients(engine: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    regions = torch.randint(-1, 7, (40,))
    for pool, reduce in (
        (region_sum, lambda r: r.sum(0)),
        (region_mean, lambda r: r.mean(0)),
        (region_max, lambda r: r.amax(0)),
    ):
        out = pool(features, regions, 9, engine)
        expected = [reduce(features[regions == s]) if s < 7 else torch.zeros(3).double() for s in range(9)]
        torch.testing.assert_close(out, torch.stack(expected))
        assert torch.autograd.gradcheck(lambda f, pool=pool: pool(f, regions, 9, engine), features)
    values = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: region_gather(v, regions, engine), values)


@ENGINES
def test_equal_values_nan_and_nothing(engine: str) -> None:
    def maximum(values: list[float], regions: list[int]) -> tuple[Tensor, list[float]]:
        features = torch.tensor(values, dtype=torch.float32)[:, None].requires_grad_()
        out = region_max(features, torch.tensor(regions, dtype=torch.int64), engine=engine)
        out.sum().backward()
        assert features.grad is not None
        return out.detach()[:, 0], features.grad[:, 0].tolist()

    assert maximum([3, 3, 1, 3], [0, 0, 0, 0])[1] == [1, 0, 0, 0]
    out, grad = maximum([1, math.nan, 5, math.nan, 2], [0, 0, 0, 0, 1])
    assert out.isnan().tolist() == [True, False] and grad == [0, 1, 0, 0, 1]
    assert maximum([-math.inf, -math.inf], [0, 0])[1] == [1, 0]
    assert maximum([4, 5], [-1, -1])[0].shape == (0,)
    assert region_mean(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 3, engine).tolist() == [[0, 0]] * 3
    assert region_max(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), 1, engine).shape == (1, 0)


@ENGINES
def test_half_types_are_summed_in_float32(engine: str) -> None:
    features = torch.ones(1000, 1, dtype=torch.bfloat16, requires_grad=True)
    regions = torch.zeros(1000, dtype=torch.int64)
    out = region_mean(features, regions, engine=engine)
    assert out.item() == 1 and out.dtype == torch.bfloat16
    value = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    region_gather(value, regions, engine).sum().backward()
    assert value.grad is not None and value.grad.item() == 1000


def test_misuse_is_explained() -> None:
    features, regions = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    with pytest.raises(SparseTensorError, match="floating point"):
        region_mean(features.long(), regions)
    with pytest.raises(SparseTensorError, match="floating point"):
        region_mean(features[0], regions)
    for wrong in (regions[:2], regions.float(), regions[:, None], regions.to("meta")):
        with pytest.raises(SparseTensorError, match="one integer for each row"):
            region_max(features, wrong)
    with pytest.raises(SparseTensorError, match="out of range"):
        region_sum(features, regions, 2)
    with pytest.raises(SparseTensorError, match="out of range"):
        region_sum(features, regions - 2)
    with pytest.raises(SparseTensorError, match="out of range"):
        region_gather(features[:2], regions)
