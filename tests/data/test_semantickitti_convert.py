"""From small files with known values to shards, and what is wrong inside files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.datasets.source import Layout, ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.store import ShardReader

READER = SemanticKitti()
Make = Callable[..., Path]


def convert(layout: Layout, folder: Path, which: int = 0, **params: object) -> tuple[UnitInfo, dict[str, ShardReader]]:
    unit = layout.units[which]
    folder.mkdir(exist_ok=True)
    out = {name: folder / f"{unit.id}.{name}.h5" for name in unit.products()}
    info = convert_unit(READER, unit, out, ConvertParams(**params))  # type: ignore[arg-type]
    return info, {name: ShardReader(path) for name, path in out.items()}


def write_frame(root: Path, scan: np.ndarray, words: list[int], frame: int = 0) -> None:
    np.asarray(scan, "<f4").tofile(root / f"sequences/00/velodyne/{frame:06d}.bin")
    np.asarray(words, "<u4").tofile(root / f"sequences/00/labels/{frame:06d}.label")


def test_worked_words(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 1})
    scan = np.arange(24, dtype=np.float32).reshape(6, 4) / 32
    # car, moving car of instance 7, lane-marking, other-structure, moving-motorcyclist, the largest instance
    write_frame(root, scan, [10, (7 << 16) | 252, 60, 52, 255, (0xFFFF << 16) | 81])
    info, shards = convert(READER.discover(root), tmp_path / "out")
    assert shards["labels"].read("label", 0).tolist() == [0, 0, 8, IGNORE, 7, 18]
    assert shards["labels"].read("instance", 0).tolist() == [0, 7, 0, 0, 0, 0xFFFF]
    assert shards["labels"].read("moving", 0).tolist() == [False, True, False, False, True, False]
    assert (shards["points"].read("points", 0) == scan[:, :3]).all()
    assert (shards["points"].read("intensity", 0) == scan[:, 3]).all()
    assert info.class_counts[0] == 2 and sum(info.class_counts) == 5 and info.ignored == 1
    assert info.num_points == [6] and info.labelled == [True] and info.warnings == []
    _, multi = convert(READER.discover(root), tmp_path / "multi", classes="multiscan")
    assert multi["labels"].read("label", 0).tolist() == [0, 19, 8, IGNORE, 22, 18]


def test_everything_of_a_unit(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 4}, images=True, scribbles=True)
    layout = READER.discover(root, ReadOptions("scribbles"))
    info, shards = convert(layout, tmp_path / "out")
    points, labels, scribbles, cameras = (shards[name] for name in ("points", "labels", "scribbles", "cameras"))
    assert points.offsets.tolist() == [0, 50, 101, 153, 206]
    assert points.attrs["dataset"] == "semantickitti" and points.attrs["length_unit"] == "m"
    assert points.array("scan_id").tolist() == info.scan_ids == [f"00/{i:06d}" for i in range(4)]
    assert cameras.array("image").tolist() == [f"sequences/00/image_2/{i:06d}.png" for i in range(4)]
    assert cameras.offsets.tolist() == [0, 1, 2, 3, 4] and cameras.read("size", 2).tolist() == [[1242, 375]]
    assert points.array("origin").tolist() == [[0, 0, 0]] * 4 and labels.array("has_label").all()
    # Tr turns z forward into x forward and x right into -y: frame i is at x right i.5, z forward 2 i
    assert np.allclose(points.array("pose")[:, :3, 3], [[2 * i, -(i + 0.5), 0] for i in range(4)])
    digest = xxhash.xxh3_128()
    for i in range(4):
        scan = READER.read_scan(layout.units[0], i, READER.spec())
        assert scan.pose is not None and (scan.pose == points.read("pose", i)).all()
        assert (points.read("points", i) == scan.points).all()
        assert (labels.read("label", i) == scan.label).all() and (
            labels.read("instance", i) == scan.truths["instance"]
        ).all()
        assert (labels.read("moving", i) == scan.truths["moving"]).all() and (
            scribbles.read("label", i) == scan.scribble
        ).all()
        for folder, suffix in (("velodyne", "bin"), ("labels", "label"), ("scribbles", "label")):
            digest.update((root / f"sequences/00/{folder}/{i:06d}.{suffix}").read_bytes())
    assert info.digest == points.attrs["source_digest"] == digest.hexdigest()
    counts = np.bincount(scribbles.array("label"), minlength=256)
    assert info.scribble_counts == counts[:19].tolist() and 0 < sum(info.scribble_counts) < 60
    assert UnitInfo(**asdict(info)) == info


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_shards_hold_what_the_files_hold(make_kitti: Make, tmp_path: Path, sizes: list[int], seed: int) -> None:
    name = f"k{abs(hash((tuple(sizes), seed)))}"
    root = make_kitti({"00": len(sizes)}, name=name)
    rng = np.random.default_rng(seed)
    spec = READER.spec()
    scans, words = [], []
    for frame, n in enumerate(sizes):
        scans.append(rng.normal(size=(n, 4)).astype("<f4"))
        words.append(
            rng.choice(list(spec.learning_map), n).astype("<u4") | (rng.integers(0, 99, n).astype("<u4") << 16)
        )
        write_frame(root, scans[-1], words[-1], frame)
    _, shards = convert(READER.discover(root), tmp_path / f"{name}-out")
    table, _ = spec.lut()
    for i in range(len(sizes)):
        assert (shards["points"].read("points", i) == scans[i][:, :3]).all()
        assert (shards["points"].read("intensity", i) == scans[i][:, 3]).all()
        assert (shards["labels"].read("label", i) == table[words[i] & 0xFFFF]).all()
        assert (shards["labels"].read("instance", i) == words[i] >> 16).all()


def test_points_that_are_no_measurement_stay_in_place(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2})
    scan = np.ones((6, 4), np.float32) / 2
    scan[1, 0], scan[2, 3], scan[3, :3], scan[4, 2] = np.nan, np.inf, 0, -np.inf
    write_frame(root, scan, [40] * 6)
    info, shards = convert(READER.discover(root), tmp_path / "out")
    points = shards["points"].read("points", 0)
    assert np.isfinite(points).all() and points.tolist() == [[0.5] * 3] + [[0] * 3] * 4 + [[0.5] * 3]
    assert shards["points"].read("intensity", 0).tolist() == [0.5, 0, 0, 0.5, 0, 0.5]
    assert shards["labels"].read("label", 0).tolist() == [8, *[IGNORE] * 4, 8]
    assert (info.not_finite, info.all_zero) == (3, 1) and info.num_points[0] == 6
    (warning,) = info.warnings
    assert "3 NaN or infinite and 1 at (0, 0, 0), in 1 of 2 scans (first 00/000000: 4 of 6)" in warning


def test_large_finite_values_are_not_mistaken(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 1})
    scan = np.full((3, 4), 1e30, np.float32)
    write_frame(root, scan, [40] * 3)
    info, shards = convert(READER.discover(root), tmp_path / "out")
    assert info.not_finite == 0 and (shards["points"].read("points", 0) == scan[:, :3]).all()
    assert info.warnings[0].startswith("00-000000: 3 points with a remission outside of 0..1")


def test_pixels_are_those_of_the_published_projection(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2}, images=True)
    tr = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1]])
    p2 = np.array([[700, 0, 600, 45], [0, 700, 180, -3], [0, 0, 1, 0.005]])
    text = "\n".join(f"{name}: {' '.join(map(str, m[:3].ravel()))}" for name, m in (("P2", p2), ("Tr", tr)))
    (root / "sequences/00/calib.txt").write_text(text)
    (root / "sequences/00/image_2/000001.png").unlink()
    _, shards = convert(READER.discover(root), tmp_path / "out")
    cameras = shards["cameras"]
    assert cameras.offsets.tolist() == [0, 1, 1] and cameras.array("name").tolist() == ["image_2"]
    point = np.array([12.0, 3.0, -1.5, 1.0])
    published = p2 @ tr @ point
    ours = cameras.read("intrinsic", 0)[0] @ (cameras.read("extrinsic", 0)[0] @ point)[:3]
    np.testing.assert_allclose(ours, published, rtol=1e-12)
    # by hand: camera (-3 + 0.1, 1.5 - 0.2, 12 - 0.3); u = (700 x + 600 z + 45) / (z + 0.005)
    np.testing.assert_allclose(published[0] / published[2], (700 * -2.9 + 600 * 11.7 + 45) / 11.705)


def test_images_that_are_none_are_counted(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 3}, images=True)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + (370).to_bytes(2, "big") + (1226).to_bytes(2, "big")
    (root / "sequences/00/image_2/000000.png").write_bytes(b"")
    (root / "sequences/00/image_2/000001.png").unlink()
    (root / "sequences/00/image_2/000001.jpg").write_bytes(jpeg)
    info, shards = convert(READER.discover(root), tmp_path / "out")
    assert info.warnings == ["00-000000: 1 images left out that are neither PNG nor JPEG"]
    assert shards["cameras"].array("size").tolist() == [[1226, 370], [1242, 375]]


def test_an_empty_scan(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2})
    write_frame(root, np.zeros((0, 4)), [], 0)
    info, shards = convert(READER.discover(root), tmp_path / "out")
    assert info.num_points == [0, 51]
    assert shards["points"].read("points", 0).shape == (0, 3) and shards["labels"].read("label", 0).shape == (0,)
    write_frame(root, np.zeros((0, 4)), [], 1)
    info, shards = convert(READER.discover(root), tmp_path / "out2")
    assert info.num_points == [0, 0] and shards["points"].array("points").shape == (0, 3)


def test_unknown_ids_are_listed_with_their_counts(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 1})
    write_frame(root, np.ones((5, 4)), [40, 300, 300, 65535, 10])
    with pytest.raises(DataError, match=r"ids: 300 \(2 points\), 65535 \(1 points\)") as caught:
        convert(READER.discover(root), tmp_path / "out")
    assert "000000.label" in str(caught.value) and "another dataset" in str(caught.value.hint)
    assert not list((tmp_path / "out").iterdir())


def test_labels_that_were_remapped_in_place_are_recognized(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 1})
    write_frame(root, np.ones((5, 4)), [0, 1, 9, 15, 19])
    with pytest.raises(DataError, match="remapped the files in place") as caught:
        convert(READER.discover(root), tmp_path / "out")
    assert "9 (1 points), 19 (1 points)" in str(caught.value)


def test_a_unit_with_some_labels(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2})
    (root / "sequences/00/labels/000000.label").unlink()
    info, shards = convert(READER.discover(root, ReadOptions(allow_partial=True)), tmp_path / "out")
    assert info.labelled == [False, True] and shards["labels"].array("has_label").tolist() == [False, True]
    assert (shards["labels"].read("label", 0) == IGNORE).all() and not (
        shards["labels"].read("label", 1) == IGNORE
    ).all()


def test_test_sequences_have_no_label_file(make_kitti: Make, tmp_path: Path) -> None:
    layout = READER.discover(make_kitti({"00": 1, "11": 2}))
    info, shards = convert(layout, tmp_path / "out", which=1)
    assert shards.keys() == {"points"} and info.subset == "test" and sum(info.class_counts) == info.ignored == 0


def test_without_poses_there_is_no_pose(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 1})
    (root / "sequences/00/poses.txt").unlink()
    info, shards = convert(READER.discover(root), tmp_path / "out")
    assert not info.has_pose and "pose" not in shards["points"]


def test_a_damaged_pose_names_its_line(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 3})
    poses = root / "sequences/00/poses.txt"
    lines = poses.read_text().splitlines()
    poses.write_text("\n".join([lines[0], "1 2 3", lines[2]]))
    with pytest.raises(DataError, match="line: 2"):
        convert(READER.discover(root), tmp_path / "out")


def test_a_file_that_changes_meanwhile(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2})
    layout = READER.discover(root)
    scan = root / "sequences/00/velodyne/000001.bin"
    os.truncate(scan, 32)
    with pytest.raises(DataError, match="816 bytes when found, 32 now"):
        convert(layout, tmp_path / "out")
    scan.unlink()
    with pytest.raises(DataError, match="No such file"):
        convert(layout, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_dataset_folder_is_not_touched(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti({"00": 2}, images=True)
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    convert(READER.discover(root), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before


@pytest.mark.parametrize("compress", ["lzf", "gzip"])
def test_compressed_shards_hold_the_same(make_kitti: Make, tmp_path: Path, compress: str) -> None:
    layout = READER.discover(make_kitti({"00": 3}, points=40_000))
    plain, packed = convert(layout, tmp_path / "a"), convert(layout, tmp_path / "b", compress=compress)
    assert plain[0] == packed[0]
    for product, reader in plain[1].items():
        for name in reader.names:
            for i in range(3):
                assert np.array_equal(reader.read(name, i), packed[1][product].read(name, i))
    assert packed[1]["labels"].path.stat().st_size < plain[1]["labels"].path.stat().st_size
