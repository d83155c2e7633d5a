"""Train a CCNN to classify point clouds: ModelNet, procedural shapes, or meshes of your own.

    python examples/modelnet40.py --config examples/configs/demo.yaml
    python examples/modelnet40.py --data.name modelnet10 --seed_everything 1
    python examples/modelnet40.py --data.name folder --data.root my/meshes --network.num_blocks 2

Without a configuration, the network is the published CCNN 4,16. After an interruption, the same
command continues after the last completed epoch.
"""

import os
import shlex
import sys
from typing import Any

from tables import show_report

from ccnn_geo.datasets import PointCloudDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI


def main() -> None:
    description = "Train a CCNN to classify point clouds."
    cli = PointCloudCLI(CCNNClassifier, PointCloudDataModule, description=description)
    results = cli.run()
    if cli.trainer.is_global_zero:
        show_report(cli.folder)
        print(verdict(results, cli.datamodule.num_classes))


def verdict(results: dict[str, Any], classes: int) -> str:
    """Return a sentence about the accuracy of a run, and a command to continue with."""
    split = "test" if results["test"] else "val"
    if results[split] is None:
        return "There was neither a test nor a validation split to measure the accuracy on."
    if results["data_set"] == "shapes":
        goal, options = "real meshes", ["--data.name", "modelnet10"]
    else:
        goal, options = "another seed", [*sys.argv[1:], "--seed_everything", results["seed"] + 1]
    command = [os.path.relpath(sys.executable), os.path.relpath(__file__), *map(str, options)]
    return (
        f"{results['parameters']:,} parameters, {results[split]['accuracy']:.1%} of the {split} "
        f"clouds right, where guessing gets {1 / classes:.1%}. "
        f"Next, {goal}: {shlex.join(command)}"
    )


if __name__ == "__main__":
    main()
