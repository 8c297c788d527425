"""One scan with its images: the chains of nuScenes and ScanNet as their readers give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.datasets.nuscenes_scan import Details, Seen, cameras
from ssl3d.data.datasets.scannet_frames import exported_frames, find_frames
from ssl3d.data.datasets.source import Camera
from ssl3d.data.errors import DataError
from ssl3d.data.images import ImageFiles, chosen_frames
from ssl3d.data.pairs import Rule, depth_lens, pair_scan

ORIGIN = np.zeros(3)
HALF = np.sqrt(0.5)


def blank(root: Path, name: str, size: tuple[int, int]) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / name)
    return name


def test_nuscenes_with_two_positions_of_the_car(tmp_path: Path) -> None:
    """T5 of the specification: the car is half a meter further when the image is taken."""
    lens = (1266.0, 0, 816, 0, 1266, 491, 0, 0, 1)
    image = blank(tmp_path, "samples/CAM_FRONT/a.jpg", (1600, 900))
    seen = Seen("CAM_FRONT", image, (1600, 900), lens, (1.7, 0, 1.5, 0.5, -0.5, 0.5, -0.5), (100.5, 200, 0, 1, 0, 0, 0))
    (camera,) = cameras(Details((0.9, 0, 1.8, HALF, 0, 0, -HALF), (100, 200, 0, 1, 0, 0, 0), (seen,)))
    points = np.array([(0, 20, -1), (-3, 20, 0.5), (0, -20, 0)], np.float32)
    inside = camera.extrinsic[:3, :3] @ points.T.astype(np.float64) + camera.extrinsic[:3, 3:]
    assert np.allclose(inside.T, [(0, 0.7, 18.7), (-3, -0.8, 18.7), (0, -0.3, -21.3)])
    pixel = camera.intrinsic @ inside
    assert np.allclose((pixel[:2] / pixel[2]).T, [(816.0, 538.3904), (612.8984, 436.8396), (816, 508.831)], atol=1e-3)
    pairs = pair_scan(points, ORIGIN, [camera], ImageFiles(tmp_path), Rule())
    assert pairs.point.tolist() == [0, 1] and pairs.uv.tolist() == [[816, 538], [613, 437]]
    assert pairs.paired == 2 and pairs.per_image.tolist() == [2]


def scannet(
    folder: Path, measured: dict[tuple[int, int], int], lens: str = "577.87 0 319.5 0 577.87 239.5"
) -> list[Camera]:
    """A frame with the pose of the specification, as the exporter writes it."""
    pose = "0 0 1 1\n-1 0 0 2\n0 -1 0 1.5\n0 0 0 1\n"
    fx, _, cx, _, fy, cy = lens.split()
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for kind in ("color", "depth"):
        (folder / "intrinsic" / f"intrinsic_{kind}.txt").write_text(f"{fx} 0 {cx} 0\n0 {fy} {cy} 0\n0 0 1 0\n0 0 0 1\n")
    Image.new("RGB", (640, 480)).save(folder / "color" / "0.jpg")
    depth = np.zeros((480, 640), np.uint16)
    for (u, v), value in measured.items():
        depth[v, u] = value
    Image.fromarray(depth).save(folder / "depth" / "0.png")
    (folder / "pose" / "0.txt").write_text(pose)
    found = find_frames(folder)
    assert found is not None
    return exported_frames(found, folder, {}).cameras


@pytest.mark.parametrize(("depth", "visible"), [(2970, True), (2500, False), (0, False), (3050, True), (3051, False)])
def test_scannet_and_its_depth_maps(tmp_path: Path, depth: int, visible: bool) -> None:
    """T6 of the specification."""
    (camera,) = scannet(tmp_path, {(262, 297): depth})
    point = np.array([(4, 2.3, 1.2)], np.float32)
    seen = camera.extrinsic @ [4, 2.3, 1.2, 1]
    assert seen[:3] == pytest.approx([-0.3, 0.3, 3.0])
    pixel = camera.intrinsic @ seen[:3]
    assert pixel[:2] / pixel[2] == pytest.approx([261.713, 297.287])
    files = ImageFiles(tmp_path)
    assert pair_scan(point, ORIGIN, [camera], files, Rule(min_depth=0.1)).uv.tolist() == [[262, 297]]
    assert len(pair_scan(point, ORIGIN, [camera], files, Rule("depth", 0.1))) == visible


def test_world_coordinates_of_a_scan(tmp_path: Path) -> None:
    """Prepared points are relative to an origin, cameras are not."""
    image = blank(tmp_path, "a.png", (100, 100))
    origin = np.array([650_000.0, 6_860_000.0, 100.0])
    extrinsic = np.eye(4)
    extrinsic[:3, 3] = -origin
    camera = Camera("a", image, (100, 100), np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]), extrinsic)
    points = np.array([(0.25, -0.1, 2.0)], np.float32)
    pairs = pair_scan(points, origin, [camera], ImageFiles(tmp_path), Rule())
    assert pairs.uv.tolist() == [[63, 45]] and pairs.depth.tolist() == [2.0]


def views(root: Path) -> list[Camera]:
    lens = np.array([[50.0, 0, 50], [0, 50, 50], [0, 0, 1]])
    return [
        Camera("a", blank(root, "a.png", (101, 101)), (101, 101), lens, np.eye(4)),
        Camera("b", blank(root, "b.png", (101, 101)), (101, 101), lens, np.eye(4)),
    ]


def test_two_images_of_a_point_and_rows_that_are_none(tmp_path: Path) -> None:
    points = np.array([(0, 0, 0), (0, 0, 3), (np.nan, 0, 3), (1, 0, 3)], np.float32)
    shifted = np.eye(4)
    shifted[2, 3] = 5.0  # (0, 0, 0) would be seen
    first, second = views(tmp_path)
    pairs = pair_scan(points, ORIGIN, [first, _at(second, shifted)], ImageFiles(tmp_path), Rule())
    assert pairs.point.tolist() == [1, 1, 3, 3] and pairs.image.tolist() == [0, 1, 0, 1]
    assert pairs.depth.tolist() == [3, 8, 3, 8] and pairs.paired == 2 and pairs.image.dtype == np.int16


def _at(camera: Camera, extrinsic: np.ndarray) -> Camera:
    return Camera(camera.name, camera.image, camera.size, camera.intrinsic, extrinsic, camera.depth)


def test_lost_cameras_and_frames_without_depth_are_told(tmp_path: Path) -> None:
    points = np.array([(0, 0, 3)], np.float32)
    first, second = views(tmp_path)
    lost = _at(second, np.full((4, 4), -np.inf))
    pairs = pair_scan(points, ORIGIN, [first, lost], ImageFiles(tmp_path), Rule())
    assert pairs.image.tolist() == [0] and pairs.lost == ("b.png",) and pairs.per_image.tolist() == [1, 0]
    pairs = pair_scan(points, ORIGIN, [first, second], ImageFiles(tmp_path), Rule("depth", 0.1))
    assert len(pairs) == 0 and pairs.untested == ("a.png", "b.png")


def test_no_points_and_no_images(tmp_path: Path) -> None:
    nothing = np.zeros((0, 3), np.float32)
    for scan, images in ((nothing, views(tmp_path)), (nothing, []), (np.ones((3, 3), np.float32), [])):
        pairs = pair_scan(scan, ORIGIN, images, ImageFiles(tmp_path), Rule())
        assert len(pairs) == pairs.paired == 0 and pairs.uv.shape == (0, 2) and len(pairs.per_image) == len(images)


def test_a_depth_map_without_a_lens_of_its_own_has_the_color_cameras_in_its_size(tmp_path: Path) -> None:
    first, _ = views(tmp_path)
    assert depth_lens(first, (51, 51)).tolist() == [[50 * 51 / 101, 0, 25], [0, 50 * 51 / 101, 25], [0, 0, 1]]


# ------------------------------------------------------------------------------------------------------------- files


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    files = ImageFiles(tmp_path)
    with pytest.raises(DataError, match="missing") as caught:
        files.size("a/b.png")
    assert caught.value.where["file"] == str(tmp_path / "a/b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    for read in (files.size, files.color, files.depth):
        with pytest.raises(DataError, match="cannot be read"):
            read("c.png")
    blank(tmp_path, "d.png", (4, 3))
    assert files.size("d.png") == (4, 3) and files.color("d.png").shape == (3, 4, 3)
    with pytest.raises(DataError, match="16-bit"):
        files.depth("d.png")
    content = (tmp_path / "d.png").read_bytes()
    (tmp_path / "d.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        files.color("d.png")
    blank(tmp_path, "e.bmp", (5, 2))  # of a kind whose head only Pillow knows
    assert files.size("e.bmp") == (5, 2)


def test_frames_of_streams_are_thinned_and_exported_images_are_not() -> None:
    stream = [f"scans/s/s.sens#color/{frame}" for frame in (0, 50, 100, 101, 200)]
    assert chosen_frames(stream) == [0, 2, 4] and chosen_frames(stream, 50) == [0, 1, 2, 4]
    assert chosen_frames(["s/color/1.jpg", "s/color/2.jpg"]) == [0, 1]


def test_a_stream_gives_what_the_exported_files_give(tmp_path: Path) -> None:
    from ssl3d.data.synthetic.rooms.generate import generate_rooms

    generate_rooms(tmp_path / "rooms", "tiny", 0, layout="scannet", jobs=1)
    files, scan = ImageFiles(tmp_path / "rooms"), "scans/scene0000_00"
    for frame in range(2):
        for kind, suffix in (("color", "jpg"), ("depth", "png")):
            read: Any = getattr(files, kind)
            exported, streamed = (
                read(f"{scan}/{kind}/{frame:06d}.{suffix}"),
                read(f"{scan}/scene0000_00.sens#{kind}/{frame}"),
            )
            if kind == "depth":
                assert exported.per_meter == streamed.per_meter == 1000
                exported, streamed = exported.values, streamed.values
            assert (exported == streamed).all()
    assert files.size(f"{scan}/scene0000_00.sens#color/0") == files.size(f"{scan}/color/000000.jpg")
    with pytest.raises(DataError, match="frames"):
        files.color(f"{scan}/scene0000_00.sens#color/99")
    with pytest.raises(DataError, match="missing"):
        files.color(f"{scan}/other.sens#color/0")
