"""What a scan is once it is in memory: plain arrays, no files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""The one ignore label, on disk and in every target. Classes are 0..C-1."""


@dataclass(slots=True)
class View:
    """A set of points of one scan (all of it, a crop, an augmented copy), or of several scans mixed.

    Attributes:
        points: (n, 3) float32, meters, relative to the scan's origin.
        features: name -> (n, k) float32, e.g. ``intensity`` (n, 1) in 0..1 or ``color`` (n, 3) in 0..1.
        rows: (n, 2) int64: index of the scan in its dataset, original row in that scan. Two views of one
            scan are matched by it, and predictions are written back through it.
        label: (n,) uint8, *visible* labels only; IGNORE where hidden or missing.
        extras: name -> (n, ...) per-point products of other stages (density, region, ...).
        scan: scalars of the scan (``scan_id``, ``origin``, ``pose`` ...).
    """

    points: npt.NDArray[np.float32]
    features: dict[str, npt.NDArray[np.float32]]
    rows: npt.NDArray[np.int64]
    label: npt.NDArray[np.uint8]
    extras: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    scan: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.points)

    def select(self, keep: npt.NDArray[Any]) -> View:
        """The view of the points in ``keep`` (boolean mask or row indices)."""
        return View(
            points=self.points[keep],
            features={name: value[keep] for name, value in self.features.items()},
            rows=self.rows[keep],
            label=self.label[keep],
            extras={name: value[keep] for name, value in self.extras.items()},
            scan=self.scan,
        )

    def moved(self, points: npt.NDArray[np.float32]) -> View:
        """The same points elsewhere (an augmentation). ``points``: (n, 3) float32."""
        return replace(self, points=points)
