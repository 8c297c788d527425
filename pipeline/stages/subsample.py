"""``subsample``: scans thinned on a grid, and the way back, for backbones that work on points (RandLA-Net)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssl3d.models.config import Params
from ssl3d.pipeline.product import Product
from ssl3d.pipeline.stage import Unit, UnitInputs
from ssl3d.pipeline.stages.per_scan import ScanStage, per_scan, write_lists, write_points

if TYPE_CHECKING:
    from ssl3d.data.geometry.neighbors import Tree
    from ssl3d.data.scan import View
    from ssl3d.pipeline.dataset import ScanRef

MEASURED = ("intensity", "color", "normal")
"""Per-point arrays whose means over cells are kept."""
NODES = ("box", "first", "begin", "end", "left")
"""Of a ``Tree``; its other arrays belong to points."""


class SubsampleParams(Params):
    """Parameters of ``subsample``."""

    grid: float = Field(0.06, gt=0, allow_inf_nan=False, description="side of a cell, meters")


class SubsampleStage(ScanStage):
    """Three files a unit.

    - ``<unit>.thinned.h5``, with offsets of its own: ``points`` (m, 3) float32, ``row`` (m,) int32 (the original point
      that stands for each) and the means of intensity, color, normal, where the dataset has them; ``order`` (m,) int32
      of the tree;
    - ``<unit>.tree.h5``, with offsets of its own: the nodes of a k-d tree over the thinned points, see ``Tree``;
    - ``<unit>.projection.h5``, per original point: ``cell`` and ``nearest`` int32, see ``Subsampled``.

    No labels: which labels may be seen is the split's to say, and ``ElementMap`` reduces them by ``cell``.
    """

    name = "subsample"
    version = 1
    command = "ssl3d subsample"
    extras = ("projection",)
    kind = "projection"
    Params = SubsampleParams
    bytes_per_point = 24
    worker_bytes = 1 << 30  # a worker starts in a few seconds: 40 of work
    in_threads = True
    params: SubsampleParams

    @staticmethod
    def run(unit: Unit, params: SubsampleParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        from ssl3d.data.geometry.subsample import grid_subsample

        points = inputs.shard("prepare", "points")
        names = [name for name in MEASURED if name in points]

        def thin(position: int, threads: int) -> Mapping[str, Any]:
            read = points.read_many(["points", *names], position)
            found = grid_subsample(read["points"], params.grid, threads)
            means = {name: found.mean(read[name]) for name in names}
            return {
                "thinned": {"points": found.points, "row": found.row, "order": found.tree.order, **means},
                "tree": {name: getattr(found.tree, name) for name in NODES},
                "projection": {"cell": found.cell, "nearest": found.nearest},
            }

        scans = per_scan(points, inputs, thin)
        attrs = {"grid": params.grid}
        for kind in ("thinned", "tree"):
            write_lists(out / f"{unit.id}.{kind}.h5", [scan[kind] for scan in scans], attrs)
        write_points(out / f"{unit.id}.projection.h5", points, [scan["projection"] for scan in scans], attrs)
        return {"kept": [len(scan["thinned"]["row"]) for scan in scans]}


def thinned_view(product: Product, scan: ScanRef) -> View:
    """A scan of a ``subsample`` product: its points and features; ``rows`` name the original point of each.

    Labels are all IGNORE: reduce the visible ones by ``cell`` of the projection.
    """
    import numpy as np

    from ssl3d.data.scan import IGNORE, View
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import scan_features

    reader = ShardReader(product.folder / f"{scan.unit}.thinned.h5")
    read = reader.read_many(reader.names, scan.position)
    rows = np.stack([np.full(len(read["row"]), scan.index, np.int64), read["row"].astype(np.int64)], axis=1)
    label = np.full(len(rows), IGNORE, np.uint8)
    return View(read["points"], scan_features(read), rows, label, scan={"scan_id": scan.scan_id})


def thinned_tree(product: Product, scan: ScanRef) -> Tree:
    """The k-d tree over the points of ``thinned_view``, as it was stored: nothing is built."""
    from ssl3d.data.geometry.neighbors import Tree
    from ssl3d.data.store import ShardReader

    points = ShardReader(product.folder / f"{scan.unit}.thinned.h5").read_many(["points", "order"], scan.position)
    nodes = ShardReader(product.folder / f"{scan.unit}.tree.h5").read_many(NODES, scan.position)
    return Tree(points=points["points"][points["order"]], order=points["order"], **nodes)
