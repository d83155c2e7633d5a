"""Scans of the data sets by split: procedural, S3DIS, folders of files and one `.npz` file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..cache import Arrays, cached_arrays, file_stamp, fingerprint, has_layout
from ..io.npz import read_npz
from ..io.readers import visible_files
from ..io.scenes import SCENE_SUFFIXES, Scene, read_scene, translate_codes
from .landscapes import LANDSCAPE_CLASSES, make_landscape

__all__ = [
    "S3DIS_CLASSES",
    "Scenes",
    "list_landscapes",
    "list_s3dis",
    "list_scene_arrays",
    "list_scene_folder",
]

S3DIS_CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
UNLABELLED = -1
"""Label of points without a class."""

T = TypeVar("T")

# Incremented whenever the same files give other arrays.
_VERSION = 1
_ROOMS_PER_PART = 4
_CLASSES_FILE = "classes.txt"
_ARRAY_NAMES = {"color": "color", "colour": "color", "normal": "normal", "intensity": "intensity"}


@dataclass(frozen=True)
class Scenes:
    """Scans by name and split, whose labels are indices of `classes` or -1."""

    classes: list[str]
    train: dict[str, Scene]
    test: dict[str, Scene]
    val: dict[str, Scene] | None = None


def list_landscapes(*, seed: int, train_scenes: int, test_scenes: int) -> Scenes:
    """Generate landscapes, see `make_landscape`.

    Raises:
        ValueError: If there is no training scene, or a number is negative.
    """
    if train_scenes < 1 or test_scenes < 0:
        raise ValueError(
            "Expected `train_scenes` >= 1 and `test_scenes` >= 0, got "
            f"{train_scenes} and {test_scenes}"
        )
    splits = [
        {
            f"landscape_{split}_{number:03d}": make_landscape(seed=(seed, fold, number))
            for number in range(count)
        }
        for fold, (split, count) in enumerate((("train", train_scenes), ("test", test_scenes)))
    ]
    return Scenes(list(LANDSCAPE_CLASSES), *splits)


def list_scene_folder(root: Path, *, label: str | None = None) -> Scenes:
    """Read labelled scans `root/{train,val,test}/*`, where `val` may be missing.

    A file `classes.txt` names the classes, one per line, the first for label 0; otherwise they are
    numbered. Labels that are negative, and 255 unless there are as many classes, mark points
    without a class. The classification of LAS and LAZ files is translated by the names of the
    classes, as the specification has them: 2 is `ground`, 5 `tree` or `vegetation`, 6 `building`;
    codes of none of the classes mark points without one.

    Args:
        root: The folder.
        label: Name of the attribute that holds the labels, see `read_scene`.

    Raises:
        ValueError: If there is no training scan, a scan has no labels, or one is out of range.
        OSError: If the folder does not exist.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a folder of scans, {{train,val,test}}/*, got {root}")
    files = {
        split: visible_files(root / split, SCENE_SUFFIXES) for split in ("train", "val", "test")
    }
    if not files["train"]:
        kinds = ", ".join(sorted(SCENE_SUFFIXES))
        raise ValueError(f"{root / 'train'}: expected scans ({kinds}), got none")
    scenes = {path: read_scene(path, label=label) for paths in files.values() for path in paths}
    classes = _class_names(root / _CLASSES_FILE, scenes)
    if (root / _CLASSES_FILE).is_file():
        scenes = {
            path: translate_codes(path, scene, classes, label=label)
            for path, scene in scenes.items()
        }
    train, val, test = (
        {path.name: _labelled(path, scenes[path], len(classes)) for path in paths}
        for paths in files.values()
    )
    return Scenes(classes, train, test, val if (root / "val").is_dir() else None)


def list_s3dis(
    root: Path,
    *,
    test_area: int = 5,
    cache_dir: Path | None = None,
    num_processes: int | None = None,
) -> Scenes:
    """Read the rooms of S3DIS, `root/Area_N/ROOM/Annotations/CLASS_K.txt`.

    The annotations of a room, rows `x y z r g b`, make one scan. The classes are those of S3DIS,
    or, if other names occur, all names, sorted. What was read is cached.

    Args:
        root: The folder of the areas.
        test_area: Number of the area that is tested on; the others are trained on.
        cache_dir: Folder of the cache; by default `.ccnn_geo` beside the areas.
        num_processes: Number of processes that read rooms; one per processor by default.

    Raises:
        ValueError: If an area is missing or a file cannot be read.
        OSError: If the folder does not exist, or the cache cannot be written.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected S3DIS in {root}: Area_1 to Area_6 of Stanford3dDataset_v1.2, which "
            "http://buildingparser.stanford.edu/dataset.html gives out on request"
        )
    rooms = {
        f"{folder.parent.parent.name}/{folder.parent.name}": folder
        for folder in sorted(root.glob("Area_*/*/Annotations"))
    }
    if not rooms:
        raise ValueError(f"{root}: expected Area_N/ROOM/Annotations, got none")
    found = {
        _class_of(path) for folder in rooms.values() for path in visible_files(folder, {".txt"})
    }
    known = S3DIS_CLASSES if found - {"stairs"} <= set(S3DIS_CLASSES) else tuple(sorted(found))
    _split_areas(root, rooms, test_area)  # before reading takes its time
    cache = root / ".ccnn_geo" if cache_dir is None else cache_dir
    scenes = _cached_rooms(rooms, known, cache, num_processes)
    return Scenes(list(known), *_split_areas(root, scenes, test_area))


