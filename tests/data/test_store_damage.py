"""Whatever has happened to a shard, reading it ends in the right values or in an error with a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ssl3d.data.errors import DataError
from ssl3d.data.store import DamagedShard, ShardReader, write_shard

SIZES = (30, 0, 50)


def write(path: Path, compress: str | None = None) -> bytes:
    rng = np.random.default_rng(0)
    n = sum(SIZES)
    arrays = {
        "offsets": np.cumsum([0, *SIZES]),
        "points": rng.normal(size=(n, 3)).astype(np.float32),
        "label": rng.integers(0, 20, n).astype(np.uint8),
        "moving": rng.random(n) < 0.5,
        "scan_id": np.array([f"00/{i:06d}" for i in range(len(SIZES))]),
    }
    write_shard(path, arrays, {"dataset": "x"}, compress=compress, sync=False)
    return path.read_bytes()


def read_all(path: Path) -> None:
    reader = ShardReader(path)
    assert reader.attrs is not None
    for i in range(len(reader)):
        reader.read_many(reader.names, i)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    whole = write(path)
    lengths = {0, 1, 8, 9, 48, len(whole) - 1, *np.random.default_rng(1).integers(0, len(whole), 60).tolist()}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedShard) as caught:
            read_all(path)
        assert str(path) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"not a shard", b"\x89HDF\r\n\x1a\n" + b"\xff" * 3000, b"\0" * 5000, b"\x89HDF\r\n\x1a\n\x02"]
)
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(DamagedShard):
        read_all(tmp_path / "a.h5")


def test_hdf5_files_of_others(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:  # the layout without checksums
        file["offsets"] = [0, 1]
    with h5py.File(tmp_path / "new.h5", "w", libver=("v110", "v110")) as file:
        file["offsets"] = [0, 1]
    for name in ("old.h5", "new.h5"):
        with pytest.raises(DamagedShard, match="not a"):
            read_all(tmp_path / name)


def test_offsets_that_do_not_fit_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for values in ([0, 40, 30, 80], [0, 10, 20, 90], [5, 10, 20, 80], [-8, 0, 0, 80]):
        write(path)
        with h5py.File(path, "r+") as file:
            file["offsets"][...] = values
        with pytest.raises(DamagedShard):
            read_all(path)


# In a process of its own, since a crash of HDF5 would be a crash of pytest.
FLIP = """
import sys
from pathlib import Path
import numpy as np
from ssl3d.data.errors import DataError
from ssl3d.data.store import DamagedShard, ShardReader

path, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole = path.read_bytes()
def content():
    reader = ShardReader(path)
    return {name: reader.array(name) for name in (*reader.names, "offsets")}, reader.attrs
good, good_attrs = content()
rng = np.random.default_rng(seed)
damaged = equal = data = 0
for _ in range(rounds):
    bad = bytearray(whole)
    for at in rng.integers(0, len(bad), rng.integers(1, 4)):
        bad[at] ^= int(rng.integers(1, 256))
    path.write_bytes(bad)
    try:
        found, attrs = content()
    except DataError:
        damaged += 1
        continue
    # what is still read has the right shape and type: only values inside the arrays may differ
    assert found.keys() == good.keys() and attrs == good_attrs
    same = True
    for name in good:
        assert found[name].shape == good[name].shape and found[name].dtype.kind == good[name].dtype.kind, name
        same &= found[name].tobytes() == good[name].tobytes()
    equal += same
    data += not same
print(damaged, equal, data)
"""


@pytest.mark.parametrize("compress", [None, "gzip"])
def test_flipped_bytes_never_crash_and_never_change_the_structure(tmp_path: Path, compress: str | None) -> None:
    path = tmp_path / "a.h5"
    write(path, compress)
    command = [sys.executable, "-c", FLIP, str(path), "3", "400"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    damaged, equal, data = map(int, result.stdout.split())
    assert damaged + equal + data == 400 and damaged > 40


def test_a_flipped_flag_is_still_a_bool(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    whole = bytearray(write(path))
    with h5py.File(path) as file:
        at = file["moving"].id.get_offset()
        before = file["moving"][: SIZES[0]]
    whole[at] = 6
    path.write_bytes(whole)
    moving = ShardReader(path).read("moving", 0)
    assert moving.sum() == before[1:].sum() + 1  # a bool of 6 would count as 6


def test_damage_is_an_error_of_the_users_data(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(write(path)[:-100])
    with pytest.raises(DataError, match="ssl3d prepare"):
        ShardReader(path).read("label", 0)
