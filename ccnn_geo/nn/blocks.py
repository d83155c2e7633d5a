"""The residual blocks of the paper (Fig. 7), around given convolutions."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.nn.domains import Domain
from ccnn_geo.nn.pointwise import ChannelDropout, PointwiseLinear, reset_linear


class ResidualBlock(nn.Module):
    """Base of the residual blocks: a branch around one or two convolutions, and a shortcut.

    Args:
        convs: The convolutions of the branch, `num_convs` of them.
        dropout: Probability of dropping a channel.
        elementwise_dropout: Drop single values instead of channels.

    Shapes:
        - **input:** features in the form of their domain: `[N, C_in]` on `Points`, `[B, C_in, P]`
          or `[M, C_in]` on a `Grid`.
        - **output:** the same with C_out channels; the shortcut is linear where C_in and C_out
          differ.

    Raises:
        ValueError: If the number of convolutions or their channels do not fit.
    """

    num_convs: ClassVar[int] = 1
    """Convolutions in the branch."""
    prenorm: ClassVar[bool] = True
    """True if the branch normalises its input; a network then normalises the last output."""

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
        """Return a convolution of the branch by its number."""
        return cast(CKConvMP, self.convs[number])

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, (CKConvMP, nn.BatchNorm1d)):
                module.reset_parameters()
        for module in self.children():
            if isinstance(module, nn.Linear):
                reset_linear(module)

    def forward(self, x: Tensor, domain: Domain) -> Tensor:
        """Add the branch to the shortcut.

        Args:
            x: Features.
            domain: Where they live: `Points` or a `Grid`.
        """
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

    def _branch(self, x: Tensor, domain: Domain) -> Tensor:
        hidden = nn.functional.gelu(domain.convolve(self.conv(0), self.norm(x)))
        return self.linear(domain.drop(self.dropout, hidden))

    def forward(self, x: Tensor, domain: Domain) -> Tensor:
        """Return `shortcut(x) + linear(dropout(gelu(conv(norm(x)))))`."""
        return self.shortcut(x) + self._branch(x, domain)


class CCNNBlock(S4Block):
    """The block of the paper: the block of S4 with a GELU at the end of the branch (Sec. 4.1).

    See `ResidualBlock` for arguments and shapes.
    """

    def _branch(self, x: Tensor, domain: Domain) -> Tensor:
        return nn.functional.gelu(super()._branch(x, domain))


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

    def forward(self, x: Tensor, domain: Domain) -> Tensor:
        """Return `gelu(shortcut(x) + norm(conv(dropout(gelu(norm(conv(x)))))))`."""
        hidden = nn.functional.gelu(self.norms[0](domain.convolve(self.conv(0), x)))
        hidden = domain.drop(self.dropout, hidden)
        hidden = self.norms[1](domain.convolve(self.conv(1), hidden))
        return nn.functional.gelu(self.shortcut(x) + hidden)
