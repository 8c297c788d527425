"""spconv 2.x as a side of ``ssl3d bench sparse``: inference only, its CPU wheel has no backward pass."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import spconv.pytorch as sp
import torch
from spconv.core import ConvAlgo
from torch import Tensor, nn

COARSEST = 16
"""Coordinates are moved by a multiple of this: spconv knows no negative ones, and strides have to stay aligned."""


class OnRows(nn.Module):
    """A module of torch on the features of a sparse tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.bn = module

    def forward(self, x: Any) -> Any:
        return x.replace_feature(self.bn(x.features))


class Pointwise(nn.Module):
    """A convolution of 1: a matrix product on the rows, without any map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Any) -> Any:
        return x.replace_feature(nn.functional.linear(x.features, self.weight))


class SpconvLayers:
    def conv(self, inputs: int, outputs: int, size: int, at: int) -> nn.Module:
        if size == 1:
            return Pointwise(inputs, outputs)
        layer: nn.Module = sp.SubMConv3d(inputs, outputs, size, bias=False, indice_key=f"at{at}", algo=ConvAlgo.Native)
        return layer

    def down(self, inputs: int, outputs: int, at: int) -> nn.Module:
        layer: nn.Module = sp.SparseConv3d(
            inputs, outputs, 2, 2, bias=False, indice_key=f"from{at}", algo=ConvAlgo.Native
        )
        return layer

    def up(self, inputs: int, outputs: int, at: int) -> nn.Module:
        layer: nn.Module = sp.SparseInverseConv3d(
            inputs, outputs, 2, bias=False, indice_key=f"from{at}", algo=ConvAlgo.Native
        )
        return layer

    def norm(self, channels: int) -> nn.Module:
        return OnRows(nn.BatchNorm1d(channels))

    def relu(self) -> nn.Module:
        return OnRows(nn.ReLU(inplace=True))

    def add(self, x: Any, y: Any) -> Any:
        return x.replace_feature(x.features.add_(y.features))

    def cat(self, x: Any, y: Any) -> Any:
        return x.replace_feature(torch.cat([x.features, y.features], 1))


class Engine:
    """Sites are (indices, shape, clouds)."""

    layers = SpconvLayers()

    def version(self) -> str:
        return f"spconv {version('spconv')}"

    def sites(self, coordinates: Tensor) -> Any:
        low, high = torch.aminmax(coordinates, dim=0)
        shift = low // COARSEST * COARSEST
        shift[0] = 0
        shape = (high - shift) // COARSEST * COARSEST + COARSEST
        return coordinates - shift, shape[1:].tolist(), int(high[0]) + 1

    def tensor(self, features: Tensor, sites: Any, stride: int = 1) -> Any:
        return sp.SparseConvTensor(features, *sites)

    def count(self, sites: Any, stride: int) -> int:
        raise NotImplementedError("only the inference of a network is compared with spconv")

    def rows(self, x: Any) -> Tensor:
        rows: Tensor = x.features
        return rows

    def network(self, blocks: list[int], inputs: int, classes: int) -> None:
        return None

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Kernels (K, in, out) with x fastest become (out, x, y, z, in)."""
        found = {"final.weight": state["final.kernel"].t(), "final.bias": state["final.bias"][0]}
        for name, value in state.items():
            if name.startswith("final."):
                continue
            if name.endswith(".kernel"):
                name = name[: -len("kernel")] + "weight"
                if value.dim() == 2:
                    value = value.t()
                else:
                    side = round(len(value) ** (1 / 3))
                    cube = value.reshape(side, side, side, *value.shape[1:])  # z, y, x, in, out
                    value = cube.permute(4, 2, 1, 0, 3).contiguous()
            found[f"net.{name}"] = value
        return found

    def operator(self, name: str, channels: int, stride: int) -> nn.Module:
        raise NotImplementedError("only the inference of a network is compared with spconv")

    def pairs(self, sites: Any, name: str, stride: int) -> None:
        return None
