"""The scans, labels and tags of generated streets are those of SemanticPOSS; and what all layouts have in common."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import UsageError
from ssl3d.data.synthetic.layouts.semanticposs import LABELS, beams
from ssl3d.data.synthetic.street import generate_street, planned_scans


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_tags_say_where_the_points_of_a_scan_belong(semanticposs: Path) -> None:
    scans = json.loads((semanticposs / MANIFEST).read_text())["scans_per_sequence"]
    assert scans == {"00": 3, "01": 3, "02": 3, "03": 3, "04": 3, "05": 2}
    found: set[int] = set()
    for sequence, count in scans.items():
        for frame in range(count):
            folder, name = semanticposs / "sequences" / sequence, f"{frame:06d}"
            points = np.fromfile(folder / "velodyne" / f"{name}.bin", "<f4").reshape(-1, 4)
            words = np.fromfile(folder / "labels" / f"{name}.label", "<u4")
            tag = np.fromfile(folder / "tag" / f"{name}.tag", np.uint8)
            assert len(tag) == 72000 and tag.max() == 1 and tag.sum() == len(points) == len(words)
            row, column = np.divmod(np.flatnonzero(tag), 1800)
            flat = np.hypot(points[:, 0], points[:, 1])
            np.testing.assert_allclose(np.arctan2(points[:, 2], flat), beams()[row], atol=2e-4)
            turned = np.mod(np.pi - np.arctan2(points[:, 1], points[:, 0]), 2 * np.pi)
            np.testing.assert_allclose(turned, (column + 0.5) * np.pi / 900, atol=2e-4)
            assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
            assert set(np.unique(words & 0xFFFF).tolist()) <= set(LABELS)
            found |= set(np.unique(words & 0xFFFF).tolist())
            assert np.all((words >> 16 > 0)[np.isin(words & 0xFFFF, (4, 5, 6, 7, 16, 21))])
    assert found >= {4, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 21, 22}


def test_beams_are_a_third_of_a_degree_apart_near_the_horizon() -> None:
    degrees = np.degrees(beams())
    assert len(degrees) == 40 and degrees[0] == pytest.approx(7.0) and degrees[-1] == pytest.approx(-16.0)
    np.testing.assert_allclose(np.diff(degrees)[5:29], -1 / 3)


def test_repairs_to_the_same_bytes(semanticposs: Path, tmp_path: Path) -> None:
    out = tmp_path / "town"
    shutil.copytree(semanticposs, out)
    folder = out / "sequences" / "03"
    (folder / "tag" / "000001.tag").unlink()
    cut = folder / "velodyne" / "000000.bin"
    cut.write_bytes(cut.read_bytes()[:160])
    done: list[int] = []
    summary = generate_street(out, "tiny", 0, layout="semanticposs", on_scan=lambda: done.append(1))
    assert contents(out) == contents(semanticposs)
    assert len(done) == summary.scans == planned_scans("tiny", "semanticposs") == 17
    assert sum(summary.points.values()) == sum(path.stat().st_size // 4 for path in semanticposs.rglob("*.label"))


def test_layouts_do_not_mix(semanticposs: Path, tmp_path: Path) -> None:
    for layout in ("semantickitti", "nuscenes"):
        with pytest.raises(UsageError, match="in the layout of semanticposs"):
            generate_street(semanticposs, "tiny", 0, layout=layout, overwrite=True)
    with pytest.raises(UsageError, match="not written in a layout 'kitti360'"):
        generate_street(tmp_path, "tiny", 0, layout="kitti360")
    (tmp_path / "samples" / "LIDAR_TOP").mkdir(parents=True)
    with pytest.raises(UsageError, match="not generated here"):
        generate_street(tmp_path, "tiny", 0, layout="nuscenes", overwrite=True)


VERSIONS = {"nuscenes": 2}
SHA256 = {
    "nuscenes": "a74eddd856703227d0baeacb0a6bdb765b603dcea2c3c4de50f9263c6c285a42",
    "semanticposs": "435aaac6c8c7b6b60688dc0c45c272a490cb90736a318db9cf9e3def695539e0",
    "semantic3d": "358307f29df4792cd6c5d0b3c80e240c6613635297d1a9e178d5c3687db59565",
}


@pytest.mark.parametrize("layout", list(SHA256))
def test_the_bytes_are_those_of_this_version(layout: str, request: pytest.FixtureRequest) -> None:
    """Also the test that another machine gives the same files. Whoever changes them on purpose raises the version."""
    manifest = json.loads((request.getfixturevalue(layout) / MANIFEST).read_text())
    assert manifest["layout"] == layout
    assert (manifest["generator_version"], manifest["sha256"]) == (VERSIONS.get(layout, 1), SHA256[layout])


@pytest.mark.parametrize("layout", list(SHA256))
def test_the_ordinary_reader_finds_nothing_wrong(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    found = get_reader(layout).survey(root, ReadOptions())
    assert found.report.errors == ()
    assert sum(len(unit.scans) for unit in found.units) == planned_scans("tiny", layout)
    assert {unit.group: unit.subset for unit in found.units} == {
        group: subset
        for subset, groups in json.loads((root / MANIFEST).read_text())["subsets"].items()
        for group in groups
    }
