"""What is measured of streets: worked examples, the command on tiny streets, and what is kept of the frozen ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl3d.benchmarks import streets
from ssl3d.benchmarks.frames import write_frames
from ssl3d.cli import app
from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.data.synthetic.street import GENERATOR_VERSION, PRESETS, generate_street
from ssl3d.pipeline.progress import Silent

SPEC = load_spec("semantickitti")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streets") / "tiny"
    generate_street(out, "tiny", 0)
    return out


def test_cubes_lie_on_a_grid_through_the_sensor() -> None:
    points = np.array([[0.1, 0.1, 0.1], [0.29, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.1, 0.1, 0.31]], np.float32)
    assert streets.occupied(points, 0.3) == 3  # the first two share one; across 0 is another
    assert streets.occupied(points, 1.0) == 2
    assert streets.occupied(points[:0], 0.3) == 0


def test_a_lone_hole_has_both_neighbors_around_the_image() -> None:
    rows = ["#.##", ".###", "#..#", "...."]  # a hole; one at the seam; two together are none; an empty row is none
    assert streets.lone_holes(np.array([[pixel == "#" for pixel in row] for row in rows])) == 2


def test_figures_of_two_scans_worked_by_hand() -> None:
    car, road = SPEC.classes.index("car"), SPEC.classes.index("road")
    near = np.array([[1, 0, 0], [1.1, 0, 0], [0, -9.9, 0], [10, 0, 0]], np.float32)
    away = np.array([[0, 40, 0], [60, 0, 0], [90, 0, 0], [0, 49, 20]], np.float32)
    tally = streets.Tally()
    labels = np.array([[car, car, road, 255], [road, 255, 255, 255]], np.uint8)
    objects = np.array([[7, 9, 0, 0], [0, 0, 4, 0]], np.uint32)
    tally.add(near, np.array([0.2, 0.4, 0.3, 0.3], np.float32), labels[0], objects[0], SPEC.sensor)
    tally.add(away, np.full(4, 0.5, np.float32), labels[1], objects[1], SPEC.sensor)
    found = tally.figures(SPEC)
    assert found["points per scan"] == 4
    assert found["returns beyond 50 m"] == pytest.approx(100 * 3 / 8)  # as the laser flies: hypot(49, 20) > 50
    assert found["points per m2, 0-10 m"] == pytest.approx(3 / 2 / (100 * math.pi))
    assert found["points per m2, 10-20 m"] == pytest.approx(1 / 2 / (300 * math.pi))  # 10 m belongs to the outer ring
    assert found["points per m2, 30-50 m"] == pytest.approx(2 / 2 / (1600 * math.pi))
    assert found["points per m2, 50-80 m"] == pytest.approx(1 / 2 / (3900 * math.pi))  # 90 m is in no ring
    assert found["points per 0.3 m voxel, 0-10 m"] == 1.5
    assert math.isnan(found["points per 0.3 m voxel, 20-30 m"])
    assert found["voxels of 0.3 m per scan"] == 3.5
    assert found["voxels of 0.05 m per scan"] == 4
    assert found["share, car"] == found["share, road"] == pytest.approx(25)
    assert found["share, ignored"] == pytest.approx(50)
    assert found["intensity, car: mean"] == pytest.approx(0.3)
    assert found["intensity, car: std"] == pytest.approx(0.1)
    assert found["intensity, road: mean"] == pytest.approx(0.4)
    assert (found["objects, car"], found["objects, truck"]) == (2, 0)  # a numbered object of no class is none
    assert found["classes per scan"] == 1.5
    assert found["pixels filled"] == pytest.approx(100 * 5 / (2 * 64 * 1024))  # what is straight ahead falls together
    assert found["share, truck"] == 0 and math.isnan(found["intensity, truck: mean"])


def test_a_scan_without_labels_counts_for_density_alone() -> None:
    tally = streets.Tally()
    tally.add(np.ones((2, 3), np.float32), np.zeros(2, np.float32), None, None, SPEC.sensor)
    found = tally.figures(SPEC)
    assert found["points per scan"] == 2 and math.isnan(found["share, road"])


def test_an_object_is_counted_once_in_all_scans_of_its_sequence() -> None:
    car, bicycle = SPEC.classes.index("car"), SPEC.classes.index("bicycle")
    tally = streets.Tally()
    for number in (3, 3, 5):
        label, instance = np.array([car, bicycle], np.uint8), np.array([number, 3], np.uint32)
        tally.add(np.ones((2, 3), np.float32), np.zeros(2, np.float32), label, instance, SPEC.sensor)
    found = tally.figures(SPEC)
    assert (found["objects, car"], found["objects, bicycle"]) == (2, 1)
    assert streets.mean_figures([found, found])["objects, car"] == 4  # another sequence has other objects


def test_every_sequence_counts_the_same_and_an_absent_class_does_not() -> None:
    two = [{"share, a": 1.0, "share, b": math.nan}, {"share, a": 3.0, "share, b": 5.0}]
    assert streets.mean_figures(two) == {"share, a": 2.0, "share, b": 5.0}
    assert math.isnan(streets.mean_figures([{"share, a": math.nan}])["share, a"])


def test_published_shares_are_whole() -> None:
    shares = streets.published_figures(SPEC)
    assert shares["share, vegetation"] == pytest.approx(26.6815, abs=1e-4)
    # unlabeled, outlier, other-structure and other-object; the published table adds up to 0.9999985
    assert shares["share, ignored"] == pytest.approx(1.88899 + 0.02937 + 0.23951 + 0.99231, abs=2e-4)
    assert {streets.unit(name) for name in shares} == {"%"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.003702, "0.0037"),
        (0.3617, "0.362"),
        (9.578, "9.58"),
        (112.4, "112"),
        (54967, "55,000"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float | None, shown: str) -> None:
    assert streets.text(value) == shown
    assert streets.text(3, whole=True) == "3"


def test_the_command_on_tiny_streets(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frames(tmp_path / "recorded", {"00": 1, "05": 2}, num_points=500)
    file, picture = tmp_path / "streets.json", tmp_path / "scan.png"
    words = ["bench", "streets", "--streets", tiny, "--real", tmp_path / "recorded", "--json", file]
    assert app.run([str(word) for word in [*words, "--picture", picture]]) == 0
    found = json.loads(file.read_text())
    manifest = json.loads((tiny / MANIFEST).read_text())
    assert found["streets"] == {**{key: manifest[key] for key in streets.FROZEN}, "frozen": False}
    assert {role: list(part["sequences"]) for role, part in found["subsets"].items()} == {
        "train": ["00", "01"],
        "test": ["08"],  # 11 has no labels and is left out
    }
    test = found["subsets"]["test"]
    assert (test["scans"], test["points"]) == (3, sum(manifest["points_per_class"]["08"].values()))
    classes = manifest["points_per_class"]["08"]
    assert test["figures"]["share, road"] == pytest.approx(100 * classes["road"] / sum(classes.values()))
    assert test["figures"]["points per scan"] == pytest.approx(test["points"] / 3)
    assert (found["real"]["scans"], found["real"]["points"]) == (3, 1500)
    assert found["machine"]["command"].startswith("ssl3d bench streets")
    row = next(row for row in found["results"] if row["name"] == "points per scan (test)")
    assert row["theirs"] == 500 and row["ratio"] == pytest.approx(row["ours"] / 500) and row["unit"] == "points"
    assert picture.read_bytes()[1:4] == b"PNG"
    said = capsys.readouterr()
    assert "not the frozen ones" in said.err and "share, vegetation, %" in said.out


def test_streets_that_were_changed_are_refused(tiny: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(tiny, changed)
    label = changed / "sequences" / "08" / "labels" / "000001.label"
    words = np.fromfile(label, np.uint32)
    words[7] = 10
    label.write_bytes(words.tobytes()[:-4] + np.uint32(40).tobytes())
    with pytest.raises(DataError, match="not as they were generated"):
        streets.read_streets(changed)


def test_recordings_are_no_streets_and_streets_are_no_recordings(tiny: Path, tmp_path: Path) -> None:
    write_frames(tmp_path, {"00": 1}, num_points=10)
    with pytest.raises(UsageError, match="not generated here") as refused:
        streets.run(tmp_path, None, progress=Silent())
    assert "--real" in str(refused.value.hint)
    with pytest.raises(UsageError, match="no recordings"):
        streets.run(tiny, tiny, progress=Silent())


def test_recordings_without_labels_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, {"11": 1}, num_points=10)
    with pytest.raises(DataError, match="no scan here has labels"):
        streets.measure(tmp_path, progress=Silent())


def test_the_frozen_streets_are_the_generators_and_those_that_were_looked_at(repository: Path) -> None:
    kept = json.loads((repository / "benchmarks" / "results" / "streets.json").read_text())
    page = (repository / "docs" / "bench-streets.md").read_text(encoding="utf-8")
    assert kept["streets"] == {**streets.FROZEN, "frozen": True}
    assert streets.FROZEN["generator_version"] == GENERATOR_VERSION
    assert streets.FROZEN["sha256"] in page
    drives = PRESETS["bench"].sequences
    for role, part in kept["subsets"].items():
        members = [drive for drive in drives if streets.ROLES[drive.subset] == role]
        assert list(part["sequences"]) == [drive.name for drive in members]
        assert part["scans"] == sum(drive.scans for drive in members)
        assert f"{part['points']:,}" in page


def test_the_page_shows_the_figures_that_are_kept(repository: Path) -> None:
    kept = json.loads((repository / "benchmarks" / "results" / "streets.json").read_text())
    page = (repository / "docs" / "bench-streets.md").read_text(encoding="utf-8").splitlines()
    columns, rows = streets.table(kept)
    assert f"| {' | '.join(columns)} |" in page
    for row in rows:
        assert f"| {' | '.join(row)} |" in page


@pytest.mark.real
def test_recorded_frames_are_measured(real_kitti: Path) -> None:
    tallies = streets.measure(real_kitti, progress=Silent())
    assert {name: (tally.scans, tally.points) for name, tally in tallies.items()} == {
        "00": (3, 124668 + 124605 + 124478),
        "07": (1, 120485),
    }
    assert tallies["07"].figures(SPEC)["share, sidewalk"] == pytest.approx(100 * 19952 / 120485)
