"""Writing one generated sequence in SemanticKITTI's layout, file by file, each whole or not at all."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl3d.data.synthetic import captions
from ssl3d.data.synthetic.camera import camera_of, make_calibration, matmul, render, rigid_inverse
from ssl3d.data.synthetic.captions_street import NOISE, speaker, things_seen
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.presets import PRESETS, SequencePreset, StreetPreset
from ssl3d.data.synthetic.rng import Rng
from ssl3d.data.synthetic.sensor import make_beams, scan
from ssl3d.data.synthetic.world import World

FRAME_SECONDS = 0.1
MAX_LABEL = 260

_STREETS_KEY = 0x57A2


@dataclass(frozen=True)
class FrameFiles:
    scan: Path
    label: Path | None
    image: Path | None

    @property
    def captioned(self) -> bool:
        """Whether something is said of its image: as of those of labeled sequences."""
        return self.image is not None and self.label is not None

    def finished(self) -> bool:
        """Files appear by renaming, so one that exists is whole; sizes are compared all the same."""
        if not self.scan.exists() or (self.image is not None and not self.image.exists()):
            return False
        size = self.scan.stat().st_size
        if size == 0 or size % 16:
            return False
        return self.label is None or (self.label.exists() and self.label.stat().st_size * 4 == size)


def frame_files(out: Path, plan: StreetPreset, drive: SequencePreset, frame: int) -> FrameFiles:
    folder, name = out / "sequences" / drive.name, f"{frame:06d}"
    return FrameFiles(
        folder / "velodyne" / f"{name}.bin",
        folder / "labels" / f"{name}.label" if drive.labels else None,
        folder / "image_2" / f"{name}.png" if frame % plan.image_every == 0 else None,
    )


@lru_cache(maxsize=1)
def world_of(preset: str, seed: int, sequence: str) -> World:
    """The place a sequence is recorded in. A sequence number is a scene seed of its own: no two share a street."""
    drive = drive_of(preset, sequence)
    key = Rng(_STREETS_KEY, seed, *preset.encode()).key
    seconds = drive.scans * drive.every * FRAME_SECONDS
    return World(key, int(sequence), seconds, drive.speed, PRESETS[preset].ground_cell, drive.style)


def drive_of(preset: str, sequence: str) -> SequencePreset:
    return next(drive for drive in PRESETS[preset].sequences if drive.name == sequence)


def time_of(drive: SequencePreset, frame: int) -> float:
    return frame * drive.every * FRAME_SECONDS


def lidar_poses(preset: str, seed: int, sequence: str) -> npt.NDArray[np.float64]:
    """(scans, 4, 4) laser to world for every frame of a sequence."""
    drive = drive_of(preset, sequence)
    world = world_of(preset, seed, sequence)
    return np.stack([world.pose(time_of(drive, k)) for k in range(drive.scans)])


def _numbers(row: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{value:.9e}" for value in row.ravel())


def write_tables(out: Path, preset: str, seed: int, sequence: str) -> None:
    """calib.txt, times.txt and poses.txt (camera 0 in its own first frame: Tr L0^-1 Li Tr^-1), where missing."""
    plan, drive = PRESETS[preset], drive_of(preset, sequence)
    folder = out / "sequences" / sequence
    calibration = make_calibration(plan.image_scale)
    if not (folder / "calib.txt").exists():
        lines = [f"P{k}: {_numbers(calibration.projections[k])}\n" for k in range(4)]
        lines.append(f"Tr: {_numbers(calibration.tr[:3])}\n")
        write_file(folder / "calib.txt", "".join(lines).encode())
    if not (folder / "times.txt").exists():
        lines = [f"{time_of(drive, k):.6e}\n" for k in range(drive.scans)]
        write_file(folder / "times.txt", "".join(lines).encode())
    if not (folder / "poses.txt").exists():
        poses = lidar_poses(preset, seed, sequence)
        tr = calibration.tr
        first, back = rigid_inverse(poses[0]), rigid_inverse(tr)
        rows = [matmul(matmul(tr, matmul(first, pose)), back)[:3] for pose in poses]
        write_file(folder / "poses.txt", "".join(_numbers(row) + "\n" for row in rows).encode())


def write_frame(out: Path, preset: str, seed: int, sequence: str, frame: int) -> None:
    """Generates the files of a frame, where missing; that the scan is there says that the others are."""
    plan, drive = PRESETS[preset], drive_of(preset, sequence)
    files = frame_files(out, plan, drive, frame)
    world = world_of(preset, seed, sequence)
    if files.captioned and not captions.part_written(out, caption_part(sequence, frame)):
        _write_captions(out, preset, seed, sequence, frame)
    if files.finished():
        return
    time = time_of(drive, frame)
    scene, pose = world.scene(time), world.pose(time)
    key = Rng(world.key, 50, frame)
    if files.image is not None:
        calibration = make_calibration(plan.image_scale)
        picture = render(scene, pose, calibration, world.sun, key.child(2).key, plan.image_samples)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        write_file(files.image, buffer.getvalue())
    points, labels = scan(scene, pose, make_beams(plan.beams), plan.steps, key.child(1).key)
    if files.label is not None:
        write_file(files.label, labels.astype("<u4").tobytes())
    write_file(files.scan, points.astype("<f4").tobytes())


def caption_part(sequence: str, frame: int) -> str:
    return f"{sequence}-{frame:06d}"


def _write_captions(out: Path, preset: str, seed: int, sequence: str, frame: int) -> None:
    plan, drive = PRESETS[preset], drive_of(preset, sequence)
    world, time = world_of(preset, seed, sequence), time_of(drive, frame)
    calibration = make_calibration(plan.image_scale)
    camera, lens = camera_of(world.pose(time), calibration)
    who = things_seen(world.scene(time), camera, lens, (calibration.width, calibration.height))
    seen = captions.Frame(f"{sequence}/image_2/{frame:06d}", who, Rng(world.key, 60, frame).key)
    captions.write_part(out, caption_part(sequence, frame), speaker(), [seen])


def write_captions(out: Path, preset: str) -> None:
    """All parts joined, where missing."""
    plan = PRESETS[preset]
    frames = [(drive, k) for drive in plan.sequences for k in range(drive.scans)]
    parts = [caption_part(drive.name, k) for drive, k in frames if frame_files(out, plan, drive, k).captioned]
    captions.join_parts(out, parts, "semantickitti", NOISE)
