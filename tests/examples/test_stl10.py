"""The example on STL-10."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from examples_helpers import QUIET, TINY_NETWORK, report, stopped  # noqa: E402

TINY = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1", "--network.kernel_size=5"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "stl10")


@pytest.mark.parametrize("size", [96, 32])
def test_trains_on_images_of_any_size(run, tmp_path, size):
    x = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(20) % 4)
    printed = run(f"--data.size={size}", "--data.augment=true", "--data.root=images.npz", *TINY)
    content = report("runs/stl10/seed0")
    assert content["split_sizes"] == {"train": 12, "val": 4, "test": 4}
    assert content["settings"]["data.size"] == size
    assert printed.strip().endswith("of the test images right, where guessing gets 10.00 %")


def test_trains_on_real_images(run, shared_data):
    run(f"--data.root={shared_data / 'stl10_246.npz'}", "--data.size=48", *TINY)
    content = report("runs/stl10/seed0")
    assert sum(content["split_sizes"].values()) == 184
    assert len(content["classes"]) == 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.size=0"], "Expected `size` to be at least 1, got 0"),
        (["--data.download=false"], "Expected STL-10 in data/stl10: stl10_binary"),
        ([f"--data.root={__file__}"], "test_stl10.py"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--data.size", "--data.augment", "--network.kernel_size"):
        assert name in printed
