"""Reading the user's files: bytes that are what they were when they were found, labels that the dataset knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.datasets.source import RawScan, SourceFile
from ssl3d.data.errors import DataError
from ssl3d.data.scan import IGNORE
from ssl3d.data.spec import DatasetSpec

_CHECK = "check its permissions and the disk"


def read_binary(
    file: SourceFile, dtype: npt.DTypeLike, digest: xxhash.xxh3_128 | None = None, columns: int = 1
) -> npt.NDArray[Any]:
    """The numbers of a headerless file: (n,), or (n, columns).

    Raises:
        DataError: it cannot be read, changed since it was found, or ends within a row.
    """
    kind = np.dtype(dtype)
    try:
        values = np.fromfile(file.path, np.uint8)
    except OSError as error:
        raise unreadable(file.path, error) from error
    check_unchanged(file, values.nbytes)
    if values.nbytes % (kind.itemsize * columns):
        raise DataError(
            f"truncated file: {values.nbytes} bytes are no multiple of {kind.itemsize * columns}",
            where={"file": file.path},
            hint="the download or the copy was cut: unpack its archive again",
        )
    if digest is not None:
        digest.update(values.data)
    found = values.view(kind)
    return found if columns == 1 else found.reshape(-1, columns)


def first_three(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``rows[:, :3]`` (n, 3) of contiguous rows (n, k > 3), copied; as items of 12 bytes, which is twice as quick."""
    item = np.dtype([("xyz", "V12"), ("rest", f"V{4 * (rows.shape[1] - 3)}")])
    return np.ascontiguousarray(rows.view(item)["xyz"]).view("<f4").reshape(-1, 3)


def read_bytes(file: SourceFile, digest: xxhash.xxh3_128 | None = None) -> bytes:
    """A whole file. DataError when it cannot be read or changed since it was found."""
    try:
        with open(file.path, "rb") as stream:  # noqa: PTH123
            content = stream.read()
    except OSError as error:
        raise unreadable(file.path, error) from error
    check_unchanged(file, len(content))
    if digest is not None:
        digest.update(content)
    return content


def check_unchanged(file: SourceFile, size: int) -> None:
    """DataError when a file has another size than when it was found."""
    if size != file.size:
        raise DataError(
            f"a file changed while it was in use: {file.size} bytes when found, {size} now",
            where={"file": file.path},
            hint="wait until copying or unpacking has ended, then start the command again",
        )


def unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"a file cannot be read: {error.strerror or error}", where={"file": path}, hint=_CHECK)


def map_labels(
    ids: npt.NDArray[np.integer[Any]], spec: DatasetSpec, scan_id: str, path: str
) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
    """Raw ids (n,) -> train ids (n,) uint8, and how many points every raw id has.

    Raises:
        DataError: ids that the dataset does not have.
    """
    table, known = spec.lut()
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= len(table)):
        strange = ids[(ids < 0) | (ids >= len(table))]
        raise _unknown({int(strange[0]): len(strange)}, [], spec, scan_id, path)
    rows = ids.astype(np.intp, copy=False)  # what both need
    histogram = np.bincount(rows, minlength=1)
    present = np.flatnonzero(histogram)
    counts = dict(zip(present.tolist(), histogram[present].tolist(), strict=True))
    unknown = {raw: count for raw, count in counts.items() if not known[raw]}
    if unknown:
        raise _unknown(unknown, list(counts), spec, scan_id, path)
    return table.take(rows), counts


def _unknown(unknown: dict[int, int], present: list[int], spec: DatasetSpec, scan_id: str, path: str) -> DataError:
    remapped = bool(present) and max((raw for raw in present if raw != IGNORE), default=IGNORE) <= spec.num_classes
    return DataError(
        f"label ids that {spec.title} does not have",
        where={
            "file": path,
            "scan": scan_id,
            "ids": ", ".join(f"{raw} ({count} points)" for raw, count in list(unknown.items())[:8]),
        },
        hint=(
            f"all ids are within 0..{spec.num_classes} (or {IGNORE}): a script has remapped the files in place to "
            "train ids; unpack the label archive again"
            if remapped
            else "labels of another dataset, or damaged: unpack the label archive again"
        ),
    )


def mend_points(scan: RawScan, *, zero_is_none: bool, measured: Sequence[str] = ()) -> None:
    """Rows that are no measurement: not finite (set to 0), and at (0, 0, 0) where that stands for no return.

    They stay in place with label ignored, and are counted.

    Args:
        measured: float columns (n,) that belong to the measurement: a row that is not finite there is none, and rows
            that are none are 0 there.
    """
    points = scan.points
    values = [points, *(scan.columns[name] for name in measured)]
    masks = []
    finite = [np.isfinite(each).reshape(len(points), -1).all(axis=1) for each in values if _suspicious(each)]
    if finite:
        masks.append(~np.logical_and.reduce(finite))
        scan.not_finite = int(np.count_nonzero(masks[-1]))
    if zero_is_none and (zero := points[:, 0] == 0).any():
        masks.append(zero & (points[:, 1] == 0) & (points[:, 2] == 0))
        scan.all_zero = int(np.count_nonzero(masks[-1]))
    if scan.not_finite:
        for each in values:
            each[masks[0]] = 0
    for mask in masks:
        for label in (scan.label, scan.scribble):
            if label is not None:
                label[mask] = IGNORE


def note_intensity(scan: RawScan, kind: str) -> None:
    """Counts intensities outside of 0..1, where this dataset has none. ``kind``: what to call them."""
    intensity = scan.columns["intensity"]
    if len(intensity) and (intensity.min() < 0 or intensity.max() > 1):
        scan.notes[kind] = int(np.count_nonzero((intensity < 0) | (intensity > 1)))


def _suspicious(values: npt.NDArray[Any]) -> bool:
    """Whether some are not finite. A sum would be one pass, but BLAS wakes threads for it, which then wait for more."""
    with np.errstate(all="ignore"):
        return not bool(values.min(initial=0) > -np.inf and values.max(initial=0) < np.inf)
