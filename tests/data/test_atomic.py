from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.data.atomic import replacing, temporary_beside, write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old", durable=durable)
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_tools_that_look_for_the_suffix_do_not_see_the_temporary_file(tmp_path: Path) -> None:
    temporary = temporary_beside(tmp_path / "000000.label")
    assert temporary.name.startswith(".") and temporary.suffix == ".tmp"
    assert ".label" not in temporary.name
