"""Clouds as voxels and back, and one network on both forms of the same voxels."""

import importlib

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from ccnn_geo import CCNN
from ccnn_geo.transforms.voxels import (
    Voxelize,
    VoxelsToPoints,
    occupied_cells,
    open3d_voxels,
    voxel_cells,
    voxel_centers,
)
from datasets_helpers import open3d


def cloud(points: int = 200, dim: int = 3, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    pos = 2 * torch.rand(points, dim, generator=generator) - 1
    return Data(pos=pos, normal=pos.flip(1), y=torch.tensor([seed]))


def rows(tensor: torch.Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, tensor.tolist()))


class TestCells:
    def test_known_points_fall_into_known_cells(self):
        pos = torch.tensor([[-1.0, -0.51], [-0.5, -0.49], [0.0, 0.49], [1.0, 0.99]])
        assert voxel_cells(pos, 4).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]

    def test_middles_are_known(self):
        cells = torch.tensor([[0, 0], [3, 1]])
        assert voxel_centers(cells, 4).tolist() == [[-0.75, -0.75], [0.75, -0.25]]
        assert voxel_centers(cells, (4, 2)).tolist() == [[-0.75, -0.5], [0.75, 0.5]]

    @pytest.mark.parametrize("resolution", [1, 2, 3, 7, 20, 40, 80, 199])
    def test_the_middle_of_a_cell_lies_in_it_whatever_the_rounding(self, resolution):
        cells = torch.arange(resolution).unsqueeze(1)
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(
                voxel_cells(voxel_centers(cells, resolution).to(dtype), resolution), cells
            )

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_every_occupied_cell_is_listed_once_and_in_order(self, dim):
        pos = cloud(300, dim).pos
        expected = sorted(rows(voxel_cells(pos, 5)))
        assert list(map(tuple, occupied_cells(pos, 5).tolist())) == expected


