from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.dataset import ScanRef
from ssl3d.pipeline.stages.choose import (
    choose_listed,
    choose_official,
    choose_random,
    parse_official,
    parse_ratio,
    percent_text,
)

SPEC = load_spec("semantickitti")
TRAIN = [
    f"{sequence}/{frame:06d}" for sequence in SPEC.splits["train"] for frame in range(SPEC.scans_per_sequence[sequence])
]


def scan(scan_id: str, annotated: bool = True) -> ScanRef:
    subset = SPEC.subset_of(scan_id[:2])
    assert subset is not None
    return ScanRef(0, scan_id, scan_id[:2], subset, "u", 0, 10, annotated, annotated)


@pytest.mark.parametrize(
    ("typed", "exact", "shown"),
    [
        ("1%", "0.01", "1%"),
        ("10 %", "0.1", "10%"),
        (0.01, "0.01", "1%"),
        ("0.5%", "0.005", "0.5%"),
        ("100%", "1", "100%"),
        (1, "1", "100%"),
        ("1e-2", "0.01", "1%"),
    ],
)
def test_ratios_are_exact(typed: object, exact: str, shown: str) -> None:
    assert parse_ratio(typed) == exact == parse_ratio(exact)
    assert percent_text(exact) == shown


@pytest.mark.parametrize("typed", ["0", "-1%", "101%", "10", "nan", "inf", "many", "", "%"])
def test_impossible_ratios_are_refused(typed: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ratio(typed)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("ratio", "count"), [("1%", 191), ("10%", 1913), ("20%", 3826), ("50%", 9565), ("100%", 19130)]
)
def test_counts_of_the_published_protocol(ratio: str, count: int) -> None:
    assert len(TRAIN) == 19130
    assert len(set(choose_random(TRAIN, parse_ratio(ratio), seed=0))) == count


ratios = st.integers(1, 10000).map(lambda n: parse_ratio(f"{n / 100}%"))


@given(st.integers(1, 200), ratios, ratios, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_smaller_ratios_lie_inside_larger_ones(n: int, one: str, other: str, seed: int, random: object) -> None:
    pool = TRAIN[:n]
    small, large = sorted((one, other), key=Fraction)
    inner, outer = choose_random(pool, small, seed), choose_random(pool[::-1], large, seed)
    assert outer[: len(inner)] == inner
    assert len(inner) == max(1, n * Fraction(small) // 1) and set(outer) <= set(pool)


def test_seeds_differ_and_stay() -> None:
    chosen = [choose_random(TRAIN, "0.01", seed) for seed in (0, 1)]
    assert len(set(chosen[0]) & set(chosen[1])) < 20
    assert chosen[0][:3] == ["05/001628", "00/000782", "01/000669"]  # the same on every machine


@pytest.mark.parametrize("text", ["lasermix-1%", "lasermix:1%", "lasermix-1pct", "LaserMix 1", "lasermix_1.0 percent"])
def test_spellings_of_a_published_list(text: str) -> None:
    assert parse_official(text, SPEC) == ("lasermix", "1")


@pytest.mark.parametrize("text", ["lasermix", "lasermix-3%", "lasermax-1%", "1%", "gpc-1%", ""])
def test_unknown_published_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_official(text, SPEC)
    assert "lasermix-50%, lim3d-1%" in str(caught.value.hint) and "gpc-40%" in str(caught.value.hint)


def test_published_lists_want_all_their_scans() -> None:
    scans = [scan(scan_id) for scan_id in TRAIN]
    assert len(choose_official("lasermix", "10", SPEC, scans, False)) == 1913
    some = scans[:10000]
    with pytest.raises(UsageError, match=r"of the 191 scans of lasermix-1% are not prepared") as caught:
        choose_official("lasermix", "1", SPEC, some, False)
    assert "--allow-missing" in str(caught.value.hint)
    assert 0 < len(choose_official("lasermix", "1", SPEC, some, True)) < 191
    with pytest.raises(UsageError, match="191 of the 191"):
        choose_official("lasermix", "1", SPEC, scans[:1], True)


@pytest.mark.parametrize(("text", "count"), [("gpc-5%", 956), ("lim3d-1%", 191), ("LiM3D 50", 9565), ("gpc:40", 7652)])
def test_every_published_list_of_the_complete_dataset(text: str, count: int) -> None:
    scans = [scan(scan_id) for scan_id in TRAIN]
    chosen = choose_official(*parse_official(text, SPEC), SPEC, scans, False)
    assert len(set(chosen)) == count
    without = choose_official(*parse_official(text, SPEC), SPEC, scans, False, holdout=("07", "02"))
    assert without == [scan_id for scan_id in chosen if scan_id[:2] not in ("07", "02")]


@pytest.mark.parametrize(
    ("dataset", "text", "count", "named"),
    [
        ("nuscenes", "lasermix-1%", 281, "scene-0001/{}"),
        ("s3dis", "gpc-5%", 10, "Area_{}"),
        ("scannet", "gpc-5%", 60, "{}"),
    ],
)
def test_lists_that_call_scans_otherwise(dataset: str, text: str, count: int, named: str) -> None:
    spec = load_spec(dataset)
    name, percent = parse_official(text, spec)
    listed = spec.official_list(name, percent)
    bare = [item.removeprefix("Area_") for item in listed]
    ids = [named.format(item.replace("_", "/", 1) if dataset == "s3dis" else item) for item in bare]
    scans = [ScanRef(0, scan_id, scan_id.partition("/")[0], "train", "u", 0, 10, True, True) for scan_id in ids]
    chosen = choose_official(name, percent, spec, scans[::-1], False)
    assert chosen == ids and len(chosen) == count
    with pytest.raises(UsageError, match=f"1 of the {count} scans") as caught:
        choose_official(name, percent, spec, scans[1:], False)
    assert caught.value.where["first missing"] == listed[0]


SCANS = [scan("00/000000"), scan("00/000001"), scan("01/000000", annotated=False), scan("08/000000"), scan("11/000000")]


def test_a_list_with_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# mine\n\n00/000001  # good\n00/000000\n")
    assert choose_listed(file, SCANS) == ["00/000001", "00/000000"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0/1", "not a scan id"),
        ("00/000007", "not among the prepared"),
        ("00/000000", "already in line 2"),
        ("08/000000", "val subset"),
        ("11/000000", "test subset"),
        ("01/000000", "has no labels"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"#\n00/000000\n\n{line}\n")
    with pytest.raises(DataError, match=f"line 4: .*{message}") as caught:
        choose_listed(file, SCANS)
    assert caught.value.where["line"] == 4


def test_empty_and_missing_lists(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(DataError, match="empty"):
        choose_listed(tmp_path / "empty", SCANS)
    with pytest.raises(UsageError, match="cannot be read"):
        choose_listed(tmp_path / "none", SCANS)
