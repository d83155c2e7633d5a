"""The convolution on grids beside other layers, and the choice between its two ways.

    python -m benchmarks.grid_conv                  # all parts
    python -m benchmarks.grid_conv --only layers    # the layer for sequences of growing length
    python -m benchmarks.grid_conv --only networks  # whole networks for the same sequences
    python -m benchmarks.grid_conv --only nvidia    # the layer beside nvsubquadratic's, 1-D to 3-D
    python -m benchmarks.grid_conv --only long      # a sequence of 1,048,576 steps
    python -m benchmarks.grid_conv --only choice    # whether `method="auto"` chooses well
    python -m benchmarks.grid_conv --fit            # constants for `grid_backends/cost.py`

The layers are those of the paper's Table 6, the networks those of Table 5: time forward and with
backward and peak memory above that after the imports, every row in a fresh process, medians of
repeats. Sequences are in batches of 8. The global CNN has a discrete kernel as long as the sequence
in place of every continuous one; the local CNN has kernels of 5, pooling, and as many blocks as it
takes to see the whole sequence.

The part beside nvsubquadratic has the same number of taps in both layers, from every cell to all
others, kernel networks of one width, and one thread. The layers take turns; medians of the work
that they do.
`pip install --no-deps nvsubquadratic einops omegaconf` brings the other layer.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import grid_choice, harness
from benchmarks.grid_peers import S4D, NvidiaCKConv
from ccnn_geo import CCNN, CKConvMP
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
    "s4d": "S4D, 64 states",
}
NETWORKS = {
    "ccnn": "CCNN, windows as initialised",
    "ccnn-full": "CCNN, kernels as long as the input",
    "global": "global CNN",
    "local": "local CNN",
}
BLOCKS = {140: 4, 380: 6}
CLASSES = 10
GRIDS = (
    ((4096,), 8, 140), ((16_000,), 8, 140), ((32, 32), 8, 140), ((64, 64), 8, 140),
    ((24, 24, 24), 1, 32), ((24, 24, 24), 8, 32),
)  # fmt: skip
"""Grids of the second part, batch sizes, and channels."""

LONG = 2**20
LONG_CHANNELS = 16


class DiscreteConv(nn.Module):
    """A depthwise kernel with one parameter per tap, as long as the input, and a linear layer."""

    def __init__(
        self, channels: int, length: int, method: str, *, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, length - 1 + length % 2) / length**0.5)
        self.mixing = PointwiseLinear(channels, out_channels or channels)
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


class GlobalBlock(nn.Module):
    """The residual block of a CCNN with a discrete kernel (paper, Fig. 7)."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm1d(channels),
            DiscreteConv(channels, length, "fft"),
            nn.GELU(),
            PointwiseLinear(channels, channels),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to sequences `[B, C, L]`."""
        return x + self.branch(x)


class Classifier(nn.Module):
    """A body for sequences, and a linear readout of the mean over their steps."""

    def __init__(self, *body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify sequences `[B, C, L]`."""
        return self.head(self.body(x).mean(-1))


def global_network(channels: int, length: int) -> nn.Module:
    """The CCNN with discrete kernels as long as the input."""
    return Classifier(
        DiscreteConv(1, length, "fft", out_channels=channels),
        nn.BatchNorm1d(channels),
        nn.GELU(),
        *(GlobalBlock(channels, length) for _ in range(BLOCKS[channels])),
        nn.BatchNorm1d(channels),
        channels=channels,
    )


def local_network(channels: int, length: int) -> nn.Module:
    """Depthwise-separable convolutions of kernel 5 with pooling by 2."""
    return Classifier(
        nn.Conv1d(1, channels, 5, padding=2),
        *(
            nn.Sequential(
                nn.Conv1d(channels, channels, 5, padding=2, groups=channels),
                PointwiseLinear(channels, channels),
                nn.BatchNorm1d(channels),
                nn.GELU(),
                nn.MaxPool1d(2),
            )
            for _ in range(local_blocks(length))
        ),
        channels=channels,
    )


