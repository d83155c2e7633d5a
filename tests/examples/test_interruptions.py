"""Runs that measure less than usual, or find something strange in their folder."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from examples_helpers import QUIET, TINY_NETWORK, report, stopped  # noqa: E402
from training_helpers import Command  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*in your `(val|test)_dataloader`"),
    pytest.mark.filterwarnings("ignore:Total length of `DataLoader`"),
]

TINY = [
    *TINY_NETWORK, *QUIET, "--network.num_neighbors=8", "--data.name=shapes",
    "--data.num_points=32", "--data.points_per_mesh=64", "--data.train_size=24",
    "--trainer.max_epochs=1",
]  # fmt: skip
FOLDER = "runs/shapes/seed0"


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "modelnet40")


@pytest.mark.parametrize(
    ("option", "measured"),
    [
        ("--trainer.limit_val_batches=0", {"val": False, "test": True}),
        ("--trainer.limit_test_batches=0", {"val": True, "test": False}),
        ("--trainer.enable_checkpointing=false", {"val": True, "test": True}),
        ("--trainer.precision=64-true", {"val": True, "test": True}),
    ],
)
def test_what_is_not_measured_is_none_in_the_report(run, option, measured):
    run(*TINY, option)
    content = report(FOLDER)
    assert {split: content[split] is not None for split in ("val", "test")} == measured
    assert (content["confusion"] is not None) == measured["test"]


def test_a_trial_run_of_one_batch_ends_well_and_leaves_no_folder(run):
    run(*TINY, "--trainer.fast_dev_run=true")
    assert not Path("runs").exists()


def start_again(run, checkpoint, name="last.ckpt"):
    """Let an unfinished run find a checkpoint that stops it."""
    run(*TINY)
    (Path(FOLDER) / "results.json").unlink()
    checkpoint(Path(FOLDER) / name)
    stopped(run, 2, *TINY)


def test_an_empty_checkpoint_is_a_usage_error(run, capsys):
    start_again(run, lambda path: path.write_bytes(b""))
    assert "last.ckpt: expected a complete checkpoint" in capsys.readouterr().err


def test_a_foreign_checkpoint_is_a_usage_error(run, capsys):
    start_again(run, lambda path: torch.save({"state_dict": {}}, path))
    assert "last.ckpt: expected a description of the network" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_the_best_epoch_is_found_before_training(run, capsys):
    start_again(run, lambda path: path.write_bytes(b"cut short"), "best.ckpt")
    captured = capsys.readouterr()
    assert "best.ckpt: expected a complete checkpoint" in captured.err
    assert "epoch" not in captured.out


def test_a_command_in_a_checkpoint_is_not_executed_on_resume(run, capsys, tmp_path):
    made = tmp_path / "executed"
    start_again(run, lambda path: path.write_bytes(pickle.dumps(Command(made))))
    assert "expected a complete checkpoint" in capsys.readouterr().err
    assert not made.exists()


@pytest.mark.parametrize("content", ["", "[1", "- 1\n", "a: [1"])
def test_damaged_settings_of_an_earlier_run_get_the_next_folder(run, content):
    folder = Path(FOLDER)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(content)
    run(*TINY)
    assert (folder / "config.yaml").read_text() == content
    assert report(f"{FOLDER}-2")["epochs"] == 1


@pytest.mark.parametrize("name", ["..", "../x", "/abs", "a/b"])
def test_a_name_that_leaves_the_folder_of_runs_is_a_usage_error(run, capsys, name):
    stopped(run, 2, *TINY, f"--name={name}")
    assert "`name` to be a name without separators" in capsys.readouterr().err
    assert not Path("runs").exists()
