"""The continuous convolution over all pairs of points, through non-uniform Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from ccnn_geo.ops.bandwidth import kernel_bandwidth, kernel_jump, kernel_reach
from ccnn_geo.ops.fourier_box import Box, box_angles, fourier_box
from ccnn_geo.ops.functorch import has_tangents, outside_transforms, unwrapped
from ccnn_geo.ops.grid_positions import per_axis_period
from ccnn_geo.ops.kernel_series import kernel_spectrum, multiply_spectrum, pair_moment
from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighbor_backends.checks import check_clouds
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.nufft_backends.finufft import FinufftTransform, is_available, missing_package
from ccnn_geo.ops.nufft_backends.spreading import SpreadingTransform
from ccnn_geo.ops.nufft_backends.transform import Modes, Transform, analyze, synthesize
from ccnn_geo.ops.periodic import Period, check_half_period
from ccnn_geo.ops.point_backends import registry as point_backends
from ccnn_geo.ops.point_backends.checks import as_pair, check_operands, check_unmapped
from ccnn_geo.ops.point_backends.operands import without_edges
from ccnn_geo.ops.point_conv import point_conv
from ccnn_geo.ops.scalars import is_number, plain

Method = Literal["auto", "nufft", "direct"]

MEMORY_BUDGET = 4 * 2**30
"""Bytes that the spectra of a convolution may take, gradients included."""

BACKENDS: dict[str, Callable[..., Transform]] = {
    "torch": SpreadingTransform,
    "finufft": FinufftTransform,
}

_SINGLE_TOLERANCE = 1e-6
"""Least tolerance of a computation in single precision."""

_COPIES = 3
"""Spectra of one kind that are alive at a time: these, in backward their gradients, and those that
are being computed."""

MAX_PAIRS = 2**25
"""Pairs of points that are summed one by one at most."""

_PAIR_COST = {"native": 1 / 30, "triton": 1 / 30}
"""Time of a pair per hidden channel of the kernel, in units of the time of a mode per channel, by
point backend; see `benchmarks.all_points`."""

_SLOW_PAIR_COST = 1 / 3


def nufft_conv(
    x: Tensor,
    pos: Tensor | tuple[Tensor, Tensor],
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    *,
    batch: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    weight: Tensor | None = None,
    tolerance: float = 1e-3,
    period: float | tuple[float | None, ...] | None = None,
    with_moment: bool = False,
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

    The error of a channel is about the tolerance relative to its sums over all pairs, as long as
    these are no small differences, or the points so far apart that only the tails of the kernel
    meet them. The number of modes follows from the tolerance and from the bandwidth of the kernel,
    see `kernel_bandwidth`. Gradients reach features, positions, weights and all parameters; they
    can be differentiated again, also by the transforms of `torch.func`, except in forward mode, and
    by `vmap` over features only.

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
        period: Period of the positions, a number, or one per axis with None where there is none.
        with_moment: If True, also return the second moment of the basis.
        method: `"nufft"`, `"direct"` for the sum pair by pair, or `"auto"` for the faster.
        backend: `"finufft"`, `"torch"`, or `"auto"` for FINUFFT where it is installed.

    Returns:
        The output `[T, C]` or `[T, O]`, and the mean over targets of the second moment of the basis
        as in `point_conv`, `[H + 1, H + 1]` (None unless asked for).

    Raises:
        TypeError: If an operand is not a dense floating-point tensor, positions are in 16 bits, the
            kernel is in 16 bits, or in float32 with a tolerance below 1e-6 and no MAGNet.
        ValueError: If shapes or devices do not fit one another, a value is not finite, `batch` is
            not sorted or given for either sources or targets only, another argument is out of
            range, the kernel is causal or ends abruptly, a period is shorter than twice the reach
            of the kernel, `vmap` maps over another operand than features and weights, or the
            spectra would not fit into `MEMORY_BUDGET`.
        RuntimeError: If the requested backend is not installed.
    """
    tolerance = check_tolerance(tolerance)
    if method not in get_args(Method):
        raise ValueError(f"Expected `method` to be one of {get_args(Method)}, got {method!r}")
    pair, clouds = _checked(x, pos, batch, features, readout, support, weight)
    _check_kernel(features, readout, support, tolerance)
    make = BACKENDS[choose_backend(backend, x.device)]
    lengths = per_axis_period(period, pair[0].size(1))
    if weight is not None:
        x = x * weight.to(x.dtype).unsqueeze(-1)
    if readout.dtype == torch.float32 and tolerance < _SINGLE_TOLERANCE:
        features, readout, support = _in_double(features, readout, support)
    input_dtype, dtype = x.dtype, readout.dtype
    with torch.autocast(x.device.type, enabled=False):
        source = support.scaled(pair[0])
        target = source if pair[1] is pair[0] else support.scaled(pair[1])
        if len(source) == 0 or len(target) == 0:
            output, moment = without_edges(x, source, target, features, readout, support)
            return output.to(input_dtype), moment if with_moment else None
        reach, band = _resolution(features, readout, support, tolerance)
        wrap = _scaled_period(lengths, support, reach)
        boxes = [
            fourier_box(source[own], target[other], reach, band, wrap) for own, other in clouds
        ]
        if _sums_pairs(method, clouds, boxes, wrap, readout):
            graph = Neighborhood.complete(clouds, len(source), device=x.device)
            output, second = point_conv(
                x, pair, graph, features, readout, support, with_moment=with_moment
            )
            return output.to(input_dtype), second
        _check_memory(
            [box for _, box in boxes], readout, support, reach, band, tolerance, with_moment
        )

        def transforms(angles: Tensor, modes: Modes) -> Transform:
            points = unwrapped(angles.detach())
            with outside_transforms(points):
                return make(points, modes, tolerance / 4, dtype)

        values = x.to(dtype).t()
        kernels: dict[Box, Tensor] = {}
        shares, moment = [], readout.new_zeros(())
        for (own, other), (center, box) in zip(clouds, boxes, strict=True):
            if box not in kernels:
                kernels[box] = kernel_spectrum(features, readout, support, reach, box)
            here = box_angles(source[own], center, box)
            there = here if target is source else box_angles(target[other], center, box)
            forth = transforms(here, box.modes)
            back = forth if there is here else transforms(there, box.modes)
            spectrum = analyze(values[:, own].contiguous(), here, forth, box.modes)
            spectrum = multiply_spectrum(kernels[box], spectrum, readout)
            shares.append(synthesize(spectrum, there, back, box.modes).t())
            if with_moment:
                angles = (here, there)
                moment = moment + pair_moment(
                    features, readout, support, reach, box, angles, transforms
                )
    output = torch.cat(shares).to(input_dtype)
    return output, moment / len(target) if with_moment else None


