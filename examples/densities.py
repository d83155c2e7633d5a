"""Train a CCNN on clouds of any density, and test it on fewer, more and unevenly many points.

    python examples/densities.py --config examples/configs/modelnet10_any_density.yaml
    python examples/densities.py --config examples/configs/modelnet10_4_16.yaml

Neighbours by distance (`--network.radius`) and weights by the local density (`--network.density`)
keep the sums of the convolution close to the same integrals; `--data.min_share` thins the training
clouds at random. A network without them is tested in the same way. In uneven clouds, the points on
one side of a random plane are a quarter as dense.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report, show_table
from torch_geometric.transforms import Compose

from ccnn_geo.datasets import PointCloudDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI
from ccnn_geo.transforms import RandomThinning


class DensitiesCLI(PointCloudCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--test_points",
            type=list[int],
            default=[1024, 512, 256, 128, 64],
            help="Numbers of points to test on.",
        )

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        return {**super().evaluate(checkpoint), "densities": list(self.densities())}

    def densities(self) -> Iterator[dict[str, Any]]:
        """Test the network on even and uneven clouds of several numbers of points."""
        data = PointCloudDataModule(**self.config.data.as_dict())
        data.setup()
        dataset = data.test_dataset
        transforms = {
            "even": dataset.transform,
            "uneven": Compose([UNEVEN, dataset.transform]),
        }
        for points in self.config.test_points:
            row: dict[str, Any] = {"points": points}
            dataset.num_points = points
            for kind, dataset.transform in transforms.items():
                row[kind] = self.tested(data.test_dataloader()).get("accuracy")
            yield row


UNEVEN = RandomThinning((1.0, 1.0), uneven=1.0, factors=(4.0, 4.0))


def main() -> None:
    cli = DensitiesCLI(
        CCNNClassifier, PointCloudDataModule, description="Train a CCNN on clouds of any density."
    )
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    show_table(
        ["points", "even", "one side a quarter as dense"],
        [
            [f"{row['points']:,}", percent(row["even"]), percent(row["uneven"])]
            for row in results["densities"]
        ],
    )


if __name__ == "__main__":
    main()
