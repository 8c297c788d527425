"""Cylinder3D against worked numbers, dense convolution and the published parameter counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.cylinder import PointEncoder
from ssl3d.models.backbones.cylinder3d import (
    ALONG,
    FULL,
    KERNELS,
    PHI_Z,
    RHO_Z,
    STRIDES,
    ActivatedConvolution,
    Branches,
    Cylinder3D,
    Cylinder3DParams,
    DimensionContext,
    Initialization,
    Kernel,
    SharedConvolution,
    initialize,
)
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.sparse import (
    BatchNorm,
    Convolution,
    ConvolutionTranspose,
    CoordinateManager,
    SparseTensor,
    SparseTensorError,
)

MakeView = Callable[..., View]
TINY = {
    "grid": (48, 36, 12), "rho": (0.0, 16.0), "z": (-2.0, 4.0),
    "point_widths": (8, 8, 8, 8), "compressed": 4, "base_channels": 2,
}  # fmt: skip


def tiny(seed: int = 0, **options: Any) -> Cylinder3D:
    torch.manual_seed(seed)
    net = make_backbone("cylinder3d", {**TINY, **options})
    assert isinstance(net, Cylinder3D)
    return net


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stored(weight: Tensor, kernel: Kernel) -> Tensor:
    """(K, ...) weights in the published order (z runs fastest) -> in the engine's (rho runs fastest)."""
    by_axis = weight.reshape(*kernel, *weight.shape[1:])
    return by_axis.transpose(0, 2).reshape(weight.shape)


def sites(*coordinates: tuple[int, int, int], features: list[float] | None = None, **options: Any) -> SparseTensor:
    values = torch.tensor(features or [0.0] * len(coordinates), dtype=torch.float32)[:, None]
    return SparseTensor(values, torch.tensor([(0, *c) for c in coordinates]), **options)


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("options", "classes", "parameters"),
    [
        ({}, 20, 55_853_366),
        ({}, 17, 55_842_995),
        ({}, 19, 55_849_909),
        ({}, 16, 55_839_538),
        ({"features": ("intensity", "ring")}, 20, 55_853_432),
        ({"grid": (240, 180, 20)}, 20, 55_853_366),
        ({"geometry": "first_key"}, 20, 55_853_366),
        ({"geometry": "per_branch"}, 20, 49_586_486),
        ({"base_channels": 16}, 20, 14_071_542),
        ({"base_channels": 16, "compressed": 8}, 20, 14_067_182),
        ({"base_channels": 24}, 20, 31_484_566),
    ],
)
def test_published_parameter_counts(options: dict[str, Any], classes: int, parameters: int) -> None:
    with torch.device("meta"):
        segmenter = Segmenter(Cylinder3D(Cylinder3DParams(**options)), classes)
    assert count(segmenter) == parameters


def test_published_parameters_of_every_part() -> None:
    with torch.device("meta"):
        net = Cylinder3D(Cylinder3DParams())
        wide = PointEncoder(66, (64, 128, 256, 256), 16)
    parts = [getattr(net, name) for name in ("encoder", "context", "down1", "down2", "down3", "down4")]
    assert [count(part) for part in parts] == [112_802, 27_904, 221_696, 885_760, 3_540_992, 14_159_872]
    ups = [count(part) for part in (net.up1, net.up2, net.up3, net.up4, net.gates)]
    assert ups == [25_956_352, 8_259_584, 2_065_408, 516_608, 37_248]
    assert count(net) - count(net.encoder) == 55_671_424
    with torch.device("meta"):
        assert count(net.head(20)) == 69_140
    assert 55_853_366 + count(wide) - count(net.encoder) == 55_857_128


def test_weights_without_a_gradient_under_shared_keys(make_view: MakeView) -> None:
    net = tiny(geometry="first_key")
    net(net.prepare([make_view()])).finest.sum().backward()
    dead = 0
    for up in (net.up1, net.up2, net.up3, net.up4):
        gradient = up.after[2].conv.kernel.grad
        used = stored(torch.arange(27), FULL) < 9  # in the published order the slices of rho index 0 come first
        assert bool((gradient[used] != 0).any()) and not bool(gradient[~used].any())
        dead += gradient[~used].numel()
    b = 2
    assert dead == 18 * ((16 * b) ** 2 + (8 * b) ** 2 + (4 * b) ** 2 + (2 * b) ** 2)
    assert 18 * (512**2 + 256**2 + 128**2 + 64**2) == 6_266_880 == 55_853_366 - 49_586_486


