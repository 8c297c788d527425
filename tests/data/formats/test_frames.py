"""Tables that pandas has pickled: as four versions of it write them, damaged, and such as would run code.

``golden/`` holds what ``DataFrame.to_pickle`` of the version in the name has written: ``frame`` in its latest protocol,
``half`` every second row in protocol 2.
"""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl3d.data.errors import DataError
from ssl3d.data.formats import inspect, read_blocks, read_table, split_suffix

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("0.25.3", "1.5.3", "2.3.3", "3.0.0")
I = np.arange(12)  # noqa: E741
EXPECTED = {"x": I + 0.5, "y": -2.0 * I, "z": I / 4, "i": I * 20.0, "t": 1e9 + I, "d": I % 2, "near": I < 3}
EXPECTED["f"] = EXPECTED["x"].astype(np.float32)


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_of_every_version(version: str) -> None:
    source = inspect(GOLDEN / f"frame-{version}.pkl.gz")
    assert (source.format, source.count, source.header) == ("frame", 12, {"others": ["name"]})
    assert list(source.columns) == ["x", "y", "z", "i", "t", "d", "near", "f"]
    table = read_table(source.path)
    for name, values in EXPECTED.items():
        assert table[name].dtype == source.columns[name] == values.dtype and (table[name] == values).all(), name
    half = read_table(GOLDEN / f"half-{version}.pkl")
    assert {name: values.tolist() for name, values in half.items()} == {
        name: EXPECTED[name][::2].tolist() for name in ("x", "y", "z", "d")
    }
    blocks = list(read_blocks(source.path, rows=5, columns=["d"]))
    assert [len(block.points) for block in blocks] == [5, 5, 2]
    assert (np.concatenate([block.points[:, 1] for block in blocks]) == EXPECTED["y"]).all()


def test_suffixes() -> None:
    assert split_suffix("a.b/00.pkl.gz") == ("a.b/00", ".pkl.gz")
    assert split_suffix("a/00.PKL.GZ") == ("a/00", ".pkl.gz")
    assert split_suffix("a/00.txt.gz") == ("a/00.txt", ".gz") and split_suffix("a.b/c") == ("a.b/c", "")


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def objects(value: Any) -> np.ndarray[Any, Any]:
    array = np.empty(2, object)
    array[:] = [value, 1]
    return array


def test_nothing_that_a_pickle_asks_for_is_done(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    touch = f"open({str(proof)!r}, 'w')"
    shell = f"touch {proof}"
    evil = {
        "posix.system": Calls(os.system, shell),
        "builtins.eval": Calls(eval, touch),
        "builtins.exec": objects(Calls(exec, touch)),
        "builtins.getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "io.open": {"x": Calls(open, str(proof), "w")},
        "subprocess.Popen": [Calls(__import__("subprocess").Popen, shell)],
        "numpy.load": Calls(np.load, str(proof)),
    }
    for asked, value in evil.items():
        for protocol in (2, 3, 4, 5):
            text = pickle.dumps(value, protocol)
            with pytest.raises(DataError, match="the pickle asks for") as caught:
                inspect(packed(tmp_path / "a.pkl.gz", text))
            name = asked if protocol > 2 else asked.rpartition(".")[2]  # modules have the names of Python 2
            assert name in caught.value.what and "a.pkl.gz" in str(caught.value)
    # text opcodes, and objects without a call
    for content in (b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR.", b"(ios\nsystem\n.", b"\x80\x02\x82\x01."):
        with pytest.raises(DataError, match="the pickle asks for"):
            inspect(packed(tmp_path / "a.pkl.gz", content))
    assert not proof.exists()


def test_the_state_of_an_admitted_name_is_left_alone(tmp_path: Path) -> None:
    """A real unpickler would set attributes of the class numpy.dtype."""
    content = b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb."
    with pytest.raises(DataError, match="the state of what is no object"):
        inspect(packed(tmp_path / "a.pkl.gz", content))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + b")" + b"\x85" * 100_000 + b"}" + b"\x8c\x01a" + b"s.",  # deep nesting
        b"\x80\x04)" + b"\x85" * 100_000 + b"}" + b"h\x00h\x00s.",  # that would be hashed
        b"\x80\x04Nr\xff\xff\xff\xff.",  # a memory of 2**32 places
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2**63 bytes
        b"\x80\x04\x8a\xff" + b"\xff" * 254 + b"\x7f.",  # a number of 2040 bits
        b"\x80\x04.",
        b"\x80\x04(.",
        b"\x80\x04K\x01.",
        b"\x80\x04}.",
        b"",
        b"x,y,z\n1,2,3\n",
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
    ],
)
def test_what_is_no_table_is_one_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"damaged, or holds no table|asks for") as caught:
        inspect(packed(tmp_path / "a.pkl.gz", content))
    assert "a.pkl.gz" in str(caught.value.where["file"])


