"""Train a CCNN on a task of the Long Range Arena.

    python examples/lra.py --task listops --data.generate true
    python examples/lra.py --task pathfinder_2d --data.generate true --data.contour_length 9
    python examples/lra.py --task text --data.root my/aclImdb
    python examples/lra.py --config examples/configs/text_small.yaml --data.root imdb.npz
    python examples/lra.py --config examples/configs/paper/pathx_4_140.yaml --data.root my/lra

The tasks are listops, text, retrieval, image, pathfinder, pathx, image_2d and pathfinder_2d.
`--task` chooses one, with a small network that trains in minutes; configurations choose theirs.

ListOps, Pathfinder and Path-X are generated with `--data.generate true`, without any file. All
others, and the published samples of these, are read from official files, from the official archive
or from an .npz file, `--data.root`. Text and Image are downloaded if they are missing; for
Retrieval, the error says what to download.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report

from ccnn_geo.datasets import LRADataModule
from ccnn_geo.datasets.signals.lra.datamodule import LRAName
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import SignalCLI

DEFAULTS = {
    "trainer.max_epochs": 10,
    "network.hidden_channels": 32,
    "network.num_blocks": 2,
    "network.kernel_channels": 16,
    "network.omega_0": 20.0,
    "network.window_width": 0.1,
    "model.warmup_epochs": 1,
}
IMAGE = {"network.kernel_size": 17, "network.omega_0": 10.0, "network.window_width": 0.3}
PATHS = {"data.num_samples": 8000, "data.contour_length": 6}
# Settings of single tasks, for `--task`. Generated expressions and paths are short.
TASKS = {
    "listops": {"data.num_samples": 10_000, "data.min_length": 10, "data.max_length": 100},
    "text": {"data.sequence_length": 1024},
    "image_2d": IMAGE,
    "pathfinder": PATHS,
    "pathx": {**PATHS, "data.num_samples": 800},
    "pathfinder_2d": {**IMAGE, **PATHS, "network.num_blocks": 4},
}


class LRACLI(SignalCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--task",
            type=LRAName | None,
            default=None,
            help="Task, whose settings are then the defaults of all others.",
        )
        parser.set_defaults(DEFAULTS)
        task = task_of(sys.argv[1:])
        if task in LRAName.__args__:
            parser.set_defaults({"data.name": task, **TASKS.get(task, {})})

    def before_instantiate_classes(self) -> None:
        task, name = self.config.task, self.config.data.name
        if task != task_of(sys.argv[1:]):
            self.parser.error(f"Expected `--task` on the command line, got {task} in a file")
        if task not in (None, name):
            self.parser.error(f"Expected `data.name` to be the task, {task}, got {name}")
        super().before_instantiate_classes()

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        return {**super().evaluate(checkpoint), "tokens": self.datamodule.tokens}


def task_of(arguments: list[str]) -> str | None:
    """Return the task on the command line, on which the defaults of other settings depend."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--task")
    return parser.parse_known_args(arguments)[0].task


def main() -> None:
    description = "Train a CCNN on a task of the Long Range Arena."
    cli = LRACLI(CCNNClassifier, LRADataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    if results["test"] is None:
        return
    counts = np.bincount(cli.datamodule.test_dataset.signals.y)
    print(
        f"{results['parameters']:,} parameters, {percent(results['test']['accuracy'])} of the test "
        f"samples right, where the most frequent class gets {percent(counts.max() / counts.sum())}"
    )


if __name__ == "__main__":
    main()
