"""Random contours of dashes ("paddles") on square canvases.

A contour is a chain of edges of one length, of which every edge turns by a random angle against the
previous one. A paddle covers the middle of its edge, so that two neighbours are separated by a gap
of two margins. Contours of many images grow at the same time, paddle by paddle. Where one cannot be
extended, some of its paddles are removed, and it grows in another direction.

Positions are complex numbers, row + i * column, in pixels; the first pixel covers [0, 1] x [0, 1].
Directions are complex numbers of modulus 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["NUM_TRIES", "Canvas", "Starts", "Style", "grow_contours", "random_directions"]

# Returns random starts of contours, `[I, NUM_TRIES]`, from the indices of the contours in their
# images, `[I, 1]`, and the starts of the contours before them, `[I, 1]`.
Starts = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Paddles that are tried at a time, T.
NUM_TRIES = 8
# Paddles of each contour that are removed at a time at most.
_REMOVED = 3
# Failures after which an image is started anew.
_FAILURES = 30
_TURNS = 4096
_FREE = 255


@dataclass(frozen=True)
class Style:
    """Geometry of contours in pixels.

    Attributes:
        paddle_length: Length of a paddle.
        continuity: A turn is at most pi / 2 divided by this number. The density of a turn t is
            proportional to cos(continuity * t) ** 2.
        clearance: Least distance between the centre lines of paddles that do not follow each other,
            up to half a pixel.
        padding: Width of the empty frame.
    """

    paddle_length: float
    continuity: float
    clearance: float
    padding: float

    @property
    def largest_turn(self) -> float:
        """Largest turn between consecutive paddles in radians."""
        return min(math.pi / 2 / self.continuity, math.pi)

    def turns(self) -> np.ndarray:
        """Return equally probable turns as directions, `[4096]`."""
        angles = np.linspace(-self.largest_turn, self.largest_turn, _TURNS)
        cumulative = angles / 2 + np.sin(2 * self.continuity * angles) / (4 * self.continuity)
        cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
        return np.exp(1j * np.interp((np.arange(_TURNS) + 0.5) / _TURNS, cumulative, angles))

    def sample_paddles(self, starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return points on paddles, at most a pixel apart, `[..., P]`.

        Args:
            starts: First end of every paddle, `[...]`.
            directions: Directions from the first to the second end, `[...]`.
        """
        steps = np.linspace(0, self.paddle_length, math.ceil(self.paddle_length) + 1)
        return starts[..., None] + directions[..., None] * steps


class Canvas:
    """Square images with the areas that paddles occupy, including their clearance.

    Args:
        count: Number of images, B.
        resolution: Pixels along each side.
        style: The geometry.
    """

    def __init__(self, count: int, resolution: int, style: Style) -> None:
        self.style = style
        self._centre = resolution / 2
        # Areas are kept in cells of at least half a pixel.
        self._cell = max(0.5, resolution / 128)
        self._border = math.ceil(style.clearance / self._cell)
        self._last = math.ceil(resolution / self._cell) - 1
        self._stride = self._last + 1 + 2 * self._border
        self.occupied = np.zeros((count, self._stride**2), bool)
        rows, columns = np.mgrid[-self._border : self._border + 1, -self._border : self._border + 1]
        near = np.hypot(rows, columns) * self._cell <= style.clearance
        self._disk = (rows * self._stride + columns)[near]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Return whether points are inside the frame."""
        half = self._centre - self.style.padding
        return np.asarray(
            (np.abs(points.real - self._centre) <= half)
            & (np.abs(points.imag - self._centre) <= half)
        )

    def cells(self, points: np.ndarray) -> np.ndarray:
        """Return the index of the cell of every point, or of the closest one."""
        rows, columns = (
            np.clip((part / self._cell).astype(np.intp), 0, self._last) + self._border
            for part in (points.real, points.imag)
        )
        return rows * self._stride + columns

    def around(self, starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return the cells that paddles occupy, `[..., K]`."""
        points = self.style.sample_paddles(starts, directions)
        cells = self.cells(points)[..., None] + self._disk
        return cells.reshape(*starts.shape, math.prod(cells.shape[-2:]))

    def occupy(self, images: np.ndarray, paddles: np.ndarray) -> None:
        """Occupy the surroundings of paddles.

        Args:
            images: Indices of the images, `[I]`.
            paddles: Ends of their paddles, `[I, ..., 2]`.
        """
        pairs = paddles.reshape(len(images), math.prod(paddles.shape[1:-1]), 2)
        starts, ends = pairs[..., 0], pairs[..., 1]
        directions = (ends - starts) / self.style.paddle_length
        self.occupied[images[:, None, None], self.around(starts, directions)] = True


