"""``ssl3d bench methods``: what every method costs beyond its passes through the network, and what the trainer adds.

The rival is a training loop in plain torch with nothing around it: the same batches, the same passes, the same numbers
of threads. Each side runs in a process of its own. A method of several phases is measured in its last one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl3d.benchmarks.stages import peak_memory_mb, row
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.machine import package_versions
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.status import SECTIONS
from ssl3d.pipeline.workspace import Workspace

VOXELS = 20_000
"""A scan of this many voxels: what a 64-beam sensor leaves at 5 to 10 cm within 50 m after thinning."""
OVERHEAD_BUDGET = 5.0
"""Percent of a step."""
BEYOND_BUDGET = 15.0
"""Percent of a step: what a method may cost beyond its forward and backward passes."""
LEAST = 0.01
"""Percent: shares in the log have four digits, less cannot be told from nothing."""
WARM_UP, EVERY = 10, 10
"""The first line of the log is written after so many steps; what is before it is not measured."""
DATASET = "streets"


@dataclass(frozen=True)
class Trained:
    """A run of the trainer, seconds of a step: by section, and of writing checkpoints (spread over the steps)."""

    sections: dict[str, float]
    checkpoint: float
    memory_mb: float

    @property
    def step(self) -> float:
        return sum(self.sections.values()) + self.checkpoint

    @property
    def passes(self) -> float:
        return sum(self.sections[name] for name in ("forward", "backward", "optimizer"))


def run(
    folder: Path,
    *,
    methods: Sequence[str],
    backbone: str,
    jobs: int,
    steps: int,
    streets: Path | None,
    preset: str,
    progress: Progress,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each of ``methods``, one method after the other, measured below ``folder`` over ``steps`` steps."""
    space = prepare_scans(folder, streets, preset, jobs)
    size, voxels = voxel_size(PreparedDataset(space.dataset(DATASET)), VOXELS)
    keys = [f"backbone.voxel_size={size:g}", "train.batch=1"]
    with progress.task("measure", len(methods), "method") as task:
        for method in methods:
            task.note(method)
            plain = plain_loop(space, method, backbone, keys, jobs, steps)
            total, first = round(plain["budget"]), round(plain["first"])
            ours = train(space, method, backbone, keys, jobs, total, first, workers=None)
            fed = train(space, method, backbone, keys, jobs, total, first, workers=1)
            what = f"{method}, {backbone}, scans of {voxels:,.0f} voxels ({size:g} m)"
            yield method_rows(what, ours, fed, plain, jobs)
            task.advance()


def method_rows(what: str, ours: Trained, fed: Trained, plain: dict[str, float], jobs: int) -> list[dict[str, Any]]:
    """The lines of one method. ``fed``: the run with a loader process; ``plain``: the rival's seconds and memory."""
    rival = f"loop in plain torch {package_versions().get('torch')}, same batches and passes"
    beyond, theirs = ours.step - ours.passes, plain["data"] + plain["after"]
    overhead = ours.step - ours.passes - ours.sections["data"] - plain["after"]
    waits = max(LEAST, 100 * fed.sections["data"] / fed.step)
    share = max(LEAST, 100 * overhead / ours.step)
    own = max(LEAST, 100 * plain["beyond"])
    batch, passes = 1e3 * plain["data"], 1e3 * ours.passes
    budget = "budget of 5% of a step"
    return [
        row(f"step of {what}, {plain['elements']:,.0f} a batch", rival, 1e3 * ours.step, 1e3 * plain["step"], "ms"),
        row(f"beyond the passes of {what}", rival, 1e3 * beyond, 1e3 * theirs, "ms"),
        row(f"cost of {what} beyond forward and backward passes", "budget of 15% of a step", own, BEYOND_BUDGET, "%"),
        row(f"overhead of the trainer, {what}", budget, share, OVERHEAD_BUDGET, "%"),
        row(f"making a batch of {what}", "the passes of its step: a worker has to keep up", batch, passes, "ms"),
        row(f"waiting for data, 1 worker of {jobs} cores, {what}", budget, waits, OVERHEAD_BUDGET, "%"),
        row(f"peak memory of {what}", rival, ours.memory_mb, plain["memory_mb"], "MB"),
    ]


# ---------------------------------------------------------------- data


def prepare_scans(folder: Path, streets: Path | None, preset: str, jobs: int) -> Workspace:
    """Streets (generated, unless ``streets`` says where they are) that are prepared, half of their scans labelled."""
    from ssl3d.data.synthetic.street import generate_street
    from ssl3d.pipeline.stages.prepare import PrepareParams, prepare
    from ssl3d.pipeline.stages.split import SplitParams, split

    if streets is None:
        streets = folder / "streets"
        generate_street(streets, preset, 0, jobs=jobs)
    space = Workspace.open(folder / "workspace")
    prepare(space, "semantickitti", streets, PrepareParams(), name=DATASET, jobs=1)
    split(space, SplitParams(ratio="50%"))
    return space


