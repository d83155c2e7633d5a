"""Training tiles with balanced classes, and evaluation tiles that cover the scans."""

import numpy as np
import pytest
import torch

from ccnn_geo.datasets import Scene
from ccnn_geo.datasets.scenes.dataset import SceneTiles, tile_features
from ccnn_geo.datasets.scenes.tiles import Tiling

CLASSES = ["ground", "tree", "rare", "absent"]


def grid(width: int = 20, depth: int = 10, start: int = 0) -> Scene:
    """Points one metre apart whose attribute `number` tells which they are.

    Of each ten, eight are ground, one is a tree and one has no class; one point is rare.
    """
    count = width * depth
    number = start + np.arange(count)
    places = np.stack([np.arange(count) % width, np.arange(count) // width], axis=1)
    points = np.column_stack([places, 0.01 * np.arange(count)]).astype(np.float64)
    labels = np.select([number % 10 == 3, number % 10 == 7], [1, -1], 0)
    labels[0] = 2
    return Scene(points, {"number": number.astype(np.float64)}, labels)


def tiles(*scenes: Scene, transform=None, train=True, num_tiles=32, seed=0, **options):
    """Tiles of scans that are called a, b and so on."""
    tiling = {"radius": 2.0, "voxel_size": 0.0, "num_points": 100, **options}
    return SceneTiles(
        dict(zip("abc", scenes or (grid(),), strict=False)),
        CLASSES,
        tiling=Tiling(**tiling),
        features=("number",),
        train=train,
        num_tiles=num_tiles,
        seed=seed,
        transform=transform,
    )


def numbers(data) -> list[int]:
    """Returns which points a tile has."""
    return data.feature_0[:, 0].int().tolist()


class TestTrainingTiles:
    @pytest.mark.parametrize("num_points", [5, 100])
    def test_have_the_labels_and_local_positions_of_their_points(self, num_points):
        scene = grid()
        for data in map(tiles(scene, num_points=num_points).__getitem__, range(32)):
            index = np.array(numbers(data))
            assert data.y.tolist() == scene.labels[index].tolist()
            assert data.pos.dtype == data.feature_0.dtype == torch.float32
            assert data.y.dtype == torch.int64
            assert data.pos[:, :2].norm(dim=1).max() <= 1
            np.testing.assert_allclose(
                2 * (data.pos - data.pos[0]).numpy(),
                scene.points[index] - scene.points[index[0]],
                atol=1e-5,
            )

    def test_are_whole(self):
        """A disc of radius 2 around a point of the grid has 13 points, less at the edges."""
        sizes = [len(data.pos) for data in map(tiles().__getitem__, range(32))]
        assert max(sizes) == 13
        assert min(sizes) >= 6

    def test_are_centred_on_all_classes_equally_often(self):
        dataset = tiles(radius=0.5, num_tiles=600)
        labels = [int(dataset[0, index].y) for index in range(600)]
        counts = np.bincount(labels, minlength=4)
        assert counts.sum() == 600
        assert counts[3] == 0
        np.testing.assert_allclose(counts[:3], 200, atol=45)

    def test_are_centred_on_all_points_of_a_class_and_never_on_others(self):
        first, second = grid(), grid(start=200)
        second.labels[0] = 0
        dataset = tiles(first, second, radius=0.5, num_tiles=900)
        drawn = [numbers(dataset[0, index]) for index in range(900)]
        assert {len(tile) for tile in drawn} == {1}
        drawn = {tile[0] for tile in drawn}
        trees = {number for number in range(400) if number % 10 == 3}
        assert trees <= drawn
        assert 0 in drawn
        assert not any(number % 10 == 7 for number in drawn)

    def test_points_without_a_class_stay_in_tiles(self):
        dataset = tiles(num_tiles=100)
        labels = torch.cat([dataset[0, index].y for index in range(100)])
        assert (labels == -1).sum() > 10

    def test_are_determined_by_seed_epoch_and_index(self):
        dataset = tiles(num_points=5)
        first = [numbers(dataset[0, index]) for index in range(8)]
        assert [numbers(dataset[0, index]) for index in reversed(range(8))] == first[::-1]
        assert [numbers(tiles(num_points=5)[0, index]) for index in range(8)] == first
        assert [numbers(dataset[1, index]) for index in range(8)] != first
        assert [numbers(tiles(num_points=5, seed=1)[0, index]) for index in range(8)] != first

    def test_have_as_many_points_as_the_network_is_given(self):
        dataset = tiles(num_points=5)
        sizes = [len(dataset[index].pos) for index in range(32)]
        assert max(sizes) == 5
        assert min(sizes) >= 3

    def test_the_ground_of_a_column_is_that_of_all_its_points(self):
        scene = grid()
        dataset = tiles(scene, radius=30.0, num_points=20)
        data = dataset[0]
        heights = scene.points[numbers(data), 2]
        ground = np.quantile(scene.points[:, 2], 0.02)
        np.testing.assert_allclose(30 * data.pos[:, 2].numpy(), heights - ground, atol=1e-5)

    def test_there_are_as_many_as_told(self):
        assert len(tiles(num_tiles=7)) == 7
        with pytest.raises(IndexError, match="an index of one of 7 samples, got 7"):
            tiles(num_tiles=7)[7]


class TestEvaluationTiles:
    @pytest.mark.parametrize("shape", ["column", "sphere"])
    def test_cover_all_scans(self, shape):
        dataset = tiles(grid(), grid(start=200), train=False, shape=shape)
        found = {number for data in dataset for number in numbers(data)}
        assert found == set(range(400))
        assert len(dataset) == sum(len(dataset.tiling.centers(s.points)) for s in dataset.scenes)

    def test_are_the_same_whenever_asked_for(self):
        dataset = tiles(train=False, num_points=5)
        first = [numbers(data) for data in dataset]
        torch.manual_seed(1)
        assert [numbers(data) for data in dataset] == first
        assert [numbers(data) for data in tiles(train=False, num_points=5)] == first
        assert [numbers(data) for data in tiles(train=False, num_points=5, seed=1)] != first
        assert max(map(len, first)) == 5

    def test_do_not_depend_on_the_number_of_training_tiles(self):
        assert len(tiles(train=False, num_tiles=1)) == len(tiles(train=False, num_tiles=99)) > 20


class TestThinning:
    def test_points_and_counts_are_those_of_the_thinned_scan(self):
        scene = grid()
        dataset = tiles(scene, voxel_size=2.0, train=False)
        assert len(dataset.scenes[0]) == 50
        kept = dataset.scenes[0].attributes["number"].astype(int)
        assert kept.tolist() == [
            40 * row + column for row in range(5) for column in range(0, 20, 2)
        ]
        expected = np.bincount(scene.labels[kept][scene.labels[kept] >= 0], minlength=4)
        assert dataset.class_counts == expected.tolist()
        assert {number for data in dataset for number in numbers(data)} == set(kept.tolist())

    def test_points_without_a_class_are_not_counted(self):
        assert tiles(grid(), grid()).class_counts == [318, 40, 2, 0]

    def test_the_scan_is_left_alone(self):
        scene, same = grid(), grid()
        _ = tiles(scene, voxel_size=2.0)[0]
        np.testing.assert_array_equal(scene.points, same.points)
        np.testing.assert_array_equal(scene.labels, same.labels)


def test_transforms_are_applied_and_draw_by_seed_epoch_and_index():
    def draw(data):
        data.drawn = torch.rand(())
        return data

    dataset = tiles(transform=draw)
    assert dataset[0, 3].drawn == dataset[0, 3].drawn
    assert len({float(dataset[0, index].drawn) for index in range(8)}) == 8


class TestFeatures:
    scene = Scene(
        np.zeros((2, 3)), {"color": np.full((2, 3), 0.5), "height": np.array([1, 2])}, np.array([0])
    )

    def test_are_in_the_order_of_their_names(self):
        found = tile_features("a", self.scene, ("height", "color"))
        assert {name: each.tolist() for name, each in found.items()} == {
            "feature_0": [[1], [2]],
            "feature_1": [[0.5, 0.5, 0.5]] * 2,
        }
        assert all(each.dtype == np.float32 for each in found.values())

    def test_there_may_be_none(self):
        assert tile_features("a", self.scene, ()) == {}
        dataset = SceneTiles(
            {"a": grid()}, CLASSES, tiling=Tiling(radius=1, voxel_size=0, num_points=9), train=True
        )
        assert sorted(dataset[0].keys()) == ["pos", "y"]

    def test_a_missing_one_is_named(self):
        message = "scan 7: expected an attribute 'intensity', got color, height"
        with pytest.raises(ValueError, match=message):
            tile_features("scan 7", self.scene, ("color", "intensity"))
        with pytest.raises(ValueError, match="expected an attribute 'intensity', got none"):
            tile_features("scan 7", Scene(np.zeros((1, 3))), ("intensity",))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_have_to_be_finite(self, value):
        scene = Scene(np.zeros((2, 3)), {"color": np.array([[0, 0, 0], [0, value, 0]])})
        with pytest.raises(ValueError, match="b: expected finite `color`, got NaN or infinity"):
            tile_features("b", scene, ("color",))

    def test_a_scan_without_them_is_named(self):
        with pytest.raises(ValueError, match="b: expected an attribute 'number', got none"):
            tiles(grid(), Scene(np.eye(3), labels=np.zeros(3, np.int64)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tiles": 0}, "Expected `num_tiles` >= 1, got 0"),
        ({"seed": -1}, "Expected `seed` to be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiles(**options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "Expected scans with labels, got one without"),
        (np.full(200, -1), "Expected training scans with labelled points, got none"),
    ],
)
def test_training_needs_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        tiles(Scene(grid().points, grid().attributes, labels))
