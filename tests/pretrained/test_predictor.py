"""Clouds on their way to a network, and what the network found important about them."""

import math

import numpy as np
import pytest
import torch

from ccnn_geo import CCNN
from ccnn_geo.datasets import Geometry, read_geometry
from ccnn_geo.nn import GaussianWindow, ModelCard, Preprocessing
from ccnn_geo.pretrained.predictor import Classifier
from ccnn_geo.transforms.functional import normalize_positions
from datasets_helpers import cloud, open3d


def network(classes: int = 3, num_neighbors: int = 16, in_channels: int = 3) -> CCNN:
    torch.manual_seed(0)
    return CCNN(
        in_channels, classes, dim=3, hidden_channels=8, num_blocks=1, kernel_channels=4,
        omega_0=1.0, window_width=0.5, num_neighbors=num_neighbors,
    )  # fmt: skip


def recipe(**options) -> Preprocessing:
    settings = {"num_points": 64, "features": ("pos",), "normalize": "box", "points_per_mesh": 128}
    return Preprocessing(**{**settings, **options})


def classifier(num_points: int = 64, **options) -> Classifier:
    model = network()
    model.card = ModelCard(classes=("a", "b", "c"), preprocessing=recipe(num_points=num_points))
    return Classifier(model, **options)


class TestPredict:
    def test_it_is_what_the_network_says_of_the_normalised_cloud(self):
        points, _ = cloud(50)
        predicted = classifier(num_points=50).predict(Geometry(points))
        pos = torch.from_numpy(normalize_positions(points)).float()
        with torch.no_grad():
            expected = network().eval()(pos, pos).softmax(dim=-1)[0].double()
        found = dict(zip(predicted.classes, predicted.probabilities, strict=True))
        assert [found[name] for name in "abc"] == pytest.approx(expected.tolist(), abs=1e-6)
        assert predicted.notes == ()

    def test_classes_come_the_likeliest_first(self):
        predicted = classifier().predict(Geometry(cloud(200)[0]))
        assert sorted(predicted.probabilities, reverse=True) == list(predicted.probabilities)
        assert sum(predicted.probabilities) == pytest.approx(1)

    def test_views_are_averaged(self):
        """Of many views and of many seeds with one view each, the means are near each other."""
        geometry = Geometry(cloud(400)[0])

        def share(**options) -> float:
            predicted = classifier(num_points=16, **options).predict(geometry)
            return dict(zip(predicted.classes, predicted.probabilities, strict=True))["a"]

        single = [share(views=1, seed=seed) for seed in range(40)]
        many = [share(views=20, seed=seed) for seed in range(4)]
        assert np.std(many) < np.std(single) / 2
        assert np.mean(many) == pytest.approx(np.mean(single), abs=2 * np.std(single))

    def test_a_seed_gives_the_same_answer_and_another_one_another(self):
        geometry = Geometry(cloud(400)[0])
        one, again, other = (classifier(seed=seed).predict(geometry) for seed in (0, 0, 1))
        assert one.probabilities == again.probabilities
        assert one.probabilities != other.probabilities

    def test_a_sparse_cloud_stands_for_the_same_integral(self):
        """A cloud all of whose points lie r-fold on each other is its r-th part with weight r."""
        points, _ = cloud(32)
        model = network(num_neighbors=64)
        model.card = ModelCard(classes=("a", "b", "c"), preprocessing=recipe(num_points=64))
        doubled = Geometry(np.concatenate([points, points]))
        sparse = Classifier(model).predict(Geometry(points))
        dense = Classifier(model).predict(doubled)
        assert dense.notes == ()
        assert "it has 32 points, fewer than the 64 that the network was" in sparse.notes[0]
        assert dict(zip(sparse.classes, sparse.probabilities, strict=True)) == pytest.approx(
            dict(zip(dense.classes, dense.probabilities, strict=True)), abs=1e-5
        )

    def test_a_network_over_all_points_needs_no_neighbours(self):
        points, _ = cloud(50)
        found = {}
        for evaluation in ("neighbors", "nufft"):
            model = classifier(num_points=50)
            model.model.evaluation, model.model.num_neighbors = evaluation, 50
            for part in model.model.modules():
                if isinstance(part, GaussianWindow):
                    torch.nn.init.constant_(part.log_width, math.log(0.1))
            predicted = model.predict(Geometry(points))
            found[evaluation] = [
                dict(zip(predicted.classes, predicted.probabilities, strict=True))[name]
                for name in "abc"
            ]
        assert found["nufft"] == pytest.approx(found["neighbors"], abs=1e-3)

    def test_the_global_generator_is_left_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        subject = classifier()
        torch.manual_seed(1)
        subject.importance(subject.predict(Geometry(cloud(100)[0])), patches=2, rounds=1)
        assert torch.equal(torch.rand(3), expected)


