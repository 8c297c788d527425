"""Recordings of others: their facts are stated where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.formats import Options, inspect, read_blocks, read_cloud, read_table
from ssl3d.data.formats.raw import guess_width

pytestmark = pytest.mark.real
KITTI = Options(names=("x", "y", "z", "remission"))


def test_bins_of_five_sensors(real_data: Path) -> None:
    nuscenes = next((real_data / "nuscenes_unlabelled" / "samples" / "LIDAR_TOP").glob("*.bin"))
    urban = real_data / "mmdet3d_sensaturban" / "train" / "points" / "birmingham_block_0_0002.bin"
    rellis = real_data / "rellis3d" / "utils" / "example" / "000104.bin"
    kitti = real_data / "semantickitti" / "dataset" / "sequences" / "00" / "velodyne" / "000000.bin"
    assert [guess_width(path) for path in (kitti, rellis, nuscenes, urban)] == [4, 4, 5, 6]
    ringed = read_cloud(nuscenes, Options(names=("x", "y", "z", "intensity", "ring")), columns=["ring"])
    assert len(ringed.points) == 34_688 and set(np.unique(ringed.columns["ring"])) == set(range(32))
    colored = read_cloud(urban, Options(names=("x", "y", "z", "red", "green", "blue")))
    assert len(colored.points) == 60_095 and 0 <= colored.columns["red"].min() <= colored.columns["red"].max() <= 1
    cloud = read_cloud(rellis, KITTI)
    assert (cloud.points == 0).all(axis=1).sum() == 53_364
    labels = read_table(rellis.with_suffix(".label"), Options(names=("label",), dtype="<u4"))
    assert len(labels["label"]) == len(cloud.points) == 131_072


def test_the_scannet_scene(real_data: Path) -> None:
    folder = real_data / "scannet" / "scans" / "scene0000_00"
    cloud = read_cloud(folder / "scene0000_00_vh_clean_2.labels.ply")
    assert cloud.points.shape == (81_369, 3) and cloud.mesh.faces is not None
    assert cloud.mesh.faces.shape == (153_587, 3)
    counts = np.bincount(cloud.columns["label"].astype(np.int64), minlength=41)
    assert [counts[0], counts[1], counts[40]] == [4357, 13_899, 7330]
    plain = read_cloud(folder / "scene0000_00_vh_clean_2.ply")
    np.testing.assert_array_equal(plain.points, cloud.points)


def test_arrays_of_others(real_data: Path) -> None:
    folder = real_data / "mmdet3d_scannet" / "scannet_train_instance_data"
    cloud = read_cloud(folder / "scene0000_01_vert_all.npy")
    assert cloud.points.shape == (80_583, 3) and cloud.columns["column4"].max() <= 255
    table = read_table(folder / "scene0000_01_sem_label_all.npy", Options(names=("label",)))
    assert np.bincount(table["label"])[3] == 13_457
    image = next((real_data / "pclsegmentation").rglob("*.npy"))
    options = Options(names=("x", "y", "z", "intensity", "range", "label"))
    assert len(read_cloud(image, options).points) == np.prod(np.load(image).shape[:2])
    graph = real_data / "s3dis_spt_demo" / "demo_nag_v3.h5"
    room = read_cloud(graph, Options(dataset="level_0/pos"), columns=["rgb", "elevation"])
    assert room.points.shape == (41_568, 3) and room.columns["rgb"].shape == (41_568, 3)
    assert room.columns["rgb"].dtype == np.uint8 and room.columns["elevation"].shape == (41_568,)


def test_a_text_file_of_numbers(real_data: Path) -> None:
    path = real_data / "semantickitti" / "dataset" / "sequences" / "00" / "poses.txt"
    table = read_table(path)
    expected = np.loadtxt(path, max_rows=50)
    assert len(table["x"]) == 4541
    np.testing.assert_array_equal(np.stack(list(table.values()), axis=1)[:50], expected)


@pytest.mark.parametrize(
    ("name", "points", "ground", "point_format"),
    [
        ("ign/test_semis_2021_0382_6565_LA93_IGN69.laz", 256_289, 133_605, 6),
        ("ign/test_data_77050_627755_LA93_IGN69.laz", 73_355, 13_881, 8),
        ("ign/St_Barth_RGAF09_UTM20N_IGN_1988_SB_subset_100m.laz", 249_120, 30_825, 1),
        ("ahn/AHN3.laz", 260_807, 48_804, 3),
    ],
)
def test_airborne_tiles(real_data: Path, name: str, points: int, ground: int, point_format: int) -> None:
    pytest.importorskip("laspy", reason="the extra las is not installed")
    path = real_data / "airborne" / name
    source = inspect(path)
    assert source.count == points and source.header["point_format"] == point_format
    parts = list(read_blocks(path, columns=["classification"], rows=100_000))
    assert sum(int((part.columns["classification"] == 2).sum()) for part in parts) == ground
    xyz = np.concatenate([part.points for part in parts])
    np.testing.assert_allclose(xyz.min(axis=0), source.header["mins"], atol=0.01)  # type: ignore[arg-type]
    np.testing.assert_allclose(xyz.max(axis=0), source.header["maxs"], atol=0.01)  # type: ignore[arg-type]
