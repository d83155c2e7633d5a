"""The Continuous CNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from ccnn_geo.nn.bandlimit import Bandlimit, check_bandlimit
from ccnn_geo.nn.blocks import CCNNBlock, FlexBlock, ResidualBlock, S4Block
from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.nn.domains import AllPoints, Domain, Grid, Points
from ccnn_geo.nn.grid_arguments import training_grid
from ccnn_geo.nn.inputs import all_points_domain, grid_domain, points_domain
from ccnn_geo.nn.kernel_convolution import Initialization
from ccnn_geo.nn.kernels import KernelNetwork
from ccnn_geo.nn.penalty import kernel_penalty
from ccnn_geo.nn.pointwise import ChannelDropout, PointwiseLinear, compare_pairs, reset_linear
from ccnn_geo.nn.tokens import TokenEmbedding
from ccnn_geo.ops import Neighborhood, quadrature_weights
from ccnn_geo.ops.neighbor_search import neighbors_within
from ccnn_geo.ops.nufft_conv import check_tolerance
from ccnn_geo.ops.scalars import is_positive
from ccnn_geo.pretrained.model import PretrainedModule, remember_arguments

Evaluation = Literal["neighbors", "nufft"]


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
        separable: If True, the convolutions are depthwise-separable.
        causal: If True, the convolutions look back only (D = 1).
        initialization: Scale of the initial kernels, see `CKConvMP`.
        evaluation: How to convolve on points unless `forward` is told otherwise: over a graph of
            `"neighbors"`, or by `"nufft"` over all points within reach, see `CKConvMP.nufft`.
        tolerance: Relative error of each convolution with `evaluation="nufft"`.
        bandlimit: Frequency at which sines of the kernels are attenuated by half, unless `forward`
            is told otherwise, see `CKConvMP.forward`.
        num_embeddings: Number of tokens if the features are token numbers, one for every point or
            cell (`in_channels` = 1), of which a learnt embedding makes `hidden_channels` features.
            Token 0 is padding and becomes zero.
        pairs: If True, two consecutive clouds or grids form a pair that is classified together, by
            their pooled features u, v, u * v and u - v (`Tay et al. 2021
            <https://arxiv.org/abs/2011.04006>`_).
        radius: Distance within which all points of a cloud are neighbours, in the unit of `extent`,
            instead of the `num_neighbors` nearest: for clouds of varying density.
        density: Points per unit of area (of length for D = 1) of clouds whose points have the
            weight 1. If given, `ops.quadrature_weights` follow from the local density, so that
            sums over points approximate the same integrals for clouds of any density.

    Shapes:
        - **input:** features `[N, C_in]`, positions `[N, D]` in the unit of `extent`, clouds `[N]`;
          or signals `[B, C_in, *S]` on a grid of D axes
        - **output:** `[B, C_out]`, for pairs `[B / 2, C_out]`; without a readout `[N, C_out]` or
          `[B, C_out, *S]`

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
        initialization: Initialization = "paper",
        evaluation: Evaluation = "neighbors",
        tolerance: float = 1e-3,
        bandlimit: Bandlimit = None,
        num_embeddings: int | None = None,
        pairs: bool = False,
        radius: float | None = None,
        density: float | None = None,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"Expected `num_blocks` >= 1, got {num_blocks}")
        if out_channels < 1:
            raise ValueError(f"Expected `out_channels` >= 1, got {out_channels}")
        if readout not in ("mean", "max", None):
            raise ValueError(f"Expected `readout` to be 'mean', 'max' or None, got {readout!r}")
        if pairs and readout is None:
            raise ValueError("Expected a `readout` with `pairs`, got None")
        if num_embeddings is not None and in_channels != 1:
            raise ValueError(
                f"Expected `in_channels` = 1 with `num_embeddings`, the tokens, got {in_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dim = dim
        self.num_neighbors = num_neighbors
        self.readout = readout
        self.evaluation = _check_evaluation(evaluation, causal)
        self.tolerance = check_tolerance(tolerance)
        check_bandlimit(bandlimit, dim)
        self.bandlimit = bandlimit
        self.radius = _positive("radius", radius)
        self.density = _positive("density", density)
        self.num_embeddings = num_embeddings
        self.pairs = pairs

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
                initialization=initialization,
            )

        self.embedding = (
            None if num_embeddings is None else TokenEmbedding(num_embeddings, hidden_channels)
        )
        self.input_dropout = ChannelDropout(input_dropout, elementwise=True)
        self.stem = convolution(in_channels if self.embedding is None else hidden_channels)
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
        self.head = PointwiseLinear((4 if pairs else 1) * hidden_channels, out_channels)
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
        """Make a network for grids of a size, from which dimension, extent and window follow.

        Args:
            in_channels: Size of each cell's features.
            out_channels: Number of classes, or size of the output.
            size: Cells of the grid along every axis, which are D.
            kernel_size: Taps of the kernels, see `CKConvMP.for_grid`.
            spacing: Step of the grid in any unit, which is from then on the unit of positions.
            arguments: See `CCNN`. Windows are cut off at 0.1, and as wide as `training_grid` says,
                unless they are given.

        Raises:
            ValueError: If an argument is out of range.
        """
        settings = training_grid(size, kernel_size, spacing, **arguments)
        return cls(in_channels, out_channels, **settings)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.embedding is not None:
            self.embedding.reset_parameters()
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
        pos_or_graph: Tensor | Neighborhood | None = None,
        batch: Tensor | None = None,
        *,
        pos: Tensor | None = None,
        edge_index: Tensor | Neighborhood | None = None,
        period: float | tuple[float | None, ...] | None = None,
        weight: Tensor | None = None,
        batch_size: int | None = None,
        spacing: float | tuple[float, ...] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        method: str = "auto",
        evaluation: Evaluation | None = None,
        tolerance: float | None = None,
        bandlimit: Bandlimit = None,
        return_kernel_penalty: bool = False,
    ) -> Any:
        """Classify clouds or grids, or every point of them.

        Args:
            x: Features, `[N, C_in]`, or signals on a grid, `[B, C_in, *S]`.
            pos_or_graph: Positions, `[N, D]`; without them, `x` is on a grid. If positions are
                given as `pos`, this is the graph, as in `model(x, edge_index, pos=pos)`, the form
                in which explainers call a network.
            batch: Cloud of every point, sorted, `[N]`; one cloud unless given.
            pos: Positions, `[N, D]`.
            edge_index: The graph if it is known already, `[2, E]` in any order; unless given, the
                points within `radius`, or the `num_neighbors` nearest, found once for all layers.
            period: Length of the periodic box that all clouds lie in or a grid fills, in the unit
                of `extent`, a number, or one per axis with None for axes that are not periodic; at
                least twice the reach of every kernel. See `CKConvMP.grid` and `knn_graph`.
            weight: Quadrature weight of every point, `[N]`, or cell, `[*S]` or `[B, *S]`. Unless
                given, it follows on a grid from the spacing, see `CKConvMP.grid`, and on points
                from `density`. The mean over points that is a readout has the same weights.
            batch_size: Number of clouds, B; avoids a synchronisation on a GPU.
            spacing: Step of the grid in the unit of `extent`, unless it is the step of the grids
                that the network is made for.
            mask: Occupied cells of the grids, boolean, `[B, *S]`; the others do not count and
                their outputs are zero.
            lengths: Lengths of padded sequences, `[B]`, in place of a mask (D = 1).
            method: How to convolve on grids, see `ops.grid_conv`.
            evaluation: How to convolve on points, `"neighbors"` or `"nufft"`; the network's own
                unless given.
            tolerance: Relative error of each convolution with `"nufft"`; the network's own unless
                given.
            bandlimit: See `CKConvMP.forward`; the network's own unless given, `math.inf` for none.
            return_kernel_penalty: If True, also return half the sum of the squared norms of all
                kernels as they were evaluated (Eq. 3), a scalar.

        Returns:
            The logits, or a pair (logits, penalty).

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, (on the CPU) a value is not finite, `batch` is not
                sorted, a cloud is empty, a grid has no occupied cell, or a spacing, length or
                period is out of range.
        """
        if pos is None:
            pos = cast(Tensor | None, pos_or_graph)
        elif pos_or_graph is not None:
            edge_index = pos_or_graph
        if self.embedding is not None:
            x = self.embedding(x)
        norms: list[Tensor] | None = [] if return_kernel_penalty else None
        evaluation = _check_evaluation(
            self.evaluation if evaluation is None else evaluation, self.stem.causal
        )
        tolerance = self.tolerance if tolerance is None else tolerance
        shared: dict[str, Any] = {
            "period": period,
            "weight": weight,
            "bandlimit": self.bandlimit if bandlimit is None else bandlimit,
            "norms": norms,
        }
        domain: Domain
        if pos is None:
            domain = self._grid(x, spacing, mask=mask, lengths=lengths, method=method, **shared)
        elif spacing is not None or mask is not None or lengths is not None:
            raise ValueError("Expected no `spacing`, `mask` or `lengths` with `pos`, got one")
        elif evaluation == "nufft" and edge_index is not None:
            raise ValueError("Expected no `edge_index` with `evaluation='nufft'`, got one")
        else:
            shared |= {"batch_size": batch_size, "tolerance": tolerance}
            domain = self._points(x, pos, batch, edge_index, evaluation, **shared)
        hidden = domain.convolve(self.stem, self.input_dropout(domain.features(x)))
        hidden = nn.functional.gelu(self.stem_norm(hidden))
        for block in self.blocks:
            hidden = block(hidden, domain)
        hidden = self.norm(hidden)
        if self.readout is None:
            logits = domain.output(self.head(hidden))
        else:
            pooled = domain.pool(hidden, self.readout)
            logits = self.head(compare_pairs(pooled) if self.pairs else pooled)
        return logits if norms is None else (logits, kernel_penalty(norms))

    @torch.no_grad()
    def calibrate(
        self,
        x: Tensor,
        pos: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        edge_index: Tensor | Neighborhood | None = None,
        period: float | tuple[float | None, ...] | None = None,
        spacing: float | tuple[float, ...] | None = None,
        mask: Tensor | None = None,
    ) -> Self:
        """Scale every kernel so that its squared norm is 1 for every output on given data.

        Do this once, after construction: the scale is part of the weights and is never applied
        again. See `CKConvMP.calibrate`.

        Args:
            x: See `forward`, like the other arguments.
            pos: Positions.
            batch: Cloud of every point.
            edge_index: The graph if it is known already; unless given, the nearest neighbours, or
                all points with `evaluation="nufft"`.
            period: Length of the periodic box.
            spacing: Step of the grid.
            mask: Occupied cells of the grids.

        Returns:
            The network itself.
        """
        if self.embedding is not None:
            x = self.embedding(x)
        shared: dict[str, Any] = {"period": period, "bandlimit": self.bandlimit}
        domain: AllPoints | Grid | Points
        if pos is None:
            domain = self._grid(x, spacing, mask=mask, **shared)
        else:
            evaluation = self.evaluation if edge_index is None else "neighbors"
            domain = self._points(
                x, pos, batch, edge_index, evaluation, batch_size=None,
                tolerance=self.tolerance, **shared,
            )  # fmt: skip
        for conv in self._convolutions():
            conv.normalize_on(domain)
        return self

    def _convolutions(self) -> list[CKConvMP]:
        return [module for module in self.modules() if isinstance(module, CKConvMP)]

    def _grid(self, x: Tensor, spacing: float | tuple[float, ...] | None, **options: Any) -> Grid:
        spacing = self.stem.spacing if spacing is None else spacing
        channels = self.stem.in_channels
        grid = grid_domain(x, spacing, dim=self.dim, channels=channels, **options)
        grid.count_taps(self._convolutions())
        return grid

    def _points(
        self,
        x: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        edge_index: Tensor | Neighborhood | None,
        evaluation: Evaluation,
        *,
        tolerance: float,
        **options: Any,
    ) -> AllPoints | Points:
        options |= {"dim": self.dim, "channels": self.stem.in_channels}
        if self.density is not None and options.get("weight") is None:
            period = options["period"]
            options["weight"] = quadrature_weights(
                pos, batch, dim=min(2, self.dim), density=self.density, period=period
            )
        if evaluation == "nufft":
            return all_points_domain(x, pos, batch, tolerance=tolerance, **options)
        graph: int | Tensor | Neighborhood = self.num_neighbors
        if edge_index is not None:
            graph = edge_index
        elif self.radius is not None:
            graph = neighbors_within(pos, self.radius, batch, period=options["period"])
        return points_domain(x, pos, batch, graph, **options)

    def extra_repr(self) -> str:
        """Show what the layers would not."""
        return f"num_neighbors={self.num_neighbors}, readout={self.readout!r}"


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not is_positive(value):
        raise ValueError(f"Expected `{name}` to be positive and finite, got {value!r}")
    return None if value is None else float(value)


def _check_evaluation(evaluation: Evaluation, causal: bool) -> Evaluation:
    if evaluation not in get_args(Evaluation):
        raise ValueError(f"Expected `evaluation` to be 'neighbors' or 'nufft', got {evaluation!r}")
    if causal and evaluation == "nufft":
        raise ValueError("Expected `evaluation` 'neighbors' for a causal network, got 'nufft'")
    return evaluation
