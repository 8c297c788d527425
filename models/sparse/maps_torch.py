"""Coordinate work with torch operations on any device: what CUDA uses, and the reference of the CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse.keys import COORDINATE_LIMIT, FIELD_BITS, pack, unpack

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
    axes, bits = len(stride), FIELD_BITS[len(stride)]
    if all(s & (s - 1) == 0 for s in stride):  # a power of two: the lower bits of its field go
        return keys & ~sum((s - 1) << bits * (axes - 1 - axis) for axis, s in enumerate(stride))
    coordinates = unpack(keys, len(stride)).long()
    step = torch.tensor([1, *stride], device=keys.device)
    return pack(torch.div(coordinates, step, rounding_mode="floor") * step)


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
