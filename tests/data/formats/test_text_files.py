from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.formats import Options, inspect, read_blocks, read_cloud, read_table
from ssl3d.data.formats import text_rows as text_rows_module
from ssl3d.data.formats.decimal import number

XYZ = [[1.5, -2.0, 3e-3], [4.0, 5.25, -6e10]]


def parsed(text: str) -> tuple[float, int]:
    data = np.frombuffer(text.encode() + b"\n" * 9, np.uint8)
    value, end = number(data.ctypes.data, 0, ord("."))
    return float(value), int(end)


MEASURABLE = st.floats(-1e250, 1e250).filter(lambda value: value == 0 or abs(value) > 1e-250)


@given(MEASURABLE)
def test_numbers_are_correctly_rounded(value: float) -> None:
    for text in (repr(value), f"{value:.18e}", f"{value:.6f}", f"{value:.3g}"):
        if len(text.lstrip("-").replace(".", "").lstrip("0")) <= 19 or "e" in text:
            assert parsed(text) == (float(text), len(text))


@given(st.integers(0, 10**19 - 1), st.integers(-250, 240))
def test_any_19_digits(digits: int, exponent: int) -> None:
    text = f"{digits}e{exponent}"
    assert parsed(text) == (float(text), len(text))


@given(st.integers(0, 10**19 - 1), st.integers(-290, 280))
def test_far_exponents_are_off_by_one_unit_at_most(digits: int, exponent: int) -> None:
    value, expected = parsed(f"{digits}e{exponent}")[0], float(f"{digits}e{exponent}")
    assert abs(value - expected) <= np.spacing(expected)


@pytest.mark.parametrize(
    "text",
    [
        *["0", "-0.0", "1.", "+.5", "1E5", "1e-5", "9007199254740993", "9007199254740993e1", "1e23", "8.5e22"],
        *["9007199254740993.0", "90071992547409930e-1", "4503599627370496.5", "4503599627370497.5", "1e-250"],
        *["1.7976931348623159e309", "1e400", "1e-400", "0e99999999999", "0e-99999999999"],
        *["18446744073709551615", "0.000000000000000000000000000000123", "1" + "0" * 40, "inf", "-Infinity"],
    ],
)
def test_corner_numbers(text: str) -> None:
    assert parsed(text) == (float(text), len(text))
    assert np.signbit(parsed(text)[0]) == np.signbit(float(text))


def test_what_is_no_number() -> None:
    assert np.isnan(parsed("nan")[0]) and np.isnan(parsed("-NaN")[0])
    for text in ("", "-", ".", "e5", "x1", "na", "i", "in", "-inx", "+-1", ".nan"):
        assert parsed(text)[1] == 0
    assert parsed("1e") == (1.0, 1) and parsed("2e+x") == (2.0, 1) and parsed("1.5.2") == (1.5, 3)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1.5 -2 3e-3\n4 5.25 -6E10\n", "x y z"),
        ("1.5,-2,3e-3\n4,5.25,-6E10", "x y z"),
        ("1.5;-2;3e-3\r\n4;5.25;-6E10\r\n", "x y z"),
        ("1,5;-2;3e-3\n4;5,25;-6E10\n", "x y z"),
        ("\ufeffx,y,z\n1.5,-2,3e-3\n4,5.25,-6E10\n", "x y z"),
        ('"X","Y","Z"\n"1.5","-2","3e-3"\n"4","5.25","-6E10"\n', "X Y Z"),
        ("  1.5\t -2 \t3e-3  \n\n  4\t5.25   -6E10 # last\n", "x y z"),
        ("1.5\t-2\t3e-3\n4\t5.25\t-6E10\n", "x y z"),
        ("# made by hand\n# x y z\n1.5 -2 3e-3\n% between\n4 5.25 -6E10\n", "x y z"),
        ("//X Y Z\n1.5 -2 3e-3\n4 5.25 -6E10\n", "X Y Z"),
        ("1.5, -2, 3e-3,\n4, 5.25, -6E10,\n", "x y z"),
        ("2\n1.5 -2 3e-3\n4 5.25 -6E10\n", "x y z"),
        ("x y z\n1.5,-2,3e-3\n4,5.25,-6E10\n", "x y z"),
    ],
)
def test_many_ways_to_write_the_same(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    source = inspect(path)
    assert list(source.columns) == names.split()
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.points, XYZ)
    assert cloud.columns == {} and cloud.not_finite == {}


def test_columns_by_name_and_text_that_nobody_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",name,x,y,z,class\n0,first one,1,2,3,7\n1,,4,5,nan,\n")
    cloud = read_cloud(path, columns=["class"])
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, np.nan]])
    np.testing.assert_array_equal(cloud.columns["class"], [7, np.nan])
    assert cloud.not_finite == {"points": 1, "class": 1}
    assert list(inspect(path).columns) == ["column1", "name", "x", "y", "z", "class"]
    with pytest.raises(DataError, match=r"no number: 'first one'.*line: 2; column: 2 .name.*leave the column out"):
        read_cloud(path)


