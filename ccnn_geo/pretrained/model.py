"""Trained networks in files: weights as safetensors, and a JSON file that says all about them.

Nothing is pickled, so that a stranger's weights can do no harm.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from ccnn_geo.files import atomic_write, check_name, read_json, save_json

Parameters = ParamSpec("Parameters")
Model = TypeVar("Model", bound="PretrainedModule")

_FORMAT = 1
# What a file says, besides what is for people alone to read.
_ENTRIES: dict[str, Any] = {
    "format": int,
    "model": str,
    "arguments": dict,
    "sha256": str,
    "card": dict | None,
}
_SHIPPED = Path(__file__).parent / "weights"
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a cloud has to be prepared for a network.

    Attributes:
        num_points: Points of a cloud that the network was trained on.
        features: Attributes of the points that are stacked into the features, in this order.
        normalize: `"box"`, `"ball"` or `"none"`, see `ccnn_geo.transforms.NormalizePositions`.
        points_per_mesh: Points drawn from the surface of a mesh, of which the network then sees
            `num_points`; a raw cloud with more points is thinned to as many.
    """

    num_points: int
    features: tuple[str, ...]
    normalize: str
    points_per_mesh: int


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a trained classifier is: all that its weights and its architecture do not tell.

    Attributes:
        classes: Names of the classes, in the order of the outputs.
        preprocessing: How a cloud has to be prepared.
        description: A sentence about the network.
        training: Data, seed, epochs and whatever else there is to say about the training.
        accuracy: Share of the clouds that it classifies right, by the name of the split.
        license: Terms under which the weights may be used.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    description: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    license: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read a card from the content of a JSON file.

        Raises:
            ValueError: If an entry is missing, unknown or of another type.
        """
        entries = _entries("card", content, cls)
        preparation = _entries("preprocessing", entries["preprocessing"], Preprocessing)
        preparation["features"] = _names("features", preparation["features"])
        for name in ("num_points", "points_per_mesh"):
            if type(preparation[name]) is not int or preparation[name] < 1:
                raise ValueError(f"Expected `{name}` >= 1, got {preparation[name]!r}")
        entries["preprocessing"] = Preprocessing(**preparation)
        entries["classes"] = _names("classes", entries["classes"])
        return cls(**entries)


class PretrainedModule(nn.Module):
    """A module that can be saved with its arguments and a card, and made again from the files.

    The constructor of a subclass is decorated with `remember_arguments`.

    Attributes:
        config: The constructor's arguments, as JSON holds them.
        card: What the weights are, where that is known.
    """

    config: dict[str, Any]
    card: ModelCard | None = None
    argument_classes: ClassVar[dict[str, type]] = {}
    """The classes that may be an argument, by the name that stands for them in a file."""
    _unsaved: dict[str, str]

    def save_pretrained(
        self, folder: str | Path, card: ModelCard | None = None, *, name: str = "model"
    ) -> Path:
        """Write `name.safetensors` and `name.json`, which `from_pretrained` reads.

        Args:
            folder: Folder to write to, made if need be.
            card: What the weights are; that of the model itself by default.
            name: Name of the files.

        Returns:
            The JSON file.

        Raises:
            ValueError: If an argument of the constructor cannot be written to a file.
            OSError: If the files cannot be written.
        """
        from safetensors.torch import save

        check_name("name", name)
        if self._unsaved:
            raise ValueError(
                "Expected arguments that a file can hold, got "
                + ", ".join(f"`{key}`={value}" for key, value in self._unsaved.items())
                + "; save `state_dict()` instead, and make the model yourself"
            )
        card = self.card if card is None else card
        weights = save({key: each.cpu().contiguous() for key, each in self.state_dict().items()})
        content = {
            "format": _FORMAT,
            "model": type(self).__name__,
            "arguments": self.config,
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "card": None if card is None else asdict(card),
        }
        file = Path(folder) / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file.with_suffix(".safetensors")) as stream:
            stream.write(weights)
        save_json(file, content)
        return file

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> Self:
        """Make a model from files of `save_pretrained`, in evaluation mode and on the CPU.

        Args:
            name_or_folder: Name of weights that come with the package (`pretrained_names()` lists
                them), a folder with one pair of files, or one of the two files.

        Raises:
            ValueError: If the weights do not fit the model, were changed or cut short, or if the
                JSON file cannot be understood; says what does not fit.
            FileNotFoundError: If there is nothing of that name.
        """
        file = find_pretrained(name_or_folder)
        content = read_pretrained(file)
        try:
            model = cls._from_arguments(content)
            model.card = None if content["card"] is None else ModelCard.from_json(content["card"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from error
        weights = file.with_suffix(".safetensors")
        tensors = _read_tensors(weights)
        problems = _problems(model.state_dict(), tensors)
        if problems:
            raise ValueError(f"{weights}: not the weights of {file.name}: {'; '.join(problems)}")
        if hashlib.sha256(weights.read_bytes()).hexdigest() != content["sha256"]:
            raise ValueError(
                f"{weights}: the weights were changed after they were saved: expected the SHA-256 "
                f"{content['sha256']} that {file.name} gives"
            )
        broken = [
            name
            for name, tensor in tensors.items()
            if tensor.is_floating_point()
            and not bool((tensor >= 0 if name.endswith("running_var") else tensor.isfinite()).all())
        ]
        if broken:
            raise ValueError(
                f"{weights}: expected finite weights and variances from 0 on, got others in "
                f"{', '.join(broken[:_SHOWN])}"
            )
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    @classmethod
    def _from_arguments(cls, content: dict[str, Any]) -> Self:
        if content["model"] != cls.__name__:
            raise ValueError(f"Expected a {cls.__name__}, got a {content['model']}")
        known = cls.argument_classes
        arguments = {
            # Only where a class is meant: no argument is ever looked up in other places.
            key: known[value] if isinstance(value, str) and value in known else _tuples(value)
            for key, value in content["arguments"].items()
        }
        # What is drawn here is thrown away, and should not shift anybody's random numbers.
        with torch.random.fork_rng(devices=[]):
            return cls(**arguments)


def remember_arguments(
    init: Callable[Concatenate[Model, Parameters], None],
) -> Callable[Concatenate[Model, Parameters], None]:
    """Decorate a constructor, so that it keeps its arguments in `config`."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Model, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        init(self, *args, **kwargs)
        self.config, self._unsaved = {}, {}
        for name, value in list(bound.arguments.items())[1:]:
            try:
                self.config[name] = _to_json(value, self.argument_classes)
            except TypeError:
                self._unsaved[name] = repr(value)

    return wrapped


