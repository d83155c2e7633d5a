"""Label every point of a scan, or of an object, with a trained network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from tqdm import tqdm

from ccnn_geo.datasets.io.scenes import Scene
from ccnn_geo.datasets.scenes.dataset import tile_features
from ccnn_geo.datasets.scenes.tiles import TileShape, Tiling, random_parts, thinned
from ccnn_geo.nn import CCNN
from ccnn_geo.pretrained.card import Preprocessing, TilePreprocessing
from ccnn_geo.pretrained.predictor import check_point_features, compensation
from ccnn_geo.transforms.functional import (
    NormalizationMethod,
    estimate_normals,
    normalize_positions,
)

__all__ = ["DEFAULT_WEIGHTS", "Labeller", "Labelling", "ObjectLabeller", "SceneLabeller"]

DEFAULT_WEIGHTS = "landscapes"
"""Name of the default weights."""

_POINTS_PER_BATCH = 2**14
"""Points that the network is given at a time, at least one part of a tile."""

_RIM_WEIGHT = 0.05
"""Weight of the vote at the rim of a tile, where the network does not see all neighbours."""

_QUERIES = 2**18


@dataclass(frozen=True)
class Labelling:
    """Labels of all points of a scan.

    Attributes:
        labels: Most probable class of every point, `[N]`, int64, in the order of the scan.
        confidence: Its probability, `[N]`, float32.
        num_points: Number of points that the network was given, after thinning.
    """

    labels: np.ndarray
    confidence: np.ndarray
    num_points: int


@dataclass(frozen=True)
class _Part:
    """Points that the network is given together: indices, positions, features and votes."""

    index: np.ndarray
    pos: np.ndarray
    x: np.ndarray
    weight: np.ndarray


class Labeller(ABC):
    """Base class of what labels every point of a scan in bounded memory.

    Args:
        network: A `CCNN` without a readout.
        classes: Names of the classes; their numbers by default.
        seed: Seed of random subsets; the same seed gives the same labels.
        device: Device of the network.

    Raises:
        ValueError: If the network has a readout, or another number of outputs than classes.
    """

    def __init__(
        self,
        network: CCNN,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if network.readout is not None:
            raise ValueError(
                f"Expected a network without a readout to label points, got {network.readout!r}"
            )
        names = range(network.out_channels) if classes is None else classes
        self.classes = [str(name) for name in names]
        if len(self.classes) != network.out_channels:
            raise ValueError(
                f"Expected names of {network.out_channels} classes, got {len(self.classes)}"
            )
        self.network = network.to(device).eval()
        self.seed = seed
        self.device = torch.device(device)

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path = DEFAULT_WEIGHTS,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> Labeller:
        """Make a labeller from weights, see `CCNN.from_pretrained`.

        Returns:
            A `SceneLabeller` or an `ObjectLabeller`, whichever the weights were trained for.

        Raises:
            ValueError: If the weights are damaged, have no card, or do not label points.
            FileNotFoundError: If there are no weights of that name.
        """
        model = CCNN.from_pretrained(name_or_folder)
        card = model.card
        if card is None or card.task != "segmentation":
            task = "no card" if card is None else f"a card of {card.task}"
            raise ValueError(
                f"Expected weights that label every point, got {name_or_folder} with {task}: "
                "`Classifier`, or `python -m ccnn_geo predict`, classifies whole clouds"
            )
        options: dict[str, Any] = {"classes": card.classes, "seed": seed, "device": device}
        recipe = card.preprocessing
        if isinstance(recipe, TilePreprocessing):
            tiling = Tiling(
                radius=recipe.radius,
                voxel_size=recipe.voxel_size,
                num_points=recipe.num_points,
                shape=cast(TileShape, recipe.shape),
            )
            return SceneLabeller(model, tiling, recipe.features, **options)
        check_point_features(card, model.in_channels)
        return ObjectLabeller(model, recipe, **options)

    def label(self, scene: Scene, *, name: str = "scan", progress: bool = False) -> Labelling:
        """Label every point of a scan.

        Args:
            scene: The scan.
            name: Its name, for error messages and the progress bar.
            progress: If True, show a progress bar on standard error, if that is a terminal.

        Raises:
            ValueError: If the scan lacks a feature, or is too large for its voxels to be numbered.
        """
        kept = self._kept(scene)
        few = scene.select(kept)
        votes = np.zeros((len(few), self.network.out_channels), np.float32)
        total, parts = self._parts(few, name)
        bar = tqdm(
            total=total, desc=f"labelling {name}", unit="tile", disable=None if progress else True
        )
        with bar:
            for batch in _batches(parts, bar):
                index = np.concatenate([part.index for part in batch])
                weight = np.concatenate([part.weight for part in batch])
                # A point is in a batch more than once if it is in several of its parts.
                np.add.at(votes, index, weight[:, None] * self._probabilities(batch))
        labels = votes.argmax(axis=1)
        confidence = votes.max(axis=1) / votes.sum(axis=1)
        nearest = _nearest(few.points, scene.points)
        return Labelling(labels[nearest], confidence[nearest], len(few))

    def _kept(self, scene: Scene) -> np.ndarray:
        """Return the points that the network is given, ascending indices."""
        return np.arange(len(scene))

    @abstractmethod
    def _parts(self, scene: Scene, name: str) -> tuple[int, Iterator[list[_Part]]]:
        """Return the number of tiles, and for each its parts."""

    @torch.inference_mode()
    def _probabilities(self, batch: Sequence[_Part]) -> np.ndarray:
        """Return class probabilities of the points of a batch, `[M, C]`."""
        kind = next(self.network.parameters()).dtype
        pos, x = (
            torch.from_numpy(np.concatenate(arrays)).to(self.device, kind)
            for arrays in ([part.pos for part in batch], [part.x for part in batch])
        )
        sizes = torch.tensor([len(part.index) for part in batch])
        numbers = torch.arange(len(sizes)).repeat_interleave(sizes).to(self.device)
        logits = self._logits(x, pos, numbers, sizes)
        return logits.float().softmax(dim=-1).cpu().numpy()

    def _logits(self, x: Tensor, pos: Tensor, batch: Tensor, sizes: Tensor) -> Tensor:
        return self.network(x, pos, batch, batch_size=len(sizes))


class SceneLabeller(Labeller):
    """Labels scans of any size.

    The scan is thinned as in training and cut into overlapping tiles. A tile with more points than
    the network was trained on is divided at random, so that the density is the same as in training.
    Probabilities are averaged over the tiles that a point is in, with weights that decrease towards
    the rim. Points that thinning left out get the label of the nearest one that was kept.

    Args:
        network: A `CCNN` without a readout.
        tiling: How the training scans were thinned and cut.
        features: Attributes of the points that are input features besides the positions.
        options: See `Labeller`.

    Raises:
        ValueError: If the network has a readout, or another number of outputs than classes.
    """

    def __init__(
        self, network: CCNN, tiling: Tiling, features: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.tiling = tiling
        self.features = tuple(features)

    def _kept(self, scene: Scene) -> np.ndarray:
        return thinned(scene.points, self.tiling.voxel_size)

    def _parts(self, scene: Scene, name: str) -> tuple[int, Iterator[list[_Part]]]:
        columns = tile_features(name, scene, self.features).values()
        features = np.concatenate([np.empty((len(scene), 0), np.float32), *columns], axis=1)
        expected = self.network.in_channels - 3
        if features.shape[1] != expected:
            raise ValueError(
                f"{name}: expected features of {expected} channels, got {features.shape[1]} in "
                f"{list(self.features)}"
            )
        centers = self.tiling.centers(scene.points)
        return len(centers), self._tiles(scene.points, features, centers)

    def _tiles(
        self, points: np.ndarray, features: np.ndarray, centers: np.ndarray
    ) -> Iterator[list[_Part]]:
        generator = np.random.default_rng(self.seed)
        tree = self.tiling.tree(points)
        for center in centers:
            inside = self.tiling.inside(tree, center)
            if len(inside) == 0:
                yield []
                continue
            pos = self.tiling.local(points[inside], center)
            x = np.concatenate([pos, features[inside]], axis=1)
            distance = np.linalg.norm(pos[:, : self.tiling.axes], axis=1)
            weight = np.maximum(1 - distance**2, _RIM_WEIGHT).astype(np.float32)
            yield [
                _Part(inside[part], pos[part], x[part], weight[part])
                for part in self.tiling.parts(np.arange(len(inside)), generator)
            ]


class ObjectLabeller(Labeller):
    """Labels the points of single objects, which are normalised like the training objects.

    A cloud with more points than the network was trained on is divided at random; probabilities are
    averaged over several divisions. A cloud with fewer points is used whole, with fewer neighbours
    and larger quadrature weights, see `Classifier`.

    Args:
        network: A `CCNN` without a readout.
        preprocessing: How the training clouds were prepared.
        rounds: Number of divisions.
        options: See `Labeller`.

    Raises:
        ValueError: If `rounds` < 1; see `Labeller` for the network.
    """

    def __init__(
        self, network: CCNN, preprocessing: Preprocessing, *, rounds: int = 2, **options: Any
    ) -> None:
        super().__init__(network, **options)
        if rounds < 1:
            raise ValueError(f"Expected `rounds` >= 1, got {rounds}")
        self.preprocessing = preprocessing
        self.rounds = rounds

    def _parts(self, scene: Scene, name: str) -> tuple[int, Iterator[list[_Part]]]:
        recipe = self.preprocessing
        pos = scene.points.astype(np.float64)
        columns = {"pos": pos}
        if recipe.normalize != "none":
            columns["pos"] = normalize_positions(pos, cast(NormalizationMethod, recipe.normalize))
        if "normal" in recipe.features:
            given = scene.attributes.get("normal")
            columns["normal"] = estimate_normals(pos) if given is None else given
        x = np.concatenate([columns[feature] for feature in recipe.features], axis=1)
        rounds = self.rounds if len(pos) > recipe.num_points else 1
        return rounds, self._rounds(columns["pos"].astype(np.float32), x.astype(np.float32), rounds)

    def _rounds(self, pos: np.ndarray, x: np.ndarray, rounds: int) -> Iterator[list[_Part]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(rounds):
            yield [
                _Part(part, pos[part], x[part], np.ones(len(part), np.float32))
                for part in random_parts(
                    np.arange(len(pos)), self.preprocessing.num_points, generator
                )
            ]

    def _logits(self, x: Tensor, pos: Tensor, batch: Tensor, sizes: Tensor) -> Tensor:
        density = (sizes.double() / self.preprocessing.num_points).clamp(max=1.0)
        adapted = compensation(self.network, pos, batch, density.to(pos.device))
        return self.network(x, pos, batch, batch_size=len(sizes), **adapted)


def _batches(parts: Iterator[list[_Part]], bar: tqdm) -> Iterator[list[_Part]]:
    """Yield parts of tiles, about as many points at a time as fit into a batch."""
    batch: list[_Part] = []
    size = 0
    for tile in parts:
        for part in tile:
            batch.append(part)
            size += len(part.index)
            if size >= _POINTS_PER_BATCH:
                yield batch
                batch, size = [], 0
        bar.update()
    if batch:
        yield batch


def _nearest(kept: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the index of the kept point that is nearest to every point, `[N]`."""
    if len(kept) == len(points):
        return np.arange(len(points))
    tree = cKDTree(kept)
    parts = np.array_split(points, max(1, len(points) // _QUERIES))
    return np.concatenate([tree.query(part, workers=-1)[1] for part in parts])
