"""Generated scenes: pixels and points show the same things, as they come from the same scene."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.images import ImageFiles
from ssl3d.data.synthetic.camera import make_calibration
from ssl3d.data.synthetic.frames import world_of, write_frame, write_tables
from ssl3d.data.synthetic.layouts.nuscenes import LAYOUT as NUSCENES
from ssl3d.data.synthetic.layouts.nuscenes import MINI, frame_of, place
from ssl3d.data.synthetic.layouts.nuscenes_rig import ego_at, make_rig, sensor_pose
from ssl3d.data.synthetic.layouts.nuscenes_tables import write_tables as write_nuscenes_tables
from ssl3d.data.synthetic.presets import PRESETS
from ssl3d.data.synthetic.raycast import Scene
from ssl3d.data.synthetic.rays import shoot
from ssl3d.data.synthetic.rooms.generate import generate_rooms
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.pairs import PairSource, ScanPairs
from ssl3d.pipeline.stages.pair import PairStage
from ssl3d.pipeline.stages.pair_summary import summarize_pairs
from ssl3d.pipeline.stages.per_scan import run_on
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.workspace import Workspace


def paired(workspace: Workspace, root: Path, reader: str, *overrides: str) -> tuple[PreparedDataset, PairSource]:
    prepare(workspace, reader, root, PrepareParams(allow_partial=True))
    run_on(workspace, lambda dataset: PairStage.of(dataset, overrides))
    dataset = PreparedDataset(workspace.dataset())
    return dataset, PairSource.of(dataset)


def colors(files: ImageFiles, pairs: ScanPairs) -> np.ndarray:
    """(P, 3) float of the pixel of each pair."""
    out = np.zeros((len(pairs), 3))
    for number, image in enumerate(pairs.images):
        picture, here = files.color(image), pairs.image == number
        out[here] = picture[pairs.uv[here, 1], pairs.uv[here, 0]]
    return out


def agreement(
    scene: Scene, camera: np.ndarray, lens: np.ndarray, pairs: ScanPairs, shift: tuple[int, int] = (0, 0)
) -> float:
    """The share of points that lie where the generator itself looks through the middles of their pixels.

    Args:
        camera: (4, 4) camera to world. lens: fx, fy, cx, cy; pixel u covers [u, u + 1).
    """
    u, v = (pairs.uv + np.array(shift) + 0.5).T
    rays = np.stack([(u - lens[2]) / lens[0], (v - lens[3]) / lens[1], np.ones(len(pairs))], axis=1)
    length = np.linalg.norm(rays, axis=1)
    seen = shoot(scene, camera, rays / length[:, None], np.arange(len(pairs)), 1, noise=0.0)
    there = seen.distance > 0  # a few rays do not come back
    ahead = seen.distance[there] / length[there]
    return float((np.abs(ahead - pairs.depth[there]) < 0.3 + 0.05 * ahead).mean())


SHIFTS = [(-12, 0), (12, 0), (0, -12), (0, 12)]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street")
    write_frame(root, "small", 0, "00", 0)
    write_tables(root, "small", 0, "00")
    return root


def test_streets(street: Path, workspace: Workspace) -> None:
    dataset, source = paired(workspace, street, "semantickitti", "pair.occlusion=zbuffer")
    pairs = source.pairs(0)
    world, calibration = world_of("small", 0, "00"), make_calibration(PRESETS["small"].image_scale)
    p2 = calibration.projections[2]
    inside = np.eye(4)  # the color camera beside camera 0
    inside[:3, 3] = -np.linalg.solve(p2[:, :3], p2[:, 3])
    camera = world.pose(0.0) @ np.linalg.inv(calibration.tr) @ inside
    lens = np.array([p2[0, 0], p2[1, 1], p2[0, 2], p2[1, 2]])
    right = agreement(world.scene(0.0), camera, lens, pairs)
    assert right > 0.93
    assert max(agreement(world.scene(0.0), camera, lens, pairs, shift) for shift in SHIFTS) < right - 0.1
    everything = run_on(workspace, lambda dataset: PairStage.of(dataset)).product
    all_pairs = PairSource.of(dataset, everything).pairs(0)
    low, high = dataset.spec.paired or (0, 0)
    assert low <= len(all_pairs) / all_pairs.num_points <= high
    assert agreement(world.scene(0.0), camera, lens, all_pairs) < right  # hidden points among them


def test_six_cameras_that_look_at_their_own_times(tmp_path: Path, workspace: Workspace) -> None:
    root, unit = tmp_path / "nu", NUSCENES.units("tiny")[0]
    NUSCENES.write(root, "tiny", 0, unit)
    write_nuscenes_tables(root, MINI, "tiny", 0, [unit])
    dataset, source = paired(workspace, root, "nuscenes", "pair.occlusion=zbuffer")
    product = dataset.handle.product("pair")
    assert product is not None
    summary = summarize_pairs(product, {scan.unit: scan.subset for scan in dataset.scans})
    assert len(summary.cameras) == 6 and not summary.blind() and not summary.unusual(dataset.spec.paired)
    (scan,) = dataset.scans
    pairs, world = source.pairs(scan.index), place(MINI, "tiny", 0, unit.group)
    rig = make_rig(world.key, MINI.sizes["tiny"].image_scale)
    for number, name in enumerate(pairs.cameras):
        time = frame_of("tiny", 0, unit, name, rig[name]).time
        camera, lens = sensor_pose(ego_at(world, time), rig[name]), rig[name].lens
        here = np.flatnonzero(pairs.image == number)
        mine = replace(pairs, point=pairs.point[here], uv=pairs.uv[here], depth=pairs.depth[here])
        assert lens is not None
        right = agreement(world.scene(time), camera, np.array(lens), mine)
        wrong = max(agreement(world.scene(time), camera, np.array(lens), mine, shift) for shift in SHIFTS)
        assert right > 0.8 and wrong < right, name  # leaves, in images of 128 x 72


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms") / "rooms"
    generate_rooms(root, "tiny", 0, layout="scannet", jobs=1)
    return root


def test_rooms_and_their_depth_maps(rooms: Path, tmp_path: Path) -> None:
    files = ImageFiles(rooms)
    errors, counts = {}, {}
    for occlusion in ("auto", "none"):
        space = Workspace.open(tmp_path / occlusion)
        dataset, source = paired(space, rooms, "scannet", f"pair.occlusion={occlusion}")
        differences = []
        for scan in dataset.scans:
            pairs, color = source.pairs(scan.index), dataset.source().view(scan.index).features["color"] * 255
            differences.append(np.abs(colors(files, pairs) - color[pairs.point]).mean(axis=1))
        errors[occlusion], counts[occlusion] = np.concatenate(differences).mean(), len(np.concatenate(differences))
    assert errors["auto"] < 0.85 * errors["none"] and errors["auto"] < 18  # vertices have the mean of many frames
    assert 0.4 * counts["none"] < counts["auto"] < counts["none"]  # what is hidden, and what was not measured


def test_rooms_as_streams(rooms: Path, workspace: Workspace, tmp_path: Path) -> None:
    root = tmp_path / "streams"
    shutil.copytree(rooms, root, ignore=shutil.ignore_patterns("pose"))  # without poses there are no exported frames
    dataset, source = paired(workspace, root, "scannet", "pair.frame_step=1")
    exported = Workspace.open(tmp_path / "exported")
    _, other = paired(exported, rooms, "scannet")
    for scan in dataset.scans[:3]:
        ours, theirs = source.pairs(scan.index), other.pairs(scan.index)
        assert all(".sens#color/" in image for image in ours.images) and len(ours.images) == len(theirs.images)
        assert abs(len(ours) - len(theirs)) <= 0.01 * len(theirs)  # poses are float32 here, six digits there
    few = run_on(workspace, lambda dataset: PairStage.of(dataset)).product
    assert {len(PairSource.of(dataset, few).pairs(scan.index).images) for scan in dataset.scans} == {1}
