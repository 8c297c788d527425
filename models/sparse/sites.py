"""Where the output of a layer has its sites: coordinate maps from coordinates and from other maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssl3d.models.sparse import keys as packing
from ssl3d.models.sparse import maps_torch
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import CoordinateMap, Engine, Ints, axis_offsets, ints, kernel_offsets


def check_coordinates(coordinates: Tensor, tensor_stride: int | Ints, engine: Engine) -> Ints:
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
    _check_stride(stride)
    coordinates = coordinates if coordinates.dtype == torch.int32 else coordinates.long()
    _check_range(coordinates, engine)
    if max(stride) > 1 and bool((coordinates[:, 1:] % torch.tensor(stride, device=coordinates.device)).any()):
        raise SparseTensorError("coordinates have to be multiples of the tensor stride", where={"stride": stride})
    return stride


def inserted(coordinates: Tensor, stride: Ints, engine: Engine) -> CoordinateMap:
    """The map of checked coordinates (n, 1 + D) int32, which keep their rows. Raises for duplicates."""
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        array = maps_numba.pack(coordinates.numpy())
        ascends, keys = bool((array[1:] > array[:-1]).all()), torch.from_numpy(array)
    else:
        keys = packing.pack(coordinates)
        ascends = bool((keys[1:] > keys[:-1]).all())
    if ascends:
        return CoordinateMap(coordinates, keys, _rows(len(keys), keys.device), stride)
    keys, order = keys.sort()
    same = (keys[1:] == keys[:-1]).nonzero()
    if len(same):
        raise SparseTensorError(
            "coordinates have to be unique",
            where={"duplicates": len(same), "first": packing.unpack(keys[same[0]], len(stride)).tolist()[0]},
            hint="merge the points of a voxel first (voxelize)",
        )
    return CoordinateMap(coordinates, keys, order.to(torch.int32), stride)


def floored(fine: CoordinateMap, stride: Ints, engine: Engine) -> CoordinateMap:
    """The sites floor(x / stride) * stride."""
    _check_stride(stride)
    return _made(_coarse(fine, stride, engine), stride, engine)


def reached(
    fine: CoordinateMap, stride: Ints, kernel_size: Ints, step: Ints, bounds: Ints | None, engine: Engine
) -> CoordinateMap:
    """The multiples y of ``stride`` with a site of ``fine`` at y + o for any kernel offset o, within ``bounds``."""
    _check_stride(stride)
    offsets = kernel_offsets(kernel_size, step)
    for offset in offsets:
        packing.offset_key(offset)  # not too far
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        table = np.zeros((len(stride), max(kernel_size)), np.int64)
        for axis, values in enumerate(axis_offsets(kernel_size, step)):
            table[axis, : len(values)] = values
        shape = (np.array(v, np.int64) for v in (kernel_size, stride, bounds or ()))
        keys = torch.from_numpy(maps_numba.reach_keys(fine.coordinates.numpy(), table, *shape))
    else:
        keys = maps_torch.reach_keys(fine.coordinates, offsets, stride, bounds)
    return _made(keys, stride, engine)


def generated(
    coarse: CoordinateMap, stride: Ints, kernel_size: Ints, step: Ints, bounds: Ints | None, engine: Engine
) -> CoordinateMap:
    """The sites y + o for every site y of ``coarse`` and kernel offset o, within ``bounds``."""
    deltas = [packing.offset_key(offset) for offset in kernel_offsets(kernel_size, step)]
    keys = (coarse.keys[:, None] + torch.tensor(deltas, device=coarse.keys.device)).reshape(-1)
    if bounds is not None:
        keys = packing.pack(maps_torch.within(packing.unpack(keys, len(stride)), bounds))
    return _made(keys, stride, engine)


def parents(fine: CoordinateMap, coarse: CoordinateMap, engine: Engine) -> Tensor:
    """(n_fine,) int64: the row of floor(x / stride) * stride in ``coarse``, -1 for none."""
    wanted = _coarse(fine, coarse.stride, engine)
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        found = torch.from_numpy(maps_numba.lookup(coarse.keys.numpy(), coarse.rows.numpy(), wanted.numpy()))
    else:
        found = maps_torch.lookup(coarse.keys, coarse.rows, wanted)
    rows = torch.empty(len(fine), dtype=torch.int64, device=wanted.device)
    rows[fine.rows.long()] = found.long()
    return rows


def _coarse(fine: CoordinateMap, stride: Ints, engine: Engine) -> Tensor:
    """(n,) keys of floor(x / stride) * stride, in the order of the fine keys."""
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        return torch.from_numpy(maps_numba.coarse_keys(fine.keys.numpy(), stride))
    return maps_torch.coarse_keys(fine.keys, stride)


def _made(keys: Tensor, stride: Ints, engine: Engine) -> CoordinateMap:
    """The map of keys in any order, several times or once."""
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        array = maps_numba.sorted_unique(keys.numpy())
        keys, coordinates = torch.from_numpy(array), torch.from_numpy(maps_numba.unpack(array, len(stride)))
    else:
        keys = maps_torch.sorted_unique(keys)
        coordinates = packing.unpack(keys, len(stride))
    _check_range(coordinates, engine)
    return CoordinateMap(coordinates, keys, _rows(len(keys), keys.device), stride)


def _rows(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device)


def _check_range(coordinates: Tensor, engine: Engine) -> None:
    if not len(coordinates):
        return
    if engine == "numba":
        from ssl3d.models.sparse import maps_numba

        lowest, highest = (column.tolist() for column in maps_numba.extent(coordinates.contiguous().numpy()))
    else:
        lowest, highest = (column.tolist() for column in torch.aminmax(coordinates, dim=0))
    packing.check_range(lowest, highest)


def _check_stride(stride: Ints) -> None:
    """Beyond this limit floor(x / stride) * stride could leave its field of a key."""
    limit = packing.REACH_LIMIT[len(stride)]
    if max(stride) > limit:
        raise SparseTensorError("the tensor stride is too large", where={"tensor stride": stride, "limit": limit})