def test_names_and_coordinates_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("junk here\n1 2 3 4\n5 6 7 8\n")
    options = Options(names=("label", "north", "east", "up"), coordinates=("east", "north", "up"), skip=1)
    cloud = read_cloud(path, options)
    assert cloud.points.tolist() == [[3, 2, 4], [7, 6, 8]] and cloud.columns["label"].tolist() == [1, 5]
    with pytest.raises(DataError, match="a row has 4 columns, 3 are named"):
        inspect(path, Options(names=("x", "y", "z"), skip=1))


def test_a_column_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("3\n1\n2")
    table = read_table(path)
    assert table["column1"].tolist() == [3, 1, 2]


def test_blocks_threads_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 100, (5000, 5))
    path = tmp_path / "a.csv"
    rows = [",".join(map(repr, row)) for row in matrix.tolist()]
    rows.insert(1234, "# a comment")
    path.write_text("\n".join(rows))
    monkeypatch.setattr(text_rows_module, "_SMALLEST_BLOCK", 1 << 12)
    monkeypatch.setattr(text_rows_module, "_WORK_OF_A_THREAD", 1 << 10)
    monkeypatch.setattr(text_rows_module.numba, "get_num_threads", lambda: 3)
    for chunk in (1, 130, 10_000):
        if chunk == 1:
            first = next(iter(read_blocks(path, rows=1)))
            np.testing.assert_array_equal(first.points, matrix[:1, :3])
            continue
        chunks = list(read_blocks(path, rows=chunk))
        assert max(len(part.points) for part in chunks) <= chunk
        np.testing.assert_array_equal(np.concatenate([part.points for part in chunks]), matrix[:, :3])
        np.testing.assert_array_equal(np.concatenate([part.columns["column5"] for part in chunks]), matrix[:, 4])
    rows[4321] = rows[4321].replace(",", ",?", 2)
    path.write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"no number: '\?.*line: 4322; column: 2 .y."):
        list(read_blocks(path, rows=300))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n4 5\n", "fewer than 3 fields: '4 5'.*line: 2"),
        ("1 2 3\n4 5 6 7\n", "more than 3 fields: '4 5 6 7'.*line: 2"),
        ("1,2,3\n4,5\n", "fewer than 3 fields.*line: 2"),
        ("1,2,3\n4,5,6,7\n", "more than 3 fields.*line: 2"),
        ("1 2 3\n\n# c\n4 5 6e\n", "no number: '6e'.*line: 4; column: 3 .z."),
        ("1,2,3\n4,5 6,7\n", "no number: '5 6'.*line: 2; column: 2 .y."),
        ("1,2,3\n4,0x5,7\n", "no number: '0x5'.*line: 2"),
        ("x y\n1 2 3\n", "names 2 columns, the first row has 3.*line: 1"),
        ("x,y,z,x\n1,2,3,4\n", "same name.*column: x"),
        ("1 2\n3 4\n", "no column 'x'.*column1, column2"),
        ("# nothing\n\n", "no points"),
        ("x,y,z\n", "no points"),
        ("5\n1 2 3\n4 5 6\n", "truncated: it holds 2 of 5"),
        ("1\n1 2 3\n4 5 6\n", "declares 1 points, 2 follow"),
        ("1 2 3\r4 5 6\r", "carriage returns"),
        ("<!DOCTYPE html>\n", "a web page"),
        ("PK\x03\x04", "a zip archive"),
        ("1 2\0 3\n", "zero bytes.*byte: 3"),
        ("", "the file is empty"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_cloud(path)
    assert caught.value.where["file"] == path


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows_module, "_LONGEST_LINE", 1000)
    path = tmp_path / "bad.txt"
    path.write_text("1 2 3\n" + "7 " * 600 + "\n" + "8 " * 40_000)
    with pytest.raises(DataError, match=r"longer than a megabyte|more than 3 fields"):
        read_cloud(path)


def test_wrong_options(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1 2 3\n")
    with pytest.raises(UsageError, match="the delimiter is one character, not ', '"):
        inspect(path, Options(delimiter=", "))
    with pytest.raises(UsageError, match="at least one row"):
        list(read_blocks(path, rows=0))


def test_the_delimiter_and_the_point_of_the_user(tmp_path: Path) -> None:
    path: Any = tmp_path / "a.txt"
    path.write_text("1,5 2,5 3,5\n")
    cloud = read_cloud(path, Options(delimiter=" ", decimal=","))
    assert cloud.points.tolist() == [[1.5, 2.5, 3.5]]
