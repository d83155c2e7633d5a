"""Train a small PointNet++ or DGCNN like a CCNN: same data, same schedule, same report.

    python examples/peers.py --config examples/configs/modelnet10_dgcnn.yaml
    python examples/peers.py --network.architecture pointnet2 --data.name modelnet10

The architectures follow PyG's examples `pointnet2_classification.py` and `dgcnn_classification.py`,
which are as wide as `--network.width 64`.
"""

from typing import Any, Literal

import torch
from pytorch_lightning.cli import LightningArgumentParser
from torch import Tensor, nn
from torch_geometric.nn import MLP, EdgeConv, PointNetConv, global_max_pool
from torch_geometric.utils import to_dense_batch

from ccnn_geo import knn_graph
from ccnn_geo.datasets import PointCloudDataModule
from ccnn_geo.training.classifier import CCNNClassifier
from ccnn_geo.training.cli import PointCloudCLI


class PointNet2(nn.Module):
    """PointNet++ (Qi et al. 2017): two steps of sampling and grouping, then a global pooling.

    Args:
        in_channels: Size of each point's features.
        num_classes: Number of classes.
        width: Channels of the first layer.
        dropout: Probability of dropping a channel before the last layers.
    """

    def __init__(self, in_channels: int, num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        first, second, third = 2 * width, 4 * width, 16 * width
        self.first = SetAbstraction([in_channels + 3, width, width, first], ratio=0.5, radius=0.2)
        self.second = SetAbstraction([first + 3, first, first, second], ratio=0.25, radius=0.4)
        self.whole = MLP([second + 3, second, 8 * width, third])
        self.head = MLP([third, 8 * width, 4 * width, num_classes], dropout=dropout, norm=None)

    def forward(
        self, x: Tensor, pos: Tensor, batch: Tensor, *, batch_size: int | None = None
    ) -> Tensor:
        x, pos, batch = self.first(x, pos, batch)
        x, pos, batch = self.second(x, pos, batch)
        return self.head(global_max_pool(self.whole(torch.cat([x, pos], 1)), batch, batch_size))


class SetAbstraction(nn.Module):
    """A PointNet on the neighbourhoods of a subset of the points."""

    max_neighbors = 64

    def __init__(self, channels: list[int], *, ratio: float, radius: float) -> None:
        super().__init__()
        self.conv = PointNetConv(MLP(channels), add_self_loops=False)
        self.ratio = ratio
        self.radius = radius

    def forward(self, x: Tensor, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centers, edge_index = self.group(pos, batch)
        x = self.conv((x, None), (pos, pos[centers]), edge_index)
        return x, pos[centers], batch[centers]

    def group(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centres, `[T]`, and edges to them from points within the radius, `[2, E]`."""
        clouds, there = to_dense_batch(pos, batch)
        sizes = there.sum(1)
        counts = (self.ratio * sizes).ceil().long()
        chosen = farthest_points(clouds, there, int(counts.max()))
        kept = torch.arange(chosen.size(1), device=pos.device) < counts[:, None]
        around = clouds.gather(1, chosen[:, :, None].expand(-1, -1, pos.size(1)))
        distance = torch.cdist(around, clouds).masked_fill(~there[:, None], torch.inf)
        nearest = distance.topk(min(self.max_neighbors, clouds.size(1)), largest=False)
        starts = (sizes.cumsum(0) - sizes)[:, None]
        centers = (chosen + starts)[kept]
        sources = (nearest.indices + starts[:, None])[kept]
        inside = nearest.values[kept] <= self.radius
        target = torch.arange(len(centers), device=pos.device)[:, None].expand_as(sources)
        return centers, torch.stack([sources[inside], target[inside]])


def farthest_points(clouds: Tensor, there: Tensor, count: int) -> Tensor:
    """Return the indices of farthest point sampling, `[B, count]`.

    Every point is the farthest from all previous ones, beginning with the first of a cloud.

    Args:
        clouds: Positions, padded to one size, `[B, N, D]`.
        there: True for points, False for padding, `[B, N]`.
        count: Number of points to choose.
    """
    rows = torch.arange(len(clouds), device=clouds.device)
    distance = torch.full_like(there, torch.inf, dtype=clouds.dtype).masked_fill(~there, -1)
    chosen = [torch.zeros_like(rows)]
    while len(chosen) < count:
        step = (clouds - clouds[rows, chosen[-1]].unsqueeze(1)).square().sum(-1)
        distance = distance.minimum(step)
        chosen.append(distance.argmax(1))
    return torch.stack(chosen, 1)


class DGCNN(nn.Module):
    """Dynamic graph CNN (Wang et al. 2019): edge convolutions over neighbours in feature space.

    Args:
        in_channels: Size of each point's features.
        num_classes: Number of classes.
        width: Channels of the first layer.
        dropout: Probability of dropping a channel before the last layers.
        num_neighbors: Neighbours of every point, itself among them.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int,
        dropout: float,
        num_neighbors: int = 20,
    ) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.first = EdgeConv(MLP([2 * in_channels, width, width, width]), aggr="max")
        self.second = EdgeConv(MLP([2 * width, 2 * width]), aggr="max")
        self.mix = MLP([3 * width, 16 * width])
        self.head = MLP([16 * width, 8 * width, 4 * width, num_classes], dropout=dropout, norm=None)

    def forward(
        self, x: Tensor, pos: Tensor, batch: Tensor, *, batch_size: int | None = None
    ) -> Tensor:
        first = self.first(x, knn_graph(x, self.num_neighbors, batch, loop=True))
        second = self.second(first, knn_graph(first, self.num_neighbors, batch, loop=True))
        return self.head(
            global_max_pool(self.mix(torch.cat([first, second], 1)), batch, batch_size)
        )


class PeerCLI(PointCloudCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"model.learning_rate": 0.005})

    def add_network_arguments(self, group: Any) -> None:
        group.add_function_arguments(
            make_peer, "network", as_group=False, skip={"in_channels", "num_classes"}
        )

    def make_network(self, data: PointCloudDataModule) -> nn.Module:
        return make_peer(data.num_features, data.num_classes, **self.config.network.as_dict())


def make_peer(
    in_channels: int,
    num_classes: int,
    *,
    architecture: Literal["pointnet2", "dgcnn"] = "dgcnn",
    width: int = 16,
    dropout: float = 0.5,
) -> nn.Module:
    """Make a PointNet++ or DGCNN.

    Args:
        in_channels: Size of each point's features.
        num_classes: Number of classes.
        architecture: Which network.
        width: Channels of its first layer; 64 in PyG's examples.
        dropout: Probability of dropping a channel before the last layers.
    """
    peer = {"pointnet2": PointNet2, "dgcnn": DGCNN}[architecture]
    return peer(in_channels, num_classes, width=width, dropout=dropout)


def main() -> None:
    description = "Train a small PointNet++ or DGCNN to classify point clouds."
    cli = PeerCLI(CCNNClassifier, PointCloudDataModule, description=description)
    results = cli.run()
    if cli.trainer.is_global_zero:
        print(f"{results['parameters']:,} parameters; report: {cli.folder / 'results.json'}")


if __name__ == "__main__":
    main()