def frame(manager: bytes) -> bytes:
    return b"\x80\x04cpandas\nDataFrame\n)\x81}\x8c\x04_mgr" + manager + b"sb."


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (b"", "no blocks"),
        (b")\x81", "expected 2, got 0"),  # an object without state
        (b"))\x86R", "unpack"),
        (b")](K\x01K\x02e\x86R", "_new_Index is missing"),
    ],
)
def test_tables_that_lack_parts(tmp_path: Path, call: bytes, what: str) -> None:
    with pytest.raises(DataError, match=what):
        inspect(packed(tmp_path / "a.pkl.gz", frame(b"cpandas.core.internals.managers\nBlockManager\n" + call)))


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.pkl.gz", (GOLDEN / "frame-2.3.3.pkl.gz").read_bytes()
    for content, what in (
        (whole[:-9], "truncated"),
        (whole[:20], "truncated"),
        (whole[:100] + b"\0\0\0\0" + whole[104:], "damaged"),
        (whole[:-6] + b"\0" + whole[-5:], "damaged"),  # the checksum
        (whole + b"more", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (b"", "empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=what):
            inspect(path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:300]) + gzip.compress(gzip.decompress(whole)[300:]))
    assert inspect(path).count == 12  # an archive of two members


def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl3d.data.formats.frames._LARGEST", 1 << 20)
    with pytest.raises(DataError, match="more than 1 MB when unpacked"):
        inspect(packed(tmp_path / "a.pkl.gz", bytes(3 << 20)))
    monkeypatch.setattr("ssl3d.data.formats.pickle_tree._MOST_STEPS", 1000)
    with pytest.raises(DataError, match="more than 1,000 objects"):
        inspect(packed(tmp_path / "a.pkl.gz", pickle.dumps(list(range(2000)))))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VERSIONS), st.sampled_from(["frame", "half"]), st.data())
def test_changed_bytes_are_one_error_or_a_table(
    tmp_path_factory: pytest.TempPathFactory, version: str, kind: str, data: st.DataObject
) -> None:
    stored = (GOLDEN / (f"frame-{version}.pkl.gz" if kind == "frame" else f"half-{version}.pkl")).read_bytes()
    content = bytearray(gzip.decompress(stored) if kind == "frame" else stored)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.sampled_from([0, 1, 1, 2, 9]))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "changed.pkl"
    try:
        path.write_bytes(content or b"x")
        source = inspect(path)
        assert source.count is not None and 0 < source.count <= len(content)
        for table in source.tables(list(source.columns), 100):
            assert all(len(values) == source.count for values in table.values())
    except DataError as error:
        assert str(path) == str(error.where["file"])


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    text = (GOLDEN / "half-1.5.3.pkl").read_bytes()
    twice = text.replace(b"X\x01\x00\x00\x00yq", b"X\x01\x00\x00\x00xq")
    assert twice != text
    (tmp_path / "a.pkl").write_bytes(twice)
    with pytest.raises(DataError, match="4 columns are named \\(3 different\\)"):
        inspect(tmp_path / "a.pkl")
