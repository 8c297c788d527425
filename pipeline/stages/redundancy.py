"""How much each scan repeats the one before: what ``ssl3d split --protocol strfd`` draws scans by.

No command of its own, and no row of ``status``: ``split`` makes it when it is asked for, and ``clean`` removes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssl3d.models.config import Params
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.stage import Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.per_scan import ScanStage

if TYPE_CHECKING:
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset


class RedundancyParams(Params):
    """Parameters of ``redundancy``."""

    images: bool = Field(True, description="by the structural similarity of camera images; false: by occupied cells")


class RedundancyStage(ScanStage):
    """Of every unit of train scans, in the journal: ``redundancy``, for each scan but the first its similarity to the
    one before it, 0..1 (0 where their images cannot be compared). ``params.images``: of the first image of each."""

    name = "redundancy"
    version = 1
    command = "ssl3d split --ratio 10% --protocol strfd"
    in_threads = True
    params: RedundancyParams

    def __init__(self, dataset: PreparedDataset) -> None:
        units = {scan.unit for scan in dataset.subset("train")}
        files = {unit: dataset.product.done[unit].files for unit in sorted(units)}
        pictured = all(f"{unit}.cameras.h5" in found for unit, found in files.items())
        super().__init__(RedundancyParams(images=pictured), dataset)
        self.reads = {"prepare": ("points", "cameras") if pictured else ("points",)}
        self.chosen = frozenset(units)

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [unit for unit in super().units(upstream) if unit.id in self.chosen]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        return {"units": sorted(self.chosen)}

    def work(self, unit: str) -> Any:
        return self.dataset.product.manifest.identity["root"]

    def about(self) -> Mapping[str, Any]:
        return {"command": self.command}

    @staticmethod
    def run(unit: Unit, params: RedundancyParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.data.geometry.threads import in_threads

        points = inputs.shard("prepare", "points")
        compare = _Images(unit.work, inputs) if params.images else _Cells(points)
        found = in_threads(compare, range(1, len(points)), inputs.threads)
        return {"redundancy": [round(min(1.0, max(0.0, value)), 6) for value in found]}

    @staticmethod
    def of_scans(product: Product, dataset: PreparedDataset) -> dict[str, float]:
        """Scan id -> its similarity to the scan before it; without the first of each unit."""
        found = {}
        for scan in dataset.subset("train"):
            if scan.position:
                found[scan.scan_id] = float(product.done[scan.unit].info["redundancy"][scan.position - 1])
        return found


class _Images:
    """Similarity of the images of scans i - 1 and i; 0 where there is none, or they differ in size."""

    def __init__(self, root: str, inputs: UnitInputs) -> None:
        from ssl3d.data.images import ImageFiles

        self.files, self.cameras = ImageFiles(root), inputs.shard("prepare", "cameras")

    def __call__(self, position: int) -> float:
        from ssl3d.data.redundancy import ssim

        one, other = self._image(position - 1), self._image(position)
        return ssim(one, other) if one is not None and other is not None and one.shape == other.shape else 0.0

    def _image(self, position: int) -> Any:
        from ssl3d.data.images import stored_cameras
        from ssl3d.data.redundancy import gray

        cameras = stored_cameras(self.cameras, position)
        return gray(self.files.color(cameras[0].image)) if cameras else None


class _Cells:
    def __init__(self, points: ShardReader) -> None:
        self.points = points

    def __call__(self, position: int) -> float:
        from ssl3d.data.redundancy import overlap

        return overlap(self.points.read("points", position - 1), self.points.read("points", position))


__all__ = ["RedundancyParams", "RedundancyStage"]
