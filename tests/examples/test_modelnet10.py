"""The examples on ModelNet10: voxels to clouds and back, peers, and parameter efficiency."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from ccnn_geo import CCNN  # noqa: E402
from examples_helpers import QUIET, TINY_NETWORK  # noqa: E402

TINY = [
    *QUIET, "--data.num_points=32", "--data.points_per_mesh=128", "--trainer.max_epochs=1",
]  # fmt: skip
TINY_CCNN = [*TINY_NETWORK, "--network.num_neighbors=8"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")


@pytest.fixture
def arrays(tmp_path) -> Path:
    """Balls and discs."""
    generator = np.random.default_rng(0)
    content = {"classes": np.array(["ball", "disc"])}
    for split, clouds in (("train", 20), ("test", 6)):
        labels = np.arange(clouds) % 2
        pos = generator.standard_normal((clouds, 128, 3))
        pos[labels == 1, :, 2] = 0
        content |= {f"{split}_pos": pos.astype(np.float32), f"{split}_y": labels}
    path = tmp_path / "arrays.npz"
    np.savez(path, **content)
    return path


def clouds(*sizes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    positions = [torch.rand(size, 3, generator=generator) for size in sizes]
    return Batch.from_data_list([Data(pos=pos, x=pos, y=torch.tensor([0])) for pos in positions])


def network(**options) -> CCNN:
    torch.manual_seed(0)
    settings = {"hidden_channels": 8, "num_blocks": 2, "kernel_channels": 4, "omega_0": 1.0}
    return CCNN(3, 2, dim=3, num_neighbors=12, window_width=0.3, **settings | options).eval()


class TestClassify:
    """Compensating for the density of a cloud."""

    def test_changes_nothing_at_the_density_of_training(self, example):
        transfer = example("voxel_to_pointcloud")
        batch, model = clouds(40, 40), network()
        expected = model(batch.x, batch.pos, batch.batch)
        for way in transfer.WAYS.values():
            torch.testing.assert_close(transfer.classify(model, batch, 40, **way), expected)

    def test_makes_up_for_every_point_being_there_twice(self, example):
        transfer = example("voxel_to_pointcloud")
        batch, model = clouds(40, 40), network()
        twice = Batch.from_data_list(
            [
                Data(x=each.x.repeat(2, 1), pos=each.pos.repeat(2, 1))
                for each in batch.to_data_list()
            ]
        )
        expected = model(batch.x, batch.pos, batch.batch)
        results = {
            name: transfer.classify(model, twice, 40, **way) for name, way in transfer.WAYS.items()
        }
        torch.testing.assert_close(results["both"], expected, rtol=1e-4, atol=1e-5)
        for name in ("as_trained", "weights", "neighbors"):
            assert not torch.allclose(results[name], expected, rtol=1e-2, atol=1e-2)

    def test_every_cloud_of_a_batch_is_treated_by_its_own_density(self, example):
        transfer = example("voxel_to_pointcloud")
        batch, model = clouds(20, 60, 40), network()
        together = transfer.classify(model, batch, 40, weights=True, neighbors=True)
        alone = [
            transfer.classify(
                model, Batch.from_data_list([cloud]), 40, weights=True, neighbors=True
            )
            for cloud in batch.to_data_list()
        ]
        torch.testing.assert_close(together, torch.cat(alone))


class TestVoxelToPointcloud:
    @pytest.mark.parametrize("reverse", [False, True])
    def test_prints_and_keeps_a_table(self, example, arrays, monkeypatch, capsys, reverse):
        transfer = example("voxel_to_pointcloud")
        options = ["--data.name=arrays", f"--data.root={arrays}", "--resolution=8", *TINY]
        options += [*TINY_CCNN, "--name=run", *["--reverse"] * reverse]
        monkeypatch.setattr(sys, "argv", [transfer.__file__, *options])
        transfer.main()
        printed = capsys.readouterr().out
        trained = "clouds" if reverse else "voxels 8^3"
        assert f"trained on {trained}; test accuracy:" in printed
        report = json.loads(Path("runs/run/seed0/results.json").read_text())
        assert report["settings"]["resolution"] == 8
        assert report["settings"]["reverse"] == reverse
        names = [row["test"] for row in report["transfer"]]
        assert names == ["voxels 8^3", *["clouds"] * 3, "voxels 4^3", "voxels 16^3"]
        assert [row["points"] for row in report["transfer"]][1:4] == [32, 16, 64]
        for row in report["transfer"]:
            assert all(0 <= row[way] <= 1 for way in transfer.WAYS)
            assert row["test"] in printed
        own = report["transfer"][1 if reverse else 0]
        assert own["as_trained"] == pytest.approx(report["test"]["accuracy"])

    def test_resolution_is_checked(self, example, arrays, monkeypatch, capsys):
        transfer = example("voxel_to_pointcloud")
        options = ["--data.name=arrays", f"--data.root={arrays}", "--resolution=0"]
        monkeypatch.setattr(sys, "argv", [transfer.__file__, *options])
        with pytest.raises(SystemExit, match="2"):
            transfer.main()
        assert "Expected `voxels` >= 1" in capsys.readouterr().err


class TestPeers:
    @pytest.mark.parametrize("name", ["PointNet2", "DGCNN"])
    def test_a_batch_gives_what_its_clouds_give_alone(self, example, name):
        peer = getattr(example("peers"), name)
        torch.manual_seed(0)
        model, batch = peer(3, 2, width=4, dropout=0.5).eval(), clouds(30, 50)
        together = model(batch.x, batch.pos, batch.batch, batch_size=2)
        alone = [
            model(cloud.x, cloud.pos, torch.zeros(len(cloud.pos), dtype=torch.int64))
            for cloud in batch.to_data_list()
        ]
        torch.testing.assert_close(together, torch.cat(alone))

    @pytest.mark.parametrize("name", ["PointNet2", "DGCNN"])
    def test_every_parameter_learns(self, example, name):
        peer = getattr(example("peers"), name)
        torch.manual_seed(0)
        model, batch = peer(3, 2, width=4, dropout=0.0), clouds(30, 50)
        model(batch.x, batch.pos, batch.batch, batch_size=2).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.head.parameters())
        assert all(p.grad is not None for p in model.parameters())

    def test_they_are_as_large_as_those_of_pyg_at_their_width(self, example):
        peers = example("peers")
        sizes = {
            peer.__name__: sum(p.numel() for p in peer(3, 10, width=64, dropout=0.5).parameters())
            for peer in (peers.PointNet2, peers.DGCNN)
        }
        # PyG's PointNet++ takes no features besides the positions: three inputs less.
        assert sizes == {"PointNet2": 1_463_626 + 3 * 64, "DGCNN": 881_866}

    def test_the_farthest_points_of_a_line_are_its_ends_and_then_its_middle(self, example):
        line = torch.tensor([[[0.0], [1], [4], [5], [8]], [[2.0], [0], [7], [9], [9]]])
        there = torch.tensor([[True] * 5, [True, True, True, False, False]])
        chosen = example("peers").farthest_points(line, there, 3)
        assert chosen.tolist() == [[0, 4, 2], [0, 2, 1]]

    def test_neighbours_of_a_centre_lie_within_the_radius_and_its_cloud(self, example):
        peers, batch = example("peers"), clouds(30, 50)
        layer = peers.SetAbstraction([6, 4], ratio=0.5, radius=0.4)
        centers, (source, target) = layer.group(batch.pos, batch.batch)
        assert batch.batch[centers].bincount().tolist() == [15, 25]
        assert torch.equal(batch.batch[source], batch.batch[centers[target]])
        distance = torch.cdist(batch.pos[centers], batch.pos)
        distance[batch.batch[centers].unsqueeze(1) != batch.batch] = torch.inf
        assert len(source) == int((distance <= 0.4).sum())

    @pytest.mark.parametrize("architecture", ["pointnet2", "dgcnn"])
    def test_trains_from_the_command_line(self, example, arrays, monkeypatch, architecture):
        peers = example("peers")
        options = ["--data.name=arrays", f"--data.root={arrays}", "--name=run", *TINY]
        options += [f"--network.architecture={architecture}", "--network.width=4"]
        monkeypatch.setattr(sys, "argv", [peers.__file__, *options])
        peers.main()
        report = json.loads(Path("runs/run/seed0/results.json").read_text())
        assert 0 <= report["test"]["accuracy"] <= 1
