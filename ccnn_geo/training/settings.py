"""YAML files of settings, read within limits, and their comparison."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["MAX_CHARACTERS", "check_yaml", "comparable_settings", "read_settings"]

MAX_CHARACTERS = 2**16
"""Length of the longest YAML file that is read; configurations of the examples have about 500."""

_MAX_VALUES = 10_000
_MAX_DEPTH = 50
# Settings that do not affect the result, and may differ when a run is resumed.
_FREE = {
    "config", "name", "data.num_workers", "trainer.default_root_dir",
    "trainer.enable_progress_bar",
}  # fmt: skip


def check_yaml(text: str) -> None:
    """Check that YAML is short, and stays so when its aliases are expanded.

    A few lines of nested aliases can stand for more values than fit into memory.

    Raises:
        ValueError: If the text is too long, holds too many values or is nested too deeply.
        yaml.YAMLError: If it is not YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"Expected at most {MAX_CHARACTERS:,} characters of YAML, got {len(text):,}"
        )
    values: dict[str, int] = {}  # behind every anchor, with aliases expanded
    around: list[tuple[str | None, int]] = []  # collections, with what they hold so far
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, 1))
            if len(around) > _MAX_DEPTH:
                raise ValueError(f"Expected YAML nested at most {_MAX_DEPTH} deep, got more")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = around.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in values:
                raise ValueError(f"Expected an alias of a complete value, got *{event.anchor}")
            anchor, size = None, values[event.anchor]
        else:
            continue
        if anchor is not None:
            values[anchor] = size
        if around:
            around[-1] = (around[-1][0], around[-1][1] + size)
            size = around[-1][1]
        if size > _MAX_VALUES:
            raise ValueError(
                f"Expected YAML of at most {_MAX_VALUES:,} values with aliases expanded, got more"
            )


def read_settings(file: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ValueError: If it is not one; names the file.
        OSError: If it cannot be read.
    """
    try:
        if file.stat().st_size > MAX_CHARACTERS:
            raise ValueError(
                f"Expected at most {MAX_CHARACTERS:,} bytes, got {file.stat().st_size:,}"
            )
        text = file.read_text(encoding="utf-8")
        check_yaml(text)
        settings = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: expected YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected settings by name, got a {type(settings).__name__}")
    return settings


def comparable_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that affect the result, by their names on the command line."""
    return dict(_flatten(settings))


def _flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in _FREE:
            continue
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value
