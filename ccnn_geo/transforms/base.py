"""Base classes and helpers of the transforms."""

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform


def require_tensor(data: Data, name: str, width: int | None = None) -> Tensor:
    """Return a tensor attribute, of shape `[N, width]` if a width is given.

    Raises:
        ValueError: If it is missing, not a tensor or of another shape.
    """
    value = data[name] if name in data else None
    if not isinstance(value, Tensor):
        there = ", ".join(f"`{key}`" for key in data.keys()) or "nothing"
        raise ValueError(f"Expected data with a tensor `{name}`, got {there}")
    if width is not None and (value.dim() != 2 or value.size(1) != width):
        raise ValueError(f"Expected `{name}` of shape [N, {width}], got {list(value.shape)}")
    return value


def check_count(name: str, value: int, *, least: int = 1) -> int:
    """Return a number that has to be an integer and large enough.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is less than `least`.
    """
    if type(value) is bool or not isinstance(value, int):
        raise TypeError(f"Expected `{name}` to be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"Expected `{name}` to be at least {least}, got {value}")
    return value


def select_points(data: Data, index: Tensor) -> Data:
    """Return the attributes of a subset of the points, and the edges between them.

    Args:
        data: A cloud of N points; faces of a mesh are dropped.
        index: Indices of distinct points, `[M]`.
    """
    if "face" in data:
        del data["face"]
    return data.subgraph(index)


def drop_points(data: Data) -> None:
    """Remove every attribute of points, edges and faces, but not of the graph, such as `y [1]`."""
    of_points = [key for key in data.node_attrs() if not (key == "y" and data.num_nodes == 1)]
    for key in {*of_points, *data.edge_attrs(), "edge_index", "face", "num_nodes"}:
        if key in data:
            del data[key]


class ShowsOptions(BaseTransform):
    """A transform whose `repr` shows its arguments."""

    def __repr__(self) -> str:
        options = {key: value for key, value in vars(self).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


class DrawPoints(ShowsOptions):
    """A transform that samples a number of points."""

    def __init__(
        self, num_points: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.num_points = check_count("num_points", num_points)
        self.seed = seed
        self.generator = generator
