"""Benchmarks of readers: that every row is there and says what it compares. What they measure is for quiet machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.benchmarks.formats import binary, csv_readers, formats, text


def test_rows_of_a_small_run(tmp_path: Path) -> None:
    rows = [*binary(tmp_path, points=2000, repeats=1), *text(tmp_path, points=2000, repeats=1)]
    assert not any(tmp_path.iterdir())
    assert all(set(row) == {"name", "rival", "ours", "theirs", "ratio", "unit"} for row in rows)
    assert all(row["ratio"] == pytest.approx(row["theirs"] / row["ours"]) for row in rows)
    names = [row["name"] for row in rows]
    for suffix in ("bin", "npy", "pcd", "h5", "npz", "ply"):
        assert sum(name.startswith(f"read cloud.{suffix},") for name in names) == 1
    rivals = [row["rival"] for row in rows if row["name"].startswith("read text")]
    assert len(rivals) == 2 and all(rival.split(" ")[0] in csv_readers() for rival in rivals)


def test_rivals_read_what_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1.5 2 3 4 5 6 7\n8 9 10 11 12 13 14\n")
    for name, read in csv_readers().items():
        assert getattr(read(tmp_path / "a.txt"), "shape") == (2, 7), name  # noqa: B009


@pytest.mark.slow
def test_rows_of_published_layouts(tmp_path: Path) -> None:
    names = [row["name"] for row in formats(tmp_path, points=2000, repeats=1)]
    assert not any(tmp_path.iterdir())
    for title in ("ScanNet", "nuScenes", "SemanticPOSS", "S3DIS", "Semantic3D"):
        for what in ("read", "convert"):
            assert sum(name.startswith(f"{what} {title}") for name in names) == 1
