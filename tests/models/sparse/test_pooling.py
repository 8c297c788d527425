"""Local pooling against worked numbers, dense pooling, slow loops and finite differences."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.sparse import (
    AvgPooling,
    CoordinateManager,
    MaxPooling,
    MaxUnpooling,
    PoolingTranspose,
    SparseTensor,
    SparseTensorError,
    SumPooling,
    kernel_offsets,
)

Sites = Callable[..., Tensor]
ENGINES = pytest.mark.parametrize("engine", ["numba", "torch"])
POOLS = (SumPooling, AvgPooling, MaxPooling)


def on_line(xs: list[int], values: list[float], engine: str = "numba") -> SparseTensor:
    coordinates = torch.tensor([[0, x, 0, 0] for x in xs], dtype=torch.int32)
    return SparseTensor(torch.tensor(values)[:, None], coordinates, coordinate_manager=CoordinateManager(engine))


def by_x(tensor: SparseTensor) -> dict[int, float]:
    return {int(c[1]): float(f) for c, f in zip(tensor.C, tensor.F[:, 0].detach(), strict=True)}


def random_tensor(axes: int, engine: str, seed: int = 0, size: int = 6, share: float = 0.3) -> SparseTensor:
    """Two clouds on a grid around the origin, float64, 3 channels."""
    rng = np.random.default_rng(seed)
    active = rng.random((2, *(size,) * axes)) < share
    active.reshape(2, -1)[:, 0] = True
    sites = rng.permutation(np.argwhere(active)).astype(np.int32)
    sites[:, 1:] -= size // 2
    features = torch.from_numpy(rng.standard_normal((len(sites), 3)))
    return SparseTensor(features, torch.from_numpy(sites), coordinate_manager=CoordinateManager(engine))


@ENGINES
def test_worked_numbers_in_one_dimension(engine: str) -> None:
    x = on_line([3, 0, 1, -1], [100.0, 1.0, 10.0, 5.0], engine)
    assert by_x(SumPooling((2, 1, 1), (2, 1, 1))(x)) == {-2: 5, 0: 11, 2: 100}
    assert by_x(AvgPooling((2, 1, 1), (2, 1, 1))(x)) == {-2: 5, 0: 5.5, 2: 100}
    assert by_x(MaxPooling((2, 1, 1), (2, 1, 1))(x)) == {-2: 5, 0: 10, 2: 100}
    # a kernel of odd size is centered: the window of 2 holds 1 and 3
    coarse = SumPooling((3, 1, 1), (2, 1, 1))(x)
    assert by_x(coarse) == {-2: 5, 0: 16, 2: 110} and coarse.tensor_stride == (2, 1, 1)
    # unless it is as large as the stride: blocks -3..-1, 0..2, 3..5
    assert by_x(SumPooling((3, 1, 1), (3, 1, 1))(x)) == {-3: 5, 0: 11, 3: 100}
    assert by_x(SumPooling((3, 1, 1), 1)(x)) == {-1: 6, 0: 16, 1: 11, 3: 100}
    assert by_x(SumPooling((3, 1, 1), 1, (2, 1, 1))(x)) == {-1: 15, 0: 1, 1: 115, 3: 110}
    # a transpose gives each site what its windows hold
    assert by_x(PoolingTranspose((2, 1, 1), (2, 1, 1))(SumPooling((2, 1, 1), (2, 1, 1))(x))) == {
        -1: 5,
        0: 11,
        1: 11,
        3: 100,
    }
    assert by_x(PoolingTranspose((3, 1, 1), (2, 1, 1))(coarse)) == {-1: 21, 0: 16, 1: 126, 3: 110}


@ENGINES
@pytest.mark.parametrize("axes", [2, 3, 4])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(2, 2, 1), (3, 3, 1), (3, 2, 1), (3, 1, 2), (4, 2, 1), (1, 2, 1), (1, 1, 1)]
)
def test_equal_to_a_loop(axes: int, size: int, stride: int, dilation: int, engine: str) -> None:
    x = random_tensor(axes, engine, size=5, share=0.2 if axes == 4 else 0.4)
    values = {tuple(c): f for c, f in zip(x.C.tolist(), x.F, strict=True)}
    block = list(product(range(size), repeat=axes))
    offsets = block if size == stride else kernel_offsets((size,) * axes, (dilation,) * axes)
    outputs = [pool(size, stride, dilation)(x) for pool in POOLS]
    sites = {(c[0], *(v // stride * stride for v in c[1:])) for c in values}
    for out, reduce in zip(outputs, (sum, lambda w: sum(w) / len(w), lambda w: torch.stack(w).amax(0)), strict=True):
        assert set(map(tuple, out.C.tolist())) == sites and out.tensor_stride == (stride,) * axes
        for site, result in zip(out.C.tolist(), out.F, strict=True):
            moved = ((site[0], *(a + b for a, b in zip(site[1:], offset, strict=True))) for offset in offsets)
            window = [values[at] for at in moved if at in values]
            expected = reduce(window) if window else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@ENGINES
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (5, 1)])
def test_equal_to_dense_pooling(random_sites: Sites, size: int, stride: int, engine: str) -> None:
    torch.manual_seed(0)
    coordinates = random_sites(8, 0.3, 1, batches=2)
    features = torch.randn(len(coordinates), 3, dtype=torch.float64, requires_grad=True)
    x = SparseTensor(features, coordinates, coordinate_manager=CoordinateManager(engine))
    b, i, j, k = coordinates.long().unbind(1)
    padding = size // 2 if size % 2 else 0

    def grid(fill: float, values: Tensor) -> Tensor:
        return torch.full((2, 8, 8, 8, 3), fill, dtype=torch.float64).index_put((b, i, j, k), values).movedim(-1, 1)

    def at(dense: Tensor, out: SparseTensor) -> Tensor:
        b, i, j, k = out.C.long().unbind(1)
        return dense[b, :, i // stride, j // stride, k // stride]

    def gradient(values: Tensor) -> Tensor:
        return torch.autograd.grad(
            (values * torch.linspace(-1, 1, values.numel()).reshape(values.shape)).sum(), features
        )[0]

    maximum = MaxPooling(size, stride)(x)
    expected = at(F.max_pool3d(grid(-math.inf, features), size, stride, padding), maximum)
    assert torch.equal(maximum.F, expected)
    torch.testing.assert_close(gradient(maximum.F), gradient(expected))

    total, mean = SumPooling(size, stride)(x), AvgPooling(size, stride)(x)
    sums = at(F.avg_pool3d(grid(0, features), size, stride, padding) * size**3, total)
    counts = at(F.avg_pool3d(grid(0, torch.ones_like(features)), size, stride, padding) * size**3, total)
    torch.testing.assert_close(total.F, sums)
    torch.testing.assert_close(mean.F, sums / counts)
    torch.testing.assert_close(gradient(mean.F), gradient(sums / counts))


@ENGINES
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_gradients(size: int, stride: int, engine: str) -> None:
    x = random_tensor(3, engine, seed=2, size=3)
    x = x.with_features(x.F[:, :2].contiguous())
    layers = [pool(size, stride) for pool in POOLS]
    coarse = layers[0](x)
    for layer in layers:
        features = x.F.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda f, layer=layer: layer(x.with_features(f)).F, features)
        assert torch.autograd.gradgradcheck(
            lambda f, layer=layer: layer(x.with_features(f)).F, features, fast_mode=True
        )
    features = coarse.F.clone().requires_grad_()
    back = PoolingTranspose(size, stride)
    assert torch.autograd.gradcheck(lambda f: back(coarse.with_features(f)).F, features)
    pooled, indices = MaxPooling(size, stride).with_indices(x)
    features = pooled.F.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: MaxUnpooling()(pooled.with_features(f), indices, x).F, features)
    # <pool(x), y> = <x, transpose(y)>
    y = torch.randn_like(coarse.F)
    torch.testing.assert_close((coarse.F * y).sum(), (x.F * back(coarse.with_features(y)).F).sum())


def test_engines_agree_and_runs_are_bit_equal(random_sites: Sites) -> None:
    coordinates = random_sites(20, 0.2, 3)
    for pool, size, stride in product(POOLS, (2, 3), (1, 2)):
        results = []
        for engine in ("numba", "numba", "torch"):
            torch.manual_seed(0)
            features = torch.randn(len(coordinates), 8, requires_grad=True)
            out = pool(size, stride)(
                SparseTensor(features, coordinates, coordinate_manager=CoordinateManager(engine))
            ).F
            out.square().sum().backward()
            results.append((out.detach(), features.grad))
        assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
        torch.testing.assert_close(results[0], results[2])


@ENGINES
@pytest.mark.parametrize(("size", "stride"), [((2, 1, 1), (2, 1, 1)), ((2, 1, 1), 1)])
def test_first_of_equal_values_gets_the_gradient(size: tuple[int, ...], stride: int, engine: str) -> None:
    x = on_line([0, 1], [0.0, 0.0], engine)
    features = x.F.clone().requires_grad_()
    MaxPooling(size, stride)(x.with_features(features)).F[0].sum().backward()
    assert features.grad is not None and features.grad[:, 0].tolist() == [1, 0]


@ENGINES
@pytest.mark.parametrize("values", [[1.0, math.nan, 2.0], [math.nan, 1.0, 2.0], [-math.inf, math.nan, 3.0]])
def test_nan_beats_every_number(values: list[float], engine: str) -> None:
    for layer in (MaxPooling((3, 1, 1), (3, 1, 1)), MaxPooling((3, 1, 1), 1), SumPooling((3, 1, 1), 1)):
        out = layer(on_line([0, 1, 2], values, engine)).F
        assert bool(out[:2].isnan().all())


@ENGINES
def test_windows_without_sites_and_infinities(engine: str) -> None:
    x = on_line([0, 1, 3], [-1.0, -2.0, -4.0], engine)
    features = x.F.clone().requires_grad_()
    for pool in POOLS:
        out = pool(1, (2, 1, 1))(x.with_features(features))  # the window of 2 is the site 2, which there is not
        assert by_x(out) == {0: -1, 2: 0}
        (grad,) = torch.autograd.grad(out.F.sum(), features)
        assert grad[:, 0].tolist() == [1, 0, 0]
    low, indices = MaxPooling((2, 1, 1), (2, 1, 1)).with_indices(on_line([0, 2], [-math.inf, -math.inf], engine))
    assert by_x(low) == {0: -math.inf, 2: -math.inf} and indices[:, 0].tolist() == [0, 1]


@ENGINES
def test_half_types_are_summed_in_float32(engine: str) -> None:
    ones = on_line(list(range(512)), [1.0] * 512, engine)
    for dtype in (torch.float16, torch.bfloat16):
        x = ones.with_features((ones.F * (255 if dtype == torch.float16 else 1)).to(dtype).requires_grad_())
        with torch.autocast("cpu", torch.bfloat16):
            mean, maximum, total = (
                pool((512, 1, 1), (512, 1, 1))(x).F for pool in (AvgPooling, MaxPooling, SumPooling)
            )
        assert mean.dtype == maximum.dtype == total.dtype == dtype
        # their own sum would overflow (float16) or stop at 256 (bfloat16)
        assert torch.equal(mean, x.F[:1]) and torch.equal(maximum, x.F[:1])
        assert total.item() == (math.inf if dtype == torch.float16 else 512)
        mean.sum().backward()
        assert x.F.grad is not None and x.F.grad.dtype == dtype and bool((x.F.grad == 1 / 512).all())


def test_unpooling_puts_maxima_back() -> None:
    x = on_line([0, 1, 2], [1.0, 3.0, 2.0])
    pooled, indices = MaxPooling((2, 1, 1), (2, 1, 1)).with_indices(x)
    assert by_x(MaxUnpooling()(pooled, indices, x)) == {0: 0, 1: 3, 2: 2}
    same, indices = MaxPooling((3, 1, 1), 1).with_indices(x)
    assert by_x(MaxUnpooling()(same, indices, x)) == {0: 0, 1: 9, 2: 0}
    with pytest.raises(SparseTensorError, match="int32 indices"):
        MaxUnpooling()(pooled, indices, x)
    with pytest.raises(SparseTensorError, match="past the rows"):
        MaxUnpooling()(x, torch.full((3, 1), 3, dtype=torch.int32), x)
    with pytest.raises(SparseTensorError, match="different coordinate managers"):
        MaxUnpooling()(same, indices, on_line([0, 1, 2], [1.0, 3.0, 2.0]))


def test_sites_of_the_output_can_be_given_or_generated() -> None:
    x = on_line([0, 3], [1.0, 2.0])
    coarse = SumPooling((2, 1, 1), (2, 1, 1))(x)
    assert by_x(PoolingTranspose((2, 1, 1), (2, 1, 1), sites="generated")(coarse)) == {0: 1, 1: 1, 2: 2, 3: 2}
    dense = SparseTensor(
        torch.zeros(4, 1), torch.tensor([[0, i, 0, 0] for i in range(4)]), coordinate_manager=x.coordinate_manager
    )
    assert by_x(PoolingTranspose((2, 1, 1), (2, 1, 1))(coarse, dense)) == {0: 1, 1: 1, 2: 2, 3: 2}
    assert by_x(MaxPooling((3, 1, 1))(x, dense.coordinate_map_key)) == {0: 1, 1: 1, 2: 2, 3: 2}
    with pytest.raises(SparseTensorError, match="another tensor stride"):
        SumPooling(2, 2)(x, dense)
    with pytest.raises(SparseTensorError, match="different coordinate manager"):
        SumPooling(3)(x, on_line([0], [1.0]))
    with pytest.raises(SparseTensorError, match="blocks of an odd size"):
        PoolingTranspose(3, 3, sites="generated")(SumPooling(3, 3)(x))


def test_without_sites() -> None:
    x = SparseTensor(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    for pool, size in product(POOLS, (2, 3)):
        out = pool(size, 2)(x)
        assert out.F.shape == (0, 3) and out.tensor_stride == (2, 2, 2)
        out.F.sum().backward()


def test_rows_may_be_strided_in_memory() -> None:
    x = random_tensor(3, "numba")
    wide = torch.stack([x.F, -x.F], 2).requires_grad_()
    for pool in POOLS:
        out = pool(2, 2)(x.with_features(wide[..., 0])).F
        assert torch.equal(out, pool(2, 2)(x).F)
        torch.autograd.grad(out.t().sum(), wide)


def test_maps_are_shared_and_freed_with_the_manager() -> None:
    x = random_tensor(3, "numba")
    pool = SumPooling(3, 2)
    assert pool.windows(x)[1] is MaxPooling(3, 2).windows(x)[1]
    manager = weakref.ref(x.coordinate_manager)
    out = pool(x.with_features(x.F.clone().requires_grad_()))
    out.F.sum().backward()
    del x, out
    gc.collect()
    assert manager() is None


def test_misuse_is_explained() -> None:
    x = on_line([0, 1], [1.0, 2.0])
    with pytest.raises(SparseTensorError, match="at least 1"):
        SumPooling(0, 2)
    with pytest.raises(SparseTensorError, match="one for each of 3 axes"):
        MaxPooling((2, 2), (2, 2))(x)
    with pytest.raises(SparseTensorError, match="another number of axes"):
        MaxPooling(2, 2, dimension=2)(x)
    with pytest.raises(SparseTensorError, match="not divisible"):
        PoolingTranspose(2, 2)(x)
    with pytest.raises(SparseTensorError, match="knows no sites"):
        PoolingTranspose(2, 2, sites="here")
