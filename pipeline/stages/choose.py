"""Which scans of the train subset show their labels: at random, by a published list, or by the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.text import nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl3d.data.spec import DatasetSpec
    from ssl3d.pipeline.dataset import ScanRef

_OFFICIAL = re.compile(r"(?P<name>[a-z][a-z0-9]*?)[\s:_-]*(?P<percent>\d+(\.\d+)?)\s*(%|pct|percent)?", re.IGNORECASE)
_SMALLEST = Decimal("0.0000001")


def parse_ratio(value: object) -> str:
    """``0.01``, ``"1%"`` or ``"10 %"`` -> the exact decimal as text (``"0.01"``). UsageError outside 0 < ratio <= 1."""
    text = str(value).strip()
    percent = text.endswith("%")
    try:
        number = Decimal(text.rstrip("%").strip()) / (100 if percent else 1)
    except InvalidOperation:
        raise UsageError(f"'{value}' is not a ratio", hint="type a share or a percentage: 0.01 or 1%") from None
    if not (number.is_finite() and 0 < number <= 1):
        hint = (
            f"did you mean {text}%?"
            if not percent and number.is_finite() and 1 < number <= 100
            else "above 0% and up to 100%"
        )
        raise UsageError(f"a ratio of {text} is not possible", hint=hint)
    if number < _SMALLEST:
        raise UsageError(f"a ratio of {text} is less than one scan of any dataset", hint=f"{_SMALLEST:f} or more")
    return f"{number.normalize():f}"


def percent_text(ratio: str) -> str:
    """``"0.01"`` -> ``"1%"``."""
    return f"{(Decimal(ratio) * 100).normalize():f}%"


def choose_random(pool: Sequence[str], ratio: str, seed: int) -> list[str]:
    """floor(ratio x n), at least 1, first scans of a seeded permutation: larger ratios contain smaller ones.

    The permutation sorts by a keyed hash of the scan ids, so it is the same on every machine and version of numpy.

    Args:
        pool: scan ids, in any order.
        ratio: exact decimal text (``parse_ratio``); floor(0.1 x 19130) is 1913.
    """
    order = seeded_order(pool, seed)
    return order[: max(1, int(Fraction(ratio) * len(order)))]


def seeded_order(pool: Sequence[str], seed: int) -> list[str]:
    """The scan ids in the order in which they are drawn, whatever theirs was."""
    return sorted(pool, key=lambda scan_id: (xxhash.xxh3_128_digest(f"split {seed} {scan_id}".encode()), scan_id))


def choose_limited(sizes: Sequence[int], target: int) -> tuple[int, int]:
    """WS3D's limited reconstruction: whole scans while they fit; the first that does not is cut.

    Args:
        sizes: points of the scans, in the order in which they are drawn.
        target: points to be labelled.

    Returns:
        How many scans are labelled as a whole, and how many points of the next one (0: it is not cut).
    """
    for number, size in enumerate(sizes):
        if size > target:
            return number, target
        target -= size
    return len(sizes), 0


def parse_official(text: str, spec: DatasetSpec) -> tuple[str, str]:
    """``lasermix-1%``, ``lasermix:1``, ``LaserMix_1pct`` ... -> (``lasermix``, ``1``). UsageError for anything else."""
    known = [f"{name}-{percent}%" for name, family in spec.official.items() for percent in family.lists]
    found = _OFFICIAL.fullmatch(text.strip())
    name, percent = (found["name"].lower(), f"{Decimal(found['percent']).normalize():f}") if found else (text, "")
    if f"{name}-{percent}%" not in known:
        near = nearest(f"{name}-{percent}%", known)
        hint = (f"did you mean {near}? " if near else "") + f"there are: {', '.join(known) or 'none'}"
        raise UsageError(f"there is no published list '{text}' for {spec.title}", hint=hint)
    return name, percent


def choose_official(
    name: str,
    percent: str,
    spec: DatasetSpec,
    scans: Sequence[ScanRef],
    allow_missing: bool,
    holdout: Collection[str] = (),
) -> list[str]:
    """The scans of a published list that are not held out; not being prepared is an error unless ``allow_missing``."""
    wanted = spec.official_list(name, percent)
    listed = _listed_as(spec.official[name].unit)
    by_id = {listed(scan.scan_id): scan for scan in scans if scan.subset == "train" and scan.annotated}
    missing = [scan_id for scan_id in wanted if scan_id not in by_id]
    if len(missing) == len(wanted) or (missing and not allow_missing):
        raise UsageError(
            f"{len(missing)} of the {len(wanted)} scans of {name}-{percent}% are not prepared with labels",
            where={"first missing": ", ".join(missing[:3])},
            hint="published lists need the whole dataset; "
            + ("--allow-missing takes those that are there, or use" if len(missing) < len(wanted) else "use")
            + f" a random split: ssl3d split --ratio {percent}%",
        )
    found = [by_id[scan_id] for scan_id in wanted if scan_id in by_id]
    kept = [scan.scan_id for scan in found if scan.group not in holdout]
    if not kept:
        raise UsageError(
            f"every scan of {name}-{percent}% that is prepared is held out", hint="hold out other groups, or fewer"
        )
    return kept


def _listed_as(unit: str) -> Callable[[str], str]:
    """From a scan id to what published lists of such a unit call the scan."""
    if unit == "sample token":  # <scene>/<token>
        return lambda scan_id: scan_id.rpartition("/")[2]
    if unit == "room":  # Area_1/office_1 is listed as Area_1_office_1
        return lambda scan_id: scan_id.replace("/", "_")
    return lambda scan_id: scan_id


def choose_listed(
    file: Path, scans: Sequence[ScanRef], holdout: Collection[str] = (), allow_missing: bool = False
) -> list[str]:
    """The scans of a text file: a scan (``SS/FFFFFF``) or a whole group (``SS``) a line; ``#`` begins a comment.

    Args:
        holdout: groups that are held out; naming one, or a scan of it, is an error.
        allow_missing: scans that are not prepared are left out.

    Raises:
        UsageError: the file cannot be read.
        DataError: a line is wrong (named), or there is none.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the list of scans cannot be read",
            where={"file": file, "reason": getattr(error, "strerror", None) or "not a text file in UTF-8"},
            hint="after --list: a text file with one scan a line, as 00/000123, or an .npz with the rows of points "
            "that are labelled, an array for each scan",
        ) from error
    by_name: dict[str, list[ScanRef]] = {}
    for scan in scans:
        by_name[scan.scan_id] = [scan]
        if scan.group != scan.scan_id:
            by_name.setdefault(scan.group, []).append(scan)
    shapes = {_shape(other) for other in by_name} if allow_missing else set()
    example = scans[0].scan_id if scans else "00/000123"
    group = f"or a whole group: {scans[0].group}" if scans else ""
    chosen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.split("#", 1)[0].strip()
        if not name:
            continue
        if allow_missing and name not in by_name and _shape(name) in shapes:
            continue
        if problem := _listed_problem(name, by_name, chosen, holdout):
            missing = "; --allow-missing leaves out scans that are not prepared" if name not in by_name else ""
            raise DataError(
                f"line {number}: {problem}",
                where={"file": file, "line": number, "scan": name},
                hint=f"one scan of the train subset a line: {example}; {group}{missing}",
            )
        chosen |= {scan.scan_id: number for scan in by_name[name] if scan.annotated}
    if not chosen:
        raise DataError("the list of scans is empty", where={"file": file}, hint=f"one scan a line: {example}")
    return list(chosen)


