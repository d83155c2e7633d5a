"""Data set of meshes and clouds in one folder per class."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from ..cache import file_stamp
from ..io.readers import SUFFIXES, read_geometry, visible_files
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions

__all__ = ["PointCloudFolder", "class_folders", "file_item", "list_class_folders", "list_folder"]

_LAYOUT = "<class>/{train,test}/*"


class PointCloudFolder(SampledDataset):
    """Meshes and clouds in the layout `root/<class>/{train,test}/*`.

    Meshes are .off, .ply, .obj and .stl files; clouds are .ply, .obj, .pcd, .xyz, .txt, .npy and
    .npz files, with or without normals. Other files are ignored. The clouds of a split have normals
    if all its files do.

    Args:
        root: The folder.
        **options: See `SampledDataset`.

    Raises:
        ValueError: If a class folder is empty, a class has no training file, or a file cannot be
            read.
        OSError: If the folder does not exist, or the cache cannot be written.
    """

    def __init__(self, root: Path | str, **options: Unpack[SamplingOptions]) -> None:
        super().__init__(list_folder(Path(root)), **options)


def list_folder(root: Path) -> Listing:
    """List the meshes and clouds of `PointCloudFolder`."""
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a folder laid out as {_LAYOUT}, got {root}")
    classes = class_folders(root)
    if not classes:
        raise ValueError(f"{root}: expected class folders laid out as {_LAYOUT}, got none")
    return list_class_folders(root, classes, SUFFIXES, key="folder")


def class_folders(root: Path) -> list[str]:
    """Return the names of the class folders, sorted; hidden folders are omitted."""
    return sorted(
        path.name
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith((".", "__"))
    )


def list_class_folders(
    root: Path,
    classes: Sequence[str],
    suffixes: Collection[str],
    *,
    key: str,
    folders: Sequence[str] | None = None,
) -> Listing:
    """List the files of every class folder.

    Args:
        root: Parent of the class folders.
        classes: Names of the classes, by label.
        suffixes: Suffixes of the files to list, in lower case.
        key: First part of the names of the caches.
        folders: Names of the class folders that exist; all by default.

    Raises:
        ValueError: If a class folder has no file with one of the suffixes, or none for training.
    """
    items: dict[str, list[Item]] = {"train": [], "test": []}
    for name in classes if folders is None else folders:
        found = 0
        for split, split_items in items.items():
            paths = visible_files(root / name / split, suffixes)
            split_items += [file_item(root, path, classes.index(name)) for path in paths]
            found += len(paths)
        if not found:
            kinds = ", ".join(sorted(suffixes))
            raise ValueError(
                f"{root / name}: expected {kinds} files in train/ and test/, got an empty class"
            )
    return Listing(key, root, list(classes), items["train"], items["test"])


def file_item(root: Path, path: Path, label: int) -> Item:
    """Return the item of one file, whose stamp is its size and time of modification."""
    name = path.relative_to(root).as_posix()
    return Item(name, label, partial(read_geometry, path), file_stamp(path))
