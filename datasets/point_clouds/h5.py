"""Clouds in HDF5 files: ModelNet40 as most code for clouds uses it, and ScanObjectNN."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, Unpack, get_args

import numpy as np

from ..cache import file_stamp
from ..io.h5 import read_h5_clouds
from ..io.readers import Geometry
from .cache import Item
from .dataset import Listing, SampledDataset, SamplingOptions
from .modelnet import MODELNET40_CLASSES

__all__ = [
    "SCANOBJECTNN_CLASSES",
    "ModelNetH5",
    "ScanObjectNN",
    "list_modelnet_h5",
    "list_scanobjectnn",
]

ScanVariant = Literal["obj_bg", "obj_only", "pb_t25", "pb_t25_r", "pb_t50_r", "pb_t50_rs"]

SCANOBJECTNN_CLASSES = tuple(
    "bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet".split()
)
_MODELNET_FOLDER = "modelnet40_ply_hdf5_2048"
_MODELNET_URL = "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip"
_SCAN_URL = "https://hkust-vgd.github.io/scanobjectnn"
_SCAN_SUFFIXES = {
    "obj_bg": "", "obj_only": "", "pb_t25": "_augmented25_norot", "pb_t25_r": "_augmented25rot",
    "pb_t50_r": "_augmentedrot", "pb_t50_rs": "_augmentedrot_scale75",
}  # fmt: skip


class ModelNetH5(SampledDataset):
    """ModelNet40 as clouds of 2,048 points with normals, `modelnet40_ply_hdf5_2048`.

    Args:
        root: The folder of `train_files.txt`, `test_files.txt` and the files that they list, or its
            parent.
        **options: See `SampledDataset`.

    Raises:
        ValueError: If a list names a missing file, or a file is broken.
        OSError: If the data set is missing; the message says where to get it.
        ImportError: If h5py is not installed.
    """

    def __init__(self, root: Path | str, **options: Unpack[SamplingOptions]) -> None:
        super().__init__(list_modelnet_h5(Path(root)), **options)


class ScanObjectNN(SampledDataset):
    """Scanned objects of 15 classes (`Uy et al. 2019 <https://arxiv.org/abs/1908.04616>`_).

    Args:
        root: The folder `h5_files`, or its parent.
        variant: `obj_bg` (objects with background), `obj_only`, or the perturbed ones, of which
            `pb_t50_rs` is the hardest and the most common.
        **options: See `SampledDataset`.

    Raises:
        ValueError: If `variant` is unknown, or a file is broken.
        OSError: If the data set is missing; the message says where to get it.
        ImportError: If h5py is not installed.
    """

    def __init__(
        self,
        root: Path | str,
        variant: ScanVariant = "pb_t50_rs",
        **options: Unpack[SamplingOptions],
    ) -> None:
        super().__init__(list_scanobjectnn(Path(root), variant), **options)


def list_modelnet_h5(root: Path) -> Listing:
    """Read the files of `ModelNetH5` and list their clouds."""
    folders = [each for each in (root, root / _MODELNET_FOLDER) if _lists(each, "train").is_file()]
    if not folders:
        raise FileNotFoundError(
            f"Expected {_MODELNET_FOLDER} in {root}, from {_MODELNET_URL}, got none"
        )
    items = {split: _listed(folders[0], split) for split in ("train", "test")}
    classes = list(MODELNET40_CLASSES)
    return Listing(
        "modelnet40_h5", folders[0], classes, items["train"], items["test"], in_memory=True
    )


def list_scanobjectnn(root: Path, variant: ScanVariant = "pb_t50_rs") -> Listing:
    """Read the files of `ScanObjectNN` and list their clouds."""
    if variant not in get_args(ScanVariant):
        raise ValueError(
            f"Expected `variant` to be one of {get_args(ScanVariant)}, got {variant!r}"
        )
    folder = root if (root / "main_split").is_dir() else root / "h5_files"
    split_folder = folder / ("main_split_nobg" if variant == "obj_only" else "main_split")
    items = {}
    for split, name in (("train", "training"), ("test", "test")):
        path = split_folder / f"{name}_objectdataset{_SCAN_SUFFIXES[variant]}.h5"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: expected the clouds of ScanObjectNN, which {_SCAN_URL} gives out on "
                "request"
            )
        items[split] = _items(path, path.name, len(SCANOBJECTNN_CLASSES))
    classes = list(SCANOBJECTNN_CLASSES)
    key = f"scanobjectnn-{variant}"
    return Listing(key, folder, classes, items["train"], items["test"], in_memory=True)


def _lists(folder: Path, split: str) -> Path:
    return folder / f"{split}_files.txt"


def _listed(folder: Path, split: str) -> list[Item]:
    """Return the clouds of the files that a list names, by their last part."""
    listed_in = _lists(folder, split)
    items = []
    for line in listed_in.read_text(encoding="utf-8").split():
        path = folder / Path(line).name
        if not path.is_file():
            raise ValueError(f"{listed_in}: expected names of files such as {path}, it is missing")
        items += _items(path, path.name, len(MODELNET40_CLASSES), normals="normal")
    return items


def _items(path: Path, name: str, num_classes: int, *, normals: str | None = None) -> list[Item]:
    arrays = read_h5_clouds(path, num_classes, [] if normals is None else [normals])
    stamp = file_stamp(path)
    return [
        Item(f"{name}[{row}]", int(label), partial(_row, arrays, normals, row), stamp)
        for row, label in enumerate(arrays["label"])
    ]


def _row(arrays: dict[str, np.ndarray], normals: str | None, row: int) -> Geometry:
    given = None if normals is None else arrays.get(normals)
    if given is None:
        return Geometry(arrays["data"][row])
    lengths = np.linalg.norm(given[row], axis=1, keepdims=True)
    return Geometry(arrays["data"][row], normals=given[row] / np.where(lengths > 0, lengths, 1.0))
