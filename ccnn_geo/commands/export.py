"""Export a finished training run as weights for `predict` and `CCNN.from_pretrained`.

The run's best checkpoint becomes OUT_FOLDER/NAME.safetensors and OUT_FOLDER/NAME.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnn_geo.commands.terminal import write
from ccnn_geo.files import check_name, read_json, require_entries

if TYPE_CHECKING:
    from ccnn_geo.nn import ModelCard

HELP = "export the weights of a training run"
# Features of the data module by the number of channels.
_FEATURES = {3: ("pos",), 6: ("normal", "pos")}
_KEPT = ("data.", "model.", "network.", "trainer.accumulate_grad_batches")
# Settings of the machine, which do not affect the result.
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
    parser.add_argument("out_folder", type=Path, metavar="OUT_FOLDER", help="created if necessary")
    parser.add_argument("--license", required=True, help="licence of the weights, for example MIT")
    parser.add_argument("--name", default="model", help="name of the files (default: model)")
    parser.add_argument("--description", default="", help="a sentence about the network")
    parser.add_argument(
        "--data-set",
        metavar="NAME",
        help="name of the training data (default: as in the report of the run)",
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
    """Export the weights of a training run.

    Args:
        run_folder: Folder of a finished run, with `results.json` and `best.ckpt` (or, without a
            validation split, `last.ckpt`).
        out_folder: Folder to write to.
        license: Licence of the weights.
        name: Name of the files, without folder and suffix.
        description: A sentence about the network.
        data_set: Name of the training data; by default as in the report of the run.

    Returns:
        The JSON file.

    Raises:
        ValueError: If the report or the checkpoint is damaged or does not belong to a classifier of
            point clouds, or if `name` has a separator.
        OSError: If a file cannot be read or written.
    """
    from ccnn_geo.training.checkpoints import load_network

    check_name("name", name)
    results = _read_results(run_folder)
    best, last = run_folder / "best.ckpt", run_folder / "last.ckpt"
    checkpoint = best if best.exists() else last
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint}: expected the checkpoint of a run, got none")
    model = load_network(checkpoint)
    try:
        card = _card(results, model.in_channels, license, description, data_set)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run_folder / 'results.json'}: expected the report of a finished run "
            f"({type(error).__name__}: {error})"
        ) from error
    return model.save_pretrained(out_folder, card, name=name)


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
    """Make the card of a run from its report."""
    from ccnn_geo.nn import ModelCard

    settings = results["settings"]
    labels_points = "mean_iou" in (results["test"] or results["val"] or {})
    training = {key: results[key] for key in ("split_sizes", "seed", "epochs", "versions")}
    training["data_set"] = data_set or results["data_set"]
    training["settings"] = {
        key: value
        for key, value in settings.items()
        if key.startswith(_KEPT) and key not in _PRIVATE
    }
    return ModelCard.from_json(
        {
            "classes": results["classes"],
            "preprocessing": _preprocessing(settings, channels),
            "task": "segmentation" if labels_points else "classification",
            "description": description,
            "training": training,
            "accuracy": {
                split if name == "accuracy" else f"{split} {name}": round(results[split][name], 4)
                for split in ("val", "test")
                for name in ("accuracy", "mean_iou", "instance_iou")
                if name in (results[split] or {})
            },
            "license": license,
        }
    )


def _preprocessing(settings: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return how the data of a run were prepared.

    Raises:
        ValueError: If the category of an object was an input, which files do not tell.
    """
    if "data.radius" in settings:
        names = ("radius", "voxel_size", "num_points", "shape", "features")
        return {name: settings[f"data.{name}"] for name in names}
    if settings.get("data.category_input"):
        raise ValueError("expected a network without the category of the object as an input")
    return {
        "num_points": settings["data.num_points"],
        "features": list(_FEATURES[channels]),
        "normalize": settings["data.normalize"],
        "points_per_mesh": settings["data.points_per_mesh"],
    }
