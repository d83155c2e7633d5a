"""The convolution's backends side by side, and beside PyG's own convolutions on points.

    python -m benchmarks.point_conv                    # the table
    python -m benchmarks.point_conv --allocator tuned  # with an allocator that keeps memory
    python -m benchmarks.point_conv --scaling plot.png # time and memory against N and K
    python -m benchmarks.point_conv --scene            # inference on 1,000,000 points

Every row is measured in a fresh process: medians of repeats, peak memory above imports, graph and
input, the largest relative error of output and gradients against float64, and the share of this
machine's peak in a large float32 matrix product.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import NNConv, PointNetConv, PointTransformerConv
from torch_geometric.nn.models.schnet import CFConv

from benchmarks import harness
from ccnn_geo import CKConvMP, use_backend
from ccnn_geo.ops import Neighborhood, nearest_neighbors

BACKENDS = ("reference", "torch", "native", "triton")
RIVALS = ("NNConv", "PointNetConv", "PointTransformerConv", "CFConv")
SIZES = {
    "wide": {"clouds": 2, "points": 512, "neighbors": 256, "channels": 140, "hidden": 32},
    "tiny": {"clouds": 4, "points": 512, "neighbors": 256, "channels": 16, "hidden": 8},
    "scan": {"clouds": 1, "points": 16384, "neighbors": 64, "channels": 64, "hidden": 32},
    "batch": {"clouds": 32, "points": 512, "neighbors": 256, "channels": 140, "hidden": 32},
}
DIM, FILTERS = 3, 4
NNCONV_LIMIT_BYTES = 8e9


def operations(size: dict[str, int], *, backward: bool) -> float:
    """Multiplications and additions of matrix products that the layer cannot do without.

    Forward: the kernel network and the contraction with the features, edge by edge. Backward does
    the forward again and two products for each. Sines and exponentials are not counted.
    """
    edges = size["clouds"] * size["points"] * min(size["neighbors"], size["points"])
    hidden, channels = size["hidden"], size["channels"]
    network = (FILTERS - 1) * hidden**2 + FILTERS * hidden * 3 * DIM
    return 2.0 * edges * (network + (hidden + 1) * channels) * (4 if backward else 1)


def layer_and_input(case: dict[str, Any]) -> tuple[Callable[..., Tensor], nn.Module, list[Tensor]]:
    """The layer of a case, as a function of its features and positions."""
    torch.manual_seed(0)
    size, method, device = case["size"], case["method"], torch.device(case["device"])
    total, channels = size["clouds"] * size["points"], size["channels"]
    # Positions in [-1, 1] under an extent of 2: every neighbour counts, none is skipped.
    x, pos = torch.randn(total, channels), torch.rand(total, DIM) * 2 - 1
    batch = torch.arange(size["clouds"]).repeat_interleave(size["points"])
    x, pos, batch = x.to(device), pos.to(device), batch.to(device)
    neighbors = nearest_neighbors(pos, size["neighbors"], batch)
    if method in BACKENDS:
        layer: nn.Module = CKConvMP(
            channels, channels, dim=DIM, num_neighbors=size["neighbors"],
            kernel_channels=size["hidden"], extent=2.0,
        )  # fmt: skip

        def convolve(x: Tensor, pos: Tensor, backend: str = method) -> Tensor:
            with use_backend(backend):
                return layer(x, pos, neighbors)

        return convolve, layer.to(device), [x, pos]
    layer, call = rival(method, channels, size["hidden"], neighbors)
    return call, layer.to(device), [x, pos]


def rival(
    name: str, channels: int, hidden: int, neighbors: Neighborhood
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """One of PyG's convolutions with as many channels on the same graph."""
    edges = neighbors.edge_index

    def network(size_in: int, size_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size_in, hidden), nn.GELU(), nn.Linear(hidden, size_out))

    def offsets(pos: Tensor) -> Tensor:
        return pos[edges[0]] - pos[edges[1]]

    if name == "NNConv":
        needed = 4.0 * edges.size(1) * channels**2
        if needed > NNCONV_LIMIT_BYTES:
            raise MemoryError(f"one kernel per edge would take {needed / 1e9:.0f} GB")
        conv = NNConv(channels, channels, network(DIM, channels**2))
        return conv, lambda x, pos: conv(x, edges, offsets(pos))
    if name == "PointNetConv":
        conv = PointNetConv(network(channels + DIM, channels), add_self_loops=False)
        return conv, lambda x, pos: conv(x, pos, edges)
    if name == "PointTransformerConv":
        conv = PointTransformerConv(channels, channels, add_self_loops=False)
        return conv, lambda x, pos: conv(x, pos, edges)
    conv = CFConv(channels, channels, channels, network(1, channels), cutoff=4.0)

    def schnet(x: Tensor, pos: Tensor) -> Tensor:
        distance = offsets(pos).norm(dim=-1)
        return conv(x, edges, distance, distance.unsqueeze(-1))

    return conv, schnet


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Time and memory of one layer; run in a fresh process."""
    device = torch.device(case["device"])
    call, layer, (x, pos) = layer_and_input(case)
    x.requires_grad_()
    before = harness.start_peak(device)

    def forward() -> None:
        with torch.no_grad():
            call(x, pos)

    def training_step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        call(x, pos).square().sum().backward()

    repeats = case["repeats"]
    result = {
        "forward_s": harness.median_seconds(forward, device, repeats=repeats),
        "forward_backward_s": harness.median_seconds(training_step, device, repeats=repeats),
        "peak_bytes": harness.peak_bytes(device) - before,
    }
    if case["method"] in BACKENDS:
        result["error"] = error_against_double(call, layer, x, pos)
    return result


def error_against_double(
    call: Callable[..., Tensor], layer: nn.Module, x: Tensor, pos: Tensor
) -> float:
    """Largest relative error (2-norm) of the output and of all gradients."""

    def evaluate(x: Tensor, backend: dict[str, str]) -> list[Tensor]:
        layer.zero_grad(set_to_none=True)
        x = x.detach().requires_grad_()
        output = call(x, pos.to(x.dtype), **backend)
        projection = torch.linspace(-1, 1, output.numel(), device=x.device, dtype=torch.float64)
        (output * projection.view_as(output).to(x.dtype)).sum().backward()
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        return [value.detach().double().clone() for value in (output, x.grad, *grads)]

    single = evaluate(x, {})
    layer.double()
    double = evaluate(x.double(), {"backend": "torch"})
    return max(
        float((one - other).norm() / other.norm())
        for one, other in zip(single, double, strict=True)
    )


def table(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and print every method at every size."""
    device = torch.device(arguments.device)
    peak = harness.matrix_peak(device)
    print(f"{harness.machine(device)}, float32 matrix product {peak / 1e9:,.0f} GFLOP/s")
    report: dict[str, Any] = {"machine": harness.machine(device), "matrix_peak": peak, "rows": []}
    for name in arguments.sizes:
        size = SIZES[name]
        print(
            f"\n{name}: {size['clouds']} x {size['points']} points, "
            f"{size['neighbors']} neighbours, {size['channels']} channels, "
            f"kernel network {size['hidden']} wide ({arguments.allocator} allocator)\n"
        )
        rows: list[list[str]] = []
        baseline: dict[str, Any] = {}
        for method in arguments.methods:
            if (method == "triton") > (device.type == "cuda") or (method, device.type) == (
                "native",
                "cuda",
            ):
                continue
            case = {
                "size": size, "method": method, "device": arguments.device,
                "repeats": arguments.repeats,
            }  # fmt: skip
            result = harness.in_fresh_process(
                "benchmarks.point_conv", case, allocator=arguments.allocator
            )
            baseline = baseline or result
            report["rows"].append(
                {"name": name, "allocator": arguments.allocator, **case, **result}
            )
            rows.append(row(method, size, result, baseline, peak))
        harness.show_table(
            [
                "layer",
                "forward",
                "with backward",
                "speed",
                "peak memory",
                "memory",
                "error",
                "of sgemm",
            ],
            rows,
        )
    return report


