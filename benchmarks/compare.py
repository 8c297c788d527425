"""``ssl3d eval --compare paper``: published numbers beside those of runs, and what keeps the two from being compared.

Nothing is comparable by default. Every fact that decides a number is looked at on both sides (data, labels, network,
schedule, what is counted); a fact that a paper does not state is *not known*, and only where all are known and equal a
line says *comparable*.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.benchmarks.published import FULL, Published, numbers_of
from ssl3d.benchmarks.recipes import RECIPES, Recipe
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.evaluation.result import EvalResult, without_seed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ssl3d.pipeline.splits import SplitResult
    from ssl3d.pipeline.training.config import RunConfig
    from ssl3d.pipeline.training.run import RunDirectory
    from ssl3d.pipeline.workspace import DatasetHandle, Workspace

NOT_KNOWN = "not known"
_SHOWN = 4
"""So many keys of a difference are named, the rest is counted."""
_SCHEDULES = ("train", "optimizer", "schedule", "augment", "backbone_params")
_NOT_OF_A_RECIPE = ("train.steps", "train.ema", "train.precision", "train.sparse_backend", "train.workers",
                    "train.log_every", "train.checkpoint_every", "train.checkpoint_minutes")  # fmt: skip


@dataclass(frozen=True)
class Ours:
    """Runs of one recipe that differ in their seeds, and what is known of them.

    Attributes:
        variant: the ablation that their parameters are, ``full``, or None: settings of their own.
        dataset: name of its specification; ``scribblekitti``: with scribbles.
        ratio: percent of the labelled scans; None: they are labelled in another way.
        list: family of the published list; None: another draw.
        miou: percent, the mean over the runs; ``std`` None for one.
        generated: the data are; None: their folder is gone, so that nobody can say.
        why: what else is not as in any paper.
        settings: what is not as in the recipe of the method.
    """

    method: str
    variant: str | None
    dataset: str
    subset: str
    held: tuple[str, ...]
    ratio: float | None
    list: str | None
    split: str
    backbone: str
    protocol: str
    steps: int
    tta: str
    miou: float
    std: float | None
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    generated: bool | None
    why: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.method if self.variant in (FULL, None) else f"{self.method} {self.variant}"

    @property
    def text(self) -> str:
        """``62.3 ± 0.4``."""
        return f"{self.miou:.1f}" if self.std is None else f"{self.miou:.1f} ± {self.std:.1f}"


@dataclass(frozen=True)
class Line:
    """A published number beside ours; ``published`` None: there is none for such runs."""

    ours: Ours
    published: Published | None
    differs: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points of mIoU."""
        return None if self.published is None else self.ours.miou - self.published.miou

    @property
    def comparable(self) -> bool:
        return self.published is not None and not self.differs and not self.unknown

    @property
    def verdict(self) -> str:
        """``comparable``, ``not comparable: why``, or ``not known: what``."""
        if self.comparable:
            return "comparable"
        missing = f"{NOT_KNOWN}: {', '.join(self.unknown)}" if self.unknown else ""
        found = f"not comparable: {'; '.join(self.differs)}" if self.differs else ""
        return "; ".join(filter(None, [found, missing]))

    def cells(self) -> dict[str, str]:
        """Column -> text."""
        ours, theirs = self.ours, self.published
        backbone = split = counted = None
        if theirs is not None:
            backbone, split, counted = theirs.backbone or NOT_KNOWN, theirs.split or NOT_KNOWN, _counted(theirs)
        return {
            "method": ours.name,
            "dataset": ours.dataset,
            "ratio": "-" if ours.ratio is None else f"{ours.ratio:g}%",
            "published": "-" if theirs is None else f"{theirs.miou:.1f}",
            "ours": ours.text,
            "seeds": str(len(ours.seeds)),
            "difference": "-" if self.difference is None else f"{self.difference:+.1f}",
            "backbone (theirs / ours)": _both(backbone, ours.backbone),
            "split (theirs / ours)": _both(split, ours.split),
            "protocol (theirs / ours)": _both(counted, f"{ours.protocol}, points"),
            "source": "-" if theirs is None else theirs.source,
            "verdict": self.verdict,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values; mIoU in percent."""
        theirs = self.published
        return {
            "method": self.ours.method,
            "variant": self.ours.variant,
            "dataset": self.ours.dataset,
            "ratio": self.ours.ratio,
            "published": None if theirs is None else theirs.miou,
            "ours": self.ours.miou,
            "std": self.ours.std,
            "seeds": list(self.ours.seeds),
            "runs": list(self.ours.runs),
            "difference": self.difference,
            "backbone": {"theirs": theirs and theirs.backbone, "ours": self.ours.backbone},
            "split": {"theirs": theirs and theirs.split, "ours": self.ours.split},
            "protocol": {"theirs": theirs and _counted(theirs), "ours": self.ours.protocol},
            "source": theirs and theirs.source,
            "comparable": self.comparable,
            "differs": list(self.differs),
            "not_known": list(self.unknown),
            "paper": None if theirs is None else asdict(theirs),
        }


def compare(space: Workspace, results: Sequence[EvalResult], protocols: Sequence[str]) -> list[Line]:
    """A line for every published number of the method, dataset and ratio of runs; one without for runs that have none.

    Args:
        results: evaluated runs of ``space``; what is no run of it (predictions in files) is left out.
        protocols: names; a result is compared under the first that may be asked of it.

    Raises:
        UsageError: no result is of a run.
    """
    groups = [group for group in _groups(space, results, protocols) if group is not None]
    if not groups:
        raise UsageError(
            "there is no run to put published numbers beside", hint="name runs, or train one: ssl3d train supervised"
        )
    return [line for ours in groups for line in lines_of(ours, numbers_of(ours.method))]


def lines_of(ours: Ours, numbers: Sequence[Published]) -> list[Line]:
    """``ours`` beside each of ``numbers`` that is about the same dataset, subset, ratio and variant."""
    variant = ours.variant or FULL
    same = [
        number
        for number in numbers
        if (number.dataset, number.subset, number.ratio, number.variant)
        == (ours.dataset, ours.subset, ours.ratio, variant)
    ]
    if not same:
        return [Line(ours, None, (_why_none(ours, numbers),), ())]
    return [_beside(ours, number) for number in same]


def _why_none(ours: Ours, numbers: Sequence[Published]) -> str:
    """Why no number is published for such runs."""
    if not numbers:
        return f"no number of {ours.method} is published here"
    steps: list[tuple[str, Callable[[Published], bool]]] = [
        (f"on {ours.dataset}", lambda number: number.dataset == ours.dataset),
        (f"on {ours.dataset} {ours.subset}", lambda number: number.subset == ours.subset),
        (f"of {ours.name}", lambda number: number.variant == (ours.variant or FULL)),
        (f"at {ours.split}", lambda number: number.ratio == ours.ratio),
    ]
    for words, keeps in steps:
        numbers = [number for number in numbers if keeps(number)]
        if not numbers:
            return f"no number is published {words}"
    return "no number is published"


def _beside(ours: Ours, theirs: Published) -> Line:
    differs, unknown = list(ours.why), list[str]()

    def check(known: bool, same: bool, what: str, words: str) -> None:
        if not known:
            unknown.append(what)
        elif not same:
            differs.append(words)

    check(ours.generated is not None, not ours.generated, "whether our data are recorded", "generated data")
    named = theirs.same_backbone
    check(bool(theirs.backbone), ours.backbone in named, "their backbone", f"backbone {theirs.backbone}")
    words = f"split {theirs.split}"
    check(theirs.list is not None, ours.list == theirs.list, "their list of scans", words)
    if ours.protocol != theirs.protocol:
        differs.append(f"protocol {theirs.protocol}")
    evaluated = f"theirs evaluated on {', '.join(theirs.held)}"
    check(bool(ours.held) or not theirs.held, ours.held == theirs.held or not theirs.held,
          "what ours was evaluated on", evaluated)  # fmt: skip
    check(theirs.elements is not None, theirs.elements == "points", "whether they count points",
          f"they count {theirs.elements}, not points")  # fmt: skip
    check(theirs.selection is not None, theirs.selection == "last", "their checkpoint",
          "their checkpoint is the best on what is evaluated")  # fmt: skip
    test_time = f"test-time augmentation ({theirs.tta or 'none'})"
    check(theirs.tta is not None, bool(theirs.tta) == bool(ours.tta), "their test-time augmentation", test_time)
    check(theirs.steps is not None, theirs.steps == ours.steps, "their steps",
          f"{theirs.steps or 0:,} steps against {ours.steps:,}")  # fmt: skip
    if ours.variant is None:
        differs.append("an ablation that no paper has")
    if ours.settings:
        rest = len(ours.settings) - _SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        differs.append(f"not the settings of the recipe ({', '.join(ours.settings[:_SHOWN])}{more})")
    return Line(ours, theirs, tuple(differs), tuple(unknown))


def _counted(theirs: Published) -> str:
    return f"{theirs.protocol}, {theirs.elements or f'points or voxels {NOT_KNOWN}'}"


def _both(theirs: str | None, ours: str) -> str:
    return f"{theirs or '-'} / {ours}"


# ---------------------------------------------------------------- what is known of runs


def _groups(space: Workspace, results: Sequence[EvalResult], protocols: Sequence[str]) -> list[Ours | None]:
    """Runs of one recipe together, in order of first appearance."""
    from ssl3d.pipeline.training.run import RunDirectory

    runs = {run.name: run for run in RunDirectory.list(space)}
    groups: dict[tuple[object, ...], list[EvalResult]] = {}
    for result in results:
        if result.run in runs and result.semantic and not result.folds:
            trained = (result.method, result.backbone, result.recipe, without_seed(result.split), result.checkpoint)
            seen = (result.step, result.weights, result.augment, result.dataset, result.subset, result.held)
            groups.setdefault((*trained, *seen), []).append(result)
    return [_ours(space, runs, list({(r.seed, r.split): r for r in same}.values()), protocols)
            for same in groups.values()]  # fmt: skip


def _ours(
    space: Workspace, runs: Mapping[str, RunDirectory], results: list[EvalResult], protocols: Sequence[str]
) -> Ours | None:
    from ssl3d.pipeline.evaluation.subject import dataset_of

    first, run = results[0], runs[results[0].run]
    config, dataset = run.config, dataset_of(space, run)
    protocol = dataset.protocol if dataset.protocol in protocols or not protocols else protocols[0]
    values = [100 * result.scores(protocol).miou for result in results]
    ratio, family, why = _labels(run, dataset.handle)
    manifest = dataset.product.manifest
    scribbles = manifest.params.get("label_set") == "scribbles"
    name = "scribblekitti" if scribbles and dataset.spec.name == "semantickitti" else dataset.spec.name
    generated = _generated(manifest.identity.get("root"))
    why += _incomplete(dataset.spec.scans_per_sequence, first) if generated is False else []
    why += [f"version {dataset.version}"] if name == "nuscenes" and dataset.version == "v1.0-mini" else []
    why += ["begun from other weights"] if config.init_from is not None else []
    why += ["averaged weights"] if first.weights != "own" else []
    variant, settings = _variant(config, dataset.spec.name, dataset.spec.defaults)
    return Ours(
        method=first.method,
        variant=variant,
        dataset=name,
        subset=first.subset,
        held=first.held if len(first.held) < _SHOWN else (),
        ratio=ratio,
        list=family,
        split=without_seed(first.split) if len(results) > 1 else first.split,
        backbone=first.backbone,
        protocol=protocol,
        steps=first.step,
        tta=" ".join(first.augment),
        miou=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        runs=tuple(result.run for result in results),
        seeds=tuple(result.seed for result in results),
        generated=generated,
        why=tuple(why),
        settings=settings,
    )


def _labels(run: RunDirectory, handle: DatasetHandle) -> tuple[float | None, str | None, list[str]]:
    """The ratio in percent, the family of the published list, and what is unusual about the split of a run."""
    found = _split_of(run, handle)
    if found is None:
        return None, None, ["its split is gone"]
    params = found.params
    why = [f"{', '.join(params['holdout'])} held out"] if params.get("holdout") else []
    why += ["the val scans are seen without labels"] if found.transductive else []
    if official := params.get("official"):
        family, _, percent = str(official).rpartition("-")
        why += ["scans of the list are missing"] if params.get("allow_missing") and _lacks(found) else []
        return float(percent.removesuffix("%")), family, why
    if params.get("regime", "scan") in ("points", "1pt") or params.get("protocol") or params.get("ratio") is None:
        return None, None, why
    share = 100 * float(params["ratio"])
    return share, "all" if share == 100 else None, why


def _split_of(run: RunDirectory, handle: DatasetHandle) -> SplitResult | None:
    """The split of a run; of several that show the same labels, the one of the same name. None when it is gone."""
    from ssl3d.pipeline.splits import SplitResult

    wanted, found = run.config.split, list[SplitResult]()
    for product in handle.products("split"):
        with suppress(Ssl3dError):
            found.append(SplitResult.load(product.folder))
    same = [split for split in found if wanted is not None and split.hash == wanted.hash]
    named = [split for split in same if wanted is not None and split.name.replace("%", "pct") == wanted.name]
    return next(iter([*named, *same]), None)


def _lacks(found: SplitResult) -> bool:
    from ssl3d.data.official import list_family

    family, _, percent = str(found.params["official"]).rpartition("-")
    try:
        return len(found.labelled) < list_family(found.dataset, family).lists[percent.removesuffix("%")].count
    except (Ssl3dError, KeyError):
        return True


def _generated(root: object) -> bool | None:
    """Whether the files that a dataset was prepared from were generated; None where they are gone."""
    from ssl3d.data.datasets.root import MANIFEST

    folder = Path(str(root))
    if root is None or not folder.is_dir():
        return None
    return any((place / MANIFEST).is_file() for place in (folder, folder / "dataset"))


def _incomplete(counts: Mapping[str, int], result: EvalResult) -> list[str]:
    """What is said of an evaluation on fewer scans than the dataset has."""
    if not counts or any(group not in counts for group in result.held):
        return []
    whole = sum(counts[group] for group in result.held)
    return [f"{result.scans:,} of {whole:,} scans"] if result.held and result.scans < whole else []


def _variant(config: RunConfig, dataset: str, defaults: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The ablation that a run is (None: one that no recipe has), and what else is not as the recipe has it."""
    recipe = RECIPES.get(config.method)
    if recipe is None:
        return FULL, ()
    known = {name: _expected(recipe, config, dataset, defaults, name) for name in (FULL, *recipe.variants)}
    ours = _flat(config.model_dump(mode="json"))
    turned = {key for values in known.values() for key in values if values[key] != known[FULL].get(key)}
    fits = next((name for name, values in known.items() if all(ours.get(key) == values[key] for key in turned)), None)
    expected = known[fits or FULL]
    differing = [key for key in expected if key in ours and ours[key] != expected[key]]
    setting = recipe.settings.get(dataset)
    if setting is None:
        return fits, ()
    if setting.backbone != config.backbone:  # said of the backbone itself
        differing = [key for key in differing if not key.startswith("backbone_params.")]
    shown = (key.replace("_params", "", 1) if key.startswith("backbone") else key for key in differing)
    return fits, tuple(f"{key.replace('method_params', config.method)}" for key in shown)


def _expected(recipe: Recipe, config: RunConfig, dataset: str, defaults: Sequence[str], variant: str) -> dict[str, Any]:
    """Flat key -> value of a run as the recipe has it, as long as this one."""
    from ssl3d.pipeline.training.config import resolve

    setting = recipe.settings.get(dataset)
    chosen = [] if setting is None else [*setting.keys, *setting.own]
    if setting is not None and setting.backbone != config.backbone:
        chosen = [item for item in chosen if not item.startswith("backbone.")]
    overrides = [*chosen, *recipe.keys_of(variant)]
    found = resolve(
        config.method, backbone=config.backbone, steps=config.train.steps, overrides=overrides, defaults=defaults
    )
    flat = _flat(found.model_dump(mode="json"))
    kept = ("method_params", *(_SCHEDULES if setting is not None else ()))
    return {key: value for key, value in flat.items() if key.partition(".")[0] in kept and key not in _NOT_OF_A_RECIPE}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}} -> {"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{before}.{name}" if before else name
        found |= _flat(value, key) if isinstance(value, dict) else {key: value}
    return found


# ---------------------------------------------------------------- formats

TITLE = "Published numbers beside ours (mIoU in %, ours minus published)"
FOOT = "Nothing is comparable unless all that decides a number is known and equal; `not known`: the paper does not say."


def table(lines: Sequence[Line], width: int) -> RenderableType:
    """For a terminal: the numbers, and below them what keeps each line from being comparable."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    numbers = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for head in ("", "method", "dataset", "ratio", "published", "ours", "seeds", "difference"):
        numbers.add_column(head, no_wrap=True, justify="left" if head in ("", "method", "dataset") else "right")
    notes = Table.grid(padding=(0, 1))
    notes.add_column(no_wrap=True)
    notes.add_column(overflow="fold", max_width=max(20, width - 5))
    for index, line in enumerate(lines, start=1):
        cells = line.cells()
        first = ("method", "dataset", "ratio", "published", "ours", "seeds", "difference")
        numbers.add_row(f"#{index}", *(Text(cells[name]) for name in first))
        pairs = [f"{name.partition(' ')[0]} {cells[name]}" for name in cells if "theirs" in name]
        words = [cells["source"], *pairs] if line.published is not None else []
        notes.add_row(f"#{index}", Text.assemble(("; ".join(words) + "; " if words else "", "dim"), line.verdict))
    return Group(Text(TITLE, style="bold"), numbers, Text(""), notes, Text(FOOT, style="dim"))


def markdown(lines: Sequence[Line]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("_", "\\_") for cell in cells) + " |"

    heads = list(lines[0].cells())
    right = ("published", "ours", "seeds", "difference", "ratio")
    rule = "| " + " | ".join("---:" if head in right else "---" for head in heads) + " |"
    rows = [line(list(item.cells().values())) for item in lines]
    return "\n".join([f"**{TITLE}**", "", line(heads), rule, *rows, "", FOOT]) + "\n"


def csv_text(lines: Sequence[Line]) -> str:
    """A line per published number, full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([
        "method", "variant", "dataset", "ratio", "published", "ours", "std", "seeds", "difference", "backbone_theirs",
        "backbone_ours", "split_theirs", "split_ours", "protocol_theirs", "protocol_ours", "source", "comparable",
        "verdict",
    ])  # fmt: skip
    for line in lines:
        value = line.to_json()
        pairs = [value[name][side] for name in ("backbone", "split", "protocol") for side in ("theirs", "ours")]
        seeds = " ".join(map(str, value["seeds"]))
        first = [value[name] for name in ("method", "variant", "dataset", "ratio", "published", "ours", "std")]
        row = [*first, seeds, value["difference"], *pairs, value["source"], value["comparable"], line.verdict]
        writer.writerow(["" if cell is None else cell for cell in row])
    return out.getvalue()


def with_json(report: str, lines: Sequence[Line]) -> str:
    """The report's JSON with the comparison as ``published``."""
    value = {**json.loads(report), "published": [line.to_json() for line in lines]}
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """NaN is no JSON."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


__all__ = ["Line", "Ours", "compare", "csv_text", "lines_of", "markdown", "table", "with_json"]
