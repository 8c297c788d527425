"""Coordinate maps and kernel maps of one batch, each built once and shared by every layer and every network."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from ssl3d.models.sparse import sites
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import (
    CoordinateMap,
    Engine,
    Ints,
    KernelMap,
    build_kernel_map,
    engine_of,
    ints,
    times,
)
from ssl3d.models.sparse.keys import check_batch_size

_ORIGINS = count()
"""Numbers of families, counted over all managers: a key of one then names nothing in another."""


class CoordinateMapKey(NamedTuple):
    """Names a coordinate map: its tensor stride, and which family of sites it belongs to.

    A family is an inserted map with everything that ``floor`` makes of it (there is one such map for each stride), or
    one that a reaching or generating convolution has made.
    """

    stride: Ints
    origin: int


class CoordinateManager:
    """The coordinate maps of one batch by key, and kernel maps cached by what they connect (never by a name).

    Maps are freed with the last tensor that holds the manager: nothing in here refers back to it.

    Args:
        engine: ``numba`` (CPU only) or ``torch`` (any device); by default what suits the coordinates' device.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self._maps: dict[CoordinateMapKey, CoordinateMap] = {}
        self._kernel_maps: dict[tuple[CoordinateMapKey, CoordinateMapKey, Ints, Ints, bool], KernelMap] = {}
        self._parents: dict[tuple[CoordinateMapKey, CoordinateMapKey], Tensor] = {}
        self._derived: dict[tuple[object, ...], CoordinateMapKey] = {}
        self._sources: dict[int, CoordinateMapKey] = {}  # what a family was derived from, by origin
        self._batch_sizes: dict[int, int] = {}

    def engine_for(self, device: torch.device) -> Engine:
        return self._engine or engine_of(device)

    def insert(
        self, coordinates: Tensor, tensor_stride: int | Ints = 1, batch_size: int | None = None
    ) -> CoordinateMapKey:
        """Adds sites.

        Args:
            coordinates: (n, 1 + D) integers [batch, x, ...], D = 2, 3 or 4, unique, multiples of ``tensor_stride``,
                |x| < ``keys.COORDINATE_LIMIT``; n may be 0.
            batch_size: number of clouds; by default the largest batch index + 1.

        Raises:
            SparseTensorError: wrong shape, not integers, out of range, off the stride's grid, duplicates, a batch index
                not under ``batch_size``, another device or number of axes than the manager's other sites.
        """
        engine = self.engine_for(coordinates.device)
        self._check_company(coordinates)
        stride = sites.check_coordinates(coordinates, tensor_stride, engine)
        if batch_size is not None:
            check_batch_size(batch_size, len(stride))
        # a copy: keys would not follow a change of the caller's coordinates
        coordinates = coordinates.detach().to(torch.int32, copy=True, memory_format=torch.contiguous_format)
        found = 0 if not len(coordinates) else int(coordinates[:, 0].max()) + 1
        if batch_size is not None and found > batch_size:
            raise SparseTensorError(
                "a batch index is not under the batch size", where={"index": found - 1, "batch size": batch_size}
            )
        key = self._new_family(stride, sites.inserted(coordinates, stride, engine))
        self._batch_sizes[key.origin] = found if batch_size is None else batch_size
        return key

    def map(self, key: CoordinateMapKey) -> CoordinateMap:
        if key not in self._maps:
            raise SparseTensorError(
                "no coordinates are known for this key",
                where={"tensor stride": key.stride, "known": [k.stride for k in self._maps]},
                hint="a transposed convolution needs the sites of the encoder at that stride, made by the same manager;"
                ' or give it sites="generated"',
            )
        return self._maps[key]

    def coordinates(self, key: CoordinateMapKey) -> Tensor:
        """(n, 1 + D) int32."""
        return self.map(key).coordinates

    def batch_size(self, key: CoordinateMapKey) -> int:
        """Number of clouds; those without a site count when ``insert`` was told the number."""
        self.map(key)
        origin = key.origin
        while origin in self._sources:
            origin = self._sources[origin].origin
        return self._batch_sizes[origin]

    def strided(self, key: CoordinateMapKey, stride: int | Ints) -> CoordinateMapKey:
        """The key of the sites floor(x / (tensor stride * stride)), built when first asked for."""
        fine = self.map(key)
        new = CoordinateMapKey(times(key.stride, ints(stride, len(key.stride))), key.origin)
        if new not in self._maps:
            self._maps[new] = sites.floored(fine, new.stride, self.engine_for(fine.keys.device))
        return new

    def reached(
        self,
        key: CoordinateMapKey,
        stride: int | Ints,
        kernel_size: int | Ints,
        dilation: int | Ints = 1,
        bounds: Ints | None = None,
    ) -> CoordinateMapKey:
        """The key of all sites y at tensor stride * ``stride`` whose window y + o has a site in it (spconv's rule).

        Args:
            bounds: cells of the finest grid along each axis; only sites in 0 <= x < bounds are made.
        """
        fine, axes = self.map(key), len(key.stride)
        factor, size, spread = (ints(v, axes) for v in (stride, kernel_size, dilation))
        limits = None if bounds is None else ints(bounds, axes)
        name = ("reached", key, factor, size, spread, limits)
        if name not in self._derived:
            coarse, engine = times(key.stride, factor), self.engine_for(fine.keys.device)
            made = sites.reached(fine, coarse, size, times(key.stride, spread), limits, engine)
            self._derived[name] = self._new_family(coarse, made, key)
        return self._derived[name]

    def generated(
        self,
        key: CoordinateMapKey,
        stride: int | Ints,
        kernel_size: int | Ints,
        dilation: int | Ints = 1,
        bounds: Ints | None = None,
    ) -> CoordinateMapKey:
        """The key of all sites y + o at tensor stride / ``stride`` (MinkowskiEngine's generative transposed
        convolution). ``bounds`` as in ``reached``."""
        coarse, axes = self.map(key), len(key.stride)
        factor, size, spread = (ints(v, axes) for v in (stride, kernel_size, dilation))
        limits = None if bounds is None else ints(bounds, axes)
        name = ("generated", key, factor, size, spread, limits)
        if name not in self._derived:
            fine, engine = _divided(key.stride, factor), self.engine_for(coarse.keys.device)
            made = sites.generated(coarse, fine, size, times(fine, spread), limits, engine)
            self._derived[name] = self._new_family(fine, made, key)
        return self._derived[name]

    def upsampled(self, key: CoordinateMapKey, stride: int | Ints) -> CoordinateMapKey:
        """The key of the existing sites at tensor stride / ``stride``: of the same family, else of the one that it was
        derived from, and so on."""
        stride = _divided(key.stride, ints(stride, len(key.stride)))
        origin = key.origin
        while (new := CoordinateMapKey(stride, origin)) not in self._maps and origin in self._sources:
            source = self._sources[origin]
            origin = source.origin
        self.map(new)
        return new

    def kernel_map(
        self,
        in_key: CoordinateMapKey,
        out_key: CoordinateMapKey,
        kernel_size: int | Ints,
        dilation: int | Ints = 1,
        transposed: bool = False,
    ) -> KernelMap:
        """The map from ``in_key`` to ``out_key`` (the two keys hold the stride), cached.

        A transposed map is the ordinary one from output to input, with the roles exchanged.
        """
        size, spread = ints(kernel_size, len(in_key.stride)), ints(dilation, len(in_key.stride))
        cached = (in_key, out_key, size, spread, transposed)
        if cached not in self._kernel_maps:
            if transposed:
                self._kernel_maps[cached] = self.kernel_map(out_key, in_key, size, spread).reverse
            else:
                source, target = self.map(in_key), self.map(out_key)
                engine = self.engine_for(source.keys.device)
                self._kernel_maps[cached] = build_kernel_map(source, target, size, spread, engine)
        return self._kernel_maps[cached]

    def parents(self, fine: CoordinateMapKey, coarse: CoordinateMapKey) -> Tensor:
        """(n_fine,) int64: the row of each fine site's parent floor(x / stride) at the coarse level; -1 for none."""
        if (fine, coarse) not in self._parents:
            source, target = self.map(fine), self.map(coarse)
            self._parents[fine, coarse] = sites.parents(source, target, self.engine_for(source.keys.device))
        return self._parents[fine, coarse]

    def _new_family(
        self, stride: Ints, made: CoordinateMap, source: CoordinateMapKey | None = None
    ) -> CoordinateMapKey:
        origin = next(_ORIGINS)
        while origin in self._batch_sizes or origin in self._sources:  # of a manager that another process has made
            origin = next(_ORIGINS)
        key = CoordinateMapKey(stride, origin)
        self._maps[key] = made
        if source is not None:
            self._sources[key.origin] = source
        return key

    def _check_company(self, coordinates: Tensor) -> None:
        """All sites of a manager have as many axes and lie on one device."""
        if self._engine == "numba" and coordinates.device.type != "cpu":
            raise SparseTensorError("the numba engine works on the CPU only", where={"device": coordinates.device})
        for other in self._maps.values():
            known = other.coordinates
            if known.shape[1:] != coordinates.shape[1:] or known.device != coordinates.device:
                raise SparseTensorError(
                    "all sites of a manager have the same number of axes and lie on the same device",
                    where={
                        "new": f"{tuple(coordinates.shape)}, {coordinates.device}",
                        "known": f"{tuple(known.shape)}, {known.device}",
                    },
                )


def _divided(stride: Ints, factor: Ints) -> Ints:
    if any(s % f for s, f in zip(stride, factor, strict=True)):
        raise SparseTensorError(
            "the tensor stride is not divisible by the stride of the transposed convolution",
            where={"tensor stride": stride, "stride": factor},
        )
    return tuple(s // f for s, f in zip(stride, factor, strict=True))
