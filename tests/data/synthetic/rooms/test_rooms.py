"""Generated rooms in both layouts: what the files hold, and that they do not depend on how they came to be."""

from __future__ import annotations

import csv
import json
import re
import shutil
import struct
import zlib
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.synthetic.rooms.furnish import KINDS, make_room
from ssl3d.data.synthetic.rooms.generate import GENERATOR_VERSION, generate_rooms, planned_rooms
from ssl3d.data.synthetic.rooms.presets import PRESETS, s3dis_places, scannet_places
from ssl3d.data.synthetic.rooms.s3dis import write_room
from ssl3d.data.synthetic.rooms.scannet import write_scene

SCANNET_SHA256 = "49f6cb79884c19f5ef27ed2af938c5f05ee3e6d9edbbb894be6d7674174b0a3e"
S3DIS_SHA256 = "c1ee3e0f5e5c7c2eff62891aab72fe21de4fbb872badcafebf81733b3b181600"
BENCH_SHA256 = "8ef300bc02309f074c062bf700f13b42dbd4cd5cf937f5c6466ebe589f510c0e"
LISTS = Path(__file__).parents[4] / "data" / "datasets" / "lists"
VERTEX = [("xyz", "<f4", 3), ("rgba", "u1", 4)]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_ply(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    head, _, body = path.read_bytes().partition(b"end_header\n")
    vertices, faces = (int(n) for n in re.findall(rb"element \w+ (\d+)", head))
    dtype = np.dtype(VERTEX + ([("label", "<u2")] if b"property ushort label" in head else []))
    corners = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])
    assert len(body) == vertices * dtype.itemsize + faces * corners.itemsize
    rest = np.frombuffer(body, corners, faces, vertices * dtype.itemsize)
    assert np.all(rest["count"] == 3)
    return head.decode(), np.frombuffer(body, dtype, vertices), rest["vertices"]


def matrix(path: Path) -> np.ndarray:
    return np.loadtxt(path).reshape(4, 4)


def manifest(root: Path) -> dict:
    return json.loads((root / "ssl3d_synth.json").read_text())


def scans(root: Path) -> list[Path]:
    return sorted((root / "scans").iterdir())


# ---------------------------------------------------------------- rooms


def test_rooms_differ_and_are_furnished() -> None:
    for kind in KINDS:
        rooms = [make_room(100 + k, kind) for k in range(8)]
        names = Counter(name for room in rooms for name in room.names[1:])
        assert names["wall"] >= 32 and names["floor"] == names["ceiling"] == 8 and names["door"] >= 8
        assert len({(room.width, len(room.names)) for room in rooms}) > 4
        assert len(names) > 10
    again = make_room(100, "office")
    assert make_room(100, "office").names == again.names


def test_things_stand_inside_the_room() -> None:
    for k in range(30):
        room = make_room(k, KINDS[k % len(KINDS)])
        bounds = room.primitives.arrays().bounds
        assert np.all(bounds[:, :2] > -0.5) and np.all(bounds[:, 3] < room.width + 0.5)
        assert np.all(bounds[:, 4] < room.depth + 0.5) and np.all(bounds[:, 5] < room.height + 0.21)


# ---------------------------------------------------------------- ScanNet


def test_files_of_scannet(scannet_root: Path) -> None:
    assert manifest(scannet_root)["complete"] is True
    for path in scans(scannet_root) + list((scannet_root / "scans_test").iterdir()):
        name = path.name
        listed = {p.name for p in path.iterdir()}
        assert {f"{name}_vh_clean_2.ply", f"{name}.txt", f"{name}.sens", "color", "depth", "pose"} <= listed
        of_labels = {
            f"{name}_vh_clean_2.labels.ply",
            f"{name}_vh_clean_2.0.010000.segs.json",
            f"{name}.aggregation.json",
        }
        assert (of_labels <= listed) == (path.parent.name == "scans")
        assert not of_labels & listed or path.parent.name == "scans"
        head, vertices, faces = read_ply(path / f"{name}_vh_clean_2.ply")
        assert "format binary_little_endian 1.0" in head and "property list uchar int vertex_indices" in head
        assert faces.min() == 0 and faces.max() == len(vertices) - 1
        assert np.all(vertices["rgba"][:, 3] == 255) and vertices["rgba"][:, :3].std() > 20
        info = dict(line.split(" = ") for line in (path / f"{name}.txt").read_text().splitlines())
        assert ("axisAlignment" in info) == (path.parent.name == "scans")


