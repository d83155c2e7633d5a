"""The example on the Long Range Arena: every kind of task, its settings, and the configurations."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.datasets import LRADataModule  # noqa: E402
from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, report, stopped  # noqa: E402
from lra_helpers import put_pairs, put_reviews  # noqa: E402

TINY = [*TINY_NETWORK, *QUIET, "--trainer.max_epochs=1"]
# Input tokens, size and classes of the data of the small configurations.
SMALL = {
    "listops": (16, (512,), 10),
    "text": (None, (1024,), 2),
    "pathfinder": (None, (1024,), 2),
    "pathfinder_2d": (None, (32, 32), 2),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "lra")


@pytest.fixture
def settings(run, capsys):
    """Returns all settings, as the command line sees them."""

    def settings(*arguments: str) -> dict:
        stopped(run, 0, *arguments, "--print_config")
        return yaml.safe_load(capsys.readouterr().out)

    return settings


def test_generated_expressions_need_no_file(run):
    printed = run("--task=listops", "--data.generate=true", "--data.num_samples=80", *TINY)
    content = report("runs/listops/seed0")
    assert content["data_set"] == "listops"
    assert content["split_sizes"] == {"train": 80, "val": 10, "test": 10}
    assert (content["tokens"][0], content["tokens"][-1]) == ("<pad>", "]")
    assert np.sum(content["confusion"]) == 10
    most = max(map(sum, content["confusion"]))
    last_line = printed.strip().splitlines()[-1]
    assert f"{content['parameters']:,} parameters" in last_line
    assert last_line.endswith(f"where the most frequent class gets {most}0.00 %")


@pytest.mark.parametrize("task", ["pathfinder", "pathfinder_2d", "pathx"])
def test_generated_paths_need_no_file(run, task):
    run(f"--task={task}", "--data.generate=true", "--data.num_samples=24", "--data.batch_size=8",
        "--trainer.limit_train_batches=1", *TINY)  # fmt: skip
    content = report(f"runs/{task}/seed0")
    assert content["split_sizes"] == {"train": 24, "val": 3, "test": 3}
    assert content["classes"] == ["separate", "joined"]
    assert content["tokens"] is None


@pytest.mark.parametrize("embedding", ["true", "false"])
@pytest.mark.parametrize(("task", "put"), [("text", put_reviews), ("retrieval", put_pairs)])
def test_tokens_are_embedded_or_one_channel(run, task, put, embedding):
    put(Path("files"))
    run(f"--task={task}", "--data.root=files", f"--network.embedding={embedding}",
        "--data.sequence_length=64", *TINY)  # fmt: skip
    content = report(f"runs/{task}/seed0")
    tokens = len(content["tokens"])
    # Beside an embedding of 8 channels, the stem has 8 input channels instead of one.
    channels, embedded = (8, 8 * tokens) if embedding == "true" else (1, 0)
    network = CCNN.for_grid(
        1, 2, size=64, hidden_channels=8, num_blocks=1, kernel_channels=4,
        num_embeddings=tokens if embedded else None, pairs=task == "retrieval",
    )  # fmt: skip
    assert content["parameters"] == sum(each.numel() for each in network.parameters())
    assert network.stem.in_channels == channels
    assert 0 <= content["test"]["accuracy"] <= 1


def test_learns_from_real_expressions_and_reviews(run, shared_data):
    for name, file, sizes in (
        ("listops", "listops_d20s", {"train": 200, "val": 701, "test": 2249}),
        ("text", "imdb", {"train": 200, "val": 400, "test": 1500}),
    ):
        run(f"--config={CONFIGS / f'{name}_small.yaml'}", "--data.train_size=200",
            f"--data.root={shared_data / f'{file}.npz'}", "--trainer.limit_test_batches=2",
            "--trainer.limit_val_batches=2", "--trainer.limit_train_batches=2", *TINY)  # fmt: skip
        content = report(f"runs/{name}_small/seed0")
        assert content["data_set"] == name
        assert content["split_sizes"] == sizes


class TestSettings:
    def test_depend_on_the_task(self, settings):
        for task in ("listops", "pathx", "image_2d", "retrieval"):
            content = settings(f"--task={task}")
            assert content["task"] == content["data"]["name"] == task
            assert content["network"]["hidden_channels"] == 32
        expressions = settings("--task", "listops")["data"]
        assert (expressions["max_length"], expressions["num_samples"]) == (100, 10_000)
        assert settings("--task=pathfinder_2d")["data"]["contour_length"] == 6
        assert settings("--task=text")["data"]["sequence_length"] == 1024

    def test_given_ones_come_first(self, settings):
        content = settings("--task=listops", "--data.max_length=50", "--network.num_blocks=5")
        assert (content["data"]["max_length"], content["network"]["num_blocks"]) == (50, 5)
        path = Path("mine.yaml")
        path.write_text("data: {name: text, sequence_length: 99}\nnetwork: {num_blocks: 3}\n")
        content = settings("--task=text", f"--config={path}")
        assert (content["data"]["sequence_length"], content["network"]["num_blocks"]) == (99, 3)

    def test_of_configurations_are_those_of_no_task(self, settings):
        path = Path("mine.yaml")
        path.write_text("data: {name: listops}\n")
        data = settings(f"--config={path}")["data"]
        defaults = LRADataModule("listops")
        assert (data["min_length"], data["max_length"]) == (500, 2000)
        assert data["num_samples"] is None
        assert (data["padding"], data["batch_size"]) == (defaults.padding, defaults.batch_size)

    @pytest.mark.parametrize("task", SMALL)
    def test_small_ones_are_small_and_say_how_small(self, settings, shared_data, task):
        name = f"{task}_small"
        content = settings(f"--config={CONFIGS / name}.yaml")
        assert content["data"]["name"] == task
        tokens, size, classes = SMALL[task]
        if task == "text":
            data = LRADataModule("text", shared_data / "imdb.npz")
            data.setup()
            tokens = data.num_embeddings
        arguments = {**content["network"], "num_embeddings": tokens}
        del arguments["embedding"]
        block = CCNN.argument_classes[arguments.pop("block")]
        model = CCNN.for_grid(1, classes, size=size, block=block, **arguments)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert parameters <= 50_000
        assert f"{parameters:,} parameters" in (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task=listop"], "task"),
        (["--task=text", "--data.name=listops"], "`data.name` to be the task, text, got listops"),
        (["--task=text", "--data.generate=true"], "Expected `generate` for listops, pathfinder"),
        (["--task=pathx"], "lra_release.gz"),
        (["--task=listops", "--data.root=nowhere"], "in "),
        (["--task=listops", "--data.padding=right"], "data.padding"),
        (
            ["--task=listops", "--data.generate=true", "--data.min_length=101"],
            "`min_length` <= `max_length`, got 101 and 100",
        ),
        (["--task=image", f"--data.root={__file__}", "--data.download=false"], "test_lra.py"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments, *TINY)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--task", "--data.generate", "--data.padding", "--network.embedding"):
        assert name in printed
