"""The examples that label points, predict numbers, and test other densities."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
pytest.importorskip("trimesh", reason="the extra `train` is missing")

from ccnn_geo.commands import main as command  # noqa: E402
from examples_helpers import CONFIGS, QUIET, TINY_NETWORK, report, stopped  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*many workers"),
    pytest.mark.filterwarnings("ignore:.*in your `(val|test)_dataloader`"),
]
TINY = [*TINY_NETWORK, *QUIET, "--network.num_neighbors=8", "--trainer.max_epochs=1"]
PARTS = [*TINY, "--data.train_size=24", "--data.num_points=64", "--data.points_per_mesh=128"]
SCENES = [
    "--task=scenes", *TINY, "--data.train_scenes=2", "--data.test_scenes=1", "--data.num_tiles=8",
    "--data.num_points=128", "--data.voxel_size=2",
]  # fmt: skip


@pytest.fixture
def run(run_example):
    return partial(run_example, "segmentation")


def test_trains_on_parts_and_its_weights_can_be_exported_and_used(run, capsys):
    printed = run(*PARTS)
    content = report("runs/shape_parts/seed0")
    assert content["monitor"] == "mean_iou"
    assert {"accuracy", "mean_iou", "instance_iou", "category_iou"} <= content["test"].keys()
    assert np.sum(content["confusion"]) == 144 * 64
    assert "instance IoU" in printed.splitlines()[-1]
    assert command(["export", "runs/shape_parts/seed0", "weights", "--license", "MIT"]) == 0
    np.savetxt("cloud.xyz", np.random.default_rng(0).normal(size=(90, 3)))
    assert (
        command(["segment", "cloud.xyz", "--weights", "weights", "--output", "labelled.ply"]) == 0
    )
    assert Path("labelled.ply").is_file()
    assert "90 points" in capsys.readouterr().out


def test_the_category_may_be_an_input_but_then_weights_are_not_exported(run, capsys):
    run(*PARTS, "--data.category_input=true")
    assert command(["export", "runs/shape_parts/seed0", "weights", "--license", "MIT"]) == 1
    assert "without the category of the object as an input" in capsys.readouterr().err


def test_trains_on_scenes_and_labels_every_point_of_the_test_scans(run, capsys):
    printed = run(*SCENES)
    content = report("runs/landscapes/seed0")
    (row,) = content["scenes"]
    assert row["scene"] == "landscape_test_000" and row["points"] > 5000
    assert len(row["iou"]) == 3 and 0 <= row["accuracy"] <= 1
    assert "IoU of ground" in printed
    assert command(["export", "runs/landscapes/seed0", "weights", "--license", "MIT"]) == 0
    np.savetxt("scan.xyz", np.random.default_rng(0).uniform(0, 30, size=(200, 3)))
    assert command(["segment", "scan.xyz", "--weights", "weights"]) == 0
    assert "%  ground" in capsys.readouterr().out


def test_balanced_weights_follow_from_the_training_points(run, example):
    run(*SCENES, "--model.class_weights=balanced", "--trainer.fast_dev_run=true")
    stopped(run, 2, *SCENES, "--model.class_weights=[1, 2]")


def test_scans_of_ones_own(run):
    for split in ("train", "test"):
        for number in range(2):
            folder = Path("scans") / split
            folder.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([number, len(split)])
            points = generator.uniform(0, 20, size=(400, 3))
            labels = (points[:, 2] > 10).astype(int)
            intensity = generator.random(400)
            np.savez(folder / f"{number}.npz", pos=points, label=labels, intensity=intensity)
    Path("scans/classes.txt").write_text("low\nhigh\n")
    run(
        *[each for each in SCENES if "scenes=" not in each or each.startswith("--task")],
        "--data.name=folder", "--data.root=scans", "--data.features=[intensity]",
    )  # fmt: skip
    content = report("runs/folder/seed0")
    assert content["classes"] == ["low", "high"]
    assert [row["scene"] for row in content["scenes"]] == ["0.npz", "1.npz"]


def test_tests_clouds_of_any_density(run_example):
    printed = run_example(
        "densities", f"--config={CONFIGS / 'modelnet10_any_density.yaml'}", *TINY,
        "--data.name=shapes", "--data.train_size=28", "--data.num_points=64",
        "--data.points_per_mesh=128", "--test_points=[64, 16]", "--data.val_fraction=0",
        "--network.radius=0.5",
    )  # fmt: skip
    rows = report("runs/modelnet10_any_density/seed0")["densities"]
    assert [row["points"] for row in rows] == [64, 16]
    assert all(0 <= row[kind] <= 1 for row in rows for kind in ("even", "uneven"))
    assert "one side a quarter as dense" in printed


def test_predicts_numbers_at_points(run_example):
    for split in ("train", "test"):
        Path("surfaces", split).mkdir(parents=True)
        pos = np.random.default_rng(len(split)).normal(size=(60, 3))
        np.savez(f"surfaces/{split}/a.npz", pos=pos, pressure=pos[:, 0])
    printed = run_example(
        "regression", *TINY, "--data.root=surfaces", "--data.target=[pressure]",
        "--data.num_tiles=4", "--data.batch_size=2",
    )  # fmt: skip
    content = report("runs/folder/seed0")
    assert content["monitor"] == "rmse" and content["confusion"] is None
    assert {"mae", "rmse", "r2", "loss"} <= content["test"].keys()
    assert "mean absolute error" in printed


@pytest.mark.parametrize("train_on", ["images", "both"])
def test_trains_on_two_forms_of_the_same_digits(run_example, train_on):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("test", 10)):
        arrays[f"{split}_x"] = generator.integers(0, 256, size=(count, 28, 28)).astype(np.uint8)
        arrays[f"{split}_y"] = np.arange(count) % 10
    np.savez("digits.npz", **arrays)
    printed = run_example(
        "cross_modal", *TINY, "--data.root=digits.npz", f"--data.train_on={train_on}",
        "--data.batch_size=8",
    )  # fmt: skip
    content = report("runs/mnist/seed0")
    assert content["split_sizes"]["test"] == (20 if train_on == "both" else 10)
    assert content["forms"].keys() == content["adapted"].keys() == {"images", "clouds"}
    lines = printed.splitlines()[-2:]
    assert lines[0].startswith(f"Trained on {train_on}, right as trained: ")
    assert lines[1].startswith(f"Trained on {train_on}, right with statistics of its own: ")


def test_a_form_that_the_data_do_not_have_is_a_usage_error(run_example, capsys):
    run = partial(run_example, "cross_modal")
    stopped(run, 2, *TINY, "--data.train_on=voxels")
    assert "`train_on` to be one of ('images', 'clouds', 'both')" in capsys.readouterr().err
