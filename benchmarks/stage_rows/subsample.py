"""Thinning a scan on a grid against Open3D where it is installed, else numpy; and the tree that is stored with it."""

from __future__ import annotations

import importlib.util
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.stage_rows._scans import in_turns, room, street
from ssl3d.benchmarks.stages import row
from ssl3d.data.geometry.neighbors import Tree, nearest_in
from ssl3d.data.geometry.subsample import grid_subsample
from ssl3d.data.store import ShardReader, write_shard
from ssl3d.pipeline.stages.subsample import NODES


def rows(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """Both sides with one thread: workers share scans. Ours also finds the way back to every point in its time."""
    import scipy
    from pykdtree.kdtree import KDTree
    from scipy.spatial import cKDTree

    found = []
    for place, cloud, size in (("street", street(folder), 0.06), ("room", room(folder), 0.04)):
        points, repeats = cloud.points, 3 if quick else 7
        rival, thin = _rival(points, size)
        mine, other = in_turns(partial(grid_subsample, points, size), thin, repeats)
        kept = len(grid_subsample(points, size).points)
        name = f"subsample, {place} of {len(points):,} points, {size:g} m, {kept:,} kept, with the projection"
        found.append(row(name, rival, mine * 1e3, other * 1e3, "ms"))
        tree = grid_subsample(points, size).tree
        mine, other = in_turns(partial(_stored, folder / "tree.npz", tree), partial(KDTree, tree.points), repeats)
        rival = f"building one by pykdtree {version('pykdtree')}"
        name = f"k-d tree of the {kept:,} points that are kept of a {place}, read from its arrays"
        found.append(row(name, rival, mine * 1e3, other * 1e3, "ms"))
        mine, other = in_turns(
            partial(nearest_in, tree, points, 16), partial(cKDTree(tree.points).query, points, 16), repeats
        )
        rival = f"scipy {scipy.__version__} cKDTree.query"
        name = f"16 nearest of them to each of the {len(points):,} points of a {place}, 1 thread"
        found.append(row(name, rival, mine * 1e3, other * 1e3, "ms"))
    return found


def _rival(points: npt.NDArray[np.float32], size: float) -> tuple[str, Any]:
    if importlib.util.find_spec("open3d") is not None:
        import open3d

        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
        return f"Open3D {open3d.__version__} voxel_down_sample (no projection)", partial(cloud.voxel_down_sample, size)

    def by_numpy() -> Any:
        cells = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
        _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        return [np.bincount(cell.reshape(-1), points[:, axis]) / counts for axis in range(3)]

    return f"numpy {np.__version__} unique and bincount (no projection)", by_numpy


def _stored(path: Path, tree: Tree) -> Tree:
    """The tree from a shard as ``ssl3d subsample`` keeps it; written at the first call."""
    path = path.with_suffix(f".{len(tree.order)}.h5")
    if not path.exists():
        nodes = {name: getattr(tree, name) for name in NODES}
        write_shard(path, {"offsets": np.array([0, len(tree.left)]), **nodes}, per_scan=())
    return tree._replace(**ShardReader(path).read_many(NODES, 0))
