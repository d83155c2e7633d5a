"""Train one network on two forms of the same data, in turn, and test it on both.

    python examples/cross_modal.py --data.name mnist --data.train_on images
    python examples/cross_modal.py --data.name mnist --data.train_on both
    python examples/cross_modal.py --data.name modelnet10 --data.train_on both

The digits of MNIST are images of 28 x 28, or clouds of their lit pixels; the objects of ModelNet10
are voxels, or clouds. One set of weights takes either. With `both`, batches of the two forms
alternate, as many of each as without, under one optimizer. Every network is tested as it was
trained, and with the statistics of its batch norms taken anew from training samples of the form
that is tested (adaptive batch normalization, Li et al. 2016). `--data.root` is the folder of the
data, or an .npz file of arrays.
"""

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report
from torch import nn
from torch_geometric.loader import DataLoader

from ccnn_geo import CCNN
from ccnn_geo.datasets import EpochSampler, MNISTDataModule, PointCloudDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI

FORMS = {"mnist": ("images", "clouds"), "modelnet10": ("voxels", "clouds")}
DEFAULTS = {
    "trainer.max_epochs": 10,
    "network.hidden_channels": 32,
    "network.num_blocks": 2,
    "network.kernel_channels": 16,
    "network.num_neighbors": 49,
    "network.window_width": 0.3,
    "network.omega_0": 10.0,
    "model.learning_rate": 0.02,
    "model.warmup_epochs": 1,
}
CELLS = 15
"""Taps of the kernels on the images of MNIST, along each axis."""
BATCHES = 50
"""Training batches that the statistics of batch norms are taken from."""


class AlternatingLoader:
    """Batches of several loaders in turn; ends when each has been once through its samples."""

    def __init__(self, loaders: list[DataLoader]) -> None:
        self.loaders = loaders
        self.sampler, self.batch_sampler = self, None  # what Lightning sets the epoch of

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of all samplers of training samples."""
        for loader in self.loaders:
            if isinstance(loader.sampler, EpochSampler):
                loader.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        iterators = list(map(iter, self.loaders))
        while iterators:
            for iterator in list(iterators):
                try:
                    yield next(iterator)
                except StopIteration:
                    iterators.remove(iterator)


class CrossModalDataModule(pl.LightningDataModule):
    """Two forms of the same data.

    Args:
        name: `mnist` or `modelnet10`.
        root: Folder of the data, or an .npz file.
        train_on: Form that the network is trained and selected on, or `both`.
        batch_size: Number of samples per batch.
        train_size: Number of training samples to use; all by default.
        seed: Seed of the order and the augmentation.
    """

    def __init__(
        self,
        name: Literal["mnist", "modelnet10"] = "mnist",
        root: Path | None = None,
        *,
        train_on: Literal["images", "voxels", "clouds", "both"] = "both",
        batch_size: int = 50,
        train_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if train_on not in (*FORMS[name], "both"):
            raise ValueError(f"Expected `train_on` to be one of {(*FORMS[name], 'both')}")
        self.name = name
        self.train_on = train_on
        shared = {
            "root": root, "batch_size": batch_size, "train_size": train_size, "seed": seed
        }  # fmt: skip
        if name == "mnist":
            forms = [{"form": "image"}, {"form": "cloud"}]
            made = [MNISTDataModule("mnist", max_shift=1, **form, **shared) for form in forms]
        else:
            source = "arrays" if root is not None and root.suffix == ".npz" else "modelnet10"
            shared |= {"points_per_mesh": 1024, "features": "pos", "random_scale": True}
            made = [PointCloudDataModule(source, voxels=side, **shared) for side in (40, None)]
        self.forms = dict(zip(FORMS[name], made, strict=True))

    def setup(self, stage: str | None = None) -> None:
        for data in self.forms.values():
            data.setup(stage)
            data.trainer = self.trainer

    @property
    def used(self) -> list[Any]:
        """The data modules that the network is trained on."""
        return [data for form, data in self.forms.items() if self.train_on in (form, "both")]

    @property
    def num_classes(self) -> int:
        return self.used[0].num_classes

    @property
    def class_names(self) -> list[str]:
        return self.used[0].class_names

    @property
    def split_sizes(self) -> dict[str, int]:
        splits = self.used[0].split_sizes
        return {split: sum(data.split_sizes[split] for data in self.used) for split in splits}

    def train_dataloader(self) -> AlternatingLoader:
        return AlternatingLoader([data.train_dataloader() for data in self.used])

    def val_dataloader(self) -> AlternatingLoader:
        return AlternatingLoader([data.val_dataloader() for data in self.used])

    def test_dataloader(self) -> AlternatingLoader:
        return AlternatingLoader([data.test_dataloader() for data in self.used])


class CrossModalCLI(PointCloudCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults(DEFAULTS)

    def make_network(self, data: CrossModalDataModule) -> nn.Module:
        arguments = self.network_arguments()
        if data.name == "mnist":
            del arguments["extent"], arguments["window_cutoff"]
            return CCNN.for_grid(1, 10, size=(28, 28), kernel_size=CELLS, **arguments)
        return CCNN(3, 10, dim=3, **arguments)

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        scores = super().evaluate(checkpoint)
        scores["forms"], scores["adapted"] = {}, {}
        for form, data in self.datamodule.forms.items():
            scores["forms"][form] = self.tested(data.test_dataloader()).get("accuracy")
        weights = copy.deepcopy(self.model.state_dict())
        for form, data in self.datamodule.forms.items():
            self.adapt(data.train_dataloader())
            scores["adapted"][form] = self.tested(data.test_dataloader()).get("accuracy")
            self.model.load_state_dict(weights)
        return scores

    @torch.no_grad()
    def adapt(self, loader: DataLoader) -> None:
        """Replace the statistics of the batch norms by those of training samples of one form."""
        norms = [each for each in self.model.modules() if isinstance(each, nn.BatchNorm1d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        self.model.train()
        for batch in islice(loader, BATCHES):
            self.model(batch.to(self.model.device))
        self.model.eval()


def main() -> None:
    description = "Train one network on two forms of the same data."
    cli = CrossModalCLI(CCNNClassifier, CrossModalDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    for name, title in (("forms", "as trained"), ("adapted", "with statistics of its own")):
        accuracies = [f"{percent(value)} on {form}" for form, value in results[name].items()]
        print(f"Trained on {cli.datamodule.train_on}, right {title}: {', '.join(accuracies)}")


if __name__ == "__main__":
    main()
