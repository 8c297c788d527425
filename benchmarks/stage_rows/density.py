"""Exact neighbor counts against a k-d tree, and what a dense scan costs."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.benchmarks.stage_rows._scans import in_turns, room, street
from ssl3d.benchmarks.stages import row
from ssl3d.data.geometry.density import neighbor_counts

_DENSE_POINTS = 400_000
_DENSE_BUDGET_MB = 1024.0
_DENSE = """
import resource, sys
import numpy as np
from ssl3d.data.geometry.density import neighbor_counts
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
neighbor_counts(np.zeros((9, 3), np.float32), 1.0)
points = np.random.default_rng(0).uniform(0, 2.7, (int(sys.argv[1]), 3)).astype(np.float32)
before = peak()
assert np.median(neighbor_counts(points, 0.8, int(sys.argv[2]))) > len(points) / 20
print(max(1.0, peak() - before))
"""


def rows(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """Counts on a street (R = 0.5 m and 1 m) and in a room (0.1 m), both sides with so many threads; the tree is built
    outside of its time. A scan whose balls hold tens of thousands of points has to stay within a budget of memory."""
    import scipy
    from scipy.spatial import cKDTree

    rival = f"scipy {scipy.__version__} cKDTree.query_ball_point(return_length=True, workers={jobs}), its tree ready"
    found = []
    for place, cloud, radii in (("street", street(folder), (0.5, 1.0)), ("room", room(folder), (0.1,))):
        points = cloud.points
        tree = cKDTree(points)
        for radius in radii:
            ours = partial(neighbor_counts, points, radius, jobs)
            theirs = partial(tree.query_ball_point, points, radius, return_length=True, workers=jobs)
            if not np.array_equal(ours(), theirs()):
                raise RuntimeError(f"the counts of a {place} differ from scipy's")
            mine, other = in_turns(ours, theirs, 3 if quick else 7)
            name = f"density, {place} of {len(points):,} points, R {radius:g} m"
            found.append(row(name, f"{rival} (bar: 3)", mine * 1e3, other * 1e3, "ms"))
    extra = dense_memory_mb(100_000 if quick else _DENSE_POINTS, jobs)
    name = "density, memory beside the points of a scan whose balls hold 30,000 points"
    return [*found, row(name, "budget of 1 GB", extra, _DENSE_BUDGET_MB, "MB")]


def dense_memory_mb(count: int, jobs: int) -> float:
    """How much the peak memory of a process rises while it counts a scan whose points lie within a few radii."""
    done = subprocess.run(
        [sys.executable, "-c", _DENSE, str(count), str(jobs)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)
