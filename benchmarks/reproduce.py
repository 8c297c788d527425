"""``make reproduce-METHOD DATA=/data/kitti``: a published table, as the commands that a user would type.

The plan is printed first; each of its commands is resumable, so the same ``make`` goes on after a stop.
``DATA=synthetic`` runs the same plan in miniature on generated streets: a check of the chain, not of the paper.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Row:
    """One row of a table: the labels that it sees, and what was published for it (mIoU, percent)."""

    ratio: str
    official: str | None
    published: float


@dataclass(frozen=True)
class Recipe:
    """A published table: its rows, how each is trained, and why its numbers may differ from the published ones."""

    method: str
    source: str
    rows: tuple[Row, ...]
    train: tuple[str, ...]
    steps: int
    differs: str


# methods/supervised: MinkUNet as in the LaserMix code (SGD, warm-up, cosine); its published rows are Cylinder3D's.
_LASERMIX_SGD = (
    "optimizer.name=sgd", "optimizer.lr=0.24", "optimizer.weight_decay=1e-4", "schedule.name=cosine",
    "schedule.warmup_steps=125", "schedule.warmup_factor=0.008", "augment.translate=0",
)  # fmt: skip
RECIPES = {
    "supervised": Recipe(
        method="supervised",
        source="LaserMix repository, voxel track, sup-only, SemanticKITTI val",
        rows=(
            Row("1%", "lasermix-1%", 45.4),
            Row("10%", "lasermix-10%", 56.1),
            Row("20%", "lasermix-20%", 57.8),
            Row("50%", "lasermix-50%", 58.7),
        ),
        train=("--backbone", "minkunet34", *(part for key in _LASERMIX_SGD for part in ("--set", key))),
        steps=25_000,
        differs="published with Cylinder3D, validation-selected; ours: MinkUNet-34, last checkpoint, every point",
    )
}
MINIATURE = ("--backbone", "minkunet-micro")
MINIATURE_STEPS = 150


def plan(recipe: Recipe, data: str, workspace: Path, only: str = "") -> list[list[str]]:
    """The commands of a recipe, in order. ``only`` keeps the rows whose ratio or list contains it."""
    miniature = data == "synthetic"
    root = str(workspace.with_name(workspace.name + "-streets")) if miniature else data
    commands = [["synth", "street", "--preset", "small", "--seed", "0", "--out", root]] if miniature else []
    place = ["--workspace", str(workspace)]
    commands.append(["prepare", "semantickitti", "--root", root, *place])
    train = (
        [*MINIATURE, "--steps", str(MINIATURE_STEPS)] if miniature else [*recipe.train, "--steps", str(recipe.steps)]
    )
    for row in recipe.rows:
        if only and only not in (row.ratio, row.official):
            continue
        choice = ["--ratio", row.ratio] if miniature or row.official is None else ["--official", row.official]
        commands.append(["split", *choice, *place])
        commands.append(["train", recipe.method, *train, *place])
    for form, name in (("table", None), ("markdown", "report.md"), ("json", "report.json")):
        commands.append(["eval", "--report", form, *(["--out", str(workspace / name)] if name else []), *place])
    return commands


def main() -> int:
    parser = argparse.ArgumentParser(prog="make reproduce-METHOD", description=__doc__)
    parser.add_argument("method", choices=sorted(RECIPES))
    parser.add_argument("--data", default="synthetic", help="root of SemanticKITTI, or: synthetic")
    parser.add_argument("--only", default="", help="one ratio (10%%) or list (lasermix-10%%)")
    parser.add_argument("--workspace", type=Path, help="default: reproduce/METHOD-DATA")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.method]
    folder = "synthetic" if arguments.data == "synthetic" else "data"
    workspace = (arguments.workspace or Path("reproduce") / f"{arguments.method}-{folder}").absolute()
    commands = plan(recipe, arguments.data, workspace, arguments.only)
    if not any(command[0] == "train" for command in commands):
        parser.error(f"no row matches --only {arguments.only}; rows: {', '.join(row.ratio for row in recipe.rows)}")
    describe(recipe, commands, workspace)
    if arguments.dry_run:
        return 0
    for command in commands:
        print("$", shlex.join(["ssl3d", *command]), flush=True)
        done = subprocess.run([sys.executable, "-m", "ssl3d.cli", *command])
        if done.returncode:
            print(f"stopped; the same make command goes on from here (workspace {workspace})", file=sys.stderr)
            return done.returncode
    return 0


def describe(recipe: Recipe, commands: list[list[str]], workspace: Path) -> None:
    """Prints the plan, what was published, and how long it takes as far as earlier runs tell."""
    print(f"{recipe.method}: {recipe.source}")
    for row in recipe.rows:
        print(f"  {row.official or row.ratio:16} published {row.published:.1f} mIoU")
    print(f"  not the same setting: {recipe.differs}")
    for command in commands:
        print("  $", shlex.join(["ssl3d", *command]))
    rates = seconds_per_step(workspace)
    trainings = [command for command in commands if command[0] == "train"]
    steps = sum(int(command[command.index("--steps") + 1]) for command in trainings)
    if rates:
        print(f"  about {max(rates) * steps / 3600:.1f} hours at most for {steps} steps, as earlier runs here went")
    else:
        print(f"  {steps} training steps; the first run shows the time of a step")


def seconds_per_step(workspace: Path) -> list[float]:
    """Of every run of the workspace that has made steps."""
    if not (workspace / "workspace.json").is_file():
        return []
    records = [run.status() for run in RunDirectory.list(Workspace.open(workspace, create=False))]
    return [record["seconds"] / record["step"] for record in records if record.get("step") and record.get("seconds")]


if __name__ == "__main__":
    sys.exit(main())
