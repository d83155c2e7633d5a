"""Labels of every point of a scan or an object, in the order of the file."""

import numpy as np
import pytest
import torch

from ccnn_geo import CCNN
from ccnn_geo.datasets import Scene
from ccnn_geo.datasets.scenes.tiles import Tiling, thinned
from ccnn_geo.nn import ModelCard, Preprocessing
from ccnn_geo.pretrained.card import TilePreprocessing
from ccnn_geo.pretrained.labelling import Labeller, ObjectLabeller, SceneLabeller
from datasets_helpers import cloud

ORIGIN = np.array([500_000.0, 5_400_000.0, 250.0])
TINY = {"hidden_channels": 4, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 4}


def network(in_channels: int = 3, kind: type[CCNN] = CCNN, **options) -> CCNN:
    """The same network whenever asked for."""
    torch.manual_seed(0)
    settings = {"dim": 3, "readout": None, "omega_0": 5.0, **TINY}
    return kind(in_channels, 3, **{**settings, **options})


class ReadsFeature(CCNN):
    """Labels every point with its fourth feature, and remembers the sizes of the tiles."""

    def forward(self, x, pos, batch=None, *, batch_size=None, **options):
        self.sizes = [*vars(self).get("sizes", []), *batch.bincount().tolist()]
        return 20 * torch.nn.functional.one_hot(x[:, 3].long(), 3).to(x)


class ReadsPosition(CCNN):
    """Says class 1 by the first coordinate and class 2 by the third."""

    def forward(self, x, pos, batch=None, **options):
        assert torch.equal(x[:, :3], pos)
        return torch.stack([torch.zeros(len(pos)), 3 * pos[:, 0], 2 * pos[:, 2] - 0.5], dim=1)


def scan(count: int = 300, seed: int = 0) -> Scene:
    """Points in multiples of 1/1024, with their classes among the attributes."""
    generator = np.random.default_rng(seed)
    points = np.round(1024 * generator.random((count, 3)) * (12, 8, 3)) / 1024
    return Scene(points, {"kind": generator.integers(0, 3, count).astype(np.float64)})


def tiling(**options) -> Tiling:
    return Tiling(**{"radius": 3.0, "voxel_size": 0.0, "num_points": 1000, **options})


def votes(points: np.ndarray, cut: Tiling) -> np.ndarray:
    """The probabilities of `ReadsPosition`, tile by tile and point by point."""
    total = np.zeros((len(points), 3))
    for center in cut.centers(points):
        flat = points[:, : cut.axes]
        inside = np.flatnonzero(np.linalg.norm(flat - center, axis=1) <= cut.radius)
        ground = np.quantile(points[inside, 2], 0.02) if cut.axes == 2 else center[2]
        for number in inside:
            x, _, z = (points[number] - [*center[:2], ground]) / cut.radius
            share = np.exp([0, 3 * x, 2 * z - 0.5])
            distance = np.linalg.norm(flat[number] - center) / cut.radius
            total[number] += max(1 - distance**2, 0.05) * share / share.sum()
    return total / total.sum(axis=1, keepdims=True)


