"""Which way of convolving on a grid is faster, and whether `method="auto"` knows it.

`fit` measures both ways and prints the constants of `grid_backends/cost.py`; `choice` compares
what "auto" takes with the better of the two. On the CPU one thread is timed by the work that it
did, so that other programs count as little as may be, and in processes that keep their memory:
else the pages that the system takes back and hands out again, now to the one and now to the other,
cost more than the convolutions.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from scipy.optimize import nnls
from torch import Tensor

from benchmarks import harness
from ccnn_geo.ops import grid_backends as grids
from ccnn_geo.ops import grid_conv
from ccnn_geo.ops.grid_backends.cost import Costs, Problem
from ccnn_geo.ops.grid_backends.layout import Layout

SWEEP = {
    1: ((64, 256, 1024, 4096, 16384), (3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 4097, 16383)),
    2: ((16, 32, 64, 128, 256), (3, 5, 7, 9, 13, 17, 25, 33, 65, 255)),
    3: ((8, 16, 32, 64), (3, 5, 7, 9, 11, 15, 31, 63)),
}
"""Sizes of the grid and of the kernel, per number of axes."""

ELEMENTS = 2**18
"""Elements of every signal: samples and channels are so many that it has these."""

PEAK = {"cpu": 1e11, "cuda": 3e13}
"""More multiplications than any device of the kind can do in a second (one thread of a CPU): a sum
that would take longer than the FFT even so is not run."""


def problems(dim: int, device: torch.device, *, depthwise: bool = True) -> list[Problem]:
    """All sizes of a sweep with all kernels up to the length of the grid."""
    found = []
    for size in SWEEP[dim][0]:
        rows = max(ELEMENTS * (16 if device.type == "cuda" else 1) // size**dim, 16)
        samples = min(8, rows // 4)
        channels = max(1, min(64 if depthwise else 32, rows // samples))
        for taps in SWEEP[dim][1]:
            if taps < 2 * size:
                taps = min(taps, size - 1 + size % 2)
                layout = Layout(
                    (size,) * dim, (taps,) * dim, ((taps - 1) // 2,) * dim, (False,) * dim
                )
                problem = Problem(
                    device, torch.float32, layout, samples, channels, channels, depthwise
                )
                if problem not in found:
                    found.append(problem)
    return found


def operands(problem: Problem) -> tuple[Tensor, Tensor]:
    """Signals and kernels of a problem."""
    into, out_of = problem.in_channels, problem.out_channels
    x = torch.randn(problem.samples, into, *problem.layout.size, device=problem.device)
    shape = (into,) if problem.depthwise else (out_of, into)
    return x, torch.randn(*shape, *problem.layout.taps, device=problem.device)


def _median_seconds(
    function: Callable[[], object], device: torch.device, repeats: int = 9
) -> float:
    return harness.interleaved_seconds([function], device, repeats)[0]


def worth_running(problem: Problem, fft_seconds: float, passes: int = 1) -> bool:
    """Whether the sum could be faster than the FFT at all."""
    _, _, millions = problem.direct_counts()
    return passes * 1e6 * millions / PEAK[problem.device.type] < fft_seconds


def fit(device: torch.device, threads: int) -> tuple[Costs, ...]:
    """Measure both ways and return the constants for one, two and three axes."""
    fitted = []
    for dim in SWEEP:
        fitted.append(Costs(**_in_fresh_process("fit", dim, device, threads)))
        print(f"    {fitted[-1]},", flush=True)
    return tuple(fitted)


def fit_dim(device: torch.device, dim: int) -> dict[str, Any]:
    """The constants for some number of axes; run in a fresh process."""
    rows: dict[str, list[tuple[tuple[float, ...], float]]] = {}
    rows = {"fft": [], "direct": [], "gradient": [], "full_direct": []}
    for problem in problems(dim, device):
        _measure(problem, rows)
    costs: dict[str, Any] = {name: _solve(measured) for name, measured in rows.items() if measured}
    costs["full_fft"] = _fit_full(dim, device, costs["fft"], rows["full_direct"])
    costs["full_direct"] = _solve(rows["full_direct"])
    return costs


def work(case: dict[str, Any]) -> Any:
    """What a fresh process is asked for by `fit` and by `choice`."""
    device = torch.device(case["device"])
    torch.set_num_threads(case["threads"])
    if case["costs"] is not None:
        grids.cost.COSTS[device.type] = tuple(Costs(*costs) for costs in case["costs"])
    if case["part"] == "fit":
        return fit_dim(device, case["dim"])
    return [_measure_choice(problem) for problem in problems(case["dim"], device)]


def _in_fresh_process(
    part: str, dim: int, device: torch.device, threads: int, costs: tuple[Costs, ...] | None = None
) -> Any:
    harness.progress(f"{part}, {dim} axes ...")
    case = {"part": part, "dim": dim, "device": device.type, "threads": threads, "costs": costs}
    result = harness.in_fresh_process("benchmarks.grid_conv", case, allocator="tuned")
    if "failed" in result:
        raise RuntimeError(f"The process for {dim} axes failed: {result['failed']}")
    return result


def _measure(problem: Problem, rows: dict[str, list[tuple[tuple[float, ...], float]]]) -> None:
    x, kernel = operands(problem)
    layout, device = problem.layout, problem.device
    fft = _median_seconds(lambda: grids.fft.convolve(x, kernel, layout), device)
    rows["fft"].append((problem.fft_counts(), fft))
    if worth_running(problem, fft):
        direct = _median_seconds(lambda: grids.direct.convolve(x, kernel, layout), device)
        rows["direct"].append((problem.direct_counts(), direct))
        gradient = _median_seconds(
            lambda: grids.direct.differentiate(x, x, kernel, layout, False, True), device
        )
        rows["gradient"].append((problem.direct_counts(), gradient))


def _fit_full(
    dim: int,
    device: torch.device,
    transform: tuple[float, ...],
    direct: list[tuple[tuple[float, ...], float]],
) -> float:
    """The cost of a product of spectra, from what the transforms leave unexplained."""
    rates = []
    for problem in problems(dim, device, depthwise=False):
        x, kernel = operands(problem)
        layout = problem.layout
        if kernel.numel() > 2**24:
            continue
        total = _median_seconds(lambda: grids.fft.convolve(x, kernel, layout), device, 3)  # noqa: B023
        known = sum(c * n for c, n in zip(transform, problem.fft_counts(), strict=True))
        rates.append(max(1e6 * total - known, 0.0) / problem.spectral_products())
        if worth_running(problem, total):
            direct.append(
                (
                    problem.direct_counts(),
                    _median_seconds(lambda: grids.direct.convolve(x, kernel, layout), device, 3),  # noqa: B023
                )
            )
    return float(f"{statistics.median(rates):.3g}")


def _solve(measured: list[tuple[tuple[float, ...], float]]) -> tuple[float, float, float]:
    """Non-negative constants that bring the relative errors to a minimum, in microseconds."""
    times = torch.tensor([1e6 * time for _, time in measured], dtype=torch.float64)
    counts = torch.tensor([counts for counts, _ in measured], dtype=torch.float64)
    solution, _ = nnls((counts / times.unsqueeze(1)).numpy(), torch.ones(len(times)).numpy())
    one, two, three = (float(f"{each:.3g}") for each in solution)
    return one, two, three


def choice(
    device: torch.device, threads: int, costs: tuple[Costs, ...] | None = None
) -> dict[str, Any]:
    """Print both ways and "auto" for every problem of the sweep, and the worst regret.

    Args:
        device: Where.
        threads: How many of the CPU.
        costs: Constants to choose by, instead of those of the library.
    """
    report = [
        row for dim in SWEEP for row in _in_fresh_process("choice", dim, device, threads, costs)
    ]
    table = [
        [
            *("x".join(map(str, row[name])) for name in ("size", "taps")),
            " x ".join(map(str, row["signals"])),
            *(
                _milliseconds(row[f"{passes}_{method}"])
                for passes in ("forward", "step")
                for method in ("fft", "direct", "auto")
            ),
            f"{max(row['regrets']):.2f}",
        ]
        for row in report
    ]
    kind = f"{harness.machine(device)}; here {threads} of the threads"
    print(f"\nBoth ways, and what 'auto' takes, in ms ({kind}):\n")
    ways = ["FFT", "direct", "auto"]
    harness.show_table(
        ["grid", "kernel", "signals", *ways, *(f"{way} + backward" for way in ways), "regret"],
        table,
    )
    worst = max(max(row["regrets"]) for row in report)
    print(f"\n'auto' took at most {worst:.2f} times as long as the better of the two")
    return {"rows": report, "worst_regret": worst}


def _measure_choice(problem: Problem) -> dict[str, Any]:
    x, kernel = operands(problem)
    leaves = x.clone().requires_grad_(), kernel.clone().requires_grad_()

    def forward(method: str) -> None:
        with torch.no_grad():
            grid_conv(x, kernel, method=method)

    def step(method: str) -> None:
        torch.autograd.grad(grid_conv(*leaves, method=method), leaves, x)

    measured: dict[str, Any] = {
        "size": problem.layout.size, "taps": problem.layout.taps,
        "signals": (problem.samples, problem.in_channels), "regrets": [],
    }  # fmt: skip
    for name, function, passes in (("forward", forward, 1), ("step", step, 3)):
        ways = ["fft", "auto"]
        if worth_running(
            problem, _median_seconds(partial(function, "fft"), problem.device, 3), passes
        ):
            ways.append("direct")
        calls = [partial(function, way) for way in ways]
        # The fastest: "auto" is one of the others, and only their difference is of interest.
        fastest = harness.interleaved_seconds(calls, problem.device, 15, summary=min)
        times = dict(zip(ways, fastest, strict=True))
        measured.update({f"{name}_{way}": times.get(way) for way in ("fft", "direct", "auto")})
        auto = times.pop("auto")
        measured["regrets"].append(auto / min(times.values()))
    return measured


def _milliseconds(time: float | None) -> str:
    return "" if time is None else f"{1e3 * time:.3g}"
