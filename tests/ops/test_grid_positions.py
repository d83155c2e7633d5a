"""Regular grids as points."""

import pytest
import torch

from ccnn_geo.ops import dense_graph, grid_positions


def test_positions_and_edges_of_a_grid_are_in_the_order_of_its_cells():
    assert grid_positions((2, 3), (1.0, 0.5)).tolist() == [
        [0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1],
    ]  # fmt: skip
    assert dense_graph((2,)).tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert dense_graph((2, 3)).shape == (2, 36)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_are_of_the_type_asked_for(dtype):
    positions = grid_positions((3,), 0.1, dtype=dtype)
    assert positions.dtype == dtype
    assert torch.equal(positions[:, 0], torch.arange(3, dtype=dtype) * 0.1)
    assert grid_positions((3,)).dtype == torch.float32


@pytest.mark.parametrize("function", [grid_positions, dense_graph])
@pytest.mark.parametrize("size", [(), (3, 0), (-1,)])
def test_grids_without_cells_are_refused(function, size):
    with pytest.raises(ValueError, match="at least one cell per axis"):
        function(size)
