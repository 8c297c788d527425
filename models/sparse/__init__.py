"""The sparse-convolution engine: MinkowskiEngine's vocabulary, numerics and parameter names, in torch and numba."""

from ssl3d.models.sparse.errors import SparseTensorError
from ssl3d.models.sparse.kernel_map import KernelMap, kernel_offsets
from ssl3d.models.sparse.manager import CoordinateManager, CoordinateMapKey
from ssl3d.models.sparse.modules import BatchNorm, Convolution, ConvolutionTranspose, ReLU
from ssl3d.models.sparse.tensor import SparseTensor, cat
from ssl3d.models.sparse.voxelize import voxel_mean, voxelize

__all__ = [
    "BatchNorm",
    "Convolution",
    "ConvolutionTranspose",
    "CoordinateManager",
    "CoordinateMapKey",
    "KernelMap",
    "ReLU",
    "SparseTensor",
    "SparseTensorError",
    "cat",
    "kernel_offsets",
    "voxel_mean",
    "voxelize",
]
