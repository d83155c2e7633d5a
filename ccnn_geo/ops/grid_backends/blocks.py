"""Sequences as overlapping blocks, each with all that its part of the output needs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ccnn_geo.ops.grid_backends.layout import Layout


class Blocks(NamedTuple):
    """How a sequence of N points is cut, for a kernel of K taps."""

    layout: Layout
    length: int
    """Points of a block, F; its output has F - K + 1."""

    @property
    def step(self) -> int:
        """Points of the output of a block, S."""
        return self.length - self.layout.taps[0] + 1

    @property
    def number(self) -> int:
        """Number of blocks, M."""
        return -(-self.layout.size[0] // self.step)

    def inputs(self, sequence: Tensor) -> Tensor:
        """Cut an input `[C, N]` into overlapping blocks, `[M, C, F]`, of one copy."""
        size, left, right, wraps = self._sizes
        extended = sequence.new_zeros(len(sequence), self.number * self.step + left + right)
        extended[:, left : left + size] = sequence
        if wraps:
            extended[:, :left] = sequence[:, size - left :]
            extended[:, left + size :][:, :right] = sequence[:, :right]
        return extended.unfold(-1, self.length, self.step).transpose(0, 1)

    def inputs_adjoint(self, blocks: Tensor) -> Tensor:
        """Add what lies at the same point of the input, `[M, C, F]` to `[C, N]`."""
        size, left, right, wraps = self._sizes
        count, channels, _ = blocks.shape
        extended = blocks.new_zeros(channels, count + 1, self.step)
        extended[:, :-1] = blocks[..., : self.step].transpose(0, 1)
        extended[:, 1:, : left + right] += blocks[..., self.step :].transpose(0, 1)
        extended = extended.flatten(1)
        sequence = extended[:, left : left + size]
        if wraps:
            sequence[:, size - left :] += extended[:, :left]
            sequence[:, :right] += extended[:, left + size :][:, :right]
        return sequence

    def outputs(self, sequence: Tensor) -> Tensor:
        """Cut an output `[C, N]`, followed by zeros, into blocks, `[M, C, S]`."""
        padded = sequence.new_zeros(len(sequence), self.number * self.step)
        padded[:, : sequence.size(1)] = sequence
        return padded.unflatten(-1, (self.number, self.step)).transpose(0, 1)

    @property
    def _sizes(self) -> tuple[int, int, int, bool]:
        layout = self.layout
        return layout.size[0], layout.left[0], layout.right[0], layout.periodic[0]
