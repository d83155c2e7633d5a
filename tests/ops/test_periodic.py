"""Positions in a periodic box, and the images of sources across its boundary."""

import pytest
import torch

from ccnn_geo.ops import KernelSupport, Neighborhood
from ccnn_geo.ops.grid_positions import per_axis_period
from ccnn_geo.ops.periodic import check_reach, nearest_images, wrap


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapped_positions_lie_in_the_box_and_differ_by_whole_periods(dtype):
    pos = 20 * torch.randn(200, 3, dtype=dtype)
    wrapped = wrap(pos, (1.7, None, 0.3))
    assert wrapped.dtype == torch.float64
    assert torch.equal(wrapped[:, 1], pos[:, 1].double())
    for axis, length in ((0, 1.7), (2, 0.3)):
        assert bool((wrapped[:, axis] >= 0).all()) and bool((wrapped[:, axis] < length).all())
        periods = (pos[:, axis].double() - wrapped[:, axis]) / length
        torch.testing.assert_close(periods, periods.round(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [0.1, 1 / 3, 1.0, 7.0])
def test_the_ends_of_the_box_are_its_beginning(length):
    tiny = torch.finfo(torch.float64).tiny
    ends = [0.0, length, -length, 2 * length, -tiny, -1e-20]
    pos = torch.tensor(ends, dtype=torch.float64).unsqueeze(1)
    assert torch.equal(wrap(pos, (length,)), torch.zeros_like(pos))


def test_wrapping_passes_gradients_on():
    pos = (5 * torch.randn(20, 2)).requires_grad_()
    slopes = torch.rand(20, 2)
    (wrap(pos, (1.0, None)) * slopes).sum().backward()
    assert torch.equal(pos.grad, slopes)


def test_only_sources_across_the_boundary_get_images_and_each_image_is_made_once():
    source = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.5, 0.5], [0.9, 0.9]]).double()
    target = torch.tensor([[0.2, 0.2], [0.1, 0.3], [0.8, 0.8]]).double()
    #             0 <- 0, 1, 2       1 <- 1, 3       2 <- 0, 3
    table = torch.tensor([[0, 1, 2], [1, 3, -1], [0, 3, -1]])
    images = nearest_images(source, target, Neighborhood.from_table(table, 4), (1.0, None))
    # The points and their images to the left and to the right; the second axis is not periodic.
    expected = {(0, 1.1, 0.1), (1, -0.1, 0.1), (3, -0.1, 0.9)}
    made = torch.cat([images.origin.double().unsqueeze(1), images.pos[4:]], 1)
    assert {tuple(round(each, 6) for each in row) for row in made.tolist()} == expected
    assert len(images.origin) == 3
    assert torch.equal(images.pos[:4], source)
    neighbors = images.neighbors
    assert (neighbors.num_sources, neighbors.num_targets, neighbors.degree) == (7, 3, 3)
    occupied = neighbors.index >= 0
    assert torch.equal(occupied, table.flatten() >= 0)
    j, i = neighbors.edge_index
    assert bool(((images.pos[j] - target[i])[:, 0].abs() <= 0.5).all())
    origin = torch.cat([torch.arange(4), images.origin])
    assert torch.equal(origin[j], table.flatten()[occupied])


def test_without_edges_across_the_boundary_there_are_no_images():
    pos = torch.tensor([[0.4], [0.6]]).double()
    for table in (torch.tensor([[0, 1], [1, 0]]), torch.tensor([[-1], [-1]])):
        assert nearest_images(pos, pos, Neighborhood.from_table(table), (1.0,)) is None
    nothing = Neighborhood.from_table(torch.full((2, 3), -1), 0)
    assert nearest_images(pos[:0], pos, nothing, (1.0,)) is None


def support(width, **arguments):
    return KernelSupport(torch.tensor([width]).log(), 2, **arguments)


def test_a_kernel_may_reach_half_a_period():
    check_reach(support(9.0, extent=0.3), (0.6, None))
    check_reach(support(9.0, extent=(0.1, 5.0)), (0.2, None))
    # The window ends at 2 widths.
    cutoff = float(torch.tensor(-2.0).exp())
    check_reach(support(0.25, extent=0.6, cutoff=cutoff), (0.6, 0.6))
    message = "`period` of at least twice the reach of the kernel, 0.3 along axis 1, got 0.59"
    for kernel in (support(9.0, extent=0.3), support(0.25, extent=0.6, cutoff=cutoff)):
        with pytest.raises(ValueError, match=message):
            check_reach(kernel, (None, 0.59))


def test_periods_are_repeated_for_every_axis():
    assert per_axis_period(2, 3) == (2.0, 2.0, 2.0)
    assert per_axis_period((1, None), 2) == (1.0, None)
    assert per_axis_period(None, 2) is None
    assert per_axis_period((None, None), 2) is None
    with pytest.raises(ValueError, match=r"one number or 3 .* got \(1.0, None\)"):
        per_axis_period((1.0, None), 3)
