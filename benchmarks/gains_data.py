"""The workspace of the gains benchmark: its streets, its splits, and what has already run in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.benchmarks.gains import WEIGHTS, Job, Recipe
from ssl3d.data.datasets.root import MANIFEST
from ssl3d.data.errors import DataError, Ssl3dError, UsageError
from ssl3d.models.methods.registry import get_method
from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.evaluation.evaluate import cached_result
from ssl3d.pipeline.evaluation.result import EvalResult
from ssl3d.pipeline.evaluation.subject import subject_of
from ssl3d.pipeline.progress import Progress
from ssl3d.pipeline.splits import SplitResult
from ssl3d.pipeline.training.run import RunDirectory
from ssl3d.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ssl3d.pipeline.training.build import TrainingData

DATASET = "streets"
"""Their name in the workspace."""


def streets_beside(workspace: Path) -> Path:
    """Where the streets of a workspace are generated: beside it, as nothing foreign lies inside."""
    return workspace.with_name(workspace.name + "-streets")


def make_streets(workspace: Workspace, recipe: Recipe, streets: Path | None, jobs: int, progress: Progress) -> None:
    """Generates the streets (unless ``streets`` says where they are) and prepares them; what is done is kept."""
    from ssl3d.data.synthetic.street import generate_street, planned_scans
    from ssl3d.pipeline.stages.prepare import PrepareParams, prepare

    root = streets or streets_beside(workspace.root)
    if streets is None and not (root / MANIFEST).is_file():
        with progress.task(f"generating streets '{recipe.preset}'", planned_scans(recipe.preset), "scan") as task:
            generate_street(root, recipe.preset, recipe.streets_seed, jobs=jobs, on_scan=task.advance)
    prepare(workspace, "semantickitti", root, PrepareParams(), name=DATASET, jobs=jobs, progress=progress)


@dataclass
class Bench:
    """What there is of a benchmark. Looking writes nothing.

    Attributes:
        recipe: with the dev sequences that the streets really have.
        subset: ``val`` (the test streets), or ``holdout`` (the dev streets).
    """

    workspace: Workspace
    recipe: Recipe
    subset: str
    dataset: PreparedDataset
    _splits: dict[str, SplitResult] = field(default_factory=dict)
    _data: dict[tuple[str, tuple[str, ...]], TrainingData] = field(default_factory=dict)

    @classmethod
    def open(cls, workspace: Workspace, recipe: Recipe, subset: str) -> Bench:
        """``UsageError`` when its streets are not prepared yet."""
        dataset = PreparedDataset(workspace.dataset(DATASET))
        there = {scan.group for scan in dataset.subset("train")}
        recipe = replace(recipe, holdout=tuple(name for name in recipe.holdout if name in there))
        if subset == "holdout" and not recipe.holdout:
            raise UsageError("these streets have no dev sequences", where={"sequences": ", ".join(sorted(there))})
        return cls(workspace, recipe, subset, dataset)

    def streets(self) -> dict[str, Any]:
        """The manifest of the streets, and whether they are the frozen ones; empty for scans of another origin."""
        from ssl3d.benchmarks.streets import is_frozen

        root = self.dataset.product.manifest.identity["root"]
        try:
            manifest = json.loads((Path(str(root)) / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        keys = ("generator", "generator_version", "preset", "seed", "sha256", "scans_per_sequence", "subsets")
        return {**{key: manifest.get(key) for key in keys}, "frozen": is_frozen(manifest)}

    # ------------------------------------------------------------ splits

    def find_splits(self) -> None:
        """Learns which splits are there; a damaged one is not, and is made anew."""
        for product in self.dataset.handle.products("split"):
            if product.complete:
                with suppress(DataError):
                    split = SplitResult.load(product.folder)
                    if split.prepare == self.dataset.product.key:
                        self._splits[_split_key(split.params)] = split

    def make_splits(self, jobs: Sequence[Job], threads: int, progress: Progress) -> None:
        """Makes the splits of ``jobs`` that are not there."""
        from ssl3d.pipeline.stages.split import split

        self.find_splits()
        wanted = {_split_key(params.model_dump(mode="json")): params for params in map(self.recipe.split, jobs)}
        missing = [params for key, params in wanted.items() if key not in self._splits]
        if not missing:
            return
        with progress.task("splits", len(missing), "split") as task:
            for params in missing:
                made = split(self.workspace, params, dataset=DATASET, jobs=threads)
                self._splits[_split_key(made.params)] = made
                task.advance()

    def split(self, job: Job) -> SplitResult | None:
        return self._splits.get(_split_key(self.recipe.split(job).model_dump(mode="json")))

    # ------------------------------------------------------------ runs

    def make_stages(self, threads: int, progress: Progress) -> None:
        """Makes the products of stages that the methods of the recipe read, where they are not there."""
        from ssl3d.pipeline.needed import make_missing

        needs = [name for variant in self.recipe.variants for name in get_method(variant.method).needs]
        make_missing(self.workspace, DATASET, dict.fromkeys(needs), jobs=threads, progress=progress)

    def data(self, job: Job) -> TrainingData | None:
        """What the run of a job sees; None while its split, or a product that its method reads, is not there."""
        from ssl3d.pipeline.training.build import open_data

        split, needs = self.split(job), get_method(job.variant.method).needs
        if split is None or any(self.dataset.handle.product(name) is None for name in needs):
            return None
        if (split.key, needs) not in self._data:
            self._data[split.key, needs] = open_data(self.workspace, DATASET, split.key, needs)
        return self._data[split.key, needs]

    def run(self, job: Job) -> RunDirectory | None:
        """Where the run of a job is, or will be; None while what it needs is not there."""
        data = self.data(job)
        if data is None:
            return None
        config = self.recipe.config(job).bound(data.dataset, data.split)
        return RunDirectory(self.workspace.runs_dir / config.run_name)

    def result(self, job: Job) -> EvalResult | None:
        """The evaluation of a finished run, when it is there and up to date; none of a run that is damaged."""
        run = self.run(job)
        if run is None or not run.exists or not run.finished:
            return None
        with suppress(Ssl3dError):  # its own process will say what is wrong, and the others go on
            return cached_result(self.dataset, subject_of(run, weights=WEIGHTS), self.subset)
        return None


def _split_key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
