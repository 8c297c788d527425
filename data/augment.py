"""Augmentations of one view: a pure function of the view and a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssl3d.data.scan import View

DIRECTION_FEATURES = ("normal",)
"""Features that turn and flip with the points, and are not scaled or shifted."""


class AugmentParams(BaseModel):
    """What may happen to a scan in training. Defaults: those of LaserMix's MinkUNet, and flips."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    rotate: float = Field(180.0, ge=0, le=180, description="degrees; turned about z by up to this either way")
    flip_x: float = Field(0.5, ge=0, le=1, description="probability of mirroring x")
    flip_y: float = Field(0.5, ge=0, le=1, description="probability of mirroring y")
    scale_min: float = Field(0.95, gt=0, le=10, description="smallest scale factor")
    scale_max: float = Field(1.05, gt=0, le=10, description="largest scale factor")
    translate: float = Field(0.1, ge=0, description="meters; standard deviation of the shift of a whole scan")
    jitter: float = Field(0.0, ge=0, description="meters; standard deviation of the noise on each point")
    jitter_clip: float = Field(0.05, gt=0, description="meters; the noise on a point never exceeds this")
    drop: float = Field(0.0, ge=0, lt=1, description="up to this share of the points is dropped, drawn anew each time")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentParams:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min ({self.scale_min}) must not exceed scale_max ({self.scale_max})")
        return self


@dataclass(frozen=True)
class Augmentation:
    """Drop, then rotate, flip, scale and translate as one linear map, then jitter. Picklable; never edits its input.

    ``rows`` and ``label`` follow the points that stay; a view of at least two points keeps at least two.
    """

    params: AugmentParams

    def weak(self) -> Augmentation:
        """Only turned and mirrored: every point stays, at its distances to the others."""
        kept = {name: getattr(self.params, name) for name in ("rotate", "flip_x", "flip_y")}
        still = {"scale_min": 1.0, "scale_max": 1.0, "translate": 0.0, "jitter": 0.0, "drop": 0.0}
        return Augmentation(AugmentParams(**kept, **still))

    def __call__(self, view: View, rng: np.random.Generator) -> View:
        """Returns a new view. ``rng`` is the only source of randomness."""
        p = self.params
        if p.drop > 0:
            view = _drop(view, rng.uniform(0, p.drop), rng)
        turn = self._turn(rng)
        scale = rng.uniform(p.scale_min, p.scale_max)
        shift = rng.normal(0.0, p.translate, 3) if p.translate else np.zeros(3)
        moved = linear(view, turn, scale, shift)
        if p.jitter > 0:
            noise = rng.standard_normal(moved.points.shape, dtype=np.float32) * np.float32(p.jitter)
            moved.points += np.clip(noise, -p.jitter_clip, p.jitter_clip, out=noise)
        return moved

    def _turn(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """(3, 3) rotation about z and mirrors."""
        angle = np.deg2rad(rng.uniform(-self.params.rotate, self.params.rotate))
        cos, sin = np.cos(angle), np.sin(angle)
        mirror_x = -1.0 if rng.random() < self.params.flip_x else 1.0
        mirror_y = -1.0 if rng.random() < self.params.flip_y else 1.0
        return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]) * np.array([mirror_x, mirror_y, 1.0])


def linear(
    view: View,
    turn: npt.NDArray[np.float64],
    scale: float = 1.0,
    shift: npt.NDArray[np.float64] | None = None,
) -> View:
    """A view whose points are ``scale * turn @ p + shift``; directions among its features turn with them.

    Args:
        turn: (3, 3) orthogonal.
        shift: (3,) meters.
    """
    zero = np.zeros(3)
    moved = view.moved(_apply(view.points, turn * scale, zero if shift is None else shift))
    turned = {name: _apply(v, turn, zero) for name, v in view.features.items() if name in DIRECTION_FEATURES}
    if turned:
        moved.features = {**view.features, **turned}
    return moved


def drop_to(view: View, max_points: int, rng: np.random.Generator) -> View:
    """At most ``max_points`` of the view's points, drawn evenly and kept in their order."""
    if len(view) <= max_points:
        return view
    return view.select(np.sort(rng.choice(len(view), max_points, replace=False, shuffle=False)))


def _drop(view: View, share: float, rng: np.random.Generator) -> View:
    keep = rng.random(len(view), dtype=np.float32) >= share
    if keep.sum() < min(2, len(view)):
        return view
    return view.select(keep)


def _apply(
    points: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """``matrix @ p + shift`` for each point. Written out: BLAS may sum in another order on another machine."""
    m, s = matrix.astype(np.float32), shift.astype(np.float32)
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    out = np.empty((len(points), 3), np.float32)
    for row in range(3):
        np.multiply(x, m[row, 0], out=out[:, row])
        out[:, row] += y * m[row, 1]
        out[:, row] += z * m[row, 2]
        out[:, row] += s[row]
    return out


__all__ = ["AugmentParams", "Augmentation", "drop_to", "linear"]
