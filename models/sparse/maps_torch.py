"""Coordinate work with torch operations on any device: what CUDA uses, and the reference of the CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.sparse.keys import COORDINATE_LIMIT, pack, unpack

_CHUNK = 1 << 24


def find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each wanted key in sorted ``keys`` (n > 0; clamped), and whether it is there."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place, keys[place] == wanted


def join(
    in_keys: Tensor, in_rows: Tensor, out_keys: Tensor, out_rows: Tensor, deltas: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``maps_numba.join``: rows of the input (P,) and output (P,) int32, begins (K + 1,) int64 on the CPU."""
    begins = torch.zeros(len(deltas) + 1, dtype=torch.int64)
    if not (len(in_keys) and len(out_keys) and len(deltas)):
        return in_rows[:0], out_rows[:0], begins
    per_chunk = max(1, _CHUNK // len(out_keys))
    ins, outs, counts = [], [], []
    for chunk in deltas.split(per_chunk):
        place, hit = find(in_keys, (out_keys[None] + chunk[:, None]).reshape(-1))
        which = hit.nonzero().squeeze(1)
        ins.append(in_rows[place[which]])
        outs.append(out_rows[which % len(out_keys)])
        counts.append(hit.reshape(len(chunk), -1).sum(1))
    begins[1:] = torch.cat(counts).cumsum(0)
    return torch.cat(ins), torch.cat(outs), begins


def lookup(keys: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """As ``maps_numba.lookup``."""
    if not len(keys):
        return torch.full_like(wanted, -1, dtype=torch.int32)
    place, hit = find(keys, wanted)
    return torch.where(hit, rows[place], -1)


def coarse_keys(keys: Tensor, stride: tuple[int, ...]) -> Tensor:
    """As ``maps_numba.coarse_keys``."""
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
