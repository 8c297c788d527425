"""Where a layout begins, and what is said when it does not begin where the user said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ssl3d.data.datasets.root import (
    MANIFEST,
    RootShape,
    WrongRoot,
    find_root,
    folders_in,
    list_folder,
    read_manifest,
    stated_counts,
)
from ssl3d.data.errors import DataError


def refuse_music(folder: Path, names: Sequence[str]) -> None:
    if "music" in names:
        raise DataError("this is music", where={"root": folder})


SHAPE = RootShape(
    "Rooms", "<root>/Scans/NN", lambda folder: (folder / "Scans").is_dir(), ("v1",), ("Scans",), refuse_music
)


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    root = tmp_path / "deep" / "rooms"
    (root / "Scans" / "00").mkdir(parents=True)
    return root


def test_the_root_and_its_inner_folder_are_found(rooms: Path) -> None:
    assert find_root(rooms, SHAPE) == rooms
    outer = rooms.parent / "outer"
    outer.mkdir()
    rooms.rename(outer / "v1")
    assert find_root(outer, SHAPE) == outer / "v1"


def test_the_wrong_level_is_named(rooms: Path) -> None:
    for level, below in (("too high", ".."), ("too deep", "Scans"), ("too deep", "Scans/00")):
        with pytest.raises(WrongRoot, match=level) as caught:
            find_root((rooms / below).resolve(), SHAPE)
        assert caught.value.hint == f"--root {rooms}" and caught.value.exit_code == 2


def test_what_is_no_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongRoot, match="does not exist"):
        find_root(tmp_path / "nowhere", SHAPE)
    (tmp_path / "rooms.zip").write_bytes(b"PK")
    with pytest.raises(WrongRoot, match="a file, not a folder"):
        find_root(tmp_path / "rooms.zip", SHAPE)
    with pytest.raises(DataError, match="not unpacked") as packed:
        find_root(tmp_path, SHAPE)
    assert packed.value.hint == "unpack rooms.zip here"
    (tmp_path / "music").mkdir()
    with pytest.raises(DataError, match="this is music"):
        find_root(tmp_path, SHAPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongRoot, match="no Rooms data here") as nothing:
        find_root(tmp_path / "empty", SHAPE)
    assert "the folder is empty" in str(nothing.value)
    (tmp_path / "empty" / "SCANS").mkdir()
    with pytest.raises(WrongRoot) as cased:
        find_root(tmp_path / "empty", SHAPE)
    assert cased.value.hint == "rename SCANS to Scans"


def test_a_folder_is_listed(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("four")
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "c.txt").symlink_to("b.txt")
    found = list_folder(tmp_path)
    assert found is not None and found.folders == folders_in(tmp_path) == ["a"] and found.broken == ["link"]
    assert [(name, file.size) for name, file in found.files.items()] == [("b.txt", 4), ("c.txt", 4)]
    assert list_folder(tmp_path / "nowhere") is None and folders_in(tmp_path / "b.txt") == []


def test_the_manifest_of_a_generated_dataset(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None and stated_counts(tmp_path) is None
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / MANIFEST).write_text(json.dumps({"complete": True, "scans_per_scene": {"7": 3}}))
    assert stated_counts(tmp_path, inner, key="scans_per_scene") == {"7": 3}
    with pytest.raises(DataError, match="damaged"):
        stated_counts(inner)
    (inner / MANIFEST).write_text(json.dumps({"complete": False}))
    with pytest.raises(DataError, match="not finished"):
        read_manifest(inner)