@pytest.mark.parametrize(
    ("rule", "kernel", "bound"),
    [
        ("fan_in", RHO_Z, 0.05893),
        ("fan_in", PHI_Z, 0.05893),
        ("fan_in", FULL, 1 / math.sqrt(27 * 32)),
        ("spconv1", RHO_Z, 0.01276),
        ("spconv1", PHI_Z, 0.00737),
    ],
)
def test_initialization(rule: Initialization, kernel: Kernel, bound: float) -> None:
    torch.manual_seed(0)
    for made in (SharedConvolution(32, 64, kernel, kernel), ConvolutionTranspose(32, 64, kernel)):
        initialize(made, rule)
        assert 0.99 * bound < made.kernel.abs().max().item() <= 1.001 * bound
    net = tiny(initialization=rule)  # base 2: the second layer of a branch is 4 -> 4 channels, the head 8 -> 50
    assert isinstance(net.down1.branches.a[1].conv, SharedConvolution)
    limit = 1 / math.sqrt(9 * 4 if rule == "fan_in" else 9 * 4 * 4)  # 1x3x3
    assert 0.9 * limit < net.down1.branches.a[1].conv.kernel.abs().max().item() <= limit
    head = net.head(50)
    limit = 1 / math.sqrt(27 * 8 if rule == "fan_in" else 9 * 8 * 50)
    assert 0.99 * limit < head.kernel.abs().max().item() <= limit
    assert 0.9 * limit < head.bias.abs().max().item() <= limit
    assert net.context.a[0].norm.bn.eps == 1e-5 and net.context.a[0].norm.bn.momentum == 0.1


# ---------------------------------------------------------------- layers


CROSS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
"""Features 1, 10, 100, 1000."""
OUTPUTS = {
    PHI_Z: [6805, 50, 3502, 5704],
    RHO_Z: [6085, 3052, 500, 5074],
    FULL: [16944, 6945, 13611, 15833],
    ALONG[0]: [32, 21, 200, 2000],
    ALONG[1]: [302, 20, 201, 2000],
    ALONG[2]: [3002, 20, 200, 2001],
}


def counting(kernel: Kernel, executed: Kernel) -> SharedConvolution:
    """Weights 1, 2, 3, ... in the published order."""
    layer = SharedConvolution(1, 1, kernel, executed)
    weight = torch.arange(1.0, layer.volume + 1).reshape(-1, 1, 1)
    layer.kernel.data = stored(weight, kernel)
    return layer


@pytest.mark.parametrize("kernel", list(OUTPUTS))
def test_flat_kernels(kernel: Kernel) -> None:
    x = sites(*CROSS, features=[1, 10, 100, 1000])
    assert counting(kernel, kernel)(x).features.flatten().tolist() == OUTPUTS[kernel]


@pytest.mark.parametrize(
    ("kernel", "first"),
    [(RHO_Z, PHI_Z), (FULL, PHI_Z), (PHI_Z, RHO_Z), (ALONG[1], ALONG[0]), (ALONG[2], ALONG[0])],
)
def test_kernels_on_the_neighbors_of_the_first(kernel: Kernel, first: Kernel) -> None:
    x = sites(*CROSS, features=[1, 10, 100, 1000])
    assert counting(kernel, first)(x).features.flatten().tolist() == OUTPUTS[first]


def test_which_kernels_a_geometry_runs() -> None:
    def kernels(net: Cylinder3D) -> list[list[Kernel]]:
        """Executed by the context block, the down and up blocks, and the gates."""
        blocks = (net.context, net.down3.branches, net.up2.after, net.gates)
        return [[m.executed for m in block.modules() if isinstance(m, SharedConvolution)] for block in blocks]

    assert kernels(tiny()) == [
        [PHI_Z, RHO_Z, RHO_Z, PHI_Z], [RHO_Z, PHI_Z, PHI_Z, RHO_Z], [PHI_Z, RHO_Z, FULL], list(ALONG),
    ]  # fmt: skip
    assert kernels(tiny(geometry="first_key")) == [[PHI_Z] * 4, [RHO_Z] * 4, [PHI_Z] * 3, [ALONG[0]] * 3]
    assert kernels(tiny(geometry="per_branch")) == [
        [PHI_Z, PHI_Z, RHO_Z, RHO_Z], [RHO_Z, RHO_Z, PHI_Z, PHI_Z], [PHI_Z] * 3, list(ALONG),
    ]  # fmt: skip
    # weights go from the one to the other: the names and shapes are the same
    tiny(geometry="first_key").load_state_dict(tiny().state_dict())