def make_layer(name: str, channels: int, length: int) -> nn.Module:
    """The layer or network of a row, on sequences `[B, C, L]`."""
    if name == "local":
        return local_network(channels, length)
    if name == "global":
        return global_network(channels, length)
    if name.startswith("ccnn"):
        return CCNN.for_grid(
            1, CLASSES, size=length, hidden_channels=channels, num_blocks=BLOCKS[channels],
            kernel_channels=KERNEL_CHANNELS[channels], omega_0=1000.0,
            window_cutoff=0.0 if name == "ccnn-full" else 0.1,
        )  # fmt: skip
    if name == "s4d":
        return S4D(channels)
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
    channels = 1 if case["layer"] in NETWORKS else case["channels"]
    x = torch.randn(BATCH, channels, case["length"], device=device)
    x.requires_grad_(case["layer"] in LAYERS)

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


def full_layer(size: tuple[int, ...], channels: int, kernel_channels: int) -> CKConvMP:
    """A layer whose kernel reaches from every cell of a grid to all others."""
    return CKConvMP.for_grid(
        channels, channels, size=size, kernel_size=tuple(2 * cells - 1 for cells in size),
        kernel_channels=kernel_channels, omega_0=30.0, window_cutoff=0.0, window_width=1.0,
    )  # fmt: skip


def measure_nvidia(case: dict[str, Any]) -> dict[str, Any]:
    """Time of the layer and of nvsubquadratic's on one grid; run in a fresh process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size, batch, channels = tuple(case["size"]), case["batch"], case["channels"]
    kernel_channels = min(KERNEL_CHANNELS.values())
    x = torch.randn(batch, channels, *size, requires_grad=True)
    layers: list[Any] = [full_layer(size, channels, kernel_channels).grid]
    result: dict[str, Any] = {}
    try:
        layers.append(NvidiaCKConv(channels, size, kernel_channels))
    except ImportError as error:
        result["missing"] = f"cannot be imported: {error}"

    def forward(layer: Any) -> None:
        with torch.no_grad():
            layer(x)

    def training_step(layer: Any) -> None:
        x.grad = None
        layer(x).square().sum().backward()

    for name, step in (("forward_s", forward), ("forward_backward_s", training_step)):
        calls = [functools.partial(step, layer) for layer in layers]
        result[name] = harness.interleaved_seconds(
            calls, torch.device("cpu"), case["repeats"], budget=case["repeats"]
        )
    return result


def nvidia(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print the layer beside nvsubquadratic's."""
    torch.set_num_threads(1)
    print(f"\n{harness.machine(torch.device('cpu'))}\n")
    rows, report = [], []
    for size, batch, channels in GRIDS:
        case = {
            "part": "nvidia", "size": size, "batch": batch, "channels": channels,
            "repeats": arguments.repeats,
        }  # fmt: skip
        harness.progress(f"grids of {size}, {batch} x {channels} channels ...")
        result = harness.in_fresh_process("benchmarks.grid_conv", case)
        report.append({**case, **result})
        name = [" x ".join(map(str, size)), f"{batch} x {channels}"]
        if "failed" in result:
            rows.append([*name, result["failed"], *[""] * 3])
            continue
        times = [
            [f"{1e3 * seconds:,.1f} ms" for seconds in pair]
            for pair in zip(result["forward_s"], result["forward_backward_s"], strict=True)
        ]
        ours, theirs = times[0], times[1] if len(times) > 1 else [result["missing"], ""]
        ratio = ""
        if len(times) > 1:
            own, other = result["forward_backward_s"]
            ratio = f"{other / own:.2f} x"
        rows.append([*name, *ours, *theirs, ratio])
    harness.show_table(
        ["grid", "signals", "forward", "with backward", "nvsubquadratic", "with backward", "speed"],
        rows,
    )
    return report