def test_labels_segments_and_objects_of_scannet_agree(scannet_root: Path) -> None:
    rows = list(csv.DictReader((scannet_root / "scannetv2-labels.combined.tsv").open(), delimiter="\t"))
    assert len(rows[0]) == 17
    nyu40 = {row["raw_category"]: int(row["nyu40id"]) for row in rows}
    for path in scans(scannet_root):
        name = path.name
        _, vertices, _ = read_ply(path / f"{name}_vh_clean_2.ply")
        _, labelled, _ = read_ply(path / f"{name}_vh_clean_2.labels.ply")
        assert np.array_equal(vertices["xyz"], labelled["xyz"])
        segments = json.loads((path / f"{name}_vh_clean_2.0.010000.segs.json").read_text())
        groups = json.loads((path / f"{name}.aggregation.json").read_text())
        ids = np.array(segments["segIndices"])
        assert segments["sceneId"] == name and len(ids) == len(vertices)
        assert groups["segmentsFile"] == f"scannet.{name}_vh_clean_2.0.010000.segs.json"
        label = np.zeros(len(ids), int)
        for k, group in enumerate(groups["segGroups"]):
            assert group["id"] == group["objectId"] == k and set(group["segments"]) <= set(ids.tolist())
            inside = np.isin(ids, group["segments"])
            assert not label[inside].any()  # no segment in two objects
            label[inside] = nyu40[group["label"]]
        assert np.array_equal(label, labelled["label"])
        assert 0 < (label == 0).mean() < 0.1 or (label > 0).all()
        assert len(groups["segGroups"]) > 10 and np.unique(ids).size > 2 * len(groups["segGroups"])


def test_the_alignment_turns_walls_parallel_to_the_axes(scannet_root: Path) -> None:
    for path in scans(scannet_root):
        _, vertices, _ = read_ply(path / f"{path.name}_vh_clean_2.labels.ply")
        info = dict(line.split(" = ") for line in (path / f"{path.name}.txt").read_text().splitlines())
        turn = np.array(info["axisAlignment"].split(), float).reshape(4, 4)
        np.testing.assert_allclose(turn[:3, :3] @ turn[:3, :3].T, np.eye(3), atol=1e-5)
        points = vertices["xyz"] @ turn[:3, :3].T + turn[:3, 3]
        floor, walls = points[vertices["label"] == 2], points[vertices["label"] == 1]
        assert np.abs(np.median(floor[:, 2])) < 0.02
        reach = points[:, :2].max(axis=0)
        border = np.abs(np.abs(walls[:, :2]) - reach).min(axis=1)
        assert np.mean(border < 0.2) > 0.5 and np.abs(points.max(axis=0) + points.min(axis=0))[:2].max() < 0.5


