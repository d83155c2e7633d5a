"""Training networks that predict numbers, with Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torchmetrics import Metric, MetricCollection

from ccnn_geo.training.module import CCNNModule, count_outputs

__all__ = ["CCNNRegressor", "KnownTargets"]


class CCNNRegressor(CCNNModule):
    r"""Train a `CCNN` to predict numbers or vectors, one per cloud or one per point.

    See `CCNNModule` for the optimizer, its schedule and the batches, which hold the targets in
    `y`: `[B, T]` for a network with a readout, `[N, T]` without one, and `[B, T, *S]` on grids.
    Targets that are NaN count neither in the loss nor in the metrics.

    The network predicts targets of mean 0 and deviation 1, which `self(batch)` returns and whose
    mean squared error is the loss; `predictions` converts them to the units of the targets. Metrics
    in these units are, per split, the mean absolute error `mae`, the root of the mean squared error
    `rmse` and, averaged over the targets, the explained share of the variance `r2`.

    Args:
        network: A `CCNN`, or another network that is called in the same way.
        num_targets: Number of targets; by default the outputs of the `CCNN`.
        target_mean: Mean of each target over the training data; zeros by default.
        target_scale: Standard deviation of each target over the training data; ones by default.
        options: Settings of the optimizer and the penalty, see `CCNNModule`.

    Shapes:
        - **input:** a batch of B clouds with N points or of grids, see `CCNNModule`
        - **output:** normalised targets, `[B, T]`, `[N, T]` or `[B, T, *S]`

    Raises:
        ValueError: If an argument is out of range, or does not fit the network.
    """

    monitor = "rmse"
    monitor_mode = "min"

    target_mean: Tensor
    target_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_targets: int | None = None,
        *,
        target_mean: Sequence[float] | None = None,
        target_scale: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.save_hyperparameters(ignore=["network"])
        self.num_targets = targets = count_outputs(network, num_targets, "num_targets", least=1)
        for name, values, default in (
            ("target_mean", target_mean, 0.0),
            ("target_scale", target_scale, 1.0),
        ):
            tensor = torch.tensor([default] * targets if values is None else list(values))
            if tensor.shape != (targets,) or not bool(tensor.isfinite().all()):
                raise ValueError(f"Expected `{name}` to be {targets} finite numbers, got {values}")
            self.register_buffer(name, tensor.float())
        if not bool((self.target_scale > 0).all()):
            raise ValueError(f"Expected positive `target_scale`, got {target_scale}")
        self.add_metrics({name: KnownTargets(targets, name) for name in ("mae", "rmse", "r2")})

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error of normalised targets; zero if all are NaN."""
        target = (self._rows(batch.y, output) - self.target_mean) / self.target_scale
        known = target.isfinite()
        errors = (self._rows(output, output) - target.nan_to_num())[known]
        return errors.square().sum() / known.sum().clamp(min=1)

    def predictions(self, output: Tensor, batch: Batch) -> Tensor:
        """Return predictions in the units of the targets."""
        shape = (1, -1, *(1 for _ in output.shape[2:]))
        return output * self.target_scale.view(shape) + self.target_mean.view(shape)

    def update_metrics(self, metrics: MetricCollection, predictions: Tensor, batch: Batch) -> None:
        """Update metrics with a batch."""
        metrics.update(self._rows(predictions, predictions), self._rows(batch.y, predictions))

    def _rows(self, values: Tensor, output: Tensor) -> Tensor:
        """Return values of shape `[B, T]`, `[N, T]` or `[B, T, *S]` as rows `[M, T]`."""
        if values.shape == output.shape[:1] and self.num_targets == 1:
            values = values.unsqueeze(1)
        if values.shape != output.shape:
            raise ValueError(
                f"Expected targets `y` of shape {list(output.shape)}, got {list(values.shape)}"
            )
        return values.movedim(1, -1).reshape(-1, self.num_targets)


class KnownTargets(Metric):
    """Mean absolute error, root of the mean squared error or R2, over targets that are not NaN.

    Unlike the metrics of torchmetrics, it leaves single numbers out, not whole rows, and is NaN
    instead of an error where nothing can be measured. R2 is the mean over the targets.

    Args:
        num_targets: Number of targets, T.
        measure: `"mae"`, `"rmse"` or `"r2"`.
    """

    full_state_update = False

    sums: Tensor

    def __init__(self, num_targets: int, measure: Literal["mae", "rmse", "r2"]) -> None:
        super().__init__()
        self.measure = measure
        # Number, absolute and squared errors, targets and their squares.
        self.add_state("sums", torch.zeros(5, num_targets, dtype=torch.float64), "sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions and targets, `[M, T]`."""
        known = target.isfinite()
        exact = target.nan_to_num(posinf=0.0, neginf=0.0).double()
        error = torch.where(known, preds.double() - exact, 0.0)
        rows = known.double(), error.abs(), error.square(), exact * known, exact.square() * known
        self.sums = self.sums + torch.stack([row.sum(0) for row in rows])

    def compute(self) -> Tensor:
        """Return the measure."""
        count, absolute, squared, total, squares = self.sums
        if self.measure == "mae":
            return (absolute.sum() / count.sum()).float()
        if self.measure == "rmse":
            return (squared.sum() / count.sum()).sqrt().float()
        return (1 - squared / (squares - total.square() / count)).mean().float()
