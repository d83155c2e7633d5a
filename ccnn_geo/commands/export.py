"""Make weights that `predict` and `CCNN.from_pretrained` take of a finished training run.

The run's best checkpoint becomes OUT_FOLDER/NAME.safetensors and OUT_FOLDER/NAME.json.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnn_geo.commands.terminal import write
from ccnn_geo.files import check_name, read_json, require_entries

if TYPE_CHECKING:
    from ccnn_geo.nn import ModelCard

HELP = "make weights of a training run"
# What the data module makes of the points, by the number of channels.
_FEATURES = {3: ("pos",), 6: ("normal", "pos")}
_TOLD = ("data.", "model.", "trainer.accumulate_grad_batches")
# Settings that say where things lie on somebody's disk, or how fast they are read.
_PRIVATE = {
    "data.root",
    "data.cache_dir",
    "data.num_workers",
    "data.num_processes",
    "data.download",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN_FOLDER", help="folder with a results.json"
    )
    parser.add_argument("out_folder", type=Path, metavar="OUT_FOLDER", help="made if need be")
    parser.add_argument(
        "--license", required=True, help="terms under which the weights may be used, as MIT"
    )
    parser.add_argument("--name", default="model", help="name of the files (default: model)")
    parser.add_argument("--description", default="", help="a sentence about the network")
    parser.add_argument(
        "--data-set", metavar="NAME", help="what it was trained on (default: what the run says)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export a run and return the exit code."""
    file = export(
        options.run_folder,
        options.out_folder,
        name=options.name,
        license=options.license,
        description=options.description,
        data_set=options.data_set,
    )
    size = sum(each.stat().st_size for each in (file, file.with_suffix(".safetensors"))) / 1024
    write(f"Wrote {file.with_suffix('.safetensors')} and {file}, {size:.0f} KiB")
    return 0


def export(
    run_folder: Path,
    out_folder: Path,
    *,
    license: str,
    name: str = "model",
    description: str = "",
    data_set: str | None = None,
) -> Path:
    """Make weights of a training run.

    Args:
        run_folder: Folder of a finished run, with `results.json` and `best.ckpt` (or, without a
            validation split, `last.ckpt`).
        out_folder: Folder to write to.
        license: Terms under which the weights may be used.
        name: Name of the files.
        description: A sentence about the network.
        data_set: What it was trained on; what the run says by default.

    Returns:
        The JSON file.

    Raises:
        ValueError: If the run is not finished, or of a kind that cannot be exported.
        OSError: If the files cannot be read or written.
    """
    from ccnn_geo.training.classifier import CCNNClassifier

    check_name("name", name)
    results = _read_results(run_folder)
    best, last = run_folder / "best.ckpt", run_folder / "last.ckpt"
    checkpoint = best if best.exists() else last
    try:
        module = CCNNClassifier.load_from_checkpoint(
            checkpoint, map_location="cpu", weights_only=True
        )
    except (EOFError, KeyError, pickle.UnpicklingError, RuntimeError, TypeError) as error:
        raise ValueError(f"{checkpoint}: expected a CCNN's checkpoint ({error})") from error
    card = _card(results, module.model.in_channels, license, description, data_set)
    return module.model.save_pretrained(out_folder, card, name=name)


def _read_results(run_folder: Path) -> dict[str, Any]:
    file = run_folder / "results.json"
    try:
        results = read_json(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: expected the report of a finished run, got none") from (
            error
        )
    require_entries(file, results, "classes", "settings")
    require_entries(file, results["settings"])
    if "data.num_points" not in results["settings"]:
        data_set = results.get("data_set")
        raise ValueError(f"{file}: expected a run on point clouds, got one on {data_set!r}")
    require_entries(file, results, "data_set", "split_sizes", "seed", "epochs", "versions")
    return results


def _card(
    results: dict[str, Any], channels: int, license: str, description: str, data_set: str | None
) -> ModelCard:
    """Describe the weights of a run by its report."""
    from ccnn_geo.nn import ModelCard, Preprocessing

    settings = results["settings"]
    return ModelCard(
        classes=tuple(results["classes"]),
        preprocessing=Preprocessing(
            num_points=settings["data.num_points"],
            features=_FEATURES[channels],
            normalize=settings["data.normalize"],
            points_per_mesh=settings["data.points_per_mesh"],
        ),
        description=description,
        training={
            "data_set": data_set or results["data_set"],
            **{key: results[key] for key in ("split_sizes", "seed", "epochs", "versions")},
            "settings": {
                key: value
                for key, value in settings.items()
                if key.startswith(_TOLD) and key not in _PRIVATE
            },
        },
        accuracy={
            split: round(results[split]["accuracy"], 4)
            for split in ("val", "test")
            if results[split]
        },
        license=license,
    )
