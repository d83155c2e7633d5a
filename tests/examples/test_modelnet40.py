"""The examples as a user runs them, on small settings."""

import signal
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.datasets import PointCloudDataModule  # noqa: E402
from examples_helpers import (  # noqa: E402
    CONFIGS,
    EXAMPLES,
    QUIET,
    TINY_NETWORK,
    report,
    stopped,
)

EXAMPLE = EXAMPLES / "modelnet40.py"
TINY = [
    *TINY_NETWORK, *QUIET, "--network.num_neighbors=8", "--data.num_points=32",
    "--data.points_per_mesh=64",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def run(run_example):
    """Runs the example in a folder of its own and returns what it printed."""
    return partial(run_example, "modelnet40")


@pytest.fixture
def arrays(tmp_path) -> Path:
    """A data set of three classes: balls, discs and lines."""
    generator = np.random.default_rng(0)
    content = {"classes": np.array(["ball", "disc", "line"])}
    for split, clouds in (("train", 18), ("test", 6)):
        labels = np.arange(clouds) % 3
        flat = np.stack([np.ones(clouds), labels < 1, labels < 2], axis=-1)
        pos = generator.standard_normal((clouds, 48, 3)) * flat[:, None]
        content |= {f"{split}_pos": pos.astype(np.float32), f"{split}_y": labels}
    path = tmp_path / "arrays.npz"
    np.savez(path, **content)
    return path


def numbers(folder: str) -> dict[str, Any]:
    """Everything in a report that must not depend on when and how often a run was started."""
    content = report(folder)
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in content["history"]]
    return {"history": history, **{key: content[key] for key in ("epochs", "val", "test")}}


class TestRun:
    def test_reports_what_it_did(self, run, arrays):
        printed = run("--data.name=arrays", f"--data.root={arrays}", "--seed_everything=3",
                      "--trainer.max_epochs=2", *TINY)  # fmt: skip
        folder = Path("runs/arrays/seed3")
        content = report(folder)
        assert content["name"] == content["data_set"] == "arrays"
        assert content["split_sizes"] == {"train": 15, "val": 3, "test": 6}
        assert content["seed"] == 3
        assert content["epochs"] == len(content["history"]) == 2
        model = CCNN(3, 3, dim=3, hidden_channels=8, num_blocks=1, kernel_channels=4)
        assert content["parameters"] == sum(p.numel() for p in model.parameters())
        for split in ("val", "test"):
            assert set(content[split]) == {"accuracy", "class_accuracy", "loss"}
            assert 0 <= content[split]["class_accuracy"] <= 1
        assert content["seconds_per_epoch"] > 0
        assert content["versions"]["torch"] == version("torch")
        assert content["settings"]["network.hidden_channels"] == 8
        assert content["settings"]["data.num_points"] == 32
        names = {path.name for path in folder.iterdir()}
        files = {".lock", "best.ckpt", "last.ckpt", "config.yaml", "results.json", "log"}
        assert names == files | {"confusion.png", "learning_curves.png"}
        last_line = printed.strip().splitlines()[-1]
        assert f"{content['test']['accuracy']:.1%} of the test clouds right" in last_line
        assert last_line.endswith("--seed_everything 4")

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak memory")
    def test_reports_its_peak_memory(self, run, arrays):
        run("--data.name=arrays", f"--data.root={arrays}", "--trainer.max_epochs=1", *TINY)
        assert report("runs/arrays/seed0")["peak_memory_mib"]["cpu"] > 50

    def test_tests_the_best_epoch_once_at_the_end(self, run, arrays, monkeypatch):
        asked = []
        for split in ("train", "val", "test"):
            method = getattr(PointCloudDataModule, f"{split}_dataloader")

            def ask(self, split=split, method=method):
                asked.append(split)
                return method(self)

            monkeypatch.setattr(PointCloudDataModule, f"{split}_dataloader", ask)
        run("--data.name=arrays", f"--data.root={arrays}", "--trainer.max_epochs=4", *TINY)
        assert asked[-1] == "test"
        assert asked.count("test") == 1
        content = report("runs/arrays/seed0")
        accuracies = [epoch["val/accuracy"] for epoch in content["history"]]
        assert content["val"]["accuracy"] == max(accuracies)
        checkpoint = torch.load("runs/arrays/seed0/best.ckpt", weights_only=True)
        assert checkpoint["epoch"] == accuracies.index(max(accuracies))

    def test_never_overwrites_a_finished_run_or_one_with_other_settings(self, run, arrays):
        options = ["--data.name=arrays", f"--data.root={arrays}", "--name=mine", *TINY]
        run(*options, "--trainer.max_epochs=1")
        first = (Path("runs/mine/seed0/results.json")).read_text()
        run(*options, "--trainer.max_epochs=1")
        assert numbers("runs/mine/seed0-2") == numbers("runs/mine/seed0")
        Path("runs/mine/seed0-2/results.json").unlink()
        run(*options, "--trainer.max_epochs=1", "--network.dropout=0.5")
        assert report("runs/mine/seed0-3")["settings"]["network.dropout"] == 0.5
        assert (Path("runs/mine/seed0/results.json")).read_text() == first

    def test_trains_and_tests_without_validation(self, run, arrays):
        run("--data.name=arrays", f"--data.root={arrays}", "--data.val_fraction=0",
            "--trainer.max_epochs=1", *TINY)  # fmt: skip
        content = report("runs/arrays/seed0")
        assert content["val"] is None
        assert content["split_sizes"]["val"] == 0
        assert content["test"]["accuracy"] >= 0


