"""Base class of training tasks: optimizer, schedule, kernel penalty and exact resuming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch_geometric.data import Batch, Data
from torchmetrics import Metric, MetricCollection

from ccnn_geo.nn import CCNN, CKConvMP
from ccnn_geo.nn.bandlimit import grid_bandlimit, point_bandlimit
from ccnn_geo.nn.frequencies import frequency_penalty
from ccnn_geo.nn.penalty import collect_kernel_norms, kernel_penalty
from ccnn_geo.pretrained.model import PretrainedModule
from ccnn_geo.training.checkpoints import load_network
from ccnn_geo.training.optim import parameter_groups, warmup_cosine

__all__ = ["CCNNModule"]


_STEP = 1
"""Keeps the seeds of steps different from the seeds of samples."""


class CCNNModule(pl.LightningModule):
    """Base class of LightningModules that train a `CCNN` as in the paper.

    The optimizer is AdamW. Its learning rate increases linearly and then decreases to zero along a
    cosine; windows have a separate rate. The norm of the generated kernels takes the place of
    weight decay (Eq. 3). Defaults are the published settings of the CCNN 4,16.

    Subclasses implement `loss`, hand their metrics to `add_metrics`, and call
    `self.save_hyperparameters(ignore=["network"])`.

    A batch with positions holds clouds, any other batch holds grids. A network accepts both,
    whichever it was trained on; with `CCNN.for_grid`, positions are in units of its `spacing`.

    Args:
        network: A `CCNN`, or another network that is called in the same way.
        learning_rate: Highest learning rate.
        window_lr_ratio: Learning rate of the windows divided by `learning_rate`.
        warmup_epochs: Number of epochs of the warm-up; at most half of all epochs.
        weight_decay: Weight decay of the linear layers that are not part of a kernel network.
        kernel_l2: Weight of the penalty on the generated kernels.
        frequency_penalty: Weight of the penalty on kernels above the Nyquist frequency of the
            training data, see `nn.frequency_penalty`.

    Shapes:
        - **input:** a batch of B clouds with `x [N, C_in]`, `pos [N, D]`, `batch [N]` and,
          optionally, quadrature weights `weight [N]`; or of B grids with `x [B, C_in, *S]` and,
          optionally, `mask [B, *S]`, the occupied cells, `length [B]`, the lengths of padded
          sequences, and `spacing [B]` or `[B, D]`, the common step of all grids. Token numbers are
          whole numbers; pairs are consecutive, `[2 B, ...]`
        - **output:** the output of the network

    Raises:
        ValueError: If an argument is out of range.
    """

    monitor: ClassVar[str] = "loss"
    """Metric of the validation split that selects the best epoch."""
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    """Whether lower or higher values of it are better."""

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: float = 0.02,
        window_lr_ratio: float = 1.0,
        warmup_epochs: float = 5,
        weight_decay: float = 0.0,
        kernel_l2: float = 0.0,
        frequency_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise ValueError(f"Expected `learning_rate` > 0, got {learning_rate}")
        for name, value in (
            ("window_lr_ratio", window_lr_ratio),
            ("warmup_epochs", warmup_epochs),
            ("weight_decay", weight_decay),
            ("kernel_l2", kernel_l2),
            ("frequency_penalty", frequency_penalty),
        ):
            if value < 0:
                raise ValueError(f"Expected `{name}` >= 0, got {value}")
            penalty = name in ("kernel_l2", "frequency_penalty") and value > 0
            if penalty and not any(isinstance(each, CKConvMP) for each in network.modules()):
                raise ValueError(
                    f"Expected `{name}` = 0 for a network without CKConvMP, got {value}"
                )
        self.network = network
        self.learning_rate = learning_rate
        self.window_lr_ratio = window_lr_ratio
        self.warmup_epochs = warmup_epochs
        self.weight_decay = weight_decay
        self.kernel_l2 = kernel_l2
        self.frequency_penalty = frequency_penalty
        self.seed = torch.initial_seed()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a module from a checkpoint, which describes its network.

        Args:
            checkpoint_path: The file.
            args: See `LightningModule.load_from_checkpoint`.
            kwargs: See `LightningModule.load_from_checkpoint`. `network` is required if it is not a
                `CCNN`.

        Raises:
            ValueError: If the checkpoint is damaged, or describes no `CCNN`.
        """
        if "network" not in kwargs:
            kwargs["network"] = load_network(Path(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def forward(self, data: Data) -> Tensor:
        """Evaluate the network on a batch of clouds or grids, or on a single one."""
        if data.x is None:
            raise ValueError(f"Expected `x` in a batch, got {sorted(data.keys())}")
        x = data.x if self._embeds else data.x.to(self.dtype)
        if data.pos is None:
            return self.network(
                x,
                spacing=_common_spacing(data.spacing) if "spacing" in data else None,
                mask=data.mask if "mask" in data else None,
                lengths=data.length if "length" in data else None,
            )
        batch_size = data.num_graphs if isinstance(data, Batch) else 1
        weight = {"weight": data.weight} if "weight" in data else {}
        return self.network(x, data.pos, data.batch, batch_size=batch_size, **weight)

    @property
    def _embeds(self) -> bool:
        return isinstance(self.network, CCNN) and self.network.embedding is not None

    def add_metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Log metrics of every split, as `train/NAME`, `val/NAME` and `test/NAME`.

        Args:
            metrics: The metrics by name.
        """
        collection = MetricCollection({**metrics}, compute_groups=False)
        self.train_metrics = collection.clone(prefix="train/")
        self.val_metrics = collection.clone(prefix="val/")
        self.test_metrics = collection.clone(prefix="test/")

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch.

        Args:
            output: Output of the network.
            batch: The batch.
        """
        raise NotImplementedError

    def training_loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the loss that is minimised, without the penalties; `loss` unless overridden.

        Args:
            output: Output of the network.
            batch: The batch.
        """
        return self.loss(output, batch)

    def predictions(self, output: Tensor, batch: Batch) -> Tensor:
        """Return what metrics compare with `y`; the output of the network unless overridden.

        Args:
            output: Output of the network.
            batch: The batch.
        """
        return output

    def update_metrics(self, metrics: MetricCollection, predictions: Tensor, batch: Batch) -> None:
        """Update metrics with a batch.

        Args:
            metrics: The metrics of a split.
            predictions: Result of `predictions`.
            batch: The batch.
        """
        metrics.update(predictions, batch.y)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and metrics of validation samples."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log loss and metrics of test samples, and return the predictions."""
        return self._evaluate(batch, "test", self.test_metrics)

    def _evaluate(self, batch: Batch, split: str, metrics: MetricCollection) -> Tensor:
        output = self(batch)
        self.log_mean(f"{split}/loss", self.loss(output, batch), batch)
        return self._log_metrics(metrics, output, batch)

    def _log_metrics(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> Tensor:
        """Update metrics with a batch, log them at the end of the epoch; return the predictions."""
        predictions = self.predictions(output.detach(), batch)
        self.update_metrics(metrics, predictions, batch)
        for name, metric in metrics.items():
            self.log(
                name,
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=name == f"val/{self.monitor}",
                batch_size=batch.num_graphs,
            )
        return predictions

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed torch's generator from the seed of the run and the position of the batch.

        Dropout masks depend on the generator, whose state is not part of a checkpoint. Because
        every step starts from a state that follows from seed, process, epoch and batch alone, a run
        that is resumed after any epoch draws the same masks as a run that was never interrupted,
        and ends with the same weights.
        """
        key = (_STEP, self.seed, self.global_rank, self.current_epoch, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, including the penalties that have a weight."""
        with collect_kernel_norms() if self.kernel_l2 > 0 else nullcontext() as norms:
            output = self(batch)
        loss = self.training_loss(output, batch)
        self._log_metrics(self.train_metrics, output, batch)
        if norms is not None:
            penalty = kernel_penalty(norms)
            loss = loss + self.kernel_l2 * penalty
            self.log_mean("train/kernel_penalty", penalty, batch)
        if self.frequency_penalty > 0:
            excess = frequency_penalty(self.network, self._nyquist(batch))
            loss = loss + self.frequency_penalty * excess
            self.log_mean("train/frequency_penalty", excess, batch)
        self.log_mean("train/loss", loss, batch, prog_bar=True)
        return loss

    def _nyquist(self, batch: Batch) -> tuple[float, ...]:
        """Return the highest frequencies that the data of a batch resolve, per axis."""
        if batch.pos is not None:
            return cast(tuple[float, ...], point_bandlimit("auto", batch.pos, batch.batch))
        conv = next(each for each in self.network.modules() if isinstance(each, CKConvMP))
        spacing = _common_spacing(batch.spacing) if "spacing" in batch else conv.spacing
        return cast(tuple[float, ...], grid_bandlimit("auto", spacing, conv.dim))

    def log_mean(self, name: str, value: Tensor, batch: Batch, *, prog_bar: bool = False) -> None:
        """Log the mean of a value over the samples of an epoch.

        Args:
            name: Name of the value.
            value: Mean over the samples of a batch.
            batch: The batch.
            prog_bar: If True, show the value in the progress bar.
        """
        self.log(
            name,
            value.detach(),
            on_step=False,
            on_epoch=True,
            prog_bar=prog_bar,
            batch_size=batch.num_graphs,
            sync_dist=True,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer, see `training.parameter_groups`."""
        return parameter_groups(
            self.network,
            learning_rate=self.learning_rate,
            window_lr_ratio=self.window_lr_ratio,
            weight_decay=self.weight_decay,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule, `warmup_cosine`, which is updated after every step.

        Raises:
            ValueError: If the trainer has neither `max_epochs` nor `max_steps`.
        """
        optimizer = AdamW(self.parameter_groups())
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ValueError(
                "Expected a trainer with `max_epochs` or `max_steps`: the learning rate falls to "
                "zero at the end"
            )
        if total == 0:
            raise ValueError("Expected a trainer with training batches, got limits that leave none")
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        warmup = min(round(self.warmup_epochs * math.ceil(batches)), int(total) // 2)
        schedule = partial(warmup_cosine, warmup_steps=warmup, total_steps=int(total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed and the description of the network to a checkpoint."""
        checkpoint["seed"] = self.seed
        checkpoint["network"] = (
            self.network.description if isinstance(self.network, PretrainedModule) else None
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the run."""
        self.seed = checkpoint["seed"]


def count_outputs(network: nn.Module, given: int | None, name: str, *, least: int) -> int:
    """Return the number of outputs of a network.

    Args:
        network: The network.
        given: The number, required if the network is not a `CCNN`.
        name: Name of the number, for error messages.
        least: Smallest number.

    Raises:
        ValueError: If it is unknown, too small, or not the number of outputs of a `CCNN`.
    """
    if isinstance(network, CCNN):
        if given not in (None, network.out_channels):
            raise ValueError(f"Expected a network with {given} outputs, got {network.out_channels}")
        given = network.out_channels
    if given is None:
        raise ValueError(f"Expected `{name}` for a network that is not a CCNN, got none")
    if given < least:
        raise ValueError(f"Expected `{name}` >= {least}, got {given}")
    return given


def _common_spacing(spacing: Tensor) -> tuple[float, ...] | float:
    """Return the step of all grids of a batch from one entry per grid, `[B]` or `[B, D]`.

    Raises:
        ValueError: If the steps differ.
    """
    first, *others = spacing.tolist()
    if any(other != first for other in others):
        raise ValueError(f"Expected one `spacing` for all grids of a batch, got {spacing.tolist()}")
    return tuple(first) if isinstance(first, list) else first