class TestLargeCoordinates:
    """Georeferenced coordinates in metres, a multiple of the rounding unit from the origin."""

    ORIGIN = np.array([500_000.0, 5_400_000.0, 250.0])

    def probabilities(self, geometry: Geometry, **options) -> dict[str, float]:
        predicted = classifier(**options).predict(geometry)
        return dict(zip(predicted.classes, predicted.probabilities, strict=True))

    def test_a_cloud_is_classified_as_if_it_were_centred(self):
        points = np.round(cloud(400)[0] * 2**20) / 2**20
        expected = self.probabilities(Geometry(points))
        assert self.probabilities(Geometry(points + self.ORIGIN)) == pytest.approx(
            expected, abs=1e-6
        )

    def test_a_mesh_is_classified_as_if_it_were_centred(self):
        trimesh = pytest.importorskip("trimesh", reason="the extra `mesh` is missing")
        mesh = trimesh.creation.box((4.0, 2.0, 1.0))
        points, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        expected = self.probabilities(Geometry(points, faces))
        assert self.probabilities(Geometry(points + self.ORIGIN, faces)) == pytest.approx(
            expected, abs=1e-6
        )

    @pytest.mark.parametrize("num_points", [50, 100])
    def test_without_normalisation_offsets_keep_their_digits(self, num_points):
        """A step of 2**-10 next to 2**22 takes 32 binary digits, float32 has 24."""
        points = np.round(cloud(50)[0] * 2**10) / 2**10
        model = network(in_channels=3)
        card = recipe(num_points=num_points, features=("normal",), normalize="none")
        model.card = ModelCard(classes=("a", "b", "c"), preprocessing=card)
        subject = Classifier(model)
        near = subject.predict(Geometry(points, normals=cloud(50)[1]))
        far = subject.predict(Geometry(points + 2.0**22, normals=cloud(50)[1]))
        assert far.probabilities == pytest.approx(near.probabilities, abs=1e-6)
        assert far.classes == near.classes
        np.testing.assert_array_equal(far.points[:, :3], points + 2.0**22)

    def test_estimated_normals_are_those_of_the_centred_cloud(self):
        open3d()
        model = network(in_channels=6)
        card = ModelCard(classes=("a", "b", "c"), preprocessing=recipe(features=("normal", "pos")))
        model.card = card
        points = np.round(cloud(400)[0] * 2**20) / 2**20
        near, far = (
            Classifier(model).predict(Geometry(points + origin)) for origin in (0, self.ORIGIN)
        )
        np.testing.assert_allclose(far.points, near.points, atol=1e-6)
        assert far.probabilities == pytest.approx(near.probabilities, abs=1e-5)

    @pytest.mark.parametrize("suffix", ["npy", "xyz", "ply", "off", "obj", "pcd"])
    def test_files_keep_the_digits(self, tmp_path, suffix):
        points = np.round(cloud(400)[0] * 2**10) / 2**10 + self.ORIGIN
        path = tmp_path / f"scan.{suffix}"
        rows = "\n".join(" ".join(map(repr, row)) for row in points.tolist())
        headers = {
            "xyz": "", "off": "OFF\n400 0 0\n",
            "ply": "ply\nformat ascii 1.0\nelement vertex 400\nproperty double x\n"
            "property double y\nproperty double z\nend_header\n",
            "pcd": "VERSION .7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 400\n"
            "HEIGHT 1\nPOINTS 400\nDATA ascii\n",
        }  # fmt: skip
        if suffix == "npy":
            np.save(path, points)
        elif suffix == "obj":
            path.write_text("v " + rows.replace("\n", "\nv ") + "\n")
        else:
            path.write_text(headers[suffix] + rows + "\n")
        found = self.probabilities(read_geometry(path, allow_faceless=True))
        assert found == pytest.approx(self.probabilities(Geometry(points - self.ORIGIN)), abs=1e-6)


