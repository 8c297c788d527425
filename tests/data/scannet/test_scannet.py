"""ScanNet: complete small folders, what may be missing of them, and where the root is."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.datasets.convert import ConvertParams, UnitInfo, convert_unit
from ssl3d.data.datasets.root import MANIFEST, WrongRoot
from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_labels import TABLE, _quick_segments
from ssl3d.data.datasets.scannet_mesh import mesh_edges, vertex_normals
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader

READER = ScanNet()
SPEC = load_spec("scannet")
PARTIAL = ReadOptions(allow_partial=True)
TRAIN, VAL, TEST = "scene0191_00", "scene0568_00", "scene0707_00"


def test_a_scan_as_it_is_stored(made: Any) -> None:
    scan = made.read()
    points, faces = made.grid()
    assert scan.points.dtype == np.float32 and (scan.points == points).all() and not scan.origin.any()
    assert (scan.columns["color"] == np.arange(made.vertices)[:, None] * [1, 2, 3] % 256).all()
    assert (scan.columns["normal"] == [0, 0, 1]).all() and scan.columns["normal"].dtype == np.float32
    assert (scan.columns["segment"] == made.segments).all()
    chair, other = SPEC.classes.index("chair"), SPEC.classes.index("otherfurniture")
    assert scan.label is not None and scan.label.tolist() == [chair] * 24 + [other] * 12  # the last object wins
    assert scan.truths["instance"].tolist() == [2] * 24 + [5] * 12
    assert scan.raw_counts == {5: 24, 39: 12} and scan.notes == {}
    assert scan.pose is not None and (scan.pose == np.array(made.alignment.split(), float).reshape(4, 4)).all()
    pairs = {tuple(sorted(pair)) for face in faces.tolist() for pair in zip(face, face[1:] + face[:1], strict=True)}
    assert scan.edges is not None and list(map(tuple, scan.edges.tolist())) == sorted(pairs)


def test_units_are_scans_and_belong_to_the_published_subsets(made: Any) -> None:
    layout = READER.discover(made.root, PARTIAL)
    assert [(u.id, u.group, u.subset, u.num_points) for u in layout.units] == [
        (TRAIN, TRAIN, "train", made.vertices),
        (VAL, VAL, "val", made.vertices),
        (TEST, TEST, "test", made.vertices),
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


def test_conversion_of_all_of_it(made: Any, tmp_path: Path) -> None:
    infos: list[UnitInfo] = []
    for unit in READER.discover(made.root, PARTIAL).units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        infos.append(convert_unit(READER, unit, out, ConvertParams(sync=False)))
        points = ShardReader(out["points"])
        assert (points.read("points", 0) == made.grid()[0]).all() and (points.read("normal", 0) == [0, 0, 1]).all()
        assert points.array("scan_id").tolist() == [unit.id]
    assert [info.labelled for info in infos] == [[True], [True], [False]]
    assert infos[0].class_counts[SPEC.classes.index("chair")] == 24 and infos[0].warnings == []
    assert len({info.digest for info in infos}) == 3
    labels = ShardReader(tmp_path / f"{TRAIN}.labels.h5")
    assert labels.read("instance", 0).tolist() == [2] * 24 + [5] * 12


def test_a_test_scan_has_neither_labels_nor_alignment(made: Any) -> None:
    scan = made.read(made.test)
    assert scan.label is None and scan.truths == {} and (scan.columns["segment"] == -1).all()
    assert scan.pose is not None and (scan.pose == np.eye(4)).all()
    assert not any(TEST in text for text in made.problems()["error"])


def test_normals_are_weighted_by_area_and_isolated_vertices_have_none() -> None:
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1], [9, 9, 9]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)  # areas 2 (normal +z) and 1 (normal +x)
    normals = vertex_normals(points, faces)
    assert np.allclose(normals[0], np.array([1, 0, 2]) / np.sqrt(5)) and np.allclose(normals[1], [0, 0, 1])
    assert np.allclose(normals[3], [1, 0, 0]) and not normals[4].any()


def test_edges_once_whatever_the_faces_are() -> None:
    rng = np.random.default_rng(3)
    faces = rng.integers(0, 40, (300, 3)).astype(np.uint32)  # degenerate and repeated ones among them
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    expected = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    assert (mesh_edges(faces, 40) == expected).all()
    assert mesh_edges(np.zeros((0, 3), np.uint32), 40).shape == (0, 2)


def test_a_mesh_written_as_text_reads_the_same(made: Any) -> None:
    folder, (points, faces) = made.root / "scans" / TRAIN, made.grid()
    before = made.read()
    vertices = [" ".join(map(str, [*p, *c, 255])) for p, c in zip(points, before.columns["color"], strict=True)]
    lines = ["ply", "format ascii 1.0", f"element vertex {made.vertices}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue", "alpha")]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", *vertices]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces]
    (folder / f"{TRAIN}_vh_clean_2.ply").write_text("\n".join(lines) + "\n")
    after = made.read()
    assert (after.points == before.points).all() and (after.columns["color"] == before.columns["color"]).all()
    assert before.edges is not None and (after.edges == before.edges).all()


# ---------------------------------------------------------------- missing files


def test_all_scans_are_wanted_unless_the_user_allows_less(made: Any) -> None:
    with pytest.raises(DataError, match=r"1200 scans of the train set are missing from scans/.*scene0191_01"):
        READER.discover(made.root)
    texts = made.problems(ReadOptions())["warning"]
    assert any("99 scans of the test set are missing from scans_test/" in text for text in texts)


@pytest.mark.parametrize("ending", ["_vh_clean_2.0.010000.segs.json", ".aggregation.json"])
def test_without_annotation_the_file_and_its_download_type_are_named(made: Any, ending: str) -> None:
    folder = made.root / "scans" / TRAIN
    (folder / f"{TRAIN}{ending}").unlink()
    (folder / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    (text,) = [text for text in made.problems(ReadOptions())["error"] if "labels are missing" in text]
    assert f"<scan>{ending}" in text and f"--type {ending}" in text and TRAIN in text
    unit = next(unit for unit in READER.discover(made.root, PARTIAL).units if unit.id == TRAIN)
    assert not unit.scans[0].labelled and unit.products() == ("points", "edges")


def test_labels_ply_stands_in_for_missing_objects(made: Any) -> None:
    (made.root / "scans" / TRAIN / f"{TRAIN}.aggregation.json").unlink()
    scan = made.read()
    assert scan.label is not None and scan.raw_counts == {5: 24, 39: 12} and scan.truths == {}
    assert (scan.columns["segment"] == made.segments).all()
    found = made.problems()
    assert any("labels come from labels.ply" in text for text in found["warning"]) and found["error"] == []


def test_the_objects_of_the_full_mesh_do_not_stand_in(made: Any) -> None:
    folder = made.root / "scans" / TRAIN
    (folder / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    (folder / f"{TRAIN}.aggregation.json").rename(folder / f"{TRAIN}_vh_clean.aggregation.json")
    (text,) = [text for text in made.problems(ReadOptions())["error"] if "labels are missing" in text]
    assert f"{TRAIN}_vh_clean.aggregation.json belongs to the mesh in full resolution" in text


def test_a_missing_mesh_and_names_in_other_letters(made: Any) -> None:
    folder = made.root / "scans" / TRAIN
    (folder / f"{TRAIN}_vh_clean_2.ply").rename(folder / f"{TRAIN}_VH_clean_2.ply")
    (text,) = made.problems()["error"]
    assert "a mesh is missing" in text and f"rename {TRAIN}_VH_clean_2.ply to {TRAIN}_vh_clean_2.ply" in text


def test_links_are_followed_and_dead_ones_named(made: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / TRAIN
    shutil.move(made.root / "scans" / TRAIN, elsewhere)
    (made.root / "scans" / TRAIN).symlink_to(elsewhere)
    assert made.read().raw_counts == {5: 24, 39: 12}
    mesh = elsewhere / f"{TRAIN}_vh_clean_2.ply"
    mesh.rename(tmp_path / "gone")
    mesh.symlink_to(tmp_path / "nowhere")
    assert any("a link that leads nowhere" in text and mesh.name in text for text in made.problems()["error"])


# ---------------------------------------------------------------- the root and its folders


def test_every_wrong_level_is_told(made: Any, tmp_path: Path) -> None:
    for named, what in (
        (made.root / "scans", "too deep"),
        (made.root / "scans" / TRAIN, "too deep"),
        (tmp_path, "too high"),
    ):
        with pytest.raises(WrongRoot, match=f"the root is {what}.*--root {made.root}"):
            READER.check(named)
    with pytest.raises(WrongRoot, match="does not exist"):
        READER.check(tmp_path / "nowhere")
    with pytest.raises(WrongRoot, match="a file, not a folder"):
        READER.check(made.root / TABLE)
    (made.root / "scans").rename(tmp_path / "flat")
    with pytest.raises(WrongRoot, match=r"ln -s .*flat DIR/scans"):
        READER.check(tmp_path / "flat")


def test_folders_in_other_letters_and_archives(made: Any, tmp_path: Path) -> None:
    (made.root / "scans" / TRAIN).rename(made.root / "scans" / TRAIN.upper())
    with zipfile.ZipFile(made.root / "scans" / f"{VAL}.zip", "w") as archive:
        archive.writestr("x", "x")
    texts = made.problems()["warning"]
    assert any(f"rename {TRAIN.upper()} to {TRAIN}" in text for text in texts)
    assert any(f"unpack {VAL}.zip" in text for text in texts)
    (made.root / "scans_test").rename(tmp_path / "away")
    (made.root / "scans").rename(made.root / "Scans")
    with pytest.raises(WrongRoot, match="rename Scans to scans"):
        READER.check(made.root)
    shutil.rmtree(made.root / "Scans")
    (made.root / "scans.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack scans\.zip"):
        READER.check(made.root)


def test_scans_of_no_list_or_in_the_wrong_folder(made: Any) -> None:
    made.write_scan(made.root / "scans" / "scene9999_00")
    shutil.move(made.root / "scans_test" / TEST, made.root / "scans" / TEST)
    layout = READER.discover(made.root, PARTIAL)
    assert [unit.subset for unit in layout.units] == ["train", "val", "test"]
    texts = [problem.what for problem in layout.warnings]
    assert any("no list of ScanNet v2 has: scene9999_00" in text for text in texts)
    assert any(f"another subset than their folder says, taken for what the lists say: {TEST}" in text for text in texts)


def test_versions_and_scribbles_are_refused(made: Any) -> None:
    with pytest.raises(UsageError, match="no versions"):
        READER.check(made.root, ReadOptions(version="v1"))
    with pytest.raises(UsageError, match="scribbles"):
        READER.check(made.root, ReadOptions(label_set="scribbles"))


def test_a_generated_dataset_states_its_scans(made: Any) -> None:
    stated = {"complete": True, "scans_per_sequence": {TRAIN: 1, VAL: 1, TEST: 1}}
    (made.root / MANIFEST).write_text(json.dumps(stated))
    made.table(rows=40)
    assert len(READER.discover(made.root).units) == 3 and READER.check(made.root).all_problems() == ()
    shutil.rmtree(made.root / "scans" / VAL)
    with pytest.raises(DataError, match="1 scan of the val set is missing"):
        READER.discover(made.root)


_ODD = [
    "",
    " ",
    "\n",
    "\t ",
    "+",
    "-",
    ".",
    "e",
    "0",
    "00",
    "1.0",
    ",",
    "[",
    "]",
    "{}",
    "null",
    '"7"',
    "9" * 11,
    "\u0661",
]


@given(
    st.lists(st.integers(0, 2**33), max_size=6),
    st.sampled_from([", ", ",", " ,\n", ",,", " "]),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(_ODD)), max_size=2),
    st.sampled_from(['{"sceneId": "s", "segIndices": [%s]}', '{"segIndices":\n[%s], "params": {"a": [1]}}', "%s"])
    | st.sampled_from(['{"params": {"segIndices": [%s]}}', '{"a": "\\"segIndices\\"", "segIndices": [%s]}'])
    | st.sampled_from(
        ['{"segIndices": [%s], "segIndices": [5]}', '{"segIndices": {"a": [%s]}}', '[{"segIndices": [%s]}]']
    ),
)
def test_segments_read_quickly_are_what_json_reads(
    values: list[int], between: str, odd: list[tuple[int, str]], form: str
) -> None:
    text = form % between.join(map(str, values))
    for at, piece in odd:
        text = text[:at] + piece + text[at:]
    quick = _quick_segments(text.encode())
    if quick is not None:
        expected = json.loads(text)
        listed = quick.pop("segIndices")
        assert listed.tolist() == expected.pop("segIndices") and quick == expected


def test_segments_as_published_are_read_quickly() -> None:
    quick = _quick_segments(
        b'{"params":{"kThresh":"0.0001"},"sceneId":"scene0000_00","segIndices":[0, 38,2147483648\n]}'
    )
    assert (
        quick is not None and quick["segIndices"].tolist() == [0, 38, 2147483648] and quick["sceneId"] == "scene0000_00"
    )
