"""Experiments on the command line: the network, configurations, and the folder of a run."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from pytorch_lightning.utilities.rank_zero import rank_zero_only  # noqa: E402

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.datasets import MNISTDataModule, PointCloudDataModule  # noqa: E402
from ccnn_geo.datasets.signals.dataset import SignalDataModule, Signals  # noqa: E402
from ccnn_geo.nn import FlexBlock, S4Block  # noqa: E402
from ccnn_geo.training.classifier import CCNNClassifier  # noqa: E402
from ccnn_geo.training.cli import ExperimentCLI, PointCloudCLI, SignalCLI  # noqa: E402
from examples_helpers import QUIET  # noqa: E402

FOLDER = Path("runs/arrays/seed0")


@pytest.fixture
def clouds(monkeypatch, tmp_path) -> Callable[..., ExperimentCLI]:
    """Makes a command line on two classes of clouds, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # Lightning's command line still calls what jsonargparse has renamed.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    content = {"classes": np.array(["ball", "disc"])}
    for split in ("train", "test"):
        pos = np.random.default_rng(0).standard_normal((8, 40, 3)).astype(np.float32)
        content |= {f"{split}_pos": pos, f"{split}_y": np.arange(8) % 2}
    np.savez("arrays.npz", **content)

    def make(*arguments: str) -> ExperimentCLI:
        data = ["--data.name=arrays", "--data.root=arrays.npz", "--data.num_points=32"]
        monkeypatch.setattr(sys, "argv", ["train", *QUIET, *data, *arguments])
        return PointCloudCLI(CCNNClassifier, PointCloudDataModule)

    return make


