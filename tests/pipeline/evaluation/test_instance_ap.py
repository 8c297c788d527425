"""Against the worked numbers of the specification, and a slow reference with sets and loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from ssl3d.data.scan import IGNORE
from ssl3d.models.prediction import Instances
from ssl3d.pipeline.evaluation.instance_ap import (
    OVERLAPS,
    SCANNET_CLASSES,
    InstanceAP,
    InstanceScores,
    average_precision,
)

Scene = tuple[Instances, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]


def made(masks: Sequence[Sequence[int]], label: Sequence[int], score: Sequence[float]) -> Instances:
    """From row lists."""
    instance = np.array([k for k, mask in enumerate(masks) for _ in mask], np.int64)
    point = np.array([row for mask in masks for row in mask], np.int64)
    return Instances(point, instance, np.array(label, np.uint8), np.array(score, np.float32))


def truth(n: int, *parts: tuple[range, int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """(rows, class, number) of each part; the rest has no label."""
    label, instance = np.full(n, IGNORE, np.uint8), np.zeros(n, np.uint32)
    for rows, c, number in parts:
        label[rows], instance[rows] = c, number
    return label, instance


def scored(*scenes: Scene, classes: Sequence[int] = (5,), min_points: int = 100) -> InstanceScores:
    collected = InstanceAP(classes, min_points=min_points)
    for scene in scenes:
        collected.add(*scene)
    return collected.scores()


def slow_ap(scenes: Sequence[Scene], classes: Sequence[int], c: int, overlap: float, least: int) -> float:
    """The specification, sentence by sentence, with sets of rows."""
    found: list[tuple[float, bool]] = []
    missed = 0
    has_target = has_prediction = False
    for predicted, label, instance in scenes:
        truths: dict[int, set[int]] = {}
        ignored = set()
        for row in range(len(label)):
            if label[row] not in classes or instance[row] == 0:
                ignored.add(row)
            elif label[row] == c:
                truths.setdefault(int(instance[row]), set()).add(row)
        masks = [(set(predicted.points_of(k).tolist()), float(predicted.score[k]))
                 for k in range(len(predicted)) if predicted.label[k] == c]  # fmt: skip
        masks = [(mask, confidence) for mask, confidence in masks if len(mask) >= least]
        has_prediction |= bool(masks)
        used = [False] * len(masks)
        for number in sorted(truths):
            target = truths[number]
            if len(target) < least:
                continue
            has_target = True
            kept: float | None = None
            for k, (mask, confidence) in enumerate(masks):
                if used[k] or not len(mask & target) / len(mask | target) > overlap:
                    continue
                if kept is None:
                    kept = confidence
                    used[k] = True
                else:
                    found.append((min(kept, confidence), False))
                    kept = max(kept, confidence)
            if kept is None:
                missed += 1
            else:
                found.append((kept, True))
        for mask, confidence in masks:
            if any(len(mask & target) / len(mask | target) > overlap for target in truths.values()):
                continue
            excused = len(mask & ignored)
            for target in truths.values():
                if len(target) < least:
                    excused += len(mask & target)
            if excused / len(mask) <= overlap:
                found.append((confidence, False))
    if not has_target:
        return math.nan
    if not has_prediction:
        return 0.0
    precision, recall = [], []
    for cut in sorted({confidence for confidence, _ in found}):
        tp = sum(right and confidence >= cut for confidence, right in found)
        fp = sum(not right and confidence >= cut for confidence, right in found)
        fn = sum(right and confidence < cut for confidence, right in found) + missed
        precision.append(tp / (tp + fp))
        recall.append(tp / (tp + fn))
    precision.append(1.0)
    recall.append(0.0)
    padded = [recall[0], *recall, 0.0]
    return sum(p * (padded[k] - padded[k + 2]) / 2 for k, p in enumerate(precision))


def random_scene(rng: np.random.Generator, classes: Sequence[int]) -> Scene:
    """Neighboring true instances of 1..20 rows; predictions are pieces of them, spoiled, doubled, or anywhere."""
    sizes = rng.integers(1, 21, rng.integers(0, 9))
    n = int(sizes.sum()) + int(rng.integers(1, 12))
    label, instance = np.full(n, IGNORE, np.uint8), np.zeros(n, np.uint32)
    bounds = [0, *np.cumsum(sizes).tolist()]
    numbers = rng.permutation(40)[: len(sizes)]  # 0 among them: a part without an instance
    for start, stop, number in zip(bounds, bounds[1:], numbers, strict=False):
        label[start:stop], instance[start:stop] = rng.choice([*classes, 9, IGNORE]), number
    masks = []
    for _ in range(rng.integers(0, 14)):
        start = int(rng.choice(bounds)) + int(rng.integers(-2, 3))
        rows = np.arange(max(start, 0), min(start + int(rng.integers(0, 24)), n))
        masks.append(rows[rng.random(len(rows)) < rng.choice([0.7, 0.95, 1])].tolist())
    masks += masks[: rng.integers(0, 3)]  # duplicates
    kinds = rng.choice([*classes, classes[0], 9], len(masks))
    for k, mask in enumerate(masks):
        if mask and label[mask[0]] != IGNORE and rng.random() < 0.7:
            kinds[k] = label[mask[0]]
    return made(masks, kinds.tolist(), (rng.integers(1, 5, len(masks)) / 4).tolist()), label, instance  # ties


@pytest.mark.parametrize("seed", range(60))
def test_random_scenes_score_as_in_the_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = (3, 1, 4)
    scenes = [random_scene(rng, classes) for _ in range(rng.integers(1, 5))]
    scores = scored(*scenes, classes=classes, min_points=4)
    slow = [[slow_ap(scenes, classes, c, overlap, 4) for overlap in (*OVERLAPS, 0.25)] for c in classes]
    assert scores.ap == pytest.approx(tuple(np.mean(values[:-1]) for values in slow), nan_ok=True, abs=1e-12)
    assert scores.ap50 == pytest.approx(tuple(values[0] for values in slow), nan_ok=True, abs=1e-12)
    assert scores.ap25 == pytest.approx(tuple(values[-1] for values in slow), nan_ok=True, abs=1e-12)
    known = [values for values in slow if not math.isnan(values[0])]
    assert scores.mean_ap == pytest.approx(np.mean([v[:-1] for v in known]) if known else math.nan, nan_ok=True)


def test_the_random_scenes_are_not_trivial() -> None:
    """Else the comparison above would show nothing."""
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scenes = [random_scene(rng, (3, 1, 4)) for _ in range(rng.integers(1, 5))]
        found = scored(*scenes, classes=(3, 1, 4), min_points=4)
        values += [*found.ap50, *found.ap25]
    inside = [value for value in values if 0 < value < 1]
    assert len(inside) > 60 and any(map(math.isnan, values)) and 0.0 in values


def test_the_overlaps_are_nine_and_those_of_the_script() -> None:
    assert pytest.approx([0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90]) == OVERLAPS
    assert len(OVERLAPS) == 9
    assert OVERLAPS[2] == 0.6000000000000001
    assert len(SCANNET_CLASSES) == 18


@pytest.mark.parametrize(
    ("true", "false", "missed", "expected"),
    [
        ((0.9, 0.7), (0.8,), 0, (2 / 3 + 1 / 2 + 1 + 1) / 4),
        ((0.9,), (0.8,), 1, 0.5),
        ((0.9, 0.8), (), 0, 1),
        ((), (0.9,), 1, 0),
        ((), (), 3, 0),
        ((0.5,), (0.5,), 0, 0.5 * (1 - 0) / 2 + (1 - 0) / 2),  # one cut for both
    ],
)
def test_the_curve(true: Sequence[float], false: Sequence[float], missed: int, expected: float) -> None:
    assert average_precision(true, false, missed) == pytest.approx(expected, abs=1e-12)


A, B, SMALL = (range(0, 200), 5, 1), (range(200, 400), 5, 2), (range(400, 450), 5, 3)


def test_worked_example_of_the_whole_protocol() -> None:
    masks = [range(0, 184), range(200, 336), range(350, 480), range(600, 720)]
    predicted = made(masks, [5] * 4, [0.9, 0.8, 0.7, 0.6])
    scores = scored((predicted, *truth(1000, A, B, SMALL)))
    assert scores.ap == pytest.approx((0.722222,), abs=1e-6)
    assert (scores.ap50, scores.ap25, scores.targets) == ((1.0,), (1.0,), (2,))
    assert (scores.mean_ap, scores.mean_ap50, scores.mean_ap25) == (scores.ap[0], 1.0, 1.0)


def test_worked_example_of_duplicates() -> None:
    predicted = made([range(0, 184), range(0, 190)], [5, 5], [0.5, 0.9])
    assert scored((predicted, *truth(1000, A, B, SMALL))).ap50 == pytest.approx((0.5,))


def test_a_further_match_may_still_be_taken_by_another_instance() -> None:
    """At 0.25 the second prediction doubles A first, and B takes it nevertheless: two true, one false."""
    predicted = made([range(0, 150), range(100, 300)], [5, 5], [0.9, 0.6])
    first, second = (range(0, 200), 5, 1), (range(200, 300), 5, 2)
    scores = scored((predicted, *truth(400, first, second)))
    # confidences .9 true, .6 true and false: precision 2/3, 1, 1 and recall 1, 1/2, 0
    assert scores.ap25 == pytest.approx((2 / 3 * 0.25 + 1 * 0.5 + 1 * 0.25,))


def test_no_prediction_no_target_and_dropped_predictions() -> None:
    label, instance = truth(600, (range(0, 200), 2, 1), (range(200, 300), 3, 2), (range(300, 350), 4, 3))
    nothing = made([], [], [])
    scores = scored((nothing, label, instance), classes=(2, 3, 4, 7))
    assert scores.ap50 == pytest.approx((0, 0, math.nan, math.nan), nan_ok=True)  # 4 is too small to be a target
    assert scores.targets == (1, 1, 0, 0)
    assert scores.mean_ap == 0
    small = made([range(0, 99), range(0, 200)], [2, 8], [1, 1])  # 99 points; a class without instances
    assert scored((small, label, instance), classes=(2,)).ap25 == (0.0,)
    hundred = made([range(0, 100), range(200, 300)], [2, 3], [1, 1])
    assert scored((hundred, label, instance), classes=(2, 3)).ap25 == (1.0, 1.0)
    empty = scored((nothing, np.zeros(0, np.uint8), np.zeros(0, np.uint32)))
    assert math.isnan(empty.mean_ap) and math.isnan(InstanceAP().scores().mean_ap25)


def test_an_overlap_has_to_be_above_the_threshold() -> None:
    target = truth(300, (range(0, 200), 5, 1))
    assert scored((made([range(0, 100)], [5], [1]), *target)).ap50 == (0.0,)
    assert scored((made([range(0, 101)], [5], [1]), *target)).ap50 == (1.0,)


def test_points_without_an_evaluated_instance_excuse_a_prediction_and_those_of_other_classes_do_not() -> None:
    target, mask = (range(0, 200), 5, 1), range(200, 400)
    both = made([range(0, 200), mask], [5, 5], [0.5, 0.9])
    false = 1 / 4  # precision 1/2, 0, 1 and recall 1, 0, 0
    for part, expected in (
        ((mask, 6, 7), false),  # an instance of another evaluated class
        ((mask, 0, 7), 1.0),  # a class that is not evaluated: wall
        ((mask, 5, 0), 1.0),  # a group
        ((range(200, 299), 6, 7), 1.0),  # 101 of 200 ignored
        ((range(200, 300), 6, 7), false),  # 100 of 200: not more than the overlap
        ((range(200, 299), 5, 7), 1.0),  # 99 on a small one, the rest without a label
    ):
        found = scored((both, *truth(400, target, part)), classes=(5, 6))
        assert found.ap50[0] == pytest.approx(expected), part


def test_equal_confidences_are_one_cut_whatever_their_order() -> None:
    target = truth(500, (range(0, 200), 5, 1), (range(200, 500), 6, 2))
    masks = [range(0, 200), range(200, 400)]
    one = scored((made(masks, [5, 5], [0.5, 0.5]), *target), classes=(5, 6))
    other = scored((made(masks[::-1], [5, 5], [0.5, 0.5]), *target), classes=(5, 6))
    assert one.ap50[0] == other.ap50[0] == pytest.approx(0.75)
    assert one.ap50[1] == 0


def test_one_number_in_two_classes_is_two_instances_and_scans_are_apart() -> None:
    label, instance = truth(400, (range(0, 200), 5, 1), (range(200, 400), 6, 1))
    predicted = made([range(0, 200), range(200, 400)], [5, 6], [1, 1])
    assert scored((predicted, label, instance), classes=(5, 6)).ap == (1.0, 1.0)
    half = made([range(0, 200)], [5], [1])
    both = scored((half, label, instance), (made([], [], []), label, instance), classes=(5, 6))
    assert both.ap50 == (0.5, 0.0)
    assert both.targets == (2, 2)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, np.uint64])
def test_numbers_of_any_integer_type(dtype: type[np.generic]) -> None:
    label, instance = truth(400, A, (range(200, 400), 5, 40_000))
    predicted = made([range(200, 400)], [5], [1])
    assert scored((predicted, label, instance.astype(dtype))).ap50 == (0.5,)


def test_what_is_no_scan_is_an_error() -> None:
    label, instance = truth(10, (range(0, 5), 5, 1))
    one = made([[0, 9]], [5], [1])
    collected = InstanceAP((5,))
    for wrong, why in (
        ((one, label[:9], instance), r"not \(n,\) each"),
        ((one, label.astype(np.int64), instance), r"not \(n,\) each"),
        ((one, label, instance.astype(np.float32)), "integers"),
        ((one, label, instance.astype(np.int64) - 1), "integers"),
        ((one, label, instance.astype(np.int64) << 33), "integers"),
        ((one, label[:9], instance[:9]), "point 9"),
    ):
        with pytest.raises(ValueError, match=why):
            collected.add(*wrong)  # type: ignore[arg-type]
    for classes in ((), (5, 5), (IGNORE,), (-1,)):
        with pytest.raises(ValueError, match="classes"):
            InstanceAP(classes)
    with pytest.raises(ValueError, match="min_points"):
        InstanceAP((5,), min_points=0)
