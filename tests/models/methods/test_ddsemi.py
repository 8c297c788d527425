"""DDSEmi's step against loops over points, the numbers of its specification, and what it must not depend on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.datasets.registry import get_reader
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress, Stored
from ssl3d.models.methods.ddsemi import NEAREST, RIGHT, SURE, Anchors, DDSEmi, DDSEmiParams, Stream
from ssl3d.models.prediction import Prediction

NOW = Progress(0, 10, 1)
EXACT = "donot_use_mm_for_euclid_dist"
CLASSES = 4
ABLATIONS: list[dict[str, Any]] = [
    {"loss": {"inter": False}},
    {"loss": {"intra": False}},
    {"hardness": {"geometric": False}},
    {"hardness": {"feature": False}},
    {"hardness": {"geometric": False, "feature": False}},
    {"contrast": {"mode": "point"}},
    {"bank": {"update": "progressive"}},
    {"bank": {"update": "fifo"}},
    {"bank": {"clamp_beta": False}},
    {"anchor": {"estimator": "random"}},
    {"anchor": {"estimator": "confidence"}},
    {"feature_norm": "l2"},
    {"loss_level": "voxel"},
    {"k": 2, "K": 4, "bank": {"size": 2}},
    {"k": 50, "K": 60, "density_chunk": 1},
    {"ramp_steps": 5},
    {"lambda_lov": 1.0, "ce_class_weights": (1.0, 2.0, 0.0, 1.0)},
]


@dataclass(slots=True, kw_only=True)
class Cells(Inputs):
    """Each element with features of its own (M, 3)."""

    features: Tensor


class CellSpec(InputSpec):
    def prepare(self, views: Sequence[View]) -> Inputs:
        raise NotImplementedError

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


class CellNetwork(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
        self.out_channels = 5
        self.input_spec = CellSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(self.layers(inputs.features), {})

    def head(self, num_classes: int) -> nn.Module:
        head = nn.Linear(5, num_classes)
        with torch.no_grad():
            head.weight.mul_(12)  # confident here and there
        return head


def method(seed: int = 0, **params: Any) -> DDSEmi:
    """Its banks hold a few features of classes 0, 1 and 2."""
    torch.manual_seed(seed)
    params = {"proj_dim": 3, "k": 2, "K": 3, **params}
    params["bank"] = {"size": 6, **params.get("bank", {})}
    made = DDSEmi(DDSEmiParams.model_validate(params), lambda: Segmenter(CellNetwork(), CLASSES), CLASSES)
    label = torch.tensor([0, 0, 0, 1, 1, 2] if made.params.bank.size > 2 else [0, 1, 2])
    for bank in made.banks:
        bank.fill(torch.cat([torch.randn(len(label), 3), torch.rand(len(label), 1)], 1), label)
    return made


def cells(seed: int = 1, points: int = 90, sizes: tuple[int, int, int] = (12, 15, 13)) -> Cells:
    """Elements of the labelled views (0) and of both streams, in this order, with points of each; some have none."""
    rng = np.random.default_rng(seed)
    stream_of = np.repeat([0, 1, 2], sizes)
    total = len(stream_of)
    element = np.concatenate([np.arange(total), rng.integers(0, total, points - total)])
    stream, label = stream_of[element], rng.integers(0, CLASSES, points)
    label[(stream > 0) | (rng.random(points) < 0.3)] = IGNORE
    element[total::9] = -1
    extras = {
        "stream": torch.from_numpy(stream.astype(np.uint8)),
        "d_g": torch.from_numpy(rng.random(points).astype(np.float32)),
    }
    return Cells(
        elements=ElementMap(torch.from_numpy(element), total),
        rows=torch.stack([torch.zeros(points, dtype=torch.int64), torch.arange(points)], 1),
        label=torch.from_numpy(label),
        view_offsets=torch.tensor([0, points]),
        extras=extras,
        features=torch.from_numpy(rng.normal(size=(total, 3)).astype(np.float32)),
    )


def losses(of: DDSEmi, inputs: Inputs, now: Progress = NOW) -> dict[str, Tensor]:
    (found,) = of.step({"all": inputs}, now)
    return found


def values(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in found.items()}


# ---------------------------------------------------------------- against loops


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (max(float(a.norm()), 1e-8) * max(float(b.norm()), 1e-8))


def density(f: Tensor, slots: list[Tensor], k: int) -> float:
    nearest = sorted((cosine(f, other) for other in slots), reverse=True)[:k]
    return sum(nearest) / len(nearest) if nearest else 1.0


def slow_losses(made: DDSEmi, inputs: Cells) -> dict[str, Tensor]:
    """Eqs. 2 to 11 point by point, with the banks as they are: those after the step. ``made`` is in float64."""
    p = made.params
    output = made.segmenter(replace(inputs, features=inputs.features.double()))
    features = made.projector(output.levels.finest)
    q = output.logits.detach().softmax(1)
    slots: list[list[list[Tensor]]] = []
    anchors: list[dict[int, Tensor]] = []
    for bank in made.banks:
        stored = [
            [f for f, there in zip(bank.features[c], bank.valid[c], strict=True) if there] for c in range(CLASSES)
        ]
        found = {}
        for c, own in enumerate(stored):
            if own:
                d = [density(f, [other for j, other in enumerate(own) if j != i], p.k) for i, f in enumerate(own)]
                best = sorted(range(len(own)), key=lambda i: (-d[i], i))[: p.K]
                weight = [max(d[i], 1e-6) for i in best]
                found[c] = sum((w * own[i] for w, i in zip(weight, best, strict=True)), torch.zeros(3)) / sum(weight)
        slots.append(stored)
        anchors.append(found)
    element = inputs.elements.point_to_element
    points = [(int(m), float(g), int(s)) for m, g, s in
              zip(element, inputs.extras["d_g"], inputs.extras["stream"], strict=True) if m >= 0]  # fmt: skip
    if p.loss_level == "voxel":
        mean = {m: [g for n, g, _ in points if n == m] for m, _, _ in points}
        points = [(m, sum(g) / len(g), next(s for n, _, s in points if n == m)) for m, g in mean.items()]

    def pull(f: Tensor, y: int, towards: dict[int, Tensor]) -> Tensor:
        return torch.stack([(f @ a - f @ towards[y]) / p.tau for a in towards.values()]).exp().sum().log()

    inter = intra = features.sum() * 0
    for v in range(2):
        mine = [(m, g, int(q[m].argmax()), float(q[m].max())) for m, g, s in points if s == v + 1]
        other = [(m, y) for m, _, y, w in mine if w > p.gamma_e and y in anchors[1 - v]]
        if other:
            inter = inter + sum(pull(features[m], y, anchors[1 - v]) for m, y in other) / len(other)
        known = [point for point in mine if point[2] in anchors[v]]
        h = []
        for m, g, y, _ in known:
            d = density(features[m].detach(), slots[v][y], p.k)
            both = [g] * p.hardness.geometric + [d] * p.hardness.feature
            h.append(max(1 - p.alpha * sum(both) / len(both), p.eps) if both else 1.0)
        used = [(m, y, r) for (m, _, y, w), r in zip(known, h, strict=True) if w > p.gamma_a]
        if used:
            mean_h = sum(h) / len(h)
            intra = intra + sum(r / mean_h * pull(features[m], y, anchors[v]) for m, y, r in used) / len(used)
    return {"inter": p.lambda_ter * inter, "intra": p.lambda_tra * intra}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"loss_level": "voxel"},
        {"hardness": {"feature": False}},
        {"hardness": {"geometric": False}},
        {"hardness": {"geometric": False, "feature": False}},
        {"bank": {"update": "fifo"}},
        {"bank": {"update": "progressive"}},
        {"tau": 0.5, "alpha": 1.5, "eps": 0.3, "density_chunk": 1},
        {"gamma_e": 0.5, "gamma_a": 0.9, "lambda_ter": 2.0},
    ],
)
def test_losses_and_gradients_equal_loops_over_points(params: dict[str, Any], seed: int) -> None:
    made, inputs = method(seed, **params), cells(seed)
    found = losses(made, inputs)
    twin = copy.deepcopy(made).double()
    expected = slow_losses(twin, inputs)
    for name, value in expected.items():
        assert float(value.detach()) > 0
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4)
    for one, other in zip(
        *(gradients(which, whose) for which, whose in ((found, made), (expected, twin))), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)


def gradients(of: dict[str, Tensor], made: DDSEmi) -> list[Tensor]:
    """Of both contrasts. Densities, anchors, pseudo labels and weights are constants in the loops; so they are here."""
    parameters = [*made.projector.parameters(), *made.segmenter.backbone.parameters()]
    return list(torch.autograd.grad(of["inter"] + of["intra"], parameters))


# ---------------------------------------------------------------- numbers of the specification


def stream(confidence: Sequence[float], d_g: Sequence[float] | None = None) -> Stream:
    """Elements of class 0 with a point each."""
    n = len(confidence)
    every = torch.arange(n)
    geometric = torch.zeros(n) if d_g is None else torch.tensor(d_g)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Stream(torch.zeros(n, 3), zeros, torch.tensor(confidence), zeros, torch.ones(n), every, geometric)


@pytest.mark.parametrize(("gamma", "expected"), [(0.9, 2.5), (0.75, 7 / 3)])
def test_mean_over_the_confident_of_the_specification(
    monkeypatch: pytest.MonkeyPatch, gamma: float, expected: float
) -> None:
    made = method(gamma_e=gamma)
    each = torch.tensor([1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(made, "_pull", lambda stream, used, *_: each[used])
    anchors = Anchors(torch.zeros(CLASSES, 3), torch.ones(CLASSES, dtype=torch.bool), None)
    found = made._inter(stream([0.95, 0.9, 0.91, 0.5]), made.banks[0], anchors)
    assert float(found) == pytest.approx(expected)


def test_weighted_mean_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The denominator counts points, it does not sum r; and r is divided by the mean over all points."""
    made = method()
    each = torch.tensor([1.0, 2.0, 3.0])
    monkeypatch.setattr(made, "_pull", lambda stream, used, *_: each[used])
    monkeypatch.setattr("ssl3d.models.methods.ddsemi.class_density", lambda *_, **__: torch.tensor([0.2, 0.6, 1.0]))
    anchors = Anchors(torch.zeros(CLASSES, 3), torch.ones(CLASSES, dtype=torch.bool), None)
    found = made._intra(stream([0.95, 0.7, 0.8], [0.0, 0.5, 1.0]), made.banks[0], anchors)
    assert float(found) == pytest.approx(1.198020, abs=1e-6)


