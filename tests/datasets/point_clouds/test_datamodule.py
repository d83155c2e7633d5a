"""The data module: splits, features, augmentation, and runs that go on where they were cut off."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch

from datasets_helpers import open3d, put, put_classes

pl = pytest.importorskip("pytorch_lightning", reason="the package `pytorch_lightning` is missing")
jsonargparse = pytest.importorskip("jsonargparse", reason="the package `jsonargparse` is missing")

from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402

from ccnn_geo.datasets import PointCloudDataModule  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    # Clouds in memory need no workers; and Lightning still asks PyTorch the old way.
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:.*isinstance\\(treespec, LeafSpec\\).*:FutureWarning",
)


@pytest.fixture
def arrays(tmp_path) -> Path:
    """Writes clouds that are numbered by their x coordinate, in three classes."""
    path = tmp_path / "arrays.npz"
    shape = (60, 24, 3)
    positions = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    positions[:, :, 0] = np.arange(60)[:, None]
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    np.savez(
        path,
        train_pos=positions,
        train_y=labels,
        train_normal=np.broadcast_to(np.float32([1, 0, 0]), shape),
        test_pos=positions[::6] + 1000,
        test_y=labels[::6],
        test_normal=np.broadcast_to(np.float32([1, 0, 0]), (10, 24, 3)),
        classes=["x", "y", "z"],
    )
    return path


def without_normals(path: Path) -> Path:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file if not name.endswith("normal")}
    bare = path.with_name("bare.npz")
    np.savez(bare, **arrays)
    return bare


def module(root: Path, name: str = "arrays", **options) -> PointCloudDataModule:
    defaults = {"num_points": 8, "points_per_mesh": 32, "batch_size": 8, "num_processes": 1}
    data = PointCloudDataModule(name, root, **defaults | {"normalize": "none"} | options)
    data.prepare_data()
    data.setup()
    return data


def clouds_of(dataset) -> list[int]:
    """Returns the numbers of the clouds."""
    return [int(data.pos[0, 0]) for data in dataset]


class TestSplits:
    def test_validation_is_a_stratified_tenth_of_the_training_split(self, arrays):
        data = module(arrays)
        assert data.split_sizes == {"train": 54, "val": 6, "test": 10}
        train, val, test = map(clouds_of, (data.train_dataset, data.val_dataset, data.test_dataset))
        assert sorted(train + val) == list(range(60))
        assert min(test) >= 1000
        assert np.bincount(data.val_dataset.clouds.labels).tolist() == [3, 2, 1]

    def test_the_splits_do_not_depend_on_the_seed_of_the_run(self, arrays):
        first, second, third = (
            clouds_of(module(arrays, **options).val_dataset)
            for options in ({"seed": 1}, {"seed": 2}, {"sampling_seed": 1})
        )
        assert first == second != third

    def test_all_clouds_made_of_a_mesh_fall_to_the_same_split(self, arrays):
        data = module(arrays, resample=2)
        assert data.split_sizes == {"train": 108, "val": 6, "test": 10}
        train, val = clouds_of(data.train_dataset), clouds_of(data.val_dataset)
        assert sorted(train) == sorted(2 * list(set(train)))
        assert not set(train) & set(val)
        assert val == clouds_of(module(arrays).val_dataset)

    def test_a_limit_on_the_training_clouds_keeps_the_shares_and_the_validation_split(self, arrays):
        data = module(arrays, train_size=12, resample=2)
        assert data.split_sizes == {"train": 24, "val": 6, "test": 10}
        assert np.bincount(data.train_dataset.clouds.labels).tolist() == [12, 8, 4]
        assert clouds_of(data.val_dataset) == clouds_of(module(arrays).val_dataset)
        assert set(clouds_of(data.train_dataset)) <= set(clouds_of(module(arrays).train_dataset))
        with pytest.raises(ValueError, match="`train_size` from 1 to 54, got 55"):
            module(arrays, train_size=55)

    def test_there_may_be_no_validation(self, arrays):
        data = module(arrays, val_fraction=0)
        assert data.split_sizes["val"] == 0
        assert data.val_dataloader() == []

    def test_a_missing_test_split_is_said_when_it_is_wanted(self, tmp_path):
        put(tmp_path / "a/train/1.off")
        put(tmp_path / "a/train/2.off")
        data = module(tmp_path, "folder")
        assert data.split_sizes == {"train": 1, "val": 1, "test": 0}
        with pytest.raises(ValueError, match="expected test samples, got none"):
            data.test_dataloader()

    def test_evaluation_sees_the_same_points_under_every_seed(self, arrays):
        first, second = module(arrays, seed=1), module(arrays, seed=2)
        for split in ("val_dataset", "test_dataset"):
            assert torch.equal(getattr(first, split)[0].pos, getattr(second, split)[0].pos)

    def test_asks_for_setup_first(self, arrays):
        with pytest.raises(RuntimeError, match=r"`setup\(\)` to be called first"):
            _ = PointCloudDataModule("arrays", arrays).num_classes


class TestNames:
    def test_takes_a_folder(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        data = module(tmp_path, "folder")
        assert data.class_names == ["a", "b"]
        assert data.split_sizes == {"train": 2, "val": 2, "test": 2}

    @pytest.mark.parametrize(("name", "num_classes"), [("modelnet10", 10), ("modelnet40", 40)])
    def test_takes_modelnet(self, tmp_path, name, num_classes):
        put_classes(tmp_path, "chair", "bed")
        data = module(tmp_path, name)
        assert data.num_classes == num_classes
        assert data.num_features == 6

    def test_takes_shapes_from_the_default_root(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(
            "ccnn_geo.datasets.point_clouds.shapes.SHAPES_CLASSES", ("ball", "cone")
        )
        data = module(None, "shapes")
        assert data.class_names == ["ball", "cone"]
        assert data.split_sizes == {"train": 116, "val": 12, "test": 32}
        assert [path.name for path in Path("data/shapes").iterdir()] == [".ccnn_geo"]

    def test_keeps_the_cache_where_it_is_told(self, tmp_path):
        put_classes(tmp_path / "data", "a")
        module(tmp_path / "data", "folder", cache_dir=tmp_path / "cache")
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["a"]
        assert len(list((tmp_path / "cache").glob("folder-*"))) == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "cifar"}, r"`name` to be one of \('modelnet40', .*\), got 'cifar'"),
            ({"name": "folder"}, "`root` for the data set 'folder', got none"),
            ({"name": "arrays"}, "`root` for the data set 'arrays', got none"),
            ({"features": "normal"}, r"`features` to be one of .*, got 'normal'"),
            ({"batch_size": 0}, "`batch_size` >= 1 and `num_workers` >= 0, got 0 and 0"),
            ({"num_workers": -1}, "`batch_size` >= 1 and `num_workers` >= 0, got 32 and -1"),
        ],
    )
    def test_refuses_arguments_that_make_no_sense(self, options, message):
        with pytest.raises(ValueError, match=message):
            PointCloudDataModule(**options)


class TestFeatures:
    def test_are_normals_then_positions(self, arrays):
        data = module(arrays)
        assert data.num_features == 6
        for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
            cloud = dataset[0]
            assert torch.equal(cloud.x, torch.cat([cloud.normal, cloud.pos], dim=1))

    def test_are_the_positions_alone_on_request(self, arrays):
        data = module(arrays, features="pos")
        assert data.num_features == 3
        assert torch.equal(data.train_dataset[0, 0].x, data.train_dataset[0, 0].pos)

    def test_are_the_positions_alone_where_there_are_no_normals(self, arrays, caplog):
        data = module(without_normals(arrays))
        assert data.num_features == 3
        assert "bare.npz has no normals: the features are only the positions" in caplog.text

    def test_normals_that_are_asked_for_and_missing_are_an_error(self, arrays):
        message = "Expected normals in .*bare.npz .*`features`='pos' or `estimate_normals`=True"
        with pytest.raises(ValueError, match=message):
            module(without_normals(arrays), features="normal+pos")

    def test_normals_are_estimated_on_request(self, arrays):
        open3d()
        data = module(without_normals(arrays), features="normal+pos", estimate_normals=True)
        assert data.num_features == 6
        norms = data.train_dataset[0, 0].x[:, :3].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(8))


class TestLoaders:
    def test_make_batches_of_graphs(self, arrays):
        data = module(arrays)
        (batch, *others) = data.train_dataloader()
        assert isinstance(batch, Batch)
        assert batch.num_graphs == 8
        assert batch.x.shape == (64, 6)
        assert batch.pos.shape == batch.normal.shape == (64, 3)
        assert batch.y.shape == (8,)
        assert batch.batch.tolist() == np.repeat(range(8), 8).tolist()
        assert sum(other.num_graphs for other in others) == 46
        assert sum(batch.num_graphs for batch in data.val_dataloader()) == 6
        assert sum(batch.num_graphs for batch in data.test_dataloader()) == 10

    def test_the_order_depends_on_the_seed(self, arrays):
        def order(seed):
            loader = module(arrays, seed=seed).train_dataloader()
            return [batch.pos[:, 0].tolist() for batch in loader]

        assert order(0) == order(0) != order(1)

    def test_processes_share_the_training_clouds(self, arrays):
        seen = []
        for rank in range(2):
            data = module(arrays)
            progress = SimpleNamespace(current=SimpleNamespace(processed=0))
            data.trainer = SimpleNamespace(
                world_size=2,
                global_rank=rank,
                fit_loop=SimpleNamespace(epoch_progress=progress),
                ckpt_path=None,
            )
            seen.append(
                [x for batch in data.train_dataloader() for x in batch.pos[::8, 0].tolist()]
            )
        assert len(seen[0]) == len(seen[1]) == 27
        assert sorted(seen[0] + seen[1]) == sorted(clouds_of(module(arrays).train_dataset))

    def test_augmentation_is_off_by_default_and_for_training_alone(self, arrays):
        plain = module(arrays, num_points=24)
        switches = ("random_scale", "random_jitter", "random_rotate_z")
        for switch in switches:
            changed = module(arrays, num_points=24, **{switch: True})
            assert not torch.equal(changed.train_dataset[0, 0].pos, plain.train_dataset[0, 0].pos)
            assert torch.equal(changed.val_dataset[0].pos, plain.val_dataset[0].pos)
            assert torch.equal(changed.test_dataset[0].pos, plain.test_dataset[0].pos)
        turned = module(arrays, random_rotate_z=True).train_dataset[0, 0]
        assert torch.equal(turned.x, torch.cat([turned.normal, turned.pos], dim=1))
        assert not torch.equal(turned.normal, torch.tensor([[1.0, 0, 0]]).expand(8, 3))


class Recorder(pl.LightningModule):
    """Trains one weight on what it sees and remembers that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.seen: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch, index):
        self.seen.append(batch.pos)
        return nn.functional.cross_entropy(self.layer(batch.x[batch.ptr[:-1]]), batch.y)

    def validation_step(self, batch, index):
        self.validated.append(batch.pos)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(arrays: Path, epochs: int, *, resume: Path | None = None, **options) -> Recorder:
    """Trains for some epochs, keeping `last.ckpt` after each beside the data."""
    torch.manual_seed(0)
    recorder = Recorder()
    keep = ModelCheckpoint(arrays.parent, "last", save_on_train_epoch_end=True)
    keep.FILE_EXTENSION = f"-{epochs}.ckpt"
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = module(arrays, random_jitter=True, random_rotate_z=True, **options)
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    return recorder


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
class TestWithLightning:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(self, arrays, num_workers):
        whole = fit(arrays, 4)
        fit(arrays, 2, num_workers=num_workers)
        torch.rand(5)
        rest = fit(arrays, 4, resume=arrays.with_name("last-2.ckpt"), num_workers=num_workers)
        assert len(rest.seen) == len(whole.seen) // 2
        for seen, expected in zip(rest.seen, whole.seen[len(rest.seen) :], strict=True):
            assert torch.equal(seen, expected)
        assert torch.equal(rest.layer.weight, whole.layer.weight)
        first, second = whole.seen[0], whole.seen[len(whole.seen) // 4]
        assert not torch.equal(first, second)

    def test_validation_sees_the_same_in_every_epoch(self, arrays):
        recorder = fit(arrays, 2)
        assert len(recorder.validated) == 2
        assert torch.equal(*recorder.validated)

    def test_runs_without_validation(self, arrays):
        with pytest.warns(UserWarning, match="Total length of `list` across ranks is zero"):
            recorder = fit(arrays, 1, val_fraction=0)
        assert recorder.validated == []
        assert len(recorder.seen) == 8

    def test_every_argument_is_explained_on_the_command_line(self):
        parser = jsonargparse.ArgumentParser()
        parser.add_class_arguments(PointCloudDataModule, "data")
        for action in parser._actions:
            if action.dest.startswith("data."):
                assert action.help, action.dest
        defaults = parser.get_defaults().data
        assert defaults.name == "modelnet40"
        parsed = parser.parse_args(["--data.name=arrays", "--data.root=x.npz", "--data.seed=3"])
        data = PointCloudDataModule(**parsed.data.as_dict())
        assert data.root == Path("x.npz")
        assert data.seed == 3
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(["--data.name=cifar"])


def test_the_data_sets_do_not_import_lightning_or_trimesh():
    code = "import sys, ccnn_geo.datasets as d; d.Shapes; " + (
        "print([m for m in ('pytorch_lightning', 'trimesh', 'open3d') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
