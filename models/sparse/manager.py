"""Coordinate maps and kernel maps of one batch, each built once and shared by every layer and every network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssl3d.models.sparse import keys as packing
from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import CoordinateMap, Engine, KernelMap, Triple, build_kernel_map, triple


class CoordinateMapKey(NamedTuple):
    """Names a coordinate map: its tensor stride, and which inserted map it descends from."""

    stride: Triple
    origin: int = 0


class CoordinateManager:
    """The coordinate maps of one batch by key, and kernel maps cached by what they connect.

    Args:
        engine: ``numba`` (CPU only) or ``torch`` (any device); by default what suits the coordinates' device.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        self._maps: dict[CoordinateMapKey, CoordinateMap] = {}
        self._kernel_maps: dict[tuple[CoordinateMapKey, CoordinateMapKey, Triple, Triple, bool], KernelMap] = {}
        self._parents: dict[tuple[CoordinateMapKey, CoordinateMapKey], Tensor] = {}
        self._origins = 0

    def engine_for(self, device: torch.device) -> Engine:
        return self._engine or ("numba" if device.type == "cpu" else "torch")

    def insert(self, coordinates: Tensor, tensor_stride: int | Triple = 1) -> CoordinateMapKey:
        """Adds sites.

        Args:
            coordinates: (n, 4) integers [batch, x, y, z], unique, multiples of ``tensor_stride``, |x| <
                ``keys.COORDINATE_LIMIT``.

        Raises:
            SparseTensorError: wrong shape, not integers, empty, out of range, off the stride's grid, duplicates.
        """
        stride = triple(tensor_stride)
        _check_coordinates(coordinates, stride)
        coordinates = coordinates.detach().to(torch.int32).contiguous()
        keys = packing.pack(coordinates)
        rows = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        if not bool((keys[1:] > keys[:-1]).all()):
            keys, order = keys.sort()
            rows = order.to(torch.int32)
            same = (keys[1:] == keys[:-1]).nonzero()
            if len(same):
                raise SparseTensorError(
                    "coordinates have to be unique",
                    where={"duplicates": len(same), "first": packing.unpack(keys[same[0]]).tolist()[0]},
                    hint="merge the points of a voxel first (voxelize)",
                )
        key = CoordinateMapKey(stride, self._origins)
        self._origins += 1
        self._maps[key] = CoordinateMap(coordinates, keys, rows, stride)
        return key

    def map(self, key: CoordinateMapKey) -> CoordinateMap:
        if key not in self._maps:
            raise SparseTensorError(
                "no coordinates are known for this key",
                where={"tensor stride": key.stride, "known": [k.stride for k in self._maps]},
                hint="a transposed convolution needs the sites of the encoder at that stride, made by the same manager",
            )
        return self._maps[key]

    def coordinates(self, key: CoordinateMapKey) -> Tensor:
        """(n, 4) int32."""
        return self.map(key).coordinates

    def strided(self, key: CoordinateMapKey, stride: int | Triple) -> CoordinateMapKey:
        """The key of the sites floor(x / (tensor stride * stride)), built when first asked for."""
        fine, factor = self.map(key), triple(stride)
        new = CoordinateMapKey(_times(key.stride, factor), key.origin)
        if new not in self._maps:
            coarse = self._coarse(fine, new.stride)
            unique = _sorted_unique(coarse)
            rows = torch.arange(len(unique), dtype=torch.int32, device=unique.device)
            self._maps[new] = CoordinateMap(packing.unpack(unique), unique, rows, new.stride)
        return new

    def upsampled(self, key: CoordinateMapKey, stride: int | Triple) -> CoordinateMapKey:
        """The key of the existing sites at tensor stride / ``stride``."""
        factor = triple(stride)
        if any(s % f for s, f in zip(key.stride, factor, strict=True)):
            raise SparseTensorError(
                "the tensor stride is not divisible by the stride of the transposed convolution",
                where={"tensor stride": key.stride, "stride": factor},
            )
        new = CoordinateMapKey(
            (key.stride[0] // factor[0], key.stride[1] // factor[1], key.stride[2] // factor[2]), key.origin
        )
        self.map(new)
        return new

    def kernel_map(
        self,
        in_key: CoordinateMapKey,
        out_key: CoordinateMapKey,
        kernel_size: int | Triple,
        dilation: int | Triple = 1,
        transposed: bool = False,
    ) -> KernelMap:
        """The map from ``in_key`` to ``out_key`` (the two keys hold the stride), cached.

        A transposed map is the ordinary one from output to input, with the roles exchanged.
        """
        size, spread = triple(kernel_size), triple(dilation)
        cached = (in_key, out_key, size, spread, transposed)
        if cached not in self._kernel_maps:
            if transposed:
                self._kernel_maps[cached] = self.kernel_map(out_key, in_key, size, spread).swapped()
            else:
                source, target = self.map(in_key), self.map(out_key)
                engine = self.engine_for(source.keys.device)
                self._kernel_maps[cached] = build_kernel_map(source, target, size, spread, engine)
        return self._kernel_maps[cached]

    def parents(self, fine: CoordinateMapKey, coarse: CoordinateMapKey) -> Tensor:
        """(n_fine,) int64: the row of each fine site's parent floor(x / stride) at the coarse level; -1 for none."""
        if (fine, coarse) not in self._parents:
            source, target = self.map(fine), self.map(coarse)
            wanted = self._coarse(source, target.stride)
            by_sorted = self._lookup(target, wanted)
            rows = torch.empty(len(source), dtype=torch.int64, device=wanted.device)
            rows[source.rows.long()] = by_sorted.long()
            self._parents[fine, coarse] = rows
        return self._parents[fine, coarse]

    def _coarse(self, fine: CoordinateMap, stride: Triple) -> Tensor:
        if self.engine_for(fine.keys.device) == "numba":
            from ssl3d.models.sparse import maps_numba

            return torch.from_numpy(maps_numba.coarse_keys(fine.keys.numpy(), *stride))
        return maps_torch.coarse_keys(fine.keys, stride)

    def _lookup(self, where: CoordinateMap, wanted: Tensor) -> Tensor:
        if self.engine_for(wanted.device) == "numba":
            from ssl3d.models.sparse import maps_numba

            return torch.from_numpy(maps_numba.lookup(where.keys.numpy(), where.rows.numpy(), wanted.numpy()))
        return maps_torch.lookup(where.keys, where.rows, wanted)


def _check_coordinates(coordinates: Tensor, stride: Triple) -> None:
    if coordinates.dim() != 2 or coordinates.shape[1] != 4:
        raise SparseTensorError(
            "coordinates have to be (n, 4): batch index, x, y, z", where={"shape": tuple(coordinates.shape)}
        )
    if coordinates.is_floating_point() or coordinates.is_complex() or coordinates.dtype == torch.bool:
        raise SparseTensorError(
            "coordinates have to be integers",
            where={"dtype": coordinates.dtype},
            hint="take the floor of xyz / voxel_size (never truncate: it rounds negative numbers the other way)",
        )
    if not len(coordinates):
        raise SparseTensorError("a sparse tensor needs at least one coordinate", hint="drop empty clouds from a batch")
    packing.check_range(coordinates)
    if stride != (1, 1, 1) and bool((coordinates[:, 1:] % torch.tensor(stride, device=coordinates.device)).any()):
        raise SparseTensorError("coordinates have to be multiples of the tensor stride", where={"stride": stride})


def _times(a: Triple, b: Triple) -> Triple:
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def _sorted_unique(keys: Tensor) -> Tensor:
    keys = keys.sort().values
    first = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    return keys[first]
