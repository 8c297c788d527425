from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress, Stored
from ssl3d.models.methods.cbst import (
    BINS,
    CBST,
    PSEUDO,
    CBSTParams,
    Policy,
    bins_of,
    confidences,
    edges,
    pseudo_labels,
    targeted,
    thresholds,
)
from ssl3d.models.prediction import Prediction

CLASSES = 3
SPECIFIED = {
    0: [0.99, 0.95, 0.90, 0.80, 0.70, 0.60, 0.55, 0.50, 0.45, 0.40],
    1: [0.60, 0.50, 0.40],
    2: [0.90],
}


def scores_of(confidence: dict[int, list[float]]) -> NDArray[np.float32]:
    """Scores with these largest values; the rest is shared by the other classes."""
    rows = []
    for label, values in confidence.items():
        for value in values:
            row = np.full(CLASSES, (1 - value) / (CLASSES - 1))
            row[label] = value
            rows.append(row)
    return np.array(rows, np.float32)


def counted(*scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(C, BINS) counts of scans."""
    counts = np.zeros(scores[0].shape[1] * BINS, np.int64)
    for each in scores:
        cells, number = confidences(each, np.ones(len(each), bool))
        counts[cells] += number
    return counts.reshape(-1, BINS)


# ---------------------------------------------------------------- thresholds


@pytest.mark.parametrize(
    ("portion", "expected"), [(0.2, (0.95, 1.0, 1.0)), (0.5, (0.70, 0.60, 1.0)), (1.0, (0.40, 0.40, 0.90))]
)
def test_thresholds_of_the_specification(portion: float, expected: tuple[float, ...]) -> None:
    found = thresholds(counted(scores_of(SPECIFIED)), portion, "cb")
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert (found <= np.float32(expected)).all()  # so that none of the points at the threshold is lost


def test_one_threshold_for_all_classes() -> None:
    counts = counted(scores_of(SPECIFIED))  # .99 .95 .90 .90 ...: of 14 points 2, 7
    assert thresholds(counts, 0.2, "global").tolist() == pytest.approx([0.95] * 3, abs=1e-4)
    assert thresholds(counts, 0.5, "global").tolist() == pytest.approx([0.60] * 3, abs=1e-4)
    assert thresholds(counts, 0.05, "global").tolist() == [1, 1, 1]


def exact(scores: NDArray[np.float32], portion: float, policy: Policy) -> list[float]:
    """The definition, by sorting."""
    classes, predicted, confidence = scores.shape[1], scores.argmax(1), scores.max(1)
    out = []
    for c in range(classes):
        values = sorted(confidence if policy == "global" else confidence[predicted == c], reverse=True)
        place = math.floor(portion * len(values) + 1e-9)
        out.append(float(values[place - 1]) if place else 1.0)
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 400),
    sharpness=st.sampled_from([0.5, 2.0, 8.0, 40.0]),
    portion=st.floats(0.01, 1.0),
    policy=st.sampled_from(["cb", "global"]),
)
def test_histograms_agree_with_sorting(seed: int, count: int, sharpness: float, portion: float, policy: Policy) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(count, 5)) * sharpness).float()
    scores = logits.softmax(1).numpy()
    cut = count // 3
    found = thresholds(counted(scores[:cut], scores[cut:]), portion, policy)
    expected = np.array(exact(scores, portion, policy))
    difference = expected - found
    assert (difference >= 0).all() and (difference <= 1e-4).all()
    assert (difference[expected > 0.99995] == 0).all()


def test_of_points_that_a_network_is_very_sure_of_no_more_than_the_share_is_kept() -> None:
    """Confidences between 0.9999 and 1, as a trained network has of a road."""
    sure = (1 - np.arange(1, 1501) * 2.0**-24).astype(np.float32)
    scores = np.stack([sure, 1 - sure], 1)
    limits = thresholds(counted(scores), 0.2, "cb")
    assert (pseudo_labels(scores, limits) == 0).sum() == 300


def test_shares_that_float64_has_not_exactly() -> None:
    scores = scores_of({0: [0.5 + i / 1000 for i in range(100)]})
    assert thresholds(counted(scores), 0.29, "cb")[0] == pytest.approx(
        0.571, abs=1e-4
    )  # the 29th of them, not the 28th


def test_bins() -> None:
    low = edges()
    assert low.shape == (BINS,) and low.dtype == np.float32 and low[0] == 0 and low[-1] == 1
    assert (np.diff(low) > 0).all() and np.diff(low).max() <= 1e-4
    drawn = np.random.default_rng(0).uniform(0, 1, 5000).astype(np.float32)
    below = np.nextafter(low[1:], np.float32(0))
    for values in (low, below, drawn, 1 - drawn / 1000, 1 - drawn / 20000):
        place = bins_of(torch.from_numpy(values)).numpy()
        assert np.array_equal(place, np.searchsorted(low, values, side="right") - 1)
    assert bins_of(torch.tensor([1.0, 1.0000001])).tolist() == [BINS - 1] * 2  # a sum of votes


def test_nothing_to_count() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]], np.float32)
    cells, number = confidences(scores, np.array([False, True]))
    assert (cells // BINS).tolist() == [1] and number.tolist() == [1]
    for few in (scores, scores[:0]):
        cells, number = confidences(few, np.zeros(len(few), bool))
        assert len(cells) == len(number) == 0
    assert thresholds(np.zeros((3, BINS), np.int64), 0.5, "cb").tolist() == [1, 1, 1]


# ---------------------------------------------------------------- labels

LIMITS = np.array([0.9, 0.3, 0.5], np.float32)


@pytest.mark.parametrize(
    ("p", "expected", "without"),
    [
        ((0.60, 0.35, 0.05), 1, IGNORE),  # the class is no longer the argmax
        ((0.92, 0.05, 0.03), 0, 0),
        ((0.30, 0.40, 0.30), 1, 1),
        ((0.10, 0.28, 0.62), 2, 2),
        ((0.50, 0.20, 0.30), IGNORE, IGNORE),
    ],
)
def test_the_ratio_rule_of_the_specification(p: tuple[float, ...], expected: int, without: int) -> None:
    scores = np.array([p], np.float32)
    assert pseudo_labels(scores, LIMITS).tolist() == [expected]
    assert pseudo_labels(scores, LIMITS, ratio_relabel=False).tolist() == [without]


def random_scores(seed: int, count: int = 200, classes: int = 5) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(3 * rng.normal(size=(count, classes))).float().softmax(1).numpy()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), portion=st.floats(0.05, 0.95))
def test_properties_of_labels(seed: int, portion: float) -> None:
    scores = random_scores(seed)
    counts = counted(scores)
    limits = thresholds(counts, portion, "cb")
    label = pseudo_labels(scores, limits)
    for p, found in zip(scores.tolist(), label.tolist(), strict=True):  # the definition, point by point
        ratio = [value / float(t) for value, t in zip(p, limits, strict=True)]
        best = ratio.index(max(ratio))
        assert found == (best if ratio[best] >= 1 else IGNORE)
    alike = thresholds(counts, portion, "global")
    same = pseudo_labels(scores, alike)
    assert np.array_equal(same, pseudo_labels(scores, alike, ratio_relabel=False))
    assert (same != IGNORE).sum() >= math.floor(portion * len(scores) + 1e-9)
    more = thresholds(counts, min(1.0, portion + 0.05), "cb")
    assert (more <= limits).all()
    assert set(np.flatnonzero(label != IGNORE)) <= set(np.flatnonzero(pseudo_labels(scores, more) != IGNORE))


def test_thresholds_of_one_keep_only_what_is_certain() -> None:
    scores = np.array([[1.0, 0, 0], [0.9999999, 1e-7, 0], [0, 0, 0]], np.float32)
    assert pseudo_labels(scores, np.ones(3, np.float32)).tolist() == [0, IGNORE, IGNORE]


def test_ties_at_the_threshold_are_kept() -> None:
    scores = np.full((10, 2), [0.8, 0.2], np.float32)
    limits = thresholds(counted(scores), 0.2, "cb")
    assert limits.tolist() == pytest.approx([0.8, 1], abs=1e-4)
    assert (pseudo_labels(scores, limits) == 0).all()


# ---------------------------------------------------------------- the method


class PairSpec(InputSpec):
    """An element is a pair of points that follow each other; the network reads the mean of their coordinates."""

    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        elements = ElementMap(torch.arange(count) // 2, (count + 1) // 2)
        xyz = torch.from_numpy(np.concatenate([view.points for view in views]))
        shared["extras"]["xyz"] = elements.gather(elements.reduce(xyz, "mean"))
        return Inputs(elements=elements, **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


class Coordinates(Backbone):
    """Its features are the coordinates, and so are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = CLASSES
        self.input_spec = PairSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.elements.reduce(inputs.extras["xyz"], "mean"), {})

    def head(self, num_classes: int) -> nn.Module:
        layer = nn.Linear(CLASSES, num_classes, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(num_classes, CLASSES))
        return layer