class TestSceneLabeller:
    @pytest.mark.parametrize("shape", ["column", "sphere"])
    def test_probabilities_are_means_over_tiles_that_weigh_less_at_the_rim(self, shape):
        scene, cut = scan(), tiling(shape=shape)
        found = SceneLabeller(network(kind=ReadsPosition), cut).label(scene)
        expected = votes(scene.points, cut)
        np.testing.assert_array_equal(found.labels, expected.argmax(axis=1))
        np.testing.assert_allclose(found.confidence, expected.max(axis=1), rtol=1e-4)
        assert set(found.labels.tolist()) == {0, 1, 2}
        assert found.labels.dtype == np.int64
        assert found.num_points == 300

    @pytest.mark.parametrize("num_points", [1, 20, 1000])
    def test_every_point_has_its_label_in_the_order_of_the_scan(self, num_points):
        scene, model = scan(), network(4, ReadsFeature)
        found = SceneLabeller(model, tiling(num_points=num_points), ("kind",)).label(scene)
        np.testing.assert_array_equal(found.labels, scene.attributes["kind"])
        np.testing.assert_allclose(found.confidence, 1, atol=1e-6)
        assert max(model.sizes) <= num_points

    def test_large_tiles_are_divided_into_parts_of_the_size_of_training(self):
        model = network(4, ReadsFeature)
        SceneLabeller(model, tiling(radius=50.0, num_points=40), ("kind",)).label(scan(100))
        assert model.sizes == [40, 40, 40]

    def test_points_that_were_thinned_out_have_the_label_of_the_nearest_one(self):
        scene, cut = scan(), tiling(voxel_size=1.0)
        found = SceneLabeller(network(4, ReadsFeature), cut, ("kind",)).label(scene)
        kept = thinned(scene.points, 1.0)
        assert found.num_points == len(kept) < 300
        distances = np.linalg.norm(scene.points[:, None] - scene.points[kept], axis=2)
        expected = scene.attributes["kind"][kept[distances.argmin(axis=1)]]
        np.testing.assert_array_equal(found.labels, expected)
        np.testing.assert_array_equal(found.labels[kept], scene.attributes["kind"][kept])

    def test_copies_of_a_point_have_one_label(self):
        points = np.repeat(scan(40).points, 3, axis=0)
        cut = tiling(voxel_size=0.01)
        found = SceneLabeller(network(), cut).label(Scene(points))
        assert found.num_points == 40
        np.testing.assert_array_equal(found.labels, np.repeat(found.labels[::3], 3))

    def test_points_in_another_order_have_the_same_labels(self):
        scene = scan()
        order = np.random.default_rng(1).permutation(300)
        found = SceneLabeller(network(), tiling()).label(scene)
        permuted = SceneLabeller(network(), tiling()).label(scene.select(order))
        assert len(set(found.labels.tolist())) > 1
        np.testing.assert_array_equal(permuted.labels, found.labels[order])
        np.testing.assert_allclose(permuted.confidence, found.confidence[order], atol=1e-5)

    @pytest.mark.parametrize("voxel_size", [0.0, 0.5])
    @pytest.mark.parametrize("shape", ["column", "sphere"])
    def test_georeferenced_points_have_the_same_labels(self, voxel_size, shape):
        scene, cut = scan(), tiling(voxel_size=voxel_size, shape=shape)
        near = SceneLabeller(network(), cut).label(scene)
        far = SceneLabeller(network(), cut).label(Scene(scene.points + ORIGIN))
        np.testing.assert_array_equal(far.labels, near.labels)
        np.testing.assert_allclose(far.confidence, near.confidence, atol=1e-5)
        assert far.num_points == near.num_points

    def test_a_single_point_has_a_label(self):
        found = SceneLabeller(network(4, ReadsFeature), tiling(), ("kind",)).label(
            Scene(ORIGIN[None], {"kind": np.array([2.0])})
        )
        assert found.labels.tolist() == [2]
        assert found.num_points == 1
        assert SceneLabeller(network(), tiling()).label(Scene(ORIGIN[None])).confidence[0] >= 1 / 3

    def test_tiles_without_points_change_nothing(self):
        class Wide(Tiling):
            """Tiles around empty ground among the others."""

            def centers(self, points):
                centers, empty = super().centers(points), np.full((1, self.axes), 1e4)
                return np.concatenate([empty, centers[:2], empty, centers[2:], empty])

        scene, options = scan(), {"radius": 3.0, "voxel_size": 0.0, "num_points": 1000}
        found, expected = (
            SceneLabeller(network(), kind(**options)).label(scene) for kind in (Wide, Tiling)
        )
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.confidence, expected.confidence)

    def test_the_seed_determines_the_labels(self):
        def confidence(seed: int) -> list[float]:
            labeller = SceneLabeller(network(), tiling(num_points=20), seed=seed)
            assert labeller.label(scan()).confidence.tolist() == (
                labeller.label(scan()).confidence.tolist()
            )
            return labeller.label(scan()).confidence.tolist()

        assert confidence(0) == confidence(0) != confidence(1)

    def test_the_network_is_evaluated_without_dropout(self):
        model = network(dropout=0.5).train()
        first, second = (SceneLabeller(model, tiling()).label(scan()) for _ in range(2))
        np.testing.assert_array_equal(first.confidence, second.confidence)
        assert not model.training

    def test_double_precision_networks_work(self):
        single = SceneLabeller(network(), tiling()).label(scan())
        double = SceneLabeller(network().double(), tiling()).label(scan())
        np.testing.assert_allclose(double.confidence, single.confidence, atol=1e-4)

    def test_the_scan_is_left_alone(self):
        scene, same = scan(), scan()
        SceneLabeller(network(), tiling(voxel_size=0.5)).label(scene)
        np.testing.assert_array_equal(scene.points, same.points)


