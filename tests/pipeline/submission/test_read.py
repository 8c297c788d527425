"""Files of other programs, damaged at random: an error that says where, or ids; never anything else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.formats.write import Labelled, labelled_bytes
from ssl3d.pipeline.submission import scannet_masks
from ssl3d.pipeline.submission.formats import FORMATS, as_lines
from ssl3d.pipeline.submission.handed import opened

COUNT = 200
IDS = np.random.default_rng(0).integers(1, 17, COUNT)
POINTS = Labelled(np.random.default_rng(1).normal(size=(COUNT, 3)), IDS)
CONTENTS = {
    "semantickitti": IDS.astype("<u4").tobytes(),
    "nuscenes": IDS.astype(np.uint8).tobytes(),
    "scannet": as_lines(IDS),
    "semantic3d": as_lines(IDS),
    "npz": labelled_bytes(".npz", POINTS),
    "ply": labelled_bytes(".ply", POINTS),
}
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4)


def damaged(content: bytes, hits: list[tuple[float, int]], cut: float) -> bytes:
    """Bytes at shares of the length replaced, and the end cut off."""
    found = bytearray(content[: max(1, round(len(content) * cut))])
    for share, value in hits:
        found[min(len(found) - 1, int(share * len(found)))] = value
    return bytes(found)


def packed(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", CONTENTS)
def test_ids_come_back_as_they_were_written(form: str, zipped: bool, tmp_path: Path) -> None:
    name = f"file.{form}"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(CONTENTS[form])
    place = packed(tmp_path / "a.zip", **{name: CONTENTS[form]}) if zipped else tmp_path / "folder"
    with opened(place) as handed:
        assert name in handed and "other" not in handed
        assert list(handed.names()) == [name]
        found = np.concatenate(list(FORMATS[form].ids(handed, name)))
    assert np.array_equal(found, IDS)


@pytest.mark.parametrize("form", CONTENTS)
@MANY
@given(hits=DAMAGE, cut=st.floats(0, 1))
def test_a_damaged_file_is_an_error_of_ours_or_ids(
    form: str, hits: list[tuple[float, int]], cut: float, tmp_path: Path
) -> None:
    name = f"file.{form}"
    (tmp_path / name).write_bytes(damaged(CONTENTS[form], hits, cut))
    with opened(tmp_path) as handed:
        try:
            for ids in FORMATS[form].ids(handed, name):
                assert ids.ndim == 1 and ids.dtype.kind in "iu"
        except Ssl3dError as error:
            assert name in str(error)


@MANY
@given(hits=DAMAGE, cut=st.floats(0.2, 1))
def test_a_damaged_zip_is_an_error_of_ours_or_its_files(
    hits: list[tuple[float, int]], cut: float, tmp_path: Path
) -> None:
    place = packed(tmp_path / "a.zip", **{"b.label": CONTENTS["semantickitti"], "c/d.txt": CONTENTS["scannet"]})
    place.write_bytes(damaged(place.read_bytes(), hits, cut))
    try:
        with opened(place) as handed:
            for name in handed.names():
                b"".join(handed.blocks(name))
                handed.deeper("d.txt")
    except Ssl3dError as error:
        assert "a.zip" in str(error)


@MANY
@given(lines=st.lists(st.text("am/. 0123x\t", max_size=14), max_size=3), hits=DAMAGE, cut=st.floats(0, 1))
def test_damaged_lists_and_masks_are_errors_of_ours_or_instances(
    lines: list[str], hits: list[tuple[float, int]], cut: float, tmp_path: Path
) -> None:
    text = "\n".join(["m/a.txt 3 0.5", *lines]) + "\n"
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m/a.txt").write_bytes(damaged(b"1\n0\n" * 100, hits, cut))
    (tmp_path / "scan.txt").write_text(text)
    with opened(tmp_path) as handed:
        try:
            for label, confidence, rows in scannet_masks.instances_of(handed, "scan.txt", "scan", COUNT, {3: 0}):
                assert label == 0 and np.isfinite(confidence) and len(rows) <= COUNT
                assert len(np.unique(rows)) == len(rows)
        except DataError as error:
            assert "scan" in str(error)


def test_places_that_hold_no_predictions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n")
    (tmp_path / "a.zip").write_text("no zip")
    for place, kind in (
        (tmp_path / "none", UsageError),
        (tmp_path / "a.txt", UsageError),
        (tmp_path / "a.zip", DataError),
    ):
        with pytest.raises(kind):
            opened(place)


def test_a_file_of_a_zip_may_be_opened_while_the_block_lasts(tmp_path: Path) -> None:
    with opened(packed(tmp_path / "a.zip", **{"x/y.bin": b"abc"})) as handed, handed.file("x/y.bin") as path:
        assert path.read_bytes() == b"abc" and path.name == "y.bin"
        place = path.parent
    assert not place.exists()
