"""Small folders in SemanticKITTI's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.datasets.source import DatasetReader, ReadOptions
from ssl3d.data.errors import Ssl3dError

KNOWN_RAW = np.array([0, 1, 10, 11, 40, 48, 50, 70, 72, 80, 81, 99, 252, 254], np.uint32)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1242).to_bytes(4, "big") + (375).to_bytes(4, "big")  # the part that is read
TR = "0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3"

MakeKitti = Callable[..., Path]


@pytest.fixture
def make_kitti(tmp_path: Path) -> MakeKitti:
    """``make_kitti({"00": 3, "08": 2}, points=50, images=False, scribbles=False, name="kitti")``: a whole dataset.

    Its manifest states its own counts, as generated data does; ``manifest=False`` leaves it out.
    """

    def make(
        sequences: Mapping[str, int] | None = None,
        *,
        points: int = 50,
        images: bool = False,
        scribbles: bool = False,
        manifest: bool = True,
        name: str = "kitti",
        seed: int = 0,
    ) -> Path:
        counts = dict(sequences or {"00": 3, "08": 2, "11": 1})
        rng = np.random.default_rng(seed)
        root = tmp_path / name
        for sequence, frames in counts.items():
            folder = root / "sequences" / sequence
            labelled = int(sequence) <= 10
            for sub in ("velodyne", *(["labels"] * labelled), *(["scribbles"] * scribbles), *(["image_2"] * images)):
                (folder / sub).mkdir(parents=True)
            for frame in range(frames):
                n = points + frame
                scan = rng.normal(0, 10, (n, 4)).astype("<f4")
                scan[:, 3] = rng.random(n)
                scan.tofile(folder / "velodyne" / f"{frame:06d}.bin")
                words = rng.choice(KNOWN_RAW, n) | (rng.integers(0, 500, n).astype("<u4") << np.uint32(16))
                if labelled:
                    words.astype("<u4").tofile(folder / "labels" / f"{frame:06d}.label")
                if scribbles:
                    words[rng.random(n) > 0.1] = 0
                    words.astype("<u4").tofile(folder / "scribbles" / f"{frame:06d}.label")
                if images:
                    (folder / "image_2" / f"{frame:06d}.png").write_bytes(PNG)
            (folder / "calib.txt").write_text(f"P2: 700 0 600 45 0 700 180 0 0 0 1 0\nTr: {TR}\n")
            lines = [f"1 0 0 {frame}.5 0 1 0 0 0 0 1 {2 * frame}" for frame in range(frames)]
            (folder / "poses.txt").write_text("\n".join(lines) + "\n")
        if manifest:
            (root / "ssl3d_synth.json").write_text(json.dumps({"complete": True, "scans_per_sequence": counts}))
        return root

    return make


@pytest.fixture
def damage_at_random() -> Callable[[DatasetReader, Path, list[Path], int], int]:
    """Cuts, scribbles over, swaps, empties or removes a file, 25 times: an error of ours or whole scans, and never
    something else. Gives how often it was an error."""

    def damage(reader: DatasetReader, root: Path, files: list[Path], seed: int) -> int:
        rng, spec, failed = np.random.default_rng(seed), reader.spec(), 0
        for _ in range(25):
            file, other = (files[int(k)] for k in rng.choice(len(files), 2, replace=False))
            content = file.read_bytes()
            at, kind = int(rng.integers(len(content))), int(rng.integers(5))
            noise = rng.integers(0, 256, 6, dtype=np.uint8).tobytes()
            damaged = [content[:at], content[:at] + noise + content[at + 6 :], other.read_bytes(), b"", b""]
            file.write_bytes(damaged[kind])
            if kind == 4:
                file.unlink()
            try:
                for unit in reader.discover(root, ReadOptions(allow_partial=True)).units:
                    for position, scan in enumerate(unit.scans):
                        raw = reader.read_scan(unit, position, spec)
                        assert len(raw.points) == scan.num_points and np.isfinite(raw.points).all()
                        assert raw.label is None or len(raw.label) == len(raw.points)
            except Ssl3dError as error:
                assert error.where
                failed += 1
            file.write_bytes(content)
        return failed

    return damage
