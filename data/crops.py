"""Crops of a scan, and pairs of crops that overlap: pure functions of a view and a random generator.

``Column`` cuts squares out of the ground plane (indoors), ``Fan`` sectors around the sensor (outdoors), ``Whole``
nothing. The two crops of a pair have points in common, which are found by their ``rows``. Rules: GPC (Jiang et al.,
ICCV 2021), official code.

Points whose coordinates are not finite are in no crop. No crop is empty: of a scan without a finite point it is all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import View

Floats = npt.NDArray[np.floating[Any]]

TRIES = 50
"""So often the second crop of a pair is drawn, and so often a crop, or a pair, that has too few points."""
IOU = (0.1, 0.99)
"""Two crops of a pair overlap by at least, and at most, this share of their union (an area, or an angle)."""
MARGIN = 0.01
"""Meters that the common point of two columns keeps from their edges."""


class Crops(Protocol):
    """A way to cut crops."""

    def one(self, view: View, rng: np.random.Generator) -> View:
        """One crop, around a random point."""
        ...

    def pair(self, view: View, rng: np.random.Generator) -> tuple[View, View]:
        """Two crops that have at least one point in common."""
        ...


class Whole:
    """Nothing is cut: the crop is the scan, and both crops of a pair are."""

    def one(self, view: View, rng: np.random.Generator) -> View:
        return view

    def pair(self, view: View, rng: np.random.Generator) -> tuple[View, View]:
        return view, view


@dataclass(frozen=True)
class _Drawn(ABC):
    """What columns and fans share: they are drawn again while too few points are in them.

    Attributes:
        min_points: a single crop has to hold more points than that,
        min_overlap: and a pair has to have more than that in common; after 50 draws the one with most of them is taken.
    """

    min_points: int = 0
    min_overlap: int = 0

    def one(self, view: View, rng: np.random.Generator) -> View:
        return self._draw(view, rng, 1, self.min_points)[0]

    def pair(self, view: View, rng: np.random.Generator) -> tuple[View, View]:
        first, second = self._draw(view, rng, 2, self.min_overlap)
        return first, second

    def _draw(self, view: View, rng: np.random.Generator, count: int, enough: int) -> list[View]:
        finite = np.flatnonzero(np.isfinite(view.points).all(1))
        if not len(finite):
            return [view] * count
        coordinates = self._coordinates(view.points[finite])
        best, most = np.ones((count, len(finite)), np.bool_), -1
        for _ in range(TRIES if len(finite) > enough else 1):
            masks = self._masks(coordinates, rng, count)
            common = int(masks.all(0).sum())
            if common > most:
                best, most = masks, common
            if most > enough:
                break
        return [view.select(finite[mask]) for mask in best]

    @abstractmethod
    def _coordinates(self, points: npt.NDArray[np.float32]) -> Floats:
        """What crops are cut by, from (n, 3) finite points."""

    @abstractmethod
    def _masks(self, coordinates: Floats, rng: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
        """(count, n) bool: the points in one crop around a random point, or in each of two that contain it."""


@dataclass(frozen=True)
class Column(_Drawn):
    """Columns of a square base, unlimited in height, that lie within the bounds of the scan (where it is that large).

    Attributes:
        size: edge in meters, more than 0.02.
    """

    size: float = 3.5

    def _coordinates(self, points: npt.NDArray[np.float32]) -> Floats:
        return points[:, :2]

    def _masks(self, coordinates: Floats, rng: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
        point = coordinates[rng.integers(len(coordinates))].astype(np.float64)
        reach = self.size / 2 - MARGIN
        centers = point[None] if count == 1 else point + rng.uniform(-reach, reach, (1 + TRIES, 2))
        centers = self._within(centers, coordinates.min(0).astype(np.float64), coordinates.max(0).astype(np.float64))
        if count == 2:
            centers = centers[[0, _second(column_iou(centers[1:] - centers[0], self.size))]]
        return np.stack([(np.abs(coordinates - center) <= self.size / 2).all(1) for center in centers])

    def _within(self, centers: Floats, low: Floats, high: Floats) -> Floats:
        """Centers moved so that their columns do not leave the bounds; in the middle of bounds that are narrower."""
        middle = (low + high) / 2
        room = np.maximum((high - low - self.size) / 2, 0)
        return np.clip(centers, middle - room, middle + room)


@dataclass(frozen=True)
class Fan(_Drawn):
    """Sectors around the vertical axis through the origin, where the sensor is.

    Attributes:
        narrowest, widest: degrees; the opening is drawn evenly between them.
    """

    narrowest: float = 120.0
    widest: float = 360.0

    def _coordinates(self, points: npt.NDArray[np.float32]) -> Floats:
        azimuth: Floats = np.arctan2(points[:, 1], points[:, 0])
        return azimuth

    def _masks(self, coordinates: Floats, rng: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
        azimuth = float(coordinates[rng.integers(len(coordinates))])
        drawn = 1 if count == 1 else 1 + TRIES
        half = np.deg2rad(rng.uniform(self.narrowest, self.widest, drawn)) / 2
        centers = np.full(1, azimuth) if count == 1 else azimuth + rng.uniform(-half, half)
        if count == 2:
            both = [0, _second(fan_iou(centers[1:] - centers[0], half[0], half[1:]))]
            centers, half = centers[both], half[both]
        # float32 rounding must not lose the point that both contain
        return np.stack([np.abs(_wrapped(coordinates - c)) <= h + 1e-5 for c, h in zip(centers, half, strict=True)])


def column_iou(offset: Floats, size: float) -> Floats:
    """Intersection over union of the areas of two squares of edge ``size``. ``offset``: (..., 2) between centers."""
    shared = np.maximum(size - np.abs(offset), 0).prod(-1)
    iou: Floats = shared / (2 * size**2 - shared)
    return iou


def fan_iou(offset: Floats, half: Floats | float, other: Floats) -> Floats:
    """Intersection over union of the angles of two fans. Two wide fans also meet on the far side.

    Args:
        offset: (k,) radians between the directions of their middles.
        half, other: (k,) half of their openings, radians, at most pi.
    """
    apart = np.abs(_wrapped(offset))
    narrower = 2 * np.minimum(half, other)
    near = np.clip(half + other - apart, 0, narrower)
    far = np.clip(half + other - (2 * np.pi - apart), 0, narrower)
    shared = np.minimum(near + far, narrower)
    iou: Floats = shared / (2 * (half + other) - shared)
    return iou


def _second(iou: Floats) -> int:
    """Which crop is the second of a pair: the first of those drawn (1, 2, ...) that fits, else the first crop (0)."""
    fits = (iou >= IOU[0]) & (iou <= IOU[1])
    return 1 + int(fits.argmax()) if fits.any() else 0


def _wrapped(angle: Floats) -> Floats:
    """In -pi..pi."""
    wrapped: Floats = np.remainder(angle + np.pi, 2 * np.pi) - np.pi
    return wrapped


__all__ = ["IOU", "TRIES", "Column", "Crops", "Fan", "Whole", "column_iou", "fan_iou"]
