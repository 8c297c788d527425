from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl3d.data.scan import IGNORE
from ssl3d.models.losses.boundary import boundary_focal, edge_map, edge_map_loss
from ssl3d.models.sparse import SparseTensor

B, TARGET = torch.tensor([0.9, 0.2, 0.6], dtype=torch.float64), torch.tensor([1, 0, 0])


def test_worked_numbers() -> None:
    logits = torch.logit(B)
    each = [boundary_focal(logits[i : i + 1], TARGET[i : i + 1]).item() for i in range(3)]
    assert each == pytest.approx([0.001054, 0.008926, 0.329865], abs=1e-6)
    assert boundary_focal(logits, TARGET).item() == pytest.approx(0.113281, abs=1e-6)
    assert boundary_focal(logits, TARGET, exponent=0).item() == pytest.approx(0.414932, abs=1e-6)


def test_without_focus_it_is_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(40, 1), torch.randint(0, 2, (40,))
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    torch.testing.assert_close(boundary_focal(logits, target, exponent=0), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_gradient(seed: int, exponent: float) -> None:
    torch.manual_seed(seed)
    logits = (3 * torch.randn(9, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 2, (9,))
    target[0] = IGNORE
    assert torch.autograd.gradcheck(lambda x: boundary_focal(x, target, exponent), logits)


def test_certainty_is_harmless() -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = boundary_focal(logits, torch.tensor([1, 0, 0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(5000) and logits.grad is not None and bool(logits.grad.isfinite().all())


def test_nothing_known_is_an_exact_zero_in_the_graph() -> None:
    logits = torch.full((3, 1), float("nan"), requires_grad=True)
    loss = boundary_focal(logits, torch.full((3,), IGNORE))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros(3, 1))


def test_half_precision_is_computed_in_float32() -> None:
    logits, target = torch.randn(20, 1).half(), torch.randint(0, 2, (20,))
    assert torch.equal(boundary_focal(logits, target), boundary_focal(logits.float(), target))


# ---------------------------------------------------------------- edges of a segmentation


def row_of(n: int) -> SparseTensor:
    coordinates = torch.zeros(n, 4, dtype=torch.int32)
    coordinates[:, 1] = torch.arange(n)
    return SparseTensor(torch.zeros(n, 1), coordinates)


def test_edges_of_a_row_of_voxels() -> None:
    sites = row_of(4)
    truth = F.one_hot(sites.coordinates[:, 1].long().clamp(max=2) // 2, 2).double()  # classes 0, 0, 1, 1
    found = edge_map(truth, sites)[sites.coordinates[:, 1].argsort()]
    assert found.tolist() == pytest.approx([0, 2 / 3, 2 / 3, 0])
    known = sites.coordinates[:, 1] != 2
    found = edge_map(truth, sites, known)[sites.coordinates[:, 1].argsort()]
    assert found.tolist() == [0, 0, 0, 0]


def test_a_perfect_prediction_has_no_edge_loss() -> None:
    sites = row_of(6)
    target = torch.tensor([0, 0, 1, 1, IGNORE, 0])
    perfect = F.one_hot(target.clamp(max=1), 2).float()
    assert edge_map_loss(perfect, target, sites).item() == 0
    wrong = perfect.clone().requires_grad_()
    loss = edge_map_loss(1 - wrong[[1, 0, 2, 3, 4, 5]] * 0.5, target, sites)
    loss.backward()
    assert loss > 0 and wrong.grad is not None and wrong.grad.abs().sum() > 0


def test_no_label_is_an_exact_zero_in_the_graph() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    loss = edge_map_loss(logits.softmax(1), torch.full((5,), IGNORE), row_of(5))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and torch.equal(logits.grad, torch.zeros(5, 3))
