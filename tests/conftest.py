"""Fixtures that several test files share."""

import importlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from datasets_helpers import Host, serve
from examples_helpers import EXAMPLES


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    # PyG names the code that it generates by Python's generator: no two tests may share a state.
    random.seed(request.node.nodeid)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


@pytest.fixture
def host() -> Iterator[Host]:
    """A host on this machine that serves files and can be told to misbehave."""
    with serve() as host:
        yield host


@pytest.fixture
def example(monkeypatch, tmp_path) -> Callable[[str], ModuleType]:
    """Imports an example the way that it is when it is run, in an empty folder."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    # Lightning's command line still calls what jsonargparse has renamed.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    return importlib.import_module


@pytest.fixture
def run_example(example, monkeypatch, capsys) -> Callable[..., str]:
    """Runs an example by its name and returns what it printed."""

    def run(name: str, *arguments: str) -> str:
        main = example(name).main
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / f"{name}.py"), *arguments])
        main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms small clouds like large ones, instead of summing pair by pair."""
    module = importlib.import_module("ccnn_geo.ops.nufft_conv")
    monkeypatch.setattr(module, "MAX_PAIRS", 0)
