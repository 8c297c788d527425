from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ssl3d.data.scan import View

MakeView = Callable[..., View]


@pytest.fixture
def make_view() -> MakeView:
    """(seed, n) -> points on a wavy ground and a wall, 20 m across: many voxels at every level."""

    def make(seed: int = 0, n: int = 1500, scan: int = 0) -> View:
        rng = np.random.default_rng(seed)
        xy = rng.uniform(-10, 10, (n, 2))
        z = np.where(rng.random(n) < 0.7, np.sin(xy[:, 0]), rng.uniform(-1, 3, n))
        return View(
            points=np.c_[xy, z].astype(np.float32),
            features={"intensity": rng.random((n, 1)).astype(np.float32)},
            rows=np.c_[np.full(n, scan), np.arange(n)],
            label=rng.choice([0, 1, 2, 255], n).astype(np.uint8),
            scan={"scan_id": f"00/{scan:06d}"},
        )

    return make
