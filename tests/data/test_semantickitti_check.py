"""Every row of the table of mistakes that users make with SemanticKITTI folders: found before anything is converted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.root import WrongRoot
from ssl3d.data.datasets.semantickitti import SemanticKitti
from ssl3d.data.datasets.source import Problem, ReadOptions
from ssl3d.data.errors import DataError, UsageError

READER = SemanticKitti()
PARTIAL = ReadOptions(allow_partial=True)
SCRIBBLES = ReadOptions("scribbles")
Make = Callable[..., Path]


def only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, [problem.what for problem in problems]
    return problems[0]


def error_of(root: Path, options: ReadOptions | None = None) -> str:
    """The message, which ``discover`` raises and ``check`` lists."""
    with pytest.raises(DataError) as caught:
        READER.discover(root, options)
    first = READER.check(root, options).errors[0]
    assert first.what == caught.value.what
    return str(caught.value)


def test_a_complete_dataset(make_kitti: Make) -> None:
    root = make_kitti({"00": 3, "08": 2, "11": 1}, images=True)
    report = READER.check(root)
    assert report.ok and not report.warnings
    rows = {s.group: (s.subset, s.scans, s.expected, *s.facts.values()) for s in report.groups}
    assert list(report.groups[0].facts) == ["labels", "scribbles", "images", "poses", "calib"]
    assert rows == {
        "00": ("train", 3, 3, 3, 0, 3, "3", "ok"),
        "08": ("val", 2, 2, 2, 0, 2, "2", "ok"),
        "11": ("test", 1, 1, 0, 0, 1, "1", "ok"),
    }
    layout = READER.discover(root)
    assert [unit.id for unit in layout.units] == ["00-000000", "08-000000", "11-000000"]
    assert layout.units[0].products() == ("points", "labels", "cameras")
    assert layout.units[2].products() == ("points", "cameras")
    assert layout.num_scans == 6 and [unit.scans[i].scan_id for unit, i in layout.scans()][3] == "08/000000"
    assert layout.units[0].scans[1].files["image"].path == str(root / "sequences/00/image_2/000001.png")
    assert layout.units[0].num_points == 50 + 51 + 52


def test_units_are_blocks_of_64_frame_numbers(make_kitti: Make) -> None:
    root = make_kitti({"00": 130}, points=1)
    assert [(u.id, len(u.scans)) for u in READER.discover(root).units] == [
        ("00-000000", 64),
        ("00-000064", 64),
        ("00-000128", 2),
    ]
    before = {unit.id: unit.signature() for unit in READER.discover(root).units}
    for frame in (1, 2, 64):
        (root / f"sequences/00/velodyne/{frame:06d}.bin").unlink()
    partial = READER.discover(root, PARTIAL)
    assert [(u.id, len(u.scans)) for u in partial.units] == [("00-000000", 62), ("00-000064", 63), ("00-000128", 2)]
    changed = {unit.id for unit in partial.units if unit.signature() != before[unit.id]}
    assert changed == {"00-000000", "00-000064"}


def test_the_signature_follows_the_files(make_kitti: Make) -> None:
    root = make_kitti({"00": 2})
    before = READER.discover(root).units[0].signature()
    assert READER.discover(root).units[0].signature() == before
    moved = root.rename(root.with_name("elsewhere"))
    assert READER.discover(moved).units[0].signature() == before
    calib = moved / "sequences/00/calib.txt"
    calib.write_text(calib.read_text() + "\n")
    assert READER.discover(moved).units[0].signature() != before


@pytest.mark.parametrize(
    ("below", "level", "right"),
    [
        ("sequences", "the folder of sequences itself", ""),
        ("sequences/00", "one sequence", ""),
        ("sequences/00/velodyne", "a velodyne folder", ""),
        ("..", "too high", "kitti"),
    ],
)
def test_the_wrong_level_is_named(make_kitti: Make, below: str, level: str, right: str) -> None:
    root = make_kitti()
    with pytest.raises(DataError, match=level) as caught:
        READER.check(root / below)
    assert caught.value.hint == f"--root {root}"
    assert READER.check(str(caught.value.hint).removeprefix("--root ")).ok


def test_both_published_levels_are_taken(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti()
    outer = tmp_path / "outer"
    outer.mkdir()
    root.rename(outer / "dataset")
    assert READER.check(outer).ok and READER.check(outer / "dataset").ok
    scan = READER.discover(outer).units[0].scans[0]
    assert scan.files["points"].path == str(outer / "dataset/sequences/00/velodyne/000000.bin")
    (tmp_path / "data").mkdir()
    outer.rename(tmp_path / "data" / "kitti")
    with pytest.raises(DataError, match="too high") as caught:
        READER.check(tmp_path / "data")
    assert caught.value.hint == f"--root {tmp_path / 'data' / 'kitti'}"


def test_data_sequences_is_found(make_kitti: Make, tmp_path: Path) -> None:
    make_kitti(name="data")
    with pytest.raises(DataError) as caught:
        READER.check(tmp_path)
    assert caught.value.hint == f"--root {tmp_path / 'data'}"


@pytest.mark.parametrize("folder", ["sequences/velodyne/00", "dataset/sequences/train/00/velodyne", "velodyne/00"])
def test_rearranged_datasets_are_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="re-arranged"):
        READER.check(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("training", "object detection"),
        ("2011_09_26", "raw layout"),
        ("data_odometry_velodyne.zip", "not unpacked"),
        ("holiday", "no SemanticKITTI data here"),
    ],
)
def test_other_folders_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message):
        READER.check(tmp_path)


def test_roots_that_are_no_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        READER.check(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file, not a folder"):
        READER.check(tmp_path / "file")
    (tmp_path / "sequences").mkdir()
    with pytest.raises(DataError, match="holds no sequence"):
        READER.check(tmp_path)


def test_a_symlinked_dataset(make_kitti: Make, tmp_path: Path) -> None:
    root = make_kitti()
    link = tmp_path / "link" / "sequences"
    for sequence in (root / "sequences").iterdir():
        (link / sequence.name).mkdir(parents=True)
        for child in sequence.iterdir():
            (link / sequence.name / child.name).symlink_to(child)
    shutil.copy(root / "ssl3d_synth.json", tmp_path / "link")
    assert READER.check(tmp_path / "link").ok and READER.discover(tmp_path / "link").num_scans == 6


def test_links_that_lead_nowhere(make_kitti: Make) -> None:
    root = make_kitti()
    scan = root / "sequences/00/velodyne/000001.bin"
    scan.unlink()
    scan.symlink_to("annexed")
    assert "cannot be opened" in error_of(root, PARTIAL) and str(scan) in error_of(root, PARTIAL)


def test_a_truncated_scan(make_kitti: Make) -> None:
    root = make_kitti()
    scan = root / "sequences/00/velodyne/000001.bin"
    scan.write_bytes(scan.read_bytes()[:-5])
    message = error_of(root, PARTIAL)
    assert str(scan) in message and "811 bytes" in message and "11 left over" in message


def test_labels_of_another_scan(make_kitti: Make) -> None:
    root = make_kitti()
    labels = root / "sequences/00/labels"
    shutil.copy(labels / "000000.label", labels / "000002.label")
    message = error_of(root, PARTIAL)
    assert "52 points, 50 labels" in message
    assert str(labels / "000002.label") in message and str(root / "sequences/00/velodyne/000002.bin") in message


def test_missing_labels(make_kitti: Make) -> None:
    root = make_kitti()
    (root / "sequences/08/labels/000000.label").unlink()
    assert "1 scan of 2 without a label file" in error_of(root) and "missing: 000000" in error_of(root)
    shutil.rmtree(root / "sequences/08/labels")
    message = error_of(root)
    assert "no labels in a val sequence" in message and "data_odometry_labels.zip" in message
    layout = READER.discover(root, PARTIAL)
    assert "no labels in a val sequence" in only(layout.warnings).what
    assert layout.units[1].products() == ("points",)


def test_missing_scans(make_kitti: Make) -> None:
    root = make_kitti({"00": 9})
    for frame in (7, 8):
        (root / f"sequences/00/velodyne/{frame:06d}.bin").unlink()
    message = error_of(root)
    assert "expected: 9" in message and "found: 7" in message and "first missing: 000007" in message
    for frame in (1, 2, 4):
        (root / f"sequences/00/velodyne/{frame:06d}.bin").unlink()
    message = error_of(root)
    assert "gaps" in message and "missing: 000001..000002, 000004" in message
    layout = READER.discover(root, PARTIAL)
    assert layout.num_scans == 4 and len(layout.warnings) == 2


def test_too_many_scans(make_kitti: Make) -> None:
    root = make_kitti({"00": 3})
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": {"00": 2}}))
    assert "1 more scans than the sequence has" in error_of(root) and "000002" in error_of(root)


def test_missing_folders(make_kitti: Make) -> None:
    root = make_kitti()
    shutil.rmtree(root / "sequences/00/velodyne")
    assert "data_odometry_velodyne.zip is not unpacked" in error_of(root)
    assert READER.discover(root, PARTIAL).num_scans == 3
    shutil.rmtree(root / "sequences/00")
    assert "sequences of the train set are missing: 00" in error_of(root)
    shutil.rmtree(root / "sequences/08")
    shutil.rmtree(root / "sequences/11/velodyne")
    assert "there are no scans here" in error_of(root, PARTIAL)


def test_the_fixed_counts_hold_without_a_manifest(make_kitti: Make) -> None:
    root = make_kitti({"04": 3}, manifest=False)
    report = READER.check(root)
    assert report.groups[0].expected == 271
    texts = " ".join(problem.what for problem in report.errors)
    assert "train set are missing: 00, 01, 02, 03, 05" in texts and "scans are missing at the end" in texts
    assert "more problems: `ssl3d prepare semantickitti --root" in error_of(root)
    assert READER.discover(root, PARTIAL).num_scans == 3


def test_a_generated_dataset_that_is_not_finished(make_kitti: Make) -> None:
    root = make_kitti()
    (root / "ssl3d_synth.json").write_text(json.dumps({"complete": False, "scans_per_sequence": {"00": 3}}))
    with pytest.raises(DataError, match="not finished"):
        READER.check(root)
    (root / "ssl3d_synth.json").write_text('{"complete": tr')
    with pytest.raises(DataError, match="damaged"):
        READER.check(root)


def test_calib_without_tr(make_kitti: Make) -> None:
    root = make_kitti({"00": 2})
    (root / "sequences/00/calib.txt").write_text("P2: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    problem = only(READER.check(root).warnings)
    assert "no (usable) Tr" in problem.what and "data_odometry_calib.zip" in str(problem.hint)
    assert READER.discover(root).units[0].shared == {}
    (root / "sequences/00/calib.txt").unlink()
    assert "no calib.txt" in only(READER.check(root).warnings).what
    (root / "sequences/00/calib.txt").write_text("Tr: 1 2 three\n")
    assert "calib.txt is not a name and 12 numbers" in error_of(root)


def test_poses_of_another_sequence(make_kitti: Make) -> None:
    root = make_kitti({"00": 3})
    poses = root / "sequences/00/poses.txt"
    lines = poses.read_text().splitlines()
    for wrong in (lines[:2], [*lines, lines[0]]):
        poses.write_text("\n".join(wrong))
        message = error_of(root)
        assert f"poses.txt has {len(wrong)} lines for 3 scans" in message and str(poses) in message
    poses.unlink()
    assert "no poses.txt" in only(READER.check(root).warnings).what


def test_whole_sequence_poses_with_some_frames(make_kitti: Make) -> None:
    root = make_kitti({"00": 6})
    for frame in (0, 1, 2, 4):
        (root / f"sequences/00/velodyne/{frame:06d}.bin").unlink()
    layout = READER.discover(root, PARTIAL)
    scan = READER.read_scan(layout.units[0], 0, READER.spec())
    assert layout.units[0].scans[0].scan_id == "00/000003" and scan.pose is not None
    # Tr^-1 pose Tr: the camera moved 3.5 right and 6 forward; forward is x and right is -y for the LiDAR
    assert np.allclose(scan.pose[:3, 3], [6, -3.5, 0])


def test_scribbles(make_kitti: Make) -> None:
    root = make_kitti({"00": 2, "08": 1}, scribbles=True)
    layout = READER.discover(root, SCRIBBLES)
    assert layout.units[0].products() == ("points", "labels", "scribbles")
    assert layout.units[1].products() == ("points", "labels")  # evaluation uses the full labels
    assert READER.discover(root).units[0].products() == ("points", "labels")
    (root / "sequences/00/scribbles/000001.label").write_bytes(b"\0" * 8)
    assert "51 points, 2 labels" in error_of(root, SCRIBBLES)
    (root / "sequences/00/scribbles/000001.label").unlink()
    assert "1 scan of 2 without scribbles" in error_of(root, SCRIBBLES)
    shutil.rmtree(root / "sequences/00/scribbles")
    assert "ScribbleKITTI archive" in error_of(root, SCRIBBLES)


def test_empty_scans_are_kept_with_a_warning(make_kitti: Make) -> None:
    root = make_kitti({"00": 2})
    for file in ("velodyne/000001.bin", "labels/000001.label"):
        (root / "sequences/00" / file).write_bytes(b"")
    assert "1 scan without any point" in only(READER.discover(root).warnings).what


def test_files_that_are_no_frames(make_kitti: Make) -> None:
    root = make_kitti({"00": 2})
    velodyne = root / "sequences/00/velodyne"
    (velodyne / ".DS_Store").write_text("")
    assert READER.check(root).all_problems() == ()
    (velodyne / "000001 (copy).bin").write_text("")
    assert "1 file in velodyne/ left aside" in only(READER.check(root).warnings).what
    for scan in list(velodyne.iterdir()):
        scan.rename(velodyne / f"0000{scan.name}")
    assert "ten digits" in error_of(root)


def test_equal_warnings_are_told_once(make_kitti: Make) -> None:
    root = make_kitti({"00": 1, "01": 1, "08": 1})
    for sequence in ("00", "01", "08"):
        (root / "sequences" / sequence / "poses.txt").unlink()
    assert only(READER.discover(root).warnings).where["group"] == "00, 01, 08"


def test_an_unreadable_folder(make_kitti: Make) -> None:
    root = make_kitti({"00": 1})
    folder = root / "sequences/00/velodyne"
    folder.chmod(0)
    try:
        list(folder.iterdir())
        pytest.skip("this user may read everything (root)")
    except PermissionError:
        with pytest.raises(DataError, match="may not be read"):
            READER.check(root)
    finally:
        folder.chmod(0o755)


def test_folders_in_other_case_are_named(make_kitti: Callable[..., Path]) -> None:
    root = make_kitti()
    (root / "sequences/00/velodyne").rename(root / "sequences/00/Velodyne")
    (root / "sequences/08/labels").rename(root / "sequences/08/LABELS")
    found = [problem.what for problem in READER.check(root).errors]
    assert any("called Velodyne, rename it to velodyne" in what for what in found)
    assert any("called LABELS, rename it to labels" in what for what in found)
    (root / "sequences").rename(root / "Sequences")
    with pytest.raises(WrongRoot) as caught:
        READER.check(root)
    assert caught.value.hint == "rename Sequences to sequences" and caught.value.exit_code == 2


def test_words_that_this_dataset_does_not_know(make_kitti: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no versions"):
        READER.check(make_kitti(), ReadOptions(version="v1.0-mini"))
    assert READER.spec().label_sets == ("labels", "scribbles")


def test_images_need_a_usable_calibration(make_kitti: Make) -> None:
    root = make_kitti({"00": 1}, images=True)
    calib = root / "sequences/00/calib.txt"
    calib.write_text("".join(line for line in calib.read_text().splitlines(keepends=True) if line.startswith("Tr")))
    assert "no (usable) P2" in only(READER.check(root).warnings).what
    (unit,) = READER.discover(root).units
    assert unit.fields.pose and not unit.fields.cameras
