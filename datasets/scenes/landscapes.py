"""Procedural landscapes of ground, trees and clutter, as laser scanners see them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..io.scenes import Scene

__all__ = ["LANDSCAPE_CLASSES", "make_landscape"]

LANDSCAPE_CLASSES = ("ground", "tree", "clutter")

Generator = np.random.Generator


class _Terrain(NamedTuple):
    """Height as a plane and a sum of waves."""

    slope: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    heights: np.ndarray

    def height(self, places: np.ndarray) -> np.ndarray:
        """Return the height at places `[N, 2]`, `[N]`."""
        waves = np.cos(places @ self.waves.T + self.phases) @ self.heights
        return places @ self.slope + waves


def make_landscape(*, seed: int | tuple[int, ...], side: float = 48.0) -> Scene:
    """Generate one scan of a landscape.

    Terrain, roughness, kinds, sizes and numbers of trees and other objects, the density of the
    points and their noise are random. Half of the scans are from the air, with most points on top
    of the crowns and fewer below; the others from one to four places on the ground, around which
    the points are densest.

    Args:
        seed: Seed of everything.
        side: Side of the square in metres.

    Returns:
        Points in metres, float64, with labels, indices of `LANDSCAPE_CLASSES`.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    aerial = generator.random() < 0.5
    density = np.exp(generator.uniform(*np.log((1.5, 20.0) if aerial else (20.0, 80.0))))
    terrain = _terrain(generator)
    parts = [_ground(generator, terrain, side, density, aerial)]
    parts += _trees(generator, terrain, side, density, aerial)
    parts += _objects(generator, terrain, side, density)
    points = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([np.full(len(part), label) for part, label in parts])
    if not aerial:
        kept = _seen_from_the_ground(generator, points, side)
        points, labels = points[kept], labels[kept]
    points = points + generator.normal(0, generator.uniform(0.005, 0.04), points.shape)
    order = generator.permutation(len(points))
    return Scene(points[order], labels=labels[order].astype(np.int64))


def _terrain(generator: Generator) -> _Terrain:
    lengths = generator.uniform(20, 80, size=4)
    angles = generator.uniform(0, 2 * np.pi, size=4)
    waves = 2 * np.pi / lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    heights = generator.uniform(0, 0.03, size=4) * lengths
    slope = generator.normal(0, 0.08, size=2)
    return _Terrain(slope, waves, generator.uniform(0, 2 * np.pi, size=4), heights)


def _on_ground(terrain: _Terrain, places: np.ndarray, above: np.ndarray | float) -> np.ndarray:
    return np.column_stack([places, terrain.height(places) + above])


def _ground(
    generator: Generator, terrain: _Terrain, side: float, density: float, aerial: bool
) -> tuple[np.ndarray, int]:
    places = generator.uniform(0, side, size=(int(density * side**2), 2))
    grass = generator.uniform(0.0, 0.15) * generator.random(len(places)) ** 3
    return _on_ground(terrain, places, grass), 0


def _trees(
    generator: Generator, terrain: _Terrain, side: float, density: float, aerial: bool
) -> list[tuple[np.ndarray, int]]:
    count = generator.poisson(np.exp(generator.uniform(np.log(0.003), np.log(0.05))) * side**2)
    tallest = generator.uniform(6, 38)
    conifers = generator.random()
    trees = []
    for place in generator.uniform(0, side, size=(count, 2)):
        height = tallest * generator.uniform(0.3, 1.0)
        foot = _on_ground(terrain, place[None], 0.0)[0]
        conifer = generator.random() < conifers
        trees.append((foot + _tree(generator, height, conifer, density, aerial), 1))
    return trees


def _tree(
    generator: Generator, height: float, conifer: bool, density: float, aerial: bool
) -> np.ndarray:
    """Return the points of a tree that stands on the origin."""
    spread = (
        height * generator.uniform(0.08, 0.18) if conifer else height * generator.uniform(0.15, 0.3)
    )
    base = height * generator.uniform(0.1, 0.75)
    count = int(density * np.pi * spread**2 * generator.uniform(1.5, 4.0)) + 5
    # Leaves gather in clumps around branches, which fill the outer part of the crown.
    clumps = max(5, int(generator.uniform(15, 60)))
    up = generator.random(clumps)
    profile = 1 - up if conifer else np.sqrt(np.clip(1 - (2 * up - 1) ** 2, 0, 1))
    outward = spread * profile * np.sqrt(generator.uniform(0.2, 1, size=clumps))
    angle = generator.uniform(0, 2 * np.pi, size=clumps)
    centers = np.column_stack(
        [outward * np.cos(angle), outward * np.sin(angle), base + up * (height - base)]
    )
    weights = 0.15 + profile
    if aerial:
        weights = weights * (0.2 + up) ** 1.5
    chosen = generator.choice(clumps, size=count, p=weights / weights.sum())
    size = generator.uniform(0.1, 0.25) * spread + 0.1
    crown = centers[chosen] + generator.normal(0, size, (count, 3)) * (1, 1, 0.7)
    crown = crown[crown[:, 2] > 0.3 * base]
    radius = 0.012 * height + 0.05
    stem_height = base + 0.5 * (height - base)
    area = 2 * np.pi * radius * stem_height
    stems = int(density * area * (0.1 if aerial else generator.uniform(2, 5))) + 1
    turn = generator.uniform(0, 2 * np.pi, size=stems)
    stem = np.column_stack(
        [radius * np.cos(turn), radius * np.sin(turn), generator.uniform(0, stem_height, stems)]
    )
    lean = generator.normal(0, 0.03, size=2)
    tree = np.concatenate([crown, stem])
    tree[:, :2] += tree[:, 2:] * lean
    return tree


