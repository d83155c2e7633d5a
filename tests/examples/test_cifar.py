"""The example on CIFAR: both forms, both sets, and the small configurations."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, grid_network, report, stopped  # noqa: E402

SHORT = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1"]
TINY = [*SHORT, "--network.kernel_size=5"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "cifar")


@pytest.fixture
def images(tmp_path):
    """An .npz file of forty training and twenty test images."""
    generator = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 40), ("test", 20)):
        content[f"{split}_x"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        content[f"{split}_y"] = np.arange(count) % 10
    np.savez(tmp_path / "images.npz", **content)
    return tmp_path / "images.npz"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["image", "sequential"])
def test_trains_on_every_form(run, images, name, form):
    printed = run(f"--data.name={name}", f"--data.form={form}", f"--data.root={images}",
                  "--data.augment=true", *TINY)  # fmt: skip
    content = report(f"runs/{name}/seed0")
    assert content["split_sizes"] == {"train": 30, "val": 10, "test": 20}
    assert np.sum(content["confusion"]) == 20
    last_line = printed.strip().splitlines()[-1]
    assert f"{content['parameters']:,} parameters" in last_line
    guessing = {"cifar10": "10.00 %", "cifar100": "1.00 %"}[name]
    assert last_line.endswith(f"of the test images right, where guessing gets {guessing}")


def test_ends_well_without_a_test(run, images):
    printed = run(f"--data.root={images}", "--trainer.limit_test_batches=0", *TINY)
    assert report("runs/cifar10/seed0")["test"] is None
    assert printed.strip().splitlines()[-1].endswith(" parameters")


@pytest.mark.parametrize("name", ["cifar10_small", "scifar10_small"])
def test_learns_from_real_images(run, shared_data, name):
    run(f"--config={CONFIGS / name}.yaml", "--data.train_size=100", *SHORT,
        f"--data.root={shared_data / 'cifar10_png.npz'}", "--trainer.limit_test_batches=2",
        "--trainer.limit_val_batches=2")  # fmt: skip
    content = report(f"runs/{name}/seed0")
    assert content["split_sizes"] == {"train": 100, "val": 300, "test": 750}


@pytest.mark.parametrize(
    ("name", "form", "size"),
    [("cifar10_small", "image", (32, 32)), ("scifar10_small", "sequential", (1024,))],
)
def test_small_configurations_are_small_and_say_how_small(run, capsys, name, form, size):
    stopped(run, 0, f"--config={CONFIGS / name}.yaml", "--print_config")
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["form"] == form
    model = grid_network(settings, 3, 10, size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters <= 50_000
    assert f"{parameters:,} parameters" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.form=cloud"], "data.form"),
        (["--data.name=mnist"], "data.name"),
        (["--data.download=false"], "Expected CIFAR-10 in data/cifar10: cifar-10-batches-bin"),
        (["--data.name=cifar100", "--data.root=x", "--data.download=false"], "CIFAR-100 in x"),
        ([f"--data.root={__file__}"], "test_cifar.py"),
        (["--network.causal=true", "--data.root=images.npz"], "`dim` = 1 for a causal convolution"),
    ],
)
def test_bad_arguments_are_usage_errors(run, images, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--data.form", "--data.augment", "--data.gray", "--network.kernel_size"):
        assert name in printed
