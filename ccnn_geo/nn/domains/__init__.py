"""The domains on which features live: points, and regular grids as a whole or in part.

A network is written once against `Domain`. A domain is created in every forward pass and holds
everything about the input except its features.
"""

from ccnn_geo.nn.domains.all_points import AllPoints
from ccnn_geo.nn.domains.domain import Convolution, Domain
from ccnn_geo.nn.domains.grid import Grid, mask_from_lengths
from ccnn_geo.nn.domains.points import Points

__all__ = ["AllPoints", "Convolution", "Domain", "Grid", "Points", "mask_from_lengths"]
