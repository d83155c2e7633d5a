"""Training classifiers of clouds, sequences and images with Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch_geometric.data import Batch, Data
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassStatScores,
)

from ccnn_geo.nn import CCNN
from ccnn_geo.nn.penalty import collect_kernel_norms, kernel_penalty
from ccnn_geo.training.optim import parameter_groups, warmup_cosine

__all__ = ["CCNNClassifier", "ClassMeanAccuracy"]


class CCNNClassifier(pl.LightningModule):
    r"""A `CCNN` that learns to classify point clouds, sequences or images, as the paper trains it.

    AdamW under a learning rate that rises linearly and falls to zero along a cosine; windows have a
    rate of their own; the norm of the generated kernels takes the place of weight decay (Eq. 3).
    The defaults are those of the published CCNN 4,16.

    The learning rates and what dropout drops depend on torch's seed at construction and on the
    number of the step alone, so that a run that is resumed ends like one that was never
    interrupted.

    A batch with positions is one of clouds, any other one of grids. Whichever it is trained on, the
    network takes both. That of a `size` measures positions in steps of the training grids.

    Args:
        in_channels: Size of the features `x` of each point or cell.
        num_classes: Number of classes.
        dim: Number of coordinates of a position, or of axes of a grid.
        size: Cells of the training grids along every axis, see `CCNN.for_grid`; none for a network
            that is trained on clouds.
        kernel_size: Taps of the kernels on the training grids, which sets their extent; `"same"`
            for as many as there are cells.
        hidden_channels: Width of the network.
        num_blocks: Number of residual blocks.
        kernel_channels: Width of the kernel networks.
        omega_0: Scale of the kernel networks' frequencies.
        num_neighbors: Neighbours that every point sees, itself among them; unless given 256, or the
            taps that the kernels have on the training grids at first.
        extent: Half-width of the kernels' support in the unit of the positions, a number or one per
            axis; 1 unless given, or what follows from `kernel_size`.
        window_width: Initial width of the kernels' Gaussian windows, in units of the extent.
        window_cutoff: The kernel ends where the window falls under this; 0 keeps all of it. Unless
            given 0, or 0.1 with a `size`.
        separable: Whether the convolutions are depthwise-separable.
        causal: Whether the convolutions look back only (sequences).
        block: Class of the residual blocks.
        readout: Whether points or cells are pooled by their mean or maximum.
        dropout: Probability of dropping a channel in a block.
        input_dropout: Probability of dropping a value of the input features.
        elementwise_dropout: Drop single values instead of channels in the blocks.
        initialization: Scale of the initial kernels, see `CKConvMP`.
        learning_rate: Highest learning rate.
        window_lr_ratio: Learning rate of the windows, in units of that of all the rest.
        warmup_epochs: Epochs over which the learning rate rises; at most half of all epochs.
        weight_decay: Weight decay of the linear layers that are not part of a kernel network.
        kernel_l2: Weight of the penalty on the generated kernels.
        label_smoothing: Probability spread over all classes in the target.

    Shapes:
        - **input:** a batch of B clouds with `x [N, C_in]`, `pos [N, D]`, `y [B]`, `batch [N]`; or
          of B grids with `x [B, C_in, *S]`, `y [B]` and where there are any `mask [B, *S]`, the
          occupied cells, `length [B]`, the lengths of padded sequences, and `spacing [B]` or
          `[B, D]`, the step of all of these grids in units of that of the training grids
        - **output:** `[B, num_classes]`

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int = 3,
        size: tuple[int, ...] | None = None,
        kernel_size: int | tuple[int, ...] | Literal["same"] = "same",
        hidden_channels: int = 16,
        num_blocks: int = 4,
        kernel_channels: int = 8,
        omega_0: float = 50.0,
        num_neighbors: int | None = None,
        extent: float | tuple[float, ...] | None = None,
        window_width: float | tuple[float, ...] = 0.075,
        window_cutoff: float | None = None,
        separable: bool = True,
        causal: bool = False,
        block: Literal["CCNNBlock", "FlexBlock", "S4Block"] = "CCNNBlock",
        readout: Literal["mean", "max"] = "mean",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        elementwise_dropout: bool = False,
        initialization: Literal["exact", "paper"] = "paper",
        learning_rate: float = 0.02,
        window_lr_ratio: float = 1.0,
        warmup_epochs: float = 5,
        weight_decay: float = 0.0,
        kernel_l2: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"Expected `num_classes` >= 2, got {num_classes}")
        if learning_rate <= 0:
            raise ValueError(f"Expected `learning_rate` > 0, got {learning_rate}")
        for name, value in (
            ("window_lr_ratio", window_lr_ratio),
            ("warmup_epochs", warmup_epochs),
            ("weight_decay", weight_decay),
            ("kernel_l2", kernel_l2),
        ):
            if value < 0:
                raise ValueError(f"Expected `{name}` >= 0, got {value}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"Expected `label_smoothing` in [0, 1), got {label_smoothing}")
        if size is not None and len(size) != dim:
            raise ValueError(f"Expected `size` of {dim} axes, the `dim`, got {size}")
        if size is not None and extent is not None:
            raise ValueError("Expected no `extent` with a `size`: `kernel_size` sets it")
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.window_lr_ratio = window_lr_ratio
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.kernel_l2 = kernel_l2
        self.label_smoothing = label_smoothing
        self.seed = torch.initial_seed()
        given = {
            "num_neighbors": num_neighbors,
            "extent": extent,
            "window_cutoff": window_cutoff,
            "size": size,
        }
        make: Callable[..., CCNN] = CCNN
        if size is None:
            given["dim"] = dim
        else:
            make = partial(CCNN.for_grid, kernel_size=kernel_size)
        self.model = make(
            in_channels,
            num_classes,
            **{name: value for name, value in given.items() if value is not None},
            hidden_channels=hidden_channels,
            num_blocks=num_blocks,
            kernel_channels=kernel_channels,
            omega_0=omega_0,
            window_width=window_width,
            separable=separable,
            causal=causal,
            block=CCNN.argument_classes[block],
            readout=readout,
            dropout=dropout,
            input_dropout=input_dropout,
            elementwise_dropout=elementwise_dropout,
            initialization=initialization,
        )
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "class_accuracy": ClassMeanAccuracy(num_classes),
            },
            compute_groups=False,
        )
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.test_confusion = MulticlassConfusionMatrix(num_classes)
        self.confusion: list[list[int]] | None = None

    def forward(self, data: Data) -> Tensor:
        """Classify the clouds or grids of a batch, or one of them, `[B, num_classes]`."""
        if data.x is None:
            raise ValueError(f"Expected `x` in a batch, got {sorted(data.keys())}")
        x = data.x.to(self.dtype)
        if data.pos is None:
            return self.model(
                x,
                spacing=_common_spacing(data.spacing) if "spacing" in data else None,
                mask=data.mask if "mask" in data else None,
                lengths=data.length if "length" in data else None,
            )
        batch_size = data.num_graphs if isinstance(data, Batch) else 1
        return self.model(x, data.pos, data.batch, batch_size=batch_size)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let the randomness of a step follow from its number alone, so that resuming is exact."""
        key = (self.seed, self.global_rank, self.current_epoch, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch, plus the kernel penalty where it has weight."""
        with collect_kernel_norms() if self.kernel_l2 > 0 else nullcontext() as norms:
            logits = self(batch)
        loss = nn.functional.cross_entropy(logits, batch.y, label_smoothing=self.label_smoothing)
        if norms is not None:
            penalty = kernel_penalty(norms)
            loss = loss + self.kernel_l2 * penalty
            self._log_mean("train/kernel_penalty", penalty, batch)
        self._log_mean("train/loss", loss, batch, prog_bar=True)
        self._log_metrics(self.train_metrics, logits, batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and accuracies on validation samples."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and accuracies on test samples, and what is taken for what."""
        logits = self._evaluate(batch, "test", self.test_metrics)
        self.test_confusion.update(logits, batch.y)

    def on_test_epoch_end(self) -> None:
        """Keep the confusion matrix of the test: rows are true, columns predicted classes."""
        self.confusion = self.test_confusion.compute().tolist()
        self.test_confusion.reset()

    def _evaluate(self, batch: Batch, split: str, metrics: MetricCollection) -> Tensor:
        logits = self(batch)
        self._log_mean(f"{split}/loss", nn.functional.cross_entropy(logits, batch.y), batch)
        self._log_metrics(metrics, logits, batch)
        return logits

    def _log_metrics(self, metrics: MetricCollection, logits: Tensor, batch: Batch) -> None:
        """Count a batch, and log the metrics at the end of the epoch."""
        metrics.update(logits, batch.y)
        for name, metric in metrics.items():
            bar = name == "val/accuracy"
            self.log(
                name,
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=bar,
                batch_size=batch.num_graphs,
            )

    def _log_mean(self, name: str, value: Tensor, batch: Batch, *, prog_bar: bool = False) -> None:
        """Log the mean over the samples of an epoch."""
        self.log(
            name,
            value.detach(),
            on_step=False,
            on_epoch=True,
            prog_bar=prog_bar,
            batch_size=batch.num_graphs,
            sync_dist=True,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule: a linear rise, then a cosine to zero, step by step.

        Raises:
            ValueError: If the trainer has neither `max_epochs` nor `max_steps`.
        """
        groups = parameter_groups(
            self.model,
            learning_rate=self.learning_rate,
            window_lr_ratio=self.window_lr_ratio,
            weight_decay=self.weight_decay,
        )
        optimizer = AdamW(groups)
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ValueError(
                "Expected a trainer with `max_epochs` or `max_steps`: the learning rate falls to "
                "zero at the end"
            )
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = min(round(self.warmup_epochs * math.ceil(batches)), int(total) // 2)
        schedule = partial(warmup_cosine, warmup_steps=warmup, total_steps=int(total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed with the weights."""
        checkpoint["seed"] = self.seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed that the run began with."""
        self.seed = checkpoint["seed"]


def _common_spacing(spacing: Tensor) -> tuple[float, ...] | float:
    """Return the step of all grids of a batch, which has it once for each, `[B]` or `[B, D]`.

    Raises:
        ValueError: If they do not share one.
    """
    first, *others = spacing.tolist()
    if any(other != first for other in others):
        raise ValueError(f"Expected one `spacing` for all grids of a batch, got {spacing.tolist()}")
    return tuple(first) if isinstance(first, list) else first


class ClassMeanAccuracy(MulticlassStatScores):
    """Accuracy within each class, averaged over the classes that there are samples of.

    Unlike macro-averaged accuracy, it does not count a class that is only ever predicted.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average=None)

    def compute(self) -> Tensor:
        """Return the mean over the classes."""
        correct, *_, support = super().compute().unbind(-1)
        present = support > 0
        return (correct[present] / support[present]).mean()
