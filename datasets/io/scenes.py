"""Reader and writer of scans whose points have any attributes and, optionally, labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from ccnn_geo.files import atomic_write

from .las import LAS_SUFFIXES, las_labels, read_las, write_las
from .npz import read_npz
from .pcd import read_pcd_columns
from .ply import read_ply_columns
from .readers import NORMAL_TOLERANCE
from .tables import check_points, read_table, require_regular

__all__ = ["SCENE_SUFFIXES", "WRITABLE_SUFFIXES", "Scene", "read_scene", "write_scene"]

SCENE_SUFFIXES = frozenset({".bin", ".las", ".laz", ".npy", ".npz", ".pcd", ".ply", ".txt", ".xyz"})
"""Suffixes that `read_scene` supports."""
WRITABLE_SUFFIXES = (".las", ".laz", ".npz", ".ply")
"""Suffixes that `write_scene` supports."""

_LABEL_NAMES = (
    "label", "labels", "class", "classification", "semantic", "semantic_seg", "scalar_label",
    "scalar_classification", "part",
)  # fmt: skip
_COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
_NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))
_RESERVED = {"x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "label"}
_KITTI_COLUMNS = 4
_SEMANTIC_BITS = 0xFFFF


@dataclass(frozen=True)
class Scene:
    """A scan of points with attributes and, optionally, labels.

    Attributes:
        points: Coordinates, `[N, 3]`, in the type of the file; float64 if they need it.
        attributes: Numbers of every point by name, `[N]` or `[N, C]`. Colours are `color`, `[N, 3]`
            from 0 to 1, and unit normals `normal`, `[N, 3]`.
        labels: Class of every point, `[N]`, int64; negative numbers and 255 may stand for
            "unlabelled".
    """

    points: np.ndarray
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def select(self, index: np.ndarray) -> Self:
        """Return some of the points with their attributes and labels.

        Args:
            index: Their indices, `[M]`.
        """
        return replace(
            self,
            points=self.points[index],
            attributes={name: values[index] for name, values in self.attributes.items()},
            labels=None if self.labels is None else self.labels[index],
        )


def read_scene(path: Path | str, *, label: str | None = None) -> Scene:
    """Read the points of a scan with all their attributes.

    - ply, pcd: all properties of the vertices; packed colours are unpacked. Of compressed pcd
      files, only points and normals.
    - las, laz: all dimensions, coordinates as exact as in the file.
    - npz: an array `pos` or `points`, `[N, 3]`, or `x`, `y` and `z`; and any arrays of N rows.
    - xyz, txt, npy: tables, one point per row. The first row may name the columns, also after `#`
      or `//`; otherwise those after the coordinates are `column_4` and so on, but the fourth to
      sixth are normals if they have unit length, and colours if they are whole numbers up to
      255.
    - bin: x, y, z and `intensity` as float32, as in KITTI; labels from a file `.label` beside it or
      in `../labels/`, as in SemanticKITTI.

    Args:
        path: The file; its suffix determines the format.
        label: Name of the attribute that holds the labels. By default, the first of `label`,
            `class`, `classification`, `semantic` and similar names.

    Returns:
        The points, finite, in the order of the file.

    Raises:
        ValueError: If the file is not a regular file, holds no points or points that are not
            finite, cannot be parsed, or has no attribute `label`.
        ImportError: If laspy or open3d is needed and not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SCENE_SUFFIXES:
        known = ", ".join(sorted(SCENE_SUFFIXES))
        raise ValueError(f"{path}: expected one of {known}, got {suffix!r}")
    require_regular(path)
    if suffix in LAS_SUFFIXES:
        points, columns = read_las(path)
    elif suffix == ".bin":
        points, columns = _read_kitti(path)
    else:
        points, columns = _coordinates(path, _read_columns(path, suffix))
    check_points(path, points)
    attributes = _named(path, columns)
    name = _label_name(attributes) if label is None else label
    labels = None
    if name is not None:
        if name not in attributes:
            raise ValueError(
                f"{path}: expected labels in an attribute {name!r}, got {sorted(attributes)}"
            )
        labels = _whole(path, name, attributes.pop(name))
    return Scene(points, attributes, labels)


