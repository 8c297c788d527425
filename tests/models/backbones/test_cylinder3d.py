"""Cylinder3D: published parameter counts, kernels of each geometry, its levels, and the whole network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl3d.data.errors import UsageError
from ssl3d.data.scan import View
from ssl3d.models.backbones.base import Segmenter
from ssl3d.models.backbones.cylinder import PointEncoder
from ssl3d.models.backbones.cylinder3d import (
    ALONG,
    FULL,
    PHI_Z,
    RHO_Z,
    STRIDES,
    Cylinder3D,
    Cylinder3DParams,
    Initialization,
    Kernel,
    SharedConvolution,
    initialize,
)
from ssl3d.models.backbones.registry import get_backbone, list_backbones, make_backbone
from ssl3d.models.losses.cross_entropy import cross_entropy
from ssl3d.models.sparse import (
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
        used = torch.arange(27) % 3 == 0  # rho runs fastest: its index 0
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
