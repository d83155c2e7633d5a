"""The non-uniform transforms against the sums that define them."""

import math

import pytest
import torch

from ccnn_geo.ops.nufft_backends.finufft import FinufftTransform, missing_package
from ccnn_geo.ops.nufft_backends.spreading import SpreadingTransform
from ccnn_geo.ops.nufft_backends.transform import analyze, synthesize

missing = missing_package(torch.device("cpu"))
BACKENDS = [
    SpreadingTransform,
    pytest.param(
        FinufftTransform, marks=pytest.mark.skipif(missing is not None, reason=f"needs {missing}")
    ),
]
MODES = [(9,), (9, 5), (5, 9, 7), (1,), (5, 1)]


def points(count: int, dim: int) -> torch.Tensor:
    return (torch.rand(count, dim, dtype=torch.float64) * 2 - 1) * math.pi


def mode_grid(modes):
    """Mode numbers of a spectrum, `[..., D]`, and how many modes each entry stands for."""
    axes = [torch.fft.fftfreq(count, 1 / count, dtype=torch.float64) for count in modes]
    axes[-1] = axes[-1][: modes[-1] // 2 + 1]
    numbers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return numbers, torch.where(numbers[..., -1] == 0, 1.0, 2.0)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("make", BACKENDS)
def test_analysis_is_the_sum_over_points(make, modes):
    angles, values = points(40, len(modes)), torch.randn(3, 40, dtype=torch.float64)
    numbers, _ = mode_grid(modes)
    expected = torch.einsum(
        "cn,...n->c...", values.to(torch.complex128), torch.exp(1j * (numbers @ angles.T))
    )
    found = make(angles, modes, 1e-11, torch.float64).analyze(values)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("make", BACKENDS)
def test_synthesis_is_the_real_sum_over_modes(make, modes):
    numbers, multiplicity = mode_grid(modes)
    angles = points(40, len(modes))
    # Not Hermitian where a mode is held together with its opposite.
    spectrum = torch.randn(3, *numbers.shape[:-1], dtype=torch.complex128)
    waves = torch.exp(-1j * (numbers @ angles.T))
    expected = torch.einsum("c...,...n->cn", spectrum * multiplicity, waves).real
    found = make(angles, modes, 1e-11, torch.float64).synthesize(spectrum)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", BACKENDS)
def test_first_and_second_derivatives_are_exact(make):
    modes = (5, 7)
    angles = points(4, 2).requires_grad_()
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    spectrum = torch.randn(3, 5, 4, dtype=torch.complex128, requires_grad=True)

    def analysis(values, angles):
        return analyze(values, angles, make(angles.detach(), modes, 1e-11, torch.float64), modes)

    def synthesis(spectrum, angles):
        transform = make(angles.detach(), modes, 1e-11, torch.float64)
        return synthesize(spectrum, angles, transform, modes)

    # Of the zero mode, only the real part counts, which finite differences do not know.
    for function, inputs in ((analysis, (values, angles)), (synthesis, (spectrum, angles))):
        assert torch.autograd.gradcheck(function, inputs, atol=1e-6)
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-5)


@pytest.mark.parametrize("make", BACKENDS)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6, 1e-9])
def test_the_error_stays_below_the_tolerance(make, tolerance):
    modes = (21, 15)
    angles, values = points(300, 2), torch.randn(2, 300, dtype=torch.float64)
    exact = SpreadingTransform(angles, modes, 1e-14, torch.float64)
    spectrum = exact.analyze(values)
    found = make(angles, modes, tolerance, torch.float64)
    assert (found.analyze(values) - spectrum).norm() < tolerance * spectrum.norm()
    back = exact.synthesize(spectrum)
    assert (found.synthesize(spectrum) - back).norm() < tolerance * back.norm()


@pytest.mark.parametrize("make", BACKENDS)
def test_single_precision_stays_single(make):
    angles, values = points(50, 2), torch.randn(3, 50)
    transform = make(angles, (9, 9), 1e-4, torch.float32)
    spectrum = transform.analyze(values)
    assert spectrum.dtype == torch.complex64
    assert transform.synthesize(spectrum).dtype == torch.float32


def test_spreading_in_chunks_changes_nothing(monkeypatch):
    angles, values = points(97, 2), torch.randn(2, 97, dtype=torch.float64)
    whole = SpreadingTransform(angles, (9, 9), 1e-6, torch.float64)
    spectrum, back = whole.analyze(values), None
    back = whole.synthesize(spectrum)
    monkeypatch.setattr("ccnn_geo.ops.nufft_backends.spreading._CHUNK_VALUES", 2 * 49 * 10)
    torch.testing.assert_close(whole.analyze(values), spectrum)
    torch.testing.assert_close(whole.synthesize(spectrum), back)
