"""``pair``: which points of a scan its images show, where, and what was said about it (LASS3D, 3.4 and 3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ssl3d.models.config import Params
from ssl3d.pipeline.stage import Unit, UnitInputs, Upstream
from ssl3d.pipeline.stages.per_scan import ScanStage, per_scan, write_lists

if TYPE_CHECKING:
    from ssl3d.data.datasets.source import Camera
    from ssl3d.data.pairs import Pairs, Rule
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset
    from ssl3d.pipeline.stages.pair_captions import Captioned


_PAIR_BYTES, _CAMERA_BYTES, _MOST_IMAGES = 18, 400, 60
"""Of a pair, of a listed camera, and how many images a scan has at most, usually (streams list all their frames)."""


class PairParams(Params):
    """Parameters of ``pair``."""

    occlusion: Literal["auto", "none", "zbuffer", "depth"] = Field(
        "auto", description="how hidden points are found; auto: by depth maps where there are any, else not at all"
    )
    min_depth: float = Field(1.0, ge=0, allow_inf_nan=False, description="points nearer to a camera have no pixel, m")
    tolerance: float = Field(0.05, gt=0, allow_inf_nan=False, description="depth: from the point to the map, meters")
    cell: int = Field(4, ge=1, description="zbuffer: side of a cell, pixels")
    share: float = Field(0.02, ge=0, allow_inf_nan=False, description="zbuffer: margin, share of the nearest depth")
    meters: float = Field(0.3, ge=0, allow_inf_nan=False, description="zbuffer: margin, meters")
    frame_step: int = Field(100, ge=1, description="of a .sens stream, frames with a number it divides (others: all)")


class PairStage(ScanStage):
    """Files of a unit, each with the rows of one scan after those of the other:

    - ``<unit>.pairs.h5``, sorted by point, then image: ``point_idx`` int32 row of the scan, ``image_idx`` int16 place
      among the images of the scan, ``uv`` (2) uint16 column and row of the pixel, ``depth`` float32 meters; with
      captions ``entity_line`` int32, 0-based line of the entity that has the pixel, -1 without one. Per scan
      ``scan_id`` and ``num_points``. Attribute ``occlusion``: the test that was made.
    - ``<unit>.images.h5``, the images of each scan in order: ``image_id``, ``image`` (reference), ``name`` of the
      camera, ``size`` (2) int32, ``pairs`` int32.
    - with captions ``<unit>.captions.h5`` and ``<unit>.entities.h5``, what was said of the images of each scan: see
      ``Captioned``. Lines are those of ``<unit>.image.jsonl`` and ``<unit>.entity.jsonl``.
    """

    name = "pair"
    version = 1
    optional = ("caption",)
    command = "ssl3d pair"
    kind = "pairs"
    Params = PairParams
    worker_bytes = 64 << 20  # a worker starts in a second or two: 200 scans with one image, or 10 rooms
    in_threads = True
    params: PairParams

    def __init__(self, params: PairParams, dataset: PreparedDataset) -> None:
        super().__init__(params, dataset)
        self.reads = {"prepare": ("points", "cameras")}

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        return [replace(unit, size=self._bytes(unit.id)) for unit in super().units(upstream)]

    def _bytes(self, unit: str) -> int:
        """About what a unit will take, without opening its list of cameras: an image shows a tenth of the points."""
        entry = self.dataset.product.done[unit]
        counts, listed = entry.info["num_points"], entry.files.get(f"{unit}.cameras.h5")
        images = min(_MOST_IMAGES * len(counts), listed.size // _CAMERA_BYTES) if listed else 0
        return (64 << 10) + _PAIR_BYTES * images * sum(counts) // (10 * max(1, len(counts)))

    def work(self, unit: str) -> Any:
        files = self.dataset.product.done[unit].files
        return self.dataset.product.manifest.identity["root"], f"{unit}.cameras.h5" in files

    @staticmethod
    def run(unit: Unit, params: PairParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.data.images import ImageFiles
        from ssl3d.data.pairs import pair_scan
        from ssl3d.pipeline.stages.pair_captions import CaptionLines

        root, pictured = unit.work
        files = ImageFiles(root)
        points = inputs.shard("prepare", "points")
        cameras = _cameras(inputs, len(points), params.frame_step) if pictured else [[] for _ in range(len(points))]
        rule = _rule(params, cameras)
        captions = CaptionLines(inputs.folders["caption"], unit.id) if "caption" in inputs.folders else None

        def pair(position: int, threads: int) -> tuple[Pairs, Captioned | None]:
            read = points.read_many(("points", "origin"), position)
            found = pair_scan(read["points"], read["origin"], cameras[position], files, rule, threads)
            return found, captions.of_pairs(found, cameras[position]) if captions else None

        scans = per_scan(points, inputs, pair)
        pairs, said = [found for found, _ in scans], [found for _, found in scans if found is not None]
        _write_pairs(out / f"{unit.id}.pairs.h5", points, pairs, said, rule)
        _write_images(out / f"{unit.id}.images.h5", pairs, cameras)
        if said:
            write_lists(out / f"{unit.id}.captions.h5", [found.captions for found in said], {})
            write_lists(out / f"{unit.id}.entities.h5", [found.entities for found in said], {})
        return _facts(pairs, said, cameras)


def _cameras(inputs: UnitInputs, scans: int, step: int) -> list[list[Camera]]:
    from ssl3d.data.images import chosen_frames, stored_cameras

    shard = inputs.shard("prepare", "cameras")
    found = []
    for position in range(scans):
        every = stored_cameras(shard, position)
        found.append([every[k] for k in chosen_frames([camera.image for camera in every], step)])
    return found


def _rule(params: PairParams, cameras: list[list[Camera]]) -> Rule:
    from ssl3d.data.errors import DataError
    from ssl3d.data.pairs import Rule

    images = [camera for found in cameras for camera in found]
    depth = any(camera.depth for camera in images)
    if params.occlusion == "depth" and images and not depth:
        raise DataError(
            "there are no depth maps to find hidden points by",
            where={"image": images[0].image},
            hint="take --occlusion zbuffer, or --occlusion none",
        )
    test = ("depth" if depth else "none") if params.occlusion == "auto" else params.occlusion
    return Rule(test, params.min_depth, params.tolerance, params.cell, params.share, params.meters)


def _write_pairs(
    path: Path, points: ShardReader, scans: Sequence[Pairs], said: Sequence[Captioned], rule: Rule
) -> None:
    import numpy as np

    from ssl3d.data.store import write_shard

    arrays = {
        "offsets": np.cumsum([0, *map(len, scans)], dtype=np.int64),
        "point_idx": np.concatenate([scan.point for scan in scans]),
        "image_idx": np.concatenate([scan.image for scan in scans]),
        "uv": np.concatenate([scan.uv for scan in scans]),
        "depth": np.concatenate([scan.depth for scan in scans]),
        **({"entity_line": np.concatenate([found.entity for found in said])} if said else {}),
        "scan_id": points.array("scan_id"),
        "num_points": np.diff(points.offsets),
    }
    attrs = {"occlusion": rule.occlusion, "schema": "ssl3d.pairs/1"}
    write_shard(path, arrays, attrs, per_scan=("scan_id", "num_points"), sync=False)


def _write_images(path: Path, scans: Sequence[Pairs], cameras: list[list[Camera]]) -> None:
    import numpy as np

    from ssl3d.data.captions.ids import image_id
    from ssl3d.data.store import write_shard

    every = [camera for found in cameras for camera in found]
    arrays = {
        "offsets": np.cumsum([0, *map(len, cameras)], dtype=np.int64),
        "image_id": np.array([image_id(camera.image) for camera in every], "U"),
        "image": np.array([camera.image for camera in every], "U"),
        "name": np.array([camera.name for camera in every], "U"),
        "size": np.array([camera.size for camera in every], np.int32).reshape(-1, 2),
        "pairs": np.concatenate([scan.per_image for scan in scans]).astype(np.int32),
    }
    write_shard(path, arrays, {}, per_scan=(), sync=False)


def _facts(scans: Sequence[Pairs], said: Sequence[Captioned], cameras: list[list[Camera]]) -> dict[str, Any]:
    """What the report is made of."""
    names: dict[str, list[int]] = {}
    for scan, found in zip(scans, cameras, strict=True):
        for camera, count in zip(found, scan.per_image.tolist(), strict=True):
            if not camera.name.isdecimal():  # of a moving camera these are frames
                sums = names.setdefault(camera.name, [0, 0])
                sums[0], sums[1] = sums[0] + 1, sums[1] + count
    return {
        "points": [scan.measured for scan in scans],
        "images": [len(found) for found in cameras],
        "paired": [scan.paired for scan in scans],
        "pairs": [len(scan) for scan in scans],
        **({"entity": [found.entity_points for found in said]} if said else {}),
        **({"captioned": [found.points for found in said]} if said else {}),
        "empty": sum(int((scan.per_image == 0).sum()) for scan in scans),
        "cameras": names,
        **{name: _first([getattr(scan, name) for scan in scans]) for name in ("lost", "untested", "odd")},
    }


def _first(images: Sequence[Sequence[str]]) -> list[Any]:
    """How many, and the first."""
    every = [name for scan in images for name in scan]
    return [len(every), every[0] if every else ""]