def list_scene_arrays(path: Path, *, test_area: int = 5) -> Scenes:
    """Read scans from one `.npz` file.

    It holds the names of the scans, `rooms`, of the `classes`, and for each scan R `R_pos [N, 3]`,
    `R_label [N]` and optionally `R_color [N, 3]` from 0 to 255, `R_normal [N, 3]` and
    `R_intensity [N]`. Scans whose name begins with `Area_K` are in area K.

    Args:
        path: The file.
        test_area: Number of the area that is tested on.

    Raises:
        ValueError: If an array is missing or does not fit the others.
        OSError: If the file does not exist.
    """
    arrays = read_npz(path, ["rooms", "classes"], None)
    classes = [str(name) for name in arrays["classes"]]
    scenes = {}
    for room in map(str, arrays["rooms"]):
        points, labels = (_array(path, arrays, f"{room}_{name}") for name in ("pos", "label"))
        if points.shape != (len(labels), 3):
            raise ValueError(
                f"{path}: expected `{room}_pos` of shape [{len(labels)}, 3], one row per label, "
                f"got {list(points.shape)}"
            )
        attributes = {}
        for name, attribute in _ARRAY_NAMES.items():
            values = arrays.get(f"{room}_{name}")
            if values is not None:
                scaled = values / 255 if attribute == "color" else values
                attributes[attribute] = scaled.astype(np.float32)
        scene = Scene(points, attributes, labels.astype(np.int64))
        scenes[room] = _labelled(path, scene, len(classes))
    return Scenes(classes, *_split_areas(path, scenes, test_area))


