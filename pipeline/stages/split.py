"""``split``: which labels are shown to training. Copies exactly those into ``<unit>.visible.h5``.

Training opens points and these files and never the full labels, so a method cannot see what it should not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.files import digest_value, read_json, write_json
from ssl3d.pipeline.product import Product, is_sound
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.splits import SPLIT_FILE, Budget, SplitResult, split_hash
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import run_stage
from ssl3d.pipeline.stages.choose import (
    choose_groups,
    choose_listed,
    choose_official,
    choose_random,
    parse_official,
    percent_text,
    without_holdout,
)
from ssl3d.pipeline.stages.split_params import POINT_REGIMES, SplitParams
from ssl3d.pipeline.stages.split_view import SplitView, show_split, sum_counts
from ssl3d.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.stages.points import Drawn

__all__ = ["SplitParams", "SplitResult", "SplitStage", "SplitView", "show_split", "split"]


_NAMED_GROUPS = 6  # more of them would make the names of splits and runs too long for a file system


@dataclass(frozen=True)
class _Choice:
    """Which scans may show labels, before a point is drawn (a scan without any annotated point then shows none)."""

    name: str
    labelled: tuple[ScanRef, ...]
    unlabelled: tuple[ScanRef, ...]
    holdout: tuple[ScanRef, ...]
    train: tuple[ScanRef, ...]  # without those that are held out


class SplitStage(Stage):
    """One unit: the labelled scans of one prepared shard. ``<unit>.visible.h5`` holds

    - ``scan_index`` (L,) int32: which scans of the prepared shard these are, rising,
    - ``offsets`` (L + 1,) int64 and ``label`` (M,) uint8: their visible labels. Scans not listed show none.
    """

    name = "split"
    version = 1
    needs = ("prepare",)
    command = "ssl3d split --ratio 1%"
    worker_bytes = 64 << 20
    summary = SPLIT_FILE
    params: SplitParams

    def __init__(self, params: SplitParams, dataset: PreparedDataset) -> None:
        from ssl3d.pipeline.dataset import PreparedDataset

        spec = dataset.spec
        if params.official is not None:  # one spelling, one key
            name, percent = parse_official(params.official, spec)
            params = params.model_copy(update={"official": f"{name}-{percent}%"})
        if set(params.val) == {scan.group for scan in dataset.subset("val")}:
            params = params.model_copy(update={"val": ()})
        if params.val:
            dataset = PreparedDataset(dataset.handle, val=params.val)
        super().__init__(params)
        self.dataset = dataset
        self.kind = dataset.product.manifest.params["label_set"]
        self.reads = {"prepare": (self.kind, "points") if params.in_voxels else (self.kind,)}
        self.choice = choose(params, dataset)

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        scans: dict[str, list[tuple[int, str]]] = {}
        points: Counter[str] = Counter()
        for scan in self.choice.labelled:
            scans.setdefault(scan.unit, []).append((scan.position, scan.scan_id))
            points[scan.unit] += scan.num_points
        classes = self.dataset.spec.num_classes
        return [
            Unit(id=unit, work=(self.kind, tuple(rows), classes), size=points[unit] + (16 << 10), weight=len(rows))
            for unit, rows in sorted(scans.items())
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        ids = [[scan.scan_id for scan in scans] for scans in (self.choice.labelled, self.choice.unlabelled)]
        held = {"holdout": digest_value([scan.scan_id for scan in self.choice.holdout])} if self.choice.holdout else {}
        return {"scans": digest_value(ids), **held}

    def about(self) -> Mapping[str, Any]:
        named = self.dataset.name != self.dataset.spec.name
        return {"command": self.params.command(self.dataset.name if named else None)}

    @staticmethod
    def run(unit: Unit, params: SplitParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.data.scan import IGNORE
        from ssl3d.data.store import write_shard

        kind, scans, classes = unit.work
        shard = inputs.shard("prepare", kind)
        points = inputs.shard("prepare", "points") if params.in_voxels else None
        labels, positions, clicks, partial = [np.zeros(0, np.uint8)], [], 0, 0
        for position, scan_id in scans:
            label = shard.read("label", position)
            if params.regime in POINT_REGIMES:
                drawn = _draw(params, label, scan_id, position, points)
                if not drawn.clicks:
                    continue
                partial += bool(((drawn.label == IGNORE) & (label != IGNORE)).any())
                clicks += drawn.clicks
                label = drawn.label
            labels.append(label)
            positions.append(position)
        shown = np.concatenate(labels)
        arrays: dict[str, Any] = {
            "offsets": np.cumsum([len(label) for label in labels], dtype=np.int64),
            "scan_index": np.array(positions, np.int32),
            "label": shown,
        }
        write_shard(out / f"{unit.id}.visible.h5", arrays, {"label_set": kind}, per_scan=("scan_index",), sync=False)
        counts = np.bincount(shown, minlength=classes)[:classes]
        info = {
            "digests": [xxhash.xxh3_64_hexdigest(label.tobytes()) for label in labels[1:]],
            "class_counts": counts.tolist(),
        }
        if params.regime not in POINT_REGIMES:
            return info
        return {**info, "positions": positions, "clicks": clicks, "partial": partial}

    def finish(self, product: Product) -> None:
        value = self._result(product).to_json()
        write_json(product.folder / SPLIT_FILE, {**value, "check": digest_value(value)})

    def finished(self, product: Product) -> bool:
        there = read_json(product.folder / SPLIT_FILE) or {}
        return is_sound(there) and digest_value(there) == digest_value(self._result(product).to_json())

    def _result(self, product: Product) -> SplitResult:
        done = {unit: product.done[unit].info for unit in sorted(product.done)}
        shown = [scan for scan in self.choice.labelled if scan.position in _shown_of(done.get(scan.unit), scan)]
        labelled = tuple(scan.scan_id for scan in shown)
        others = {*self.choice.unlabelled, *self.choice.labelled} - set(shown)
        unlabelled = tuple(scan.scan_id for scan in sorted(others, key=lambda scan: scan.index))
        holdout = tuple(scan.scan_id for scan in self.choice.holdout)
        per_class = sum_counts([info["class_counts"] for info in done.values()])
        classes, train = self.dataset.spec.classes, self.choice.train
        partial = sum(info.get("partial", 0) for info in done.values())
        budget = Budget(
            labelled_scans=len(labelled),
            train_scans=len(train),
            clicks=sum(info.get("clicks", sum(info["class_counts"])) for info in done.values()),
            labelled_points=sum(per_class),
            train_points=sum(scan.num_points for scan in train),
            per_class=per_class,
            partial_scans=partial,
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
            hash=split_hash(product, labelled, unlabelled, classes, holdout),
            classes=classes,
            budget=budget,
            holdout=holdout,
            partial=partial > 0,
        )


def _shown_of(info: Mapping[str, Any] | None, scan: ScanRef) -> Sequence[int]:
    """Positions of the scans of a unit that show labels: all that were chosen, unless points were drawn."""
    return () if info is None else info.get("positions", (scan.position,))


def _draw(params: SplitParams, label: Any, scan_id: str, position: int, points: ShardReader | None) -> Drawn:
    from ssl3d.pipeline.stages.points import draw_per_class, draw_points, scan_keys

    keys = scan_keys(params.seed, scan_id, len(label))
    if params.protocol is None:
        wanted = params.per_class or 1
        return draw_per_class(label, lambda count: wanted, keys)
    assert params.ratio is not None
    try:
        where = points.read("points", position) if points is not None else None
        return draw_points(params.protocol, label, Fraction(params.ratio), keys, where)
    except DataError as error:
        error.where.setdefault("scan", scan_id)
        raise


def choose(params: SplitParams, dataset: PreparedDataset) -> _Choice:
    """The labelled and unlabelled scans, each in order of scan id. Disjoint; with the holdout, the whole subset."""
    everything = dataset.subset("train")
    train = without_holdout(everything, params.holdout, dataset.scans)
    pool = [scan for scan in train if scan.annotated]
    if not pool:
        raise UsageError(
            "no scan of the train subset has labels, so there is nothing to split",
            where={"dataset": dataset.name},
            hint="unpack the label archive into the dataset folder and run your `ssl3d prepare` command again",
        )
    ids, name = _chosen(params, dataset, pool, everything)
    chosen = set(ids)
    labelled = tuple(scan for scan in train if scan.scan_id in chosen)
    unlabelled = tuple(scan for scan in train if scan.scan_id not in chosen)
    assert len(labelled) == len(ids) and len(labelled) + len(unlabelled) == len(train)
    if params.holdout:
        name += f"-holdout-{_groups_text(params.holdout)}"
    if params.val:
        name += f"-val-{_groups_text(params.val)}"
    if params.transductive:
        val = dataset.subset("val")
        unlabelled = tuple(sorted((*unlabelled, *val), key=lambda scan: scan.index))
        name += "-transductive"
    held = tuple(scan for scan in everything if scan.group in params.holdout)
    return _Choice(name, labelled, unlabelled, held, tuple(train))


def _groups_text(names: Sequence[str]) -> str:
    """Groups as a part of the name of a split."""
    few = len(names) <= _NAMED_GROUPS
    return "-".join(names) if few else f"{len(names)}of-{digest_value(names)[:6]}"


def _chosen(
    params: SplitParams, dataset: PreparedDataset, pool: Sequence[ScanRef], train: Sequence[ScanRef]
) -> tuple[list[str], str]:
    """Ids of the scans that show labels, and the name of the split."""
    ids = [scan.scan_id for scan in pool]
    seed = f"seed{params.seed}"
    if params.regime == "1pt":
        return ids, f"{params.per_class}pt-{seed}"
    kinds = {**dataset.spec.regimes, **dict.fromkeys(POINT_REGIMES, "points")}
    if params.regime not in kinds:
        raise UsageError(
            f"{dataset.spec.title} has no regime '{params.regime}'",
            where={"dataset": dataset.name},
            hint=f"after --regime: {', '.join(kinds)}",
        )
    if params.ratio is not None:
        percent, kind = percent_text(params.ratio), kinds[params.regime]
        if kind == "points":
            return ids, f"points-{percent}-{params.protocol}-{seed}"
        groups = kind == "group"
        drawn = (
            choose_groups(pool, params.ratio, params.seed) if groups else choose_random(ids, params.ratio, params.seed)
        )
        return drawn, f"{params.regime}-{percent}-{seed}"
    if params.official is not None:
        listed, percent = parse_official(params.official, dataset.spec)
        ids = choose_official(listed, percent, dataset.spec, train, params.allow_missing, params.holdout)
        complete = len(ids) == len(dataset.spec.official_list(listed, percent))
        return ids, f"{listed}-{percent}%" + ("" if complete else f"-{len(ids)}scans")
    assert params.list_file is not None
    return choose_listed(params.list_file, dataset.scans, params.holdout), f"list-{params.list_file.stem}"


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
