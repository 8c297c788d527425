"""The figures of the gains benchmark: from evaluated runs to differences, the room, tables and the page of the docs.

All of it is a function of the file of figures, so that tables and pictures can be made again without the runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ssl3d.benchmarks.gains import BASELINE, WEIGHTS, Job, Recipe
from ssl3d.benchmarks.gains_data import Bench
from ssl3d.benchmarks.gains_runs import Failure
from ssl3d.benchmarks.paired import Difference, paired
from ssl3d.pipeline.evaluation.result import EvalResult

CURVE_POINTS = 40
PARTS = ("miou", "head", "tail")
ROLE = {"val": "test", "holdout": "dev"}
"""Subset -> what its streets are for."""

Record = dict[str, Any]


# ---------------------------------------------------------------- runs


def record(bench: Bench, job: Job, result: EvalResult) -> Record:
    """One run as JSON; scores in percent, null where the protocol leaves a class out."""
    run, split = bench.run(job), bench.split(job)
    assert run is not None and split is not None
    status, protocol = run.status(), run.config.data.protocol
    scores = result.scores(protocol)
    iou = {name: _percent(value) for name, value in zip(result.classes, scores.iou, strict=True)}
    return {
        "variant": job.variant.name,
        "method": job.variant.method,
        "regime": job.cell.regime,
        "ratio": job.cell.ratio,
        "seed": job.seed,
        "run": result.run,
        "split": split.name,
        "labelled scans": len(split.labelled),
        "labelled points": split.budget.labelled_points,
        "classes without a label": [
            name for name, points in zip(split.classes, split.budget.per_class, strict=True) if not points
        ],
        "miou": _percent(scores.miou),
        "head": _mean(iou, result.head),
        "tail": _mean(iou, result.tail),
        "accuracy": _percent(scores.overall_accuracy),
        "iou": iou,
        "step": result.step,
        "seconds": round(float(status.get("seconds", math.nan)), 1),
        "peak_memory_mb": round(float(status.get("peak_memory_mb", math.nan))),
        "curve": _curve(run.metrics()),
    }


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else 100 * value


def _mean(iou: Mapping[str, float | None], names: Collection[str]) -> float | None:
    values = [value for name, value in iou.items() if name in names and value is not None]
    return statistics.fmean(values) if values else None


def _curve(lines: Sequence[Mapping[str, Any]]) -> Record:
    """mIoU on visible training labels over the steps, thinned."""
    known = [(line["step"], round(line["visible_miou"], 2)) for line in lines if line.get("visible_miou") is not None]
    stride = max(1, -(-len(known) // CURVE_POINTS))
    kept = known[::-1][::stride][::-1]  # the last one stays
    return {"step": [step for step, _ in kept], "visible_miou": [value for _, value in kept]}


# ---------------------------------------------------------------- figures


def figures(bench: Bench, done: Mapping[Job, EvalResult], failed: Sequence[Failure]) -> Record:
    """Everything that is reported, as JSON."""
    runs = [record(bench, job, result) for job, result in done.items()]
    first = next(iter(done.values()), None)
    jobs = bench.recipe.jobs()
    return {
        "subset": bench.subset,
        "streets used for": ROLE.get(bench.subset, bench.subset),
        "scans": first.scans if first else 0,
        "weights": WEIGHTS,
        "protocol": bench.dataset.spec.name,
        "tail classes": list(first.tail) if first else [],
        "streets": bench.streets(),
        "recipe": bench.recipe.describe(),
        "planned": len(jobs),
        "done": len(runs),
        "failed": [{"run": failure.job.name, "message": failure.message} for failure in failed],
        "runs": runs,
        "cells": cells(bench.recipe, runs),
        "room": room(bench.recipe, runs),
    }


def cells(recipe: Recipe, runs: Sequence[Record]) -> list[Record]:
    """A line per variant and kind of labels: mean and spread over seeds, and the paired difference to the baseline."""
    found = []
    for cell in dict.fromkeys([*recipe.cells, recipe.reference]):
        base = _seeds(runs, BASELINE, cell.regime, cell.ratio)
        for variant in recipe.variants:
            mine = _seeds(runs, variant.name, cell.regime, cell.ratio)
            if not mine:
                continue
            line: Record = {"variant": variant.name, "regime": cell.regime, "ratio": cell.ratio, "seeds": sorted(mine)}
            line |= {part: _spread([run[part] for run in mine.values()]) for part in PARTS}
            line["iou"] = {name: _spread([run["iou"][name] for run in mine.values()]) for name in _classes(mine)}
            if variant.name != BASELINE:
                line["difference"] = _differences(mine, base)
            if variant.name != variant.method:
                line["difference to the method"] = _differences(
                    mine, _seeds(runs, variant.method, cell.regime, cell.ratio)
                )
            found.append(line)
    return found


def room(recipe: Recipe, runs: Sequence[Record]) -> list[Record]:
    """How far the baseline with all labels is above the baseline at the lowest ratio of each regime."""
    whole = _seeds(runs, BASELINE, recipe.reference.regime, recipe.reference.ratio)
    found = []
    for regime, ratios in recipe.ratios.items():
        low = _seeds(runs, BASELINE, regime, ratios[0])
        common = sorted(set(whole) & set(low))
        if common:
            gap = paired([whole[seed]["miou"] for seed in common], [low[seed]["miou"] for seed in common])
            line = {"regime": regime, "ratio": ratios[0], "reference": recipe.reference.name, "seeds": common}
            found.append({**line, "room": gap.mean, "needed": recipe.room, "enough": gap.mean >= recipe.room})
    return found


def _seeds(runs: Iterable[Record], variant: str, regime: str, ratio: str) -> dict[int, Record]:
    return {
        run["seed"]: run for run in runs if (run["variant"], run["regime"], run["ratio"]) == (variant, regime, ratio)
    }


def _classes(runs: Mapping[int, Record]) -> list[str]:
    return list(next(iter(runs.values()))["iou"]) if runs else []


def _spread(values: Sequence[float | None]) -> Record | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return {"mean": statistics.fmean(known), "std": statistics.stdev(known) if len(known) > 1 else None}


def _differences(mine: Mapping[int, Record], base: Mapping[int, Record]) -> Record | None:
    """Of mIoU, head and tail classes and each class; None without a common seed."""
    common = sorted(set(mine) & set(base))
    if not common:
        return None
    found: Record = {"seeds": common}
    for part in PARTS:
        ours, theirs = ([runs[seed][part] for seed in common] for runs in (mine, base))
        if None not in ours and None not in theirs:
            found[part] = as_json(paired(ours, theirs))
    found["iou"] = {}
    for name in _classes(mine):
        ours, theirs = ([runs[seed]["iou"][name] for seed in common] for runs in (mine, base))
        if None not in ours and None not in theirs:
            found["iou"][name] = as_json(paired(ours, theirs))
    return found


def as_json(difference: Difference) -> Record:
    return {
        "mean": difference.mean,
        "standard error": difference.error,
        "interval": None if difference.low is None else [difference.low, difference.high],
        "values": list(difference.values),
        "verdict": difference.verdict,
        "beyond two standard errors": difference.beyond_two_errors,
        "text": difference.text(),
    }


def results(value: Record) -> list[Record]:
    """The lines that every file of ``ssl3d bench`` has: ours is the method, the rival the baseline, in mIoU.

    Means over the seeds that both have.
    """
    found = []
    for line in value["cells"]:
        difference = line.get("difference") or {}
        if "miou" not in difference:
            continue
        base = _seeds(value["runs"], BASELINE, line["regime"], line["ratio"])
        theirs = statistics.fmean(base[seed]["miou"] for seed in difference["seeds"])
        ours = theirs + difference["miou"]["mean"]
        found.append(
            {
                "name": f"{line['variant']}, {line['regime']} {line['ratio']}, {len(difference['seeds'])} seeds",
                "rival": f"ssl3d {BASELINE}, the same labels, steps and EMA",
                "ours": ours,
                "theirs": theirs,
                "ratio": ours / theirs if theirs else None,
                "unit": "mIoU %",
            }
        )
    return found


# ---------------------------------------------------------------- tables


def table(value: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: labels, method, mIoU, head and tail classes, difference with its interval, and the verdict."""
    head = ["labels", "method", "mIoU", "head", "tail", "difference [95%]", "head", "tail", "verdict"]
    rows = []
    for line in value["cells"]:
        difference = line.get("difference") or {}
        row = [f"{line['regime']} {line['ratio']}", line["variant"], *(_pm(line[part]) for part in PARTS)]
        row += [difference[part]["text"] if part in difference else "" for part in PARTS]
        rows.append([*row, difference["miou"]["verdict"] if "miou" in difference else ""])
    return head, rows