class TestVoxelize:
    def test_a_voxels_feature_is_its_location_however_many_points_it_holds(self):
        pos = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.3, 0.4], [-0.9, 0.9, 0.1]])
        data = Voxelize(2)(Data(pos=pos, y=torch.tensor([3])))
        assert data.pos.tolist() == [[-0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
        assert torch.equal(data.x, data.pos)
        assert data.voxel.tolist() == [[0, 1, 1], [1, 1, 1]]
        assert data.y.tolist() == [3]

    def test_every_point_has_its_voxel_and_every_voxel_a_point(self):
        data = cloud()
        voxels = Voxelize(6)(data)
        assert rows(voxels.voxel) == rows(voxel_cells(data.pos, 6))
        assert len(voxels.pos) == len(rows(voxels.pos))
        distance = (voxels.pos[:, None] - data.pos).abs().amax(-1).amin(1)
        assert float(distance.max()) <= 1 / 6 + 1e-6

    def test_of_too_many_voxels_a_random_few_are_kept_and_none_twice(self):
        everything = rows(Voxelize(40)(cloud()).voxel)
        torch.manual_seed(0)
        first, second = (Voxelize(40, 50)(cloud()) for _ in range(2))
        for data in (first, second):
            assert data.num_nodes == len(rows(data.voxel)) == 50
            assert rows(data.voxel) < everything
        assert rows(first.voxel) != rows(second.voxel)
        torch.manual_seed(0)
        assert torch.equal(Voxelize(40, 50)(cloud()).voxel, first.voxel)

    def test_all_voxels_are_equally_likely_to_be_kept(self):
        data = Data(pos=torch.tensor([[-0.5], [0.5]]).repeat(2, 1))
        voxelize = Voxelize(2, 1, generator=torch.Generator().manual_seed(0))
        lower = sum(int(voxelize(data).voxel == 0) for _ in range(1000))
        assert abs(lower - 500) < 4 * 250**0.5

    def test_fewer_voxels_stay_fewer(self):
        assert Voxelize(2, 512)(cloud()).num_nodes == 8

    def test_what_belonged_to_the_points_goes_and_what_belongs_to_the_cloud_stays(self):
        data = cloud(points=1)
        data.name = "chair"
        voxels = Voxelize(4)(data)
        assert sorted(voxels.keys()) == ["name", "pos", "voxel", "x", "y"]

    @pytest.mark.parametrize("dense", [False, True])
    def test_leaves_its_input_as_it_was(self, dense):
        data, expected = cloud(), cloud()
        Voxelize(8, 20, dense=dense)(data)
        assert set(data.keys()) == set(expected.keys())
        assert all(torch.equal(data[key], expected[key]) for key in data.keys())

    def test_voxelising_voxels_changes_nothing(self):
        first = Voxelize(9)(cloud())
        second = Voxelize(9)(Data(pos=first.pos))
        assert torch.equal(first.pos, second.pos)

    @pytest.mark.parametrize(
        ("pos", "message"),
        [
            (torch.tensor([[0.0, 1.5, 0]]), r"`pos` in \[-1, 1\], got coordinates as large as 1.5"),
            (torch.tensor([[0.0, torch.nan, 0]]), r"`pos` in \[-1, 1\]"),
            (torch.zeros(0, 3), r"`pos` of shape \[N, D\] with N >= 1, got \[0, 3\]"),
            (torch.zeros(3), r"`pos` of shape \[N, D\] with N >= 1, got \[3\]"),
        ],
    )
    def test_refuses_positions_that_are_on_no_grid(self, pos, message):
        with pytest.raises(ValueError, match=message):
            Voxelize()(Data(pos=pos))

    def test_refuses_sizes_below_one(self):
        with pytest.raises(ValueError, match="`resolution` to be at least 1, got 0"):
            Voxelize(0)
        with pytest.raises(ValueError, match="`max_voxels` to be at least 1, got 0"):
            Voxelize(max_voxels=0)

    def test_names_what_is_missing(self):
        with pytest.raises(ValueError, match="Expected data with a tensor `pos`, got `y`"):
            Voxelize()(Data(y=torch.tensor([1])))

    def test_says_what_it_was_made_with(self):
        assert repr(Voxelize(40, 512)) == "Voxelize(resolution=40, max_voxels=512, dense=False)"


class TestVoxelsToPoints:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_undoes_the_dense_form(self, dim):
        data = cloud(dim=dim)
        points = VoxelsToPoints()(Voxelize(7, dense=True)(data))
        expected = Voxelize(7)(data)
        assert set(points.keys()) == set(expected.keys())
        assert all(torch.equal(points[key], expected[key]) for key in expected.keys())

    def test_the_same_seed_keeps_the_same_voxels_in_both_forms(self):
        sparse, dense = (
            Voxelize(9, 30, dense=dense, generator=torch.Generator().manual_seed(5))
            for dense in (False, True)
        )
        assert torch.equal(VoxelsToPoints()(dense(cloud())).voxel, sparse(cloud()).voxel)

    def test_takes_other_features_of_the_voxels_on_grids_of_any_shape(self):
        mask = torch.zeros(1, 4, 2, dtype=torch.bool)
        mask[0, 3, 1] = mask[0, 0, 0] = True
        x = torch.arange(40.0).view(1, 5, 4, 2)
        points = VoxelsToPoints()(Data(x=x, mask=mask))
        assert points.pos.tolist() == [[-0.75, -0.5], [0.75, 0.5]]
        assert torch.equal(points.x, torch.stack([x[0, :, 0, 0], x[0, :, 3, 1]]))

    def test_leaves_its_input_as_it_was(self):
        data = Voxelize(4, dense=True)(cloud())
        before = data.clone()
        VoxelsToPoints()(data)
        assert set(data.keys()) == set(before.keys())
        assert all(torch.equal(data[key], before[key]) for key in before.keys())

    @pytest.mark.parametrize(
        ("x", "mask", "message"),
        [
            ((1, 3, 4, 4), torch.ones(1, 4, 4), r"`mask` of shape .* type bool, got .*float32"),
            ((2, 3, 4, 4), torch.ones(2, 4, 4) > 0, r"`mask` of shape \[1, \*S\].*got \[2, 4, 4\]"),
            ((1, 3, 4, 5), torch.ones(1, 4, 4) > 0, r"`x` of shape \[1, C, \[4, 4\]\], got"),
            ((4, 4), torch.ones(1, 4, 4) > 0, r"`x` of shape \[1, C, \[4, 4\]\], got \[4, 4\]"),
        ],
    )
    def test_refuses_grids_that_do_not_fit(self, x, mask, message):
        with pytest.raises(ValueError, match=message):
            VoxelsToPoints()(Data(x=torch.zeros(x), mask=mask))

    def test_names_what_is_missing(self):
        with pytest.raises(ValueError, match="a tensor `mask`, got `x`"):
            VoxelsToPoints()(Data(x=torch.zeros(1, 3, 4)))


class TestDenseForm:
    def test_holds_the_locations_where_voxels_are_and_zeros_elsewhere(self):
        data = Voxelize(2, dense=True)(Data(pos=torch.tensor([[0.1, -0.1], [0.2, -0.2]])))
        assert data.mask.tolist() == [[[False, False], [True, False]]]
        assert data.x.tolist() == [[[[0, 0], [0.5, 0]], [[0, 0], [-0.5, 0]]]]

    def test_a_loader_stacks_grids(self):
        clouds = [Voxelize(5, dense=True)(cloud(seed=seed)) for seed in range(3)]
        (batch,) = DataLoader(clouds, batch_size=3)
        assert batch.x.shape == (3, 3, 5, 5, 5)
        assert batch.mask.shape == (3, 5, 5, 5)
        assert batch.num_graphs == 3
        assert torch.equal(batch[1].mask, clouds[1].mask)

    @pytest.mark.parametrize("readout", ["mean", None])
    def test_one_network_gives_the_same_on_masked_grids_and_on_graphs_of_occupied_cells(
        self, readout
    ):
        torch.manual_seed(0)
        resolution, clouds = 10, [cloud(points=12 + 5 * seed, seed=seed) for seed in range(3)]
        model = CCNN(
            3, 4, dim=3, hidden_channels=8, num_blocks=2, kernel_channels=4, omega_0=1.0,
            num_neighbors=64, window_width=0.3, spacing=2 / resolution, readout=readout,
        ).double()  # fmt: skip
        dense = Batch.from_data_list([Voxelize(resolution, dense=True)(each) for each in clouds])
        graph = Batch.from_data_list([Voxelize(resolution)(each) for each in clouds])
        assert len(set(graph.ptr.diff().tolist())) > 1
        for training in (True, False):
            model.train(training)
            on_grid = model(voxel_grid(dense, resolution), mask=dense.mask)
            pos = voxel_centers(graph.voxel, resolution)
            on_graph = model(pos, pos, graph.batch)
            if readout is None:
                on_grid = on_grid.movedim(1, -1)[dense.mask]
            torch.testing.assert_close(on_grid, on_graph, rtol=1e-10, atol=1e-10)


def voxel_grid(dense: Batch, resolution: int) -> torch.Tensor:
    """Returns the locations of the voxels in float64, in which the two evaluations agree best."""
    axis = voxel_centers(torch.arange(resolution).unsqueeze(1), resolution).squeeze(1)
    locations = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    return locations * dense.mask.unsqueeze(1)


class TestOpen3dView:
    @pytest.fixture(autouse=True)
    def needs_open3d(self):
        open3d()

    def test_shows_every_voxel_where_it_is(self):
        data = cloud()
        grid = open3d_voxels(data.pos, 8)
        cells = {tuple(voxel.grid_index.tolist()) for voxel in grid.get_voxels()}
        assert cells == rows(voxel_cells(data.pos, 8))
        middles = {
            tuple(np.round(grid.get_voxel_center_coordinate(np.array(cell)), 6)) for cell in cells
        }
        expected = Voxelize(8)(data).pos.double().numpy().round(6)
        assert middles == set(map(tuple, expected))

    def test_refuses_what_is_not_three_dimensional(self):
        with pytest.raises(ValueError, match=r"`pos` of shape \[N, 3\], got \[5, 2\]"):
            open3d_voxels(torch.zeros(5, 2))


class TestDataModule:
    """The option `voxels` of the data module."""

    @pytest.fixture
    def make(self, tmp_path):
        """Makes data modules of 20 clouds with normals, of 64 points each."""
        pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
        datasets = importlib.import_module("ccnn_geo.datasets")
        positions = np.random.default_rng(0).standard_normal((20, 64, 3))
        labels = np.arange(20) % 2
        arrays = {f"{split}_pos": positions for split in ("train", "test")}
        arrays |= {f"{split}_normal": positions for split in ("train", "test")}
        np.savez(tmp_path / "clouds.npz", train_y=labels, test_y=labels, **arrays)

        def make(**options):
            data = datasets.PointCloudDataModule("arrays", tmp_path / "clouds.npz", **options)
            data.setup()
            return data

        return make

    def test_every_split_is_voxelised_whose_features_are_the_locations(self, make):
        data = make(voxels=6)
        assert data.num_features == 3
        for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
            voxels = dataset[0]
            assert torch.equal(voxels.x, voxels.pos)
            assert rows(voxels.voxel) == rows(voxel_cells(voxels.pos, 6))
            torch.testing.assert_close(voxel_centers(voxels.voxel, 6).float(), voxels.pos)

    def test_all_points_are_voxelised_and_then_as_many_voxels_kept_as_points_otherwise(self, make):
        plain, data = make(num_points=64), make(num_points=16, voxels=6)
        everything = rows(voxel_cells(plain.test_dataset[3].pos, 6))
        assert len(everything) > 16
        assert data.test_dataset[3].num_nodes == 16
        assert rows(data.test_dataset[3].voxel) < everything
        whole = make(num_points=64, voxels=6).test_dataset[3]
        assert rows(whole.voxel) == everything

    def test_training_keeps_other_voxels_in_every_epoch_and_evaluation_the_same(self, make):
        data = make(num_points=16, voxels=6)
        assert rows(data.train_dataset[0, 0].voxel) != rows(data.train_dataset[1, 0].voxel)
        assert torch.equal(data.train_dataset[1, 0].voxel, data.train_dataset[1, 0].voxel)
        assert torch.equal(data.val_dataset[0].voxel, data.val_dataset[0].voxel)

    def test_augmentation_moves_the_voxels(self, make):
        data = make(voxels=6, random_scale=True)
        voxels = data.train_dataset[0, 0]
        factor = voxels.pos / voxel_centers(voxels.voxel, 6)
        torch.testing.assert_close(factor, torch.full_like(factor, float(factor[0, 0])))
        assert torch.equal(voxels.x, voxels.pos)

    def test_refuses_what_makes_no_sense(self, make):
        with pytest.raises(ValueError, match="Expected `voxels` >= 1, .* got 0"):
            make(voxels=0)
        with pytest.raises(ValueError, match="`features`='normal\\+pos'"):
            make(voxels=4, features="normal+pos")
        with pytest.raises(ValueError, match=r"`pos` in \[-1, 1\]"):
            make(voxels=4, normalize="none").test_dataset[0]
