"""Helpers that all transforms share."""

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform


def require_tensor(data: Data, name: str, width: int | None = None) -> Tensor:
    """Returns an attribute of one cloud, `[N, width]` where a width is given."""
    value = data[name] if name in data else None
    if not isinstance(value, Tensor):
        there = ", ".join(f"`{key}`" for key in data.keys()) or "nothing"
        raise ValueError(f"Expected data with a tensor `{name}`, got {there}")
    if width is not None and (value.dim() != 2 or value.size(1) != width):
        raise ValueError(f"Expected `{name}` of shape [N, {width}], got {list(value.shape)}")
    return value


class ShowsOptions(BaseTransform):
    """A transform that shows what it was made with."""

    def __repr__(self) -> str:
        options = {key: value for key, value in vars(self).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


class DrawPoints(ShowsOptions):
    """A transform that draws points."""

    def __init__(
        self, num_points: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        if num_points < 1:
            raise ValueError(f"Expected `num_points` to be at least 1, got {num_points}")
        self.num_points = num_points
        self.seed = seed
        self.generator = generator
