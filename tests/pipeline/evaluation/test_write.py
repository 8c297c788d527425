from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.subject import Subject
from ssl3d.pipeline.evaluation.write import MANIFEST, predict
from ssl3d.pipeline.progress import Silent

MakeSubject = Callable[..., Subject]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_official_layout_with_original_ids_for_every_point(
    prepared: PreparedDataset,
    make_subject: MakeSubject,
    kitti_root: Path,
    tmp_path: Path,
    nearest_anchor: Callable[..., np.ndarray],
) -> None:
    out = tmp_path / "out"
    before = tree(kitti_root)
    result = predict(prepared, make_subject(), out)
    scans = [
        f"sequences/{seq}/predictions/{frame:06d}.label" for seq, n in (("08", 66), ("11", 3)) for frame in range(n)
    ]
    assert tree(out) == sorted([*scans, MANIFEST])
    assert (result.written, result.kept, result.subsets) == (69, 0, ("val", "test"))
    spec = load_spec("semantickitti")
    for name in scans:
        bin_file = (kitti_root / "dataset" / name.replace("predictions", "velodyne")).with_suffix(".bin")
        points = np.fromfile(bin_file, "<f4").reshape(-1, 4)[:, :3]
        words = np.fromfile(out / name, "<u4")
        assert len(words) == len(points)
        known = np.isfinite(points).all(axis=1)
        expected = [spec.learning_map_inv[int(c)] for c in nearest_anchor(points[known], 19)]
        assert words[known].tolist() == expected
        assert set(words.tolist()) <= set(spec.learning_map_inv.values())
    assert tree(kitti_root) == before


class Killed(BaseException):
    pass


class Killer(Silent):
    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Any:
        yield self

    def advance(self, amount: float = 1) -> None:
        self.left -= int(amount)
        if self.left < 0:
            raise Killed

    def note(self, text: str) -> None: ...


def test_killed_and_started_again_writes_only_what_is_missing(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    out, calls = tmp_path / "out", []  # type: tuple[Path, list[str]]
    with pytest.raises(Killed):
        predict(prepared, make_subject(), out, progress=Killer(20))
    done = list(out.rglob("*.label"))
    assert len(done) == 21
    torn, removed = done[0], done[1]
    torn.write_bytes(torn.read_bytes()[:-4])
    removed.unlink()
    (torn.parent / ".000060.99999.tmp").write_bytes(b"half")
    result = predict(prepared, make_subject(), out)
    assert (result.written, result.kept) == (69 - 19, 19)
    whole = predict(prepared, make_subject(calls), tmp_path / "whole")
    assert whole.written == 69
    for path in sorted((tmp_path / "whole").rglob("*.label")):
        assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert tree(out) == tree(tmp_path / "whole")
    again = predict(prepared, make_subject(calls), tmp_path / "whole")
    assert (again.written, again.kept, len(calls)) == (0, 69, 1)


def test_subsets_are_added_to_the_same_folder(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert predict(prepared, make_subject(), out, subsets=["test"]).written == 3
    result = predict(prepared, make_subject(), out, subsets=["train", "test"])
    assert (result.written, result.kept) == (2, 3)
    assert json.loads((out / MANIFEST).read_text())["subsets"] == ["test", "train"]


def test_predictions_of_another_checkpoint_are_not_mixed(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(prepared, make_subject(), out, subsets=["train", "test"])
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = make_subject(digest="5678", run="b-run", reach=20.0)
    with pytest.raises(UsageError, match=r"'a-run'.*--overwrite"):
        predict(prepared, other, out, subsets=["test"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    assert predict(prepared, other, out, subsets=["test"], overwrite=True).written == 3
    # what is left of a-run does not pass for b-run's
    with pytest.raises(UsageError, match="unknown origin"):
        predict(prepared, other, out, subsets=["train"])
    assert predict(prepared, other, out, subsets=["train"], overwrite=True).written == 2


def test_overwrite_that_is_killed_leaves_no_old_file_to_be_kept(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", make_subject(digest="5678", reach=20.0)
    predict(prepared, make_subject(), out, subsets=["val"])
    with pytest.raises(Killed):
        predict(prepared, other, out, subsets=["val"], overwrite=True, progress=Killer(10))
    assert predict(prepared, other, out, subsets=["val"]).written == 66 - 11
    predict(prepared, other, tmp_path / "whole", subsets=["val"])
    for path in (tmp_path / "whole").rglob("*.label"):
        assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_files_of_unknown_origin_are_refused(
    prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path
) -> None:
    mine = tmp_path / "out/sequences/11/predictions/000001.label"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="unknown origin"):
        predict(prepared, make_subject(), tmp_path / "out")
    assert mine.read_bytes() == b"mine"
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="this is a file"):
        predict(prepared, make_subject(), file)
    with pytest.raises(UsageError, match=r"cannot be written.*--out"):
        predict(prepared, make_subject(), file / "below")


def test_never_into_the_dataset(
    prepared: PreparedDataset, make_subject: MakeSubject, kitti_root: Path, tmp_path: Path
) -> None:
    before = tree(kitti_root)
    link = tmp_path / "link"
    link.symlink_to(kitti_root)
    for out in (kitti_root, kitti_root / "dataset" / "out", link / "new", kitti_root / "dataset" / ".." / "x"):
        with pytest.raises(UsageError, match="dataset's own folder"):
            predict(prepared, make_subject(), out)
    assert tree(kitti_root) == before


def test_wrong_words(prepared: PreparedDataset, make_subject: MakeSubject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'semantickitti'"):
        predict(prepared, make_subject(), tmp_path / "out", format="semantickiti")
    with pytest.raises(UsageError, match="train, val, test"):
        predict(prepared, make_subject(), tmp_path / "out", subsets=["tests"])
    with pytest.raises(DataError, match="classes"):
        predict(prepared, replace(make_subject(), classes=("a", "b")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
