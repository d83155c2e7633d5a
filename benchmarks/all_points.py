"""Every point sees every point: non-uniform FFT beside neighbour graphs.

    python -m benchmarks.all_points                      # the table, from 512 to 1,000,000 points
    python -m benchmarks.all_points --methods nufft      # one of the methods
    python -m benchmarks.all_points --plot growth.png    # and a picture of times and errors
    python -m benchmarks.all_points --identity           # graph, grid and transform on one grid

Points are uniform in a box of side 2; the layer has a Gabor network as its kernel, a window of 0.1
and as many channels as `--channels` asks for. Every row is measured in a fresh process: the seconds
of the neighbour search and of the convolution, forward alone and with backward, the peak memory
above imports and input, and the error relative to the sum over all pairs in float64, at some of the
points. `knn` is the graph of 256 neighbours, `radius` the graph of all neighbours within reach.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from ccnn_geo import CKConvMP
from ccnn_geo.ops import (
    Neighborhood,
    dense_graph,
    grid_positions,
    nearest_neighbors,
    radius_graph,
)

METHODS = ("knn", "radius", "nufft")
POINTS = (512, 2_048, 8_192, 20_000, 65_536, 100_000, 262_144, 1_000_000)
NEIGHBORS = 256
WINDOW = 0.1
MAX_EDGES = 20_000_000
"""Edges of the largest graph that is tried: 160 MB for each list of as many indices."""

PAIRS = 16_000_000
"""Pairs of points of which the error is taken."""

IDENTITY_TOLERANCES = (1e-2, 1e-4, 1e-6)

COLUMNS = (
    "points", "method", "edges", "search", "forward", "with backward", "together",
    "peak memory", "error",
)  # fmt: skip


def layer_and_input(case: dict[str, Any]) -> tuple[CKConvMP, Tensor, Tensor]:
    """The layer of a case, features and positions."""
    torch.manual_seed(0)
    layer = CKConvMP(
        case["channels"], case["channels"], dim=case["dim"], kernel_channels=case["hidden"],
        omega_0=case["omega_0"], window_width=WINDOW, num_neighbors=NEIGHBORS,
    )  # fmt: skip
    x = torch.randn(case["points"], case["channels"])
    return layer, x, torch.rand(case["points"], case["dim"]) * 2 - 1


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Time, memory and error of one method; run in a fresh process."""
    device = torch.device("cpu")
    layer, x, pos = layer_and_input(case)
    reach = WINDOW * math.sqrt(-2 * math.log(0.1 * case["tolerance"]))
    x.requires_grad_()
    before = harness.start_peak(device)

    def search() -> Neighborhood | None:
        if case["method"] == "knn":
            return nearest_neighbors(pos, min(NEIGHBORS, len(pos)), ordered=False)
        if case["method"] == "radius":
            edges = radius_graph(pos, reach, loop=True)
            return Neighborhood.from_edge_index(edges, len(pos), len(pos))
        return None

    expected = len(pos) ** 2 * math.pi ** (case["dim"] / 2) / math.gamma(case["dim"] / 2 + 1)
    expected *= (reach / 2) ** case["dim"]
    if case["method"] == "radius" and expected > MAX_EDGES:
        raise MemoryError(f"about {expected / 1e6:,.0f} million edges")
    search_seconds = harness.median_seconds(search, device, repeats=case["repeats"], budget=20)
    neighbors = search()

    def convolve() -> Tensor:
        if neighbors is None:
            return layer.nufft(x, pos, tolerance=case["tolerance"])
        return layer(x, pos, neighbors)

    def forward() -> None:
        with torch.no_grad():
            convolve()

    def training_step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        convolve().square().sum().backward()

    timed: list[Callable[[], None]] = [forward, training_step]
    seconds = [
        harness.median_seconds(each, device, repeats=case["repeats"], budget=40) for each in timed
    ]
    peak = harness.peak_bytes(device) - before
    with torch.no_grad():
        error = error_against_all_pairs(layer, x, pos, convolve())
    return {
        "edges": 0 if neighbors is None else neighbors.num_slots,
        "search_s": search_seconds if neighbors is not None else 0.0,
        "forward_s": seconds[0],
        "forward_backward_s": seconds[1],
        "peak_bytes": peak,
        "error": error,
    }


