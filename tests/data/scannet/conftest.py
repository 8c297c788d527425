"""Small folders in ScanNet's layout: one scan of each subset, a square of SIDE x SIDE vertices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from ssl3d.data.datasets.scannet import ScanNet
from ssl3d.data.datasets.scannet_labels import TABLE, category_facts
from ssl3d.data.datasets.source import RawScan, ReadOptions
from ssl3d.data.spec import load_spec

READER = ScanNet()
SPEC = load_spec("scannet")
PARTIAL = ReadOptions(allow_partial=True)
TRAIN, VAL, TEST = "scene0191_00", "scene0568_00", "scene0707_00"
SIDE = 6
VERTICES = SIDE * SIDE
SEGMENTS = np.repeat([7, 40, 900], VERTICES // 3)  # ids with gaps, as they are shipped
OBJECTS = [
    {"id": 0, "objectId": 0, "segments": [7], "label": "wall"},
    {"id": 1, "objectId": 1, "segments": [40, 7], "label": "office chair"},  # takes segment 7 from the wall
    {"id": 2, "objectId": 4, "segments": [900], "label": "trash can"},
]
NYU40 = np.repeat([5, 5, 39], VERTICES // 3)
ALIGNMENT = "0 1 0 0.5 -1 0 0 0 0 0 1 0 0 0 0 1"


def write_ply(path: Path, points: np.ndarray, faces: np.ndarray, label: np.ndarray | None = None) -> None:
    """In the binary layout that is published."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), *((c, "u1") for c in ("red", "green", "blue", "alpha"))]
    fields += [("label", "<u2")] if label is not None else []
    rows = np.zeros(len(points), fields)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for place, name in enumerate(("red", "green", "blue")):
        rows[name] = np.arange(len(points)) * (place + 1) % 256
    if label is not None:
        rows["label"] = label
    corners = np.zeros(len(faces), [("n", "u1"), ("v", "<i4", (3,))])
    corners["n"], corners["v"] = 3, faces
    kinds = {"f4": "float", "u1": "uchar", "u2": "ushort"}
    lines = ["ply", "format binary_little_endian 1.0", "comment made by a test", f"element vertex {len(points)}"]
    lines += [f"property {kinds[kind[-2:]]} {name}" for name, kind in fields]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    path.write_bytes("\n".join(lines).encode() + rows.tobytes() + corners.tobytes())


def grid() -> tuple[np.ndarray, np.ndarray]:
    """A square of SIDE x SIDE vertices in the plane z = 1."""
    y, x = np.divmod(np.arange(VERTICES), SIDE)
    points = np.stack([x, y, np.ones(VERTICES)], axis=1).astype(np.float32)
    low = np.array([i for i in range(VERTICES) if x[i] < SIDE - 1 and y[i] < SIDE - 1])
    upper = np.stack([low, low + 1, low + SIDE + 1], axis=1)
    lower = np.stack([low, low + SIDE + 1, low + SIDE], axis=1)
    return points, np.concatenate([upper, lower]).astype(np.int32)


def write_scan(folder: Path, *, labelled: bool = True) -> None:
    scan, (points, faces) = folder.name, grid()
    folder.mkdir(parents=True)
    write_ply(folder / f"{scan}_vh_clean_2.ply", points, faces)
    info = ["colorHeight = 968", "colorWidth = 1296", *([f"axisAlignment = {ALIGNMENT} "] if labelled else [])]
    (folder / f"{scan}.txt").write_text("\n".join(info) + "\n")
    if not labelled:
        return
    write_ply(folder / f"{scan}_vh_clean_2.labels.ply", points, faces, NYU40)
    segments = {"params": {"kThresh": "0.0001"}, "sceneId": scan, "segIndices": SEGMENTS.tolist()}
    (folder / f"{scan}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
    named = f"scannet.{scan}_vh_clean_2.0.010000.segs.json"
    objects = {"sceneId": f"scannet.{scan}", "segGroups": OBJECTS, "segmentsFile": named}
    (folder / f"{scan}.aggregation.json").write_text(json.dumps(objects))


def write_table(path: Path, rows: int | None = None, drop: str = "", **changed: int) -> None:
    """The category table with the rows that are known to be in it, filled up to the published number of rows."""
    spots = {**category_facts()["spots"], "stick": 40, **changed}
    spots = {name: nyu40 for name, nyu40 in spots.items() if name != drop}
    filler = {f"thing {k}": 40 for k in range((rows or category_facts()["rows"]) - len(spots))}
    lines = ["id\traw_category\tcategory\tcount\tnyu40id\tnyu40class"]
    lines += [f"{k}\t{name}\t{name}\t1\t{nyu40}\tx" for k, (name, nyu40) in enumerate({**spots, **filler}.items())]
    path.write_bytes("\r\n".join(lines).encode())


class Made:
    """A folder that was written, and what tests do with it."""

    train: ClassVar = TRAIN
    val: ClassVar = VAL
    test: ClassVar = TEST
    vertices: ClassVar = VERTICES
    segments: ClassVar = SEGMENTS
    objects: ClassVar = OBJECTS
    nyu40: ClassVar = NYU40
    alignment: ClassVar = ALIGNMENT
    grid = staticmethod(grid)
    write_ply = staticmethod(write_ply)
    write_scan = staticmethod(write_scan)

    def __init__(self, root: Path) -> None:
        self.root = root
        write_scan(root / "scans" / TRAIN)
        write_scan(root / "scans" / VAL)
        write_scan(root / "scans_test" / TEST, labelled=False)
        write_table(root / TABLE)

    def read(self, scan: str = TRAIN) -> RawScan:
        units = {unit.id: unit for unit in READER.discover(self.root, PARTIAL).units}
        return READER.read_scan(units[scan], 0, SPEC)

    def edit(self, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def table(self, rows: int | None = None, drop: str = "", **changed: int) -> None:
        write_table(self.root / TABLE, rows, drop, **changed)

    def problems(self, options: ReadOptions = PARTIAL) -> dict[str, list[str]]:
        """Severity -> the texts of all problems."""
        found: dict[str, list[str]] = {"error": [], "warning": []}
        for problem in READER.check(self.root, options).all_problems():
            found[problem.severity].append(str(problem.as_error()))
        return found


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "scannet")
