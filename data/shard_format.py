"""What reader and writer of shards (``store.py``) agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.errors import DataError

SCHEMA_VERSION = 1
PER_SCAN = frozenset({"origin", "scan_id", "pose", "image", "has_label", "scan_index"})
"""Names that are taken as per-scan arrays where their length does not tell (one point per scan)."""

SCHEMA_ATTR = "ssl3d_schema"
ROLES_ATTR = "ssl3d_per_scan"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHECKSUMMED_SUPERBLOCKS = (2, 3)
REBUILD = "run the command that made it again (`ssl3d prepare` for scans): damaged and missing units are rebuilt"
Array = npt.NDArray[Any]


class DamagedShard(DataError):  # noqa: N818  reads as what it is
    """The file is not a whole shard: cut, overwritten, or something else altogether."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies. ``at`` is None for arrays that HDF5 has to read (compressed)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    at: int | None


def check_lengths(offsets: npt.NDArray[np.int64], places: Mapping[str, Place], per_scan: frozenset[str]) -> None:
    if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not rise from 0")
    for name, place in places.items():
        rows = len(offsets) - 1 if name in per_scan else int(offsets[-1])
        if not place.shape or place.shape[0] != rows:
            raise ValueError(f"{name} has shape {place.shape}, expected {rows} rows")
