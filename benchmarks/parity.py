"""How far the sparse engine is from MinkowskiEngine: the same sites, features and weights, outputs and gradients.

MinkowskiEngine's own layers run on its own coordinate manager, with the state dicts of ours; rows are matched by their
coordinates. A difference is the largest absolute one, its scale the largest absolute value of MinkowskiEngine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl3d.data.errors import Ssl3dError
from ssl3d.models.sparse import Convolution, ConvolutionTranspose, CoordinateManager, SparseTensor
from ssl3d.models.sparse.backends.minkowski import library

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        difference: the largest absolute one.
        scale: the largest absolute value of what ours is compared with.
        detail: which parameter it is, or how many sites.
    """

    case: str
    quantity: str
    dtype: str
    difference: float
    scale: float
    detail: str = ""

    @property
    def relative(self) -> float:
        return self.difference / self.scale if self.scale else float(self.difference > 0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "quantity": self.quantity,
            "dtype": self.dtype,
            "max_abs_difference": self.difference,
            "scale": self.scale,
            "relative": self.relative,
            "detail": self.detail,
        }


Comparison = Callable[[], list[Row]]
"""Compares when it is called."""


class SitesDifferError(Ssl3dError):
    """The two engines made different sites."""


@dataclass(frozen=True)
class Rows:
    """Numbers on sites.

    Attributes:
        coordinates: (n, 1 + D) integers; whatever else names a row will do, such as its number.
        values: (n, C).
    """

    coordinates: Tensor
    values: Tensor


@dataclass(frozen=True)
class Side:
    """What one engine made: its output, and what gradients are asked for, on sites (``leaves``) or not."""

    out: Rows
    leaves: Mapping[str, Rows]
    parameters: Mapping[str, Tensor]


def matched(ours: Tensor, theirs: Tensor) -> Tensor:
    """(n,) int64: the row of ``theirs`` that has the coordinates of each row of ``ours``."""
    orders = [torch.from_numpy(np.lexsort(c.numpy().T[::-1])) for c in (ours, theirs)]
    if ours.shape != theirs.shape or not torch.equal(ours[orders[0]], theirs[orders[1]].to(ours.dtype)):
        raise SitesDifferError("the engines made different sites", where={"ours": len(ours), "theirs": len(theirs)})
    rows = torch.empty(len(ours), dtype=torch.int64)
    rows[orders[0]] = orders[1]
    return rows


def row(case: str, quantity: str, ours: Tensor, theirs: Tensor, detail: str = "") -> Row:
    """``ours`` and ``theirs`` of the same shape and order."""
    dtype = str(theirs.dtype).removeprefix("torch.")
    if not theirs.numel():
        return Row(case, quantity, dtype, 0.0, 0.0, detail)
    difference, scale = (ours.detach() - theirs.detach()).abs().max(), theirs.detach().abs().max()
    return Row(case, quantity, dtype, float(difference), float(scale), detail)


def compare(case: str, ours: Side, theirs: Side, seed: int = 0) -> list[Row]:
    """Output, and gradients of the same random linear function of it.

    Raises:
        SitesDifferError: of the output or of an input.
    """
    order = matched(ours.out.coordinates, theirs.out.coordinates)
    rows = [row(case, "output", ours.out.values, theirs.out.values[order], f"{len(order)} sites")]
    generator = torch.Generator().manual_seed(~seed)  # not the numbers that the features are
    weights = torch.randn(ours.out.values.shape, generator=generator, dtype=ours.out.values.dtype)
    moved = torch.empty_like(weights)
    moved[order] = weights
    named = [*ours.leaves, *ours.parameters]
    grads = [
        torch.autograd.grad(
            side.out.values, [leaf.values for leaf in side.leaves.values()] + list(side.parameters.values()), cotangent
        )
        for side, cotangent in ((ours, weights), (theirs, moved))
    ]
    for name, mine, other in zip(named, *grads, strict=True):
        if name in ours.leaves:
            other = other[matched(ours.leaves[name].coordinates, theirs.leaves[name].coordinates)]
        rows.append(row(case, f"gradient of the {name}", mine, other))
    return rows


# ---------------------------------------------------------------- sites and tensors of both engines


