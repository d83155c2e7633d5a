"""What the tests of training share: a tiny network, a quiet trainer and a record."""

import os

import pytorch_lightning as pl
import torch

from ccnn_geo import CCNN
from ccnn_geo.training import CCNNClassifier

CLASSES = 3
TINY = {"hidden_channels": 8, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 8}


def tiny_network(**options) -> CCNN:
    """A network for clouds with three features, the same whenever asked for."""
    torch.manual_seed(0)
    return CCNN(3, CLASSES, **{"dim": 3, **TINY, **options})


def tiny_classifier(**options) -> CCNNClassifier:
    """A classifier of clouds, the same whenever asked for."""
    return CCNNClassifier(tiny_network(), **{"warmup_epochs": 0, **options})


def trainer(**options) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(accelerator="cpu", **{"devices": 1, **dict.fromkeys(quiet, False), **options})


class Record(pl.Callback):
    """Keeps the learning rates and the loss of every step."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        groups = trainer.optimizers[0].param_groups
        self.rates.append({group["name"]: group["lr"] for group in groups})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


class Command:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
