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

from ssl3d.data.errors import DataError
from ssl3d.pipeline.files import digest_value, read_json, write_json
from ssl3d.pipeline.product import Product, is_sound
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.splits import SPLIT_FILE, Budget, Cut, SplitResult, split_hash
from ssl3d.pipeline.stage import Stage, Unit, UnitInputs, Upstream
from ssl3d.pipeline.stage_run import run_stage
from ssl3d.pipeline.stages.choose import parse_official
from ssl3d.pipeline.stages.redundancy import RedundancyStage
from ssl3d.pipeline.stages.selection import select
from ssl3d.pipeline.stages.split_params import POINT_REGIMES, SplitParams
from ssl3d.pipeline.stages.split_view import SplitView, show_split, sum_counts
from ssl3d.pipeline.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.data.store import ShardReader
    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef
    from ssl3d.pipeline.stages.points import Drawn

__all__ = ["SplitParams", "SplitResult", "SplitStage", "SplitView", "show_split", "split"]


@dataclass(frozen=True)
class _Work:
    """What is shown of one scan.

    Attributes:
        position: in the shard of its unit.
        rows: the points that show their labels; None: all, or what is drawn.
        first: how many points the labelled part of it has, when it is cut.
    """

    position: int
    scan_id: str
    rows: npt.NDArray[np.int64] | None = None
    first: int | None = None


class SplitStage(Stage):
    """One unit: the labelled scans of one prepared shard. ``<unit>.visible.h5`` holds

    - ``scan_index`` (L,) int32: which scans of the prepared shard these are, rising,
    - ``offsets`` (L + 1,) int64 and ``label`` (M,) uint8: their visible labels. Scans not listed show none.
    - ``part`` (M,) uint8, only where a scan is cut: 0 in its labelled part (and in other scans), 1 in the other.
    """

    name = "split"
    version = 1
    needs = ("prepare",)
    command = "ssl3d split --ratio 1%"
    worker_bytes = 64 << 20
    summary = SPLIT_FILE
    params: SplitParams

    def __init__(
        self, params: SplitParams, dataset: PreparedDataset, redundancy: Mapping[str, float] | None = None
    ) -> None:
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
        self.choice = select(params, dataset, redundancy)
        by_place = params.in_voxels or self.choice.cut is not None
        self.reads = {"prepare": (self.kind, "points") if by_place else (self.kind,)}

    def units(self, upstream: Upstream) -> Sequence[Unit]:
        scans: dict[str, list[_Work]] = {}
        points: Counter[str] = Counter()
        cut, listed = self.choice.cut, self.choice.points
        for scan in self.choice.labelled:
            first = cut.points if cut is not None and cut.scan == scan.scan_id else None
            rows = listed[scan.scan_id] if listed is not None else None
            scans.setdefault(scan.unit, []).append(_Work(scan.position, scan.scan_id, rows, first))
            points[scan.unit] += scan.num_points
        classes = self.dataset.spec.num_classes
        return [
            Unit(id=unit, work=(self.kind, tuple(rows), classes), size=points[unit] + (16 << 10), weight=len(rows))
            for unit, rows in sorted(scans.items())
        ]

    def identity(self, upstream: Upstream) -> Mapping[str, Any]:
        ids = [[scan.scan_id for scan in scans] for scans in (self.choice.labelled, self.choice.unlabelled)]
        held = {"holdout": digest_value([scan.scan_id for scan in self.choice.holdout])} if self.choice.holdout else {}
        rows = self.choice.points
        listed = {"points": digest_value({name: values.tolist() for name, values in rows.items()})} if rows else {}
        cut = {"cut": [self.choice.cut.scan, self.choice.cut.points]} if self.choice.cut else {}
        return {"scans": digest_value(ids), **held, **listed, **cut}

    def about(self) -> Mapping[str, Any]:
        named = self.dataset.name != self.dataset.spec.name
        return {"command": self.params.command(self.dataset.name if named else None)}

    @staticmethod
    def run(unit: Unit, params: SplitParams, inputs: UnitInputs, out: Path) -> Mapping[str, Any]:
        import numpy as np

        from ssl3d.data.scan import IGNORE
        from ssl3d.data.store import write_shard
        from ssl3d.pipeline.stages.points import cut_scan, show_rows

        kind, scans, classes = unit.work
        cut = any(scan.first is not None for scan in scans)
        shard = inputs.shard("prepare", kind)
        points = inputs.shard("prepare", "points") if params.in_voxels or cut else None
        labels, parts = [np.zeros(0, np.uint8)], [np.zeros(0, np.uint8)]
        positions, digests, clicks, partial = [], [], 0, 0
        for scan in scans:
            label = shard.read("label", scan.position)
            part = np.zeros(len(label), np.uint8)
            if params.regime in POINT_REGIMES or scan.rows is not None:
                drawn = _draw(params, label, scan, points) if scan.rows is None else show_rows(label, scan.rows)
                if not drawn.clicks:
                    continue
                partial += bool(((drawn.label == IGNORE) & (label != IGNORE)).any())
                clicks += drawn.clicks
                label = drawn.label
            elif scan.first is not None:
                assert points is not None
                part = cut_scan(points.read("points", scan.position), scan.first)
                label = np.where(part == 0, label, IGNORE)
            labels.append(label)
            parts.append(part)
            positions.append(scan.position)
            digests.append(xxhash.xxh3_64_hexdigest(label.tobytes() + (part.tobytes() if part.any() else b"")))
        shown = np.concatenate(labels)
        arrays: dict[str, Any] = {
            "offsets": np.cumsum([len(label) for label in labels], dtype=np.int64),
            "scan_index": np.array(positions, np.int32),
            "label": shown,
        }
        if cut:
            arrays["part"] = np.concatenate(parts)
        write_shard(out / f"{unit.id}.visible.h5", arrays, {"label_set": kind}, per_scan=("scan_index",), sync=False)
        counts = np.bincount(shown, minlength=classes)[:classes]
        info = {"digests": digests, "class_counts": counts.tolist()}
        if params.regime not in POINT_REGIMES and not any(scan.rows is not None for scan in scans):
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
        cut = self.choice.cut
        halved = {scan for scan in shown if cut is not None and cut.scan == scan.scan_id}
        others = ({*self.choice.unlabelled, *self.choice.labelled} - set(shown)) | halved
        labelled = _ids(shown, cut, 0)
        unlabelled = _ids(sorted(others, key=lambda scan: scan.index), cut, 1)
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
            cut=cut,
        )


