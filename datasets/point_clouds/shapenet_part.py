"""ShapeNetPart: clouds of 16 categories whose points are labelled by part."""

from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from ccnn_geo.files import locked, read_json

from ..cache import file_stamp
from ..io.archives import extract_zip
from ..io.readers import NORMAL_TOLERANCE, Geometry
from ..io.tables import check_points, read_table
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions
from .parts import category_parts

__all__ = ["SHAPENET_PARTS", "ShapeNetPart", "list_shapenet_part"]

SHAPENET_PARTS = {
    "Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3,
    "Knife": 2, "Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3,
    "Skateboard": 3, "Table": 3,
}  # fmt: skip
"""Number of parts of every category, in the order of their labels, 50 altogether."""

_FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
_CATEGORIES = "synsetoffset2category.txt"
_SPLITS = ("train", "val", "test")
_COLUMNS = 7


class ShapeNetPart(SampledDataset):
    """ShapeNetPart with normals (`Yi et al. 2016 <https://doi.org/10.1145/2980179.2980238>`_).

    The official split lists decide about training, validation and test. Clouds are read from
    `root`, from the folder or the archive `shapenetcore_partanno_segmentation_benchmark_v0_normal`
    in it. It is for non-commercial research; request it from https://shapenet.org, there is no
    download here. Some categories may be missing.

    Args:
        root: The folder.
        **options: See `SampledDataset`. Points keep the labels of the files, 0 to 49.

    Raises:
        ValueError: If a file is broken, or a split list names a missing file.
        OSError: If the data set is missing; the message says where to put it.
    """

    def __init__(self, root: Path | str, **options: Unpack[SamplingOptions]) -> None:
        super().__init__(list_shapenet_part(Path(root)), **options)


def list_shapenet_part(root: Path) -> Listing:
    """Find ShapeNetPart and list its clouds."""
    folder = _find(root)
    categories = _categories(folder / _CATEGORIES)
    splits = {split: _split(folder, split, categories) for split in _SPLITS}
    names = list(SHAPENET_PARTS)
    return Listing(
        "shapenet_part",
        folder,
        names,
        splits["train"],
        splits["test"],
        val=splits["val"],
        point_classes=[
            f"{name} {number}" for name in names for number in range(SHAPENET_PARTS[name])
        ],
        parts=category_parts(SHAPENET_PARTS),
    )


def _find(root: Path) -> Path:
    extracted = root / _FOLDER
    archive = root / f"{_FOLDER}.zip"
    for folder in (root, extracted, extracted / _FOLDER):
        if (folder / _CATEGORIES).is_file():
            return folder
    if not archive.is_file():
        raise FileNotFoundError(
            f"Expected ShapeNetPart in {root}: the folder or archive {_FOLDER}, which "
            "https://shapenet.org gives out on request, got none of them"
        )
    with locked(root / ".ccnn_geo"):
        extract_zip(archive, extracted)
    for folder in (extracted, extracted / _FOLDER):
        if (folder / _CATEGORIES).is_file():
            return folder
    raise ValueError(f"{archive}: expected {_CATEGORIES} in the archive of ShapeNetPart, got none")


def _categories(path: Path) -> dict[str, str]:
    """Return the names of the categories by the folders of their clouds."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    bad = [row for row in rows if len(row) != 2 or row[0] not in SHAPENET_PARTS]
    if bad or not rows:
        found = " ".join(bad[0]) if bad else "none"
        raise ValueError(f"{path}: expected rows of a category and its folder, got {found!r}")
    return {folder: name for name, folder in rows}


def _split(folder: Path, split: str, categories: dict[str, str]) -> list[Item]:
    listed_in = folder / "train_test_split" / f"shuffled_{split}_file_list.json"
    names = read_json(listed_in)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{listed_in}: expected a list of the names of clouds")
    return [_item(folder, listed_in, name, categories) for name in names]


def _item(folder: Path, listed_in: Path, name: str, categories: dict[str, str]) -> Item:
    *_, synset, cloud = ["", "", *name.split("/")]
    path = folder / synset / f"{cloud}.txt"
    if synset not in categories or not path.is_file():
        raise ValueError(f"{listed_in}: expected names of clouds such as {path}, which is missing")
    label = list(SHAPENET_PARTS).index(categories[synset])
    allowed = category_parts(SHAPENET_PARTS)[label]
    read = partial(read_part_cloud, path, lowest=allowed[0], highest=allowed[-1])
    return Item(f"{synset}/{cloud}", label, read, file_stamp(path))


def read_part_cloud(path: Path, *, lowest: int, highest: int) -> Geometry:
    """Read a cloud of points, normals and labels, seven columns.

    Normals that are shorter than 1, as a few are in the official files, are scaled to unit length;
    those that are zero point upward.

    Args:
        path: The file.
        lowest: Smallest label that may occur.
        highest: Largest label that may occur.

    Raises:
        ValueError: If it is not such a table, or a label is out of range.
    """
    _, table = read_table(path)
    if table.ndim != 2 or table.shape[1] != _COLUMNS:
        raise ValueError(
            f"{path}: expected {_COLUMNS} columns, x y z nx ny nz label, got shape "
            f"{list(table.shape)}"
        )
    points, normals, labels = table[:, :3], table[:, 3:6].copy(), table[:, 6]
    check_points(path, points)
    bad = np.flatnonzero(~((labels >= lowest) & (labels <= highest) & (labels % 1 == 0)))
    if len(bad):
        raise ValueError(
            f"{path}: expected labels from {lowest} to {highest}, got {labels[bad[0]]:g} in row "
            f"{bad[0]}"
        )
    lengths = np.linalg.norm(normals, axis=1)
    bad = np.flatnonzero(~(lengths <= 1 + NORMAL_TOLERANCE))
    if len(bad):
        raise ValueError(
            f"{path}: expected normals of at most unit length, got {normals[bad[0]].tolist()} in "
            f"row {bad[0]}"
        )
    normals /= np.where(lengths > 0, lengths, 1.0)[:, None]
    normals[lengths == 0] = (0.0, 0.0, 1.0)
    return Geometry(points, normals=normals, labels=labels.astype(np.int64))
