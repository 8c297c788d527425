"""The sparse-convolution engine: MinkowskiEngine's vocabulary, numerics and parameter names, in torch and numba."""

from ssl3d.models.sparse.channelwise import ChannelwiseConvolution, SeparableConvolution
from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.field import TensorField
from ssl3d.models.sparse.global_pooling import (
    Broadcast,
    BroadcastAddition,
    BroadcastConcatenation,
    BroadcastMultiplication,
    GlobalAvgPooling,
    GlobalMaxPooling,
    GlobalSumPooling,
)
from ssl3d.models.sparse.interpolate import Interpolation, interpolate
from ssl3d.models.sparse.kernel_map import KernelMap, kernel_offsets
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey
from ssl3d.models.sparse.modules import BatchNorm, Convolution, ConvolutionTranspose, ReLU
from ssl3d.models.sparse.norm import InstanceNorm, StableInstanceNorm
from ssl3d.models.sparse.pooling import AvgPooling, MaxPooling, MaxUnpooling, PoolingTranspose, SumPooling
from ssl3d.models.sparse.pruning import Pruning
from ssl3d.models.sparse.regions import region_gather, region_max, region_mean, region_sum
from ssl3d.models.sparse.tensor import SparseTensor
from ssl3d.models.sparse.union import Union, cat
from ssl3d.models.sparse.voxelize import unique_voxels, voxel_mean, voxel_reduce, voxelize

__all__ = [
    "AvgPooling",
    "BatchNorm",
    "Broadcast",
    "BroadcastAddition",
    "BroadcastConcatenation",
    "BroadcastMultiplication",
    "ChannelwiseConvolution",
    "Convolution",
    "ConvolutionTranspose",
    "CoordinateManager",
    "CoordinateMapKey",
    "GlobalAvgPooling",
    "GlobalMaxPooling",
    "GlobalSumPooling",
    "InstanceNorm",
    "Interpolation",
    "KernelMap",
    "MaxPooling",
    "MaxUnpooling",
    "PoolingTranspose",
    "Pruning",
    "ReLU",
    "SeparableConvolution",
    "SparseTensor",
    "SparseTensorError",
    "StableInstanceNorm",
    "SumPooling",
    "TensorField",
    "Union",
    "cat",
    "interpolate",
    "kernel_offsets",
    "region_gather",
    "region_max",
    "region_mean",
    "region_sum",
    "unique_voxels",
    "voxel_mean",
    "voxel_reduce",
    "voxelize",
]
