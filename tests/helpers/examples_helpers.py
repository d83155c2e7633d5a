"""What the tests of the examples share: where they are, their reports, and their early ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccnn_geo import CCNN

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = EXAMPLES / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
TINY_NETWORK = [
    "--network.hidden_channels=8",
    "--network.num_blocks=1",
    "--network.kernel_channels=4",
]
PAPER = CONFIGS / "paper"
# Examples of the published experiments; all others belong to the Long Range Arena.
_SCRIPTS = {
    "smnist": "mnist", "pmnist": "mnist", "scifar10": "cifar", "cifar10": "cifar",
    "cifar100": "cifar", "stl10": "stl10", "speech_raw": "speech_commands",
    "speech_mfcc": "speech_commands", "modelnet40": "modelnet40",
}  # fmt: skip


def paper_script(config: Path) -> str:
    """Name of the example that a published configuration is for."""
    return _SCRIPTS.get(config.stem.rsplit("_", 2)[0], "lra")


def grid_network(
    settings: dict[str, Any], channels: int, classes: int, size: tuple[int, ...]
) -> CCNN:
    """The network of a configuration, as the command line prints it, for signals of a size."""
    arguments = dict(settings["network"])
    arguments.pop("embedding")
    block = CCNN.argument_classes[arguments.pop("block")]
    return CCNN.for_grid(channels, classes, size=size, block=block, **arguments)


def report(folder: str) -> dict[str, Any]:
    """What a run left in its folder."""
    return json.loads((Path(folder) / "results.json").read_text())


def stopped(run: Callable[..., str], status: int, *arguments: str) -> None:
    """Run an example that has to end before it begins, with this exit status."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == status