def error_against_all_pairs(layer: CKConvMP, x: Tensor, pos: Tensor, output: Tensor) -> float:
    """Relative error (2-norm) at evenly chosen points, against the sum over all pairs in float64.

    The biases are left out: they are not part of the sum.
    """
    count = max(1, min(256, PAIRS // len(pos)))
    chosen = torch.linspace(0, len(pos) - 1, count).long()
    everybody = Neighborhood.from_table(torch.arange(len(pos)).expand(count, -1), len(pos))
    layer = layer.double()
    exact = layer(x.double(), (pos.double(), pos[chosen].double()), everybody)
    return float((output[chosen] - exact).norm() / exact.norm())


def table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print every method at every size."""
    measured, rows = [], []
    for points in arguments.points:
        for method in arguments.methods:
            harness.progress(f"{points:,} points: {method} ...")
            case = {
                "points": points, "method": method, "dim": arguments.dim,
                "channels": arguments.channels, "hidden": 32, "omega_0": arguments.omega_0,
                "tolerance": arguments.tolerance, "repeats": arguments.repeats,
            }  # fmt: skip
            result = harness.in_fresh_process("benchmarks.all_points", case)
            measured.append({**case, **result})
            rows.append(row(case, result))
    print(f"{harness.machine(torch.device('cpu'))}, {torch.get_num_threads()} threads\n")
    harness.show_table(COLUMNS, rows)
    for method in arguments.methods:
        large = [each for each in measured if each["method"] == method and each["points"] >= 1e4]
        large = [each for each in large if "failed" not in each]
        if len(large) > 1:
            slope = harness.exponent(
                [each["points"] for each in large], [together(each) for each in large]
            )
            print(f"{method}: time grows with N^{slope:.2f} from {large[0]['points']:,} points on")
    return measured


def identity() -> None:
    """Print how far graph, grid and transform are apart on the points of one grid, in float64."""
    rows = []
    for size in ((256,), (24, 24), (9, 9, 9)):
        torch.manual_seed(0)
        dim, step = len(size), 2 / size[0]
        layer = CKConvMP(
            8, 8, dim=dim, kernel_channels=16, omega_0=4.0 / dim**2, window_width=WINDOW,
            spacing=step,
        ).double()  # fmt: skip
        x = torch.randn(math.prod(size), 8, dtype=torch.float64)
        pos = grid_positions(size, step, dtype=torch.float64)
        with torch.no_grad():
            graph = layer(x, pos, dense_graph(size))
            grid = layer.grid(x.T.reshape(1, 8, *size)).flatten(2)[0].T
            others = [layer.nufft(x, pos, tolerance=each) for each in IDENTITY_TOLERANCES]
        errors = [float((each - graph).norm() / graph.norm()) for each in (grid, *others)]
        rows.append([" x ".join(map(str, size)), *(f"{error:.0e}" for error in errors)])
    transforms = [f"transform, {each:.0e}" for each in IDENTITY_TOLERANCES]
    harness.show_table(("difference from the graph", "grid", *transforms), rows)


def together(result: dict[str, Any]) -> float:
    """Seconds of search, forward and backward."""
    return result["search_s"] + result["forward_backward_s"]


def row(case: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    if "failed" in result:
        return [f"{case['points']:,}", case["method"], result["failed"], *[""] * 6]
    return [
        f"{case['points']:,}",
        case["method"],
        f"{result['edges']:,}" if result["edges"] else "",
        f"{result['search_s']:.3f} s" if result["search_s"] else "",
        f"{result['forward_s']:.3f} s",
        f"{result['forward_backward_s']:.3f} s",
        f"{together(result):.3f} s",
        f"{result['peak_bytes'] / 2**20:,.0f} MiB",
        f"{result['error']:.1e}",
    ]


def draw(measured: list[dict[str, Any]], file: Path) -> None:
    """Draw times and errors against the number of points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    done = [each for each in measured if "failed" not in each]
    for method in dict.fromkeys(each["method"] for each in done):
        own = [each for each in done if each["method"] == method]
        points = [each["points"] for each in own]
        axes[0].loglog(points, [together(each) for each in own], "o-", label=method)
        axes[1].loglog(points, [each["error"] for each in own], "o-", label=method)
    axes[0].set(xlabel="points", ylabel="seconds, search and backward included")
    axes[1].set(xlabel="points", ylabel="error relative to all pairs")
    axes[0].legend()
    figure.savefig(file, dpi=150)
    print(f"Wrote {file}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", nargs="+", type=int, default=POINTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--dim", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--omega-0", type=float, default=1.0, help="how fast the kernel varies")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--identity", action="store_true", help="compare the three evaluations")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw times and errors")
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(json.loads(arguments.worker))))
        return
    if arguments.identity:
        identity()
        return
    measured = table(arguments)
    harness.write_json(arguments.json, {"rows": measured})
    if arguments.plot is not None:
        draw(measured, arguments.plot)


if __name__ == "__main__":
    main()
