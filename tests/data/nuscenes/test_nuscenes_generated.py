"""Generated streets in nuScenes' layout, to shards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.nuscenes import NuScenes
from ssl3d.data.datasets.source import Layout
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader
from ssl3d.data.synthetic.street import generate_street

READER = NuScenes()
SPEC = load_spec("nuscenes")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("generated") / "nuscenes"
    generate_street(root, preset="tiny", seed=0, layout="nuscenes")
    return READER.discover(root)


def test_everything_that_was_generated_is_found(layout: Layout) -> None:
    manifest = json.loads((layout.root / "ssl3d_synth.json").read_text())
    assert layout.report.all_problems() == ()
    assert {group.group: group.scans for group in layout.report.groups} == manifest["scans_per_sequence"]
    subsets = {unit.group: unit.subset for unit in layout.units}
    assert subsets == {name: subset for subset, names in manifest["subsets"].items() for name in names}
    for group in layout.report.groups:
        assert dict(group.facts) == {"labels": group.scans, "instances": group.scans, "images": group.scans}


def test_shards_hold_what_was_generated(layout: Layout, tmp_path: Path) -> None:
    stated = json.loads((layout.root / "ssl3d_synth.json").read_text())["points_per_class"]
    for unit in layout.units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        info = convert_unit(READER, unit, out, ConvertParams())
        assert info.warnings == [] and unit.products() == ("points", "labels", "cameras")
        points, labels = ShardReader(out["points"]), ShardReader(out["labels"])
        counts: Counter[str] = Counter()
        for i, scan in enumerate(unit.scans):
            rows = np.fromfile(scan.files["points"].path, "<f4").reshape(-1, 5)
            raw = np.fromfile(scan.files["labels"].path, "u1")
            assert np.array_equal(points.read("points", i), rows[:, :3])
            assert np.array_equal(points.read("ring", i), rows[:, 4])
            assert np.array_equal(labels.read("label", i), SPEC.lut()[0][raw])
            instance = labels.read("instance", i)
            assert instance.any() and (instance[instance > 0] // 1000 == raw[instance > 0]).all()
            counts += Counter(SPEC.raw_names[int(raw_id)] for raw_id in raw)
        assert counts == Counter({name: count for name, count in stated[unit.group].items() if count})


def test_buildings_stay_where_they_are_in_the_world(layout: Layout) -> None:
    """Of the cells of 1 m that hold a building in two scans, more are the same in the world than seen from the car."""
    for unit in layout.units:
        cells: tuple[list[set[bytes]], list[set[bytes]]] = ([], [])
        for position in (0, len(unit.scans) - 1):
            scan = READER.read_scan(unit, position, SPEC)
            assert scan.label is not None and scan.pose is not None
            fixed = scan.points[scan.label == SPEC.classes.index("manmade")].astype(np.float64)
            for found, places in zip(cells, (fixed @ scan.pose[:3, :3].T + scan.pose[:3, 3], fixed), strict=True):
                found.append({cell.tobytes() for cell in np.floor(places).astype(np.int64)})
        world, car = (len(one & other) / min(len(one), len(other)) for one, other in cells)
        assert world > 0.3 and world > 1.2 * car


def test_images_are_there_and_their_cameras_see_points(layout: Layout) -> None:
    scan = READER.read_scan(layout.units[0], 0, SPEC)
    for camera in scan.cameras:
        assert (layout.root / camera.image).is_file()
        seen = scan.points @ camera.extrinsic[:3, :3].T + camera.extrinsic[:3, 3]
        pixel = (seen @ camera.intrinsic.T)[seen[:, 2] > 1]
        inside = ((pixel[:, :2] / pixel[:, 2:] > 0) & (pixel[:, :2] / pixel[:, 2:] < camera.size)).all(axis=1)
        assert inside.sum() > 0.02 * len(scan.points)
