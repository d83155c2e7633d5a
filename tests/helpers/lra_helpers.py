"""What the tests of the Long Range Arena share: small files, an evaluator, a tracer of paths."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from scipy import ndimage

from ccnn_geo.datasets.signals.lra.listops import LISTOPS_TOKENS, generate_listops


def put_expressions(folder: Path, *, counts: tuple[int, int, int] = (20, 6, 7)) -> Path:
    """Makes the three tables of ListOps, with the columns of the last one in the other order."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        drawn = generate_listops(count, seed=seed, min_length=4, max_length=30, num_processes=1)
        rows = [("Source", "Target")]
        for index, label in enumerate(drawn.labels):
            words = [LISTOPS_TOKENS[token] for token in drawn[index]]
            # The binary trees of the official files.
            text = " ".join(word if word.startswith("[") else f"{word} )" for word in words)
            rows.append((f"( ( {text}", str(label)))
        lines = ["\t".join(row[::-1] if split == "test" else row) for row in rows]
        (folder / f"basic_{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def put_pairs(folder: Path, lines: Sequence[bytes] = ()) -> Path:
    """Makes the three tables of Retrieval, of 40, 3 and 2 pairs and more lines for training."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 40), ("eval", 3), ("test", 2)):
        rows = [
            b"%d.0\tP%d\tQ%d\tabc\xc3\xa9 %d\tab%s" % (i % 2, i, i, i, b"c" * i)
            for i in range(count)
        ]
        rows += lines if split == "train" else []
        (folder / f"new_aan_pairs.{split}.tsv").write_bytes(b"\n".join(rows))
    return folder


def put_reviews(folder: Path, counts: tuple[int, int] = (10, 3)) -> Path:
    """Makes the folders of aclImdb, with reviews of each class for training and testing."""
    for split, count in zip(("train", "test"), counts, strict=True):
        for label, word in (("neg", "bad"), ("pos", "good")):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                text = f"{word} {word} film<br />\xe9".encode("latin-1") + b"!" * number
                (folder / split / label / f"{number}_{7}.txt").write_bytes(text)
    return folder


def put_paths(folder: Path, count: int = 40, resolution: int = 32) -> Path:
    """Makes images in two lists of Pathfinder, of brightness i and label i % 2 for image i."""
    for part in (0, 1):
        (folder / "imgs" / str(part)).mkdir(parents=True, exist_ok=True)
        lines = []
        for number in range(part, count, 2):
            pixels = np.full((resolution, resolution), number, np.uint8)
            Image.fromarray(pixels).save(folder / "imgs" / str(part) / f"sample_{number}.png")
            lines.append(f"imgs/{part} sample_{number}.png {number} {number % 2} 1.0 6 2 2 0.5 1 1")
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / "metadata" / f"{part}.npy").write_text("\n".join(lines) + "\n")
    return folder


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
