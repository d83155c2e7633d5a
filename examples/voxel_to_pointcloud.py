"""Train on voxels and test on point clouds, without any training on clouds; or the reverse.

    python examples/voxel_to_pointcloud.py
    python examples/voxel_to_pointcloud.py --reverse
    python examples/voxel_to_pointcloud.py --data.name arrays --data.root clouds.npz

The same weights are tested on voxels and on clouds of three sizes each, as trained and with two
compensations for another density. A cloud of N points is N / N_train times as dense as a training
cloud. Sums over the neighbours within reach grow in proportion; quadrature weights of N_train / N
preserve the integrals. The same number of neighbours reaches less far; N / N_train times as many
neighbours reach as far as in training.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report, show_table
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

from ccnn_geo import CCNN
from ccnn_geo.datasets import PointCloudDataModule, PointCloudDataset
from ccnn_geo.ops import compensate_density
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI
from ccnn_geo.transforms.mesh import StackFeatures
from ccnn_geo.transforms.voxels import Voxelize

WAYS = {
    "as_trained": {"weights": False, "neighbors": False},
    "weights": {"weights": True, "neighbors": False},
    "neighbors": {"weights": False, "neighbors": True},
    "both": {"weights": True, "neighbors": True},
}
# A network with 24,709 parameters, see `configs/modelnet10_4_48.yaml`, but without jitter, which
# would move voxels off their grid.
DEFAULTS = {
    "trainer.max_epochs": 25,
    "network.hidden_channels": 48,
    "network.omega_0": 1.0,
    "network.num_neighbors": 32,
    "network.window_width": 0.2,
    "model.warmup_epochs": 2,
    "model.label_smoothing": 0.1,
    "data.name": "modelnet10",
    "data.features": "pos",
    "data.random_scale": True,
}


class TransferCLI(PointCloudCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--resolution", type=int, default=40, help="Voxels along each axis.")
        parser.add_argument(
            "--reverse", action="store_true", help="Train on clouds and test on voxels."
        )
        parser.link_arguments(("resolution", "reverse"), "data.voxels", compute_fn=training_grid)
        parser.set_defaults(DEFAULTS)

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        scores = super().evaluate(checkpoint)
        if scores["test"] is not None:
            network = self.model.network.to(self.trainer.strategy.root_device)
            scores["transfer"] = list(transfer(network, self.datamodule, self.config.resolution))
        return scores


def training_grid(resolution: int, reverse: bool) -> int | None:
    return None if reverse else resolution


def transfer(
    model: CCNN, data: PointCloudDataModule, resolution: int
) -> Iterator[dict[str, str | float]]:
    """Test a model on voxels and clouds of several sizes, in all `WAYS`."""
    size = data.num_points
    training_size = fmean(len(cloud.pos) for cloud in data.train_dataset)
    for voxels, num_points in (
        (resolution, size),
        (None, size),
        (None, size // 2),
        (None, 2 * size),
        (resolution // 2, size),
        (2 * resolution, size),
    ):
        clouds = test_clouds(data, voxels, num_points)
        batches = list(DataLoader(clouds, batch_size=data.batch_size))
        yield {
            "test": "clouds" if voxels is None else f"voxels {voxels}^3",
            "points": sum(len(batch.pos) for batch in batches) / len(clouds),
            **{name: accuracy(model, batches, training_size, **way) for name, way in WAYS.items()},
        }


def test_clouds(
    data: PointCloudDataModule, voxels: int | None, num_points: int
) -> PointCloudDataset:
    """Return the test split as voxels, or as clouds of another size."""
    test = data.test_dataset
    steps = [] if voxels is None else [Voxelize(voxels, num_points)]
    return PointCloudDataset(
        test.clouds,
        test.classes,
        train=False,
        num_points=num_points if voxels is None else data.points_per_mesh,
        seed=test.seed,
        transform=Compose([*steps, StackFeatures(("pos",))]),
    )


def accuracy(
    model: CCNN, batches: list[Batch], training_size: float, *, weights: bool, neighbors: bool
) -> float:
    """Return the share of clouds that a model gets right, see `classify`."""
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for batch in batches:
        batch = batch.to(device)
        logits = classify(model, batch, training_size, weights=weights, neighbors=neighbors)
        correct += int((logits.argmax(1) == batch.y).sum())
    return correct / sum(batch.num_graphs for batch in batches)


@torch.inference_mode()
def classify(
    model: CCNN, batch: Batch, training_size: float, *, weights: bool, neighbors: bool
) -> Tensor:
    """Classify clouds of any density.

    Args:
        model: The model.
        batch: The clouds.
        training_size: Number of points of a training cloud.
        weights: If True, compensate for the density by quadrature weights.
        neighbors: If True, compensate for it by the number of neighbours.
    """
    neighborhood, weight = compensate_density(
        batch.pos,
        batch.batch,
        batch.ptr.diff() / training_size,
        model.num_neighbors if neighbors else None,
    )
    return model(
        batch.x,
        batch.pos,
        batch.batch,
        edge_index=neighborhood,
        weight=weight if weights else None,
        batch_size=batch.num_graphs,
    )


def main() -> None:
    description = "Train on voxels and test on point clouds, or the reverse."
    cli = TransferCLI(CCNNClassifier, PointCloudDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    trained = "clouds" if cli.config.reverse else f"voxels {cli.config.resolution}^3"
    show_report(cli.folder)
    if results["test"] is None:
        print("There was no test split to measure the transfer on.")
        return
    print(f"{results['parameters']:,} parameters, trained on {trained}; test accuracy:")
    show_table(
        ["tested on", "points", *(way.replace("_", " ") for way in WAYS)],
        [
            [row["test"], f"{row['points']:.0f}", *(percent(row[way]) for way in WAYS)]
            for row in results["transfer"]
        ],
    )


if __name__ == "__main__":
    main()
