"""What the examples on signals share: a small network by default, and tests at other rates."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report, show_table

from ccnn_geo.training.cli import SignalCLI

SMALL_NETWORK = {
    "trainer.max_epochs": 20,
    "network.hidden_channels": 32,
    "network.num_blocks": 2,
    "network.kernel_channels": 16,
    "network.omega_0": 10.0,
    "network.window_width": 0.3,
    "model.warmup_epochs": 2,
}
SUBSAMPLES = (1, 2, 4)
WAYS = {"rescaled": True, "not_rescaled": False}


class SmallSignalCLI(SignalCLI):
    """A `SignalCLI` whose default is a small network, and further `defaults`."""

    defaults: dict[str, Any] = {}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({**SMALL_NETWORK, **self.defaults})


class ResolutionsCLI(SmallSignalCLI):
    """A command line that tests the network at several sampling rates.

    The data module is a `SubsampledDataModule`.
    """

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        return {**super().evaluate(checkpoint), "resolutions": list(self.resolutions())}

    def resolutions(self) -> Iterator[dict[str, int | float | None]]:
        """Test the network at several sampling rates, in both `WAYS`."""
        for subsample in SUBSAMPLES:
            row: dict[str, int | float | None] = {"subsample": subsample}
            for way, rescale in WAYS.items():
                loader = self.datamodule.test_dataloader_at(subsample, rescale=rescale)
                row["samples"] = loader.dataset.signals.x.shape[-1]
                row[way] = self.tested(loader).get("accuracy")
            yield row


def show_results(cli: SignalCLI, results: dict[str, Any], samples: str) -> None:
    """Print where the report is, and the test accuracy.

    Args:
        cli: The command line.
        results: Content of the report.
        samples: Name of the samples, for example "images".
    """
    show_report(cli.folder)
    line = f"{results['parameters']:,} parameters"
    if results["test"] is not None:  # nothing is measured without test batches
        line += (
            f", {percent(results['test']['accuracy'])} of the test {samples} right, where guessing "
            f"gets {percent(1 / cli.datamodule.num_classes)}"
        )
    print(line)


def show_resolutions(rows: Sequence[dict[str, Any]]) -> None:
    """Print the test accuracies at several sampling rates."""
    show_table(
        ["one sample in", "samples", *(way.replace("_", " ") for way in WAYS)],
        [
            [str(row["subsample"]), f"{row['samples']:,}", *(percent(row[way]) for way in WAYS)]
            for row in rows
        ],
    )
