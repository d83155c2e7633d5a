"""The continuous convolution over all pairs of points, through non-uniform Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ccnn_geo.ops.bandwidth import kernel_bandwidth, kernel_jump, kernel_reach
from ccnn_geo.ops.grid_backends.layout import fast_length
from ccnn_geo.ops.grid_kernels import render_kernel
from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.nufft_backends.finufft import FinufftTransform, is_available, missing_package
from ccnn_geo.ops.nufft_backends.spreading import SpreadingTransform
from ccnn_geo.ops.nufft_backends.transform import Modes, Transform, analyze, synthesize
from ccnn_geo.ops.periodic import Period, check_half_period
from ccnn_geo.ops.point_backends import registry as point_backends
from ccnn_geo.ops.point_conv import kernel_norm, point_conv

Method = Literal["auto", "nufft", "direct"]

MEMORY_BUDGET = 4 * 2**30
"""Bytes that the spectra and the sampled kernel of a convolution may take."""

BACKENDS: dict[str, Callable[..., Transform]] = {
    "torch": SpreadingTransform,
    "finufft": FinufftTransform,
}

_FULL_KERNEL_CHUNK = 2**14
"""Modes at which a full kernel is multiplied at a time."""

MAX_PAIRS = 2**25
"""Pairs of points that are summed one by one at most."""

_PAIR_COST = {"native": 1 / 30, "triton": 1 / 30}
"""Time of a pair per hidden channel of the kernel, in units of the time of a mode per channel, by
point backend; see `benchmarks.all_points`."""

_SLOW_PAIR_COST = 1 / 3


class Box(NamedTuple):
    """Box of the Fourier series of one cloud."""

    length: tuple[float, ...]
    """Length per axis in kernel units."""
    modes: Modes
    """Number of modes per axis, odd."""


def nufft_conv(
    x: Tensor,
    pos: Tensor | tuple[Tensor, Tensor],
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    *,
    batch: Tensor | tuple[Tensor, Tensor] | None = None,
    weight: Tensor | None = None,
    tolerance: float = 1e-3,
    period: Period | None = None,
    with_norm: bool = False,
    method: Method = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    r"""Convolve features on points with a continuous kernel, over all pairs of points.

    .. math::
        y_i = \sum_j w_j\, g(v_{ij})\, A [h(v_{ij}), 1] \odot x_j

    for all sources j of the cloud of target i, in `N log N` (fast summation, `Potts and Steidl
    2003 <https://doi.org/10.1137/S1064827502400984>`_): with the Fourier series of the kernel on a
    box that holds the cloud, the sum is a non-uniform Fourier transform of the features, a product,
    and a transform back. The box is the cloud's own, longer by the reach of the kernel so that
    nothing wraps around; on a periodic axis it is the period.

    The error relative to the sum over all pairs is about the tolerance. The number of modes follows
    from it and from the bandwidth of the kernel, see `kernel_bandwidth`. Gradients reach features,
    positions, weights and all parameters; they can be differentiated again.

    Where clouds are so small that the transforms would take longer, or where no number of modes
    resolves the kernel, up to `MAX_PAIRS` pairs are summed one by one.

    Args:
        x: Features of the sources, `[S, C]`.
        pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
        features: The kernel network up to its last linear layer, see `point_conv`.
        readout: The last linear layer with its bias as the last column, `[C, H + 1]` (depthwise) or
            `[O, C, H + 1]` (full).
        support: Support and window of the kernel.
        batch: Cloud of every point, sorted, `[N]`, or a pair; one cloud unless given.
        weight: Quadrature weight of every source, `[S]`.
        tolerance: Relative error, in (1e-12, 1); computed in float64 below 1e-6.
        period: Period of the positions per axis, None where there is none.
        with_norm: If True, also return the kernel norm.
        method: `"nufft"`, `"direct"` for the sum pair by pair, or `"auto"` for the faster.
        backend: `"finufft"`, `"torch"`, or `"auto"` for FINUFFT where it is installed.

    Returns:
        The output `[T, C]` or `[T, O]`, and the squared norm of the windowed kernel, summed over
        the sources and averaged over the targets (None unless asked for).

    Raises:
        TypeError: If the kernel is in 16 bits.
        ValueError: If an argument is out of range, the kernel is causal or ends abruptly, a period
            is shorter than twice the reach of the kernel, or the spectra would not fit into
            `MEMORY_BUDGET`.
        RuntimeError: If the requested backend is not installed.
    """
    check_tolerance(tolerance)
    if method not in get_args(Method):
        raise ValueError(f"Expected `method` to be one of {get_args(Method)}, got {method!r}")
    if support.shift != 0.0:
        raise ValueError(
            "Expected a kernel that is not causal: a causal kernel ends abruptly at the present, "
            "which no number of modes resolves. Use a graph or grid"
        )
    if readout.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"Expected a kernel in float32 or float64, got {readout.dtype}, whose rounding errors "
            "have no bandlimit; features may be in 16 bits"
        )
    make = BACKENDS[choose_backend(backend, x.device)]
    single = pos[0] if isinstance(pos, tuple) else pos
    pos = pos if isinstance(pos, tuple) else (pos, pos)
    source = support.scaled(single)
    target = source if pos[1] is pos[0] else support.scaled(pos[1])
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    single_digits = tolerance >= 1e-6 and readout.dtype != torch.float64
    dtype = torch.float32 if single_digits else torch.float64
    channels = readout.size(0)
    if len(source) == 0 or len(target) == 0:
        zero = x.sum() * 0 + readout.sum().to(x.dtype) * 0
        return zero.expand(len(target), channels), zero if with_norm else None

    with torch.autocast(x.device.type, enabled=False):
        reach, band = _resolution(features, readout, support, tolerance)
        wrap = _scaled_period(period, support, reach)
        clouds = list(_clouds(source, target, batch))
        boxes = [_box(source[own], target[other], reach, band, wrap) for own, other in clouds]
        if _sums_pairs(method, clouds, boxes, wrap, readout):
            graph = Neighborhood.complete(clouds, len(source), device=x.device)
            output, moment = point_conv(
                x, pos, graph, features, readout, support, with_moment=with_norm
            )
            return output, None if moment is None else kernel_norm(moment, readout)
        _check_memory(boxes, readout, support, band, tolerance)

        def transforms(angles: Tensor, modes: Modes) -> Transform:
            return make(angles, modes, tolerance / 4, dtype)

        values = x.to(dtype).t()
        kernels: dict[Box, Tensor] = {}
        shares, norm = [], readout.new_zeros(())
        for (own, other), (center, box) in zip(clouds, boxes, strict=True):
            if box not in kernels:
                kernels[box] = _kernel_spectrum(features, readout, support, reach, box)
            here = _angles(source[own], center, box)
            there = here if target is source else _angles(target[other], center, box)
            forth = transforms(here.detach(), box.modes)
            back = forth if there is here else transforms(there.detach(), box.modes)
            spectrum = analyze(values[:, own].contiguous(), here, forth, box.modes)
            spectrum = _multiply(kernels[box].to(spectrum.dtype), spectrum, readout)
            shares.append(synthesize(spectrum, there, back, box.modes).t())
            if with_norm:
                pair = (here, there)
                norm = norm + _pair_norm(features, readout, support, reach, box, pair, transforms)
    output = torch.cat(shares).to(x.dtype)
    return output, norm / len(target) if with_norm else None


def check_tolerance(tolerance: float) -> float:
    """Return a tolerance that has to be in (1e-12, 1).

    Raises:
        ValueError: If it is not.
    """
    if not 1e-12 < tolerance < 1:
        raise ValueError(f"Expected `tolerance` in (1e-12, 1), got {tolerance}")
    return tolerance


def _sums_pairs(
    method: Method,
    clouds: Sequence[tuple[slice, slice]],
    boxes: Sequence[tuple[Tensor, Box]],
    period: Period,
    readout: Tensor,
) -> bool:
    """Return True if pairs are to be summed one by one: if it is asked for, or faster.

    Raises:
        ValueError: If it is asked for with a period.
    """
    if any(length is not None for length in period):
        if method == "direct":
            raise ValueError("Expected no `period` with `method='direct'`, got one")
        return False
    if method != "auto":
        return method == "direct"
    pairs = sum((own.stop - own.start) * (other.stop - other.start) for own, other in clouds)
    if pairs > MAX_PAIRS:
        return False
    if any(0 in box.modes for _, box in boxes):
        return True  # no number of modes would do
    backend = point_backends.choose_backend("auto", readout.device, readout.dtype)
    cost = pairs * readout.size(-1) * _PAIR_COST.get(backend, _SLOW_PAIR_COST)
    return cost < readout.size(-2) * sum(math.prod(box.modes) for _, box in boxes)


def choose_backend(name: str, device: torch.device) -> str:
    """Return the backend to use.

    Raises:
        ValueError: If there is none of this name.
        RuntimeError: If it is not installed.
    """
    if name == "auto":
        return "finufft" if is_available(device) else "torch"
    if name not in BACKENDS:
        raise ValueError(
            f"Expected `backend` to be 'auto' or one of {list(BACKENDS)}, got {name!r}"
        )
    if name == "finufft" and not is_available(device):
        raise RuntimeError(f"Expected {missing_package(device)}, for `backend='finufft'`")
    return name


def _resolution(
    features: Features, readout: Tensor, support: KernelSupport, tolerance: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return reach and bandwidth of a kernel, with the tolerance divided among the errors.

    On every axis, frequencies above the bandwidth cause two errors: they are missing from the
    series, and they alias in the samples of the kernel.
    """
    reach = kernel_reach(support, 0.1 * tolerance)
    share = tolerance / math.sqrt(8 * len(reach))
    return reach, kernel_bandwidth(features, readout, support, reach, share)


