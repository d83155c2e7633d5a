"""Train a CCNN on handwritten digits: as images, sequences of pixels, or clouds of lit pixels.

    python examples/mnist.py
    python examples/mnist.py --data.form cloud --seed_everything 1
    python examples/mnist.py --data.form masked --test_forms "[cloud]"
    python examples/mnist.py --config examples/configs/mnist_image_small.yaml
    python examples/mnist.py --config examples/configs/paper/smnist_4_140.yaml

Without a configuration, a small network is trained on the 8 x 8 digits that are part of the
package, which takes a minute or two. `--data.name mnist`, as in the configurations, selects MNIST,
which is downloaded to `data/mnist` unless `--data.root` is a folder or an .npz file that holds it.

`--test_forms` tests the network on other forms of the digits than it was trained on. A network for
images also accepts clouds, because the convolution is the same.
"""

from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.cli import LightningArgumentParser
from signals import SmallSignalCLI
from tables import percent, show_report

from ccnn_geo.datasets import MNISTDataModule
from ccnn_geo.training.classifier import CCNNClassifier


class DigitsCLI(SmallSignalCLI):
    defaults = {"data.name": "digits"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--test_forms",
            type=list[Literal["image", "masked", "cloud"]],
            default=[],
            help="More forms to test a network for images or clouds on.",
        )

    def before_instantiate_classes(self) -> None:
        form = self.config.data.form
        if self.config.test_forms and form in ("sequential", "permuted"):
            self.parser.error(f"Expected no `test_forms` of a network for sequences, got {form}")
        super().before_instantiate_classes()

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        scores = super().evaluate(checkpoint)
        scores["test_forms"] = {}
        for form in self.config.test_forms:
            data = MNISTDataModule(**{**self.config.data.as_dict(), "form": form})
            data.setup()
            scores["test_forms"][form] = self.tested(data.test_dataloader()).get("accuracy")
        return scores


def main() -> None:
    description = "Train a CCNN to classify handwritten digits."
    cli = DigitsCLI(CCNNClassifier, MNISTDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    for form, accuracy in results["test_forms"].items():
        print(f"{percent(accuracy)} of the test digits right as {form}")
    if results["test"] is not None:  # nothing is measured without test batches
        print(
            f"{results['parameters']:,} parameters, {percent(results['test']['accuracy'])} of the "
            f"test digits right as {cli.datamodule.form}, where guessing gets {percent(0.1)}"
        )


if __name__ == "__main__":
    main()
