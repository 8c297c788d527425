"""The other operators against MinkowskiEngine's: pooling, broadcasts, instance norm, pruning, union, interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl3d.benchmarks.parity import DTYPES, Comparison, Row, Rows, Side, compare, random_coordinates, rows_of, tensors
from ssl3d.models import sparse
from ssl3d.models.sparse.backends.minkowski import library

CHANNELS = 8
Forward = Callable[[Any, Any], Any]
"""(a sparse tensor, the module with the layers of its engine) -> a sparse tensor."""


@dataclass(frozen=True)
class OperatorCase:
    """``ours`` and ``theirs`` do the same. ``stride``: the input is on the sites floor(x / stride)."""

    name: str
    ours: Forward
    theirs: Forward
    stride: int = 1

    def __str__(self) -> str:
        return self.name


def same(name: str, build: Callable[[Any, str], Any], apply: Forward | None = None, stride: int = 1) -> OperatorCase:
    """A case whose layers differ in nothing but the prefix of their names. ``build``: (module, prefix) -> layer."""

    def forward(prefix: str) -> Forward:
        def run(x: Any, engine: Any) -> Any:
            layer = build(engine, prefix)
            return layer(x) if apply is None else apply(x, layer)

        return run

    return OperatorCase(name, forward(""), forward("Minkowski"), stride)


def keep(coordinates: Tensor) -> Tensor:
    """A mask of sites that does not depend on their order."""
    return coordinates.sum(1) % 3 != 0


def _pooling(kind: str, kernel: int, stride: int) -> OperatorCase:
    def build(engine: Any, prefix: str) -> Any:
        return getattr(engine, f"{prefix}{kind}Pooling")(kernel_size=kernel, stride=stride, dimension=3)

    return same(f"{kind.lower()} pooling, kernel {kernel}, stride {stride}", build)


def _upward(kernel: int, stride: int) -> OperatorCase:
    def build(engine: Any, prefix: str) -> Any:
        return getattr(engine, f"{prefix}PoolingTranspose")(kernel_size=kernel, stride=stride, dimension=3)

    return same(f"transposed pooling, kernel {kernel}, stride {stride}", build, stride=stride)


def _global(kind: str) -> OperatorCase:
    return same(
        f"global {kind.lower()} pooling", lambda engine, prefix: getattr(engine, f"{prefix}Global{kind}Pooling")()
    )


def _broadcast(kind: str) -> OperatorCase:
    def build(engine: Any, prefix: str) -> Any:
        mean = getattr(engine, f"{prefix}GlobalAvgPooling")()
        layer = getattr(engine, f"{prefix}Broadcast{kind}")()
        return lambda x: layer(x, mean(x))

    return same(f"broadcast {kind.lower() or 'copy'} of the mean", build)


def _pruned(x: Any, layer: Any) -> Any:
    return layer(x, keep(x.C))


def _pruned_ours(x: Any, engine: Any) -> Any:
    return engine.Union()([engine.Pruning()(x, keep(x.C)), engine.Pruning()(x, ~keep(x.C + 1))])


def _pruned_theirs(x: Any, engine: Any) -> Any:
    return engine.MinkowskiUnion()(
        engine.MinkowskiPruning()(x, keep(x.C)), engine.MinkowskiPruning()(x, ~keep(x.C + 1))
    )


def operator_cases() -> Iterator[OperatorCase]:
    for kind in ("Sum", "Avg", "Max"):
        for kernel, stride in ((2, 2), (3, 2), (3, 3), (3, 1), (5, 2)):
            yield _pooling(kind, kernel, stride)
        yield _global(kind)
    for kernel, stride in ((2, 2), (3, 2), (3, 3)):
        yield _upward(kernel, stride)
    for kind in ("", "Addition", "Multiplication", "Concatenation"):
        yield _broadcast(kind)
    yield same("instance norm", lambda engine, prefix: getattr(engine, f"{prefix}InstanceNorm")(CHANNELS))
    yield same("pruning", lambda engine, prefix: getattr(engine, f"{prefix}Pruning")(), _pruned)
    yield OperatorCase("union of two prunings", _pruned_ours, _pruned_theirs)


def compare_operator(case: OperatorCase, coordinates: Tensor, dtype: torch.dtype, seed: int = 0) -> list[Row]:
    """Raises ``SitesDifferError`` when the outputs are on different sites."""
    ours, theirs = tensors(coordinates, CHANNELS, dtype, seed, case.stride)
    mine, other = (
        Side(rows_of(forward(x, engine)), {"input": rows_of(x)}, {})
        for forward, x, engine in ((case.ours, ours, sparse), (case.theirs, theirs, library()))
    )
    return compare(case.name, mine, other, seed)


def compare_interpolation(coordinates: Tensor, dtype: torch.dtype, seed: int = 0) -> list[Row]:
    """Multilinear interpolation at points around the sites."""
    ours, theirs = tensors(coordinates, CHANNELS, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    points = coordinates.to(dtype)
    points[:, 1:] += torch.rand(points[:, 1:].shape, generator=generator, dtype=dtype) * 2 - 1
    numbers = torch.arange(len(points))[:, None]
    mine = sparse.interpolate(ours, points)
    other = library().MinkowskiInterpolation()(theirs, points)
    return compare(
        "interpolation at points",
        Side(Rows(numbers, mine), {"input": rows_of(ours)}, {}),
        Side(Rows(numbers, other), {"input": rows_of(theirs)}, {}),
        seed,
    )


def operator_comparisons() -> list[Comparison]:
    """Each operator, in float32 and float64."""
    found: list[Comparison] = [
        partial(compare_operator, case, random_coordinates(3, number), dtype, number)
        for number, case in enumerate(operator_cases())
        for dtype in DTYPES
    ]
    return [*found, *(partial(compare_interpolation, random_coordinates(3, 0), dtype) for dtype in DTYPES)]
