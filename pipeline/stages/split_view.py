"""A split as ``ssl3d split --show`` presents it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl3d.pipeline.product import Product
from ssl3d.pipeline.splits import SplitResult, find_split, subset_under
from ssl3d.pipeline.stages.prepare import check_version
from ssl3d.pipeline.workspace import DatasetHandle


@dataclass(frozen=True)
class SplitView:
    """A split, with what there is to compare it with.

    Attributes:
        groups: (group, labelled scans, unlabelled scans), of the train subset and (transductive) of val.
        class_points: (C,) points of each class in all annotated train scans that are not held out, for the share that
            is visible.
        against, common: another split, and how many labelled scans both have.
    """

    split: SplitResult
    groups: tuple[tuple[str, int, int], ...]
    class_points: tuple[int, ...]
    against: SplitResult | None = None
    common: int = 0

    @property
    def no_label(self) -> tuple[str, ...]:
        """Classes that have points in the train scans, none of which is visible."""
        rows = zip(self.split.classes, self.class_points, self.split.budget.per_class, strict=True)
        return tuple(name for name, points, visible in rows if points and not visible)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {**self.split.to_json(), "share": self.split.budget.share, "no_label": list(self.no_label)}


def show_split(handle: DatasetHandle, which: str | None = None, against: str | None = None) -> SplitView:
    """The current split of a dataset or the one called ``which``, compared with the one called ``against``."""
    found = find_split(handle, which)
    product = handle.product("prepare", found.prepare)
    assert product is not None  # find_split has seen it
    check_version(product)
    group = _groups(product)
    shown, hidden = (
        Counter(group.get(scan_id) or scan_id.rpartition("/")[0] for scan_id in map(found.scan_of, ids))
        for ids in (found.labelled, found.unlabelled)
    )
    field = "scribble_counts" if product.manifest.params["label_set"] == "scribbles" else "class_counts"
    held = found.params.get("holdout", ())
    infos = [entry.info for entry in product.done.values()]
    train = [info for info in infos if subset_under(found.val, info["group"], info["subset"]) == "train"]
    counts = [info[field] for info in train if info["group"] not in held]
    other = find_split(handle, against) if against is not None else None
    return SplitView(
        split=found,
        groups=tuple((name, shown[name], hidden[name]) for name in sorted(shown | hidden)),
        class_points=sum_counts([item for item in counts if item]) or (0,) * len(found.classes),
        against=other,
        common=len(set(found.labelled) & set(other.labelled)) if other is not None else 0,
    )


def _groups(product: Product) -> dict[str, str]:
    """Scan id -> its group, as far as scans are prepared at this moment."""
    infos = [entry.info for entry in product.done.values()]
    return {scan_id: info["group"] for info in infos for scan_id in info["scan_ids"]}


def sum_counts(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Sums by column; empty when there are no rows."""
    return tuple(sum(column) for column in zip(*rows, strict=True))
