"""Stratified selections: every class keeps its share."""

import numpy as np

__all__ = ["stratified_holdout", "stratified_subset"]


def stratified_holdout(
    labels: np.ndarray, fraction: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a fraction of every class.

    Of a class with two or more members at least one is held out and at least one kept; a single
    member is kept.

    Args:
        labels: Class index of every member, `[M]`.
        fraction: Share to hold out, at least 0 and below 1.
        seed: Seed of the choice.

    Returns:
        The indices kept and the indices held out, both ascending.

    Raises:
        ValueError: If the fraction is out of range, or if not one member can be held out.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"Expected `val_fraction` of at least 0 and below 1, got {fraction}")
    held_out = np.zeros(len(labels), dtype=bool)
    if fraction > 0:
        for members in _shuffled_classes(labels, seed):
            most = len(members) - 1
            held_out[members[: min(max(round(fraction * len(members)), 1), most)]] = True
        if not held_out.any():
            raise ValueError(
                f"Expected a class with two training samples for `val_fraction`={fraction}, "
                "got one of each; train without validation by `val_fraction`=0"
            )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def stratified_subset(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Chooses a subset in which every class keeps its share, and has a member if there is room.

    Args:
        labels: Class index of every member, `[M]`.
        size: Number of members to choose.
        seed: Seed of the choice.

    Returns:
        Their indices, ascending, `[size]`.

    Raises:
        ValueError: If not 1 <= size <= M.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"Expected `train_size` from 1 to {len(labels)}, got {size}")
    # Members take turns by how much of their own class comes before them; a class begins at zero.
    turns = np.empty(len(labels))
    for members in _shuffled_classes(labels, seed):
        turns[members] = np.arange(len(members)) / len(members)
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    return np.sort(order[np.argsort(turns[order], kind="stable")][:size])


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 0])
    return [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
