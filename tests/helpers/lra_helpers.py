"""What the tests of the Long Range Arena share: an evaluator, and a tracer of dashed paths."""

from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy import ndimage


def value(words: Sequence[str]) -> int:
    """Returns the value of an expression, which is read from its end."""
    operations = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(median(x)), "[SM": sum}
    stack: list[int | None] = []
    for word in reversed(words):
        if word == "]":
            stack.append(None)
        elif word.startswith("["):
            end = len(stack) - 1 - stack[::-1].index(None)
            arguments = stack[end + 1 :]
            stack[end:] = [operations[word](arguments) % 10]
        else:
            stack.append(int(word))
    (result,) = stack
    return result


def depth(words: Sequence[str]) -> int:
    """Returns the depth of an expression, of which a digit has 1."""
    deepest = opened = 0
    for word in words:
        opened += word.startswith("[")
        deepest = max(deepest, opened + word.isdigit())
        opened -= word == "]"
    return deepest


def joined(pairs: np.ndarray, first: int, second: int) -> bool:
    """Returns whether a chain of pairs of numbers, `[K, 2]`, leads from one number to another."""
    reached, before = {first}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {b for pair in pairs for a, b in (pair, pair[::-1]) if a in reached}
    return second in reached


def trace(image: np.ndarray) -> bool:
    """Returns whether dashes seem to lead from dot to dot, in an image of 128 x 128 pixels.

    Dashes are joined end to end where they point at each other.
    """
    reach, rows, columns = np.arange(-3, 4), *np.indices(image.shape)
    disk = np.hypot(*np.meshgrid(reach, reach)) <= 2.5
    cores = ndimage.grey_erosion(image, footprint=disk, mode="nearest") > 150
    labels, count = ndimage.label(cores, np.ones((3, 3)))
    dots = ndimage.center_of_mass(cores, labels, range(1, count + 1))
    lit = image > 110
    for row, column in dots:
        lit &= np.hypot(rows - row, columns - column) > 4.2
    ends, directions = [], []
    dashes, _ = ndimage.label(lit, np.ones((3, 3)))
    for pixels in ndimage.value_indices(dashes, ignore_value=0).values():
        points = np.stack(pixels, axis=1) - np.mean(pixels, axis=1)
        along = np.linalg.svd(points, full_matrices=False)[2][0]
        if len(points) >= 4:
            for direction in (along, -along):
                farthest = (points @ direction).max()
                ends.append(np.mean(pixels, axis=1) + farthest * direction)
                directions.append(direction)
    ends, directions = np.array(ends), np.array(directions)
    dash = np.arange(len(ends)) // 2
    tips = [ends + margin * directions for margin in (1.5, 2, 2.5, 3)]
    misses = np.min([np.linalg.norm(each[:, None] - each, axis=-1) for each in tips], axis=0)
    misses[(dash[:, None] == dash) | (directions @ directions.T > -0.3)] = np.inf
    other = misses.argmin(1)
    matched = (other[other] == np.arange(len(ends))) & (misses.min(1) < 3)
    marked = []
    for dot in dots:
        way = np.linalg.norm(dot - ends, axis=1)
        aim = np.sum((dot - ends) * directions, axis=1) / way
        marked.append(dash[np.where(matched, np.inf, way * (2 - aim)).argmin()])
    return joined(np.stack([dash, dash[other]], axis=1)[matched], *marked)
