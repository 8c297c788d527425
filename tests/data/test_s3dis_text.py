"""S3DIS's text files: the damaged bytes of the published archives, and the order of the classes in recorded points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.s3dis_text import count_rows, mend, read_rows
from ssl3d.data.datasets.source import SourceFile
from ssl3d.data.spec import load_spec

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
SPEC = load_spec("s3dis")


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        (b"22.350 6.692 3.048 185\x00187 182", "22.350 6.692 3.048 185 187 182"),
        (b"19.302 -9.1\x160 1.785 146 137 106", "19.302 -9.160 1.785 146 137 106"),
        (b"1 2 3 167.\x1000000 1.000000 2.000000", "1 2 3 167.000000 1.000000 2.000000"),
        (b"1 2 3 103.0\x100000 0 0", "1 2 3 103.000000 0 0"),
        (b"-15.993000 42.862000 0.302000 123.000000 95.000000 56.00\x10000", "-15.993 42.862 0.302 123 95 56"),
        (b"-5.712 18.497 2.717 226.0 219.0 2\x111.000000", "-5.712 18.497 2.717 226 219 211"),
    ],
)
def test_a_byte_that_lost_a_bit_gets_it_back(tmp_path: Path, raw: bytes, mended: str) -> None:
    path = tmp_path / "ceiling_1.txt"
    path.write_bytes(b"0 0 0 1 2 3\n" + raw + b"\r\n9 9 9 4 5 6")
    file = SourceFile.find(path)
    assert file is not None
    rows = read_rows(file)
    wanted = np.array(mended.split(), float)
    assert rows.points[1].tolist() == wanted[:3].tolist() and rows.color[1].tolist() == wanted[3:].tolist()
    assert rows.mended == [2] and len(rows.points) == 3 and count_rows(file) == (3, [2])
    assert path.read_bytes().count(raw) == 1  # the file itself stays as it is


def test_mending_leaves_good_text_alone() -> None:
    text = b"1 2\t3 4 5 6\r\n"
    assert mend(text, "x") == (text, [])


@pytest.mark.real
@pytest.mark.skipif(not (REAL / "mmdet3d_s3dis").is_dir(), reason="no real recordings beside the checkout")
def test_the_order_of_classes_is_that_of_mmdetection3d() -> None:
    """100 points of Area_1/office_2 with semantic ids: floors lie lowest, ceilings highest, and walls are most."""
    points = np.fromfile(REAL / "mmdet3d_s3dis/points/Area_1_office_2.bin", np.float32).reshape(-1, 6)
    ids = np.fromfile(REAL / "mmdet3d_s3dis/semantic_mask/Area_1_office_2.bin", np.int64)
    height = {name: points[ids == k, 2] for k, name in enumerate(SPEC.classes) if (ids == k).any()}
    assert set(height) == set(SPEC.classes) - {"board"} and np.bincount(ids).argmax() == SPEC.classes.index("wall")
    assert height["floor"].max() < 0.15 and height["ceiling"].min() > 2.5
    assert height["beam"].min() > 2.2 and height["column"].min() < 1  # the order of superpoint_graph has them swapped