def check_tolerance(tolerance: float) -> float:
    """Return a tolerance that has to be in (1e-12, 1).

    Raises:
        ValueError: If it is not.
    """
    tolerance = plain(tolerance)
    if not (is_number(tolerance) and 1e-12 < tolerance < 1):
        raise ValueError(f"Expected `tolerance` in (1e-12, 1), got {tolerance!r}")
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


def _checked(
    x: Tensor,
    pos: Tensor | tuple[Tensor, Tensor],
    batch: Tensor | tuple[Tensor | None, Tensor | None] | None,
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    weight: Tensor | None,
) -> tuple[tuple[Tensor, Tensor], list[tuple[slice, slice]]]:
    """Check operands; return positions of sources and targets, and both of every cloud."""
    source, target = as_pair("pos", pos)
    numbers, target_numbers = as_pair("batch", batch)
    check_operands(x, (source, target), (len(x), len(target)), features, readout, support, weight)
    network = features if isinstance(features, MAGNetWeights) else ()
    kernel = readout, support.inverse_sigma, *network
    if has_tangents(x, source, target, *kernel):
        raise RuntimeError(
            "Expected no forward-mode differentiation of a convolution over all pairs of points, "
            "got tangents: use the graph of all pairs"
        )
    sizes = [check_clouds(source, numbers)]
    if target is not source or target_numbers is not numbers:
        sizes.append(check_clouds(target, target_numbers))
    if (numbers is None) != (target_numbers is None):
        raise ValueError("Expected `batch` for sources and targets, got one for either only")
    for part in kernel:
        check_unmapped("weights of the kernel", part)
    return (source, target), _clouds((numbers, target_numbers), (len(source), len(target)))


