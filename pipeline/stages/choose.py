"""Which scans of the train subset show their labels: at random, by a published list, or by the user's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from ssl3d.data.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssl3d.data.spec import DatasetSpec
    from ssl3d.pipeline.dataset import ScanRef

_OFFICIAL = re.compile(r"(?P<name>[a-z][a-z0-9]*?)[\s:_-]*(?P<percent>\d+(\.\d+)?)\s*(%|pct|percent)?", re.IGNORECASE)
_SMALLEST = Decimal("0.0000001")
_SCAN_ID = re.compile(r"\d\d/\d{6}")


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
    order = sorted(pool, key=lambda scan_id: (xxhash.xxh3_128_digest(f"split {seed} {scan_id}".encode()), scan_id))
    return order[: max(1, int(Fraction(ratio) * len(order)))]


def parse_official(text: str, spec: DatasetSpec) -> tuple[str, str]:
    """``lasermix-1%``, ``lasermix:1``, ``LaserMix_1pct`` ... -> (``lasermix``, ``1``). UsageError for anything else."""
    found = _OFFICIAL.fullmatch(text.strip())
    if found is None:
        known = [f"{name}-{percent}%" for name, lists in spec.official.items() for percent in lists]
        raise UsageError(f"there is no published list '{text}'", hint=f"there are: {', '.join(known) or 'none'}")
    percent = f"{Decimal(found['percent']).normalize():f}"
    name = found["name"].lower()
    spec.official_list(name, percent)
    return name, percent


def choose_official(
    name: str, percent: str, spec: DatasetSpec, scans: Sequence[ScanRef], allow_missing: bool
) -> list[str]:
    """The scans of a published list; those that are not prepared are an error unless ``allow_missing``."""
    wanted = spec.official_list(name, percent)
    there = {scan.scan_id for scan in scans if scan.subset == "train" and scan.annotated}
    missing = [scan_id for scan_id in wanted if scan_id not in there]
    if len(missing) == len(wanted) or (missing and not allow_missing):
        raise UsageError(
            f"{len(missing)} of the {len(wanted)} scans of {name}-{percent}% are not prepared with labels",
            where={"first missing": ", ".join(missing[:3])},
            hint="published lists need the whole dataset; "
            + ("--allow-missing takes those that are there, or use" if len(missing) < len(wanted) else "use")
            + f" a random split: ssl3d split --ratio {percent}%",
        )
    return [scan_id for scan_id in wanted if scan_id in there]


def choose_listed(file: Path, scans: Sequence[ScanRef]) -> list[str]:
    """The scans of a text file: one ``SS/FFFFFF`` a line; ``#`` begins a comment. DataError names the line."""
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the list of scans cannot be read",
            where={"file": file, "reason": getattr(error, "strerror", None) or "not a text file in UTF-8"},
            hint="after --list: a text file with one scan a line, as 00/000123",
        ) from error
    by_id = {scan.scan_id: scan for scan in scans}
    chosen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        scan_id = line.split("#", 1)[0].strip()
        if not scan_id:
            continue
        if problem := _listed_problem(scan_id, by_id, chosen):
            raise DataError(
                f"line {number}: {problem}",
                where={"file": file, "line": number, "scan": scan_id},
                hint="one scan of the train subset a line, as SEQUENCE/FRAME: 00/000123",
            )
        chosen[scan_id] = number
    if not chosen:
        raise DataError("the list of scans is empty", where={"file": file}, hint="one scan a line: 00/000123")
    return list(chosen)


def _listed_problem(scan_id: str, by_id: dict[str, ScanRef], chosen: dict[str, int]) -> str:
    if not _SCAN_ID.fullmatch(scan_id):
        return f"'{scan_id}' is not a scan id"
    if scan_id in chosen:
        return f"{scan_id} is already in line {chosen[scan_id]}"
    scan = by_id.get(scan_id)
    if scan is None:
        return f"{scan_id} is not among the prepared scans"
    if scan.subset != "train":
        return f"{scan_id} belongs to the {scan.subset} subset, whose labels are not for training"
    return "" if scan.annotated else f"{scan_id} has no labels"
