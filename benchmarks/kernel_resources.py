"""What the Triton kernels take of a GPU: registers, spilled bytes and shared memory, without one.

    python -m benchmarks.kernel_resources                  # compiled for an H100
    python -m benchmarks.kernel_resources --capability 80  # for an A100

The kernels are compiled as a forward and a backward pass would have them, and never run.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from ccnn_geo.ops import MAGNetWeights, Neighborhood
from ccnn_geo.ops.point_backends import triton as fused
from ccnn_geo.ops.point_backends.operator import MagnetConv
from ccnn_geo.ops.point_backends.triton.aggregate import aggregate_kernel
from ccnn_geo.ops.point_backends.triton.differentiate import differentiate_kernel

SHARED_LIMIT = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes of shared memory that one program may have, by compute capability."""

SHAPES = {
    "narrow": {"channels": 16, "hidden": 8, "neighbors": 256},
    "short": {"channels": 64, "hidden": 32, "neighbors": 32},
    "wide": {"channels": 140, "hidden": 32, "neighbors": 256},
    "widest": {"channels": 380, "hidden": 64, "neighbors": 64},
    "full": {"channels": 16, "hidden": 8, "neighbors": 64, "full": True},
}
DIM, LAYERS = 3, 4


class Target:
    """Stands in for the driver of a GPU as far as the compiler asks it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        """The GPU to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        """None is ever used."""
        return 0


def example(
    channels: int, hidden: int, neighbors: int, *, full: bool = False, transposed: bool = True
) -> MagnetConv:
    """A call of these sizes; what it holds does not matter."""
    points, zeros = 300, torch.zeros
    graph = Neighborhood.from_table(torch.arange(points * neighbors).view(points, -1) % points)
    filters = (LAYERS, hidden, DIM)
    return MagnetConv(
        zeros(points, channels), zeros(points, DIM), zeros(points, DIM), graph.index, None,
        graph.degree, *(graph.reversed if transposed else (None, None)), zeros(2, DIM), zeros(DIM),
        MAGNetWeights(
            zeros(filters), zeros(filters), zeros(filters), zeros(LAYERS, hidden),
            zeros(LAYERS - 1, hidden, hidden), zeros(LAYERS - 1, hidden),
        ),
        None if full else zeros(channels, hidden + 1),
    )  # fmt: skip


def compiled_kernels(call: MagnetConv) -> list[tuple[str, dict[str, Any], Any]]:
    """Name, options and binary of every kernel that a forward and a backward pass launch."""
    found = []

    def compile_only(name: str, run: Any, *arguments: Any, **options: Any) -> None:
        found.append((name, options, run(*arguments, **{**options, "warmup": True})))

    kernels = {"aggregate": aggregate_kernel, "differentiate": differentiate_kernel}
    for name, kernel in kernels.items():
        kernel.run = functools.partial(compile_only, name, kernel.run)
    try:
        output, moment = fused.forward(call, True)
        fused.backward(call, output, moment, True, True)
    finally:
        for kernel in kernels.values():
            del kernel.run
    return found


def resources(binary: Any) -> dict[str, int]:
    """Registers and stack bytes of a thread, and shared memory of a program."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [os.fspath(tool), "-res-usage", os.fspath(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", report)[-1]
    return {"registers": int(registers), "stack": int(stack), "shared": binary.metadata.shared}


def measure(shapes: list[str], capability: int) -> list[dict[str, Any]]:
    """Compile the kernels of some shapes, with transposed lists and with atomics."""
    from triton.runtime import driver

    driver.set_active(Target(capability))
    rows = []
    for shape in shapes:
        for transposed in (True, False):
            harness.progress(f"{shape}, {'transposed lists' if transposed else 'atomics'} ...")
            call = example(**SHAPES[shape], transposed=transposed)
            for kernel, options, binary in compiled_kernels(call):
                rows.append(
                    {
                        "shape": shape, "transposed": transposed, "kernel": kernel,
                        "reversed": options["REVERSED"], "warps": options["num_warps"],
                        **resources(binary),
                    }
                )  # fmt: skip
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--capability", type=int, choices=SHARED_LIMIT, default=90)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    arguments = parser.parse_args()
    rows = measure(arguments.shapes, arguments.capability)
    limit = SHARED_LIMIT[arguments.capability]
    print(f"Compute capability {arguments.capability / 10}, {limit:,} bytes of shared memory:\n")
    harness.show_table(
        ["shape", "lists", "kernel", "rows of", "warps", "registers", "stack", "shared memory"],
        [
            [
                row["shape"],
                "transposed" if row["transposed"] else "atomics",
                row["kernel"],
                "sources" if row["reversed"] else "targets",
                str(row["warps"]),
                str(row["registers"]),
                f"{row['stack']:,}",
                f"{row['shared']:,}",
            ]
            for row in rows
        ],
    )
    report = {"capability": arguments.capability, "shared_limits": SHARED_LIMIT, "rows": rows}
    harness.write_json(arguments.json, report)


if __name__ == "__main__":
    main()