def _scaled_period(
    period: Period | None, support: KernelSupport, reach: tuple[float, ...]
) -> Period:
    """Return the period per axis in kernel units, at least twice the reach of the kernel."""
    if period is None:
        return (None,) * len(reach)
    ends = [end / scale for end, scale in zip(reach, support.scale, strict=True)]
    check_half_period(ends, period)
    return tuple(
        None if length is None else length * scale
        for length, scale in zip(period, support.scale, strict=True)
    )


def _clouds(
    source: Tensor, target: Tensor, batch: Tensor | tuple[Tensor, Tensor] | None
) -> Iterator[tuple[slice, slice]]:
    """Yield the sources and targets of every cloud that has targets."""
    if batch is None:
        yield slice(0, len(source)), slice(0, len(target))
        return
    pair = batch if isinstance(batch, tuple) else (batch, batch)
    size = max((int(each[-1]) + 1 for each in pair if len(each)), default=0)
    ends = [torch.bincount(each, minlength=size).cumsum(0).tolist() for each in pair]
    starts = [[0, *each[:-1]] for each in ends]
    for start, end, first, last in zip(starts[0], ends[0], starts[1], ends[1], strict=True):
        if last > first:
            yield slice(start, end), slice(first, last)


@torch.no_grad()
def _box(
    source: Tensor,
    target: Tensor,
    reach: tuple[float, ...],
    band: tuple[float, ...],
    period: Period,
) -> tuple[Tensor, Box]:
    """Return the centre of a cloud, `[D]`, and the box of its Fourier series."""
    parts = [part for part in (source, target) if len(part)]
    low = torch.stack([part.amin(0) for part in parts]).amin(0)
    high = torch.stack([part.amax(0) for part in parts]).amax(0)
    lengths, modes = [], []
    for side, end, frequency, wrap in zip((high - low).tolist(), reach, band, period, strict=True):
        length = max(side + end, 2 * end) if wrap is None else wrap
        if math.isinf(frequency * length):
            return (low + high) / 2, Box((math.inf,) * len(reach), (0,) * len(reach))
        count = fast_length(math.ceil(2 * frequency * length) + 1, odd=True)
        if wrap is None and frequency > 0:
            # The step depends on the bandwidth only, so that clouds of equal modes share a kernel.
            length = (count - 1) / (2 * frequency)
        lengths.append(length)
        modes.append(count)
    return (low + high) / 2, Box(tuple(lengths), tuple(modes))