def _array(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{path}: expected an array `{name}`, got {', '.join(sorted(arrays))}")
    return arrays[name]


def _split_areas(
    source: Path, rooms: Mapping[str, T], test_area: int
) -> tuple[dict[str, T], dict[str, T]]:
    """Return the rooms to train on and those of the area to test on."""
    prefix = f"Area_{test_area}"
    test = {name: each for name, each in rooms.items() if _area(name) == prefix}
    train = {name: each for name, each in rooms.items() if _area(name) != prefix}
    if not test or not train:
        areas = sorted({_area(name) for name in rooms})
        raise ValueError(
            f"{source}: expected {prefix} to test on and others to train on, got {', '.join(areas)}"
        )
    return train, test


def _cached_rooms(
    rooms: Mapping[str, Path], classes: Sequence[str], folder: Path, num_processes: int | None
) -> dict[str, Scene]:
    """Read the annotations of all rooms, or their cache."""
    stamps = [
        [name, *([path.name, file_stamp(path)] for path in visible_files(room, {".txt"}))]
        for name, room in rooms.items()
    ]
    cache = folder / f"s3dis-{fingerprint([_VERSION, list(classes), stamps])}"
    arrays = cached_arrays(
        cache,
        list(rooms.values()),
        partial(_rooms, classes=classes),
        is_sound=partial(_is_sound, num_rooms=len(rooms)),
        items_per_part=_ROOMS_PER_PART,
        num_processes=num_processes,
    )
    ends = np.cumsum(arrays["sizes"])
    scenes = {}
    for name, end, size in zip(rooms, ends, arrays["sizes"], strict=True):
        own = slice(end - size, end)
        rows = arrays["points"][own]
        attributes = {"color": rows[:, 3:].astype(np.float32)} if rows.shape[1] == 6 else {}
        scenes[name] = Scene(rows[:, :3], attributes, np.array(arrays["labels"][own]))
    return scenes


def _is_sound(arrays: Arrays, *, num_rooms: int) -> bool:
    if arrays.keys() != {"labels", "points", "sizes"} or arrays["points"].ndim != 2:
        return False
    rows, columns = arrays["points"].shape
    return columns in (3, 6) and has_layout(
        arrays,
        {
            "labels": ((rows,), np.int64),
            "points": ((rows, columns), np.float64),
            "sizes": ((num_rooms,), np.int64),
        },
    )


def _rooms(folders: Sequence[Path], classes: Sequence[str]) -> Arrays:
    """Return points with colours, if all have them, labels and sizes of rooms."""
    scenes = [_room(folder, classes) for folder in folders]
    columns = [[scene.points, *scene.attributes.values()] for scene in scenes]
    width = min(sum(each.shape[1] for each in parts) for parts in columns)
    rows = [np.concatenate(parts, axis=1).astype(np.float64)[:, :width] for parts in columns]
    return {
        "points": np.concatenate(rows),
        "labels": np.concatenate([scene.labels for scene in scenes]),
        "sizes": np.array([len(scene) for scene in scenes], np.int64),
    }


def _area(name: str) -> str:
    return "_".join(name.split("/")[0].split("_")[:2])


def _class_of(path: Path) -> str:
    return path.stem.rpartition("_")[0] or path.stem


def _room(folder: Path, classes: Sequence[str]) -> Scene:
    """Read the annotations of one room as one scan."""
    parts, labels = [], []
    for path in visible_files(folder, {".txt"}):
        part = read_scene(path)
        name = _class_of(path)
        # "stairs" occurs in the files, but is none of the 13 classes.
        label = classes.index(name) if name in classes else UNLABELLED
        parts.append(part)
        labels.append(np.full(len(part), label, np.int64))
    if not parts:
        raise ValueError(f"{folder}: expected annotations CLASS_K.txt, got none")
    colors = [part.attributes["color"] for part in parts if "color" in part.attributes]
    attributes = {"color": np.concatenate(colors)} if len(colors) == len(parts) else {}
    return Scene(
        np.concatenate([part.points for part in parts]), attributes, np.concatenate(labels)
    )


def _class_names(file: Path, scenes: Mapping[Path, Scene]) -> list[str]:
    """Return the names of the classes, or their numbers."""
    if file.is_file():
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        names = [name for name in names if name]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"{file}: expected the names of two or more classes, one per line")
        return names
    highest = max((int(each.max()) for each in _known_labels(scenes)), default=0)
    return [str(number) for number in range(max(highest, 1) + 1)]


def _known_labels(scenes: Mapping[Path, Scene]) -> Iterator[np.ndarray]:
    for path, scene in scenes.items():
        if scene.labels is None:
            raise ValueError(
                f"{path}: expected labels, got attributes {', '.join(sorted(scene.attributes))}; "
                "`label` names the one that holds them"
            )
        known = scene.labels[(scene.labels >= 0) & (scene.labels != 255)]
        if len(known):
            yield known


def _labelled(path: Path, scene: Scene, num_classes: int) -> Scene:
    """Return a scan whose labels are checked, with -1 for points without a class."""
    labels = scene.labels
    if labels is None:
        raise ValueError(f"{path}: expected labels, got a scan without")
    without = (labels < 0) | ((labels == 255) & (num_classes <= 255))
    bad = np.flatnonzero(~without & (labels >= num_classes))
    if len(bad):
        raise ValueError(
            f"{path}: expected labels of {num_classes} classes, got {labels[bad[0]]} for point "
            f"{bad[0]}"
        )
    if without.all():
        raise ValueError(f"{path}: expected labelled points, got none")
    return replace(scene, labels=np.where(without, UNLABELLED, labels))
