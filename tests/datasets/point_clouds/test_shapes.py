"""The embedded data set."""

import numpy as np
import pytest
import trimesh

import datasets_helpers
from ccnn_geo.datasets import Shapes
from ccnn_geo.datasets.point_clouds.shapes import SHAPES_CLASSES, make_shape
from ccnn_geo.datasets.point_clouds.solids import MAKERS

# Area and centre of the surface of every mesh of seed 0.
SURFACES = {
    "ball": (19.39886519, 0.84891105, 0.62571155, -1.08425399),
    "block": (3.75597385, 0.71715638, -0.93585432, 0.47123824),
    "bracket": (2.51156020, 0.60504709, -0.86784558, 0.32748894),
    "chair": (3.23603437, 0.60109403, -0.91362544, 0.55797922),
    "cone": (16.30883813, -1.20161849, 0.86845334, -1.85342930),
    "cross": (72.09909715, -0.88661957, 0.37161261, -0.56909993),
    "cylinder": (38.41124440, -1.20161849, 0.58234048, -0.61926663),
    "dumbbell": (7.70314250, -1.09870204, 0.66658940, -0.85454351),
    "helix": (34.81942791, -1.04996357, 0.72598305, -0.75990640),
    "mug": (42.70115258, -0.77819573, 0.78803610, -0.96319735),
    "pyramid": (22.56957854, -1.06390106, 0.85514496, -1.62589274),
    "ring": (15.94157678, 0.63164687, -0.99509619, 0.71912016),
    "stairs": (61.55632453, -1.53187226, 0.63287967, -1.34123258),
    "table": (2.90588391, 0.72249743, -0.99115375, 0.78837565),
}


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

    @pytest.mark.parametrize("name", SHAPES_CLASSES)
    def test_the_mesh_of_a_seed_stays_the_same(self, name):
        """Trained weights and caches depend on it; `_VERSION` tells of changes."""
        shape = make_shape(name, seed=0)
        mesh = trimesh.Trimesh(shape.points, shape.faces, process=False)
        assert [mesh.area, *mesh.centroid] == pytest.approx(SURFACES[name], rel=1e-6)

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

    def test_the_seed_of_the_data_set_is_the_seed_of_its_meshes(self, tmp_path):
        options = self.OPTIONS | {"points_per_mesh": 2000, "normalize": "none"}
        train = Shapes(tmp_path, seed=1, **options)
        label = SHAPES_CLASSES.index("pyramid")
        mesh = make_shape("pyramid", seed=(1, label, 0, 0))
        rows = train.clouds[2 * label][:, :3]
        np.testing.assert_allclose(rows.min(axis=0), mesh.points.min(axis=0), atol=0.1)
        np.testing.assert_allclose(rows.max(axis=0), mesh.points.max(axis=0), atol=0.1)

    def test_refuses_arguments_that_make_no_sense(self, tmp_path):
        with pytest.raises(ValueError, match="`train_per_class` >= 1, .*, got 0, 16 and 0"):
            Shapes(tmp_path, train_per_class=0)
        with pytest.raises(ValueError, match="Expected one of ball, .*, got 'sphere'"):
            make_shape("sphere", seed=0)
