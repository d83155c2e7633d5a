"""What the benchmarks share: fresh processes, medians, peak memory, the machine, a table."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

TUNED_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
"""glibc keeps large buffers instead of returning them after every operation."""


def in_fresh_process(
    module: str, case: dict[str, Any], *, allocator: str = "default", timeout: float = 900
) -> dict[str, Any]:
    """Measure one case in a process of its own: `python -m module --worker CASE`.

    Args:
        module: A benchmark that answers `--worker` with one line of JSON.
        case: What to measure.
        allocator: `"default"` or `"tuned"` (see `TUNED_ALLOCATOR`).
        timeout: Seconds after which the case is given up.

    Returns:
        The measurements, or `{"failed": reason}`.
    """
    environment = dict(os.environ, **(TUNED_ALLOCATOR if allocator == "tuned" else {}))
    command = [sys.executable, "-m", module, "--worker", json.dumps(case)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"over {timeout:.0f} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1][:120] if lines else f"exit code {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time one call, to the end of the work that it started."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def median_seconds(
    function: Callable[[], object], device: torch.device, *, repeats: int, budget: float = 10.0
) -> float:
    """Median time of up to `repeats` calls after one more, within about `budget` seconds.

    A call that takes more than half of the budget is timed once: what a first call does besides is
    nothing to that.
    """
    first = seconds(function, device)
    count = min(repeats, int(budget / max(first, 1e-9)) - 1)
    if count < 1:
        return first
    return statistics.median(seconds(function, device) for _ in range(count))


def interleaved_seconds(
    functions: Sequence[Callable[[], object]],
    device: torch.device,
    repeats: int = 9,
    *,
    budget: float = 0.25,
    summary: Callable[[Sequence[float]], float] = statistics.median,
) -> list[float]:
    """Times of calls that take turns, so that a disturbance meets all of them.

    Each is called twice and the second call timed, and every round begins with another one: no one
    always pays for the caches that another left.

    Args:
        functions: What to call.
        device: Where they work. A single thread of the CPU is timed by the work that it does.
        repeats: At most so many turns.
        budget: Seconds that every function may be timed for.
        summary: What to make of the times of a function.
    """
    first = sum(work_seconds(function, device) for function in functions)
    count = max(1, min(repeats, int(len(functions) * budget / max(first, 1e-9))))
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(count):
        for place in range(len(functions)):
            chosen = (turn + place) % len(functions)
            functions[chosen]()
            times[chosen].append(work_seconds(functions[chosen], device))
    return [summary(each) for each in times]


def work_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time one call: where there is one thread on the CPU, the work that it does."""
    if device.type == "cuda" or torch.get_num_threads() > 1:
        return seconds(function, device)
    start = time.thread_time()
    function()
    return time.thread_time() - start


def progress(line: str) -> None:
    """Say what is being measured, beside the table."""
    print(line, file=sys.stderr, flush=True)


def start_peak(device: torch.device) -> int:
    """Forget the peak so far, and return the memory in use: what a peak is measured above."""
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_bytes(device)
    return _resident("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `start_peak`: resident on the CPU, allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        return _resident("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def matrix_peak(device: torch.device) -> float:
    """Rate of a large float32 matrix product on this device, in operations per second."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2 * size**3 / median_seconds(lambda: left @ right, device, repeats=7)


def machine(device: torch.device) -> str:
    """One line that names the machine and the versions."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else _processor()
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}, torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        capability = torch.backends.cpu.get_cpu_capability()
        return f"{model} ({capability})"
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown, the first column to the left, numbers to the right."""
    cells = [list(columns), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    print(line(columns))
    print(
        "|"
        + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths))
        + "|"
    )
    for row in rows:
        print(line(row))


def write_json(path: Path | None, payload: dict[str, Any]) -> None:
    """Write measurements where `--json` says, if it says so."""
    if path is not None:
        path.write_text(json.dumps(payload, indent=2) + "\n")
        print(f"Wrote {path}")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = (torch.tensor(list(v), dtype=torch.float64).log() for v in (sizes, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))