def test_total_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    made, inputs = method(), cells()
    monkeypatch.setattr(made, "_inter", lambda *_: torch.tensor(1.5 / 2))
    monkeypatch.setattr(made, "_intra", lambda *_: torch.tensor(0.8 / 2))
    found = values(losses(made, inputs))
    assert 2.0 + found["inter"] + found["intra"] == pytest.approx(2.95)


# ---------------------------------------------------------------- what it must, and must not depend on


def test_weights_have_the_mean_1_and_no_gradient() -> None:
    made, inputs = method(), cells()
    output = made.segmenter(inputs)
    features = made.projector(output.levels.finest)
    for part, bank in zip(made._streams(inputs, features, output.logits, inputs.label), made.banks, strict=True):
        there = bank.valid.any(1)
        weight = made._weights(part, bank, there)
        known = there[part.label]
        assert not weight.requires_grad
        assert float(weight[known].sum() / part.points[known].sum()) == pytest.approx(1, rel=1e-5)
        assert bool(part.features.requires_grad) and not part.confidence.requires_grad
    sum(losses(made, inputs).values()).backward()  # type: ignore[union-attr]
    assert not any(buffer.requires_grad for buffer in made.banks.buffers())


def test_the_order_of_points_does_not_matter() -> None:
    inputs, order = cells(), torch.randperm(90)
    mixed = inputs.map(lambda t: t[order] if len(t) == 90 else t)
    here, there = (values(losses(method(), each)) for each in (inputs, mixed))
    assert here == pytest.approx(there, rel=1e-5)


