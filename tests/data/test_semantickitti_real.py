"""The recorded frames beside the checkout, where they are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.range_image import RangeProjection
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
READER = SemanticKitti()
PARTIAL = ReadOptions(allow_partial=True)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REAL / "semantickitti").is_dir(), reason="no real recordings beside the checkout"),
]

# Raw ids and points as stated where the frames come from.
HISTOGRAMS = {
    "00/000000": {
        **{0: 2184, 1: 4, 10: 4234, 40: 34228, 44: 3268, 48: 26360, 50: 18268, 51: 370, 52: 1471, 60: 1053},
        **{70: 27123, 71: 1192, 72: 2964, 80: 532, 81: 102, 99: 1227, 255: 88},
    },
    "00/000001": {
        **{0: 2170, 1: 14, 10: 4387, 40: 33233, 44: 3831, 48: 26040, 50: 19180, 51: 386, 52: 1447, 60: 868},
        **{70: 27116, 71: 1242, 72: 2765, 80: 585, 81: 100, 99: 1168, 255: 73},
    },
    "00/000002": {
        **{0: 2094, 1: 9, 10: 4725, 40: 32230, 44: 4617, 48: 25524, 50: 20123, 51: 402, 52: 1322, 60: 662},
        **{70: 26987, 71: 1251, 72: 2585, 80: 665, 81: 93, 99: 1117, 255: 72},
    },
    "07/000964": {
        **{0: 1767, 1: 58, 10: 10400, 18: 124, 40: 17066, 48: 19952, 50: 37840, 51: 14275, 52: 7, 70: 16304},
        **{71: 14, 72: 907, 80: 444, 81: 137, 99: 80, 252: 1110},
    },
}


def test_the_histogram_survives_conversion(tmp_path: Path) -> None:
    layout = READER.discover(REAL / "semantickitti", PARTIAL)
    spec = READER.spec()
    seen = []
    for unit in layout.units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        info = convert_unit(READER, unit, out, ConvertParams())
        points, labels = ShardReader(out["points"]), ShardReader(out["labels"])
        assert info.warnings == [] and info.not_finite == info.all_zero == 0
        for i, scan_id in enumerate(points.array("scan_id").tolist()):
            raw = HISTOGRAMS[scan_id]
            expected = np.zeros(256, np.int64)
            for raw_id, count in raw.items():
                expected[spec.learning_map[raw_id]] += count
            label = labels.read("label", i)
            assert np.bincount(label, minlength=256).tolist() == expected.tolist()
            assert labels.read("moving", i).sum() == sum(raw.get(m, 0) for m in spec.moving)
            assert len(label) == len(points.read("points", i)) == info.num_points[i] == sum(raw.values())
            assert READER.read_scan(unit, i, spec).raw_counts == raw
            seen.append(scan_id)
        assert info.ignored == sum(HISTOGRAMS[s][r] for s in info.scan_ids for r in (0, 1, 52, 99))
    assert sorted(seen) == sorted(HISTOGRAMS)


def test_whole_sequence_poses_belong_to_frame_numbers() -> None:
    layout = READER.discover(REAL / "semantickitti", PARTIAL)
    first, last = (READER.read_scan(unit, 0, READER.spec()).pose for unit in layout.units[:2])
    assert first is not None and last is not None
    assert np.allclose(first, np.eye(4), atol=1e-6)
    # sequence 07 is a loop of 695 m that ends where it began: frame 964 of 1101 is within 100 m of the start again
    assert 1 < np.linalg.norm(last[:3, 3]) < 100
    for pose in (first, last):
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-4)


def test_the_ground_is_below_the_sensor_and_fills_the_lower_rows() -> None:
    layout = READER.discover(REAL / "semantickitti", PARTIAL)
    spec = READER.spec()
    scan = READER.read_scan(layout.units[0], 0, spec)
    assert scan.label is not None
    road = scan.label == spec.classes.index("road")
    assert -2.2 < np.median(scan.points[road, 2]) < -1.3  # the sensor is 1.73 m above the road
    projection = RangeProjection.of(scan.points, spec.sensor)
    image = projection.image(scan.label, empty=IGNORE)
    assert projection.filled.mean() > 0.7
    is_road = image == spec.classes.index("road")
    assert is_road[40:].mean() > 0.2 and is_road[:16].mean() < 0.05


def test_incomplete_sequences_are_an_error_without_allow_partial() -> None:
    with pytest.raises(DataError, match="allow-partial"):
        READER.discover(REAL / "semantickitti")


def test_the_frame_without_labels(tmp_path: Path) -> None:
    root = REAL / "semantickitti_unlabelled"
    if not root.is_dir():
        pytest.skip("the frame without labels is not beside the checkout")
    texts = [problem.what for problem in READER.check(root).errors]
    assert any("no labels in a train sequence" in text for text in texts)
    (unit,) = READER.discover(root, PARTIAL).units
    assert unit.products() == ("points",)
    info = convert_unit(READER, unit, {"points": tmp_path / "p.h5"}, ConvertParams())
    assert info.num_points == [124167] and info.labelled == [False] and info.scan_ids == ["00/000003"]
