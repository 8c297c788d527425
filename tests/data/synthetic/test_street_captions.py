"""What is said about images of generated streets, beside the images themselves."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl3d.data.captions.check import check_captions
from ssl3d.data.captions.files import CaptionFiles
from ssl3d.data.captions.ids import image_id
from ssl3d.data.captions.rle import area, contains
from ssl3d.data.captions.source import open_source
from ssl3d.data.synthetic import captions, captions_street
from ssl3d.data.synthetic.camera import camera_of, make_calibration, rigid_inverse
from ssl3d.data.synthetic.captions_street import speaker, things_seen, words_of
from ssl3d.data.synthetic.frames import drive_of, time_of, world_of
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.street import generate_street


def sizes_of(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(root.glob("sequences/*/image_2/*.png")):
        with Image.open(path) as image:
            found[image_id(path.relative_to(root).as_posix())] = image.size
    return found


def test_captions_are_sound_and_of_every_labeled_image(streets: Path) -> None:
    sizes = sizes_of(streets)
    expected = [name for name in sizes if not name.startswith("11/")]  # the test sequence has no labels
    report = check_captions(open_source(streets / "captions", sizes), expected, "semantickitti")
    assert report.problems == []
    assert report.covered == report.expected == 11 and report.captions == 22
    assert report.entities > 40 and report.boxes == 0 and report.phrases >= 10
    assert {path.name for path in (streets / "captions").iterdir()} == {"image.jsonl", "entity.jsonl", "manifest.toml"}


def test_things_are_where_points_of_them_fall(streets: Path) -> None:
    """The map of things against the labels of the points that project into the image."""
    plan = PRESETS["tiny"]
    calibration = make_calibration(plan.image_scale)
    world, time = world_of("tiny", 0, "01"), time_of(drive_of("tiny", "01"), 2)
    camera, lens = camera_of(world.pose(time), calibration)
    who = things_seen(world.scene(time), camera, lens, (calibration.width, calibration.height))
    folder = streets / "sequences" / "01"
    points = np.fromfile(folder / "velodyne" / "000002.bin", "<f4").reshape(-1, 4)[:, :3].astype(float)
    words = np.fromfile(folder / "labels" / "000002.label", "<u4")
    to_camera = rigid_inverse(camera) @ world.pose(time)
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    ahead = seen[:, 2] > 1.0
    u = np.floor(lens[0] * seen[ahead, 0] / seen[ahead, 2] + lens[2]).astype(int)
    v = np.floor(lens[1] * seen[ahead, 1] / seen[ahead, 2] + lens[3]).astype(int)
    inside = (u >= 0) & (u < who.shape[1]) & (v >= 0) & (v < who.shape[0])
    label = (words & 0xFFFF)[ahead][inside]
    found = [words_of(int(thing)) for thing in who[v[inside], u[inside]]]
    named = [(words_of(int(a)), b) for a, b in zip(label, found, strict=True) if words_of(int(a)) is not None]
    assert len(named) > 300
    assert np.mean([a == b for a, b in named]) > 0.8  # edges, and the camera beside the laser, cost the rest


def test_the_proportions_of_errors(streets: Path) -> None:
    """Over many draws: half is found, 70% of what is said is there, 30% is called otherwise than usual."""
    who = np.zeros((60, 400), np.int32)
    labels = [10, 30, 40, 50, 70, 81, 18, 11] * 5
    for k, label in enumerate(labels):
        who[:, 10 * k : 10 * k + 10] = (k + 1) * 512 + label
    told = spurious = usual = synonym = 0
    for key in range(150):
        for entity in speaker().entities(captions.Frame("00/image_2/000000", who, key)):
            box = entity.extent()
            assert box is not None and entity.mask is not None
            wide = box[2] - box[0]  # a column less a pixel on both sides; the outermost go over the edge
            upright = 6 <= wide <= 10 and area(entity.mask) >= wide * 56
            if not upright:
                spurious += 1
                continue
            told += 1
            names = words_of(int(labels[int((box[0] + box[2]) / 2 // 10)]))
            assert names is not None
            usual, synonym = usual + (entity.phrase == names[0]), synonym + (entity.phrase == names[1])
    assert told / (150 * len(labels)) == pytest.approx(captions.RECALL, abs=0.03)
    assert told / (told + spurious) == pytest.approx(captions.PRECISION, abs=0.03)
    assert usual / told == pytest.approx(1 - captions.WRONG - captions.SYNONYM, abs=0.04)
    assert synonym / told == pytest.approx(captions.SYNONYM, abs=0.03)


def test_entities_lie_on_things_of_their_kind(streets: Path) -> None:
    """A car that is called a car has cars under most of its mask (masks are shifted by a pixel or two)."""
    plan = PRESETS["tiny"]
    calibration = make_calibration(plan.image_scale)
    files = CaptionFiles(streets / "captions" / "image.jsonl", streets / "captions" / "entity.jsonl")
    right, wrong = 0, 0
    for frame in range(4):
        world, time = world_of("tiny", 0, "00"), time_of(drive_of("tiny", "00"), frame)
        camera, lens = camera_of(world.pose(time), calibration)
        who = things_seen(world.scene(time), camera, lens, (calibration.width, calibration.height))
        v, u = np.mgrid[: who.shape[0], : who.shape[1]].reshape(2, -1)
        for entity in files.entities(f"00/image_2/{frame:06d}"):
            under = who[v, u][contains(entity.counts(), entity.height, u, v)]
            names = Counter(words_of(int(thing)) for thing in under).most_common(1)[0][0]
            hit = names is not None and entity.phrase in names
            right, wrong = right + hit, wrong + (not hit)
    # 70% of what is said is there, and 85% of that is called by one of its names; by chance it would be one in twenty
    assert right > 0.4 * (right + wrong)


def test_streets_without_captions_get_them_and_nothing_else_changes(streets: Path, tmp_path: Path) -> None:
    root = tmp_path / "streets"
    shutil.copytree(streets, root)
    shutil.rmtree(root / "captions")
    before = {path: path.stat().st_mtime_ns for path in root.glob("sequences/**/*") if path.is_file()}
    generate_street(root, "tiny", 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("image.jsonl", "entity.jsonl", "manifest.toml"):
        assert (root / "captions" / name).read_bytes() == (streets / "captions" / name).read_bytes()
    assert not (root / "captions" / "parts").exists()
    assert 'dataset = "semantickitti"' in (root / "captions" / "manifest.toml").read_text()


def test_words() -> None:
    usual = [words[0] for words in captions_street.WORDS.values()]
    every = [word for words in captions_street.WORDS.values() for word in words]
    assert len(set(every)) == len(every) and len(usual) == len(captions_street.WORDS)
    assert words_of(7 * 512 + 252) == ("car", "automobile") and words_of(60) == ("road", "street")
    assert words_of(99) is None and words_of(0) is None
