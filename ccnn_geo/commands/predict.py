"""Name the classes that meshes and clouds most likely belong to.

Meshes are sampled; clouds are thinned; both are moved to the origin and scaled, so that their unit
does not matter. The answer is the mean over several random subsets of the points.
"""

from __future__ import annotations

import argparse
import html
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnn_geo.commands.terminal import complain, write

if TYPE_CHECKING:
    from ccnn_geo.pretrained.predictor import Classifier, Prediction

HELP = "name the classes of meshes and clouds"
_MESH_SUFFIXES = (".off", ".obj", ".ply", ".stl")
_PAGE = (
    "The colour of a point says how much it mattered for the likeliest class: by how much the "
    "log-odds of that class fall where the point and its surroundings are left out. Red points "
    "speak for the class, blue ones against it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a mesh (off, ply, obj, stl), a cloud (ply, pcd, xyz, txt, npy, npz), or a folder, of "
        "which every such file is taken",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_FOLDER",
        help="trained weights: a name that `info` lists, or a folder (default: what it marks)",
    )
    parser.add_argument(
        "--top", type=_positive, default=5, metavar="N", help="classes to show (default: 5)"
    )
    parser.add_argument(
        "--views",
        type=_positive,
        default=4,
        metavar="N",
        help="random subsets of the points over which the answer is averaged (default: 4)",
    )
    parser.add_argument(
        "--device", default="cpu", help="where the network runs: cpu, cuda, ... (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write an interactive picture, with the points coloured by how much they "
        "mattered: by how much leaving them out lowers the log-odds of the likeliest class",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Classify the files and return the exit code."""
    from ccnn_geo.pretrained.predictor import DEFAULT_WEIGHTS, Classifier

    files = _collect(options.files)
    _check_device(options.device)
    if options.html is not None:
        _check_output(options.html)
    classifier = Classifier.from_pretrained(
        options.weights or DEFAULT_WEIGHTS, views=options.views, device=options.device
    )
    report: list[dict[str, Any]] = []
    predictions: dict[str, Prediction] = {}
    for file in files:
        try:
            prediction, entry = _classify(classifier, file, options.top)
        except Exception as error:  # whatever one file leads to, the others are classified
            if options.debug:
                raise
            complain(f"error: {_message(file, error)}")
            report.append({"file": str(file), "error": _message(file, error)})
            continue
        report.append(entry)
        predictions[str(file)] = prediction
        if not options.json:
            _print_table(entry)
    if options.json:
        write(json.dumps(report, indent=2))
    if options.html is not None and predictions:
        _write_page(options.html, classifier, predictions, options.top)
    return int(len(predictions) < len(files))


def _collect(paths: list[Path]) -> list[Path]:
    """List the files, and those of the folders."""
    from ccnn_geo.datasets.io.readers import SUFFIXES, geometry_files

    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = geometry_files(path)
        if not found:
            raise ValueError(f"{path}: expected {', '.join(sorted(SUFFIXES))} files, got none")
        files += found
    return files


def _classify(classifier: Classifier, file: Path, top: int) -> tuple[Prediction, dict[str, Any]]:
    """Classify one file, and describe it and its likeliest classes as JSON does."""
    from ccnn_geo.datasets import read_geometry

    geometry = read_geometry(file, allow_faceless=True)
    prediction = classifier.predict(geometry)
    notes = list(prediction.notes)
    if geometry.faces is None and file.suffix.lower() in _MESH_SUFFIXES:
        notes.insert(0, "it has no faces, so its vertices are taken as a cloud")
    return prediction, {
        "file": str(file),
        "points": len(geometry.points),
        "faces": 0 if geometry.faces is None else len(geometry.faces),
        "notes": notes,
        "classes": [
            {"name": name, "probability": probability}
            for name, probability in zip(
                prediction.classes[:top], prediction.probabilities[:top], strict=True
            )
        ],
    }


def _print_table(entry: dict[str, Any]) -> None:
    mesh = f"mesh of {entry['faces']:,} triangles"
    kind = mesh if entry["faces"] else f"cloud of {entry['points']:,} points"
    lines = [f"{entry['file']}: {kind}", *(f"  note: {note}" for note in entry["notes"])]
    lines += [f"  {each['probability']:7.1%}  {each['name']}" for each in entry["classes"]]
    write("\n".join(lines))


def _write_page(
    file: Path, classifier: Classifier, predictions: dict[str, Prediction], top: int
) -> None:
    from ccnn_geo.visualization.interactive import cloud_figure, write_page

    figures = []
    for name, prediction in predictions.items():
        likeliest = zip(prediction.classes[:top], prediction.probabilities, strict=False)
        answer = ", ".join(f"{label} {probability:.1%}" for label, probability in likeliest)
        figures.append(
            cloud_figure(
                prediction.points[:, :3],
                classifier.importance(prediction),
                title=f"{html.escape(name)}<br>{html.escape(answer)}",
                unit="log-odds",
            )
        )
    write_page(file, figures, title="What the points say", text=_PAGE)


def _check_output(file: Path) -> None:
    """Find out before the work is done whether the picture can be made and written."""
    from ccnn_geo.visualization.interactive import require_plotly

    require_plotly()
    if file.is_dir():
        raise IsADirectoryError(f"{file}: expected a file for the picture, got a folder")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise OSError(f"{file}: the picture cannot be written ({error.strerror})") from error


def _check_device(name: str) -> None:
    import torch

    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"Expected `--device` to be one that `info` lists, got {name!r}")


def _message(file: Path, error: Exception) -> str:
    known = isinstance(error, (ImportError, OSError, ValueError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return text if str(file) in text else f"{file}: {text}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)