@pytest.fixture
def digits(monkeypatch, tmp_path) -> Callable[..., ExperimentCLI]:
    """Makes a command line on small handwritten digits, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    def make(*arguments: str) -> ExperimentCLI:
        monkeypatch.setattr(sys, "argv", ["train", *QUIET, "--data.name=digits", *arguments])
        return SignalCLI(CCNNClassifier, MNISTDataModule)

    return make


class Tokens(SignalDataModule):
    """Sequences of six tokens, single or in pairs."""

    def __init__(self, name: str = "tokens", seed: int = 0, pairs: bool = False) -> None:
        super().__init__(Path("nowhere"), batch_size=4, seed=seed, val_fraction=0.25)
        self.name = name
        self.in_pairs = pairs

    def read(self):
        x = np.random.default_rng(0).integers(5, size=(8, 1 + self.in_pairs, 6))
        tokens = Signals(x, np.arange(8) % 2, num_embeddings=5, pairs=self.in_pairs)
        return tokens, tokens, ["even", "odd"]


def options(settings: dict) -> list[str]:
    return [f"--network.{name}={value}" for name, value in settings.items()]


def stop(make: Callable[..., ExperimentCLI], capsys, *arguments: str) -> str:
    """The error of arguments that are wrong, one line below the usage."""
    with pytest.raises(SystemExit) as end:
        make(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


class TestNetwork:
    SETTINGS = {
        "hidden_channels": 6, "num_blocks": 2, "kernel_channels": 5, "omega_0": 3.0,
        "num_neighbors": 7, "window_width": 0.25, "window_cutoff": 0.2, "readout": "max",
        "dropout": 0.3, "input_dropout": 0.2, "elementwise_dropout": True, "separable": False,
        "initialization": "exact",
    }  # fmt: skip

    def test_for_clouds_gets_every_argument(self, clouds):
        cli = clouds(*options({**self.SETTINGS, "extent": [1.0, 2.0, 0.5], "block": "FlexBlock"}))
        expected = CCNN(3, 2, dim=3, **self.SETTINGS, extent=(1.0, 2.0, 0.5), block=FlexBlock)
        assert cli.model.network.config == expected.config
        changed = {*self.SETTINGS, "extent", "block"}
        default = CCNN(3, 2, dim=3).config
        assert {
            name for name, value in expected.config.items() if value != default[name]
        } == changed
        assert cli.model.num_classes == 2

    def test_for_grids_gets_every_argument(self, digits):
        settings = {**self.SETTINGS, "kernel_size": 9, "causal": True}
        cli = digits("--data.form=sequential", *options({**settings, "block": "S4Block"}))
        expected = CCNN.for_grid(1, 10, size=(64,), **settings, block=S4Block)
        assert cli.model.network.config == expected.config

    def test_for_grids_has_as_many_axes_as_the_data(self, digits):
        network = digits().model.network
        expected = CCNN.for_grid(1, 10, size=(8, 8), hidden_channels=16, kernel_channels=8)
        assert network.config == expected.config

    # Lightning itself uses what torch has deprecated.
    @pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
    @pytest.mark.parametrize("embedding", [True, False])
    @pytest.mark.parametrize("pairs", [True, False])
    def test_embeds_tokens_and_compares_pairs(self, monkeypatch, tmp_path, embedding, pairs):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        options = [f"--network.embedding={str(embedding).lower()}", f"--data.pairs={pairs}"]
        monkeypatch.setattr(sys, "argv", ["train", *QUIET, *options])
        cli = SignalCLI(CCNNClassifier, Tokens)
        network = cli.model.network
        assert network.num_embeddings == (5 if embedding else None)
        assert network.pairs == pairs
        assert network.stem.extent == (3.0,)
        assert cli.run()["test"]["loss"] > 0

    def test_is_the_published_4_16_by_default(self, clouds):
        expected = CCNN(
            3, 2, dim=3, num_blocks=4, hidden_channels=16, kernel_channels=8, omega_0=50.0,
            num_neighbors=256, window_width=0.075,
        )  # fmt: skip
        assert clouds().model.network.config == expected.config

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_blocks": 0}, "Expected `num_blocks` >= 1, got 0"),
            ({"readout": "null"}, "Expected a network with a `readout`, got one without"),
            ({"causal": True}, "`dim` = 1 for a causal convolution, got 3"),
            ({"block": "Linear"}, "Linear"),
            ({"in_channels": 3}, "--network.in_channels"),
        ],
    )
    def test_arguments_out_of_range_are_usage_errors(self, clouds, capsys, settings, message):
        assert message in stop(clouds, capsys, *options(settings))
        assert not Path("runs").exists()

    def test_arguments_have_moved_from_the_model(self, clouds, capsys):
        moved = "Expected settings of the network as `network.omega_0` instead of `model.omega_0`"
        assert moved in stop(clouds, capsys, "--model.omega_0=3")
        Path("old.yaml").write_text("model: {omega_0: 3, learning_rate: 1}")
        assert f"old.yaml: {moved}" in stop(clouds, capsys, "--config=old.yaml")


class TestConfiguration:
    @pytest.mark.parametrize("group", ["trainer", "model", "network", "data"])
    @pytest.mark.parametrize("value", ["[1]", "3", "null"])
    def test_a_group_that_is_none_is_a_usage_error(self, clouds, capsys, group, value):
        Path("bad.yaml").write_text(f"{group}: {value}")
        message = f"Expected settings by name in `{group}`, got "
        assert f"bad.yaml: {message}" in stop(clouds, capsys, "--config=bad.yaml")
        assert message in stop(clouds, capsys, "--config", f"{group}: {value}")

    def test_a_bomb_is_refused_before_it_expands(self, clouds, capsys):
        levels = ["a0: &a0 [1]"]
        levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
        Path("bomb.yaml").write_text("\n".join(levels))
        error = stop(clouds, capsys, "--config=bomb.yaml")
        assert error.startswith("error: bomb.yaml: expected YAML (Expected YAML of at most 10,000")
        assert "of at most 10,000 values" in stop(clouds, capsys, "--data=bomb.yaml")
        assert "of at most 10,000 values" in stop(clouds, capsys, "--config", "\n".join(levels))

    def test_a_file_that_is_too_long_is_refused(self, clouds, capsys):
        Path("long.yaml").write_text("#" * 100_000)
        error = stop(clouds, capsys, "--config=long.yaml")
        assert "long.yaml: expected YAML (Expected at most 65,536 bytes, got 100,000)" in error

    def test_help_warns_that_configurations_are_code(self, clouds, capsys):
        with pytest.raises(SystemExit, match="0"):
            clouds("--help")
        printed = " ".join(capsys.readouterr().out.split())
        assert "Configurations are code: a `class_path` in a file imports any module" in printed


class TestFolder:
    TINY = options(
        {"hidden_channels": 4, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 8}
    )

    def test_is_used_by_one_run_at_a_time(self, clouds, capsys):
        first = clouds(*self.TINY)
        error = stop(clouds, capsys, *self.TINY, "--data.num_workers=1")
        assert error.startswith(f"error: {FOLDER}: in use by process ")
        assert "which runs with the same settings; wait until it ends, or give" in error
        assert clouds(*self.TINY, "--model.weight_decay=0.1").folder == Path(f"{FOLDER}-2")
        assert first.folder == FOLDER

    def test_is_shared_by_the_processes_of_a_run(self, clouds, monkeypatch):
        first = clouds(*self.TINY)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        assert clouds(*self.TINY).folder == first.folder == FOLDER

    def test_cannot_be_made_inside_a_file(self, clouds, capsys):
        Path("file").touch()
        error = stop(clouds, capsys, *self.TINY, "--trainer.default_root_dir=file")
        assert "choose another folder, e.g. by `trainer.default_root_dir`: 'file/arrays" in error
