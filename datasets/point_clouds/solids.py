"""Solids and furniture with random proportions, the classes of `Shapes`."""

from collections.abc import Callable

import numpy as np
import trimesh
from trimesh import Trimesh

__all__ = ["MAKERS", "make_box", "make_tube"]


def make_box(size: tuple[float, float, float], centre: tuple[float, float, float]) -> Trimesh:
    """Return a box of a size around a centre."""
    box = trimesh.creation.box(extents=size)
    box.apply_translation(centre)
    return box


def _join(first: Trimesh, *others: Trimesh) -> Trimesh:
    return sum(others, start=first)


def _ball(generator: np.random.Generator) -> Trimesh:
    return trimesh.creation.icosphere(subdivisions=3)


def _block(generator: np.random.Generator) -> Trimesh:
    x, y, z = generator.uniform(0.6, 1.4, size=3)
    return make_box((x, y, z), (0, 0, 0)).subdivide().subdivide()


def _bracket(generator: np.random.Generator) -> Trimesh:
    thick, reach = generator.uniform(0.15, 0.3), generator.uniform(0.7, 1.2)
    wide = generator.uniform(0.4, 0.8)
    return _join(
        make_box((thick, wide, 1), (thick / 2, 0, 0.5)),
        make_box((reach, wide, thick), (reach / 2, 0, 0)),
    )


def _chair(generator: np.random.Generator) -> Trimesh:
    seat, back = generator.uniform(0.4, 0.6), generator.uniform(0.4, 0.7)
    backrest = make_box((0.06, 0.8, back), (-0.37, 0, seat + back / 2))
    return _join(backrest, *_tabletop_and_legs(generator, height=seat, depth=0.8))


def _cone(generator: np.random.Generator) -> Trimesh:
    radius, height = generator.uniform(0.3, 0.6), generator.uniform(0.9, 1.4)
    return trimesh.creation.cone(radius=radius, height=height, sections=32)


def _cross(generator: np.random.Generator) -> Trimesh:
    thick = generator.uniform(0.2, 0.35)
    sizes = np.full((3, 3), thick)
    np.fill_diagonal(sizes, generator.uniform(0.8, 1.2, size=3))
    return _join(*(make_box((x, y, z), (0, 0, 0)) for x, y, z in sizes))


def _cylinder(generator: np.random.Generator) -> Trimesh:
    radius, height = generator.uniform(0.25, 0.5), generator.uniform(0.8, 1.5)
    return trimesh.creation.cylinder(radius=radius, height=height, sections=32)


def _dumbbell(generator: np.random.Generator) -> Trimesh:
    radii = generator.uniform(0.22, 0.4, size=2)
    balls = [
        trimesh.creation.icosphere(subdivisions=2, radius=radius).apply_translation((0, 0, z))
        for radius, z in zip(radii, (-0.7, 0.7), strict=True)
    ]
    bar = trimesh.creation.cylinder(radius=0.08, height=1.4, sections=16)
    return _join(*balls, bar)


def _helix(generator: np.random.Generator) -> Trimesh:
    turns, thick = generator.uniform(2, 3.5), generator.uniform(0.07, 0.12)
    angles = np.linspace(0, 2 * np.pi * turns, 96)
    centres = np.stack([np.cos(angles) / 2, np.sin(angles) / 2, angles / angles[-1]], axis=1)
    return make_tube(centres, thick, across=2)


def _mug(generator: np.random.Generator) -> Trimesh:
    radius, height = generator.uniform(0.35, 0.5), generator.uniform(0.8, 1.1)
    wall = trimesh.creation.annulus(r_min=0.85 * radius, r_max=radius, height=height, sections=32)
    floor = trimesh.creation.cylinder(radius=radius, height=0.06, sections=32)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 16)
    centres = np.stack(
        [radius + 0.3 * np.cos(angles), np.zeros(16), 0.3 * height * np.sin(angles)], axis=1
    )
    return _join(
        wall, floor.apply_translation((0, 0, -height / 2)), make_tube(centres, 0.06, across=1)
    )


def _pyramid(generator: np.random.Generator) -> Trimesh:
    base, height = generator.uniform(0.4, 0.6), generator.uniform(0.7, 1.2)
    corners = [(-base, -base, 0), (base, -base, 0), (base, base, 0), (-base, base, 0)]
    faces = [(0, 2, 1), (0, 3, 2), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
    mesh = Trimesh([*corners, (0, 0, height)], faces, process=False)
    return mesh.subdivide().subdivide()


def _ring(generator: np.random.Generator) -> Trimesh:
    thick = generator.uniform(0.12, 0.3)
    return trimesh.creation.torus(1, thick, major_sections=48, minor_sections=16)


def _stairs(generator: np.random.Generator) -> Trimesh:
    steps, wide = int(generator.integers(3, 6)), generator.uniform(0.5, 1.0)
    run = 1 / steps
    return _join(
        *(
            make_box((run, wide, (step + 1) * run), ((step + 0.5) * run, 0, (step + 1) * run / 2))
            for step in range(steps)
        )
    )


def _table(generator: np.random.Generator) -> Trimesh:
    height, depth = generator.uniform(0.6, 0.9), generator.uniform(0.8, 1.4)
    return _join(*_tabletop_and_legs(generator, height=height, depth=depth))


def _tabletop_and_legs(
    generator: np.random.Generator, *, height: float, depth: float
) -> list[Trimesh]:
    thick = generator.uniform(0.05, 0.1)
    corners = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    legs = [
        make_box(
            (thick, thick, height), (x * (depth - thick) / 2, y * (0.8 - thick) / 2, height / 2)
        )
        for x, y in corners
    ]
    return [make_box((depth, 0.8, thick), (0, 0, height)), *legs]


def make_tube(centres: np.ndarray, radius: float, *, across: int, sections: int = 12) -> Trimesh:
    """Sweep a circle along a curve; the ends stay open.

    Args:
        centres: Points of the curve, `[N, 3]`.
        radius: Radius of the circle.
        across: An axis to which the curve is never parallel.
        sections: Number of corners of the circle.
    """
    tangents = np.gradient(centres, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    first = np.cross(tangents, np.eye(3)[across])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangents, first)
    angles = np.linspace(0, 2 * np.pi, sections, endpoint=False)[:, None]
    circles = np.cos(angles) * first[:, None] + np.sin(angles) * second[:, None]
    vertices = (centres[:, None] + radius * circles).reshape(-1, 3)
    rows = np.arange((len(centres) - 1) * sections).reshape(-1, sections)
    turned = np.roll(rows, -1, axis=1)
    corners = np.stack([rows, turned, rows + sections, turned + sections]).reshape(4, -1)
    faces = np.concatenate([corners[[0, 1, 2]].T, corners[[1, 3, 2]].T])
    return Trimesh(vertices, faces, process=False)


MAKERS: dict[str, Callable[[np.random.Generator], Trimesh]] = {
    "ball": _ball,
    "block": _block,
    "bracket": _bracket,
    "chair": _chair,
    "cone": _cone,
    "cross": _cross,
    "cylinder": _cylinder,
    "dumbbell": _dumbbell,
    "helix": _helix,
    "mug": _mug,
    "pyramid": _pyramid,
    "ring": _ring,
    "stairs": _stairs,
    "table": _table,
}
