"""Labelled points as loose files: .npz, .ply (binary), .las and .laz. The same points give the same bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ssl3d.data.atomic import replacing
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.data.formats.cloud import ROWS, Array
from ssl3d.data.formats.las import HINT
from ssl3d.data.formats.ply_header import name_of

WRITTEN = (".npz", ".ply", ".las", ".laz")
"""Suffixes, in lower case, of the files that are written."""
_MILLIMETER = 0.001
_MOST_STEPS = 2**31 - 1
_SOFTWARE = "ssl3d"
_LAS_DATE = 90
"""Byte of the day and year of creation, which laspy always writes; 0: not stated."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Points and what was found for them.

    Attributes:
        points: (n, 3) float64 or float32, in the file's unit and frame; in .ply with this dtype.
        label: (n,) whole numbers of at most 32 bits.
        scores: (n,) of the label or (n, C) of every class, stored as float32; None without.
        color: (n, 3) uint8 RGB, by class for instance; None without.
        header: of the file that the points came from: a .las keeps its grid of coordinates.
    """

    points: npt.NDArray[np.floating[Any]]
    label: npt.NDArray[np.integer[Any]]
    scores: npt.NDArray[np.floating[Any]] | None = None
    color: npt.NDArray[np.uint8] | None = None
    header: Mapping[str, object] = field(default_factory=dict)

    def columns(self) -> dict[str, Array]:
        """All that is stored beside the points, as (n,) columns."""
        found: dict[str, Array] = {"label": _narrow(self.label)}
        if self.color is not None:
            found |= {name: self.color[:, k] for k, name in enumerate(("red", "green", "blue"))}
        if self.scores is not None:
            scores = self.scores.astype(np.float32, copy=False)
            single = scores.ndim == 1
            found |= {"score": scores} if single else {f"score_{k}": scores[:, k] for k in range(scores.shape[1])}
        return found


def write_labelled(path: Path | str, cloud: Labelled) -> None:
    """Writes a file, whole or not at all; its folder has to exist.

    Raises:
        UsageError: its suffix is unknown.
        Ssl3dError: a package that writes it is not installed.
        DataError: the format cannot hold the points.
    """
    path = Path(path)
    kind = path.suffix.lower()
    _check(kind, cloud, path)
    with replacing(path) as temporary, temporary.open("w+b") as stream:
        _write(stream, kind, cloud, path)


def labelled_bytes(kind: str, cloud: Labelled) -> bytes:
    """The content of a file with suffix ``kind``. Raises: as ``write_labelled``."""
    stream = BytesIO()
    _check(kind, cloud, Path(kind))
    _write(stream, kind, cloud, Path(kind))
    return stream.getvalue()


def _check(kind: str, cloud: Labelled, path: Path) -> None:
    if kind not in WRITTEN:
        raise UsageError(
            f"labelled points are not written as {kind!r}", where={"file": path}, hint=f"known: {' '.join(WRITTEN)}"
        )
    rows = len(cloud.points)
    for name, values in (("label", cloud.label), ("scores", cloud.scores), ("color", cloud.color)):
        if values is not None and len(values) != rows:
            raise DataError(f"{len(values)} rows of {name} for {rows} points", where={"file": path, "field": name})


def _write(stream: IO[bytes], kind: str, cloud: Labelled, path: Path) -> None:
    if kind == ".npz":
        _write_npz(stream, cloud)
    elif kind == ".ply":
        _write_ply(stream, cloud)
    else:
        _write_las(stream, cloud, path, compress=kind == ".laz")


def _narrow(label: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """Labels in the smallest type that holds them, among those that every format knows."""
    low, high = (int(label.min()), int(label.max())) if len(label) else (0, 0)
    if low < -(2**31) or high >= (2**31 if low < 0 else 2**32):
        raise DataError(f"labels from {low} to {high} do not fit into 32 bits", where={"field": "label"})
    kind = np.int32 if low < 0 else np.min_scalar_type(high)
    return label.astype(kind, copy=False)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS))


def _write_npz(stream: IO[bytes], cloud: Labelled) -> None:
    arrays = {"points": cloud.points, "label": _narrow(cloud.label), "scores": cloud.scores, "color": cloud.color}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in arrays.items():
            if values is not None:  # ZipInfo by hand: numpy stores the time of day
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    npy.write_array(member, np.ascontiguousarray(values), allow_pickle=False)


def _write_ply(stream: IO[bytes], cloud: Labelled) -> None:
    columns = {**dict(zip("xyz", cloud.points.T, strict=True)), **cloud.columns()}
    dtype = np.dtype([(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    header = ["ply", "format binary_little_endian 1.0", f"comment {_SOFTWARE}", f"element vertex {len(cloud.points)}"]
    header += [f"property {name_of(values.dtype)} {name}" for name, values in columns.items()]
    stream.write("\n".join([*header, "end_header\n"]).encode())
    for block in _blocks(len(cloud.points)):
        rows = np.empty(block.stop - block.start, dtype)
        for name, values in columns.items():
            rows[name] = values[block]
        stream.write(rows.data)


def _write_las(stream: IO[bytes], cloud: Labelled, path: Path, *, compress: bool) -> None:
    """LAS 1.4, point format 6 (7 with colors). Labels above 255 or below 0 are an extra dimension ``label``."""
    try:
        import laspy
    except ImportError:
        raise Ssl3dError(
            "writing .las and .laz files needs the package laspy", where={"file": path}, hint=HINT
        ) from None
    columns = cloud.columns()
    if columns["label"].dtype == np.uint8:
        columns["classification"] = columns.pop("label")
    header = laspy.LasHeader(version="1.4", point_format=6 if cloud.color is None else 7)
    header.generating_software = _SOFTWARE
    header.scales, header.offsets = _grid(cloud, path)
    known = set(header.point_format.dimension_names)
    for name, values in columns.items():
        if name not in known:
            header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=values.dtype))
    with laspy.open(stream, "w", header=header, do_compress=compress, closefd=False) as writer:
        for block in _blocks(len(cloud.points)):
            rows = laspy.ScaleAwarePointRecord.zeros(block.stop - block.start, header=header)
            rows.x, rows.y, rows.z = cloud.points[block].T
            rows.return_number[:] = rows.number_of_returns[:] = 1
            for name, values in columns.items():
                wide = name in ("red", "green", "blue")  # 16 bits, white is 65535
                rows[name] = values[block].astype(np.uint16) * 257 if wide else values[block]
            writer.write_points(rows)
    stream.seek(_LAS_DATE)
    stream.write(bytes(4))
    stream.seek(0, 2)


def _grid(cloud: Labelled, path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(3,) steps and (3,) offsets of the whole numbers that coordinates are stored as.

    Raises:
        DataError: a coordinate is NaN or infinite.
    """
    points = cloud.points
    if not len(points):
        return np.full(3, _MILLIMETER), np.zeros(3)
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    if not np.isfinite([low, high]).all():
        raise DataError(
            "LAS holds no coordinates that are NaN or infinite",
            where={"file": path, "row": int(np.argmin(np.isfinite(points).all(axis=1)))},
            hint="write .npz or .ply, or leave such points out",
        )
    if "scales" in cloud.header and "offsets" in cloud.header:
        scales, offsets = np.array(cloud.header["scales"]), np.array(cloud.header["offsets"])
        if (np.maximum(abs(low - offsets), abs(high - offsets)) < scales * _MOST_STEPS).all():
            return scales, offsets
    offsets = np.floor(low)
    scales = np.full(3, _MILLIMETER)
    while (high - offsets >= scales * _MOST_STEPS).any():
        scales *= 10
    return scales, offsets