def random_coordinates(dimension: int, seed: int, count: int = 300, span: int = 12, batches: int = 2) -> Tensor:
    """(n, 1 + D) int32, unique, in random order, negative ones among them."""
    rng = np.random.default_rng([seed, dimension])
    drawn = rng.integers(-span // 2, span - span // 2, (count, dimension))
    sites = np.unique(np.c_[rng.integers(0, batches, count), drawn], axis=0)
    return torch.from_numpy(rng.permutation(sites).astype(np.int32))


def tensors(
    coordinates: Tensor, channels: int, dtype: torch.dtype, seed: int, stride: int = 1
) -> tuple[SparseTensor, Any]:
    """The same random features on the same sites, of ours and of MinkowskiEngine; leaves that need gradients.

    Args:
        stride: if not 1, the features are on the sites floor(x / stride) that each engine makes.
    """
    engine: Any = library()
    manager = CoordinateManager()
    key = manager.insert(coordinates)
    key = key if stride == 1 else manager.strided(key, stride)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(manager.map(key)), channels, generator=generator, dtype=dtype)
    ours = SparseTensor(features.clone().requires_grad_(), coordinate_map_key=key, coordinate_manager=manager)

    other = engine.CoordinateManager(D=coordinates.shape[1] - 1, coordinate_map_type=engine.CoordinateMapType.CPU)
    their_key, _ = other.insert_and_map(coordinates, 1)
    their_key = their_key if stride == 1 else other.stride(their_key, stride)
    order = matched(other.get_coordinates(their_key), ours.coordinates)
    theirs = engine.SparseTensor(
        features[order].requires_grad_(), coordinate_map_key=their_key, coordinate_manager=other
    )
    return ours, theirs


def rows_of(tensor: Any) -> Rows:
    """Coordinates and features of a sparse tensor of either engine."""
    return Rows(tensor.C, tensor.F)


# ---------------------------------------------------------------- convolutions


@dataclass(frozen=True)
class LayerCase:
    """A convolution between random sites. ``kernel``, ``stride`` and ``dilation``: as the layers take them.
    ``generated``: a transposed one that makes its sites."""

    kernel: int | tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    channels: tuple[int, int] = (16, 32)
    dimension: int = 3
    bias: bool = False
    generated: bool = False

    def __str__(self) -> str:
        kind = "transposed convolution" if self.transposed else "convolution"
        kind = f"generative {kind}" if self.generated else kind
        size = "x".join(map(str, (self.kernel,) if isinstance(self.kernel, int) else self.kernel))
        extra = f", dilation {self.dilation}" if self.dilation > 1 else ""
        wide = f"{self.channels[0]} to {self.channels[1]} channels"
        return f"{self.dimension}D {kind}, kernel {size}, stride {self.stride}{extra}, {wide}"


def compare_layer(case: LayerCase, coordinates: Tensor, dtype: torch.dtype, seed: int = 0) -> list[Row]:
    """Runs both engines' layer with one state dict, which goes there and back.

    Raises:
        SitesDifferError: the outputs are on different sites.
    """
    engine: Any = library()
    ours, theirs = tensors(coordinates, case.channels[0], dtype, seed, case.stride if case.transposed else 1)
    kernel = case.kernel if isinstance(case.kernel, int) else list(case.kernel)
    options: dict[str, Any] = {
        "stride": case.stride,
        "dilation": case.dilation,
        "bias": case.bias,
        "dimension": case.dimension,
    }
    kinds: tuple[Any, Any] = (
        (ConvolutionTranspose, engine.MinkowskiConvolutionTranspose)
        if case.transposed
        else (Convolution, engine.MinkowskiConvolution)
    )
    chosen = {}
    if case.generated:
        kinds, chosen = (ConvolutionTranspose, engine.MinkowskiGenerativeConvolutionTranspose), {"sites": "generated"}
    torch.manual_seed(seed)
    layer = kinds[0](*case.channels, case.kernel, **options, **chosen).to(dtype)
    other = kinds[1](*case.channels, kernel_size=kernel, **options).to(dtype)
    other.load_state_dict(layer.state_dict())
    layer.load_state_dict(other.state_dict())
    mine, others = (
        Side(rows_of(module(x)), {"input": rows_of(x)}, dict(module.named_parameters()))
        for module, x in ((layer, ours), (other, theirs))
    )
    return compare(str(case), mine, others, seed)


def layer_cases() -> Iterator[LayerCase]:
    """The grid of the table; the tests draw from a larger one."""
    for kernel, stride, dilation in product((1, 2, 3, 5), (1, 2, 3), (1, 2)):
        if (kernel, dilation) != (1, 2):
            yield LayerCase(kernel, stride, dilation)
    for kernel, stride in product((1, 2, 3, 5), (2, 3)):
        yield LayerCase(kernel, stride, transposed=True)
    for kernel in (2, 3):
        yield LayerCase(kernel, 2, transposed=True, generated=True)
    for inputs, outputs in ((1, 64), (64, 1), (64, 64), (4, 7)):
        yield LayerCase(3, channels=(inputs, outputs), bias=True)
    yield LayerCase((3, 1, 3))
    yield LayerCase((1, 3, 5), 2)
    for dimension in (2, 4):
        yield LayerCase(3, dimension=dimension, channels=(8, 8))
        yield LayerCase(3, 2, 2, dimension=dimension, channels=(8, 8))
        yield LayerCase(2, 2, transposed=True, dimension=dimension, channels=(8, 8))


def layer_comparisons() -> list[Comparison]:
    """Each case of the grid, in float32 and float64."""
    return [
        partial(compare_layer, case, random_coordinates(case.dimension, number), dtype, number)
        for number, case in enumerate(layer_cases())
        for dtype in DTYPES
    ]
