"""``ssl3d bench gains``: what methods gain over the supervised baseline on the frozen streets.

Equal budgets (optimizer steps, pre-training included), equal evaluation (every method and the baseline with the same
EMA), paired seeds: seed s fixes the split and the training of every method. Reported is the mean difference with its
paired 95% interval; a method gains only when the interval excludes zero.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ssl3d.benchmarks.published import FULL
from ssl3d.benchmarks.recipes import RECIPES
from ssl3d.data.errors import UsageError

if TYPE_CHECKING:
    from ssl3d.pipeline.stages.split import SplitParams
    from ssl3d.pipeline.training.config import RunConfig

BASELINE = "supervised"
WEIGHTS: Literal["ema"] = "ema"
"""What is evaluated of every run: the moving average of its student, by one policy for all methods."""


SHORT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ddsemi": ("ddsemi.pretrain=0.25", "ddsemi.lr_scale=1", "ddsemi.feature_norm=l2", "ddsemi.tau=0.1"),
        "gpc": ("gpc.crop=fan", "gpc.crop_labelled=false", "gpc.pretrain=0", "gpc.lr_scale=1"),
        "cps": ("cps.ramp_steps=400",),
    }
)
"""The preset ``short``: what 800 steps force in place of published values, chosen on the dev streets.

Half of the steps at a tenth of the rate (ddsemi, gpc) learn too little, and at the full rate raw dot products diverge:
features of length 1 do not. Crops of labelled scans cost labels. Two networks that have learned nothing yet teach each
other their first mistakes: the weight has to rise (cps).
"""
PUBLISHED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ddsemi": ("ddsemi.pretrain=0.5", "ddsemi.lr_scale=0.1", "ddsemi.feature_norm=none", "ddsemi.tau=1"),
        "gpc": ("gpc.crop_labelled=true", "gpc.pretrain=0.47", "gpc.lr_scale=none", "gpc.hard_point_ce=0.9"),
        "cps": ("cps.ramp_steps=0",),
    }
)
"""The same keys as the papers or their code have them (gpc: for LiDAR, without class weights, which the baseline does
not have)."""


@dataclass(frozen=True)
class Variant:
    """A method, or an ablation of one (``name`` then says which)."""

    method: str
    name: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What is labelled: ``scan 1%``, ``points 0.1%``."""

    regime: str
    ratio: str

    @property
    def name(self) -> str:
        return f"{self.regime} {self.ratio}"


@dataclass(frozen=True)
class Job:
    """One run of the matrix."""

    variant: Variant
    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}, {self.cell.name}, seed {self.seed}"


@dataclass(frozen=True)
class Recipe:
    """Everything that the figures depend on, beside the code. Chosen on the dev streets, never on those of the test.

    Methods have their published parameters, with half-lives scaled to the steps, but for the keys of ``SHORT``; the
    supervised part of the loss is the same in all of them and the baseline (``lambda_lov``), so that a difference is
    that of what they add to it.

    Attributes:
        methods: compared with the baseline, which is always there.
        common: keys of ``--set`` for every run.
        of_method: method -> further keys.
        ablations: method -> variants that ``--full`` adds.
        ratios: regime -> shares of labels, the lowest first.
        reference: the cell of the room: the baseline with all labels.
        room: mIoU that the reference has to be above the baseline at the lowest ratio for a gain to be possible.
        holdout: sequences of the dev streets: neither labelled nor unlabelled in any run.
    """

    methods: tuple[str, ...] = ("mean_teacher", "cbst", "cps", "gpc", "lasermix", "lim3d", "ddsemi")
    backbone: str = "minkunet-micro"
    steps: int = 800
    seeds: int = 5
    ema: float = 0.98
    common: tuple[str, ...] = (
        "backbone.voxel_size=0.4", "train.batch=1", "optimizer.lr=0.03", "augment.rotate=10", "augment.flip_x=0",
    )  # fmt: skip
    of_method: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType(
            {name: (f"{name}.lambda_lov=1", *SHORT.get(name, ())) for name in RECIPES}
        )
    )
    ablations: Mapping[str, tuple[Variant, ...]] = field(
        default_factory=lambda: MappingProxyType(
            {
                "mean_teacher": (
                    Variant("mean_teacher", "mean_teacher w=0", ("mean_teacher.w=0",)),
                    Variant("mean_teacher", "mean_teacher kl", ("mean_teacher.consistency=kl", "mean_teacher.w=1")),
                    Variant("mean_teacher", "mean_teacher alpha=0.999", ("mean_teacher.alpha=0.999",)),
                ),
                "ddsemi": (
                    Variant("ddsemi", "ddsemi published", PUBLISHED["ddsemi"]),
                    *(  # Table 3 of the paper, in miniature
                        Variant("ddsemi", f"ddsemi {name}", RECIPES["ddsemi"].keys_of(name))
                        for table in RECIPES["ddsemi"].tables
                        if table.name == "table3"
                        for name in table.variants
                        if name != FULL
                    ),
                ),
                "gpc": (Variant("gpc", "gpc published", PUBLISHED["gpc"]),),
                "cps": (Variant("cps", "cps published", PUBLISHED["cps"]),),
            }
        )
    )
    ratios: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType({"scan": ("0.5%", "2%"), "points": ("0.1%", "1%")})
    )
    reference: Cell = Cell("scan", "100%")
    room: float = 12.0
    preset: str = "bench"
    streets_seed: int = 0
    holdout: tuple[str, ...] = ("09", "10")
    protocol: str = "raw"
    full: bool = False

    @property
    def cells(self) -> list[Cell]:
        return [Cell(regime, ratio) for regime, ratios in self.ratios.items() for ratio in ratios]

    @property
    def variants(self) -> list[Variant]:
        """The baseline, the methods, and with ``full`` the ablations of each method."""
        found = [Variant(BASELINE, BASELINE)]
        for method in self.methods:
            if method != BASELINE:
                found.append(Variant(method, method))
            if self.full:
                found += self.ablations.get(method, ())
        return found

    def jobs(self) -> list[Job]:
        """All runs. Seed after seed, so that what is done at any time is paired as far as possible."""
        found: list[Job] = []
        for seed in range(self.seeds):
            found += [Job(variant, cell, seed) for cell in self.cells for variant in self.variants]
            found.append(Job(Variant(BASELINE, BASELINE), self.reference, seed))
        return list(dict.fromkeys(found))

    def overrides(self, job: Job) -> list[str]:
        """The keys of ``--set`` of a run; those of other methods are left out."""
        keys = [*self.common, f"train.ema={self.ema:g}", *self.of_method.get(job.variant.method, ())]
        return [*keys, *job.variant.overrides]

    def config(self, job: Job) -> RunConfig:
        """The configuration of a run, not bound to data. ``UsageError`` for a key that its method does not have."""
        from ssl3d.pipeline.training.config import resolve

        return resolve(
            job.variant.method,
            backbone=self.backbone,
            seed=job.seed,
            steps=self.steps,
            overrides=self.overrides(job),
        )

    def split(self, job: Job) -> SplitParams:
        from ssl3d.pipeline.stages.split import SplitParams

        return SplitParams(
            regime=job.cell.regime,
            ratio=job.cell.ratio,
            seed=job.seed,
            holdout=self.holdout,
            protocol=self.protocol if job.cell.regime == "points" else None,
        )

    def train_command(self, job: Job) -> list[str]:
        """``train METHOD ...``, without the split, the workspace and the machine."""
        words = ["train", job.variant.method, "--backbone", self.backbone, "--steps", str(self.steps)]
        words += ["--seed", str(job.seed)]
        return [*words, *(word for key in self.overrides(job) for word in ("--set", key))]

    def describe(self) -> dict[str, Any]:
        """As JSON, for the file of figures."""
        return {
            "methods": [variant.name for variant in self.variants],
            "backbone": self.backbone,
            "steps": self.steps,
            "seeds": list(range(self.seeds)),
            "ema": self.ema,
            "evaluated weights": WEIGHTS,
            "set": {variant.name: self.overrides(Job(variant, self.reference, 0)) for variant in self.variants},
            "ratios": {regime: list(ratios) for regime, ratios in self.ratios.items()},
            "protocol of points": self.protocol,
            "reference": self.reference.name,
            "dev sequences": list(self.holdout),
            "command": {
                variant.name: shlex.join(["ssl3d", *self.train_command(Job(variant, self.reference, 0))])
                for variant in self.variants
            },
        }


