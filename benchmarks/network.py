"""What a training step of a whole CCNN costs, beside the sum of its convolutions.

    python -m benchmarks.network
    python -m benchmarks.network --device cuda --clouds 32

Every row is measured in a fresh process; medians of repeats. The step is what training does: find
the neighbours, forward, loss, kernel penalty, backward, AdamW.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from ccnn_geo import CCNN, CKConvMP
from ccnn_geo.ops import nearest_neighbors

MODELS = {
    "CCNN 4,16": {"hidden_channels": 16, "kernel_channels": 8, "omega_0": 50.0},
    "CCNN 4,140": {"hidden_channels": 140, "kernel_channels": 32, "omega_0": 500.0},
}
NEIGHBORS, IN_CHANNELS, CLASSES = 256, 6, 40


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Time one model in a fresh process."""
    device = torch.device(case["device"])
    before = harness.start_peak(device)
    torch.manual_seed(0)
    model = CCNN(IN_CHANNELS, CLASSES, dim=3, num_neighbors=NEIGHBORS, **MODELS[case["model"]]).to(
        device
    )
    total = case["clouds"] * case["points"]
    x, pos = torch.randn(total, IN_CHANNELS, device=device), torch.rand(total, 3, device=device)
    batch = torch.arange(case["clouds"], device=device).repeat_interleave(case["points"])
    target = torch.randint(CLASSES, (case["clouds"],), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        inputs = {"batch_size": case["clouds"], "return_kernel_penalty": case["penalty"]}
        output = model(x, pos, batch, **inputs)
        logits, penalty = output if case["penalty"] else (output, 0.0)
        loss = torch.nn.functional.cross_entropy(logits, target) + 1e-6 * penalty
        loss.backward()
        optimizer.step()

    repeats = case["repeats"]
    whole = harness.median_seconds(step, device, repeats=repeats)
    peak = harness.peak_bytes(device) - before
    neighbors = nearest_neighbors(pos, NEIGHBORS, batch)
    search = harness.median_seconds(
        lambda: nearest_neighbors(pos, NEIGHBORS, batch), device, repeats=repeats
    )
    convolutions = 0.0
    for conv in (module for module in model.modules() if isinstance(module, CKConvMP)):
        inner = conv is not model.stem
        hidden = torch.randn(total, conv.in_channels, device=device, requires_grad=inner)

        def convolve(conv: CKConvMP = conv, hidden: Tensor = hidden) -> None:
            conv(hidden, pos, neighbors).sum().backward()

        convolutions += harness.median_seconds(convolve, device, repeats=repeats)
    return {
        "step_s": whole, "convolutions_s": convolutions, "search_s": search, "peak_bytes": peak,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--clouds", type=int, default=4)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(json.loads(arguments.worker))))
        return
    device = torch.device(arguments.device)
    print(
        f"{harness.machine(device)}\n\nTraining step, {arguments.clouds} x {arguments.points} "
        f"points, {NEIGHBORS} neighbours:\n"
    )
    rows, report = [], []
    for model in MODELS:
        for penalty in (False, True):
            case = {
                "model": model, "penalty": penalty, "device": arguments.device,
                "clouds": arguments.clouds, "points": arguments.points,
                "repeats": arguments.repeats,
            }  # fmt: skip
            result = harness.in_fresh_process("benchmarks.network", case)
            report.append({**case, **result})
            name = model + (" with penalty" if penalty else "")
            if "failed" in result:
                rows.append([name, result["failed"], *[""] * 5])
                continue
            rows.append(
                [
                    name,
                    f"{result['parameters']:,}",
                    f"{1e3 * result['step_s']:,.1f} ms",
                    f"{1e3 * result['convolutions_s']:,.1f} ms",
                    f"{result['step_s'] / result['convolutions_s'] - 1:+.0%}",
                    f"{1e3 * result['search_s']:,.1f} ms",
                    f"{result['peak_bytes'] / 2**20:,.0f} MiB",
                ]
            )
    harness.show_table(
        ["model", "parameters", "step", "convolutions", "rest", "neighbours", "peak memory"], rows
    )
    harness.write_json(arguments.json, {"machine": harness.machine(device), "rows": report})


if __name__ == "__main__":
    main()