def translate_codes(
    path: Path, scene: Scene, classes: Sequence[str], *, label: str | None = None
) -> Scene:
    """Translate the classification of a LAS or LAZ file to indices of classes.

    Args:
        path: The file; scans of other formats are returned as they are.
        scene: The scan that was read from it.
        classes: Names of the classes.
        label: Name of the attribute that the labels were read from, see `read_scene`. Only the
            classification has codes.

    Returns:
        The scan, with -1 for codes of none of the classes.
    """
    coded = path.suffix.lower() in LAS_SUFFIXES and label in (None, "classification")
    if not coded or scene.labels is None:
        return scene
    return replace(scene, labels=las_labels(scene.labels, classes))


def write_scene(
    path: Path,
    scene: Scene,
    *,
    colors: np.ndarray | None = None,
    codes: np.ndarray | None = None,
    source: Path | None = None,
) -> None:
    """Write points with their attributes and labels, in one step.

    Args:
        path: File to write: ply (binary), npz, las or laz.
        scene: The points; labels are written as `label`, in LAS and LAZ as the classification.
        colors: Colours of the points that replace their own, 0 to 255, `[N, 3]`.
        codes: Classification in LAS and LAZ, 0 to 255, `[N]`; the labels by default.
        source: For LAS and LAZ: the file that the points were read from. If it is one of these,
            its header and all other dimensions are kept, colours included.

    Raises:
        ValueError: If the format cannot be written, or does not fit labels or source.
        OSError: If the file cannot be written; nothing remains of it.
        ImportError: If laspy is needed and not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE_SUFFIXES:
        known = ", ".join(WRITABLE_SUFFIXES)
        raise ValueError(f"{path}: expected one of {known} to write labels to, got {suffix!r}")
    with atomic_write(path) as file:
        if suffix == ".ply":
            _write_ply(file, scene, colors)
        elif suffix == ".npz":
            arrays = {"pos": scene.points, **_renamed(scene.attributes, ("pos", "label", "file"))}
            if colors is not None:
                arrays["color"] = colors / 255
            if scene.labels is not None:
                arrays["label"] = scene.labels
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        else:
            codes = _codes(path, scene) if codes is None else codes
            kept = source if source and source.suffix.lower() in LAS_SUFFIXES else None
            write_las(
                file,
                scene.points,
                codes,
                compress=suffix == ".laz",
                colors=_bytes(scene) if colors is None else colors,
                attributes=scene.attributes,
                source=kept,
            )


def _codes(path: Path, scene: Scene) -> np.ndarray:
    codes = np.zeros(len(scene), np.int64) if scene.labels is None else scene.labels
    if len(codes) and not 0 <= codes.min() <= codes.max() <= 255:
        raise ValueError(f"{path}: expected labels from 0 to 255, got {codes.min()}, {codes.max()}")
    return codes


def _read_columns(path: Path, suffix: str) -> dict[str, np.ndarray]:
    match suffix:
        case ".ply":
            return read_ply_columns(path)
        case ".pcd":
            return _unpacked(read_pcd_columns(path))
        case ".npz":
            return read_npz(path, optional=None)
        case _:
            return _read_named_table(path)


def _coordinates(
    path: Path, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Take the coordinates out of the columns."""
    rest = dict(columns)
    for name in ("pos", "points"):
        if name in rest:
            points = rest.pop(name)
            break
    else:
        names = {name.lower(): name for name in reversed(rest)}
        if not {"x", "y", "z"} <= names.keys():
            raise ValueError(f"{path}: expected coordinates x, y and z, got {sorted(rest)}")
        columns = {axis: rest.pop(names[axis]) for axis in "xyz"}
        if len({column.shape for column in columns.values()}) > 1:
            shapes = {axis: list(column.shape) for axis, column in columns.items()}
            raise ValueError(f"{path}: expected as many x as y and z, got {shapes}")
        points = np.column_stack(list(columns.values()))
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected coordinates of shape [N, 3], got {points.dtype} of shape "
            f"{list(points.shape)}"
        )
    for name, column in rest.items():
        if column.ndim == 0 or len(column) != len(points):
            raise ValueError(
                f"{path}: expected `{name}` for each of {len(points)} points, got shape "
                f"{list(column.shape)}"
            )
    return points, rest


