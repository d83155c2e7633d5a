"""Transforms that change the number of points: nothing of the old points may stay."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from ccnn_geo.transforms import (
    GridToPoints,
    NormalizePositions,
    PointSubset,
    SampleMesh,
    Voxelize,
    VoxelsToPoints,
)
from ccnn_geo.transforms.functional import estimate_normals, normalize_positions
from ccnn_geo.transforms.voxels import occupied_cells, voxel_cells


def full_cloud(num_points=8):
    """A mesh with everything that may belong to points, edges and the whole."""
    return Data(
        pos=torch.rand(num_points, 3) * 2 - 1, y=torch.arange(num_points), num_nodes=num_points,
        edge_index=torch.randint(num_points, (2, 12)), edge_attr=torch.rand(12, 2),
        face=torch.tensor([[0, 1, 2], [1, 2, 3], [4, 5, 6]]), category=torch.tensor([4]),
    )  # fmt: skip


def full_grid():
    return Data(
        x=torch.rand(1, 2, 4, 5) + 0.1, mask=torch.rand(1, 4, 5) < 0.6, y=torch.tensor([1]),
        num_nodes=1,
    )  # fmt: skip


CHANGES = {
    "sample": (SampleMesh(5), full_cloud),
    "subset": (PointSubset(5), full_cloud),
    "voxelize": (Voxelize(3), full_cloud),
    "dense": (Voxelize(3, dense=True), full_cloud),
    "voxels": (VoxelsToPoints(), full_grid),
    "grid": (GridToPoints(), full_grid),
}


@pytest.mark.parametrize("name", CHANGES)
def test_counts_edges_and_labels_are_those_of_the_points_that_are_left(name):
    transform, make = CHANGES[name]
    data = make()
    before = data.clone()
    results = [transform(data), transform(data)]
    for key, value in before.to_dict().items():
        assert torch.equal(torch.as_tensor(data[key]), torch.as_tensor(value)), key
    batch = Batch.from_data_list(results)
    batch.validate(raise_on_error=True)
    for result in results:
        if "pos" in result:
            assert result.num_nodes == len(result.pos)
        if "edge_index" in result and result.edge_index.numel():
            assert int(result.edge_index.max()) < result.num_nodes
        assert "face" not in result
        if make is full_grid:
            assert result.y.tolist() == [1]
        else:
            assert result.category.tolist() == [4]
            assert "y" not in result or len(result.y) == len(result.pos)
    if "pos" in batch:
        assert len(batch.batch) == len(batch.pos)


def test_a_subset_keeps_the_edges_between_its_points_and_their_attributes():
    data = full_cloud()
    data.edge_attr = torch.arange(12)
    result = PointSubset(5, seed=0)(data)
    kept = result.y  # the label of a point is its old number
    old = kept[result.edge_index]
    assert torch.equal(old, data.edge_index[:, result.edge_attr])
    inside = torch.isin(data.edge_index, kept).all(0)
    assert len(result.edge_attr) == int(inside.sum())


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e25, 1e38, 1e300])
@pytest.mark.parametrize("method", ["box", "ball"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_clouds_of_every_size_become_the_same(scale, method, kind):
    if kind == torch.float32 and not 1e-38 < scale < 1e39:
        pytest.skip("float32 does not hold such numbers")
    pos = torch.rand(30, 3, dtype=torch.float64) * 2 - 1
    pos[0], pos[1] = 1.0, -1.0
    expected = normalize_positions(pos, method)
    actual = normalize_positions((pos * scale).to(kind), method)
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)
    assert actual.dtype == kind


def test_the_largest_numbers_there_are_do_not_overflow():
    pos = torch.tensor([[3.4e38, 0, 0], [-3.4e38, 0, 0]])
    assert normalize_positions(pos).tolist() == [[1.0, 0, 0], [-1.0, 0, 0]]


@pytest.mark.parametrize("array", [np.eye(3), torch.eye(3)])
def test_an_unknown_method_is_named(array):
    with pytest.raises(ValueError, match="`method` to be 'box' or 'ball', got 'junk'"):
        normalize_positions(array, "junk")
    with pytest.raises(ValueError, match="got 'junk'"):
        NormalizePositions("junk")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_normals_of_points_that_are_not_finite_are_refused(value):
    pos = np.random.default_rng(0).standard_normal((40, 3))
    pos[7, 1] = value
    with pytest.raises(ValueError, match="finite points to estimate normals"):
        estimate_normals(pos)


@pytest.mark.parametrize("dim", [3, 19, 20, 30])
def test_cells_of_many_dimensions_are_not_confused(dim):
    pos = torch.rand(200, dim, dtype=torch.float64) * 2 - 1
    pos = torch.cat([pos, pos[:50]])
    expected = torch.unique(voxel_cells(pos, 40), dim=0)
    assert torch.equal(occupied_cells(pos, 40), expected)


@pytest.mark.parametrize("resolution", [float("nan"), 2.5, True])
def test_a_resolution_that_is_no_whole_number_is_refused(resolution):
    with pytest.raises(TypeError, match="`resolution` to be a whole number"):
        voxel_cells(torch.zeros(2, 3), resolution)
