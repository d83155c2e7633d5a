"""Figures of kernels, initialisation, training runs, clouds and voxels.

The functions return matplotlib figures, which `save_figure` writes to files. They need the extra
`viz`, and no screen. Interactive figures are in `ccnn_geo.visualization.interactive`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ccnn_geo.extras import import_extra
from ccnn_geo.files import atomic_write
from ccnn_geo.nn import CCNN, CKConvMP
from ccnn_geo.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "cube_faces",
    "draw_run",
    "initial_outputs",
    "kernel_reach",
    "kernel_values",
    "plot_confusion",
    "plot_initialization",
    "plot_kernels",
    "plot_labels",
    "plot_learning_curves",
    "plot_voxels",
    "save_figure",
    "strongest_channels",
    "unscale_kernels",
]

_MOST_COUNTED = 10_000
_SPLITS = {"train": "#4477aa", "val": "#ee6677"}


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file in the format of its suffix: png, svg or pdf.

    Returns:
        The file; without a suffix, `.png` is appended.

    Raises:
        ValueError: If the format is not supported.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    with atomic_write(path) as file:
        figure.savefig(file, dpi=100, format=path.suffix[1:])
    return path


def kernel_values(conv: CKConvMP, points: int = 65, *, reach: float | None = None) -> Tensor:
    """Evaluate the kernel of a convolution, window included, on a grid around the centre.

    Args:
        conv: The convolution.
        points: Number of grid points along each axis; an odd number includes the centre.
        reach: Half-width of the grid in units of the extent; `kernel_reach` by default.

    Returns:
        The values, `[C, *(points,) * D]`, with C = C_in, or C_out * C_in for a full kernel.
    """
    support = conv.support()
    reach = kernel_reach(conv) if reach is None else reach
    axis = _stretch(conv) * torch.linspace(-reach, 0.0 if conv.causal else reach, points)
    offsets = torch.stack(torch.meshgrid(*[axis] * conv.dim, indexing="ij"), dim=-1)
    with torch.no_grad():
        offsets = offsets.to(support.inverse_sigma)
        basis = support.basis(offsets, conv.kernel.magnet_weights() or conv.kernel.features)
        values = basis @ conv.readout().flatten(0, -2).T
    return values.movedim(-1, 0).cpu()


def kernel_reach(conv: CKConvMP) -> float:
    """Return the half-width of the relevant part of a kernel, in units of its extent.

    This is the distance at which its widest window falls to 1 %, or the end of its support.
    """
    return min(1.0, 3.0 * float(conv.window.log_width.detach().exp().max()) / _stretch(conv))


def _stretch(conv: CKConvMP) -> float:
    """Return the length of one extent in kernel coordinates, see `KernelSupport`."""
    return 2.0 if conv.causal else 1.0


def strongest_channels(values: np.ndarray, count: int) -> list[int]:
    """Return the channels with the largest kernel norms, largest first, of kernels `[C, ...]`."""
    norms = np.linalg.norm(values.reshape(len(values), -1), axis=1)
    return np.argsort(-norms)[:count].tolist()


def plot_kernels(conv: CKConvMP, *, channels: int = 4, slices: int = 5) -> Figure:
    """Draw the kernel of a convolution channel by channel (Knigge et al. 2023, Fig. 12).

    For D = 1, one image shows all channels against the offset; for D = 2, there is an image per
    channel; for D = 3, a row of slices per channel, at increasing offsets along the third axis.

    Args:
        conv: The convolution.
        channels: Number of channels to draw for D = 2 and 3, by decreasing norm.
        slices: Number of slices per channel for D = 3.

    Raises:
        ValueError: If the convolution has more than three dimensions.
    """
    if conv.dim > 3:
        raise ValueError(f"Expected a kernel of at most 3 dimensions, got {conv.dim}")
    values = kernel_values(conv, points=257 if conv.dim == 1 else 65).numpy()
    if conv.dim == 1:
        return _plot_lines(conv, values)
    order = strongest_channels(values, channels)
    reach = kernel_reach(conv)
    columns = 1 if conv.dim == 2 else slices
    figure = _figure(1.3 * max(columns, 2) + 1.3, 1.3 * len(order) + 0.7)
    axes = figure.subplots(len(order), columns, squeeze=False, sharex=True, sharey=True)
    depths = np.linspace(16, 48, columns).round().astype(int)
    for row, channel in zip(axes, order, strict=True):
        limit = float(np.abs(values[channel]).max()) or 1.0
        for axis, depth in zip(row, depths, strict=True):
            image = values[channel] if conv.dim == 2 else values[channel, :, :, depth]
            drawn = _show_signed(axis, image.T, limit, reach)
            axis.set_xticks([-reach, 0, reach], [f"{-reach:.2g}", "0", f"{reach:.2g}"])
            axis.set_yticks([])
            if conv.dim == 3 and channel == order[0]:
                axis.set_title(f"$u_3$ = {(depth / 32 - 1) * reach:+.2f}", fontsize=9)
        row[0].set_ylabel(f"channel {channel}")
        figure.colorbar(drawn, ax=row, shrink=0.8)
    figure.supxlabel("offset, in units of the extent", fontsize=9)
    return figure


def _plot_lines(conv: CKConvMP, values: np.ndarray) -> Figure:
    reach = kernel_reach(conv)
    figure = _figure(7, 0.8 + min(8.0, 1 + 0.05 * len(values)))
    axis = figure.subplots()
    drawn = axis.imshow(
        values, cmap="RdBu_r", aspect="auto", interpolation="nearest",
        extent=(-reach, 0 if conv.causal else reach, len(values), 0),
        **_limits(float(np.abs(values).max()) or 1.0),
    )  # fmt: skip
    axis.set_xlabel("offset, in units of the extent")
    axis.set_ylabel("channel")
    figure.colorbar(drawn, ax=axis)
    return figure


def initial_outputs(model: CCNN, num_points: int = 256, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the outputs of an untrained network with and without the paper's kernel scaling.

    Without it, the kernels have unit variance, so the variance of an output grows with the
    `num_neighbors` terms of its sum. Batch normalisation is the identity and the readout is
    omitted, because both would hide the difference.

    Args:
        model: A network; its settings are used and its weights are drawn again in a copy.
        num_points: Number of random points, uniform in [-1, 1].
        seed: Seed of weights and points.

    Returns:
        The outputs of all points and channels by the name of the initialisation, flattened.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        scaled = copy.deepcopy(model).cpu().eval()
        scaled.readout = None
        scaled.reset_parameters()
        unscaled = copy.deepcopy(scaled)
        unscale_kernels(unscaled)
        pos = torch.rand(num_points, scaled.stem.dim) * 2 - 1
        x = torch.randn(num_points, model.in_channels)
        outputs = {
            "kernels of variance 1 / K": scaled(x, pos),
            "kernels of variance 1": unscaled(x, pos),
        }
    return {name: output.flatten() for name, output in outputs.items()}


@torch.no_grad()
def unscale_kernels(model: CCNN) -> None:
    """Undo the paper's scaling of the initial kernels, which then have unit variance, in place.

    Args:
        model: A network as it was initialised with `initialization="paper"`.
    """
    for conv in model.modules():
        if isinstance(conv, CKConvMP):
            terms = conv.num_neighbors * (1 if conv.separable else conv.in_channels)
            conv.kernel.readout.weight.mul_(math.sqrt(terms))


def plot_initialization(outputs: Mapping[str, Tensor]) -> Figure:
    """Draw the histograms of `initial_outputs` (Knigge et al. 2023, Fig. 6)."""
    figure = _figure(3.5 * len(outputs), 3)
    for axis, (name, output) in zip(
        figure.subplots(1, len(outputs), squeeze=False)[0], outputs.items(), strict=True
    ):
        axis.hist(output.numpy(), bins=60, color=_SPLITS["train"], density=True)
        axis.set_title(f"{name}: standard deviation {output.std():.3g}", fontsize=9)
        axis.set_xlabel("output at initialisation")
        axis.locator_params(axis="x", nbins=5)
        axis.set_yticks([])
    return figure


def draw_run(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Write figures of the learning curves and the confusion matrix of a run to its folder.

    Args:
        folder: Folder of the run.
        results: Content of its `results.json`.

    Returns:
        The files; without a confusion matrix if the test split is empty.

    Raises:
        OSError: If they cannot be written.
    """
    metric = results.get("monitor", "accuracy")
    figures = {"learning_curves.png": plot_learning_curves(results["history"], metric)}
    if results.get("confusion") is not None:
        figures["confusion.png"] = plot_confusion(results["confusion"], results["classes"])
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / name for name in figures]


