"""S3DIS's 6-fold scores from six results: which runs make a whole, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ssl3d.data.errors import UsageError
from ssl3d.data.spec import load_spec
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.folds import Fold, summed, whole
from ssl3d.pipeline.evaluation.protocols import S3DIS_AREAS
from ssl3d.pipeline.evaluation.report import Report
from ssl3d.pipeline.evaluation.result import EvalResult

MakeResult = Callable[..., EvalResult]
CLASSES = load_spec("s3dis").classes


def fold(number: int, alike: str = "a", draw: str = "s0", run: str = "") -> Fold:
    return Fold(run or f"run{number}-{alike}-{draw}", (f"Area_{number}",), f"method-{alike}", alike, draw)


def runs(wholes: Sequence[Sequence[Fold]]) -> list[list[str]]:
    return [[item.run for item in folds] for folds in wholes]


def test_six_runs_without_an_area_each() -> None:
    folds = [fold(number) for number in (3, 1, 6, 2, 5, 4)]
    wholes, lacking = whole(folds, "s3dis-6fold")
    assert [[item.held[0] for item in found] for found in wholes] == [list(S3DIS_AREAS)] and not lacking


def test_seeds_may_differ_where_no_area_is_there_twice() -> None:
    folds = [fold(number, draw=f"s{number}") for number in range(1, 7)]
    assert whole(folds, "s3dis-6fold") == ([folds], [])


def test_seeds_and_methods_make_wholes_of_their_own() -> None:
    folds = [fold(n, alike, draw) for n in range(1, 7) for alike, draw in (("a", "s0"), ("a", "s1"), ("b", "s0"))]
    wholes, lacking = whole(folds, "s3dis-6fold")
    wanted = [[f"run{n}-{which}" for n in range(1, 7)] for which in ("a-s0", "a-s1", "b-s0")]
    assert runs(wholes) == wanted and not lacking


@pytest.mark.parametrize(
    ("folds", "why"),
    [
        ([fold(n) for n in (1, 2, 4, 5)], "method-a: no run holds out Area_3, Area_6"),
        ([fold(n, "a" if n < 4 else "b") for n in range(1, 7)], "method-a: no run holds out Area_4, Area_5, Area_6"),
        ([*(fold(n) for n in range(1, 7)), fold(2, run="again")], "Area_2 is held out by run2-a-s0 and again"),
        ([fold(7), *(fold(n) for n in range(1, 6))], "run7-a-s0 held out Area_7, not one of Area_1 .. Area_6"),
        ([Fold("both", ("Area_1", "Area_2"), "m", "a", "s")], "both held out Area_1, Area_2, not one of"),
        ([Fold("none", (), "m", "a", "s")], "none held out nothing, not one of"),
    ],
)
def test_what_makes_no_whole_is_said(folds: list[Fold], why: str) -> None:
    wholes, lacking = whole(folds, "s3dis-6fold")
    assert not wholes and why in "; ".join(lacking)


def six(make_result: MakeResult) -> tuple[list[Fold], list[EvalResult]]:
    """Areas of different sizes and difficulty, counted by a generator."""
    rng = np.random.default_rng(0)
    folds, results = [fold(number) for number in range(1, 7)], []
    for number, item in enumerate(folds, 1):
        confusion = Confusion(13)
        confusion.counts[:] = rng.integers(0, 10**number, confusion.counts.shape)
        facts = {"dataset": "s3dis", "classes": CLASSES, "colors": ("#000000",) * 13, "tail": ("beam",)}
        split = f"scan-10pct-seed0-val-Area_{number}"
        results.append(
            replace(make_result(item.run), **facts, confusion=confusion, held=item.held, scans=number, split=split)
        )
    return folds, results


def test_counts_are_summed_and_scored_once(make_result: MakeResult) -> None:
    folds, results = six(make_result)
    total = summed(folds, results)
    counts = np.sum([result.confusion.counts for result in results], axis=0)  # by prediction, the last row: ignored
    hit, truth, predicted = np.diagonal(counts[:13]), counts.sum(0), counts[:13].sum(1)
    (row,) = json.loads(Report([*results, total], ["s3dis-6fold"]).json())["runs"]
    assert row["miou"] == pytest.approx(100 * np.mean(hit / (truth + predicted - hit)))
    assert row["macc"] == pytest.approx(100 * np.mean(hit / truth))
    assert row["accuracy"] == pytest.approx(100 * hit.sum() / counts.sum())
    mean = 100 * np.mean([result.scores("s3dis-area5").miou for result in results])
    assert abs(row["miou"] - mean) > 0.05  # the mean of six scores is another number
    assert row["folds"] == {f"Area_{n}": f"run{n}-a-s0" for n in range(1, 7)}
    assert total.scans == 21 and total.held == S3DIS_AREAS and total.run == "method-a-6fold"


def test_folds_of_networks_that_differ_are_refused(make_result: MakeResult) -> None:
    folds, results = six(make_result)
    for change in ({"step": 7}, {"weights": "ema"}):
        changed = [*results[:3], replace(results[3], **change), *results[4:]]
        with pytest.raises(UsageError, match=f"differ in their {next(iter(change))}"):
            summed(folds, changed)


def test_an_area_is_reported_under_its_own_name_only(make_result: MakeResult) -> None:
    folds, results = six(make_result)
    report = Report([*results, summed(folds, results)], ["s3dis-area2", "s3dis-area5", "nanmean", "s3dis-6fold"])
    shown = [(row.protocol, row.result.held) for row in report.rows]
    assert shown[:2] == [("s3dis-area2", ("Area_2",)), ("s3dis-area5", ("Area_5",))]
    assert shown[2:] == [*(("nanmean", (area,)) for area in S3DIS_AREAS), ("s3dis-6fold", S3DIS_AREAS)]
    assert len(report.groups) == 9  # scores of different areas are in no table together
    for protocol in ("s3dis-area3", "s3dis-6fold"):
        with pytest.raises(UsageError, match=rf"{protocol} is about Area_.*evaluated on: Area_1"):
            Report(results[:1], [protocol])
    train = replace(results[0], subset="train", held=S3DIS_AREAS[1:])
    assert len(Report([train], ["s3dis-area1"]).rows) == 1  # a check of what was learnt, not of what is held out
