from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.augment import Augmentation, AugmentParams
from ssl3d.data.errors import UsageError
from ssl3d.data.scan import IGNORE, View
from ssl3d.data.spec import load_spec
from ssl3d.models.backbones.base import Backbone, Inputs, InputSpec, Levels, Segmenter, collate_points
from ssl3d.models.elements import ElementMap
from ssl3d.models.methods.base import Progress
from ssl3d.models.methods.cps import CPS, CPSParams

NOW = Progress(0, 1)
STRONG = Augmentation(AugmentParams(drop=0.4, jitter=0.01))


class PointSpec(InputSpec):
    """Elements are the points; the coordinates are what the network reads."""

    def prepare(self, views: Sequence[View]) -> Inputs:
        shared = collate_points(views)
        count = len(shared["rows"])
        shared["extras"]["xyz"] = torch.from_numpy(np.concatenate([view.points for view in views]))
        return Inputs(elements=ElementMap(torch.arange(count), count), **shared)

    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return y


class Coordinates(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 3
        self.input_spec = PointSpec()

    def forward(self, inputs: Any) -> Levels:
        return Levels(inputs.extras["xyz"], {})

    def head(self, num_classes: int) -> nn.Module:
        return nn.Linear(3, num_classes, bias=False)


def method(a: Sequence[Sequence[float]] | None = None, b: Any = None, **params: Any) -> CPS:
    """With given classifiers: logits of a point are ``weight @ xyz``."""
    torch.manual_seed(0)
    made = CPS(CPSParams(**params), lambda: Segmenter(Coordinates(), 3), 3)
    for network, weight in ((made.segmenter, a), (made.other, b)):
        if weight is not None:
            with torch.no_grad():
                network.head.weight.copy_(torch.tensor(weight))
    return made


def specified(**params: Any) -> CPS:
    """z_a = (2,0,0), (0,1,0) and z_b = (0,1,0), (0,3,0) for the points (1,0,0), (0,1,0)."""
    return method([[2, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 3, 0], [0, 0, 0]], **params)


def view(points: Any, labels: Sequence[int], scan: int = 0) -> View:
    rows = np.stack([np.full(len(points), scan), np.arange(len(points))], 1)
    return View(np.array(points, np.float32), {}, rows, np.array(labels, np.uint8))


def inputs(points: Any, labels: Sequence[int]) -> Inputs:
    return PointSpec().prepare([view(points, labels)])


def losses(of: CPS, batch: dict[str, Inputs], now: Progress = NOW) -> dict[str, Tensor]:
    (found,) = of.step(batch, now)
    return found


def values(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(loss.detach()) for name, loss in found.items()}


TWO = {"all": inputs([[1, 0, 0], [0, 1, 0]], [0, IGNORE])}


def test_losses_of_the_specification() -> None:
    found = values(losses(specified(), TWO))
    assert found["cps_a"] == pytest.approx(1.5 * (2.239545 + 0.551445) / 2, rel=1e-6)
    assert found["cps_b"] == pytest.approx(1.5 * (1.551445 + 0.094923) / 2, rel=1e-6)
    assert found["cps_a"] + found["cps_b"] == pytest.approx(1.5 * 2.218679, rel=1e-6)
    assert found["ce_a"] + found["ce_b"] == pytest.approx(1.790989, rel=1e-6)
    assert sum(found.values()) == pytest.approx(5.119007, rel=1e-6)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0067379), (15, 0.2865048), (30, 1)])
def test_the_cross_supervision_can_rise(step: int, factor: float) -> None:
    found = values(losses(specified(ramp_steps=30, lambda_cps=1), TWO, Progress(0, 60, total_step=step)))
    assert found["cps_a"] + found["cps_b"] == pytest.approx(factor * 2.218679, rel=1e-5)
    assert found["ce_a"] + found["ce_b"] == pytest.approx(1.790989, rel=1e-6)


