"""Input validation of convolutions on points, without waiting for devices other than the CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ccnn_geo.ops.functorch import is_batched, is_vmapped
from ccnn_geo.ops.kernel_support import Features, KernelSupport
from ccnn_geo.ops.magnet import MAGNetWeights
from ccnn_geo.ops.neighborhood import Neighborhood
from ccnn_geo.ops.point_backends.operands import MagnetConv, network_shapes

_INDICES = ("index", "pointer", "reverse_pointer", "reverse_target")
_POSITIONS = ("source", "target")
_POSITION_TYPES = (torch.float32, torch.float64)


def check_point_conv(
    x: Tensor,
    pos: tuple[Tensor, Tensor],
    neighbors: Neighborhood,
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    weight: Tensor | None,
) -> None:
    """Check the arguments of `ccnn_geo.ops.point_conv` except indices.

    Raises:
        TypeError: If an argument has another type than its role demands.
        ValueError: If shapes or devices do not fit one another, or (on the CPU) positions or
            weights are not finite.
    """
    if not isinstance(neighbors, Neighborhood):
        raise TypeError(f"Expected `neighbors` to be a Neighborhood, got {_kind(neighbors)}")
    counts = neighbors.num_sources, neighbors.num_targets
    check_operands(x, pos, counts, features, readout, support, weight)
    if neighbors.index.device != x.device:
        raise ValueError(f"Expected `neighbors` on {x.device}, got {neighbors.index.device}")


def check_operands(
    x: Tensor,
    pos: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    features: Features,
    readout: Tensor,
    support: KernelSupport,
    weight: Tensor | None,
) -> None:
    """Check everything about a convolution on points but its graph.

    Args:
        x: Features of the sources.
        pos: Positions of the sources and of the targets.
        counts: Number of sources and of targets.
        features: The kernel network.
        readout: Its last layer.
        support: Support and window of the kernel.
        weight: Quadrature weights of the sources.

    Raises:
        TypeError: If an argument has another type than its role demands.
        ValueError: If shapes or devices do not fit one another, or (on the CPU) positions or
            weights are not finite.
    """
    if not isinstance(features, MAGNetWeights) and not callable(features):
        raise TypeError(
            f"Expected `features` to be MAGNetWeights or a function, got {_kind(features)}"
        )
    data = {"source positions": pos[0], "target positions": pos[1]}
    if weight is not None:
        data["weight"] = weight
    kernel = {"readout": readout, "inverse_sigma": support.inverse_sigma}
    if isinstance(features, MAGNetWeights):
        kernel |= {f"`{name}`": part for name, part in features._asdict().items()}
    for name, part in {"x": x, **data, **kernel}.items():
        _check_floating(name, part)
        if part.device != x.device:
            raise ValueError(f"Expected {name} on {x.device} like `x`, got {part.device}")
    if x.is_meta:
        raise ValueError("Expected tensors that hold data, got `x` on the meta device")
    for name, part in kernel.items():
        if part.dtype != readout.dtype:
            raise TypeError(f"Expected {name} in {readout.dtype} like readout, got {part.dtype}")
    _check_shapes(x, pos, counts, readout, support.bounds.size(1), weight)
    if isinstance(features, MAGNetWeights):
        _check_network(features, readout, support.bounds.size(1))
    for name, part in data.items():
        if is_readable(part) and not is_finite(part):
            raise ValueError(f"Expected finite {name}, got NaN or infinity")


def check_magnet_conv(call: MagnetConv) -> None:
    """Check shapes, types, devices and indices of a call.

    Indices are not looked at on devices other than the CPU, which would have to be waited for.

    Raises:
        TypeError: If an operand has another type than its role demands.
        ValueError: If shapes or devices do not fit one another, or there are no filters.
        IndexError: If an index names a missing source, target or slot.
    """
    for name, operand, dims in (
        ("x", call.x, 2),
        ("target", call.target, 2),
        ("index", call.index, 1),
        ("phases", call.network.phases, 2),
    ):
        if operand.dim() != dims:
            raise ValueError(f"Expected `{name}` of {dims} axes, got {list(operand.shape)}")
    if 0 in call.network.phases.shape or call.target.size(1) == 0:
        raise ValueError(
            "Expected at least one filter, one feature and one coordinate, got `phases` of shape "
            f"{list(call.network.phases.shape)} and `target` of {list(call.target.shape)}"
        )
    if call.x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"Expected `x` to be float32 or float64, got {call.x.dtype}")
    for name, (part, shape) in call.shapes().items():
        dtype = call.x.dtype
        if name in _INDICES:
            dtype = torch.int64
        elif name in _POSITIONS:
            dtype = torch.float64
        if part is not None:
            check_tensor(name, part, shape, dtype, call.x.device)
    if (call.reverse_pointer is None) != (call.reverse_target is None):
        raise ValueError("Expected both or neither of `reverse_pointer` and `reverse_target`")
    slots, targets = call.index.numel(), call.target.size(0)
    if call.pointer is None and call.degree * targets != slots:
        raise ValueError(
            f"Expected `degree` * targets = {slots}, the slots of `index`, got {call.degree} * "
            f"{targets}"
        )
    check_indices(call.index, call.pointer, call.x.size(0))
    if call.x.device.type == "cpu":
        _check_pointer("reverse_pointer", call.reverse_pointer, None, slots)
        _check_range("reverse_target", call.reverse_target, 0, targets - 1)


def check_dense(name: str, part: object) -> None:
    """Check that something is a dense tensor.

    Raises:
        TypeError: If it is not a tensor, or a sparse or nested one.
    """
    if not isinstance(part, Tensor):
        raise TypeError(f"Expected `{name}` to be a tensor, got {_kind(part)}")
    if part.layout != torch.strided or part.is_nested:
        layout = "nested" if part.is_nested else part.layout
        raise TypeError(f"Expected `{name}` to be dense, got {layout}")


def check_data(name: str, part: object) -> None:
    """Check that something is a dense tensor that holds data.

    Raises:
        TypeError: If it is not a dense tensor.
        ValueError: If it is on the meta device.
    """
    check_dense(name, part)
    if isinstance(part, Tensor) and part.is_meta:
        raise ValueError(f"Expected tensors that hold data, got `{name}` on the meta device")


def check_unmapped(name: str, part: Tensor) -> None:
    """Check that sizes of tensors may depend on values.

    Raises:
        ValueError: If the values stand for the many examples of `torch.func.vmap`.
    """
    if is_batched(part):
        raise ValueError(
            f"Expected {name} that `torch.func.vmap` does not map over, because sizes depend on "
            "their values, got many examples: use a loop, or a batch of clouds"
        )


def as_pair(name: str, value: Any) -> tuple[Any, Any]:
    """Return something given once, or as a pair for sources and targets, as a pair.

    Raises:
        ValueError: If a tuple is no pair.
    """
    if not isinstance(value, tuple):
        return value, value
    if len(value) != 2:
        raise ValueError(f"Expected `{name}` to be a tensor or a pair, got {len(value)} parts")
    return value


def is_readable(part: Tensor) -> bool:
    """Return True if values can be read without waiting, while nothing is traced or vectorised."""
    return part.device.type == "cpu" and not torch.compiler.is_compiling() and not is_vmapped()


def is_finite(part: Tensor) -> bool:
    """Return True if no value is NaN or infinite; waits for the device."""
    # The sum is ten times as fast; it may overflow where all values are finite.
    return math.isfinite(float(part.detach().sum())) or bool(part.isfinite().all())


def check_tensor(
    name: str, part: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check shape, type, device and layout of a tensor."""
    if tuple(part.shape) != shape:
        raise ValueError(f"Expected `{name}` of shape {list(shape)}, got {list(part.shape)}")
    if part.dtype != dtype:
        raise TypeError(f"Expected `{name}` to be {dtype}, got {part.dtype}")
    if part.device != device:
        raise ValueError(f"Expected `{name}` on {device} like `x`, got {part.device}")
    if part.layout != torch.strided:
        raise TypeError(f"Expected `{name}` to be dense, got {part.layout}")


