"""Generated folders in the layout of SemanticKITTI, and small helpers for tests of stages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xxhash

from ssl3d.pipeline.workspace import Workspace

FRAMES = {"00": 6, "01": 4, "08": 3, "11": 2}
RAW_IDS = np.array([0, 10, 11, 40, 48, 50, 70, 72, 81, 252], np.uint32)
CALIB = "P2: 700 0 600 0 0 700 180 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
MakeKitti = Callable[..., Path]


def _write_sequence(folder: Path, frames: int, points: int, rng: np.random.Generator, labels: bool) -> None:
    (folder / "velodyne").mkdir(parents=True)
    for frame in range(frames):
        count = points + 7 * frame
        scan = rng.uniform(-40, 40, (count, 4)).astype("<f4")
        scan[:, 3] = rng.uniform(0, 1, count)
        scan.tofile(folder / "velodyne" / f"{frame:06d}.bin")
        if labels:
            (folder / "labels").mkdir(exist_ok=True)
            words = rng.choice(RAW_IDS, count) | (rng.integers(0, 9, count, dtype=np.uint32) << 16)
            words.astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
    (folder / "calib.txt").write_text(CALIB)
    (folder / "poses.txt").write_text("".join(f"1 0 0 {i} 0 1 0 0 0 0 1 {2 * i}\n" for i in range(frames)))


@pytest.fixture(scope="session")
def make_kitti() -> MakeKitti:
    """``make_kitti(root, frames, points, seed)`` writes a dataset that is complete by its own counts."""

    def make(root: Path, frames: Mapping[str, int] = FRAMES, points: int = 60, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for sequence, count in frames.items():
            _write_sequence(root / "sequences" / sequence, count, points, rng, labels=int(sequence) <= 10)
        manifest = {"complete": True, "scans_per_sequence": dict(frames)}
        (root / "ssl3d_synth.json").write_text(json.dumps(manifest))
        return root

    return make


@pytest.fixture(scope="session")
def kitti_once(make_kitti: MakeKitti, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that is only read."""
    return make_kitti(tmp_path_factory.mktemp("kitti"))


@pytest.fixture
def kitti(kitti_once: Path, tmp_path: Path) -> Path:
    """A dataset of one's own, to be damaged."""
    return Path(shutil.copytree(kitti_once, tmp_path / "kitti"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "ws")


class Heard:
    """A progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[tuple[str, float | None, float]] = []

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[_Bar]:
        bar = _Bar()
        yield bar
        self.tasks.append((name, total, bar.done))

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class _Bar:
    def __init__(self) -> None:
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def note(self, text: str) -> None: ...


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Relative path -> digest of every product file below a folder (journals hold times, so they are left out)."""

    def of(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"]
        return {
            str(path.relative_to(folder)): xxhash.xxh3_128_hexdigest(path.read_bytes())
            for path in sorted(files)
            if path.suffix in {".h5", ".json"} and path.name not in {"stage.json", "dataset.json"}
        }

    return of


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, tuple[int, int]]]:
    """Every path below a folder with its size and modification time."""

    def of(folder: Path) -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")
        }

    return of


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[None]:
    """The rest of the test runs without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def made(workspace: Workspace, kitti: Path) -> Workspace:
    """Prepared and split."""
    from ssl3d.pipeline.stages.prepare import prepare
    from ssl3d.pipeline.stages.split import SplitParams, split

    prepare(workspace, "semantickitti", kitti)
    split(workspace, SplitParams(ratio="30%"))
    return workspace
