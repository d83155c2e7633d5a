"""The convolution's backends on graphs of few edges, where what a call costs by itself counts."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import harness
from ccnn_geo import CKConvMP, use_backend
from ccnn_geo.nn import FourierNet
from ccnn_geo.ops import nearest_neighbors

DIM = 3
EDGES = (1024, 2048, 4096, 16_384, 65_536)
NEIGHBORS = (8, 32)
CHANNELS = ((4, 8), (16, 8), (64, 32), (400, 64))
"""Channels of the features, and width of the kernel network."""
KERNELS = {"MAGNet": None, "FourierNet": FourierNet}


def measure_few_edges(case: dict[str, Any]) -> dict[str, list[float]]:
    """Median times of the layer by every backend in turn: forward, and with backward."""
    torch.manual_seed(0)
    device, channels = torch.device(case["device"]), case["channels"]
    network = KERNELS[case["kernel"]]
    layer = CKConvMP(
        channels, channels, dim=DIM, num_neighbors=case["neighbors"], extent=2.0,
        kernel_channels=case["hidden"],
        kernel=None if network is None else network(DIM, case["hidden"], channels),
    ).to(device)  # fmt: skip
    points = case["edges"] // case["neighbors"]
    x = torch.randn(points, channels, device=device, requires_grad=True)
    pos = torch.rand(points, DIM, device=device) * 2 - 1
    neighbors = nearest_neighbors(pos, case["neighbors"])

    def forward(backend: str) -> Callable[[], None]:
        def call() -> None:
            with use_backend(backend), torch.no_grad():
                layer(x, pos, neighbors)

        return call

    def training_step(backend: str) -> Callable[[], None]:
        def call() -> None:
            x.grad = None
            layer.zero_grad(set_to_none=True)
            with use_backend(backend):
                layer(x, pos, neighbors).square().sum().backward()

        return call

    return {
        name: harness.interleaved_seconds(
            [make(backend) for backend in case["methods"]], device, case["repeats"], budget=1.0
        )
        for name, make in (("forward_s", forward), ("forward_backward_s", training_step))
    }


def few_edges(arguments: argparse.Namespace, methods: list[str]) -> dict[str, Any]:
    """Print how much faster than the reference every backend is, and the least of it."""
    device = torch.device(arguments.device)
    print(f"{harness.machine(device)}; forward / with backward, against the reference\n")
    report: dict[str, Any] = {"machine": harness.machine(device), "rows": []}
    table, least = [], dict.fromkeys(methods, float("inf"))
    for kernel, (channels, hidden), k, edges in itertools.product(
        KERNELS, CHANNELS, NEIGHBORS, EDGES
    ):
        if edges < k * k:  # there are not so many points
            continue
        # Other networks than a MAGNet run in plain PyTorch whatever the backend.
        chosen = methods if kernel == "MAGNet" else ["torch"]
        case = {
            "few_edges": True, "kernel": kernel, "channels": channels, "hidden": hidden,
            "neighbors": k, "edges": edges, "methods": ["reference", *chosen],
            "device": arguments.device, "repeats": 3 * arguments.repeats,
        }  # fmt: skip
        harness.progress(f"{kernel} {hidden} wide, {channels} channels, {k} x {edges // k} ...")
        result = harness.in_fresh_process("benchmarks.point_conv", case)
        report["rows"].append({**case, **result})
        shape = [kernel, f"{edges:,}", f"{k}", f"{channels}", f"{hidden}"]
        if "failed" in result:
            table.append([*shape, result["failed"], *[""] * len(methods)])
            continue
        times = list(zip(result["forward_s"], result["forward_backward_s"], strict=True))
        speeds = {
            method: [base / time for base, time in zip(times[0], own, strict=True)]
            for method, own in zip(chosen, times[1:], strict=True)
        }
        for method, speed in speeds.items():
            least[method] = min(least[method], *speed)
        table.append(
            [
                *shape,
                " / ".join(f"{1e3 * time:.2f}" for time in times[0]) + " ms",
                *(" / ".join(f"{s:.2f} x" for s in speeds.get(method, [])) for method in methods),
            ]
        )
    columns = ["kernel", "edges", "neighbours", "channels", "width", "reference", *methods]
    harness.show_table(columns, table)
    print()
    for method, speed in least.items():
        print(f"{method}: at least {speed:.2f} times as fast as the reference")
    report["least"] = least
    return report
