"""``ssl3d bench tta``: what looking at augmented copies of a scan gains: finished runs, evaluated with and without.

Every figure is that of ``ssl3d eval RUN --tta WORDS`` and is kept where that keeps it. Runs that differ in nothing but
their seed are put together: the mean of their paired differences, with its 95% interval.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl3d.benchmarks.paired import Difference, paired
from ssl3d.pipeline.evaluation.evaluate import evaluate
from ssl3d.pipeline.evaluation.passes import AUGMENTS, Passes
from ssl3d.pipeline.evaluation.result import EvalResult, without_seed
from ssl3d.pipeline.evaluation.subject import dataset_of, subject_of
from ssl3d.pipeline.files import read_json
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.training.weights import Weights
from ssl3d.pipeline.workspace import Workspace

PLAIN = "none"
WORDS = (*AUGMENTS, ",".join(AUGMENTS))
"""What is compared with ``none``: each by itself, and all together."""

Record = dict[str, Any]


def measure(
    space: Workspace,
    runs: Sequence[RunDirectory],
    *,
    subset: str,
    weights: Weights,
    device: str,
    jobs: int,
    progress: Progress,
) -> list[Record]:
    """One record a run; scores in percent.

    Raises: as ``evaluate``.
    """
    records = []
    for run in runs:
        dataset = dataset_of(space, run)
        found: dict[str, EvalResult] = {}
        for words in (PLAIN, *WORDS):
            subject = subject_of(run, weights, Passes.parse(words))
            found[words] = evaluate(dataset, subject, subset=subset, device=device, jobs=jobs, progress=progress)
        records.append(record(run, found))
    return records


def record(run: RunDirectory, found: Mapping[str, EvalResult]) -> Record:
    """``found``: words after ``--tta`` -> the evaluation with them."""
    plain, protocol = found[PLAIN], run.config.data.protocol
    return {
        "run": plain.run,
        "method": plain.method,
        "backbone": plain.backbone,
        "dataset": plain.dataset,
        "split": plain.split,
        "seed": plain.seed,
        "recipe": plain.recipe,
        "steps": plain.step,
        "weights": plain.weights,
        "subset": plain.subset,
        "scans": plain.scans,
        "device": trained_on(run),
        "protocol": protocol,
        "miou": {words: 100 * result.scores(protocol).miou for words, result in found.items()},
    }


def trained_on(run: RunDirectory) -> str:
    sessions = (read_json(run.path / "environment.json") or {}).get("sessions") or [{}]
    return str(sessions[-1].get("device", "an unknown device"))


@dataclass(frozen=True)
class Gain:
    """What some words gain over none for runs that differ in their seed alone."""

    runs: tuple[Record, ...]
    words: str

    @property
    def copies(self) -> int:
        """How often every scan is looked at."""
        return Passes.parse(self.words).copies

    @property
    def difference(self) -> Difference:
        return paired([run["miou"][self.words] for run in self.runs], [run["miou"][PLAIN] for run in self.runs])

    @property
    def miou(self) -> float:
        return statistics.fmean(run["miou"][self.words] for run in self.runs)

    @property
    def verdict(self) -> str:
        """A single run says what it says, of others the interval decides."""
        return self.difference.verdict if len(self.runs) > 1 else "one run"


def gains(records: Sequence[Record]) -> list[list[Gain]]:
    """For every group of runs that differ in their seed alone: none, and each of ``WORDS``."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for each in records:
        names = ("method", "backbone", "dataset", "recipe", "steps", "weights", "subset", "protocol")
        key = (*(each[name] for name in names), without_seed(each["split"]))
        groups.setdefault(key, []).append(each)
    return [[Gain(tuple(group), words) for words in (PLAIN, *WORDS)] for group in groups.values()]


def title(group: Sequence[Gain]) -> str:
    first = group[0].runs[0]
    seeds = ", ".join(str(run["seed"]) for run in group[0].runs)
    return (
        f"{first['method']}, {first['backbone']}, {first['dataset']}, labels {without_seed(first['split'])}, "
        f"{first['steps']} steps, seeds {seeds}, weights {first['weights']}: {first['subset']} "
        f"({first['scans']} scans), protocol {first['protocol']}"
    )


COLUMNS = ("--tta", "copies", "mIoU", "gain", "95%", "by seed")


def cells(gain: Gain) -> tuple[str, ...]:
    """One row; the gain and its interval in points of mIoU."""
    if gain.words == PLAIN:
        return (PLAIN, "1", f"{gain.miou:.2f}", "", "", " ".join(f"{run['miou'][PLAIN]:.2f}" for run in gain.runs))
    found = gain.difference
    interval = "-" if found.low is None or found.high is None else f"[{found.low:+.2f}, {found.high:+.2f}]"
    values = " ".join(f"{value:+.2f}" for value in found.values)
    return (
        gain.words,
        str(gain.copies),
        f"{gain.miou:.2f}",
        f"{found.mean:+.2f}",
        f"{interval} {gain.verdict}",
        values,
    )


def markdown(records: Sequence[Record], machine: Mapping[str, Any]) -> str:
    """The section of the page."""
    parts = []
    for group in gains(records):
        head = "| " + " | ".join(f"`{COLUMNS[0]}`" if name == COLUMNS[0] else name for name in COLUMNS) + " |"
        rule = "|---|" + "---:|" * (len(COLUMNS) - 1)
        rows = ["| " + " | ".join(cells(gain)) + " |" for gain in group]
        parts.append("\n".join([f"{title(group)}:", "", head, rule, *rows, ""]))
    devices = ", ".join(sorted({str(record["device"]) for record in records}))
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    parts.append(
        f"`{machine['command']}`, {machine['date']}, trained on {devices}, {machine['processor']}; {versions}.\n"
    )
    return "\n".join(parts)


def figures(records: Sequence[Record], machine: Mapping[str, Any]) -> Record:
    """What ``--json`` holds: the runs, and the gains of groups of them."""
    summary = [
        {
            "runs": [run["run"] for run in gain.runs],
            "tta": gain.words,
            "copies": gain.copies,
            "miou": gain.miou,
            "gain": gain.difference.mean,
            "low": gain.difference.low,
            "high": gain.difference.high,
            "verdict": gain.verdict,
        }
        for group in gains(records)
        for gain in group
        if gain.words != PLAIN
    ]
    return {"runs": list(records), "gains": summary, "machine": dict(machine)}
