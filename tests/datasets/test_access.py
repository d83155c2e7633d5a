"""Access to clouds: random subsets, reproducible epochs, and stratified selections."""

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from ccnn_geo.datasets import EpochSampler, PointCloudDataset, PointCloudFolder
from ccnn_geo.datasets.epochs import UnrepeatedSampler
from ccnn_geo.datasets.point_clouds.cache import Clouds
from ccnn_geo.datasets.splits import stratified_holdout, stratified_subset
from ccnn_geo.transforms.augment import GaussianJitter
from datasets_helpers import OPTIONS, put_classes


def make(train: bool = True, num_clouds: int = 10, **options) -> PointCloudDataset:
    """Returns clouds of twenty points, each point numbered by its x coordinate."""
    points = np.zeros((num_clouds * 20, 6), dtype=np.float32)
    points[:, 0] = np.arange(len(points))
    points[:, 3] = 1
    starts = np.arange(num_clouds) * 20
    labels = np.arange(num_clouds) % 3
    clouds = Clouds(points, starts, np.full(num_clouds, 20), labels)
    options = {"num_points": 8, "seed": 0} | options
    return PointCloudDataset(clouds, ["a", "b", "c"], train=train, **options)


def numbers(data: Data) -> list[int]:
    return data.pos[:, 0].int().tolist()


class TestAccess:
    def test_hands_out_distinct_points_of_the_cloud_with_its_normals_and_label(self):
        data = make()[4]
        assert data.pos.shape == data.normal.shape == (8, 3)
        assert data.pos.dtype == torch.float32
        assert data.normal[:, 0].eq(1).all()
        assert data.y.tolist() == [1]
        assert len(set(numbers(data))) == 8
        assert set(numbers(data)) <= set(range(80, 100))

    def test_training_clouds_are_fresh_at_each_access_and_repeat_under_torchs_seed(self):
        dataset = make()
        torch.manual_seed(0)
        first, second = numbers(dataset[0]), numbers(dataset[0])
        torch.manual_seed(0)
        assert numbers(dataset[0]) == first
        assert first != second

    def test_training_clouds_of_an_epoch_depend_on_seed_epoch_and_index_alone(self):
        dataset = make()
        reference = numbers(dataset[3, 5])
        torch.manual_seed(123)
        assert numbers(make()[3, 5]) == reference
        assert numbers(dataset[4, 5]) != reference
        assert numbers(make(seed=1)[3, 5]) != reference
        assert [n - 20 for n in numbers(dataset[3, 6])] != reference

    def test_evaluation_clouds_are_always_the_same(self):
        dataset = make(train=False)
        reference = numbers(dataset[5])
        assert numbers(dataset[5]) == numbers(dataset[7, 5]) == numbers(dataset[-5]) == reference
        assert numbers(make(train=False)[5]) == reference
        assert numbers(make(train=False, seed=1)[5]) != reference

    def test_transforms_follow_the_seed_of_the_access(self):
        dataset = make(transform=GaussianJitter())
        assert torch.equal(dataset[1, 2].pos, dataset[1, 2].pos)
        assert not torch.equal(dataset[2].pos, dataset[2].pos)
        evaluation = make(train=False, transform=GaussianJitter())
        assert torch.equal(evaluation[2].pos, evaluation[2].pos)

    def test_a_seeded_access_leaves_torchs_generator_where_it_was(self):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        make(train=False)[0]
        make()[0, 0]
        assert torch.equal(torch.get_rng_state(), state)
        with pytest.raises(RuntimeError, match="broken transform"):
            make(transform=broken_transform)[0, 0]
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_smaller_cloud_is_handed_out_whole(self):
        assert numbers(make(num_points=50)[1]) == list(range(20, 40))

    def test_changing_what_was_handed_out_changes_no_cloud(self):
        dataset = make(num_points=20)
        dataset[0].pos.zero_()
        assert numbers(dataset[0]) == list(range(20))

    def test_iterates_once_over_every_cloud(self):
        dataset = make(num_clouds=4)
        assert len(list(dataset)) == len(dataset) == 4
        for index in (4, -5):
            with pytest.raises(IndexError, match=f"one of 4 samples, got {index}"):
                dataset[index]
        assert repr(dataset) == "PointCloudDataset(4, num_classes=3)"

    def test_a_single_point_can_be_asked_for(self):
        assert make(num_points=1)[0].pos.shape == (1, 3)

    def test_refuses_arguments_that_make_no_sense(self):
        with pytest.raises(ValueError, match="Expected `num_points` to be at least 1, got 0"):
            make(num_points=0)
        with pytest.raises(ValueError, match="Expected `seed` to be at least 0, got -1"):
            make(seed=-1)

    def test_the_test_split_of_a_data_set_is_always_the_same_and_the_training_split_fresh(
        self, tmp_path
    ):
        put_classes(tmp_path, "a")
        test = PointCloudFolder(tmp_path, split="test", **OPTIONS)
        assert torch.equal(test[0].pos, test[0].pos)
        train = PointCloudFolder(tmp_path, **OPTIONS)
        assert not torch.equal(train[0].pos, train[0].pos)


