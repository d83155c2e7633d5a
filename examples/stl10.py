"""Train a CCNN on STL-10, images of 96 x 96 pixels.

    python examples/stl10.py
    python examples/stl10.py --data.augment true --data.root my/stl10
    python examples/stl10.py --data.size 256 --data.batch_size 16 --seed_everything 1

Without a configuration, a small network is trained. `--data.size` is the height and width to which
images are resized, which is 256 in the published results.

The official archive is downloaded to `data/stl10`, unless `--data.root` is a folder that holds it,
extracted or not, or an .npz file of images.
"""

from signals import SmallSignalCLI, show_results

from ccnn_geo.datasets import STL10DataModule
from ccnn_geo.training.classifier import CCNNClassifier


def main() -> None:
    description = "Train a CCNN to classify images of STL-10."
    cli = SmallSignalCLI(CCNNClassifier, STL10DataModule, description=description)
    results = cli.run()
    if cli.trainer.is_global_zero:
        show_results(cli, results, "images")


if __name__ == "__main__":
    main()
