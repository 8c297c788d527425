"""SemanticPOSS: what is read of a whole folder, and the mistakes that users make with it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.root import WrongRoot
from ssl3d.data.datasets.semanticposs import SemanticPoss
from ssl3d.data.datasets.source import DatasetReader, ReadOptions
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader
from ssl3d.data.synthetic.street import generate_street

Damage = Callable[[DatasetReader, Path, list[Path], int], int]
READER = SemanticPoss()
SPEC = load_spec("semanticposs")
PARTIAL = ReadOptions(allow_partial=True)
SEQUENCES = ("00", "01", "02", "03", "04", "05")
RAW = np.array([0, 1, *range(4, 23)], np.uint32)
Make = Callable[..., Path]


@pytest.fixture
def make_poss(tmp_path: Path) -> Make:
    """``make_poss(scans=2, points=60, name="poss")``: all six sequences; point k lies in the k-th cell of the tag."""

    def make(scans: int = 2, points: int = 60, name: str = "poss", sequences: Sequence[str] = SEQUENCES) -> Path:
        root, rng = tmp_path / name, np.random.default_rng(0)
        for sequence in sequences:
            folder = root / "sequences" / sequence
            for sub in ("velodyne", "labels", "tag"):
                (folder / sub).mkdir(parents=True)
            for number in range(scans):
                n = points + number
                rows = rng.normal(0, 10, (n, 4)).astype("<f4")
                rows[:, 3] = rng.integers(0, 256, n)
                tag = np.zeros(72000, "u1")
                tag[rng.choice(72000, n, replace=False)] = 1
                words = rng.choice(RAW, n) | (rng.integers(0, 500, n).astype("<u4") << np.uint32(16))
                rows.tofile(folder / "velodyne" / f"{number:06d}.bin")
                words.astype("<u4").tofile(folder / "labels" / f"{number:06d}.label")
                tag.tofile(folder / "tag" / f"{number:06d}.tag")
        return root

    return make


def error_of(root: Path, options: ReadOptions | None = None) -> str:
    """The message, which ``discover`` raises and ``check`` lists."""
    with pytest.raises(DataError) as caught:
        READER.discover(root, options)
    assert READER.check(root, options).errors[0].what == caught.value.what
    return str(caught.value)


def read_error(root: Path) -> str:
    unit = READER.discover(root).units[0]
    with pytest.raises(DataError) as caught:
        READER.read_scan(unit, 0, SPEC)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- what is read


def test_it_is_found_by_its_name() -> None:
    assert isinstance(get_reader("semanticposs"), SemanticPoss)


def test_classes() -> None:
    assert SPEC.num_classes == 13 and SPEC.classes[0] == "person" and SPEC.classes[12] == "ground"
    table, known = SPEC.lut()
    assert table[[4, 5, 6, 10, 11, 12, 21, 22]].tolist() == [0, 0, 1, 5, 5, 5, 11, 12]
    assert table[[0, 1, 2, 3, 18, 19, 20]].tolist() == [IGNORE] * 7 and int(known.sum()) == 23
    assert SPEC.to_raw(np.arange(13, dtype=np.uint8)).tolist() == [4, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 21, 22]
    assert SPEC.content[0] == pytest.approx(0.015402000989588365 + 0.0030953055529133635)
    assert SPEC.splits == {"train": ("00", "01", "03", "04", "05"), "val": ("02",), "test": ()}


def test_the_other_class_lists() -> None:
    twelve, eleven = load_spec("semanticposs", "12"), load_spec("semanticposs", "11")
    assert twelve.num_classes == 12 and twelve.lut()[0][[14, 16, 15, 22]].tolist() == [7, 7, 8, 11]
    assert eleven.num_classes == 11 and eleven.lut()[0][[14, 16, 15, 22]].tolist() == [IGNORE, IGNORE, 7, 10]


@pytest.mark.parametrize(
    ("version", "held"), [("", "02"), ("val02", "02"), ("val03", "03"), ("03", "03"), ("semanticposs-val03", "03")]
)
def test_both_conventions(make_poss: Make, version: str, held: str) -> None:
    layout = READER.discover(make_poss(), ReadOptions(version=version))
    assert [unit.group for unit in layout.units] == list(SEQUENCES)
    assert [unit.group for unit in layout.units if unit.subset == "val"] == [held]
    assert {unit.subset for unit in layout.units} == {"train", "val"} and layout.report.all_problems() == ()


def test_there_are_no_other_conventions(make_poss: Make) -> None:
    with pytest.raises(UsageError, match="no version 'val04'"):
        READER.discover(make_poss(), ReadOptions(version="val04"))


def test_what_is_stored_is_what_was_written(make_poss: Make, tmp_path: Path) -> None:
    unit = READER.discover(make_poss()).units[1]
    assert unit.id == "01-000000" and [scan.scan_id for scan in unit.scans] == ["01/000000", "01/000001"]
    out = {name: tmp_path / f"{name}.h5" for name in unit.products()}
    info = convert_unit(READER, unit, out, ConvertParams())
    points, labels = ShardReader(out["points"]), ShardReader(out["labels"])
    words = [np.fromfile(scan.files["labels"].path, "<u4") for scan in unit.scans]
    undocumented = int(np.isin(np.concatenate(words) & 0xFFFF, (1, 18, 19, 20)).sum())
    assert info.warnings == [f"01-000000: {undocumented} points with undocumented ids (1, 18, 19, 20), ignored"]
    assert info.columns == ["column", "intensity", "ring"] and sum(info.class_counts) + info.ignored == 121
    for i, scan in enumerate(unit.scans):
        rows = np.fromfile(scan.files["points"].path, "<f4").reshape(-1, 4)
        assert np.array_equal(points.read("points", i), rows[:, :3])
        assert np.allclose(255 * points.read("intensity", i), rows[:, 3]) and rows[:, 3].max() > 200
        assert np.array_equal(labels.read("label", i), SPEC.lut()[0][words[i] & 0xFFFF])
        assert np.array_equal(labels.read("instance", i), words[i] >> 16)
        tag = np.fromfile(scan.files["tag"].path, np.bool_).reshape(40, 1800)
        image = np.zeros((40, 1800, 3), np.float32)
        image[tag] = rows[:, :3]  # as the reader that comes with the data fills its image
        ring, column = points.read("ring", i), points.read("column", i)
        assert (ring.dtype, column.dtype) == (np.uint8, np.uint16) and ring.max() > 30 and column.max() > 1500
        assert np.array_equal(image[ring, column], rows[:, :3])


def test_units_are_blocks_of_64_numbers(make_poss: Make) -> None:
    units = READER.discover(make_poss(66, points=1)).units
    assert [(unit.id, len(unit.scans)) for unit in units[:2]] == [("00-000000", 64), ("00-000064", 2)]


def test_points_that_are_no_measurement_keep_their_place(make_poss: Make) -> None:
    root = make_poss()
    file = root / "sequences/00/velodyne/000000.bin"
    rows = np.fromfile(file, "<f4").reshape(-1, 4)
    rows[3, 1], rows[4, :3], rows[5, 3] = np.nan, 0, 300
    rows.tofile(file)
    raw = READER.read_scan(READER.discover(root).units[0], 0, SPEC)
    assert (raw.not_finite, raw.all_zero) == (1, 0) and raw.label is not None and raw.label[3] == IGNORE
    assert raw.points[3].tolist() == [0, 0, 0] and any("intensity outside" in note for note in raw.notes)


def test_files_are_paired_by_number_and_not_by_order(make_poss: Make) -> None:
    root = make_poss(3)
    before = READER.read_scan(READER.discover(root).units[0], 1, SPEC).label
    for name in ("velodyne/000000.bin", "tag/000000.tag"):
        (root / "sequences/00" / name).unlink()
    layout = READER.discover(root)
    assert [scan.scan_id for scan in layout.units[0].scans] == ["00/000001", "00/000002"]
    assert np.array_equal(READER.read_scan(layout.units[0], 0, SPEC).label, before)
    texts = [problem.what for problem in layout.warnings]
    assert any("1 files in labels/ belong to no scan" in text for text in texts) and any("gaps" in t for t in texts)


def test_generated_streets(tmp_path: Path) -> None:
    root = tmp_path / "street"
    generate_street(root, preset="tiny", seed=0, layout="semanticposs")
    manifest = json.loads((root / "ssl3d_synth.json").read_text())
    layout = READER.discover(root)
    assert layout.report.all_problems() == ()
    assert {group.group: group.scans for group in layout.report.groups} == manifest["scans_per_sequence"]
    for unit in layout.units:
        out = {name: tmp_path / f"{unit.id}.{name}.h5" for name in unit.products()}
        convert_unit(READER, unit, out, ConvertParams())
        points, labels = ShardReader(out["points"]), ShardReader(out["labels"])
        counts: Counter[str] = Counter()
        for i, scan in enumerate(unit.scans):
            words = np.fromfile(scan.files["labels"].path, "<u4")
            rows = np.fromfile(scan.files["points"].path, "<f4").reshape(-1, 4)
            assert np.array_equal(points.read("points", i), rows[:, :3])
            assert np.array_equal(labels.read("label", i), SPEC.lut()[0][words & 0xFFFF])
            assert np.array_equal(labels.read("instance", i), words >> 16)
            columns = points.read("column", i).astype(np.float64)
            azimuth = np.arctan2(rows[:, 1], rows[:, 0])  # columns run from behind over the left
            apart = np.abs((np.pi - azimuth) % (2 * np.pi) * 1800 / (2 * np.pi) - columns - 0.5)
            assert np.median(np.minimum(apart, 1800 - apart)) < 1
            counts += Counter(SPEC.raw_names[int(raw)] for raw in words & 0xFFFF)
        assert counts == Counter({name: n for name, n in manifest["points_per_class"][unit.group].items() if n})


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_a_tag_of_another_size(make_poss: Make) -> None:
    root = make_poss()
    file = root / "sequences/00/tag/000001.tag"
    file.write_bytes(b"\1" * 70000)
    text = error_of(root)
    assert "70000 bytes" in text and "40 x 1800" in text and "72000" in text and str(file) in text


def test_a_tag_of_another_scan(make_poss: Make) -> None:
    root = make_poss()
    one, other = (root / f"sequences/00/tag/{number:06d}.tag" for number in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    text = read_error(root)
    assert "61 cells hold a point, the scan has 60 points" in text
    assert str(one) in text and str(root / "sequences/00/velodyne/000000.bin") in text
    one.write_bytes(bytes(71999) + b"\7")
    assert "a tag is 0 or 1, found 7" in read_error(root)


def test_without_tags(make_poss: Make, tmp_path: Path) -> None:
    root = make_poss()
    (root / "sequences/00/tag/000001.tag").unlink()
    text = error_of(root)
    assert "1 of 2 scans have no tag" in text and "only range images need tags" in text and "--allow-partial" in text
    assert [set(u.fields.columns) for u in READER.discover(root, PARTIAL).units[:2]] == [
        {"intensity"},
        {"intensity", "ring", "column"},
    ]
    for sequence in SEQUENCES:
        shutil.rmtree(root / "sequences" / sequence / "tag")
    layout = READER.discover(root)
    assert "there are no tags: only range images need tags" in layout.warnings[0].what
    unit = layout.units[0]
    info = convert_unit(READER, unit, {name: tmp_path / f"{name}.h5" for name in unit.products()}, ConvertParams())
    assert info.columns == ["intensity"]


@pytest.mark.parametrize("labels", [0, 59, 120])
def test_labels_of_another_length(make_poss: Make, labels: int) -> None:
    root = make_poss()
    file = root / "sequences/00/labels/000000.label"
    np.zeros(labels, "<u4").tofile(file)
    text = error_of(root)
    assert f"60 points, {labels} labels" in text and str(file) in text


def test_ids_that_do_not_exist(make_poss: Make) -> None:
    root = make_poss()
    words = np.full(60, 22, "<u4")
    words[:3] = 40, 40, 23
    words.tofile(root / "sequences/00/labels/000000.label")
    text = read_error(root)
    assert "23 (1 points), 40 (2 points)" in text and "000000.label" in text


def test_scans_of_semantickitti(make_poss: Make) -> None:
    root = make_poss()
    np.zeros((120000, 4), "<f4").tofile(root / "sequences/00/velodyne/000000.bin")
    assert "120000 points, the sensor has 72000 cells" in error_of(root)


def test_a_truncated_scan(make_poss: Make) -> None:
    root = make_poss()
    file = root / "sequences/00/velodyne/000000.bin"
    file.write_bytes(file.read_bytes()[:-5])
    text = error_of(root)
    assert "truncated scan: 955 bytes" in text and str(file) in text


def test_sequences_of_one_digit(make_poss: Make) -> None:
    root = make_poss(sequences=[str(number) for number in range(6)])
    text = error_of(root)
    assert (
        "named 0, 1, 2, 3, 4, 5, 00..05 were expected" in text and f"mv {root}/sequences/0 {root}/sequences/00" in text
    )


def test_missing_and_unknown_sequences(make_poss: Make) -> None:
    root = make_poss()
    (root / "sequences/04").rename(root / "sequences/11")
    text = error_of(root)
    assert "sequences are missing: 04" in text and "--allow-partial" in text
    layout = READER.discover(root, PARTIAL)
    assert len(layout.units) == 5 and any("left aside" in p.what and "11" in p.what for p in layout.warnings)


@pytest.mark.parametrize("below", ["sequences", "sequences/00", "sequences/00/velodyne", ".."])
def test_the_wrong_level_is_named(make_poss: Make, below: str) -> None:
    root = make_poss()
    with pytest.raises(WrongRoot, match=r"too (deep|high)") as caught:
        READER.check(root / below)
    assert caught.value.hint == f"--root {root}"


def test_levels(make_poss: Make, tmp_path: Path) -> None:
    root = make_poss()
    (tmp_path / "outer").mkdir()
    root.rename(tmp_path / "outer/dataset")
    assert len(READER.discover(tmp_path / "outer").units) == 6
    (tmp_path / "outer/dataset/sequences").rename(tmp_path / "flat")
    with pytest.raises(DataError, match="outside of a folder `sequences`"):
        READER.check(tmp_path / "flat")
    with pytest.raises(WrongRoot, match="no SemanticPOSS data here"):
        READER.check(tmp_path / "outer")


def test_archives_and_names_in_other_case(make_poss: Make, tmp_path: Path) -> None:
    archive = tmp_path / "archives" / "SemanticPOSS_dataset.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dataset/sequences/00/tag/000000.tag", b"")
    with pytest.raises(DataError, match="not unpacked"):
        READER.check(archive.parent)
    with pytest.raises(WrongRoot, match="a file, not a folder"):
        READER.check(archive)
    root = make_poss()
    (root / "sequences/00/labels").rename(root / "sequences/00/Labels")
    text = error_of(root)
    assert "2 of 2 scans have no labels" in text and f"rename {root}/sequences/00/Labels to labels" in text
    (root / "sequences").rename(root / "Sequences")
    with pytest.raises(WrongRoot) as caught:
        READER.check(root)
    assert caught.value.hint == "rename Sequences to sequences"


def test_files_with_other_names(make_poss: Make) -> None:
    root = make_poss()
    folder = root / "sequences/00/velodyne"
    for file in list(folder.iterdir()):
        file.rename(folder / f"{int(file.stem)}.bin")
    text = error_of(root)
    assert "not named FFFFFF.bin" in text and str(folder) in text


def test_links_are_followed(make_poss: Make, tmp_path: Path) -> None:
    root = make_poss()
    (root / "sequences/01").rename(tmp_path / "elsewhere")
    (root / "sequences/01").symlink_to(tmp_path / "elsewhere")
    assert len(READER.discover(root).units) == 6
    file = root / "sequences/00/tag/000000.tag"
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    text = error_of(root)
    assert "cannot be opened" in text and str(file) in text


def test_generated_data_states_how_much_it_is(make_poss: Make) -> None:
    root = make_poss(sequences=("00", "02"))
    manifest = root / "ssl3d_synth.json"
    manifest.write_text(json.dumps({"complete": True, "scans_per_sequence": {"00": 2, "02": 2}}))
    assert READER.check(root).all_problems() == ()
    (root / "sequences/00/velodyne/000001.bin").unlink()
    assert "another number of scans than it should" in error_of(root)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_is_anything_but_an_error_with_a_name(make_poss: Make, seed: int, damage_at_random: Damage) -> None:
    root = make_poss()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert damage_at_random(READER, root, files, seed) > 10
