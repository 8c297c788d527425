"""Readers of published layouts against ``cp`` of the same files or a CSV reader: into memory, and as far as shards.

The layouts come from the generators, with their payloads repeated until units are about as large as real ones; one
process, digest included, in turns with the rival. ``cp`` also writes what it reads, so reading has an advantage there,
and a conversion, which makes normals, edges and maps labels, has none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xxhash

from ssl3d.benchmarks.stages import row, seconds
from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.scannet_mesh import read_mesh
from ssl3d.data.datasets.semanticposs_survey import CELLS
from ssl3d.data.datasets.source import DatasetReader, Layout, ReadOptions, SourceFile
from ssl3d.data.synthetic.rooms.generate import generate_rooms
from ssl3d.data.synthetic.street import generate_street

CSV = Mapping[str, Callable[[Path], object]]
_COPIED = "cp --reflink=never, warm"
_AT_LEAST = "bar: a ratio of at least {}"
_BINARY = {"scannet": 12, "nuscenes": 16, "semanticposs": 8}
"""Layout -> how often its payloads are repeated."""
_TEXT = {"s3dis": 8, "semantic3d": 8}


def binary_layouts(folder: Path, *, repeats: int, scale: float = 1.0) -> list[dict[str, Any]]:
    """Two rows for each layout of binary files. ``scale``: 1 for units as large as real ones."""
    found = []
    for name, times in _BINARY.items():
        reader, layout = _made(name, folder / name, max(1, round(scale * times)))
        files = list(dict.fromkeys(file.path for unit in layout.units for file in unit.files()))
        title, copies = _title(reader, layout, files), folder / "copies"
        sides: dict[str, Callable[[], object]] = {"cp": partial(_copy, files, copies)}
        best = _measured(folder, reader, layout, sides, repeats, fresh={"cp": copies})
        bar = f"{_COPIED} ({_AT_LEAST.format(0.2)})"
        found.append(row(f"read {title}, with digest", bar, best["read"], best["cp"], "s"))
        found.append(row(f"convert {title}", _COPIED, best["convert"], best["cp"], "s"))
    return found


def text_layouts(folder: Path, rivals: CSV, *, repeats: int, scale: float = 1.0) -> list[dict[str, Any]]:
    """Two rows for each layout of text files.

    The rivals read numbers: of S3DIS those of the objects (the room's own file, whose lines are only counted, has the
    same once more), of Semantic3D points and labels.
    """
    found = []
    for name, times in _TEXT.items():
        reader, layout = _made(name, folder / name, max(1, round(scale * times)))
        files = [
            file.path
            for unit in layout.units
            for scan in unit.scans
            for role, file in scan.files.items()
            if role != "room" or len(scan.files) == 1
        ]
        title, bar = _title(reader, layout, files), _AT_LEAST.format(0.67)
        best = _measured(
            folder, reader, layout, {name: partial(_read_all, read, files) for name, read in rivals.items()}, repeats
        )
        rival = min(rivals, key=lambda name: best[name])
        others = "".join(f"; {name} {best[name]:.2f} s" for name in rivals if name != rival)
        found.append(row(f"read {title}, with digest", f"{rival} ({bar}{others})", best["read"], best[rival], "s"))
        found.append(row(f"convert {title}", f"{rival}, reading only", best["convert"], best[rival], "s"))
    return found


def _measured(
    folder: Path,
    reader: DatasetReader,
    layout: Layout,
    rivals: Mapping[str, Callable[[], object]],
    repeats: int,
    fresh: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, float]:
    """Seconds of the rivals, of ``read`` and of ``convert``; the layout and what was written are removed after that."""
    fresh = {"read": folder / "scratch", "convert": folder / "shards", **fresh}
    ours = {"read": partial(_read, reader, layout, fresh["read"])}
    ours |= {"convert": partial(_convert, reader, layout, fresh["convert"])}
    best = fastest({**ours, **rivals}, repeats, fresh)
    for place in (*fresh.values(), layout.root):
        shutil.rmtree(place)
    return best


def fastest(
    sides: Mapping[str, Callable[[], object]], repeats: int, fresh: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, float]:
    """The least seconds of each side, in turns; the first turn warms up and does not count.

    Args:
        fresh: side -> folder that it writes to, empty before each of its turns: files that take the place of others
            would have these written out first.
    """
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(repeats + 1):
        for name, side in sides.items():
            if name in fresh:
                shutil.rmtree(fresh[name], ignore_errors=True)
                fresh[name].mkdir()
            taken = seconds(side)
            best[name] = min(best[name], taken) if turn else best[name]
    return best


def _title(reader: DatasetReader, layout: Layout, files: list[str]) -> str:
    size = sum(Path(file).stat().st_size for file in files) / 1e6
    return f"{reader.spec().title}, {len(layout.units)} units, {len(files)} files, {size:.0f} MB"


def _read(reader: DatasetReader, layout: Layout, scratch: Path) -> None:
    spec = reader.spec()
    for unit in layout.units:
        digest = xxhash.xxh3_128()
        with reader.opened(unit, spec, scratch) as (reading, source):
            for position in range(len(source.scans)):
                reading.read_scan(source, position, spec, digest)


def _convert(reader: DatasetReader, layout: Layout, out: Path) -> None:
    for unit in layout.units:
        with reader.opened(unit, reader.spec(), out) as (reading, source):
            files = {product: out / f"{unit.id}.{product}.h5" for product in source.products()}
            convert_unit(reading, source, files, ConvertParams(sync=False))  # cp does not wait for the disk either


def _copy(files: list[str], target: Path) -> None:
    subprocess.run(["cp", "--reflink=never", "--parents", *files, str(target)], check=True)


def _read_all(read: Callable[[Path], object], files: list[str]) -> None:
    for file in files:
        read(Path(file))


def _made(name: str, root: Path, times: int) -> tuple[DatasetReader, Layout]:
    """A generated layout with larger files."""
    kind = generate_rooms if name in ("scannet", "s3dis") else generate_street
    kind(root, "tiny", 0, layout=name, jobs=1)
    _ENLARGE[name](root, times)
    reader = get_reader(name)
    return reader, reader.discover(root, ReadOptions(allow_partial=True))


def _repeat(root: Path, times: int, *patterns: str) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            path.write_bytes(path.read_bytes() * times)


def _enlarge_scannet(root: Path, times: int) -> None:
    """Copies of a room side by side; objects are those of the first."""
    for mesh in sorted(root.glob("scans*/*/*_vh_clean_2.ply")):
        scan = mesh.name.removesuffix("_vh_clean_2.ply")
        _repeat_mesh(mesh, times)
        labels = mesh.with_name(f"{scan}_vh_clean_2.labels.ply")
        segments = mesh.with_name(f"{scan}_vh_clean_2.0.010000.segs.json")
        if labels.is_file():
            _repeat_mesh(labels, times)
        if segments.is_file():
            content = json.loads(segments.read_text())
            ids = np.array(content["segIndices"])
            content["segIndices"] = np.concatenate([ids + k * (ids.max() + 1) for k in range(times)]).tolist()
            segments.write_text(json.dumps(content, separators=(",", ":")))


def _repeat_mesh(path: Path, times: int) -> None:
    file = SourceFile.find(path)
    assert file is not None
    mesh = read_mesh(file)
    count = len(mesh.points)
    fields = [("xyz", "<f4", 3), ("rgba", "u1", 4), *([("label", "<u2")] if mesh.label is not None else [])]
    rows = np.zeros((times, count), np.dtype(fields))
    rows["xyz"], rows["rgba"][..., :3] = mesh.points, mesh.color
    rows["xyz"][..., 0] += np.arange(times)[:, None] * (np.ptp(mesh.points[:, 0]) + 1)
    faces = np.zeros((times, len(mesh.faces)), np.dtype([("corners", "u1"), ("rows", "<i4", 3)]))
    faces["corners"] = 3
    faces["rows"] = mesh.faces + np.arange(times)[:, None, None] * count
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {times * count}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")]
    if mesh.label is not None:
        rows["label"] = mesh.label
        header.append("property ushort label")
    header += [f"element face {faces.size}", "property list uchar int vertex_indices", "end_header\n"]
    path.write_bytes("\n".join(header).encode() + rows.tobytes() + faces.tobytes())


def _enlarge_nuscenes(root: Path, times: int) -> None:
    """Without the panoptic archives: unpacking them is no copy of bytes."""
    _repeat(root, times, "samples/LIDAR_TOP/*", "lidarseg/*/*.bin")
    for path in [*root.glob("panoptic/*/*.npz"), *root.glob("*/panoptic.json")]:
        path.unlink()


def _enlarge_semanticposs(root: Path, times: int) -> None:
    """The tags say that the first cells of the sensor hold the points."""
    _repeat(root, times, "sequences/*/velodyne/*", "sequences/*/labels/*")
    for path in root.glob("sequences/*/labels/*"):
        cells = np.arange(CELLS) < path.stat().st_size // 4
        (path.parents[1] / "tag" / f"{path.stem}.tag").write_bytes(cells.tobytes())


_ENLARGE: Mapping[str, Callable[[Path, int], None]] = {
    "scannet": _enlarge_scannet,
    "nuscenes": _enlarge_nuscenes,
    "semanticposs": _enlarge_semanticposs,
    "s3dis": lambda root, times: _repeat(root, times, "Area_*/*/*.txt", "Area_*/*/Annotations/*.txt"),
    "semantic3d": lambda root, times: _repeat(root, times, "*.txt", "*.labels"),
}
