"""Parameters of ``oversegment``. The defaults are those of rooms; the .toml of a dataset has its own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl3d.models.config import Params

Algorithm = Literal["region-growing", "felzenszwalb", "shipped"]


class OversegmentParams(Params):
    """Names in parentheses: the symbols of WS3D (its numbers for K_n, K_g and kappa_max are PCL's)."""

    algorithm: Algorithm = Field("region-growing", description="region-growing, felzenszwalb, or shipped (ScanNet)")

    voxel: float | None = Field(
        0.02, gt=0, allow_inf_nan=False, description="side of cubes that are thinned to one point, meters"
    )
    max_range: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="points farther from the origin get no region (-1), meters"
    )

    neighborhood: Literal["metric", "sensor"] = Field(
        "metric", description="nearest in meters, or as a spinning LiDAR at the origin sees them"
    )
    aspect: float = Field(
        0.4, gt=0, allow_inf_nan=False, description="sensor: step between columns, as a share of that between beams"
    )
    range_weight: float = Field(
        0.2, gt=0, le=1, allow_inf_nan=False, description="sensor: of differences in range, beside those in angle"
    )
    range_start: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="sensor: beyond so many meters, all lengths grow with the range"
    )

    normal_neighbors: int = Field(16, ge=3, le=1000, description="points that a normal comes from (K_n)")
    growing_neighbors: int = Field(30, ge=2, le=1000, description="points that a region can go on to (K_g)")
    angle: float = Field(15.0, ge=0, le=90, description="largest angle between normals of neighbors, degrees (theta)")
    max_curvature: float = Field(
        0.03, ge=0, allow_inf_nan=False, description="points more curved do not pass their region on (kappa_max)"
    )
    reach: float = Field(0.10, gt=0, allow_inf_nan=False, description="farthest neighbor to go on to, meters (d_max)")
    extent: float | None = Field(
        0.6, gt=0, allow_inf_nan=False, description="farthest point from where a region began, meters; none: no limit"
    )
    smallest: int = Field(50, ge=1, description="points; smaller regions merge into a neighbor (n_min)")

    mesh: bool = Field(True, description="felzenszwalb: on the edges of the mesh where there is one")
    graph_neighbors: int = Field(
        10, ge=2, le=1000, description="felzenszwalb without a mesh: neighbors that edges join"
    )
    threshold: float = Field(0.01, ge=0, allow_inf_nan=False, description="felzenszwalb: k of the criterion")
    smallest_segment: int = Field(20, ge=1, description="felzenszwalb: points; smaller segments are joined")

    adjacency_neighbors: int = Field(8, ge=2, le=1000, description="points that may belong to a region nearby (K_a)")
    adjacency_reach: float = Field(
        0.06, gt=0, allow_inf_nan=False, description="regions nearer than this are adjacent, meters (r_a)"
    )