def plot_learning_curves(history: Sequence[Mapping[str, Any]], metric: str = "accuracy") -> Figure:
    """Draw training and validation loss and another metric against the epoch.

    Args:
        history: The `history` of a run's `results.json`.
        metric: Name of the metric.
    """
    figure = _figure(8, 3)
    for axis, kind in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split, color in _SPLITS.items():
            name = f"{split}/{kind}"
            points = [
                (each["epoch"] + 1, each[name]) for each in history if each.get(name) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), color=color, label=split, marker=".")
        axis.set_xlabel("epoch")
        axis.set_ylabel(kind.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def plot_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix, with counts, or shares of large counts, of at most 20 classes.

    Args:
        confusion: Number of clouds or points of class i that were classified as j, `[C, C]`.
        classes: Names of the classes.

    Raises:
        ValueError: If the matrix does not fit the classes.
    """
    counts = np.asarray(confusion)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"Expected `confusion` of shape {[len(classes)] * 2}, got {list(counts.shape)}"
        )
    size = 2.5 + 0.3 * len(classes)
    figure = _figure(size + 1, size)
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axis, shrink=0.8, label="share of the class")
    # matplotlib parses text between dollar signs as a formula.
    names = [printable(each) for each in classes]
    axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(classes) <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            few = counts.max() < _MOST_COUNTED
            text = counts[row, column] if few else f"{100 * shares[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    return figure


def plot_voxels(pos: Tensor, voxels: Tensor, *, resolution: int) -> Figure:
    """Draw a cloud and its voxels side by side (Knigge et al. 2023, Fig. 11).

    Args:
        pos: Positions of the points, `[N, 3]`, in [-1, 1].
        voxels: Centres of the occupied voxels, `[V, 3]`, in [-1, 1].
        resolution: Number of voxels along each axis of the box [-1, 1].
    """
    figure = _figure(8, 4)
    cloud, grid = (figure.add_subplot(1, 2, number, projection="3d") for number in (1, 2))
    cloud.scatter(*pos.T.numpy(), c=pos[:, 2].numpy(), s=4, cmap="viridis", depthshade=False)
    cloud.set_title(f"{len(pos):,} points", fontsize=9)
    _draw_cubes(grid, voxels.numpy(), 2 / resolution)
    grid.set_title(f"{len(voxels):,} voxels of a grid of {resolution}$^3$", fontsize=9)
    for axis in (cloud, grid):
        axis.set_box_aspect((1, 1, 1), zoom=1.4)
        axis.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
        axis.set_axis_off()
    return figure


def plot_labels(
    pos: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    colors: np.ndarray,
    depth: float,
) -> Figure:
    """Draw a labelled scan from the side, through its middle, and from above.

    Args:
        pos: Positions, `[N, 3]`, the third axis upward.
        labels: Class of every point, `[N]`.
        names: Names of the classes.
        colors: Colours of the classes, 0 to 255, `[C, 3]`.
        depth: Depth of the slice that is seen from the side, in the unit of `pos`.
    """
    pos = pos.astype(np.float64) - pos.min(axis=0)
    figure = _figure(9, 9)
    side, top = figure.subplots(2, 1, height_ratios=[1, 3])
    middle = np.abs(pos[:, 1] - np.median(pos[:, 1])) <= depth / 2
    for number, (name, color) in enumerate(zip(names, colors, strict=True)):
        own = labels == number
        style = {"color": color / 255, "marker": ".", "linewidths": 0, "label": printable(name)}
        side.scatter(*pos[own & middle][:, [0, 2]].T, s=12, **style)
        top.scatter(*pos[own][:, [0, 1]].T, s=4, **style)
    for axis in (side, top):
        axis.set_aspect("equal")
    top.legend(markerscale=4, fontsize=8)
    return figure


def cube_faces(centers: np.ndarray, width: float) -> np.ndarray:
    """Return the corners of the faces, `[6 V, 4, 3]`, of cubes around centers, `[V, 3]`."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) - 0.5
    squares = [[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]]
    return (centers[:, None, None] + width * corners[squares]).reshape(-1, 4, 3)


def _draw_cubes(axis: Any, centers: np.ndarray, width: float) -> None:
    from matplotlib import colormaps
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    faces = cube_faces(centers, width)
    heights = np.repeat((centers[:, 2] + 1) / 2, len(faces) // len(centers))
    axis.add_collection3d(
        Poly3DCollection(faces, facecolors=colormaps["viridis"](heights), edgecolors="k", lw=0.1)
    )


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height are in inches."""
    module = import_extra("matplotlib.figure", "for figures", extra="viz")
    return module.Figure(figsize=(width, height), layout="constrained")


def _show_signed(axis: Axes, image: np.ndarray, limit: float, reach: float) -> Any:
    return axis.imshow(
        image, cmap="RdBu_r", origin="lower", extent=(-reach, reach, -reach, reach),
        **_limits(limit),
    )  # fmt: skip


def _limits(limit: float) -> dict[str, Any]:
    return {"vmin": -limit, "vmax": limit}