def test_swapping_the_streams_changes_nothing() -> None:
    inputs = cells()
    swapped = replace(
        inputs,
        extras={**inputs.extras, "stream": torch.tensor([0, 2, 1], dtype=torch.uint8)[inputs.extras["stream"].long()]},
    )
    made, other = method(bank={"size": 2}), method(bank={"size": 2})  # a local slot: nothing is left to chance
    for each in (made, other):
        each.banks[0].local_part.values.add_(1)
    first, second = (copy.deepcopy(bank.state_dict()) for bank in other.banks)
    other.banks[0].load_state_dict(second)
    other.banks[1].load_state_dict(first)
    torch.manual_seed(0)
    few = {"gamma_bank": 0.999}
    made.params, other.params = (each.params.model_copy(update=few) for each in (made, other))
    here, there = values(losses(made, inputs)), values(losses(other, swapped))
    assert here == pytest.approx(there, rel=1e-5)
    assert here["intra"] > 0


def test_exchanging_the_anchors_changes_the_contrast_alone() -> None:
    inputs, made, other = cells(), method(gamma_bank=0.9999), method(gamma_bank=0.9999)
    for each in (made, other):
        each.banks[0].global_part.values.add_(1)
    a, b = (copy.deepcopy(bank.state_dict()) for bank in other.banks)
    other.banks[0].load_state_dict(b)
    other.banks[1].load_state_dict(a)
    here, there = values(losses(made, inputs)), values(losses(other, inputs))
    assert here["ce"] == there["ce"]
    assert here["inter"] != pytest.approx(there["inter"]) and here["intra"] != pytest.approx(there["intra"])


