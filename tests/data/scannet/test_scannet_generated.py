"""Generated rooms through the readers of ScanNet and S3DIS: complete layouts, nothing left out, nothing to warn of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.scannet_frames import LOST
from ssl3d.data.datasets.scannet_sens import read_reference
from ssl3d.data.datasets.source import DatasetReader
from ssl3d.data.store import ShardReader
from ssl3d.data.synthetic.rooms.generate import generate_rooms


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("rooms")
    for layout in ("scannet", "s3dis"):
        generate_rooms(out / layout, "tiny", 3, layout=layout)
    return {layout: out / layout for layout in ("scannet", "s3dis")}


def converted(reader: DatasetReader, root: Path, out: Path) -> list[UnitInfo]:
    layout = reader.discover(root)
    assert layout.report.all_problems() == ()
    return [
        convert_unit(reader, unit, {n: out / f"{unit.id}.{n}.h5" for n in unit.products()}, ConvertParams(sync=False))
        for unit in layout.units
    ]


def test_scannet(roots: dict[str, Path], tmp_path: Path) -> None:
    reader, root = get_reader("scannet"), roots["scannet"]
    infos = converted(reader, root, tmp_path)
    stated = json.loads((root / "ssl3d_synth.json").read_text())
    assert {info.unit for info in infos} == set(stated["scans_per_sequence"])
    classes = reader.spec().classes
    for info in infos:
        assert all(LOST in warning for warning in info.warnings)
        if not info.labelled[0]:
            assert info.subset == "test"
            continue
        counts = stated["points_per_class"][info.unit]
        assert info.ignored == counts["ignored"]
        assert info.class_counts == [counts[name] for name in classes]
        points, edges = (
            ShardReader(tmp_path / f"{info.unit}.points.h5"),
            ShardReader(tmp_path / f"{info.unit}.edges.h5"),
        )
        assert np.allclose(np.linalg.norm(points.read("normal", 0), axis=1), 1, atol=1e-5)
        assert edges.array("edge").max() < info.num_points[0]


def test_points_are_seen_where_the_cameras_say(roots: dict[str, Path]) -> None:
    """The depth image at the place of a vertex is the vertex's distance, for most of those that a frame looks at."""
    reader, root = get_reader("scannet"), roots["scannet"]
    unit = reader.discover(root).units[0]
    scan = reader.read_scan(unit, 0, reader.spec())
    stream = [f"{Path(c.image).parent.parent.as_posix()}/{unit.id}.sens#depth/{int(c.name)}" for c in scan.cameras]
    agree = []
    for camera, reference in zip(scan.cameras, stream, strict=True):
        depth = read_reference(root, reference) / 1000.0
        seen = (camera.extrinsic @ np.c_[scan.points, np.ones(len(scan.points))].T)[:3]
        pixel = camera.intrinsic @ seen
        scale = depth.shape[1] / camera.size[0]
        u, v = ((pixel[:2] / pixel[2] + 0.5) * scale).astype(int)
        inside = (seen[2] > 0.3) & (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
        there = depth[v[inside], u[inside]]
        agree.append((np.abs(there - seen[2][inside]) < 0.15 * there)[there > 0])
    assert np.concatenate(agree).mean() > 0.5  # the others are hidden behind something


def test_s3dis(roots: dict[str, Path], tmp_path: Path) -> None:
    reader, root = get_reader("s3dis"), roots["s3dis"]
    infos = converted(reader, root, tmp_path)
    stated = json.loads((root / "ssl3d_synth.json").read_text())
    assert len(infos) == sum(stated["scans_per_sequence"].values()) and {info.group for info in infos} == {
        f"Area_{k}" for k in range(1, 7)
    }
    for info in infos:
        counts = stated["points_per_class"][info.scan_ids[0]]
        assert info.class_counts == [counts[name] for name in reader.spec().classes] and info.warnings == []
        assert info.subset == ("val" if info.group == "Area_5" else "train")
