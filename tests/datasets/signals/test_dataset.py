"""Signals on grids: what a data set hands out, transforms, splits and reproducible epochs."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from ccnn_geo.ops import grid_positions
from ccnn_geo.transforms.grids import FlattenGrid, GridToPoints, MaskEmptyCells, RandomShift

pl = pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets.signals.dataset import SignalDataModule, SignalDataset, Signals  # noqa: E402

NAMES = ["low", "high"]


def signals(count: int = 20, size: tuple[int, ...] = (5,), **options) -> Signals:
    """Signals of whole numbers, each with its own, three of four of the first class."""
    x = np.arange(count * 2 * np.prod(size)).reshape(count, 2, *size).astype(np.int16)
    return Signals(x, (np.arange(count) % 4 == 3).astype(np.int64), **options)


def add_noise(data: Data) -> Data:
    data.x = data.x + torch.rand(())
    return data


class Module(SignalDataModule):
    """Forty training and eight test signals."""

    def read(self):
        return signals(40), signals(8), NAMES

    def transform(self, split):
        return add_noise if split == "train" else None


def module(**options) -> Module:
    data = Module("nowhere", batch_size=4, **options)
    data.setup()
    return data


def epoch(data: SignalDataModule, number: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return torch.cat([batch.x for batch in loader])


class TestSignals:
    def test_become_what_a_loader_stacks(self):
        lengths = np.array([5, 3], np.int32)
        dataset = SignalDataset(signals(2, length=lengths, scale=0.5), NAMES, train=False)
        batch = Batch.from_data_list([dataset[0], dataset[-1]])
        assert batch.num_graphs == 2
        assert batch.x.shape == (2, 2, 5)
        assert torch.equal(batch.x, torch.arange(20.0).view(2, 2, 5) / 2)
        assert batch.y.tolist() == [0, 0]
        assert batch.length.tolist() == [5, 3]
        assert dataset.signals.x.dtype == np.int16

    def test_are_counted_and_described(self):
        dataset = SignalDataset(signals(3), NAMES, train=False)
        assert repr(dataset) == "SignalDataset(3, num_classes=2)"
        assert len(list(dataset)) == 3
        with pytest.raises(IndexError, match="one of 3 samples, got 3"):
            dataset[3]

    @pytest.mark.parametrize(
        ("x", "y", "length", "message"),
        [
            (np.zeros((2, 4)), np.zeros(2, int), None, r"`x` of shape \[M, C, \*S\], got float64"),
            (np.full((2, 1, 4), "a"), np.zeros(2, int), None, "Expected numbers `x`"),
            (np.zeros((2, 1, 4)), np.zeros(3, int), None, r"`y` of shape \[2\], got int64 of .*3"),
            (np.zeros((2, 1, 4)), np.zeros(2), None, r"whole numbers `y`.*float64"),
            (np.zeros((2, 1, 4)), np.zeros(2, int), np.ones((2, 1), int), "numbers `length`"),
        ],
    )
    def test_of_wrong_shape_or_type_are_refused(self, x, y, length, message):
        with pytest.raises(ValueError, match=message):
            Signals(x, y, length)

    def test_tokens_stay_whole_numbers(self):
        x = np.array([[[0, 3, 1]], [[2, 2, 0]]], np.uint8)
        tokens = Signals(x, np.array([0, 1]), num_embeddings=4)
        data = SignalDataset(tokens, NAMES, train=False)[1]
        assert data.x.dtype == torch.int64 and data.x.tolist() == [[[2, 2, 0]]]
        assert tokens.select(np.array([1])).num_embeddings == 4

    def test_pairs_are_consecutive_signals_of_a_batch(self):
        x = np.arange(12).reshape(2, 2, 3)
        length = np.array([[1, 2], [3, 1]])
        pairs = Signals(x, np.array([0, 1]), length, pairs=True)
        dataset = SignalDataset(pairs, NAMES, train=False)
        batch = Batch.from_data_list(list(dataset))
        assert batch.num_graphs == 2
        assert torch.equal(batch.x, torch.arange(12.0).view(4, 1, 3))
        assert batch.length.tolist() == [1, 2, 3, 1]

    @pytest.mark.parametrize(
        ("x", "options", "message"),
        [
            (np.zeros((2, 1, 3)), {"num_embeddings": 4}, "whole numbers as tokens `x`, got float"),
            (np.full((2, 1, 3), 4), {"num_embeddings": 4}, "tokens `x` from 0 to 3, got 4 to 4"),
            (np.zeros((2, 2, 3), int), {"num_embeddings": 4}, "`x` of 1 channels, got 2"),
            (np.zeros((2, 3, 3)), {"pairs": True}, "`x` of 2 channels, got 3"),
        ],
    )
    def test_wrong_tokens_and_pairs_are_refused(self, x, options, message):
        with pytest.raises(ValueError, match=message):
            Signals(x, np.zeros(2, int), **options)

    def test_without_a_class_of_their_own_are_refused(self):
        with pytest.raises(ValueError, match="labels of the 1 classes, got 0 to 1"):
            SignalDataset(signals(4), ["only"], train=True)

    def test_are_views_if_they_are_consecutive(self):
        whole = signals(6, length=np.arange(1, 7))
        for indices in (np.arange(2, 5), np.array([3])):
            part = whole.select(indices)
            assert np.array_equal(part.x, whole.x[indices])
            assert (part.y.tolist(), part.length.tolist()) == (
                whole.y[indices].tolist(),
                (indices + 1).tolist(),
            )
            assert np.shares_memory(part.x, whole.x)
        for indices in (np.array([3, 2]), np.array([0, 2, 3]), np.array([], int)):
            part = whole.select(indices)
            assert np.array_equal(part.x, whole.x[indices])
            assert not np.shares_memory(part.x, whole.x)


class TestTransforms:
    image = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 4.0]])[None, None]

    def data(self) -> Data:
        return Data(x=self.image.clone())

    def test_lit_cells_become_points_where_they_are(self):
        cloud = GridToPoints()(self.data())
        assert cloud.pos.tolist() == [[0, 1], [1, 0], [1, 2]]
        assert cloud.x.tolist() == [[2], [3], [4]]

    def test_all_cells_become_the_grid_as_a_cloud(self):
        cloud = GridToPoints(keep_empty=True)(self.data())
        assert torch.equal(cloud.pos, grid_positions((2, 3)))
        assert torch.equal(cloud.x, self.image.view(-1, 1))

    def test_mask_marks_the_cells_that_become_points(self):
        masked = MaskEmptyCells()(self.data())
        assert masked.mask.shape == (1, 2, 3)
        assert masked.mask[0].nonzero().tolist() == GridToPoints()(self.data()).pos.tolist()
        assert torch.equal(masked.x, self.image)

    def test_of_an_empty_grid_all_cells_are_kept(self):
        empty = Data(x=torch.zeros(1, 1, 2, 3))
        assert bool(MaskEmptyCells()(empty.clone()).mask.all())
        assert len(GridToPoints()(empty).pos) == 6

    def test_sequences_go_along_the_rows_or_all_in_the_same_order(self):
        assert FlattenGrid()(self.data()).x.tolist() == [[[0, 2, 0, 3, 0, 4]]]
        counted = Data(x=torch.arange(12.0).view(1, 2, 2, 3))
        order = FlattenGrid(3)(counted.clone()).x
        assert sorted(order[0, 0].tolist()) == list(range(6)) != order[0, 0].tolist()
        assert torch.equal(order[0, 1], order[0, 0] + 6)
        assert torch.equal(FlattenGrid(3)(counted.clone()).x, order)
        assert not torch.equal(FlattenGrid(4)(counted).x, order)

    def test_shift_moves_everything_and_brings_in_zeros(self):
        image = torch.zeros(1, 1, 5, 7)
        image[0, 0, 2, 3] = 1.0
        seen = set()
        for _ in range(100):
            moved = RandomShift(2)(Data(x=image)).x
            assert moved.sum() == 1
            seen.add(tuple(moved[0, 0].nonzero()[0].tolist()))
        assert seen == {(row, column) for row in range(5) for column in range(1, 6)}
        assert image[0, 0, 2, 3] == 1

    def test_shift_beyond_the_grid_leaves_nothing(self):
        torch.manual_seed(0)
        sums = {float(RandomShift(4)(Data(x=torch.ones(1, 1, 2))).x.sum()) for _ in range(60)}
        assert sums == {0.0, 1.0, 2.0}

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match="Expected `max_shift` to be at least 1, got 0"):
            RandomShift(0)
        for transform in (RandomShift(1), FlattenGrid(), MaskEmptyCells(), GridToPoints()):
            with pytest.raises(ValueError, match=r"grid `x` of shape \[1, C, \*S\], got \[4, 3\]"):
                transform(Data(x=torch.zeros(4, 3)))


class TestDataModule:
    def test_says_what_there_is(self):
        data = module(val_fraction=0.2)
        assert data.split_sizes == {"train": 32, "val": 8, "test": 8}
        assert (data.num_features, data.dim, data.size) == (2, 1, (5,))
        assert (data.num_classes, data.class_names) == (2, NAMES)

    def test_holds_out_the_same_share_of_every_class_whatever_the_seed(self):
        first, second = module(seed=0), module(seed=1)
        assert np.bincount(first.val_dataset.signals.y).tolist() == [3, 1]
        assert np.array_equal(first.val_dataset.signals.x, second.val_dataset.signals.x)
        other = module(split_seed=1)
        assert not np.array_equal(first.val_dataset.signals.x, other.val_dataset.signals.x)

    def test_uses_as_many_training_signals_as_wanted(self):
        data = module(train_size=8)
        assert data.split_sizes == {"train": 8, "val": 4, "test": 8}
        assert np.bincount(data.train_dataset.signals.y).tolist() == [6, 2]

    def test_does_without_validation(self):
        data = module(val_fraction=0.0)
        assert data.split_sizes["val"] == 0
        assert data.val_dataloader() == []

    def test_uses_the_validation_signals_of_the_data_set(self):
        class Split(Module):
            def read(self):
                self._validation = np.arange(40) % 10 == 0
                return super().read()

        data = Split("nowhere", val_fraction=0.5, train_size=8)
        data.setup()
        assert data.split_sizes == {"train": 8, "val": 4, "test": 8}
        assert data.val_dataset.signals.x[:, 0, 0].tolist() == [0, 100, 200, 300]
        assert np.bincount(data.train_dataset.signals.y).tolist() == [6, 2]
        assert not set(data.train_dataset.signals.x[:, 0, 0]) & {0, 100, 200, 300}

    def test_epochs_depend_on_seed_and_number_alone(self):
        first, again = module(seed=3), module(seed=3)
        torch.manual_seed(1)
        epochs = [epoch(first, 0), epoch(first, 1)]
        torch.manual_seed(2)
        assert torch.equal(epoch(again, 1), epochs[1])
        assert not torch.equal(epochs[0], epochs[1])
        assert not torch.equal(epoch(module(seed=4), 1), epochs[1])
        # The noise is that of the training split and differs from epoch to epoch.
        fractions = [set((each % 1).flatten().tolist()) for each in epochs]
        assert fractions[0].isdisjoint(fractions[1] - {0.0})

    def test_workers_change_nothing(self):
        alone, workers = module(), module(num_workers=2)
        assert torch.equal(epoch(alone, 2), epoch(workers, 2))

    def test_evaluation_sees_signals_as_they_are(self):
        data = module()
        batches = list(data.test_dataloader())
        assert [batch.num_graphs for batch in batches] == [4, 4]
        x = torch.cat([batch.x for batch in batches])
        assert torch.equal(x, torch.from_numpy(signals(8).x).float())

    def test_bad_arguments_are_named(self):
        for options, message in (
            ({"val_fraction": 1.0}, "`val_fraction` of at least 0 and below 1, got 1.0"),
            ({"train_size": 0}, "`train_size` from 1 to 36, got 0"),
            ({"num_workers": -1}, "`num_workers` >= 0"),
        ):
            with pytest.raises(ValueError, match=message):
                module(**options)
        with pytest.raises(RuntimeError, match="setup"):
            _ = Module("nowhere").num_features