def made(**params: Any) -> CBST:
    return CBST(CBSTParams(**params), lambda: Segmenter(Coordinates(), CLASSES), CLASSES)


def view(
    points: Sequence[Sequence[float]], labels: Sequence[int], scan: int = 0, pseudo: Sequence[int] | None = None
) -> View:
    rows = np.stack([np.full(len(points), scan), np.arange(len(points))], 1)
    extras = {} if pseudo is None else {PSEUDO: np.array(pseudo, np.uint8)}
    return View(np.array(points, np.float32), {}, rows, np.array(labels, np.uint8), extras)


def losses(method: CBST, inputs: Inputs, phase: int) -> dict[str, Tensor]:
    (found,) = method.step({"all": inputs}, Progress(0, 1, phase=phase))
    return found


def nats(logits: Sequence[float], label: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[label]


A, B, C, D = (2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 3.0), (1.0, 1.0, 0.0)


def batch(pseudo: Sequence[int]) -> Inputs:
    """Four elements of two points: the first is labelled, the second half, the others are not."""
    points = [A, A, B, B, C, C, D, D]
    return PairSpec().prepare([view(points, [0, 0, IGNORE, 1, IGNORE, IGNORE, IGNORE, IGNORE], pseudo=pseudo)])


def test_each_term_is_a_mean_over_its_own_elements_and_no_label_is_overwritten() -> None:
    method = made(lambda_target=0.5)
    inputs = batch([2, 2, 2, 0, 2, 2, IGNORE, 1])  # what stands in labelled elements takes no part
    found = losses(method, inputs, phase=1)
    assert float(found["ce"].detach()) == pytest.approx((nats(A, 0) + nats(B, 1)) / 2)
    assert float(found["target"].detach()) == pytest.approx(0.5 * (nats(C, 2) + nats(D, 1)) / 2)
    found["target"].backward()  # type: ignore[no-untyped-call]
    gradient = method.segmenter.head.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 0


def test_the_supervised_stage_has_no_target_term_and_needs_no_pseudo_label() -> None:
    bare = PairSpec().prepare([view([A, A, B, B], [0, 0, IGNORE, IGNORE])])
    assert list(losses(made(), bare, phase=0)) == ["ce"]
    assert list(losses(made(lambda_lov=1), bare, phase=0)) == ["ce", "lovasz"]


def test_no_pseudo_label_in_a_batch_is_an_exact_zero() -> None:
    method = made()
    found = losses(method, batch([IGNORE] * 8), phase=2)
    found["target"].backward()  # type: ignore[no-untyped-call]
    assert float(found["target"].detach()) == 0
    gradient = method.segmenter.head.weight.grad
    assert gradient is not None and not gradient.any()


def test_what_is_logged() -> None:
    method = made()
    losses(method, batch([0, 0, 2, 2, 2, 2, IGNORE, IGNORE]), phase=1)
    assert method.pseudo.take().tolist() == [0, 0, 1, 2]  # one of two unlabelled elements, as class 2
    told = method.measures.describe(method.measures.take())["classes"]
    # D is seen as class 0 (a tie) and has no pseudo label, C as class 2; of the visible labels, 0 is right, 1 is not
    assert told == {"used": [0.0, None, 1.0], "precision": [1.0, None, 0.0]}


def test_views_of_the_stage_and_of_the_rounds() -> None:
    params, augment = CBSTParams(), Augmentation(AugmentParams())
    rng = np.random.default_rng(0)
    known, other = view([A, B], [0, 1]), view([C, D], [IGNORE] * 2, scan=1)
    sizes = {}
    for phase in (0, 1):
        for name, unlabelled in (("scans", [other]), ("points", [])):
            groups = CBST.views(params, [known], unlabelled, augment, rng, phase)
            assert list(groups) == ["all"]
            sizes[phase, name] = [int(each.rows[0, 0]) for each in groups["all"]]
    assert sizes == {(0, "scans"): [0], (0, "points"): [0], (1, "scans"): [0, 1], (1, "points"): [0]}


@pytest.mark.parametrize(
    ("steps", "params", "expected"),
    [
        (3000, {}, [1500, 500, 500, 500]),
        (11, {}, [6, 2, 2, 1]),
        (2, {}, [1, 1]),
        (1, {}, [1]),
        (10, {"supervised_share": 0, "rounds": 2}, [0, 5, 5]),
        (10, {"supervised_share": 0.9, "rounds": 6}, [9, 1]),
    ],
)
def test_phases_share_the_steps(steps: int, params: dict[str, Any], expected: list[int]) -> None:
    phases = made(**params).phases(steps)
    assert [phase.steps for phase in phases] == expected
    assert [phase.lr_scale for phase in phases] == pytest.approx(
        [1, *(2 ** (-r / 2) for r in range(len(expected) - 1))]
    )
    assert [phase.on_enter is None for phase in phases] == [True] + [False] * (len(expected) - 1)


def test_the_portion_grows_to_its_bound() -> None:
    assert [CBSTParams().portion(r) for r in (0, 1, 2, 5, 6, 7)] == pytest.approx([0.2, 0.25, 0.3, 0.45, 0.5, 0.5])
    assert [CBSTParams(q_0=0.7).portion(r) for r in (0, 4)] == [0.7, 0.7]


@pytest.mark.parametrize(
    "bad", [{"q_0": 0}, {"q_0": 1.1}, {"rounds": 0}, {"supervised_share": 1}, {"policy": "all"}, {"lambda_target": -1}]
)
def test_parameters_out_of_bounds_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CBSTParams(**bad)


# ---------------------------------------------------------------- entering a round


@dataclass
class Context:
    """Scans and what a network would say about them, in memory."""

    scans: dict[str, list[tuple[View, Prediction]]]
    progress: Progress
    partial: bool = False
    kept: list[Stored] = field(default_factory=list)

    def predict_train(
        self,
        writer: Any,
        *,
        segmenter: Segmenter | None = None,
        group: str | None = None,
        scores: bool = False,
        features: bool = False,
    ) -> Iterable[tuple[View, Stored]]:
        chosen = [pair for name, pairs in self.scans.items() if group in (None, name) for pair in pairs]
        found = [(scan, writer(scan, prediction)) for scan, prediction in chosen]
        if any(stored.points for _, stored in found):
            self.kept = [stored for _, stored in found]
        return found


def predicted(scores: NDArray[np.float32]) -> Prediction:
    return Prediction(scores.argmax(1).astype(np.uint8), scores)


def entered(partial: bool, hidden: int = IGNORE) -> tuple[CBST, Context]:
    """A labelled scan with a point of no class (or a hidden one), and an unlabelled scan that the network sees, and one
    of which it sees nothing; the second round."""
    target = scores_of(SPECIFIED)
    sure = scores_of({0: [0.97, 0.99], 1: [0.98]})
    points = np.zeros((14, 3)).tolist()
    unseen = Prediction(np.full(2, IGNORE, np.uint8), np.zeros((2, 3), np.float32))
    context = Context(
        {
            "labelled": [(view(points[:3], [0, hidden, 1]), predicted(sure))],
            "unlabelled": [
                (view(points, [IGNORE] * 14, 1), predicted(target)),
                (view(points[:2], [IGNORE] * 2, 2), unseen),
            ],
        },
        Progress(0, 5, phase=2),
        partial,
    )
    method = made(q_0=0.2, dq=0.3)
    on_enter = method.phases(30)[2].on_enter
    assert on_enter is not None
    on_enter(context)
    return method, context


def test_thresholds_come_from_the_target_and_every_scan_is_given_pseudo_labels() -> None:
    method, context = entered(partial=False)
    assert method.thresholds.tolist() == pytest.approx([0.7, 0.6, 1], abs=1e-4)
    labelled, target, unseen = (stored.points[PSEUDO].tolist() for stored in context.kept)
    assert labelled == [0, IGNORE, 1]  # a point of no class keeps none; the others are there to be compared
    assert target == [0] * 5 + [IGNORE] * 5 + [1, IGNORE, IGNORE] + [IGNORE]
    assert unseen == [IGNORE] * 2
    assert all(stored.points[PSEUDO].dtype == np.uint8 for stored in context.kept)


def test_where_a_split_hides_points_these_are_the_target_too() -> None:
    method, context = entered(partial=True)
    # of class 0 there are .99 .99 .95 .90 .80 .70 ... now, 11: the 5th counts
    assert method.thresholds.tolist() == pytest.approx([0.8, 0.6, 1], abs=1e-4)
    assert context.kept[0].points[PSEUDO].tolist() == [0, 0, 1]


def test_targets() -> None:
    some, none = view([A, B], [IGNORE, 1]), view([A, B], [IGNORE, IGNORE])
    assert [targeted(each, partial).tolist() for each in (some, none) for partial in (False, True)] == [
        [False, False],
        [True, False],
        [True, True],
        [True, True],
    ]


def test_the_state_of_a_round_is_in_the_checkpoint() -> None:
    method, _ = entered(partial=False)
    other = made()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.thresholds, method.thresholds)
