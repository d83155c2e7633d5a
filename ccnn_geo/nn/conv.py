"""The continuous convolution as a PyG layer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from ccnn_geo.nn.checks import check_finite, check_points
from ccnn_geo.nn.conv_grid import ConvolvesGrids, OnGrid
from ccnn_geo.nn.kernels import KernelNetwork, MAGNet
from ccnn_geo.nn.pointwise import PointwiseLinear, linear
from ccnn_geo.nn.window import GaussianWindow
from ccnn_geo.ops import KernelSupport, Neighborhood, point_conv, relative_offsets
from ccnn_geo.ops.grid_positions import per_axis

PairTensor = tuple[Tensor, Tensor]
OptPairTensor = tuple[Tensor, Tensor | None]


class _OnGraph(NamedTuple):
    """Where a convolution last was evaluated: the offsets between points."""

    source: Tensor
    target: Tensor
    neighbors: Neighborhood


class CKConvMP(ConvolvesGrids, MessagePassing):
    r"""Continuous kernel convolution over a graph: messages weighted by a network of offsets.

    `Modelling Long Range Dependencies in ND <https://openreview.net/forum?id=ZW5aK4yCRqU>`_
    (Knigge et al. 2023), Eq. 2 and Sec. 4.1.

    .. math::
        y_i = b + \sum_{j \in N(i)} w_j\, g(u_{ij})\, k(u_{ij}) \odot x_j,
        \qquad u_{ij} = (p_j - p_i) / \text{extent}

    followed by a linear layer that mixes the channels (`separable=True`), or with a full kernel
    matrix :math:`k(u) \in R^{C_{out} \times C_{in}}` (`separable=False`).

    The same layer convolves signals on regular grids: see `grid` and `for_grid`.

    Args:
        in_channels: Size of each source's features.
        out_channels: Size of each target's output.
        dim: Number of coordinates, D.
        num_neighbors: Number of kernel points that a target usually has; the initial kernel is
            scaled by its square root, so that the output's variance does not depend on it.
        kernel: Kernel network with C_in outputs (separable) or C_out * C_in (full); a `MAGNet` of
            `kernel_channels` and `omega_0` unless given.
        kernel_channels: Width of the default kernel network.
        omega_0: Scale of the default kernel network's frequencies, see `MAGNet`.
        extent: Half-width of the kernel's support in the unit of `pos`, a number or one per axis;
            beyond it the kernel is zero.
        window_width: Initial width of the Gaussian window in units of the extent, a number or one
            per axis.
        window_cutoff: The kernel is zero outside the box in which the Gaussian of every single axis
            is at least this; 0 keeps the whole support.
        spacing: Step of the grid that the layer is made for in the unit of `extent`, a number or
            one per axis, if it is made for one; see `grid`.
        separable: Whether the convolution is depthwise, followed by a linear layer.
        causal: Whether only sources at or before the target count (D = 1).
        bias: Whether to add learnable biases.

    Shapes:
        - **input:** features `[N, C_in]` or a pair (sources `[S, C_in]`, anything), positions
          `[N, D]` or a pair (`[S, D]`, `[T, D]`) in the unit of `extent`, edges `[2, E]` (or a
          `Neighborhood`), quadrature weights `[S]` (optional).
        - **output:** `[N, C_out]` or `[T, C_out]`; a target without neighbours gets the bias.

    Raises:
        ValueError: If an argument is out of range or the kernel network does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dim: int,
        num_neighbors: int = 256,
        kernel: KernelNetwork | None = None,
        kernel_channels: int = 32,
        omega_0: float = 50.0,
        extent: float | tuple[float, ...] = 1.0,
        window_width: float | tuple[float, ...] = 0.075,
        window_cutoff: float = 0.0,
        spacing: float | tuple[float, ...] | None = None,
        separable: bool = True,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(aggr="add")
        for name, size in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("num_neighbors", num_neighbors),
        ):
            if size < 1:
                raise ValueError(f"Expected `{name}` >= 1, got {size}")
        if not 0 <= window_cutoff < 1:
            raise ValueError(f"Expected `window_cutoff` in [0, 1), got {window_cutoff}")
        if causal and dim != 1:
            raise ValueError(f"Expected `dim` = 1 for a causal convolution, got {dim}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dim = dim
        self.num_neighbors = num_neighbors
        self.extent = per_axis("extent", extent, dim)
        self.window_cutoff = window_cutoff
        self.spacing = None if spacing is None else per_axis("spacing", spacing, dim)
        self.separable = separable
        self.causal = causal
        self.track_moment = False
        self._record: _OnGraph | OnGrid | None = None
        self._moment: Tensor | None = None

        self.window = GaussianWindow(dim, window_width)
        values = in_channels if separable else in_channels * out_channels
        if kernel is None:
            reach = 1.667 * max(self.window.initial_width)
            center_range = (1 - reach, 1.0) if causal else (-reach, reach)
            kernel = MAGNet(
                dim, kernel_channels, values, omega_0=omega_0, center_range=center_range
            )
        if (kernel.dim, kernel.out_channels) != (dim, values):
            raise ValueError(
                f"Expected a `kernel` from {dim} coordinates to {values} values, got one from "
                f"{kernel.dim} to {kernel.out_channels}"
            )
        self.kernel = kernel
        self.bias = (
            nn.Parameter(torch.empty(in_channels if separable else out_channels)) if bias else None
        )
        self.mixing = PointwiseLinear(in_channels, out_channels, bias=bias) if separable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draw all weights anew; the kernel's variance is one over its number of terms.

        The paper's Sec. 4.1: Var(k) = 1 / K for a depthwise kernel, 1 / (C_in K) for a full one.
        """
        super().reset_parameters()
        self._record = self._moment = None
        self.window.reset_parameters()
        self.kernel.reset_parameters()
        terms = self.num_neighbors * (1 if self.separable else self.in_channels)
        with torch.no_grad():
            self.kernel.readout.weight.div_(math.sqrt(terms))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.mixing is not None:
            nn.init.kaiming_uniform_(self.mixing.weight, nonlinearity="linear")
            if self.mixing.bias is not None:
                nn.init.zeros_(self.mixing.bias)

    def forward(
        self,
        x: Tensor | OptPairTensor,
        pos: Tensor | PairTensor,
        edge_index: Tensor | Neighborhood,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Convolve features over a graph.

        Args:
            x: Features of the points, or a pair (sources, targets), of which only the first counts.
            pos: Positions of the points, or a pair (sources, targets).
            edge_index: Sources and targets in any order, or a prepared `Neighborhood`.
            weight: Quadrature weight of every source, 1 by default.

        Raises:
            TypeError: If features or positions are not floating point.
            ValueError: If shapes do not fit, an index is out of range, or (on the CPU) a value is
                not finite.
        """
        x = x[0] if isinstance(x, tuple) else x
        pos = pos if isinstance(pos, tuple) else (pos, pos)
        check_points(x, pos, weight, self.dim, self.in_channels)
        if isinstance(edge_index, Tensor):
            check_finite(x=x, pos=pos[0])
            check_finite(pos=pos[1])
        neighbors = (
            edge_index
            if isinstance(edge_index, Neighborhood)
            else Neighborhood.from_edge_index(edge_index, len(pos[0]), len(pos[1]))
        )
        moment = None
        if self._readable:
            output = self.propagate(
                neighbors.edge_index,
                x=(x, None),
                pos=pos,
                weight=None if weight is None else weight.unsqueeze(-1),
                size=(neighbors.num_sources, neighbors.num_targets),
            )
        else:
            tracking = self.track_moment and torch.is_grad_enabled()
            output, moment = self._convolve(x, pos, neighbors, self.readout(), weight, tracking)
        self._record = _OnGraph(pos[0].detach(), pos[1].detach(), neighbors)
        self._moment = moment
        return self._finish(output)

    def message(self, x_j: Tensor, pos_i: Tensor, pos_j: Tensor, weight_j: Tensor | None) -> Tensor:
        """The message along every edge, `[E, C]`: what the fused evaluation sums without building.

        PyG's explainers and message hooks see this one.
        """
        support = self.support()
        offsets = relative_offsets(support.to_kernel_unit(pos_j), support.to_kernel_unit(pos_i))
        basis = support.basis(offsets, self.kernel.magnet_weights() or self.kernel.features)
        if weight_j is not None:
            x_j = x_j * weight_j
        if self.separable:
            return (basis @ self.readout().T) * x_j
        return torch.einsum("eh,och,ec->eo", basis, self.readout(), x_j)

    def support(self) -> KernelSupport:
        """The kernel's support and window as they are now."""
        return KernelSupport(
            self.window.log_width,
            self.dim,
            extent=self.extent,
            cutoff=self.window_cutoff,
            causal=self.causal,
        )

    def readout(self) -> Tensor:
        """The kernel network's last layer with its bias as last column.

        `[C_in, H + 1]`, or `[C_out, C_in, H + 1]` for a full kernel.
        """
        layer = self.kernel.readout
        readout = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1)
        return readout if self.separable else readout.view(self.out_channels, self.in_channels, -1)

    def kernel_norm(self) -> Tensor:
        """Squared norm of the windowed kernel, summed over one target's neighbours (Eq. 3).

        The mean over the targets of the last forward pass, at the offsets it used; on a grid, the
        sum over all taps. It is a contraction of the readout with the second moment of the
        features, so that no kernel is ever built; where the forward pass took the moment along
        (`track_moment`), it is free.

        Raises:
            RuntimeError: If there was no forward pass yet.
        """
        if self._record is None:
            raise RuntimeError("Expected a forward pass before `kernel_norm`, there was none")
        moment = self._second_moment(self._record) if self._moment is None else self._moment
        readout = self.readout().flatten(0, -2)
        return ((readout @ moment) * readout).sum()

    def _second_moment(self, record: _OnGraph | OnGrid) -> Tensor:
        if isinstance(record, OnGrid):
            basis = self._basis(record)
            return basis.T @ basis
        nothing = self.window.log_width.new_zeros(len(record.source), 1)
        readout = nothing.new_zeros(1, self.kernel.hidden_channels + 1)
        _, moment = self._convolve(
            nothing, (record.source, record.target), record.neighbors, readout, None, True
        )
        return cast(Tensor, moment)

    def _finish(self, output: Tensor) -> Tensor:
        """Add the biases and mix the channels of `[N, C]` or `[B, C, P]`."""
        if self.mixing is None:
            if self.bias is None:
                return output
            return output + (self.bias if output.dim() == 2 else self.bias.unsqueeze(-1))
        weight, bias = self.mixing.weight, self.mixing.bias
        if self.bias is None:
            return linear(output, weight, bias)
        # W (y + b) + c = W y + (W b + c), one pass over the points less.
        return linear(output, weight, torch.addmv(bias, weight, self.bias))

    def _convolve(
        self,
        x: Tensor,
        pos: PairTensor,
        neighbors: Neighborhood,
        readout: Tensor,
        weight: Tensor | None,
        with_moment: bool,
    ) -> tuple[Tensor, Tensor | None]:
        return point_conv(
            x,
            pos if pos[0] is not pos[1] else pos[0],
            neighbors,
            self.kernel.magnet_weights() or self.kernel.features,
            readout,
            self.support(),
            weight=weight,
            with_moment=with_moment,
        )

    @property
    def _readable(self) -> bool:
        """Whether somebody wants to see the messages."""
        return bool(self.explain or self._message_forward_hooks or self._message_forward_pre_hooks)

    def __getstate__(self) -> dict[str, Any]:
        """What to copy and save: not what the last forward pass left for the penalty."""
        return {**self.__dict__, "_record": None, "_moment": None}

    def extra_repr(self) -> str:
        """Show what the signature would not."""
        parts = [f"{self.in_channels}, {self.out_channels}, dim={self.dim}"]
        parts.append(f"num_neighbors={self.num_neighbors}, extent={self.extent}")
        if self.window_cutoff:
            parts.append(f"window_cutoff={self.window_cutoff}")
        if self.spacing is not None:
            parts.append(f"spacing={self.spacing}")
        if not self.separable:
            parts.append("separable=False")
        if self.causal:
            parts.append("causal=True")
        return ", ".join(parts)

    def __repr__(self) -> str:
        """Show the layer with its parts, as a plain module does."""
        return nn.Module.__repr__(self)
