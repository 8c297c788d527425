"""Mixed scans in a batch: making them in ``Method.views``, and in ``Method.step`` finding where their points are from.

``views`` runs before any network has seen a scan, so labels that a network gives are filled in later: the scans are in
one group of the batch, the scans mixed of them in another, and every point of these knows its point in the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssl3d.data.mixing import inclination_bands, mix_bands
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Inputs
from ssl3d.models.config import Params
from ssl3d.models.rows import lookup_rows

ORIGIN = "origin"
"""The extra that tells views of a batch apart, also those of one scan that is in the batch twice."""


class BandParams(Params):
    """How two scans are mixed by bands of inclination. Defaults: SemanticKITTI; other datasets bring their own."""

    fov_up: float = Field(3.0, gt=-90, le=90, description="degrees; top of the bands (SemanticKITTI 3, nuScenes 10)")
    fov_down: float = Field(
        -25.0, ge=-90, lt=90, description="degrees; bottom of the bands (SemanticKITTI -25, nuScenes -30)"
    )
    m: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (3, 4, 5, 6),
        min_length=1,
        description="numbers of bands, one is drawn for each pair (LaserMix code; 4,5,6,7,8: its Cylinder3D)",
    )

    @model_validator(mode="after")
    def _ordered(self) -> BandParams:
        if self.fov_down >= self.fov_up:
            raise ValueError(f"fov_down ({self.fov_down}) has to be below fov_up ({self.fov_up})")
        return self


def numbered(
    views: Sequence[View], rng: np.random.Generator, extras: Sequence[Mapping[str, npt.NDArray[Any]]] | None = None
) -> list[View]:
    """The views, each with a number of its own in ``extras[ORIGIN]``, for ``origins``.

    Items of a batch do not know of each other, so the numbers are drawn: of 2^62, so that no two will ever be equal.

    Args:
        extras: further per-point extras, one mapping a view. Others are dropped.
    """
    numbers = rng.integers(1 << 62, size=len(views))
    return [
        replace(view, extras={ORIGIN: np.full(len(view), number), **(extras[i] if extras else {})})
        for i, (view, number) in enumerate(zip(views, numbers, strict=True))
    ]


def mix_pairs(
    first: Sequence[View],
    second: Sequence[View],
    params: BandParams,
    rng: np.random.Generator,
    bands: int | None = None,
) -> list[View]:
    """Both mixed views of each pair, with the extras that the views have.

    Scans are paired in order; the shorter side begins again when it is used up.

    Args:
        first, second: at least one view each.
        bands: how many; None: drawn from ``params.m`` for each pair.
    """
    mixed: list[View] = []
    for i in range(max(len(first), len(second))):
        a, b = first[i % len(first)], second[i % len(second)]
        count = bands or int(rng.choice(params.m))
        of_a, of_b = (inclination_bands(view.points, count, params.fov_up, params.fov_down) for view in (a, b))
        mixed += mix_bands(a, b, of_a, of_b, extras=tuple(a.extras))
    return mixed


def halves(views: Sequence[View]) -> tuple[Sequence[View], Sequence[View]]:
    """Two sides to pair scans of one kind with each other. A scan that is alone is both: mixing leaves it as it is."""
    middle = (len(views) + 1) // 2
    return views[:middle], views[middle:] or views[:middle]


def origins(mixed: Inputs, scans: Inputs) -> Tensor:
    """(Q,) int64: for each point of ``mixed`` the point of ``scans`` that it was taken from, -1 where there is none.

    Both are batches of ``numbered`` views. Found by (view, row), so that a scan that is in the batch twice, moved
    differently, is two scans.
    """
    here, there = mixed.extras[ORIGIN], scans.extras[ORIGIN]
    if not len(there):
        return torch.full_like(here, -1)
    firsts = scans.view_offsets[:-1][scans.view_offsets.diff() > 0]
    numbers = there[firsts].sort().values

    def keys(inputs: Inputs, origin: Tensor) -> Tensor:
        view = torch.searchsorted(numbers, origin).clamp(max=len(numbers) - 1)
        view = torch.where(numbers[view] == origin, view, len(numbers))
        return torch.stack([view, inputs.rows[:, 1]], 1)

    return lookup_rows(keys(mixed, here), keys(scans, there))


def carried(values: Tensor, origin: Tensor, fill: int) -> Tensor:
    """(Q,) values (P,) of points where ``origins`` says that they are from; ``fill`` where it says -1."""
    if not len(values):
        return values.new_full(origin.shape, fill)
    return torch.where(origin >= 0, values[origin.clamp(min=0)], fill)


__all__ = ["ORIGIN", "BandParams", "carried", "halves", "mix_pairs", "numbered", "origins"]
