"""Checkpoints: written completely or not at all, checked before use, and never executed."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from ccnn_geo.files import atomic_write
from ccnn_geo.nn import CCNN
from ccnn_geo.pretrained.storage import TensorInfo, differences

__all__ = [
    "AtomicCheckpointIO",
    "FolderCheckpoint",
    "check_checkpoint",
    "load_network",
    "names_best",
]

_PREFIX = "network."
# What Lightning and `CCNNModule` need to resume.
_ENTRIES: dict[str, Any] = {
    "state_dict": dict,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "pytorch-lightning_version": str,
    "optimizer_states": list,
    "lr_schedulers": list,
    "seed": int,
    "network": dict | None,
}
_ADVICE = "remove the folder to train from the start"
_EARLIER = (
    "expected a description of the network in `network`; checkpoints of earlier versions of "
    "ccnn_geo lack it, keep the weights in `model` instead of `network`, and cannot be read"
)


class FolderCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that keeps its record if the folder of the run was moved.

    Lightning forgets the best epoch so far if the folder differs from the one in the checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint, with its files in the present folder."""
        folder = str(self.dirpath)

        def moved(path: str) -> str:
            return str(Path(folder) / Path(path).name) if path else path

        state = {**state_dict, "dirpath": folder}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = moved(state_dict[name])
        state["best_k_models"] = {
            moved(path): score for path, score in state_dict["best_k_models"].items()
        }
        super().load_state_dict(state)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target and rename it, so that a kill leaves the previous one.

    Lightning writes to a temporary folder, which may be on another file system, and copies.
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
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # how PyTorch reports that it could not write
                raise OSError(errno.EIO, f"cannot write ({error})", str(target)) from error


def check_checkpoint(path: Path, module: nn.Module) -> None:
    """Check that a training can be resumed from a file, without executing anything in it.

    Args:
        path: The file.
        module: The LightningModule whose names and shapes of tensors it has to have.

    Raises:
        ValueError: If it is not a complete checkpoint of such a module; names the file and says
            what to do.
    """
    try:
        content = _read(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_ADVICE}") from error
    wrong = [
        name for name, kind in _ENTRIES.items() if not isinstance(content.get(name, ...), kind)
    ]
    if wrong:
        raise ValueError(
            f"{path}: expected the checkpoint of a training, got none or another type of "
            f"{', '.join(wrong)}; {_ADVICE}"
        )
    found = {name: TensorInfo.of(tensor) for name, tensor in content["state_dict"].items()}
    problems = differences(found, module.state_dict())
    if problems:
        raise ValueError(f"{path}: expected the weights of this model, got {problems}; {_ADVICE}")
    _check_optimizer(path, content, module)


def _check_optimizer(path: Path, content: dict[str, Any], module: nn.Module) -> None:
    """Check that one optimizer was saved, with the parameter groups of the module."""
    expected = [len(group["params"]) for group in getattr(module, "parameter_groups", list)()]
    try:
        (optimizer,), (_,) = content["optimizer_states"], content["lr_schedulers"]
        found = [len(group["params"]) for group in optimizer["param_groups"]]
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or (expected and found != expected):
        raise ValueError(
            f"{path}: expected the state of one optimizer with groups of {expected} parameters, "
            f"got {found}; {_ADVICE}"
        )


def names_best(path: Path) -> bool:
    """Return True if a checkpoint records a `best.ckpt`.

    Raises:
        ValueError: If it is not a checkpoint; names the file.
    """
    records = _read(path).get("callbacks", {}).values()
    paths = [each.get("best_model_path") for each in records if isinstance(each, dict)]
    return any(each and Path(each).name == "best.ckpt" for each in paths)


def load_network(path: Path) -> CCNN:
    """Load the network of a checkpoint in evaluation mode, without executing anything in it.

    The checkpoint of a `CCNNModule` describes its network. Sizes are compared with the weights
    before memory is allocated.

    Raises:
        ValueError: If it is not the checkpoint of a `CCNN`; names the file.
        FileNotFoundError: If it is missing.
    """
    content = _read(path)
    weights = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    try:
        return CCNN.from_description(content["network"], weights)
    except ValueError as error:
        raise ValueError(f"{path}: expected the checkpoint of a CCNN ({error})") from error


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint that has at least weights and an entry for its network.

    Raises:
        ValueError: If it is not one; names the file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the content of the file leads to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected a complete checkpoint ({reason})") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise ValueError(f"{path}: expected a checkpoint with tensors by name in `state_dict`")
    if "network" not in content:
        raise ValueError(f"{path}: {_EARLIER}")
    return content
