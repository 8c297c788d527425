"""ScanNet's cameras: exported frames, and the .sens stream."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_frames import LOST, exported_frames, find_frames, sens_frames
from ssl3d.data.datasets.scannet_sens import read_reference, read_sens
from ssl3d.data.datasets.source import RawScan, SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.store import ShardReader

READER = ScanNet()
SCAN = "scene0707_00"
WIDTH, HEIGHT = 8, 6
INTRINSIC = np.array([[7.0, 0, 3.5, 0], [0, 7.5, 2.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
LOST_POSE = np.full((4, 4), -np.inf)


def pose(frame: int) -> np.ndarray:
    """Turned by 90 degrees about z, at (frame, 2, 3)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [frame, 2, 3]
    return matrix


def color(frame: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 40 + frame, np.uint8)


def depth(frame: int) -> np.ndarray:
    return (np.arange(WIDTH * HEIGHT) + 1000 * frame).reshape(HEIGHT, WIDTH).astype("<u2")


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_sens(path: Path, poses: list[np.ndarray], *, color_kind: int = 2, depth_kind: int = 1) -> bytes:
    content = struct.pack("<IQ", 4, 6) + b"sensor"
    content += np.stack([INTRINSIC, np.eye(4), INTRINSIC * 2, np.eye(4)]).astype("<f4").tobytes()
    content += struct.pack("<2i4IfQ", color_kind, depth_kind, WIDTH, HEIGHT, WIDTH, HEIGHT, 1000.0, len(poses))
    for frame, matrix in enumerate(poses):
        image = {0: color(frame).tobytes(), 1: encoded(color(frame), "PNG"), 2: encoded(color(frame), "JPEG")}
        raw = depth(frame).tobytes()
        packed = {0: raw, 1: zlib.compress(raw), 2: raw}[depth_kind]
        content += matrix.astype("<f4").tobytes()
        content += struct.pack("<4Q", frame, frame, len(image[color_kind]), len(packed)) + image[color_kind] + packed
    path.write_bytes(content)
    return content


