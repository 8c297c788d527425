"""S3DIS: complete small folders, the known defects, and everything else that can be wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.root import MANIFEST, WrongRoot
from ssl3d.data.datasets.s3dis import S3dis, turned
from ssl3d.data.datasets.source import RawScan, ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.official import list_family
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader

READER = S3dis()
SPEC = load_spec("s3dis")
PARTIAL = ReadOptions(allow_partial=True)
ROOMS = {"Area_1": ["office_2", "copyRoom_1"], "Area_5": ["hallway_6"]}
OBJECTS = {"chair_1": 3, "ceiling_1": 4, "chair_10": 2, "table_1": 1, "bookcase_2": 2}
ORDER = ["bookcase_2", "ceiling_1", "chair_1", "chair_10", "table_1"]
COUNTS = [OBJECTS[name] for name in ORDER]


def rows_of(count: int, first: int = 0) -> np.ndarray:
    """(n, 6): points far from the origin, in millimeters, and colors."""
    k = np.arange(first, first + count)
    points = np.stack([-12.345 + k * 0.5, 30.25 - k * 0.125, 1.5 + k * 0.001], axis=1)
    return np.concatenate([points, np.stack([k % 256, (2 * k) % 256, (3 * k) % 256], axis=1)], axis=1)


def text_of(rows: np.ndarray, digits: int = 3) -> str:
    lines = [" ".join([*(f"{v:.{digits}f}" for v in row[:3]), *(f"{v:.0f}" for v in row[3:])]) for row in rows]
    return "\n".join(lines) + "\n"


def write_room(folder: Path, objects: Mapping[str, int] = OBJECTS) -> None:
    (folder / "Annotations").mkdir(parents=True)
    every, first = [], 0
    for name, count in objects.items():
        every.append(rows_of(count, first))
        (folder / "Annotations" / f"{name}.txt").write_text(text_of(every[-1]))
        first += count
    (folder / f"{folder.name}.txt").write_text(text_of(np.concatenate(every[::-1])))


def write_alignment(root: Path, angle: int = 90) -> None:
    for area, rooms in ROOMS.items():
        lines = [f"## Global alignment angle per disjoint space in {area} ##", "## Disjoint Space Name Angle ##"]
        (root / area / f"{area}_alignmentAngle.txt").write_text(
            "\n".join(lines + [f"{r} {angle}" for r in rooms]) + "\n"
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for area, rooms in ROOMS.items():
        for room in rooms:
            write_room(tmp_path / "s3dis" / area / room)
    return tmp_path / "s3dis"


def read(root: Path, scan: str = "Area_1/office_2", options: ReadOptions = PARTIAL) -> RawScan:
    units = {unit.scans[0].scan_id: unit for unit in READER.discover(root, options).units}
    return READER.read_scan(units[scan], 0, SPEC)


def texts(root: Path, severity: str = "error", options: ReadOptions = PARTIAL) -> list[str]:
    return [str(p.as_error()) for p in READER.check(root, options).all_problems() if p.severity == severity]


def annotation(root: Path, name: str = "chair_1.txt") -> Path:
    return root / "Area_1" / "office_2" / "Annotations" / name


def test_a_room_is_all_its_objects_in_order_of_name(root: Path) -> None:
    scan = read(root)
    starts = dict(zip(OBJECTS, np.cumsum([0, *OBJECTS.values()]), strict=False))
    rows = np.concatenate([rows_of(OBJECTS[name], starts[name]) for name in ORDER])
    assert scan.label is not None
    assert [SPEC.classes[k] for k in scan.label] == [name.split("_")[0] for name in np.repeat(ORDER, COUNTS)]
    assert scan.truths["instance"].tolist() == np.repeat([1, 2, 3, 4, 5], COUNTS).tolist()
    assert scan.origin.tolist() == rows[:, :3].min(axis=0).round(3).tolist()
    assert np.abs(scan.points + scan.origin - rows[:, :3].round(3)).max() < 1e-6
    assert (scan.columns["color"] == rows[:, 3:]).all() and scan.columns["color"].dtype == np.uint8
    assert scan.raw_counts == {0: 4, 7: 1, 8: 5, 10: 2} and scan.notes == {} and scan.pose is None


def test_classes_are_mapped_by_name() -> None:
    # two orders circulate that differ in table, chair, sofa and bookcase
    assert SPEC.classes[7:11] == ("table", "chair", "sofa", "bookcase") and SPEC.num_classes == 13
    assert SPEC.tail == ("beam", "sofa", "board") and SPEC.content.sum() == pytest.approx(1)
    assert SPEC.splits["val"] == ("Area_5",) and len(SPEC.splits["train"]) == 5
    rooms = list_family("s3dis", "rooms").ids("all")
    areas = [name.partition("/")[0] for name in rooms]
    assert {area: areas.count(area) for area in areas} == dict(SPEC.scans_per_sequence) and len(rooms) == 272


def test_units_are_rooms_of_areas(root: Path, tmp_path: Path) -> None:
    layout = READER.discover(root, PARTIAL)
    assert [(u.id, u.group, u.subset, u.scans[0].scan_id) for u in layout.units] == [
        ("Area_1_copyRoom_1", "Area_1", "train", "Area_1/copyRoom_1"),
        ("Area_1_office_2", "Area_1", "train", "Area_1/office_2"),
        ("Area_5_hallway_6", "Area_5", "val", "Area_5/hallway_6"),
    ]
    assert [(g.group, g.scans, g.expected) for g in layout.report.groups] == [("Area_1", 2, 44), ("Area_5", 1, 68)]
    assert layout.units[0].num_points is None and layout.units[0].products() == ("points", "labels")
    for unit in layout.units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        info = convert_unit(READER, unit, out, ConvertParams(sync=False))
        assert info.num_points == [12] and info.warnings == [] and info.ignored == 0
        assert ShardReader(out["labels"]).read("instance", 0).max() == 5
        assert ShardReader(out["points"]).read("color", 0).shape == (12, 3)


# ---------------------------------------------------------------- the defects of the published archives


def test_mended_bytes_are_told_with_file_and_line(root: Path, tmp_path: Path) -> None:
    file = root / "Area_5" / "hallway_6" / "Annotations" / "ceiling_1.txt"
    lines = file.read_bytes().split(b"\n")
    lines[2] = b"22.350 6.692 3.048 185\x00187 182"
    file.write_bytes(b"\n".join(lines))
    room = root / "Area_5" / "hallway_6" / "hallway_6.txt"
    room.write_bytes(room.read_bytes().replace(b"-12.345", b"-12.3\x145"))
    unit = READER.discover(root, PARTIAL).units[2]
    info = convert_unit(READER, unit, {n: tmp_path / f"{n}.h5" for n in unit.products()}, ConvertParams(sync=False))
    assert info.warnings == [
        "Area_5_hallway_6: 1 damaged byte found (points come from Annotations) in hallway_6.txt, line 10",
        "Area_5_hallway_6: 1 damaged byte mended in ceiling_1.txt, line 3",
    ]


def test_the_room_file_of_another_spelling_and_the_doubled_wall(root: Path) -> None:
    folder = root / "Area_1" / "copyRoom_1"
    (folder / "copyRoom_1.txt").rename(folder / "copy_Room_1.txt")
    for stray in ("chair_1 (1).txt", "chair_1.txt~", "Icon\r", ".DS_Store"):
        shutil.copy(folder / "Annotations" / "chair_1.txt", folder / "Annotations" / stray)
    unit = next(unit for unit in READER.discover(root, PARTIAL).units if unit.id == "Area_1_copyRoom_1")
    assert len(READER.read_scan(unit, 0, SPEC).points) == 12 and "room" in unit.scans[0].files
    (text,) = [text for text in texts(root, "warning") if "left aside: not named" in text]
    assert "chair_1 (1).txt" in text


def test_stairs_are_clutter_and_said_to_be(root: Path) -> None:
    annotation(root).rename(annotation(root, "stairs_1.txt"))
    scan = read(root)
    assert scan.raw_counts == {0: 4, 7: 1, 8: 2, 10: 2, 12: 3}
    assert any("'stairs' is no class: taken for clutter" in t and "stairs_1.txt" in t for t in texts(root, "warning"))


def test_other_numbers_of_points_are_a_warning(root: Path) -> None:
    annotation(root).write_text(text_of(rows_of(2)))
    assert read(root).notes == {"points in office_2.txt, but 11 in Annotations, which are used": 12}


# ---------------------------------------------------------------- alignment


def test_the_plain_archive_keeps_its_angles_as_poses(root: Path) -> None:
    write_alignment(root)
    scan = read(root)
    assert scan.pose is not None
    points = scan.points + scan.origin
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    assert np.allclose((scan.pose @ [*middle, 1])[:3], middle, atol=1e-6)
    # by minus 90 degrees: what pointed along y points along x
    assert np.allclose(scan.pose[:3, :3] @ [0, 1, 0], [1, 0, 0])
    assert np.allclose(turned(30, middle)[:3, :3] @ [np.cos(np.pi / 6), np.sin(np.pi / 6), 0], [1, 0, 0])
    assert [g.facts["alignment"] for g in READER.check(root, PARTIAL).groups] == [2, 1]
    before = READER.discover(root, PARTIAL).units[0].signature()
    write_alignment(root, 45)
    assert READER.discover(root, PARTIAL).units[0].signature() != before


def test_the_archive_that_was_asked_for(root: Path) -> None:
    assert len(READER.discover(root, ReadOptions(allow_partial=True, version="aligned")).units) == 3
    with pytest.raises(WrongRoot, match=r"looks like the aligned archive.*Stanford3dDataset_v1\.2"):
        READER.check(root, ReadOptions(allow_partial=True, version="plain"))
    with pytest.raises(UsageError, match="plain or aligned"):
        READER.check(root, ReadOptions(version="v1.3"))
    write_alignment(root)
    with pytest.raises(WrongRoot, match="looks like the plain archive"):
        READER.check(root, ReadOptions(allow_partial=True, version="aligned"))


def test_mixed_archives_and_damaged_angles(root: Path) -> None:
    write_alignment(root)
    file = root / "Area_1" / "Area_1_alignmentAngle.txt"
    file.write_text("## x ##\noffice_2 ninety\n")
    assert any("line: 2" in text and file.name in text for text in texts(root))
    file.unlink()
    (text,) = [text for text in texts(root, options=ReadOptions()) if "both archives are mixed" in text]
    assert "without: Area_1" in text and "with alignment: Area_5" in text


# ---------------------------------------------------------------- rooms, folders, the root


def test_missing_and_extra_rooms_are_named(root: Path) -> None:
    with pytest.raises(DataError, match="areas are missing: Area_2"):
        for problem in READER.check(root).problems:
            raise problem.as_error()
    (text,) = [text for text in texts(root, options=ReadOptions()) if "67 rooms of the published list" in text]
    assert "Area_5" in text and "conferenceRoom_1, conferenceRoom_2" in text and "--allow-partial" in text
    write_room(root / "Area_1" / "kitchen_1")
    assert any("no room of the published list" in text and "kitchen_1" in text for text in texts(root, "warning"))
    assert len(READER.discover(root, PARTIAL).units) == 3


def test_rooms_in_other_letters_or_still_packed(root: Path) -> None:
    (root / "Area_1" / "copyRoom_1").rename(root / "Area_1" / "copyroom_1")
    shutil.rmtree(root / "Area_1" / "office_2")
    (root / "Area_1" / "office_2.zip").write_bytes(b"PK")
    for room in list_family("s3dis", "rooms").ids("all"):
        area, _, name = room.partition("/")
        if area == "Area_1" and name != "copyRoom_1":
            write_room(root / area / name, {"wall_1": 2})
    (problem,) = [
        p for g in READER.check(root).groups if g.group == "Area_1" for p in g.problems if p.severity == "error"
    ]
    assert problem.hint == "rename copyroom_1 to copyRoom_1"
    shutil.rmtree(root / "Area_1" / "office_2")
    (root / "Area_1" / "copyroom_1").rename(root / "Area_1" / "copyRoom_1")
    (problem,) = [
        p for g in READER.check(root).groups if g.group == "Area_1" for p in g.problems if p.severity == "error"
    ]
    assert problem.hint == "unpack office_2.zip"


def test_annotations_that_are_missing_or_empty(root: Path) -> None:
    place = root / "Area_1" / "office_2" / "Annotations"
    place.rename(place.with_name("annotations"))
    (text,) = [text for text in texts(root, options=ReadOptions()) if "without Annotations" in text]
    assert str(place) in text and "rename annotations to Annotations" in text
    scan = read(root)  # with --allow-partial: the file of the room, without labels
    assert scan.label is None and scan.truths == {} and len(scan.points) == 12
    place.mkdir()
    assert any("an empty folder Annotations" in t and str(place) in t for t in texts(root, options=ReadOptions()))
    (place / "wall_1.txt").symlink_to(root / "nowhere")
    assert any("a link that leads nowhere" in text and "wall_1.txt" in text for text in texts(root))


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "Area_1", tmp_path / "disk")
    (root / "Area_1").symlink_to(tmp_path / "disk")
    assert len(read(root).points) == 12


def test_every_wrong_level_is_told(root: Path, tmp_path: Path) -> None:
    for given, what in (
        (root / "Area_1", "too deep"),
        (root / "Area_1" / "office_2", "too deep"),
        (tmp_path, "too high"),
    ):
        with pytest.raises(WrongRoot, match=f"the root is {what}.*Area_1.*--root {root}"):
            READER.check(given)
    inner = tmp_path / "x" / "Stanford3dDataset_v1.2_Aligned_Version"
    shutil.copytree(root, inner)
    assert len(READER.discover(tmp_path / "x", PARTIAL).units) == 3
    shutil.copytree(root, tmp_path / "x" / "Stanford3dDataset_v1.2")
    with pytest.raises(WrongRoot, match="both archives are here"):
        READER.check(tmp_path / "x")
    for area in ROOMS:
        (root / area).rename(root / area.lower())
    with pytest.raises(WrongRoot, match="rename area_1 to Area_1"):
        READER.check(root)
    (root / "area_5").rename(root / "area_5a")
    with pytest.raises(WrongRoot, match="2D-3D-S"):
        READER.check(root)
    shutil.rmtree(root)
    root.mkdir()
    (root / "Stanford3dDataset_v1.2.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack Stanford3dDataset_v1\.2\.zip"):
        READER.check(root)


def test_a_generated_dataset_states_its_rooms(root: Path) -> None:
    (root / MANIFEST).write_text(json.dumps({"complete": True, "scans_per_sequence": {"Area_1": 2, "Area_5": 1}}))
    (root / "Area_1" / "copyRoom_1").rename(root / "Area_1" / "cave_7")
    (root / "Area_1" / "cave_7" / "copyRoom_1.txt").rename(root / "Area_1" / "cave_7" / "cave_7.txt")
    assert READER.discover(root).units[0].id == "Area_1_cave_7"
    assert READER.check(root).all_problems() == ()
    shutil.rmtree(root / "Area_1" / "cave_7")
    with pytest.raises(DataError, match="1 rooms are here, the description of this generated dataset says 2"):
        READER.discover(root)


# ---------------------------------------------------------------- damaged text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 2 3 4 5", r"5 columns, not 6.*line: 2"),
        (b"1 2 3 4 5 6 7", r"7 columns, not 6.*line: 2.*blanks"),
        (b"1 2 3 4,5 5 6", r"no number: '4,5'.*line: 2; field: r; bytes: 34 2c 35"),
        (b"1 \xff\xfe 3 4 5 6", r"no number.*line: 2; field: y; bytes: ff fe"),
        (b"1 2 3 4 5 256", r"whole number in 0\.\.255.*line: 2; found: 4 5 256"),
        (b"1 2 3 -1 5 6", r"whole number in 0\.\.255.*line: 2; found: -1 5 6"),
        (b"1 2 3 4.5 5 6", r"whole number in 0\.\.255.*line: 2; found: 4\.5 5 6"),
        (b"1 2 3 nan 5 6", r"whole number in 0\.\.255.*line: 2"),
        (b"1 2 3 0.5 0.25 1", r"whole number in 0\.\.255"),
    ],
)
def test_a_damaged_line_is_named(root: Path, line: bytes, message: str) -> None:
    annotation(root).write_bytes(b"0 0 0 1 2 3\n" + line + b"\n4 5 6 7 8 9\n")
    with pytest.raises(DataError, match=message) as caught:
        read(root)
    assert "chair_1.txt" in str(caught.value)
    annotation(root).write_bytes(b"\n\n0 0 0 1 2 3\n" + line + b"\n")  # blank lines are passed over, and counted
    with pytest.raises(DataError, match="line: 4"):
        read(root)


def test_cut_empty_and_foreign_files(root: Path) -> None:
    whole = annotation(root).read_bytes()
    annotation(root).write_bytes(whole[:-12])
    with pytest.raises(DataError, match="columns, not 6"):
        read(root)
    annotation(root).write_bytes(b"")
    assert read(root).notes["object without points (chair_1.txt)"] == 1
    annotation(root).write_text(whole.decode() * 3, encoding="utf-16")
    with pytest.raises(DataError, match=r"no text file: it holds \d+ control bytes"):
        read(root)
    for name in OBJECTS:
        annotation(root, f"{name}.txt").write_bytes(b"\n")
    with pytest.raises(DataError, match="the room has no points"):
        read(root)


def test_rows_that_are_not_finite_are_kept_and_ignored(root: Path) -> None:
    annotation(root).write_text("nan 0 0 1 2 3\n-12 30 1.5 1 2 3\n-12 inf 2 4 5 6\n")
    scan = read(root)
    assert scan.not_finite == 2 and np.isfinite(scan.points).all() and np.isfinite(scan.origin).all()
    assert scan.label is not None and scan.label.tolist().count(IGNORE) == 2


def test_a_file_that_changes_is_noticed(root: Path) -> None:
    unit = READER.discover(root, PARTIAL).units[1]
    annotation(root).write_text("0 0 0 1 2 3\n")
    with pytest.raises(DataError, match="changed while it was in use"):
        READER.read_scan(unit, 0, SPEC)


def test_a_point_that_is_nowhere(root: Path) -> None:
    annotation(root).write_text("0 0 0 1 2 3\n1e30 0 0 1 2 3\n")
    with pytest.raises(DataError, match=r"further away.*chair_1\.txt.*point: 2"):
        read(root)


@pytest.mark.parametrize("name", ["Annotations/ceiling_1.txt", "office_2.txt", "../Area_1_alignmentAngle.txt"])
def test_damage_is_an_error_or_harmless_but_never_a_crash(root: Path, name: str) -> None:
    write_alignment(root)
    file = root / "Area_1" / "office_2" / name
    whole, rng = file.read_bytes(), np.random.default_rng(7)
    refused = 0
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            changed[place] = int(rng.integers(256))
        file.write_bytes(changed[: int(rng.integers(len(whole))) if rng.random() < 0.3 else None])
        try:
            scan = read(root)
        except DataError as error:
            assert file.name in str(error), error
            refused += 1
        else:
            assert scan.label is not None and len(scan.label) == len(scan.points) and np.isfinite(scan.points).all()
    assert refused or name == "office_2.txt"  # the room's own file is only counted
