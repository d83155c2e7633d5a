"""Colours of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_COLORS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
    (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
_NAMED_COLORS = {
    "ground": (166, 118, 67), "tree": (34, 139, 34), "clutter": (200, 60, 60),
    "building": (130, 130, 140), "water": (60, 110, 200),
}  # fmt: skip


def class_colors(classes: Sequence[str]) -> np.ndarray:
    """Return a colour for every class, 0 to 255, `[C, 3]`."""
    colors = [
        _NAMED_COLORS.get(name, _COLORS[number % len(_COLORS)])
        for number, name in enumerate(classes)
    ]
    return np.array(colors, np.uint8)
