"""Train a CCNN to label every point: of the parts of objects, or of whole scans.

    python examples/segmentation.py
    python examples/segmentation.py --data.name shapenet_part --data.root my/shapenet
    python examples/segmentation.py --task scenes
    python examples/segmentation.py --task scenes --data.name folder --data.root my/scans

`--task parts`, the default, labels the parts of procedural objects, or those of ShapeNetPart.
`--task scenes` trains on tiles of scans: procedural landscapes, S3DIS, or files of your own in
the folders `train` and `test`. At the end, it labels every point of the test scans.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser
from tables import percent, show_report, show_table

from ccnn_geo.datasets import PartSegmentationDataModule, SceneDataModule
from ccnn_geo.pretrained.labelling import SceneLabeller
from ccnn_geo.training.cli import SegmentationCLI
from ccnn_geo.training.scores import segmentation_scores
from ccnn_geo.training.segmenter import CCNNSegmenter

DEFAULTS = {
    "network.hidden_channels": 32,
    "network.num_blocks": 3,
    "network.kernel_channels": 16,
    "network.omega_0": 1.0,
    "network.window_width": 0.2,
    "network.num_neighbors": 32,
    "model.learning_rate": 0.01,
    "model.warmup_epochs": 1,
    "trainer.max_epochs": 10,
}
PARTS = {
    "data.num_points": 512,
    "data.batch_size": 16,
    "data.features": "pos",
    "data.random_scale": True,
}
SCENES = {"network.num_neighbors": 24}
TASKS = {"parts": (PartSegmentationDataModule, PARTS), "scenes": (SceneDataModule, SCENES)}


class TaskCLI(SegmentationCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--task",
            choices=list(TASKS),
            default="parts",
            help="What to label; `--task scenes --help` shows the settings of scenes.",
        )
        parser.set_defaults({**DEFAULTS, **TASKS[task_of(sys.argv[1:])][1]})

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        scores = super().evaluate(checkpoint)
        if self.config.task == "scenes":
            scores["scenes"] = self.label_scenes()
        return scores

    def label_scenes(self) -> list[dict[str, Any]]:
        """Label every point of the test scans, as the command `segment` does."""
        data = self.datamodule
        network, device = self.model.network, self.model.device
        labeller = SceneLabeller(network, data.tiling, data.features, device=device)
        rows = []
        for name, scene in data.test_scenes.items():
            labels = labeller.label(scene, name=name, progress=True).labels
            scores = segmentation_scores(labels, scene.labels, data.num_classes)
            rows.append({"scene": name, "points": len(scene), **scores})
        return rows


def task_of(arguments: list[str]) -> str:
    """Return the task on the command line, on which data and defaults depend."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--task")
    task = parser.parse_known_args(arguments)[0].task
    return task if task in TASKS else "parts"


def main() -> None:
    data = TASKS[task_of(sys.argv[1:])][0]
    cli = TaskCLI(CCNNSegmenter, data, description="Train a CCNN to label every point.")
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    line = f"{results['parameters']:,} parameters"
    test = results["test"]
    if test is not None:
        where = "test points, tile by tile," if cli.config.task == "scenes" else "test points"
        line += f", {percent(test['accuracy'])} of the {where} right"
        measure = "instance_iou" if "instance_iou" in test else "mean_iou"
        line += f", {measure.replace('_iou', ' IoU')} {percent(test[measure])}"
    print(line)
    if results.get("scenes"):
        classes = results["classes"]
        show_table(
            ["scan", "points", "right", "mean IoU", *(f"IoU of {name}" for name in classes)],
            [
                [
                    row["scene"],
                    f"{row['points']:,}",
                    percent(row["accuracy"]),
                    percent(row["mean_iou"]),
                    *map(percent, row["iou"]),
                ]
                for row in results["scenes"]
            ],
        )


if __name__ == "__main__":
    main()
