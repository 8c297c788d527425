"""Scans mixed of parts of two scans: LaserMix (Kong et al., CVPR 2023) by bands of inclination, or any other parts.

Pure functions. Every point of the two scans is in exactly one of the two mixed ones, where it was, with its features,
its ``rows`` and its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.scan import View


def inclination_bands(
    points: npt.NDArray[np.floating[Any]], bands: int, fov_up: float, fov_down: float
) -> npt.NDArray[np.int64]:
    """(n,) the band of inclination ``phi = atan2(z, sqrt(x^2 + y^2))`` that each point lies in; 0 is the top.

    Band j holds ``e_{j+1} < phi <= e_j`` with ``e_j = fov_up - j (fov_up - fov_down) / bands``. What is above the field
    of view is in the first band, what is below it in the last: no point is lost.

    Args:
        points: (n, 3) meters; the sensor is at the origin.
        bands: at least 1.
        fov_up, fov_down: degrees, the upper above the lower; down is negative.
    """
    x, y, z = np.asarray(points, np.float64).T
    phi = np.arctan2(z, np.hypot(x, y))
    inner = np.radians(fov_up - np.arange(bands - 1, 0, -1) * (fov_up - fov_down) / bands)  # e_{m-1} .. e_1, rising
    found: npt.NDArray[np.int64] = bands - 1 - np.searchsorted(inner, phi, side="left")
    return found


def mix_bands(
    a: View, b: View, of_a: npt.NDArray[np.int64], of_b: npt.NDArray[np.int64], extras: Sequence[str] = ()
) -> tuple[View, View]:
    """(even bands of ``a`` and odd ones of ``b``, even bands of ``b`` and odd ones of ``a``).

    The points of the even bands come first, each scan's in their order. Mixing the results by the same bands gives
    ``a`` and ``b`` back. A result may be empty.

    Args:
        of_a, of_b: (n,) the band of each point, e.g. of ``inclination_bands``, or blocks of rows of a range image.
        extras: see ``joined``.
    """
    even_a, even_b = of_a % 2 == 0, of_b % 2 == 0
    one = joined(a.select(even_a), b.select(~even_b), extras=extras)
    return one, joined(b.select(even_b), a.select(~even_a), extras=extras)


def joined(*views: View, extras: Sequence[str] = ()) -> View:
    """One view of the points of several, in order.

    Args:
        extras: names of the extras that are kept. Not those that mean something within their scan only (ids of
            regions), nor what belongs to a scan as a whole (pose, images): its only scalar is ``scan_id``.

    Raises:
        ValueError: the views have different features.
    """
    names = sorted(views[0].features)
    for view in views:
        if sorted(view.features) != names:
            raise ValueError(f"scans with the features {names} and {sorted(view.features)} cannot be mixed")
    return View(
        points=np.concatenate([view.points for view in views]),
        features={name: np.concatenate([view.features[name] for view in views]) for name in views[0].features},
        rows=np.concatenate([view.rows for view in views]),
        label=np.concatenate([view.label for view in views]),
        extras={name: np.concatenate([view.extras[name] for view in views]) for name in extras},
        scan={"scan_id": "+".join(str(view.scan.get("scan_id", "?")) for view in views)},
    )


__all__ = ["inclination_bands", "joined", "mix_bands"]
