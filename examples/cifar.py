"""Train a CCNN on CIFAR-10 or CIFAR-100: as images, or as sequences of pixels.

    python examples/cifar.py
    python examples/cifar.py --data.name cifar100 --data.augment true --seed_everything 1
    python examples/cifar.py --config examples/configs/cifar10_small.yaml --data.root my/cifar10
    python examples/cifar.py --config examples/configs/scifar10_small.yaml --data.root images.npz

Without a configuration, a small network is trained on images. `--data.form sequential` selects
their pixels row by row, `--data.gray true` their brightness.

The official archive of CIFAR-10 or CIFAR-100 is downloaded to `data/cifar10` or `data/cifar100`,
unless `--data.root` is a folder that holds it, extracted or not, as binary files or as pickles, or
an .npz file of images.
"""

from signals import SmallSignalCLI, show_results

from ccnn_geo.datasets import CIFARDataModule
from ccnn_geo.training.classifier import CCNNClassifier


def main() -> None:
    description = "Train a CCNN to classify images of CIFAR-10 or CIFAR-100."
    cli = SmallSignalCLI(CCNNClassifier, CIFARDataModule, description=description)
    results = cli.run()
    if cli.trainer.is_global_zero:
        show_results(cli, results, "images")


if __name__ == "__main__":
    main()
