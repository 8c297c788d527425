"""Coordinate work with torch operations on any device: what CUDA uses, and the reference of the CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse.keys import COORDINATE_LIMIT, coarse_mask, pack, unpack

_CHUNK = 1 << 24


def find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each wanted key in sorted ``keys`` (n > 0; clamped), and whether it is there."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place, keys[place] == wanted


def join(
    in_keys: Tensor, in_rows: Tensor, out_keys: Tensor, out_rows: Tensor, deltas: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """As ``maps_numba.join``, in one piece each: the rows of the input and of the output of each offset, int32."""
    if not (len(in_keys) and len(out_keys) and len(deltas)):
        return [in_rows[:0]] * len(deltas), [out_rows[:0]] * len(deltas)
    ins, outs = [], []
    for chunk in deltas.split(max(1, _CHUNK // len(out_keys))):
        place, hit = find(in_keys, (out_keys[None] + chunk[:, None]).reshape(-1))
        which = hit.nonzero().squeeze(1)
        sizes = hit.reshape(len(chunk), -1).sum(1).tolist()
        ins += in_rows[place[which]].split(sizes)
        outs += out_rows[which % len(out_keys)].split(sizes)
    return ins, outs


def lookup(keys: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """As ``maps_numba.lookup``."""
    if not len(keys):
        return torch.full_like(wanted, -1, dtype=torch.int32)
    place, hit = find(keys, wanted)
    return torch.where(hit, rows[place], -1)


def coarse_keys(keys: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Keys of floor(coordinate / stride) * stride, in the order of ``keys`` (neither sorted nor unique)."""
    mask = coarse_mask(stride)
    if mask is not None:
        return keys & mask
    coordinates = unpack(keys, len(stride)).long()
    step = torch.tensor([1, *stride], device=keys.device)
    return pack(torch.div(coordinates, step, rounding_mode="floor") * step)


def sorted_unique(keys: Tensor) -> Tensor:
    """As ``maps_numba.sorted_unique``."""
    keys = keys.sort().values
    first = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def reach_keys(
    coordinates: Tensor, offsets: list[tuple[int, ...]], stride: tuple[int, ...], bounds: tuple[int, ...] | None
) -> Tensor:
    """As ``maps_numba.reach_keys``, from all the kernel's offsets."""
    coordinates = coordinates.long()
    step = coordinates.new_tensor([1, *stride])
    found = [coordinates.new_empty(0)]
    for offset in offsets:
        moved = coordinates - coordinates.new_tensor([0, *offset])
        moved = moved[(moved % step == 0).all(1)]
        found.append(pack(within(moved, bounds)))
    return torch.cat(found)


def within(coordinates: Tensor, bounds: tuple[int, ...] | None) -> Tensor:
    """The rows in 0 <= x < bounds."""
    if bounds is None:
        return coordinates
    x = coordinates[:, 1:]
    return coordinates[((x >= 0) & (x < x.new_tensor(bounds))).all(1)]


def voxel_keys(points: Tensor, batch: Tensor, voxel: Tensor, clip: Tensor) -> tuple[Tensor, int]:
    """As ``maps_numba.voxel_keys``."""
    exact = points.double()
    kept = ((exact >= clip[:, 0]) & (exact <= clip[:, 1]) & exact.isfinite()).all(1)
    cell = torch.where(kept[:, None], exact, 0.0).div_(voxel).floor_()
    limit = COORDINATE_LIMIT[points.shape[1]]
    fits = ((cell >= -limit) & (cell < limit)).all(1)
    cell = torch.where(fits[:, None], cell, 0.0).long()
    keys = pack(torch.cat([batch.long()[:, None], cell], 1))
    return torch.where(kept & fits, keys, -1), int((kept & ~fits).sum())


def group(keys: Tensor) -> tuple[Tensor, Tensor]:
    """As ``maps_numba.group``."""
    unique, inverse = torch.unique(keys, sorted=True, return_inverse=True)
    if len(unique) and int(unique[0]) == -1:
        return unique[1:], inverse - 1
    return unique, inverse


def group_mean(values: Tensor, inverse: Tensor, count: int) -> Tensor:
    """As ``maps_numba.group_mean``."""
    kept = inverse >= 0
    values, inverse = values[kept].double(), inverse[kept]
    total = values.new_zeros(count, values.shape[1]).index_add_(0, inverse, values)
    number = torch.bincount(inverse, minlength=count).clamp_(min=1)
    return (total / number[:, None]).float()
