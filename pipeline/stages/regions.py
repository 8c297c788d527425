"""Cutting one scan into regions: which points take part, their neighborhoods, the algorithm, and what touches what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssl3d.data.geometry.adjacency import adjacent_regions
from ssl3d.data.geometry.felzenszwalb import edge_weights, neighbor_edges, segment_graph
from ssl3d.data.geometry.neighbors import nearest_neighbors
from ssl3d.data.geometry.normals import Surface, surface
from ssl3d.data.geometry.region_growing import grow_regions, merge_small, relabel
from ssl3d.data.geometry.sensor_metric import grows_with_range, sensor_metric
from ssl3d.data.geometry.subsample import cell_means
from ssl3d.pipeline.stages.oversegment_params import OversegmentParams

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Mesh:
    """``edges`` (e, 2) int32 rows of points; ``normal`` (n, 3), pointing away from the surface."""

    edges: Rows
    normal: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Regions:
    """What is stored of a scan of n points.

    Attributes:
        region: (n,) int32, 0..R-1, or -1: not finite, beyond ``max_range``, without a return, not in a segment.
        normal: (n, 3) float16 unit vectors; (0, 0, 1) for points that did not take part.
        curvature: (n,) float16, 0..1/3.
        adjacent: (e, 2) int32 pairs of regions, i < j, in rising order.
    """

    region: Rows
    normal: npt.NDArray[np.float16]
    curvature: npt.NDArray[np.float16]
    adjacent: Rows

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Those that have a row per point, as they are stored."""
        return {"region_id": self.region, "normal": self.normal, "curvature": self.curvature}


class _Cloud(NamedTuple):
    """The points that take part (m, 3), where they are looked for, how much longer lengths are there, and the point of
    the cloud that each point of the scan belongs to (n,), or -1."""

    points: Floats
    places: Floats
    longer: npt.NDArray[np.float64]
    belongs: Rows


def cut(
    points: Floats,
    params: OversegmentParams,
    *,
    mesh: Mesh | None = None,
    segment: Rows | None = None,
    threads: int = 1,
) -> Regions:
    """The regions of a scan; the same for any number of ``threads``.

    Args:
        points: (n, 3) float32 meters; with ``neighborhood="sensor"`` the sensor is the origin.
        mesh: for ``felzenszwalb``; without it a graph of nearest neighbors is made.
        segment: (n,) ids that came with the dataset, negative without one; for ``shipped``.

    Raises:
        ValueError: ``shipped`` without segments.
    """
    cloud = _cloud(points, params)
    wanted = [params.normal_neighbors, params.growing_neighbors, params.adjacency_neighbors]
    if params.algorithm != "region-growing":
        wanted = [params.normal_neighbors, params.graph_neighbors, params.adjacency_neighbors]
    neighbors = nearest_neighbors(cloud.places, max(wanted), threads=threads)
    shape = surface(cloud.points, _first(neighbors, params.normal_neighbors))
    if params.algorithm == "region-growing":
        links = _first(neighbors, params.growing_neighbors)
        found = _grown(cloud, links, shape, params)
    elif params.algorithm == "felzenszwalb" and mesh is None:
        found = _cut_graph(cloud, _first(neighbors, params.graph_neighbors), shape, params)
    else:
        if params.algorithm == "shipped":
            if segment is None:
                raise ValueError("no segments came with this scan")
            given = relabel(np.where(cloud.belongs >= 0, segment, -1))
        else:
            assert mesh is not None
            given = _cut_mesh(points, mesh, cloud.belongs, params)
        return _with_region(given, _touching(points, given, params, threads), shape, cloud.belongs)
    adjacent = adjacent_regions(
        cloud.points,
        found,
        _first(neighbors, params.adjacency_neighbors),
        params.adjacency_reach * cloud.longer,
    )
    return _with_region(_spread(found, cloud.belongs, -1), adjacent, shape, cloud.belongs)


def _cloud(points: Floats, params: OversegmentParams) -> _Cloud:
    part = points.astype(np.float32, copy=True)
    if params.max_range is not None:
        with np.errstate(invalid="ignore"):
            part[np.linalg.norm(points.astype(np.float64), axis=1) > params.max_range] = np.nan
    if params.neighborhood == "sensor":
        part[(points == 0).all(axis=1)] = np.nan  # no return
    if params.voxel is not None:
        centers, belongs = cell_means(part, params.voxel)
    else:
        rows = np.flatnonzero(np.isfinite(part).all(axis=1))
        centers, belongs = part[rows], np.full(len(points), -1, np.int32)
        belongs[rows] = np.arange(len(rows), dtype=np.int32)
    if params.neighborhood == "metric":
        return _Cloud(centers, centers, np.ones(len(centers)), belongs)
    places = sensor_metric(centers, aspect=params.aspect, range_weight=params.range_weight)
    return _Cloud(centers, places, grows_with_range(centers, params.range_start), belongs)


def _first(neighbors: Rows, k: int) -> Rows:
    return np.ascontiguousarray(neighbors[:, :k])


def _grown(cloud: _Cloud, links: Rows, shape: Surface, params: OversegmentParams) -> Rows:
    raw = grow_regions(
        cloud.points,
        links,
        shape,
        angle_deg=params.angle,
        max_curvature=params.max_curvature,
        reach=params.reach * cloud.longer,
        extent=(np.inf if params.extent is None else params.extent) * cloud.longer,
    )
    return merge_small(raw, links, params.smallest)


def _cut_graph(cloud: _Cloud, links: Rows, shape: Surface, params: OversegmentParams) -> Rows:
    edges = neighbor_edges(links)
    weights = edge_weights(cloud.points, shape.normal, edges, oriented=False)
    return segment_graph(
        len(cloud.points), edges, weights, threshold=params.threshold, smallest=params.smallest_segment
    )


def _cut_mesh(points: Floats, mesh: Mesh, belongs: Rows, params: OversegmentParams) -> Rows:
    edges = mesh.edges[(belongs[mesh.edges] >= 0).all(axis=1)]
    weights = edge_weights(points, mesh.normal, edges, oriented=True)
    found = segment_graph(len(points), edges, weights, threshold=params.threshold, smallest=params.smallest_segment)
    return relabel(np.where(belongs >= 0, found, -1))


def _touching(points: Floats, region: Rows, params: OversegmentParams, threads: int) -> Rows:
    """Of regions whose points were not thinned."""
    known = points.astype(np.float32, copy=True)
    known[region < 0] = np.nan
    cloud = _cloud(known, params.model_copy(update={"voxel": None}))
    neighbors = nearest_neighbors(cloud.places, params.adjacency_neighbors, threads=threads)
    there = region[cloud.belongs >= 0]
    return adjacent_regions(cloud.points, there, neighbors, params.adjacency_reach * cloud.longer)


def _with_region(region: Rows, adjacent: Rows, shape: Surface, belongs: Rows) -> Regions:
    normal = _spread(shape.normal.astype(np.float16), belongs, 0)
    normal[belongs < 0, 2] = 1
    return Regions(region, normal, _spread(shape.curvature.astype(np.float16), belongs, 0), adjacent)


def _spread(values: npt.NDArray[Any], belongs: Rows, otherwise: int) -> npt.NDArray[Any]:
    """(m, ...) values of the cloud -> (n, ...) of the points of the scan."""
    found = np.full((len(belongs), *values.shape[1:]), otherwise, values.dtype)
    there = belongs >= 0
    found[there] = values[belongs[there]]
    return found
