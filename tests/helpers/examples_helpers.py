"""What the tests of the examples share: where they are, their reports, and their early ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = EXAMPLES / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
TINY_NETWORK = [
    "--network.hidden_channels=8",
    "--network.num_blocks=1",
    "--network.kernel_channels=4",
]


def report(folder: str) -> dict[str, Any]:
    """What a run left in its folder."""
    return json.loads((Path(folder) / "results.json").read_text())


def stopped(run: Callable[..., str], status: int, *arguments: str) -> None:
    """Run an example that has to end before it begins, with this exit status."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == status
