"""Each protocol against the arithmetic of its official script, written again here from raw ids, point by point."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from rich.console import Console

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.evaluation.confusion import Confusion, classes_of
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS, S3DIS_AREAS, protocol_of, score, six_fold
from ssl3d.pipeline.evaluation.report import Report
from ssl3d.pipeline.evaluation.result import EvalResult

MakeResult = Callable[..., EvalResult]
NYU40 = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
POSS = tuple(range(1, 14))


def counted(prediction: Sequence[int], truth: Sequence[int], valid: Sequence[int]) -> Confusion:
    """From original ids."""
    confusion = Confusion(len(valid))
    confusion.add(classes_of(np.array(prediction), valid), classes_of(np.array(truth), valid))
    return confusion


def matrix(rows: Sequence[Sequence[int]]) -> Confusion:
    """From counts[truth][prediction], as most scripts print them."""
    confusion = Confusion(len(rows))
    confusion.counts[:-1] = np.array(rows).T
    return confusion


def drawn_ids(rng: np.random.Generator, ids: Sequence[int], count: int = 300) -> tuple[list[int], list[int]]:
    """(prediction, truth), about half of them right; some ids occur in neither."""
    some = rng.choice(ids, max(2, len(ids) * 2 // 3), replace=False)
    truth = rng.choice(some, count)
    return np.where(rng.random(count) < 0.5, truth, rng.choice(some, count)).tolist(), truth.tolist()


def test_original_ids_become_classes_and_every_other_id_ignored() -> None:
    found = classes_of(np.array([39, 1, 0, 13, 22, 40, 50, 149, -100, 2]), NYU40)
    assert found.dtype == np.uint8
    assert found.tolist() == [19, 0, *[IGNORE] * 7, 1]


@pytest.mark.parametrize("seed", range(20))
def test_scannet_is_the_official_script(seed: int) -> None:
    """Truth outside the 20 ids is skipped; a prediction outside them is a miss, and false for nobody."""
    ids = [*NYU40, 0, 13, 22, 40, 50, 149]
    prediction, truth = drawn_ids(np.random.default_rng(seed), ids)
    cells = Counter((t, p if p in NYU40 else "unknown") for p, t in zip(prediction, truth, strict=True) if t in NYU40)
    expected = []
    for c in NYU40:
        tp = cells[c, c]
        fn = sum(count for (t, _), count in cells.items() if t == c) - tp
        fp = sum(count for (t, p), count in cells.items() if p == c and t != c)
        expected.append(tp / (tp + fp + fn) if tp + fp + fn else math.nan)
    scores = score(counted(prediction, truth, NYU40), "scannet")
    assert scores.iou == pytest.approx(tuple(expected), nan_ok=True, rel=1e-14)
    assert scores.miou == pytest.approx(float(np.nanmean(expected)))
    assert scores.protocol == "scannet"


@pytest.mark.parametrize("seed", range(20))
def test_nuscenes_is_the_devkit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = drawn_ids(rng, range(1, 17))
    truth = np.where(rng.random(300) < 0.3, 0, truth).tolist()  # 28% of the points are the car itself
    cells = np.zeros((17, 17), np.int64)
    for p, t in zip(prediction, truth, strict=True):
        cells[t, p] += 1
    cells[0] = cells[:, 0] = 0
    right = np.diagonal(cells)
    with np.errstate(invalid="ignore"):
        iou = right / (cells.sum(1) + cells.sum(0) - right).astype(np.float32)
    scores = score(counted(prediction, truth, range(1, 17)), "nuscenes")
    np.testing.assert_array_equal(scores.iou, iou[1:])
    assert math.isnan(iou[0]) and np.isnan(iou[1:]).any()
    assert scores.miou == pytest.approx(float(np.nanmean(iou)), rel=1e-14)
    assert scores.others == pytest.approx((float(np.nansum(cells.sum(1) * iou) / cells.sum()),), rel=1e-14)


def test_nuscenes_by_hand() -> None:
    scores = score(matrix([[6, 2, 0], [0, 2, 0], [0, 0, 0]]), "nuscenes")
    assert scores.iou == pytest.approx((6 / 8, 2 / 4, math.nan), nan_ok=True)
    assert (scores.miou, scores.others[0]) == pytest.approx((5 / 8, (8 * 6 / 8 + 2 * 2 / 4) / 10))
    assert scores.accuracy == scores.overall_accuracy == 0.8
    false_only = score(matrix([[6, 0, 2], [0, 2, 0], [0, 0, 0]]), "nuscenes")
    assert false_only.iou[2] == 0  # predicted somewhere: in the mean
    assert false_only.miou == pytest.approx((6 / 8 + 1 + 0) / 3)


def test_nuscenes_rounds_unions_as_the_devkit_does() -> None:
    points = (1 << 24) + 1
    assert score(matrix([[points]]), "nuscenes").iou[0] == points / float(1 << 24)


def test_nuscenes_refuses_points_predicted_as_ignored(make_result: MakeResult) -> None:
    refused = counted([1, 0, 0], [1, 2, 0], (1, 2))
    with pytest.raises(DataError, match=r"1 points are predicted as ignored.*--protocol nanmean"):
        score(refused, "nuscenes")
    result = make_result("a", confusion=refused, classes=("a", "b"), colors=("#000000", "#ffffff"), tail=())
    with pytest.raises(DataError, match="run: a;"):
        Report([result], ["nuscenes"])
    assert score(counted([1, 0], [1, 0], (1, 2)), "nuscenes").miou == 1  # no truth: not counted


def test_s3dis_by_hand() -> None:
    confusion = matrix([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    for name in ("s3dis-area5", "s3dis-6fold"):
        scores = score(confusion, name)
        assert scores.protocol == name
        assert scores.iou == pytest.approx((6 / 9, 3 / 6, 0))
        assert scores.miou == pytest.approx((6 / 9 + 3 / 6) / 3)
        assert scores.others == pytest.approx(((6 / 8 + 3 / 4) / 3,))
        assert scores.overall_accuracy == scores.accuracy == pytest.approx(9 / 12)


def test_s3dis_false_positives_of_an_absent_class_and_ignored_predictions() -> None:
    confusion = matrix([[4, 0, 2], [0, 4, 0], [0, 0, 0]])
    confusion.counts[-1] = (2, 0, 0)
    scores = score(confusion, "s3dis-area5")
    assert scores.iou == pytest.approx((4 / 8, 1, 0))
    assert scores.others == pytest.approx(((4 / 8 + 1 + 0) / 3,))
    assert scores.overall_accuracy == pytest.approx(8 / 12)


def test_six_folds_are_summed_before_they_are_scored() -> None:
    areas = {area: matrix([[10, 0], [0, 1]]) for area in S3DIS_AREAS}
    areas["Area_5"] = matrix([[0, 100], [0, 0]])
    total = six_fold(areas)
    assert total.points == 5 * 11 + 100
    assert areas["Area_1"].points == 11  # untouched
    whole = score(total, "s3dis-6fold")
    assert whole.iou == pytest.approx((50 / 150, 5 / 105))
    average = np.mean([score(area, "s3dis-area5").miou for area in areas.values()])
    assert abs(whole.miou - float(average)) > 0.5


def test_six_folds_are_the_six_areas() -> None:
    areas = {area: matrix([[1]]) for area in S3DIS_AREAS[:-1]}
    with pytest.raises(UsageError, match=r"missing: Area_6; unknown: none"):
        six_fold(areas)
    with pytest.raises(UsageError, match=r"missing: Area_6; unknown: area_6"):
        six_fold({**areas, "area_6": matrix([[1]])})


def test_semantic3d_by_hand() -> None:
    """Truth 0 carries none; a point predicted as 0 is a miss; OA = trace / sum."""
    confusion = counted([1, 1, 2, 0, 8], [1, 2, 2, 2, 0], range(1, 9))
    scores = score(confusion, "semantic3d")
    assert scores.iou[:2] == pytest.approx((1 / 2, 1 / 3))
    assert all(math.isnan(value) for value in scores.iou[2:])
    assert scores.miou == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert scores.overall_accuracy == scores.accuracy == pytest.approx(2 / 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [13, 12, 11])
@pytest.mark.parametrize("name", ["semanticposs-val02", "semanticposs-val03", "semanticposs-coarse3d"])
def test_semanticposs_is_the_kitti_evaluator_with_as_many_classes(name: str, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = drawn_ids(rng, range(classes + 1))
    cells = np.zeros((classes + 1, classes + 1))  # [prediction, truth]
    for p, t in zip(prediction, truth, strict=True):
        cells[p, t] += 1
    cells[:, 0] = 0
    correct = float(np.trace(cells[1:, 1:]) / cells.sum())
    if name.endswith("coarse3d"):
        cells[0] = 0
    tp = np.diagonal(cells)
    fp, fn = cells.sum(1) - tp, cells.sum(0) - tp
    iou = tp / (tp + fp + fn + 1e-15)
    scores = score(counted(prediction, truth, range(1, classes + 1)), name)
    assert scores.iou == pytest.approx(tuple(iou[1:]), rel=1e-14)
    assert scores.miou == pytest.approx(float(iou[1:].mean()))
    assert scores.accuracy == pytest.approx(float(tp[1:].sum() / (tp[1:].sum() + fp[1:].sum())))
    assert scores.overall_accuracy == pytest.approx(correct)


def test_both_semanticposs_conventions_count_a_missing_class_as_zero() -> None:
    confusion = counted([1, 2], [1, 2], POSS)
    for name in ("semanticposs-val02", "semanticposs-val03"):
        assert score(confusion, name).miou == pytest.approx(2 / 13)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "nuscenes"])
def test_a_prediction_that_is_all_ignored_scores_nothing(name: str) -> None:
    scores = score(counted([0, 0, 0], [1, 2, 2], (1, 2)), name)
    assert (scores.miou, scores.accuracy, scores.overall_accuracy) == (0, 0, 0)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_points_at_all(name: str) -> None:
    scores = score(Confusion(3), name)
    assert scores.miou == 0 or math.isnan(scores.miou)
    assert math.isnan(scores.miou) == (PROTOCOLS[name].absent != "counts as 0")
    assert len(scores.others) == len(PROTOCOLS[name].others)


@pytest.mark.parametrize(
    ("dataset", "held", "expected"),
    [
        ("semantickitti", ["08"], "semantickitti"),
        ("nuscenes", ["scene-0003", "scene-0012"], "nuscenes"),
        ("scannet", [], "scannet"),
        ("s3dis", ["Area_5"], "s3dis-area5"),
        ("s3dis", [*reversed(S3DIS_AREAS)], "s3dis-6fold"),
        ("s3dis", ["Area_1"], "s3dis-area1"),
        ("s3dis", ["Area_1", "Area_2"], "nanmean"),
        ("semantic3d", ["bildstein_station3", "sg27_station2"], "semantic3d"),
        ("semanticposs", ["02"], "semanticposs-val02"),
        ("semanticposs", ["03"], "semanticposs-val03"),
        ("semanticposs", ["02", "03"], "nanmean"),
        ("my-own", ["a"], "nanmean"),
        ("", [], "nanmean"),
    ],
)
def test_the_protocol_of_a_dataset_says_what_was_held_out(dataset: str, held: list[str], expected: str) -> None:
    assert protocol_of(dataset, held) == expected


def test_columns_that_only_one_protocol_has(make_result: MakeResult) -> None:
    result = make_result("a", (900, 500, 100))
    report = Report([result], ["nuscenes", "s3dis-area5", "nanmean"])
    runs = json.loads(report.json())["runs"]
    fw = 100 * score(result.confusion, "nuscenes").others[0]
    assert [(run.get("fwiou"), run.get("macc")) for run in runs] == [
        (pytest.approx(fw), None),
        (None, pytest.approx(50)),
        (None, None),
    ]
    assert [list(run["iou"]) for run in runs] == [["car", "other-vehicle", "traffic-sign"]] * 3
    assert [run["iou"]["car"] for run in runs] == [pytest.approx(100 * 900 / 1900)] * 3
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    assert [(line["fwiou"] != "", line["macc"] != "") for line in lines] == [(True, False), (False, True), (False,) * 2]
    assert float(lines[0]["fwiou"]) == pytest.approx(fw)
    assert float(lines[0]["iou:traffic-sign"]) == pytest.approx(100 * 100 / 1500)
    assert "| Protocol | mIoU | Acc | OA | fwIoU | car |" in report.markdown()
    assert "| Protocol | mIoU | Acc | OA | mAcc | car |" in report.markdown()
    assert "| Protocol | mIoU | Acc | OA | car |" in report.markdown()
    assert "<th>fwIoU</th>" in report.html() and "mAcc = mean recall" in report.html()
    assert " & fwIoU & " in report.latex()
    for width in (60, 240):
        paper = Console(width=width, file=io.StringIO())
        paper.print(report.table(width))
        text = paper.file.getvalue()  # type: ignore[attr-defined]
        assert "fwIoU" in text and "mAcc" in text and f"{fw:.1f}" in text