def strided(rule: str, grid: Kernel, weight: list[float], stride: Kernel = (2, 1, 1)) -> Convolution:
    """Weights along the first axis, the others 1 cell wide."""
    options: dict[str, Any] = {"sites": "reach", "bounds": grid} if rule == "dilate" else {}
    layer = Convolution(1, 1, (3, 1, 1), stride, **options)
    layer.kernel.data = torch.tensor(weight, dtype=torch.float32).reshape(-1, 1, 1)
    return layer


def test_strided_and_transposed_along_one_axis() -> None:
    x = sites((0, 0, 0), (1, 0, 0), (3, 0, 0), features=[1, 10, 100])
    y = strided("dilate", (8, 1, 1), [1, 2, 3])(x)
    assert y.coordinates[:, 1].tolist() == [0, 2, 4]
    assert y.features.flatten().tolist() == [32, 310, 100]
    floored = strided("floor", (8, 1, 1), [1, 2, 3])(x)
    assert floored.coordinates[:, 1].tolist() == [0, 2]
    assert floored.features.flatten().tolist() == [32, 310]
    back = ConvolutionTranspose(1, 1, (3, 1, 1), (2, 1, 1))
    back.kernel.data = torch.tensor([1.0, 2, 3]).reshape(3, 1, 1)
    assert back(y, x).features.flatten().tolist() == [64, 406, 1030]


def test_no_site_beyond_the_last_cell() -> None:
    y = strided("dilate", (480, 1, 1), [1, 2, 3])(sites((478, 0, 0), (479, 0, 0), features=[1, 10]))
    assert y.coordinates[:, 1].tolist() == [478] and y.features.tolist() == [[32]]


@pytest.mark.parametrize("kernel", list(OUTPUTS))
def test_flat_kernels_equal_dense_convolution(kernel: Kernel, random_cells: Tensor) -> None:
    layer = SharedConvolution(3, 2, kernel, kernel)
    layer.kernel.data.normal_()
    x, dense = with_features(random_cells, 3)
    weight = layer.kernel.detach().reshape(*kernel[::-1], 3, 2).permute(4, 3, 2, 1, 0)
    wanted = F.conv3d(dense, weight, padding=tuple(k // 2 for k in kernel))
    torch.testing.assert_close(layer(x).features.detach(), at(wanted, x.coordinates), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1)])
def test_strided_layers_equal_dense_convolution(stride: Kernel, random_cells: Tensor) -> None:
    down = Convolution(3, 2, 3, stride, sites="reach", bounds=SHAPE)
    up = ConvolutionTranspose(2, 4, 3, stride)
    for layer in (down, up):
        layer.kernel.data.normal_()
    x, dense = with_features(random_cells, 3)
    weight = down.kernel.detach().reshape(3, 3, 3, 3, 2).permute(4, 3, 2, 1, 0)
    wanted = F.conv3d(dense, weight, padding=1, stride=stride)
    y = down(x)
    cells = y.coordinates.clone()
    cells[:, 1:] //= torch.tensor(stride)
    torch.testing.assert_close(y.features.detach(), at(wanted, cells), rtol=0, atol=1e-4)
    wanted[0, :, cells[:, 1], cells[:, 2], cells[:, 3]] = 0
    assert not bool(wanted.any())  # zero wherever there is no site
    coarse = torch.zeros_like(wanted)
    coarse[0, :, cells[:, 1], cells[:, 2], cells[:, 3]] = y.features.detach().t()
    transposed = up.kernel.detach().reshape(3, 3, 3, 2, 4).permute(3, 4, 2, 1, 0)
    padding = [size - 1 - (n - 1) * s for size, n, s in zip(SHAPE, coarse.shape[2:], stride, strict=True)]
    fine = F.conv_transpose3d(coarse, transposed, padding=1, stride=stride, output_padding=padding)
    torch.testing.assert_close(up(y, x).features.detach(), at(fine, x.coordinates), rtol=0, atol=1e-4)


