"""Kernel networks that are plain perceptrons, for comparison with the Gabor networks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ccnn_geo.nn.checks import check_positive
from ccnn_geo.nn.kernels import KernelNetwork
from ccnn_geo.ops.scalars import check_count


class SIREN(KernelNetwork):
    r"""Network with sine activations, the kernel network of CKConv.

    `Implicit Neural Representations with Periodic Activation Functions
    <https://arxiv.org/abs/2006.09661>`_ (Sitzmann et al. 2020), Sec. 3.2: every hidden layer is
    :math:`\sin(\omega_0 (W h + b))`.

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.
        num_layers: Number of hidden layers.
        omega_0: Factor inside the first sine, in radians per unit of coordinate; the later layers
            use 1, as CKConv does.

    Shapes:
        - **input:** coordinates `[..., D]`
        - **output:** kernel values `[..., C]`

    Raises:
        ValueError: If a size or `omega_0` is not positive.
    """

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        omega_0: float = 30.0,
    ) -> None:
        super().__init__(dim, hidden_channels, out_channels)
        self.num_layers = check_count("num_layers", num_layers)
        self.omega_0 = check_positive("omega_0", omega_0)
        self.layers = _linear_layers(dim, hidden_channels, num_layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, so that every layer's angles have unit variance."""
        super().reset_parameters()
        for number, (weight, bias) in enumerate(layer.parameters() for layer in self.layers):
            bound = 1 / self.dim if number == 0 else math.sqrt(6 / self.hidden_channels)
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -math.pi, math.pi)

    def features(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network up to its last hidden layer, `[..., D]` to `[..., H]`."""
        hidden = self.omega_0 * coordinates
        for layer in self.layers:
            hidden = torch.sin(layer(hidden))
        # A sine has the variance 1/2; the readout expects 1.
        return math.sqrt(2) * hidden

    def extra_repr(self) -> str:
        """Show the sizes and the frequency."""
        return f"{super().extra_repr()}, num_layers={self.num_layers}, omega_0={self.omega_0:g}"


class MLP(KernelNetwork):
    """Plain perceptron with a pointwise activation, as in SchNet and PointConv.

    Its spectral bias keeps kernels smooth; it is here for comparison (paper, Sec. 2).

    Args:
        dim: Number of coordinates, D.
        hidden_channels: Width of the hidden layers, H.
        out_channels: Number of kernel values, C.
        num_layers: Number of hidden layers.
        activation: Pointwise function after every hidden layer.

    Shapes:
        - **input:** coordinates `[..., D]`
        - **output:** kernel values `[..., C]`

    Raises:
        ValueError: If a size is less than 1.
    """

    def __init__(
        self,
        dim: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 3,
        activation: Callable[[Tensor], Tensor] = nn.functional.gelu,
    ) -> None:
        super().__init__(dim, hidden_channels, out_channels)
        self.activation = activation
        self.layers = _linear_layers(dim, hidden_channels, check_count("num_layers", num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (He et al. 2015)."""
        super().reset_parameters()
        for weight, bias in (layer.parameters() for layer in self.layers):
            nn.init.kaiming_uniform_(weight, nonlinearity="relu")
            nn.init.uniform_(bias, -1.0, 1.0)

    def features(self, coordinates: Tensor) -> Tensor:
        """Evaluate the network up to its last hidden layer, `[..., D]` to `[..., H]`."""
        hidden = coordinates
        for layer in self.layers:
            hidden = self.activation(layer(hidden))
        return hidden


def _linear_layers(dim: int, hidden_channels: int, num_layers: int) -> nn.ModuleList:
    widths = [dim] + [hidden_channels] * num_layers
    return nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
