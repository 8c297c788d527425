"""Lists of labelled points, as ScanNet's limited annotations (``tasks/points/points20`` ...) name vertices of scans.

The lists come with the download script's data-efficient option, under the same terms of use as the dataset; a user's
own file is read, and nothing of it is part of this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.raw import unreadable
from ssl3d.data.errors import DataError

_BEGINNINGS = (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_FORMS = "a dictionary of scan name -> rows of vertices, saved by torch.save, or an .npz with one array for each scan"
I64 = npt.NDArray[np.int64]


def is_point_list(path: Path) -> bool:
    """Whether a file is meant to be such a list: by its ending, or because it begins as archives and pickles do."""
    if path.suffix.lower() in (".npz", ".pt", ".pth"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) in _BEGINNINGS
    except OSError:
        return False


def read_limited_points(path: Path | str, num_points: Mapping[str, int]) -> tuple[dict[str, I64], list[str]]:
    """Scan -> rows of its labelled vertices, rising, each once; and the names that are not in ``num_points``.

    Args:
        path: saved by ``torch.save`` (only plain arrays and lists are read, no other objects), or ``.npz``.
        num_points: scan -> how many vertices its mesh has.

    Raises:
        DataError: the file is neither, holds something else, or names a vertex that a mesh has not.
    """
    content = _load(Path(path))
    found: dict[str, I64] = {}
    absent: list[str] = []
    for name, values in content.items():
        if not isinstance(name, str):
            raise DataError(
                f"a key of the list is no name of a scan: {str(name)[:60]}",
                where={"file": path, "found": type(name).__name__},
                hint=f"expected {_FORMS}",
            )
        rows = _rows(path, name, values)
        count = num_points.get(name)
        if count is None:
            absent.append(name)
            continue
        outside = rows[(rows < 0) | (rows >= count)]
        if len(outside):
            raise DataError(
                f"a labelled vertex is not there: {int(outside[0])} of {count}",
                where={"file": path, "scan": name, "entry": int(np.flatnonzero((rows < 0) | (rows >= count))[0])},
                hint="the list counts vertices of _vh_clean_2.ply: the scan was saved anew, or the list is another one",
            )
        found[name] = np.unique(rows).astype(np.int64)
    if not found:
        raise DataError(
            "the list names none of the scans",
            where={"file": path, "first": ", ".join(map(str, list(content)[:3])) or "nothing"},
            hint=f"scans are called {next(iter(num_points), 'scene0000_00')}",
        )
    return found, absent


def _rows(path: Path | str, name: str, values: Any) -> npt.NDArray[Any]:
    try:
        rows = np.asarray(values)
        seen = f"{rows.dtype.name} {rows.shape}"
    except (ValueError, TypeError, RuntimeError) as error:  # lists of unequal lengths
        rows, seen = np.zeros((0, 0)), str(error).splitlines()[0][:80]
    if rows.ndim == 1 and not len(rows):
        return rows.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DataError(
            "the labelled vertices of a scan are no list of whole numbers",
            where={"file": path, "scan": name, "found": seen},
            hint=f"expected {_FORMS}",
        )
    return rows


def _load(path: Path) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        content = _torch_load(path)
    except OSError as error:
        raise unreadable(str(path), error) from error
    except Exception as error:  # what a damaged archive or pickle raises depends on the byte
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            "the list of labelled vertices cannot be read",
            where={"file": path, "reason": reason},
            hint=f"expected {_FORMS}",
        ) from error
    if not isinstance(content, Mapping):
        raise DataError(
            f"the list of labelled vertices holds a {type(content).__name__}, not scans",
            where={"file": path},
            hint=f"expected {_FORMS}",
        )
    return content


def _torch_load(path: Path) -> Any:
    """Arrays, lists and numbers only: a pickle may run anything else. ValueError when it holds more."""
    import pickle

    import torch

    makers = [np.zeros(1).__reduce__()[0], np.int64(0).__reduce__()[0]]  # an array, a number
    named = [_called(maker, module) for maker in makers for module in ("numpy.core", "numpy._core")]
    kinds = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdg"]
    torch.serialization.add_safe_globals([np.ndarray, np.dtype, *kinds, *named])
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        other = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"it holds a {other[1]}, which might run anything" if other else str(error)) from error


def _called(maker: Any, module: str) -> Any:
    """The function under its name in this module: it has moved, and files are older than that."""

    def make(*arguments: Any) -> Any:
        return maker(*arguments)

    make.__module__, make.__name__, make.__qualname__ = f"{module}.multiarray", maker.__name__, maker.__qualname__
    return make
