"""The residual blocks of the paper's Fig. 7, around convolutions that are handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

from torch import Tensor, nn

from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.nn.pointwise import ChannelDropout, PointwiseLinear, reset_linear
from ccnn_geo.ops import Neighborhood

Convolve = Callable[[CKConvMP, Tensor], Tensor]


class ResidualBlock(nn.Module):
    """Base of the residual blocks: a branch around one or two convolutions, and a shortcut.

    Args:
        convs: The convolutions of the branch, `num_convs` of them.
        dropout: Probability of dropping a channel.
        elementwise_dropout: Drop single values instead of channels.

    Shapes:
        - **input:** features `[N, C_in]`, positions `[N, D]`, edges `[2, E]` or a `Neighborhood`,
          quadrature weights `[N]` (optional), clouds `[N]` (optional, for the dropout).
        - **output:** `[N, C_out]`; the shortcut is linear where C_in and C_out differ.
        - on grids: features as a `Grid` has them, `[B, C, P]` or `[M, C]`, and what convolves them.

    Raises:
        ValueError: If the number of convolutions or their channels do not fit.
    """

    num_convs: ClassVar[int] = 1
    """Convolutions in the branch."""
    prenorm: ClassVar[bool] = True
    """Whether the branch normalises its input, so that a network must normalise its last output."""

    def __init__(
        self, *convs: CKConvMP, dropout: float = 0.0, elementwise_dropout: bool = False
    ) -> None:
        super().__init__()
        if len(convs) != self.num_convs:
            raise ValueError(f"Expected {self.num_convs} convolutions, got {len(convs)}")
        for first, second in zip(convs[:-1], convs[1:], strict=True):
            if first.out_channels != second.in_channels:
                raise ValueError(
                    f"Expected a convolution of {first.out_channels} channels after one that gives "
                    f"as many, got one of {second.in_channels}"
                )
        self.convs = nn.ModuleList(convs)
        self.dropout = ChannelDropout(dropout, elementwise=elementwise_dropout)
        self.in_channels, self.out_channels = convs[0].in_channels, convs[-1].out_channels
        self.shortcut = (
            nn.Identity()
            if self.in_channels == self.out_channels
            else PointwiseLinear(self.in_channels, self.out_channels)
        )

    def conv(self, number: int) -> CKConvMP:
        """The convolution of that number."""
        return cast(CKConvMP, self.convs[number])

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, (CKConvMP, nn.BatchNorm1d)):
                module.reset_parameters()
        for module in self.children():
            if isinstance(module, nn.Linear):
                reset_linear(module)

    def forward(
        self,
        x: Tensor,
        pos: Tensor | None = None,
        edge_index: Tensor | Neighborhood | None = None,
        weight: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        *,
        convolve: Convolve | None = None,
    ) -> Tensor:
        """Add the branch to the shortcut.

        Args:
            x: Features.
            pos: Positions.
            edge_index: The graph.
            weight: Quadrature weights.
            batch: Clouds, for the dropout.
            batch_size: Number of clouds.
            convolve: Evaluates a convolution on features, in place of positions and graph.

        Raises:
            ValueError: If there are neither positions and a graph nor `convolve`.
        """
        if convolve is None:
            convolve = _on_graph(pos, edge_index, weight)

        def drop(hidden: Tensor) -> Tensor:
            return self.dropout(hidden, batch, batch_size)

        return self._combine(x, convolve, drop)

    def _combine(self, x: Tensor, convolve: Convolve, drop: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError


class S4Block(ResidualBlock):
    """The block of S4 (Gu et al. 2022): norm, convolution, GELU, dropout, linear, + shortcut.

    See `ResidualBlock` for arguments and shapes.
    """

    def __init__(
        self, *convs: CKConvMP, dropout: float = 0.0, elementwise_dropout: bool = False
    ) -> None:
        super().__init__(*convs, dropout=dropout, elementwise_dropout=elementwise_dropout)
        self.norm = nn.BatchNorm1d(self.in_channels)
        self.linear = PointwiseLinear(self.out_channels, self.out_channels)
        self.reset_parameters()

    def _branch(self, x: Tensor, convolve: Convolve, drop: Callable[[Tensor], Tensor]) -> Tensor:
        hidden = nn.functional.gelu(convolve(self.conv(0), self.norm(x)))
        return self.linear(drop(hidden))

    def _combine(self, x: Tensor, convolve: Convolve, drop: Callable[[Tensor], Tensor]) -> Tensor:
        return self.shortcut(x) + self._branch(x, convolve, drop)


class CCNNBlock(S4Block):
    """The paper's block: that of S4 with one more GELU at the end of the branch (Sec. 4.1).

    See `ResidualBlock` for arguments and shapes.
    """

    def _branch(self, x: Tensor, convolve: Convolve, drop: Callable[[Tensor], Tensor]) -> Tensor:
        return nn.functional.gelu(super()._branch(x, convolve, drop))


class FlexBlock(ResidualBlock):
    """The block of FlexNet (Romero et al. 2022), which is that of ResNet (He et al. 2016).

    Twice convolution and norm, with GELU and dropout between; + shortcut; GELU. See
    `ResidualBlock` for arguments and shapes.
    """

    num_convs: ClassVar[int] = 2
    prenorm: ClassVar[bool] = False

    def __init__(
        self, *convs: CKConvMP, dropout: float = 0.0, elementwise_dropout: bool = False
    ) -> None:
        super().__init__(*convs, dropout=dropout, elementwise_dropout=elementwise_dropout)
        self.norms = nn.ModuleList(nn.BatchNorm1d(conv.out_channels) for conv in convs)
        self.reset_parameters()

    def _combine(self, x: Tensor, convolve: Convolve, drop: Callable[[Tensor], Tensor]) -> Tensor:
        hidden = drop(nn.functional.gelu(self.norms[0](convolve(self.conv(0), x))))
        hidden = self.norms[1](convolve(self.conv(1), hidden))
        return nn.functional.gelu(self.shortcut(x) + hidden)


def _on_graph(
    pos: Tensor | None, edge_index: Tensor | Neighborhood | None, weight: Tensor | None
) -> Convolve:
    if pos is None or edge_index is None:
        raise ValueError("Expected `pos` and `edge_index`, or `convolve`, got neither")
    return lambda conv, hidden: conv(hidden, pos, edge_index, weight)
