"""The convolution beside other programs: how much slower it is while every core has other work."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from benchmarks import harness

# A loop ends with the benchmark, even with one that is killed.
_LOOP = """
import os
print(flush=True)
while os.getppid() == {parent}:
    for _ in range(100_000):
        pass
"""


@contextmanager
def busy_cores() -> Iterator[None]:
    """Run one endless loop per core beside the block."""
    command = [sys.executable, "-I", "-S", "-c", _LOOP.format(parent=os.getpid())]
    with ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0))):
            loop = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(loop.kill)
            assert loop.stdout is not None
            loop.stdout.readline()
        yield


def alone_and_busy(
    functions: Sequence[Callable[[], object]], device: torch.device, rounds: int, seconds: float
) -> list[dict[str, float]]:
    """Median times of functions, alone and beside busy cores in turn.

    Args:
        functions: What to call.
        device: Where they work.
        rounds: How often alone and busy take turns.
        seconds: How long to repeat every function in a turn.
    """
    times: list[dict[str, list[float]]] = [{"alone_s": [], "busy_s": []} for _ in functions]

    def repeat(name: str) -> None:
        for function, found in zip(functions, times, strict=True):
            first = len(found[name])
            while sum(found[name][first:]) < seconds:
                found[name].append(harness.seconds(function, device))

    for function in functions:
        function()
    for _ in range(rounds):
        repeat("alone_s")
        with busy_cores():
            repeat("busy_s")
    return [{name: statistics.median(each) for name, each in found.items()} for found in times]


def busy(
    arguments: argparse.Namespace, sizes: dict[str, dict[str, int]], methods: list[str]
) -> dict[str, Any]:
    """Print the times of every backend alone and beside busy cores."""
    machine = harness.machine(torch.device(arguments.device))
    cores = len(os.sched_getaffinity(0))
    print(f"{machine}; alone / beside {cores} endless loops")
    report: dict[str, Any] = {"machine": machine, "rows": []}
    for name in arguments.sizes:
        rows = []
        for method in methods:
            harness.progress(f"{name}: {method} ...")
            case = {
                "busy": True, "size": sizes[name], "method": method, "device": arguments.device,
                "repeats": arguments.repeats,
            }  # fmt: skip
            result = harness.in_fresh_process("benchmarks.point_conv", case)
            report["rows"].append({"name": name, **case, **result})
            rows.append(_row(method, result))
        print(f"\n{name}: {', '.join(f'{value} {key}' for key, value in sizes[name].items())}\n")
        columns = ["layer", "forward", "ratio", "with backward", "ratio"]
        harness.show_table(columns, rows)
    return report


def _row(method: str, result: dict[str, Any]) -> list[str]:
    if "failed" in result:
        return [f"{method}: {result['failed']}", *[""] * 4]
    cells = [method]
    for part in ("forward", "forward_backward"):
        alone, beside = result[part]["alone_s"], result[part]["busy_s"]
        cells += [f"{1e3 * alone:,.1f} / {1e3 * beside:,.1f} ms", f"{beside / alone:.1f} x"]
    return cells