def test_equal_logits_still_have_a_loss() -> None:
    weight = [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    found = values(losses(method(weight, weight, lambda_cps=1), TWO))
    assert found["cps_a"] + found["cps_b"] == pytest.approx(0.790990, rel=1e-5)


def test_no_gradient_reaches_the_network_that_labels() -> None:
    made = specified()
    losses(made, TWO)["cps_a"].backward()
    assert made.segmenter.head.weight.grad is not None and made.segmenter.head.weight.grad.any()
    assert made.other.head.weight.grad is None
    made = specified()
    losses(made, TWO)["cps_b"].backward()
    assert made.segmenter.head.weight.grad is None
    assert made.other.head.weight.grad is not None and made.other.head.weight.grad.any()


def test_swapping_the_networks_leaves_the_loss() -> None:
    rng = np.random.default_rng(0)
    batch = {"all": inputs(rng.normal(size=(40, 3)), rng.choice([0, 1, 2, IGNORE], 40).tolist())}
    made = method(lambda_lov=2.0)
    found = values(losses(made, batch))
    made.segmenter, made.other = made.other, made.segmenter
    swapped = values(losses(made, batch))
    assert found["ce_a"] != swapped["ce_a"]
    for name in ("ce", "lovasz", "cps"):
        assert (found[f"{name}_a"], found[f"{name}_b"]) == (swapped[f"{name}_b"], swapped[f"{name}_a"])


@pytest.mark.parametrize(("cps_on", "rows"), [("all", 3), ("unlabelled", 2)])
def test_elements_without_a_label_take_part_and_labelled_ones_if_asked(cps_on: str, rows: int) -> None:
    """A point of a labelled scan that has no class (the third) counts like one of an unlabelled scan."""
    made = specified(cps_on=cps_on, lambda_cps=1)
    batch = {"all": PointSpec().prepare([view([[1, 0, 0], [0, 1, 0]], [0, IGNORE]), view([[1, 0, 0]], [IGNORE])])}
    found = values(losses(made, batch))
    first, second = 2.239545, 0.551445
    assert found["cps_a"] == pytest.approx((first * (rows - 1) + second) / rows, rel=1e-6)
    assert found["ce_a"] + found["ce_b"] == pytest.approx(1.790989, rel=1e-6)


def test_points_outside_of_the_network_take_no_part() -> None:
    cropped = inputs([[1, 0, 0], [9, 9, 9], [0, 1, 0]], [0, 1, IGNORE])
    cropped.elements = ElementMap(torch.tensor([0, -1, 1]), 2)
    cropped.extras["xyz"] = cropped.extras["xyz"][[0, 2]]  # what the network reads of its elements
    made = specified()
    made.segmenter.backbone.input_spec = Reduced()
    assert values(losses(made, {"all": cropped})) == values(losses(specified(), TWO))


def test_elements_without_a_point_take_no_part() -> None:
    """Empty pixels of a range image."""
    made = specified()
    made.segmenter.backbone.input_spec = Reduced()
    sparse = inputs([[1, 0, 0], [0, 1, 0]], [0, IGNORE])
    sparse.elements = ElementMap(torch.tensor([0, 2]), 3)
    sparse.extras["xyz"] = torch.tensor([[1.0, 0, 0], [5, 5, 5], [0, 1, 0]])
    assert values(losses(made, {"all": sparse})) == values(losses(specified(), TWO))
    assert made.pseudo.take().tolist() == [0, 1, 0, 1]


class Reduced(PointSpec):
    def labels(self, inputs: Inputs, y: Tensor) -> Tensor:
        return inputs.elements.reduce(y, "majority", ignore=IGNORE)


def test_without_cross_supervision_and_without_labels() -> None:
    made = specified(lambda_cps=0)
    assert list(losses(made, TWO)) == ["ce_a", "ce_b"] and made.pseudo.take().sum() == 0
    blank = values(losses(specified(), {"all": inputs([[1, 0, 0], [0, 1, 0]], [IGNORE, IGNORE])}))
    assert blank["ce_a"] == blank["ce_b"] == 0 and blank["cps_a"] + blank["cps_b"] == pytest.approx(1.5 * 2.218679)


def test_networks_that_begin_alike_are_refused() -> None:
    def same() -> Segmenter:
        torch.manual_seed(3)
        return Segmenter(Coordinates(), 3)

    with pytest.raises(ValueError, match="begin differently"):
        CPS(CPSParams(), same, 3)


def test_both_networks_are_optimized_and_the_first_is_evaluated() -> None:
    made = method()
    assert made.predictor() is made.student() is made.segmenter and made.ema_pairs() == ()
    names = {name.split(".")[0] for name, p in made.named_parameters() if p.requires_grad}
    assert names == {"segmenter", "other"}


def test_what_is_counted() -> None:
    made = specified()
    points = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    losses(made, {"all": inputs(points, [1, 1, IGNORE, IGNORE, IGNORE])})
    assert made.pseudo.take().tolist() == [1, 2, 0, 3]
    said = made.measures.describe(made.measures.take())["classes"]
    assert said == {"agreement": [0.0, 1.0, None], "precision": [0.0, 1.0, None]}


# ---------------------------------------------------------------- mixed


def scan(number: int, labels: bool = False, n: int = 50) -> View:
    rng = np.random.default_rng(number)
    label = rng.choice([0, 1, 2, IGNORE], n) if labels else np.full(n, IGNORE)
    return view(rng.normal(size=(n, 3)) * [10, 10, 3], label.tolist(), number)


def mixed_batch(params: CPSParams, labelled: list[View], unlabelled: list[View]) -> dict[str, Inputs]:
    groups = CPS.views(params, labelled, unlabelled, STRONG, np.random.default_rng(5))
    return {name: PointSpec().prepare(views) for name, views in groups.items()}


@pytest.mark.parametrize("unlabelled", [(3, 4), (3, 3), (3, 4, 5), (3,), ()])
@pytest.mark.parametrize("cps_on", ["all", "unlabelled"])
def test_mixed_scans_take_what_the_other_network_says_of_the_clean_ones(
    unlabelled: tuple[int, ...], cps_on: str
) -> None:
    made = method(mix="lasermix", lambda_cps=2, cps_on=cps_on)
    batch = mixed_batch(made.params, [scan(1, True), scan(2, True)], [scan(number) for number in unlabelled])
    assert "all" not in batch and ("unlabelled" in batch) == bool(unlabelled)
    clean, mixed = batch.get("unlabelled", batch["labelled"]), batch["mixed"]
    assert set(mixed.rows[:, 0].tolist()) == set(unlabelled or (1, 2))
    found = losses(made, batch)
    networks = (made.segmenter, made.other)
    place = {tuple(point): i for i, point in enumerate(clean.extras["xyz"].tolist())}
    said = [network(clean).logits.argmax(1).tolist() for network in networks]
    for name, network, other in (("cps_a", made.segmenter, 1), ("cps_b", made.other, 0)):
        log_p = network(mixed).logits.detach().double().log_softmax(1)
        terms = [
            -float(log_p[i, said[other][place[tuple(point)]]])
            for i, point in enumerate(mixed.extras["xyz"].tolist())
            if cps_on == "all" or int(mixed.label[i]) == IGNORE
        ]
        assert float(found[name].detach()) == pytest.approx(2 * sum(terms) / len(terms), rel=1e-5)
    y, z = batch["labelled"].label, made.segmenter(batch["labelled"]).logits
    assert float(found["ce_a"].detach()) == pytest.approx(
        float(nn.functional.cross_entropy(z[y != IGNORE], y[y != IGNORE]).detach()), rel=1e-5
    )


def test_mixing_wants_two_scans_of_a_kind_and_no_rooms() -> None:
    mixing, plain = CPSParams(mix="lasermix"), CPSParams()
    assert (CPS.item_scans(mixing, True), CPS.item_scans(mixing, False), CPS.item_scans(plain, True)) == (2, 2, 1)
    rooms, streets = load_spec("s3dis"), load_spec("semanticposs")
    with pytest.raises(UsageError, match="mix=lasermix needs scans of a spinning sensor"):
        CPS.check(mixing, rooms)
    CPS.check(plain, rooms)
    CPS.check(mixing, streets)


def test_clean_scans_give_no_gradient() -> None:
    made = method(mix="lasermix")
    batch = mixed_batch(made.params, [scan(1, True)], [scan(3), scan(4)])
    found = losses(made, batch)
    found["cps_a"].backward()
    assert made.segmenter.head.weight.grad is not None and made.other.head.weight.grad is None
