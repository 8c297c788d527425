"""Lists of labelled points, as ScanNet's limited annotations are: ``ssl3d split --list points20``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.splits import SplitResult
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.stages.split import SplitParams, split
from ssl3d.pipeline.workspace import Workspace

ROWS = {"00/000001": [5, 3, 60], "01/000002": [0, 1, 2, 3, 4], "01/000003": [9]}


@pytest.fixture(scope="module")
def prepared_once(kitti_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "ws"
    prepare(Workspace.open(root), "semantickitti", kitti_once)
    return root


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(prepared_once, tmp_path / "ws"))


def save(path: Path, content: dict[str, Any]) -> Path:
    arrays = {name: np.array(rows) for name, rows in content.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save(arrays, path)
    return path


def run(workspace: Workspace, file: Path, **params: Any) -> SplitResult:
    return split(workspace, SplitParams(list_file=file, **params))


@pytest.mark.parametrize("name", ["points20", "points20.npz", "points20.pth"])
def test_only_the_listed_points_show_their_labels(prepared: Workspace, tmp_path: Path, name: str) -> None:
    result = run(prepared, save(tmp_path / name, ROWS))
    assert result.name == "list-points20" and result.partial and result.labelled == tuple(ROWS)
    dataset = PreparedDataset(prepared.dataset())
    visible, truth = dataset.visible(result), dataset.truth()
    with_class = 0
    for scan in dataset.subset("train"):
        label, full = visible.view(scan.index).label, truth.label(scan.index)
        rows = ROWS.get(scan.scan_id, [])
        np.testing.assert_array_equal(label[rows], full[rows])
        assert set(np.delete(label, rows)) == {IGNORE}
        with_class += int((full[rows] != IGNORE).sum())
    budget = result.budget
    assert budget.clicks == 9 and budget.labelled_points == with_class < 9  # a click on a point without a class
    assert budget.partial_scans == 3 and budget.train_scans == 10
    assert len(result.unlabelled) == 7


def test_the_rows_are_part_of_the_key_and_not_their_order(prepared: Workspace, tmp_path: Path) -> None:
    file = save(tmp_path / "mine.npz", ROWS)
    first = run(prepared, file)
    save(file, {name: [*rows[::-1], rows[0]] for name, rows in ROWS.items()})
    assert run(prepared, file).key == first.key
    save(file, {**ROWS, "01/000003": [10]})
    other = run(prepared, file)
    assert other.key != first.key and other.hash != first.hash


def test_scans_without_a_listed_point_are_unlabelled(prepared: Workspace, tmp_path: Path) -> None:
    result = run(prepared, save(tmp_path / "mine.npz", {**ROWS, "01/000003": np.zeros(0, np.int64)}))
    assert "01/000003" in result.unlabelled and len(result.labelled) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({**ROWS, "00/000099": [0]}, r"1 of the 4 scans of the list are not prepared.*first: 00/000099"),
        ({**ROWS, "08/000001": [0]}, r"08/000001 belongs to the val subset.*scan: 08/000001"),
        ({**ROWS, "00/000002": [0, 74]}, r"is not there: 74 of 74.*scan: 00/000002; entry: 1"),
        ({**ROWS, "00/000002": [0.5]}, r"no list of whole numbers.*scan: 00/000002; found: float64 \(1,\)"),
        ({**ROWS, "00/000002": [[1]]}, r"no list of whole numbers.*found: int64 \(1, 1\)"),
        ({**ROWS, "00/000002": [True]}, r"no list of whole numbers.*found: bool"),
        ({"scene0000_00": [0]}, "names none of the scans"),
        ({}, "names none of the scans"),
    ],
)
def test_what_is_wrong_is_named(prepared: Workspace, tmp_path: Path, content: dict[str, Any], says: str) -> None:
    for name in ("list", "list.npz"):
        with pytest.raises(DataError, match=says) as caught:
            run(prepared, save(tmp_path / name, content))
        assert str(tmp_path / name) in str(caught.value) and caught.value.hint
    assert prepared.dataset().products("split") == []  # nothing is left half made


def test_a_part_of_the_scans_is_taken_where_that_is_asked_for(prepared: Workspace, tmp_path: Path) -> None:
    file = save(tmp_path / "points20", {**ROWS, "00/000099": [0], "77/000001": [10**9]})
    with pytest.raises(DataError, match="--allow-missing"):
        run(prepared, file)
    assert run(prepared, file, allow_missing=True).labelled == tuple(ROWS)
    with pytest.raises(DataError, match=r"01/000002 is held out \(--holdout 01\)"):
        run(prepared, file, allow_missing=True, holdout="01")
    text = tmp_path / "scans.txt"
    text.write_text("00/000001\n00/000099\n")
    with pytest.raises(DataError, match=r"line 2: 00/000099 is not among.*--allow-missing"):
        run(prepared, text)
    assert run(prepared, text, allow_missing=True).labelled == ("00/000001",)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(2, len(data))]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(2, len(data), 3):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("name", ["points20", "points20.npz"])
@pytest.mark.parametrize("damage", [cut, flip])
def test_damaged_files_are_errors_or_the_same_list(
    prepared: Workspace, tmp_path: Path, name: str, damage: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    file = save(tmp_path / name, ROWS)
    whole, good = file.read_bytes(), run(prepared, file)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        file.write_bytes(damage(whole, rng))
        try:
            assert run(prepared, file).hash == good.hash  # bytes that say nothing
        except (DataError, UsageError) as error:
            assert str(file) in str(error) and error.hint
            refused += 1
    assert refused >= (60 if damage is cut else 20)


def test_other_files_are_lists_of_scans(prepared: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(b"\x00\xff\x00")
    with pytest.raises(Ssl3dError, match="cannot be read") as caught:
        run(prepared, file)
    assert ".npz" in str(caught.value.hint)
    for name in ("none", "none.npz"):
        with pytest.raises(Ssl3dError, match=name):
            run(prepared, tmp_path / name)
