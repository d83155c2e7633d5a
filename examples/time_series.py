"""Train a CCNN on time series with their true time stamps: clouds of one coordinate.

    python examples/time_series.py --data.root JapaneseVowels_TRAIN.ts
    python examples/time_series.py --data.root PLAID.npz --network.causal true
    python examples/time_series.py --data.name physionet2012 --data.root challenge-2012
    python examples/time_series.py --data.root JapaneseVowels_TRAIN.ts --data.weights true \\
        --test_keep "[0.5, 0.25]"

A series is a cloud whose only coordinate is the time, so that samples may be missing or come at any
time. `--network.causal true` looks back only. `--test_keep` tests the trained network once more on
series of which only a fraction of the times is left, with their true times and with evenly spaced
ones. With `--data.weights true`, sums over times become integrals. For two classes, the area under
the ROC curve is reported as well.
"""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report, show_table
from torchmetrics.functional.classification import binary_auroc

from ccnn_geo.datasets import TimeSeriesDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI

DEFAULTS = {
    "trainer.max_epochs": 40,
    "network.hidden_channels": 32,
    "network.num_blocks": 2,
    "network.kernel_channels": 16,
    "network.omega_0": 2.0,
    "network.window_width": 0.2,
    "network.num_neighbors": 64,
    "network.dropout": 0.2,
    "model.learning_rate": 0.01,
    "model.warmup_epochs": 2,
}


class TimeSeriesCLI(PointCloudCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--test_keep",
            type=list[float],
            default=[],
            help="Fractions of the times to test on besides.",
        )
        parser.set_defaults(DEFAULTS)

    def before_instantiate_classes(self) -> None:
        for keep in self.config.test_keep:
            if not 0 < keep <= 1:
                self.parser.error(f"Expected `test_keep` above 0 and at most 1, got {keep}")
        super().before_instantiate_classes()

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        scores = super().evaluate(checkpoint)
        if self.datamodule.num_classes == 2 and scores["test"]:
            scores["test_auroc"] = self.area(self.datamodule)
        scores["test_keep"] = [
            {"keep": keep, **{times: self.accuracy(keep, times) for times in ("true", "even")}}
            for keep in self.config.test_keep
        ]
        return scores

    def area(self, data: TimeSeriesDataModule) -> float:
        """Return the area under the ROC curve of the test series."""
        self.model.eval()
        with torch.no_grad():
            pairs = [(self.model(batch), batch.y) for batch in data.test_dataloader()]
        logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
        return float(binary_auroc(logits.softmax(-1)[:, 1], labels))

    def accuracy(self, keep: float, times: str) -> float | None:
        """Return the accuracy on test series that keep a fraction of their times."""
        settings = {**self.config.data.as_dict(), "keep": keep, "times": times}
        data = TimeSeriesDataModule(**settings)
        data.setup()
        return self.tested(data.test_dataloader()).get("accuracy")


def main() -> None:
    description = "Train a CCNN on time series with their true time stamps."
    cli = TimeSeriesCLI(CCNNClassifier, TimeSeriesDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    test = results["test"]
    line = f"{results['parameters']:,} parameters"
    if test is not None:
        line += f", {percent(test['accuracy'])} of the test series right"
    if "test_auroc" in results:
        line += f", area under the ROC curve {results['test_auroc']:.3f}"
    print(line)
    if results["test_keep"]:
        rows = results["test_keep"]
        show_table(
            ["times kept", "true times", "even times"],
            [[percent(row["keep"]), percent(row["true"]), percent(row["even"])] for row in rows],
        )


if __name__ == "__main__":
    main()
