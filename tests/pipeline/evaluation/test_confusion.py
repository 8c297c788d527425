from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE
from ssl3d.pipeline.evaluation.confusion import Confusion
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS, score

BOTH = ("semantickitti", "nanmean")


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def confusion_of(prediction: np.ndarray, truth: np.ndarray, classes: int) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(prediction, truth)
    return confusion


@pytest.mark.parametrize("ignored_prediction", [0, 1, 2, IGNORE])
def test_worked_numbers_of_the_supervised_specification(ignored_prediction: int) -> None:
    """Section 12: truth 0,0,1,1,2,IGN; prediction 0,1,1,1,0,2; the last prediction may be anything."""
    confusion = confusion_of(u8(0, 1, 1, 1, 0, ignored_prediction), u8(0, 0, 1, 1, 2, IGNORE), 3)
    assert confusion.counts[:3].T.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert confusion.counts[3].tolist() == [0, 0, 0]
    assert (confusion.ignored, confusion.points) == (1, 6)
    for protocol in PROTOCOLS:
        scores = score(confusion, protocol)
        assert scores.protocol == protocol
        assert scores.iou == pytest.approx((1 / 3, 2 / 3, 0))
        assert scores.miou == pytest.approx(1 / 3)
        assert (scores.accuracy, scores.overall_accuracy) == pytest.approx((3 / 5, 3 / 5))


def test_absent_class_is_zero_in_one_protocol_and_skipped_in_the_other() -> None:
    confusion = confusion_of(u8(0, 1, 1, 1, 0), u8(0, 0, 1, 1, 1), 4)
    zero, skip = score(confusion, "semantickitti"), score(confusion, "nanmean")
    assert zero.iou == pytest.approx((1 / 3, 2 / 4, 0, 0))
    assert zero.miou == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert skip.iou[:2] == pytest.approx((1 / 3, 2 / 4))
    assert all(math.isnan(value) for value in skip.iou[2:])
    assert skip.miou == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_predicting_ignored_is_a_miss_but_leaves_the_official_accuracy() -> None:
    confusion = confusion_of(u8(0, IGNORE, 1, IGNORE), u8(0, 0, 1, IGNORE), 2)
    for protocol in BOTH:
        assert score(confusion, protocol).iou == pytest.approx((1 / 2, 1))
    assert score(confusion, "semantickitti").accuracy == pytest.approx(1)
    assert score(confusion, "semantickitti").overall_accuracy == pytest.approx(2 / 3)
    assert score(confusion, "nanmean").accuracy == pytest.approx(2 / 3)


def test_nothing_to_score() -> None:
    empty = confusion_of(u8(), u8(), 3)
    assert score(empty, "semantickitti").miou == 0
    assert math.isnan(score(empty, "nanmean").miou)
    assert math.isnan(score(empty, "nanmean").accuracy)


def test_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'semantickitti'"):
        score(Confusion(2), "semantic-kitti")


LABELS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, IGNORE]), st.sampled_from([0, 1, 2, 3, IGNORE])), max_size=60)


@given(LABELS, st.integers(0, 60))
def test_counts_are_those_of_a_loop_and_scans_add_up(pairs: list[tuple[int, int]], cut: int) -> None:
    prediction, truth = u8(*[p for p, _ in pairs]), u8(*[t for _, t in pairs])
    whole = confusion_of(prediction, truth, 4)
    expected = np.zeros((5, 4), int)
    for p, t in pairs:
        if t != IGNORE:
            expected[min(p, 4), t] += 1
    assert np.array_equal(whole.counts, expected)
    assert whole.points == len(pairs)
    parts = confusion_of(prediction[:cut], truth[:cut], 4).merge(confusion_of(prediction[cut:], truth[cut:], 4))
    assert parts == whole
    assert Confusion.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize(("prediction", "truth"), [((4,), (0,)), ((0,), (200,)), ((7,), (IGNORE,))])
def test_an_id_outside_the_classes_is_an_error(prediction: tuple[int, ...], truth: tuple[int, ...]) -> None:
    confusion = Confusion(4)
    with pytest.raises(ValueError, match=r"labels must be 0\.\.3 or 255"):
        confusion.add(u8(*prediction), u8(*truth))
    assert confusion.points == 0


def test_lists_of_other_shapes_or_types_are_errors() -> None:
    confusion = Confusion(4)
    with pytest.raises(ValueError, match="equal lists"):
        confusion.add(u8(0, 1), u8(0))
    with pytest.raises(ValueError, match="uint8"):
        confusion.add(np.zeros(2, np.int64), u8(0, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="merge"):
        confusion.merge(Confusion(5))
    with pytest.raises(ValueError, match="matrix"):
        Confusion.from_json({"counts": [[1, 2], [3, 4]], "ignored": 0})
