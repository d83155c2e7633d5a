"""Checkpoints that are complete or not there, and from which nothing is ever executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ccnn_geo.files import atomic_write

__all__ = ["AtomicCheckpointIO", "check_checkpoint"]

_KEYS = ("state_dict", "epoch", "global_step", "loops")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target and rename it, so that a kill leaves the one before.

    Lightning's own writes to a temporary folder that may be on another file system, and copies.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint to a local file.

        Raises:
            OSError: If it cannot be written; names the file.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            torch.save(checkpoint, file)


def check_checkpoint(path: Path) -> None:
    """Check that a file is a complete checkpoint of a training, without executing anything in it.

    Raises:
        ValueError: If it is not; names the file and says what to do.
    """
    advice = "remove it to train from the start"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a complete checkpoint ({reason}); {advice}") from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"{path}: expected the checkpoint of a training, with {', '.join(_KEYS)}, got none of "
            f"{', '.join(missing)}; {advice}"
        )
