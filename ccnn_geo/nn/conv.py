"""The continuous convolution as a PyG layer."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from ccnn_geo.nn.checks import check_finite, check_points, check_signals
from ccnn_geo.nn.domains import Grid, Points
from ccnn_geo.nn.grid_arguments import training_grid
from ccnn_geo.nn.initialization import second_moment, typical_offsets
from ccnn_geo.nn.kernels import KernelNetwork, MAGNet
from ccnn_geo.nn.penalty import open_collections
from ccnn_geo.nn.pointwise import PointwiseLinear, linear
from ccnn_geo.nn.window import GaussianWindow
from ccnn_geo.ops import (
    KernelSupport,
    Neighborhood,
    grid_conv,
    point_conv,
    relative_offsets,
)
from ccnn_geo.ops.grid_kernels import render_kernel
from ccnn_geo.ops.grid_positions import per_axis

PairTensor = tuple[Tensor, Tensor]
OptPairTensor = tuple[Tensor, Tensor | None]
Initialization = Literal["exact", "paper"]


class CKConvMP(MessagePassing):
    r"""Continuous kernel convolution whose kernel is a network of relative positions.

    `Modelling Long Range Dependencies in ND <https://openreview.net/forum?id=ZW5aK4yCRqU>`_
    (Knigge et al. 2023), Eq. 2 and Sec. 4.1.

    .. math::
        y_i = b + \sum_{j \in N(i)} w_j\, g(u_{ij})\, k(u_{ij}) \odot x_j,
        \qquad u_{ij} = (p_j - p_i) / \text{extent}

    followed by a linear layer that mixes the channels (`separable=True`), or with a full kernel
    matrix :math:`k(u) \in R^{C_{out} \times C_{in}}` (`separable=False`).

    The same layer convolves signals on regular grids: see `grid` and `for_grid`.

    Args:
        in_channels: Size of the features of every source.
        out_channels: Size of the output of every target.
        dim: Number of coordinates, D.
        num_neighbors: Number of kernel points that a target usually has, for the initialisation.
        kernel: Kernel network with C_in outputs (separable) or C_out * C_in (full); a `MAGNet` of
            `kernel_channels` and `omega_0` unless given.
        kernel_channels: Width of the default kernel network.
        omega_0: Scale of the frequencies of the default kernel network, see `MAGNet`.
        extent: Half-width of the kernel's support in the unit of `pos`, a number or one per axis.
            The kernel is zero beyond it.
        window_width: Initial width of the Gaussian window in units of the extent, a number or one
            per axis.
        window_cutoff: The kernel is zero outside the box in which the Gaussian of every single axis
            is at least this; 0 keeps the whole support.
        spacing: Step of the grid that the layer is made for, in the unit of `extent`, a number or
            one per axis; see `grid`.
        separable: If True, the convolution is depthwise and followed by a linear layer.
        causal: If True, only sources at or before the target count (D = 1).
        bias: If True, add learnable biases.
        initialization: Scale of the initial kernel. `"paper"` divides the readout by the square
            root of the number of terms (Sec. 4.1), which ignores the window and the statistics of
            the filters. `"exact"` makes the sum over the kernel points of the squared windowed
            kernel 1 for every output: over the taps of the grid if the layer is made for one, else
            over offsets typical of a cloud (`calibrate` uses the offsets of given data).
        kwargs: Arguments of `torch_geometric.nn.MessagePassing`; `aggr` must be `"add"`.

    Shapes:
        - **input:** features `[N, C_in]` or a pair (sources `[S, C_in]`, anything), positions
          `[N, D]` or a pair (`[S, D]`, `[T, D]`) in the unit of `extent`, edges `[2, E]`; or
          signals on a grid, `[B, C_in, *S]`, alone
        - **output:** `[N, C_out]` or `[T, C_out]`; a target without neighbours gets the bias. On a
          grid `[B, C_out, *S]`

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
        initialization: Initialization = "paper",
        **kwargs: Any,
    ) -> None:
        if kwargs.setdefault("aggr", "add") not in ("add", "sum"):
            raise ValueError(f"Expected `aggr` to be 'add', got {kwargs['aggr']!r}")
        if kwargs.get("flow", "source_to_target") != "source_to_target":
            raise ValueError(f"Expected `flow` to be 'source_to_target', got {kwargs['flow']!r}")
        super().__init__(**kwargs)
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
        if initialization not in ("exact", "paper"):
            raise ValueError(
                f"Expected `initialization` to be 'exact' or 'paper', got {initialization!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dim = dim
        self.num_neighbors = num_neighbors
        self.extent = per_axis("extent", extent, dim)
        self.window_cutoff = window_cutoff
        self.spacing = None if spacing is None else per_axis("spacing", spacing, dim)
        self.separable = separable
        self.causal = causal
        self.initialization = initialization

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
        if self.spacing is not None and math.prod(self._num_taps()) == 1:
            warnings.warn(
                f"The kernel has 1 tap, its centre, at spacing {self.spacing}, extent "
                f"{self.extent}, window_width {window_width} and window_cutoff {window_cutoff}; a "
                "MAGNet is exactly zero there: choose a wider window or a larger kernel",
                stacklevel=2,
            )

    @classmethod
    def for_grid(
        cls,
        in_channels: int,
        out_channels: int,
        *,
        size: int | tuple[int, ...],
        kernel_size: int | tuple[int, ...] | Literal["same"] = "same",
        spacing: float | tuple[float, ...] = 1.0,
        **arguments: Any,
    ) -> Self:
        """Make a layer for grids of a size, from which dimension, extent and window follow.

        Args:
            in_channels: Size of the features of every cell.
            out_channels: Size of the output of every cell.
            size: Cells of the grid along every axis; their number is D.
            kernel_size: Taps of the kernel, a number or one per axis, including those outside the
                window; an even number counts as one more, so that there is a centre, unless the
                kernel is causal. `"same"`: as many as there are cells.
            spacing: Step of the grid in any unit, which is from then on the unit of `extent`, `pos`
                and the `spacing` of `grid`.
            arguments: See `CKConvMP`. The window is cut off at 0.1, and as wide as `training_grid`
                says, unless they are given.

        Raises:
            ValueError: If an argument is out of range.
        """
        settings = training_grid(size, kernel_size, spacing, **arguments)
        return cls(in_channels, out_channels, **settings)

    def reset_parameters(self) -> None:
        """Draw all weights anew and scale the kernel, see `initialization`."""
        super().reset_parameters()
        self.window.reset_parameters()
        self.kernel.reset_parameters()
        for name, parameter in self.kernel.named_parameters():
            if not parameter.is_meta and not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"Expected finite initial weights, got others in `{name}` of the kernel "
                    "network: `omega_0` is too large"
                )
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.mixing is not None:
            nn.init.kaiming_uniform_(self.mixing.weight, nonlinearity="linear")
            if self.mixing.bias is not None:
                nn.init.zeros_(self.mixing.bias)
        if self.initialization == "paper":
            terms = self.num_neighbors * (1 if self.separable else self.in_channels)
            with torch.no_grad():
                self.kernel.readout.weight.div_(math.sqrt(terms))
        elif not self.window.log_width.is_meta:
            self._normalize(self._initial_moment())

    def forward(
        self,
        x: Tensor | OptPairTensor,
        pos: Tensor | PairTensor | None = None,
        edge_index: Tensor | Neighborhood | None = None,
        *,
        weight: Tensor | None = None,
        return_kernel_norm: bool = False,
    ) -> Any:
        """Convolve features over a graph; without `pos`, signals on a grid, see `grid`.

        Args:
            x: Features of the points, or a pair (sources, targets), of which only the first counts.
            pos: Positions of the points, or a pair (sources, targets).
            edge_index: Sources and targets in any order, or a prepared `Neighborhood`.
            weight: Quadrature weight of every source (not of every edge), `[S]`; 1 unless given.
            return_kernel_norm: If True, also return the squared norm of the windowed kernel,
                summed over the neighbours of a target and averaged over the targets (Eq. 3), a
                scalar.

        Returns:
            The output, or a pair (output, norm).

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, an index is out of range, or (on the CPU) a value is
                not finite.
        """
        if pos is None:
            if edge_index is not None or not isinstance(x, Tensor):
                raise ValueError("Expected `pos` with a graph, got none")
            return self.grid(x, weight=weight, return_kernel_norm=return_kernel_norm)
        x = x[0] if isinstance(x, tuple) else x
        if isinstance(pos, tuple) and len(pos) != 2:
            raise ValueError(f"Expected `pos` to be a tensor or a pair, got {len(pos)} parts")
        source, target = pos if isinstance(pos, tuple) else (pos, pos)
        check_points(x, (source, target), weight, self.dim, self.in_channels)
        check_finite(x=x, pos=source, weight=weight)
        if target is not source:
            check_finite(pos=target)
        if edge_index is None:
            raise ValueError("Expected `edge_index` with `pos`, got none")
        points = Points.of(pos, edge_index, weight=weight)
        output, norm = self.convolve_points(x, points, with_norm=return_kernel_norm)
        return (output, norm) if return_kernel_norm else output

    def grid(
        self,
        x: Tensor,
        spacing: float | tuple[float, ...] | None = None,
        *,
        period: float | tuple[float | None, ...] | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        method: str = "auto",
        return_kernel_norm: bool = False,
    ) -> Any:
        """Convolve signals on a regular grid.

        The result equals the convolution of the grid as a graph, with the cells as points. Only the
        taps inside the support and the current window of the kernel are evaluated.

        Args:
            x: Signals, `[B, C_in, *S]`.
            spacing: Step of the grid in the unit of `extent`, a number or one per axis; unless
                given, the step of the grid that the layer is made for.
            period: Length of the periodic box that the grid fills, in the same unit, a number, or
                one per axis with None for axes that are not periodic; the number of cells times
                their spacing, and at least twice the reach of the kernel. The last cell is then
                followed by the first.
            mask: Occupied cells, boolean, `[B, *S]`; all unless given. Other cells count as zero
                and become zero.
            weight: Quadrature weight of every cell, `[*S]` or `[B, *S]`. Unless given, the volume
                of a cell relative to the grid that the layer is made for, so that a signal sampled
                differently gives the same response; 1 if it is made for none.
            method: `"fft"`, `"direct"`, or `"auto"` for the faster, see `ops.grid_conv`.
            return_kernel_norm: If True, also return the squared norm of the windowed kernel, summed
                over all taps (Eq. 3), a scalar.

        Returns:
            The output, `[B, C_out, *S]`, or a pair (output, norm).

        Raises:
            TypeError: If `x` is not floating point or `mask` not boolean.
            ValueError: If shapes do not fit, there is no spacing, a grid has no occupied cell, a
                period is not the length of the grid, too short for the kernel or given for a causal
                convolution, or (on the CPU) a value is not finite.
        """
        check_signals(x, self.dim, self.in_channels)
        spacing = self.spacing if spacing is None else spacing
        grid = Grid.of(x, spacing, period=period, mask=mask, weight=weight, method=method)
        if self.causal and any(grid.periodic):
            raise ValueError(f"Expected no `period` for a causal convolution, got {period}")
        features = grid.features(x)
        check_finite(x=features, weight=weight)
        output, norm = self.convolve_grid(features, grid, with_norm=return_kernel_norm)
        output = grid.output(output)
        return (output, norm) if return_kernel_norm else output

    def calibrate(
        self,
        pos: Tensor | PairTensor,
        edge_index: Tensor | Neighborhood,
    ) -> None:
        """Scale the kernel so that its squared norm is 1 for every output on a graph.

        The mean over the targets of the squared windowed kernel, summed over their neighbours,
        becomes 1 (over the input channels as well if the kernel is full). The scale is part of the
        weights; nothing is ever scaled again. See `CCNN.calibrate` for a whole network.

        Args:
            pos: Positions of the points, or a pair (sources, targets).
            edge_index: Sources and targets, or a prepared `Neighborhood`.
        """
        self.normalize_on(Points.of(pos, edge_index))

    @torch.no_grad()
    def normalize_on(self, domain: Points | Grid) -> None:
        """Scale the kernel so that its squared norm is 1 for every output on a domain."""
        moment = (
            self._graph_moment(domain) if isinstance(domain, Points) else self._grid_moment(domain)
        )
        self._normalize(moment)

    def convolve_points(
        self, x: Tensor, points: Points, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve features on points that have been checked.

        Args:
            x: Features of the sources, `[S, C_in]`.
            points: Positions, graph and quadrature weights.
            with_norm: If True, compute the kernel norm in the same pass.

        Returns:
            The output, `[T, C_out]`, and the norm or None.
        """
        collections = open_collections()
        with_moment = with_norm or bool(collections)
        readout, moment = self.readout(), None
        if self._is_observed:
            edges = points.neighbors.edge_index if points.edge_index is None else points.edge_index
            output = self.propagate(
                edges,
                x=(x, None),
                pos=(points.source, points.target),
                weight=None if points.weight is None else points.weight.unsqueeze(-1),
                size=(points.neighbors.num_sources, points.neighbors.num_targets),
            )
            if with_moment:
                moment = self._graph_moment(points)
        else:
            output, moment = point_conv(
                x,
                points.pos,
                points.neighbors,
                self._features,
                readout,
                self.support(),
                weight=points.weight,
                with_moment=with_moment,
            )
        return self._finish(output), self._share_norm(moment, readout, collections)

    def convolve_grid(
        self, x: Tensor, grid: Grid, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve features on a grid, `[B, C, P]` or `[M, C]`, that have been checked.

        Args:
            x: Features of the cells.
            grid: The grid.
            with_norm: If True, compute the kernel norm from the same taps.

        Returns:
            The output in the same form, and the norm or None.
        """
        collections = open_collections()
        signals = grid.output(x)
        if grid.weight is not None:
            signals = signals * grid.weight.to(signals.dtype).view(-1, 1, *grid.size)
        readout, with_moment = self.readout(), with_norm or bool(collections)
        with torch.autocast(signals.device.type, enabled=False):
            kernel, moment = self._render(grid, readout, with_moment=with_moment)
            output = grid_conv(
                signals, kernel, causal=self.causal, periodic=grid.periodic, method=grid.method
            )
        output = self._finish(grid.features(output))
        return output, self._share_norm(moment, readout, collections)

    def message(self, x_j: Tensor, pos_i: Tensor, pos_j: Tensor, weight_j: Tensor | None) -> Tensor:
        """Return the message along every edge, `[E, C]`.

        Explainers and hooks of PyG see these; otherwise they are summed without being built.
        """
        support = self.support()
        offsets = support.to_kernel_unit(relative_offsets(pos_j, pos_i))
        basis = support.basis(offsets, self._features)
        # Beyond the support nothing contributes, not even NaN or infinity.
        x_j = torch.where(support.inside(offsets).unsqueeze(-1), x_j, 0.0)
        if weight_j is not None:
            x_j = x_j * weight_j
        if self.separable:
            return (basis @ self.readout().T) * x_j
        return torch.einsum("eh,och,ec->eo", basis, self.readout(), x_j)

    def support(self) -> KernelSupport:
        """Return support and window of the kernel as they are now."""
        return KernelSupport(
            self.window.log_width,
            self.dim,
            extent=self.extent,
            cutoff=self.window_cutoff,
            causal=self.causal,
        )

    def readout(self) -> Tensor:
        """Return the last layer of the kernel network with its bias as last column.

        Its shape is `[C_in, H + 1]`, or `[C_out, C_in, H + 1]` for a full kernel.
        """
        layer = self.kernel.readout
        readout = torch.cat([layer.weight, layer.bias.unsqueeze(-1)], -1)
        return readout if self.separable else readout.view(self.out_channels, self.in_channels, -1)

    @property
    def _features(self) -> Any:
        return self.kernel.magnet_weights() or self.kernel.features

    @property
    def _is_observed(self) -> bool:
        """True if an explainer or a hook of message passing is active."""
        return bool(
            self.explain
            or self._propagate_forward_pre_hooks
            or self._propagate_forward_hooks
            or self._message_forward_pre_hooks
            or self._message_forward_hooks
            or self._aggregate_forward_pre_hooks
            or self._aggregate_forward_hooks
        )

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

    def _share_norm(
        self, moment: Tensor | None, readout: Tensor, collections: tuple[list[Tensor], ...]
    ) -> Tensor | None:
        """Return the kernel norm and append it to the open collections."""
        if moment is None:
            return None
        rows = readout.flatten(0, -2)
        norm = ((rows @ moment) * rows).sum()
        for norms in collections:
            norms.append(norm)
        return norm

    def _graph_moment(self, points: Points) -> Tensor:
        """Return the second moment of the basis on a graph, without convolving anything."""
        nothing = self.window.log_width.new_zeros(len(points.source), 1)
        readout = nothing.new_zeros(1, self.kernel.hidden_channels + 1)
        _, moment = point_conv(
            nothing,
            points.pos,
            points.neighbors,
            self._features,
            readout,
            self.support(),
            with_moment=True,
        )
        return cast(Tensor, moment)

    def _grid_moment(self, grid: Grid) -> Tensor:
        _, moment = self._render(grid, self.readout()[:0], with_moment=True)
        return cast(Tensor, moment)

    # Sizes that follow from windows, which training changes: the compiler would have to prove for
    # every crop that a product of counts divides a size, and fails to for D > 1.
    @torch.compiler.disable
    def _render(
        self, grid: Grid, readout: Tensor, *, with_moment: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the kernel on a grid, `[C, *K]` or `[O, C, *K]`, and the moment if requested."""
        taps = grid.taps_of(self)
        if grid.weight is None and self.spacing is not None:
            readout = readout * (math.prod(grid.spacing) / math.prod(self.spacing))
        return render_kernel(
            self._features, readout, self.support(), grid.spacing, taps, with_moment=with_moment
        )

    @torch.no_grad()
    def _initial_moment(self) -> Tensor:
        """Return the second moment at the taps of the own grid, or at offsets typical of clouds."""
        support = self.support()
        if self.spacing is not None:
            offsets = support.tap_offsets(self.spacing, self._own_taps())
            return second_moment(support, offsets, self._features)
        offsets = typical_offsets(self.dim, self.num_neighbors).to(support.bounds.device)
        targets = len(offsets) // self.num_neighbors
        stretched = offsets * (2.0 if self.causal else 1.0)
        return second_moment(support, stretched, self._features) / targets

    @torch.no_grad()
    def _normalize(self, moment: Tensor) -> None:
        """Scale the readout so that the squared norm of the kernel is 1 for every output."""
        rows = self.readout().double()
        squares = ((rows @ moment.double()) * rows).sum(-1)
        if not self.separable:
            squares = squares.sum(-1, keepdim=True).expand_as(squares)
        scale = torch.where(squares > 0, squares.rsqrt(), torch.ones_like(squares)).flatten()
        self.kernel.readout.weight.mul_(scale.unsqueeze(-1).to(self.kernel.readout.weight))
        self.kernel.readout.bias.mul_(scale.to(self.kernel.readout.bias))

    def _own_taps(self) -> tuple[tuple[int, int], ...]:
        """Return the taps on the grid that the layer is made for, per axis before and after 0."""
        return self.support().taps(cast(tuple, self.spacing), (2**62,) * self.dim)

    def _num_taps(self) -> list[int]:
        if self.window.log_width.is_meta:
            return [0]
        return [before + 1 + after for before, after in self._own_taps()]

    def _kernel_settings(self) -> dict[str, Any]:
        """Return what the weights mean something else without; kept with the `state_dict`."""
        return {
            "extent": self.extent,
            "spacing": self.spacing,
            "window_cutoff": float(self.window_cutoff),
            "causal": self.causal,
        }

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]].update(self._kernel_settings())

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load weights; another extent, spacing, cutoff or causality is an error, like a size."""
        for name, value in self._kernel_settings().items():
            saved = local_metadata.get(name, value)
            if saved != value:
                error_msgs.append(
                    f"{name} mismatch for the kernel of {prefix[:-1] or 'the layer'}: {saved} in "
                    f"the state_dict, {value} in the model. Pass `dict(state_dict)`, which carries "
                    "no settings, to load the weights all the same."
                )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Show the settings that differ from the defaults."""
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
        if self.initialization != "paper":
            parts.append(f"initialization={self.initialization!r}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        """Show the layer with its parts, as a plain module does."""
        return nn.Module.__repr__(self)
