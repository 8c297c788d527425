"""ScanNet: the category table, and files that are damaged, swapped or of another mesh."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_labels import TABLE
from ssl3d.data.datasets.source import ReadOptions
from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec

READER = ScanNet()
SPEC = load_spec("scannet")
PARTIAL = ReadOptions(allow_partial=True)
TRAIN, VAL, TEST = "scene0191_00", "scene0568_00", "scene0707_00"


# ---------------------------------------------------------------- the category table


def test_the_category_table_is_recognized_by_its_values(made: Any) -> None:
    made.table(chair=7)
    assert any("'chair' is 7, not 5" in text and TABLE in text for text in made.problems()["error"])
    made.table(drop="cooler")
    assert any("'cooler' is no row, not 24" in text for text in made.problems()["error"])
    made.table(rows=500)
    found = made.problems()
    assert found["error"] == [] and any("500 rows, 607 when" in text for text in found["warning"])


def test_the_row_of_stick_is_put_back(made: Any) -> None:
    made.table(drop="stick")
    file = made.root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    made.edit(file, lambda content: content["segGroups"][2].update(label="stick"))
    (made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    assert made.read().raw_counts == {5: 24, 40: 12}
    assert any("has lost stick: put back" in text for text in made.problems()["warning"])


def test_a_missing_or_damaged_table(made: Any) -> None:
    (made.root / TABLE).write_text("id\traw_category\tnyu40id\n1\twall\t\n")
    assert any("without a nyu40 id" in text and "line: 2" in text and "v1" in text for text in made.problems()["error"])
    (made.root / TABLE).write_text("id\tcategory\n")
    assert any("lacks a column" in text and "raw_category" in text for text in made.problems()["error"])
    (made.root / TABLE).unlink()
    (made.root / "scannet-labels.combined.tsv").write_text("")
    assert any("is the table of ScanNet v1" in text for text in made.problems(ReadOptions())["error"])
    scan = made.read()  # with --allow-partial
    assert scan.raw_counts == {5: 24, 39: 12} and scan.truths == {}


def test_a_category_that_the_table_has_not(made: Any) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    made.edit(file, lambda content: content["segGroups"][2].update(label="warp core"))
    (text,) = [text for text in made.problems(ReadOptions())["error"] if "warp core" in text]
    assert TRAIN in text and "stick" in text and TABLE in text
    scan = made.read()
    assert scan.label is not None and (scan.label[24:] == IGNORE).all() and scan.raw_counts == {0: 12, 5: 24}
    assert any("warp core" in note and points == 12 for note, points in scan.notes.items())


# ---------------------------------------------------------------- damaged files


def test_segments_of_another_mesh(made: Any) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.0.010000.segs.json"
    made.edit(file, lambda content: content["segIndices"].append(7))
    with pytest.raises(DataError, match=r"37 entries, 36 vertices.*segIndices.*_vh_clean and _vh_clean_2"):
        made.read()


@pytest.mark.parametrize("wrong", [[1.5], [-1], ["7"], [[7]], [None], [1 << 40]])
def test_segments_that_are_no_whole_numbers(made: Any, wrong: list[Any]) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.0.010000.segs.json"
    made.edit(file, lambda content: content.update(segIndices=content["segIndices"][1:] + wrong))
    with pytest.raises(DataError, match="not all whole numbers"):
        made.read()


def test_an_object_names_a_segment_that_is_not_there(made: Any) -> None:
    folder = made.root / "scans" / TRAIN
    made.edit(folder / f"{TRAIN}.aggregation.json", lambda content: content["segGroups"][1]["segments"].append(41))
    with pytest.raises(DataError, match=rf"{TRAIN}.*object: 1 \(office chair\).*segment: 41"):
        made.read()
    large = {"segIndices": (made.segments.astype(np.int64) + (1 << 30)).tolist()}  # ids too large for tables
    made.edit(folder / f"{TRAIN}_vh_clean_2.0.010000.segs.json", lambda content: content.update(large))
    with pytest.raises(DataError, match=r"segment: 7\]"):
        made.read()


def test_large_segment_ids_give_the_same_labels(made: Any) -> None:
    folder, shift = made.root / "scans" / TRAIN, 1 << 30
    large = {"segIndices": (made.segments.astype(np.int64) + shift).tolist()}
    made.edit(folder / f"{TRAIN}_vh_clean_2.0.010000.segs.json", lambda content: content.update(large))
    moved = [{**group, "segments": [s + shift for s in group["segments"]]} for group in made.objects]
    made.edit(folder / f"{TRAIN}.aggregation.json", lambda content: content.update(segGroups=moved))
    assert made.read().raw_counts == {5: 24, 39: 12}


def test_swapped_files_are_noticed(made: Any) -> None:
    for ending in (".aggregation.json", "_vh_clean_2.0.010000.segs.json"):
        shutil.copy(made.root / "scans" / VAL / f"{VAL}{ending}", made.root / "scans" / TRAIN / f"{TRAIN}{ending}")
    assert any("belongs to another scan" in text and VAL in text for text in made.problems()["error"])
    made.write_scan(made.root / "x" / TRAIN)
    shutil.copy(made.root / "x" / TRAIN / f"{TRAIN}.aggregation.json", made.root / "scans" / TRAIN)
    with pytest.raises(DataError, match=f"belongs to another scan.*{VAL}"):
        made.read()


def test_objects_of_the_full_mesh_under_the_right_name(made: Any) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}.aggregation.json"
    made.edit(file, lambda content: content.update(segmentsFile=f"scannet.{TRAIN}_vh_clean.segs.json"))
    assert any("segments of another mesh" in text for text in made.problems()["error"])


@pytest.mark.parametrize("ending", [".aggregation.json", "_vh_clean_2.0.010000.segs.json"])
@pytest.mark.parametrize("content", [b"", b'{"segGroups": [', b"[]", b"\xff\xfe\x00", b"{}", b"PK\x03\x04"])
def test_damaged_json_is_one_error_that_names_the_file(made: Any, ending: str, content: bytes) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}{ending}"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        made.read()
    assert file.name in str(caught.value)


def test_a_truncated_mesh_is_noticed_by_its_size(made: Any) -> None:
    mesh = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    whole = mesh.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 13 * 50 - 5, whole.index(b"end_header") + 11, 60, 0):
        mesh.write_bytes(whole[:cut])
        assert any(mesh.name in text for text in made.problems()["error"]), cut


def test_a_damaged_mesh(made: Any) -> None:
    mesh = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    points, faces = made.grid()
    made.write_ply(mesh, points, faces + 1)
    with pytest.raises(DataError, match=r"faces name vertices that the mesh has not.*highest: 36"):
        made.read()
    made.write_ply(mesh, points, faces)
    mesh.write_bytes(mesh.read_bytes().replace(b"uchar green", b"uchar grown"))
    assert any("lack a property" in text and "green" in text for text in made.problems()["error"])
    points[5, 1] = np.nan
    made.write_ply(mesh, points, faces)
    (made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply").unlink()
    scan = made.read()
    assert scan.not_finite == 1 and not scan.points[5].any() and scan.label is not None and scan.label[5] == IGNORE
    assert np.isfinite(scan.columns["normal"]).all()


def test_vertices_in_another_order_are_noticed(made: Any) -> None:
    mesh = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    points, faces = made.grid()
    made.write_ply(mesh, points[::-1], faces)
    with pytest.raises(DataError, match="another order"):
        made.read()
    made.write_ply(mesh, points[:-1], faces[(faces < made.vertices - 1).all(axis=1)])
    assert any("35 vertices, 36 in its labels.ply" in text for text in made.problems()["error"])


def test_ids_above_40_are_ignored_and_counted(made: Any) -> None:
    points, faces = made.grid()
    folder = made.root / "scans" / TRAIN
    label = made.nyu40.copy()
    label[3], label[4] = 50, 149
    made.write_ply(folder / f"{TRAIN}_vh_clean_2.labels.ply", points, faces, label)
    (folder / f"{TRAIN}.aggregation.json").unlink()
    scan = made.read()
    assert scan.label is not None and (scan.label[3:5] == IGNORE).all() and scan.raw_counts == {0: 2, 5: 22, 39: 12}
    assert scan.notes == {"points with ids above 40 in labels.ply (50, 149), ignored": 2}


def test_where_the_two_kinds_of_labels_differ_is_counted(made: Any) -> None:
    points, faces = made.grid()
    label = np.where(np.arange(made.vertices) < 10, 1, made.nyu40)  # the wall that lost its segment
    made.write_ply(made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.labels.ply", points, faces, label)
    scan = made.read()
    assert scan.raw_counts == {5: 24, 39: 12} and list(scan.notes.values()) == [10]


def test_a_damaged_alignment(made: Any) -> None:
    file = made.root / "scans" / TRAIN / f"{TRAIN}.txt"
    file.write_text("axisAlignment = 1 0 0 x\n")
    with pytest.raises(DataError, match=rf"{TRAIN}\.txt.*axisAlignment"):
        made.read()
    file.unlink()
    assert made.read().pose is None


def test_a_file_that_changes_is_noticed(made: Any) -> None:
    unit = next(unit for unit in READER.discover(made.root, PARTIAL).units if unit.id == TRAIN)
    before = unit.signature()
    mesh = made.root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"
    mesh.write_bytes(mesh.read_bytes() + b"x")
    with pytest.raises(DataError, match="changed while it was in use"):
        READER.read_scan(unit, 0, SPEC)
    assert next(u for u in READER.discover(made.root, PARTIAL).units if u.id == TRAIN).signature() != before


def test_equal_problems_of_many_scans_are_one(made: Any) -> None:
    for scan in (TRAIN, VAL):
        (made.root / "scans" / scan / f"{scan}_vh_clean_2.ply").write_bytes(b"ply\n")
    for scan in ("scene0191_01", "scene0191_02"):
        made.write_scan(made.root / "scans" / scan)
        (made.root / "scans" / scan / f"{scan}_vh_clean_2.ply").write_bytes(b"ply\n")
    report = READER.check(made.root, PARTIAL)
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
def test_damage_is_an_error_or_harmless_but_never_a_crash(made: Any, name: str) -> None:
    shutil.rmtree(made.root / "scans" / VAL)
    shutil.rmtree(made.root / "scans_test")
    rng, file = np.random.default_rng(5), made.root / name
    whole = file.read_bytes()
    refused = 0
    for _ in range(40):
        file.write_bytes(damaged(whole, rng))
        try:
            scan = made.read()
        except DataError as error:
            assert error.where, error
            refused += 1
        else:
            assert len(scan.points) == made.vertices and scan.label is not None and len(scan.label) == made.vertices
            assert scan.edges is not None and (scan.edges.size == 0 or scan.edges.max() < made.vertices)
    assert refused or name.endswith((".txt", ".tsv"))