def _objects(
    generator: Generator, terrain: _Terrain, side: float, density: float
) -> list[tuple[np.ndarray, int]]:
    """Return the points of poles, benches, cars, walls, people, hedges and huts."""
    makers = (_pole, _bench, _car, _wall, _person, _hedge, _hut)
    count = generator.poisson(generator.uniform(0, 0.006) * side**2)
    objects = []
    for place in generator.uniform(0, side, size=(count, 2)):
        made = makers[generator.integers(len(makers))](generator, density)
        turn = generator.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        made[:, :2] = made[:, :2] @ rotation.T
        objects.append((made + _on_ground(terrain, place[None], 0.0)[0], 2))
    return objects


def _box(generator: Generator, size: np.ndarray, density: float) -> np.ndarray:
    """Return points on the top and the sides of a box that stands on the origin."""
    wide, deep, high = size
    areas = np.array([wide * deep, deep * high, deep * high, wide * high, wide * high])
    count = int(2 * density * areas.sum()) + 4
    side = generator.choice(5, size=count, p=areas / areas.sum())
    points = generator.random((count, 3))
    points[side == 0, 2] = 1
    points[side == 1, 0], points[side == 2, 0] = 0, 1
    points[side == 3, 1], points[side == 4, 1] = 0, 1
    return (points - (0.5, 0.5, 0)) * size


def _pole(generator: Generator, density: float) -> np.ndarray:
    high = generator.uniform(2, 9)
    pole = _box(generator, np.array([0.15, 0.15, high]), 2 * density)
    head = _box(generator, np.array([0.6, 0.3, 0.2]), 2 * density) + (0, 0, high)
    return np.concatenate([pole, head])


def _bench(generator: Generator, density: float) -> np.ndarray:
    return _box(generator, generator.uniform((0.4, 0.4, 0.3), (2.0, 1.2, 1.1)), density)


def _car(generator: Generator, density: float) -> np.ndarray:
    body = _box(generator, generator.uniform((3.5, 1.6, 0.7), (4.8, 1.9, 1.0)), density)
    cabin = _box(generator, generator.uniform((1.6, 1.5, 0.5), (2.6, 1.7, 0.8)), density)
    return np.concatenate([body, cabin + (0, 0, 0.8)])


def _wall(generator: Generator, density: float) -> np.ndarray:
    return _box(generator, generator.uniform((3, 0.1, 0.8), (14, 0.4, 2.2)), density)


def _person(generator: Generator, density: float) -> np.ndarray:
    points = generator.normal(size=(int(4 * density) + 8, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    high = generator.uniform(1.5, 1.9)
    return points * (0.25, 0.2, high / 2) + (0, 0, high / 2)


def _hedge(generator: Generator, density: float) -> np.ndarray:
    size = generator.uniform((1.0, 0.5, 0.5), (6.0, 1.5, 2.5))
    hedge = _box(generator, size, density)
    return hedge + generator.normal(0, 0.15, hedge.shape)


def _hut(generator: Generator, density: float) -> np.ndarray:
    size = generator.uniform((3, 3, 2.2), (9, 7, 4.5))
    walls = _box(generator, size, density)
    walls = walls[walls[:, 2] < size[2]]
    count = int(2 * density * size[0] * size[1])
    roof = generator.uniform(-0.55, 0.55, size=(count, 3)) * size
    pitch = generator.uniform(0.1, 0.8)
    roof[:, 2] = size[2] + pitch * (0.55 * size[1] - np.abs(roof[:, 1]))
    return np.concatenate([walls, roof])


def _seen_from_the_ground(generator: Generator, points: np.ndarray, side: float) -> np.ndarray:
    """Return which points are kept: fewer, the farther they are from the scanners."""
    places = generator.uniform(0.1 * side, 0.9 * side, size=(int(generator.integers(1, 5)), 2))
    distance = np.linalg.norm(points[:, None, :2] - places, axis=-1).min(axis=1)
    near = generator.uniform(8, 30)
    return generator.random(len(points)) < 1 / (1 + (distance / near) ** 2)
