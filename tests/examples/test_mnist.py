"""The example on handwritten digits: every form of them, and the published configurations."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, grid_network, report, stopped  # noqa: E402

TINY = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "mnist")


@pytest.fixture
def settings(run, capsys):
    """Returns all settings of one configuration, as the command line sees them."""

    def settings(name: str) -> dict:
        stopped(run, 0, f"--config={CONFIGS / name}.yaml", "--print_config")
        return yaml.safe_load(capsys.readouterr().out)

    return settings


def test_runs_without_any_file_and_argument_but_the_length(run):
    printed = run("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false",
                  "--trainer.limit_train_batches=2")  # fmt: skip
    content = report("runs/digits/seed0")
    assert content["data_set"] == "digits"
    assert content["split_sizes"] == {"train": 1295, "val": 142, "test": 360}
    assert content["classes"] == list("0123456789")
    last_line = printed.strip().splitlines()[-1]
    assert f"{content['parameters']:,} parameters" in last_line
    assert last_line.endswith("right as image, where guessing gets 10.00 %")


@pytest.mark.parametrize("form", ["masked", "cloud", "sequential", "permuted"])
def test_trains_on_every_form(run, form):
    run(f"--data.form={form}", "--data.train_size=100", "--data.max_shift=1", *TINY)
    content = report("runs/digits/seed0")
    assert content["settings"]["data.form"] == form
    assert content["split_sizes"]["train"] == 100
    assert 0 <= content["test"]["accuracy"] <= 1
    assert np.sum(content["confusion"]) == 360


def test_a_network_for_masked_images_is_as_right_on_clouds(run):
    printed = run("--data.form=masked", "--test_forms=[masked,cloud]", "--data.train_size=200",
                  "--network.num_neighbors=64", *TINY)  # fmt: skip
    content = report("runs/digits/seed0")
    assert content["test_forms"].keys() == {"masked", "cloud"}
    # Rounding differs between the two, and may decide on one digit that is as much this as that.
    for accuracy in content["test_forms"].values():
        assert accuracy == pytest.approx(content["test"]["accuracy"], abs=1.01 / 360)
    assert "of the test digits right as cloud" in printed


def test_learns_from_real_mnist(run, shared_data):
    run(f"--config={CONFIGS / 'mnist_image_small.yaml'}", "--data.train_size=200",
        f"--data.root={shared_data / 'mnist_10k.npz'}", "--trainer.limit_test_batches=2",
        "--trainer.limit_val_batches=2", *TINY)  # fmt: skip
    content = report("runs/mnist_image_small/seed0")
    assert content["data_set"] == "mnist"
    assert content["split_sizes"] == {"train": 200, "val": 699, "test": 1500}


def test_ends_well_without_a_test(run):
    printed = run("--trainer.limit_test_batches=0", *TINY)
    assert report("runs/digits/seed0")["test"] is None
    assert printed.strip().splitlines()[-1].startswith("The report is")


class TestConfigs:
    @pytest.mark.parametrize("form", ["image", "masked", "sequential", "cloud"])
    def test_small_ones_are_small_and_say_how_small(self, settings, form):
        name = f"mnist_{form}_small"
        content = settings(name)
        assert content["data"]["form"] == form
        size = (784,) if form == "sequential" else (28, 28)
        model = grid_network(content, 1, 10, size)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters <= 50_000
        assert f"{parameters:,} parameters" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.form=voxels"], "data.form"),
        (["--data.name=mnist", "--data.root=nowhere", "--data.download=false"], "in nowhere"),
        (["--data.form=permuted", "--test_forms=[cloud]"], "Expected no `test_forms`"),
        (["--network.causal=true"], "`dim` = 1 for a causal convolution, got 2"),
        (["--data.name=mnist", f"--data.root={__file__}"], "test_mnist.py"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--data.form", "--data.max_shift", "--network.kernel_size", "--test_forms"):
        assert name in printed
