"""``make reproduce-METHOD DATA=/data/kitti``: published tables, as the commands that a user would type.

The plan is printed first, with the time that it takes as far as runs that are there tell, or once the data are
prepared, a few steps of each dataset. Each of its commands is resumable, so the same ``make`` goes on after a stop.
``DATA`` is the root of a dataset, several of them separated by commas, or a folder that holds some; tables of
datasets that are not there are left out. ``DATA=synthetic`` runs the same plan in miniature on generated data: a
check of the chain, not of the paper.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ssl3d.benchmarks.gains_plan import CALIBRATION_STEPS, hours
from ssl3d.benchmarks.published import numbers_of
from ssl3d.benchmarks.recipes import RECIPES, Recipe, Row, find_recipe, select
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

SYNTHETIC = "synthetic"
RESULTS = Path("benchmarks") / "results"
STOPPED = 130
"""Exit code of a command that the user stopped."""


@dataclass(frozen=True)
class Miniature:
    """How a dataset stands for itself in miniature: what is generated, and what is trained on it."""

    synth: tuple[str, ...]
    backbone: str
    keys: tuple[str, ...]
    steps: int = 150

    @property
    def words(self) -> list[str]:
        return ["--backbone", self.backbone, "--steps", str(self.steps), *_settings(self.keys)]


_STREET = ("train.batch=1", "backbone.voxel_size=0.3")
_ROOM = ("train.batch=1", "backbone.scene=indoor", "backbone.voxel_size=0.1", "backbone.features=color,xyz_from_min")
MINIATURES: Mapping[str, Miniature] = {
    "semantickitti": Miniature(("street", "--layout", "semantickitti"), "minkunet-micro", _STREET),
    "nuscenes": Miniature(("street", "--layout", "nuscenes"), "minkunet-micro", _STREET),
    "s3dis": Miniature(("rooms", "--layout", "s3dis"), "spunet-micro", _ROOM),
    "scannet": Miniature(("rooms", "--layout", "scannet"), "spunet-micro", _ROOM),
}
PRESET = "small"


@dataclass(frozen=True)
class Plan:
    """What is done, in order.

    Attributes:
        roots: dataset -> its root; of those that the rows are about.
        data: commands that make and prepare the data.
        training: rows with the commands that choose their labels and train them.
        reports: commands that evaluate the runs of each dataset, and write the report of each.
        only: what the rows were narrowed by.
    """

    recipe: Recipe
    workspace: Path
    miniature: bool
    roots: Mapping[str, Path]
    data: tuple[tuple[str, ...], ...]
    training: tuple[tuple[Row, tuple[str, ...], tuple[str, ...]], ...]
    reports: tuple[tuple[str, ...], ...]
    only: str = ""

    @property
    def rows(self) -> list[Row]:
        return [row for row, _, _ in self.training]

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """All of them as they are typed; a split that several runs share stands once."""
        found = list(self.data)
        last: tuple[str, ...] = ()
        for _, split, train in self.training:
            found += [train] if split == last else [split, train]
            last = split
        return [*found, *self.reports]

    def steps(self, row: Row) -> int:
        return MINIATURES[row.dataset].steps if self.miniature else self.recipe.settings[row.dataset].steps

    def report(self, dataset: str, ending: str) -> Path:
        return report_file(self.workspace, dataset, ending)


def report_file(workspace: Path, dataset: str, ending: str) -> Path:
    """Where the report on a dataset is written."""
    return workspace / f"report-{dataset}.{ending}"


def make_plan(recipe: Recipe, data: str, workspace: Path, only: str = "") -> Plan:
    """The plan of a recipe.

    Raises:
        UsageError: ``data`` holds none of its datasets, ``only`` matches nothing.
    """
    miniature = data == SYNTHETIC
    roots = _generated_roots(recipe, workspace) if miniature else find_datasets(data)
    there = tuple(name for name in recipe.datasets if name in roots)
    if not there:
        raise UsageError(
            f"no dataset of {recipe.method} is here",
            where={"DATA": data, "found": ", ".join(roots) or "no dataset"},
            hint=f"name the root of {' or '.join(recipe.datasets)}; or DATA={SYNTHETIC}",
        )
    rows = select(recipe, only, there)
    used = [name for name in there if any(row.dataset == name for row in rows)]
    place = ("--workspace", str(workspace))
    commands: list[tuple[str, ...]] = []
    for name in used:
        if miniature:
            kind = MINIATURES[name].synth
            commands.append(("synth", *kind, "--preset", PRESET, "--seed", "0", "--out", str(roots[name])))
        commands.append(("prepare", name, "--root", str(roots[name]), *place))
    rows = sorted(rows, key=lambda row: (used.index(row.dataset), row.lists, row.ratio))  # a split after the other
    training = tuple((row, _split(row, miniature, place), _train(recipe, row, miniature, place)) for row in rows)
    reports: list[tuple[str, ...]] = []
    for name in used:
        words = ("eval", "--compare", "paper", "--dataset", name, *place)
        reports.append((*words, "--report", "table"))
        for form, ending in (("markdown", "md"), ("json", "json")):
            reports.append((*words, "--report", form, "--out", str(report_file(workspace, name, ending))))
    return Plan(
        recipe,
        workspace,
        miniature,
        {name: roots[name] for name in used},
        tuple(commands),
        training,
        tuple(reports),
        only,
    )


def _split(row: Row, miniature: bool, place: tuple[str, ...]) -> tuple[str, ...]:
    choice = ("--ratio", f"{row.ratio}%") if miniature else ("--official", row.official)
    return ("split", *choice, "--dataset", row.dataset, *place)


def _train(recipe: Recipe, row: Row, miniature: bool, place: tuple[str, ...]) -> tuple[str, ...]:
    setting = recipe.settings[row.dataset]
    if miniature:
        words = [*MINIATURES[row.dataset].words, *_settings([*setting.own, *recipe.keys_of(row.variant)])]
    else:
        words = ["--backbone", setting.backbone, "--steps", str(setting.steps), *_settings(recipe.overrides(row))]
    return ("train", recipe.method, *words, "--dataset", row.dataset, *place)


def _settings(keys: Sequence[str]) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


# ---------------------------------------------------------------- data

_SIGNS: Mapping[str, Callable[[Path], bool]] = {
    "semantickitti": lambda folder: any((folder / name).is_dir() for name in ("sequences", "dataset/sequences")),
    "nuscenes": lambda folder: any((folder / f"v1.0-{name}").is_dir() for name in ("trainval", "mini")),
    "s3dis": lambda folder: any(path.is_dir() for path in [*folder.glob("Area_[1-6]"), *folder.glob("Stanford3d*")]),
    "scannet": lambda folder: (folder / "scans").is_dir(),
}
"""How the root of a dataset is recognized; `ssl3d prepare` looks closer."""


def find_datasets(data: str) -> dict[str, Path]:
    """Dataset -> its root, of all folders that ``data`` names (separated by commas), or that lie in one of these.

    Raises:
        UsageError: a folder is not there, or two are of the same dataset.
    """
    found: dict[str, Path] = {}
    for word in filter(None, (part.strip() for part in data.split(","))):
        folder = Path(word).expanduser().absolute()
        if not folder.is_dir():
            raise UsageError(
                "DATA is no folder", where={"DATA": word}, hint=f"name the root of a dataset; or {SYNTHETIC}"
            )
        here = [(name, folder) for name, is_root in _SIGNS.items() if is_root(folder)]
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir()] if not here else []
        here += [(name, path) for path in inside for name, is_root in _SIGNS.items() if is_root(path)]
        for name, root in here:
            if found.setdefault(name, root) != root:
                raise UsageError(
                    f"DATA holds {name} twice", where={"first": found[name], "second": root}, hint="name one of them"
                )
    return found


def _generated_roots(recipe: Recipe, workspace: Path) -> dict[str, Path]:
    """Beside the workspace: generated data is the same for all recipes."""
    return {name: workspace.with_name(f"generated-{name}") for name in recipe.datasets}


# ---------------------------------------------------------------- how long it takes


def paces(workspace: Path) -> dict[str, float]:
    """Dataset -> seconds of a step, the median of the runs that have made steps there."""
    if not (workspace / "workspace.json").is_file():
        return {}
    found: dict[str, list[float]] = {}
    for run in RunDirectory.list(Workspace.open(workspace, create=False)):
        status, name = run.status(), (run.record().get("dataset") or {}).get("name")
        if status.get("step") and status.get("seconds"):
            found.setdefault(str(name), []).append(status["seconds"] / status["step"])
    return {name: statistics.median(values) for name, values in found.items()}


def steps_left(plan: Plan) -> dict[str, int]:
    """Dataset -> optimizer steps that are left: all of the plan, without those of runs that are there already."""
    left: dict[str, int] = {}
    for row in plan.rows:
        left[row.dataset] = left.get(row.dataset, 0) + plan.steps(row)
    if (plan.workspace / "workspace.json").is_file():
        for run in RunDirectory.list(Workspace.open(plan.workspace, create=False)):
            name = str((run.record().get("dataset") or {}).get("name"))
            if name in left:
                left[name] = max(0, left[name] - run.status().get("step", 0))
    return left


def time_text(plan: Plan, known: Mapping[str, float], source: str) -> str:
    """One line; what nobody knows is said."""
    left = steps_left(plan)
    seconds = sum(known[name] * steps for name, steps in left.items() if name in known)
    missing = [name for name, steps in left.items() if steps and name not in known]
    words = f"{sum(left.values()):,} training steps are left"
    if not any(left.values()):
        return "everything is trained"
    if len(missing) == len(left):
        return f"{words}; how long they take is told when the data are prepared"
    without = f", without {' and '.join(missing)}" if missing else ""
    return f"{words}, about {hours(seconds)}{without} ({source})"


def calibrate(plan: Plan, dataset: str) -> float | None:
    """Seconds of a step of the first row of a dataset, by a few steps on a few scans; None where that fails (the
    training itself then says why). Its data have to be prepared, and its labels chosen."""
    from ssl3d.benchmarks.passes import few, mean_step
    from ssl3d.models.methods.registry import get_method
    from ssl3d.pipeline.machine import usable_cores
    from ssl3d.pipeline.needed import make_missing
    from ssl3d.pipeline.progress import Silent
    from ssl3d.pipeline.training.build import open_data
    from ssl3d.pipeline.training.config import resolve
    from ssl3d.pipeline.training.device import select_device

    words = next(train for row, _, train in plan.training if row.dataset == dataset)
    keys = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    backbone, steps = words[words.index("--backbone") + 1], int(words[words.index("--steps") + 1])
    with suppress(Ssl3dError):
        space, needs = Workspace.open(plan.workspace, create=False), get_method(plan.recipe.method).needs
        make_missing(space, dataset, needs, jobs=usable_cores(), progress=Silent())
        data = open_data(space, dataset, None, needs)
        config = resolve(
            plan.recipe.method, backbone=backbone, steps=steps, overrides=keys, defaults=data.spec.defaults
        )
        bound, device = config.bound(data.dataset, data.split), str(select_device("auto"))
        return mean_step(bound, few(data, CALIBRATION_STEPS), CALIBRATION_STEPS, threads=usable_cores(), device=device)
    return None


# ---------------------------------------------------------------- doing it


def describe(plan: Plan) -> list[str]:
    """The plan in words: tables, rows with what is published, what differs, every command."""
    recipe = plan.recipe
    lines = [f"{recipe.method}: {recipe.source}"]
    published = {(n.dataset, n.ratio, n.variant): n.miou for n in reversed(numbers_of(recipe.method))}
    for row in plan.rows:
        number = published.get((row.dataset, float(row.ratio), row.variant))
        said = "nothing is published" if number is None else f"published {number:.1f} mIoU"
        lines.append(f"  {row.name:52} {', '.join(row.tables):28} {said}")
    if plan.miniature:
        lines.append(
            "  in miniature, on generated data: a check of the chain, no number of it says anything of the paper"
        )
    else:
        lines += [f"  {name} is not as published: {recipe.settings[name].differs}" for name in plan.roots]
    lines += [f"  $ {shlex.join(['ssl3d', *words])}" for words in plan.commands]
    return lines


def carry_out(plan: Plan, run: Callable[[Sequence[str]], int]) -> int:
    """Runs the commands in order. A training that fails is named at the end, and does not stop the others.

    Args:
        run: runs one, returns its exit code.
    """
    again = f"stopped; the same make command goes on from here (workspace {plan.workspace})"
    for words in plan.data:
        if code := run(words):
            print(again, file=sys.stderr)
            return code
    known = paces(plan.workspace)
    failed: list[Row] = []
    chosen: tuple[str, ...] = ()
    for name in plan.roots:
        if name not in known:
            split = next(split for row, split, _ in plan.training if row.dataset == name)
            if code := run(split):
                print(again, file=sys.stderr)
                return code
            chosen = split
            if (pace := calibrate(plan, name)) is not None:
                known[name] = pace
    print(time_text(plan, known, f"as finished runs, or {CALIBRATION_STEPS} steps of each phase, went"), flush=True)
    for row, split, train in plan.training:
        if split != chosen and (code := run(split)):
            print(again, file=sys.stderr)
            return code
        chosen = split
        code = run(train)
        if code in (2, STOPPED) or code < 0:
            print(again, file=sys.stderr)
            return code
        if code:
            failed.append(row)
    if len(failed) < len(plan.rows):
        for words in plan.reports:
            if code := run(words):
                print(again, file=sys.stderr)
                return code
        write_results(plan)
    for row in failed:
        print(f"failed: {row.name}", file=sys.stderr)
    return 1 if failed else 0


def write_results(plan: Plan) -> tuple[Path, Path]:
    """``reproduce-METHOD.md`` and ``.json`` in the workspace: the reports of all datasets, and how they were made."""
    from ssl3d.pipeline.machine import package_versions, processor_name

    recipe, stem = plan.recipe, plan.workspace / f"reproduce-{plan.recipe.method}"
    made = "generated data, in miniature" if plan.miniature else "recorded data"
    settings = {name: _setting(plan, name) for name in plan.roots}
    value = {
        "method": recipe.method,
        "source": recipe.source,
        "data": made,
        "command": f"make reproduce-{recipe.method} DATA={SYNTHETIC if plan.miniature else '...'}"
        + (f' ONLY="{plan.only}"' if plan.only else ""),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "versions": package_versions(),
        "settings": settings,
        "reports": {name: json.loads(plan.report(name, "json").read_text(encoding="utf-8")) for name in plan.roots},
    }
    words = [f"# {recipe.method}: {recipe.source}", "", f"`{value['command']}` on {made}, {value['date']}.", ""]
    for name in plan.roots:
        text = plan.report(name, "md").read_text(encoding="utf-8").strip()
        words += [f"## {name}", "", f"`{settings[name]}`", "", text, ""]
    stem.with_suffix(".md").write_text("\n".join(words), encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return stem.with_suffix(".md"), stem.with_suffix(".json")


def _setting(plan: Plan, dataset: str) -> str:
    """The words after ``ssl3d train`` of the first row of a dataset, without places and without what its ablation
    sets."""
    row, words = next((row, train) for row, _, train in plan.training if row.dataset == dataset)
    end = words.index("--dataset")
    own = _settings(plan.recipe.keys_of(row.variant))
    kept: list[Any] = list(words[1:end])
    return shlex.join(kept[: len(kept) - len(own)] if own else kept)


def keep(plan: Plan, folder: Path) -> None:
    """Copies the results of the workspace into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in (".md", ".json"):
        file = plan.workspace / f"reproduce-{plan.recipe.method}{ending}"
        (folder / file.name).write_bytes(file.read_bytes())
        print(f"kept: {folder / file.name}")