def check_devices(call: MagnetConv) -> None:
    """Check that all operands of a call are on one device.

    Without data, on the meta device, an operator returns memory that nothing was written to.

    Raises:
        ValueError: If they are not.
    """
    for name, (part, _) in call.shapes().items():
        if part is not None and part.device != call.x.device:
            raise ValueError(f"Expected `{name}` on {call.x.device} like `x`, got {part.device}")


def check_indices(index: Tensor, pointer: Tensor | None, num_sources: int) -> None:
    """Check on the CPU that a list of neighbours names existing sources and slots.

    Raises:
        IndexError: If it does not.
    """
    if not is_readable(index):
        return
    _check_pointer("pointer", pointer, 0, index.numel())
    _check_range("index", index, -1, num_sources - 1)


def check_basis(basis: Tensor, num_edges: int, readout: Tensor) -> None:
    """Check the shape and type of what a function returned for the features of a kernel.

    Raises:
        TypeError: If the type is not the kernel's.
        ValueError: If the width is not one less than the width of the readout.
    """
    width = readout.size(-1) - 1
    if basis.shape != (num_edges, width + 1):
        raise ValueError(
            f"Expected `features` to return [{num_edges}, {width}], got "
            f"{[*basis.shape[:-1], basis.size(-1) - 1]}"
        )
    if basis.dtype != readout.dtype:
        raise TypeError(f"Expected `features` to return {readout.dtype}, got {basis.dtype}")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"a {module}{kind.__name__}"


