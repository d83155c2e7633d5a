"""Procedural objects with labelled parts."""

import numpy as np
import pytest
import torch
import trimesh

import datasets_helpers
from ccnn_geo.datasets import ShapeParts
from ccnn_geo.datasets.io.readers import Geometry
from ccnn_geo.datasets.point_clouds.part_solids import PART_MAKERS
from ccnn_geo.datasets.point_clouds.parts import (
    PART_CATEGORIES,
    PART_CLASSES,
    category_parts,
    list_shape_parts,
    make_parts,
)

# Area and centre of the surface of every mesh of seed 0.
SURFACES = {
    "car": (6.55689072, 0.74948221, 0.08646108, -0.40118843),
    "chair": (40.97252459, -0.11970157, -0.27653873, -0.29277482),
    "lamp": (1.81143044, 0.84628417, 0.11214709, -0.42807305),
    "mug": (77.50793229, -1.01319610, 0.58698601, -0.88307044),
    "plane": (1.14505759, 0.45186893, -0.63745689, 0.64878842),
    "table": (8.57397489, 0.80871413, 0.05449947, -0.01773325),
}
OPTIONS = datasets_helpers.OPTIONS | {"train_per_category": 2, "test_per_category": 1}


def heights(geometry: Geometry, category: str) -> dict[str, float]:
    """Returns the mean height of every part."""
    corners = geometry.points[geometry.faces]
    return {
        part: corners[geometry.labels == PART_CLASSES.index(f"{category} {part}")][..., 2].mean()
        for part in PART_CATEGORIES[category]
    }


def touched(points: np.ndarray, geometry: Geometry) -> list[set[int]]:
    """Returns for every point the labels of all faces that it lies on."""
    found = [set() for _ in points]
    size = np.ptp(geometry.points, axis=0).max()
    for triangle, label in zip(geometry.points[geometry.faces], geometry.labels, strict=True):
        first, second = triangle[1] - triangle[0], triangle[2] - triangle[0]
        normal = np.cross(first, second)
        steps = points - triangle[0]
        above = np.abs(steps @ normal) / np.linalg.norm(normal)
        system = np.array([[first @ first, first @ second], [first @ second, second @ second]])
        shares = np.linalg.solve(system, np.stack([steps @ first, steps @ second])).T
        inside = (shares > -1e-7).all(axis=1) & (shares.sum(axis=1) < 1 + 1e-7)
        for number in np.flatnonzero(inside & (above < 1e-9 * size)):
            found[number].add(int(label))
    return found


class TestMeshes:
    def test_the_names_of_the_parts_are_those_that_are_made(self):
        assert list(PART_CATEGORIES) == list(PART_MAKERS) == sorted(PART_MAKERS)
        for category, make in PART_MAKERS.items():
            assert PART_CATEGORIES[category] == tuple(sorted(PART_CATEGORIES[category]))
            for seed in range(10):
                parts = make(np.random.default_rng(seed))
                assert {name for name, _ in parts} == set(PART_CATEGORIES[category])

    @pytest.mark.parametrize("category", PART_CATEGORIES)
    def test_every_mesh_is_sound_and_its_own(self, category):
        first, again = make_parts(category, seed=0), make_parts(category, seed=0)
        other = make_parts(category, seed=1)
        np.testing.assert_array_equal(first.points, again.points)
        np.testing.assert_array_equal(first.labels, again.labels)
        assert first.points.shape != other.points.shape or not np.allclose(
            first.points, other.points
        )
        assert len(first.labels) == len(first.faces)
        mesh = trimesh.Trimesh(first.points, first.faces, process=False)
        assert (mesh.area_faces > 0).all()
        own = [PART_CLASSES.index(f"{category} {part}") for part in PART_CATEGORIES[category]]
        assert sorted(set(first.labels.tolist())) == own

    @pytest.mark.parametrize("category", PART_CATEGORIES)
    def test_the_mesh_of_a_seed_stays_the_same(self, category):
        """Trained weights and caches depend on it; `_VERSION` tells of changes."""
        made = make_parts(category, seed=0)
        mesh = trimesh.Trimesh(made.points, made.faces, process=False)
        assert [mesh.area, *mesh.centroid] == pytest.approx(SURFACES[category], rel=1e-6)

    @pytest.mark.parametrize(
        ("category", "order"),
        [
            ("chair", ("leg", "seat", "back")),
            ("table", ("leg", "top")),
            ("lamp", ("base", "pole", "shade")),
            ("car", ("wheel", "body", "cabin")),
        ],
    )
    def test_the_labels_are_those_of_the_parts(self, category, order):
        """Objects are tilted by at most 15 degrees: their parts stay above each other."""
        for seed in range(20):
            found = heights(make_parts(category, seed=seed), category)
            assert sorted(found, key=found.get) == list(order)

    def test_the_handle_of_a_mug_is_beside_it_and_the_wings_of_a_plane_across_it(self):
        for seed in range(5):
            parts = {
                category: {name: mesh for name, mesh in make(np.random.default_rng(seed))}
                for category, make in PART_MAKERS.items()
            }
            handle = parts["mug"]["handle"]
            assert handle.centroid[0] > np.abs(parts["mug"]["body"].bounds[:, 0]).max() * 0.9
            wing, fuselage = parts["plane"]["wing"], parts["plane"]["fuselage"]
            assert wing.extents[1] > 4 * fuselage.extents[1]
            assert fuselage.extents[0] > 2 * wing.extents[2]

    def test_an_unknown_category(self):
        with pytest.raises(ValueError, match="Expected one of car, chair, lamp, .*, got 'boat'"):
            make_parts("boat", seed=0)


