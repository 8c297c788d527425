"""MinkowskiEngine 0.5.4 as a side of ``ssl3d bench sparse``, used as its examples use it. Needs nothing of ssl3d."""

from __future__ import annotations

import collections
import collections.abc
from typing import Any

from torch import Tensor, nn

collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]  # gone since Python 3.10
import MinkowskiEngine as ME  # noqa: E402, N817

DIMENSION = 3


class MinkowskiLayers:
    def conv(self, inputs: int, outputs: int, size: int, at: int) -> nn.Module:
        layer: nn.Module = ME.MinkowskiConvolution(inputs, outputs, kernel_size=size, dimension=DIMENSION)
        return layer

    def down(self, inputs: int, outputs: int, at: int) -> nn.Module:
        layer: nn.Module = ME.MinkowskiConvolution(inputs, outputs, kernel_size=2, stride=2, dimension=DIMENSION)
        return layer

    def up(self, inputs: int, outputs: int, at: int) -> nn.Module:
        layer: nn.Module = ME.MinkowskiConvolutionTranspose(
            inputs, outputs, kernel_size=2, stride=2, dimension=DIMENSION
        )
        return layer

    def norm(self, channels: int) -> nn.Module:
        layer: nn.Module = ME.MinkowskiBatchNorm(channels)
        return layer

    def relu(self) -> nn.Module:
        layer: nn.Module = ME.MinkowskiReLU(inplace=True)
        return layer

    def add(self, x: Any, y: Any) -> Any:
        x += y
        return x

    def cat(self, x: Any, y: Any) -> Any:
        return ME.cat(x, y)


class Engine:
    """Sites are (manager, key of stride 1)."""

    layers = MinkowskiLayers()

    def version(self) -> str:
        return f"MinkowskiEngine {ME.__version__}"

    def sites(self, coordinates: Tensor) -> Any:
        manager = ME.CoordinateManager(D=DIMENSION, coordinate_map_type=ME.CoordinateMapType.CPU)
        key, _ = manager.insert_and_map(coordinates, 1)
        return manager, key

    def tensor(self, features: Tensor, sites: Any, stride: int = 1) -> Any:
        manager, key = self._at(sites, stride)
        return ME.SparseTensor(features, coordinate_map_key=key, coordinate_manager=manager)

    def count(self, sites: Any, stride: int) -> int:
        manager, key = self._at(sites, stride)
        return int(manager.size(key))

    def rows(self, x: Any) -> Tensor:
        rows: Tensor = x.F
        return rows

    def network(self, blocks: list[int], inputs: int, classes: int) -> None:
        return None

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names are MinkowskiEngine's already; the classifier is a linear layer."""
        head = {"final.weight": state["final.kernel"].t(), "final.bias": state["final.bias"][0]}
        return {**{f"net.{name}": value for name, value in state.items() if not name.startswith("final.")}, **head}

    def operator(self, name: str, channels: int, stride: int) -> nn.Module:
        if name == "maxpool2":
            layer: nn.Module = ME.MinkowskiMaxPooling(kernel_size=2, stride=2, dimension=DIMENSION)
            return layer
        layers = self.layers
        made = {"down2": layers.down, "up2": layers.up}.get(name)
        return made(channels, channels, stride) if made else layers.conv(channels, channels, int(name[-1]), stride)

    def pairs(self, sites: Any, name: str, stride: int) -> None:
        return None

    def _at(self, sites: Any, stride: int) -> Any:
        manager, key = sites
        return (manager, key) if stride == 1 else (manager, manager.stride(key, stride))