def row(
    method: str,
    size: dict[str, int],
    result: dict[str, Any],
    baseline: dict[str, Any],
    peak: float,
) -> list[str]:
    """One line of the table."""
    if "failed" in result:
        return [method, result["failed"], *[""] * 6]
    step = result["forward_backward_s"]
    ours = method in BACKENDS
    share = operations(size, backward=True) / step / peak if ours else None
    comparable = "failed" not in baseline
    return [
        method,
        f"{1e3 * result['forward_s']:,.1f} ms",
        f"{1e3 * step:,.1f} ms",
        f"{baseline['forward_backward_s'] / step:.1f} x" if comparable else "",
        f"{result['peak_bytes'] / 2**20:,.0f} MiB",
        f"1/{baseline['peak_bytes'] / max(result['peak_bytes'], 1):.1f}" if comparable else "",
        f"{result['error']:.0e}" if ours else "",
        f"{share:.0%}" if share is not None else "",
    ]


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print and draw time and memory against N and K, with fitted exponents."""
    import matplotlib.pyplot as plt

    sweeps = {
        "points": [1024, 4096, 16384, 65536],
        "neighbors": [16, 32, 64, 128, 256],
    }
    base = {"clouds": 1, "points": 4096, "neighbors": 64, "channels": 64, "hidden": 32}
    methods = [m for m in arguments.methods if m in BACKENDS and m != "reference"]
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
                result = harness.in_fresh_process("benchmarks.point_conv", case)
                report["rows"].append({**case, **result})
                if "failed" not in result:
                    results.append((value, result))
            if len(results) < 2:
                continue
            sizes = [value for value, _ in results]
            for line, (key, unit, scale) in enumerate(
                (("forward_backward_s", "s", 1.0), ("peak_bytes", "MiB", 2.0**20))
            ):
                measured = [
                    max(result[key], 1) if key == "peak_bytes" else result[key]
                    for _, result in results
                ]
                slope = harness.exponent(sizes, measured)
                print(f"{method}: {key} grows as {quantity}^{slope:.2f}")
                axes[line, column].loglog(
                    sizes, [m / scale for m in measured], "o-", label=f"{method} ({slope:.2f})"
                )
                axes[line, column].set(xlabel=quantity, ylabel=f"{key.rsplit('_', 1)[0]} [{unit}]")
    for axis in axes.flat:
        axis.legend(title="backend (exponent)")
        axis.grid(True, which="both", alpha=0.3)
    figure.savefig(arguments.scaling, dpi=120)
    print(f"Wrote {arguments.scaling}")
    return report


def scene_worker(case: dict[str, Any]) -> dict[str, float]:
    """Inference over one large scene, neighbours included."""
    device = torch.device(case["device"])
    before = harness.start_peak(device)
    torch.manual_seed(0)
    pos = torch.rand(case["points"], DIM, device=device) * 20
    x = torch.randn(case["points"], 64, device=device)
    layer = CKConvMP(64, 64, dim=DIM, num_neighbors=32, extent=1.0).to(device)
    found: list[Neighborhood] = []
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
        case = {"scene": True, "points": points, "device": arguments.device}
        result = harness.in_fresh_process("benchmarks.point_conv", case)
        report.append({**case, **result})
        if "failed" in result:
            rows.append([f"{points:,}", result["failed"], *[""] * 4])
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


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["wide", "tiny", "scan"])
    parser.add_argument(
        "--methods", nargs="+", choices=BACKENDS + RIVALS, default=BACKENDS + RIVALS
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--allocator", choices=["default", "tuned"], default="default")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--scaling", type=Path, metavar="PNG", help="draw time and memory against N, K"
    )
    parser.add_argument("--scene", action="store_true", help="inference on up to 1,000,000 points")
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        case = json.loads(arguments.worker)
        print(json.dumps(scene_worker(case) if "scene" in case else measure(case)))
        return
    run = scaling if arguments.scaling else scene if arguments.scene else table
    harness.write_json(arguments.json, run(arguments))


if __name__ == "__main__":
    main()
