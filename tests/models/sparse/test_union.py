"""Pruning, unions and concatenation across coordinate maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl3d.models.sparse import (
    CoordinateManager,
    GlobalSumPooling,
    Pruning,
    SparseTensor,
    SparseTensorError,
    SumPooling,
    Union,
    cat,
)

ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])


def tensors(engine: str = "numba", axes: int = 3) -> list[SparseTensor]:
    """Three tensors on a line; the first has 0 1 2, the others overlap with it and with each other."""
    manager, made = CoordinateManager(engine), []
    for scale, xs in ((1.0, [1, 0, 2]), (10.0, [5, 2, -1]), (100.0, [7, -1, 0])):
        coordinates = torch.zeros(3, 1 + axes, dtype=torch.int32)
        coordinates[:, 1] = torch.tensor(xs)
        features = torch.tensor([[scale], [2 * scale], [3 * scale]], dtype=torch.float64)
        made.append(SparseTensor(features, coordinates, coordinate_manager=manager))
    return made


def by_x(tensor: SparseTensor) -> dict[int, list[float]]:
    return {int(c[1]): f for c, f in zip(tensor.C, tensor.F.tolist(), strict=True)}


@ENGINES
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_union_and_cat(axes: int, engine: str) -> None:
    a, b, c = tensors(engine, axes)
    both = Union()([a, b, c])
    assert by_x(both) == {1: [1], 0: [302], 2: [23], 5: [10], -1: [230], 7: [100]}
    assert both.C[:, 1].tolist() == [1, 0, 2, 5, -1, 7]  # the sites of the first, then what the others add
    side = cat([a, b, c])
    assert side.coordinate_map_key == both.coordinate_map_key
    assert by_x(side) == {1: [1, 0, 0], 0: [2, 0, 300], 2: [3, 20, 0], 5: [0, 10, 0], -1: [0, 30, 200], 7: [0, 0, 100]}
    # a tensor that has every site lends its key
    assert Union()([a, both]).coordinate_map_key == both.coordinate_map_key
    assert by_x(cat([both, a]))[0] == [302, 2]
    assert by_x(Union()([a, a, b])) == by_x(Union()([a + a, b]))
    assert torch.equal(Union()([a]).F, a.F)


@ENGINES
def test_gradients(engine: str) -> None:
    parts = tensors(engine)
    features = [t.F.requires_grad_() for t in parts]
    for join in (Union(), cat):

        def joined(*values: Tensor, join=join) -> Tensor:
            return join([t.with_features(v) for t, v in zip(parts, values, strict=True)]).F

        assert torch.autograd.gradcheck(joined, features)
    x, keep = parts[0], torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda f: Pruning()(x.with_features(f), keep).F, x.F)


@ENGINES
def test_pruning(engine: str) -> None:
    x = tensors(engine)[0]
    features = x.F.clone().requires_grad_()
    kept = Pruning()(x.with_features(features), torch.tensor([True, False, True]))
    assert by_x(kept) == {1: [1], 2: [3]} and kept.coordinate_map_key != x.coordinate_map_key
    kept.F.sum().backward()
    assert features.grad is not None and features.grad[:, 0].tolist() == [1, 0, 1]
    assert by_x(SumPooling((2, 1, 1), (2, 1, 1))(kept)) == {0: [1], 2: [3]}
    assert by_x(Union()([x, kept])) == {1: [2], 0: [2], 2: [6]}
    # a cloud may lose all its sites: it still counts
    none = Pruning()(x, torch.zeros(3, dtype=torch.bool))
    assert none.F.shape == (0, 1) and none.batch_size == 1
    assert GlobalSumPooling()(none).F.tolist() == [[0]]


def test_misuse_is_explained() -> None:
    a, b, _ = tensors()
    for join in (Union(), cat):
        with pytest.raises(SparseTensorError, match="at least one"):
            join([])
        with pytest.raises(SparseTensorError, match="different coordinate managers"):
            join([a, tensors()[1]])
        with pytest.raises(SparseTensorError, match="different tensor strides"):
            join([a, SumPooling(2, 2)(a)])
    with pytest.raises(SparseTensorError, match="numbers of channels"):
        Union()([a, b.with_features(torch.zeros(3, 2))])
    for mask in (torch.ones(3), torch.ones(2, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)):
        with pytest.raises(SparseTensorError, match="one boolean for each site"):
            Pruning()(a, mask)
    with pytest.raises(SparseTensorError, match="one boolean for each site"):
        Pruning()(a, torch.ones(3, dtype=torch.bool, device="meta"))


def test_halves_are_summed_in_float32() -> None:
    a, b, c = (t.with_features(torch.full((3, 1), v).bfloat16()) for t, v in zip(tensors(), (256, 1, 1), strict=True))
    thirds = [a, b, c, c.with_features(c.F)]
    assert by_x(Union()(thirds))[0] == [258] and Union()(thirds).F.dtype == torch.bfloat16
