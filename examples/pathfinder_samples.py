"""Draw samples of Pathfinder and Path-X: does a path join the dots? (The paper's Fig. 10.)

    python examples/pathfinder_samples.py
    python examples/pathfinder_samples.py --resolutions 128 --columns 2 --output path_x.png
    python examples/pathfinder_samples.py --contour_length 6 --seed 3

All samples are generated; there is no download.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from ccnn_geo.datasets.signals.lra.pathfinder import generate_pathfinder
from ccnn_geo.files import atomic_write

TITLES = {32: "Pathfinder", 64: "Pathfinder-64", 128: "Path-X", 256: "Path-256"}
LABELS = {1: "joined", 0: "separate"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolutions", nargs="+", type=int, default=[32, 128], choices=TITLES)
    parser.add_argument("--columns", type=int, default=4, help="samples of each label")
    parser.add_argument("--contour_length", type=int, default=14, help="dashes of each path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("pathfinder_samples.png"))
    options = parser.parse_args()
    if options.columns < 1:
        parser.error(f"Expected `columns` >= 1, got {options.columns}")
    try:
        rows = {
            (resolution, label): images
            for resolution in options.resolutions
            for label, images in samples(
                resolution, options.columns, options.contour_length, options.seed
            ).items()
        }
    except ValueError as error:
        sys.exit(str(error))
    draw(rows, options.output)
    print(f"The picture is {options.output}")


def samples(resolution: int, columns: int, contour_length: int, seed: int) -> dict[int, np.ndarray]:
    """Return as many images of each label, `[columns, resolution, resolution]`."""
    # Every 128 images have as many of both labels.
    count = 128 * -(-columns // 64)
    drawn = generate_pathfinder(
        count, seed=seed, resolution=resolution, contour_length=contour_length
    )
    return {label: drawn.x[drawn.y == label, 0][:columns] for label in LABELS}


def draw(rows: dict[tuple[int, int], np.ndarray], picture: Path) -> None:
    """Draw images in rows, by resolution and label."""
    import matplotlib.pyplot as plt

    columns = len(next(iter(rows.values())))
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.6 * columns, 1.6 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    for line, ((resolution, label), images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(f"{TITLES[resolution]}\n{LABELS[label]}")
    with atomic_write(picture) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)


if __name__ == "__main__":
    main()
