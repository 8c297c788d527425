"""Recordings that nobody here made, where they are present: guessed, read, and compared with the files themselves."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import parse_config
from ssl3d.data.datasets.folder_guess_text import guess_text
from ssl3d.data.datasets.source import Camera
from ssl3d.data.errors import DataError
from ssl3d.data.formats import read_table
from ssl3d.data.store import ShardReader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Array = npt.NDArray[Any]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REAL / "airborne").is_dir(), reason="no real recordings beside the checkout"),
]


def guessed(root: Path) -> Folder:
    return Folder(parse_config(tomllib.loads(guess_text(root)), root / "my.toml").text())


def test_airborne_tiles_keep_a_centimeter(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    reader = guessed(REAL / "airborne" / "ign")
    assert {"ground", "building", "water"} <= set(reader.spec().classes)
    assert 66 in reader.config.ignored and reader.config.columns.label == "classification"
    units = reader.discover(reader.config.base()).units
    assert len(units) == 13 and sum(unit.num_points or 0 for unit in units) == 2_000_164
    unit = next(unit for unit in units if unit.group.startswith("test_semis_2023_0299"))
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    las = laspy.read(unit.scans[0].files["points"].path)
    points = ShardReader(files["points"])
    at = points.read("points", 0).astype(np.float64) + points.read("origin", 0)
    assert np.abs(at - np.stack([las.x, las.y, las.z], axis=1)).max() < 0.001
    codes = np.asarray(las.classification)
    assert info.class_counts[reader.spec().classes.index("ground")] == np.count_nonzero(codes == 2) == 198_626
    synthetic = codes == 66  # points that IGN has made up
    assert np.count_nonzero(synthetic) == 7
    assert (ShardReader(files["labels"]).read("label", 0)[synthetic] == 255).all()


def test_a_frame_of_rellis(tmp_path: Path) -> None:
    reader = guessed(REAL / "rellis3d")
    assert reader.config.labels is not None and reader.config.labels.bits == 16 and reader.zero_is_none
    assert sorted(reader.config.classes) == [3, 4, 17, 18, 19, 23, 31, 33]
    (unit,) = reader.discover(reader.config.base()).units
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    assert (info.num_points, info.all_zero, info.ignored) == ([131_072], 53_364, 68_284)


def test_a_block_of_sensaturban(tmp_path: Path) -> None:
    reader = guessed(REAL / "mmdet3d_sensaturban")
    assert reader.config.clouds.names == ("x", "y", "z", "r", "g", "b")
    assert sorted(reader.config.classes) == [0, 2, 3, 5, 7, 8, 9]
    (unit,) = reader.discover(reader.config.base()).units
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    assert info.num_points == [60_095] and info.class_counts == [1634, 3850, 775, 2919, 49287, 708, 922]


def project(points: Array, camera: Camera) -> tuple[Array, Array]:
    """(m, 2) pixels of the points in front of a camera that lie in its image, and the rows of those points."""
    seen = points @ camera.extrinsic[:3, :3].T + camera.extrinsic[:3, 3]
    pixels = seen @ camera.intrinsic.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = pixels[:, :2] / pixels[:, 2:]
    rows = np.flatnonzero((seen[:, 2] > 0.5) & (pixels >= 0).all(axis=1) & (pixels < camera.size).all(axis=1))
    return pixels[rows], rows


def brightness(image: Array, pixels: Array) -> float:
    u, v = pixels.astype(int).T
    return float(image[v, u.clip(0, image.shape[1] - 1)].mean())


def test_the_camera_of_rellis_sees_the_person() -> None:
    """With the description that the documentation gives."""
    page = (Path(__file__).parents[2] / "docs" / "own-scans.md").read_text()
    text = next(part for part in page.split("```") if "pylon_camera" in part)
    classes = {3: "grass", 4: "tree", 17: "person", 18: "fence", 19: "bush", 23: "concrete", 31: "puddle", 33: "mud"}
    table = {**tomllib.loads(text), "name": "rellis", "classes": classes, "ignored": {0: "void"}}
    reader = Folder(parse_config(table, REAL / "rellis3d" / "my.toml").text())
    (unit,) = reader.discover(reader.config.base()).units
    scan = reader.read_scan(unit, 0, reader.spec())
    (camera,) = scan.cameras
    assert camera.image.endswith("frame000104-1581624663_149.jpg") and scan.label is not None
    with Image.open(REAL / "rellis3d" / camera.image) as file:
        assert file.size == camera.size
        image = np.asarray(file.convert("L"), np.float64)
    pixels, rows = project(scan.points + scan.origin, camera)
    person = pixels[scan.label[rows] == reader.spec().classes.index("person")]
    upper = person[person[:, 1] < np.median(person[:, 1])]  # in front of the sky
    assert len(upper) > 50 and np.ptp(upper[:, 0]) < 220
    aside = [brightness(image, upper + np.array([shift, 0])) for shift in (-150, 150)]
    assert brightness(image, upper) < 0.6 * min(aside)


COUNTS = {"00": 106_169, "32": 105_895, "44": 106_417, "52": 107_017, "59": 106_860}
"""Rows of the spinning lidar of each frame, as stated where they come from."""


def test_frames_of_pandaset_describe_themselves(tmp_path: Path) -> None:
    text = guess_text(REAL / "pandaset").replace("\n[clouds]", "\n[clouds]\nkeep = { d = [0] }")
    reader = Folder(parse_config(tomllib.loads(text), tmp_path / "my.toml").text())
    assert len(reader.config.classes) == 42 and [image.name for image in reader.config.images] == ["front_camera"]
    spec = reader.spec()
    units = reader.discover(reader.config.base()).units
    assert [unit.scans[0].scan_id for unit in units] == [f"002-lidar/{name}" for name in COUNTS]
    for unit, (name, count) in zip(units, COUNTS.items(), strict=True):
        scan = reader.read_scan(unit, 0, spec)
        assert len(scan.points) == count and scan.pose is not None and scan.label is not None
        table = read_table(REAL / f"pandaset/002/lidar/{name}.pkl.gz")
        world = np.stack([table[axis] for axis in "xyz"], axis=1)[table["d"] == 0]
        assert np.abs(scan.points @ scan.pose[:3, :3].T + scan.pose[:3, 3] - world).max() < 1e-3
        assert np.abs(np.median(scan.points[:, :2], axis=0)).max() < 15  # the sensor is in the middle
        classes = read_table(REAL / f"pandaset/002/annotations/semseg/{name}.pkl.gz")["class"]
        assert (scan.label == classes[table["d"] == 0] - 1).all()
        (camera,) = scan.cameras
        pixels, rows = project(scan.points.astype(np.float64), camera)
        assert len(rows) > 10_000
        road = pixels[scan.label[rows] == spec.classes.index("Road")]
        assert len(road) > 1000 and (road[:, 1] > camera.intrinsic[1, 2]).all()  # below the horizon
        assert_projects_as_published(camera, name, world, pixels, rows)


def assert_projects_as_published(camera: Camera, name: str, world: Array, pixels: Array, rows: Array) -> None:
    """The pinhole formula of PandaSet's development kit on points in the world, with a quaternion by scipy."""
    from scipy.spatial.transform import Rotation

    folder = REAL / "pandaset" / "002" / "camera" / "front_camera"
    pose = json.loads((folder / "poses.json").read_text())[int(name)]
    turn = Rotation.from_quat([pose["heading"][axis] for axis in "xyzw"])
    seen = turn.inv().apply(world[rows] - [pose["position"][axis] for axis in "xyz"])
    known = json.loads((folder / "intrinsics.json").read_text())
    u = known["fx"] * seen[:, 0] / seen[:, 2] + known["cx"]
    v = known["fy"] * seen[:, 1] / seen[:, 2] + known["cy"]
    assert np.abs(np.stack([u, v], axis=1) - pixels).max() < 0.05
    assert camera.image == f"002/camera/front_camera/{name}.jpg"