RECIPE = Recipe()
"""What `ssl3d bench gains` runs, unless its options say otherwise."""


def choose(
    recipe: Recipe = RECIPE,
    *,
    methods: str | None = None,
    regimes: str | None = None,
    ratios: str | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    settings: Sequence[str] = (),
    full: bool = False,
) -> Recipe:
    """The recipe as the options of the command line narrow or change it.

    Args:
        methods, regimes: names separated by commas.
        ratios: ``1%,10%`` for every chosen regime, or ``scan:1%,points:0.1%``.
        settings: further ``key=value``; a key of one method (``mean_teacher.w=50``) concerns that method only.

    Raises:
        UsageError: an unknown method, regime, ratio or key; before anything is made.
    """
    from ssl3d.models.methods.registry import list_methods

    changes: dict[str, Any] = {"full": full}
    if methods is not None:
        changes["methods"] = tuple(name for name in _words(methods) if name != BASELINE)
        _known(changes["methods"], list_methods(), "method", "ssl3d train --list")
    if regimes is not None:
        _known(_words(regimes), recipe.ratios, "regime of this benchmark")
        changes["ratios"] = {name: recipe.ratios[name] for name in _words(regimes)}
    if ratios is not None:
        changes["ratios"] = _ratios(ratios, changes.get("ratios", recipe.ratios))
    changes |= {name: value for name, value in (("seeds", seeds), ("steps", steps)) if value is not None}
    recipe = replace(recipe, **changes)
    for item in settings:
        if item.startswith("train.ema="):
            raise UsageError("every run is evaluated with the EMA of the recipe", hint="leave out --set train.ema=...")
        section = item.partition(".")[0]
        if section in list_methods():
            recipe = replace(
                recipe, of_method={**recipe.of_method, section: (*recipe.of_method.get(section, ()), item)}
            )
        else:
            recipe = replace(recipe, common=(*recipe.common, item))
    for variant in recipe.variants:  # a wrong key is an error before the first run
        job = Job(variant, recipe.reference, 0)
        recipe.config(job), recipe.split(job)
    return recipe


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _known(words: Iterable[str], known: Iterable[str], kind: str, listed: str = "") -> None:
    from ssl3d.data.text import nearest

    known = list(known)
    for word in words:
        if word not in known:
            near = nearest(word, known)
            hint = (f"did you mean {near}? " if near else "") + (f"{listed} names them" if listed else "")
            raise UsageError(f"there is no {kind} called '{word}'", hint=hint or f"there are: {', '.join(known)}")


def _ratios(text: str, regimes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    from ssl3d.pipeline.stages.choose import parse_ratio, percent_text

    found: dict[str, list[str]] = {}
    for word in _words(text):
        regime, colon, ratio = word.rpartition(":")
        if colon:
            _known([regime], regimes, "chosen regime")
        for name in [regime] if colon else regimes:
            found.setdefault(name, []).append(percent_text(parse_ratio(ratio)))
    return {name: tuple(sorted(found[name], key=lambda ratio: float(parse_ratio(ratio)))) for name in found}