class TestFeatures:
    @pytest.mark.parametrize(
        ("channels", "features", "message"),
        [
            (6, (), r"a.ply: expected features of 3 channels, got 0 in \[\]"),
            (3, ("kind",), r"a.ply: expected features of 0 channels, got 1 in \['kind'\]"),
            (6, ("color",), "a.ply: expected an attribute 'color', got kind"),
        ],
    )
    def test_that_do_not_fit_the_network(self, channels, features, message):
        labeller = SceneLabeller(network(channels), tiling(), features)
        with pytest.raises(ValueError, match=message):
            labeller.label(scan(), name="a.ply")

    def test_that_are_not_finite(self):
        scene = Scene(np.eye(3), {"kind": np.array([1.0, np.nan, 0.0])})
        with pytest.raises(ValueError, match="a.ply: expected finite `kind`, got NaN or infinity"):
            SceneLabeller(network(4), tiling(), ("kind",)).label(scene, name="a.ply")

    def test_too_many_voxels(self):
        scene = Scene(np.array([[0.0, 0.0, 0.0], [1e7, 1e7, 1e7]]))
        with pytest.raises(ValueError, match="`voxel_size` of a scan of .* got 1e-05"):
            SceneLabeller(network(), tiling(voxel_size=1e-5)).label(scene)


@pytest.mark.parametrize("kind", [SceneLabeller, ObjectLabeller])
class TestArguments:
    RECIPE = Preprocessing(num_points=8, features=("pos",), normalize="box", points_per_mesh=8)

    def labeller(self, kind, model, **options):
        return kind(model, tiling() if kind is SceneLabeller else self.RECIPE, **options)

    def test_a_network_with_a_readout(self, kind):
        with pytest.raises(ValueError, match="without a readout to label points, got 'mean'"):
            self.labeller(kind, network(readout="mean"))

    def test_names_of_classes(self, kind):
        assert self.labeller(kind, network()).classes == ["0", "1", "2"]
        named = self.labeller(kind, network(), classes=("a", "b", "c"))
        assert named.classes == ["a", "b", "c"]
        with pytest.raises(ValueError, match="Expected names of 3 classes, got 2"):
            self.labeller(kind, network(), classes=("a", "b"))


