"""Recordings that nobody here made, where they are present: guessed, read, and compared with the files themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import parse_config
from ssl3d.data.datasets.folder_guess_text import guess_text
from ssl3d.data.errors import DataError
from ssl3d.data.store import ShardReader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (REAL / "airborne").is_dir(), reason="no real recordings beside the checkout"),
]


def guessed(root: Path) -> Folder:
    return Folder(parse_config(tomllib.loads(guess_text(root)), root / "my.toml").text())


def test_airborne_tiles_keep_a_centimeter(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    reader = guessed(REAL / "airborne" / "ign")
    assert {"ground", "building", "water"} <= set(reader.spec().classes)
    assert 66 in reader.config.ignored and reader.config.columns.label == "classification"
    units = reader.discover(reader.config.base()).units
    assert len(units) == 13 and sum(unit.num_points or 0 for unit in units) == 2_000_164
    unit = next(unit for unit in units if unit.group.startswith("test_semis_2023_0299"))
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    las = laspy.read(unit.scans[0].files["points"].path)
    points = ShardReader(files["points"])
    at = points.read("points", 0).astype(np.float64) + points.read("origin", 0)
    assert np.abs(at - np.stack([las.x, las.y, las.z], axis=1)).max() < 0.001
    codes = np.asarray(las.classification)
    assert info.class_counts[reader.spec().classes.index("ground")] == np.count_nonzero(codes == 2) == 198_626
    synthetic = codes == 66  # points that IGN has made up
    assert np.count_nonzero(synthetic) == 7
    assert (ShardReader(files["labels"]).read("label", 0)[synthetic] == 255).all()


def test_a_frame_of_rellis(tmp_path: Path) -> None:
    reader = guessed(REAL / "rellis3d")
    assert reader.config.labels is not None and reader.config.labels.bits == 16 and reader.zero_is_none
    assert sorted(reader.config.classes) == [3, 4, 17, 18, 19, 23, 31, 33]
    (unit,) = reader.discover(reader.config.base()).units
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    assert (info.num_points, info.all_zero, info.ignored) == ([131_072], 53_364, 68_284)


def test_a_block_of_sensaturban(tmp_path: Path) -> None:
    reader = guessed(REAL / "mmdet3d_sensaturban")
    assert reader.config.clouds.names == ("x", "y", "z", "r", "g", "b")
    assert sorted(reader.config.classes) == [0, 2, 3, 5, 7, 8, 9]
    (unit,) = reader.discover(reader.config.base()).units
    files = {product: tmp_path / f"{product}.h5" for product in unit.products()}
    info = convert_unit(reader, unit, files, ConvertParams())
    assert info.num_points == [60_095] and info.class_counts == [1634, 3850, 775, 2919, 49287, 708, 922]


def test_pickles_of_pandaset_are_refused() -> None:
    with pytest.raises(DataError, match="pickles are not read") as caught:
        guess_text(REAL / "pandaset")
    assert "pkl.gz" in str(caught.value.where["file"])
