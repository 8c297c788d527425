"""ScanNet: complete small folders, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.root import MANIFEST, WrongRoot
from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_labels import TABLE, category_facts
from ssl3d.data.datasets.scannet_mesh import mesh_edges, vertex_normals
from ssl3d.data.datasets.source import RawScan, ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader

READER = ScanNet()
SPEC = load_spec("scannet")
PARTIAL = ReadOptions(allow_partial=True)
TRAIN, VAL, TEST = "scene0191_00", "scene0568_00", "scene0707_00"
SIDE = 6
VERTICES = SIDE * SIDE
SEGMENTS = np.repeat([7, 40, 900], VERTICES // 3)  # ids with gaps, as they are shipped
OBJECTS = [
    {"id": 0, "objectId": 0, "segments": [7], "label": "wall"},
    {"id": 1, "objectId": 1, "segments": [40, 7], "label": "office chair"},  # takes segment 7 from the wall
    {"id": 2, "objectId": 4, "segments": [900], "label": "trash can"},
]
NYU40 = np.repeat([5, 5, 39], VERTICES // 3)
ALIGNMENT = "0 1 0 0.5 -1 0 0 0 0 0 1 0 0 0 0 1"


def write_ply(path: Path, points: np.ndarray, faces: np.ndarray, label: np.ndarray | None = None) -> None:
    """In the binary layout that is published."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), *((c, "u1") for c in ("red", "green", "blue", "alpha"))]
    fields += [("label", "<u2")] if label is not None else []
    rows = np.zeros(len(points), fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for place, name in enumerate(("red", "green", "blue")):
        rows[name] = np.arange(len(points)) * (place + 1) % 256
    if label is not None:
        rows["label"] = label
    corners = np.zeros(len(faces), [("n", "u1"), ("v", "<i4", (3,))])
    corners["n"], corners["v"] = 3, faces
    kinds = {"f4": "float", "u1": "uchar", "u2": "ushort"}
    lines = ["ply", "format binary_little_endian 1.0", "comment made by a test", f"element vertex {len(points)}"]
    lines += [f"property {kinds[kind[-2:]]} {name}" for name, kind in fields]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    path.write_bytes("\n".join(lines).encode() + rows.tobytes() + corners.tobytes())


def grid() -> tuple[np.ndarray, np.ndarray]:
    """A square of SIDE x SIDE vertices in the plane z = 1."""
    y, x = np.divmod(np.arange(VERTICES), SIDE)
    points = np.stack([x, y, np.ones(VERTICES)], axis=1).astype(np.float32)
    low = np.array([i for i in range(VERTICES) if x[i] < SIDE - 1 and y[i] < SIDE - 1])
    upper = np.stack([low, low + 1, low + SIDE + 1], axis=1)
    lower = np.stack([low, low + SIDE + 1, low + SIDE], axis=1)
    return points, np.concatenate([upper, lower]).astype(np.int32)


def write_scan(folder: Path, *, labelled: bool = True) -> None:
    scan, (points, faces) = folder.name, grid()
    folder.mkdir(parents=True)
    write_ply(folder / f"{scan}_vh_clean_2.ply", points, faces)
    info = ["colorHeight = 968", "colorWidth = 1296", *([f"axisAlignment = {ALIGNMENT} "] if labelled else [])]
    (folder / f"{scan}.txt").write_text("\n".join(info) + "\n")
    if not labelled:
        return
    write_ply(folder / f"{scan}_vh_clean_2.labels.ply", points, faces, NYU40)
    segments = {"params": {"kThresh": "0.0001"}, "sceneId": scan, "segIndices": SEGMENTS.tolist()}
    (folder / f"{scan}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    named = f"scannet.{scan}_vh_clean_2.0.010000.segs.json"
    objects = {"sceneId": f"scannet.{scan}", "segGroups": OBJECTS, "segmentsFile": named}
    (folder / f"{scan}.aggregation.json").write_text(json.dumps(objects))


def write_table(path: Path, rows: int | None = None, drop: str = "", **changed: int) -> None:
    """The category table with the rows that are known to be in it, filled up to the published number of rows."""
    spots = {**category_facts()["spots"], "stick": 40, **changed}
    spots = {name: nyu40 for name, nyu40 in spots.items() if name != drop}
    filler = {f"thing {k}": 40 for k in range((rows or category_facts()["rows"]) - len(spots))}
    lines = ["id\traw_category\tcategory\tcount\tnyu40id\tnyu40class"]
    lines += [f"{k}\t{name}\t{name}\t1\t{nyu40}\tx" for k, (name, nyu40) in enumerate({**spots, **filler}.items())]
    path.write_bytes("\r\n".join(lines).encode())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One scan of each subset."""
    write_scan(tmp_path / "scannet" / "scans" / TRAIN)
    write_scan(tmp_path / "scannet" / "scans" / VAL)
    write_scan(tmp_path / "scannet" / "scans_test" / TEST, labelled=False)
    write_table(tmp_path / "scannet" / TABLE)
    return tmp_path / "scannet"


def read(root: Path, scan: str = TRAIN) -> RawScan:
    units = {unit.id: unit for unit in READER.discover(root, PARTIAL).units}
    return READER.read_scan(units[scan], 0, SPEC)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def problems(root: Path, options: ReadOptions = PARTIAL) -> dict[str, list[str]]:
    """Severity -> the texts of all problems."""
    found: dict[str, list[str]] = {"error": [], "warning": []}
    for problem in READER.check(root, options).all_problems():
        found[problem.severity].append(str(problem.as_error()))
    return found


def test_a_scan_as_it_is_stored(root: Path) -> None:
    scan = read(root)
    points, faces = grid()
    assert scan.points.dtype == np.float32 and (scan.points == points).all() and not scan.origin.any()
    assert (scan.columns["color"] == np.arange(VERTICES)[:, None] * [1, 2, 3] % 256).all()
    assert (scan.columns["normal"] == [0, 0, 1]).all() and scan.columns["normal"].dtype == np.float32
    assert (scan.columns["segment"] == SEGMENTS).all()
    chair, other = SPEC.classes.index("chair"), SPEC.classes.index("otherfurniture")
    assert scan.label is not None and scan.label.tolist() == [chair] * 24 + [other] * 12  # the last object wins
    assert scan.truths["instance"].tolist() == [2] * 24 + [5] * 12
    assert scan.raw_counts == {5: 24, 39: 12} and scan.notes == {}
    assert scan.pose is not None and (scan.pose == np.array(ALIGNMENT.split(), float).reshape(4, 4)).all()
    pairs = {tuple(sorted(pair)) for face in faces.tolist() for pair in zip(face, face[1:] + face[:1], strict=True)}
    assert scan.edges is not None and list(map(tuple, scan.edges.tolist())) == sorted(pairs)


def test_units_are_scans_and_belong_to_the_published_subsets(root: Path) -> None:
    layout = READER.discover(root, PARTIAL)
    assert [(u.id, u.group, u.subset, u.num_points) for u in layout.units] == [
        (TRAIN, TRAIN, "train", VERTICES),
        (VAL, VAL, "val", VERTICES),
        (TEST, TEST, "test", VERTICES),
    ]
    products = [unit.products() for unit in layout.units]
    assert products == [("points", "labels", "edges"), ("points", "labels", "edges"), ("points", "edges")]
    assert [(g.group, g.scans, g.expected) for g in layout.report.groups] == [
        ("train", 1, 1201),
        ("val", 1, 312),
        ("test", 1, 100),
    ]
    assert len(SPEC.splits["train"]) == 1201 and not {s[:9] for s in SPEC.splits["train"]} & {
        s[:9] for s in SPEC.splits["val"]
    }


def test_conversion_of_all_of_it(root: Path, tmp_path: Path) -> None:
    infos: list[UnitInfo] = []
    for unit in READER.discover(root, PARTIAL).units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        infos.append(convert_unit(READER, unit, out, ConvertParams(sync=False)))
        points = ShardReader(out["points"])
        assert (points.read("points", 0) == grid()[0]).all() and (points.read("normal", 0) == [0, 0, 1]).all()
        assert points.array("scan_id").tolist() == [unit.id]
    assert [info.labelled for info in infos] == [[True], [True], [False]]
    assert infos[0].class_counts[SPEC.classes.index("chair")] == 24 and infos[0].warnings == []
    assert len({info.digest for info in infos}) == 3
    labels = ShardReader(tmp_path / f"{TRAIN}.labels.h5")
    assert labels.read("instance", 0).tolist() == [2] * 24 + [5] * 12


def test_a_test_scan_has_neither_labels_nor_alignment(root: Path) -> None:
    scan = read(root, TEST)
    assert scan.label is None and scan.truths == {} and (scan.columns["segment"] == -1).all()
    assert scan.pose is not None and (scan.pose == np.eye(4)).all()
    assert not any(TEST in text for text in problems(root)["error"])


def test_normals_are_weighted_by_area_and_isolated_vertices_have_none() -> None:
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1], [9, 9, 9]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)  # areas 2 (normal +z) and 1 (normal +x)
    normals = vertex_normals(points, faces)
    assert np.allclose(normals[0], np.array([1, 0, 2]) / np.sqrt(5)) and np.allclose(normals[1], [0, 0, 1])
    assert np.allclose(normals[3], [1, 0, 0]) and not normals[4].any()


def test_edges_once_whatever_the_faces_are() -> None:
    rng = np.random.default_rng(3)
    faces = rng.integers(0, 40, (300, 3)).astype(np.int32)  # degenerate and repeated ones among them
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    expected = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    assert (mesh_edges(faces, 40) == expected).all()
    assert mesh_edges(np.zeros((0, 3), np.int32), 40).shape == (0, 2)


def test_a_mesh_written_as_text_reads_the_same(root: Path) -> None:
    folder, (points, faces) = root / "scans" / TRAIN, grid()
    before = read(root)
    vertices = [" ".join(map(str, [*p, *c, 255])) for p, c in zip(points, before.columns["color"], strict=True)]
    lines = ["ply", "format ascii 1.0", f"element vertex {VERTICES}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue", "alpha")]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", *vertices]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces]
    (folder / f"{TRAIN}_vh_clean_2.ply").write_text("\n".join(lines) + "\n")
    after = read(root)
    assert (after.points == before.points).all() and (after.columns["color"] == before.columns["color"]).all()
    assert before.edges is not None and (after.edges == before.edges).all()


# ---------------------------------------------------------------- missing files


def test_all_scans_are_wanted_unless_the_user_allows_less(root: Path) -> None:
    with pytest.raises(DataError, match=r"1200 scans of the train set are missing from scans/.*scene0191_01"):
        READER.discover(root)
    texts = problems(root, ReadOptions())["warning"]
    assert any("99 scans of the test set are missing from scans_test/" in text for text in texts)


@pytest.mark.parametrize("ending", ["_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_without_annotation_the_file_and_its_download_type_are_named(root: Path, ending: str) -> None:
    folder = root / "scans" / TRAIN
    (folder / f"{TRAIN}{ending}").unlink()
    (folder / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    (text,) = [text for text in problems(root, ReadOptions())["error"] if "labels are missing" in text]
    assert f"<scan>{ending}" in text and f"--type {ending}" in text and TRAIN in text
    unit = next(unit for unit in READER.discover(root, PARTIAL).units if unit.id == TRAIN)
    assert not unit.scans[0].labelled and unit.products() == ("points", "edges")


def test_labels_ply_stands_in_for_missing_objects(root: Path) -> None:
    (root / "scans" / TRAIN / f"{TRAIN}.aggregation.json").unlink()
    scan = read(root)
    assert scan.label is not None and scan.raw_counts == {5: 24, 39: 12} and scan.truths == {}
    assert (scan.columns["segment"] == SEGMENTS).all()
    found = problems(root)
    assert any("labels come from labels.ply" in text for text in found["warning"]) and found["error"] == []


def test_the_objects_of_the_full_mesh_do_not_stand_in(root: Path) -> None:
    folder = root / "scans" / TRAIN
    (folder / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    (folder / f"{TRAIN}.aggregation.json").rename(folder / f"{TRAIN}_vh_clean.aggregation.json")
    (text,) = [text for text in problems(root, ReadOptions())["error"] if "labels are missing" in text]
    assert f"{TRAIN}_vh_clean.aggregation.json belongs to the mesh in full resolution" in text


def test_a_missing_mesh_and_names_in_other_letters(root: Path) -> None:
    folder = root / "scans" / TRAIN
    (folder / f"{TRAIN}_vh_clean_2.ply").rename(folder / f"{TRAIN}_VH_clean_2.ply")
    (text,) = problems(root)["error"]
    assert "a mesh is missing" in text and f"rename {TRAIN}_VH_clean_2.ply to {TRAIN}_vh_clean_2.ply" in text


def test_links_are_followed_and_dead_ones_named(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / TRAIN
    shutil.move(root / "scans" / TRAIN, elsewhere)
    (root / "scans" / TRAIN).symlink_to(elsewhere)
    assert read(root).raw_counts == {5: 24, 39: 12}
    mesh = elsewhere / f"{TRAIN}_vh_clean_2.ply"
    mesh.rename(tmp_path / "gone")
    mesh.symlink_to(tmp_path / "nowhere")
    assert any("a link that leads nowhere" in text and mesh.name in text for text in problems(root)["error"])


# ---------------------------------------------------------------- the root and its folders


def test_every_wrong_level_is_told(root: Path, tmp_path: Path) -> None:
    for given, what in ((root / "scans", "too deep"), (root / "scans" / TRAIN, "too deep"), (tmp_path, "too high")):
        with pytest.raises(WrongRoot, match=f"the root is {what}.*--root {root}"):
            READER.check(given)
    with pytest.raises(WrongRoot, match="does not exist"):
        READER.check(tmp_path / "nowhere")
    with pytest.raises(WrongRoot, match="a file, not a folder"):
        READER.check(root / TABLE)
    (root / "scans").rename(tmp_path / "flat")
    with pytest.raises(WrongRoot, match=r"ln -s .*flat DIR/scans"):
        READER.check(tmp_path / "flat")


def test_folders_in_other_letters_and_archives(root: Path, tmp_path: Path) -> None:
    (root / "scans" / TRAIN).rename(root / "scans" / TRAIN.upper())
    with zipfile.ZipFile(root / "scans" / f"{VAL}.zip", "w") as archive:
        archive.writestr("x", "x")
    texts = problems(root)["warning"]
    assert any(f"rename {TRAIN.upper()} to {TRAIN}" in text for text in texts)
    assert any(f"unpack {VAL}.zip" in text for text in texts)
    (root / "scans_test").rename(tmp_path / "away")
    (root / "scans").rename(root / "Scans")
    with pytest.raises(WrongRoot, match="rename Scans to scans"):
        READER.check(root)
    shutil.rmtree(root / "Scans")
    (root / "scans.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack scans\.zip"):
        READER.check(root)


def test_scans_of_no_list_or_in_the_wrong_folder(root: Path) -> None:
    write_scan(root / "scans" / "scene9999_00")
    shutil.move(root / "scans_test" / TEST, root / "scans" / TEST)
    layout = READER.discover(root, PARTIAL)
    assert [unit.subset for unit in layout.units] == ["train", "val", "test"]
    texts = [problem.what for problem in layout.warnings]
    assert any("no list of ScanNet v2 has: scene9999_00" in text for text in texts)
    assert any(f"another subset than their folder says, taken for what the lists say: {TEST}" in text for text in texts)


def test_versions_and_scribbles_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="no versions"):
        READER.check(root, ReadOptions(version="v1"))
    with pytest.raises(UsageError, match="scribbles"):
        READER.check(root, ReadOptions(label_set="scribbles"))


def test_a_generated_dataset_states_its_scans(root: Path) -> None:
    stated = {"complete": True, "scans_per_sequence": {TRAIN: 1, VAL: 1, TEST: 1}}
    (root / MANIFEST).write_text(json.dumps(stated))
    write_table(root / TABLE, rows=40)
    assert len(READER.discover(root).units) == 3 and READER.check(root).all_problems() == ()
    shutil.rmtree(root / "scans" / VAL)
    with pytest.raises(DataError, match="1 scan of the val set is missing"):
        READER.discover(root)


# ---------------------------------------------------------------- the category table


def test_the_category_table_is_recognized_by_its_values(root: Path) -> None:
    write_table(root / TABLE, chair=7)
    assert any("'chair' is 7, not 5" in text and TABLE in text for text in problems(root)["error"])
    write_table(root / TABLE, drop="cooler")
    assert any("'cooler' is no row, not 24" in text for text in problems(root)["error"])
    write_table(root / TABLE, rows=500)
    found = problems(root)
    assert found["error"] == [] and any("500 rows, 607 when" in text for text in found["warning"])


def test_the_row_of_stick_is_put_back(root: Path) -> None:
    write_table(root / TABLE, drop="stick")
    file = root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    edit(file, lambda content: content["segGroups"][2].update(label="stick"))
    (root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    assert read(root).raw_counts == {5: 24, 40: 12}
    assert any("has lost stick: put back" in text for text in problems(root)["warning"])


def test_a_missing_or_damaged_table(root: Path) -> None:
    (root / TABLE).write_text("id\traw_category\tnyu40id\n1\twall\t\n")
    assert any("without a nyu40 id" in text and "line: 2" in text and "v1" in text for text in problems(root)["error"])
    (root / TABLE).write_text("id\tcategory\n")
    assert any("lacks a column" in text and "raw_category" in text for text in problems(root)["error"])
    (root / TABLE).unlink()
    (root / "scannet-labels.combined.tsv").write_text("")
    assert any("is the table of ScanNet v1" in text for text in problems(root, ReadOptions())["error"])
    scan = read(root)  # with --allow-partial
    assert scan.raw_counts == {5: 24, 39: 12} and scan.truths == {}


def test_a_category_that_the_table_has_not(root: Path) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    edit(file, lambda content: content["segGroups"][2].update(label="warp core"))
    (text,) = [text for text in problems(root, ReadOptions())["error"] if "warp core" in text]
    assert TRAIN in text and "stick" in text and TABLE in text
    scan = read(root)
    assert scan.label is not None and (scan.label[24:] == IGNORE).all() and scan.raw_counts == {0: 12, 5: 24}
    assert any("warp core" in note and points == 12 for note, points in scan.notes.items())


# ---------------------------------------------------------------- damaged files


def test_segments_of_another_mesh(root: Path) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.0.010000.segs.json"
    edit(file, lambda content: content["segIndices"].append(7))
    with pytest.raises(DataError, match=r"37 entries, 36 vertices.*segIndices.*_vh_clean and _vh_clean_2"):
        read(root)


@pytest.mark.parametrize("wrong", [[1.5], [-1], ["7"], [[7]], [None], [1 << 40]])
def test_segments_that_are_no_whole_numbers(root: Path, wrong: list[Any]) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.0.010000.segs.json"
    edit(file, lambda content: content.update(segIndices=content["segIndices"][1:] + wrong))
    with pytest.raises(DataError, match="not all whole numbers"):
        read(root)


def test_an_object_names_a_segment_that_is_not_there(root: Path) -> None:
    folder = root / "scans" / TRAIN
    edit(folder / f"{TRAIN}.aggregation.json", lambda content: content["segGroups"][1]["segments"].append(41))
    with pytest.raises(DataError, match=rf"{TRAIN}.*object: 1 \(office chair\).*segment: 41"):
        read(root)
    large = {"segIndices": (SEGMENTS.astype(np.int64) + (1 << 30)).tolist()}  # ids too large for tables
    edit(folder / f"{TRAIN}_vh_clean_2.0.010000.segs.json", lambda content: content.update(large))
    with pytest.raises(DataError, match=r"segment: 7\]"):
        read(root)


def test_large_segment_ids_give_the_same_labels(root: Path) -> None:
    folder, shift = root / "scans" / TRAIN, 1 << 30
    large = {"segIndices": (SEGMENTS.astype(np.int64) + shift).tolist()}
    edit(folder / f"{TRAIN}_vh_clean_2.0.010000.segs.json", lambda content: content.update(large))
    moved = [{**group, "segments": [s + shift for s in group["segments"]]} for group in OBJECTS]
    edit(folder / f"{TRAIN}.aggregation.json", lambda content: content.update(segGroups=moved))
    assert read(root).raw_counts == {5: 24, 39: 12}


def test_swapped_files_are_noticed(root: Path) -> None:
    for ending in (".aggregation.json", "_vh_clean_2.0.010000.segs.json"):
        shutil.copy(root / "scans" / VAL / f"{VAL}{ending}", root / "scans" / TRAIN / f"{TRAIN}{ending}")
    assert any("belongs to another scan" in text and VAL in text for text in problems(root)["error"])
    write_scan(root / "x" / TRAIN)
    shutil.copy(root / "x" / TRAIN / f"{TRAIN}.aggregation.json", root / "scans" / TRAIN)
    with pytest.raises(DataError, match=f"belongs to another scan.*{VAL}"):
        read(root)


def test_objects_of_the_full_mesh_under_the_right_name(root: Path) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    edit(file, lambda content: content.update(segmentsFile=f"scannet.{TRAIN}_vh_clean.segs.json"))
    assert any("segments of another mesh" in text for text in problems(root)["error"])


@pytest.mark.parametrize("ending", [".aggregation.json", "_vh_clean_2.0.010000.segs.json"])
@pytest.mark.parametrize("content", [b"", b'{"segGroups": [', b"[]", b"\xff\xfe\x00", b"{}", b"PK\x03\x04"])
def test_damaged_json_is_one_error_that_names_the_file(root: Path, ending: str, content: bytes) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}{ending}"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(root)
    assert file.name in str(caught.value)


def test_a_truncated_mesh_is_noticed_by_its_size(root: Path) -> None:
    mesh = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    whole = mesh.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 13 * 50 - 5, whole.index(b"end_header") + 11, 60, 0):
        mesh.write_bytes(whole[:cut])
        assert any(mesh.name in text for text in problems(root)["error"]), cut


def test_a_damaged_mesh(root: Path) -> None:
    mesh = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    points, faces = grid()
    write_ply(mesh, points, faces + 1)
    with pytest.raises(DataError, match=r"faces name vertices that the mesh has not.*highest: 36"):
        read(root)
    write_ply(mesh, points, faces)
    mesh.write_bytes(mesh.read_bytes().replace(b"uchar green", b"uchar grown"))
    assert any("lack a property" in text and "green" in text for text in problems(root)["error"])
    points[5, 1] = np.nan
    write_ply(mesh, points, faces)
    (root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    scan = read(root)
    assert scan.not_finite == 1 and not scan.points[5].any() and scan.label is not None and scan.label[5] == IGNORE
    assert np.isfinite(scan.columns["normal"]).all()


def test_vertices_in_another_order_are_noticed(root: Path) -> None:
    mesh = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    points, faces = grid()
    write_ply(mesh, points[::-1], faces)
    with pytest.raises(DataError, match="another order"):
        read(root)
    write_ply(mesh, points[:-1], faces[(faces < VERTICES - 1).all(axis=1)])
    assert any("35 vertices, 36 in its labels.ply" in text for text in problems(root)["error"])


def test_ids_above_40_are_ignored_and_counted(root: Path) -> None:
    points, faces = grid()
    folder = root / "scans" / TRAIN
    label = NYU40.copy()
    label[3], label[4] = 50, 149
    write_ply(folder / f"{TRAIN}_vh_clean_2.labels.ply", points, faces, label)
    (folder / f"{TRAIN}.aggregation.json").unlink()
    scan = read(root)
    assert scan.label is not None and (scan.label[3:5] == IGNORE).all() and scan.raw_counts == {0: 2, 5: 22, 39: 12}
    assert scan.notes == {"points with ids above 40 in labels.ply (50, 149), ignored": 2}


def test_where_the_two_kinds_of_labels_differ_is_counted(root: Path) -> None:
    points, faces = grid()
    label = np.where(np.arange(VERTICES) < 10, 1, NYU40)  # the wall that lost its segment
    write_ply(root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply", points, faces, label)
    scan = read(root)
    assert scan.raw_counts == {5: 24, 39: 12} and list(scan.notes.values()) == [10]


def test_a_damaged_alignment(root: Path) -> None:
    file = root / "scans" / TRAIN / f"{TRAIN}.txt"
    file.write_text("axisAlignment = 1 0 0 x\n")
    with pytest.raises(DataError, match=rf"{TRAIN}\.txt.*axisAlignment"):
        read(root)
    file.unlink()
    assert read(root).pose is None


def test_a_file_that_changes_is_noticed(root: Path) -> None:
    unit = next(unit for unit in READER.discover(root, PARTIAL).units if unit.id == TRAIN)
    before = unit.signature()
    mesh = root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes() + b"x")
    with pytest.raises(DataError, match="changed while it was in use"):
        READER.read_scan(unit, 0, SPEC)
    assert next(u for u in READER.discover(root, PARTIAL).units if u.id == TRAIN).signature() != before


def test_equal_problems_of_many_scans_are_one(root: Path) -> None:
    for scan in (TRAIN, VAL):
        (root / "scans" / scan / f"{scan}_vh_clean_2.ply").write_bytes(b"ply\n")
    for scan in ("scene0191_01", "scene0191_02"):
        write_scan(root / "scans" / scan)
        (root / "scans" / scan / f"{scan}_vh_clean_2.ply").write_bytes(b"ply\n")
    report = READER.check(root, PARTIAL)
    (problem,) = [p for g in report.groups if g.group == "train" for p in g.problems if p.severity == "error"]
    assert (
        problem.what.endswith("; in 3 scans") and problem.where["scans"] == "scene0191_00, scene0191_01, scene0191_02"
    )


# ---------------------------------------------------------------- whatever happens to a file


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Truncated, overwritten, repeated, or with some bytes changed."""
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 30))
    kind = int(rng.integers(5))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes(size) + content[at + size :]
    if kind == 2:
        return content[:at] + content[at + size :]
    if kind == 3:
        return content[:at] + content[at : at + size] + content[at:]
    changed = bytearray(content)
    for place in rng.integers(len(content), size=3):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.parametrize(
    "name",
    [
        TABLE,
        f"scans/{TRAIN}/{TRAIN}_vh_clean_2.ply",
        f"scans/{TRAIN}/{TRAIN}_vh_clean_2.labels.ply",
        f"scans/{TRAIN}/{TRAIN}_vh_clean_2.0.010000.segs.json",
        f"scans/{TRAIN}/{TRAIN}.aggregation.json",
        f"scans/{TRAIN}/{TRAIN}.txt",
    ],
)
def test_damage_is_an_error_or_harmless_but_never_a_crash(root: Path, name: str) -> None:
    shutil.rmtree(root / "scans" / VAL)
    shutil.rmtree(root / "scans_test")
    rng, file = np.random.default_rng(5), root / name
    whole = file.read_bytes()
    refused = 0
    for _ in range(40):
        file.write_bytes(damaged(whole, rng))
        try:
            scan = read(root)
        except DataError as error:
            assert error.where, error
            refused += 1
        else:
            assert len(scan.points) == VERTICES and scan.label is not None and len(scan.label) == VERTICES
            assert scan.edges is not None and (scan.edges.size == 0 or scan.edges.max() < VERTICES)
    assert refused or name.endswith((".txt", ".tsv"))
