"""Classify meshes and point clouds with a trained network.

Points are sampled from meshes and subsampled from clouds, then centred and scaled, so that the
length unit does not matter. Probabilities are averaged over several random subsets of the points.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnn_geo.commands.inputs import (
    add_input_arguments,
    check_device,
    check_page,
    expand,
    message,
)
from ccnn_geo.commands.terminal import complain, write
from ccnn_geo.text import printable

if TYPE_CHECKING:
    from ccnn_geo.pretrained.predictor import Classifier, Prediction

HELP = "classify meshes and point clouds"
_MESH_SUFFIXES = (".off", ".obj", ".ply", ".stl")
_PAGE = (
    "The colour of a point is its importance for the most likely class: the decrease of the "
    "log-odds of that class when the point and its surroundings are left out. Red points are "
    "evidence for the class, blue points against it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_input_arguments(
        parser,
        files="a mesh (off, ply, obj, stl), a cloud (ply, pcd, xyz, txt, npy, npz), or a folder "
        "that is searched for such files; hidden files and folders are skipped",
        html="also write an interactive page, with the points coloured by their importance: the "
        "decrease of the log-odds of the most likely class when they are left out",
    )
    parser.add_argument(
        "--top", type=_positive, default=5, metavar="N", help="classes to show (default: 5)"
    )
    parser.add_argument(
        "--views",
        type=_positive,
        default=4,
        metavar="N",
        help="random subsets of the points to average over (default: 4)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Classify the files and return the exit code."""
    from ccnn_geo.datasets.io.readers import geometry_files
    from ccnn_geo.pretrained.predictor import DEFAULT_WEIGHTS, Classifier

    check_device(options.device)
    if options.html is not None:
        check_page(options.html)
    classifier = Classifier.from_pretrained(
        options.weights or DEFAULT_WEIGHTS, views=options.views, device=options.device
    )
    report: list[dict[str, Any]] = []
    predictions: list[tuple[Path, Prediction]] = []
    for path in options.files:
        for file in expand(path, geometry_files):
            try:
                prediction, entry = _classify(classifier, file, options.top)
            except Exception as error:  # one bad file does not stop the others
                if options.debug:
                    raise
                entry = {"file": str(file), "error": message(file, error)}
                complain(f"error: {printable(entry['error'])}")
            else:
                predictions.append((file, prediction))
                if not options.json:
                    _print_table(entry)
            report.append(entry)
    if options.json:
        write(json.dumps(report, indent=2))
    if options.html is not None and predictions:
        _write_page(options.html, classifier, predictions, options.top)
    return int(len(predictions) < len(report))


def _classify(classifier: Classifier, file: Path, top: int) -> tuple[Prediction, dict[str, Any]]:
    """Classify one file, and describe the result as an entry of the JSON report."""
    from ccnn_geo.datasets import read_geometry
    from ccnn_geo.datasets.io.readers import SUFFIXES

    if file.is_dir():
        raise ValueError(f"{file}: expected {', '.join(sorted(SUFFIXES))} files, got none")
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
    write("\n".join(map(printable, lines)))


def _write_page(
    page: Path, classifier: Classifier, predictions: list[tuple[Path, Prediction]], top: int
) -> None:
    from ccnn_geo.visualization.interactive import cloud_figure, write_page

    figures = []
    for file, prediction in predictions:
        likeliest = zip(prediction.classes[:top], prediction.probabilities, strict=False)
        answer = ", ".join(f"{label} {probability:.1%}" for label, probability in likeliest)
        figures.append(
            cloud_figure(
                prediction.points[:, :3],
                classifier.importance(prediction),
                title=f"{printable(str(file))}\n{printable(answer)}",
                unit="log-odds",
            )
        )
    write_page(page, figures, title="Importance of the points", text=_PAGE)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)
