"""Training classifiers of clouds, sequences and images with Lightning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Batch
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from ccnn_geo.nn import CCNN
from ccnn_geo.training.module import CCNNModule, count_outputs

__all__ = ["CCNNClassifier", "ClassMeanAccuracy"]


class CCNNClassifier(CCNNModule):
    """Train a `CCNN` to classify point clouds, sequences or images.

    See `CCNNModule` for the optimizer, its schedule and the batches, which hold the labels in
    `y [B]`.

    Args:
        network: A `CCNN` with a readout, or another network that is called in the same way.
        num_classes: Number of classes; by default the outputs of the `CCNN`.
        label_smoothing: Probability that is spread over all classes in the target.
        options: Settings of the optimizer and the penalty, see `CCNNModule`.

    Shapes:
        - **input:** a batch of B clouds or grids, see `CCNNModule`
        - **output:** logits `[B, num_classes]`

    Raises:
        ValueError: If an argument is out of range, or does not fit the network.
    """

    monitor = "accuracy"
    monitor_mode = "max"

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        *,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.save_hyperparameters(ignore=["network"])
        if isinstance(network, CCNN) and network.readout is None:
            raise ValueError("Expected a network with a `readout`, got one without")
        self.num_classes = count_outputs(network, num_classes, "num_classes", least=2)
        self.label_smoothing = check_smoothing(label_smoothing)
        metrics = {
            "accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
            "class_accuracy": ClassMeanAccuracy(self.num_classes),
        }
        self.add_metrics(metrics)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of a batch."""
        return nn.functional.cross_entropy(output, batch.y)

    def training_loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of a training batch with smoothed labels."""
        return nn.functional.cross_entropy(output, batch.y, label_smoothing=self.label_smoothing)


class ClassMeanAccuracy(MulticlassStatScores):
    """Accuracy within each class, averaged over the classes that have samples.

    Unlike macro-averaged accuracy, it does not count a class that is predicted but has no samples.

    Args:
        num_classes: Number of classes.
        ignore_index: Label of samples that are not counted.
    """

    def __init__(self, num_classes: int, *, ignore_index: int | None = None) -> None:
        super().__init__(num_classes, average=None, ignore_index=ignore_index)

    def compute(self) -> Tensor:
        """Return the mean over the classes."""
        correct, *_, support = super().compute().unbind(-1)
        present = support > 0
        return (correct[present] / support[present]).mean()


def check_smoothing(label_smoothing: float) -> float:
    """Return a label smoothing that has to be in [0, 1).

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Expected `label_smoothing` in [0, 1), got {label_smoothing}")
    return label_smoothing