class TestShapeParts:
    def test_every_category_has_training_and_test_objects(self, tmp_path):
        train = ShapeParts(tmp_path, **OPTIONS)
        test = ShapeParts(tmp_path, split="test", **OPTIONS)
        assert train.categories == list(PART_CATEGORIES)
        assert train.classes == list(PART_CLASSES)
        assert train.clouds.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert test.clouds.labels.tolist() == list(range(6))
        assert [[train.classes[label].split()[0] for label in own] for own in train.parts] == [
            [category] * len(parts) for category, parts in PART_CATEGORIES.items()
        ]
        assert sum(train.parts, []) == list(range(17))

    @pytest.mark.parametrize("category", PART_CATEGORIES)
    def test_points_lie_on_faces_with_their_label(self, tmp_path, category):
        number = list(PART_CATEGORIES).index(category)
        options = OPTIONS | {"points_per_mesh": 200, "num_points": 100, "normalize": "none"}
        dataset = ShapeParts(tmp_path, **options)
        data = dataset[2 * number]
        assert data.pos.shape == (100, 3)
        assert data.category.tolist() == [number]
        geometry = make_parts(category, seed=(0, number, 0, 0))
        faces = touched(data.pos.numpy(), geometry)
        labels = data.y.tolist()
        assert all(label in on for label, on in zip(labels, faces, strict=True))
        # The bottom of a cabin lies on the top of a car.
        assert np.mean([on == {label} for label, on in zip(labels, faces, strict=True)]) > 0.8
        assert len(set(labels)) > 1

    def test_subsets_and_the_cache_keep_labels_beside_their_points(self, tmp_path):
        first = ShapeParts(tmp_path, **OPTIONS)
        again = ShapeParts(tmp_path, **OPTIONS)
        for dataset in (first, again):
            for index in range(len(dataset)):
                rows, labels = dataset.clouds[index], dataset.clouds.labels_of(index)
                known = {row[:3].tobytes(): label for row, label in zip(rows, labels, strict=True)}
                data = dataset[index]
                found = [known[row.tobytes()] for row in data.pos.numpy()]
                assert data.y.tolist() == found
                assert set(found) <= set(dataset.parts[int(data.category)])
                assert data.y.dtype == torch.int64
        np.testing.assert_array_equal(first.clouds.point_labels, again.clouds.point_labels)
        assert len(list((tmp_path / ".ccnn_geo").glob("shape_parts-train-*"))) == 1

    def test_repeated_sampling_gives_other_points_of_the_same_object(self, tmp_path):
        twice = ShapeParts(tmp_path, **OPTIONS, resample=2, normalize="none")
        assert twice.clouds.labels.tolist() == [k // 4 for k in range(24)]
        assert not np.array_equal(twice.clouds[0], twice.clouds[1])
        geometry = make_parts("car", seed=(0, 0, 0, 0))
        for index in (0, 1):
            faces = touched(twice.clouds[index][:, :3], geometry)
            labels = twice.clouds.labels_of(index).tolist()
            assert all(label in on for label, on in zip(labels, faces, strict=True))

    def test_the_seed_determines_the_objects(self, tmp_path):
        first, again, other = (
            ShapeParts(tmp_path / name, **OPTIONS, seed=seed)
            for name, seed in (("a", 0), ("b", 0), ("c", 1))
        )
        np.testing.assert_array_equal(first.clouds.points, again.clouds.points)
        assert not np.array_equal(first.clouds[0], other.clouds[0])

    def test_there_is_no_validation_split(self, tmp_path):
        with pytest.raises(ValueError, match=r"`split` to be one of \('train', 'test'\), got 'val"):
            ShapeParts(tmp_path, split="val", **OPTIONS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_per_category": 0}, "got 0, 24 and 0"),
            ({"test_per_category": -1}, "got 96, -1 and 0"),
            ({"seed": -1}, "got 96, 24 and -1"),
        ],
    )
    def test_numbers_out_of_range(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=f"`seed` >= 0, {message}"):
            list_shape_parts(tmp_path, **options)


def test_parts_are_numbered_one_category_after_another():
    assert category_parts({"a": 2, "b": 1, "c": 3}) == [[0, 1], [2], [3, 4, 5]]
