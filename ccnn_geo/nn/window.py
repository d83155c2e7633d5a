"""The window of a kernel."""

import torch
from torch import nn

from ccnn_geo.ops.grid_positions import per_axis


class GaussianWindow(nn.Module):
    r"""The learnable width of a kernel: :math:`g(u) = \exp(-\tfrac12 \|u / \sigma\|^2)`.

    FlexConv's window (Romero et al. 2022, Eq. 5), with the logarithm of the width as parameter, so
    that it stays positive. `log_width` is what `KernelSupport` evaluates.

    Args:
        dim: Number of coordinates, D.
        width: Initial width(s) in units of the kernel's extent, a number or one per axis.
        isotropic: Whether all axes share one width; by default they do for D >= 3 (as in the
            paper's models).

    Raises:
        ValueError: If a width is not positive, or their number is not D.
    """

    def __init__(
        self, dim: int, width: float | tuple[float, ...] = 0.075, *, isotropic: bool | None = None
    ) -> None:
        super().__init__()
        widths = per_axis("width", width, dim)
        self.isotropic = dim >= 3 and len(set(widths)) == 1 if isotropic is None else isotropic
        if self.isotropic and len(set(widths)) > 1:
            raise ValueError(f"Expected one `width` for an isotropic window, got {width}")
        self.initial_width = widths[:1] if self.isotropic else widths
        self.log_width = nn.Parameter(torch.empty(len(self.initial_width)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the initial width."""
        with torch.no_grad():
            self.log_width.copy_(torch.tensor(self.initial_width).log())

    def extra_repr(self) -> str:
        """Show the width as it is now."""
        return f"width={[round(width, 4) for width in self.log_width.exp().tolist()]}"