def _read_kitti(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    size = path.stat().st_size
    if size % (4 * _KITTI_COLUMNS):
        raise ValueError(
            f"{path}: expected x, y, z and intensity as float32, 16 bytes for every point, got "
            f"{size:,} bytes"
        )
    table = np.fromfile(path, "<f4").reshape(-1, _KITTI_COLUMNS)
    columns = {"intensity": table[:, 3]}
    for file in (
        path.with_suffix(".label"),
        path.parent.parent / "labels" / f"{path.stem}.label",
    ):
        if file.is_file():
            values = np.fromfile(file, "<u4")
            if file.stat().st_size != 4 * len(table):
                raise ValueError(
                    f"{file}: expected a label for each of {len(table)} points, got "
                    f"{file.stat().st_size / 4:g}"
                )
            columns["label"] = values & _SEMANTIC_BITS  # the upper bits number the instances
            break
    return table[:, :3], columns


def _read_named_table(path: Path) -> dict[str, np.ndarray]:
    names, table = read_table(path)
    if table.ndim != 2 or table.shape[1] < 3 or table.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected numbers of shape [N, 3] or wider, got {table.dtype} of shape "
            f"{list(table.shape)}"
        )
    if not names:
        names = ["x", "y", "z", *(f"column_{number + 1}" for number in range(3, table.shape[1]))]
        others = table[:, 3:6]
        if others.shape[1] == 3 and len(table):
            lengths = np.linalg.norm(others.astype(np.float64), axis=1)
            if np.allclose(lengths, 1, atol=NORMAL_TOLERANCE):
                names[3:6] = _NORMALS[0]
            elif (others == np.floor(others)).all() and 0 <= others.min() <= others.max() <= 255:
                names[3:6] = _COLORS[0]
    return dict(zip(names, table.T, strict=True))