def _check_memory(
    boxes: list[tuple[Tensor, Box]],
    readout: Tensor,
    support: KernelSupport,
    band: tuple[float, ...],
    tolerance: float,
) -> None:
    """Raise ValueError if the spectra of a box would take more than `MEMORY_BUDGET`."""
    channels = max(readout.shape[:-1])
    for _, box in boxes:
        # Features, output and their product or the kernel, with an oversampled copy of one.
        needed = 8 * 6 * channels * math.prod(box.modes)
        if 0 < needed <= MEMORY_BUDGET:
            continue
        cycles = [f"{each * scale:.3g}" for each, scale in zip(band, support.scale, strict=True)]
        jump = kernel_jump(support)
        reason = (
            f"the kernel ends abruptly, where its window is still {jump:.2g} of its peak (see "
            "`window_cutoff`)"
            if jump > tolerance
            else f"the kernel varies at up to {', '.join(cycles)} cycles per unit of `pos`"
        )
        modes = " x ".join(map(str, box.modes)) if needed else "an unbounded number of"
        raise ValueError(
            f"Expected spectra of at most {MEMORY_BUDGET / 2**30:g} GiB, but {reason}: a box of "
            f"this size needs {modes} modes of {channels} channels"
            + (f", {needed / 2**30:.3g} GiB. " if needed else ". ")
            + ("Choose" if jump > tolerance else "Set a `bandlimit`, or choose")
            + " a larger `tolerance`"
        )


