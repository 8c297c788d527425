"""``oversegment``: cutting scans into regions of one surface each (WS3D, stage A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.stage import Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.oversegment_params import OversegmentParams
from ssl3d.pipeline.stages.per_scan import ScanStage, per_scan, write_lists, write_points

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset

__all__ = ["OversegmentParams", "OversegmentStage"]


class OversegmentStage(ScanStage):
    """``<unit>.regions.h5`` holds per point ``region_id`` int32 (0..R-1 of its scan, -1 without one), ``normal`` (3)
    float16 and ``curvature`` float16; ``<unit>.adjacency.h5`` per scan, with offsets of its own, ``region_adj`` (e, 2)
    int32: pairs of adjacent regions. The parameters are attributes of both.
    """

    name = "oversegment"
    version = 1
    command = "ssl3d oversegment"
    extras = ("regions",)
    lists = ("adjacency",)
    kind = "regions"
    Params = OversegmentParams
    bytes_per_point = 13
    worker_bytes = 256 << 20  # a worker starts in a few seconds: 40 of work
    in_threads = True
    params: OversegmentParams

    def __init__(self, params: OversegmentParams, dataset: PreparedDataset) -> None:
        super().__init__(params, dataset)
        if params.algorithm == "felzenszwalb" and params.mesh and "edges" in dataset.product.kinds:
            self.reads = {"prepare": ("points", "edges")}

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        if self.params.algorithm == "shipped":
            done = self.dataset.product.done
            if not all("segment" in entry.info["columns"] for entry in done.values()):
                raise UsageError(
                    f"the scans of {self.dataset.name} came without segments",
                    where={"field": "oversegment.algorithm", "found": "shipped"},
                    hint="only ScanNet's meshes have them; type: ssl3d oversegment --algorithm region-growing",
                )
        return super().units(upstream)

    def work(self, unit: str) -> bool:
        """Whether the unit is to be cut along its mesh."""
        return "edges" in self.reads["prepare"]

    @staticmethod
    def run(unit: Unit, params: OversegmentParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.pipeline.stages.regions import Regions, cut

        points = inputs.shard("prepare", "points")
        edges = inputs.shard("prepare", "edges") if unit.work else None
        found: list[Regions | None] = [None] * len(points)

        def one(position: int, threads: int) -> Mapping[str, npt.NDArray[Any]]:
            regions = found[position] = cut(
                points.read("points", position),
                params,
                **_given(points, edges, position, params),
                threads=threads,
            )
            return regions.arrays()

        scans = per_scan(points, inputs, one)
        attrs = {key: _stored(value) for key, value in params.model_dump(mode="json").items()}
        write_points(out / f"{unit.id}.regions.h5", points, scans, attrs)
        adjacent = [{"region_adj": regions.adjacent} for regions in found if regions is not None]
        write_lists(out / f"{unit.id}.adjacency.h5", adjacent, attrs)
        return {
            "pairs": [len(scan["region_adj"]) for scan in adjacent],
            "without": [int((scan["region_id"] < 0).sum()) for scan in scans],
            "sizes": [_sizes(scan["region_id"]) for scan in scans],
        }


def _given(points: ShardReader, edges: ShardReader | None, position: int, params: OversegmentParams) -> dict[str, Any]:
    """What came with the scan, as far as the algorithm asks for it."""
    from ssl3d.pipeline.stages.regions import Mesh

    if params.algorithm == "shipped":
        return {"segment": points.read("segment", position)}
    if edges is None or "normal" not in points:  # without normals of the mesh: neighbors
        return {}
    return {"mesh": Mesh(edges.read("edge", position), points.read("normal", position))}


def _sizes(region: npt.NDArray[np.int32]) -> list[int]:
    """Number of regions, and points of the smallest, the median and the largest."""
    import numpy as np

    sizes = np.bincount(region[region >= 0])
    return [len(sizes), *np.quantile(sizes, (0, 0.5, 1), method="nearest").tolist()] if len(sizes) else [0] * 4


def _stored(value: Any) -> Any:
    return "none" if value is None else value
