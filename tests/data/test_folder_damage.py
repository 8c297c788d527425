"""Files of a folder, cut short or with bytes changed: an error that names the file, or a whole result, never less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.folder import Folder
from ssl3d.data.datasets.folder_config import parse_config
from ssl3d.data.errors import DataError, Ssl3dError
from ssl3d.data.formats import Labelled, write_labelled

ROWS = 300
POINTS = np.random.default_rng(0).uniform(0, 40, (ROWS, 3))
IDS = np.arange(ROWS) % 3


def write_text(path: Path) -> None:
    np.savetxt(path, np.column_stack([POINTS, IDS]), "%.3f", ",", header="x,y,z,label", comments="")


WRITERS: dict[str, Callable[[Path], None]] = {
    ".csv": write_text,
    ".npz": lambda path: write_labelled(path, Labelled(POINTS, IDS)),
    ".ply": lambda path: write_labelled(path, Labelled(POINTS, IDS)),
}


def convert(root: Path, suffix: str, out: Path, **tables: Any) -> int:
    """Points of the one cloud, converted in tiles."""
    table = {
        "name": "n",
        "root": str(root),
        "clouds": {"files": [f"*{suffix}"]},
        "columns": {"label": "label"},
        "classes": {"0": "a", "1": "b", "2": "c"},
        **tables,
    }
    reader = Folder(parse_config(table, root / "my.toml").text())
    (unit,) = reader.discover(root).units
    with reader.opened(unit, reader.spec(), out) as (reading, source):
        files = {product: out / f"{product}.h5" for product in source.products()}
        return sum(convert_unit(reading, source, files, ConvertParams()).num_points)


@pytest.mark.parametrize("suffix", WRITERS)
def test_cut_and_changed_files(tmp_path: Path, suffix: str) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    path = root / f"cloud{suffix}"
    WRITERS[suffix](path)
    whole = path.read_bytes()
    assert convert(root, suffix, out) == ROWS
    rng = np.random.default_rng(1)
    for _ in range(25):
        damaged = bytearray(whole[: int(rng.integers(0, len(whole)))])
        if rng.random() < 0.5:
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 3):
                damaged[at] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            found = convert(root, suffix, out)
        except Ssl3dError as error:
            assert path.name in str(error.where), error
        else:
            assert found == ROWS or suffix == ".csv"  # a text may end anywhere, and a header may become a row
        assert not [name for name in out.iterdir() if name.suffix != ".h5"]


def test_swapped_files(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    labels = {"files": "{stem}.label", "dtype": "<u4"}
    clouds = {"files": ["*.bin"], "names": ["x", "y", "z"]}
    (root / "a.bin").write_bytes(IDS.astype("<u4").tobytes())
    (root / "a.label").write_bytes(POINTS.astype("<f4").tobytes())
    with pytest.raises(DataError, match="100 points, the file beside it 900 labels"):
        convert(root, ".bin", out, clouds=clouds, labels=labels, columns={})
    (root / "a.bin").write_bytes(POINTS.astype("<f4").tobytes())
    (root / "a.label").write_bytes(POINTS[:, 0].astype("<f4").tobytes())
    with pytest.raises(DataError, match="does not have") as caught:
        convert(root, ".bin", out, clouds=clouds, labels=labels, columns={})
    assert "a.label" in str(caught.value.where["file"])
    (root / "a.label").write_bytes(IDS.astype("<u2").tobytes())
    with pytest.raises(DataError, match="150 labels") as caught:
        convert(root, ".bin", out, clouds=clouds, labels=labels, columns={})
    assert "dtype" in str(caught.value.hint)
