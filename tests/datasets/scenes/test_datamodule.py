"""The data module of labelled scans: splits, features and augmentation."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import Scene, SceneDataModule, write_scene  # noqa: E402
from datasets_helpers import put  # noqa: E402

PLAIN = dict.fromkeys(
    ["random_rotate_z", "random_scale", "random_jitter", "random_thinning"], False
)


def put_scans(root: Path, **counts: int) -> Path:
    """Makes scans of a hundred points in each split, numbered by their heights."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        for number in range(count):
            points = np.column_stack([10 * generator.random((100, 2)), np.full(100, number)])
            colors = generator.random((100, 3)).astype(np.float32)
            attributes = {"color": colors, "time": np.arange(100.0)}
            labels = np.arange(100) % 2
            write_scene(root / split / f"{number}.npz", Scene(points, attributes, labels))
    return root


def module(root: Path | None, name: str = "folder", **options) -> SceneDataModule:
    defaults = {"radius": 3.0, "voxel_size": 0.0, "num_points": 64, "num_tiles": 12}
    data = SceneDataModule(name, root, **{**defaults, **PLAIN, "batch_size": 4, **options})
    data.prepare_data()
    data.setup()
    return data


def scans_of(dataset) -> list[int]:
    """Returns the numbers of the scans."""
    return [int(scene.points[0, 2]) for scene in dataset.scenes]


class TestSplits:
    def test_a_share_of_the_training_scans_is_held_out(self, tmp_path):
        data = module(put_scans(tmp_path, train=10, test=2), val_fraction=0.3)
        train, val = scans_of(data.train_dataset), scans_of(data.val_dataset)
        assert len(val) == 3
        assert sorted(train + val) == list(range(10))
        assert scans_of(data.test_dataset) == [0, 1]
        assert list(data.test_scenes) == ["0.npz", "1.npz"]
        assert len(data.test_scenes["0.npz"]) == 100
        assert data.split_sizes["train"] == 12

    def test_do_not_depend_on_the_seed_of_the_run(self, tmp_path):
        root = put_scans(tmp_path, train=10)
        options = ({"seed": 1}, {"seed": 2}, {"sampling_seed": 1}, {"sampling_seed": 2})
        first, second, *others = (
            scans_of(module(root, val_fraction=0.3, **option).val_dataset) for option in options
        )
        assert first == second
        assert any(other != first for other in others)

    @pytest.mark.parametrize(
        ("count", "fraction", "held_out"), [(4, 0.1, 1), (4, 0.0, 0), (1, 0.5, 0), (2, 0.99, 1)]
    )
    def test_a_training_scan_and_one_of_validation_remain(
        self, tmp_path, count, fraction, held_out
    ):
        data = module(put_scans(tmp_path, train=count), val_fraction=fraction)
        assert len(data.val_dataset.scenes) == held_out
        assert len(data.train_dataset.scenes) == count - held_out
        if held_out == 0:
            assert data.val_dataloader() == []

    def test_validation_scans_of_the_data_set_are_used(self, tmp_path):
        data = module(put_scans(tmp_path, train=3, val=2, test=1))
        assert scans_of(data.train_dataset) == [0, 1, 2]
        assert scans_of(data.val_dataset) == [0, 1]

    def test_missing_test_scans_are_said_when_they_are_wanted(self, tmp_path):
        data = module(put_scans(tmp_path, train=2))
        assert data.split_sizes["test"] == 0
        with pytest.raises(ValueError, match=f"{tmp_path}: expected test samples, got none"):
            data.test_dataloader()

    def test_asks_for_setup_first(self):
        with pytest.raises(RuntimeError, match=r"`setup\(\)` to be called first"):
            _ = SceneDataModule("landscapes").class_counts


