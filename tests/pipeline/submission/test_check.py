from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.submission.archive import Archive, pack
from ssl3d.pipeline.submission.check import check_submission
from ssl3d.pipeline.submission.nuscenes import FLAGS, submission_json
from ssl3d.pipeline.submission.rules import Expected
from ssl3d.pipeline.submission.semantic3d import Semantic3DRules

Content = Mapping[str, bytes]
MakeZip = Callable[..., Path]


@pytest.fixture
def make_zip(tmp_path: Path) -> MakeZip:
    def make(content: Content, name: str = "sub.zip", folders: bool = True, top: str = "") -> Path:
        folder = tmp_path / "content"
        for path, value in content.items():
            (folder / top / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / top / path).write_bytes(value)
        target = tmp_path / name
        if folders:
            pack(folder, [PurePosixPath(top, path) for path in content], target)
        else:
            with zipfile.ZipFile(target, "w") as out:
                for path, value in content.items():
                    out.writestr(str(PurePosixPath(top, path)), value)
        return target

    return make


def whats(path: Path, benchmark: str | None = None, expected: Expected | None = None) -> list[str]:
    """The errors. (That a few scans are not the official dataset is a warning.)"""
    return [p.what for p in check_submission(path, benchmark, expected).problems if p.severity == "error"]


# ---------------------------------------------------------------- SemanticKITTI


def kitti(points: int = 5, frames: int = 3, sequence: str = "11") -> tuple[dict[str, bytes], Expected]:
    names = [f"sequences/{sequence}/predictions/{frame:06d}.label" for frame in range(frames)]
    content = {name: np.full(points, 40, "<u4").tobytes() for name in names}
    return content, Expected(dict.fromkeys(names, points), "a prepared dataset")


def test_a_packed_folder_passes(make_zip: MakeZip) -> None:
    content, expected = kitti()
    report = check_submission(make_zip({**content, "description.txt": b"ours"}), None, expected)
    assert report.ok and report.benchmark == "semantickitti"
    assert [p.what.partition(":")[0] for p in report.problems] == ["the server expects 20351 files"]
    assert (report.files, report.expected) == (4, 3)


def test_packing_is_reproducible_and_has_folders_first(make_zip: MakeZip, tmp_path: Path) -> None:
    content, _ = kitti()
    first, second = make_zip(content, "a.zip"), make_zip(content, "b.zip")
    assert first.read_bytes() == second.read_bytes()
    names = zipfile.ZipFile(first).namelist()
    assert names[:3] == ["sequences/", "sequences/11/", "sequences/11/predictions/"]
    assert not list(tmp_path.glob(".*"))


def test_kitti_without_folder_entries(make_zip: MakeZip) -> None:
    content, expected = kitti()
    assert whats(make_zip(content, folders=False), None, expected) == [
        "the archive has no entries for its folders, which the official validator asks for"
    ]


def test_kitti_counts_are_the_official_ones(make_zip: MakeZip) -> None:
    """An incomplete download passes the official validator, and fails on the server: 20351 files are due."""
    content, _ = kitti()
    report = check_submission(make_zip(content))
    assert report.expected == 20351 == sum(load_spec("semantickitti").scans_per_sequence[f"{s}"] for s in range(11, 22))
    assert "20348 files are missing" in [problem.what for problem in report.problems]


def test_kitti_lengths_and_ids(make_zip: MakeZip) -> None:
    content, expected = kitti()
    names = list(content)
    content[names[0]] = content[names[0]][:-4]
    content[names[1]] = np.array([40, 3, 3, 10, 252], "<u4").tobytes()  # 3: a train id; 252: a moving car
    content[names[2]] = np.full(5, 40 | 7 << 16, "<u4").tobytes()  # instance ids in the upper half
    report = check_submission(make_zip(content), None, expected)
    problems = {problem.what: problem.where.get("first") for problem in report.problems}
    assert (
        problems["a file does not have one label for each point"] == f"{names[0]}: 16 bytes, 20 expected for 5 points"
    )
    assert str(problems["a file holds ids that the server does not take"]).startswith(
        f"{names[1]}: 3 (2 points); {names[2]}"
    )


def test_a_folder_too_much_is_named(make_zip: MakeZip) -> None:
    content, expected = kitti()
    report = check_submission(make_zip(content, top="results"), None, expected)
    missing = next(problem for problem in report.problems if "missing" in problem.what)
    assert missing.hint == "zip the content of results/, not the folder itself"


# ---------------------------------------------------------------- nuScenes


def nuscenes(labels: np.ndarray | None = None, meta: bytes | None = None, subset: str = "val") -> dict[str, bytes]:
    values = np.arange(1, 17, dtype=np.uint8) if labels is None else labels.astype(np.uint8)
    return {
        f"lidarseg/{subset}/{'ab' * 16}_lidarseg.bin": values.tobytes(),
        f"{subset}/submission.json": submission_json({"use_lidar": True}) if meta is None else meta,
    }


def one(points: int = 16, subset: str = "val") -> Expected:
    return Expected({f"lidarseg/{subset}/{'ab' * 16}_lidarseg.bin": points}, "a prepared dataset")


def test_nuscenes_passes(make_zip: MakeZip) -> None:
    content = nuscenes()
    assert json.loads(content["val/submission.json"]) == {
        "meta": {flag: flag == "use_lidar" for flag in FLAGS}
    }  # exactly five booleans
    assert whats(make_zip(content), None, one()) == []