KILLED = """
import os, runpy, signal, sys
from ccnn_geo.training.classifier import CCNNClassifier
step = CCNNClassifier.training_step
def killed(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (2, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
CCNNClassifier.training_step = killed
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the platform has no SIGKILL")
def test_a_killed_run_resumes_to_the_same_numbers(run, arrays, tmp_path):
    options = [
        "--data.name=arrays", f"--data.root={arrays}", "--data.batch_size=4",
        "--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=2", "--network.dropout=0.2",
        "--model.kernel_l2=1e-4", "--data.random_jitter=true", *TINY,
    ]  # fmt: skip
    run(*options, "--name=whole")
    options.append("--name=killed")
    command = [sys.executable, "-c", KILLED, str(EXAMPLE), *options]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = Path("runs/killed/seed0")
    assert torch.load(killed / "last.ckpt", weights_only=True)["epoch"] == 1
    assert not (killed / "results.json").exists()
    run(*options)
    assert [path.name for path in killed.parent.iterdir()] == ["seed0"]
    assert len(report(killed)["history"]) == 4
    assert numbers(killed) == numbers("runs/whole/seed0")
    weights = [
        torch.load(Path("runs", name, "seed0/last.ckpt"), weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch.distributed is missing")
def test_two_processes_share_the_folder_of_a_run(arrays, tmp_path):
    options = [
        "--data.name=arrays", f"--data.root={arrays}", "--data.batch_size=4",
        "--trainer.max_epochs=1", "--trainer.devices=2", "--trainer.strategy=ddp",
        "--trainer.accelerator=cpu", *TINY,
    ]  # fmt: skip
    command = [sys.executable, str(EXAMPLE), *options]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert [path.name for path in (tmp_path / "runs" / "arrays").iterdir()] == ["seed0"]
    assert np.sum(report(tmp_path / "runs" / "arrays" / "seed0")["confusion"]) == 6


def test_demo_is_the_published_4_16(run, capsys):
    stopped(run, 0, f"--config={CONFIGS / 'demo.yaml'}", "--print_config")
    network = yaml.safe_load(capsys.readouterr().out)["network"]
    block = CCNN.argument_classes[network.pop("block")]
    model = CCNN(6, 40, dim=3, block=block, **network)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_545


def test_demo_runs_and_says_what_to_type_next(run):
    printed = run(f"--config={CONFIGS / 'demo.yaml'}", "--trainer.max_epochs=1",
                  "--trainer.limit_train_batches=2", *TINY)  # fmt: skip
    content = report("runs/demo/seed0")
    assert content["data_set"] == "shapes"
    last_line = printed.strip().splitlines()[-1]
    assert last_line.endswith("modelnet40.py --data.name modelnet10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.name=modelnet50"], "data.name"),
        (["--data.name=folder", "--data.root=nowhere"], "got nowhere"),
        (["--data.name=arrays"], "Expected `root`"),
        (["--trainer.max_epochs=many"], "trainer.max_epochs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["fit"], "unrecognized arguments: fit"),
    ],
)
def test_bad_arguments_are_usage_errors(run, capsys, arguments, message):
    stopped(run, 2, *arguments)
    assert message in capsys.readouterr().err


def test_help_names_the_settings(run, capsys):
    stopped(run, 0, "--help")
    printed = capsys.readouterr().out
    for name in ("--network.hidden_channels", "--data.root", "--trainer.max_epochs", "--name"):
        assert name in printed


def test_learns_from_real_meshes(run, shared_data, tmp_path):
    for mesh in (shared_data / "meshes").glob("*.off"):
        name = mesh.stem.rpartition("_")[0]
        split = "test" if mesh.stem == "bathtub_0004" else "train"
        target = tmp_path / "meshes" / name / split / mesh.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(mesh.read_bytes())
    run("--data.name=modelnet10", "--data.root=meshes", "--trainer.max_epochs=1", *TINY)
    content = report("runs/modelnet10/seed0")
    assert sum(content["split_sizes"].values()) == 6
    assert content["split_sizes"]["test"] == 1


def test_learns_from_real_arrays(run, shared_data, tmp_path):
    generator = np.random.default_rng(0)
    with np.load(shared_data / "modelnet10_1024.npz", allow_pickle=False) as file:
        content = {"classes": file["classes"]}
        for split, count in (("train", 200), ("test", 40)):
            labels = file[f"{split}_y"]
            chosen = generator.permutation(len(labels))[:count]
            content |= {f"{split}_pos": file[f"{split}_pos"][chosen], f"{split}_y": labels[chosen]}
    np.savez(tmp_path / "modelnet10.npz", **content)
    run("--data.name=arrays", "--data.root=modelnet10.npz", "--trainer.max_epochs=2", *TINY)
    content = report("runs/arrays/seed0")
    assert sum(content["split_sizes"].values()) == 240
    losses = [epoch["train/loss"] for epoch in content["history"]]
    assert losses[1] < losses[0]
