"""The embedded data set."""

import numpy as np
import pytest
import trimesh

import datasets_helpers
from ccnn_geo.datasets import Shapes
from ccnn_geo.datasets.point_clouds.shapes import SHAPES_CLASSES, make_shape
from ccnn_geo.datasets.point_clouds.solids import MAKERS


class TestShapes:
    OPTIONS = datasets_helpers.OPTIONS | {"train_per_class": 2, "test_per_class": 1}

    def test_there_is_a_solid_for_every_class(self):
        assert list(SHAPES_CLASSES) == list(MAKERS) == sorted(MAKERS)
        assert len(SHAPES_CLASSES) >= 12

    @pytest.mark.parametrize("name", SHAPES_CLASSES)
    def test_every_mesh_is_sound_and_its_own(self, name):
        first, again = make_shape(name, seed=0), make_shape(name, seed=0)
        other = make_shape(name, seed=1)
        np.testing.assert_array_equal(first.points, again.points)
        assert first.points.shape != other.points.shape or not np.allclose(
            first.points, other.points
        )
        mesh = trimesh.Trimesh(first.points, first.faces)
        assert mesh.area > 0
        assert mesh.body_count >= 1
        assert (mesh.area_faces > 0).all()

    @pytest.mark.parametrize("name", ["ball", "block", "cone", "cylinder", "pyramid", "ring"])
    def test_closed_solids_are_closed_and_their_normals_look_outwards(self, name):
        shape = make_shape(name, seed=3)
        mesh = trimesh.Trimesh(shape.points, shape.faces)
        assert mesh.is_watertight
        assert mesh.volume > 0

    def test_the_tube_of_a_helix_looks_outwards(self):
        shape = make_shape("helix", seed=0)
        corners = shape.points[shape.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        rings = shape.points.reshape(96, -1, 3)
        nearest = rings.mean(axis=1)[shape.faces[:, 0] // rings.shape[1]]
        assert ((corners.mean(axis=1) - nearest) * normals).sum(axis=1).min() > 0

    def test_it_goes_the_way_of_every_mesh(self, tmp_path):
        train = Shapes(tmp_path, **self.OPTIONS)
        test = Shapes(tmp_path, split="test", **self.OPTIONS)
        assert len(train) == 2 * len(SHAPES_CLASSES)
        assert len(test) == len(SHAPES_CLASSES)
        assert train.has_normals
        assert train.clouds.sizes.tolist() == [32] * len(train)
        rows = [split.clouds[index] for split in (train, test) for index in range(len(split))]
        points = {cloud.tobytes() for cloud in rows}
        assert len(points) == len(train) + len(test)

    def test_a_seed_makes_the_same_and_another_others(self, tmp_path):
        first = Shapes(tmp_path / "a", **self.OPTIONS)
        again = Shapes(tmp_path / "b", **self.OPTIONS)
        other = Shapes(tmp_path / "b", seed=1, **self.OPTIONS)
        np.testing.assert_array_equal(first.clouds.points, again.clouds.points)
        assert not np.array_equal(first.clouds.points, other.clouds.points)

    def test_refuses_arguments_that_make_no_sense(self, tmp_path):
        with pytest.raises(ValueError, match="`train_per_class` >= 1, .*, got 0, 16 and 0"):
            Shapes(tmp_path, train_per_class=0)
        with pytest.raises(ValueError, match="Expected one of ball, .*, got 'sphere'"):
            make_shape("sphere", seed=0)