def _angles(pos: Tensor, center: Tensor, box: Box) -> Tensor:
    """Return positions in kernel units as angles in radians, `[N, D]`, float64."""
    lengths = torch.tensor(box.length, dtype=torch.float64, device=pos.device)
    turns = (pos - center) / lengths
    return 2 * math.pi * (turns - turns.detach().round())


def _samples(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
) -> Tensor:
    """Return the samples of a kernel in a box as far as it reaches, `[C, 2 K_1 + 1, ...]`."""
    steps = tuple(length / count for length, count in zip(box.length, box.modes, strict=True))
    arms = [
        min(int(end / step), count // 2)
        for end, step, count in zip(reach, steps, box.modes, strict=True)
    ]
    spacing = tuple(step / scale for step, scale in zip(steps, support.scale, strict=True))
    taps = tuple((arm, arm) for arm in arms)
    return render_kernel(features, readout, support, spacing, taps)[0]


def _series(samples: Tensor, box: Box) -> Tensor:
    """Return the Fourier coefficients of samples around 0, in the layout of `Transform`."""
    arms = [count // 2 for count in samples.shape[1:]]
    axes = tuple(range(1, samples.dim()))
    missing = [modes - count for modes, count in zip(box.modes, samples.shape[1:], strict=True)]
    grid = torch.nn.functional.pad(samples, [each for m in missing[::-1] for each in (0, m)])
    grid = grid.roll([-arm for arm in arms], axes)
    return torch.fft.rfftn(grid, dim=axes, norm="forward")


def _kernel_spectrum(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
) -> Tensor:
    """Return the Fourier coefficients of a depthwise kernel, or of the basis of a full one."""
    if readout.dim() == 3:
        readout = torch.eye(readout.size(-1), dtype=readout.dtype, device=readout.device)
    return _series(_samples(features, readout, support, reach, box), box)


def _multiply(kernel: Tensor, spectrum: Tensor, readout: Tensor) -> Tensor:
    """Return the spectrum of the output, `[C, ...]` or `[O, ...]`."""
    if readout.dim() == 2:
        return kernel * spectrum
    shares = [
        checkpoint(_multiply_full, basis, part, readout, use_reentrant=False)
        for basis, part in zip(
            kernel.flatten(1).split(_FULL_KERNEL_CHUNK, 1),
            spectrum.flatten(1).split(_FULL_KERNEL_CHUNK, 1),
            strict=True,
        )
    ]
    return torch.cat(shares, 1).unflatten(1, spectrum.shape[1:])


def _multiply_full(basis: Tensor, spectrum: Tensor, readout: Tensor) -> Tensor:
    """Return `sum_ch A_och basis_hm x_cm`, `[O, m]`."""
    rows = readout.transpose(1, 2).flatten(0, 1).to(spectrum.real.dtype)
    parts = rows @ torch.view_as_real(spectrum).flatten(1)
    mixed = torch.view_as_complex(parts.unflatten(-1, (-1, 2))).unflatten(0, (len(readout), -1))
    return (mixed * basis).sum(1)


def _pair_norm(
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    box: Box,
    angles: tuple[Tensor, Tensor],
    transforms: Callable[[Tensor, Modes], Transform],
) -> Tensor:
    """Return the squared kernel summed over all pairs and channels of a cloud, a scalar.

    The square has twice the bandwidth of the kernel.
    """
    fine = Box(box.length, tuple(fast_length(2 * count - 1, odd=True) for count in box.modes))
    kernel = _samples(features, readout.flatten(0, -2), support, reach, fine)
    squares = _series(kernel.square().sum(0, keepdim=True), fine)

    def density(points: Tensor) -> Tensor:
        ones = points.new_ones(1, len(points), dtype=readout.dtype)
        return analyze(ones, points, transforms(points.detach(), fine.modes), fine.modes)

    source, target = angles
    here = density(source)
    there = here if target is source else density(target)
    products = (squares * here * there.conj()).real
    return 2 * products.sum() - products[..., 0].sum()
