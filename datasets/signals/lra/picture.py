"""Strokes with smooth edges on many images at a time."""

import math

import numpy as np

__all__ = ["Picture"]


class Picture:
    """Dark images, on which strokes of round pens are drawn.

    Args:
        count: Number of images.
        resolution: Pixels along each side.
    """

    def __init__(self, count: int, resolution: int) -> None:
        self._values = np.zeros((count, resolution, resolution))

    def stroke(
        self,
        images: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        radius: float,
        brightness: float,
    ) -> None:
        """Draw one stroke on each of the given images.

        Args:
            images: Indices of the images, `[I]`.
            start: First ends of the strokes, `[I]`.
            end: Second ends of the strokes.
            radius: Half of their thickness.
            brightness: Their brightness.
        """
        along, middle = (end - start)[:, None], (start + end) / 2
        reach = math.ceil(np.abs(along).max(initial=0) / 2 + radius + 1)
        window = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, 1, -1)
        corner = np.floor([middle.real, middle.imag]).astype(int)[..., None]
        rows, columns = corner + window
        centres = rows + 0.5 + 1j * (columns + 0.5) - start[:, None]
        squares = np.maximum(np.abs(along) ** 2, np.finfo(float).tiny)
        position = np.clip((centres * along.conj()).real / squares, 0, 1)
        distance = np.abs(centres - position * along)
        values = brightness * np.clip(radius + 0.5 - distance, 0, 1)
        last = self._values.shape[1] - 1
        values[(rows < 0) | (rows > last) | (columns < 0) | (columns > last)] = 0
        where = (images[:, None], np.clip(rows, 0, last), np.clip(columns, 0, last))
        np.maximum.at(self._values, where, values)

    def pixels(self) -> np.ndarray:
        """Return the brightness of the pixels as whole numbers up to 255, uint8."""
        return np.rint(255 * np.clip(self._values, 0, 1)).astype(np.uint8)
