"""Label every point of scans or objects with a trained network, and write labelled files.

With the default weights, outdoor scans in metres, whose third axis points up, are divided into
ground, trees and clutter. The labels come back for every point, in the order of the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccnn_geo.commands.classes import class_colors
from ccnn_geo.commands.inputs import (
    add_input_arguments,
    check_device,
    check_page,
    check_writable,
    expand,
    message,
)
from ccnn_geo.commands.terminal import complain, write
from ccnn_geo.text import printable

if TYPE_CHECKING:
    from ccnn_geo.datasets import Scene
    from ccnn_geo.pretrained.labelling import Labeller, Labelling

HELP = "label every point of scans or objects"
_MESHES = (".obj", ".off", ".stl")
_SHOWN = 20_000
"""Points of a scan on an interactive page."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_input_arguments(
        parser,
        files="a scan (ply, pcd, las, laz, xyz, txt, npy, npz, or bin as in KITTI), a mesh (off, "
        "obj, stl) for weights of objects, or a folder that is searched for such files",
        html="also write an interactive page, with the points coloured by class",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="file to write the labelled points to (ply, npz, las, laz), or a folder, in which las "
        "and laz stay what they are and all others become ply; from las and laz to las and laz, "
        "everything but the class is kept",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="attribute of the files with true labels to compare with: numbers of the classes from "
        "0 on, or `classification` of las and laz, whose codes are translated",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random subsets (default: 0)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Label the files and return the exit code."""
    from ccnn_geo.pretrained.labelling import DEFAULT_WEIGHTS, Labeller

    check_device(options.device)
    if options.html is not None:
        check_page(options.html)
    files = [file for path in options.files for file in expand(path, _scene_files)]
    outputs = _outputs(files, options.output)
    labeller = Labeller.from_pretrained(
        options.weights or DEFAULT_WEIGHTS, seed=options.seed, device=options.device
    )
    report: list[dict[str, Any]] = []
    figures: list[Any] = []
    for file in files:
        try:
            scene = _read(file, options.label, labeller)
            labelling = labeller.label(scene, name=file.name, progress=not options.json)
            entry = _entry(file, scene, labelling, labeller.classes)
            if file in outputs:
                _write(outputs[file], file, scene, labelling, labeller.classes)
                entry["output"] = str(outputs[file])
        except Exception as error:  # one bad file does not stop the others
            if options.debug:
                raise
            entry = {"file": str(file), "error": message(file, error)}
            complain(f"error: {printable(entry['error'])}")
        else:
            if options.html is not None:
                figures.append(_figure(file, scene, labelling, labeller.classes))
            if not options.json:
                _print_table(entry)
        report.append(entry)
    if options.json:
        write(json.dumps(report, indent=2))
    if figures:
        from ccnn_geo.visualization.interactive import write_page

        write_page(options.html, figures, title="Labelled points")
    return int(any("error" in entry for entry in report))


def _scene_files(folder: Path) -> list[Path]:
    """Return the scans and meshes below a folder, sorted; hidden ones are omitted."""
    from ccnn_geo.datasets.io.readers import files_below
    from ccnn_geo.datasets.io.scenes import SCENE_SUFFIXES

    return files_below(folder, SCENE_SUFFIXES | set(_MESHES))


def _outputs(files: list[Path], output: Path | None) -> dict[Path, Path]:
    """Return the file to write for every scan, checked before anything is computed.

    Raises:
        ValueError: If a file for one scan is given for several, or cannot carry labels.
        OSError: If it cannot be written.
    """
    from ccnn_geo.datasets.io.las import LAS_SUFFIXES
    from ccnn_geo.datasets.io.scenes import WRITABLE_SUFFIXES

    if output is None:
        return {}
    if output.suffix and not output.is_dir():
        if len(files) > 1:
            raise ValueError(
                f"Expected `--output` to be a folder for {len(files)} files, got {output}"
            )
        if output.suffix.lower() not in WRITABLE_SUFFIXES:
            raise ValueError(
                f"Expected `--output` to be a file {', '.join(WRITABLE_SUFFIXES)}, which can carry "
                f"labels, got {output}"
            )
        check_writable(output)
        return {files[0]: output}
    output.mkdir(parents=True, exist_ok=True)
    outputs: dict[Path, Path] = {}
    for file in files:
        suffix = file.suffix.lower() if file.suffix.lower() in LAS_SUFFIXES else ".ply"
        outputs[file] = output / f"{file.stem}{suffix}"
    if len(set(outputs.values())) < len(files):
        raise ValueError(
            f"Expected files of different names for the folder {output}, got two of one name"
        )
    check_writable(output / "labelled.ply")
    return outputs


def _read(file: Path, label: str | None, labeller: Labeller) -> Scene:
    """Read a scan, or sample the points of a mesh."""
    from ccnn_geo.datasets import Scene, read_geometry, read_scene
    from ccnn_geo.datasets.io.scenes import translate_codes
    from ccnn_geo.datasets.point_clouds.sampling import Sampling
    from ccnn_geo.pretrained.labelling import ObjectLabeller

    if file.is_dir():
        raise ValueError(f"{file}: expected scans or meshes, got none")
    if file.suffix.lower() not in _MESHES or not isinstance(labeller, ObjectLabeller):
        scene = read_scene(file, label=label)
        if label is None or scene.labels is None:
            return Scene(scene.points, scene.attributes)
        return translate_codes(file, scene, labeller.classes, label=label)
    points = labeller.preprocessing.points_per_mesh
    sampling = Sampling(points_per_mesh=points, normalize="none", seed=labeller.seed)
    rows = sampling.clouds(read_geometry(file, allow_faceless=True), file.name)[0].rows
    attributes = {"normal": rows[:, 3:]} if rows.shape[1] == 6 else {}
    return Scene(rows[:, :3], attributes)


def _write(
    output: Path, file: Path, scene: Scene, labelling: Labelling, classes: list[str]
) -> None:
    from ccnn_geo.datasets import Scene, write_scene
    from ccnn_geo.datasets.io.las import las_codes

    labelled = Scene(
        scene.points,
        {**scene.attributes, "confidence": labelling.confidence},
        labelling.labels,
    )
    colors = class_colors(classes)[labelling.labels]
    codes = las_codes(classes)[labelling.labels]
    write_scene(output, labelled, colors=colors, codes=codes, source=file)


def _entry(file: Path, scene: Scene, labelling: Labelling, classes: list[str]) -> dict[str, Any]:
    """Describe the result of one file as an entry of the JSON report."""
    from ccnn_geo.training.scores import segmentation_scores

    counts = np.bincount(labelling.labels, minlength=len(classes)).tolist()
    entry: dict[str, Any] = {
        "file": str(file),
        "points": len(scene),
        "points_after_thinning": labelling.num_points,
        "classes": [
            {"name": name, "points": count} for name, count in zip(classes, counts, strict=True)
        ],
    }
    if scene.labels is not None:
        target = np.where(scene.labels < len(classes), scene.labels, -1).clip(-1)
        scores = segmentation_scores(labelling.labels, target, len(classes))
        for row, iou in zip(entry["classes"], scores.pop("iou"), strict=True):
            row["iou"] = iou
        entry.update(scores)
    return entry


def _print_table(entry: dict[str, Any]) -> None:
    lines = [f"{entry['file']}: {entry['points']:,} points"]
    for row in entry["classes"]:
        share = row["points"] / entry["points"]
        iou = f", IoU {row['iou']:.1%}" if row.get("iou") is not None else ""
        lines.append(f"  {share:7.1%}  {row['name']}{iou}")
    if entry.get("accuracy") is not None:
        lines.append(f"  {entry['accuracy']:.1%} right, mean IoU {entry['mean_iou']:.1%}")
    if "output" in entry:
        lines.append(f"  Wrote {entry['output']}")
    write("\n".join(map(printable, lines)))


def _figure(file: Path, scene: Scene, labelling: Labelling, classes: list[str]) -> Any:
    from ccnn_geo.visualization.interactive import labels_figure

    shown = np.arange(len(scene))
    if len(shown) > _SHOWN:
        shown = np.sort(np.random.default_rng(0).permutation(len(scene))[:_SHOWN])
    return labels_figure(
        scene.points[shown],
        labelling.labels[shown],
        classes=classes,
        colors=class_colors(classes),
        title=str(file),
    )
