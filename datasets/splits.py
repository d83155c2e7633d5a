"""Stratified splits and subsets."""

import numpy as np

__all__ = ["random_holdout", "stratified_holdout", "stratified_split", "stratified_subset"]


def stratified_split(
    labels: np.ndarray,
    *,
    val_fraction: float,
    train_size: int | None,
    seed: int,
    validation: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into training and validation, see `stratified_holdout`.

    Args:
        labels: Class index of every sample, `[M]`.
        val_fraction: Fraction to hold out for validation.
        train_size: Number of training samples to use, see `stratified_subset`; all by default. The
            validation split does not depend on it.
        seed: Seed of both.
        validation: Whether a sample is for validation, `[M]`, if the data set says so. The fraction
            is ignored then.

    Returns:
        The indices of training and of validation, each ascending.
    """
    if validation is None:
        train, val = stratified_holdout(labels, val_fraction, seed=seed)
    else:
        train, val = np.flatnonzero(~validation), np.flatnonzero(validation)
    if train_size is not None:
        train = train[stratified_subset(labels[train], train_size, seed=seed)]
    return train, val


def stratified_holdout(
    labels: np.ndarray, fraction: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a fraction of every class.

    At least one member of a class is kept, and at least one held out if there are two or more.

    Args:
        labels: Class index of every sample, `[M]`.
        fraction: Fraction to hold out, at least 0 and below 1.
        seed: Seed of the split.

    Returns:
        The indices that are kept and the indices that are held out, each ascending.

    Raises:
        ValueError: If the fraction is out of range, or if no class has two samples.
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
                "got one of each; `val_fraction`=0 trains without validation"
            )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def random_holdout(count: int, fraction: float, *, seed: int) -> np.ndarray:
    """Choose samples without classes to hold out.

    At least one is held out if the fraction is not 0, and at least one is kept.

    Args:
        count: Number of samples, M.
        fraction: Fraction to hold out, at least 0 and below 1.
        seed: Seed of the choice.

    Returns:
        Whether each sample is held out, `[M]`.
    """
    held_out = np.zeros(count, dtype=bool)
    if fraction > 0:
        number = min(max(round(fraction * count), 1), count - 1)
        held_out[np.random.default_rng([seed, 2]).permutation(count)[:number]] = True
    return held_out


def stratified_subset(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Draw a subset with the same proportions of the classes.

    Every class is represented if `size` is at least the number of classes.

    Args:
        labels: Class index of every sample, `[M]`.
        size: Number of samples to draw.
        seed: Seed of the subset.

    Returns:
        Indices of the samples, ascending, `[size]`.

    Raises:
        ValueError: If not 1 <= size <= M.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"Expected `train_size` from 1 to {len(labels)}, got {size}")
    # Sorted by the fraction of its class that precedes a sample; the first of each class is at 0.
    turns = np.empty(len(labels))
    for members in _shuffled_classes(labels, seed):
        turns[members] = np.arange(len(members)) / len(members)
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    return np.sort(order[np.argsort(turns[order], kind="stable")][:size])


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 0])
    return [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