def voxel_size(dataset: PreparedDataset, wanted: int, scans: int = 12) -> tuple[float, float]:
    """The edge in meters (to the centimeter) at which train scans have ``wanted`` voxels on average, and that mean."""
    from ssl3d.benchmarks.streets import occupied

    source, train = dataset.source(), dataset.subset("train")
    chosen = [train[int(place)] for place in np.linspace(0, len(train) - 1, min(scans, len(train)))]
    clouds = [source.view(scan.index).points for scan in chosen]

    def mean(centimeters: int) -> float:
        return float(np.mean([occupied(cloud, centimeters / 100) for cloud in clouds]))

    low, high = 1, 100
    while low < high:  # the smallest edge with at most so many voxels
        middle = (low + high) // 2
        low, high = (low, middle) if mean(middle) <= wanted else (middle + 1, high)
    best = min({max(1, low - 1), low}, key=lambda edge: abs(mean(edge) - wanted))
    return best / 100, mean(best)


# ---------------------------------------------------------------- measuring


def train(
    space: Workspace,
    method: str,
    backbone: str,
    keys: Sequence[str],
    jobs: int,
    total: int,
    first: int,
    workers: int | None,
) -> Trained:
    """A run of ``total`` steps as a user starts it, in a process of its own.

    Args:
        first: step at which the phase begins that is measured.
        workers: loader processes; None: as the trainer plans.
    """
    settings = [*keys, f"train.log_every={EVERY}", *([] if workers is None else [f"train.workers={workers}"])]
    words = ["train", method, "--backbone", backbone, "--steps", str(total), "--overwrite", "--device", "cpu"]
    words += [word for key in settings for word in ("--set", key)]
    memory = peak_memory_mb([*words, "--jobs", str(jobs), "--workspace", str(space.root)])
    found = max(RunDirectory.list(space), key=lambda run: run.status().get("updated", 0))
    return read_run(found, memory, first)


def read_run(run: RunDirectory, memory_mb: float, begins: int = 0) -> Trained:
    """What a run took after its warm-up, from its log; checkpoints are written every 3 minutes or 500 steps.

    Args:
        begins: step at which the phase begins that is measured.
    """
    lines = run.metrics()
    first, last = next(line for line in lines if line["step"] >= begins + WARM_UP), lines[-1]
    count = last["step"] - first["step"]
    sections = {
        name: (last["time_share"][name] * last["seconds"] - first["time_share"][name] * first["seconds"]) / count
        for name in SECTIONS
    }
    params, step = run.config.train, sum(sections.values())
    save = max(0.0, run.status()["seconds"] - last["seconds"])
    between = min(params.checkpoint_every, 60 * params.checkpoint_minutes / step)
    return Trained(sections, save / between, memory_mb)


def plain_loop(
    space: Workspace, method: str, backbone: str, keys: Sequence[str], jobs: int, steps: int
) -> dict[str, float]:
    """The rival, in a process of its own: seconds of a step by part, voxels of a batch, peak memory; ``beyond``: the
    share of a step that the method costs beyond its passes; ``budget`` and ``first``: how many steps a run has to have,
    and where the phase begins that is measured."""
    order = {"workspace": str(space.root), "method": method, "backbone": backbone, "keys": list(keys)}
    words = [json.dumps({**order, "threads": jobs, "steps": steps, "total": WARM_UP + -(-steps // EVERY) * EVERY})]
    done = subprocess.run(
        [sys.executable, "-m", "ssl3d.benchmarks.methods", *words], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The process of ``plain_loop``."""
    import resource
    from dataclasses import asdict

    from ssl3d.benchmarks.passes import PRECEDING, clock_beyond, clock_steps, entering
    from ssl3d.models.methods.registry import get_method
    from ssl3d.pipeline.needed import make_missing
    from ssl3d.pipeline.progress import Silent
    from ssl3d.pipeline.training.build import open_data
    from ssl3d.pipeline.training.config import resolve

    order = json.loads(sys.argv[1])
    space, needs = Workspace.open(order["workspace"], create=False), get_method(order["method"]).needs
    make_missing(space, DATASET, needs, jobs=order["threads"], progress=Silent())
    data = open_data(space, DATASET, None, needs)
    config = resolve(order["method"], backbone=order["backbone"], steps=order["total"], overrides=order["keys"])
    config = config.bound(data.dataset, data.split)
    with entering(config, data, order["total"], threads=order["threads"]) as phases:
        for ready in phases:
            if not ready.last:
                clock_steps(ready, PRECEDING)
                continue
            passes = clock_steps(ready, order["steps"])
            scale = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux kilobytes
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
            beyond = clock_beyond(ready, max(1, order["steps"] // 2)).share
            found = {**asdict(passes), "step": passes.step, "memory_mb": memory, "beyond": beyond}
            print(json.dumps({**found, "budget": ready.budget, "first": ready.first}))


if __name__ == "__main__":
    main()