def test_damaged_frames_of_pandaset(tmp_path: Path) -> None:
    root = tmp_path / "pandaset"
    shutil.copytree(REAL / "pandaset", root, ignore=shutil.ignore_patterns("[345]*.*", "cuboids"))
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    reader = guessed(root)
    frame, labels = root / "002/lidar/00.pkl.gz", root / "002/annotations/semseg/00.pkl.gz"
    whole = frame.read_bytes(), labels.read_bytes()
    assert reader.check(root).ok

    def problem(points: bytes, classes: bytes) -> str:
        frame.write_bytes(points)
        labels.write_bytes(classes)
        (found,) = reader.check(root).errors
        return str(found.as_error())

    assert "there is no column 'x'" in problem(whole[1], whole[1])  # labels in place of points
    assert "no column 'label'" in problem(whole[0], whole[0])
    assert "archive is truncated" in problem(whole[0][:-100_000], whole[1])
    assert "archive is damaged" in problem(whole[0][:90_000] + bytes(500) + whole[0][90_500:], whole[1])
    other = (REAL / "pandaset/002/annotations/semseg/32.pkl.gz").read_bytes()
    assert "166,768 points, the file beside it 166,355 labels" in problem(whole[0], other)
    frame.write_bytes(whole[0])
    labels.write_bytes(whole[1])
    poses = json.loads((root / "002/lidar/poses.json").read_text())
    (root / "002/lidar/poses.json").write_text(json.dumps(poses[:0]))
    (unit,) = reader.discover(root).units
    with pytest.raises(DataError, match="0 poses, too few"):
        reader.read_scan(unit, 0, reader.spec())
