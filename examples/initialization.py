"""Draw the outputs of untrained networks at published settings (the paper's Fig. 6).

    python examples/initialization.py
    python examples/initialization.py --output figures/initialization.png --seeds 0 1 2

For a sequence, an image, voxels and a cloud, the outputs of the published CCNN 4,140 at every point
are shown for three scales of its initial kernels: none, the paper's `1 / sqrt(K)`, and the exact
one, for which the windowed kernel has norm 1. Inputs are standard normal, batch norms the identity.
Writes the figure, and the standard deviations as JSON beside it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from tables import show_table
from torch import Tensor

from ccnn_geo import CCNN
from ccnn_geo.files import save_json
from ccnn_geo.visualization.figures import unscale_kernels

PAPER = Path(__file__).parent / "configs" / "paper"
SCALES = ("none", "paper", "exact")
NUM_POINTS = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("initialization.png"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    outputs = {
        case: {
            scale: torch.stack([outputs_of(make, scale, seed) for seed in options.seeds])
            for scale in SCALES
        }
        for case, make in CASES.items()
    }
    deviations = {
        case: {scale: fmean(row.std().item() for row in rows) for scale, rows in scales.items()}
        for case, scales in outputs.items()
    }
    show_table(
        ["standard deviation of the outputs", *SCALES],
        [[case, *(f"{row[scale]:.3g}" for scale in SCALES)] for case, row in deviations.items()],
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_json(options.output.with_suffix(".json"), {"seeds": options.seeds, "std": deviations})
    draw(outputs, options.output)
    print(f"The picture is {options.output}")


def outputs_of(
    make: Callable[..., tuple[CCNN, tuple[Tensor, ...]]], scale: str, seed: int
) -> Tensor:
    """Return the outputs of an untrained network at all points, flattened."""
    torch.manual_seed(seed)
    model, inputs = make(initialization="exact" if scale == "exact" else "paper", readout=None)
    if scale == "none":
        unscale_kernels(model)
    with torch.no_grad():
        return model.eval()(*inputs).flatten()


def published(name: str) -> dict[str, Any]:
    """Return the network of a published configuration."""
    return yaml.safe_load((PAPER / f"{name}.yaml").read_text())["network"]


def grid(name: str, size: tuple[int, ...], channels: int, **changes: Any):
    """Return a case of a network for grids."""

    def make(**options: Any) -> tuple[CCNN, tuple[Tensor]]:
        settings = {**published(name), **changes, **options}
        model = CCNN.for_grid(channels, 10, size=size, **settings)
        return model, (torch.randn(1, channels, *size),)

    return make


def cloud(**options: Any) -> tuple[CCNN, tuple[Tensor, Tensor]]:
    """Return the published network for ModelNet40 and a cloud on the unit sphere."""
    model = CCNN(6, 40, dim=3, **{**published("modelnet40_4_140"), **options})
    pos = torch.nn.functional.normalize(torch.randn(NUM_POINTS, 3))
    return model, (torch.randn(NUM_POINTS, 6), pos)


CASES = {
    "sequence of 1,024": grid("scifar10_4_140", (1024,), 3),
    "image, 32 x 32": grid("cifar10_4_140", (32, 32), 3),
    "voxels, 16^3": grid("cifar10_6_380", (16, 16, 16), 3, num_blocks=4, hidden_channels=140,
                         kernel_channels=32, kernel_size=17),
    "cloud of 512": cloud,
}  # fmt: skip


def draw(outputs: dict[str, dict[str, Tensor]], picture: Path) -> None:
    """Draw a histogram of the outputs of every case and scale."""
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(
        len(outputs), len(SCALES), figsize=(9, 2 * len(outputs)), layout="constrained"
    )
    for axes, (case, scales) in zip(rows, outputs.items(), strict=True):
        for axis, (scale, values) in zip(axes, scales.items(), strict=True):
            axis.hist(values.flatten().numpy(), bins=60, density=True)
            axis.set_title(f"{case}, {scale}: std {values.std():.3g}", fontsize=8)
            axis.set_yticks([])
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
