"""Interactive figures: HTML pages with plotly, and windows with open3d."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ccnn_geo.extras import import_extra
from ccnn_geo.files import atomic_write
from ccnn_geo.nn import CKConvMP
from ccnn_geo.text import printable
from ccnn_geo.transforms.voxels import open3d_voxels
from ccnn_geo.visualization.figures import kernel_reach, kernel_values, strongest_channels

__all__ = [
    "cloud_figure",
    "kernel_volume",
    "labels_figure",
    "require_plotly",
    "show_voxels",
    "write_page",
]

_POINTS = 25


def require_plotly() -> Any:
    """Import plotly's figures.

    Raises:
        ImportError: If plotly is not installed.
    """
    return import_extra("plotly.graph_objects", "for an HTML page", extra="viz")


def write_page(path: Path, figures: Sequence[Any], *, title: str, text: str = "") -> None:
    """Write figures to one HTML page that loads nothing from the network.

    Args:
        path: File to write.
        figures: Figures of plotly, drawn below each other.
        title: Title of the page, plain text.
        text: A paragraph above the figures, plain text.

    Raises:
        OSError: If the file cannot be written.
    """
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    ]
    heading = html.escape(printable(title))
    head = f"<meta charset='utf-8'><title>{heading}</title>"
    body = f"<h1>{heading}</h1><p>{html.escape(text)}</p>{''.join(parts)}"
    style = "font-family:sans-serif;max-width:60em;margin:auto"
    page = f"<!doctype html><html><head>{head}</head><body style='{style}'>{body}</body></html>"
    with atomic_write(path) as file:
        file.write(page.encode("utf-8"))


def cloud_figure(pos: np.ndarray, values: np.ndarray, *, title: str, unit: str) -> Any:
    """Draw a cloud with its points coloured by signed values.

    Args:
        pos: Positions, `[N, 3]`.
        values: One number per point, `[N]`; red is positive, blue negative.
        title: Lines of plain text above the cloud.
        unit: Unit of the values, shown beside the scale of colours.

    Raises:
        ImportError: If plotly is not installed.
    """
    limit = float(np.abs(values).max(initial=0)) or 1.0
    marker = {
        "size": 3,
        "color": values,
        "colorscale": "RdBu",
        "reversescale": True,
        "cmin": -limit,
        "cmax": limit,
        "colorbar": {"title": unit},
    }
    return _scatter([{"pos": pos, "marker": marker}], title)


def labels_figure(
    pos: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    colors: np.ndarray,
    title: str,
) -> Any:
    """Draw a cloud with its points coloured by class; the legend shows and hides classes.

    Args:
        pos: Positions, `[N, 3]`.
        labels: Class of every point, `[N]`.
        classes: Names of the classes.
        colors: Colours of the classes, 0 to 255, `[C, 3]`.
        title: Lines of plain text above the cloud.

    Raises:
        ImportError: If plotly is not installed.
    """
    center = pos.mean(axis=0)  # georeferenced coordinates would lose digits in a browser
    groups = [
        {
            "pos": pos[labels == number] - center,
            "marker": {"size": 2, "color": f"rgb({red}, {green}, {blue})"},
            "name": html.escape(printable(name)),
        }
        for number, (name, (red, green, blue)) in enumerate(zip(classes, colors, strict=True))
    ]
    return _scatter(groups, title)


def _scatter(groups: Sequence[dict[str, Any]], title: str) -> Any:
    """Draw groups of points in space, each with a marker and, optionally, a name."""
    go = require_plotly()
    lines = [html.escape(printable(line)) for line in title.split("\n")]
    figure = go.Figure()
    for group in groups:
        x, y, z = group["pos"].T
        figure.add_trace(
            go.Scatter3d(
                x=x, y=y, z=z, mode="markers", marker=group["marker"], name=group.get("name")
            )
        )
    figure.update_layout(
        title="<br>".join(lines),
        # Points of values near 0 are white.
        scene={
            **dict.fromkeys(("xaxis", "yaxis", "zaxis"), {"visible": False}),
            "aspectmode": "data",
            "bgcolor": "rgb(230, 230, 230)",
        },
        legend={"itemsizing": "constant"},
        margin={"t": 20 + 20 * len(lines), "b": 0, "l": 0, "r": 0},
        height=600,
    )
    return figure


def kernel_volume(conv: CKConvMP, *, channels: int = 6) -> Any:
    """Draw the kernel of a three-dimensional convolution as a volume, with a button per channel.

    Args:
        conv: The convolution.
        channels: Number of channels to choose from, by decreasing norm.

    Raises:
        ValueError: If the kernel is not three-dimensional.
        ImportError: If plotly is not installed.
    """
    go = require_plotly()
    if conv.dim != 3:
        raise ValueError(f"Expected a kernel of 3 dimensions for a volume, got {conv.dim}")
    values = kernel_values(conv, points=_POINTS).numpy()
    order = strongest_channels(values, channels)
    reach = kernel_reach(conv)
    axis = np.linspace(-reach, reach, _POINTS)
    x, y, z = (grid.ravel() for grid in np.meshgrid(axis, axis, axis, indexing="ij"))
    figure = go.Figure()
    for channel in order:
        value = values[channel].ravel()
        limit = float(np.abs(value).max()) or 1.0
        figure.add_volume(
            x=x, y=y, z=z, value=value, isomin=-0.8 * limit, isomax=0.8 * limit,
            cmin=-limit, cmax=limit, colorscale="RdBu", reversescale=True, surface_count=12,
            opacity=0.3, opacityscale="extremes", visible=channel == order[0],
        )  # fmt: skip
    buttons = [
        {
            "label": f"channel {channel}",
            "method": "update",
            "args": [{"visible": [channel == each for each in order]}],
        }
        for channel in order
    ]
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 0.05, "y": 1.0}], height=700)
    return figure


def show_voxels(pos: torch.Tensor, *, resolution: int) -> None:
    """Show a cloud and its voxels in a window of open3d, and wait until it is closed.

    Args:
        pos: Positions of the points, `[N, 3]`, in [-1, 1].
        resolution: Number of voxels along each axis of the box [-1, 1].

    Raises:
        RuntimeError: If there is no screen.
        ImportError: If open3d is not installed.
    """
    open3d = import_extra("open3d", "for a window", extra="mesh")
    names = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in names):
        raise RuntimeError(f"Expected a screen for a window, found none: set {' or '.join(names)}")
    beside = pos.double().numpy() + np.array([2.5, 0.0, 0.0])
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(beside))
    voxels = open3d_voxels(pos, resolution)
    open3d.visualization.draw_geometries([voxels, cloud], window_name="ccnn_geo")
