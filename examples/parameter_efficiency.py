"""Accuracy against parameters on ModelNet10 (the paper's Fig. 8, on the smaller data set).

    python examples/parameter_efficiency.py --only 4_16 4_32
    python examples/parameter_efficiency.py --seeds 0 1 2 --data.name arrays --data.root clouds.npz
    python examples/parameter_efficiency.py --only

Trains CCNNs of five sizes, and PointNet++ and DGCNN for comparison, with every seed, except for
runs that are finished already. Then prints a table of all finished runs, with the mean and the
spread over the seeds, and draws a figure; `--only` without names does no more than that. A run is
tested once, at its best epoch on the validation split. All other arguments are passed to every
training.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tables import percent, show_table

from ccnn_geo.files import save_json

EXAMPLES = Path(__file__).parent
CONFIGS = EXAMPLES / "configs"


@dataclass(frozen=True)
class Entry:
    """A model in the figure: its label, and the script and configuration that train it."""

    label: str
    script: str
    config: str


ENTRIES = {
    "4_16": Entry("CCNN 4,16", "modelnet40.py", "modelnet10_4_16"),
    "4_32": Entry("CCNN 4,32", "modelnet40.py", "modelnet10_4_32"),
    "4_48": Entry("CCNN 4,48", "modelnet40.py", "modelnet10_4_48"),
    "4_140": Entry("CCNN 4,140", "modelnet40.py", "modelnet10_4_140"),
    "6_380": Entry("CCNN 6,380", "modelnet40.py", "modelnet10_6_380"),
    "pointnet2": Entry("PointNet++", "peers.py", "modelnet10_pointnet2"),
    "dgcnn": Entry("DGCNN", "peers.py", "modelnet10_dgcnn"),
}


def main() -> None:
    options, training = parse_arguments()
    for name in options.only:
        for seed in options.seeds:
            train(ENTRIES[name], seed, options.runs, training)
    results = {name: summary(entry, options.runs) for name, entry in ENTRIES.items()}
    results = {name: result for name, result in results.items() if result is not None}
    if not results:
        sys.exit(f"There are no finished runs in {options.runs}")
    show_table(
        ["model", "parameters", "seeds", "test accuracy", "spread", "validation", "min"],
        [row(ENTRIES[name].label, result) for name, result in results.items()],
    )
    save_json(options.runs / "parameter_efficiency.json", results)
    picture = options.runs / "parameter_efficiency.png"
    draw(results, picture)
    print(f"The picture is {picture}")


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this script, and those for every training."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--only", nargs="*", choices=[*ENTRIES], default=[*ENTRIES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    return parser.parse_known_args()


def train(entry: Entry, seed: int, runs: Path, training: list[str]) -> None:
    """Train a model, unless there is a finished run."""
    if (runs / entry.config / f"seed{seed}" / "results.json").exists():
        return
    print(f"{entry.label}, seed {seed}", flush=True)
    command = [
        sys.executable, EXAMPLES / entry.script, f"--config={CONFIGS / entry.config}.yaml",
        f"--seed_everything={seed}", f"--trainer.default_root_dir={runs}", *training,
    ]  # fmt: skip
    subprocess.run(command, check=True)


def summary(entry: Entry, runs: Path) -> dict[str, Any] | None:
    """Return mean and spread over the finished runs of a model, or None if there are none."""
    files = sorted((runs / entry.config).glob("seed*/results.json"))
    reports = [json.loads(file.read_text()) for file in files]
    reports = [report for report in reports if report["test"] is not None]
    if not reports:
        return None
    accuracies = {
        split: [report[split]["accuracy"] for report in reports if report[split] is not None]
        for split in ("val", "test")
    }
    return {
        "parameters": reports[0]["parameters"],
        "seeds": [report["seed"] for report in reports],
        "test": accuracies["test"],
        "test_mean": fmean(accuracies["test"]),
        "test_spread": stdev(accuracies["test"]) if len(reports) > 1 else None,
        "val_mean": fmean(accuracies["val"]) if accuracies["val"] else None,
        "minutes": fmean(report["seconds_per_epoch"] * report["epochs"] / 60 for report in reports),
    }


def row(label: str, result: dict[str, Any]) -> list[str]:
    spread, validation = result["test_spread"], result["val_mean"]
    return [
        label,
        f"{result['parameters']:,}",
        str(len(result["seeds"])),
        percent(result["test_mean"]),
        "" if spread is None else f"± {percent(spread)}",
        "" if validation is None else percent(validation),
        f"{result['minutes']:.0f}",
    ]


def draw(results: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw accuracy against parameters: CCNNs as a line, other models as single points."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    ours = [name for name in results if ENTRIES[name].script == "modelnet40.py"]
    peers = [name for name in results if name not in ours]
    for group, style in ((ours, "o-"), *(([name], "s") for name in peers)):
        if group:
            axes.errorbar(
                [results[name]["parameters"] for name in group],
                [100 * results[name]["test_mean"] for name in group],
                yerr=[100 * (results[name]["test_spread"] or 0) for name in group],
                fmt=style,
                capsize=3,
                label="CCNN" if group is ours else None,
            )
    for name, result in results.items():
        axes.annotate(
            ENTRIES[name].label,
            (result["parameters"], 100 * result["test_mean"]),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.15)
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
