"""The recorded scan of ScanNet beside the checkout, where it is present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_labels import TABLE, read_categories
from ssl3d.data.datasets.source import ReadOptions, SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.store import ShardReader

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real"
READER = ScanNet()
PARTIAL = ReadOptions(allow_partial=True)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REAL / "scannet").is_dir(), reason="no real recordings beside the checkout"),
]

# nyu40 ids and vertices of labels.ply, as stated where the scan comes from
HISTOGRAM = {
    **{0: 4357, 1: 13899, 2: 10234, 3: 9809, 4: 2954, 6: 5099, 7: 4479, 8: 1414, 9: 824, 12: 462, 14: 1897, 15: 4173},
    **{16: 5519, 18: 269, 19: 151, 22: 2509, 24: 1404, 25: 521, 32: 558, 33: 454, 34: 362, 38: 2049, 39: 642, 40: 7330},
}


def test_the_objects_give_the_labels_of_labels_ply(tmp_path: Path) -> None:
    (unit,) = READER.discover(REAL / "scannet", PARTIAL).units
    scan = READER.read_scan(unit, 0, READER.spec())
    assert unit.subset == "train" and scan.raw_counts == HISTOGRAM and scan.notes == {}
    assert len(scan.points) == 81369 and len(np.unique(scan.columns["segment"])) == 668
    assert len(np.unique(scan.truths["instance"])) == 68 and (scan.truths["instance"] == 0).sum() == 4357
    assert scan.edges is not None and scan.edges.shape == (235793, 2) and (scan.edges[:, 0] < scan.edges[:, 1]).all()
    out = {name: tmp_path / f"{name}.h5" for name in unit.products()}
    info = convert_unit(READER, unit, out, ConvertParams(sync=False))
    assert info.warnings == [] and info.num_points == [81369] and sum(info.class_counts) + info.ignored == 81369
    assert (ShardReader(out["labels"]).read("label", 0) == scan.label).all()


def test_floor_and_walls_stand_as_they_should() -> None:
    (unit,) = READER.discover(REAL / "scannet", PARTIAL).units
    spec = READER.spec()
    scan = READER.read_scan(unit, 0, spec)
    floor, wall = (scan.label == spec.classes.index(name) for name in ("floor", "wall"))
    assert scan.pose is not None
    aligned = scan.points @ scan.pose[:3, :3].T + scan.pose[:3, 3]
    assert abs(np.median(aligned[floor, 2])) < 0.05
    normals = scan.columns["normal"] @ scan.pose[:3, :3].T
    assert np.median(normals[floor, 2]) > 0.95 and np.median(abs(normals[wall, 2])) < 0.1
    upright = normals[wall][abs(normals[wall, 2]) < 0.1]
    assert (abs(upright[:, :2]).max(axis=1) > 0.95).mean() > 0.8  # the alignment turns walls parallel to the axes


def test_the_published_table() -> None:
    file = SourceFile.find(REAL / "scannet" / TABLE)
    assert file is not None
    table = read_categories(file)
    assert table.rows == len(table.nyu40) == 607 and table.restored == ()
    assert (table.nyu40["stick"], table.nyu40["guitar case"], table.nyu40["ceiling"]) == (40, 40, 22)


def test_one_scan_is_no_dataset() -> None:
    with pytest.raises(DataError, match="1200 scans of the train set are missing"):
        READER.discover(REAL / "scannet")
