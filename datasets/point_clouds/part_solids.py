"""Objects of several parts with random proportions, the categories of `ShapeParts`."""

from collections.abc import Callable

import numpy as np
import trimesh
from trimesh import Trimesh

from .solids import make_box, make_tube

__all__ = ["PART_MAKERS", "Parts"]

Parts = list[tuple[str, Trimesh]]
"""Meshes with the name of the part that each belongs to."""

Generator = np.random.Generator


def _cylinder(
    radius: float, height: float, at: tuple[float, float, float], axis: int = 2
) -> Trimesh:
    cylinder = trimesh.creation.cylinder(radius=radius, height=height, sections=24)
    if axis != 2:
        turn = [0.0, 0.0, 0.0]
        turn[1 - axis] = 1.0
        cylinder.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, turn))
    return cylinder.apply_translation(at)


def _frustum(bottom: float, top: float, height: float, at: tuple[float, float, float]) -> Trimesh:
    """Return the side of a cone that is cut off, standing on `at`."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low = np.column_stack([bottom * circle, np.zeros(24)])
    high = np.column_stack([top * circle, np.full(24, height)])
    first = np.arange(24)
    following = np.roll(first, -1)
    faces = np.concatenate(
        [
            np.column_stack([first, following, first + 24]),
            np.column_stack([following, following + 24, first + 24]),
        ]
    )
    return Trimesh(np.concatenate([low, high]) + at, faces, process=False)


def _legs(generator: Generator, wide: float, deep: float, height: float) -> list[Trimesh]:
    thick = generator.uniform(0.04, 0.1)
    if generator.random() < 0.25:  # one leg in the middle, with a foot
        foot = _cylinder(0.35 * min(wide, deep), 0.05, (0, 0, 0.025))
        return [_cylinder(thick, height, (0, 0, height / 2)), foot]
    corners = [(x, y) for x in (-1, 1) for y in (-1, 1)]
    return [
        make_box(
            (thick, thick, height), (x * (wide - thick) / 2, y * (deep - thick) / 2, height / 2)
        )
        for x, y in corners
    ]


def _chair(generator: Generator) -> Parts:
    height, wide, deep = generator.uniform((0.4, 0.6, 0.6), (0.65, 0.9, 0.9))
    back, thick = generator.uniform(0.45, 0.9), generator.uniform(0.05, 0.12)
    parts: Parts = [("seat", make_box((wide, deep, thick), (0, 0, height)))]
    parts += [("leg", leg) for leg in _legs(generator, wide, deep, height - thick / 2)]
    rear = (0, -(deep - thick) / 2, height + thick / 2 + back / 2)
    if generator.random() < 0.4:  # slats
        for x in np.linspace(-0.4, 0.4, int(generator.integers(3, 6))) * wide:
            parts.append(("back", make_box((0.12 * wide, thick / 2, back), (x, *rear[1:]))))
        top = rear[2] + back / 2
        parts.append(("back", make_box((wide, thick / 2, 0.15 * back), (0, rear[1], top))))
    else:
        parts.append(("back", make_box((wide, thick, back), rear)))
    return parts


def _table(generator: Generator) -> Parts:
    height, wide, deep = generator.uniform((0.5, 0.8, 0.6), (0.9, 1.6, 1.0))
    thick = generator.uniform(0.05, 0.12)
    if generator.random() < 0.3:
        top = _cylinder(deep / 2, thick, (0, 0, height))
        wide = deep = 0.7 * deep
    else:
        top = make_box((wide, deep, thick), (0, 0, height))
    legs = _legs(generator, wide, deep, height - thick / 2)
    return [("top", top), *(("leg", leg) for leg in legs)]


def _lamp(generator: Generator) -> Parts:
    height, radius = generator.uniform(0.8, 1.6), generator.uniform(0.2, 0.4)
    shade_height = generator.uniform(0.25, 0.5)
    widest = generator.uniform(0.25, 0.5)
    base = _cylinder(radius, generator.uniform(0.05, 0.15), (0, 0, 0.05))
    pole = _cylinder(generator.uniform(0.02, 0.05), height, (0, 0, height / 2))
    top = widest * generator.uniform(0.4, 0.9)
    shade = _frustum(widest, top, shade_height, (0, 0, height - shade_height / 2))
    return [("base", base), ("pole", pole), ("shade", shade)]


def _mug(generator: Generator) -> Parts:
    radius, height = generator.uniform(0.35, 0.5), generator.uniform(0.7, 1.2)
    wall = trimesh.creation.annulus(r_min=0.85 * radius, r_max=radius, height=height, sections=32)
    floor = _cylinder(radius, 0.06, (0, 0, -height / 2))
    angles = np.linspace(-np.pi / 2, np.pi / 2, 16)
    reach = generator.uniform(0.2, 0.35)
    centres = np.stack(
        [radius + reach * np.cos(angles), np.zeros(16), 0.3 * height * np.sin(angles)], axis=1
    )
    handle = make_tube(centres, generator.uniform(0.05, 0.09), across=1)
    return [("body", wall), ("body", floor), ("handle", handle)]


def _car(generator: Generator) -> Parts:
    long, wide, height = generator.uniform((1.6, 0.7, 0.25), (2.2, 0.95, 0.4))
    wheel = generator.uniform(0.16, 0.24)
    body = make_box((long, wide, height), (0, 0, wheel + height / 2))
    cabin_long, cabin_height = long * generator.uniform(0.4, 0.65), generator.uniform(0.25, 0.4)
    shift = generator.uniform(-0.1, 0.1) * long
    cabin = make_box(
        (cabin_long, 0.9 * wide, cabin_height), (shift, 0, wheel + height + cabin_height / 2)
    )
    axles = [(x * 0.32 * long, y * wide / 2, wheel) for x in (-1, 1) for y in (-1, 1)]
    wheels = [_cylinder(wheel, 0.12, axle, axis=1) for axle in axles]
    return [("body", body), ("cabin", cabin), *(("wheel", each) for each in wheels)]


def _plane(generator: Generator) -> Parts:
    long, radius = generator.uniform(1.6, 2.2), generator.uniform(0.1, 0.18)
    fuselage = trimesh.creation.capsule(height=long - 2 * radius, radius=radius, count=[12, 16])
    fuselage.apply_translation((0, 0, -fuselage.bounds.mean(axis=0)[2]))
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 1, 0])
    fuselage.apply_transform(turn)
    span, chord = generator.uniform(1.4, 2.2), generator.uniform(0.25, 0.45)
    sweep = generator.uniform(0.0, 0.5)
    wings = _swept(make_box((chord, span, 0.04), (0.1 * long, 0, 0)).subdivide(), sweep)
    tail_x = -0.45 * long
    tail = [
        _swept(make_box((0.6 * chord, 0.4 * span, 0.03), (tail_x, 0, 0.05)).subdivide(), sweep),
        make_box((0.6 * chord, 0.03, 0.35), (tail_x, 0, radius + 0.15)),
    ]
    parts: Parts = [("fuselage", fuselage), ("wing", wings), *(("tail", each) for each in tail)]
    for side in (-1, 1):
        engine = _cylinder(
            0.45 * radius + 0.02, 0.3, (0.15 * long, side * 0.3 * span, -0.1), axis=0
        )
        parts.append(("engine", engine))
    return parts


def _swept(mesh: Trimesh, sweep: float) -> Trimesh:
    mesh.vertices[:, 0] -= sweep * np.abs(mesh.vertices[:, 1])
    return mesh


PART_MAKERS: dict[str, Callable[[Generator], Parts]] = {
    "car": _car,
    "chair": _chair,
    "lamp": _lamp,
    "mug": _mug,
    "plane": _plane,
    "table": _table,
}
