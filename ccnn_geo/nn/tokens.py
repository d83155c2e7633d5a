"""Learnt embedding of token numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ccnn_geo.ops.point_backends.checks import is_readable

__all__ = ["TokenEmbedding"]


class TokenEmbedding(nn.Embedding):
    """Learnt features of token numbers on grids or points; token 0 is padding, which is zero.

    Args:
        num_embeddings: Number of tokens, V, padding among them.
        channels: Size of the features.

    Shapes:
        - **input:** tokens `[B, 1, *S]` or `[N, 1]`, int64 or int32
        - **output:** features `[B, channels, *S]` or `[N, channels]`

    Raises:
        ValueError: If there are fewer than two tokens.
    """

    def __init__(self, num_embeddings: int, channels: int) -> None:
        if num_embeddings < 2:
            raise ValueError(f"Expected `num_embeddings` >= 2, got {num_embeddings}")
        super().__init__(num_embeddings, channels, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of tokens.

        Raises:
            TypeError: If tokens are not int64 or int32.
            ValueError: If there is more than one channel, or (on the CPU) a token is out of range.
        """
        if not isinstance(x, Tensor) or x.dtype not in (torch.int64, torch.int32):
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"Expected tokens `x` to be int64 or int32, got {found}")
        if x.dim() < 2 or x.size(1) != 1:
            raise ValueError(
                f"Expected tokens `x` of shape [B, 1, *S] or [N, 1], got {list(x.shape)}"
            )
        if is_readable(x) and x.numel() > 0:
            least, most = (int(each) for each in x.aminmax())
            if least < 0 or most >= self.num_embeddings:
                raise ValueError(
                    f"Expected tokens `x` from 0 to {self.num_embeddings - 1}, got {least} to "
                    f"{most}"
                )
        return super().forward(x.squeeze(1)).movedim(-1, 1)
