"""ScanNet's lists of limited annotations (``tasks/points/points20`` ...): which vertices of a scan are labelled.

The lists come with the download script's data-efficient option, under the same terms of use as the dataset; a user's
own file is read, and nothing of it is part of this package.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.data.datasets.raw import unreadable
from ssl3d.data.errors import DataError

_FORMS = "a dictionary of scan name -> rows of vertices, saved by torch.save, or an .npz with one array for each scan"
I64 = npt.NDArray[np.int64]


def read_limited_points(path: Path | str, num_points: Mapping[str, int]) -> dict[str, I64]:
    """Scan -> rows of its labelled vertices, rising, each once; scans outside of ``num_points`` are left out.

    Args:
        path: saved by ``torch.save`` (only plain arrays and lists are read, no other objects), or ``.npz``.
        num_points: scan -> how many vertices its mesh has.

    Raises:
        DataError: the file is neither, holds something else, or names a vertex that a mesh has not.
    """
    content = _load(Path(path))
    found = {}
    for name, values in content.items():
        count = num_points.get(str(name))
        if count is None:
            continue
        rows = np.asarray(values)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise DataError(
                "the labelled vertices of a scan are no list of whole numbers",
                where={"file": path, "scan": name, "found": f"{rows.dtype.name} {rows.shape}"},
                hint=f"expected {_FORMS}",
            )
        outside = rows[(rows < 0) | (rows >= count)]
        if len(outside):
            raise DataError(
                f"a labelled vertex is not there: {int(outside[0])} of {count}",
                where={"file": path, "scan": name},
                hint="the list counts vertices of _vh_clean_2.ply: the scan was saved anew, or the list is another one",
            )
        found[str(name)] = np.unique(rows).astype(np.int64)
    if not found:
        raise DataError(
            "the list names none of the scans",
            where={"file": path, "first": ", ".join(map(str, list(content)[:3])) or "nothing"},
            hint=f"scans are called {next(iter(num_points), 'scene0000_00')}",
        )
    return found


def _load(path: Path) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        content = _torch_load(path)
    except OSError as error:
        raise unreadable(str(path), error) from error
    except (ValueError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
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

    array = np.zeros(1, np.int64)
    rebuild: Any = array.__reduce__()[0]  # its module has moved between versions of numpy
    kinds = [type(np.dtype(kind)) for kind in (np.int32, np.int64, np.uint32, np.uint64)]
    torch.serialization.add_safe_globals([rebuild, np.ndarray, np.dtype, *kinds])
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
