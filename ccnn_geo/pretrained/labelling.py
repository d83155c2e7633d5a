"""Label every point of a scan with a trained network, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from ccnn_geo.datasets.io.scenes import Scene
from ccnn_geo.datasets.scenes.dataset import tile_features
from ccnn_geo.datasets.scenes.tiles import Tiling, thinned
from ccnn_geo.nn import CCNN

__all__ = ["Labelling", "SceneLabeller"]

_POINTS_PER_BATCH = 2**14
"""Points that the network is given at a time, at least one tile."""

_RIM_WEIGHT = 0.05
"""Weight of the vote at the rim of a tile, where the network does not see all neighbours."""

_QUERIES = 2**18


@dataclass(frozen=True)
class Labelling:
    """Labels of all points of a scan.

    Attributes:
        labels: Most probable class of every point, `[N]`, int64, in the order of the scan.
        confidence: Its probability, `[N]`, float32.
        num_tiles: Number of tiles that the scan was cut into.
        num_points: Number of points that the network was given, after thinning.
    """

    labels: np.ndarray
    confidence: np.ndarray
    num_tiles: int
    num_points: int


class SceneLabeller:
    """Labels scans of any size in bounded memory.

    The scan is thinned as in training and cut into overlapping tiles. A tile with more points than
    the network was trained on is divided at random, so that their density is that of training.
    Probabilities are averaged over the tiles that a point is in, with weights that decrease towards
    the rim. Points that thinning left out get the label of the nearest one that was kept.

    Args:
        network: A `CCNN` without a readout.
        tiling: How the training scans were thinned and cut.
        features: Attributes of the points that are input features besides the positions.
        seed: Seed of the division of tiles; the same seed gives the same labels.
        device: Device of the network.

    Raises:
        ValueError: If the network has a readout, or other input channels than the features.
    """

    def __init__(
        self,
        network: CCNN,
        tiling: Tiling,
        features: Sequence[str] = (),
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if network.readout is not None:
            raise ValueError(
                f"Expected a network without a readout to label points, got {network.readout!r}"
            )
        self.network = network.to(device).eval()
        self.tiling = tiling
        self.features = tuple(features)
        self.seed = seed
        self.device = torch.device(device)

    def label(self, scene: Scene, *, name: str = "scan", progress: bool = False) -> Labelling:
        """Label every point of a scan.

        Args:
            scene: The scan.
            name: Its name, for error messages and the progress bar.
            progress: If True, show a progress bar on standard error, if that is a terminal.

        Raises:
            ValueError: If the scan lacks a feature, or is too large for the voxels to be numbered.
        """
        kept = thinned(scene.points, self.tiling.voxel_size)
        few = scene.select(kept)
        features = tile_features(name, few, self.features)
        channels = 3 + features.shape[1]
        if channels != self.network.in_channels:
            raise ValueError(
                f"{name}: expected features of {self.network.in_channels - 3} channels, got "
                f"{channels - 3} in {list(self.features)}"
            )
        centers = self.tiling.centers(few.points)
        votes = np.zeros((len(few), self.network.out_channels), np.float32)
        bar = tqdm(
            total=len(centers), desc=f"labelling {name}", unit="tile", disable=not progress or None
        )
        with bar:
            for batch in self._batches(few.points, features, centers, bar):
                index = np.concatenate([part.index for part in batch])
                weight = np.concatenate([part.weight for part in batch])
                # A point is in a batch more than once if it is in several of its tiles.
                np.add.at(votes, index, weight[:, None] * self._probabilities(batch))
        total = votes.sum(axis=1)
        labels = votes.argmax(axis=1)
        confidence = votes[np.arange(len(votes)), labels] / total
        nearest = _nearest(few.points, scene.points)
        return Labelling(labels[nearest], confidence[nearest], len(centers), len(few))

    def _batches(
        self, points: np.ndarray, features: np.ndarray, centers: np.ndarray, bar: tqdm
    ) -> Iterator[list[_Part]]:
        """Yield parts of tiles, about as many points at a time as fit into a batch."""
        generator = np.random.default_rng(self.seed)
        tree = self.tiling.tree(points)
        batch: list[_Part] = []
        size = 0
        for center in centers:
            inside = self.tiling.inside(tree, center)
            pos = self.tiling.local(points[inside], center) if len(inside) else np.empty((0, 3))
            distance = np.linalg.norm(pos[:, : self.tiling.axes], axis=1)
            weight = np.maximum(1 - distance**2, _RIM_WEIGHT).astype(np.float32)
            for part in self.tiling.parts(np.arange(len(inside)), generator):
                index = inside[part]
                x = np.concatenate([pos[part], features[index]], axis=1)
                batch.append(_Part(index, pos[part], x, weight[part]))
                size += len(part)
            bar.update()
            if size >= _POINTS_PER_BATCH:
                yield batch
                batch, size = [], 0
        if size:
            yield batch

    @torch.inference_mode()
    def _probabilities(self, batch: Sequence[_Part]) -> np.ndarray:
        """Return class probabilities of the points of a batch, `[M, C]`."""
        kind = next(self.network.parameters()).dtype
        pos, x = (
            torch.from_numpy(np.concatenate(arrays)).to(self.device, kind)
            for arrays in ([part.pos for part in batch], [part.x for part in batch])
        )
        sizes = torch.tensor([len(part.index) for part in batch if len(part.index)])
        numbers = torch.arange(len(sizes)).repeat_interleave(sizes).to(self.device)
        logits: Tensor = self.network(x, pos, numbers, batch_size=len(sizes))
        return logits.float().softmax(dim=-1).cpu().numpy()


@dataclass(frozen=True)
class _Part:
    """A random part of a tile."""

    index: np.ndarray
    pos: np.ndarray
    x: np.ndarray
    weight: np.ndarray


def _nearest(kept: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the index of the kept point that is nearest to every point, `[N]`."""
    if len(kept) == len(points):
        return np.arange(len(points))
    tree = cKDTree(kept)
    parts = np.array_split(points, max(1, len(points) // _QUERIES))
    return np.concatenate([tree.query(part, workers=-1)[1] for part in parts])
