from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Backbone, Segmenter
from ssl3d.models.backbones.minkunet import WS3D_STAGES, MinkUNet, MinkUNetParams
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.sparse import ConvolutionTranspose

MakeView = Callable[..., View]
INDOOR = {"stem": "conv5", "features": ("color",)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "options", "classes", "backbone_only", "with_head"),
    [
        ("minkunet14", INDOOR, 20, 11_578_912, 11_580_852),
        ("minkunet18", INDOOR, 20, 21_702_304, 21_704_244),
        ("minkunet34", INDOOR, 20, 37_854_112, 37_856_052),
        ("minkunet14", {**INDOOR, "decoder": "A"}, 20, None, 8_024_500),
        ("minkunet18", {**INDOOR, "decoder": "A"}, 20, None, 15_493_172),
        ("minkunet18", {}, 19, None, 21_723_315),
        ("minkunet14", {**INDOOR, "features": ("xyz", "intensity")}, 20, 11_578_912 + 4000, None),
    ],
)
def test_published_parameter_counts(
    name: str, options: dict[str, object], classes: int, backbone_only: int | None, with_head: int | None
) -> None:
    segmenter = Segmenter(make_backbone(name, options), classes)
    assert backbone_only in (None, count(segmenter.backbone))
    assert with_head in (None, count(segmenter))


def test_names_are_those_of_minkowski_engine() -> None:
    names = make_backbone("minkunet14", INDOOR).state_dict()
    for key in (
        "conv0p1s1.kernel",
        "bn0.bn.weight",
        "conv4p8s2.kernel",
        "block2.0.conv1.kernel",
        "block2.0.norm2.bn.running_mean",
        "block2.0.downsample.0.kernel",
        "block2.0.downsample.1.bn.bias",
        "convtr4p16s2.kernel",
        "bntr7.bn.weight",
    ):
        assert key in names
    assert set(MinkUNet(MinkUNetParams()).head(3).state_dict()) == {"kernel", "bias"}


def test_initialization_keeps_the_quirks() -> None:
    torch.manual_seed(0)
    net = make_backbone("minkunet18", INDOOR)
    assert isinstance(net, MinkUNet)

    def std(parameter: torch.Tensor) -> float:
        return parameter.std().item()

    assert std(net.block4[1].conv1.kernel) == pytest.approx(math.sqrt(2 / (27 * 256)), rel=0.02)
    assert std(net.conv4p8s2.kernel) == pytest.approx(math.sqrt(2 / (8 * 128)), rel=0.02)
    # 1x1, 128 -> 256: the number of *input* channels counts
    assert std(net.block4[0].downsample[0].kernel) == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    up = net.convtr5p8s2
    assert isinstance(up, ConvolutionTranspose)
    bound = 1 / math.sqrt(8 * 128)
    assert 0.99 * bound < up.kernel.abs().max().item() <= bound
    assert std(up.kernel) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert net.bn0.bn.eps == 1e-5 and net.bn0.bn.momentum == 0.1


@pytest.fixture
def micro() -> Backbone:
    torch.manual_seed(0)
    return make_backbone("minkunet-micro", {"voxel_size": 0.5})


def point_features(net: Backbone, views: list[View]) -> torch.Tensor:
    inputs = net.prepare(views)
    with torch.no_grad():
        return inputs.elements.gather(net(inputs).finest)


