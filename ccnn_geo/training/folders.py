"""Folders of runs, each in use by one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ccnn_geo.files import atomic_write, locked, remove_unfinished
from ccnn_geo.training.settings import comparable_settings, read_settings

__all__ = ["claim_folder", "find_folder"]

_CONFIG, _RESULTS = "config.yaml", "results.json"
_CHECKPOINTS = ("best.ckpt", "last.ckpt")
_SHOWN = 4
_OWN_FILES = (_CONFIG, ".lock.owner", ".lock")


def find_folder(first: Path, config: str) -> Path:
    """Return the first folder that is new or holds an unfinished run of the same settings.

    Args:
        first: Folder to begin with; the others have `-2`, `-3` and so on appended to its name.
        config: Settings of the run, as YAML.
    """
    settings = comparable_settings(yaml.safe_load(config))
    for number in count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if not folder.exists():  # an error here would be the same for every folder
            break
        try:
            reason = _difference(folder, settings)
        except (OSError, ValueError) as error:
            reason = str(error)
        if reason is None:
            break
        rank_zero_info(f"Passing over the folder {folder}: {reason}")
    return folder


@contextmanager
def claim_folder(first: Path, config: str) -> Iterator[Path]:
    """Find the folder of a run, save the settings to it, and keep other processes out of it.

    It is removed at the end if nothing else was added to it. See `find_folder` for the arguments.

    Raises:
        TimeoutError: If another process uses the folder; names the folder and the process.
        OSError: If the folder cannot be written.
    """
    settings = comparable_settings(yaml.safe_load(config))
    while True:
        folder = find_folder(first, config)
        absolute = folder.absolute()  # the working directory may change meanwhile
        missing = [each for each in (absolute, *absolute.parents) if not each.exists()]
        with locked(folder, timeout=0, setting="trainer.default_root_dir"):
            if _difference(folder, settings) is not None:
                continue  # another process has just used it
            remove_unfinished(folder)
            with atomic_write(folder / _CONFIG) as file:
                file.write(config.encode())
            try:
                yield folder
            finally:
                _remove_unused(absolute, missing)
            return


def _difference(folder: Path, settings: dict[str, Any]) -> str | None:
    """Return why a run of these settings cannot begin or go on in a folder; None if it can.

    Raises:
        ValueError: If the settings of an earlier run are damaged, or missing beside its results.
        OSError: If the folder cannot be read.
    """
    if not (folder / _CONFIG).exists():
        found = [name for name in (_RESULTS, *_CHECKPOINTS) if (folder / name).exists()]
        if found:
            raise ValueError(f"expected {_CONFIG} beside {', '.join(found)}, got none")
        return None
    earlier = comparable_settings(read_settings(folder / _CONFIG))
    others = sorted(
        name
        for name in earlier.keys() | settings.keys()
        if earlier.get(name, ...) != settings.get(name, ...)
    )
    if others:
        shown = ", ".join(others[:_SHOWN]) + ", ..." * (len(others) > _SHOWN)
        return f"its run has another {shown}"
    return "its run is finished" if (folder / _RESULTS).exists() else None


def _remove_unused(folder: Path, made: list[Path]) -> None:
    """Remove a folder that holds nothing but what `claim_folder` wrote, and its new parents."""
    with suppress(OSError):  # on Windows, the lock cannot be removed while it is held
        if {path.name for path in folder.iterdir()} <= set(_OWN_FILES):
            for name in _OWN_FILES:
                (folder / name).unlink(missing_ok=True)
            for path in dict.fromkeys((folder, *made)):
                path.rmdir()