class TestObjectLabeller:
    def recipe(self, **options) -> Preprocessing:
        settings = {"num_points": 40, "features": ("pos",), "normalize": "box"}
        return Preprocessing(**{**settings, "points_per_mesh": 40, **options})

    def test_the_network_is_given_the_normalised_cloud(self):
        points, normals = cloud(40)
        scene = Scene(ORIGIN + 7 * points, {"normal": normals})
        recipe = self.recipe(features=("normal", "pos"))
        found = ObjectLabeller(network(6), recipe).label(scene)
        centred = points - points.mean(axis=0)
        pos = torch.from_numpy(centred / np.abs(centred).max()).float()
        x = torch.cat([torch.from_numpy(normals).float(), pos], dim=1)
        with torch.no_grad():
            expected = network(6).eval()(x, pos).softmax(dim=1)
        np.testing.assert_allclose(found.confidence, expected.max(dim=1).values, atol=1e-5)
        np.testing.assert_array_equal(found.labels, expected.argmax(dim=1))

    def test_points_in_another_order_have_the_same_labels(self):
        points, _ = cloud(40)
        order = np.random.default_rng(1).permutation(40)
        found = ObjectLabeller(network(), self.recipe()).label(Scene(points))
        permuted = ObjectLabeller(network(), self.recipe()).label(Scene(points[order]))
        np.testing.assert_array_equal(permuted.labels, found.labels[order])
        np.testing.assert_allclose(permuted.confidence, found.confidence[order], atol=1e-5)

    @pytest.mark.parametrize(
        ("count", "rounds", "sizes"),
        [(40, 2, [40]), (7, 2, [7]), (100, 1, [40] * 3), (100, 2, [40] * 6), (41, 3, [40] * 6)],
    )
    def test_large_clouds_are_divided_several_times(self, count, rounds, sizes):
        class ReadsHeight(CCNN):
            def forward(self, x, pos, batch=None, **options):
                self.sizes = [*vars(self).get("sizes", []), *batch.bincount().tolist()]
                return 20 * torch.nn.functional.one_hot((pos[:, 2] > 0).long(), 3).to(x)

        model, points = network(kind=ReadsHeight), cloud(count)[0]
        recipe = self.recipe()
        found = ObjectLabeller(model, recipe, rounds=rounds).label(Scene(points))
        assert model.sizes == sizes
        height = points[:, 2] - points[:, 2].mean()
        np.testing.assert_array_equal(found.labels, height > 0)
        assert found.num_points == count

    def test_a_sparse_cloud_stands_for_the_same_integral(self):
        """A cloud all of whose points lie r-fold on each other is its r-th part with weight r."""
        points, _ = cloud(20)
        model = network(num_neighbors=40)
        sparse = ObjectLabeller(model, self.recipe()).label(Scene(points))
        dense = ObjectLabeller(model, self.recipe()).label(Scene(np.concatenate([points, points])))
        np.testing.assert_array_equal(dense.labels, np.tile(sparse.labels, 2))
        np.testing.assert_allclose(dense.confidence, np.tile(sparse.confidence, 2), atol=1e-5)

    def test_no_rounds(self):
        with pytest.raises(ValueError, match="Expected `rounds` >= 1, got 0"):
            ObjectLabeller(network(), self.recipe(), rounds=0)


class TestFromPretrained:
    def save(self, folder, recipe, task="segmentation", **options):
        model = network(**options)
        card = ModelCard(classes=("ground", "tree", "rest"), preprocessing=recipe, task=task)
        model.save_pretrained(folder, card=card)
        return model

    def test_weights_for_tiles_label_scans(self, tmp_path):
        recipe = TilePreprocessing(
            radius=3.0, voxel_size=0.5, num_points=30, shape="sphere", features=()
        )
        model = self.save(tmp_path, recipe)
        labeller = Labeller.from_pretrained(tmp_path)
        assert isinstance(labeller, SceneLabeller)
        assert labeller.classes == ["ground", "tree", "rest"]
        assert labeller.tiling == tiling(voxel_size=0.5, num_points=30, shape="sphere")
        expected = SceneLabeller(model, labeller.tiling).label(scan())
        np.testing.assert_array_equal(labeller.label(scan()).confidence, expected.confidence)

    def test_weights_for_clouds_label_objects(self, tmp_path):
        recipe = TestObjectLabeller().recipe()
        model = self.save(tmp_path, recipe)
        labeller = Labeller.from_pretrained(tmp_path, seed=3)
        assert isinstance(labeller, ObjectLabeller)
        expected = ObjectLabeller(model, recipe, seed=3).label(scan())
        np.testing.assert_array_equal(labeller.label(scan()).confidence, expected.confidence)

    def test_weights_of_a_classifier(self, tmp_path):
        self.save(tmp_path, TestObjectLabeller().recipe(), task="classification", readout="mean")
        message = f"weights that label every point, got {tmp_path} with a card of classification"
        with pytest.raises(ValueError, match=message):
            Labeller.from_pretrained(tmp_path)

    def test_weights_without_a_card(self, tmp_path):
        network().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"label every point, got {tmp_path} with no card"):
            Labeller.from_pretrained(tmp_path)

    def test_missing_weights(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            Labeller.from_pretrained(tmp_path / "nowhere")
