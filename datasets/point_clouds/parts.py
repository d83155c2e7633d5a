"""Data set of procedural objects whose parts are labelled, without a download."""

from pathlib import Path
from typing import Unpack

import numpy as np

from ..io.readers import Geometry
from .dataset import Listing, SampledDataset, SamplingOptions
from .shapes import deform, procedural_items, turn

__all__ = ["PART_CATEGORIES", "ShapeParts", "list_shape_parts", "make_parts"]

PART_CATEGORIES = {
    "car": ("body", "cabin", "wheel"),
    "chair": ("back", "leg", "seat"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle"),
    "plane": ("engine", "fuselage", "tail", "wing"),
    "table": ("leg", "top"),
}
"""The parts of every category."""

PART_CLASSES = tuple(
    f"{category} {part}" for category, parts in PART_CATEGORIES.items() for part in parts
)
"""Classes of the points: a part of a category each."""

# Incremented whenever the same seed gives different meshes.
_VERSION = 1


class ShapeParts(SampledDataset):
    """Six categories of procedural objects with labelled parts, randomly deformed and rotated.

    Proportions, taper, twist, bend, size, heading and a tilt of up to 15 degrees are random, as are
    the numbers and kinds of legs, slats and tops.

    Args:
        root: Folder for the cache.
        train_per_category: Number of training objects per category.
        test_per_category: Number of test objects per category.
        **options: See `SampledDataset`. The `seed` also determines the objects.

    Raises:
        ValueError: If an argument is out of range.
        OSError: If the cache cannot be written.
    """

    def __init__(
        self,
        root: Path | str = "data/shape_parts",
        *,
        train_per_category: int = 96,
        test_per_category: int = 24,
        **options: Unpack[SamplingOptions],
    ) -> None:
        listing = list_shape_parts(
            Path(root),
            seed=options.get("seed", 0),
            train_per_category=train_per_category,
            test_per_category=test_per_category,
        )
        super().__init__(listing, **options)


def list_shape_parts(
    root: Path, *, seed: int = 0, train_per_category: int = 96, test_per_category: int = 24
) -> Listing:
    """List the objects of `ShapeParts`, which are generated on demand."""
    counts = {"train_per_category": train_per_category, "test_per_category": test_per_category}
    stamp = f"shape_parts{_VERSION}:{seed}"
    names = list(PART_CATEGORIES)
    train, test = procedural_items(names, make_parts, counts, seed=seed, stamp=stamp)
    return Listing(
        "shape_parts",
        root,
        names,
        train,
        test,
        point_classes=list(PART_CLASSES),
        parts=category_parts({name: len(parts) for name, parts in PART_CATEGORIES.items()}),
    )


def category_parts(counts: dict[str, int]) -> list[list[int]]:
    """Return the classes of the points of every category, numbered one category after another.

    Args:
        counts: Number of parts by category.
    """
    ends = np.cumsum(list(counts.values()))
    return [list(range(end - count, end)) for end, count in zip(ends, counts.values(), strict=True)]


def make_parts(name: str, *, seed: int | tuple[int, ...]) -> Geometry:
    """Generate one object, randomly deformed and rotated.

    Args:
        name: The category, one of `PART_CATEGORIES`.
        seed: Seed of proportions, deformation and pose.

    Returns:
        The mesh, in a random length unit, whose labels are indices of `PART_CLASSES`.

    Raises:
        ValueError: If the category is unknown.
    """
    if name not in PART_CATEGORIES:
        raise ValueError(f"Expected one of {', '.join(PART_CATEGORIES)}, got {name!r}")
    from .part_solids import PART_MAKERS  # needs trimesh, unlike reading clouds

    generator = np.random.default_rng(np.random.SeedSequence(seed))
    vertices, faces, labels, count = [], [], [], 0
    for part, mesh in PART_MAKERS[name](generator):
        vertices.append(np.asarray(mesh.vertices, dtype=np.float64))
        faces.append(np.asarray(mesh.faces) + count)
        labels.append(np.full(len(mesh.faces), PART_CLASSES.index(f"{name} {part}")))
        count += len(mesh.vertices)
    posed = turn(deform(np.concatenate(vertices), generator), generator)
    return Geometry(posed, np.concatenate(faces), labels=np.concatenate(labels))
