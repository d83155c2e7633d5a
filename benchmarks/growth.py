"""How time and memory of the convolution grow: plots against N and K, and very large scenes."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks import harness
from ccnn_geo import CKConvMP
from ccnn_geo.ops import Neighborhood, nearest_neighbors

DIM = 3
MEASURES = (
    ("forward_backward_s", "forward and backward [s]", 1.0),
    ("peak_bytes", "peak memory [MiB]", 2.0**20),
)
"""What a plot shows: the measurement, its label, and one unit of the axis in that of it."""


def scaling(arguments: argparse.Namespace, methods: list[str]) -> dict[str, Any]:
    """Print and draw time and memory against N and K, with fitted exponents."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    sweeps = {
        "points": [n for n in (1024, 4096, 16384, 65536) if n <= arguments.max_points],
        "neighbors": [16, 32, 64, 128, 256],
    }
    base = {
        "clouds": 1,
        "points": min(4096, arguments.max_points),
        "neighbors": 64,
        "channels": 64,
        "hidden": 32,
    }
    report: dict[str, Any] = {
        "machine": harness.machine(torch.device(arguments.device)),
        "rows": [],
    }
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for column, (quantity, values) in enumerate(sweeps.items()):
        for method in methods:
            results = []
            for value in values:
                case = {
                    "size": {**base, quantity: value}, "method": method,
                    "device": arguments.device, "repeats": arguments.repeats,
                }  # fmt: skip
                harness.progress(f"{method}: {value} {quantity} ...")
                result = harness.in_fresh_process("benchmarks.point_conv", case)
                report["rows"].append({**case, **result})
                if "failed" not in result:
                    results.append((value, result))
            if len(results) < 2:
                continue
            sizes = [value for value, _ in results]
            for line, (key, label, scale) in enumerate(MEASURES):
                measured = [
                    max(result[key], 1) if key == "peak_bytes" else result[key]
                    for _, result in results
                ]
                slope = harness.exponent(sizes, measured)
                print(f"{method}: {key} grows as {quantity}^{slope:.2f}")
                axes[line, column].loglog(
                    sizes, [m / scale for m in measured], "o-", label=f"{method} ({slope:.2f})"
                )
                axes[line, column].set(xlabel=quantity, ylabel=label)
                axes[line, column].set_xticks(values, [f"{value:,}" for value in values])
                axes[line, column].xaxis.set_minor_formatter(NullFormatter())
    for axis in axes.flat:
        if axis.lines:
            axis.legend(title="backend (exponent)")
        axis.grid(True, alpha=0.3)
    figure.savefig(arguments.scaling, dpi=120)
    print(f"Wrote {arguments.scaling}")
    return report


def measure_scene(case: dict[str, Any]) -> dict[str, float]:
    """Inference over one large scene, neighbours included."""
    device = torch.device(case["device"])
    before = harness.start_peak(device)
    torch.manual_seed(0)
    pos = torch.rand(case["points"], DIM, device=device) * 20
    x = torch.randn(case["points"], 64, device=device)
    layer = CKConvMP(64, 64, dim=DIM, num_neighbors=32, extent=1.0).to(device)
    found: list[Neighborhood] = []
    with torch.no_grad():  # what a first call loads and builds is not part of the growth
        layer(x[:5000], pos[:5000], nearest_neighbors(pos[:5000], 32))
    search = harness.seconds(lambda: found.append(nearest_neighbors(pos, 32)), device)
    with torch.no_grad():
        convolution = harness.seconds(lambda: layer(x, pos, found[0]), device)
    return {
        "search_s": search,
        "convolution_s": convolution,
        "peak_bytes": harness.peak_bytes(device) - before,
    }


def scene(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print time and memory of inference on scenes of growing size."""
    rows, report = [], []
    for points in (10_000, 100_000, 1_000_000):
        if points > arguments.max_points:
            break
        harness.progress(f"scene of {points:,} points ...")
        case = {"scene": True, "points": points, "device": arguments.device}
        result = harness.in_fresh_process("benchmarks.point_conv", case)
        report.append({**case, **result})
        if "failed" in result:
            rows.append([f"{points:,}: {result['failed']}", *[""] * 5])
            continue
        rows.append(
            [
                f"{points:,}",
                f"{result['search_s']:.2f} s",
                f"{1e6 * result['search_s'] / points:.1f} us",
                f"{result['convolution_s']:.2f} s",
                f"{1e6 * result['convolution_s'] / points:.1f} us",
                f"{result['peak_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    print("Inference, 64 channels, 32 neighbours:\n")
    harness.show_table(
        ["points", "neighbours", "per point", "convolution", "per point", "peak memory"], rows
    )
    return {"machine": harness.machine(torch.device(arguments.device)), "rows": report}
