"""What holds of every sparse U-Net."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ssl3d.data.scan import View
from ssl3d.models.backbones.base import NoElementsError, Segmenter
from ssl3d.models.backbones.registry import make_backbone
from ssl3d.models.backbones.sparse_levels import RowHead, SparseUNet
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.sparse import SparseTensorError

MakeView = Callable[..., View]
NAMES = ("minkunet-micro", "spunet-micro")


@pytest.fixture(params=NAMES)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(7)
    return Segmenter(make_backbone(request.param, {"voxel_size": 0.5}), 3)


def finest(segmenter: Segmenter, views: list[View]) -> torch.Tensor:
    inputs = segmenter.backbone.prepare(views)
    with torch.no_grad():
        return inputs.elements.gather(segmenter.backbone(inputs).finest)


def test_taps_are_named_from_fine_to_coarse_and_back(make_view: MakeView, segmenter: Segmenter) -> None:
    net = segmenter.backbone
    assert isinstance(net, SparseUNet)
    with torch.no_grad():
        taps = net(net.prepare([make_view()])).taps
    assert tuple(taps) == net.tap_names
    assert [tap.stride for tap in taps.values()] == [1, 2, 4, 8, 16, 8, 4, 2, 1]
    assert [taps[name].stride for name in net.stages] == [16, 8, 4, 2, 1]


def test_an_empty_cloud_in_a_batch_changes_nothing(make_view: MakeView, segmenter: Segmenter) -> None:
    first, second = make_view(0, 500), make_view(1, 400)
    empty = first.select(np.zeros(len(first), bool))
    segmenter.eval()
    with_empty, without = finest(segmenter, [first, empty, second]), finest(segmenter, [first, second])
    torch.testing.assert_close(with_empty, without, rtol=1e-5, atol=1e-6)
    with pytest.raises(NoElementsError):
        segmenter.backbone.prepare([empty, empty])


def test_one_voxel_at_a_deep_level(make_view: MakeView, segmenter: Segmenter) -> None:
    """Batch norm cannot train on one row of the whole batch; a second cloud is enough, and so is eval mode."""
    view = make_view(0, 50)
    corner = view.moved((np.abs(view.points) % 7 + 0.1).astype(np.float32))  # within one cell of 16 voxels
    segmenter.train()
    with pytest.raises(SparseTensorError, match="more than one voxel in the batch") as raised:
        segmenter(segmenter.backbone.prepare([corner]))
    assert "(16, 16, 16)" in str(raised.value.where) and "voxel_size" in str(raised.value.hint)
    both = segmenter(segmenter.backbone.prepare([corner, corner]))
    assert bool(both.logits.isfinite().all())
    one_point = view.select(np.arange(len(view)) == 0)
    for views in ([corner], [one_point]):
        assert bool(finest(segmenter.eval(), views).isfinite().all())


def test_half_precision_keeps_statistics_and_logits_in_float32(make_view: MakeView, segmenter: Segmenter) -> None:
    seen: list[torch.dtype] = []
    for layer in segmenter.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.register_forward_hook(lambda _, rows, __: seen.append(rows[0].dtype))
    inputs = segmenter.backbone.prepare([make_view(0), make_view(1)])
    reference = segmenter(inputs).logits
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        output = segmenter(inputs)
        loss = cross_entropy(output.logits, segmenter.backbone.labels(inputs, inputs.label))
    loss.backward()
    assert set(seen) == {torch.float32}
    assert output.logits.dtype == torch.float32 and output.levels.finest.dtype == torch.bfloat16
    assert (output.logits - reference).abs().max() < 0.1 * reference.abs().max()
    assert all(p.dtype == torch.float32 for p in segmenter.state_dict().values() if p.is_floating_point())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in segmenter.parameters())


def test_a_head_computes_in_the_type_of_its_parameters() -> None:
    torch.manual_seed(0)
    head, rows = RowHead(64, 5), torch.randn(100, 64)
    exact = head(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(rows), exact)
        assert head(rows.bfloat16()).dtype == torch.float32
    assert head.double()(rows).dtype == torch.float64


def test_training_is_reproducible_and_learns(make_view: MakeView, segmenter: Segmenter) -> None:
    view = make_view(0, 400)
    view.label[:] = (view.points[:, 0] > 0).astype(np.uint8)
    start = {name: value.clone() for name, value in segmenter.state_dict().items()}
    runs = []
    for _ in range(2):
        segmenter.load_state_dict(start)
        optimizer = torch.optim.AdamW(segmenter.parameters(), 1e-2)
        losses = []
        for _ in range(10):
            inputs = segmenter.backbone.prepare([view])
            loss = cross_entropy(segmenter(inputs).logits, segmenter.backbone.labels(inputs, inputs.label))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, [value.clone() for value in segmenter.state_dict().values()]))
    (losses, weights), (again, same) = runs
    assert losses == again and all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert losses[-1] < 0.5 * losses[0]
