"""Where the output of a layer has its sites: coordinate maps from coordinates and from other maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssl3d.models.sparse import keys as packing
from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import CoordinateMap, Engine, Ints, ints, kernel_offsets


def check_coordinates(coordinates: Tensor, tensor_stride: int | Ints) -> Ints:
    """Raises ``SparseTensorError`` unless these are coordinates (duplicates aside). Returns the stride per axis."""
    if coordinates.dim() != 2 or coordinates.shape[1] - 1 not in packing.AXES:
        raise SparseTensorError(
            "coordinates have to be (n, 1 + D): batch index, then D = 2, 3 or 4 axes",
            where={"shape": tuple(coordinates.shape)},
        )
    if coordinates.is_floating_point() or coordinates.is_complex() or coordinates.dtype == torch.bool:
        raise SparseTensorError(
            "coordinates have to be integers",
            where={"dtype": coordinates.dtype},
            hint="take the floor of xyz / voxel_size (never truncate: it rounds negative numbers the other way)",
        )
    stride = ints(tensor_stride, coordinates.shape[1] - 1)
    packing.check_range(coordinates)
    if max(stride) > 1 and bool((coordinates[:, 1:] % torch.tensor(stride, device=coordinates.device)).any()):
        raise SparseTensorError("coordinates have to be multiples of the tensor stride", where={"stride": stride})
    return stride


def inserted(coordinates: Tensor, stride: Ints) -> CoordinateMap:
    """The map of checked coordinates (n, 1 + D) int32, which keep their rows. Raises for duplicates."""
    keys = packing.pack(coordinates)
    rows = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    if not bool((keys[1:] > keys[:-1]).all()):
        keys, order = keys.sort()
        rows = order.to(torch.int32)
        same = (keys[1:] == keys[:-1]).nonzero()
        if len(same):
            raise SparseTensorError(
                "coordinates have to be unique",
                where={"duplicates": len(same), "first": packing.unpack(keys[same[0]], len(stride)).tolist()[0]},
                hint="merge the points of a voxel first (voxelize)",
            )
    return CoordinateMap(coordinates, keys, rows, stride)


def floored(fine: CoordinateMap, stride: Ints) -> CoordinateMap:
    """The sites floor(x / stride) * stride."""
    _check_stride(stride)
    return _made(maps_torch.coarse_keys(fine.keys, stride), stride)


def reached(
    fine: CoordinateMap, stride: Ints, kernel_size: Ints, step: Ints, bounds: Ints | None, engine: Engine
) -> CoordinateMap:
    """The multiples y of ``stride`` with a site of ``fine`` at y + o for any kernel offset o, within ``bounds``."""
    _check_stride(stride)
    offsets = kernel_offsets(kernel_size, step)
    for offset in offsets:
        packing.offset_key(offset)
    coordinates = fine.coordinates.long()
    wanted = torch.tensor([1, *stride], device=coordinates.device)
    found = [fine.keys[:0]]
    for offset in offsets:
        moved = coordinates - torch.tensor([0, *offset], device=coordinates.device)
        on_grid = (moved % wanted == 0).all(1)
        found.append(packing.pack(_within(moved[on_grid], bounds)))
    return _made(torch.cat(found), stride)


def generated(coarse: CoordinateMap, stride: Ints, kernel_size: Ints, step: Ints, bounds: Ints | None) -> CoordinateMap:
    """The sites y + o for every site y of ``coarse`` and kernel offset o, within ``bounds``."""
    deltas = [packing.offset_key(offset) for offset in kernel_offsets(kernel_size, step)]
    moved = coarse.keys[:, None] + torch.tensor(deltas, device=coarse.keys.device)
    keys = _sorted_unique(moved.reshape(-1))
    if bounds is not None:
        keys = packing.pack(_within(packing.unpack(keys, len(stride)), bounds))
    return _made(keys, stride)


def parents(fine: CoordinateMap, coarse: CoordinateMap, engine: Engine) -> Tensor:
    """(n_fine,) int64: the row of floor(x / stride) * stride in ``coarse``, -1 for none."""
    wanted = maps_torch.coarse_keys(fine.keys, coarse.stride)
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        found = torch.from_numpy(maps_numba.lookup(coarse.keys.numpy(), coarse.rows.numpy(), wanted.numpy()))
    else:
        found = maps_torch.lookup(coarse.keys, coarse.rows, wanted)
    rows = torch.empty(len(fine), dtype=torch.int64, device=wanted.device)
    rows[fine.rows.long()] = found.long()
    return rows


def _made(keys: Tensor, stride: Ints) -> CoordinateMap:
    """The map of keys in any order, several times or once."""
    keys = _sorted_unique(keys)
    coordinates = packing.unpack(keys, len(stride))
    packing.check_range(coordinates)
    return CoordinateMap(coordinates, keys, torch.arange(len(keys), dtype=torch.int32, device=keys.device), stride)


def _within(coordinates: Tensor, bounds: Ints | None) -> Tensor:
    """The rows in 0 <= x < bounds."""
    if bounds is None:
        return coordinates
    x = coordinates[:, 1:]
    return coordinates[((x >= 0) & (x < torch.tensor(bounds, device=x.device))).all(1)]


def _check_stride(stride: Ints) -> None:
    """Beyond this limit floor(x / stride) * stride could leave its field of a key."""
    limit = packing.REACH_LIMIT[len(stride)]
    if max(stride) > limit:
        raise SparseTensorError("the tensor stride is too large", where={"tensor stride": stride, "limit": limit})


def _sorted_unique(keys: Tensor) -> Tensor:
    # numpy sorts numbers with vector instructions
    keys = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
    first = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    return keys[first]
