"""Neighborhoods of a spinning LiDAR.

Its points lie on rings: dense along a ring, far apart across. The nearest points of a point beyond some ten meters are
then all of its own ring, on a line, and give no normal. So neighbors are sought as the sensor sees them: near in
azimuth, in elevation (where the sensor's steps are wider, by a known ratio) and, weighing less, in range. They lie on
several rings, and of a surface that is seen at a grazing angle (the road) they are far apart, as they have to be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def sensor_metric(
    points: npt.NDArray[np.floating[Any]], *, aspect: float, range_weight: float
) -> npt.NDArray[np.float32]:
    """Where to look for neighbors: (n, 3) float32 places whose nearest ones are the neighbors of the points.

    Around a point, squared distances are proportional to ``d_azimuth^2 + (aspect * d_elevation)^2 +
    (range_weight * d_log_range)^2``. Taking the range to a power does it without a seam behind the sensor: the place is
    ``r^w (cos azimuth, sin azimuth, aspect * elevation)``, all lengths of which grow by the same factor.

    Args:
        points: (n, 3) meters, the sensor at the origin, z up.
        aspect: step between columns as a share of the step between beams.
        range_weight: w; surfaces up to an angle of incidence of ``atan(1 / w)`` look like those seen from the front.

    Returns:
        NaN for points at the origin (no return) and those that are not finite.
    """
    x, y, z = np.asarray(points, np.float64).T
    flat = np.hypot(x, y)
    distance = np.hypot(flat, z)
    with np.errstate(invalid="ignore", divide="ignore"):
        stretched = np.where((distance > 0) & np.isfinite(distance), distance, np.nan) ** range_weight
        around = np.where(flat > 0, 1.0 / flat, 0.0)
        place = np.stack([x * around, y * around, aspect * np.arctan2(z, flat)], axis=1)
    return (place * stretched[:, None]).astype(np.float32)


def grows_with_range(points: npt.NDArray[np.floating[Any]], start: float) -> npt.NDArray[np.float64]:
    """(n,) factors for lengths: 1 up to ``start`` meters from the sensor, from there on in proportion to the range, as
    the spacing of the rays does. NaN for points that are not finite."""
    found: npt.NDArray[np.float64] = np.maximum(1.0, np.linalg.norm(np.asarray(points, np.float64), axis=1) / start)
    return found
