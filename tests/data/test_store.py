from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl3d.data.errors import DataError
from ssl3d.data.store import SCHEMA_VERSION, DamagedShard, ShardReader, ShardWriter, write_shard

TMP = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def arrays_of(sizes: list[int], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, s = sum(sizes), len(sizes)
    return {
        "offsets": np.cumsum([0, *sizes]),
        "points": rng.normal(size=(n, 3)).astype(np.float32),
        "label": rng.integers(0, 256, n).astype(np.uint8),
        "instance": rng.integers(0, 2**32, n, dtype=np.uint32),
        "moving": rng.random(n) < 0.5,
        "origin": rng.normal(size=(s, 3)),
        "pose": rng.normal(size=(s, 4, 4)),
        "scan_id": np.array([f"00/{i:06d}" for i in range(s)], dtype="U9"),
        "image": np.array(["", "ü/1.png"] * s)[:s] if s else np.zeros(0, "U1"),
    }


@TMP
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    seed=st.integers(0, 10**6),
    compress=st.sampled_from([None, "lzf", "gzip"]),
)
def test_what_is_written_is_read(tmp_path: Path, sizes: list[int], seed: int, compress: str | None) -> None:
    arrays = arrays_of(sizes, seed)
    path = tmp_path / "a.h5"
    write_shard(path, arrays, {"dataset": "x", "P2": np.eye(3), "count": 3}, compress=compress, sync=False)
    reader = ShardReader(path)
    assert len(reader) == len(sizes) and set(reader.names) == arrays.keys() - {"offsets"}
    assert reader.attrs["dataset"] == "x" and reader.attrs["count"] == 3 and (reader.attrs["P2"] == np.eye(3)).all()
    for name, values in arrays.items():
        whole = reader.array(name)
        assert whole.dtype.kind == values.dtype.kind and whole.shape == values.shape and (whole == values).all()
    for i, (begin, end) in enumerate(zip(arrays["offsets"], arrays["offsets"][1:], strict=False)):
        for name in ("points", "label", "instance", "moving"):
            values = reader.read(name, i)
            assert values.dtype == arrays[name].dtype and (values == arrays[name][begin:end]).all()
            assert values.flags.owndata or values.base.flags.owndata
        several = reader.read_many(("pose", "scan_id", "image", "label"), i)
        assert (several["pose"] == arrays["pose"][i]).all()
        assert str(several["scan_id"]) == arrays["scan_id"][i] and str(several["image"]) == arrays["image"][i]
        assert (several["label"] == arrays["label"][begin:end]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_texts_of_lists_are_texts(tmp_path: Path) -> None:
    words = np.array(["a.png", "ü/1.png", ""])
    write_shard(tmp_path / "a.h5", {"offsets": [0, 2, 2, 3], "name": words}, per_scan=(), sync=False)
    reader = ShardReader(tmp_path / "a.h5")
    assert [reader.read("name", scan).tolist() for scan in range(3)] == [["a.png", "ü/1.png"], [], [""]]


def test_one_point_a_scan_is_still_told_apart(tmp_path: Path) -> None:
    arrays = arrays_of([1, 1, 1])
    write_shard(tmp_path / "a.h5", arrays)
    reader = ShardReader(tmp_path / "a.h5")
    assert reader.is_per_scan("pose") and reader.is_per_scan("scan_id") and not reader.is_per_scan("label")
    assert reader.read("label", 1).shape == (1,) and reader.read("origin", 1).shape == (3,)
    write_shard(tmp_path / "b.h5", {"offsets": [0, 1, 2], "weight": [0.5, 0.25]}, per_scan={"weight"})
    assert ShardReader(tmp_path / "b.h5").read("weight", 1) == 0.25


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_shard(tmp_path / name, arrays_of([4, 0, 7]), {"dataset": "x"})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_wrong_requests(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", arrays_of([4, 2]))
    reader = ShardReader(tmp_path / "a.h5")
    assert (reader.read("label", -1) == reader.read("label", 1)).all()
    with pytest.raises(IndexError, match="scan 2 of 2"):
        reader.read("label", 2)
    with pytest.raises(KeyError, match="color"):
        reader.read("color", 0)
    assert "label" in reader and "color" not in reader


@pytest.mark.parametrize(
    "arrays",
    [
        {"offsets": [0, 3], "label": np.zeros(2, np.uint8)},
        {"offsets": [0, 3, 2], "label": np.zeros(2, np.uint8)},
        {"offsets": [1, 2], "label": np.zeros(2, np.uint8)},
    ],
)
def test_inconsistent_arrays_are_not_written(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"offsets|rows"):
        write_shard(tmp_path / "a.h5", arrays)
    assert not list(tmp_path.iterdir())


def test_pieces_and_an_interruption(tmp_path: Path) -> None:
    layout: Mapping[str, Any] = {"label": ((5,), np.uint8)}
    with ShardWriter(tmp_path / "a.h5", [0, 2, 5], layout) as writer:
        writer.write("label", np.array([7, 8], np.uint8))
        writer.write("label", np.array([1, 2, 3], np.uint8), 2)
        with pytest.raises(ValueError, match="do not fit"):
            writer.write("label", np.zeros(3, np.uint8), 3)
    assert ShardReader(tmp_path / "a.h5").array("label").tolist() == [7, 8, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "b.h5", [0, 5], layout):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_readers_survive_a_fork(tmp_path: Path) -> None:
    arrays = arrays_of([4, 6])
    write_shard(tmp_path / "a.h5", arrays)
    reader = ShardReader(tmp_path / "a.h5")
    reader.read("label", 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read("label", 1).tolist() == arrays["label"][4:].tolist() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.read("label", 0).tolist() == arrays["label"][:4].tolist()


def test_readers_are_pickled_without_what_they_have_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", arrays_of([4, 6]))
    reader = ShardReader(tmp_path / "a.h5")
    values = reader.read("label", 1).tolist()
    pickled = pickle.dumps(reader)
    assert len(pickled) < 500
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read('label', 1).tolist())"
    result = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert result.stdout.decode().strip() == str(values)


def test_reading_leaves_no_handle_open(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", arrays_of([4, 6]))
    before = len(list(Path("/proc/self/fd").iterdir()))
    readers = [ShardReader(tmp_path / "a.h5") for _ in range(50)]
    for reader in readers:
        reader.read_many(("points", "label"), 1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_read_only_files_in_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "a.h5", arrays_of([4]))
    (folder / "a.h5").chmod(0o444)
    folder.chmod(0o555)
    try:
        assert ShardReader(folder / "a.h5").read("label", 0).shape == (4,)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_full_disk_names_the_space_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match="disk is full: 5 MB") as caught:
        write_shard(tmp_path / "a.h5", {"offsets": [0, 5_000_000], "label": np.zeros(5_000_000, np.uint8)})
    assert str(tmp_path / "a.h5") in str(caught.value)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


LIMITED = """
import resource, signal, sys
import numpy as np
from ssl3d.data.store import write_shard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the system refuses to write on, as a full disk does
noise = np.random.default_rng(0).integers(0, 256, 500_000, dtype=np.uint8)
try:
    write_shard(sys.argv[1], {"offsets": [0, 500_000], "label": noise}, compress=sys.argv[2] or None)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("compress", ["", "lzf"])
def test_a_disk_that_fills_up_within_hdf5(tmp_path: Path, compress: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "a.h5"), compress]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("DataError the disk is full")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write_shard(tmp_path / "nowhere" / "a.h5", arrays_of([4]))


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", arrays_of([4]))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["ssl3d_schema"] = SCHEMA_VERSION + 1
    with pytest.raises(DataError, match="pip install -U ssl3d") as caught:
        ShardReader(tmp_path / "a.h5").read("label", 0)
    assert not isinstance(caught.value, DamagedShard)


def test_a_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing") as caught:
        ShardReader(tmp_path / "a.h5").read("label", 0)
    assert not isinstance(caught.value, DamagedShard)


def test_a_shard_that_is_replaced_meanwhile_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.h5", arrays_of([4, 3]))
    reader = ShardReader(tmp_path / "a.h5")
    reader.read("label", 0)
    write_shard(tmp_path / "a.h5", arrays_of([3, 9]))
    with pytest.raises(DataError, match="changed while it was in use"):
        reader.read("label", 0)
