"""Neighbours and weights for clouds of other densities than in training."""

import pytest
import torch

from ccnn_geo import CCNN
from ccnn_geo.ops import compensate_density, nearest_neighbors


def clouds(*sizes: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.rand(sum(sizes), 3), batch


def network() -> CCNN:
    settings = {"hidden_channels": 8, "num_blocks": 2, "kernel_channels": 4, "omega_0": 1.0}
    return CCNN(3, 2, dim=3, num_neighbors=12, window_width=0.3, **settings).eval()


def test_every_cloud_gets_neighbours_and_weights_in_proportion_to_its_density():
    pos, batch = clouds(20, 60, 40)
    density = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    neighbors, weight = compensate_density(pos, batch, density, 12)
    assert neighbors.pointer.diff().tolist() == [6] * 20 + [18] * 60 + [12] * 40
    assert weight.dtype == pos.dtype
    assert torch.equal(weight, (1 / density).float()[batch])
    source, target = neighbors.edge_index
    assert torch.equal(batch[source], batch[target])
    alone = nearest_neighbors(pos[20:80], 18)
    assert torch.equal(neighbors.index[120:1200], alone.index + 20)


def test_a_cloud_gives_no_more_neighbours_than_it_has_points():
    neighbors, _ = compensate_density(*clouds(3, 30), torch.tensor([1.0, 2.0]), 10)
    assert neighbors.pointer.diff().tolist() == [3] * 3 + [20] * 30
    neighbors, _ = compensate_density(*clouds(30), torch.tensor([0.01]), 10)
    assert neighbors.degree == 1


def test_points_that_are_there_twice_change_nothing():
    model, (pos, batch) = network(), clouds(40, 40)
    expected = model(pos, pos, batch)
    twice, batch = pos.view(2, 40, 3).repeat(1, 2, 1).view(-1, 3), batch.repeat_interleave(2)
    neighbors, weight = compensate_density(twice, batch, torch.tensor([2.0, 2.0]), 12)
    output = model(twice, twice, batch, edge_index=neighbors, weight=weight)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(twice, twice, batch), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("density", [0.0, -1.0, float("nan"), float("inf")])
def test_a_density_that_is_none_is_refused(density):
    with pytest.raises(ValueError, match=r"Expected positive finite `density`, got \["):
        compensate_density(*clouds(5, 5), torch.tensor([1.0, density]), 3)


def test_clouds_that_are_not_sorted_or_without_a_density_are_refused():
    pos, batch = clouds(10, 10)
    density = torch.tensor([1.0, 2.0])
    for count in (3, None):
        with pytest.raises(ValueError, match="Expected `batch` to be sorted"):
            compensate_density(pos, batch.flip(0), density, count)
        with pytest.raises(ValueError, match="one value for each of 2 clouds"):
            compensate_density(pos, batch, density[:1], count)
        with pytest.raises(ValueError, match="one value for each of 2 clouds"):
            compensate_density(pos, batch, density.unsqueeze(1), count)
    with pytest.raises(TypeError, match="Expected `density` to be a tensor, got a list"):
        compensate_density(pos, batch, [1.0, 2.0], 3)
    with pytest.raises(TypeError, match="Expected `batch` to be a tensor"):
        compensate_density(pos, None, density, 3)
    with pytest.raises(ValueError, match="Expected `num_neighbors` >= 1, got 0"):
        compensate_density(pos, batch, density, 0)


def test_numbers_of_clouds_may_have_gaps():
    pos, batch = clouds(10, 20)
    found, weight = compensate_density(pos, 2 * batch, torch.tensor([1.0, 9.0, 2.0]), 4)
    expected, expected_weight = compensate_density(pos, batch, torch.tensor([1.0, 2.0]), 4)
    assert torch.equal(found.edge_index, expected.edge_index)
    assert torch.equal(weight, expected_weight)