def measure_long(case: dict[str, Any]) -> dict[str, float]:
    """Time and memory of one layer on a long sequence; run in a fresh process."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    torch.set_num_threads(case["threads"])
    size = (LONG,)
    layer = (
        full_layer(size, LONG_CHANNELS, 32)
        if case["taps"] is None
        else CKConvMP.for_grid(
            LONG_CHANNELS, LONG_CHANNELS, size=size, kernel_size=case["taps"],
            omega_0=30.0, window_width=1.0, window_cutoff=0.0,
        )
    )  # fmt: skip
    x = torch.randn(1, LONG_CHANNELS, LONG, requires_grad=case["backward"])
    before = harness.start_peak(device)

    def step() -> None:
        with torch.set_grad_enabled(case["backward"]):
            output = layer.grid(x)
        if case["backward"]:
            output.square().sum().backward()

    seconds = harness.seconds(step, device)
    kernel = 4 * LONG_CHANNELS * (2 * LONG - 1 if case["taps"] is None else case["taps"])
    return {
        "seconds": seconds,
        "peak_bytes": harness.peak_bytes(device) - before,
        "signal_bytes": x.numel() * 4,
        "kernel_bytes": kernel,
    }


def long(arguments: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Measure and print a sequence of a million steps, with kernels of several lengths."""
    torch.set_num_threads(threads)
    print(f"\n{harness.machine(torch.device('cpu'))}, {LONG:,} steps, {LONG_CHANNELS} channels\n")
    rows, report = [], []
    for taps in (1001, 65_537, None):
        for backward in (False, True):
            case = {"part": "long", "taps": taps, "backward": backward, "threads": threads}
            harness.progress(f"{taps or 'all'} taps, {'with' if backward else 'no'} backward ...")
            result = harness.in_fresh_process("benchmarks.grid_conv", case)
            report.append({**case, **result})
            name = f"{2 * LONG - 1 if taps is None else taps:,}"
            if "failed" in result:
                rows.append([name, result["failed"], *[""] * 4])
                continue
            rows.append(
                [
                    name,
                    "forward and backward" if backward else "forward",
                    f"{result['seconds']:,.2f} s",
                    *(
                        f"{result[key] / 2**20:,.0f} MiB"
                        for key in ("peak_bytes", "signal_bytes", "kernel_bytes")
                    ),
                ]
            )
    harness.show_table(["taps", "", "time", "peak memory", "one signal", "one kernel"], rows)
    return report


def layers(arguments: argparse.Namespace, titles: dict[str, str], threads: int) -> dict[str, Any]:
    """Measure and print every layer or network at every length."""
    device = torch.device(arguments.device)
    torch.set_num_threads(threads)
    report: dict[str, Any] = {"machine": harness.machine(device), "rows": []}
    print(f"{harness.machine(device)}, batches of {BATCH}")
    for channels in arguments.channels:
        table = []
        for name, title in titles.items():
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
            if name.endswith("-full"):
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
    parser.add_argument(
        "--only",
        choices=["layers", "networks", "nvidia", "long", "choice"],
        help="one part instead of all",
    )
    parser.add_argument("--fit", action="store_true", help="measure the constants of the choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument(
        "--channels", nargs="+", type=int, choices=KERNEL_CHANNELS, default=list(KERNEL_CHANNELS)
    )
    parser.add_argument(
        "--threads", type=int,
        help="of the CPU: all for the layers and the long sequence and one, timed by the work it "
        "does, for the choice",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds for one row of the layers and networks"
    )
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.worker:
        case = json.loads(arguments.worker)
        measures = {"nvidia": measure_nvidia, "long": measure_long}
        work = measures.get(case.get("part"), grid_choice.work if "part" in case else measure)
        print(json.dumps(work(case)))
        return
    report: dict[str, Any] = {}
    costs = grid_choice.fit(device, arguments.threads or 1) if arguments.fit else None
    threads = arguments.threads or torch.get_num_threads()
    if arguments.only in (None, "layers"):
        report["layers"] = layers(arguments, LAYERS, threads)
    if arguments.only in (None, "networks"):
        report["networks"] = layers(arguments, NETWORKS, threads)
    if arguments.only in (None, "nvidia"):
        report["nvidia"] = nvidia(arguments)
    if arguments.only in (None, "long"):
        report["long"] = long(arguments, threads)
    if arguments.only in (None, "choice"):
        report["choice"] = grid_choice.choice(device, arguments.threads or 1, costs)
    harness.write_json(arguments.json, report)


if __name__ == "__main__":
    main()
