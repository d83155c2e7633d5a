"""The record of a training run: epochs, seconds, memory and versions."""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

__all__ = ["RunReport"]


_PACKAGES = ("ccnn_geo", "numpy", "pytorch-lightning", "torch", "torch_geometric")


class RunReport(Callback):
    """Keeps what a run is reported by; a resumed run goes on with the record of the first part.

    Attributes:
        history: For every completed epoch its number, its seconds (validation included) and the
            metrics at its end.
    """

    _printed = ("train/loss", "train/accuracy", "val/accuracy")

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self._started = 0.0
        self._earlier_peak: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the epoch, and print a line about it."""
        seconds = time.perf_counter() - self._started
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.history.append({"epoch": trainer.current_epoch, "seconds": seconds, **metrics})
        line = [f"epoch {trainer.current_epoch + 1:3}: {seconds:6.1f} s"]
        line += [f"{name} {metrics[name]:.4f}" for name in self._printed if name in metrics]
        pl_module.print(", ".join(line))

    def state_dict(self) -> dict[str, Any]:
        """Return the record, to be kept in the checkpoint."""
        return {"history": self.history, "peak_memory": self.peak_memory()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the record of a checkpoint."""
        self.history = list(state_dict["history"])
        self._earlier_peak = state_dict["peak_memory"]

    def peak_memory(self) -> dict[str, float]:
        """Return the most memory taken so far by this process, and on its GPU, in MiB."""
        peak = _peak_memory()
        return {name: max(size, self._earlier_peak.get(name, 0.0)) for name, size in peak.items()}

    def summary(self) -> dict[str, Any]:
        """Return epochs, seconds per epoch, peak memory, versions and the history."""
        seconds = [epoch["seconds"] for epoch in self.history]
        return {
            "epochs": len(self.history),
            "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
            "peak_memory_mib": self.peak_memory(),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in _PACKAGES},
            },
            "history": self.history,
        }


def _peak_memory() -> dict[str, float]:
    """Return the peak memory of this process and on its GPU in MiB, where they are known."""
    peak = {}
    if sys.platform != "win32":
        import resource  # does not exist on Windows

        unit = 1 if sys.platform == "darwin" else 2**10
        peak["cpu"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
