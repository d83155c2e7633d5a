"""The convolution's backends side by side, and beside PyG's own convolutions on points.

    python -m benchmarks.point_conv                    # the table
    python -m benchmarks.point_conv --few-edges        # against the reference, from 1,024 edges on
    python -m benchmarks.point_conv --scaling plot.png # time and memory against N and K
    python -m benchmarks.point_conv --scene            # inference on 1,000,000 points
    python -m benchmarks.point_conv --busy             # while every core has other work

Every row is measured in a fresh process: medians of repeats, peak memory above imports, graph and
input, the largest relative error of output and gradients against float64, and the share of this
machine's peak in a large float32 matrix product. On the CPU all is measured twice, with the default
allocator and with one that is tuned to keep memory instead of returning it after every operation.
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

from benchmarks import busy, few_edges, growth, harness
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
COLUMNS = (
    "layer", "forward", "with backward", "speed", "peak memory", "memory", "error", "of sgemm",
)  # fmt: skip
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
            raise MemoryError(f"one kernel per edge takes {needed / 1e9:.0f} GB")
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


def steps(
    call: Callable[..., Tensor], layer: nn.Module, x: Tensor, pos: Tensor
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A forward pass of a layer, and one with backward."""
    x.requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            call(x, pos)

    def training_step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        call(x, pos).square().sum().backward()

    return forward, training_step


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Time and memory of one layer; run in a fresh process."""
    device = torch.device(case["device"])
    call, layer, (x, pos) = layer_and_input(case)
    before = harness.start_peak(device)
    forward, training_step = steps(call, layer, x, pos)
    repeats = case["repeats"]
    result = {
        "forward_s": harness.median_seconds(forward, device, repeats=repeats),
        "forward_backward_s": harness.median_seconds(training_step, device, repeats=repeats),
        "peak_bytes": harness.peak_bytes(device) - before,
    }
    if case["method"] in BACKENDS:
        result["error"] = error_against_double(call, layer, x, pos)
    return result


def measure_busy(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Time of one layer alone and beside busy cores; run in a fresh process."""
    device = torch.device(case["device"])
    call, layer, (x, pos) = layer_and_input(case)
    found = busy.alone_and_busy(
        steps(call, layer, x, pos), device, rounds=case["repeats"], seconds=1.0
    )
    return dict(zip(("forward", "forward_backward"), found, strict=True))


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
    elsewhere = "native" if device.type == "cuda" else "triton"
    methods = [method for method in arguments.methods if method != elsewhere]
    for name in arguments.sizes:
        for allocator in arguments.allocators if device.type == "cpu" else ["default"]:
            size = SIZES[name]
            print(
                f"\n{name}: {size['clouds']} x {size['points']} points, "
                f"{size['neighbors']} neighbours, {size['channels']} channels, "
                f"kernel network {size['hidden']} wide ({allocator} allocator)\n",
                flush=True,
            )
            results = {}
            for method in methods:
                harness.progress(f"{name}, {allocator} allocator: {method} ...")
                case = {
                    "size": size, "method": method, "device": arguments.device,
                    "repeats": arguments.repeats,
                }  # fmt: skip
                results[method] = harness.in_fresh_process(
                    "benchmarks.point_conv", case, allocator=allocator
                )
                report["rows"].append(
                    {"name": name, "allocator": allocator, **case, **results[method]}
                )
            baseline = results[methods[0]]
            rows = [row(method, size, results[method], baseline, peak) for method in methods]
            harness.show_table(COLUMNS, rows)
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
        return [f"{method}: {result['failed']}", *[""] * 7]
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
    parser.add_argument(
        "--allocators", nargs="+", choices=["default", "tuned"], default=["default", "tuned"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--scaling", type=Path, metavar="PNG", help="draw time and memory against N, K"
    )
    parser.add_argument("--few-edges", action="store_true", help="small graphs, backends in turn")
    parser.add_argument("--busy", action="store_true", help="alone and beside busy cores")
    parser.add_argument("--scene", action="store_true", help="inference on up to 1,000,000 points")
    parser.add_argument(
        "--max-points", type=int, default=1_000_000, help="leave out larger clouds and scenes"
    )
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        case = json.loads(arguments.worker)
        kinds = {
            "scene": growth.measure_scene,
            "few_edges": few_edges.measure_few_edges,
            "busy": measure_busy,
        }
        worker = next((work for kind, work in kinds.items() if kind in case), measure)
        print(json.dumps(worker(case)))
        return
    elsewhere = "native" if arguments.device.startswith("cuda") else "triton"
    backends = [m for m in arguments.methods if m in BACKENDS[1:] and m != elsewhere]
    if arguments.few_edges:
        report = few_edges.few_edges(arguments, backends)
    elif arguments.busy:
        report = busy.busy(arguments, SIZES, [m for m in arguments.methods if m != elsewhere])
    elif arguments.scaling:
        report = growth.scaling(arguments, backends)
    else:
        report = growth.scene(arguments) if arguments.scene else table(arguments)
    harness.write_json(arguments.json, report)


if __name__ == "__main__":
    main()
