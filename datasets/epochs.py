"""Samples and their order as functions of the seed and the epoch number."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

__all__ = ["EpochSampler", "Split", "UnrepeatedSampler", "seeded"]


Split = Literal["train", "test"]


@contextmanager
def seeded(*key: int) -> Iterator[None]:
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


class UnrepeatedSampler(DistributedSampler[int]):
    """Sampler that shares the samples among processes in their order, each of them once.

    Other samplers give every process equally many samples, by repeating some.

    Args:
        dataset: A data set with at least as many samples as there are processes.
        num_replicas: Number of processes.
        rank: Rank of this process.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(cast(Dataset, dataset), num_replicas, rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        """Yield the index of every sample of this process."""
        return iter(self._indices())

    def __len__(self) -> int:
        """Return the number of samples of this process."""
        return len(self._indices())

    def _indices(self) -> range:
        return range(self.rank, len(cast(Sized, self.dataset)), self.num_replicas)
