"""The convolution on grids beside discrete ones, and the choice between its two ways.

    python -m benchmarks.grid_conv                  # both parts
    python -m benchmarks.grid_conv --only layers    # the layer for sequences of growing length
    python -m benchmarks.grid_conv --only choice    # whether `method="auto"` chooses well
    python -m benchmarks.grid_conv --fit            # constants for `grid_backends/cost.py`

The first part is the paper's Table 5 for one layer: time forward and with backward and peak memory
above that after the imports, every row in a fresh process, medians of repeats. Sequences are in
batches of 8; the local network has as many blocks as it takes to see the whole sequence.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import grid_choice, harness
from ccnn_geo import CKConvMP
from ccnn_geo.nn import PointwiseLinear
from ccnn_geo.ops import grid_conv

BATCH = 8
LENGTHS = (1024, 4096, 8192, 16_000)
KERNEL_CHANNELS = {140: 32, 380: 64}
LAYERS = {
    "continuous": "CKConvMP, window as initialised",
    "continuous-full": "CKConvMP, kernel as long as the input",
    "discrete-fft": "discrete global kernel, FFT",
    "discrete-conv1d": "discrete global kernel, conv1d",
    "local": "local CNN",
}


class DiscreteConv(nn.Module):
    """A depthwise kernel with one parameter per tap, as long as the input, and a linear layer."""

    def __init__(self, channels: int, length: int, method: str) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, length - 1 + length % 2) / length**0.5)
        self.mixing = PointwiseLinear(channels, channels)
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        """Convolve sequences `[B, C, L]`."""
        if self.method == "fft":
            return self.mixing(grid_conv(x, self.kernel, method="fft"))
        padding, channels = self.kernel.size(1) // 2, x.size(1)
        kernel = self.kernel.unsqueeze(1)
        return self.mixing(nn.functional.conv1d(x, kernel, padding=padding, groups=channels))


def local_blocks(length: int) -> int:
    """Blocks of kernel 5 and pooling 2 until the last one sees the whole sequence."""
    return math.ceil(math.log2(length / 5))


def local_network(channels: int, length: int) -> nn.Module:
    """Depthwise-separable convolutions of kernel 5 with pooling by 2."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv1d(channels, channels, 5, padding=2, groups=channels),
                PointwiseLinear(channels, channels),
                nn.BatchNorm1d(channels),
                nn.GELU(),
                nn.MaxPool1d(2),
            )
            for _ in range(local_blocks(length))
        )
    )


def make_layer(name: str, channels: int, length: int) -> nn.Module:
    """The layer or network of a row, on sequences `[B, C, L]`."""
    if name == "local":
        return local_network(channels, length)
    if name.startswith("discrete"):
        return DiscreteConv(channels, length, name.removeprefix("discrete-"))
    layer = CKConvMP.for_grid(
        channels, channels, size=length, kernel_channels=KERNEL_CHANNELS[channels],
        omega_0=1000.0, window_cutoff=0.0 if name == "continuous-full" else 0.1,
    )  # fmt: skip
    layer.forward = layer.grid  # type: ignore[assignment, method-assign]
    return layer


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Time and memory of one row; run in a fresh process."""
    device = torch.device(case["device"])
    if device.type == "cuda":
        torch.cuda.init()
    torch.manual_seed(0)
    torch.set_num_threads(case["threads"])
    before = harness.peak_bytes(device)
    layer = make_layer(case["layer"], case["channels"], case["length"]).to(device)
    x = torch.randn(BATCH, case["channels"], case["length"], device=device, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def training_step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).square().sum().backward()

    repeats = case["repeats"]
    return {
        "forward_s": harness.median_seconds(forward, device, repeats=repeats),
        "forward_backward_s": harness.median_seconds(training_step, device, repeats=repeats),
        "peak_bytes": harness.peak_bytes(device) - before,
    }


def layers(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Measure and print every layer at every length."""
    device = torch.device(arguments.device)
    torch.set_num_threads(threads)
    report: dict[str, Any] = {"machine": harness.machine(device), "rows": []}
    print(f"{harness.machine(device)}, batches of {BATCH}")
    for channels in arguments.channels:
        table = []
        for name, title in LAYERS.items():
            results: list[dict[str, Any]] = []
            for length in arguments.lengths:
                case = {
                    "layer": name, "channels": channels, "length": length,
                    "device": arguments.device, "repeats": arguments.repeats,
                    "threads": threads,
                }  # fmt: skip
                if results and "failed" in results[-1]:
                    result = results[-1]  # what is longer takes longer
                else:
                    harness.progress(f"{title}, {channels} channels, {length:,} steps ...")
                    result = harness.in_fresh_process(
                        "benchmarks.grid_conv", case, timeout=arguments.timeout
                    )
                report["rows"].append({**case, **result})
                results.append(result)
                blocks = f", {local_blocks(length)} blocks" if name == "local" else ""
                table.append([f"{title}{blocks}", f"{length:,}", *cells(result)])
            if name == "continuous-full":
                report[f"exponent_{channels}"] = growth(arguments.lengths, results)
        print(f"\n{channels} channels:\n")
        harness.show_table(["layer", "length", "forward", "with backward", "peak memory"], table)
        exponent, ideal = report[f"exponent_{channels}"]
        print(f"\nFFT with the longest kernel: time ~ L^{exponent:.2f}; L log L ~ L^{ideal:.2f}")
    return report


def growth(lengths: list[int], results: list[dict[str, float]]) -> tuple[float, float]:
    """Fitted exponents of the measured times and of L log L, over the same lengths."""
    times = [result["forward_backward_s"] for result in results]
    ideal = [length * math.log(length) for length in lengths]
    return harness.exponent(lengths, times), harness.exponent(lengths, ideal)


def cells(result: dict[str, Any]) -> list[str]:
    """What a row shows of its measurements."""
    if "failed" in result:
        return [result["failed"], "", ""]
    return [
        f"{1e3 * result['forward_s']:,.1f} ms",
        f"{1e3 * result['forward_backward_s']:,.1f} ms",
        f"{result['peak_bytes'] / 2**20:,.0f} MiB",
    ]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=["layers", "choice"], help="one part instead of both")
    parser.add_argument("--fit", action="store_true", help="measure the constants of the choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument(
        "--channels", nargs="+", type=int, choices=KERNEL_CHANNELS, default=list(KERNEL_CHANNELS)
    )
    parser.add_argument(
        "--threads", type=int,
        help="of the CPU: all for the layers and one, timed by the work it does, for the choice",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds for one row of the layers"
    )
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.worker:
        case = json.loads(arguments.worker)
        print(json.dumps(grid_choice.work(case) if "part" in case else measure(case)))
        return
    report: dict[str, Any] = {}
    costs = grid_choice.fit(device, arguments.threads or 1) if arguments.fit else None
    if arguments.only != "choice":
        report["layers"] = layers(arguments, arguments.threads or torch.get_num_threads())
    if arguments.only != "layers":
        report["choice"] = grid_choice.choice(device, arguments.threads or 1, costs)
    harness.write_json(arguments.json, report)


if __name__ == "__main__":
    main()
