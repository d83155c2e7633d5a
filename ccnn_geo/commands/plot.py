"""Draw figures: PNG, SVG or PDF files, interactive HTML pages, or a window."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnn_geo.commands.terminal import write
from ccnn_geo.files import read_json, require_entries

if TYPE_CHECKING:
    from ccnn_geo.nn import CKConvMP

HELP = "draw kernels, initialisation, a training run, voxels, or labelled scans"
_OUTPUT = "file to write: .png, .svg or .pdf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the figures and their arguments."""
    pictures = parser.add_subparsers(title="figures", required=True, metavar="FIGURE")

    kernels = _add(pictures, "kernels", _kernels, "the learnt kernels of one layer")
    kernels.add_argument("output", type=Path, help=f"{_OUTPUT}; or .html for a volume")
    kernels.add_argument(
        "--weights", metavar="NAME_OR_FOLDER", help="trained weights (default: as for `predict`)"
    )
    kernels.add_argument(
        "--layer", type=int, default=1, help="index of the layer; 0 is the stem (default: 1)"
    )
    kernels.add_argument(
        "--channels", type=int, default=4, help="number of channels, strongest first (default: 4)"
    )

    initialization = _add(
        pictures, "initialization", _initialization, "outputs before training, with and without "
        "the paper's scaling of the kernels",
    )  # fmt: skip
    initialization.add_argument("output", type=Path, help=_OUTPUT)

    training = _add(pictures, "run", _run, "learning curves and confusion matrix of a training run")
    training.add_argument(
        "run_folder", type=Path, help="folder with a results.json, to which the figures are written"
    )

    voxels = _add(pictures, "voxels", _voxels, "a mesh or cloud as points and as voxels")
    voxels.add_argument("file", type=Path, help="mesh or cloud")
    voxels.add_argument("output", type=Path, nargs="?", help=f"{_OUTPUT} (default: a window)")
    voxels.add_argument(
        "--resolution", type=int, default=40, help="voxels along each axis (default: 40)"
    )
    voxels.add_argument(
        "--points", type=int, default=2048, help="points of the cloud (default: 2048)"
    )

    labels = _add(pictures, "labels", _labels, "a labelled scan from the side and from above")
    labels.add_argument("file", type=Path, help="a file that `segment` has written")
    labels.add_argument("output", type=Path, help=_OUTPUT)
    labels.add_argument("--label", metavar="NAME", help="attribute with the labels")
    labels.add_argument(
        "--slice", type=float, default=8.0, help="depth of the view from the side (default: 8)"
    )


def _add(
    pictures: Any,
    name: str,
    draw: Callable[[argparse.Namespace], list[Path]],
    description: str,
) -> argparse.ArgumentParser:
    def run(options: argparse.Namespace) -> int:
        for file in draw(options):
            write(f"Wrote {file}")
        return 0

    parser = pictures.add_parser(name, help=description, description=f"Draw {description}.")
    parser.set_defaults(run=run)
    return parser


def _kernels(options: argparse.Namespace) -> list[Path]:
    from ccnn_geo.nn import CCNN, CKConvMP
    from ccnn_geo.pretrained.predictor import DEFAULT_WEIGHTS
    from ccnn_geo.visualization.figures import plot_kernels, save_figure
    from ccnn_geo.visualization.interactive import kernel_volume, write_page

    weights = options.weights or DEFAULT_WEIGHTS
    layers: list[CKConvMP] = [
        module for module in CCNN.from_pretrained(weights).modules() if isinstance(module, CKConvMP)
    ]
    if not 0 <= options.layer < len(layers):
        raise ValueError(f"Expected `--layer` from 0 to {len(layers) - 1}, got {options.layer}")
    conv = layers[options.layer]
    if options.output.suffix.lower() == ".html":
        title = f"Kernels of layer {options.layer} of {weights}"
        write_page(options.output, [kernel_volume(conv, channels=options.channels)], title=title)
    else:
        return [save_figure(plot_kernels(conv, channels=options.channels), options.output)]
    return [options.output]


def _initialization(options: argparse.Namespace) -> list[Path]:
    from ccnn_geo.nn import CCNN
    from ccnn_geo.visualization.figures import initial_outputs, plot_initialization, save_figure

    # Kernels as large as the cloud, with all points as neighbours.
    model = CCNN(6, 40, dim=3, num_neighbors=256, extent=2.0, window_width=0.5)
    return [save_figure(plot_initialization(initial_outputs(model, 256)), options.output)]


def _run(options: argparse.Namespace) -> list[Path]:
    from ccnn_geo.visualization.figures import draw_run

    file = options.run_folder / "results.json"
    results = read_json(file)
    require_entries(file, results, "history", "classes", "confusion")
    try:
        return draw_run(options.run_folder, results)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected the report of a training run ({type(error).__name__}: {error})"
        ) from error


def _voxels(options: argparse.Namespace) -> list[Path]:
    import torch
    from torch_geometric.data import Data

    from ccnn_geo.datasets import read_geometry
    from ccnn_geo.datasets.point_clouds.sampling import Sampling
    from ccnn_geo.transforms.voxels import Voxelize
    from ccnn_geo.visualization.figures import plot_voxels, save_figure
    from ccnn_geo.visualization.interactive import show_voxels

    sampling = Sampling(points_per_mesh=options.points)
    geometry = read_geometry(options.file, allow_faceless=True)
    cloud = sampling.clouds(geometry, str(options.file))[0].rows
    pos = torch.from_numpy(cloud[:, :3])
    if options.output is None:
        show_voxels(pos, resolution=options.resolution)
        return []
    voxels = Voxelize(options.resolution)(Data(pos=pos)).pos
    return [save_figure(plot_voxels(pos, voxels, resolution=options.resolution), options.output)]


def _labels(options: argparse.Namespace) -> list[Path]:
    import numpy as np

    from ccnn_geo.commands.classes import class_colors
    from ccnn_geo.datasets import read_scene
    from ccnn_geo.datasets.io.las import LAS_SUFFIXES, las_names
    from ccnn_geo.visualization.figures import plot_labels, save_figure

    scene = read_scene(options.file, label=options.label)
    if scene.labels is None:
        raise ValueError(f"{options.file}: expected labels, got a scan without")
    numbers, labels = np.unique(scene.labels, return_inverse=True)
    las = options.file.suffix.lower() in LAS_SUFFIXES
    names = las_names(numbers.tolist()) if las else [str(number) for number in numbers]
    figure = plot_labels(
        scene.points, labels, names=names, colors=class_colors(names), depth=options.slice
    )
    return [save_figure(figure, options.output)]
