"""Report of a training run: epochs, seconds, memory, versions and the confusion matrix."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch_geometric.data import Batch
from torchmetrics.classification import MulticlassConfusionMatrix

__all__ = ["ConfusionMatrix", "RunReport"]


_DATASETS = "ccnn_geo/datasets/"
_PACKAGES = ("ccnn_geo", "numpy", "pytorch-lightning", "torch", "torch_geometric")


class RunReport(Callback):
    """Record the epochs of a run; the record is part of its checkpoints.

    Attributes:
        history: For every completed epoch its number, its duration in seconds (including the
            validation) and the metrics at its end.
        code: Checksums of the package's sources, one for every version that the run was trained
            with, see `code_checksum`.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.code = [code_checksum()]
        self._started = 0.0
        self._validated = False
        self._earlier_peak: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has validation metrics."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the epoch, and print a line about it."""
        seconds = time.perf_counter() - self._started
        # Metrics of the last validation stay until the next one.
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self._validated or not name.startswith("val/")
        }
        self.history.append({"epoch": trainer.current_epoch, "seconds": seconds, **metrics})
        line = [f"epoch {trainer.current_epoch + 1:3}: {seconds:6.1f} s"]
        monitor = getattr(pl_module, "monitor", "accuracy")
        printed = ("train/loss", f"train/{monitor}", f"val/{monitor}")
        line += [f"{name} {metrics[name]:.4f}" for name in printed if name in metrics]
        pl_module.print(", ".join(line))

    def state_dict(self) -> dict[str, Any]:
        """Return the record for a checkpoint."""
        return {"history": self.history, "peak_memory": self.peak_memory(), "code": self.code}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint."""
        self.history = list(state_dict["history"])
        self._earlier_peak = state_dict["peak_memory"]
        self.code = list(dict.fromkeys([*state_dict.get("code", ()), *self.code]))

    def peak_memory(self) -> dict[str, float]:
        """Return the peak memory of the process, and of its GPU if there is one, in MiB."""
        peak = _peak_memory()
        return {name: max(size, self._earlier_peak.get(name, 0.0)) for name, size in peak.items()}

    def summary(self) -> dict[str, Any]:
        """Return epochs, seconds per epoch, peak memory, versions, code and the history."""
        seconds = [epoch["seconds"] for epoch in self.history]
        return {
            "epochs": len(self.history),
            "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
            "peak_memory_mib": self.peak_memory(),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in _PACKAGES},
            },
            "code": self.code,
            "history": self.history,
        }


class ConfusionMatrix(Callback):
    """Count the predicted classes of the samples of every class in the last test.

    The `test_step` of the LightningModule has to return the logits of a batch. With more than
    `max_classes` classes, nothing is counted: the counts take memory in proportion to the square.

    Args:
        num_classes: Number of classes.

    Attributes:
        counts: Number of samples of class i that were predicted as class j, `[C][C]`; None before
            a test, and if there are too many classes.
    """

    max_classes = 1000

    def __init__(self, num_classes: int) -> None:
        self.counts: list[list[int]] | None = None
        self._metric: MulticlassConfusionMatrix | None = None
        if num_classes <= self.max_classes:
            # Points without a class are labelled -1.
            self._metric = MulticlassConfusionMatrix(num_classes, ignore_index=-1)
        else:
            rank_zero_info(
                f"No confusion matrix of {num_classes:,} classes: expected at most "
                f"{self.max_classes:,}"
            )

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the counts to zero."""
        if self._metric is not None:
            self._metric.to(pl_module.device).reset()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the predictions of a batch."""
        if self._metric is not None:
            self._metric.update(outputs, batch.y)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up the counts of all processes."""
        if self._metric is not None:
            self.counts = self._metric.compute().tolist()


@cache
def code_checksum() -> str:
    """Return a checksum of the sources of `ccnn_geo` and `ccnn_geo.datasets`, 12 digits."""
    digest = hashlib.sha256()
    for package in ("ccnn_geo", "ccnn_geo.datasets"):
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob("*")):
                # Once installed, the data sets lie inside the package.
                inside = f"{package}/{path.relative_to(folder).as_posix()}"
                if path.suffix in (".py", ".cpp", ".h") and not inside.startswith(_DATASETS):
                    digest.update(inside.encode())
                    digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _peak_memory() -> dict[str, float]:
    """Return the peak memory of this process and of its GPU in MiB, as far as they are known."""
    peak = {}
    if sys.platform != "win32":
        import resource  # does not exist on Windows

        unit = 1 if sys.platform == "darwin" else 2**10
        peak["cpu"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**20
    return peak
