"""``ssl3d bench stages``: conversion, reading, the command line, the share of a training step that computes, and the
parts in ``stage_rows``.

Each row holds our figure, a named rival's in the same run, and their ratio (above 1: ours is better). Where the bar is
a budget rather than a rival, the rival is that budget.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.benchmarks.frames import write_frames
from ssl3d.data.errors import UsageError
from ssl3d.data.spec import load_spec
from ssl3d.data.store import ShardReader
from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
from ssl3d.pipeline.workspace import Workspace

POINTS_PER_SCAN = 122_800  # the mean of SemanticKITTI's train set
HELP_BUDGET_S = 0.3
STATUS_BUDGET_S = 1.0
MEMORY_BUDGET_MB = 1024.0
COMPUTE_BUDGET = 0.85
_PARTIAL = PrepareParams(allow_partial=True)


def row(
    name: str, rival: str, ours: float, theirs: float, unit: str, *, more_is_better: bool = False
) -> dict[str, Any]:
    """A line of the table; ``ratio`` above 1 means that ours is better."""
    ratio = ours / theirs if more_is_better else theirs / ours
    return {"name": name, "rival": rival, "ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit}


def parts() -> list[str]:
    """What ``run`` measures, in order."""
    from ssl3d.benchmarks.stage_rows import list_parts

    return ["chain", *list_parts()]


def run(
    *, progress: Progress, jobs: int, quick: bool = False, only: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """All rows, or those of some parts. ``quick`` uses less data: a look, not a claim. ``jobs``: threads of both sides.

    Raises:
        UsageError: there is no such part.
    """
    from ssl3d.benchmarks.stage_rows import get_part

    chosen = parts() if only is None else list(only)
    if unknown := [name for name in chosen if name not in parts()]:
        raise UsageError(f"there is no part named {unknown[0]}", hint=f"parts: {', '.join(parts())}")
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary,
        progress.task("measure", total=len(chosen), unit="parts") as task,
    ):
        for name in chosen:
            task.note(name)
            measure = chain if name == "chain" else get_part(name)
            rows += measure(Path(temporary), jobs=jobs, quick=quick)
            task.advance()
    return rows


def chain(folder: Path, *, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """Conversion, reading, the command line, and the share of a training step that computes."""
    return [
        *conversion(folder, scans=16 if quick else 128, repeats=3 if quick else 5),
        *reading(folder, reads=200 if quick else 1000),
        *command_line(folder, share=0.02 if quick else 1.0),
        *training_step(
            folder,
            jobs=jobs,
            preset="tiny" if quick else "small",
            backbones={"minkunet-micro": 20} if quick else {"minkunet-micro": 60, "minkunet18": 20},
        ),
    ]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def conversion(folder: Path, *, scans: int, repeats: int) -> list[dict[str, Any]]:
    """Whole ``prepare`` on one core (digest, check for NaN, label map, sync) against a warm ``cp`` of its files."""
    root = folder / "kitti"
    write_frames(root, {"00": scans}, POINTS_PER_SCAN)
    ratios, ours, theirs = [], [], []
    prepare(Workspace.open(folder / "warm-up"), "semantickitti", root, _PARTIAL, jobs=1)
    for _ in range(repeats):
        copy, workspace = folder / "copy", folder / "converted"
        for place in (copy, workspace):
            shutil.rmtree(place, ignore_errors=True)
        command = ["cp", "-r", "--reflink=never", str(root), str(copy)]
        theirs.append(seconds(partial(subprocess.run, command, check=True)))
        ours.append(seconds(partial(prepare, Workspace.open(workspace), "semantickitti", root, _PARTIAL, jobs=1)))
        ratios.append(theirs[-1] / ours[-1])
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    bar = "cp -r --reflink=never, warm (bar: a ratio of at least 0.2)"
    command = ["prepare", "semantickitti", "--root", str(root), "--allow-partial", "--jobs", "1"]
    memory = peak_memory_mb([*command, "--workspace", str(folder / "memory")])
    return [
        row(f"prepare {scans} scans, 1 core", bar, ours[middle], theirs[middle], "s"),
        row("prepare, peak memory of a worker", "budget of 1 GB", memory, MEMORY_BUDGET_MB, "MB"),
    ]


def reading(folder: Path, *, reads: int) -> list[dict[str, Any]]:
    """A random scan with its labels: shards against the published files and the learning map, in turns."""
    root = folder / "kitti" / "sequences" / "00"
    prepared = PreparedDataset(Workspace.open(folder / "converted").dataset())
    units = sorted({scan.unit for scan in prepared.scans})
    points = {unit: ShardReader(prepared.product.folder / f"{unit}.points.h5") for unit in units}
    labels = {unit: ShardReader(prepared.product.folder / f"{unit}.labels.h5") for unit in units}
    source, truth = prepared.source(), prepared.truth()
    table, _ = load_spec("semantickitti").lut()

    def from_files(scan: ScanRef) -> None:
        name = scan.scan_id.split("/")[1]
        cloud = np.fromfile(root / "velodyne" / f"{name}.bin", np.float32).reshape(-1, 4)
        word = np.fromfile(root / "labels" / f"{name}.label", np.uint32)
        _ = cloud[:, :3], cloud[:, 3], table[word & 0xFFFF]

    def from_shards(scan: ScanRef) -> None:
        reader = points[scan.unit]
        reader.read("points", scan.position), reader.read("intensity", scan.position)
        labels[scan.unit].read("label", scan.position)

    def as_view(scan: ScanRef) -> None:
        source.view(scan.index), truth.label(scan.index)

    readers = (from_files, from_shards, as_view)
    for scan in prepared.scans:  # warm: pages and file handles
        for read in readers:
            read(scan)
    order = np.random.default_rng(0).choice(len(prepared.scans), reads)
    times: list[list[float]] = [[], [], []]
    for i in order:
        for read, taken in zip(readers, times, strict=True):
            taken.append(seconds(partial(read, prepared.scans[i])))
    theirs, shards, views = (statistics.median(taken) * 1e3 for taken in times)
    rival = "np.fromfile of .bin and .label, learning map"
    return [
        row("read a scan with labels", f"{rival} (bar: a ratio of at least 1.67)", shards, theirs, "ms"),
        row("read a scan with labels as a View (rows, features)", rival, views, theirs, "ms"),
    ]


def command_line(folder: Path, *, share: float) -> list[dict[str, Any]]:
    """``ssl3d --help``, and ``ssl3d status`` on a workspace with all 22 sequences (tiny scans, full counts)."""
    scans = {name: max(1, int(n * share)) for name, n in load_spec("semantickitti").scans_per_sequence.items()}
    root, workspace = folder / "tiny-scans", folder / "status"
    write_frames(root, scans, num_points=16)
    prepare(Workspace.open(workspace), "semantickitti", root, _PARTIAL, jobs=1)
    help_s = min(seconds(partial(ssl3d, ["--help"])) for _ in range(5))
    status = ["status", "--workspace", str(workspace)]
    status_s = min(seconds(partial(ssl3d, status)) for _ in range(5))
    return [
        row("ssl3d --help", "budget of 0.3 s", help_s, HELP_BUDGET_S, "s"),
        row(
            f"ssl3d status, 22 sequences, {sum(scans.values())} scans", "budget of 1 s", status_s, STATUS_BUDGET_S, "s"
        ),
    ]


def training_step(folder: Path, *, jobs: int, preset: str, backbones: Mapping[str, int]) -> list[dict[str, Any]]:
    """Share of the wall time of training that is inside forward, backward and optimizer, on the CPU.

    Args:
        backbones: name -> steps.
    """
    from ssl3d.data.synthetic.street import generate_street
    from ssl3d.pipeline.progress import Silent
    from ssl3d.pipeline.stages.split import SplitParams, split
    from ssl3d.pipeline.training.config import resolve
    from ssl3d.pipeline.training.status import NullDisplay
    from ssl3d.pipeline.training.trainer import train

    root, workspace = folder / "streets", Workspace.open(folder / "training")
    generate_street(root, preset, 0, jobs=max(1, jobs))
    prepare(workspace, "semantickitti", root, PrepareParams(), jobs=1)
    split(workspace, SplitParams(ratio="50%"))
    rows = []
    for backbone, steps in backbones.items():
        config = resolve("supervised", backbone=backbone, seed=0, steps=steps, overrides=[])
        run = train(workspace, config, device="cpu", jobs=jobs, progress=Silent(), display=NullDisplay())
        spent = run.status()["time_split"]
        share = sum(spent[name] for name in ("forward", "backward", "optimizer")) / sum(spent.values())
        scans = f"streets {preset}, {run.config.train.batch} scans a step"
        parts = ", ".join(f"{name} {1e3 * value / steps:.0f}" for name, value in spent.items())
        name = f"training step of {backbone}, share that computes ({scans}; ms: {parts})"
        rows.append(row(name, "bar of 85%", 100 * share, 100 * COMPUTE_BUDGET, "%", more_is_better=True))
    return rows


def ssl3d(arguments: list[str]) -> None:
    subprocess.run(_command(arguments), check=True, capture_output=True)


def _command(arguments: list[str]) -> list[str]:
    script = Path(sys.executable).with_name("ssl3d")  # as a user starts it
    return [str(script), *arguments] if script.exists() else [sys.executable, "-m", "ssl3d.cli", *arguments]


def peak_memory_mb(arguments: list[str]) -> float:
    """Peak resident memory of ``ssl3d ARGUMENTS``, MB; measured by a process of its own, whose only child it is."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", code, *_command(arguments)], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts bytes, Linux kilobytes
