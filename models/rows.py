"""Matching points of different views by where they come from: ``rows`` (P, 2) = (scan, original row).

Two crops of a scan that overlap, two augmentations of one crop, a mixed scan and the scans that it was mixed of: their
points are brought together here, whatever their order, and whatever was dropped from either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl3d.models.backbones.base import Inputs

_SCAN_BITS, _ROW_BITS = 20, 32
_GOLDEN = 0x9E3779B97F4A7C15


def lookup_rows(wanted: Tensor, rows: Tensor) -> Tensor:
    """(Q,) int64: for each row of ``wanted`` (Q, 2) its index in ``rows`` (P, 2), -1 where it is not there.

    Of equal rows (one scan twice in a batch) the first is meant; ``match_points`` keeps views apart.
    """
    return _lookup(_keys(wanted), _keys(rows))


def match_points(a: Inputs, b: Inputs) -> tuple[Tensor, Tensor]:
    """The points that view v of ``a`` and view v of ``b`` have in common, for every v.

    Returns:
        (K,), (K,) int64 indices of points of ``a`` (rising) and ``b``.

    Raises:
        ValueError: the batches have different numbers of views.
    """
    if len(a.view_offsets) != len(b.view_offsets):
        raise ValueError(f"{len(a.view_offsets) - 1} views cannot be matched with {len(b.view_offsets) - 1}")
    if torch.equal(a.rows, b.rows) and torch.equal(a.view_offsets, b.view_offsets):
        every = torch.arange(len(a.rows), device=a.rows.device)
        return every, every
    found = _lookup(_keys(a.rows, point_to_view(a)), _keys(b.rows, point_to_view(b)))
    common = (found >= 0).nonzero().squeeze(1)
    return common, found[common]


def random_keys(rows: Tensor, seed: int) -> Tensor:
    """(P,) int64 >= 0, evenly distributed: a hash (SplitMix64) of the rows (P, 2) and the seed, to draw points by.

    No generator moves, and a point has the same key wherever it lies in a batch, and in whichever process.
    """
    x = _keys(rows) + _signed(seed * _GOLDEN)
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    return (x ^ (x >> 31 & 0x1FFFFFFFF)) & torch.iinfo(torch.int64).max


def _signed(value: int) -> int:
    """The last 64 bits as torch's int64 has them."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def match_pairs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The points that views 2k and 2k + 1 of one batch have in common, for every k.

    Returns:
        (K,), (K,) int64 indices of points of even views (rising) and odd ones.

    Raises:
        ValueError: the number of views is odd.
    """
    views = len(inputs.view_offsets) - 1
    if views % 2:
        raise ValueError(f"{views} views are no pairs")
    view = point_to_view(inputs)
    keys = _keys(inputs.rows, view // 2)
    even, odd = ((view % 2 == side).nonzero().squeeze(1) for side in (0, 1))
    found = _lookup(keys[even], keys[odd])
    common = found >= 0
    return even[common], odd[found[common]]


def point_to_view(inputs: Inputs) -> Tensor:
    """(P,) int64: the view that each point of a batch belongs to."""
    views = torch.arange(len(inputs.view_offsets) - 1, device=inputs.rows.device)
    return torch.repeat_interleave(views, inputs.view_offsets.diff().to(views.device), output_size=len(inputs.rows))


def _keys(rows: Tensor, view: Tensor | None = None) -> Tensor:
    keys = (rows[:, 0] << _ROW_BITS) + rows[:, 1]
    return keys if view is None else keys + (view << (_SCAN_BITS + _ROW_BITS))


def _lookup(wanted: Tensor, keys: Tensor) -> Tensor:
    if not len(keys):
        return torch.full_like(wanted, -1)
    ordered, order = torch.sort(keys, stable=True)
    place = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
    return torch.where(ordered[place] == wanted, order[place], -1)


__all__ = ["lookup_rows", "match_pairs", "match_points", "point_to_view", "random_keys"]
