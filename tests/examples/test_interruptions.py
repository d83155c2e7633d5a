"""Runs that measure less than usual, or find something strange in their folder."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.training.report import RunReport  # noqa: E402
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


class Killed(Exception):
    """Stands for whatever ends a run between two epochs."""


def interrupted(run, monkeypatch, epoch: int, *arguments: str) -> None:
    """Run an example until an epoch begins."""
    start = RunReport.on_train_epoch_start

    def stop(self, trainer, module):
        if trainer.current_epoch == epoch:
            raise Killed
        start(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(RunReport, "on_train_epoch_start", stop)
        with pytest.raises(Killed):
            run(*arguments)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*many workers")
def test_a_resumed_run_ends_with_the_same_numbers_with_and_without_workers(
    run, monkeypatch, workers
):
    several = [*TINY, "--trainer.max_epochs=3", f"--data.num_workers={workers}"]
    run(*several, "--name=whole")
    interrupted(run, monkeypatch, 1, *several, "--name=resumed")
    run(*several, "--name=resumed")
    whole, resumed = (report(f"runs/{name}/seed0") for name in ("whole", "resumed"))
    assert [each["train/loss"] for each in resumed["history"]] == [
        each["train/loss"] for each in whole["history"]
    ]
    assert resumed["test"] == whole["test"]


def test_a_run_whose_folder_was_moved_remembers_its_best_epoch(run, monkeypatch):
    several = [*TINY, "--trainer.max_epochs=3"]
    interrupted(run, monkeypatch, 2, *several)
    before = torch.load(Path(FOLDER) / "last.ckpt", weights_only=True)
    score = 2.0  # better than any epoch to come
    for record in before["callbacks"].values():
        if record.get("best_model_path", "").endswith("best.ckpt"):
            record["best_model_score"] = torch.tensor(score)
            record["best_k_models"] = dict.fromkeys(record["best_k_models"], torch.tensor(score))
    torch.save(before, Path(FOLDER) / "last.ckpt")
    best = (Path(FOLDER) / "best.ckpt").read_bytes()
    Path("moved").mkdir()
    Path("runs").rename("moved/runs")
    run(*several, "--trainer.default_root_dir=moved/runs", "--name=shapes")
    folder = Path("moved") / FOLDER
    assert not (folder.with_name("seed0-2")).exists()
    assert (folder / "best.ckpt").read_bytes() == best


def test_a_missing_best_checkpoint_is_a_usage_error(run, monkeypatch, capsys):
    several = [*TINY, "--trainer.max_epochs=3"]
    interrupted(run, monkeypatch, 2, *several)
    (Path(FOLDER) / "best.ckpt").unlink()
    stopped(run, 2, *several)
    assert "best.ckpt: expected the best checkpoint so far, which" in capsys.readouterr().err


def test_another_optimizer_in_a_checkpoint_is_a_usage_error(run, monkeypatch, capsys):
    several = [*TINY, "--trainer.max_epochs=2"]
    interrupted(run, monkeypatch, 1, *several)
    checkpoint = Path(FOLDER) / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["optimizer_states"][0]["param_groups"].pop()
    torch.save(content, checkpoint)
    stopped(run, 2, *several)
    assert (
        "last.ckpt: expected the state of one optimizer with groups of" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.max_steps=5", "`trainer.max_epochs`, because runs continue after whole epochs"),
        ("--trainer.max_epochs=-1", "`trainer.max_epochs` of at least 0, got -1"),
        ("--trainer.accumulate_grad_batches=0", "`trainer.accumulate_grad_batches` of at least 1"),
        ("--trainer.check_val_every_n_epoch=0", "`trainer.check_val_every_n_epoch` of at least 1"),
        ("--trainer.limit_train_batches=0", "`trainer.limit_train_batches` above 0, got 0"),
        ("--trainer.limit_train_batches=1.5", "limit_train_batches"),
        ("--trainer.precision=16-true", "`trainer.precision` 16-mixed"),
        ("--trainer.max_time=foo", "foo"),
        ("--trainer.devices=0", "devices"),
    ],
)
def test_settings_of_the_trainer_that_cannot_work_are_usage_errors(run, capsys, option, message):
    stopped(run, 2, *TINY, option)
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_callbacks_can_be_given_by_their_class(run):
    settings = Path("stop.yaml")
    settings.write_text(
        "trainer:\n  callbacks:\n  - class_path: pytorch_lightning.callbacks.EarlyStopping\n"
        "    init_args: {monitor: val/loss, patience: 0, min_delta: 100.0}\n"
    )
    run(*TINY, f"--config={settings}", "--trainer.max_epochs=4", "--name=shapes")
    assert report(FOLDER)["epochs"] == 2


def test_an_epoch_without_validation_has_no_metrics_of_an_earlier_one(run):
    run(*TINY, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2")
    history = report(FOLDER)["history"]
    assert ["val/accuracy" in each for each in history] == [False, True, False]
