"""``ssl3d synth street``: generated drives in a published layout, with images.

Every file is a function of (generator version, layout, preset, seed, its own name) alone: the same on any machine, with
any number of processes, and however often the generation was killed and started again. (Of the images this holds for
the pixels; how PNG and JPEG pack them is up to the libraries at hand.)
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.errors import UsageError
from ssl3d.data.synthetic.frames import lidar_poses
from ssl3d.data.synthetic.layouts import LAYOUTS, layout_of
from ssl3d.data.synthetic.layouts.base import StreetLayout, Unit
from ssl3d.data.synthetic.output import claim, finish, in_workers, writing, written_bytes
from ssl3d.data.synthetic.presets import PRESETS

__all__ = [
    "GENERATOR_VERSION",
    "LAYOUTS",
    "MANIFEST",
    "PRESETS",
    "StreetSummary",
    "generate_street",
    "lidar_poses",
    "planned_scans",
]

GENERATOR_VERSION = layout_of(LAYOUTS[0]).version


@dataclass(frozen=True)
class StreetSummary:
    """``points``: by class name, over all labeled scans; ``bytes``: of all files; ``seconds``: this call took."""

    scans: int
    points: dict[str, int]
    bytes: int
    seconds: float


def planned_scans(preset: str, layout: str = LAYOUTS[0]) -> int:
    """How often ``generate_street`` will call ``on_scan``."""
    return len(_writer(layout, preset).units(preset))


def generate_street(
    out: Path,
    preset: str,
    seed: int,
    *,
    layout: str = LAYOUTS[0],
    jobs: int = 1,
    on_scan: Callable[[], None] | None = None,
    overwrite: bool = False,
) -> StreetSummary:
    """Writes the streets of ``preset`` and ``seed`` under ``out``; finished files of an earlier call are kept.

    Args:
        out: becomes the root of a dataset in this layout.
        layout: one of ``LAYOUTS``.
        jobs: processes.
        on_scan: called in this process after each scan, also for those found finished.
        overwrite: replace what another preset, seed or generator version left in ``out``.

    Raises:
        UsageError: unknown preset or layout; ``out`` holds something else.
        DataError: a file cannot be written.
    """
    start = time.monotonic()
    writer, out = _writer(layout, preset), Path(out)
    units = writer.units(preset)
    with writing(out, "streets"):
        claim(
            out,
            _identity(writer, preset, seed),
            "streets",
            owned=writer.owned,
            foreign=writer.foreign,
            complete=lambda: all(writer.finished(out, preset, seed, unit) for unit in units),
            overwrite=overwrite,
        )
        by_group: dict[str, Counter[str]] = {}
        tasks = [(layout, out, preset, seed, block) for block in _blocks(units, writer.block)]
        for counts in in_workers(_write_units, tasks, jobs):
            for group, found in counts:
                by_group.setdefault(group, Counter()).update(found)
                if on_scan is not None:
                    on_scan()
        writer.write_tables(out, preset, seed)
        if not (out / MANIFEST).exists():
            finish(out, _manifest(writer, out, preset, seed, by_group))
    size = written_bytes(out)
    total = sum(by_group.values(), Counter())
    points = {name: total[name] for name in next(iter(by_group.values()))}
    return StreetSummary(len(units), points, size, time.monotonic() - start)


def _writer(layout: str, preset: str) -> StreetLayout:
    if preset not in PRESETS:
        raise UsageError(f"There is no street preset {preset!r}.", hint=f"Use one of: {', '.join(PRESETS)}.")
    return layout_of(layout)


def _identity(writer: StreetLayout, preset: str, seed: int) -> dict[str, object]:
    identity: dict[str, object] = {"generator": "street", "generator_version": writer.version}
    if writer.name != LAYOUTS[0]:
        identity["layout"] = writer.name
    return {**identity, "preset": preset, "seed": seed}


def _blocks(units: list[Unit], size: int) -> list[tuple[Unit, ...]]:
    blocks = []
    for _, members in groupby(units, key=lambda unit: unit.group):
        group = tuple(members)
        blocks += [group[k : k + size] for k in range(0, len(group), size)]
    return blocks


def _write_units(
    layout: str, out: Path, preset: str, seed: int, units: tuple[Unit, ...]
) -> list[tuple[str, dict[str, int]]]:
    """Generates what is missing of some units of a group; (group, points by class) of each."""
    writer = layout_of(layout)
    if units[0].index == 0:
        writer.write_group(out, preset, seed, units[0].group)
    counts = []
    for unit in units:
        if not writer.finished(out, preset, seed, unit):
            writer.write(out, preset, seed, unit)
        counts.append((unit.group, dict(writer.count(out, preset, seed, unit))))
    return counts


def _manifest(
    writer: StreetLayout, out: Path, preset: str, seed: int, by_group: dict[str, Counter[str]]
) -> dict[str, object]:
    digest = hashlib.sha256()
    for path in writer.payload(out, preset, seed):
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return {
        **_identity(writer, preset, seed),
        "complete": True,
        "scans_per_sequence": dict(Counter(unit.group for unit in writer.units(preset))),
        "subsets": writer.subsets(preset),
        "points_per_class": {group: dict(found) for group, found in sorted(by_group.items())},
        "sha256": digest.hexdigest(),
    }
