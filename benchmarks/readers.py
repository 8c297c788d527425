"""Readers of published layouts: whole units from files to shards, against ``cp`` of the same files or a CSV reader.

The layouts come from the generators, with their payloads repeated until units are about as large as real ones; one
process, digest and shards included, in turns with the rival.
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

from ssl3d.benchmarks.stages import row, seconds
from ssl3d.data.datasets.convert import ConvertParams, convert_unit
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.datasets.scannet_mesh import read_mesh
from ssl3d.data.datasets.semanticposs_survey import CELLS
from ssl3d.data.datasets.source import DatasetReader, Layout, ReadOptions, SourceFile
from ssl3d.data.synthetic.rooms.generate import generate_rooms
from ssl3d.data.synthetic.street import generate_street

CSV = Mapping[str, Callable[[Path], object]]
_COPIED = "cp --reflink=never, warm (bar: a ratio of at least 0.2)"
_BINARY = {"scannet": 12, "nuscenes": 16, "semanticposs": 8}
"""Layout -> how often its payloads are repeated."""
_TEXT = {"s3dis": 8, "semantic3d": 8}


def binary_layouts(folder: Path, *, repeats: int, scale: float = 1.0) -> list[dict[str, Any]]:
    """A row for each layout of binary files. ``scale``: 1 for units as large as real ones."""
    found = []
    for name, times in _BINARY.items():
        reader, layout = _made(name, folder / name, max(1, round(scale * times)))
        files = list(dict.fromkeys(file.path for unit in layout.units for file in unit.files()))
        target, shards = folder / "copies", folder / "shards"
        best = fastest(
            {"ours": partial(_convert, reader, layout, shards), "cp": partial(_copy, files, target)},
            repeats,
            fresh={"ours": shards, "cp": target},
        )
        found.append(row(_title(reader, layout, files), _COPIED, best["ours"], best["cp"], "s"))
        for place in (target, shards, folder / name):
            shutil.rmtree(place)
    return found


def text_layouts(folder: Path, rivals: CSV, *, repeats: int, scale: float = 1.0) -> list[dict[str, Any]]:
    """A row for each layout of text files.

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
        shards = folder / "shards"
        sides: dict[str, Callable[[], object]] = {"ours": partial(_convert, reader, layout, shards)}
        sides |= {rival: partial(_read_all, read, files) for rival, read in rivals.items()}
        best = fastest(sides, repeats, fresh={"ours": shards})
        rival = min(rivals, key=lambda name: best[name])
        others = ", ".join(f"{name} {best[name]:.2f}" for name in rivals if name != rival)
        bar = f"{rival} on the same files (bar: a ratio of at least 0.67{f'; {others}' if others else ''})"
        found.append(row(_title(reader, layout, files), bar, best["ours"], best[rival], "s"))
        for place in (shards, folder / name):
            shutil.rmtree(place)
    return found


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
    return f"convert {reader.spec().title}, {len(layout.units)} units, {len(files)} files, {size:.0f} MB"


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