def test_stages_have_the_published_strides_and_widths(make_view: MakeView) -> None:
    net = make_backbone("minkunet14", {"voxel_size": 0.5}).eval()
    views = [make_view(0), make_view(1)]
    inputs = net.prepare(views)
    with torch.no_grad():
        levels = net(inputs)
    assert [levels.taps[m].stride for m in WS3D_STAGES] == [16, 8, 4, 2, 1]
    assert [levels.taps[m].features.shape[1] for m in WS3D_STAGES] == [256, 256, 128, 96, 96]
    encoder = [levels.taps[f"enc{m}"] for m in range(5)]
    assert [t.features.shape[1] for t in encoder] == [32, 32, 64, 128, 256]
    assert levels.finest.shape == (len(inputs.coordinates), net.out_channels) and net.out_channels == 96
    assert levels.finest is levels.taps["dec4"].features
    manager, key = inputs.sites()
    voxels = np.floor(np.concatenate([v.points for v in views]).astype(np.float64) / 0.5)
    for m, name in enumerate(("enc0", "enc1", "enc2", "enc3", "enc4")):
        # the same rows on the way down and up, and each point's row is its voxel's parent
        tap = levels.taps[name]
        back = levels.taps[f"dec{4 - m}"] if m < 4 else tap
        assert len(back.features) == len(tap.features) and torch.equal(back.point_to_row, tap.point_to_row)
        coordinates = manager.coordinates(key)[tap.point_to_row].numpy()
        assert np.array_equal(coordinates[:, 1:], np.floor(voxels / 2**m) * 2**m)
        key = manager.strided(key, 2)


def test_clipped_points_have_no_row_at_any_level(make_view: MakeView, micro: Backbone) -> None:
    net = make_backbone("minkunet-micro", {"voxel_size": 0.5, "clip": ((-8, 8), (-8, 8), (-5, 5))}).eval()
    inputs = net.prepare([make_view()])
    with torch.no_grad():
        taps = net(inputs).taps
    outside = inputs.elements.point_to_element < 0
    assert bool(outside.any())
    assert len(taps) == 9
    for tap in taps.values():
        assert torch.equal(tap.point_to_row < 0, outside)


def test_order_of_points_does_not_matter(make_view: MakeView, micro: Backbone) -> None:
    view = make_view()
    order = np.random.default_rng(1).permutation(len(view))
    a, b = (point_features(micro.eval(), [v]) for v in (view, view.select(order)))
    torch.testing.assert_close(a[order], b, rtol=1e-4, atol=1e-5)


def test_translation_by_the_deepest_stride(make_view: MakeView, micro: Backbone) -> None:
    """With input features that do not move, a shift by 16 voxels changes nothing."""
    net = make_backbone("minkunet-micro", {"voxel_size": 0.5, "features": ("intensity",)}).eval()
    view = make_view()
    safe = (np.floor(view.points / 0.5) + 0.5) * 0.5  # centers of voxels: no rounding across a border
    a = point_features(net, [view.moved(safe.astype(np.float32))])
    b = point_features(net, [view.moved((safe + np.array([8.0, -16.0, 8.0])).astype(np.float32))])
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_clouds_of_a_batch_do_not_see_each_other_in_eval_mode(make_view: MakeView, micro: Backbone) -> None:
    views = [make_view(0, 900), make_view(1, 600)]
    together = point_features(micro.eval(), views)
    apart = torch.cat([point_features(micro, [view]) for view in views])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_registry() -> None:
    assert {"minkunet14", "minkunet18", "minkunet34", "minkunet-micro"} <= set(list_backbones())
    for name in ("minkunet14", "minkunet18", "minkunet34", "minkunet-micro"):
        assert get_backbone(name).name == name
    with pytest.raises(UsageError, match="minkunet18"):
        make_backbone("minkunet81")
    with pytest.raises(UsageError, match="voxel_size"):
        make_backbone("minkunet14", {"voxelsize": 0.1})
    with pytest.raises(UsageError, match="features"):
        make_backbone("minkunet14", {"features": ["smell"]})
    with pytest.raises(UsageError, match="blocks"):
        make_backbone("minkunet14", {"blocks": (0,) * 8})
    params = get_backbone("minkunet-micro").Params()
    assert make_backbone("minkunet-micro", params).params == params
    with pytest.raises(UsageError, match="not the parameters"):
        make_backbone("minkunet14", params)


def test_listing_backbones_imports_no_torch() -> None:
    code = "import sys; from ssl3d.models.backbones.registry import list_backbones; list_backbones(); "
    run = subprocess.run([sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr
