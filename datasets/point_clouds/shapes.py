"""Data set of procedural meshes, for demonstrations without a download."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from ..io.readers import Geometry
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions

__all__ = [
    "SHAPES_CLASSES",
    "Shapes",
    "deform",
    "list_shapes",
    "make_shape",
    "procedural_items",
    "turn",
]

SHAPES_CLASSES = (
    "ball",
    "block",
    "bracket",
    "chair",
    "cone",
    "cross",
    "cylinder",
    "dumbbell",
    "helix",
    "mug",
    "pyramid",
    "ring",
    "stairs",
    "table",
)
# Incremented whenever the same seed gives different meshes.
_VERSION = 1


class Shapes(SampledDataset):
    """Fourteen classes of simple solids and furniture, randomly deformed and rotated.

    Meshes have random proportions, taper, twist, bend and size, any heading, and a tilt of up to 15
    degrees. They are sampled like the meshes of ModelNet.

    Args:
        root: Folder for the cache.
        train_per_class: Number of training meshes per class.
        test_per_class: Number of test meshes per class.
        **options: See `SampledDataset`. The `seed` also determines the meshes.

    Raises:
        ValueError: If an argument is out of range.
        OSError: If the cache cannot be written.
    """

    def __init__(
        self,
        root: Path | str = "data/shapes",
        *,
        train_per_class: int = 64,
        test_per_class: int = 16,
        **options: Unpack[SamplingOptions],
    ) -> None:
        listing = list_shapes(
            Path(root),
            seed=options.get("seed", 0),
            train_per_class=train_per_class,
            test_per_class=test_per_class,
        )
        super().__init__(listing, **options)


def list_shapes(
    root: Path, *, seed: int = 0, train_per_class: int = 64, test_per_class: int = 16
) -> Listing:
    """List the meshes of `Shapes`, which are generated on demand."""
    counts = {"train_per_class": train_per_class, "test_per_class": test_per_class}
    stamp = f"shapes{_VERSION}:{seed}"
    train, test = procedural_items(SHAPES_CLASSES, make_shape, counts, seed=seed, stamp=stamp)
    return Listing("shapes", root, list(SHAPES_CLASSES), train, test)


def procedural_items(
    names: Sequence[str],
    make: Callable[..., Geometry],
    counts: Mapping[str, int],
    *,
    seed: int,
    stamp: str,
) -> tuple[list[Item], list[Item]]:
    """Return the training and test items of a procedural data set.

    Args:
        names: Names of the classes.
        make: Generates an object from the name of its class and a seed.
        counts: Numbers of training and of test objects per class, by the names of the arguments.
        seed: Seed of all objects.
        stamp: Text that changes if the same seed gives other objects.

    Raises:
        ValueError: If there is no training object, or a number is negative.
    """
    (train_name, train), (test_name, test) = counts.items()
    if train < 1 or test < 0 or seed < 0:
        raise ValueError(
            f"Expected `{train_name}` >= 1, `{test_name}` >= 0 and `seed` >= 0, "
            f"got {train}, {test} and {seed}"
        )
    first, second = (
        [
            Item(
                f"{name}/{split}/{name}_{number:04d}",
                label,
                partial(make, name, seed=(seed, label, fold, number)),
                stamp,
            )
            for label, name in enumerate(names)
            for number in range(count)
        ]
        for fold, (split, count) in enumerate((("train", train), ("test", test)))
    )
    return first, second


def make_shape(name: str, *, seed: int | tuple[int, ...]) -> Geometry:
    """Generate one mesh, randomly deformed and rotated.

    Args:
        name: The class, one of `SHAPES_CLASSES`.
        seed: Seed of proportions, deformation and pose.

    Returns:
        The mesh, in a random length unit.

    Raises:
        ValueError: If the class is unknown.
    """
    if name not in SHAPES_CLASSES:
        raise ValueError(f"Expected one of {', '.join(SHAPES_CLASSES)}, got {name!r}")
    from .solids import MAKERS  # needs trimesh, unlike reading clouds

    generator = np.random.default_rng(np.random.SeedSequence(seed))
    mesh = MAKERS[name](generator)
    vertices = np.asarray(mesh.vertices, dtype=np.float64)
    return Geometry(turn(deform(vertices, generator), generator), np.asarray(mesh.faces))


def deform(vertices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Randomly stretch a mesh along the axes, taper, twist and bend it."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / (high - low).max() * 2
    x, y, z = (vertices * generator.uniform(0.8, 1.25, size=3)).T
    taper = 1 + generator.uniform(-0.25, 0.25) * z
    x, y = x * taper, y * taper
    angle = generator.uniform(-0.35, 0.35) * z
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    x = x + generator.uniform(-0.2, 0.2) * z**2
    return np.stack([x, y, z], axis=1)


def turn(vertices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Randomly rotate a mesh about the vertical, tilt it by up to 15 degrees, scale and move it."""
    heading = _rotation(generator.uniform(0, 2 * np.pi), axis=2)
    tilt = _rotation(generator.uniform(-1, 1) * np.pi / 12, axis=0)
    size, shift = generator.uniform(0.5, 2.0), generator.uniform(-1, 1, size=3)
    return size * vertices @ (tilt @ heading).T + shift


def _rotation(angle: float, *, axis: int) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.eye(3)
    rotation[[first, second], [first, second]] = cosine
    rotation[first, second], rotation[second, first] = -sine, sine
    return rotation
