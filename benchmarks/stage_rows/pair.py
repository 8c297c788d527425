"""Points of a scan in its images, and how a whole stage gains from a second worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl3d.benchmarks.stage_rows._scans import in_turns, street
from ssl3d.benchmarks.stages import row, seconds
from ssl3d.data.camera import Projection, by_point, project
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.stages.pair import PairStage
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.workspace import Workspace

ONE_BUDGET_MS, SIX_BUDGET_MS, JOBS_BAR = 20.0, 80.0, 1.7
_SIZE, _SIX_SIZE = (1241, 376), (1600, 900)
_LENS = np.array([[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1]])
_SIX_LENS = np.array([[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]])
_ROOM_POINTS, _FRAMES = 150_000, 24
Matrix = npt.NDArray[np.float64]
View = tuple[Matrix, Matrix, tuple[int, int]]
"""Extrinsic, intrinsic, size."""


def rows(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """One image, six images, and a whole ``ssl3d pair`` with one and with two jobs."""
    return [*projections(folder, quick), *workers(folder, scans=12 if quick else 128)]


def projections(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """A street of about 120,000 points, sorted by point and image, one thread: against numpy, OpenCV where it is
    installed (its Python binding computes derivatives too), and the budget."""
    points, repeats = street(folder).points, 5 if quick else 15
    one: list[View] = [(_looking(0.0), _LENS, _SIZE)]
    six: list[View] = [(_looking(np.radians(turn)), _SIX_LENS, _SIX_SIZE) for turn in (0, -56, -110, 180, 110, 56)]
    found = []
    for title, views, budget in (("one image", one, ONE_BUDGET_MS), ("six images", six, SIX_BUDGET_MS)):
        mine, label = partial(_ours, points, views), f"pair, street of {len(points):,} points in {title}"
        ours = np.inf
        for name, rival in _rivals().items():
            other = partial(_theirs, rival, points, views)
            _compare(mine(), other())
            ours, theirs = in_turns(mine, other, repeats)
            found.append(row(label, name, ours * 1e3, theirs * 1e3, "ms"))
        found.append(row(label, f"budget of {budget:.0f} ms, warm", ours * 1e3, budget, "ms"))
    return found


def workers(folder: Path, *, scans: int) -> list[dict[str, Any]]:
    """The whole stage on rooms of 150,000 points with 24 depth maps each, by one and by two threads in all."""
    root, space = folder / "rooms", Workspace.open(folder / "pairs")
    _write_rooms(root, scans)
    prepare(space, "scannet", root, PrepareParams(allow_partial=True))
    taken = {jobs: seconds(partial(_pair, space, jobs)) for jobs in (1, 2)}
    name = f"pair, {scans} rooms of {_ROOM_POINTS:,} points with {_FRAMES} depth maps each, --jobs 2"
    return [row(name, f"--jobs 1 (bar: a ratio of at least {JOBS_BAR})", taken[2], taken[1], "s")]


def _write_rooms(root: Path, scans: int) -> None:
    """ScanNet's layout: one room, the same bytes under the names of many."""
    from PIL import Image

    rng = np.random.default_rng(0)
    names = load_spec("scannet").splits["train"][:scans]
    first = root / "scans" / names[0]
    for name in ("color", "depth", "pose", "intrinsic"):
        (first / name).mkdir(parents=True)
    side = rng.integers(0, 3, _ROOM_POINTS)
    points = rng.uniform(-3, 3, (_ROOM_POINTS, 3)).astype("<f4")
    points[np.arange(_ROOM_POINTS), side] = rng.choice([-3, 3], _ROOM_POINTS)
    rows = np.zeros(_ROOM_POINTS, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"] = points
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {_ROOM_POINTS}"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += [f"property uchar {name}" for name in ("red", "green", "blue")]
    (first / f"{names[0]}_vh_clean_2.ply").write_bytes("\n".join([*head, "end_header\n"]).encode() + rows.tobytes())
    for frame in range(_FRAMES):
        turn = _looking(2 * np.pi * frame / _FRAMES)
        turn[:3, 3] = 0
        np.savetxt(first / "pose" / f"{frame:06d}.txt", turn.T)
        depth = 3000 + rng.integers(-4, 5, (480, 640)) + 2 * np.abs(np.arange(640) - 320)
        Image.fromarray(depth.astype(np.uint16)).save(first / "depth" / f"{frame:06d}.png")
        Image.new("RGB", (1296, 968)).save(first / "color" / f"{frame:06d}.jpg")
    for kind, lens in (("color", (1170.0, 1170.0, 647.5, 483.5)), ("depth", (577.9, 577.9, 319.5, 239.5))):
        matrix = np.eye(4)
        matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = lens
        np.savetxt(first / "intrinsic" / f"intrinsic_{kind}.txt", matrix)
    for name in names[1:]:
        for file in sorted(path for path in first.rglob("*") if path.is_file()):
            place = root / "scans" / name / file.relative_to(first).with_name(file.name.replace(names[0], name))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)