def test_depth_maps_see_the_mesh_and_the_stream_holds_the_same_frames(scannet_root: Path) -> None:
    near = []
    for path in scans(scannet_root)[:3]:
        _, vertices, _ = read_ply(path / f"{path.name}_vh_clean_2.ply")
        lens, poses = matrix(path / "intrinsic" / "intrinsic_depth.txt"), []
        for k, file in enumerate(sorted((path / "pose").iterdir())):
            pose = matrix(file)
            poses.append(pose)
            with Image.open(path / "depth" / f"{k:06d}.png") as image:
                depth = np.asarray(image).astype(float) / 1000.0
            if not np.isfinite(pose).all():
                continue
            v, u = np.nonzero(depth)
            z = depth[v, u]
            assert len(z) > 0.3 * depth.size and z.min() > 0.38 and z.max() < 6.6
            rays = np.stack(((u - lens[0, 2]) / lens[0, 0] * z, (v - lens[1, 2]) / lens[1, 1] * z, z), axis=1)
            seen = (rays @ pose[:3, :3].T + pose[:3, 3])[:: max(1, len(z) // 150)]
            gaps = np.linalg.norm(seen[:, None] - vertices["xyz"][None], axis=2).min(axis=1)
            near.append(np.median(gaps))
        check_stream(path, poses)
    assert max(near) < 0.06


def check_stream(path: Path, poses: list[np.ndarray]) -> None:
    content = (path / f"{path.name}.sens").read_bytes()
    version, letters = struct.unpack_from("<IQ", content)
    at = 12 + letters + 4 * 64
    kinds = struct.unpack_from("<iiIIIIfQ", content, at)
    assert (version, kinds[0], kinds[1], kinds[6], kinds[7]) == (4, 2, 1, 1000.0, len(poses))
    at += struct.calcsize("<iiIIIIfQ")
    for k, pose in enumerate(poses):
        np.testing.assert_allclose(np.frombuffer(content, "<f4", 16, at).reshape(4, 4), pose, atol=1e-5)
        color, depth = struct.unpack_from("<16xQQ", content, at + 64)
        at += 96
        assert content[at : at + color] == (path / "color" / f"{k:06d}.jpg").read_bytes()
        with Image.open(path / "depth" / f"{k:06d}.png") as image:
            assert (
                zlib.decompress(content[at + color : at + color + depth]) == np.asarray(image).astype("<u2").tobytes()
            )
        at += color + depth
    assert at == len(content)


def test_captions_are_about_the_images(scannet_root: Path) -> None:
    folder = scannet_root / "captions"
    assert {path.name for path in folder.iterdir()} == {"image.jsonl", "entity.jsonl", "manifest.toml"}
    for file, key in (("image.jsonl", "text"), ("entity.jsonl", "phrase")):
        records = [json.loads(line) for line in (folder / file).read_text().splitlines()]
        order = [(record["image_id"], record["index"]) for record in records]
        assert order == sorted(order) and len(set(order)) == len(order) > 20
        for record in records:
            with Image.open(scannet_root / "scans" / f"{record['image_id']}.jpg") as image:
                assert image.size == (record["width"], record["height"])
            assert record[key].strip() and record["schema"].startswith("ssl3d.")
            if "mask" in record:
                assert record["mask"]["size"] == [record["height"], record["width"]]
                assert sum(record["mask"]["counts"]) == record["width"] * record["height"]


# ---------------------------------------------------------------- S3DIS


def test_rooms_of_s3dis(s3dis_root: Path) -> None:
    published = set((LISTS / "s3dis_rooms.txt").read_text().split())
    for place in s3dis_places(PRESETS["tiny"]):
        assert place.name in published
        folder = s3dis_root / place.name
        lines = Counter((folder / f"{folder.name}.txt").read_text().splitlines())
        parts = Counter(line for path in (folder / "Annotations").iterdir() for line in path.read_text().splitlines())
        assert lines == parts and sum(lines.values()) > 3000
        rows = np.array([line.split() for line in lines], float)
        assert rows.shape[1] == 6 and np.all((rows[:, 3:] >= 0) & (rows[:, 3:] <= 255)) and rows[:, 3:].std() > 20
        assert all(re.fullmatch(r"(-?\d+\.\d{3} ){3}\d+ \d+ \d+", line) for line in list(lines)[:50])
        for path in (folder / "Annotations").iterdir():
            assert re.fullmatch(r"[a-z]+_\d+\.txt", path.name)


@pytest.mark.parametrize("layout", ["scannet", "s3dis"])
def test_classes_occur_with_a_long_tail(layout: str, scannet_root: Path, s3dis_root: Path) -> None:
    root = scannet_root if layout == "scannet" else s3dis_root
    total: Counter[str] = Counter()
    for counts in manifest(root)["points_per_class"].values():
        total.update(counts)
    total.pop("ignored", None)
    shares = sorted((count / sum(total.values()) for count in total.values()), reverse=True)
    assert sum(share > 0.001 for share in shares) >= 13, total
    assert shares[0] > 0.2 and shares[12] < 0.05


# ---------------------------------------------------------------- generating


@pytest.mark.parametrize(("layout", "jobs"), [("scannet", 2), ("s3dis", 1)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    layout: str, jobs: int, scannet_root: Path, s3dis_root: Path, tmp_path: Path
) -> None:
    root, out = {"scannet": scannet_root, "s3dis": s3dis_root}[layout], tmp_path / "rooms"
    shutil.copytree(root, out)
    (out / "ssl3d_synth.json").unlink()
    for path in sorted(path for path in out.rglob("*") if path.is_file())[::40]:
        path.unlink()
    same = {k: manifest(root)[k] for k in ("generator", "generator_version", "layout", "preset", "seed")}
    (out / "ssl3d_synth.partial.json").write_text(json.dumps(same))
    calls: list[int] = []
    summary = generate_rooms(out, "tiny", 0, layout=layout, on_room=lambda: calls.append(1), jobs=jobs)
    assert contents(out) == contents(root)
    assert len(calls) == summary.rooms == planned_rooms("tiny", layout)
    assert summary.bytes == sum(map(len, contents(root).values()))


def test_a_lost_scan_is_made_again_and_the_others_stay_untouched(scannet_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    shutil.copytree(scannet_root, out)
    (out / "scans" / "scene0002_00" / "scene0002_00_vh_clean_2.ply").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    generate_rooms(out, "tiny", 0)
    assert contents(out) == contents(scannet_root)
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert {path.relative_to(out).parts[:2] for path in changed} == {("scans", "scene0002_00"), ("ssl3d_synth.json",)}


def test_other_rooms_replace_these_only_when_told(s3dis_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    shutil.copytree(s3dis_root, out)
    with pytest.raises(UsageError, match="other rooms: preset tiny, seed 0"):
        generate_rooms(out, "tiny", 1, layout="s3dis")
    with pytest.raises(UsageError, match="layout of s3dis"):
        generate_rooms(out, "tiny", 0, layout="scannet")
    assert contents(out) == contents(s3dis_root)
    (out / "Area_1" / "notes.md").write_text("mine")
    generate_rooms(out, "tiny", 1, layout="s3dis", overwrite=True, jobs=2)
    assert (out / "Area_1" / "notes.md").read_text() == "mine"
    assert manifest(out)["seed"] == 1 and manifest(out)["sha256"] != manifest(s3dis_root)["sha256"]


def test_wrong_presets_layouts_and_places_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rooms preset 'huge'"):
        generate_rooms(tmp_path / "a", "huge", 0)
    with pytest.raises(UsageError, match="no layout 'kitti'"):
        generate_rooms(tmp_path / "a", "tiny", 0, layout="kitti")
    (tmp_path / "scans" / "scene0000_00").mkdir(parents=True)
    with pytest.raises(UsageError, match="not generated here"):
        generate_rooms(tmp_path, "tiny", 0, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        generate_rooms(tmp_path / "file" / "below", "tiny", 0)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_keep_to_the_published_splits(preset: str) -> None:
    places = scannet_places(PRESETS[preset])
    lists = {
        subset: set((LISTS / f"scannetv2_{subset}.txt").read_text().split()) for subset in ("train", "val", "test")
    }
    for place in places:
        assert place.name in lists["train" if place.subset == "dev" else place.subset]
    rooms = s3dis_places(PRESETS[preset])
    assert {room.name[:6] for room in rooms} == {f"Area_{k}" for k in range(1, 7)}
    for every in (places, rooms):
        assert len({place.name for place in every}) == len({place.number for place in every}) == len(every)


def test_the_bytes_are_those_of_this_generator_version(scannet_root: Path, s3dis_root: Path) -> None:
    """Also the test that another machine gives the same rooms. Whoever changes them on purpose raises the version."""
    found = [manifest(root)["sha256"] for root in (scannet_root, s3dis_root)]
    assert (GENERATOR_VERSION, *found) == (1, SCANNET_SHA256, S3DIS_SHA256)


@pytest.mark.slow
def test_bench_is_frozen(tmp_path: Path) -> None:
    """A scan and a room of it. Changing them means another version of bench, and running everything again."""
    write_scene(tmp_path, "bench", 0, "scene0000_00")
    write_room(tmp_path, "bench", 0, "Area_1/office_1")
    scan = tmp_path / "scans" / "scene0000_00"
    _, vertices, _ = read_ply(scan / "scene0000_00_vh_clean_2.ply")
    assert 80_000 < len(vertices) < 250_000
    parts = ("_vh_clean_2.ply", "_vh_clean_2.labels.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json")
    files = [scan / f"scene0000_00{part}" for part in parts]
    files.append(tmp_path / "Area_1" / "office_1" / "office_1.txt")
    assert sha256(b"".join(path.read_bytes() for path in files)).hexdigest() == BENCH_SHA256
