"""The continuous convolution as a PyG layer."""

from __future__ import annotations

from typing import Any, Literal, Self

from torch import Tensor

from ccnn_geo.nn.bandlimit import Bandlimit, grid_bandlimit, point_bandlimit
from ccnn_geo.nn.checks import check_finite, check_points, check_signals
from ccnn_geo.nn.domains import AllPoints, Grid, Points
from ccnn_geo.nn.grid_arguments import training_grid
from ccnn_geo.nn.kernel_convolution import KernelConvolution
from ccnn_geo.ops import Neighborhood
from ccnn_geo.ops.point_backends.checks import as_pair

PairTensor = tuple[Tensor, Tensor]
OptPairTensor = tuple[Tensor, Tensor | None]


class CKConvMP(KernelConvolution):
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

    def forward(
        self,
        x: Tensor | OptPairTensor,
        pos: Tensor | PairTensor | None = None,
        edge_index: Tensor | Neighborhood | None = None,
        *,
        period: float | tuple[float | None, ...] | None = None,
        weight: Tensor | None = None,
        bandlimit: Bandlimit = None,
        return_kernel_norm: bool = False,
    ) -> Any:
        """Convolve features over a graph; without `pos`, signals on a grid, see `grid`.

        Args:
            x: Features of the points, or a pair (sources, targets), of which only the first counts.
            pos: Positions of the points, or a pair (sources, targets).
            edge_index: Sources and targets in any order, or a prepared `Neighborhood`.
            period: Length of the periodic box that the points lie in, in the unit of `pos`, a
                number, or one per axis with None for axes that are not periodic; at least twice the
                reach of the kernel. Every edge then leads from the nearest image of its source.
            weight: Quadrature weight of every source (not of every edge), `[S]`; 1 unless given.
            bandlimit: Frequency in cycles per unit of `pos`, a number or one per axis, at which the
                sines of the kernel network are attenuated by half, so that the kernel does not
                alias between points; `"auto"` for the Nyquist frequency of the
                sources. See `ccnn_geo.nn.bandlimit`.
            return_kernel_norm: If True, also return the squared norm of the windowed kernel,
                summed over the neighbours of a target and averaged over the targets (Eq. 3), a
                scalar.

        Returns:
            The output, or a pair (output, norm).

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, an index is out of range, a period is not positive or
                too short for the kernel, or (on the CPU) a value is not finite.
        """
        if pos is None:
            if edge_index is not None or not isinstance(x, Tensor):
                raise ValueError("Expected `pos` with a graph, got none")
            return self.grid(
                x,
                period=period,
                weight=weight,
                bandlimit=bandlimit,
                return_kernel_norm=return_kernel_norm,
            )
        x = x[0] if isinstance(x, tuple) else x
        source, target = as_pair("pos", pos)
        check_points(x, (source, target), weight, self.dim, self.in_channels)
        check_finite(x=x, pos=source, weight=weight)
        if target is not source:
            check_finite(pos=target)
        if edge_index is None:
            raise ValueError("Expected `edge_index` with `pos`, got none")
        band = point_bandlimit(bandlimit, source, None)
        points = Points.of(pos, edge_index, period=period, weight=weight, bandlimit=band)
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
        bandlimit: Bandlimit = None,
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
            bandlimit: See `forward`; `"auto"` for the Nyquist frequency of the grid.
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
        band = grid_bandlimit(bandlimit, spacing, self.dim)
        grid = Grid.of(
            x, spacing, period=period, mask=mask, weight=weight, method=method, bandlimit=band
        )
        features = grid.features(x)
        check_finite(x=features, weight=weight)
        output, norm = self.convolve_grid(features, grid, with_norm=return_kernel_norm)
        output = grid.output(output)
        return (output, norm) if return_kernel_norm else output

    def nufft(
        self,
        x: Tensor | OptPairTensor,
        pos: Tensor | PairTensor,
        batch: Tensor | PairTensor | None = None,
        *,
        tolerance: float = 1e-3,
        period: float | tuple[float | None, ...] | None = None,
        weight: Tensor | None = None,
        bandlimit: Bandlimit = None,
        return_kernel_norm: bool = False,
    ) -> Any:
        """Convolve features over all pairs of points of every cloud, in N log N.

        The result equals the convolution over the graph of all pairs up to the tolerance, see
        `ops.nufft_conv`. Sources and targets may be different points, which also interpolates:
        `conv.nufft(x, (pos, other), (batch, other_batch))`.

        Args:
            x: Features of the points, or a pair (sources, targets), of which only the first counts.
            pos: Positions of the points, or a pair (sources, targets).
            batch: Cloud of every point, sorted, `[N]`, or a pair (sources, targets); one cloud
                unless given.
            tolerance: Error relative to the sum over all pairs, in (1e-12, 1).
            period: Period of the positions in the unit of `pos`, a number or one per axis, None
                where there is none; positions may lie anywhere, they count modulo the period.
            weight: Quadrature weight of every source, `[S]`; 1 unless given.
            bandlimit: See `forward`.
            return_kernel_norm: See `forward`.

        Returns:
            The output, or a pair (output, norm).

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, an argument is out of range, (on the CPU) a value is
                not finite, the convolution is causal, a period is shorter than twice the reach of
                the kernel, or the kernel needs more modes than memory allows.
        """
        x = x[0] if isinstance(x, tuple) else x
        points = AllPoints.of(
            x,
            pos,
            batch,
            channels=self.in_channels,
            dim=self.dim,
            weight=weight,
            tolerance=tolerance,
            period=period,
            bandlimit=bandlimit,
        )
        output, norm = self.convolve_all_points(x, points, with_norm=return_kernel_norm)
        return (output, norm) if return_kernel_norm else output

    def calibrate(
        self,
        pos: Tensor | PairTensor,
        edge_index: Tensor | Neighborhood,
        *,
        period: float | tuple[float | None, ...] | None = None,
    ) -> None:
        """Scale the kernel so that its squared norm is 1 for every output on a graph.

        The mean over the targets of the squared windowed kernel, summed over their neighbours,
        becomes 1 (over the input channels as well if the kernel is full). The scale is part of the
        weights; nothing is ever scaled again. See `CCNN.calibrate` for a whole network.

        Args:
            pos: Positions of the points, or a pair (sources, targets).
            edge_index: Sources and targets, or a prepared `Neighborhood`.
            period: See `forward`.
        """
        self.normalize_on(Points.of(pos, edge_index, period=period))
