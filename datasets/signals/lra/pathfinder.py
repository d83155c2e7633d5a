"""Generator of Pathfinder: are two dots joined by a dashed path?

After *Learning long-range spatial dependencies with horizontal gated recurrent units* (Linsley et
al. 2018) and *Disentangling neural mechanisms for perceptual grouping* (Kim et al. 2020), with the
sizes of the Long Range Arena (Tay et al. 2021). Images are drawn by code of this package; they are
not those of the published files.
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...cache import Arrays, has_layout
from ..dataset import Signals
from .contours import NUM_TRIES, Canvas, Style, grow_contours, random_directions
from .generation import generated_arrays
from .picture import Picture

__all__ = ["PathfinderSettings", "Scenes", "draw_scenes", "generate_pathfinder", "render_scenes"]

# Incremented whenever the same settings give other images.
_VERSION = 1
_IMAGES_PER_BLOCK = 128
# Images that are drawn for each that is chosen, and images that are begun for each that is drawn.
_CANDIDATES = 3
_SPARE = 1.25
_LEAST_BATCH = 16
# Difference of distances in pixels from which two images are no match.
_TOLERANCE = 4
# Failures after which an image is given up, and least share of images that are finished.
_PATIENCE = 90
_LEAST_SUCCESS = 0.1
_DISTRACTOR_PATIENCE = 10
# Settings of the Long Range Arena, in pixels. Thickness, brightness and radii are adapted to the
# rendering below, such that images have about the published brightness.
_PUBLISHED: dict[int, dict[str, Any]] = {
    32: {
        # Of the 20 that the published generator is asked for, it finds room for less than half.
        "distractor_paddles": 8,
        "paddle_length": 2.0,
        "margins": (1.0,),
        "thickness": 0.6,
        "brightness": 1.0,
        "dot_radius": 1.75,
        "seed_distance": 7.0,
        "continuity": 1.0,
        "padding": 1.0,
    },
    64: {
        "distractor_paddles": 22,
        "paddle_length": 5.0,
        "margins": (1.0,),
        "thickness": 1.25,
        "brightness": 0.8,
        "dot_radius": 2.5,
        "seed_distance": 12.0,
        "continuity": 1.8,
        "padding": 1.0,
    },
    128: {
        "distractor_paddles": 35,
        "paddle_length": 5.0,
        "margins": (2.0, 3.0),
        "thickness": 1.75,
        "brightness": 0.9,
        "dot_radius": 3.0,
        "seed_distance": 20.0,
        "continuity": 1.8,
        "padding": 1.0,
    },
    256: {
        "distractor_paddles": 30,
        "paddle_length": 5.0,
        "margins": (3.0,),
        "thickness": 2.25,
        "brightness": 1.0,
        "dot_radius": 5.0,
        "seed_distance": 27.0,
        "continuity": 1.8,
        "padding": 22.0,
    },
}


@dataclass(frozen=True)
class PathfinderSettings:
    """Settings of the images; `of` returns the settings of the Long Range Arena.

    Attributes:
        resolution: Pixels along each side.
        contour_length: Paddles of each of the two contours of which dots mark ends.
        distractor_length: Paddles of every other contour.
        num_distractors: Number of other contours; fewer if there is no room.
        paddle_length: Length of a paddle in pixels, as all that follow.
        margins: Half of the gap between two paddles; one of them is drawn for each image.
        thickness: Thickness of a paddle.
        brightness: Brightness of a paddle, where a dot has 1.
        dot_radius: Radius of a dot.
        seed_distance: Distance between the starts of the two contours.
        continuity: A turn is at most pi / 2 divided by this number.
        padding: Width of the empty frame.

    Raises:
        ValueError: If a setting is out of range.
    """

    resolution: int
    contour_length: int
    distractor_length: int
    num_distractors: int
    paddle_length: float
    margins: tuple[float, ...]
    thickness: float
    brightness: float
    dot_radius: float
    seed_distance: float
    continuity: float
    padding: float

    @classmethod
    def of(
        cls, resolution: int = 32, contour_length: int = 14, **changes: Any
    ) -> "PathfinderSettings":
        """Return the settings of the Long Range Arena, with changes.

        Args:
            resolution: Pixels along each side: 32, 64, 128 or 256.
            contour_length: Paddles of each of the two contours with dots: 6, 9 or 14 in the
                published data.
            changes: Other settings that differ. Unless they do, distractors are a third as long as
                contours, and the longer, the fewer.

        Raises:
            ValueError: If a setting is out of range.
        """
        if resolution not in _PUBLISHED:
            raise ValueError(
                f"Expected `resolution` to be one of {[*_PUBLISHED]}, got {resolution}"
            )
        settings = {"distractor_length": contour_length // 3, **_PUBLISHED[resolution], **changes}
        paddles = settings.pop("distractor_paddles")
        settings.setdefault("num_distractors", paddles // max(settings["distractor_length"], 1))
        return cls(resolution, contour_length, **settings)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("contour_length", 2), ("distractor_length", 1)):
            if not least <= getattr(self, name) <= 100:
                raise ValueError(
                    f"Expected `{name}` from {least} to 100, got {getattr(self, name)}"
                )
        for name in ("paddle_length", "thickness", "brightness", "continuity"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Expected `{name}` > 0, got {getattr(self, name)}")
        for name in ("num_distractors", "dot_radius", "seed_distance", "padding"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"Expected `{name}` >= 0, got {getattr(self, name)}")
        if not self.margins or not all(0 <= margin < math.inf for margin in self.margins):
            raise ValueError(f"Expected one or more `margins` >= 0, got {self.margins}")

    @property
    def style(self) -> Style:
        """Geometry of the contours."""
        clearance = 1.5 * sum(self.margins) / len(self.margins)
        return Style(self.paddle_length, self.continuity, clearance, self.padding)


@dataclass(frozen=True, eq=False)
class Scenes:
    """What M images show, with positions row + i * column in pixels.

    Attributes:
        contours: Ends of the paddles of the two long contours, `[M, 2, N, 2]`.
        distractors: Ends of the paddles of the D others, `[M, D, K, 2]`, NaN where there was no
            room.
        dots: Centres of the dots, `[M, 2]`.
        labels: 1 if the dots mark both ends of one contour, 0 if they mark one end each of the
            two, `[M]`.
    """

    contours: np.ndarray
    distractors: np.ndarray
    dots: np.ndarray
    labels: np.ndarray


def generate_pathfinder(
    count: int,
    *,
    seed: int,
    resolution: int = 32,
    contour_length: int = 14,
    folder: Path | None = None,
    num_processes: int | None = None,
    **settings: Any,
) -> Signals:
    """Draw images of Pathfinder.

    Every image has two long contours and some short ones, as distractors. One dot marks the start
    of a long contour, another one the end of the same contour (label 1) or of the other (label 0).
    Half of the images have each label, and images of both labels are chosen such that the distance
    between the dots has the same distribution. An image depends only on its index, the seed and the
    settings.

    Args:
        count: Number of images, M.
        seed: Seed of the images.
        resolution: Pixels along each side, R: 32, 64, 128 or 256.
        contour_length: Paddles of each long contour; 6, 9 or 14 in the published data.
        folder: Folder of a cache, from which the images are read the next time.
        num_processes: Number of processes that draw; one per processor by default.
        settings: Settings in place of the Long Range Arena's, see `PathfinderSettings`.

    Returns:
        The images, `[M, 1, R, R]`, and their labels.

    Raises:
        ValueError: If a setting is out of range, or if the contours do not fit into the image.
        OSError: If the cache cannot be written.
    """
    chosen = PathfinderSettings.of(resolution, contour_length, **settings)
    layout = {"images": ((count, resolution, resolution), np.uint8), "labels": ((count,), np.uint8)}
    arrays = generated_arrays(
        count,
        partial(_draw_block, settings=chosen, seed=seed),
        is_sound=partial(has_layout, layout=layout),
        per_block=_IMAGES_PER_BLOCK,
        name=f"pathfinder{resolution}-{contour_length}paddles-{count}-seed{seed}",
        parameters=[_VERSION, asdict(chosen)],
        folder=folder,
        num_processes=num_processes,
    )
    return Signals(arrays["images"][:, None], arrays["labels"].astype(np.int64), scale=1 / 255)


def _draw_block(numbers: range, settings: PathfinderSettings, seed: int) -> Arrays:
    """Return the images of consecutive numbers in one block."""
    generator = np.random.default_rng([seed, numbers.start // _IMAGES_PER_BLOCK])
    scenes = draw_scenes(_IMAGES_PER_BLOCK, settings, generator)
    images = render_scenes(scenes, settings)
    chosen = slice(len(numbers))
    return {"images": images[chosen], "labels": scenes.labels[chosen].astype(np.uint8)}


def draw_scenes(count: int, settings: PathfinderSettings, generator: np.random.Generator) -> Scenes:
    """Draw the contours and dots of images.

    Args:
        count: Number of images, M; half of them have each label if it is even.
        settings: The settings.
        generator: Source of randomness.

    Raises:
        ValueError: If the contours do not fit into the image.
    """
    contours, margin = _draw_contours(_CANDIDATES * count, settings, generator)
    start, end = contours[:, :, 0, 0], contours[:, :, -1, 1]
    chosen, first, second, labels = _choose_dots(start, end, generator)
    contours, margin = contours[chosen], margin[chosen]
    canvas = Canvas(count, settings.resolution, settings.style)
    canvas.occupy(np.arange(count), contours)
    distractors = _draw_distractors(canvas, margin, settings, generator)
    dots = np.stack([start[chosen, first], end[chosen, second]], axis=1)
    return Scenes(contours, distractors, dots, labels)


def _draw_contours(
    count: int, settings: PathfinderSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of contours, `[count, 2, N, 2]`, and the margin of each pair."""

    def starts(contour: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Start first contours around the centre, and second ones at a distance from them."""
        half = max(settings.resolution / 2 - 2 * settings.seed_distance, 1)
        centre = settings.resolution / 2
        central = _draw_positions(generator, centre - half, centre + half, len(contour))
        away = settings.seed_distance * random_directions(generator, central.shape)
        return np.where(contour == 0, central, previous + away)

    found: list[tuple[np.ndarray, np.ndarray]] = []
    missing = count
    while missing:
        size = math.ceil(_SPARE * missing) + _LEAST_BATCH
        margin = generator.choice(settings.margins, size)
        contours, done = grow_contours(
            Canvas(size, settings.resolution, settings.style),
            starts,
            margin=margin,
            num_contours=2,
            length=settings.contour_length,
            generator=generator,
            patience=_PATIENCE,
            enough=missing,
        )
        chosen = np.flatnonzero(done)[:missing]
        missing -= len(chosen)
        if missing and len(chosen) < _LEAST_SUCCESS * size:
            raise ValueError(
                f"Expected contours that fit into {settings.resolution} x {settings.resolution} "
                f"pixels, got two of {settings.contour_length} paddles of "
                f"{settings.paddle_length} pixels, which fitted in {len(chosen)} of {size} images"
            )
        found.append((contours[chosen], margin[chosen]))
    contours, margin = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return contours, margin


def _draw_positions(
    generator: np.random.Generator, low: float, high: float, count: int
) -> np.ndarray:
    """Draw uniformly distributed positions, `[count, T]`."""
    rows, columns = generator.uniform(low, high, (2, count, NUM_TRIES))
    return rows + 1j * columns


def _choose_dots(
    start: np.ndarray, end: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Choose images, and the ends of contours that get dots.

    Dots at both ends of one contour tend to have other distances than dots at ends of two. Of as
    many candidates of both labels, those are chosen that form pairs with the closest distances.

    Args:
        start: Starts of the two contours of 3 M images, `[3 M, 2]`.
        end: Their ends.
        generator: Source of randomness.

    Returns:
        Indices of M images, the contour of which the start has a dot, the contour of which the end
        has a dot, and the labels, all `[M]`.
    """
    images = np.arange(len(start))
    first = generator.integers(0, 2, len(start))
    labels = images % 2
    second = np.where(labels == 1, first, 1 - first)
    distance = np.abs(start[images, first] - end[images, second])
    negative, positive = images[labels == 0], images[labels == 1]
    differences = np.abs(distance[negative][:, None] - distance[positive])
    # Pairs that do not match have the same cost, so that as many pairs as possible match.
    other = first[negative][:, None] != first[positive]
    differences[other | (differences > _TOLERANCE)] = _TOLERANCE
    rows, columns = linear_sum_assignment(differences)
    count = len(start) // _CANDIDATES
    closest = np.argsort(differences[rows, columns], kind="stable")[: (count + 1) // 2]
    chosen = np.concatenate([negative[rows[closest]], positive[columns[closest]]])
    chosen = generator.permutation(chosen)[:count]
    return chosen, first[chosen], second[chosen], labels[chosen]


def _draw_distractors(
    canvas: Canvas,
    margin: np.ndarray,
    settings: PathfinderSettings,
    generator: np.random.Generator,
) -> np.ndarray:
    """Return distractors that keep clear of all contours, and occupy the canvas."""
    drawn = []
    low, high = settings.padding, settings.resolution - settings.padding
    for _ in range(settings.num_distractors):
        paddles, done = grow_contours(
            canvas,
            lambda contour, previous: _draw_positions(generator, low, high, len(contour)),
            margin=margin,
            num_contours=1,
            length=settings.distractor_length,
            generator=generator,
            patience=_DISTRACTOR_PATIENCE,
        )
        paddles[~done] = np.nan
        canvas.occupy(np.flatnonzero(done), paddles[done])
        drawn.append(paddles)
    none = np.empty((len(margin), 0, settings.distractor_length, 2))
    return np.concatenate([none, *drawn], axis=1)


def render_scenes(scenes: Scenes, settings: PathfinderSettings) -> np.ndarray:
    """Draw images with smooth edges.

    Args:
        scenes: What M images show.
        settings: Their settings.

    Returns:
        The images, uint8, `[M, R, R]`.
    """
    count = len(scenes.labels)
    picture = Picture(count, settings.resolution)
    both = (scenes.contours, scenes.distractors)
    paddles = np.concatenate([each.reshape(count, -1, 2) for each in both], axis=1)
    for start, end in paddles.transpose(1, 2, 0):
        there = np.flatnonzero(~np.isnan(start))
        picture.stroke(there, start[there], end[there], settings.thickness / 2, settings.brightness)
    for dot in scenes.dots.T:
        picture.stroke(np.arange(count), dot, dot, settings.dot_radius, 1)
    return picture.pixels()
