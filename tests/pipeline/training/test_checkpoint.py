from __future__ import annotations

import errno
import itertools
import signal
from pathlib import Path

import pytest
import torch

from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.training import checkpoint

SCHEMA = {"schema": checkpoint.SCHEMA, "num_classes": 2, "step": 1}


def state(value: float, **more: object) -> dict[str, object]:
    return {**SCHEMA, "model": {"w": torch.full((500,), value)}, **more}


def test_save_and_load(tmp_path: Path) -> None:
    checkpoint.save_last(tmp_path, state(1.0, rng={"cpu": torch.get_rng_state()}))
    loaded = checkpoint.load_last(tmp_path, print)
    assert loaded is not None
    assert torch.equal(loaded["model"]["w"], torch.full((500,), 1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_last(tmp_path, print) is None
    with pytest.raises(Ssl3dError, match="no checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_one_falls_back_with_a_message(tmp_path: Path, damage: str) -> None:
    checkpoint.save_last(tmp_path, state(1.0))
    checkpoint.save_last(tmp_path, state(2.0))
    last = tmp_path / "last.pt"
    raw = bytearray(last.read_bytes())
    at = raw.index(torch.full((500,), 2.0).numpy().tobytes())
    raw[at] ^= 1
    cut = {"truncated": bytes(raw[:-300]), "flipped": bytes(raw), "empty": b""}
    if damage == "foreign":
        torch.save([1, 2], last)
    else:
        last.write_bytes(cut[damage])
    said: list[str] = []
    loaded = checkpoint.load_last(tmp_path, said.append)
    assert loaded is not None
    assert loaded["model"]["w"][0] == 1.0
    assert "is damaged" in said[0]


def test_no_flipped_byte_of_the_index_is_believed(tmp_path: Path) -> None:
    """The central directory has no checksum, and torch trusts it."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, state(1.0))
    raw = path.read_bytes()
    start = raw.index(b"PK\x01\x02")
    damaged = 0
    for at, bit in itertools.product(range(start, len(raw)), (0, 4)):
        flipped = bytearray(raw)
        flipped[at] ^= 1 << bit
        path.write_bytes(bytes(flipped))
        try:
            loaded = checkpoint.load(path)
        except checkpoint.DamagedCheckpointError:
            damaged += 1
        else:
            assert torch.equal(loaded["model"]["w"], state(1.0)["model"]["w"]), at
    assert damaged > 100


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        checkpoint.save_last(tmp_path, state(value))
    for name in ("last.pt", "last.prev.pt"):
        (tmp_path / name).write_bytes(b"PK nothing")
    with pytest.raises(Ssl3dError, match=r"every checkpoint.*--overwrite"):
        checkpoint.load_last(tmp_path, print)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({**SCHEMA, "model": Evil()}, tmp_path / "last.pt")
    with pytest.raises(checkpoint.DamagedCheckpointError):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()


def test_a_newer_one_is_not_called_damaged(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.pt", {**state(1.0), "schema": 99})
    with pytest.raises(Ssl3dError, match="newer ssl3d"):
        checkpoint.load_last(tmp_path, print)


def test_a_full_disk_keeps_the_one_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    checkpoint.save_last(tmp_path, state(1.0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Ssl3dError, match="no more may be written") as caught:
            checkpoint.save_last(tmp_path, {**state(2.0), "big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    loaded = checkpoint.load_last(tmp_path, print)
    assert loaded is not None
    assert loaded["model"]["w"][0] == 1.0
    assert not list(tmp_path.glob(".*tmp"))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    module, path = torch.nn.Linear(3, 2), tmp_path / "last.pt"
    good = {"num_classes": 2, "model": module.state_dict()}
    checkpoint.load_weights(module, good, 2, path)
    with pytest.raises(Ssl3dError, match="has 19 classes, the run has 2"):
        checkpoint.load_weights(module, {**good, "num_classes": 19}, 2, path)
    with pytest.raises(Ssl3dError, match=r"missing bias; unexpected extra; weight is .*4, 3"):
        model = {"weight": torch.zeros(4, 3), "extra": torch.zeros(1)}
        checkpoint.load_weights(module, {**good, "model": model}, 2, path)
    with pytest.raises(Ssl3dError, match=r"not numbers.*weight"):
        spoiled = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}
        checkpoint.load_weights(module, {**good, "model": spoiled}, 2, path)
