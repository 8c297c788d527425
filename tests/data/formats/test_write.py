from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.formats import WRITTEN, Labelled, inspect, labelled_bytes, read_cloud, write_labelled
from ssl3d.data.formats import write as write_module

LAS = (".las", ".laz")
Make = Callable[..., Labelled]


def made(rows: int = 70, most: int = 12, **changes: Any) -> Labelled:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 100_000, (rows, 3)) / 1000 + [650_000.0, 6_860_000.0, 30.0]
    label = rng.integers(0, most + 1, rows)
    label[0] = most
    given = {"scores": rng.random((rows, 3)), "color": rng.integers(0, 256, (rows, 3)).astype(np.uint8)}
    return Labelled(points, label, **{**given, **changes})


@pytest.fixture(autouse=True)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_module, "ROWS", 32)
    if any(kind in request.node.name for kind in LAS):
        pytest.importorskip("laspy", reason="the extra las is not installed")


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    cloud = made()
    path = tmp_path / f"scan{kind}"
    write_labelled(path, cloud)
    assert path.read_bytes() == labelled_bytes(kind, cloud) and [*tmp_path.iterdir()] == [path]
    back = read_cloud(path)
    np.testing.assert_allclose(back.points, cloud.points, rtol=0, atol=1e-6 if kind in LAS else 0)
    label = back.columns["classification" if kind in LAS else "label"]
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, cloud.label)
    assert cloud.scores is not None and cloud.color is not None
    if kind == ".npz":
        colors, scores = back.columns["color"], back.columns["scores"]
    else:
        colors = np.stack([back.columns[name] for name in ("red", "green", "blue")], axis=1)
        scores = np.stack([back.columns[f"score_{k}"] for k in range(3)], axis=1)
    np.testing.assert_array_equal(colors // 257 if kind in LAS else colors, cloud.color)
    np.testing.assert_allclose(scores, cloud.scores, rtol=1e-6)


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize(
    ("low", "most", "dtype"), [(0, 256, np.uint16), (0, 70_000, np.uint32), (-1, 300, np.int32), (-1, 5, np.int32)]
)
def test_labels_of_any_size(tmp_path: Path, kind: str, low: int, most: int, dtype: type) -> None:
    cloud = made(most=most, scores=None, color=None)
    cloud.label[3] = low
    path = tmp_path / f"scan{kind}"
    write_labelled(path, cloud)
    back = read_cloud(path)
    assert back.columns["label"].dtype == dtype and "color" not in back.columns and "red" not in back.columns
    np.testing.assert_array_equal(back.columns["label"], cloud.label)
    if kind in LAS:
        assert not back.columns["classification"].any()


@pytest.mark.parametrize("kind", LAS)
def test_laspy_reads_it_too(tmp_path: Path, kind: str) -> None:
    import laspy

    cloud = made(most=255, scores=np.linspace(0, 1, 70), color=None)
    write_labelled(tmp_path / f"scan{kind}", cloud)
    las = laspy.read(str(tmp_path / f"scan{kind}"))
    assert las.header.point_format.id == 6 and str(las.header.version) == "1.4" and las.header.creation_date is None
    np.testing.assert_array_equal(np.asarray(las.classification), cloud.label)
    np.testing.assert_allclose(np.asarray(las.score), np.linspace(0, 1, 70), atol=1e-7)
    np.testing.assert_allclose(las.xyz, cloud.points, rtol=0, atol=1e-6)
    np.testing.assert_allclose(las.header.mins, cloud.points.min(axis=0), rtol=0, atol=1e-6)
    assert las.header.point_count == 70 and list(las.header.number_of_points_by_return)[:2] == [70, 0]


def test_the_grid_of_a_las_file_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("laspy", reason="the extra las is not installed")
    points = np.array([[650_000.25, 6_860_000.5, 3.0], [650_001.0, 6_860_000.75, -3.25]])
    header = {"scales": (0.25, 0.25, 0.25), "offsets": (600_000.0, 6_000_000.0, 0.0)}
    write_labelled(tmp_path / "a.las", Labelled(points, np.arange(2), header=header))
    found = inspect(tmp_path / "a.las").header
    assert found["scales"] == header["scales"] and found["offsets"] == header["offsets"]
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.las").points, points)
    write_labelled(tmp_path / "far.las", Labelled(points * 1e4, np.arange(2), header=header))
    assert inspect(tmp_path / "far.las").header["scales"] == (0.001,) * 3  # the old grid does not reach so far
    write_labelled(tmp_path / "wide.las", Labelled(points * [[-1e4], [1e4]], np.arange(2)))
    np.testing.assert_allclose(read_cloud(tmp_path / "wide.las").points, points * [[-1e4], [1e4]], atol=50)


def test_single_precision_stays_so_in_ply(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    points[4, 1] = np.nan
    write_labelled(tmp_path / "a.ply", Labelled(points, np.zeros(9, np.int64), scores=np.ones(9)))
    source = inspect(tmp_path / "a.ply")
    assert source.columns == {**dict.fromkeys("xyz", np.dtype("f4")), "label": np.dtype("u1"), "score": np.dtype("f4")}
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.ply").points, points)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"not written as '.docx'.*\.npz \.ply"):
        write_labelled(tmp_path / "a.docx", made())
    with pytest.raises(DataError, match=r"3 rows of label for 70 points.*field: label"):
        write_labelled(tmp_path / "a.ply", Labelled(made().points, np.zeros(3, np.int64)))
    with pytest.raises(DataError, match="do not fit into 32 bits"):
        write_labelled(tmp_path / "a.ply", made(most=2**32))
    if pytest.importorskip("laspy", reason="the extra las is not installed"):
        cloud = made()
        cloud.points[7, 2] = np.nan
        with pytest.raises(DataError, match=r"NaN or infinite.*row: 7"):
            write_labelled(tmp_path / "a.las", cloud)
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(Ssl3dError, match=r"needs the package laspy.*ssl3d\[las\]"):
        write_labelled(tmp_path / "a.las", made())
    assert not any(tmp_path.iterdir())
