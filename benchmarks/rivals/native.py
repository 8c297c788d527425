"""Our own engine as a side of ``ssl3d bench sparse``: the layers and networks that users get, with nothing around."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl3d.models import sparse
from ssl3d.models.backbones.minkunet import MinkUNet, MinkUNetParams
from ssl3d.models.backbones.voxels import VoxelInputs
from ssl3d.models.elements import ElementMap
from ssl3d.pipeline.machine import package_versions


class NativeLayers:
    def conv(self, inputs: int, outputs: int, size: int, at: int) -> nn.Module:
        return sparse.Convolution(inputs, outputs, size)

    def down(self, inputs: int, outputs: int, at: int) -> nn.Module:
        return sparse.Convolution(inputs, outputs, 2, 2)

    def up(self, inputs: int, outputs: int, at: int) -> nn.Module:
        return sparse.ConvolutionTranspose(inputs, outputs, 2, 2)

    def norm(self, channels: int) -> nn.Module:
        return sparse.BatchNorm(channels)

    def relu(self) -> nn.Module:
        return sparse.ReLU(inplace=True)

    def add(self, x: sparse.SparseTensor, y: sparse.SparseTensor) -> sparse.SparseTensor:
        return x + y

    def cat(self, x: sparse.SparseTensor, y: sparse.SparseTensor) -> sparse.SparseTensor:
        return sparse.cat([x, y])


class Segmenter(nn.Module):
    """The backbone and its head, on voxels that are there already."""

    def __init__(self, net: MinkUNet, classes: int) -> None:
        super().__init__()
        self.net, self.final = net, net.head(classes)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        every = torch.arange(len(coordinates))
        scans = torch.bincount(coordinates[:, 0])  # their voxels follow one another
        inputs = VoxelInputs(
            elements=ElementMap(every, len(every)),  # a point is a voxel
            rows=every[:, None],
            label=every,
            view_offsets=F.pad(scans.cumsum(0), (1, 0)),
            extras={},
            coordinates=coordinates,
            features=features,
        )
        logits: Tensor = self.final(self.net(inputs).finest)
        return logits


class Engine:
    """Sites are (manager, key of stride 1)."""

    layers = NativeLayers()

    def version(self) -> str:
        return f"ssl3d {package_versions().get('ssl3d', '')}"

    def sites(self, coordinates: Tensor) -> Any:
        manager = sparse.CoordinateManager()
        return manager, manager.insert(coordinates)

    def tensor(self, features: Tensor, sites: Any, stride: int = 1) -> sparse.SparseTensor:
        manager, key = self._at(sites, stride)
        return sparse.SparseTensor(features, coordinate_map_key=key, coordinate_manager=manager)

    def count(self, sites: Any, stride: int) -> int:
        manager, key = self._at(sites, stride)
        return len(manager.map(key))

    def rows(self, x: sparse.SparseTensor) -> Tensor:
        return x.features

    def network(self, blocks: list[int], inputs: int, classes: int) -> nn.Module:
        params = MinkUNetParams.model_validate({"blocks": tuple(blocks)})
        assert params.in_channels == inputs
        return Segmenter(MinkUNet(params), classes)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name if name.startswith("final.") else f"net.{name}": value for name, value in state.items()}

    def operator(self, name: str, channels: int, stride: int) -> nn.Module:
        if name == "maxpool2":
            return sparse.MaxPooling(2, 2)
        layers = self.layers
        made = {"down2": layers.down, "up2": layers.up}.get(name)
        return made(channels, channels, stride) if made else layers.conv(channels, channels, int(name[-1]), stride)

    def pairs(self, sites: Any, name: str, stride: int) -> int:
        manager, fine = self._at(sites, stride)
        if name in ("conv1", "conv3"):
            return manager.kernel_map(fine, fine, int(name[-1])).num_pairs
        coarse = manager.strided(fine, 2)
        return manager.kernel_map(fine, coarse, 2).num_pairs

    def _at(self, sites: Any, stride: int) -> Any:
        manager, key = sites
        return (manager, key) if stride == 1 else (manager, manager.strided(key, stride))


if "NUMBA_NUM_THREADS" in os.environ:
    import numba

    numba.set_num_threads(int(os.environ["NUMBA_NUM_THREADS"]))
