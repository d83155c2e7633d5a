"""Neighbour lists as a table or in CSR form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import outside_transforms

Result = TypeVar("Result")


def _fit_for_training(
    compute: Callable[[Neighborhood], Result],
) -> Callable[[Neighborhood], Result]:
    """Compute outside inference mode and transforms, so that results can be kept for later."""

    @wraps(compute)
    def computed(neighbors: Neighborhood) -> Result:
        if torch.compiler.is_compiling():
            return compute(neighbors)
        with torch.inference_mode(False), outside_transforms(neighbors.index):
            return compute(neighbors)

    return computed


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """A graph as lists of sources, one per target.

    The lists are a table `[T, degree]`, in which -1 marks an empty slot, or of any lengths, from
    one entry of `pointer` to the next.

    Args:
        index: Source of every edge, sorted by target, `[E]`, int64.
        num_sources: Number of source points, S.
        num_targets: Number of target points, T.
        degree: Slots per target, for a table.
        pointer: Sources of target `i` are `index[pointer[i]:pointer[i + 1]]`, `[T + 1]`, int64.
    """

    index: Tensor
    num_sources: int
    num_targets: int
    degree: int = 0
    pointer: Tensor | None = None

    def __post_init__(self) -> None:
        """Check types and sizes, without looking at values.

        Raises:
            TypeError: If a tensor is not int64 or a number not whole.
            ValueError: If sizes do not fit.
        """
        for name in ("num_sources", "num_targets", "degree"):
            number = getattr(self, name)
            if type(number) is bool or not isinstance(number, (Integral, torch.SymInt)):
                raise TypeError(f"Expected `{name}` to be a whole number, got {number!r}")
            if number < 0:
                raise ValueError(f"Expected `{name}` >= 0, got {number}")
        for name, part in (("index", self.index), ("pointer", self.pointer)):
            if part is not None and (part.dtype != torch.int64 or part.dim() != 1):
                raise TypeError(
                    f"Expected `{name}` to be int64 of one axis, got {part.dtype} of shape "
                    f"{list(part.shape)}"
                )
        if self.pointer is not None and self.pointer.numel() != self.num_targets + 1:
            raise ValueError(
                f"Expected `pointer` of {self.num_targets + 1} entries, got {self.pointer.numel()}"
            )
        if self.pointer is None and self.degree * self.num_targets != self.index.numel():
            raise ValueError(
                f"Expected `index` of {self.num_targets} targets times `degree` {self.degree}, got "
                f"{self.index.numel()} entries"
            )

    @classmethod
    def from_table(cls, table: Tensor, num_sources: int | None = None) -> Neighborhood:
        """Wrap a table of sources, `[T, K]`, in which -1 marks an empty slot.

        Raises:
            TypeError: If `table` is not a tensor.
            ValueError: If it has another shape or type, or (on the CPU) names a missing source.
        """
        _check_tensor("table", table)
        if table.dim() != 2 or table.dtype != torch.int64:
            raise ValueError(
                f"Expected `table` of shape [T, K] and type int64, got {list(table.shape)} "
                f"and {table.dtype}"
            )
        num_targets, degree = table.shape
        sources = num_targets if num_sources is None else num_sources
        if table.numel() and table.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in table.aminmax())
            if low < -1 or high >= sources:
                raise ValueError(
                    f"Expected every source in `table` in [-1, {sources - 1}], got {low} to {high}"
                )
        return cls(table.reshape(-1), sources, num_targets, degree)

    @classmethod
    def from_edge_index(
        cls, edge_index: Tensor, num_sources: int, num_targets: int | None = None
    ) -> Neighborhood:
        """Sort an edge list by target; the result is a table if all degrees are equal.

        Args:
            edge_index: Sources and targets, `[2, E]`, int64, in any order; or a sparse tensor, the
                transposed adjacency `[T, S]` of PyG, whose values do not count.
            num_sources: Number of source points.
            num_targets: Number of target points, as many as sources unless given.

        Raises:
            ValueError: If `edge_index` has another shape or type, or names a missing point
                (looked up on the CPU only: on a GPU it would force a synchronisation).
        """
        num_targets = num_sources if num_targets is None else num_targets
        _check_tensor("edge_index", edge_index)
        if edge_index.layout != torch.strided:
            # PyG's transposed adjacency: rows are targets, columns are sources.
            adjacency = edge_index.to_sparse_coo().coalesce()
            if adjacency.shape[:2] != (num_targets, num_sources):
                raise ValueError(
                    f"Expected a transposed adjacency of shape [{num_targets}, {num_sources}], got "
                    f"{list(adjacency.shape)}"
                )
            edge_index = adjacency.indices().flip(0)
        _check_edge_index(edge_index, num_sources, num_targets)
        source, target = edge_index
        compiling = torch.compiler.is_compiling()
        if compiling or not bool((target[1:] >= target[:-1]).all()):
            target, order = torch.sort(target, stable=True)
            source = source[order]
        degrees = torch.bincount(target, minlength=num_targets)
        if not compiling and num_targets > 0 and bool((degrees == degrees[0]).all()):
            return cls(source.contiguous(), num_sources, num_targets, source.numel() // num_targets)
        pointer = torch.nn.functional.pad(degrees.cumsum(0), (1, 0))
        return cls(source.contiguous(), num_sources, num_targets, pointer=pointer)

    @classmethod
    def complete(
        cls,
        clouds: Sequence[tuple[slice, slice]],
        num_sources: int,
        *,
        device: torch.device | str | None = None,
    ) -> Neighborhood:
        """Connect every target of a cloud to all sources of the cloud.

        Args:
            clouds: Sources and targets of every cloud, each from its start to before its stop;
                targets follow on from one another.
            num_sources: Number of source points.
            device: Device of the graph.
        """
        sources, degrees = [], []
        for own, other in clouds:
            count, targets = own.stop - own.start, other.stop - other.start
            sources.append(torch.arange(own.start, own.stop, device=device).repeat(targets))
            degrees.append(torch.full((targets,), count, device=device))
        index, degree = torch.cat(sources), torch.cat(degrees)
        lengths = {own.stop - own.start for own, _ in clouds}
        if len(lengths) == 1:
            return cls(index, num_sources, len(degree), lengths.pop())
        pointer = torch.nn.functional.pad(degree.cumsum(0), (1, 0))
        return cls(index, num_sources, len(degree), pointer=pointer)

    @property
    def num_slots(self) -> int:
        """Number of edges, empty slots of a table included."""
        return self.index.numel()

    @cached_property
    @_fit_for_training
    def target(self) -> Tensor:
        """Target of every slot, `[E]`."""
        targets = torch.arange(self.num_targets, device=self.index.device)
        if self.pointer is None:
            return targets.repeat_interleave(self.degree)
        return targets.repeat_interleave(self.pointer.diff(), output_size=self.num_slots)

    @cached_property
    @_fit_for_training
    def source(self) -> Tensor:
        """Source of every slot, `[E]`; 0 for an empty slot."""
        return self.index if self.pointer is not None else self.index.clamp(min=0)

    @cached_property
    @_fit_for_training
    def occupied(self) -> Tensor | None:
        """Mask of the slots that are not empty, `[E]`, or None if all are known to be occupied."""
        if self.pointer is not None:
            return None
        occupied = self.index >= 0
        if occupied.is_cuda or torch.compiler.is_compiling():  # do not wait for the device
            return occupied
        return None if bool(occupied.all()) else occupied

    @cached_property
    @_fit_for_training
    def edge_index(self) -> Tensor:
        """Sources and targets in PyG's order, empty slots left out, `[2, E]`."""
        edge_index = torch.stack([self.index, self.target])
        if self.pointer is None:
            edge_index = edge_index[:, self.index >= 0]
        return edge_index

    @cached_property
    @_fit_for_training
    def reversed(self) -> tuple[Tensor, Tensor]:
        """The same edges grouped by source: a pointer `[S + 1]` and their targets `[E]`.

        Empty slots are sorted to the front, before `pointer[0]`.
        """
        source, order = torch.sort(self.index, stable=True)
        bounds = torch.arange(self.num_sources + 1, device=source.device)
        return torch.searchsorted(source, bounds), self.target[order]


def relative_offsets(source: Tensor, target: Tensor) -> Tensor:
    """Offsets from targets to sources, source minus target: the orientation of every kernel."""
    return source - target


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected `{name}` to be a tensor, got a {type(value).__name__}")


def _check_edge_index(edge_index: Tensor, num_sources: int, num_targets: int) -> None:
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            "Expected `edge_index` of shape [2, E] and type int64, got "
            f"{list(edge_index.shape)} and {edge_index.dtype}"
        )
    if edge_index.device.type != "cpu" or edge_index.numel() == 0 or torch.compiler.is_compiling():
        return
    for row, name, size in ((0, "source", num_sources), (1, "target", num_targets)):
        low, high = (int(bound) for bound in edge_index[row].aminmax())
        if low < 0 or high >= size:
            raise ValueError(
                f"Expected every {name} in `edge_index` to lie in [0, {size - 1}], "
                f"got indices from {low} to {high}"
            )