def _check_kernel(
    features: Features, readout: Tensor, support: KernelSupport, tolerance: float
) -> None:
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
    if (
        readout.dtype == torch.float32
        and tolerance < _SINGLE_TOLERANCE
        and not isinstance(features, MAGNetWeights)
    ):
        raise TypeError(
            f"Expected a kernel in float64 for a `tolerance` below {_SINGLE_TOLERANCE:g}, got "
            "float32, whose rounding errors have no bandlimit"
        )


def _in_double(
    features: Features, readout: Tensor, support: KernelSupport
) -> tuple[Features, Tensor, KernelSupport]:
    """Return a MAGNet as a kernel in float64."""
    network = MAGNetWeights(*(part.double() for part in cast(MAGNetWeights, features)))
    return network, readout.double(), support.double()


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
    numbers: tuple[Tensor | None, Tensor | None], counts: tuple[int, int]
) -> list[tuple[slice, slice]]:
    """Return the sources and targets of every cloud that has targets."""
    spans = [_spans(*each) for each in zip(numbers, counts, strict=True)]
    return [(spans[0].get(number, slice(0, 0)), span) for number, span in spans[1].items()]


def _spans(batch: Tensor | None, count: int) -> dict[int, slice]:
    """Return the points of every cloud by its number."""
    if batch is None:
        return {0: slice(0, count)}
    numbers, sizes = torch.unique_consecutive(batch, return_counts=True)
    ends = sizes.cumsum(0).tolist()
    return dict(zip(numbers.tolist(), map(slice, [0, *ends], ends), strict=True))


def _check_memory(
    boxes: list[Box],
    readout: Tensor,
    support: KernelSupport,
    reach: tuple[float, ...],
    band: tuple[float, ...],
    tolerance: float,
    with_moment: bool,
) -> None:
    """Raise ValueError if the spectra of all clouds would take more than `MEMORY_BUDGET`."""
    needed = sum(
        _needed_bytes(box, readout, reach, with_moment, with_kernel=number == boxes.index(box))
        for number, box in enumerate(boxes)
    )
    if needed <= MEMORY_BUDGET:
        return
    cycles = [f"{each * scale:.3g}" for each, scale in zip(band, support.scale, strict=True)]
    jump = kernel_jump(support)
    reason = (
        f"the kernel ends abruptly, where its window is still {jump:.2g} of its peak (see "
        "`window_cutoff`)"
        if jump > tolerance
        else f"the kernel varies at up to {', '.join(cycles)} cycles per unit of `pos`"
    )
    largest = max(boxes, key=lambda box: math.prod(box.modes))
    modes = " x ".join(map(str, largest.modes))
    bound = math.inf in largest.length
    raise ValueError(
        f"Expected spectra of at most {MEMORY_BUDGET / 2**30:g} GiB, but {reason}: a box of the "
        f"size of the largest cloud needs {'more than ' if bound else ''}{modes} modes of "
        f"{readout.size(-2)} channels"
        + ("" if bound else f", and all clouds {needed / 2**30:.3g} GiB")
        + (". Choose" if jump > tolerance else ". Set a `bandlimit`, or choose")
        + " a larger `tolerance`"
        + (" or fewer clouds at a time" if len(boxes) > 1 else "")
    )


def _needed_bytes(
    box: Box, readout: Tensor, reach: tuple[float, ...], with_moment: bool, with_kernel: bool
) -> float:
    """Return the memory that one cloud takes until its gradients are known.

    Depthwise kernels have a spectrum per channel, full ones one for every feature of their network.
    """
    width = readout.size(-1)
    kernel = readout.size(0) if readout.dim() == 2 else width
    spectra = readout.size(-2) + readout.size(0) + kernel * with_kernel
    values = float(_COPIES * spectra * math.prod(box.modes))
    if with_moment:
        reached = math.prod(
            min(1.0, 2 * end / length) for end, length in zip(reach, box.length, strict=True)
        )
        fine = math.prod(2 * count for count in box.modes)
        values += _COPIES * fine * (1 + width * reached)
    return values * readout.dtype.itemsize