def test_saved_and_restored_the_next_step_is_the_same_to_the_bit() -> None:
    made, other = method(), method(seed=5)
    for number in range(2):
        losses(made, cells(number))
    other.load_state_dict(made.state_dict())
    found = []
    for each in (made, other):
        torch.manual_seed(3)
        found.append(losses(each, cells(7)))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("params", ABLATIONS, ids=str)
def test_every_ablation_takes_two_steps(params: dict[str, Any]) -> None:
    made = method(**params)
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), 0.01)
    for number in range(2):
        found = losses(made, cells(number), Progress(number, 2, 1))
        total = sum(found.values(), torch.zeros(()))
        assert bool(torch.isfinite(total)) and float(total.detach()) > 0
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert ("inter" in found, "intra" in found) == (made.params.loss.inter, made.params.loss.intra)
    assert float(made.projector.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_ablations_differ() -> None:
    """Each key reaches what it names: the losses of one step, from the same banks and weights."""
    seen = {}
    for params in [{}, *ABLATIONS]:
        made = method(**params)
        torch.manual_seed(1)
        found = losses(made, cells(2))
        bank = tuple(float(value) for value in made.banks[0].features.sum(2).flatten()) if "bank" in params else ()
        seen[str(params)] = (tuple(sorted(values(found).items())), bank)
    assert len(set(seen.values())) == len(seen)


# ---------------------------------------------------------------- edge cases


@pytest.mark.parametrize("sizes", [(12, 0, 0), (12, 15, 0), (0, 15, 13)])
def test_streams_or_labels_that_are_empty(sizes: tuple[int, int, int]) -> None:
    made = method()
    found = losses(made, cells(points=max(60, sum(sizes)), sizes=sizes))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(bool(torch.isfinite(value)) for value in found.values())
    assert made.projector.weight.grad is not None  # connected to the graph, so that no process waits for another
    if sizes[1:] == (0, 0):
        assert float(found["inter"].detach()) == float(found["intra"].detach()) == 0
        assert not made.projector.weight.grad.any()
    if not sizes[0]:
        assert float(found["ce"].detach()) == 0


def test_nobody_is_confident() -> None:
    made = method(gamma_e=0.999999, gamma_a=0.999999)
    found = losses(made, cells())
    (found["inter"] + found["intra"]).backward()
    assert float(found["inter"].detach()) == float(found["intra"].detach()) == 0
    assert made.projector.weight.grad is not None and not made.projector.weight.grad.any()


def test_banks_without_any_feature() -> None:
    made = method(gamma_bank=0.999999)
    for bank in made.banks:
        bank.fill(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    found = losses(made, cells())
    (found["inter"] + found["intra"]).backward()
    assert float(found["inter"].detach()) == float(found["intra"].detach()) == 0
    assert bool(torch.isfinite(made.projector.weight.grad).all())  # type: ignore[union-attr]


def test_under_autocast_the_contrast_is_in_single_precision() -> None:
    made, inputs = method(), cells()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(made, inputs)
    assert found["inter"].dtype == found["intra"].dtype == torch.float32
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(bool(torch.isfinite(value)) for value in found.values())


# ---------------------------------------------------------------- diagnostics


def test_measures_count_what_they_say() -> None:
    made, inputs = method(), cells()
    losses(made, inputs)
    output = made.segmenter(inputs)
    confidence, predicted = output.logits.softmax(1).max(1)
    target = made.segmenter.backbone.labels(inputs, inputs.label)
    element = inputs.elements.point_to_element
    of = torch.zeros(len(predicted), dtype=torch.int64)
    of[element[element >= 0]] = inputs.extras["stream"].long()[element >= 0]
    described = made.measures.describe(made.measures.take())
    anchors = made._anchors(made.banks[0])
    nearest = (made.projector(output.levels.finest) @ anchors.values.T).masked_fill(~anchors.there, -np.inf).argmax(1)
    for c in range(CLASSES):
        chosen = (of > 0) & (predicted == c)
        assert described["classes"][SURE][c] == share(confidence[chosen] > 0.9)
        sure = (target != IGNORE) & (predicted == c) & (confidence > 0.9)
        assert described["classes"][RIGHT][c] == share(target[sure] == c)
        assert described["classes"][NEAREST][c] == share(nearest[target == c] == c)
    counts = made.pseudo.take()
    there = anchors.there[predicted]  # both banks have the same classes
    assert counts[-1] == int((of > 0).sum())
    assert counts[:-1].sum() == int(((of > 0) & (confidence > 0.75) & there).sum())


def share(hits: Tensor) -> Any:
    return pytest.approx(float(hits.double().mean()), rel=1e-4) if len(hits) else None


# ---------------------------------------------------------------- views, phases, filling


def raw(number: int, labels: Sequence[int]) -> View:
    n = len(labels)
    points = np.random.default_rng(number).normal(size=(n, 3)).astype(np.float32)
    rows = np.stack([np.full(n, number), np.arange(n)], 1)
    counts = np.arange(1, n + 1, dtype=np.int32)
    view = View(points, {}, rows, np.array(labels, np.uint8), {"geom_count": counts, "other": counts})
    view.scan = {"geom_min": np.int32(1), "geom_max": np.int32(n)}
    return view


def made_views(labelled: Sequence[View], unlabelled: Sequence[View], phase: int = 1, drop: float = 0.9) -> list[View]:
    augment = Augmentation(AugmentParams(drop=drop))
    groups = DDSEmi.views(DDSEmiParams(), labelled, unlabelled, augment, np.random.default_rng(0), phase)
    assert list(groups) == ["all"]
    return groups["all"]


def test_streams_are_two_augmentations_and_densities_follow_their_points() -> None:
    a, b, c = raw(0, [0, 1, 2, 0, 1]), raw(1, [IGNORE] * 30), raw(2, [IGNORE] * 20)
    views = made_views([a], [b, c])
    assert [set(view.extras["stream"].tolist()) for view in views] == [{0}, {1}, {1}, {2}, {2}]
    assert [view.rows[0, 0] for view in views] == [0, 1, 2, 1, 2]
    assert all(set(view.extras) == {"d_g", "stream"} for view in views)
    for view in views:
        n = {0: 5, 1: 30, 2: 20}[int(view.rows[0, 0])]
        np.testing.assert_allclose(view.extras["d_g"], view.rows[:, 1] / (n - 1), rtol=1e-6)
    first, second = views[1], views[3]
    assert first.rows.tolist() != second.rows.tolist()


def test_labels_of_unlabelled_scans_are_not_read() -> None:
    """Whatever stands there."""
    hidden, garbage = ([raw(0, [0, 1]), raw(1, labels)] for labels in ([IGNORE] * 9, list(range(9))))
    for one, other in zip(made_views(*([v] for v in hidden)), made_views(*([v] for v in garbage)), strict=True):
        assert np.array_equal(one.label, other.label) and np.array_equal(one.points, other.points)


def test_without_unlabelled_scans_the_streams_are_those_of_the_labelled_ones() -> None:
    a, b = raw(0, [0, IGNORE, 1]), raw(1, [IGNORE, 2])
    views = made_views([a, b], [], drop=0.0)
    assert [set(view.extras["stream"].tolist()) for view in views] == [{1}, {1}, {2}, {2}]
    assert [view.label.tolist() for view in views] == 2 * [[0, IGNORE, 1], [IGNORE, 2]]


def test_pre_training_sees_the_labelled_scans_alone() -> None:
    (view,) = made_views([raw(0, [0, 1])], [raw(1, [IGNORE] * 4)], phase=0)
    assert view.rows[0, 0] == 0 and view.extras == {}


@pytest.mark.parametrize(
    ("steps", "share", "expected"), [(10, 0.5, [5, 5]), (7, 0.25, [2, 5]), (1, 0.5, [0, 1]), (3, 0.99, [2, 1])]
)
def test_phases_share_the_steps(steps: int, share: float, expected: list[int]) -> None:
    made = method(pretrain=share)
    first, second = made.phases(steps)
    assert [first.steps, second.steps] == expected
    assert (first.lr_scale, second.lr_scale) == (1, 0.1)
    assert first.trainable == [made.segmenter] and second.trainable is None  # the projector learns in the second
    assert first.on_enter is None and second.on_enter is not None


class Scans:
    """A context whose network is sure of the height of points, and whose features are their coordinates."""

    progress = NOW

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views

    def predict_train(self, writer: Any, **asked: Any) -> list[tuple[View, Stored]]:
        assert asked["group"] == "labelled" and asked["scores"] and asked["features"]
        out = []
        for view in self.views:
            n = len(view)
            label = (view.points[:, 2] > 0).astype(np.uint8)
            scores = np.full((n, CLASSES), 0.01, np.float32)
            scores[np.arange(n), label] = 0.97
            features = np.pad(view.points, ((0, 0), (0, 2)))
            out.append((view, writer(view, Prediction(label, scores, features))))
        return out


@pytest.mark.parametrize("norm", ["none", "l2"])
def test_both_banks_are_filled_with_projected_features_of_the_labelled_scans(norm: str) -> None:
    made = method(feature_norm=norm)
    views = [raw(number, [0, 1] * 20) for number in range(3)]
    for view in views:
        view.label = (view.points[:, 2] > 0).astype(np.uint8)
    made._fill_banks(Scans(views))
    one, other = (bank.state_dict() for bank in made.banks)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    bank = made.banks[0]
    assert bank.valid.sum(1).tolist() == [6, 6, 0, 0]
    every = np.concatenate([view.points for view in views])
    with torch.no_grad():
        projected = made.projector(torch.from_numpy(np.pad(every, ((0, 0), (0, 2)))))
        projected = torch.nn.functional.normalize(projected, dim=1) if norm == "l2" else projected
    for c in (0, 1):
        distance = torch.cdist(
            bank.features[c], projected[torch.from_numpy(every[:, 2] > 0) == bool(c)], compute_mode=EXACT
        )
        assert bool((distance.min(1).values < 1e-5).all())
        assert len(torch.unique(bank.features[c], dim=0)) == 6
    assert bank.confidence[:2].flatten().tolist() == pytest.approx([0.97] * 12)


def test_class_weights_have_to_be_one_a_class() -> None:
    spec = get_reader("semantickitti").spec()
    DDSEmi.check(DDSEmiParams(ce_class_weights=(1.0,) * 19), spec)
    for wrong in ((1.0,) * 4, (1.0,) * 18 + (-1.0,)):
        with pytest.raises(UsageError, match="ce_class_weights"):
            DDSEmi.check(DDSEmiParams(ce_class_weights=wrong), spec)


def test_defaults_of_the_paper() -> None:
    p = DDSEmiParams()
    assert (p.bank.size, p.k, p.K, p.gamma_e, p.gamma_a, p.tau) == (500, 8, 16, 0.9, 0.75, 1)
    assert (p.alpha, p.eps, p.lambda_ter, p.lambda_tra) == (0.9, 0.1, 0.1, 1)
    bank = DDSEmi(p, lambda: Segmenter(CellNetwork(), CLASSES), CLASSES).banks[0]
    assert (bank.global_part.slots, bank.local_part.slots) == (250, 250)