def _ids(scans: Sequence[ScanRef], cut: Cut | None, part: int) -> tuple[str, ...]:
    """Ids of scans; of the one that is cut, the id of one of its parts."""
    return tuple(cut.parts[part] if cut and cut.scan == scan.scan_id else scan.scan_id for scan in scans)


def _shown_of(info: Mapping[str, Any] | None, scan: ScanRef) -> Sequence[int]:
    """Positions of the scans of a unit that show labels: all that were chosen, unless points were drawn."""
    return () if info is None else info.get("positions", (scan.position,))


def _draw(params: SplitParams, label: Any, scan: _Work, points: ShardReader | None) -> Drawn:
    from ssl3d.pipeline.stages.points import draw_per_class, draw_points, scan_keys

    keys = scan_keys(params.seed, scan.scan_id, len(label))
    if params.protocol is None:
        wanted = params.per_class or 1
        return draw_per_class(label, lambda count: wanted, keys)
    assert params.ratio is not None
    try:
        where = points.read("points", scan.position) if points is not None else None
        return draw_points(params.protocol, label, Fraction(params.ratio), keys, where)
    except DataError as error:
        error.where.setdefault("scan", scan.scan_id)
        raise


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
        redundancy = None
        if params.protocol == "strfd":
            data = PreparedDataset(handle, val=params.val)
            found = run_stage(handle, RedundancyStage(data), jobs=jobs, progress=progress)
            redundancy = RedundancyStage.of_scans(found.product, data)
        stage = SplitStage(params, PreparedDataset(handle), redundancy)
        run = run_stage(handle, stage, jobs=jobs, progress=progress)
    return SplitResult.load(run.product.folder)
