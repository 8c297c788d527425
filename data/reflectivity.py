"""How strongly the surface of a point reflects: intensity without its loss over distance (LiM3D, CVPR 2023).

Both features depend on distances to the sensor, so they are made of whole scans, before anything moves or crops them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import View

CELLS = ((24, 9), (48, 18), (96, 36))
"""Cells in distance and azimuth, from coarse to fine (LiM3D code)."""
BINS, MOST_METERS = 10, 50.0
DERIVED_WIDTHS = {"reflectivity": 1, "reflectivity_histogram": BINS * len(CELLS)}
"""Channels of the features that ``with_derived`` makes."""


def reflectivity(points: npt.NDArray[np.float32], intensity: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, 1) float32 in 0..1: R = I r^2 / max(I r^2) over the scan; 0 throughout where that maximum is 0.

    Args:
        points: (n, 3) meters, in the frame of the sensor. A point that is not finite has 0, and is no maximum.
        intensity: (n, 1), not negative.
    """
    finite = np.isfinite(points).all(1)
    echo = np.where(finite, intensity[:, 0] * np.square(points, dtype=np.float64).sum(1), 0.0)
    most = echo.max(initial=0.0)
    return (echo / most if most > 0 else np.zeros(len(points)))[:, None].astype(np.float32)


def reflectivity_histogram(points: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, 30) float32: at three scales, the shares of the points around a point whose reflectivity lies in each tenth.

    Around means: in the same cell of a cylindrical grid (``CELLS``) over 0..50 m and all azimuths; the outermost ring
    has no outer end. The ten shares of a scale sum to 1; all are 0 at a point that is not finite.

    Args:
        points: (n, 3) meters, in the frame of the sensor.
        values: (n, 1) of ``reflectivity``.
    """
    out = np.zeros((len(points), DERIVED_WIDTHS["reflectivity_histogram"]), np.float32)
    finite = np.isfinite(points).all(1)
    x, y = points[finite, 0].astype(np.float64), points[finite, 1].astype(np.float64)
    tenth = np.minimum(values[finite, 0] * np.float32(BINS), BINS - 1).astype(np.int64)
    distance, azimuth = np.hypot(x, y) / MOST_METERS, (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    for scale, (rings, sectors) in enumerate(CELLS):
        ring = np.minimum(distance * rings, rings - 1).astype(np.int64)
        cell = ring * sectors + np.minimum(azimuth * sectors, sectors - 1).astype(np.int64)
        counts = np.bincount(cell * BINS + tenth, minlength=rings * sectors * BINS).reshape(-1, BINS)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        out[finite, scale * BINS : (scale + 1) * BINS] = shares[cell]
    return out


def with_derived(view: View, names: Sequence[str]) -> View:
    """``view`` with those features among ``names`` that are made here, where it has intensities and not yet them.

    Args:
        view: a whole scan in the frame of its sensor.
    """
    wanted = [name for name in DERIVED_WIDTHS if name in names and name not in view.features]
    if not wanted or "intensity" not in view.features:
        return view
    values = reflectivity(view.points, view.features["intensity"])
    made = {"reflectivity": values}
    if "reflectivity_histogram" in wanted:
        made["reflectivity_histogram"] = reflectivity_histogram(view.points, values)
    return replace(view, features={**view.features, **{name: made[name] for name in wanted}})


__all__ = ["BINS", "CELLS", "DERIVED_WIDTHS", "reflectivity", "reflectivity_histogram", "with_derived"]
