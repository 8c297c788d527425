from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl3d.data.errors import UsageError
from ssl3d.data.geometry.boundary import boundary_points
from ssl3d.data.scan import IGNORE, View
from ssl3d.models.backbones.base import Inputs, Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.boundary.method import TARGET, Boundary, NetworkParams
from ssl3d.models.boundary.network import BoundaryNetwork
from ssl3d.models.methods.base import Progress

CLASSES, RADIUS = 4, 1.2
SMALL = {
    "spunet-micro": {"m": 8, "voxel_size": 0.4},
    "spunet16": {"scene": "outdoor", "m": 4, "voxel_size": 0.4},
    "minkunet-micro": {"voxel_size": 0.4},
}


def make_view(seed: int = 0, n: int = 1500) -> View:
    """Ground with a box on it: two classes that meet, all voxels known."""
    rng = np.random.default_rng(seed)
    points = np.c_[rng.uniform(-10, 10, (n, 2)), np.zeros(n)]
    high = (np.abs(points[:, :2]) < 4).all(1)
    points[high, 2] = 0.8
    label = high.astype(np.uint8)
    view = View(
        points=points.astype(np.float32),
        features={"intensity": rng.random((n, 1)).astype(np.float32)},
        rows=np.c_[np.zeros(n, np.int64), np.arange(n)],
        label=label,
    )
    view.extras[TARGET] = boundary_points(view.points, label, RADIUS)
    return view


def make_method(backbone: str = "spunet-micro", **params: object) -> Boundary:
    torch.manual_seed(0)
    return Boundary(
        NetworkParams.model_validate(params),
        lambda: Segmenter(make_backbone(backbone, SMALL.get(backbone)), CLASSES),
        CLASSES,
    )


def losses(method: Boundary, inputs: Inputs) -> dict[str, torch.Tensor]:
    (found,) = method.step({"labelled": inputs}, Progress(0, 1))
    return found


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("backbone", list(SMALL))
def test_shapes_and_gradients(backbone: str, refine: bool) -> None:
    method = make_method(backbone, refine=refine)
    inputs = method.network.backbone.prepare([make_view(0), make_view(1)])
    voxels = inputs.elements.num_elements
    found = method.network.branches(inputs)
    assert [tuple(x.shape) for x in found.boundary] == [(voxels, 1)] * (5 if refine else 4)
    assert [tuple(x.shape) for x in found.semantic] == [(voxels, CLASSES)] * (4 if refine else 3)
    each = losses(method, inputs)
    assert set(each) == {"boundary", "semantic"} | ({"edges"} if refine else set())
    sum(each.values()).backward()  # type: ignore[union-attr]
    silent = [name for name, p in method.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert not silent


def test_the_last_logit_is_the_probability_of_class_one() -> None:
    network = make_method().network.eval()
    inputs = network.backbone.prepare([make_view()])
    with torch.no_grad():
        logit = network.branches(inputs).boundary[-1]
        scores = network(inputs).logits.softmax(1)
    assert network.num_classes == 2 and scores.shape == (len(logit), 2)
    torch.testing.assert_close(scores[:, 1:], logit.sigmoid())


def test_side_heads_speak_for_all_voxels_of_a_cell() -> None:
    network = make_method().network.eval()
    inputs = network.backbone.prepare([make_view()])
    with torch.no_grad():
        coarse = network.branches(inputs).semantic[1]
    cells = torch.cat([inputs.coordinates[:, :1], inputs.coordinates[:, 1:] // 16], 1)  # type: ignore[attr-defined]
    for cell in torch.unique(cells, dim=0):
        rows = coarse[(cells == cell).all(1)]
        assert bool((rows == rows[:1]).all())


def test_it_learns_a_boundary() -> None:
    method = make_method(radius=RADIUS)
    inputs = method.network.backbone.prepare([make_view(0), make_view(1)])
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    first = last = 0.0
    for step in range(25):
        total = sum(losses(method, inputs).values())
        assert isinstance(total, torch.Tensor)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        first, last = (float(total.detach()), last) if not step else (first, float(total.detach()))
    assert last < 0.4 * first
    target = method.network.backbone.labels(inputs, inputs.extras[TARGET].long())
    found = method.network(inputs).logits.argmax(1)
    hits = int(((found == 1) & (target == 1)).sum())
    assert hits / int((target == 1).sum()) > 0.7 and hits / max(1, int((found == 1).sum())) > 0.7


@pytest.mark.parametrize("what", ["hidden", "one class", "absent class"])
def test_labels_that_say_little(what: str) -> None:
    view = make_view()
    if what == "hidden":
        view.label[:] = IGNORE
    elif what == "one class":
        view.label[:] = 3
    view.extras[TARGET] = boundary_points(view.points, view.label, RADIUS)
    method = make_method()
    each = losses(method, method.network.backbone.prepare([view]))
    sum(each.values()).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert len(gradients) == len(list(method.parameters())) and all(bool(g.isfinite().all()) for g in gradients)
    if what == "hidden":
        assert all(value.item() == 0 for value in each.values())
        assert all(not bool(g.any()) for g in gradients)


def test_hidden_labels_change_nothing() -> None:
    """What is not labelled takes no part: neither its class nor whether it would be a boundary."""
    view, hidden = make_view(), np.random.default_rng(1).random(1500) < 0.5
    view.label[hidden] = IGNORE
    view.extras[TARGET] = boundary_points(view.points, view.label, RADIUS)
    assert (view.extras[TARGET][hidden] == IGNORE).all()
    method = make_method()
    each = losses(method, method.network.backbone.prepare([view]))
    assert all(value > 0 for value in each.values())


def test_a_backbone_that_does_not_fit() -> None:
    for backbone in (make_backbone("cylinder3d-micro"), make_backbone("spunet-micro", {"levels": 4})):
        with pytest.raises(UsageError, match="cannot be built on") as caught:
            BoundaryNetwork(backbone, CLASSES)
        assert "spunet16" in str(caught.value.hint)
