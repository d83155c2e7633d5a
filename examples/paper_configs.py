"""Write the configurations of the paper's experiments, from the table of their hyperparameters.

    python examples/paper_configs.py

The table is `examples/configs/paper/hyperparameters.csv`: facts read from the public command lines
of the authors' experiments (https://github.com/david-knigge/ccnn). Every row becomes a YAML file
beside it. Its experiment says which data and which example they belong to; Retrieval and Path-X,
for which the authors published no settings, use the settings of Text and Pathfinder.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PAPER = Path(__file__).parent / "configs" / "paper"


@dataclass(frozen=True)
class Experiment:
    """Data of the rows of one experiment, and what the table does not say about them."""

    stem: str
    script: str
    title: str
    data: dict[str, Any]
    network: dict[str, Any] = field(default_factory=dict)


EXPERIMENTS = {
    "sMNIST": Experiment(
        "smnist", "mnist.py", "MNIST digits row by row",
        {"name": "mnist", "form": "sequential", "normalize": True, "val_fraction": 1 / 12},
    ),
    "pMNIST": Experiment(
        "pmnist", "mnist.py", "permuted MNIST digits",
        {"name": "mnist", "form": "permuted", "normalize": True, "val_fraction": 1 / 12},
    ),
    "sCIFAR10": Experiment(
        "scifar10", "cifar.py", "CIFAR-10 row by row", {"name": "cifar10", "form": "sequential"}
    ),
    "MFCC": Experiment(
        "speech_mfcc", "speech_commands.py", "MFCCs of Speech Commands", {"features": "mfcc"}
    ),
    "Raw": Experiment(
        "speech_raw", "speech_commands.py", "the audio of Speech Commands", {"features": "raw"}
    ),
    "CIFAR10": Experiment(
        "cifar10", "cifar.py", "CIFAR-10", {"name": "cifar10", "form": "image", "augment": True}
    ),
    "CIFAR100": Experiment(
        "cifar100", "cifar.py", "CIFAR-100", {"name": "cifar100", "form": "image", "augment": True}
    ),
    "STL10": Experiment("stl10", "stl10.py", "STL-10", {"size": 96, "augment": True}),
    "ModelNet40": Experiment(
        "modelnet40", "modelnet40.py", "ModelNet40", {"name": "modelnet40", "num_points": 512}
    ),
    "ListOps": Experiment(
        "listops", "lra.py", "ListOps", {"name": "listops", "sequence_length": 2048},
        {"embedding": False},
    ),
    "Text": Experiment(
        "text", "lra.py", "Text", {"name": "text", "sequence_length": 4096}, {"embedding": False}
    ),
    "Retrieval": Experiment(
        "retrieval", "lra.py", "Retrieval", {"name": "retrieval", "sequence_length": 4000},
        {"embedding": False},
    ),
    "Image": Experiment("image", "lra.py", "Image", {"name": "image"}),
    "Pathfinder": Experiment("pathfinder", "lra.py", "Pathfinder", {"name": "pathfinder"}),
    "Path-X": Experiment("pathx", "lra.py", "Path-X", {"name": "pathx"}),
    "2DImage": Experiment("image_2d", "lra.py", "Image in 2-D", {"name": "image_2d"}),
    "2DPathfinder": Experiment(
        "pathfinder_2d", "lra.py", "Pathfinder in 2-D", {"name": "pathfinder_2d"}
    ),
}  # fmt: skip
# Settings of experiments without published ones: of another one, with a batch that fits a GPU.
OURS = {"Retrieval": ("Text", 16), "Path-X": ("Pathfinder", 16)}
# Meshes are sampled as often as this per epoch by the small networks, those of 8 kernel channels.
SMALL_RESAMPLE, SMALL_KERNEL = 2, 8


def main() -> None:
    for path, text in files().items():
        path.write_text(text)
    print(f"Wrote {len(files())} configurations to {PAPER}")


def rows() -> list[dict[str, str]]:
    """Return the rows of the table, and ours after them."""
    with open(PAPER / "hyperparameters.csv", newline="") as file:
        published = list(csv.DictReader(file))
    return [
        *published,
        *(
            {**row, "experiment": name, "batch": str(batch)}
            for name, (source, batch) in OURS.items()
            for row in published
            if row["experiment"] == source
        ),
    ]


def files() -> dict[Path, str]:
    """Return the text of every configuration by its path."""
    contents = {}
    for row in rows():
        experiment = EXPERIMENTS[row["experiment"]]
        model = row["model"]
        if row["hidden"] != model.split(",")[1]:  # "4,110" in the authors' table has 140 channels
            model = f"{row['blocks']},{row['hidden']}"
        path = PAPER / f"{experiment.stem}_{model.replace(',', '_')}.yaml"
        contents[path] = heading(row, experiment, model) + yaml.safe_dump(
            settings(row, experiment), sort_keys=False
        )
    return contents


def heading(row: dict[str, str], experiment: Experiment, model: str) -> str:
    """Return the comment above a configuration."""
    where = f"CCNN {model} on {experiment.title}, for examples/{experiment.script}."
    if row["experiment"] not in OURS:
        return f"# The published {where}\n"
    source, _ = OURS[row["experiment"]]
    return (
        f"# A {where} There are no\n"
        f"# published settings: these are the settings for {source} with a smaller batch.\n"
    )


def settings(row: dict[str, str], experiment: Experiment) -> dict[str, Any]:
    """Return the configuration of a row."""
    batch, _, accumulate = row["batch"].partition("x")
    network: dict[str, Any] = {
        "num_blocks": int(row["blocks"]),
        "hidden_channels": int(row["hidden"]),
        "kernel_channels": int(row["kernel_hidden"]),
        "omega_0": float(row["omega_0"]),
    }
    data = {**experiment.data, "batch_size": int(batch)}
    if row["kernel"].startswith("k="):
        network["num_neighbors"] = int(row["kernel"].removeprefix("k="))
        data["resample"] = SMALL_RESAMPLE if network["kernel_channels"] == SMALL_KERNEL else 1
    else:
        network["kernel_size"] = "same" if row["kernel"] == "same" else int(row["kernel"])
        network["causal"] = row["causal"] == "yes"
    return {
        "trainer": {
            "max_epochs": int(row["epochs"]),
            "accumulate_grad_batches": int(accumulate or 1),
        },
        "network": {
            **network,
            "window_width": float(row["window_width"]),
            "dropout": float(row["dropout"]),
            "input_dropout": float(row["input_dropout"]),
            "elementwise_dropout": row["dropout_kind"] == "element",
            **experiment.network,
        },
        "model": {
            "learning_rate": float(row["learning_rate"]),
            "window_lr_ratio": float(row["window_lr_ratio"]),
            "warmup_epochs": int(row["warmup"]),
            "kernel_l2": float(row["kernel_l2"]),
        },
        "data": data,
    }


if __name__ == "__main__":
    main()
