"""``density``: how many points lie within a radius of each point (DDSEmi, Eq. 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssl3d.models.config import Params
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.stage import Unit, UnitInputs
from ssl3d.pipeline.stages.per_scan import ScanStage, per_scan, write_points

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

USUAL = (10, 500)
"""A median count outside of this hardly tells sparse from dense places (DDSEmi's specification asks for 20 to 200)."""
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class DensityParams(Params):
    """Parameters of ``density``."""

    radius: float = Field(0.5, gt=0, allow_inf_nan=False, description="of the ball around each point, meters")


class DensityStage(ScanStage):
    """``<unit>.density.h5`` holds, per point, ``geom_count`` int32: points within the radius, itself included; 0 for a
    point with NaN. Per scan ``geom_min`` and ``geom_max`` int32 over its finite points (0 without any): what Eq. 9
    scales by. The counts are raw, so that other scales need no new product. Attributes ``radius`` and ``source``.
    """

    name = "density"
    version = 1
    command = "ssl3d density"
    extras = ("density",)
    kind = "density"
    Params = DensityParams
    worker_bytes = 256 << 20  # a worker starts in a few seconds: 40 of work
    in_threads = True
    params: DensityParams

    @staticmethod
    def run(unit: Unit, params: DensityParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.data.geometry.density import neighbor_counts

        points = inputs.shard("prepare", "points")

        def count(position: int, threads: int) -> Mapping[str, npt.NDArray[np.int32]]:
            return {"geom_count": neighbor_counts(points.read("points", position), params.radius, threads)}

        scans = per_scan(points, inputs, count)
        finite = [scan["geom_count"][scan["geom_count"] > 0] for scan in scans]
        facts = {
            "geom_min": np.array([counts.min() if len(counts) else 0 for counts in finite], np.int32),
            "geom_max": np.array([counts.max() if len(counts) else 0 for counts in finite], np.int32),
        }
        attrs = {"radius": params.radius, "source": "stored points"}
        write_points(out / f"{unit.id}.density.h5", points, scans, attrs, facts)
        return {"quantiles": [_quantiles(counts) for counts in finite], "points": [len(counts) for counts in finite]}


def _quantiles(counts: npt.NDArray[np.int32]) -> list[int]:
    import numpy as np

    return np.quantile(counts, _QUANTILES, method="nearest").tolist() if len(counts) else [0] * len(_QUANTILES)


@dataclass(frozen=True, slots=True)
class DensitySummary:
    """Counts of a product, means over its scans.

    Attributes:
        rows: (subset, scans, points, quantiles at 0, 5, 25, 50, 75, 95 and 100%).
        median: over all scans.
    """

    rows: tuple[tuple[str, int, int, tuple[float, ...]], ...]
    median: float

    @property
    def unusual(self) -> bool:
        return bool(self.rows) and not USUAL[0] <= self.median <= USUAL[1]


def summarize_density(product: Product, subsets: Mapping[str, str]) -> DensitySummary:
    """From the journal alone. ``subsets``: unit -> subset."""
    import numpy as np

    found: dict[str, list[tuple[int, list[int]]]] = {}
    for unit, entry in sorted(product.done.items()):
        scans = zip(entry.info["points"], entry.info["quantiles"], strict=True)
        found.setdefault(subsets[unit], []).extend(scan for scan in scans if scan[0])
    rows = tuple(
        (subset, len(scans), sum(n for n, _ in scans), tuple(np.mean([q for _, q in scans], axis=0).tolist()))
        for subset, scans in found.items()
        if scans
    )
    every = [q[_QUANTILES.index(0.5)] for scans in found.values() for _, q in scans]
    return DensitySummary(rows, float(np.median(every)) if every else 0.0)
