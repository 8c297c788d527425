"""Layers and blocks of Cylinder3D against worked numbers and dense convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl3d.models.backbones.cylinder3d import (
    ALONG,
    FULL,
    KERNELS,
    PHI_Z,
    RHO_Z,
    ActivatedConvolution,
    Branches,
    DimensionContext,
    Kernel,
    SharedConvolution,
)
from ssl3d.models.sparse import BatchNorm, Convolution, ConvolutionTranspose, SparseTensor

SHAPE = (12, 10, 6)
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


def stored(weight: Tensor, kernel: Kernel) -> Tensor:
    """(K, ...) weights in the published order (z runs fastest) -> in the engine's (rho runs fastest)."""
    by_axis = weight.reshape(*kernel, *weight.shape[1:])
    return by_axis.transpose(0, 2).reshape(weight.shape)


def sites(*coordinates: tuple[int, int, int], features: list[float]) -> SparseTensor:
    values = torch.tensor(features, dtype=torch.float32)[:, None]
    return SparseTensor(values, torch.tensor([(0, *c) for c in coordinates]))


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
