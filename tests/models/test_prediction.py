from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssl3d.data.scan import IGNORE
from ssl3d.models.prediction import Instances, Prediction, SmoothedVotes, Votes


def instances(point: list[int], instance: list[int], label: list[int], score: list[float]) -> Instances:
    return Instances(
        np.array(point, np.int64), np.array(instance, np.int64), np.array(label, np.uint8), np.array(score, np.float32)
    )


def test_instances_may_overlap_and_leave_points_out() -> None:
    found = instances([3, 0, 1, 1], [1, 0, 0, 1], [4, 7, 2], [0.9, 0.5, 0.1])
    assert len(found) == 3
    masks = found.masks(5)
    assert masks.tolist() == [[True, True, False, False, False], [False, True, False, True, False], [False] * 5]
    assert sorted(found.points_of(1)) == [1, 3]
    assert len(found.points_of(2)) == 0
    again = Instances.from_masks(masks, found.label, found.score)
    assert np.array_equal(again.masks(5), masks)
    assert len(instances([], [], [], []).masks(4)) == 0


def test_instances_follow_their_points_to_rows_repetitions_become_one() -> None:
    found = instances([0, 1, 2, 2], [0, 0, 0, 1], [1, 2], [0.5, 0.5])
    moved = found.moved(np.array([9, 4, 9], np.int64))
    assert sorted(zip(moved.instance.tolist(), moved.point.tolist(), strict=True)) == [(0, 4), (0, 9), (1, 9)]
    assert len(instances([], [], [3], [1.0]).moved(np.empty(0, np.int64))) == 1
    with pytest.raises(ValueError, match="point 2 is not one of 2"):
        found.moved(np.array([9, 4], np.int64))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (([0], [0, 1], [1, 2], [0.5, 0.5]), "no pairs"),
        (([0], [0], [1, 2], [0.5]), "2 labels and 1 scores"),
        (([-1], [0], [1], [0.5]), "point -1"),
        (([0], [1], [1], [0.5]), r"1\.\.1 are not within 0\.\.0"),
        (([0], [-1], [1], [0.5]), "not within"),
        (([0], [0], [IGNORE], [0.5]), "ignore label"),
        (([0], [0], [1], [float("nan")]), "score of instance 0"),
        (([0, 1, 0], [0, 0, 0], [1], [0.5]), "twice"),
    ],
)
def test_instances_that_make_no_sense_are_refused(values: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        instances(*values)


def test_wrong_types_and_lengths_are_named() -> None:
    label = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match=r"label is .* int64, not .* uint8"):
        Prediction(np.zeros(3, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scores is .*float64"):
        Prediction(label, np.zeros((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 features for 3 points"):
        Prediction(label, features=np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="point 3 is not one of 3"):
        Prediction(label, instances=instances([3], [0], [1], [1.0]))
    with pytest.raises(ValueError, match=r"point is .* int32"):
        Instances(np.zeros(1, np.int32), np.zeros(1, np.int64), label[:1], np.ones(1, np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="masks are"):
        Instances.from_masks(np.zeros((2, 3), np.bool_), label[:1], np.ones(1, np.float32))
    whole = Prediction(label, np.zeros((3, 2), np.float32), np.zeros((3, 5), np.float32), instances([2], [0], [1], [1]))
    assert len(whole) == 3


def rows(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_votes_are_the_mean_of_the_passes() -> None:
    votes = Votes(4, 2)
    votes.add(rows(0, 2), torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    votes.add(rows(2, 1), torch.tensor([[0.8, 0.2], [0.0, 1.0]]))
    votes.add(rows(2, 2), torch.tensor([[0.1, 0.9], [0.3, 0.7]]))
    assert votes.seen.tolist() == [True, True, True, False]
    expected = [[0.9, 0.1], [0.0, 1.0], [0.4, 0.6], [0.0, 0.0]]
    torch.testing.assert_close(votes.scores(), torch.tensor(expected))
    assert votes.labels().tolist() == [0, 1, 1, 0]
    assert votes.labels().dtype == torch.uint8


def test_smoothed_votes_forget_and_start_from_nothing() -> None:
    votes = SmoothedVotes(3, 2, smoothing=0.5)
    votes.add(rows(0, 1), torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    votes.add(rows(0), torch.tensor([[0.2, 0.8]]))
    # p = 0.5 * 0.4 + 0.5 * 0.2 = 0.3 of a weight of 0.75
    torch.testing.assert_close(votes.total[0], torch.tensor([0.3, 0.45]))
    torch.testing.assert_close(votes.scores(), torch.tensor([[0.4, 0.6], [0.1, 0.9], [0.0, 0.0]]))
    assert votes.seen.tolist() == [True, True, False]
    assert votes.labels().tolist() == [1, 1, 0]


def test_a_repeated_row_counts_once_in_a_smoothed_pass() -> None:
    votes = SmoothedVotes(2, 2)
    votes.add(rows(1, 1, 0, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [0.5, 0.5]]))
    torch.testing.assert_close(votes.weight, torch.tensor([0.05, 0.05]))
    torch.testing.assert_close(votes.scores(), torch.tensor([[0.3, 0.7], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="below 1"):
        SmoothedVotes(2, 2, smoothing=1.0)
