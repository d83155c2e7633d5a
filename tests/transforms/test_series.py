"""Transforms of time series."""

import pytest
import torch
from torch_geometric.data import Data

from ccnn_geo.transforms import DropTimes, EvenTimes, TrapezoidWeights


def series(times) -> Data:
    pos = torch.tensor(times, dtype=torch.float32)[:, None]
    return Data(x=2 * pos, pos=pos, y=torch.tensor([1]))


def test_dropped_times_are_a_random_ascending_part():
    torch.manual_seed(0)
    kept = DropTimes(0.25)(series(range(40)))
    assert kept.num_nodes == 10 and kept.y.tolist() == [1]
    assert bool((kept.pos.diff(dim=0) > 0).all())
    assert torch.equal(kept.x, 2 * kept.pos)
    assert not torch.equal(kept.pos, DropTimes(0.25)(series(range(40))).pos)
    assert DropTimes(0.01)(series(range(40))).num_nodes == 2
    assert DropTimes(1.0)(series([3.0])).num_nodes == 1


def test_even_times_know_the_order_only():
    data = EvenTimes(0.5)(series([0.0, 0.1, 7.0]))
    assert data.pos.tolist() == [[0.0], [0.5], [1.0]]
    assert data.x[2].item() == 14.0


def test_trapezoid_weights_integrate_what_is_linear():
    times = torch.rand(50, dtype=torch.float64).sort().values
    data = TrapezoidWeights(0.1)(series(times.tolist()))
    assert data.weight.shape == (50,)
    values = 3 * data.pos[:, 0] + 1
    edges = 0.5 * (data.pos.diff(dim=0)[[0, -1], 0] * values[[0, -1]])
    integral = 0.1 * (data.weight * values).sum() - edges.sum()
    first, last = data.pos[0, 0], data.pos[-1, 0]
    expected = 1.5 * (last**2 - first**2) + last - first
    torch.testing.assert_close(integral, expected, rtol=1e-5, atol=1e-6)
    assert TrapezoidWeights(0.5)(series([0.0, 0.5, 1.0, 1.5])).weight.tolist() == [1] * 4
    assert TrapezoidWeights(1.0)(series([2.0])).weight.tolist() == [1]


@pytest.mark.parametrize("keep", [0.0, -1.0, 1.5, float("nan")])
def test_fractions_out_of_range_are_named(keep):
    with pytest.raises(ValueError, match="`keep` above 0 and at most 1, got"):
        DropTimes(keep)


def test_weights_need_ascending_times_and_a_step():
    with pytest.raises(ValueError, match="ascending times in `pos`"):
        TrapezoidWeights(1.0)(series([0.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="`step` > 0, got 0"):
        TrapezoidWeights(0)
    with pytest.raises(ValueError, match="a tensor `pos`"):
        EvenTimes(1.0)(Data(x=torch.zeros(3, 1)))