def pretrained_names() -> list[str]:
    """Return the names of the weights that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.json"))


def find_pretrained(name_or_folder: str | Path) -> Path:
    """Return the JSON file of weights, see `PretrainedModule.from_pretrained`.

    Raises:
        ValueError: If a folder holds no weights, or several.
        FileNotFoundError: If there is nothing of that name.
    """
    if name_or_folder in pretrained_names():
        return _SHIPPED / f"{name_or_folder}.json"
    path = Path(name_or_folder)
    if path.is_dir():
        found = sorted(file for file in path.glob("*.safetensors"))
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
    """Read the JSON file of weights, of any model.

    Raises:
        ValueError: If it is not such a file, or of a newer kind.
        FileNotFoundError: If it is missing.
    """
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: the weights lack this file, which describes them") from (
            error
        )
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), kind) for name, kind in _ENTRIES.items()
    ):
        raise ValueError(f"{file}: expected the description of weights, with {', '.join(_ENTRIES)}")
    if content["format"] > _FORMAT:
        raise ValueError(
            f"{file}: written by a newer ccnn_geo: expected format {_FORMAT}, "
            f"got {content['format']}"
        )
    return content


def _read_tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"{file}: expected a complete safetensors file, it is cut short or something else "
            f"({error})"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: the file of the weights is missing") from error


def _problems(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Say in which names and shapes weights differ from what a model expects."""
    differences = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}" + ", ..." * (len(names) > _SHOWN)
        for kind, names in differences.items()
        if names
    ]


def _entries(name: str, content: Any, kind: type) -> dict[str, Any]:
    """Check that a JSON object has the fields of a dataclass, which have types of their own."""
    known = {each.name for each in fields(kind)}
    if not isinstance(content, dict) or content.keys() != known:
        got = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"Expected `{name}` with {sorted(known)}, got {got}")
    return dict(content)


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"Expected `{name}` to be a list of names, got {value!r}")
    return tuple(value)


def _to_json(value: Any, classes: Mapping[str, type]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, type) and classes.get(value.__name__) is value:
        return value.__name__
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_to_json(each, classes) for each in value]
    raise TypeError(type(value))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