def _pair(space: Workspace, jobs: int) -> None:
    # a number that changes nothing but the key, so that both do all the work
    run_on(space, lambda dataset: PairStage.of(dataset, [f"pair.meters={0.3 + jobs}"]), jobs=jobs)


def _looking(turn: float) -> Matrix:
    """(4, 4): a camera beside the laser, ``turn`` radians to the left of straight ahead."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[s, -c, 0, 0], [0, 0, -1, -0.08], [c, s, 0, -0.27], [0, 0, 0, 1]])


def _ours(points: npt.NDArray[np.float32], views: list[View]) -> tuple[npt.NDArray[Any], ...]:
    seen = [project(points, extrinsic, intrinsic, size) for extrinsic, intrinsic, size in views]
    return _sorted(seen, by_point(len(points), seen))


def _theirs(pixels: Callable[..., Any], points: npt.NDArray[np.float32], views: list[View]) -> tuple[Any, ...]:
    """What is usually written around a library's projection: the tests and the sort by numpy."""
    seen = []
    for extrinsic, intrinsic, (width, height) in views:
        uv, depth = pixels(points, extrinsic, intrinsic)
        uv = np.floor(uv + 0.5)
        keep = (depth > 1.0) & (uv[:, 0] >= 0) & (uv[:, 0] < width) & (uv[:, 1] >= 0) & (uv[:, 1] < height)
        rows_of = np.flatnonzero(keep)
        seen.append(
            Projection(rows_of.astype(np.int32), uv[rows_of].astype(np.uint16), depth[rows_of].astype(np.float32))
        )
    return _sorted(seen, np.argsort(np.concatenate([part.point for part in seen]), kind="stable"))


def _sorted(seen: list[Projection], order: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
    image = np.repeat(np.arange(len(seen), dtype=np.int16), [len(part) for part in seen])
    names = ("point", "uv", "depth")
    return (image[order], *(np.concatenate([getattr(part, name) for part in seen])[order] for name in names))


def _compare(ours: tuple[npt.NDArray[Any], ...], theirs: tuple[npt.NDArray[Any], ...]) -> None:
    if abs(len(ours[0]) - len(theirs[0])) > 1e-3 * len(ours[0]):  # on the edge of two pixels digits may differ
        raise RuntimeError(f"{len(ours[0])} pairs, the rival finds {len(theirs[0])}")


def _rivals() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {f"numpy {np.__version__}": _by_numpy}
    try:
        import cv2
    except ImportError:
        return found
    cv2.setNumThreads(1)

    def by_opencv(points: npt.NDArray[np.float32], extrinsic: Matrix, intrinsic: Matrix) -> tuple[Any, Any]:
        turn, _ = cv2.Rodrigues(extrinsic[:3, :3])
        pixels, _ = cv2.projectPoints(points, turn, extrinsic[:3, 3], intrinsic, None)
        return pixels.reshape(-1, 2), points @ extrinsic[2, :3].astype(np.float32) + np.float32(extrinsic[2, 3])

    return {**found, f"OpenCV {cv2.__version__} cv2.projectPoints, tests by numpy": by_opencv}


def _by_numpy(points: npt.NDArray[np.float32], extrinsic: Matrix, intrinsic: Matrix) -> tuple[Any, Any]:
    inside = points @ extrinsic[:3, :3].T + extrinsic[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = inside @ intrinsic.T
        return pixels[:, :2] / pixels[:, 2:], inside[:, 2]
