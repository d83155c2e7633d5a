"""The examples that draw figures of the paper from networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")

from torch_geometric.data import Data  # noqa: E402
from torch_geometric.loader import DataLoader  # noqa: E402

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.training.classifier import CCNNClassifier  # noqa: E402
from training_helpers import trainer  # noqa: E402

# Lightning itself uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


def test_initial_outputs_are_of_unit_size_with_the_exact_scale_only(
    run_example, example, monkeypatch
):
    module = example("initialization")
    small = {"num_blocks": 1, "hidden_channels": 24, "kernel_channels": 8}
    case = module.grid("scifar10_4_140", (128,), 3, **small)
    monkeypatch.setattr(module, "CASES", {"sequence": case, "again": case})
    printed = run_example("initialization", "--output", "new/figure.png", "--seeds", "0", "1")
    content = json.loads(Path("new/figure.json").read_text())
    std = content["std"]["sequence"]
    assert content["seeds"] == [0, 1]
    assert 0.5 < std["exact"] < 2 and std["none"] > 3 * std["exact"]
    assert std == content["std"]["again"]
    assert f"{std['paper']:.3g}" in printed
    assert Path("new/figure.png").stat().st_size > 1000


def test_cloud_is_that_of_the_published_network(example):
    module = example("initialization")
    model, (x, pos) = module.cloud(num_blocks=1, hidden_channels=8, readout=None)
    assert (model.num_neighbors, model.dim) == (256, 3)
    assert model.stem.kernel.omega_0 == 500
    assert x.shape == (512, 6) and torch.allclose(pos.norm(dim=1), torch.ones(512))


def test_power_of_a_periodic_kernel_lies_at_its_period(example):
    module = example("kernel_spectrum")
    steps = np.arange(512)
    wave = np.sin(2 * np.pi * steps / 32)[None] + 0.5 * np.cos(2 * np.pi * steps / 16)[None]
    assert module.periodic_share(wave, 32) > 0.99
    assert module.periodic_share(np.sin(2 * np.pi * steps / 20.3)[None], 32) < 0.05
    noise = np.random.default_rng(0).standard_normal((200, 512))
    assert module.periodic_share(noise, 32) == pytest.approx(module.flat_share(512, 32), rel=0.05)
    assert module.periodic_share(np.zeros((2, 64)), 32) == 0


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a network after a step of training."""

    def save(size: tuple[int, ...]) -> Path:
        network = CCNN.for_grid(1, 2, size=size, hidden_channels=4, num_blocks=1, kernel_channels=4)
        data = [Data(x=torch.randn(1, 1, *size), y=torch.tensor([i % 2])) for i in range(4)]
        fit = trainer(max_steps=1)
        fit.fit(CCNNClassifier(network, warmup_epochs=0), DataLoader(data, batch_size=2))
        path = tmp_path / "run" / "best.ckpt"
        fit.save_checkpoint(path)
        return path

    return save


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`")
class TestKernelSpectrum:
    def test_is_drawn_for_every_layer_of_a_run(self, run_example, checkpoint):
        checkpoint((64,))
        printed = run_example("kernel_spectrum", "run", "--period", "8", "--output", "k.png")
        content = json.loads(Path("k.json").read_text())
        assert content["period"] == 8 and len(content["shares"]) == 2
        assert 0 < content["flat"] < 1
        assert printed.splitlines()[-1] == "The picture is k.png"
        assert Path("k.png").stat().st_size > 1000

    def test_of_images_is_refused(self, run_example, checkpoint):
        path = checkpoint((8, 8))
        with pytest.raises(SystemExit, match="best.ckpt: expected a network for sequences"):
            run_example("kernel_spectrum", str(path))


def test_missing_runs_are_named(run_example):
    with pytest.raises(SystemExit, match="No such file or directory: 'nowhere'"):
        run_example("kernel_spectrum", "nowhere")
    with pytest.raises(SystemExit, match="folders of studies that .* has finished"):
        run_example("parameter_efficiency", "nowhere")