SHAPE = (12, 10, 6)


@pytest.fixture
def random_cells() -> Tensor:
    """15 of 100 cells of a 12 x 10 x 6 grid, those at its far and near corner among them; (n, 4) int32."""
    active = np.random.default_rng(0).random(SHAPE) < 0.15
    active[0, 0, 0] = active[-1, -1, -1] = True
    cells = np.argwhere(active)
    return torch.from_numpy(np.c_[np.zeros(len(cells)), cells].astype(np.int32))


def with_features(cells: Tensor, channels: int) -> tuple[SparseTensor, Tensor]:
    features = torch.randn(len(cells), channels, generator=torch.Generator().manual_seed(1))
    dense = torch.zeros(1, channels, *SHAPE)
    dense[0, :, cells[:, 1].long(), cells[:, 2].long(), cells[:, 3].long()] = features.t()
    return SparseTensor(features, cells), dense


def at(dense: Tensor, cells: Tensor) -> Tensor:
    return dense[0, :, cells[:, 1].long(), cells[:, 2].long(), cells[:, 3].long()].t()


def test_activation_comes_before_the_norm() -> None:
    block = ActivatedConvolution(1, 1, RHO_Z, RHO_Z, BatchNorm)
    block.conv.kernel.data = stored((torch.arange(9) == 4).float().reshape(-1, 1, 1), RHO_Z)
    out = block(sites((0, 0, 0), (9, 0, 0), (0, 9, 0), features=[-1, 0, 3]))
    torch.testing.assert_close(
        out.features.flatten().detach(), torch.tensor([-0.710632, -0.703572, 1.414204]), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize(("norms", "wanted"), [((0, 0, 0), 3.0), ((1, -1, 0.5), 3.244919)])
def test_gates(norms: tuple[float, float, float], wanted: float) -> None:
    gates = DimensionContext(1, KERNELS["intended"], BatchNorm).eval()
    for conv, norm, value in zip(gates.convs, gates.norms, norms, strict=True):
        conv.kernel.data.zero_()
        norm.bn.bias.data.fill_(value)
    assert gates(sites((0, 0, 0), features=[2.0])).features.item() == pytest.approx(wanted, abs=1e-6)


def test_branches_have_no_identity_path() -> None:
    block = Branches(1, 2, KERNELS["intended"].context, False, BatchNorm).eval()
    for part in (block.a[1], block.b[1]):
        part.conv.kernel.data.zero_()
    assert not bool(block(sites(*CROSS, features=[1, 10, 100, 1000])).features.any())


# ---------------------------------------------------------------- levels


def level_sizes(cells: Tensor, grid: Kernel, rule: str = "dilate") -> tuple[list[int], list[tuple[int, ...]]]:
    """Number of sites of the four coarser levels, and the largest index of each axis + 1 in units of its level."""
    net = tiny(grid=grid, down_sites=rule)
    manager = CoordinateManager()
    x = SparseTensor(torch.zeros(len(cells), 1), coordinate_map_key=manager.insert(cells), coordinate_manager=manager)
    sizes, shapes = [], []
    for down in (net.down1, net.down2, net.down3, net.down4):
        key = down.pool.output_sites(x)
        x = SparseTensor(torch.zeros(len(manager.map(key)), 1), coordinate_map_key=key, coordinate_manager=manager)
        sizes.append(len(x))
        shapes.append(tuple((x.coordinates[:, 1:].amax(0) // torch.tensor(x.tensor_stride) + 1).tolist()))
    return sizes, shapes


@pytest.mark.parametrize(("cell", "sizes"), [((95, 179, 11), [8, 8, 16, 24]), ((96, 176, 16), [1, 1, 3, 5])])
def test_growth_of_one_cell(cell: Kernel, sizes: list[int]) -> None:
    cells = torch.tensor([(0, *cell)])
    assert level_sizes(cells, (480, 360, 32))[0] == sizes
    assert level_sizes(cells, (480, 360, 32), "floor")[0] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("grid", "shapes"),
    [
        ((480, 360, 32), [(240, 180, 16), (120, 90, 8), (60, 45, 8), (30, 23, 8)]),
        ((240, 180, 20), [(120, 90, 10), (60, 45, 5), (30, 23, 5), (15, 12, 5)]),
    ],
)
def test_shapes_of_levels(grid: Kernel, shapes: list[Kernel]) -> None:
    corner = torch.tensor([(0, *(n - 1 for n in grid))])
    assert level_sizes(corner, grid)[1] == shapes


@pytest.mark.parametrize(
    ("grid", "rule", "cells", "sizes"),
    [
        ((480, 360, 32), "dilate", 22_617, [22_320, 7_920, 5_400, 2_415]),
        ((480, 360, 32), "floor", 22_617, [8_820, 3_150, 1_170, 414]),
        ((240, 180, 20), "dilate", 8_950, [7_740, 2_880, 1_610, 540]),
    ],
)
def test_levels_of_a_sweep(grid: Kernel, rule: str, cells: int, sizes: list[int]) -> None:
    """64 beams of 2048 points over flat ground 1.73 m below, and a wall 30 m around."""
    beam, phi = np.meshgrid(np.deg2rad(np.linspace(-24.8, 2.0, 64)), 1e-3 + np.arange(2048) * (2 * np.pi / 2048))
    rho = np.where(beam < 0, np.minimum(-1.73 / np.tan(beam), 30.0), 30.0)
    points = np.stack([rho * np.cos(phi), rho * np.sin(phi), rho * np.tan(beam)], -1).reshape(-1, 3)
    spec = make_backbone("cylinder3d", {"base_channels": 1, "grid": grid}).input_spec
    view = View(
        points=points.astype(np.float32),
        features={"intensity": np.zeros((len(points), 1), np.float32)},
        rows=np.zeros((len(points), 2), np.int64),
        label=np.zeros(len(points), np.uint8),
    )
    coordinates = spec.prepare([view]).coordinates
    assert len(coordinates) == cells
    assert level_sizes(coordinates, grid, rule)[0] == sizes


# ---------------------------------------------------------------- the network


def point_logits(segmenter: Segmenter, views: list[View]) -> Tensor:
    inputs = segmenter.backbone.prepare(views)
    with torch.no_grad():
        return inputs.elements.gather(segmenter(inputs).logits)


@pytest.mark.parametrize("rule", ["dilate", "floor"])
def test_taps(make_view: MakeView, rule: str) -> None:
    net = tiny(down_sites=rule).eval()
    inputs = net.prepare([make_view(0), make_view(1)])
    with torch.no_grad():
        levels = net(inputs)
    assert tuple(levels.taps) == net.tap_names
    assert [levels.taps[name].features.shape[1] for name in net.stages] == [32, 32, 16, 8, 4]
    assert [levels.taps[name].stride for name in net.stages] == [16, 8, 4, 2, 1]
    assert [levels.taps[f"enc{m}"].features.shape[1] for m in range(5)] == [2, 4, 8, 16, 32]
    assert levels.finest.shape == (len(inputs.coordinates), 8) and net.out_channels == 8
    assert torch.equal(levels.finest[:, 4:], levels.taps["dec4"].features)  # context first, then what it came from
    gate = levels.finest[:, :4] / levels.finest[:, 4:]
    assert gate.min().item() > 0 and gate.max().item() < 3
    manager, key = inputs.sites()
    fine = inputs.coordinates[inputs.elements.point_to_element].long()
    scale = torch.ones(4, dtype=torch.int64)
    for m, stride in enumerate(STRIDES, 1):
        scale[1:] *= torch.tensor(stride)
        reach = (key, stride, (3, 3, 3), (1, 1, 1), net.params.grid)
        key = manager.reached(*reach) if rule == "dilate" else manager.strided(key, stride)
        tap = levels.taps[f"enc{m}"]
        assert torch.equal(manager.coordinates(key)[tap.point_to_row].long(), fine // scale * scale)
        assert torch.equal(tap.point_to_row, levels.taps[f"dec{4 - m}"].point_to_row) if m < 4 else True


def test_head_is_a_convolution_and_a_module_of_its_own(make_view: MakeView) -> None:
    segmenter = Segmenter(tiny(), 3).eval()
    assert set(segmenter.head.state_dict()) == {"kernel", "bias"}
    inputs = segmenter.backbone.prepare([make_view()])
    with torch.no_grad():
        output = segmenter(inputs)
        assert torch.equal(segmenter.classify(output.levels.finest, inputs), output.logits)
        segmenter.head.kernel[torch.arange(27) != 13] = 0  # only the center is left
        alone = output.levels.finest @ segmenter.head.kernel[13] + segmenter.head.bias
        torch.testing.assert_close(segmenter(inputs).logits, alone)
    assert not torch.allclose(output.logits, alone)


@pytest.mark.parametrize("options", [{}, {"down_sites": "floor", "geometry": "per_branch"}, {"geometry": "first_key"}])
def test_neither_the_order_of_points_nor_other_sweeps_matter(make_view: MakeView, options: dict[str, str]) -> None:
    segmenter = Segmenter(tiny(**options), 3).eval()
    views = [make_view(0, 900), make_view(1, 600)]
    together = point_logits(segmenter, views)
    apart = torch.cat([point_logits(segmenter, [view]) for view in views])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(1).permutation(900)
    shuffled = point_logits(segmenter, [views[0].select(order)])
    torch.testing.assert_close(shuffled, apart[:900][order], rtol=1e-4, atol=1e-5)


def test_training_is_reproducible_and_learns(make_view: MakeView) -> None:
    view = make_view(0, 300)
    view.label[:] = (view.points[:, 0] > 0).astype(np.uint8)
    runs = []
    for _ in range(2):
        segmenter = Segmenter(tiny(7), 3)
        optimizer = torch.optim.AdamW(segmenter.parameters(), 2e-2)
        losses = []
        for _ in range(6):
            inputs = segmenter.backbone.prepare([view])
            loss = cross_entropy(segmenter(inputs).logits, segmenter.backbone.labels(inputs, inputs.label))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, segmenter.state_dict()))
    (losses, weights), (again, same) = runs
    assert losses == again and all(torch.equal(weights[k], same[k]) for k in weights)
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in segmenter.parameters())


def test_half_precision(make_view: MakeView) -> None:
    segmenter = Segmenter(tiny(), 3).eval()
    exact = point_logits(segmenter, [make_view()])
    with torch.autocast("cpu", torch.bfloat16):
        half = point_logits(segmenter, [make_view()])
    assert (half.float() - exact).abs().max() < 0.1 * exact.std()
    segmenter.train()
    with torch.autocast("cpu", torch.bfloat16):
        segmenter(segmenter.backbone.prepare([make_view()])).logits.float().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in segmenter.parameters() if p.grad is not None)


