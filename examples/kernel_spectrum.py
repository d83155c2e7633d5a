"""Draw the kernels of a trained network for sequences, and their spectra (the paper's Fig. 12).

    python examples/kernel_spectrum.py runs/scifar10_small/seed0
    python examples/kernel_spectrum.py runs/scifar10_small/seed0 --period 32 --output kernels.png

For every layer, the kernels of all channels are shown against the offset, and below them the mean
power spectrum. Images that are read row by row repeat themselves with the width of the image, which
`--period` marks. Prints how much of the power lies at multiples of the frequency of the period,
beside its share under a flat spectrum, and writes both as JSON.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tables import percent, show_table

from ccnn_geo import CKConvMP
from ccnn_geo.files import save_json
from ccnn_geo.training.checkpoints import load_network
from ccnn_geo.visualization.figures import kernel_values, save_figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run, or a checkpoint")
    parser.add_argument("--period", type=int, default=32, help="period to mark, in samples")
    parser.add_argument("--output", type=Path, default=Path("kernel_spectrum.png"))
    options = parser.parse_args()
    checkpoint = options.run / "best.ckpt" if options.run.is_dir() else options.run
    try:
        kernels = sampled_kernels(checkpoint)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    shares = [periodic_share(kernel, options.period) for kernel in kernels]
    expected = flat_share(kernels[0].shape[1], options.period)
    show_table(
        ["layer", f"power at period {options.period}", "under a flat spectrum"],
        [[str(layer), percent(share), percent(expected)] for layer, share in enumerate(shares)],
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture = draw(kernels, options.period, options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"{options.output}: {error}")
    save_json(
        picture.with_suffix(".json"),
        {"period": options.period, "shares": shares, "flat": expected},
    )
    print(f"The picture is {picture}")


def sampled_kernels(checkpoint: Path) -> list[np.ndarray]:
    """Return the kernels of all layers at the samples of their grid, `[C, K]` each.

    Raises:
        ValueError: If the network is not one for sequences.
    """
    network = load_network(checkpoint)
    kernels = []
    for conv in network.modules():
        if isinstance(conv, CKConvMP):
            if conv.dim != 1 or conv.spacing is None:
                raise ValueError(f"{checkpoint}: expected a network for sequences")
            reach = conv.extent[0] / conv.spacing[0]
            taps = round(reach if conv.causal else 2 * reach) + 1
            kernels.append(kernel_values(conv, taps, reach=1.0).numpy())
    return kernels


def power(kernel: np.ndarray) -> np.ndarray:
    """Return the mean power spectrum of the channels of a kernel `[C, K]` without their means."""
    centred = kernel - kernel.mean(1, keepdims=True)
    return (np.abs(np.fft.rfft(centred, axis=1)) ** 2).mean(0)


def near_harmonics(samples: int, period: int) -> np.ndarray:
    """Return a mask of the frequencies within one step of a multiple of 1 / period."""
    turns = np.arange(samples // 2 + 1) * period / samples
    harmonic = np.round(turns)
    return (np.abs(turns - harmonic) <= 1.01 * period / samples) & (harmonic > 0)


def periodic_share(kernel: np.ndarray, period: int) -> float:
    """Return the share of the power near multiples of the frequency of a period."""
    spectrum = power(kernel)
    total = spectrum.sum()
    return float(spectrum[near_harmonics(kernel.shape[1], period)].sum() / total) if total else 0.0


def flat_share(samples: int, period: int) -> float:
    """Return that share of a flat spectrum."""
    mask = near_harmonics(samples, period)
    return float(mask.sum() / (len(mask) - 1))


def draw(kernels: list[np.ndarray], period: int, picture: Path) -> Path:
    """Draw the kernels above their spectra, and return the file."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(
        2, len(kernels), figsize=(3.2 * len(kernels), 6), layout="constrained", squeeze=False
    )
    for layer, kernel in enumerate(kernels):
        limit = np.quantile(np.abs(kernel), 0.99) or 1.0
        above[layer].imshow(kernel, cmap="RdBu_r", aspect="auto", vmin=-limit, vmax=limit)
        above[layer].set_title("stem" if layer == 0 else f"layer {layer}", fontsize=9)
        frequencies = np.fft.rfftfreq(kernel.shape[1])
        below[layer].semilogy(frequencies[1:], power(kernel)[1:], linewidth=0.8)
        for harmonic in range(1, period // 2 + 1):
            below[layer].axvline(harmonic / period, color="C1", alpha=0.25, linewidth=0.8)
        below[layer].set_xlabel("cycles per sample")
    above[0].set_ylabel("channel")
    below[0].set_ylabel("power")
    file = save_figure(figure, picture)
    plt.close(figure)
    return file


if __name__ == "__main__":
    main()
