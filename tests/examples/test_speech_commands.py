"""The example on spoken words: both features, other sampling rates, and the configurations."""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, grid_network, report, stopped  # noqa: E402

SHORT = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1"]
TINY = [*SHORT, "--network.kernel_size=21"]
FEATURES = [
    pytest.param("raw", 1, 16_000),
    pytest.param(
        "mfcc",
        20,
        161,
        marks=pytest.mark.skipif(
            find_spec("librosa") is None, reason="librosa, of the extra `audio`, is missing"
        ),
    ),
]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "speech_commands")


@pytest.fixture
def clips(tmp_path):
    """An .npz file of eight training and four test clips of two words."""
    generator = np.random.default_rng(0)
    content = {"words": np.array(["yes", "no"])}
    for part, count in (("train", 8), ("test", 4)):
        content[f"{part}_samples"] = generator.normal(0, 1000, count * 16_000).astype(np.int16)
        content[f"{part}_offsets"] = 16_000 * np.arange(count + 1)
        content[f"{part}_label"] = np.arange(count) % 2
    np.savez(tmp_path / "clips.npz", **content)
    return tmp_path / "clips.npz"


@pytest.mark.parametrize(("features", "channels", "size"), FEATURES)
def test_tests_one_network_at_several_rates(run, clips, features, channels, size):
    printed = run(f"--data.features={features}", f"--data.root={clips}", *TINY)
    content = report("runs/speech_commands/seed0")
    assert content["split_sizes"] == {"train": 6, "val": 2, "test": 4}
    samples = [-(-size // step) for step in (1, 2, 4)]
    assert [row["samples"] for row in content["resolutions"]] == samples
    assert content["resolutions"][0]["rescaled"] == content["test"]["accuracy"]
    assert "of the test clips right, where guessing gets 50.00 %" in printed
    rows = [row.split()[:2] for row in printed.strip().splitlines()[-3:]]
    assert rows == [[step, f"{count:,}"] for step, count in zip("124", samples, strict=True)]


@pytest.mark.parametrize(("rescale", "way"), [("true", "rescaled"), ("false", "not_rescaled")])
def test_the_run_itself_can_be_tested_on_every_second_sample(run, clips, rescale, way):
    run(f"--data.root={clips}", "--data.subsample=2", f"--data.rescale={rescale}", *TINY)
    content = report("runs/speech_commands/seed0")
    assert content["test"]["accuracy"] == content["resolutions"][1][way]


@pytest.mark.parametrize(
    "name",
    [
        "speech_commands_small",
        pytest.param("speech_commands_mfcc_small", marks=FEATURES[1].marks),
    ],
)
def test_learns_from_real_clips(run, shared_data, name):
    run(f"--config={CONFIGS / name}.yaml", f"--data.root={shared_data / 'speech_commands.npz'}",
        "--data.train_size=20", "--trainer.limit_test_batches=1", "--trainer.limit_val_batches=1",
        *SHORT)  # fmt: skip
    content = report(f"runs/{name}/seed0")
    assert content["split_sizes"] == {"train": 20, "val": 140, "test": 270}
    assert content["classes"][:3] == ["yes", "no", "up"]


@pytest.mark.parametrize(
    ("name", "features", "channels", "size"),
    [
        ("speech_commands_small", "raw", 1, 16_000),
        ("speech_commands_mfcc_small", "mfcc", 20, 161),
    ],
)
def test_small_configurations_are_small_and_say_how_small(
    run, capsys, name, features, channels, size
):
    stopped(run, 0, f"--config={CONFIGS / name}.yaml", "--print_config")
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["features"] == features
    model = grid_network(settings, channels, 10, (size,))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters <= 50_000
    assert f"{parameters:,} parameters" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.features=mel"], "data.features"),
        (["--data.subsample=0"], "Expected `subsample` >= 1, got 0"),
        (["--data.download=false"], "Speech Commands v0.02 in data/speech_commands: speech_comm"),
        ([f"--data.root={__file__}"], "test_speech_commands.py"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--data.features", "--data.split", "--data.subsample", "--data.rescale"):
        assert name in printed
