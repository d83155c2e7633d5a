"""Command line and configuration files of experiments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser

from ccnn_geo.training.settings import check_yaml, read_settings

__all__ = ["ExperimentParser"]

_MODE = "ccnn_geo"
_GROUPS = ("trainer", "model", "network", "data")
_WARNING = (
    "Configurations are code: a `class_path` in a file imports any module on the path, the working "
    "directory included. Run only configurations that you trust."
)


class ExperimentParser(LightningArgumentParser):
    """A parser for the groups `trainer`, `model`, `network` and `data`.

    Files that are not settings by name, or too large, are a usage error. Files are code
    nevertheless: a `class_path` imports any module on the path. Run only configurations that you
    trust.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # jsonargparse makes parsers of this class for a `class_path`, and passes the mode on.
        super().__init__(*args, **{"parser_mode": _MODE, "epilog": _WARNING, **kwargs})

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a configuration file; whatever is wrong with it is a usage error."""
        if os.path.isfile(path):
            try:
                settings = read_settings(Path(path))
            except (OSError, ValueError) as error:
                self.error(str(error), error)
            problem = _group_problem(settings) or self._moved(settings.get("model", {}))
            if problem:
                self.error(f"{path}: {problem}")
        return super().parse_path(path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report a usage error and exit; name settings that have moved to another group."""
        moved = self._moved(re.findall(r"--model\.(\w+)", message))
        super().error(f"{message}; {moved}" if moved else message, ex)

    def _moved(self, names: Iterable[str]) -> str:
        """Return what to write instead of settings of the network in the group `model`."""
        known = set(re.findall(r"--network\.(\w+)", self.format_help())) if names else set()
        moved = [f"`network.{name}` instead of `model.{name}`" for name in names if name in known]
        return f"Expected settings of the network as {', '.join(moved)}" if moved else ""


def _load(text: str) -> Any:
    """Load a value or a configuration from the command line.

    Raises:
        ValueError: If it is too large, or a configuration with a group that is none.
    """
    check_yaml(text)
    value = get_loader("yaml")(text)
    problem = _group_problem(value) if isinstance(value, dict) else ""
    if problem:
        raise ValueError(problem)
    return value


set_loader(_MODE, _load, (RecursionError, ValueError, yaml.YAMLError))


def _group_problem(settings: dict[str, Any]) -> str:
    """Return what is wrong with the groups of a configuration, if anything is."""
    for group in _GROUPS:
        value = settings.get(group, {})
        if not isinstance(value, (dict, str)):  # a string is the path of another file
            return f"Expected settings by name in `{group}`, got {value!r}"
    return ""