def choose_points(
    file: Path, scans: Sequence[ScanRef], holdout: Collection[str] = (), allow_missing: bool = False
) -> dict[str, npt.NDArray[np.int64]]:
    """Scan -> rows of its labelled points, of a file that says so (see ``read_limited_points``).

    Raises:
        DataError: the file is damaged, or names a scan or a point that is not there, or may not be labelled.
    """
    from ssl3d.data.datasets.scannet_points import read_limited_points

    by_name = {scan.scan_id: [scan] for scan in scans}
    found, absent = read_limited_points(file.expanduser(), {scan.scan_id: scan.num_points for scan in scans})
    if absent and not allow_missing:
        raise DataError(
            f"{len(absent)} of the {len(absent) + len(found)} scans of the list are not prepared",
            where={"file": file, "first": ", ".join(absent[:5])},
            hint="it is about another dataset, or part of this one was prepared: --allow-missing leaves them out",
        )
    for name in found:
        if problem := _listed_problem(name, by_name, {}, holdout):
            hint = "a list of labelled points names scans of the train subset only"
            raise DataError(f"the list cannot be used: {problem}", where={"file": file, "scan": name}, hint=hint)
    return found


def _listed_problem(
    name: str, by_name: Mapping[str, Sequence[ScanRef]], chosen: Mapping[str, int], holdout: Collection[str]
) -> str:
    members = by_name.get(name)
    if members is None:
        known = {_shape(other) for other in by_name}
        return f"{name} is not among the prepared scans" if _shape(name) in known else f"'{name}' is not a scan id"
    twice = next((scan.scan_id for scan in members if scan.scan_id in chosen), None)
    if twice is not None:
        return f"{twice} is already in line {chosen[twice]}"
    first = members[0]
    if first.subset != "train":
        return f"{name} belongs to the {first.subset} subset, whose labels are not for training"
    if first.group in holdout:
        return f"{name} is held out (--holdout {first.group})"
    return "" if any(scan.annotated for scan in members) else f"{name} has no labels"


def _shape(name: str) -> str:
    """``08/000123`` -> ``00/000000``: ids of one dataset look alike, whatever their numbers."""
    return re.sub(r"\d", "0", name)


def choose_groups(pool: Sequence[ScanRef], ratio: str, seed: int) -> list[str]:
    """All scans of floor(ratio x n), at least 1, of the n groups that the scans of ``pool`` belong to; they nest."""
    groups = set(choose_random(sorted({scan.group for scan in pool}), ratio, seed))
    return [scan.scan_id for scan in pool if scan.group in groups]


def without_holdout(train: Sequence[ScanRef], holdout: Sequence[str], others: Sequence[ScanRef]) -> list[ScanRef]:
    """The train scans outside of the groups ``holdout``.

    Args:
        others: scans of other subsets, to say what a wrong name is.

    Raises:
        UsageError: a group is unknown or of another subset, or nothing remains.
    """
    groups = sorted({scan.group for scan in train})
    for name in holdout:
        if name not in groups:
            subset = next((scan.subset for scan in others if scan.group == name), None)
            raise UsageError(
                f"'{name}' cannot be held out: "
                + (f"it belongs to the {subset} subset" if subset else "no prepared train scan belongs to it"),
                hint=f"groups of the train subset: {', '.join(groups)}",
            )
    kept = [scan for scan in train if scan.group not in holdout]
    if not kept:
        raise UsageError(
            f"--holdout {','.join(holdout)} takes every scan of the train subset",
            hint=f"leave at least one of these in: {', '.join(groups)}",
        )
    return kept
