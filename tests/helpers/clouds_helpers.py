"""Random clouds for the tests of layers and operators."""

import torch


def random_clouds(*sizes: int, dim: int = 3, channels: int = 4, dtype=torch.float64):
    """Features, positions and cloud numbers of random clouds in [-1, 1]."""
    total = sum(sizes)
    x = torch.randn(total, channels, dtype=dtype)
    pos = torch.rand(total, dim, dtype=dtype) * 2 - 1
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return x, pos, batch
