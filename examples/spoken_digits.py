"""Train a CCNN on raw audio, then test it at sampling rates that were not part of the training.

    python examples/spoken_digits.py
    python examples/spoken_digits.py --config examples/configs/spoken_digits_small.yaml
    python examples/spoken_digits.py --data.name spoken_digits --data.root my/recordings

Without a configuration, a small network is trained on the 8 x 8 handwritten digits that are part of
the package, read row by row, which takes a minute or two and only shows that everything runs.
`--data.name spoken_digits`, as in the configurations, selects real audio of 8,000 samples a second,
which is downloaded to `data/spoken_digits` unless `--data.root` is a folder that holds it.

At the end, the same weights are tested on all samples, on every second and on every fourth one:
with kernels that are rescaled to the distance of the samples, and with kernels that are not, like
discrete ones. `--data.subsample 2` tests the run itself on every second sample; the training stays
at 8 kHz. Recordings are not filtered before they are subsampled.
"""

from signals import ResolutionsCLI, show_resolutions
from tables import show_report

from ccnn_geo.datasets import SpokenDigitsDataModule
from ccnn_geo.training.classifier import CCNNClassifier


class SpokenDigitsCLI(ResolutionsCLI):
    defaults = {"data.name": "digits"}


def main() -> None:
    description = "Train a CCNN on raw audio and test it at other sampling rates."
    cli = SpokenDigitsCLI(CCNNClassifier, SpokenDigitsDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    print(
        f"{results['parameters']:,} parameters, trained on {cli.datamodule.size[0]:,} samples "
        "each; test accuracy on"
    )
    show_resolutions(results["resolutions"])


if __name__ == "__main__":
    main()
