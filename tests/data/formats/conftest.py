"""Writers of small PLY and PCD files in every variant, apart from the readers that they test."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Columns = Mapping[str, npt.NDArray[Any]]
WritePly = Callable[..., Path]
WritePcd = Callable[..., Path]
PLY_TYPES = {
    **{"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint"},
    **{"f4": "float", "f8": "double"},
}


def scene(rows: int = 50, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Columns of a small labelled cloud; one coordinate is NaN."""
    rng = np.random.default_rng(seed)
    columns: dict[str, npt.NDArray[Any]] = {axis: rng.normal(0, 30, rows).astype(np.float32) for axis in "xyz"}
    columns["red"] = rng.integers(0, 256, rows).astype(np.uint8)
    columns["intensity"] = rng.random(rows)
    columns["scalar_Label"] = rng.integers(-5, 500, rows).astype(np.int32)
    columns["y"][rows // 2] = np.nan
    return columns


def words(value: Any) -> str:
    """A number of numpy in text that gives it back."""
    return str(value.item()) if value.dtype.kind in "iu" else repr(float(value))


def lzf_literals(data: bytes) -> bytes:
    """LZF that compresses nothing: runs of up to 32 bytes."""
    return b"".join(bytes([len(data[k : k + 32]) - 1]) + data[k : k + 32] for k in range(0, len(data), 32))


@pytest.fixture
def write_ply(tmp_path: Path) -> WritePly:
    """``write_ply(columns, encoding, faces=[[0, 1, 2]], edges=[(0, 1)], mesh_first=False, name="a.ply")``."""

    def write(
        columns: Columns,
        encoding: str = "binary_little_endian",
        *,
        faces: Sequence[Sequence[int]] = (),
        edges: Sequence[tuple[int, int]] = (),
        mesh_first: bool = False,
        name: str = "a.ply",
    ) -> Path:
        order = ">" if "big" in encoding else "<"
        rows = len(next(iter(columns.values())))
        kinds = {key: values.dtype.str[1:] for key, values in columns.items()}
        vertex = [f"element vertex {rows}", *(f"property {PLY_TYPES[kind]} {key}" for key, kind in kinds.items())]
        face = [f"element face {len(faces)}", "property list uchar int vertex_indices", "property uchar flags"]
        edge = [f"element edge {len(edges)}", "property int vertex1", "property int vertex2"]
        body: dict[str, list[bytes]] = {"vertex": [], "face": [], "edge": []}
        for row in range(rows):
            if encoding == "ascii":
                body["vertex"].append(" ".join(words(values[row]) for values in columns.values()).encode() + b"\n")
            else:
                body["vertex"] += [
                    values[row : row + 1].astype(order + kinds[key]).tobytes() for key, values in columns.items()
                ]
        for corners in faces:
            if encoding == "ascii":
                body["face"].append(f"{len(corners)} {' '.join(map(str, corners))} 7\n".encode())
            else:
                body["face"].append(struct.pack(f"{order}B{len(corners)}iB", len(corners), *corners, 7))
        for pair in edges:
            line = f"{pair[0]} {pair[1]}\n".encode()
            body["edge"].append(line if encoding == "ascii" else struct.pack(f"{order}ii", *pair))
        parts = {"vertex": vertex, "face": face if faces else [], "edge": edge if edges else []}
        names = ["face", "edge", "vertex"] if mesh_first else ["vertex", "face", "edge"]
        header = [
            "ply",
            f"format {encoding} 1.0",
            "comment made by a test",
            *(line for key in names for line in parts[key]),
        ]
        path = tmp_path / name
        path.write_bytes("\n".join([*header, "end_header\n"]).encode() + b"".join(b"".join(body[key]) for key in names))
        return path

    return write


@pytest.fixture
def write_pcd(tmp_path: Path) -> WritePcd:
    """``write_pcd(columns, encoding, name="a.pcd")``; columns may be (n, c), ``_`` is padding."""

    def write(columns: Columns, encoding: str = "binary", *, name: str = "a.pcd") -> Path:
        rows = len(next(iter(columns.values())))
        flat = {key: values.reshape(rows, -1) for key, values in columns.items()}
        letters = {"f": "F", "u": "U", "i": "I"}
        header = [
            "# .PCD v0.7 - Point Cloud Data file format",
            "VERSION 0.7",
            f"FIELDS {' '.join(flat)}",
            f"SIZE {' '.join(str(values.dtype.itemsize) for values in flat.values())}",
            f"TYPE {' '.join(letters[values.dtype.kind] for values in flat.values())}",
            f"COUNT {' '.join(str(values.shape[1]) for values in flat.values())}",
            f"WIDTH {rows}",
            "HEIGHT 1",
            "VIEWPOINT 0 0 0 1 0 0 0",
            f"POINTS {rows}",
            f"DATA {encoding}",
        ]
        if encoding == "ascii":
            lines = [" ".join(words(v) for values in flat.values() for v in values[row]) for row in range(rows)]
            body = "".join(f"{line}\n" for line in lines).encode()
        elif encoding == "binary":
            body = b"".join(values[row].tobytes() for row in range(rows) for values in flat.values())
        else:
            raw = b"".join(values.tobytes() for values in flat.values())
            packed = lzf_literals(raw)
            body = struct.pack("<II", len(packed), len(raw)) + packed
        path = tmp_path / name
        path.write_bytes("\n".join(header).encode() + b"\n" + body)
        return path

    return write


@pytest.fixture
def columns() -> dict[str, npt.NDArray[Any]]:
    return scene()
