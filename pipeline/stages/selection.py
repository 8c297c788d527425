"""Which scans of a prepared dataset a split labels, leaves unlabelled and holds out: before a label is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.files import digest_value
from ssl3d.pipeline.splits import Cut
from ssl3d.pipeline.stages.choose import (
    choose_groups,
    choose_limited,
    choose_listed,
    choose_official,
    choose_points,
    choose_random,
    parse_official,
    percent_text,
    seeded_order,
    without_holdout,
)
from ssl3d.pipeline.stages.split_params import POINT_REGIMES, SplitParams
from ssl3d.pipeline.stages.strfd import choose_strfd, subsets_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.pipeline.dataset import PreparedDataset, ScanRef

_NAMED_GROUPS = 6  # more of them would make the names of splits and runs too long for a file system


@dataclass(frozen=True)
class Selection:
    """Which scans may show labels. A scan without any annotated point then shows none.

    Attributes:
        labelled: in order of the dataset, as the others; one that is cut is among them.
        train: without those that are held out.
        cut: the scan that shows only a part of itself, which is a scan of its own then.
        points: of a list of points, the rows that each labelled scan shows; None: all, or what is drawn.
    """

    name: str
    labelled: tuple[ScanRef, ...]
    unlabelled: tuple[ScanRef, ...]
    holdout: tuple[ScanRef, ...]
    train: tuple[ScanRef, ...]
    cut: Cut | None = None
    points: Mapping[str, npt.NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class _Drawn:
    """Ids of the scans that show labels, and the name of the split."""

    ids: Sequence[str]
    name: str
    cut: Cut | None = None
    points: Mapping[str, npt.NDArray[np.int64]] | None = None


def select(params: SplitParams, dataset: PreparedDataset, redundancy: Mapping[str, float] | None = None) -> Selection:
    """The labelled and unlabelled scans, each in order of scan id. Disjoint; with the holdout, the whole subset.

    ``redundancy``: for the protocol ``strfd``, scan id -> similarity to the scan before it.
    """
    everything = dataset.subset("train")
    train = without_holdout(everything, params.holdout, dataset.scans)
    pool = [scan for scan in train if scan.annotated]
    if not pool:
        raise UsageError(
            "no scan of the train subset has labels, so there is nothing to split",
            where={"dataset": dataset.name},
            hint="unpack the label archive into the dataset folder and run your `ssl3d prepare` command again",
        )
    drawn = _drawn(params, dataset, pool, everything, sum(scan.num_points for scan in train), redundancy or {})
    name, chosen = drawn.name, set(drawn.ids)
    labelled = tuple(scan for scan in train if scan.scan_id in chosen)
    unlabelled = tuple(scan for scan in train if scan.scan_id not in chosen)
    assert len(labelled) == len(drawn.ids) and len(labelled) + len(unlabelled) == len(train)
    if params.holdout:
        name += f"-holdout-{_groups_text(params.holdout)}"
    if params.val:
        name += f"-val-{_groups_text(params.val)}"
    if params.transductive:
        val = dataset.subset("val")
        unlabelled = tuple(sorted((*unlabelled, *val), key=lambda scan: scan.index))
        name += "-transductive"
    held = tuple(scan for scan in everything if scan.group in params.holdout)
    return Selection(name, labelled, unlabelled, held, tuple(train), drawn.cut, drawn.points)


def _groups_text(names: Sequence[str]) -> str:
    """Groups as a part of the name of a split."""
    few = len(names) <= _NAMED_GROUPS
    return "-".join(names) if few else f"{len(names)}of-{digest_value(names)[:6]}"


def _drawn(
    params: SplitParams,
    dataset: PreparedDataset,
    pool: Sequence[ScanRef],
    train: Sequence[ScanRef],
    points: int,
    redundancy: Mapping[str, float],
) -> _Drawn:
    """The scans that show labels.

    Args:
        pool: annotated train scans that are not held out.
        train: all train scans.
        points: of all train scans that are not held out.
        redundancy: see ``select``.
    """
    from ssl3d.data.datasets.scannet_points import is_point_list

    ids = [scan.scan_id for scan in pool]
    seed = f"seed{params.seed}"
    if params.regime == "1pt":
        return _Drawn(ids, f"{params.per_class}pt-{seed}")
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
            return _Drawn(ids, f"points-{percent}-{params.protocol}-{seed}")
        groups = kind == "group"
        if params.protocol is not None:
            if groups:
                raise UsageError(
                    f"--protocol {params.protocol} draws scans, and --regime {params.regime} draws groups of them",
                    hint=f"leave out --regime: ssl3d split --ratio {percent} --protocol {params.protocol}",
                )
            name = f"{params.regime}-{percent}-{params.protocol}-{seed}"
            if params.limited:
                return _limited(params, pool, points, name)
            return _Drawn(choose_strfd(subsets_of(pool, redundancy), params.ratio, params.seed), name)
        drawn = (
            choose_groups(pool, params.ratio, params.seed) if groups else choose_random(ids, params.ratio, params.seed)
        )
        return _Drawn(drawn, f"{params.regime}-{percent}-{seed}")
    if params.official is not None:
        listed, percent = parse_official(params.official, dataset.spec)
        ids = choose_official(listed, percent, dataset.spec, train, params.allow_missing, params.holdout)
        complete = len(ids) == len(dataset.spec.official_list(listed, percent))
        return _Drawn(ids, f"{listed}-{percent}%" + ("" if complete else f"-{len(ids)}scans"))
    file = params.list_file
    assert file is not None
    name = f"list-{file.stem}"
    if is_point_list(file.expanduser()):
        rows = choose_points(file, dataset.scans, params.holdout, params.allow_missing)
        return _Drawn(list(rows), name, points=rows)
    return _Drawn(choose_listed(file, dataset.scans, params.holdout, params.allow_missing), name)


def _limited(params: SplitParams, pool: Sequence[ScanRef], points: int, name: str) -> _Drawn:
    assert params.ratio is not None
    by_id = {scan.scan_id: scan for scan in pool}
    order = [by_id[scan_id] for scan_id in seeded_order(list(by_id), params.seed)]
    target = max(1, round(Fraction(params.ratio) * points))
    whole, rest = choose_limited([scan.num_points for scan in order], target)
    cut = Cut(order[whole].scan_id, rest, order[whole].num_points) if rest else None
    return _Drawn([scan.scan_id for scan in order[: whole + (cut is not None)]], name, cut)