class TestBatches:
    def test_hold_points_features_and_labels(self, tmp_path):
        root = put_scans(tmp_path, train=3, test=1)
        data = module(root, features=["color", "time"])
        assert data.num_features == 7
        assert data.num_classes == 2
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            batch = next(iter(loader))
            assert batch.num_graphs == 4
            assert batch.x.shape == (len(batch.pos), 7)
            assert batch.y.shape == batch.pos.shape[:1]
            assert torch.equal(batch.x[:, :3], batch.pos)
            # Points are told by their times, which are also their labels modulo 2.
            assert torch.equal(batch.x[:, 6].long() % 2, batch.y)

    def test_features_are_those_of_the_points(self, tmp_path):
        data = module(put_scans(tmp_path, train=3, test=1), features=["color", "time"])
        (scene,) = data.test_scenes.values()
        tile = data.test_dataset[0]
        index = tile.x[:, 6].long().numpy()
        np.testing.assert_array_equal(tile.x[:, 3:6].numpy(), scene.attributes["color"][index])

    def test_positions_are_the_only_features_by_default(self, tmp_path):
        data = module(put_scans(tmp_path, train=2))
        assert data.num_features == 3
        tile = data.train_dataset[0]
        assert torch.equal(tile.x, tile.pos)

    def test_a_missing_feature_is_named(self, tmp_path):
        root = put_scans(tmp_path, train=2)
        message = "expected an attribute 'intensity', got color, time"
        with pytest.raises(ValueError, match=message):
            module(root, features=["intensity"])

    def test_training_tiles_depend_on_seed_and_epoch_alone(self, tmp_path):
        root = put_scans(tmp_path, train=3)

        def times(**options) -> list[float]:
            data = module(root, **{"num_points": 8, "random_thinning": True, **options})
            loader = data.train_dataloader()
            return torch.cat([batch.x.flatten() for batch in loader]).tolist()

        assert times() == times()
        assert times() != times(seed=1)

    def test_evaluation_tiles_do_not_depend_on_the_seed_of_the_run(self, tmp_path):
        root = put_scans(tmp_path, train=3, test=1)
        first, second, third = (
            module(root, num_points=8, **options)
            for options in ({"seed": 1}, {"seed": 2}, {"sampling_seed": 1})
        )
        for index in range(len(first.test_dataset)):
            assert torch.equal(first.test_dataset[index].pos, second.test_dataset[index].pos)
        assert not torch.equal(first.test_dataset[0].pos, third.test_dataset[0].pos)


class TestAugmentation:
    def tiles(self, root, **options):
        """The same training tile with and without an augmentation."""
        options = {"features": ["time"], **options}
        plain, changed = module(root, features=["time"]), module(root, **options)
        for split in ("val_dataset", "test_dataset"):
            first, second = getattr(plain, split)[0], getattr(changed, split)[0]
            assert torch.equal(first.x, second.x)
        return plain.train_dataset[0, 0], changed.train_dataset[0, 0]

    @pytest.fixture
    def root(self, tmp_path):
        return put_scans(tmp_path, train=3, test=1)

    def test_rotates_about_the_third_axis(self, root):
        plain, changed = self.tiles(root, random_rotate_z=True)
        assert torch.equal(plain.x[:, 2:], changed.x[:, 2:])
        assert not torch.allclose(plain.x[:, :2], changed.x[:, :2])
        lengths = changed.pos[:, :2].norm(dim=1)
        torch.testing.assert_close(plain.pos[:, :2].norm(dim=1), lengths)
        assert torch.equal(changed.x[:, :3], changed.pos)

    def test_scales(self, root):
        plain, changed = self.tiles(root, random_scale=True)
        ratio = changed.pos.norm() / plain.pos.norm()
        assert 0.8 <= ratio <= 1.25
        assert abs(ratio - 1) > 0.001
        torch.testing.assert_close(changed.pos, ratio * plain.pos)
        assert torch.equal(plain.x[:, 3], changed.x[:, 3])

    def test_jitters(self, root):
        plain, changed = self.tiles(root, random_jitter=True)
        steps = (changed.pos - plain.pos).abs()
        assert 0.001 < steps.mean() < 0.01
        assert steps.max() <= 0.0101

    def test_thins(self, root):
        plain, _ = self.tiles(root, random_thinning=True)
        dataset = module(root, features=["time"], random_thinning=True).train_dataset
        whole = module(root, features=["time"]).train_dataset
        sizes = np.array([[len(d[0, index].pos) for d in (dataset, whole)] for index in range(12)])
        assert (sizes[:, 0] <= sizes[:, 1]).all()
        assert (sizes[:, 0] < 0.8 * sizes[:, 1]).any()
        assert (sizes[:, 0] >= np.minimum(16, sizes[:, 1])).all()
        for index in range(12):
            assert set(dataset[0, index].x[:, 3].tolist()) <= set(whole[0, index].x[:, 3].tolist())

    def test_is_on_by_default_except_for_jitter(self):
        data = SceneDataModule()
        assert data.random_rotate_z
        assert data.random_scale
        assert data.random_thinning
        assert not data.random_jitter