def run_command(words: Sequence[str]) -> int:
    """``ssl3d WORDS`` in a process of its own."""
    print("$", shlex.join(["ssl3d", *words]), flush=True)
    return subprocess.run([sys.executable, "-m", "ssl3d.cli", *words]).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make reproduce-METHOD", description=__doc__)
    parser.add_argument("method", help=f"one of: {', '.join(RECIPES)}")
    parser.add_argument("--data", default=SYNTHETIC, help="roots of datasets, separated by commas, or: synthetic")
    parser.add_argument("--only", default="", help="a table (table3), ratio (10%%), dataset or ablation; or several")
    parser.add_argument("--workspace", type=Path, help="default: reproduce/METHOD-DATA")
    parser.add_argument("--keep", action="store_true", help=f"copy tables and figures to {RESULTS}")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan")
    given = parser.parse_args(arguments)
    folder = SYNTHETIC if given.data == SYNTHETIC else "data"
    try:
        recipe = find_recipe(given.method)
        workspace = given.workspace or Path("reproduce") / f"{given.method}-{folder}"
        plan = make_plan(recipe, given.data, workspace, given.only)
    except Ssl3dError as error:
        where = "".join(f"; {name}: {value}" for name, value in error.where.items())
        parser.error(f"{error.what}{where}" + (f" ({error.hint})" if error.hint else ""))
    for line in describe(plan):
        print(line)
    print(f"  {time_text(plan, paces(workspace), 'as runs here went')}", flush=True)
    if given.dry_run:
        return 0
    code = carry_out(plan, run_command)
    if given.keep and code in (0, 1) and (workspace / f"reproduce-{recipe.method}.json").is_file():
        keep(plan, RESULTS)
    return code


if __name__ == "__main__":
    sys.exit(main())
