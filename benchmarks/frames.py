"""SemanticKITTI-format folders for measurements: right in size and layout, random in content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_RAW_IDS = np.array([0, 10, 40, 44, 48, 50, 51, 70, 71, 72, 80, 81, 252], np.uint32)


def write_frames(root: Path, scans: Mapping[str, int], num_points: int, seed: int = 0) -> list[Path]:
    """Writes ``root/sequences/SS/{velodyne,labels}`` with ``scans[SS]`` scans of ``num_points`` points each.

    Sequences 11 to 21 get no labels. All scans of a sequence differ.

    Returns:
        The files, in order.
    """
    rng = np.random.default_rng(seed)
    cloud = np.concatenate(
        [rng.normal(0, [20, 20, 1], (num_points, 3)), rng.random((num_points, 1))], axis=1, dtype=np.float32
    )
    words = np.repeat(rng.choice(_RAW_IDS, num_points // 50 + 1), 50)[:num_points] | np.uint32(7 << 16)
    files = []
    for sequence, count in scans.items():
        folder = root / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True, exist_ok=True)
        if sequence < "11":
            (folder / "labels").mkdir(exist_ok=True)
        for frame in range(count):
            cloud[:, 0] += np.float32(0.01)
            path = folder / "velodyne" / f"{frame:06d}.bin"
            cloud.tofile(path)
            files.append(path)
            if sequence < "11":
                label = folder / "labels" / f"{frame:06d}.label"
                words.tofile(label)
                files.append(label)
    return files
