"""Other layers with long kernels on grids: a diagonal state space, and NVIDIA's CKConv."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ccnn_geo.nn import PointwiseLinear


class S4D(nn.Module):
    r"""Diagonal state space layer, as a convolution with its kernel, and a linear layer.

    `On the Parameterization and Initialization of Diagonal State Space Models
    <https://arxiv.org/abs/2206.11893>`_ (Gu et al. 2022), S4D-Lin with zero-order hold:

    .. math::
        k_t = 2\, \mathrm{Re} \sum_n C_n \frac{e^{\Delta A_n} - 1}{A_n} e^{t \Delta A_n},
        \qquad A_n = -\tfrac12 + i \pi n

    States come in conjugate pairs, of which one each is kept.

    Args:
        channels: Number of channels, C.
        states: Number of states of every channel.
    """

    def __init__(self, channels: int, *, states: int = 64) -> None:
        super().__init__()
        pairs = states // 2
        self.log_step = nn.Parameter(
            math.log(1e-3) + torch.rand(channels) * (math.log(1e-1) - math.log(1e-3))
        )
        self.log_decay = nn.Parameter(torch.full((channels, pairs), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs).float().repeat(channels, 1))
        self.output = nn.Parameter(torch.randn(channels, pairs, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(channels))
        self.mixing = PointwiseLinear(channels, channels)

    def kernel(self, length: int) -> Tensor:
        """The first `length` values of the kernels, `[C, L]`, from a Vandermonde matrix."""
        poles = torch.complex(-self.log_decay.exp(), self.frequency)
        steps = poles * self.log_step.exp().unsqueeze(-1)
        weights = torch.view_as_complex(self.output) * (steps.exp() - 1) / poles
        powers = torch.exp(steps.unsqueeze(-1) * torch.arange(length, device=steps.device))
        return 2 * torch.einsum("cn,cnl->cl", weights, powers).real

    def forward(self, x: Tensor) -> Tensor:
        """Convolve sequences `[B, C, L]`."""
        length = x.size(-1)
        spectrum = torch.fft.rfft(x, n=2 * length)
        spectrum = spectrum * torch.fft.rfft(self.kernel(length), n=2 * length)
        output = torch.fft.irfft(spectrum, n=2 * length)[..., :length]
        return self.mixing(output + self.skip.unsqueeze(-1) * x)


class NvidiaCKConv(nn.Module):
    """`CKConvND` of nvsubquadratic with a SIREN as its kernel network, and a linear layer.

    The kernel has 2 S - 1 taps along an axis of S cells: it reaches from every cell to all others.
    Convolutions run in PyTorch's FFT. `pip install --no-deps nvsubquadratic einops omegaconf`.

    Args:
        channels: Number of channels.
        size: Cells of the grid along every axis, as many along all of them.
        hidden_channels: Width of the kernel network.

    Raises:
        ImportError: If nvsubquadratic, or something that it imports, is not installed.
    """

    def __init__(self, channels: int, size: tuple[int, ...], hidden_channels: int) -> None:
        from nvsubquadratic.lazy_config import LazyConfig
        from nvsubquadratic.modules.ckconv_nd import CKConvND
        from nvsubquadratic.modules.kernels_nd import SIRENKernelND

        super().__init__()
        dim = len(size)
        kernel = LazyConfig(SIRENKernelND)(
            out_dim=channels, data_dim=dim, mlp_hidden_dim=hidden_channels, num_layers=3,
            embedding_dim=hidden_channels, omega_0=30.0, L_cache=max(size), use_bias=True,
        )  # fmt: skip
        self.conv = CKConvND(
            data_dim=dim, hidden_dim=channels, kernel_cfg=kernel,
            mask_cfg=LazyConfig(nn.Identity)(), grid_type="double", fft_padding="zero",
        )  # fmt: skip
        self.mixing = PointwiseLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve signals `[B, C, *S]`, giving `[B, C, P]`."""
        return self.mixing(self.conv(x, is_bhl_input=True).flatten(2))
