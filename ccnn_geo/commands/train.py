"""Train a CCNN to classify point clouds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ccnn_geo.commands.terminal import write

HELP = "train a network; `train --help` lists all settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments: the command has a parser of its own."""


def train(arguments: Sequence[str]) -> int:
    """Train a network and return the exit code.

    Configurations are code: a `class_path` in a file imports any module on the path. Run only
    configurations that you trust.

    Args:
        arguments: Arguments after `train`, see `PointCloudCLI`.
    """
    from ccnn_geo.datasets import PointCloudDataModule
    from ccnn_geo.training.classifier import CCNNClassifier
    from ccnn_geo.training.cli import PointCloudCLI

    command_line = sys.argv
    try:
        # While parsing only: processes that Lightning starts later repeat the original arguments.
        sys.argv = ["python -m ccnn_geo train", *arguments]
        cli = PointCloudCLI(CCNNClassifier, PointCloudDataModule, description=__doc__)
    finally:
        sys.argv = command_line
    results = cli.run()
    if cli.trainer.is_global_zero:
        write(f"The report is {cli.folder / 'results.json'}")
        for split in ("val", "test"):
            if results[split] is not None:
                write(f"{split} accuracy {results[split]['accuracy']:.1%}")
    return 0
