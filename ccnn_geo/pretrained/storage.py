"""Find and read the files of trained networks.

Weights are safetensors files, each with a JSON file of the same name that describes it. Neither
can hold code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ccnn_geo.files import read_json

__all__ = [
    "TensorInfo",
    "differences",
    "find_pretrained",
    "pretrained_names",
    "read_pretrained",
    "read_weights",
]

FORMAT = 1
"""Version of the JSON files."""

_ENTRIES: dict[str, Any] = {
    "format": int,
    "model": str,
    "arguments": dict,
    "sha256": str,
    "card": dict | None,
}
_SHIPPED = Path(__file__).parent / "weights"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHOWN = 4


def pretrained_names() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.json"))


def find_pretrained(name_or_folder: str | Path) -> Path:
    """Return the JSON file of weights, see `PretrainedModule.from_pretrained`.

    Raises:
        ValueError: If a folder holds no weights, or several.
        FileNotFoundError: If there are no weights of that name.
    """
    if name_or_folder in pretrained_names():
        return _SHIPPED / f"{name_or_folder}.json"
    path = Path(name_or_folder)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise ValueError(f"{path}: expected one file of weights, *.safetensors, got {names}")
        path = found[0]
    if not path.is_file() or path.suffix not in (".json", ".safetensors"):
        raise FileNotFoundError(
            f"Expected the name of weights or a folder of them, got {str(name_or_folder)!r}; "
            f"the names are: {', '.join(pretrained_names())}"
        )
    return path.with_suffix(".json")


def read_pretrained(file: Path) -> dict[str, Any]:
    """Read the JSON file of weights.

    Raises:
        ValueError: If it does not describe weights, or is of a newer format.
        FileNotFoundError: If it is missing.
    """
    _check_file(file, "the JSON file that describes the weights is missing")
    content = read_json(file)
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), kind) for name, kind in _ENTRIES.items()
    ):
        raise ValueError(f"{file}: expected the description of weights, with {', '.join(_ENTRIES)}")
    if content["format"] > FORMAT:
        raise ValueError(
            f"{file}: written by a newer ccnn_geo: expected format {FORMAT}, "
            f"got {content['format']}"
        )
    return content


def count_weights(file: Path) -> int:
    """Return the number of tensors in a safetensors file, from its header.

    Raises:
        ValueError: If the file is not complete.
        FileNotFoundError: If it is missing.
    """
    with _opened(file) as content:
        return len(content.keys())


class TensorInfo(NamedTuple):
    """Shape and type of a stored tensor."""

    shape: list[int]
    dtype: str
    is_floating_point: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Describe a tensor."""
        return cls(list(tensor.shape), str(tensor.dtype), tensor.is_floating_point())


def differences(found: Mapping[str, TensorInfo], expected: Mapping[str, Tensor]) -> str:
    """Compare the names, shapes and types of stored tensors with a model.

    Args:
        found: The stored tensors by name.
        expected: Tensors of the model by name, possibly without data (on the `meta` device).

    Returns:
        The differences in words; empty if there are none.
    """
    common = [(name, found[name], tensor) for name, tensor in expected.items() if name in found]
    names = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {info.shape} instead of {list(tensor.shape)}"
            for name, info, tensor in common
            if info.shape != list(tensor.shape)
        ],
        "of another type": [
            f"{name} {info.dtype} instead of {tensor.dtype}"
            for name, info, tensor in common
            if info.is_floating_point != tensor.is_floating_point()
        ],
    }
    return "; ".join(
        f"{len(each)} {kind}: {', '.join(each[:_SHOWN])}" + ", ..." * (len(each) > _SHOWN)
        for kind, each in names.items()
        if each
    )


def check_weights(file: Path, expected: Mapping[str, Tensor]) -> None:
    """Compare the names, shapes and types in the header of a safetensors file with a model.

    Args:
        file: The safetensors file.
        expected: Tensors of the model by name, possibly without data (on the `meta` device).

    Raises:
        ValueError: If they differ, or if the file is not complete.
        FileNotFoundError: If it is missing.
    """
    with _opened(file) as content:
        slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
        found = {
            name: TensorInfo(each.get_shape(), each.get_dtype(), each.get_dtype() in _FLOATS)
            for name, each in slices.items()
        }
    problems = differences(found, expected)
    if problems:
        raise ValueError(f"{file}: not the weights of {file.with_suffix('.json').name}: {problems}")


def read_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        file: The file.
        sha256: Its expected digest, as hexadecimal digits.

    Raises:
        ValueError: If the file was changed, or holds values that no training gives: NaN, infinity
            or a negative variance.
    """
    from safetensors.torch import load

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{file}: the weights were changed after they were saved: expected the SHA-256 "
            f"{sha256} that {file.with_suffix('.json').name} gives"
        )
    tensors = load(content)
    broken = [name for name, tensor in tensors.items() if not _plausible(name, tensor)]
    if broken:
        raise ValueError(
            f"{file}: expected finite weights and variances >= 0, got others in "
            f"{', '.join(broken[:_SHOWN])}" + ", ..." * (len(broken) > _SHOWN)
        )
    return tensors


def _plausible(name: str, tensor: Tensor) -> bool:
    if name.endswith("running_var"):
        return bool((tensor.isfinite() & (tensor >= 0)).all())
    return bool(torch.isfinite(tensor).all())


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a safetensors file, of which only the header is read."""
    from safetensors import SafetensorError, safe_open

    _check_file(file, "the file of the weights is missing")
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except SafetensorError as error:
        raise ValueError(
            f"{file}: expected a complete safetensors file, it is cut short or something else "
            f"({error})"
        ) from error


def _check_file(file: Path, missing: str) -> None:
    if not file.exists():
        raise FileNotFoundError(f"{file}: {missing}")
    if not file.is_file():
        raise ValueError(f"{file}: expected a regular file, got a folder, device or pipe")
