"""Numbers at points: tiles, what is given and what is to be predicted, files, and bad input."""

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import FieldDataModule  # noqa: E402
from ccnn_geo.datasets.scenes.fields import sphere_points  # noqa: E402

GLOBE = {"target": ["height"], "given_share": 0.5, "radius": 0.6, "num_tiles": 4, "batch_size": 2}


@pytest.fixture
def globe(tmp_path):
    """Makes a data module of heights on the globe, the sine of the latitude."""

    def make(changes=None, **options):
        generator = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 200), ("test", 50)):
            lat = np.degrees(np.arcsin(generator.uniform(-1, 1, count)))
            arrays[f"{split}_lat"] = lat
            arrays[f"{split}_lon"] = generator.uniform(-180, 180, count)
            arrays[f"{split}_height"] = 100 + 10 * np.sin(np.radians(lat))
        np.savez(tmp_path / "globe.npz", **{**arrays, **(changes or {})})
        data = FieldDataModule("sphere", tmp_path / "globe.npz", **{**GLOBE, **options})
        data.setup()
        return data

    return make


@pytest.fixture
def surfaces(tmp_path):
    """Makes a data module of three surfaces with pressures."""

    def make(**options):
        for split, names in (("train", "ab"), ("test", "c")):
            (tmp_path / split).mkdir(exist_ok=True)
            for number, name in enumerate(names):
                pos = np.random.default_rng(number).normal(size=(40, 3)) + 1e6
                np.savez(
                    tmp_path / split / f"{name}.npz",
                    pos=pos,
                    normal=np.tile([0.0, 0.0, 1.0], (40, 1)),
                    pressure=pos[:, 2] - 1e6,
                )
        settings = {"target": ["pressure"], "val_fraction": 0.0, "num_tiles": 4, **options}
        data = FieldDataModule("folder", tmp_path, **settings)
        data.setup()
        return data

    return make


def test_points_of_the_globe_lie_on_the_unit_sphere(tmp_path):
    found = sphere_points(tmp_path, np.array([0.0, 90, 0, -90]), np.array([0.0, 0, 90, 12]))
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, -1]], atol=1e-12)


def test_training_predicts_what_is_not_given(globe):
    data = globe()
    assert (data.num_features, data.num_targets, data.per_point) == (5, 1, True)
    sample = data.train_dataset[0, 1]
    value, given = sample.x[:, 3], sample.x[:, 4].bool()
    assert torch.equal(sample.y[:, 0].isnan(), given) and 0 < int(given.sum()) < len(given)
    assert bool((value[~given] == 0).all())
    torch.testing.assert_close(sample.x[:, :3], sample.pos)
    # The height follows from the position, which is relative to the centre of the tile.
    height = (value[given] * data.target_scale[0] + data.target_mean[0]).double()
    slope = 10 * 0.6 * sample.pos[given][:, 2].double()
    torch.testing.assert_close(
        (height - slope).std(), torch.zeros((), dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_means_are_those_of_the_training_points_alone(globe):
    data = globe(val_fraction=0.5)
    numbers = data.train_dataset.fields[0].target
    assert len(numbers) == 100
    assert data.target_mean == pytest.approx([float(numbers.mean())])
    assert data.target_scale == pytest.approx([float(numbers.std())])


def test_every_test_point_is_predicted_once_from_all_training_points(globe):
    data = globe()
    samples = [data.test_dataset[index] for index in range(len(data.test_dataset))]
    predicted = torch.cat([sample.y[~sample.y.isnan()] for sample in samples])
    expected = data.test_dataset.fields[0].target[-50:, 0]
    np.testing.assert_allclose(np.sort(predicted.numpy()), np.sort(expected))
    assert data.test_dataset.fields[0].given.sum() == 200
    (val,) = data.val_dataset.fields
    assert (len(val.points), int((~val.given).sum())) == (200, 20)


def test_whole_surfaces_are_relative_to_their_middle(surfaces):
    data = surfaces(features=["normal"])
    assert data.split_sizes == {"train": 4, "val": 0, "test": 1}
    sample = data.test_dataset[0]
    assert sample.x.shape == (40, 6) and sample.y.shape == (40, 1)
    torch.testing.assert_close(sample.pos.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    assert float(sample.pos.norm(dim=1).max()) < 1
    assert not bool(sample.y.isnan().any())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"train_lat": np.full(200, 91.0)}, {}, "latitudes from -90 to 90"),
        ({"train_lon": np.zeros(3)}, {}, "latitudes and longitudes of shape"),
        ({"train_height": np.full(200, np.inf)}, {}, "finite numbers 'height'"),
        ({"train_height": np.full(200, np.nan)}, {}, "known numbers for every target"),
        ({}, {"target": ["depth"]}, "expected an array `train_depth`"),
        ({}, {"given_share": None}, "`given_share` and a `radius`"),
        ({}, {"given_share": 1.0}, r"`given_share` in \(0, 1\), got 1.0"),
        ({}, {"val_fraction": 1.0}, r"`val_fraction` in \[0, 1\), got 1.0"),
        ({}, {"target": []}, "`target` to name the numbers"),
    ],
)
def test_what_does_not_fit_is_named(globe, changes, options, message):
    with pytest.raises(ValueError, match=message):
        globe(changes, **options)


def test_missing_files_and_numbers_are_named(surfaces, tmp_path):
    with pytest.raises(
        ValueError, match=r"a.npz: expected numbers 'height' to predict, got normal"
    ):
        surfaces(target=["height"])
    with pytest.raises(FileNotFoundError, match=r"expected|Expected a folder"):
        FieldDataModule("folder", tmp_path / "absent").setup()
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train: expected clouds .* got none"):
        FieldDataModule("folder", tmp_path / "empty").setup()
    with pytest.raises(ValueError, match="Expected `root`"):
        FieldDataModule()


def test_a_training_file_is_kept_whatever_is_held_out(surfaces):
    data = surfaces(val_fraction=0.9)
    assert [len(each.fields) for each in (data.train_dataset, data.val_dataset)] == [1, 1]
