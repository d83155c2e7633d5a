"""Epochs whose samples and order depend on a seed and the number of the epoch alone."""

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
    """Draws one sample of a data set, with the randomness that belongs to its key.

    Args:
        draw: Makes the sample of an index, and may draw from torch's global generator.
        key: Its index, or epoch and index.
        size: Number of samples in the data set.
        train: Whether accesses differ from each other: by the epoch, or where there is none by
            torch's generator as it is.
        seed: Seed of the data set.

    Raises:
        IndexError: If there is no such sample.
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
    """Seeds torch's global CPU generator for a while; transforms need not know of it.

    Only that one: ``torch.manual_seed`` would also reset a GPU, on which dropout draws.
    """
    state = torch.get_rng_state()
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    torch.random.default_generator.manual_seed(int(seed))
    try:
        yield
    finally:
        torch.set_rng_state(state)


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffles the samples of an epoch by its seed and number, and hands the number on.

    The epoch reaches the data set in the keys, and so also workers that outlive an epoch. Whoever
    runs the loop calls ``set_epoch`` before each epoch, as for any distributed sampler; Lightning
    does so by itself, after a restart too.

    Args:
        dataset: The data set, indexed by epoch and index.
        seed: Seed of the order.
        num_replicas: Number of processes that share the samples of an epoch.
        rank: Which of them this one is.
    """

    def __init__(
        self, dataset: Sized, *, seed: int = 0, num_replicas: int = 1, rank: int = 0
    ) -> None:
        # Orders are seeded by seed + epoch: neighbouring seeds would meet again an epoch later.
        spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
        super().__init__(cast(Dataset, dataset), num_replicas, rank, shuffle=True, seed=spread)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields epoch and index of every sample that falls to this process."""
        epoch = self.epoch
        return ((epoch, int(index)) for index in super().__iter__())  # type: ignore[call-overload]
