"""Procedural landscapes."""

import numpy as np
import pytest

from ccnn_geo.datasets.scenes.landscapes import LANDSCAPE_CLASSES, make_landscape


def test_the_seed_determines_the_scan():
    first, again = make_landscape(seed=(0, 1, 2)), make_landscape(seed=(0, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.labels, again.labels)


@pytest.mark.parametrize("other", [1, (0, 1), (1, 0)])
def test_another_seed_gives_another_scan(other):
    first, second = make_landscape(seed=0), make_landscape(seed=other)
    assert first.points[:10].tolist() != second.points[:10].tolist()


def test_points_and_labels_are_plain_numbers_of_the_classes():
    assert LANDSCAPE_CLASSES == ("ground", "tree", "clutter")
    for seed in range(4):
        scene = make_landscape(seed=seed)
        assert scene.points.dtype == np.float64
        assert np.isfinite(scene.points).all()
        assert scene.points.shape == (len(scene.labels), 3)
        assert scene.labels.dtype == np.int64
        assert set(scene.labels.tolist()) <= {0, 1, 2}
        assert scene.attributes == {}


def test_all_classes_occur_in_a_few_scans():
    shares = np.zeros(3)
    for seed in range(6):
        labels = make_landscape(seed=(0, 0, seed)).labels
        shares += np.bincount(labels, minlength=3) / len(labels) / 6
    assert shares.sum() == pytest.approx(1)
    assert shares.min() > 0.01


def test_the_ground_fills_the_square_and_is_smooth():
    for seed in range(4):
        scene = make_landscape(seed=seed, side=24.0)
        ground = scene.points[scene.labels == 0]
        assert -1 < ground[:, :2].min() < 2
        assert 22 < ground[:, :2].max() < 25
        # Grass is 0.15 m high and slopes are gentle: cells of 1 m are flat.
        cells = np.floor(ground[:, :2]).astype(int)
        for cell in np.unique(cells, axis=0)[::40]:
            assert np.ptp(ground[(cells == cell).all(axis=1), 2]) < 2


def test_trees_stand_above_the_ground():
    for seed in range(6):
        scene = make_landscape(seed=(0, 0, seed))
        tree, ground = scene.points[scene.labels == 1], scene.points[scene.labels == 0]
        assert np.quantile(tree[:, 2], 0.99) > np.quantile(ground[:, 2], 0.99)
        assert tree[:, 2].min() > ground[:, 2].min() - 2


def test_the_order_of_the_points_tells_nothing():
    labels = make_landscape(seed=0).labels
    half = len(labels) // 2
    shares = [np.bincount(part, minlength=3) / half for part in (labels[:half], labels[half:])]
    np.testing.assert_allclose(shares[0][:3], shares[1][:3], atol=0.03)


def test_densities_differ_from_scan_to_scan():
    sizes = [len(make_landscape(seed=seed)) for seed in range(8)]
    assert max(sizes) > 4 * min(sizes)
