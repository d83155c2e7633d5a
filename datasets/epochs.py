"""Samples and their order as functions of the seed and the epoch number."""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from torch_geometric.data import Data

__all__ = ["EpochSampler", "Split", "draw_sample"]


Split = Literal["train", "test"]


def draw_sample(
    draw: Callable[[int], Data], key: int | tuple[int, int], size: int, *, train: bool, seed: int
) -> Data:
    """Draw one sample of a data set with torch's global generator seeded by its key.

    Args:
        draw: Function from an index to a sample, which may use torch's global generator.
        key: The index, or epoch and index.
        size: Number of samples in the data set.
        train: If True, the generator is seeded by epoch and index, or not at all if there is no
            epoch. If False, it is seeded by the index.
        seed: Seed of the data set.

    Raises:
        IndexError: If the index is out of range.
    """
    epoch, index = key if isinstance(key, tuple) else (None, key)
    if not -size <= index < size:
        raise IndexError(f"Expected an index of one of {size} samples, got {index}")
    index %= size
    if not train:
        with _seeded(seed, index):
            return draw(index)
    if epoch is None:
        return draw(index)
    with _seeded(seed, index, epoch):
        return draw(index)


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed torch's global CPU generator within the context, and restore its state afterwards.

    `torch.manual_seed` would also reset the generators of GPUs, which dropout uses.
    """
    state = torch.get_rng_state()
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    torch.random.default_generator.manual_seed(int(seed))
    try:
        yield
    finally:
        torch.set_rng_state(state)


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Sampler that shuffles by seed and epoch, and yields pairs of epoch and index.

    As part of the key, the epoch also reaches persistent workers. Call `set_epoch` before each
    epoch, as for any distributed sampler; Lightning does so automatically, also after a restart.

    Args:
        dataset: A data set that accepts epoch and index as its key.
        seed: Seed of the order.
        num_replicas: Number of processes that share the samples of an epoch.
        rank: Rank of this process.
    """

    def __init__(
        self, dataset: Sized, *, seed: int = 0, num_replicas: int = 1, rank: int = 0
    ) -> None:
        # The base class seeds by seed + epoch: consecutive seeds would share orders.
        spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
        super().__init__(cast(Dataset, dataset), num_replicas, rank, shuffle=True, seed=spread)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield epoch and index of every sample of this process."""
        epoch = self.epoch
        return ((epoch, int(index)) for index in super().__iter__())  # type: ignore[call-overload]
