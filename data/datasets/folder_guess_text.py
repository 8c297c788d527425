"""A description of a folder as text, with what was guessed and why."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl3d.data.datasets.folder_config import FolderConfig, parse_config
from ssl3d.data.datasets.folder_guess import Guess, look, look_at

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ASPRS = {
    **{0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation", 4: "medium vegetation"},
    **{5: "high vegetation", 6: "building", 7: "low noise", 8: "model key-point", 9: "water", 10: "rail"},
    **{11: "road surface", 12: "overlap", 13: "wire guard", 14: "wire conductor", 15: "transmission tower"},
    **{16: "wire connector", 17: "bridge deck", 18: "high noise"},
}
"""Classification codes of LAS 1.4 R15, table 17; 64 and above are the producer's own."""
_NO_CLASS = (0, 1, 7, 12, 18)
_OWN = 64
_MOST_IDS = 254
_FAR = 100_000.0
_VOXELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Edges to choose from, meters: the smallest that is hardly finer than the points."""


def guess_text(folder: Path) -> str:
    """A description of a folder, ready to be corrected. Raises: as ``look``."""
    root = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100  keeps links
    text = _text(look(root))
    parse_config(tomllib.loads(text), Path("my.toml"))  # what is written can be read
    return text


def describe_file(path: Path) -> FolderConfig:
    """A description of one file. Raises: as ``look_at``."""
    return parse_config(tomllib.loads(_text(look_at(path))), path)


def _text(found: Guess) -> str:
    parts = (_head, _clouds, _columns, _beside, _classes, _rest)
    return "\n".join(line for part in parts for line in part(found)) + "\n"


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _key(name: str, value: object, why: str = "") -> str:
    return f"{name} = {_quoted(value)}" + (f"  # {why}" if why else "")


def _head(found: Guess) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9._-]+", "-", found.root.name.lower()).strip("-._") or "mine"
    yield f"# What `ssl3d prepare folder --guess` saw in {found.root}:"
    yield f"# {len(found.clouds)} clouds, {found.looked} of them opened. Read it through, correct it, then type:"
    yield "#   ssl3d prepare folder --config THIS_FILE --check"
    for note in found.notes:
        yield f"# - {note}"
    yield ""
    yield _key("name", name, "of the dataset in the workspace")
    yield _key("root", str(found.root))
    if found.spacing and not found.frames:
        voxel = next((step for step in _VOXELS if 1.3 * step >= found.spacing), _VOXELS[-1])
        yield _key("defaults", [f"backbone.voxel_size={voxel:g}"], f"points lie about {found.spacing:.2g} m apart")


def _clouds(found: Guess) -> Iterator[str]:
    yield "\n[clouds]"
    yield _key("files", [found.pattern], f"{len(found.clouds)} files, the first is {found.clouds[0]}")
    if found.names:
        yield _key("names", list(found.names), found.reasons.get("names", "the files do not name their columns"))
    if found.frames:
        yield _key("group", "folder", "several clouds a folder, as a moving sensor records them")
    else:
        yield _key("group", "cloud", "each cloud by itself is train, val or test")
    if found.low:
        spans = [high - low for low, high in zip(found.low, found.high, strict=True)]
        place = " ".join(f"{low:.6g}..{high:.6g}" for low, high in zip(found.low, found.high, strict=True))
        yield f"# coordinates: {place}, together {spans[0]:.6g} x {spans[1]:.6g} x {spans[2]:.6g}"
        far = max(map(abs, (*found.low, *found.high))) > _FAR
        unit = "meters? (0.001 for millimeters, 0.3048 for feet)"
        yield _key("scale", 1.0, unit + ("; large coordinates keep their precision" if far else ""))
    if found.zeros:
        yield _key("zero_is_none", True, f"{found.zeros:.0%} of the rows are at (0, 0, 0)")


def _columns(found: Guess) -> Iterator[str]:
    yield "\n[columns]"
    if "intensity" in found.roles:
        low, high = found.ranges.get("intensity", (0.0, 1.0))
        top = next((top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top), None)
        yield _key("intensity", found.roles["intensity"][0], found.reasons["intensity"])
        reach = f"seen {low:g} to {high:g}; becomes 0 to 1"
        yield _key("intensity_range", [0.0, top] if top else [low, max(high, low + 1)], reach)
    if "color" in found.roles:
        high = found.ranges.get("color", (0.0, 255.0))[1]
        top = next((top for top in (1.0, 255.0, 65535.0) if high <= top), high)
        if high > 0:
            yield _key("color", list(found.roles["color"]), found.reasons["color"])
            yield _key("color_max", top, f"seen up to {high:g}")
        else:
            yield f"# {', '.join(found.roles['color'])}: all black, left out"
    if "normal" in found.roles:
        yield _key("normal", list(found.roles["normal"]), found.reasons["normal"])
    for role in ("ring", "label", "instance"):
        if role in found.roles:
            yield _key(role, found.roles[role][0], found.reasons[role])


def _beside(found: Guess) -> Iterator[str]:
    if found.labels is not None:
        labels = found.labels
        yield "\n[labels]"
        yield _key("files", labels.pattern, f"{labels.found} of {len(found.clouds)} clouds; {labels.why}")
        if labels.format:
            yield _key("format", labels.format, "one number a line")
        if Path(labels.pattern).suffix.lower() in (".label", ".bin"):
            yield _key("dtype", labels.dtype)
        if labels.bits:
            yield _key(
                "bits", labels.bits, "as in SemanticKITTI: the low 16 bits are the class, the high ones an instance"
            )
    if found.poses:
        yield "\n[poses]"
        yield _key("files", found.poses, "a line per cloud, in order of name")
    elif found.json_poses:
        yield "\n[poses]"
        yield _key("files", found.json_poses, "position and heading, as PandaSet has them")
        yield _key("by", "stem", "the number in a cloud's name says which")
        yield _key("world", True, "PandaSet's points are in the world; false where they are in the sensor's frame")
    for camera in found.cameras:
        yield "\n[[images]]"
        yield _key("name", camera.name)
        yield _key("files", camera.files)
        yield _key("size", list(camera.size))
        yield _key("intrinsic", camera.intrinsic)
        yield f'poses = {{ files = {_quoted(camera.poses)}, by = "stem" }}'


def _classes(found: Guess) -> Iterator[str]:
    total = sum(found.ids.values())
    if found.class_names and set(found.ids) <= found.class_names.keys() and len(found.class_names) <= _MOST_IDS:
        yield "\n# As classes.json names them. Ids of one name are one class; [ignored] is for what is not learned."
        share = {raw: 100 * found.ids.get(raw, 0) / max(1, total) for raw in sorted(found.class_names)}
        named = [(raw, found.class_names[raw], f"{part:.2g}% of {total:,} rows") for raw, part in share.items()]
        yield from _table("classes", named)
        return
    if len(found.ids) > _MOST_IDS:
        yield f"\n# {len(found.ids)} different labels, {min(found.ids)} to {max(found.ids)}: is this column the class?"
        yield from _table("classes", [(0, "object", "name your classes")])
        return
    if not found.ids:
        yield "\n# No labels were found: name the classes that the clouds are to get."
        yield from _table("classes", [(0, "object", "")])
        return
    airborne = found.suffix.lower() in (".las", ".laz")
    ignored = set(_ignored(found, airborne)) if len(found.ids) > 1 else set()
    if not set(found.ids) - ignored:
        ignored = set()
    rows = {
        raw: (raw, _class_name(raw, airborne), f"{100 * count / total:.2g}% of {total:,} rows")
        for raw, count in sorted(found.ids.items())
    }
    if airborne:
        yield "\n# Names of the ASPRS codes (LAS 1.4); give several codes one name to make them one class."
        yield "# Your files may hold codes that were not seen: an unknown one is an error when it is met."
    else:
        yield "\n# Nothing says what the labels mean: name them; equal names are one class."
    yield from _table("classes", [row for raw, row in rows.items() if raw not in ignored])
    if ignored:
        yield "\n# Kept in place, never trained on, never scored."
        if airborne and any(raw >= _OWN for raw in ignored):
            yield "# IGN's LiDAR HD: 64 lasting above ground, 65 artefact, 66 synthetic (not measured), 67 others."
        yield from _table("ignored", [rows[raw] for raw in rows if raw in ignored])


def _ignored(found: Guess, airborne: bool) -> Iterator[int]:
    for raw in found.ids:
        words = found.labels is not None and found.labels.bits
        if raw < 0 or (airborne and (raw in _NO_CLASS or raw >= _OWN)) or (words and raw == 0):
            yield raw


def _class_name(raw: int, airborne: bool) -> str:
    if airborne:
        return ASPRS.get(raw, f"the producer's code {raw}" if raw >= _OWN else f"reserved code {raw}")
    return "unlabeled" if raw < 0 else f"class {raw}"


def _table(name: str, rows: Sequence[tuple[int, str, str]]) -> Iterator[str]:
    yield f"[{name}]" if name == "ignored" else f"\n[{name}]"
    for raw, text, why in rows:
        yield _key(str(raw), text, why)


def _rest(found: Guess) -> Iterator[str]:
    groups = {os.path.dirname(name) if found.frames else name for name in found.clouds}  # noqa: PTH120
    yield "\n[subsets]"
    if len(groups) > 2:
        yield _key("val_share", 0.2, "of the groups, drawn by their names; or say val = [patterns]")
    else:
        yield f"# {len(groups)} group{'s' * (len(groups) > 1)}: nothing to hold out; or say val = [patterns]"
    if found.frames:
        yield "\n# A spinning LiDAR at the origin of every cloud has a range image (needed by range-view methods only):"
        yield "# [sensor] with fov_up_deg, fov_down_deg, height, width, mean, std (of channels), max_points"
