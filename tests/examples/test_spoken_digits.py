"""The example on spoken digits: real audio, other sampling rates, and the configurations."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from datasets_helpers import put_recordings  # noqa: E402
from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, grid_network, report, stopped  # noqa: E402

TINY = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "spoken_digits")


def test_runs_without_any_file_and_argument_but_the_length(run):
    printed = run("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false",
                  "--trainer.limit_train_batches=2", "--data.batch_size=100")  # fmt: skip
    content = report("runs/digits/seed0")
    assert content["data_set"] == "digits"
    assert [row["samples"] for row in content["resolutions"]] == [64, 32, 16]
    assert f"{content['parameters']:,} parameters, trained on 64 samples" in printed


def test_tests_one_network_at_several_rates_with_and_without_rescaling(run):
    put_recordings(Path("recordings"))
    printed = run("--data.name=spoken_digits", "--data.root=.", "--data.duration=0.01",
                  "--data.val_fraction=0.5", *TINY)  # fmt: skip
    content = report("runs/spoken_digits/seed0")
    assert content["split_sizes"] == {"train": 4, "val": 4, "test": 20}
    whole, half, quarter = content["resolutions"]
    assert whole == {
        "subsample": 1,
        "samples": 80,
        "rescaled": content["test"]["accuracy"],
        "not_rescaled": content["test"]["accuracy"],
    }
    assert (half["subsample"], half["samples"]) == (2, 40)
    assert (quarter["subsample"], quarter["samples"]) == (4, 20)
    header, rule, *rows = printed.strip().splitlines()[-5:]
    assert header.split() == ["one", "sample", "in", "samples", "rescaled", "not", "rescaled"]
    assert [row.split()[:2] for row in rows] == [["1", "80"], ["2", "40"], ["4", "20"]]
    assert np.sum(content["confusion"]) == 20


def test_the_run_itself_can_be_tested_on_every_second_sample(run):
    put_recordings(Path("recordings"))
    options = ["--data.name=spoken_digits", "--data.root=.", "--data.duration=0.01",
               "--data.val_fraction=0.5", "--data.subsample=2", *TINY]  # fmt: skip
    for rescale, way in (("true", "rescaled"), ("false", "not_rescaled")):
        run(*options, f"--data.rescale={rescale}", f"--name={way}")
        content = report(f"runs/{way}/seed0")
        assert content["test"]["accuracy"] == content["resolutions"][1][way]
        assert content["resolutions"] == report("runs/rescaled/seed0")["resolutions"]


def test_learns_from_real_recordings(run, shared_data):
    run(f"--config={CONFIGS / 'spoken_digits_small.yaml'}", f"--data.root={shared_data}",
        "--data.duration=0.2", "--data.train_size=20", "--trainer.limit_test_batches=1",
        "--trainer.limit_val_batches=1", *TINY)  # fmt: skip
    content = report("runs/spoken_digits_small/seed0")
    assert content["split_sizes"] == {"train": 20, "val": 240, "test": 300}
    assert [row["samples"] for row in content["resolutions"]] == [1600, 800, 400]


class TestConfigs:
    @pytest.fixture
    def settings(self, run, capsys):
        """Returns all settings of one configuration, as the command line sees them."""

        def settings(name: str) -> dict:
            with pytest.raises(SystemExit) as stop:
                run(f"--config={CONFIGS / name}.yaml", "--print_config")
            assert stop.value.code == 0
            return yaml.safe_load(capsys.readouterr().out)

        return settings

    @pytest.mark.parametrize(
        ("name", "blocks", "hidden", "kernel", "batch"),
        [("spoken_digits_4_140", 4, 140, 32, 20), ("spoken_digits_6_380", 6, 380, 64, 40)],
    )
    def test_hold_the_published_hyperparameters_of_raw_speech(
        self, settings, name, blocks, hidden, kernel, batch
    ):
        content = settings(name)
        network, model = content["network"], content["model"]
        data, trainer = content["data"], content["trainer"]
        assert (data["name"], data["batch_size"], data["duration"]) == ("spoken_digits", batch, 1)
        assert (trainer["max_epochs"], trainer["accumulate_grad_batches"]) == (160, 1)
        shape = (network["num_blocks"], network["hidden_channels"], network["kernel_channels"])
        assert shape == (blocks, hidden, kernel)
        assert (network["omega_0"], network["kernel_size"], network["causal"]) == (
            1295.61,
            "same",
            True,
        )
        assert (model["learning_rate"], model["warmup_epochs"]) == (0.02, 10)
        assert (network["window_width"], model["window_lr_ratio"]) == (0.075, 1)
        assert (model["kernel_l2"], network["dropout"]) == (1e-6, 0.2)

    @pytest.mark.parametrize("name", ["spoken_digits_4_140", "spoken_digits_small"])
    def test_say_how_many_parameters_there_are(self, settings, name):
        model = grid_network(settings(name), 1, 10, (8000,))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert f"{parameters:,} parameters" in (CONFIGS / f"{name}.yaml").read_text()
        assert parameters == 198_769 if name == "spoken_digits_4_140" else parameters <= 50_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.name=speech"], "data.name"),
        (["--data.subsample=0"], "Expected `subsample` >= 1, got 0"),
        (["--data.name=spoken_digits", "--data.root=x", "--data.download=false"], "Dataset in x"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--data.subsample", "--data.rescale", "--data.keep_lengths", "--network.causal"):
        assert name in printed
