"""Continuous convolutions on point clouds for PyTorch Geometric."""

__version__ = "0.1.0"

from pathlib import Path

from ccnn_geo.nn import CCNN, MLP, SIREN, CKConvMP, FourierNet, GaborNet, MAGNet
from ccnn_geo.nn.penalty import collect_kernel_norms, kernel_penalty
from ccnn_geo.ops import backends, knn_graph, radius_graph, use_backend

__all__ = [
    "CCNN",
    "MLP",
    "SIREN",
    "CKConvMP",
    "FourierNet",
    "GaborNet",
    "MAGNet",
    "backends",
    "collect_kernel_norms",
    "kernel_penalty",
    "knn_graph",
    "radius_graph",
    "use_backend",
]

# In a checkout, the data sets lie beside this folder; once installed, they are inside it. `python
# -m` in a checkout imports this folder, whatever is installed.
_CHECKOUT = Path(__file__).parents[1]
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "datasets").is_dir():
    __path__.append(str(_CHECKOUT))
