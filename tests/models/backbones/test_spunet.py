from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Backbone, Segmenter
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.backbones.spunet import SpUNet
from ssl3d.models.backbones.voxels import VoxelInputs
from ssl3d.models.sparse import BatchNorm, Convolution, ConvolutionTranspose, SparseTensor

MakeView = Callable[..., View]
RGB, LIDAR, BOTH = ("color",), ("intensity", "xyz"), ("color", "xyz_from_min")
EVERY_LEVEL = {"scene": "outdoor", "m": 4, "voxel_size": 0.5}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def weightless() -> Iterator[None]:
    """Networks without storage: what is counted or named needs no numbers."""
    with torch.device("meta"):
        yield


@pytest.fixture(scope="module")
def seven() -> Backbone:
    """All seven levels, narrow; running statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = make_backbone("spunet16", EVERY_LEVEL)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval()


def point_features(net: Backbone, inputs: VoxelInputs) -> torch.Tensor:
    with torch.no_grad():
        return inputs.elements.gather(net(inputs).finest)


@pytest.mark.usefixtures("weightless")
@pytest.mark.parametrize(
    ("name", "features", "expected"),
    [
        ("spunet16", RGB, 7_530_832),
        ("spunet16", LIDAR, 7_531_264),
        ("spunet16", BOTH, 7_532_128),
        ("spunet32", RGB, 30_103_712),
        ("spunet32", LIDAR, 30_104_576),
        ("spunet32", BOTH, 30_106_304),
    ],
)
def test_published_parameter_counts(name: str, features: tuple[str, ...], expected: int) -> None:
    assert count(make_backbone(name, {"features": features})) == expected


@pytest.mark.usefixtures("weightless")
def test_published_parameter_counts_with_heads() -> None:
    projector = count(nn.Linear(32, 32))  # GPC's, which belongs to the method
    for features, classes, expected in ((BOTH, 13, 30_107_789), (BOTH, 20, 30_108_020), (LIDAR, 19, 30_106_259)):
        assert count(Segmenter(make_backbone("spunet32", {"features": features}), classes)) + projector == expected
    plain = {"features": RGB, "reps": 1, "block": "plain"}
    assert count(make_backbone("spunet16", plain)) == 2_689_520
    assert count(Segmenter(make_backbone("spunet16", plain), 20)) == 2_689_860


@pytest.mark.usefixtures("weightless")
def test_names_are_those_of_the_pointgroup_code() -> None:
    names = make_backbone("spunet16", {"m": 1}).state_dict()
    for key in (
        "input_conv.0.kernel",
        "unet.blocks.block0.conv_branch.0.bn.weight",
        "unet.blocks.block1.conv_branch.5.kernel",
        "unet.conv.2.kernel",
        "unet.u.u.u.u.u.u.blocks.block1.conv_branch.2.kernel",
        "unet.deconv.0.bn.running_var",
        "unet.deconv.2.kernel",
        "unet.blocks_tail.block0.i_branch.0.kernel",
        "output_layer.0.bn.bias",
    ):
        assert key in names
    assert not any(key.endswith("i_branch.0.kernel") and "block1" in key for key in names)
    assert "unet.blocks_tail.block0.conv_layers.2.kernel" in make_backbone("spunet16", {"block": "plain"}).state_dict()


def test_initialization_is_that_of_sparseconvnet() -> None:
    torch.manual_seed(0)
    net = make_backbone("spunet16", {"features": BOTH, "levels": 4, "m": 32})
    assert isinstance(net, SpUNet)
    seen = set()
    for layer in net.modules():
        if isinstance(layer, (Convolution, ConvolutionTranspose)):
            expected = math.sqrt(2 / (layer.volume * layer.in_channels))
            assert layer.kernel.std().item() == pytest.approx(expected, rel=0.06), layer
            assert layer.bias is None
            seen.add((type(layer).__name__, layer.volume))
        elif isinstance(layer, BatchNorm):
            assert layer.bn.eps == 1e-4 and layer.bn.momentum == 0.1
    assert seen == {("Convolution", 27), ("Convolution", 8), ("Convolution", 1), ("ConvolutionTranspose", 8)}
    head = net.head(1000)  # as nn.Linear(32, 1000)
    for parameter in head.parameters():
        assert 0.98 / math.sqrt(32) < parameter.abs().max().item() <= 1 / math.sqrt(32)


def test_blocks_add_what_they_were_given(make_view: MakeView) -> None:
    """With the last convolutions at zero a residual block is its shortcut, and the input comes through unchanged."""
    net = make_backbone("spunet-micro", {"voxel_size": 0.5, "features": ("intensity",), "m": 2, "levels": 2}).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("conv_branch.5.kernel", "deconv.2.kernel")):
                parameter.zero_()
        kernel = net.get_parameter("input_conv.0.kernel").zero_()
        kernel[13] = torch.tensor([[1.0, -2.0]])  # the middle offset
        net.get_parameter("unet.blocks_tail.block0.i_branch.0.kernel").copy_(  # the skip comes first
            torch.tensor([[1.0, 0], [0, 1], [7, 7], [7, 7]])
        )
        inputs = net.prepare([make_view()])
        assert isinstance(inputs, VoxelInputs)
        levels = net(inputs)
    expected = torch.cat([inputs.features, -2 * inputs.features], 1)
    torch.testing.assert_close(levels.taps["enc0"].features, expected)
    torch.testing.assert_close(levels.finest, expected.clamp(min=0) / math.sqrt(1 + 1e-4))


@pytest.mark.parametrize("name", ["spunet16", "spunet32"])
def test_stages_have_the_published_strides_and_widths(make_view: MakeView, name: str) -> None:
    net = make_backbone(name, {"scene": "outdoor", "voxel_size": 1.0, "reps": 1, "block": "plain"}).eval()
    assert isinstance(net, SpUNet)
    m = net.out_channels
    inputs = net.prepare([make_view(0), make_view(1)])
    assert isinstance(inputs, VoxelInputs)
    with torch.no_grad():
        levels = net(inputs)
    taps = levels.taps
    assert tuple(taps) == net.tap_names and len(taps) == 13
    assert [taps[name].stride for name in net.stages] == [16, 8, 4, 2, 1]
    assert [taps[name].features.shape[1] for name in net.stages] == [5 * m, 4 * m, 3 * m, 2 * m, m]
    assert [taps[f"enc{i}"].features.shape[1] for i in range(7)] == [m * level for level in range(1, 8)]
    assert levels.finest is taps[net.stages[-1]].features and levels.finest.shape == (len(inputs.coordinates), m)
    assert net.raw_taps == set(net.tap_names) - {net.stages[-1]}
    assert bool((levels.finest >= 0).all())
    assert all(bool((taps[tap].features < 0).any()) for tap in net.raw_taps)


def test_up_convolutions_end_on_the_sites_of_the_encoder(make_view: MakeView, seven: Backbone) -> None:
    sites = {}

    def remember(layer: nn.Module, arguments: tuple[SparseTensor], result: SparseTensor) -> None:
        kind = type(layer).__name__
        sites[kind, result.tensor_stride[0]] = arguments[0].coordinates, result.coordinates

    hooks = [
        layer.register_forward_hook(remember)
        for layer in seven.modules()
        if isinstance(layer, (Convolution, ConvolutionTranspose)) and layer.volume == 8
    ]
    inputs = seven.prepare([make_view(0), make_view(1)])
    point_features(seven, inputs)
    for hook in hooks:
        hook.remove()
    for stride in (1, 2, 4, 8, 16, 32):
        encoder, coarse = sites["Convolution", 2 * stride]
        before, after = sites["ConvolutionTranspose", stride]
        assert torch.equal(after, encoder) and torch.equal(before, coarse)
        parents = torch.cat([encoder[:, :1], encoder[:, 1:].div(2 * stride, rounding_mode="floor") * 2 * stride], 1)
        assert torch.equal(parents.unique(dim=0), coarse.unique(dim=0))


def test_translation_by_the_deepest_stride(make_view: MakeView, seven: Backbone) -> None:
    """With input features that do not move, a shift by 64 voxels changes nothing; one by 32 does."""
    inputs = seven.prepare([make_view(0), make_view(1)])
    expected = point_features(seven, inputs)
    shift = torch.tensor([0, 64, -128, 192], dtype=torch.int32)
    moved = inputs.map(lambda tensor: tensor)
    moved = replace(moved, coordinates=inputs.coordinates + shift, _sites=None)
    torch.testing.assert_close(point_features(seven, moved), expected, rtol=1e-4, atol=1e-5)
    half = replace(inputs, coordinates=inputs.coordinates + shift // 2, _sites=None)
    assert not torch.allclose(point_features(seven, half), expected, rtol=1e-2, atol=1e-3)


def test_order_of_points_and_of_voxels_does_not_matter(make_view: MakeView, seven: Backbone) -> None:
    view = make_view()
    order = np.random.default_rng(1).permutation(len(view))
    inputs = seven.prepare([view])
    expected = point_features(seven, inputs)
    permuted = point_features(seven, seven.prepare([view.select(order)]))
    torch.testing.assert_close(expected[order], permuted, rtol=1e-4, atol=1e-5)
    rows = torch.randperm(len(inputs.coordinates), generator=torch.Generator().manual_seed(0))
    shuffled = replace(inputs, coordinates=inputs.coordinates[rows], features=inputs.features[rows], _sites=None)
    with torch.no_grad():
        torch.testing.assert_close(seven(shuffled).finest, seven(inputs).finest[rows], rtol=1e-4, atol=1e-5)


def test_clouds_of_a_batch_do_not_see_each_other_in_eval_mode(make_view: MakeView, seven: Backbone) -> None:
    views = [make_view(0, 900), make_view(1, 600)]
    together = point_features(seven, seven.prepare(views))
    apart = torch.cat([point_features(seven, seven.prepare([view])) for view in views])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_scene_sets_what_is_not_given() -> None:
    params = get_backbone("spunet32").Params
    assert (params().voxel_size, params().features, params().clip, params().m) == (0.02, BOTH, None, 32)
    outdoor = params(scene="outdoor")
    assert (outdoor.voxel_size, outdoor.features, outdoor.in_channels) == (0.05, LIDAR, 4)
    assert outdoor.clip == ((-100, 100), (-100, 100), (-20, 20))
    assert params(scene="outdoor", voxel_size=0.1, clip=None).model_dump(include={"voxel_size", "clip"}) == {
        "voxel_size": 0.1,
        "clip": None,
    }
    micro = get_backbone("spunet-micro").Params
    assert micro(scene="outdoor") == micro() and micro().voxel_size == 0.15
    assert micro(scene="indoor").features == BOTH and micro(scene="indoor").levels == 5
    for built in (outdoor, micro(), micro(scene="indoor")):
        assert type(built).model_validate(built.model_dump(mode="json")) == built


def test_bad_parameters(make_view: MakeView) -> None:
    for key, value in (("scene", "space"), ("levels", 1), ("reps", 0), ("m", 0), ("block", "vgg"), ("features", ())):
        with pytest.raises(UsageError, match=key):
            make_backbone("spunet16", {key: value})
    with pytest.raises(DataError, match="color") as raised:
        make_backbone("spunet16", {"m": 1}).prepare([make_view()])
    assert "backbone.scene=outdoor" in str(raised.value.hint) and "xyz,intensity" in str(raised.value.hint)


def test_registry() -> None:
    names = ("spunet16", "spunet32", "spunet-micro")
    assert set(names) <= set(list_backbones())
    for name in names:
        assert get_backbone(name).name == name


def gradients(net: nn.Module) -> Iterator[torch.Tensor]:
    for parameter in net.parameters():
        assert parameter.grad is not None
        yield parameter.grad


@pytest.mark.parametrize("block", ["residual", "plain"])
def test_every_parameter_is_trained(make_view: MakeView, block: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(make_backbone("spunet-micro", {"voxel_size": 0.5, "m": 4, "reps": 2, "block": block}), 3)
    inputs = segmenter.backbone.prepare([make_view(0), make_view(1)])
    segmenter(inputs).logits.square().sum().backward()
    assert all(bool(grad.isfinite().all()) and bool(grad.any()) for grad in gradients(segmenter))
