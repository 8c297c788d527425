"""Generated rooms in ScanNet's layout: mesh, labels, segments, aggregation, scene info, RGB-D frames."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ssl3d.data.synthetic import captions
from ssl3d.data.synthetic.camera import matmul, rigid_inverse
from ssl3d.data.synthetic.output import write_file
from ssl3d.data.synthetic.rng import Rng, cos_sin
from ssl3d.data.synthetic.rooms.captions import speaker_of
from ssl3d.data.synthetic.rooms.depth import depth_map, photograph
from ssl3d.data.synthetic.rooms.furnish import make_room
from ssl3d.data.synthetic.rooms.mesh import Scan, nyu40, scan_room
from ssl3d.data.synthetic.rooms.path import COLOR_LENS, DEPTH_LENS, Lens, camera_poses, scaled
from ssl3d.data.synthetic.rooms.presets import PRESETS, Place, RoomsPreset, scannet_places
from ssl3d.data.synthetic.rooms.room import Room
from ssl3d.data.synthetic.rooms.scene import Floats, RoomScene, make_scene

SCENE_KEY = 0x5CA2
_PARAMS = {"kThresh": "0.01", "segMinVerts": "20"}
_SCENE_TYPES = {
    "office": "Office",
    "bathroom": "Bathroom",
    "living room": "Living room / Lounge",
    "kitchen": "Kitchen",
    "bedroom": "Bedroom / Hotel",
    "conference room": "Conference Room",
    "hallway": "Hallway",
    "classroom": "Classroom",
    "storage": "Storage/Basement/Garage",
    "copy room": "Copy/Mail Room",
}


@dataclass(frozen=True)
class SceneFiles:
    """The files of a scan; those of labels are None in test scans."""

    folder: Path
    mesh: Path
    labels: Path | None
    segments: Path | None
    aggregation: Path | None
    info: Path
    frames: int

    def all(self) -> list[Path]:
        names = [self.mesh, self.info, self.folder / f"{self.folder.name}.sens"]
        names += [path for path in (self.labels, self.segments, self.aggregation) if path is not None]
        for k in range(self.frames):
            names += [self.folder / "color" / f"{k:06d}.jpg", self.folder / "depth" / f"{k:06d}.png"]
            names.append(self.folder / "pose" / f"{k:06d}.txt")
        return names + [self.folder / "intrinsic" / f"{name}.txt" for name in _CALIBRATION]


_CALIBRATION = ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")


def scene_files(out: Path, preset: RoomsPreset, place: Place) -> SceneFiles:
    name = place.name
    folder = out / ("scans" if place.labels else "scans_test") / name
    mine = place.labels
    return SceneFiles(
        folder,
        folder / f"{name}_vh_clean_2.ply",
        folder / f"{name}_vh_clean_2.labels.ply" if mine else None,
        folder / f"{name}_vh_clean_2.0.010000.segs.json" if mine else None,
        folder / f"{name}.aggregation.json" if mine else None,
        folder / f"{name}.txt",
        preset.images,
    )


def place_of(preset: str, name: str) -> Place:
    return next(place for place in scannet_places(PRESETS[preset]) if place.name == name)


def room_of(preset: str, seed: int, place: Place) -> Room:
    key = Rng(SCENE_KEY, seed, *preset.encode(), place.number).key
    return make_room(key, place.kind, PRESETS[preset].scale)


def recording_frame(room: Room) -> Floats:
    """(4, 4) room to the coordinates of the recording, whose origin and heading are where the camera happened to
    start. ``axisAlignment`` is the way back, up to a shift that puts the room's middle at (0, 0)."""
    rng = Rng(room.key, 35)
    c, s = cos_sin(rng.uniform(0.0, 2.0 * math.pi))
    pose = np.eye(4)
    pose[:2, :2] = ((c, -s), (s, c))
    pose[:3, 3] = (rng.uniform(0.0, 4.0), rng.uniform(0.0, 4.0), rng.uniform(-0.1, 0.1))
    return pose


def write_scene(out: Path, preset: str, seed: int, name: str) -> str:
    """Generates a scan, unless all of it is there; returns its name."""
    plan, place = PRESETS[preset], place_of(preset, name)
    files = scene_files(out, plan, place)
    if all(path.exists() for path in files.all()) and captions.part_written(out, name):
        return name
    room = room_of(preset, seed, place)
    scene = make_scene(room)
    frame = recording_frame(room)
    _write_frames(out, plan, files, room, scene, frame, with_captions=place.labels)
    scan = scan_room(room, scene, plan.frames, plan.depth_width, plan.voxel)
    points = matmul(scan.points, frame[:3, :3].T.copy()) + frame[:3, 3]
    write_file(files.info, _info(plan, room, frame, aligned=place.labels).encode())
    if files.labels and files.segments and files.aggregation:
        labels = nyu40(room)[scan.instances]
        write_file(files.labels, ply(points, scan.rgb, scan.faces, labels))
        write_file(files.segments, _segments(name, scan))
        write_file(files.aggregation, _aggregation(name, room, scan))
    write_file(files.mesh, ply(points, scan.rgb, scan.faces))
    return name


_TYPES = {"<f4": "float", "u1": "uchar", "<u2": "ushort"}
_FIELDS = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue", "alpha"))]


def labels_of(content: bytes) -> npt.NDArray[np.uint16]:
    """(n,) labels of a mesh that ``ply`` made."""
    head, _, body = content.partition(b"end_header\n")
    count = int(head.split(b"element vertex ")[1].split()[0])
    return np.frombuffer(body, np.dtype([*_FIELDS, ("label", "<u2")]), count)["label"]


def ply(
    points: Floats,
    rgb: npt.NDArray[np.uint8],
    faces: npt.NDArray[np.int32],
    labels: npt.NDArray[np.uint16] | None = None,
) -> bytes:
    """A mesh as binary little-endian PLY, with ScanNet's properties (and ``label``)."""
    fields = [*_FIELDS, ("label", "<u2")] if labels is not None else _FIELDS
    rows = np.zeros(len(points), np.dtype(fields))
    for k, axis in enumerate("xyz"):
        rows[axis] = points[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, k]
    rows["alpha"] = 255
    if labels is not None:
        rows["label"] = labels
    corners = np.zeros(len(faces), np.dtype([("count", "u1"), ("vertices", "<i4", (3,))]))
    corners["count"], corners["vertices"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", "comment generated room", f"element vertex {len(rows)}"]
    header += [f"property {_TYPES[kind]} {name}" for name, kind in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(header).encode() + rows.tobytes() + corners.tobytes()


def _segments(name: str, scan: Scan) -> bytes:
    content = {"params": _PARAMS, "sceneId": name, "segIndices": scan.segments.tolist()}
    return json.dumps(content, separators=(",", ":")).encode()


def _aggregation(name: str, room: Room, scan: Scan) -> bytes:
    """Objects in the order of their first vertex."""
    groups: list[dict[str, Any]] = []
    first = np.unique(scan.instances, return_index=True)
    for instance, _ in sorted(zip(*first, strict=True), key=lambda pair: int(pair[1])):
        if instance > 0:
            segments = np.unique(scan.segments[scan.instances == instance]).tolist()
            k = len(groups)
            groups.append({"id": k, "objectId": k, "segments": segments, "label": room.names[instance]})
    content = {
        "sceneId": f"scannet.{name}",
        "appId": "Aggregator.v2",
        "segGroups": groups,
        "segmentsFile": f"scannet.{name}_vh_clean_2.0.010000.segs.json",
    }
    return json.dumps(content, indent=1).encode()


def _numbers(matrix: Floats) -> str:
    return " ".join(f"{value:.6f}" for value in matrix.ravel())


def _info(plan: RoomsPreset, room: Room, frame: Floats, aligned: bool) -> str:
    color, depth = scaled(COLOR_LENS, plan.color_width), scaled(DEPTH_LENS, plan.depth_width)
    middle = np.eye(4)
    middle[:2, 3] = (-0.5 * room.width, -0.5 * room.depth)
    lines = [f"axisAlignment = {_numbers(matmul(middle, rigid_inverse(frame)))} "] if aligned else []
    lines += [f"colorHeight = {color.height}", f"colorToDepthExtrinsics = {_numbers(np.eye(4))}"]
    lines += [f"colorWidth = {color.width}", f"depthHeight = {depth.height}", f"depthWidth = {depth.width}"]
    for key, of in (("f", "f"), ("m", "c")):
        for axis in "xy":
            for name, lens in (("color", color), ("depth", depth)):
                lines.append(f"{key}{axis}_{name} = {getattr(lens, of + axis):.6f}")
    lines += [f"numColorFrames = {plan.images}", f"numDepthFrames = {plan.images}", "numIMUmeasurements = 0"]
    lines.append(f"sceneType = {_SCENE_TYPES[room.kind]}")
    return "\n".join(lines) + "\n"


def camera_matrix(lens: Lens) -> Floats:
    matrix = np.eye(4)
    matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = lens.fx, lens.fy, lens.cx, lens.cy
    return matrix


def _write_frames(
    out: Path,
    plan: RoomsPreset,
    files: SceneFiles,
    room: Room,
    scene: RoomScene,
    frame: Floats,
    with_captions: bool,
) -> None:
    """Color, depth and pose of some of the frames, singly and as ``.sens``; what is said about the color images.

    In some scans the tracking is lost for the last frame: its pose is -inf throughout.
    """
    color, depth = scaled(COLOR_LENS, plan.color_width), scaled(DEPTH_LENS, plan.depth_width)
    rng = Rng(room.key, 36)
    gain = np.array([rng.uniform(0.92, 1.05), rng.uniform(0.95, 1.02), rng.uniform(0.90, 1.05)])
    poses = camera_poses(room, plan.frames)[:: plan.frames // plan.images][: plan.images]
    lost = plan.images - 1 if rng.chance(0.3) else -1
    stream: list[bytes] = []
    said: list[captions.Frame] = []
    for k, pose in enumerate(poses):
        keys = rng.child(k)
        image, who = photograph(scene, room, pose, color, gain * keys.uniform(0.93, 1.05), keys.child(1).key)
        z = depth_map(scene, pose, depth, keys.child(2).key).z
        millimeters = np.floor(z * 1000.0 + 0.5).astype("<u2")
        where = np.full((4, 4), -np.inf) if k == lost else matmul(frame, pose)
        jpeg = _encoded(image, "JPEG", quality=92)
        write_file(files.folder / "color" / f"{k:06d}.jpg", jpeg)
        write_file(files.folder / "depth" / f"{k:06d}.png", _encoded(millimeters, "PNG"))
        rows = "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in where)
        write_file(files.folder / "pose" / f"{k:06d}.txt", rows.encode())
        packed = zlib.compress(millimeters.tobytes())
        stream.append(where.astype("<f4").tobytes() + struct.pack("<4Q", k, k, len(jpeg), len(packed)) + jpeg + packed)
        said.append(captions.Frame(f"{files.folder.name}/color/{k:06d}", who, keys.child(3).key))
    matrices = (camera_matrix(color), np.eye(4), camera_matrix(depth), np.eye(4))
    for name, matrix in zip(_CALIBRATION, matrices, strict=True):
        rows = "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in matrix)
        write_file(files.folder / "intrinsic" / f"{name}.txt", rows.encode())
    sensor = b"generated"
    head = struct.pack("<IQ", 4, len(sensor)) + sensor + b"".join(m.astype("<f4").tobytes() for m in matrices)
    head += struct.pack("<iiIIIIfQ", 2, 1, color.width, color.height, depth.width, depth.height, 1000.0, len(stream))
    write_file(files.folder / f"{files.folder.name}.sens", head + b"".join(stream))
    captions.write_part(out, files.folder.name, speaker_of(room), said if with_captions else [])


def _encoded(pixels: npt.NDArray[Any], form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, **options)
    return buffer.getvalue()
