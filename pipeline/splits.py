"""A split as it lies in the workspace: which scans show their labels to training, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl3d.data.errors import DataError, UsageError
from ssl3d.pipeline.files import digest_value, read_json
from ssl3d.pipeline.product import Product, is_sound
from ssl3d.pipeline.workspace import DatasetHandle

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Budget:
    """What was annotated, counted on raw points of the scans of the train subset.

    Attributes:
        labelled_scans, train_scans: scans that show labels, and all scans of the train subset; those that are held out
            count nowhere.
        clicks: single annotations. A click on a voxel labels all its points; otherwise every visible point is one.
        labelled_points: points with a visible class.
        train_points: all points of the train scans, with and without a class.
        per_class: (C,) visible points of each class.
        partial_scans: labelled scans that hide some of their annotated points.
    """

    labelled_scans: int
    train_scans: int
    clicks: int
    labelled_points: int
    train_points: int
    per_class: tuple[int, ...]
    partial_scans: int = 0

    @property
    def share(self) -> float:
        """Visible points as a share (0..1) of all points of the train subset."""
        return self.labelled_points / self.train_points if self.train_points else 0.0


@dataclass(frozen=True)
class Cut:
    """A scan that was cut in two, which are scans of their own in training: one labelled, one unlabelled.

    Attributes:
        scan: its id.
        points: how many of its points the labelled part has.
        of: all of its points.
    """

    scan: str
    points: int
    of: int

    @property
    def parts(self) -> tuple[str, str]:
        """Ids of the labelled and of the unlabelled part."""
        return f"{self.scan}:a", f"{self.scan}:b"


@dataclass(frozen=True)
class SplitResult:
    """A split. Fields with a default came later: descriptions written before are read as they were meant.

    Attributes:
        name: e.g. ``scan-1%-seed0``, ``points-0.1%-raw-seed0`` or ``lasermix-1%``.
        key: key of the product.
        folder: where its ``<unit>.visible.h5`` lie.
        dataset, prepare: the dataset, and the key of the prepared product that it belongs to.
        params: ``SplitParams`` as JSON; what is not set is left out.
        labelled, unlabelled: sorted scan ids ``SS/FFFFFF``, disjoint; of a scan that is cut, those of its parts.
        transductive: the unlabelled scans include those of the val subset (never their labels).
        hash: over the ids and the visible label bytes; two splits are the same exactly when it is equal.
        holdout: sorted ids of the train scans that are neither labelled nor unlabelled: kept for choosing parameters.
        partial: some labelled scans hide some of their points on purpose (regimes ``points`` and ``1pt``), so their
            points without a label are unlabelled, not ignored.
        cut: the scan that was cut (``--protocol limited``); its parts are whole scans in every other respect.
    """

    name: str
    key: str
    folder: Path
    dataset: str
    prepare: str
    params: Mapping[str, Any]
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    transductive: bool
    hash: str
    classes: tuple[str, ...]
    budget: Budget
    holdout: tuple[str, ...] = ()
    partial: bool = False
    cut: Cut | None = None

    def scan_of(self, scan_id: str) -> str:
        """The prepared scan that ``scan_id`` is, or is a part of."""
        return self.cut.scan if self.cut is not None and scan_id in self.cut.parts else scan_id

    @property
    def val(self) -> tuple[str, ...]:
        """The groups for validation, where they are not the dataset's own; see ``subset_under``."""
        return tuple(self.params.get("val", ()))

    def to_json(self) -> dict[str, Any]:
        """What ``split.json`` holds (without the place where it lies)."""
        value = asdict(self)
        del value["folder"]
        if self.cut is None:
            del value["cut"]
        return value

    @classmethod
    def load(cls, folder: Path) -> SplitResult:
        """The split in a product folder. DataError when its description is missing or unreadable."""
        value = read_json(folder / SPLIT_FILE)
        try:
            if value is None or not is_sound(value):
                raise ValueError("missing or changed")
            budget = Budget(**{**value["budget"], "per_class": tuple(value["budget"]["per_class"])})
            texts = {name: tuple(value[name]) for name in ("labelled", "unlabelled", "classes")}
            texts["holdout"] = tuple(value.get("holdout", ()))
            cut = value.get("cut") and Cut(**value["cut"])
            return cls(**{**value, **texts, "budget": budget, "folder": folder, "cut": cut})
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                "the description of a split is missing or unreadable",
                where={"file": folder / SPLIT_FILE},
                hint="run your `ssl3d split` command again: it is written anew",
            ) from error


