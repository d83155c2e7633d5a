"""Functions on tensors: neighbour search and the continuous convolution."""

from ccnn_geo.ops.density import compensate_density, quadrature_weights
from ccnn_geo.ops.grid_conv import grid_conv
from ccnn_geo.ops.grid_positions import dense_graph, grid_positions
from ccnn_geo.ops.kernel_support import KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights, magnet_features
from ccnn_geo.ops.neighbor_search import knn_graph, nearest_neighbors, radius_graph
from ccnn_geo.ops.neighborhood import Neighborhood, relative_offsets
from ccnn_geo.ops.nufft_conv import nufft_conv
from ccnn_geo.ops.point_backends.registry import backends, use_backend
from ccnn_geo.ops.point_conv import point_conv
from ccnn_geo.ops.sampling import nyquist_frequency, typical_spacing

__all__ = [
    "KernelSupport",
    "MAGNetWeights",
    "Neighborhood",
    "backends",
    "compensate_density",
    "dense_graph",
    "grid_conv",
    "grid_positions",
    "knn_graph",
    "magnet_features",
    "nearest_neighbors",
    "nufft_conv",
    "nyquist_frequency",
    "point_conv",
    "quadrature_weights",
    "radius_graph",
    "relative_offsets",
    "typical_spacing",
    "use_backend",
]
