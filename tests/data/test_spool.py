"""Clouds cut into tiles on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.datasets.spool import POSITION, SOURCE_ROW, WHOLE, Spool, TileParams
from ssl3d.data.errors import DataError

DTYPE = np.dtype([(POSITION, "f8", (3,)), (SOURCE_ROW, "u4"), ("label", "u1")])


def fill(folder: Path, points: npt.NDArray[np.float64], params: TileParams, block: int = 700) -> Spool:
    spool = Spool(folder, DTYPE, params, "cloud.txt")
    for start in range(0, len(points), block):
        part = points[start : start + block]
        rows = np.zeros(len(part), DTYPE)
        rows[POSITION] = part
        rows["label"] = np.arange(start, start + len(part)) % 251
        spool.add(rows)
    return spool


def test_every_row_lies_in_exactly_one_tile_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 40, (20_000, 3)) + np.array([651_000, 6_861_000, 30])
    with fill(tmp_path, points, TileParams(1000, 25.0)) as spool:
        tiles = spool.tiles()
        seen = np.zeros(len(points), np.int64)
        for tile in tiles:
            rows = spool.read(tile)
            assert 0 < len(rows) == tile.count <= 1000
            assert (np.diff(rows[SOURCE_ROW].astype(np.int64)) > 0).all()
            seen[rows[SOURCE_ROW]] += 1
            assert np.array_equal(rows[POSITION], points[rows[SOURCE_ROW]])  # float64 throughout
            assert np.array_equal(rows["label"], rows[SOURCE_ROW] % 251)
            inside = rows[POSITION][:, :2] - tile.corner
            assert (inside >= 0).all() and (inside < tile.size).all()
    assert (seen == 1).all()
    assert len({tile.name for tile in tiles}) == len(tiles)
    assert any(tile.path for tile in tiles) and any(not tile.path for tile in tiles)
    assert list(tmp_path.iterdir()) == []


def test_tiles_are_named_by_their_corner(tmp_path: Path) -> None:
    points = np.array([[-0.5, 12.0, 0], [10.0, 10.0, 0], [25.0, 19.9, 0], [-0.1, 19.0, 0]])
    with fill(tmp_path, points, TileParams(3, 10.0)) as spool:
        assert [(tile.name, tile.count) for tile in spool.tiles()] == [("-1_1", 2), ("1_1", 1), ("2_1", 1)]


def test_a_crowded_tile_is_quartered_until_it_is_not(tmp_path: Path) -> None:
    points = np.array([[1.0, 1.0, 0]] * 2 + [[1.0, 6.0, 0]] * 2 + [[6.0, 1.0, 0], [9.0, 9.0, 0]])
    with fill(tmp_path, points, TileParams(3, 10.0)) as spool:
        assert [tile.name for tile in spool.tiles()] == ["0_0-0", "0_0-1", "0_0-2", "0_0-3"]


def test_copies_of_one_point_are_not_quartered_for_ever(tmp_path: Path) -> None:
    with fill(tmp_path, np.ones((50, 3)), TileParams(10, 10.0)) as spool:
        assert [tile.count for tile in spool.tiles()] == [50]


def test_a_small_cloud_is_not_cut(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform(-500, 500, (3000, 3))
    with fill(tmp_path, points, TileParams(3000, 10.0)) as spool:
        (tile,) = spool.tiles()
        assert tile.name == WHOLE
        assert np.array_equal(spool.read(tile)[POSITION], points)


def test_rows_that_are_not_finite_stay_beside_those_before_them(tmp_path: Path) -> None:
    points = np.array([[np.nan, 0, 0], [15.0, 5, 0], [np.inf, 5, 0], [35.0, 5, 0], [np.nan, np.nan, 0]])
    with fill(tmp_path, points, TileParams(3, 10.0), block=4) as spool:
        rows = {tile.cell: spool.read(tile)[SOURCE_ROW].tolist() for tile in spool.tiles()}
    assert rows == {"1_0": [0, 1, 2], "3_0": [3, 4]}


def test_a_cloud_of_millimeters_is_named(tmp_path: Path) -> None:
    wide = np.stack([np.linspace(0, 1e7, 70_000), np.zeros(70_000), np.zeros(70_000)], axis=1)
    with pytest.raises(DataError, match="tiles of 1 m") as caught, fill(tmp_path, wide, TileParams(10, 1.0), 70_000):
        pass
    assert "scale" in str(caught.value.hint)
    with pytest.raises(DataError, match="tiles of 1 m"), fill(tmp_path, wide * 1e9, TileParams(10, 1.0)):
        pass
