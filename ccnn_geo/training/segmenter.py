"""Training networks that label every point, with Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ccnn_geo.nn import CCNN
from ccnn_geo.training.classifier import ClassMeanAccuracy, check_smoothing
from ccnn_geo.training.module import CCNNModule, count_outputs

__all__ = ["CCNNSegmenter", "PartIoU"]


class CCNNSegmenter(CCNNModule):
    r"""Train a `CCNN` to label every point.

    See `CCNNModule` for the optimizer, its schedule and the batches, which hold the labels in
    `y [N]`. Points with the label `ignore_index` count neither in the loss nor in the metrics,
    which are, per split, `accuracy`, the mean accuracy within classes `class_accuracy`, and the
    intersection over union, averaged over the classes that occur, `mean_iou`.

    If `parts` are given, batches hold objects with a category, `category [B]`. Predictions are then
    among the parts of the category, and `instance_iou` and `category_iou` are logged as well, see
    `PartIoU`.

    Args:
        network: A `CCNN` without a readout, or another network that is called in the same way.
        num_classes: Number of classes; by default the outputs of the `CCNN`.
        class_weights: Weight of each class in the loss; or `"balanced"`, in inverse proportion to
            `class_counts`.
        class_counts: Number of training points of each class, for `"balanced"`.
        parts: For each category of objects, the classes that its points can have.
        label_smoothing: Probability that is spread over all classes in the target.
        ignore_index: Label of points without a class.
        options: Settings of the optimizer and the penalty, see `CCNNModule`.

    Shapes:
        - **input:** a batch of B clouds with N points, see `CCNNModule`
        - **output:** logits `[N, num_classes]`

    Raises:
        ValueError: If an argument is out of range, or does not fit the network.
    """

    monitor = "mean_iou"
    monitor_mode = "max"

    class_weights: Tensor | None
    allowed: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        *,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        class_counts: Sequence[int] | None = None,
        parts: Sequence[Sequence[int]] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -1,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.save_hyperparameters(ignore=["network"])
        if isinstance(network, CCNN) and network.readout is not None:
            raise ValueError(f"Expected a network without a `readout`, got {network.readout!r}")
        self.num_classes = classes = count_outputs(network, num_classes, "num_classes", least=2)
        if 0 <= ignore_index < classes:
            raise ValueError(
                f"Expected `ignore_index` to be none of the {classes} classes, got {ignore_index}"
            )
        self.label_smoothing = check_smoothing(label_smoothing)
        self.ignore_index = ignore_index
        weights = _class_weights(class_weights, class_counts, classes)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("allowed", _allowed(parts, classes), persistent=False)
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=ignore_index),
            "class_accuracy": ClassMeanAccuracy(classes, ignore_index=ignore_index),
            "mean_iou": MulticlassJaccardIndex(classes, ignore_index=ignore_index),
        }
        if parts is not None:
            for name in ("instance", "category"):
                metrics[f"{name}_iou"] = PartIoU(
                    parts,
                    average=name,
                    ignore_index=ignore_index,
                )
        self.add_metrics(metrics)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the labelled points of a batch; zero if there are none."""
        return self._cross_entropy(output, batch.y, 0.0)

    def training_loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of a training batch with smoothed labels."""
        return self._cross_entropy(output, batch.y, self.label_smoothing)

    def _cross_entropy(self, output: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        self._check(output, labels)
        labelled = labels != self.ignore_index
        total = nn.functional.cross_entropy(
            output,
            labels,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        if self.class_weights is None:
            return total / labelled.sum().clamp(min=1)
        weight = self.class_weights[labels[labelled]].sum()
        return torch.where(weight > 0, total / weight.where(weight > 0, 1.0), 0.0 * total)

    def _check(self, output: Tensor, labels: Tensor) -> None:
        if labels.shape != output.shape[:1]:
            raise ValueError(
                f"Expected labels `y` of shape [{len(output)}], one for every point, got "
                f"{list(labels.shape)}"
            )

    def predictions(self, output: Tensor, batch: Batch) -> Tensor:
        """Return logits, minus infinity for classes that the category of a point cannot have."""
        if self.allowed is None:
            return output
        allowed = self.allowed[batch.category[batch.batch]]
        return output.masked_fill(~allowed, -torch.inf)

    def update_metrics(self, metrics: MetricCollection, predictions: Tensor, batch: Batch) -> None:
        """Update metrics with a batch."""
        objects = {}
        if self.allowed is not None:
            objects = {"batch": batch.batch, "category": batch.category}
        metrics.update(predictions.argmax(-1), batch.y, **objects)


class PartIoU(Metric):
    """Intersection over union of the parts of objects, the measure of ShapeNetPart.

    The IoU of an object is the mean over the parts of its category; a part that is neither there
    nor predicted counts as 1 (`Yi et al. 2016 <https://doi.org/10.1145/2980179.2980238>`_).

    Args:
        parts: For each category, the classes that the points can have.
        average: `"instance"` for the mean over all objects, or `"category"` for the mean over
            categories of the means over their objects.
        ignore_index: Label of points that are not counted.
    """

    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        parts: Sequence[Sequence[int]],
        *,
        average: Literal["instance", "category"] = "instance",
        ignore_index: int = -1,
    ) -> None:
        super().__init__()
        self.parts = [list(labels) for labels in parts]
        self.average = average
        self.ignore_index = ignore_index
        zeros = torch.zeros(len(parts), dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, batch: Tensor, category: Tensor) -> None:
        """Add the objects of a batch.

        Args:
            preds: Predicted classes of the points, `[N]`.
            target: Their labels, `[N]`.
            batch: The object of every point, `[N]`.
            category: The category of every object, `[B]`.
        """
        labelled = target != self.ignore_index
        for number, kind in enumerate(category.tolist()):
            own = labelled & (batch == number)
            if not own.any():
                continue
            parts = torch.tensor(self.parts[kind], device=preds.device)[:, None]
            predicted, true = preds[own] == parts, target[own] == parts
            union = (predicted | true).sum(1)
            overlap = (predicted & true).sum(1)
            ratio = torch.where(union > 0, overlap / union.clamp(min=1), 1.0)
            self.total[kind] += ratio.double().mean()
            self.count[kind] += 1

    def compute(self) -> Tensor:
        """Return the mean."""
        if self.average == "instance":
            return (self.total.sum() / self.count.sum()).float()
        there = self.count > 0
        return (self.total[there] / self.count[there]).mean().float()


def _class_weights(
    weights: Literal["balanced"] | Sequence[float] | None,
    counts: Sequence[int] | None,
    num_classes: int,
) -> Tensor | None:
    if weights is None:
        return None
    if weights == "balanced":
        if counts is None or len(counts) != num_classes:
            raise ValueError(
                f"Expected `class_counts` of {num_classes} classes for balanced weights, got "
                f"{counts}"
            )
        number = torch.tensor(counts, dtype=torch.float64)
        # Classes without a training point never occur in the loss.
        return (number.sum() / (num_classes * number.clamp(min=1))).float()
    values = torch.tensor([float(weight) for weight in weights])
    if len(values) != num_classes or not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            f"Expected `class_weights` to be 'balanced' or {num_classes} numbers >= 0, got "
            f"{list(weights)}"
        )
    return values


def _allowed(parts: Sequence[Sequence[int]] | None, num_classes: int) -> Tensor | None:
    """Return which classes the points of every category can have, `[K, C]`."""
    if parts is None:
        return None
    allowed = torch.zeros(len(parts), num_classes, dtype=torch.bool)
    for row, labels in zip(allowed, parts, strict=True):
        if not labels or not all(0 <= label < num_classes for label in labels):
            raise ValueError(
                f"Expected `parts` of every category among {num_classes} classes, got "
                f"{list(labels)}"
            )
        row[list(labels)] = True
    return allowed