@pytest.mark.parametrize("wrong", [0, 17, 255])
def test_nuscenes_takes_1_to_16_only(make_zip: MakeZip, wrong: int) -> None:
    labels = np.array([1, 2, wrong])
    assert whats(make_zip(nuscenes(labels)), None, one(3)) == ["a file holds ids that the server does not take"]


@pytest.mark.parametrize(
    "meta", [b"", b"[]", b'{"meta": {}}', json.dumps({"meta": dict.fromkeys(FLAGS, 1)}).encode(), b'{"meta": "x"}']
)
def test_nuscenes_flags(make_zip: MakeZip, meta: bytes) -> None:
    found = whats(make_zip(nuscenes(meta=meta)), None, one())
    assert found == ["val/submission.json does not hold exactly the five flags as true or false"]


def test_nuscenes_without_a_dataset_counts_the_files(make_zip: MakeZip) -> None:
    found = whats(make_zip(nuscenes(subset="test")))
    assert found == ["1 prediction files; the test scenes have 6008 key frames"]


def test_nuscenes_empty_and_wrong_length(make_zip: MakeZip) -> None:
    assert whats(make_zip(nuscenes(np.zeros(0))), None, one(0)) == ["a file does not have one label for each point"]
    assert whats(make_zip(nuscenes()), None, one(20)) == ["a file does not have one label for each point"]


def test_nuscenes_of_two_subsets(make_zip: MakeZip) -> None:
    found = whats(make_zip({**nuscenes(), **nuscenes(subset="test")}), None, one())
    assert any("a submission is of one subset" in what for what in found)


# ---------------------------------------------------------------- ScanNet, Semantic3D


def scannet(text: bytes = b"1\n39\n0\n") -> dict[str, bytes]:
    return {f"scene0{number}_00.txt": text for number in range(707, 807)}


def test_scannet_passes_and_needs_all_100(make_zip: MakeZip) -> None:
    content = scannet()
    assert whats(make_zip(content)) == []
    content.pop("scene0800_00.txt")
    report = check_submission(make_zip(content, "less.zip"))
    # the fixture's folder still has the file, the archive has not
    assert [p.what for p in report.problems] == ["1 files are missing"]
    assert report.problems[0].where["first"] == "scene0800_00.txt"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"1\n13\n", "a file holds ids that the server does not take"),  # blinds are no class of the benchmark
        (b"1 2\n3\n", "a file is not one whole number a line"),
        (b"1.0\n2.0\n", "a file is not one whole number a line"),
        (b"", "a file does not have one label for each point"),
    ],
)
def test_scannet_lines(make_zip: MakeZip, text: bytes, what: str) -> None:
    assert whats(make_zip(scannet(text))) == [what]


def test_scannet_in_a_folder(make_zip: MakeZip) -> None:
    found = whats(make_zip(scannet(), top="pred"))
    assert "the files lie in a folder of the archive, not in its root" in found


def test_scannet_instances(make_zip: MakeZip) -> None:
    good = scannet(b"masks/a.txt 5 0.9\n")
    assert whats(make_zip({**good, "masks/a.txt": b"0\n1\n"})) == []
    assert whats(make_zip(good, "b.zip")) == ["a mask that is named is not in the archive"]
    for line in (b"masks/a.txt  5 0.9\n", b"/masks/a.txt 5 0.9\n", b"masks/a.txt 1 0.9\n", b"masks/a.txt 5 nan\n"):
        content = {**scannet(line), "masks/a.txt": b"0\n1\n"}
        assert "a line is not `relative/mask.txt label_id confidence`" in whats(make_zip(content, "c.zip"))


def test_semantic3d(make_zip: MakeZip) -> None:
    content = dict.fromkeys(Semantic3DRules().official().points, b"1\n8\n")
    assert len(content) == 4
    assert whats(make_zip(content)) == []
    content["sg27_10-reduced.labels"] = b"0\n9\n"
    assert whats(make_zip(content)) == ["a file holds ids that the server does not take"]
    expected = Expected({"sg27_10-reduced.labels": 3}, "one cloud")
    assert "a file does not have one label for each point" in whats(make_zip(content), "semantic3d", expected)


# ---------------------------------------------------------------- damaged archives


def test_what_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="no whole zip"):
        check_submission(tmp_path / "a.zip")
    with pytest.raises(UsageError, match="no such file"):
        check_submission(tmp_path / "b.zip")
    (tmp_path / "c.7z").write_bytes(b"")
    with pytest.raises(UsageError, match="end with"):
        check_submission(tmp_path / "c.7z")


def test_a_cut_zip_and_a_flipped_bit(make_zip: MakeZip) -> None:
    content, expected = kitti(points=4000, frames=2)
    rng = np.random.default_rng(0)
    for name in content:  # incompressible enough that a byte in the middle is content
        content[name] = rng.choice([40, 44, 48, 50, 70], 4000).astype("<u4").tobytes()
    path = make_zip(content)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    assert "a file of the archive is damaged" in whats(path, "semantickitti", expected)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no whole zip"):
        check_submission(path)


def test_entries_that_lead_out_and_unknown_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("../x.label", b"")
    assert "entries that lead out of the archive" in whats(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as out:
        out.writestr("readme.md", b"")
    with pytest.raises(UsageError, match="no known benchmark"):
        check_submission(tmp_path / "b.zip")
    with pytest.raises(UsageError, match="did you mean scannet"):
        check_submission(tmp_path / "b.zip", "scanet")
    with Archive(tmp_path / "b.zip") as archive:
        assert list(archive.entries) == ["readme.md"]
