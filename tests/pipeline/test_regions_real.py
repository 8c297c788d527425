"""Regions of recordings, where they are present beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_mesh import read_mesh
from ssl3d.data.datasets.source import ReadOptions, SourceFile
from ssl3d.data.geometry.felzenszwalb import edge_weights, segment_graph
from ssl3d.data.geometry.region_quality import count_pure
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.stages.oversegment_params import OversegmentParams
from ssl3d.pipeline.stages.per_scan import stage_params
from ssl3d.pipeline.stages.regions import Mesh, cut

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REAL / "scannet").is_dir(), reason="no real recordings beside the checkout"),
]


def params_of(dataset: str, *overrides: str) -> OversegmentParams:
    found: OversegmentParams = stage_params("oversegment", OversegmentParams, load_spec(dataset), overrides)
    return found


def rand_index(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> float:
    """Adjusted Rand index of two partitions."""

    def pairs(counts: npt.NDArray[np.integer]) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    a, b = (np.unique(ids, return_inverse=True)[1].astype(np.int64) for ids in (a, b))
    both = pairs(np.unique(a * (b.max() + 1) + b, return_counts=True)[1])
    one, other = pairs(np.bincount(a)), pairs(np.bincount(b))
    chance = one * other / pairs(np.array([len(a)]))
    return (both - chance) / ((one + other) / 2 - chance)


def test_the_segmentators_rules_give_the_shipped_segments() -> None:
    """On its own edges and normals: 667 of 668 segments. (Which of equally heavy edges comes first is up to the
    unstable sort that it was compiled with; rounded normals of flat floors make many of them equal.)"""
    (unit,) = ScanNet().discover(REAL / "scannet", ReadOptions(allow_partial=True)).units
    shipped = ScanNet().read_scan(unit, 0, ScanNet().spec()).columns["segment"]
    file = SourceFile.find(REAL / "scannet" / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply")
    assert file is not None
    mesh = read_mesh(file)
    corners = mesh.points[mesh.faces]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face /= np.linalg.norm(face, axis=1, keepdims=True)
    normal, count = np.zeros(mesh.points.shape), np.zeros(len(mesh.points))
    for corner in range(3):  # the mean of the faces' normals, which is shorter than one
        np.add.at(normal, mesh.faces[:, corner], face)
        np.add.at(count, mesh.faces[:, corner], 1)
    normal /= np.maximum(count, 1)[:, None]
    edges = mesh.faces[:, [[0, 1], [0, 2], [2, 1]]].reshape(-1, 2)
    found = segment_graph(len(normal), edges, edge_weights(mesh.points, normal, edges, oriented=True))
    assert abs(int(found.max()) + 1 - 668) <= 5 and rand_index(found, shipped) > 0.99


@pytest.mark.parametrize(
    ("overrides", "regions", "purity"),
    [
        ([], (50, 400), 0.95),  # on the mesh
        (["smallest_segment=20"], (600, 900), 0.96),
        (["algorithm=region-growing"], (300, 600), 0.88),
        (["algorithm=shipped"], (668, 668), 1.0),
    ],
)
def test_a_scan_of_scannet(overrides: list[str], regions: tuple[int, int], purity: float) -> None:
    (unit,) = ScanNet().discover(REAL / "scannet", ReadOptions(allow_partial=True)).units
    scan = ScanNet().read_scan(unit, 0, ScanNet().spec())
    assert scan.edges is not None and scan.label is not None
    params = params_of("scannet", *overrides)
    mesh = Mesh(scan.edges, scan.columns["normal"]) if params.algorithm == "felzenszwalb" else None
    found = cut(scan.points, params, mesh=mesh, segment=scan.columns["segment"], threads=2)
    pure, known = count_pure(found.region, scan.label)
    assert regions[0] <= int(found.region.max()) + 1 <= regions[1]
    assert pure / known >= purity and len(found.adjacent) > 500


@pytest.mark.parametrize("frame", ["00/velodyne/000000", "07/velodyne/000964"])
@pytest.mark.parametrize("algorithm", ["region-growing", "felzenszwalb"])
def test_frames_of_semantickitti(frame: str, algorithm: str) -> None:
    path = REAL / "semantickitti" / "dataset" / "sequences" / f"{frame}.bin"
    points = np.fromfile(path, "<f4").reshape(-1, 4)[:, :3].copy()
    words = np.fromfile(str(path).replace("velodyne", "labels").replace(".bin", ".label"), "<u4")
    found = cut(points, params_of("semantickitti", f"algorithm={algorithm}"), threads=2)
    pure, known = count_pure(found.region, load_spec("semantickitti").lut()[0][words & 0xFFFF])
    assert pure / known > 0.92 and int(found.region.max()) + 1 <= (1500 if algorithm == "region-growing" else 1600)
    assert ((found.region >= 0) == (np.linalg.norm(points.astype(np.float64), axis=1) <= 51.2)).all()


def test_the_sensors_neighborhoods_spare_regions() -> None:
    points = np.fromfile(REAL / "semantickitti" / "dataset" / "sequences" / "07" / "velodyne" / "000964.bin", "<f4")
    cloud = points.reshape(-1, 4)[:, :3].copy()
    seen, metric = (
        int(cut(cloud, params_of("semantickitti", f"neighborhood={kind}"), threads=2).region.max())
        for kind in ("sensor", "metric")
    )
    assert seen < 0.8 * metric  # with the same parameters; purities are within three points of each other
