"""Lists of limited annotations, as users have them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.datasets.scannet_points import read_limited_points
from ssl3d.data.errors import DataError

COUNTS = {"scene0191_00": 100, "scene0191_01": 50}
ROWS = {"scene0191_00": np.array([7, 3, 7, 99]), "scene0191_01": np.array([0]), "scene9999_00": np.array([10**6])}
RAN: list[str] = []


def save(path: Path, content: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["points20", "points20.npz"])
def test_vertices_rising_each_once_of_scans_that_are_there(tmp_path: Path, name: str) -> None:
    found, absent = read_limited_points(save(tmp_path / name, ROWS), COUNTS)
    assert {scan: rows.tolist() for scan, rows in found.items()} == {"scene0191_00": [3, 7, 99], "scene0191_01": [0]}
    assert absent == ["scene9999_00"]


def test_lists_of_torch_may_hold_lists_and_other_integers(tmp_path: Path) -> None:
    content = {"scene0191_00": [5, 6], "scene0191_01": np.array([4], np.int32)}
    found, _ = read_limited_points(save(tmp_path / "points20", content), COUNTS)
    assert found["scene0191_00"].tolist() == [5, 6] and found["scene0191_01"].dtype == np.int64


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_files_of_older_and_newer_versions_of_numpy(tmp_path: Path, zipped: bool, module: bytes) -> None:
    """The official files are from 2021; the function that makes an array has moved since."""
    path = tmp_path / "points20"
    scalars = {"scene0191_01": [np.int64(4)]}
    torch.save({"scene0191_00": ROWS["scene0191_00"], **scalars}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    here = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in content)
    assert content.count(here) >= 1
    content = content.replace(here, module)
    path.write_bytes(content)
    if zipped:  # as torch.save has written since 1.6
        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            members = {item.filename: archive.read(item) for item in archive.infolist()}
        payload = pickled(ROWS["scene0191_00"], scalars).replace(here, module)
        (name,) = (name for name in members if name.endswith("data.pkl"))
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in {**members, name: payload}.items():
                archive.writestr(member, data)
    found, _ = read_limited_points(path, COUNTS)
    assert found["scene0191_00"].tolist() == [3, 7, 99] and found["scene0191_01"].tolist() == [4]


def pickled(rows: np.ndarray, others: dict[str, Any]) -> bytes:
    return pickle.dumps({"scene0191_00": rows, **others}, protocol=2)


@pytest.mark.parametrize("rows", [[0, 50], [-1]])
def test_a_vertex_that_is_not_there(tmp_path: Path, rows: list[int]) -> None:
    path = save(tmp_path / "points50", {"scene0191_01": np.array(rows)})
    with pytest.raises(DataError, match=rf"{rows[-1]} of 50.*points50; scan: scene0191_01.*_vh_clean_2\.ply"):
        read_limited_points(path, COUNTS)


@pytest.mark.parametrize("content", [[1, 2], {"scene0191_00": [0.5]}, {"scene0191_00": [[1]]}, {"scene9999_00": [1]}])
def test_other_contents(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match="points20"):
        read_limited_points(save(tmp_path / "points20", content), COUNTS)


@pytest.mark.parametrize("name", ["points20", "points20.npz"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot be read.*{name}"):
        read_limited_points(tmp_path / name, COUNTS)
    with pytest.raises(DataError, match="cannot be read"):
        read_limited_points(tmp_path / "nothing", COUNTS)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return RAN.append, ("it ran",)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "points20"
    torch.save({"scene0191_00": Harmful()}, path)
    with pytest.raises(DataError, match="cannot be read"):
        read_limited_points(path, COUNTS)
    assert RAN == []
