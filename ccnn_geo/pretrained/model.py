"""Base class of networks that are saved together with their arguments."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ccnn_geo.files import atomic_write, check_name, save_json
from ccnn_geo.pretrained.card import ModelCard
from ccnn_geo.pretrained.storage import (
    FORMAT,
    TensorInfo,
    check_weights,
    count_weights,
    differences,
    find_pretrained,
    read_pretrained,
    read_weights,
)

__all__ = ["PretrainedModule", "remember_arguments"]

Parameters = ParamSpec("Parameters")
Model = TypeVar("Model", bound="PretrainedModule")

# A CCNN takes some 12 calls of torch for each of its tensors.
_CALLS_PER_TENSOR = 200


class PretrainedModule(nn.Module):
    """Base class of modules that can be saved together with their arguments and a card.

    Weights are stored as safetensors and everything else as JSON. Nothing is pickled, so files of
    unknown origin cannot execute code.

    Subclasses decorate their constructor with `remember_arguments`. It has to work on the `meta`
    device, on which tensors have shapes but no data.

    Attributes:
        config: The constructor's arguments, as stored in JSON.
        card: Description of the weights, if known.
    """

    config: dict[str, Any]
    card: ModelCard | None = None
    argument_classes: ClassVar[dict[str, type]] = {}
    """Classes that may be arguments, by the names that represent them in a file."""
    _unsaved: dict[str, str]

    @property
    def description(self) -> dict[str, Any] | None:
        """Name of the class and its arguments, or None if an argument cannot be stored as JSON."""
        return None if self._unsaved else {"model": type(self).__name__, "arguments": self.config}

    def save_pretrained(
        self, folder: str | Path, card: ModelCard | None = None, *, name: str = "model"
    ) -> Path:
        """Write `name.safetensors` and `name.json`, which `from_pretrained` reads.

        Args:
            folder: Folder to write to, created if necessary.
            card: Description of the weights; `self.card` by default.
            name: Name of the files, without folder and suffix.

        Returns:
            The JSON file.

        Raises:
            ValueError: If an argument of the constructor cannot be stored, or `name` has a
                separator.
            OSError: If the files cannot be written.
        """
        from safetensors.torch import save

        check_name("name", name)
        if self._unsaved:
            raise ValueError(
                "Expected arguments that can be stored as JSON, got "
                + ", ".join(f"`{key}`={value}" for key, value in self._unsaved.items())
                + "; save `state_dict()` instead, and construct the model in code"
            )
        card = self.card if card is None else card
        weights = save({key: each.cpu().contiguous() for key, each in self.state_dict().items()})
        content = {
            "format": FORMAT,
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

        Sizes are compared with the header of the weights before memory is allocated.

        Args:
            name_or_folder: Name of weights that come with the package (see `pretrained_names`), a
                folder with one pair of files, or one of the two files.

        Raises:
            ValueError: If the weights do not fit the model, are not finite, were changed or cut
                short, or if the JSON file is invalid.
            FileNotFoundError: If there are no weights of that name.
        """
        file = find_pretrained(name_or_folder)
        content = read_pretrained(file)
        weights = file.with_suffix(".safetensors")
        num_tensors = count_weights(weights)
        with torch.random.fork_rng(devices=[]):
            try:
                arguments, expected = cls._outline(content, num_tensors)
                card = content["card"]
                card = None if card is None else ModelCard.from_json(card)
            except Exception as error:  # whatever the content of the file leads to
                raise ValueError(f"{file}: {_reason(error)}") from error
            check_weights(weights, expected)
            model = cls(**arguments)
        model.card = card
        model.load_state_dict(read_weights(weights, content["sha256"]), assign=True)
        return model.eval()

    @classmethod
    def from_description(cls, description: Any, weights: Mapping[str, Tensor]) -> Self:
        """Make a model from its `description` and weights, in evaluation mode and on the CPU.

        Sizes are compared before memory is allocated.

        Args:
            description: Name of the class and its arguments.
            weights: Tensors of the model by name.

        Raises:
            ValueError: If the description is invalid, or if the weights do not fit it.
        """
        with torch.random.fork_rng(devices=[]):
            try:
                arguments, expected = cls._outline(description, len(weights))
            except Exception as error:  # whatever the description leads to
                raise ValueError(_reason(error)) from error
            found = {name: TensorInfo.of(tensor) for name, tensor in weights.items()}
            problems = differences(found, expected)
            if problems:
                raise ValueError(f"Expected the weights of the described model, got {problems}")
            model = cls(**arguments)
        model.load_state_dict(weights)
        return model.eval()

    @classmethod
    def _outline(
        cls, description: Any, num_tensors: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the arguments of a described model, and its tensors without data.

        Raises:
            ValueError: If the model is far larger than one of `num_tensors` tensors.
        """
        arguments = cls._arguments(description)
        with torch.device("meta"), _LimitedCalls(_CALLS_PER_TENSOR * (1 + num_tensors)):
            return arguments, cls(**arguments).state_dict()

    @classmethod
    def _arguments(cls, content: dict[str, Any]) -> dict[str, Any]:
        if content["model"] != cls.__name__:
            raise ValueError(f"Expected a {cls.__name__}, got a {content['model']}")
        known = cls.argument_classes
        return {
            # Names of known classes only: nothing is imported or looked up elsewhere.
            key: known[value]
            if isinstance(value, str) and value in known
            else _from_json(key, value)
            for key, value in content["arguments"].items()
        }


def _reason(error: Exception) -> str:
    """Return the message of an error, with its type if it was not foreseen."""
    foreseen = isinstance(error, (TypeError, ValueError))
    return str(error) if foreseen else f"{type(error).__name__}: {error}"


class _LimitedCalls(TorchFunctionMode):
    """Limits the number of calls of torch, so that no file leads to a model of any size."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(
                "Expected arguments of a model that fits its weights, got a far larger one"
            )
        return func(*args, **(kwargs or {}))


def remember_arguments(
    init: Callable[Concatenate[Model, Parameters], None],
) -> Callable[Concatenate[Model, Parameters], None]:
    """Decorate a constructor to keep its arguments in `config`."""
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


def _from_json(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(name, each) for each in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"Expected a finite `{name}`, got {value}")
    return value