def grow_contours(
    canvas: Canvas,
    starts: Starts,
    *,
    margin: np.ndarray,
    num_contours: int,
    length: int,
    generator: np.random.Generator,
    patience: int,
    enough: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Grow contours in all images of a canvas, without occupying it.

    Args:
        canvas: The images, B.
        starts: Draws the starts of contours.
        margin: Half of the gap between paddles for each image, `[B]`.
        num_contours: Number of contours per image, which grow in turns.
        length: Number of paddles per contour.
        generator: Source of randomness.
        patience: Number of failures after which an image is given up.
        enough: Number of finished images after which to stop; all by default.

    Returns:
        The ends of the paddles, `[B, num_contours, length, 2]`, and whether an image is finished,
        `[B]`.
    """
    growth = _Growth(canvas, starts, margin, num_contours, length, generator)
    failures = np.zeros(len(margin), int)
    active = np.arange(len(margin))
    while len(active) and (enough is None or np.sum(growth.finished) < enough):
        stuck = growth.extend(active)
        failures[stuck] += 1
        growth.shorten(stuck, restart=failures[stuck] % _FAILURES == 0)
        active = np.flatnonzero(~growth.finished & (failures < patience))
    paddles = growth.paddles.reshape(-1, length, num_contours, 2).swapaxes(1, 2)
    return paddles, growth.finished


class _Growth:
    """Contours that grow in turns: paddle q belongs to contour q % num_contours."""

    def __init__(
        self,
        canvas: Canvas,
        starts: Starts,
        margin: np.ndarray,
        num_contours: int,
        length: int,
        generator: np.random.Generator,
    ) -> None:
        self._canvas = canvas
        self._style = canvas.style
        self._starts = starts
        self._margin = margin
        self._contours = num_contours
        self._total = num_contours * length
        self._generator = generator
        self._turns = canvas.style.turns()
        self._sizes = np.zeros(len(margin), int)
        self._directions = np.ones((len(margin), self._total), complex)
        self.paddles = np.zeros((len(margin), self._total, 2), complex)
        # The first paddle around every cell, for each contour by itself.
        cells = canvas.occupied.shape[1]
        self._first = np.full((len(margin), num_contours, cells), _FREE, np.uint8)

    @property
    def finished(self) -> np.ndarray:
        """Whether all contours of an image are complete, `[B]`."""
        return self._sizes == self._total

    def extend(self, images: np.ndarray) -> np.ndarray:
        """Add one paddle to each of the given images; return those where none fits."""
        starts, directions = self._candidates(images)
        fits = self._fit(images, starts, directions)
        rows, chosen = np.arange(len(images)), fits.argmax(1)
        grown = fits[rows, chosen]
        self._add(images[grown], starts[rows, chosen][grown], directions[rows, chosen][grown])
        return images[~grown]

    def shorten(self, images: np.ndarray, *, restart: np.ndarray) -> None:
        """Remove the last paddles of the given images, or all of them for a restart, `[I]`."""
        removed = self._contours * self._generator.integers(1, _REMOVED + 1, len(images))
        kept = np.where(restart, 0, np.maximum(self._sizes[images] - removed, 0))
        # The contours of an image start together.
        kept[kept < self._contours] = 0
        self._sizes[images] = kept
        first = self._first[images]
        first[first >= kept[:, None, None]] = _FREE
        self._first[images] = first

    def _candidates(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return starts and directions of possible next paddles, `[I, T]`."""
        size = self._sizes[images]
        previous = np.maximum(size - self._contours, 0)
        before, margin = self._directions[images, previous], self._margin[images]
        draws = self._generator.integers(0, _TURNS, (len(images), NUM_TRIES))
        directions = before[:, None] * self._turns[draws]
        joints = self.paddles[images, previous, 1] + margin * before
        starts = joints[:, None] + margin[:, None] * directions
        new = size < self._contours
        if new.any():
            last = self.paddles[images[new], np.maximum(size[new] - 1, 0), 0]
            starts[new] = self._starts(size[new, None], last[:, None])
            directions[new] = random_directions(self._generator, directions[new].shape)
        return starts, directions

    def _fit(self, images: np.ndarray, starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return whether paddles are inside the frame and clear of all others, `[I, T]`."""
        points = self._style.sample_paddles(starts, directions)
        cells = self._canvas.cells(points)
        image, size = images[:, None, None], self._sizes[images][:, None, None]
        free = self._canvas.contains(points) & ~self._canvas.occupied[image, cells]
        for contour in range(self._contours):
            # A paddle may be close to the previous one of its own contour.
            own = size % self._contours == contour
            others = np.where(own, np.maximum(size - self._contours, 0), size)
            free &= self._first[image, contour, cells] >= others
        return free.all(-1) & self._can_turn(images, starts, directions)

    def _can_turn(
        self, images: np.ndarray, starts: np.ndarray, directions: np.ndarray
    ) -> np.ndarray:
        """Return whether a contour can turn back before it leaves the frame, `[I, T]`."""
        turn = self._style.largest_turn / 2
        remaining = ((self._total - 1 - self._sizes[images]) // self._contours)[:, None]
        margin = self._margin[images, None]
        edges = (self._style.paddle_length + 2 * margin) * directions
        joints = starts - margin * directions + edges
        possible = np.zeros(directions.shape, bool)
        for side in (-turn, turn):
            inside = np.ones(directions.shape, bool)
            offset = 0j
            for step in range(1, math.ceil(math.pi / 2 / turn) + 1):
                offset += np.exp(1j * side * step)
                inside &= self._canvas.contains(joints + offset * edges) | (remaining < step)
            possible |= inside
        return possible

    def _add(self, images: np.ndarray, starts: np.ndarray, directions: np.ndarray) -> None:
        size = self._sizes[images]
        self._directions[images, size] = directions
        self.paddles[images, size, 0] = starts
        self.paddles[images, size, 1] = starts + self._style.paddle_length * directions
        cells = self._canvas.around(starts, directions)
        where = (images[:, None], (size % self._contours)[:, None], cells)
        self._first[where] = np.minimum(self._first[where], size[:, None])
        self._sizes[images] += 1


def random_directions(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniformly distributed directions."""
    return np.exp(1j * generator.uniform(0, 2 * np.pi, shape))