def broken_transform(data: Data) -> Data:
    torch.rand(3)
    raise RuntimeError("broken transform")


class TestEpochSampler:
    def test_every_epoch_has_every_cloud_in_an_order_of_its_own(self):
        sampler = EpochSampler(make(), seed=5)
        orders = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            assert len(sampler) == 10
            epochs, indices = zip(*sampler, strict=True)
            assert set(epochs) == {epoch}
            assert sorted(indices) == list(range(10))
            orders.append(indices)
        assert orders[0] != orders[1]

    def test_the_order_depends_on_seed_and_epoch_alone(self):
        first, second = EpochSampler(make(), seed=5), EpochSampler(make(), seed=5)
        first.set_epoch(3)
        list(first)
        second.set_epoch(3)
        assert list(first) == list(second)

    def test_neighbouring_seeds_do_not_share_their_orders(self):
        orders = set()
        for seed in range(4):
            sampler = EpochSampler(make(), seed=seed)
            for epoch in range(4):
                sampler.set_epoch(epoch)
                orders.add(tuple(index for _, index in sampler))
        assert len(orders) == 16

    def test_processes_share_an_epoch_evenly(self):
        samplers = [EpochSampler(make(), num_replicas=3, rank=rank) for rank in range(3)]
        shares = [[index for _, index in sampler] for sampler in samplers]
        assert [len(share) for share in shares] == [4, 4, 4]
        assert set(sum(shares, [])) == set(range(10))

    def test_processes_share_the_evaluation_without_repetition(self):
        samplers = [UnrepeatedSampler(make(), 3, rank) for rank in range(3)]
        assert [list(sampler) for sampler in samplers] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
        assert [len(sampler) for sampler in samplers] == [4, 3, 3]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_batches_depend_neither_on_workers_nor_on_earlier_epochs(self, num_workers):
        def epochs(start: int, stop: int, workers: int) -> list[list[int]]:
            dataset = make(transform=GaussianJitter())
            sampler = EpochSampler(dataset, seed=1)
            loader = DataLoader(
                dataset,
                batch_size=4,
                sampler=sampler,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            found = []
            for epoch in range(start, stop):
                sampler.set_epoch(epoch)
                found.append([batch.pos.tolist() for batch in loader])
            return found

        reference = epochs(0, 3, 0)
        assert reference[0] != reference[1]
        assert epochs(0, 3, num_workers) == reference
        torch.manual_seed(9)
        assert epochs(2, 3, num_workers) == reference[2:]

    def test_other_samplers_work_too(self):
        dataset = make()
        batches = BatchSampler(SequentialSampler(dataset), batch_size=5, drop_last=False)
        loader = DataLoader(dataset, batch_sampler=batches)
        assert [batch.num_graphs for batch in loader] == [5, 5]


class TestStratifiedHoldout:
    def test_holds_out_the_share_of_every_class_and_splits_everything(self):
        labels = np.repeat([0, 1, 2], [100, 50, 10])
        kept, held_out = stratified_holdout(labels, 0.1, seed=0)
        assert np.bincount(labels[held_out]).tolist() == [10, 5, 1]
        assert sorted([*kept, *held_out]) == list(range(160))

    def test_every_class_that_can_spare_one_is_held_out_and_none_vanishes(self):
        labels = np.array([0, 0, 1, 2, 2, 2])
        for fraction, expected in ((0.01, [1, 0, 1]), (0.99, [1, 0, 2])):
            kept, held_out = stratified_holdout(labels, fraction, seed=0)
            assert np.bincount(labels[held_out], minlength=3).tolist() == expected
            assert set(labels[kept]) == {0, 1, 2}

    def test_the_choice_depends_on_the_seed(self):
        labels = np.zeros(100, dtype=int)
        choices = [stratified_holdout(labels, 0.1, seed=seed)[1].tolist() for seed in (0, 0, 1)]
        assert choices[0] == choices[1] != choices[2]

    def test_the_choice_of_a_seed_stays_the_same(self):
        """Networks are compared on splits that other versions made."""
        _, held_out = stratified_holdout(np.repeat([0, 1, 2], [10, 6, 3]), 0.25, seed=3)
        assert held_out.tolist() == [6, 9, 10, 15, 16]

    def test_nothing_is_held_out_on_request(self):
        kept, held_out = stratified_holdout(np.array([0, 1]), 0, seed=0)
        assert kept.tolist() == [0, 1]
        assert held_out.tolist() == []

    def test_refuses_what_cannot_be_split(self):
        for fraction in (-0.1, 1.0):
            with pytest.raises(ValueError, match=f"`val_fraction` of at .*, got {fraction}"):
                stratified_holdout(np.array([0, 0]), fraction, seed=0)
        with pytest.raises(ValueError, match="class with two training samples .*`val_fraction`=0"):
            stratified_holdout(np.array([0, 1]), 0.1, seed=0)


class TestStratifiedSubset:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [(3, [1, 1, 1]), (16, [10, 5, 1]), (80, [50, 25, 5]), (160, [100, 50, 10])],
    )
    def test_every_class_keeps_its_share(self, size, expected):
        labels = np.repeat([0, 1, 2], [100, 50, 10])
        chosen = stratified_subset(labels, size, seed=0)
        assert len(set(chosen)) == size
        assert np.bincount(labels[chosen]).tolist() == expected

    def test_a_larger_subset_holds_the_smaller_one(self):
        labels = np.repeat([0, 1], [30, 10])
        subsets = [set(stratified_subset(labels, size, seed=0)) for size in (2, 7, 20, 40)]
        assert subsets == sorted(subsets, key=len)
        assert all(small < large for small, large in zip(subsets[:-1], subsets[1:], strict=True))

    def test_the_choice_depends_on_the_seed(self):
        labels = np.repeat([0, 1], 50)
        choices = [stratified_subset(labels, 10, seed=seed).tolist() for seed in (0, 0, 1)]
        assert choices[0] == choices[1] != choices[2]

    def test_the_choice_of_a_seed_stays_the_same(self):
        chosen = stratified_subset(np.repeat([0, 1, 2], [10, 6, 3]), 8, seed=3)
        assert chosen.tolist() == [0, 2, 6, 9, 10, 15, 16, 17]

    @pytest.mark.parametrize("size", [0, 3])
    def test_refuses_a_size_that_is_not_there(self, size):
        with pytest.raises(ValueError, match=f"`train_size` from 1 to 2, got {size}"):
            stratified_subset(np.array([0, 1]), size, seed=0)