def _unpacked(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace a field of packed colours, which PCL writes, by three."""
    for name in ("rgb", "rgba"):
        if name in columns and columns[name].ndim == 1:
            packed = columns.pop(name)
            # Text has the digits of a float whose bits are the colours, or of a whole number.
            if packed.dtype.itemsize != 4:
                whole = bool((packed == np.floor(packed)).all()) and packed.max(initial=0) > 1
                packed = packed.astype(np.uint32 if whole else np.float32)
            bits = np.ascontiguousarray(packed).view(np.uint32)
            for color, shift in (("red", 16), ("green", 8), ("blue", 0)):
                columns[color] = ((bits >> shift) & 0xFF).astype(np.uint8)
    return {name: column for name, column in columns.items() if not name.startswith("_")}


def _named(path: Path, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Combine colours and normals, which files have as three columns each."""
    rest = dict(columns)
    for combined, choices in (("color", _COLORS), ("normal", _NORMALS)):
        for names in choices:
            spelt = {name.lower(): name for name in rest}
            if set(names) <= spelt.keys():
                rest[combined] = np.column_stack([rest.pop(spelt[name]) for name in names])
    for name in ("color", "colour", "colors"):
        if name in rest:
            rest["color"] = _fractions(path, rest.pop(name))
    return rest


def _fractions(path: Path, colors: np.ndarray) -> np.ndarray:
    """Return colours from 0 to 1, `[N, 3]`; a fourth channel, transparency, is dropped."""
    if colors.dtype.kind not in "fiu" or colors.ndim != 2 or colors.shape[1] not in (3, 4):
        raise ValueError(
            f"{path}: expected numbers `color` of shape [N, 3] or [N, 4], got {colors.dtype} of "
            f"shape {list(colors.shape)}"
        )
    colors = colors[:, :3]
    most = colors.max(initial=0)
    if colors.dtype == np.uint16:
        full = 65535 if most > 255 else 255  # some programs fill only the lower byte
    elif colors.dtype.kind in "iu":
        full = 255
    else:
        full = 1 if most <= 1 else 255
    return (colors / full).astype(np.float32)


def _label_name(attributes: Mapping[str, np.ndarray]) -> str | None:
    lower = {name.lower(): name for name in attributes}
    return next((lower[name] for name in _LABEL_NAMES if name in lower), None)


def _whole(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    numeric = values.ndim == 1 and values.dtype.kind in "fiub"
    if not numeric or not np.isfinite(values).all() or (values != np.floor(values)).any():
        raise ValueError(
            f"{path}: expected whole numbers `{name}` of shape [N], got {values.dtype} of shape "
            f"{list(values.shape)}"
        )
    return values.astype(np.int64)


def _bytes(scene: Scene) -> np.ndarray | None:
    """Return the colours of a scan from 0 to 255, `[N, 3]`, or None if it has none."""
    colors = scene.attributes.get("color")
    return None if colors is None else np.rint(255 * np.clip(colors, 0, 1)).astype(np.uint8)


def _write_ply(file: BinaryIO, scene: Scene, colors: np.ndarray | None) -> None:
    attributes = _renamed(scene.attributes, _RESERVED)
    attributes.pop("color", None)
    colors = _bytes(scene) if colors is None else colors
    kind = "<f4" if np.can_cast(scene.points.dtype, np.float32) else "<f8"
    columns = {
        axis: column.astype(kind) for axis, column in zip("xyz", scene.points.T, strict=True)
    }
    if "normal" in attributes:
        normals = attributes.pop("normal").T.astype("<f4")
        columns |= dict(zip(("nx", "ny", "nz"), normals, strict=True))
    if colors is not None:
        channels = colors.T.astype(np.uint8)
        columns |= dict(zip(("red", "green", "blue"), channels, strict=True))
    for name, values in attributes.items():
        flat = values.reshape(len(values), -1)
        names = [name] if flat.shape[1] == 1 else [f"{name}_{k}" for k in range(flat.shape[1])]
        columns |= {
            re.sub(r"\s+", "_", key): _plain(each) for key, each in zip(names, flat.T, strict=True)
        }
    if scene.labels is not None:
        columns["label"] = scene.labels.astype("<i4")
    row = np.dtype([(name, column.dtype) for name, column in columns.items()])
    table = np.empty(len(scene), row)
    for name, column in columns.items():
        table[name] = column
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(scene)}"]
    header += [f"property {_PLY_TYPES[row[name].str[1:]]} {name}" for name in columns]
    file.write("\n".join([*header, "end_header", ""]).encode("ascii", "backslashreplace"))
    file.write(table.tobytes())


_PLY_TYPES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
    "f4": "float", "f8": "double",
}  # fmt: skip


def _renamed(
    attributes: Mapping[str, np.ndarray], reserved: Collection[str]
) -> dict[str, np.ndarray]:
    """Return attributes by names that stand for nothing else in a file."""
    return {f"{name}_" if name in reserved else name: each for name, each in attributes.items()}


def _plain(values: np.ndarray) -> np.ndarray:
    """Return numbers in a type that PLY has."""
    if values.dtype.str[1:] in _PLY_TYPES:
        return values.astype(values.dtype.newbyteorder("<"))
    return values.astype("<f8")