def write_frames(
    folder: Path, frames: dict[str, np.ndarray], *, intrinsic: str = "intrinsic/intrinsic_color.txt"
) -> None:
    for name in ("color", "depth", "pose", Path(intrinsic).parent):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / intrinsic, INTRINSIC)
    for name, matrix in frames.items():
        (folder / "color" / f"{name}.jpg").write_bytes(encoded(color(int(name)), "JPEG"))
        (folder / "depth" / f"{name}.png").write_bytes(encoded(depth(int(name)), "PNG"))
        np.savetxt(folder / "pose" / f"{name}.txt", matrix)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A scan of the test set: a mesh of one triangle, nothing else."""
    folder = tmp_path / "scannet" / "scans_test" / SCAN
    folder.mkdir(parents=True)
    lines = ["ply", "format ascii 1.0", "element vertex 3", *(f"property float {axis}" for axis in "xyz")]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    lines += ["0 0 0 1 2 3", "1 0 0 1 2 3", "0 1 0 1 2 3", "3 0 1 2"]
    (folder / f"{SCAN}_vh_clean_2.ply").write_text("\n".join(lines) + "\n")
    (folder / f"{SCAN}.txt").write_text("colorWidth = 8\ncolorHeight = 6\n")
    (tmp_path / "scannet" / "scannetv2-labels.combined.tsv").write_text("raw_category\tnyu40id\nwall\t1\n")
    (tmp_path / "scannet" / "ssl3d_synth.json").write_text(
        f'{{"complete": true, "scans_per_sequence": {{"{SCAN}": 1}}}}'
    )
    return tmp_path / "scannet"


def read(root: Path) -> RawScan:
    (unit,) = READER.discover(root).units
    assert unit.fields.cameras and unit.products() == ("points", "edges", "cameras")
    return READER.read_scan(unit, 0, READER.spec())


def project(point: np.ndarray, scan: RawScan, camera: int) -> np.ndarray:
    found = scan.cameras[camera]
    seen = found.intrinsic @ (found.extrinsic @ [*point, 1])[:3]
    return seen[:2] / seen[2]


def test_exported_frames(root: Path) -> None:
    folder = root / "scans_test" / SCAN
    write_frames(folder, {"0": pose(0), "20": pose(20), "40": LOST_POSE, "100": pose(100)})
    (folder / "depth" / "20.png").unlink()
    (folder / "color" / "7.jpg").write_bytes(b"an image without a pose")
    scan = read(root)
    assert [camera.name for camera in scan.cameras] == ["0", "20", "100"] and scan.notes == {LOST: 1}
    first = scan.cameras[0]
    assert (first.image, first.depth) == (f"scans_test/{SCAN}/color/0.jpg", f"scans_test/{SCAN}/depth/0.png")
    assert first.size == (WIDTH, HEIGHT) and scan.cameras[1].depth == ""
    assert (root / first.image).is_file() and (root / first.depth).is_file()
    assert np.allclose(first.extrinsic @ pose(0), np.eye(4)) and np.allclose(first.intrinsic, INTRINSIC[:3, :3])
    # a point 2 m before the camera on its axis falls on the principal point
    assert np.allclose(project((pose(20) @ [0, 0, 2, 1])[:3], scan, 1), [3.5, 2.5])


def test_frames_of_the_subset_of_25k_and_smaller_images(root: Path) -> None:
    write_frames(root / "scannet_frames_25k" / SCAN, {"000100": pose(1)}, intrinsic="intrinsics_color.txt")
    (root / "scans_test" / SCAN / f"{SCAN}.txt").write_text("colorWidth = 16\ncolorHeight = 12\n")
    (camera,) = read(root).cameras
    assert camera.name == "000100" and camera.image == f"scannet_frames_25k/{SCAN}/color/000100.jpg"
    # fx w'/w and cx (w' - 1)/(w - 1)
    assert np.allclose(camera.intrinsic, [[3.5, 0, 3.5 * 7 / 15], [0, 3.75, 2.5 * 5 / 11], [0, 0, 1]])


def test_the_depth_camera_has_a_lens_of_its_own(root: Path) -> None:
    folder = root / "scans_test" / SCAN
    write_frames(folder, {"0": pose(0), "20": pose(20)})
    (folder / "depth" / "20.png").unlink()
    assert [camera.depth_intrinsic for camera in read(root).cameras] == [None, None]  # not exported
    np.savetxt(
        folder / "intrinsic" / "intrinsic_depth.txt", np.diag([5.0, 6.0, 1.0, 1.0]) + np.eye(4, k=2)[[0, 1, 3, 3]]
    )
    first, without = read(root).cameras
    assert without.depth_intrinsic is None and first.depth_intrinsic is not None
    assert first.depth_intrinsic.tolist() == [[5, 0, 1], [0, 6, 0], [0, 0, 1]]
    width, height = 2 * (WIDTH - 1) + 1, 2 * (HEIGHT - 1) + 1  # the recording's were larger
    (folder / f"{SCAN}.txt").write_text(f"depthWidth = {width}\ndepthHeight = {height}\n")
    (first, _) = read(root).cameras
    assert first.depth_intrinsic is not None and first.depth_intrinsic[0, 2] == pytest.approx(0.5)
    assert first.depth_intrinsic[0, 0] == pytest.approx(5 * WIDTH / width)
    (folder / "intrinsic" / "intrinsic_depth.txt").write_text("0 " * 16)
    with pytest.raises(DataError, match="damaged"):
        read(root)


@pytest.mark.parametrize(("color_kind", "depth_kind"), [(0, 0), (1, 1), (2, 1)])
def test_a_stream(root: Path, color_kind: int, depth_kind: int) -> None:
    poses = [pose(0), LOST_POSE, np.full((4, 4), np.nan), pose(3)]
    sens = root / "scans_test" / SCAN / f"{SCAN}.sens"
    write_sens(sens, poses, color_kind=color_kind, depth_kind=depth_kind)
    scan = read(root)
    assert [camera.name for camera in scan.cameras] == ["0", "3"] and scan.notes == {LOST: 2}
    last = scan.cameras[1]
    assert last.image == f"scans_test/{SCAN}/{SCAN}.sens#color/3" and last.size == (WIDTH, HEIGHT)
    assert np.allclose(last.extrinsic @ pose(3), np.eye(4)) and np.allclose(last.intrinsic, INTRINSIC[:3, :3])
    assert last.depth_intrinsic is not None and np.allclose(last.depth_intrinsic, 2 * INTRINSIC[:3, :3])
    assert (read_reference(root, last.depth) == depth(3)).all()
    image = read_reference(root, last.image)
    assert image.shape == (HEIGHT, WIDTH, 3) and abs(image.astype(int) - color(3)).max() <= 2


def test_exported_frames_go_before_the_stream_and_all_is_converted(root: Path, tmp_path: Path) -> None:
    folder = root / "scans_test" / SCAN
    write_sens(folder / f"{SCAN}.sens", [pose(0)] * 3)
    write_frames(folder, {"4": pose(4)})
    (unit,) = READER.discover(root).units
    out = {name: tmp_path / f"{name}.h5" for name in unit.products()}
    convert_unit(READER, unit, out, ConvertParams(sync=False))
    cameras = ShardReader(out["cameras"])
    assert cameras.array("name").tolist() == ["4"] and cameras.array("size").tolist() == [[WIDTH, HEIGHT]]
    assert np.allclose(cameras.array("extrinsic")[0] @ pose(4), np.eye(4))
    before = unit.signature()
    np.savetxt(folder / "pose" / "5.txt", pose(5))
    assert READER.discover(root).units[0].signature() != before


def test_a_moved_dataset_has_the_same_signature(root: Path, tmp_path: Path) -> None:
    write_frames(root / "scans_test" / SCAN, {"4": pose(4)})
    before = READER.discover(root).units[0].signature()
    root.rename(tmp_path / "moved")
    assert READER.discover(tmp_path / "moved").units[0].signature() == before
    assert read(tmp_path / "moved").cameras[0].image == f"scans_test/{SCAN}/color/4.jpg"


def test_damaged_streams(root: Path) -> None:
    sens = root / "scans_test" / SCAN / f"{SCAN}.sens"
    whole = write_sens(sens, [pose(0), pose(1)])
    for cut in (0, 5, 14, 200, 340, len(whole) // 2, len(whole) - 1):
        sens.write_bytes(whole[:cut])
        with pytest.raises(DataError) as caught:
            read(root)
        assert sens.name in str(caught.value) and "truncated" in str(caught.value), cut
    for place, value in ((0, 3), (4, 1 << 60), (18 + 256, 9), (18 + 256 + 28, 1 << 62)):
        sens.write_bytes(whole[:place] + struct.pack("<Q", value)[: 4 if place in (0, 274) else 8] + whole[place + 8 :])
        with pytest.raises(DataError, match=sens.name):
            read(root)


def test_damaged_images_of_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "x.sens"
    write_sens(path, [pose(0), pose(1)])
    index = read_sens(SourceFile.find(path))  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    for place in (index.color, index.depth):
        content[place[1, 0] : place[1, 0] + 20] = bytes(20)
    path.write_bytes(content)
    assert (index.read_depth(0) == depth(0)).all()
    with pytest.raises(DataError, match=r"a depth image is damaged.*frame: 1"):
        index.read_depth(1)
    with pytest.raises(DataError, match=r"a color image is damaged.*frame: 1"):
        index.read_color(1)
    path.write_bytes(content[: index.depth[1, 0] + 3])
    with pytest.raises(DataError, match="ends within an image"):
        index.read_depth(1)
    write_sens(path, [pose(0)], depth_kind=2)
    with pytest.raises(DataError, match="occi"):
        read_reference(tmp_path, "x.sens#depth/0")
    for wrong in ("x.sens#depth/1", "x.sens#depth", "y.sens#color/0", "x.sens"):
        with pytest.raises(DataError):
            read_reference(tmp_path, wrong)


def test_damaged_exports(tmp_path: Path) -> None:
    assert find_frames(tmp_path) is None
    write_frames(tmp_path, {"0": pose(0)})
    found = find_frames(tmp_path)
    assert found is not None and found.poses == 1
    (tmp_path / "pose" / "0.txt").write_text("1 2 3")
    with pytest.raises(DataError, match=r"not a matrix.*0\.txt"):
        exported_frames(found, tmp_path, {})
    np.savetxt(tmp_path / "pose" / "0.txt", np.zeros((4, 4)))
    with pytest.raises(DataError, match="no inverse"):
        exported_frames(found, tmp_path, {})
    np.savetxt(tmp_path / "pose" / "0.txt", pose(0))
    (tmp_path / "color" / "0.jpg").write_bytes(b"\xff\xd8\xff cut")
    with pytest.raises(DataError, match="an image cannot be opened"):
        exported_frames(found, tmp_path, {})
    (tmp_path / "color" / "0.jpg").unlink()
    with pytest.raises(DataError, match="no pose belongs to an image"):
        exported_frames(found, tmp_path, {})
    write_frames(tmp_path, {"0": pose(0)})
    (tmp_path / "intrinsic" / "intrinsic_color.txt").unlink()
    with pytest.raises(DataError, match="without the intrinsic matrix"):
        exported_frames(found, tmp_path, {})


def test_a_stream_without_a_single_good_pose(tmp_path: Path) -> None:
    write_sens(tmp_path / "x.sens", [LOST_POSE] * 3)
    file = SourceFile.find(tmp_path / "x.sens")
    assert file is not None
    frames = sens_frames(file, tmp_path)
    assert frames.cameras == [] and frames.lost == 3


def test_damage_to_a_stream_is_an_error_or_harmless(root: Path) -> None:
    sens = root / "scans_test" / SCAN / f"{SCAN}.sens"
    whole = write_sens(sens, [pose(0), pose(1)], color_kind=1)
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(80):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=4):
            changed[place] = int(rng.integers(256))
        sens.write_bytes(changed[: int(rng.integers(len(whole))) if rng.random() < 0.2 else None])
        try:
            for camera in read(root).cameras:
                assert read_reference(root, camera.image).shape == (HEIGHT, WIDTH, 3)
                assert read_reference(root, camera.depth).shape == (HEIGHT, WIDTH)
        except DataError as error:
            assert sens.name in str(error), error
            refused += 1
    assert refused
