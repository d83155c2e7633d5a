"""A continuous kernel as a module, and its convolution on every domain."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from ccnn_geo.nn.bandlimit import footprint
from ccnn_geo.nn.checks import check_type
from ccnn_geo.nn.domains import AllPoints, Grid, Points
from ccnn_geo.nn.initialization import cloud_moment, normalize_readout, second_moment
from ccnn_geo.nn.kernels import KernelNetwork, MAGNet
from ccnn_geo.nn.penalty import open_collections
from ccnn_geo.nn.pointwise import PointwiseLinear, linear
from ccnn_geo.nn.saved_settings import SavedSettings
from ccnn_geo.nn.window import GaussianWindow
from ccnn_geo.ops import (
    KernelSupport,
    grid_conv,
    nufft_conv,
    point_conv,
    relative_offsets,
)
from ccnn_geo.ops.grid_kernels import render_kernel
from ccnn_geo.ops.grid_positions import per_axis
from ccnn_geo.ops.kernel_support import Features, Taps, check_cutoff
from ccnn_geo.ops.scalars import check_count

Initialization = Literal["exact", "paper"]


class KernelConvolution(SavedSettings, MessagePassing):
    """Base of `CKConvMP`: the parameters of a convolution, and its evaluation on every domain.

    Inputs have been checked. See `CKConvMP` for the arguments.
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
            ("dim", dim),
            ("num_neighbors", num_neighbors),
        ):
            check_count(name, size)
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
        self.window_cutoff = check_cutoff(window_cutoff)
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
        if not isinstance(kernel, KernelNetwork):
            raise TypeError(f"Expected `kernel` to be a KernelNetwork, got {kernel!r}")
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

    @torch.no_grad()
    def normalize_on(self, domain: Points | AllPoints | Grid) -> None:
        """Scale the kernel so that its squared norm is 1 for every output on a domain."""
        if isinstance(domain, Points):
            moment = self._graph_moment(domain)
        elif isinstance(domain, AllPoints):
            moment = self._all_points_moment(domain)
        else:
            moment = self._grid_moment(domain.spacing, domain.taps_of(self), domain.bandlimit)
        self._normalize(moment)

    def convolve_points(
        self, x: Tensor, points: Points, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve features on points that have been checked.

        Args:
            x: Features of the sources without their images, `[S, C_in]`.
            points: Positions, graph and quadrature weights.
            with_norm: If True, compute the kernel norm in the same pass.

        Returns:
            The output, `[T, C_out]`, and the norm or None.
        """
        check_type(x, self.kernel.readout.weight)
        collections = open_collections()
        with_moment = with_norm or bool(collections)
        readout, support, moment = self.readout(), self.support(), None
        points.check_reach(support)
        x = points.with_images(x)
        if is_observed(self):
            output = self.propagate(
                points.edges,
                x=(x, None),
                pos=(points.source, points.target),
                weight=None if points.weight is None else points.weight.unsqueeze(-1),
                bandlimit=points.bandlimit,
                size=(points.neighbors.num_sources, points.neighbors.num_targets),
            )
            if with_moment:
                moment = self._graph_moment(points)
        else:
            output, moment = point_conv(
                x,
                points.pos,
                points.neighbors,
                self._features(points.bandlimit),
                readout,
                support,
                weight=points.weight,
                with_moment=with_moment,
            )
        return self._finish(output), _share(_kernel_norm(moment, readout), collections)

    def convolve_all_points(
        self, x: Tensor, points: AllPoints, *, with_norm: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve features over all pairs of points that have been checked.

        Args:
            x: Features of the sources, `[S, C_in]`.
            points: Positions, clouds and quadrature weights.
            with_norm: If True, compute the kernel norm as well.

        Returns:
            The output, `[T, C_out]`, and the norm or None.
        """
        check_type(x, self.kernel.readout.weight)
        collections = open_collections()
        readout = self.readout()
        output, moment = nufft_conv(
            x,
            points.pos,
            self._features(points.bandlimit),
            readout,
            self.support(),
            batch=points.clouds,
            weight=points.weight,
            tolerance=points.tolerance,
            period=points.period,
            with_moment=with_norm or bool(collections),
        )
        return self._finish(output), _share(_kernel_norm(moment, readout), collections)

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
        check_type(x, self.kernel.readout.weight)
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
        return output, _share(_kernel_norm(moment, readout), collections)

    def message(
        self,
        x_j: Tensor,
        pos_i: Tensor,
        pos_j: Tensor,
        weight_j: Tensor | None,
        bandlimit: tuple[float, ...] | None,
    ) -> Tensor:
        """Return the message along every edge, `[E, C]`.

        Explainers and hooks of PyG see these; otherwise they are summed without being built.
        """
        support = self.support()
        offsets = support.to_kernel_unit(relative_offsets(pos_j, pos_i))
        basis = support.basis(offsets, self._features(bandlimit))
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

    def _features(self, bandlimit: tuple[float, ...] | None) -> Features:
        """Return the kernel network up to its last layer, its sines attenuated by a bandlimit."""
        if bandlimit is None:
            return self.kernel.magnet_weights() or self.kernel.features
        return self.kernel.attenuated(footprint(bandlimit, self.support().scale))

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

    def _graph_moment(self, points: Points) -> Tensor:
        """Return the second moment of the basis on a graph, without convolving anything."""
        support = self.support()
        points.check_reach(support)
        nothing = self.window.log_width.new_zeros(len(points.source), 1)
        readout = nothing.new_zeros(1, self.kernel.hidden_channels + 1)
        _, moment = point_conv(
            nothing,
            points.pos,
            points.neighbors,
            self._features(points.bandlimit),
            readout,
            support,
            with_moment=True,
        )
        return cast(Tensor, moment)

    def _all_points_moment(self, points: AllPoints) -> Tensor:
        """Return the second moment of the basis over all pairs of points."""
        readout = self.readout()
        _, moment = nufft_conv(
            readout.new_zeros(len(points.source), self.in_channels),
            points.pos,
            self._features(points.bandlimit),
            readout,
            self.support(),
            batch=points.clouds,
            tolerance=points.tolerance,
            period=points.period,
            with_moment=True,
        )
        return cast(Tensor, moment)

    def _grid_moment(
        self, spacing: tuple[float, ...], taps: Taps, bandlimit: tuple[float, ...] | None
    ) -> Tensor:
        """Return the second moment of the basis at the taps of a grid."""
        support = self.support()
        offsets = support.tap_offsets(spacing, taps)
        return second_moment(support, offsets, self._features(bandlimit))

    # Sizes that follow from windows, which training changes: the compiler would have to prove for
    # every crop that a product of counts divides a size, and fails to for D > 1.
    @torch.compiler.disable
    def _render(
        self, grid: Grid, readout: Tensor, *, with_moment: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the kernel on a grid, `[C, *K]` or `[O, C, *K]`, and the moment if requested."""
        taps = grid.taps_of(self)
        if grid.weight is None and self.spacing is not None:
            # The product of the ratios: products of steps would leave the range of numbers.
            steps = zip(grid.spacing, self.spacing, strict=True)
            readout = readout * math.prod(step / own for step, own in steps)
        return render_kernel(
            self._features(grid.bandlimit),
            readout,
            self.support(),
            grid.spacing,
            taps,
            with_moment=with_moment,
        )

    def _initial_moment(self) -> Tensor:
        """Return the second moment at the taps of the own grid, or at offsets typical of clouds."""
        if self.spacing is None:
            return cloud_moment(self.support(), self._features(None), self.num_neighbors)
        return self._grid_moment(self.spacing, self._own_taps(), None)

    def _normalize(self, moment: Tensor) -> None:
        normalize_readout(self.kernel.readout, moment, self.readout().size(0))

    def _own_taps(self) -> Taps:
        """Return the taps on the grid that the layer is made for, per axis before and after 0."""
        return self.support().taps(cast(tuple, self.spacing), (2**62,) * self.dim)

    def _num_taps(self) -> list[int]:
        if self.window.log_width.is_meta:
            return [0]
        return [before + 1 + after for before, after in self._own_taps()]

    def saved_settings(self) -> dict[str, Any]:
        """Return what the kernel means something else without."""
        return {
            "extent": self.extent,
            "spacing": self.spacing,
            "window_cutoff": float(self.window_cutoff),
            "causal": self.causal,
        }

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


def is_observed(layer: MessagePassing) -> bool:
    """Return True if an explainer or a hook of message passing is active."""
    return bool(
        layer.explain
        or layer._propagate_forward_pre_hooks
        or layer._propagate_forward_hooks
        or layer._message_forward_pre_hooks
        or layer._message_forward_hooks
        or layer._aggregate_forward_pre_hooks
        or layer._aggregate_forward_hooks
    )


def _kernel_norm(moment: Tensor | None, readout: Tensor) -> Tensor | None:
    """Return the squared norm of a kernel from the second moment of its features."""
    if moment is None:
        return None
    rows = readout.flatten(0, -2)
    return ((rows @ moment) * rows).sum()


def _share(norm: Tensor | None, collections: tuple[list[Tensor], ...]) -> Tensor | None:
    """Append a kernel norm to the open collections, and return it."""
    if norm is not None:
        for norms in collections:
            norms.append(norm)
    return norm