def subset_under(val: Collection[str], group: str, subset: str) -> str:
    """The subset of a group when the groups ``val`` are for validation; all others but those for testing then train.

    Args:
        val: nothing: the subsets stay as they are.
        subset: of the group as it was prepared.
    """
    return subset if not val or subset == "test" else "val" if group in val else "train"


def split_hash(
    product: Product,
    labelled: Sequence[str],
    unlabelled: Sequence[str],
    classes: Sequence[str],
    holdout: Sequence[str] = (),
) -> str:
    """The hash of a split: over the ids, and the digests of the visible labels that its units have noted."""
    digests = [digest for unit in sorted(product.done) for digest in product.done[unit].info["digests"]]
    parts = {"labelled": labelled, "labels": digests, "unlabelled": unlabelled, "classes": classes}
    if holdout:  # left out otherwise, so that runs on splits made before there was one still know theirs
        parts["holdout"] = holdout
    return digest_value(parts)


def find_split(handle: DatasetHandle, which: str | None = None, prepared: Product | None = None) -> SplitResult:
    """The current split of a dataset, or the one with this name, hash or key (or the beginning of these two).

    Args:
        prepared: the scans that it has to fit; None: the current ones.

    Raises:
        UsageError: there is none, or several fit.
        DataError: it was interrupted, or it was made from another prepared product than the current one.
    """
    prepared = prepared or handle.product("prepare")
    if which is None:
        product = handle.product("split")
        if product is None:
            raise UsageError(f"there is no split of '{handle.name}' yet", hint="type: ssl3d split --ratio 1%")
        return _checked(product, prepared)
    products = [product for product in handle.products("split") if product.complete]
    splits = [SplitResult.load(product.folder) for product in products]
    fits = [item for item in splits if item.name == which or item.key.startswith(which) or item.hash.startswith(which)]
    fits = [item for item in fits if prepared and item.prepare == prepared.key] or fits
    if len({item.hash for item in fits}) != 1:  # of equal splits (all labels, drawn by several seeds) any will do
        names = ", ".join(sorted({item.name for item in splits})) or "none"
        many = f"{len(fits)} splits are" if fits else "no split is"
        keys = f" with the keys {', '.join(item.key for item in fits)}" if fits else ""
        raise UsageError(f"{many} called '{which}'{keys}", where={"dataset": handle.name, "splits": names})
    product = handle.product("split", fits[0].key)
    assert product is not None
    return _checked(product, prepared)


def _checked(product: Product, prepared: Product | None) -> SplitResult:
    hint = "run your `ssl3d split` command again (cached parts are not made twice)"
    if not product.complete:
        raise DataError("the split was interrupted and is not complete", where={"folder": product.folder}, hint=hint)
    split = SplitResult.load(product.folder)
    if split.hash != split_hash(product, split.labelled, split.unlabelled, split.classes, split.holdout):
        raise DataError(
            "the description of a split is damaged: it does not fit its labels",
            where={"file": product.folder / SPLIT_FILE},
            hint=hint,
        )
    used = product.manifest.needs["prepare"]
    if prepared is None or prepared.key != used["key"] or (prepared.complete and prepared.content != used["content"]):
        raise DataError("the scans were prepared anew after this split", where={"split": split.name}, hint=hint)
    return split
