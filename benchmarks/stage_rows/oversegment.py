"""Neighbors, normals, regions: how fast, and how well regions keep the classes of generated scenes apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.sparse_scans import AZIMUTHS, BEAMS
from ssl3d.benchmarks.stage_rows._scans import in_turns, street
from ssl3d.benchmarks.stages import row, seconds
from ssl3d.data.geometry.felzenszwalb import edge_weights, neighbor_edges, segment_graph
from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.geometry.normals import surface
from ssl3d.data.geometry.region_quality import count_pure
from ssl3d.data.geometry.threads import in_threads
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.stages.oversegment_params import OversegmentParams
from ssl3d.pipeline.stages.per_scan import stage_params
from ssl3d.pipeline.stages.regions import cut

Points = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_K = 30
_GROW_BUDGET_S, _GRAPH_BUDGET_S, _SPEEDUP = 1.0, 0.15, 1.7
_EDGES = 1_000_000
_STREETS = ("suburb", "highway", "terrace", "country", "inner city", "industrial", "campus")
_STREET_PURITY, _STREET_REGIONS = 0.90, 1500
_ROOM_PURITY, _ROOM_REGIONS = 0.93, (50, 400)


def rows(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """Speed on a street, then purity by full labels: of streets of every style, and of furnished rooms."""
    repeats = 3 if quick else 7
    points = street(folder).points
    return [
        *_neighbors(points, jobs, repeats),
        *_normals(points, repeats),
        *_regions(points, jobs, repeats),
        *_street_quality(_STREETS[:2] if quick else _STREETS, jobs),
        *_room_quality(1 if quick else 6, jobs),
    ]


def _neighbors(points: Points, jobs: int, repeats: int) -> Iterator[dict[str, Any]]:
    import scipy
    from pykdtree.kdtree import KDTree
    from scipy.spatial import cKDTree

    ours = partial(nearest_neighbors, points, _K, threads=jobs)
    rivals: dict[str, Callable[[], object]] = {
        f"pykdtree {version('pykdtree')}, as many threads as OpenMP takes": lambda: KDTree(points).query(points, k=_K),
        f"scipy {scipy.__version__} cKDTree, workers={jobs}": lambda: cKDTree(points).query(points, _K, workers=jobs),
    }
    for rival, theirs in rivals.items():
        mine, other = in_turns(ours, theirs, repeats)
        yield row(
            f"{_K} nearest neighbors of {len(points):,} points, tree included", rival, mine * 1e3, other * 1e3, "ms"
        )


def _normals(points: Points, repeats: int) -> Iterator[dict[str, Any]]:
    neighbors = nearest_neighbors(points, _K)

    def by_numpy() -> object:
        near = points[neighbors].astype(np.float64)
        near -= near.mean(axis=1, keepdims=True)
        return np.linalg.eigh(np.matmul(near.transpose(0, 2, 1), near))

    mine, other = in_turns(partial(surface, points, neighbors), by_numpy, repeats)
    name = f"normals and curvature of {len(points):,} points from {_K} neighbors, one thread"
    yield row(name, f"numpy {np.__version__} matmul, linalg.eigh", mine * 1e3, other * 1e3, "ms")


def _regions(points: Points, jobs: int, repeats: int) -> Iterator[dict[str, Any]]:
    params = _params("semantickitti")

    def fastest(function: Callable[[], object]) -> float:
        function()
        return float(np.median([seconds(function) for _ in range(repeats)]))

    whole = fastest(partial(cut, points, params, threads=jobs))
    name = f"region growing, street of {len(points):,} points: neighbors, normals, regions, adjacency"
    yield row(name, "budget of 1 s", whole, _GROW_BUDGET_S, "s")
    edges = neighbor_edges(nearest_neighbors(points, 20, threads=jobs))[:_EDGES]
    normal = surface(points, nearest_neighbors(points, _K, threads=jobs)).normal

    def graph() -> object:
        return segment_graph(len(points), edges, edge_weights(points, normal, edges, oriented=False))

    name = f"felzenszwalb, {len(edges):,} edges: weights, sort, union-find, one thread"
    yield row(name, "budget of 0.15 s", fastest(graph), _GRAPH_BUDGET_S, "s")
    if jobs > 1:
        scans = [points] * (2 * jobs)
        mine, other = in_turns(
            lambda: in_threads(lambda scan: cut(scan, params), scans, jobs),
            lambda: in_threads(lambda scan: cut(scan, params), scans, 1),
            max(3, repeats // 2),
        )
        name = f"region growing of {len(scans)} streets, {jobs} threads"
        yield row(name, f"one thread (bar: a ratio of {_SPEEDUP * jobs / 2:g})", mine, other, "s")


def _street_quality(styles: tuple[str, ...], jobs: int) -> Iterator[dict[str, Any]]:
    params = _params("semantickitti")
    streets = [_labelled_street(style) for style in styles]
    purity, count = zip(*(_quality(*scan, params, jobs) for scan in streets), strict=True)
    name = f"purity of regions, {len(styles)} streets of all styles"
    yield from _worst(name, purity, count, _STREET_PURITY, (1, _STREET_REGIONS))
    metric = params.model_copy(update={"neighborhood": "metric"})
    theirs, more = zip(*(_quality(*scan, metric, jobs) for scan in streets), strict=True)
    name = f"regions of {len(styles)} streets, mean, at a purity of {100 * np.mean(purity):.1f}%"
    rival = f"neighborhood=metric, whose purity is {100 * np.mean(theirs):.1f}%"
    yield row(name, rival, float(np.mean(count)), float(np.mean(more)), "")


def _room_quality(number: int, jobs: int) -> Iterator[dict[str, Any]]:
    params = _params("s3dis")
    purity, count = zip(*(_quality(*room, params, jobs) for room in _labelled_rooms(number)), strict=True)
    yield from _worst(f"purity of regions, {number} furnished rooms", purity, count, _ROOM_PURITY, _ROOM_REGIONS)


def _worst(
    name: str, purity: tuple[float, ...], count: tuple[int, ...], least: float, usual: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    mean = float(np.mean(purity))
    yield row(f"{name}, mean", f"bar of {100 * least:g}%", 100 * mean, 100 * least, "%", more_is_better=True)
    yield row(f"{name}, lowest", f"bar of {100 * least:g}%", 100 * min(purity), 100 * least, "%", more_is_better=True)
    yield row(
        f"{name}: most regions (fewest {min(count):,})",
        f"bar of {usual[0]:,} to {usual[1]:,}",
        max(count),
        usual[1],
        "",
    )


def _quality(points: Points, label: Labels, params: OversegmentParams, jobs: int) -> tuple[float, int]:
    region = cut(points, params, threads=jobs).region
    pure, known = count_pure(region, label)
    return pure / known, int(region.max()) + 1


def _params(dataset: str) -> OversegmentParams:
    found: OversegmentParams = stage_params("oversegment", OversegmentParams, load_spec(dataset))
    return found


def _labelled_street(style: str) -> tuple[Points, Labels]:
    """A turn of the whole sensor, about 120,000 points; its own streets, on which no parameter was chosen."""
    from ssl3d.data.synthetic.rng import Rng
    from ssl3d.data.synthetic.sensor import make_beams, scan
    from ssl3d.data.synthetic.world import World

    world = World(Rng(0x0E65).key, _STREETS.index(style), 40.0, 9.0, 0.2, style)
    cloud, words = scan(world.scene(20.0), world.pose(20.0), make_beams(BEAMS), AZIMUTHS, Rng(world.key, 50).key)
    table, _ = load_spec("semantickitti").lut()
    return np.ascontiguousarray(cloud[:, :3]), table[words & 0xFFFF]


def _labelled_rooms(number: int) -> Iterator[tuple[Points, Labels]]:
    """Rooms as S3DIS scans them, of a seed on which no parameter was chosen."""
    from ssl3d.data.synthetic.rooms.presets import PRESETS, s3dis_places
    from ssl3d.data.synthetic.rooms.s3dis import objects, room_of, scan_points
    from ssl3d.data.synthetic.rooms.scene import make_scene

    preset, classes = PRESETS["bench"], load_spec("s3dis").classes
    for place in s3dis_places(preset)[:: max(1, len(s3dis_places(preset)) // number)][:number]:
        made = room_of("bench", 7, place)
        points, _, instances = scan_points(made, make_scene(made), preset)
        label = np.full(len(points), 255, np.uint8)
        for file, chosen in objects(made, instances):
            word = file.rsplit("_", 1)[0]
            label[chosen] = classes.index(word) if word in classes else classes.index("clutter")
        yield points.astype(np.float32), label