def _pm(spread: Record | None) -> str:
    if spread is None:
        return "-"
    return f"{spread['mean']:.1f}" + ("" if spread["std"] is None else f" ± {spread['std']:.1f}")


def notes(value: Mapping[str, Any]) -> list[str]:
    """What has to be said beside the table: the room, what is missing, what the figures are not."""
    said = []
    for line in value["room"]:
        verdict = "there is room" if line["enough"] else f"NOT ENOUGH ROOM for a gain: {line['needed']:g} are needed"
        said.append(
            f"{line['regime']} {line['ratio']}: supervised with all labels is {line['room']:.1f} mIoU above; {verdict}."
        )
    if value["subset"] == "holdout":
        said.append("Measured on the dev streets, to choose parameters; figures are reported on the test streets.")
    if not value["streets"].get("frozen"):
        said.append("These are not the frozen streets of the benchmark: the figures are no claim.")
    if value["done"] < value["planned"]:
        said.append(f"{value['done']} of {value['planned']} runs are done: the figures will still move.")
    said += [f"failed: {item['run']}: {item['message']}" for item in value["failed"]]
    return said


def markdown(value: Record, machine: Mapping[str, Any], pictures: str = "") -> str:
    """The section of the docs; ``pictures``: the folder of the pictures as the page sees it, ending in a slash."""
    head, rows = table(value)
    recipe, streets = value["recipe"], value["streets"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    seconds = [run["seconds"] for run in value["runs"]]
    facts = [
        f"{value['done']} runs of {recipe['steps']} steps ({recipe['backbone']}), seeds "
        f"{', '.join(map(str, recipe['seeds']))}; {value['scans']} {value['streets used for']} scans, every original "
        f"point, protocol {value['protocol']}; all evaluated with an EMA of {recipe['ema']:g}",
        f"streets: preset {streets.get('preset')}, seed {streets.get('seed')}, generator version "
        f"{streets.get('generator_version')}, sha256 `{str(streets.get('sha256'))[:16]}`",
        f"training a run took {min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes on one core of "
        f"{machine.get('processor')}, torch {machine.get('versions', {}).get('torch')}; at most "
        f"{max(run['peak_memory_mb'] for run in value['runs']) / 1000:.1f} GB"
        if seconds
        else "",
        *(note.rstrip(".") for note in notes(value)),
    ]
    lines += ["", *(f"- {fact}" for fact in facts if fact)]
    if pictures:
        paired_runs = any((line.get("difference") or {}).get("miou") for line in value["cells"])
        for name in (*(["differences"] if paired_runs else []), "curves"):
            lines += ["", f"![{name}]({pictures}gains-{name}.png)"]
    command = machine.get("command")
    return "\n".join([*([f"`{command}`", ""] if command else []), *lines]) + "\n"