def test_few_points(make_view: MakeView) -> None:
    segmenter = Segmenter(tiny(), 3)
    view = make_view(0, 3)
    view.points[:] = 0.0, 0.0, -2.0  # one cell, at the corner of the grid: one site at every level
    with pytest.raises(SparseTensorError, match="more than one voxel"):
        segmenter(segmenter.backbone.prepare([view]))
    logits = point_logits(segmenter.eval(), [view])
    assert logits.shape == (3, 3) and bool(logits.isfinite().all()) and len(logits.unique(dim=0)) == 1
    far = make_view(0, 5)
    far.points[:] = far.points * 1e6
    assert bool(point_logits(segmenter, [far]).isfinite().all())


def test_registry() -> None:
    names = ("cylinder3d", "cylinder3d-lasermix", "cylinder3d-micro")
    assert set(names) <= set(list_backbones())
    assert [get_backbone(name).name for name in names] == list(names)
    assert get_backbone("cylinder3d").Params().grid == (480, 360, 32)
    assert get_backbone("cylinder3d-lasermix").Params().grid == (240, 180, 20)
    assert count(Segmenter(make_backbone("cylinder3d-micro"), 19)) < 4_000_000
    for bad, word in (
        ({"grid": (480, 360, 1)}, "two cells"),
        ({"z": (2.0, -4.0)}, "lower"),
        ({"rho": (0.0, math.inf)}, "lower|finite"),
        ({"features": ("xyz",)}, "sensor channels"),
        ({"geometry": "intend"}, "intended"),
        ({"point_widths": (8, 8, 0, 8)}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=word):
            make_backbone("cylinder3d", bad)
