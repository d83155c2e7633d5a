"""The Continuous CNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch_geometric.nn import global_max_pool, global_mean_pool

from ccnn_geo.nn.blocks import CCNNBlock, Convolve, FlexBlock, ResidualBlock, S4Block
from ccnn_geo.nn.checks import check_finite, check_signals
from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.nn.domains import Grid, kernel_taps, mask_from_lengths, training_grid
from ccnn_geo.nn.kernels import KernelNetwork
from ccnn_geo.nn.pointwise import ChannelDropout, PointwiseLinear, reset_linear
from ccnn_geo.ops import Neighborhood, nearest_neighbors
from ccnn_geo.pretrained.model import PretrainedModule, remember_arguments


class CCNN(PretrainedModule):
    r"""Continuous CNN: a stem and residual blocks of continuous convolutions, and a readout.

    `Modelling Long Range Dependencies in ND <https://openreview.net/forum?id=ZW5aK4yCRqU>`_
    (Knigge et al. 2023), Fig. 5. The published models are called CCNN `num_blocks`,
    `hidden_channels`.

    `model(x, pos, batch)` takes point clouds, `model(x)` signals on grids: sequences, images or
    voxels. It is one network, whichever it was trained on; `for_grid` makes one for grids.

    Args:
        in_channels: Size of each point's features.
        out_channels: Number of classes, or size of the output.
        dim: Number of coordinates, D.
        hidden_channels: Width of the network.
        num_blocks: Number of residual blocks.
        kernel_channels: Width of the kernel networks.
        omega_0: Scale of the kernel networks' frequencies, see `MAGNet`.
        num_neighbors: Neighbours of every point, itself among them; also the number of kernel
            points for which the kernels are initialised.
        extent: Half-width of the kernels' support in the unit of `pos`, a number or one per axis.
        window_width: Initial width of the kernels' Gaussian windows, in units of the extent.
        window_cutoff: See `CKConvMP`.
        spacing: Step of the grids that the network is made for, if it is, in the unit of `extent`,
            a number or one per axis.
        readout: Pool all points of a cloud by their `"mean"` or `"max"`, or None for one output per
            point.
        dropout: Probability of dropping a channel in a block.
        input_dropout: Probability of dropping a value of the input features.
        elementwise_dropout: Drop single values instead of channels in the blocks.
        block: Class of the residual blocks.
        kernel: Makes a kernel network from the number of its outputs, instead of a `MAGNet` of
            `kernel_channels` and `omega_0`.
        separable: Whether the convolutions are depthwise-separable.
        causal: Whether the convolutions look back only (D = 1).

    Shapes:
        - **input:** features `[N, C_in]`, positions `[N, D]` in the unit of `extent`, clouds `[N]`;
          or signals `[B, C_in, *S]` on a grid of D axes
        - **output:** `[B, C_out]`; without a readout `[N, C_out]` or `[B, C_out, *S]`

    Raises:
        ValueError: If an argument is out of range.
    """

    argument_classes: ClassVar = {each.__name__: each for each in (CCNNBlock, FlexBlock, S4Block)}

    @remember_arguments
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dim: int,
        hidden_channels: int = 140,
        num_blocks: int = 4,
        kernel_channels: int = 32,
        omega_0: float = 50.0,
        num_neighbors: int = 256,
        extent: float | tuple[float, ...] = 1.0,
        window_width: float | tuple[float, ...] = 0.075,
        window_cutoff: float = 0.0,
        spacing: float | tuple[float, ...] | None = None,
        readout: Literal["mean", "max"] | None = "mean",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        elementwise_dropout: bool = False,
        block: type[ResidualBlock] = CCNNBlock,
        kernel: Callable[[int], KernelNetwork] | None = None,
        separable: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"Expected `num_blocks` >= 1, got {num_blocks}")
        if out_channels < 1:
            raise ValueError(f"Expected `out_channels` >= 1, got {out_channels}")
        if readout not in ("mean", "max", None):
            raise ValueError(f"Expected `readout` to be 'mean', 'max' or None, got {readout!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dim = dim
        self.num_neighbors = num_neighbors
        self.readout = readout

        def convolution(channels: int) -> CKConvMP:
            values = channels if separable else channels * hidden_channels
            return CKConvMP(
                channels,
                hidden_channels,
                dim=dim,
                num_neighbors=num_neighbors,
                kernel=None if kernel is None else kernel(values),
                kernel_channels=kernel_channels,
                omega_0=omega_0,
                extent=extent,
                window_width=window_width,
                window_cutoff=window_cutoff,
                spacing=spacing,
                separable=separable,
                causal=causal,
            )

        self.input_dropout = ChannelDropout(input_dropout, elementwise=True)
        self.stem = convolution(in_channels)
        self.stem_norm = nn.BatchNorm1d(hidden_channels)
        self.blocks = nn.ModuleList(
            block(
                *(convolution(hidden_channels) for _ in range(block.num_convs)),
                dropout=dropout,
                elementwise_dropout=elementwise_dropout,
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.BatchNorm1d(hidden_channels) if block.prenorm else nn.Identity()
        self.head = PointwiseLinear(hidden_channels, out_channels)
        reset_linear(self.head)

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
        """Make a network for grids of a size: dimension, extent and initialisation follow from it.

        Args:
            in_channels: Size of each cell's features.
            out_channels: Number of classes, or size of the output.
            size: Cells of the grid along every axis, which are D.
            kernel_size: Taps of the kernels, see `CKConvMP.for_grid`.
            spacing: Step of the grid in any unit, which is that of positions from then on.
            arguments: See `CCNN`. Windows are cut off at 0.1 unless they say otherwise.

        Raises:
            ValueError: If an argument is out of range.
        """
        settings = training_grid(size, kernel_size, spacing, **arguments)
        return cls(in_channels, out_channels, **settings)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.stem.reset_parameters()
        self.stem_norm.reset_parameters()
        for block in self.blocks:
            cast(ResidualBlock, block).reset_parameters()
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.reset_parameters()
        reset_linear(self.head)

    def forward(
        self,
        x: Tensor,
        pos: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        edge_index: Tensor | Neighborhood | None = None,
        weight: Tensor | None = None,
        batch_size: int | None = None,
        spacing: float | tuple[float, ...] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        method: str = "auto",
    ) -> Tensor:
        """Classify clouds or grids, or every point of them.

        Args:
            x: Features, `[N, C_in]`, or signals on a grid, `[B, C_in, *S]`.
            pos: Positions, `[N, D]`; without, `x` is on a grid.
            batch: Cloud of every point, sorted, `[N]`; one cloud if left out.
            edge_index: The graph, if it is known already, `[2, E]`; else the `num_neighbors`
                nearest neighbours, found once for all layers.
            weight: Quadrature weight of every point, `[N]`, or cell, `[*S]` or `[B, *S]`; on a grid
                it follows from the spacing unless given, see `CKConvMP.grid`.
            batch_size: Number of clouds, B; spares a GPU the wait for it.
            spacing: Step of the grid in the unit of `extent`, if it is another than that of the
                grids that the network is made for.
            mask: Which cells of the grids are occupied, boolean, `[B, *S]`; the others do not count
                and their outputs are zero.
            lengths: Lengths of padded sequences, `[B]`, in place of a mask (D = 1).
            method: How to convolve on grids, see `ops.grid_conv`.

        Raises:
            TypeError: If features or positions are not floating point.
            ValueError: If shapes do not fit, a value is not finite, `batch` is not sorted, a cloud
                is empty, a grid has no occupied cell, or a spacing or length is out of range.
        """
        if pos is None:
            return self._on_grid(x, spacing, mask, lengths, weight, method)
        if spacing is not None or mask is not None or lengths is not None:
            raise ValueError("Expected no `spacing`, `mask` or `lengths` with `pos`, got one")
        check_finite(x=x)
        neighbors = self._neighbors(pos, batch, edge_index)
        if batch is not None:
            batch_size = _count_clouds(batch, batch_size)

        def convolve(conv: CKConvMP, hidden: Tensor) -> Tensor:
            return conv(hidden, pos, neighbors, weight)

        hidden = self._features(x, convolve, batch, batch_size)
        if self.readout is not None:
            pool = global_mean_pool if self.readout == "mean" else global_max_pool
            hidden = pool(hidden, batch, batch_size)
        return self.head(hidden)

    def _on_grid(
        self,
        x: Tensor,
        spacing: float | tuple[float, ...] | None,
        mask: Tensor | None,
        lengths: Tensor | None,
        weight: Tensor | None,
        method: str,
    ) -> Tensor:
        check_signals(x, self.dim, self.in_channels)
        if lengths is not None:
            if mask is not None:
                raise ValueError("Expected `lengths` or a `mask`, got both")
            mask = mask_from_lengths(lengths, x)
        spacing = self.stem.spacing if spacing is None else spacing
        grid = Grid.of(x, spacing, mask=mask, weight=weight, method=method)
        convs = [module for module in self.modules() if isinstance(module, CKConvMP)]
        taps = dict(zip(convs, kernel_taps([conv.support() for conv in convs], grid), strict=True))

        def convolve(conv: CKConvMP, hidden: Tensor) -> Tensor:
            return conv.on_grid(hidden, grid, taps[conv])

        features = grid.features(x)
        check_finite(x=features)
        hidden = self._features(features, convolve, grid.batch, grid.batch_size)
        if self.readout is None:
            return grid.signals(self.head(hidden))
        return self.head(grid.pool(hidden, self.readout))

    def _features(
        self, x: Tensor, convolve: Convolve, batch: Tensor | None, batch_size: int | None
    ) -> Tensor:
        """Everything between input and readout, wherever the features live."""
        hidden = convolve(self.stem, self.input_dropout(x))
        hidden = nn.functional.gelu(self.stem_norm(hidden))
        for block in self.blocks:
            hidden = block(hidden, batch=batch, batch_size=batch_size, convolve=convolve)
        return self.norm(hidden)

    def _neighbors(
        self, pos: Tensor, batch: Tensor | None, edge_index: Tensor | Neighborhood | None
    ) -> Neighborhood:
        if edge_index is None:
            if len(pos) == 0:
                raise ValueError("Expected at least one point in `pos`, got none")
            return nearest_neighbors(pos, self.num_neighbors, batch, ordered=False)
        if isinstance(edge_index, Neighborhood):
            return edge_index
        return Neighborhood.from_edge_index(edge_index, len(pos))

    def extra_repr(self) -> str:
        """Show what the layers would not."""
        return f"num_neighbors={self.num_neighbors}, readout={self.readout!r}"


def _count_clouds(batch: Tensor, batch_size: int | None) -> int:
    """Count the clouds of a batch; an empty one has no mean to classify."""
    clouds = int(batch[-1]) + 1 if batch_size is None else batch_size
    if not batch.is_cuda and not torch.compiler.is_compiling():
        empty = (torch.bincount(batch, minlength=clouds) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"Expected every cloud in `batch` to have points, {empty} have none")
    return clouds
