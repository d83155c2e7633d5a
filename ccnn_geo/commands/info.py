"""Show versions, backends, devices and the weights that come with the package."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ccnn_geo.commands.terminal import write

HELP = "show versions, backends, devices and weights"
_PACKAGES = (
    "torch",
    "torch_geometric",
    "numpy",
    "scipy",
    "safetensors",
    "pytorch-lightning",
    "trimesh",
    "open3d",
    "matplotlib",
    "plotly",
    "torch-cluster",
    "triton",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report and return the exit code."""
    report = collect()
    if options.json:
        write(json.dumps(report, indent=2))
        return 0
    for title, entries in report.items():
        write(title)
        for name, entry in entries.items():
            line = entry if isinstance(entry, str) else _one_line(entry)
            write(f"  {name:18} {line}")
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """Return versions, backends, devices and weights by name."""
    import ccnn_geo

    versions = {"ccnn_geo": ccnn_geo.__version__, "python": platform.python_version()}
    return {
        "versions": versions | {name: _version(name) for name in _PACKAGES},
        "backends": ccnn_geo.backends(),
        "devices": _devices(),
        "weights": _weights(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / 2**30
        devices[f"cuda:{number}"] = f"{properties.name}, {memory:.0f} GiB"
    return devices


def _weights() -> dict[str, dict[str, Any]]:
    from ccnn_geo.pretrained import labelling, predictor
    from ccnn_geo.pretrained.storage import find_pretrained, pretrained_names, read_pretrained

    weights = {}
    for name in pretrained_names():
        content = read_pretrained(find_pretrained(name))
        keys = ("description", "classes", "accuracy", "license")
        weights[name] = {
            "parameters": content["parameters"],
            **{key: content["card"][key] for key in keys},
            "task": content["card"].get("task", "classification"),
            "default": name in (predictor.DEFAULT_WEIGHTS, labelling.DEFAULT_WEIGHTS),
        }
    return weights


def _one_line(weights: dict[str, Any]) -> str:
    parts = [
        weights["task"],
        f"{weights['parameters']:,} parameters",
        f"{len(weights['classes'])} classes",
    ]
    parts += [f"{value:.1%} of {split}" for split, value in weights["accuracy"].items()]
    parts += [weights["license"], weights["description"]]
    return ", ".join(parts) + " (default)" * weights["default"]
