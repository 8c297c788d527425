"""``split``: which scans show their labels to training. Copies exactly those labels into ``<unit>.visible.h5``.

Training opens points and these files and never the full labels, so a method cannot see what it should not.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash
from pydantic import Field, field_validator, model_validator

from ssl3d.data.errors import UsageError
from ssl3d.models.config import Params
from ssl3d.pipeline.files import digest_value, read_json, write_json
from ssl3d.pipeline.product import Product, is_sound
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.splits import SPLIT_FILE, Budget, SplitResult, find_split, split_hash
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream, run_stage
from ssl3d.pipeline.stages.choose import (
    choose_listed,
    choose_official,
    choose_random,
    parse_official,
    parse_ratio,
    percent_text,
)
from ssl3d.pipeline.workspace import DatasetHandle, Workspace

if TYPE_CHECKING:
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef

__all__ = ["SplitParams", "SplitResult", "SplitStage", "SplitView", "show_split", "split"]


class SplitParams(Params):
    """Parameters of ``split``: exactly one of ``ratio``, ``official`` and ``list_file``."""

    regime: Literal["scan"] = Field("scan", description="what is labelled: whole scans")
    ratio: str | None = Field(None, description="share of the train scans: 1% or 0.01")
    official: str | None = Field(None, description="a published list, e.g. lasermix-1%")
    list_file: Path | None = Field(None, description="a text file with one SS/FFFFFF a line")
    seed: int = Field(0, ge=0, description="of the order that the ratio cuts")
    transductive: bool = Field(False, description="scans of the val subset (never their labels) count as unlabelled")
    allow_missing: bool = Field(False, description="take those scans of a published list that are prepared")

    @field_validator("regime", mode="before")
    @classmethod
    def _known_regime(cls, value: object) -> object:
        if value != "scan":
            raise UsageError(f"there is no regime '{value}'", hint="for SemanticKITTI: --regime scan (whole scans)")
        return value

    @field_validator("ratio", mode="before")
    @classmethod
    def _exact_ratio(cls, value: object) -> object:
        return None if value is None else parse_ratio(value)

    @model_validator(mode="after")
    def _one_choice(self) -> SplitParams:
        given = [name for name in ("ratio", "official", "list_file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"{' and '.join(given)} exclude each other" if given else "which scans show their labels?",
                hint="one of: --ratio 1%, --official lasermix-1%, --list FILE",
            )
        return self


@dataclass(frozen=True)
class _Choice:
    name: str
    labelled: tuple[ScanRef, ...]
    unlabelled: tuple[ScanRef, ...]


class SplitStage(Stage):
    """One unit: the labelled scans of one prepared shard. ``<unit>.visible.h5`` holds

    - ``scan_index`` (L,) int32: which scans of the prepared shard these are, rising,
    - ``offsets`` (L + 1,) int64 and ``label`` (M,) uint8: their labels. Scans not listed show none.
    """

    name = "split"
    version = 1
    needs = ("prepare",)
    command = "ssl3d split --ratio 1%"
    worker_bytes = 64 << 20
    summary = SPLIT_FILE
    params: SplitParams

    def __init__(self, params: SplitParams, dataset: PreparedDataset) -> None:
        spec = dataset.spec
        if params.official is not None:  # one spelling, one key
            name, percent = parse_official(params.official, spec)
            params = params.model_copy(update={"official": f"{name}-{percent}%"})
        super().__init__(params)
        self.dataset = dataset
        self.kind = dataset.product.manifest.params["label_set"]
        self.reads = {"prepare": (self.kind,)}
        self.choice = choose(params, dataset)

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        positions: dict[str, list[int]] = {}
        points: Counter[str] = Counter()
        for scan in self.choice.labelled:
            positions.setdefault(scan.unit, []).append(scan.position)
            points[scan.unit] += scan.num_points
        classes = self.dataset.spec.num_classes
        return [
            Unit(id=unit, work=(self.kind, tuple(rows), classes), size=points[unit] + (16 << 10), weight=len(rows))
            for unit, rows in sorted(positions.items())
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        ids = [[scan.scan_id for scan in scans] for scans in (self.choice.labelled, self.choice.unlabelled)]
        return {"scans": digest_value(ids)}

    def about(self) -> Mapping[str, Any]:
        words = ["ssl3d", "split"]
        if self.params.ratio is not None:
            words += ["--ratio", percent_text(self.params.ratio), "--seed", str(self.params.seed)]
        elif self.params.official is not None:
            words += ["--official", self.params.official]
        else:
            words += ["--list", str(self.params.list_file)]
        words += ["--transductive"] if self.params.transductive else []
        words += ["--allow-missing"] if self.params.allow_missing else []
        words += ["--dataset", self.dataset.name] if self.dataset.name != self.dataset.spec.name else []
        return {"command": shlex.join(words)}

    @staticmethod
    def run(unit: Unit, params: SplitParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.data.store import write_shard

        kind, positions, classes = unit.work
        shard = inputs.shard("prepare", kind)
        labels = [shard.read("label", position) for position in positions]
        shown = np.concatenate(labels)
        arrays: dict[str, Any] = {
            "offsets": np.cumsum([0, *(len(label) for label in labels)], dtype=np.int64),
            "scan_index": np.array(positions, np.int32),
            "label": shown,
        }
        write_shard(out / f"{unit.id}.visible.h5", arrays, {"label_set": kind}, per_scan=("scan_index",), sync=False)
        counts = np.bincount(shown, minlength=classes)[:classes]
        return {
            "digests": [xxhash.xxh3_64_hexdigest(label.tobytes()) for label in labels],
            "class_counts": counts.tolist(),
        }

    def finish(self, product: Product) -> None:
        value = self._result(product).to_json()
        write_json(product.folder / SPLIT_FILE, {**value, "check": digest_value(value)})

    def finished(self, product: Product) -> bool:
        there = read_json(product.folder / SPLIT_FILE) or {}
        return is_sound(there) and digest_value(there) == digest_value(self._result(product).to_json())

    def _result(self, product: Product) -> SplitResult:
        labelled = tuple(scan.scan_id for scan in self.choice.labelled)
        unlabelled = tuple(scan.scan_id for scan in self.choice.unlabelled)
        infos = [product.done[unit].info for unit in sorted(product.done)]
        per_class = _sums([info["class_counts"] for info in infos])
        classes = self.dataset.spec.classes
        train = self.dataset.subset("train")
        budget = Budget(
            labelled_scans=len(labelled),
            train_scans=len(train),
            clicks=sum(per_class),
            labelled_points=sum(per_class),
            train_points=sum(scan.num_points for scan in train),
            per_class=per_class,
        )
        return SplitResult(
            name=self.choice.name,
            key=product.key,
            folder=product.folder,
            dataset=self.dataset.name,
            prepare=self.dataset.product.key,
            params=self.params.model_dump(mode="json"),
            labelled=labelled,
            unlabelled=unlabelled,
            transductive=self.params.transductive,
            hash=split_hash(product, labelled, unlabelled, classes),
            classes=classes,
            budget=budget,
        )


def choose(params: SplitParams, dataset: PreparedDataset) -> _Choice:
    """The labelled and unlabelled scans, each in order of scan id. Disjoint, and complete for the train subset."""
    train = dataset.subset("train")
    pool = [scan.scan_id for scan in train if scan.annotated]
    if not pool:
        raise UsageError(
            "no scan of the train subset has labels, so there is nothing to split",
            where={"dataset": dataset.name},
            hint="unpack the label archive into the dataset folder and run your `ssl3d prepare` command again",
        )
    if params.ratio is not None:
        ids = choose_random(pool, params.ratio, params.seed)
        name = f"{params.regime}-{percent_text(params.ratio)}-seed{params.seed}"
    elif params.official is not None:
        listed, percent = parse_official(params.official, dataset.spec)
        ids = choose_official(listed, percent, dataset.spec, train, params.allow_missing)
        whole = len(ids) == len(dataset.spec.official_list(listed, percent))
        name = f"{listed}-{percent}%" + ("" if whole else f"-{len(ids)}scans")
    else:
        assert params.list_file is not None
        ids = choose_listed(params.list_file, dataset.scans)
        name = f"list-{params.list_file.stem}"
    chosen = set(ids)
    labelled = tuple(scan for scan in train if scan.scan_id in chosen)
    unlabelled = tuple(scan for scan in train if scan.scan_id not in chosen)
    assert len(labelled) == len(ids) and len(labelled) + len(unlabelled) == len(train)
    if params.transductive:
        val = dataset.subset("val")
        unlabelled = tuple(sorted((*unlabelled, *val), key=lambda scan: scan.index))
        name += "-transductive"
    return _Choice(name, labelled, unlabelled)


def split(
    workspace: Workspace,
    params: SplitParams,
    *,
    dataset: str | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> SplitResult:
    """Chooses the labelled scans of a prepared dataset (default: the one prepared last) and copies their labels.

    It becomes the current split of the dataset; earlier ones are kept.

    Raises:
        UsageError: no dataset, an impossible ratio, an unknown list, scans of a published list that are not there.
        DataError: a line of a list file is wrong (named), a shard is damaged.
    """
    from ssl3d.pipeline.dataset import PreparedDataset

    progress = progress or Silent()
    handle = workspace.dataset(dataset)
    with workspace.lock(f"data-{handle.name}", progress):
        run = run_stage(handle, SplitStage(params, PreparedDataset(handle)), jobs=jobs, progress=progress)
    return SplitResult.load(run.product.folder)


def _sums(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*rows, strict=True))


@dataclass(frozen=True)
class SplitView:
    """A split, with what there is to compare it with.

    Attributes:
        sequences: (sequence, labelled scans, unlabelled scans), of the train subset and (transductive) of val.
        class_points: (C,) points of each class in all annotated train scans, for the share that is visible.
        against, common: another split, and how many labelled scans both have.
    """

    split: SplitResult
    sequences: tuple[tuple[str, int, int], ...]
    class_points: tuple[int, ...]
    against: SplitResult | None = None
    common: int = 0


def show_split(handle: DatasetHandle, which: str | None = None, against: str | None = None) -> SplitView:
    """The current split of a dataset or the one called ``which``, compared with the one called ``against``."""
    found = find_split(handle, which)
    product = handle.product("prepare", found.prepare)
    assert product is not None  # find_split has seen it
    shown, hidden = (Counter(scan_id[:2] for scan_id in ids) for ids in (found.labelled, found.unlabelled))
    field = "scribble_counts" if product.manifest.params["label_set"] == "scribbles" else "class_counts"
    counts = [entry.info[field] for entry in product.done.values() if entry.info["subset"] == "train"]
    other = find_split(handle, against) if against is not None else None
    return SplitView(
        split=found,
        sequences=tuple((name, shown[name], hidden[name]) for name in sorted(shown | hidden)),
        class_points=_sums([item for item in counts if item]) or (0,) * len(found.classes),
        against=other,
        common=len(set(found.labelled) & set(other.labelled)) if other is not None else 0,
    )
