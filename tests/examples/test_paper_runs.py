"""Every published experiment runs: a batch of training, validation and test at published sizes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from examples_helpers import PAPER, QUIET, paper_script  # noqa: E402

REAL = {
    "speech_mfcc": "speech_commands.npz", "speech_raw": "speech_commands.npz",
    "text": "imdb.npz", "stl10": "stl10_246.npz",
}  # fmt: skip
GENERATED = ("listops", "pathfinder", "pathx", "pathfinder_2d")

pytestmark = [
    pytest.mark.slow,
    # Lightning itself uses what torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


def images(path: Path, size: tuple[int, ...], classes: int) -> Path:
    """An .npz file of random images of every class."""
    generator = np.random.default_rng(0)
    y = np.arange(2 * classes) % classes
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_x"] = generator.integers(256, size=(len(y), *size), dtype=np.uint8)
        arrays[f"{split}_y"] = y
    np.savez(path, **arrays)
    return path


def pairs(folder: Path) -> Path:
    """Tables of pairs of texts in the official form."""
    folder.mkdir()
    line = "{}\ta\tb\t" + "neural networks " * 150 + "\t" + "long range arenas " * 200 + "\n"
    text = "".join(line.format(number % 2) for number in range(8))
    for split in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{split}.tsv").write_text(text)
    return folder


@pytest.fixture
def data(tmp_path, request):
    """Returns the options of data for an experiment."""

    def options(stem: str) -> list[str]:
        if stem == "modelnet40":
            return ["--data.name=shapes", "--data.points_per_mesh=512", "--data.train_size=40"]
        if stem in GENERATED:
            return ["--data.generate=true", "--data.num_samples=16", "--data.root=generated"]
        if stem in REAL:
            root = request.getfixturevalue("shared_data") / REAL[stem]
        elif stem == "retrieval":
            root = pairs(tmp_path / "tables")
        elif stem in ("smnist", "pmnist"):
            root = images(tmp_path / "mnist.npz", (28, 28), 10)
        else:
            classes = 100 if stem == "cifar100" else 10
            root = images(tmp_path / "cifar.npz", (32, 32, 3), classes)
        return [f"--data.root={root}"]

    return options


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_experiment_runs(run_example, data, path):
    stem = path.stem.rsplit("_", 2)[0]
    printed = run_example(
        paper_script(path), *QUIET, f"--config={path}", *data(stem), "--data.batch_size=2",
        "--trainer.fast_dev_run=true", "--trainer.accumulate_grad_batches=1",
    )  # fmt: skip
    assert "parameters" in printed
