"""Numbers that users give, of any kind, and what is none."""

import math

import numpy as np
import pytest
import torch

from ccnn_geo.ops import knn_graph, radius_graph
from ccnn_geo.ops.grid_positions import check_size, per_axis, per_axis_period
from ccnn_geo.ops.kernel_support import check_cutoff
from ccnn_geo.ops.nufft_conv import check_tolerance
from ccnn_geo.ops.scalars import check_count

TWO = [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), [2, 2.0], (2, 2)]
TWO += [np.array([2.0, 2.0]), torch.tensor([2.0, 2.0]), [torch.tensor(2.0), np.float32(2)]]
NONE_OF_THEM = ["2", "ab", 2j, {}, (), (2.0,), (2.0, "2"), ((2.0,), 2.0), True, 10**400, math.nan]


@pytest.mark.parametrize("value", TWO, ids=range(len(TWO)))
def test_numbers_of_any_kind_are_numbers(value):
    for found in (per_axis("extent", value, 2), per_axis_period(value, 2)):
        assert found == (2.0, 2.0)
        assert all(type(each) is float for each in found)


@pytest.mark.parametrize("value", NONE_OF_THEM, ids=range(len(NONE_OF_THEM)))
def test_what_is_no_number_per_axis_is_refused_by_name(value):
    with pytest.raises(ValueError, match="Expected `extent` to be positive, one number or 2, got"):
        per_axis("extent", value, 2)
    with pytest.raises(ValueError, match="Expected `period` to be positive, one number or 2 with"):
        per_axis_period(value, 2)


@pytest.mark.parametrize("value", ["a", None, 1j, True], ids=str)
def test_single_numbers_are_refused_by_name(value):
    pos = torch.rand(5, 2)
    with pytest.raises(ValueError, match="Expected `r` to be positive and finite, got"):
        radius_graph(pos, value)
    if value is not True:
        with pytest.raises(ValueError, match=r"Expected `tolerance` in \(1e-12, 1\), got"):
            check_tolerance(value)
    with pytest.raises(ValueError, match=r"Expected `window_cutoff` in \[0, 1\), got"):
        check_cutoff(value)
    with pytest.raises(TypeError, match="Expected `k` to be a whole number, got"):
        knn_graph(pos, value)


def test_whole_numbers_of_numpy_do_not_overflow():
    assert check_count("k", np.uint8(255)) + 1 == 256
    assert knn_graph(torch.rand(5, 2), np.uint8(255)).shape == (2, 20)


@pytest.mark.parametrize("size", [3, "ab", None, (2.5, 3), (True, 2), (0,), ()], ids=str)
def test_sizes_of_grids_are_whole_numbers(size):
    with pytest.raises(ValueError, match="Expected `size` to have at least one cell per axis, got"):
        check_size(size)
    assert check_size((np.int64(2), 3)) == (2, 3)