class TestNames:
    def test_landscapes_are_generated(self, tmp_path):
        data = module(None, "landscapes", train_scenes=2, test_scenes=1, voxel_size=1.0, radius=8.0)
        assert data.class_names == ["ground", "tree", "clutter"]
        assert list(data.test_scenes) == ["landscape_test_000"]
        assert [len(data.train_dataset.scenes), len(data.val_dataset.scenes)] == [1, 1]
        assert sum(data.class_counts) == len(data.train_dataset.scenes[0])
        assert len(data.train_dataset.scenes[0]) > 1000
        assert data.root == Path("data/landscapes")

    def test_s3dis_tests_on_an_area(self, tmp_path):
        for area in (1, 2, 3):
            put(tmp_path / f"Area_{area}/a/Annotations/tree_1.txt", f"0 0 {area} 1 2 3\n")
            put(tmp_path / f"Area_{area}/a/Annotations/ground_1.txt", f"0 1 {area} 1 2 3\n")
        data = module(tmp_path, "s3dis", test_area=2, val_fraction=0)
        assert data.class_names == ["ground", "tree"]
        assert scans_of(data.train_dataset) == [1, 3]
        assert list(data.test_scenes) == ["Area_2/a"]

    def test_arrays_of_the_real_forest(self, shared_data):
        data = module(
            shared_data / "forest_scans.npz", "arrays", test_area=3, voxel_size=0.4, radius=5.0,
            val_fraction=0, features=["color"],
        )  # fmt: skip
        assert data.class_names == ["ground", "tree", "clutter"]
        assert list(data.test_scenes) == ["Area_3_nefulinchang_1"]
        assert len(data.test_scenes["Area_3_nefulinchang_1"]) == 60_000
        assert data.num_features == 6
        assert 1000 < min(data.class_counts) < sum(data.class_counts) < 120_000
        labels = torch.cat([data.train_dataset[0, index].y for index in range(12)])
        assert set(labels.tolist()) == {0, 1, 2}

    def test_the_attribute_of_the_labels_can_be_named(self, tmp_path):
        data = module(put_scans(tmp_path, train=2), label="time")
        assert data.num_classes == 100


def test_classes_without_a_training_point_are_reported(tmp_path, caplog):
    root = put_scans(tmp_path, train=2)
    put(root / "classes.txt", "ground\ntree\nwater\nroad\n")
    with caplog.at_level(logging.WARNING):
        data = module(root)
    assert f"{root}: no training point has the class water, road" in caplog.text
    assert data.class_counts == [50, 50, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "forest"}, r"`name` to be one of \('landscapes', .*\), got 'forest'"),
        ({"name": "folder"}, "`root` for the data set 'folder', got none"),
        ({"name": "s3dis"}, "`root` for the data set 's3dis', got none"),
        ({"name": "arrays"}, "`root` for the data set 'arrays', got none"),
        ({"val_fraction": 1.0}, r"`val_fraction` in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.1}, r"`val_fraction` in \[0, 1\), got -0.1"),
        ({"radius": 0.0}, "`radius` > 0 and `voxel_size` >= 0, got 0.0 and 0.4"),
        ({"num_points": 0}, "`num_points` >= 1, got 0"),
        ({"shape": "cube"}, "`shape` to be one of .*, got 'cube'"),
        ({"batch_size": 0}, "`batch_size` >= 1 and `num_workers` >= 0, got 0 and 0"),
    ],
)
def test_arguments_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        SceneDataModule(**options)


def test_normals_among_the_features_are_rotated_with_the_points(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        directions = np.random.default_rng(0).standard_normal((100, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        attributes = {"normal": directions.astype(np.float32), "time": np.arange(100.0)}
        scene = Scene(10 * directions, attributes, np.arange(100) % 2)
        write_scene(tmp_path / split / "a.npz", scene)
    options = {"features": ["normal", "time"], "radius": 30.0, "num_points": 100}
    plain = module(tmp_path, **options).train_dataset[0, 0]
    turned = module(tmp_path, random_rotate_z=True, **options).train_dataset[0, 0]
    assert torch.equal(plain.x[:, 6], turned.x[:, 6])
    # Vectors from point to point turn in the same way as the normals.
    step = (plain.pos[1:, :2] - plain.pos[:1, :2], turned.pos[1:, :2] - turned.pos[:1, :2])
    cosines = [
        torch.nn.functional.cosine_similarity(each, tile.x[1:, 3:5])
        for each, tile in zip(step, (plain, turned), strict=True)
    ]
    torch.testing.assert_close(*cosines)
