"""Keeping numba's cache honest.

A cached kernel is compiled again when its own file changes, but not when a function or a table that it uses from
another file does. So only kernels that Python calls are cached, and those that use other files take ``Ground.stamp``:
an empty array whose *type* names a digest of all the kernels' sources. Other sources, another signature, another entry.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

_SOURCES = ("rng", "materials", "intersect", "ground", "primitives", "raycast", "sensor", "camera", "rays")


@lru_cache(maxsize=1)
def stamp() -> npt.NDArray[np.void]:
    """(0,) record array; the name of its field is the digest."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return np.zeros(0, np.dtype([(f"sources_{digest.hexdigest()[:16]}", np.uint8)]))