class _LooksUp(CCNN):
    """Says class 1 by how many points lie above z = 0.5."""

    def forward(self, x, pos, batch=None, **options):
        above = (pos[:, 2] > 0.5).float()
        count = torch.zeros(int(batch.max()) + 1).index_add(0, batch, above)
        return torch.stack([torch.zeros_like(count), 0.1 * count, 0 * count - 9], dim=1)


class TestImportance:
    def test_only_the_points_that_matter_have_any(self):
        subject = classifier(num_points=120)
        points, _ = cloud(120)
        subject.model = _LooksUp(3, 3, dim=3, hidden_channels=4, num_blocks=1)
        predicted = subject.predict(Geometry(points))
        assert predicted.classes[0] == "b"
        importance = subject.importance(predicted, patches=12, rounds=6)
        assert importance.shape == (120,)
        height = predicted.points[:, 2]
        assert importance[height > 0.7].min() > 0.1
        assert np.abs(importance[height < -0.5]).max() < 1e-5

    def test_what_speaks_against_the_class_is_negative(self):
        subject = classifier(num_points=120)
        subject.model = _LooksUp(3, 3, dim=3, hidden_channels=4, num_blocks=1)
        points, _ = cloud(120)
        predicted = subject.predict(Geometry(points))
        last = type(predicted)(predicted.classes[::-1], predicted.probabilities, predicted.points)
        importance = subject.importance(last, rounds=1)
        assert importance[predicted.points[:, 2] > 0.7].max() < -0.1

    @pytest.mark.parametrize("count", [1, 2, 40])
    def test_small_clouds_work(self, count):
        subject = classifier()
        importance = subject.importance(subject.predict(Geometry(cloud(40)[0][:count])))
        assert importance.shape == (count,)
        assert np.isfinite(importance).all()

    @pytest.mark.parametrize("options", [{"patches": 1}, {"rounds": 0}])
    def test_too_few_patches_or_rounds(self, options):
        subject = classifier()
        predicted = subject.predict(Geometry(cloud(40)[0]))
        with pytest.raises(ValueError, match="Expected `patches` >= 2 and `rounds` >= 1"):
            subject.importance(predicted, **options)


class TestCards:
    @pytest.mark.parametrize(
        ("card", "message"),
        [
            (None, "Expected a model with a card"),
            (ModelCard(classes=("a",), preprocessing=recipe()), "names of 3 classes .* got 1"),
            (
                ModelCard(classes=("a", "b", "c"), preprocessing=recipe(features=("colour",))),
                r"Expected `features` among \['normal', 'pos'\] that make 3 channels",
            ),
            (
                ModelCard(
                    classes=("a", "b", "c"), preprocessing=recipe(features=("normal", "pos"))
                ),
                "that make 3 channels, got",
            ),
            (
                ModelCard(classes=("a", "b", "c"), preprocessing=recipe(normalize="length")),
                "Expected `normalize` to be one of",
            ),
        ],
    )
    def test_a_card_that_does_not_fit(self, card, message):
        model = network()
        model.card = card
        with pytest.raises(ValueError, match=message):
            Classifier(model)

    def test_no_views(self):
        with pytest.raises(ValueError, match="Expected `views` >= 1, got 0"):
            classifier(views=0)


def test_georeferenced_clouds_are_classified_like_centred_ones():
    points, _ = cloud(600)
    classifier = Classifier.from_pretrained("modelnet10_4_16")
    near = classifier.predict(Geometry(points))
    far = classifier.predict(Geometry(points + np.array([5e5, 5.6e6, 120.0])))
    np.testing.assert_allclose(far.points, near.points, atol=1e-6)
    np.testing.assert_allclose(far.probabilities, near.probabilities, atol=1e-5)
