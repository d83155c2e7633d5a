"""From a mesh or a raw scan to the names of what it may be, with trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from ccnn_geo.datasets.io.readers import Geometry
from ccnn_geo.datasets.point_clouds.sampling import Normalization, Sampling
from ccnn_geo.nn import CCNN, ModelCard
from ccnn_geo.ops import nearest_neighbors
from ccnn_geo.transforms.functional import subset_indices
from ccnn_geo.transforms.mesh import StackFeatures

__all__ = ["DEFAULT_WEIGHTS", "Classifier", "Prediction"]

DEFAULT_WEIGHTS = "modelnet10_4_16"
"""Name of the weights that are taken where none are named."""

_FEATURES = {"pos", "normal"}


@dataclass(frozen=True)
class Prediction:
    """What a network makes of one cloud.

    Attributes:
        classes: Names of all classes, the likeliest first.
        probabilities: Their probabilities.
        points: The cloud as the network was given it, normalised, `[N, 3]`, then normals where
            there are any, `[N, 6]`; float32.
        notes: What was unusual about it, in sentences for its owner.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    points: np.ndarray
    notes: tuple[str, ...] = ()


class Classifier:
    """A trained network with everything that a cloud needs on its way to it.

    A mesh is sampled, a cloud is thinned, and both are normalised as the training data were. The
    network then sees several random subsets (views) of the size that it was trained on, and what
    it answers is the mean of their probabilities: single views differ a little, which the mean of
    a few evens out.

    A cloud with fewer points than the network was trained on is shown whole. Its points stand
    farther apart, so each gets fewer neighbours and more quadrature weight in proportion, which
    leaves the integral that the convolution stands for what it was. Of 112 test clouds of `Shapes`
    with half of their points, the weights `shapes` name 82 % right that way, and 18 % otherwise.

    Args:
        model: A `CCNN` with a card.
        views: Number of subsets.
        seed: Seed of what is drawn; the same seed always gives the same answer.
        device: Where the network runs.

    Raises:
        ValueError: If the model has no card, or one that does not fit, or if there is no view.
    """

    def __init__(
        self, model: CCNN, *, views: int = 4, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        if views < 1:
            raise ValueError(f"Expected `views` >= 1, got {views}")
        self.card = _checked_card(model)
        self.model = model.to(device).eval()
        self.views = views
        self.seed = seed
        self.device = torch.device(device)
        recipe = self.card.preprocessing
        self._stack = StackFeatures(recipe.features)
        self._sampling = Sampling(
            points_per_mesh=recipe.points_per_mesh,
            normalize=cast(Normalization, recipe.normalize),
            estimate_normals="normal" in recipe.features,
            seed=seed,
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = DEFAULT_WEIGHTS,
        *,
        views: int = 4,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Make a classifier from weights, see `CCNN.from_pretrained`.

        Raises:
            ValueError: If the weights cannot be used.
            FileNotFoundError: If there are none of that name.
        """
        model = CCNN.from_pretrained(name_or_folder)
        return cls(model, views=views, seed=seed, device=device)

    def predict(self, geometry: Geometry) -> Prediction:
        """Classify one mesh or cloud.

        Raises:
            ValueError: If it has no points, not only finite ones, or a mesh no area.
            ImportError: If it takes trimesh or open3d to prepare it, and that is not installed.
        """
        (points,) = self._sampling.clouds(geometry, "cloud")
        generator = torch.Generator().manual_seed(self.seed)
        whole = len(points) <= self.card.preprocessing.num_points
        views = [points[self._view(points, generator)] for _ in range(1 if whole else self.views)]
        probabilities = self._log_probabilities(views, len(points)).exp().mean(dim=0)
        order = probabilities.argsort(descending=True).tolist()
        return Prediction(
            tuple(self.card.classes[each] for each in order),
            tuple(probabilities[order].tolist()),
            points,
            self._notes(geometry, points),
        )

    def importance(
        self, prediction: Prediction, *, patches: int = 24, rounds: int = 4
    ) -> np.ndarray:
        r"""Measure how much every point mattered for the likeliest class.

        By occlusion (Zeiler and Fergus 2014): the cloud is cut into patches around points far from
        each other, and classified again without each of them. What a patch takes away from the
        log-odds of the class, :math:`\log p / (1 - p)`, is the importance of its points; it is
        negative where they spoke against the class. Several rounds with other patches are averaged.

        Args:
            prediction: What `predict` returned.
            patches: Patches per round; each has about one in so many of the points.
            rounds: Number of rounds, each with a view and patches of its own.

        Returns:
            Log-odds, one per point of `prediction`, `[N]`.

        Raises:
            ValueError: If `patches` is not 2 or more, or `rounds` not 1 or more.
        """
        if patches < 2 or rounds < 1:
            raise ValueError(
                f"Expected `patches` >= 2 and `rounds` >= 1, got {patches} and {rounds}"
            )
        label = self.card.classes.index(prediction.classes[0])
        points = prediction.points
        generator = torch.Generator().manual_seed(self.seed)
        total = np.zeros(len(points))
        for _ in range(rounds):
            view = self._view(points, generator)
            start = int(torch.randint(len(points), (), generator=generator))
            patch = _patches(points[:, :3], patches, start)
            rests = [view[patch[view] != each] for each in range(patches)]
            hidden = [each for each, rest in enumerate(rests) if len(rest)]
            shown = [points[view], *(points[rests[each]] for each in hidden)]
            odds = _log_odds(self._log_probabilities(shown, len(points)), label)
            drops = np.zeros(patches)
            drops[hidden] = odds[0] - odds[1:]
            total += drops[patch]
        return total / rounds

    def _view(self, points: np.ndarray, generator: torch.Generator) -> np.ndarray:
        wanted = self.card.preprocessing.num_points
        return subset_indices(len(points), wanted, generator).numpy()

    @torch.inference_mode()
    def _log_probabilities(self, clouds: list[np.ndarray], num_points: int) -> Tensor:
        """Classify views of a cloud of so many points, `[B, classes]`, float64 on the CPU."""
        batch = Batch.from_data_list([self._stack(_data(cloud)) for cloud in clouds])
        batch = batch.to(self.device)
        density = min(1.0, num_points / self.card.preprocessing.num_points)
        neighbors = nearest_neighbors(
            batch.pos, max(1, round(self.model.num_neighbors * density)), batch.batch
        )
        weight = None if density == 1.0 else batch.pos.new_full((len(batch.pos),), 1 / density)
        logits = self.model(
            batch.x,
            batch.pos,
            batch.batch,
            edge_index=neighbors,
            weight=weight,
            batch_size=len(clouds),
        )
        return logits.double().log_softmax(dim=-1).cpu()

    def _notes(self, geometry: Geometry, points: np.ndarray) -> tuple[str, ...]:
        recipe = self.card.preprocessing
        notes = []
        if len(points) < recipe.num_points:
            notes.append(
                f"it has {len(points)} points, fewer than the {recipe.num_points} that the network "
                "was trained on"
            )
        if "normal" in recipe.features and geometry.faces is None and geometry.normals is None:
            notes.append("its normals are estimated")
        return tuple(notes)


def _checked_card(model: CCNN) -> ModelCard:
    """Return the card of a model, which has to say how clouds are prepared for it."""
    card = model.card
    if card is None:
        raise ValueError(
            "Expected a model with a card, which says how clouds are prepared for it and what its "
            "classes are, got one without"
        )
    if len(card.classes) != model.out_channels or len(card.classes) < 2:
        raise ValueError(
            f"Expected names of {model.out_channels} classes on the card, got {len(card.classes)}"
        )
    unknown = set(card.preprocessing.features) - _FEATURES
    if unknown or 3 * len(card.preprocessing.features) != model.in_channels:
        raise ValueError(
            f"Expected `features` among {sorted(_FEATURES)} that make {model.in_channels} "
            f"channels, got {card.preprocessing.features}"
        )
    return card


def _data(points: np.ndarray) -> Data:
    tensor = torch.from_numpy(points)
    data = Data(pos=tensor[:, :3].contiguous())
    if points.shape[1] == 6:
        data.normal = tensor[:, 3:].contiguous()
    return data


def _patches(pos: np.ndarray, count: int, start: int) -> np.ndarray:
    """Cut a cloud into patches around points that are as far from each other as can be.

    Args:
        pos: Positions, `[N, 3]`.
        count: Number of patches; some are empty if there are fewer points.
        start: Index of the first of these points.

    Returns:
        The number of every point's patch, `[N]`.
    """
    patch = np.zeros(len(pos), dtype=np.int64)
    distance = np.linalg.norm(pos - pos[start], axis=1)
    for number in range(1, count):
        to_next = np.linalg.norm(pos - pos[distance.argmax()], axis=1)
        closer = to_next < distance
        patch[closer] = number
        distance[closer] = to_next[closer]
    return patch


def _log_odds(log_probabilities: Tensor, label: int) -> np.ndarray:
    """Return the log-odds of a class, `[B]`, from the log-probabilities of all, `[B, C]`."""
    others = torch.ones(log_probabilities.size(1), dtype=torch.bool)
    others[label] = False
    odds = log_probabilities[:, label] - log_probabilities[:, others].logsumexp(dim=1)
    return odds.numpy()