def _check_floating(name: str, part: object) -> None:
    if not isinstance(part, Tensor) or not part.is_floating_point():
        raise TypeError(f"Expected {name} to be a floating-point tensor, got {_kind(part)}")
    if part.layout != torch.strided:
        raise TypeError(f"Expected {name} to be dense, got {part.layout}")
    if name.endswith("positions") and part.dtype not in _POSITION_TYPES:
        raise TypeError(f"Expected {name} in float32 or float64, got {part.dtype}")


def _check_shapes(
    x: Tensor,
    pos: tuple[Tensor, Tensor],
    counts: tuple[int, int],
    readout: Tensor,
    dim: int,
    weight: Tensor | None,
) -> None:
    if x.dim() != 2 or x.size(0) != counts[0]:
        raise ValueError(f"Expected `x` of shape [{counts[0]}, C], got {list(x.shape)}")
    if readout.dim() not in (2, 3) or readout.size(-1) == 0:
        raise ValueError(
            f"Expected `readout` of shape [C, H + 1] or [O, C, H + 1], got {list(readout.shape)}"
        )
    if x.size(1) != readout.size(-2):
        raise ValueError(f"Expected `x` with {readout.size(-2)} channels, got {x.size(1)}")
    for name, part, count in zip(("source", "target"), pos, counts, strict=True):
        if part.shape != (count, dim):
            raise ValueError(
                f"Expected {name} positions of shape [{count}, {dim}], got {list(part.shape)}"
            )
    if weight is not None and weight.shape != (x.size(0),):
        raise ValueError(f"Expected `weight` of shape [{x.size(0)}], got {list(weight.shape)}")


def _check_network(network: MAGNetWeights, readout: Tensor, dim: int) -> None:
    if network.phases.dim() != 2 or 0 in network.phases.shape:
        raise ValueError(f"Expected `phases` of shape [L, H], got {list(network.phases.shape)}")
    layers, width = network.phases.shape
    shapes = network_shapes(layers, width, dim)
    for name, part in network._asdict().items():
        if tuple(part.shape) != shapes[name]:
            raise ValueError(
                f"Expected `{name}` of shape {list(shapes[name])}, got {list(part.shape)}"
            )
    if readout.size(-1) != width + 1:
        raise ValueError(
            f"Expected `readout` with {width + 1} columns for {width} features and a bias, got "
            f"{readout.size(-1)}"
        )


def _check_pointer(name: str, pointer: Tensor | None, first: int | None, slots: int) -> None:
    if pointer is None:
        return
    begin, end = int(pointer[0]), int(pointer[-1])
    starts = begin >= 0 if first is None else begin == first
    if not starts or end != slots or bool((pointer[1:] < pointer[:-1]).any()):
        raise IndexError(f"Expected `{name}` to rise to {slots}, the slots of `index`, got others")


def _check_range(name: str, index: Tensor | None, low: int, high: int) -> None:
    if index is None or index.numel() == 0:
        return
    least, most = (int(bound) for bound in index.aminmax())
    if least < low or most > high:
        raise IndexError(
            f"Expected every entry of `{name}` in [{low}, {high}], got {least} to {most}"
        )
