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

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_table

from ccnn_geo.datasets import SpokenDigitsDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import SignalCLI

DEFAULTS = {
    "trainer.max_epochs": 20,
    "network.hidden_channels": 32,
    "network.num_blocks": 2,
    "network.kernel_channels": 16,
    "network.omega_0": 10.0,
    "network.window_width": 0.3,
    "model.warmup_epochs": 2,
    "data.name": "digits",
}
SUBSAMPLES = (1, 2, 4)
WAYS = {"rescaled": True, "not_rescaled": False}


class SpokenDigitsCLI(SignalCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults(DEFAULTS)

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        return {**super().evaluate(checkpoint), "resolutions": list(self.resolutions())}

    def resolutions(self) -> Iterator[dict[str, int | float]]:
        """Test the network at several sampling rates, in both `WAYS`."""
        for subsample in SUBSAMPLES:
            row: dict[str, int | float] = {"subsample": subsample}
            for way, rescale in WAYS.items():
                changes = {"subsample": subsample, "rescale": rescale}
                data = SpokenDigitsDataModule(**{**self.config.data.as_dict(), **changes})
                data.setup()
                loader = data.test_dataloader()
                (metrics,) = self.trainer.test(self.model, loader, verbose=False)
                row["samples"] = data.test_dataset.signals.x.shape[-1]
                row[way] = metrics["test/accuracy"]
            yield row


def main() -> None:
    description = "Train a CCNN on raw audio and test it at other sampling rates."
    cli = SpokenDigitsCLI(CCNNClassifier, SpokenDigitsDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    print(f"The report is {cli.folder / 'results.json'}")
    print(
        f"{results['parameters']:,} parameters, trained on {cli.datamodule.size[0]:,} samples "
        "each; test accuracy on"
    )
    show_table(
        ["one sample in", "samples", *(way.replace("_", " ") for way in WAYS)],
        [
            [str(row["subsample"]), f"{row['samples']:,}", *(percent(row[way]) for way in WAYS)]
            for row in results["resolutions"]
        ],
    )


if __name__ == "__main__":
    main()
