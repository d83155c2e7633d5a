"""The typical spacing of points against lattices and densities that are known."""

import math

import pytest
import torch

from ccnn_geo.ops import nyquist_frequency, typical_spacing


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_random_points_have_the_spacing_of_a_lattice_as_dense(dim):
    pos = torch.rand(2000, dim)
    assert typical_spacing(pos) == pytest.approx(2000 ** (-1 / dim), rel=0.1)


def test_points_on_a_surface_count_as_two_dimensional():
    pos = torch.nn.functional.normalize(torch.randn(2000, 3), dim=1)
    assert typical_spacing(pos) == pytest.approx(math.sqrt(4 * math.pi / 2000), rel=0.1)


def test_a_sequence_has_its_step():
    pos = torch.arange(100).double().unsqueeze(1) * 0.25
    assert typical_spacing(pos) == pytest.approx(0.25)
    assert nyquist_frequency(pos) == pytest.approx(2.0)


def test_clouds_of_a_batch_are_measured_one_by_one():
    pos = torch.rand(600, 2)
    batch = torch.arange(600) // 300
    apart = torch.cat([pos[:300], pos[300:]])
    assert typical_spacing(apart, batch) == pytest.approx(300**-0.5, rel=0.2)
    assert typical_spacing(apart) == pytest.approx(600**-0.5, rel=0.2)


def test_scale_and_shift():
    pos = torch.rand(200, 2).double()
    expected = 3 * typical_spacing(pos)
    assert typical_spacing(3 * pos + 1e6) == pytest.approx(expected, rel=1e-6)


def test_half_of_the_points_twice():
    pos = torch.rand(500, 2).repeat(2, 1)
    assert typical_spacing(pos) == pytest.approx(1000**-0.5, rel=0.5)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_points_are_refused(count):
    with pytest.raises(ValueError, match=f"Expected at least 3 points .* got {count}"):
        typical_spacing(torch.rand(count, 2))


def test_coinciding_points_are_refused():
    with pytest.raises(ValueError, match="Expected distinct points"):
        typical_spacing(torch.zeros(50, 2))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_spacing_has_the_unit_of_the_positions(scale):
    pos = torch.rand(100, 2, dtype=torch.float64)
    assert typical_spacing(pos * scale) / scale == pytest.approx(typical_spacing(pos))


def test_positions_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match="Expected `pos` to be a tensor, got a list"):
        typical_spacing([[0.0, 1.0]])
