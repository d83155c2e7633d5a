"""Thinning of scans, and tiles that cover them."""

import numpy as np
import pytest

from ccnn_geo.datasets.scenes.tiles import Tiling, thinned

ORIGIN = np.array([500_000.0, 5_400_000.0, 250.0])


def scan(count: int = 400, seed: int = 0) -> np.ndarray:
    """Points of a georeferenced box, `[N, 3]`, in multiples of 1/1024."""
    points = np.random.default_rng(seed).random((count, 3)) * (20, 10, 5)
    return ORIGIN + np.round(1024 * points) / 1024


def tiling(**options) -> Tiling:
    return Tiling(**{"radius": 3.0, "voxel_size": 0.0, "num_points": 50, **options})


class TestThinned:
    @pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    def test_the_first_point_of_every_voxel_stays(self, axes):
        points = scan()[:, axes]
        kept = thinned(points, 2.0)
        cells = [tuple(cell) for cell in np.floor((points - points.min(axis=0)) / 2.0).astype(int)]
        first = {}
        for number, cell in enumerate(cells):
            first.setdefault(cell, number)
        assert 100 < len(kept) < 400
        assert kept.tolist() == sorted(first.values())

    def test_voxels_along_every_axis_are_distinct(self):
        points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.9, 0.9, 0.9], [1, 1, 1]])
        assert thinned(points, 1.0).tolist() == [0, 1, 2, 3, 5]

    def test_without_voxels_all_points_stay(self):
        assert thinned(np.zeros((4, 3)), 0.0).tolist() == [0, 1, 2, 3]

    def test_copies_of_a_point_are_one(self):
        assert thinned(np.full((4, 3), 7.0), 0.1).tolist() == [0]

    def test_where_the_scan_lies_does_not_matter(self):
        points = scan()
        near = (points - ORIGIN).astype(np.float32)
        np.testing.assert_array_equal(thinned(points, 0.5), thinned(near, 0.5))

    def test_too_many_voxels_to_number(self):
        points = np.array([[0.0, 0.0, 0.0], [1e6, 1e6, 1e6]])
        message = r"`voxel_size` of a scan of \[1000000.0, .*\] large enough .*, got 1e-06"
        with pytest.raises(ValueError, match=message):
            thinned(points, 1e-6)


class TestInside:
    @pytest.mark.parametrize(("shape", "axes"), [("column", 2), ("sphere", 3)])
    def test_is_a_ball_of_the_axes_that_count(self, shape, axes):
        points, cut = scan(), tiling(shape=shape)
        center = points[7]
        expected = np.linalg.norm((points - center)[:, :axes], axis=1) <= 3.0
        found = cut.inside(cut.tree(points), center)
        assert found.tolist() == np.flatnonzero(expected).tolist()
        assert 7 in found

    def test_a_column_has_all_heights_and_needs_no_third_coordinate(self):
        points = np.array([[0.0, 0.0, -100.0], [1.0, 0.0, 100.0], [4.0, 0.0, 0.0]])
        cut = tiling()
        assert cut.inside(cut.tree(points), np.zeros(2)).tolist() == [0, 1]

    def test_may_be_empty(self):
        cut = tiling()
        assert len(cut.inside(cut.tree(scan()), np.zeros(3))) == 0


class TestCenters:
    @pytest.mark.parametrize("shape", ["column", "sphere"])
    @pytest.mark.parametrize("radius", [0.7, 3.0, 100.0])
    def test_tiles_cover_every_point(self, shape, radius):
        points, cut = scan(), tiling(shape=shape, radius=radius)
        tree, centers = cut.tree(points), cut.centers(points)
        assert centers.shape[1] == cut.axes
        tiles = [cut.inside(tree, center) for center in centers]
        assert set(np.concatenate(tiles).tolist()) == set(range(400))
        assert min(map(len, tiles)) > 0

    def test_most_points_of_a_column_are_in_several_tiles(self):
        points, cut = scan(4000), tiling(radius=1.0)
        tree = cut.tree(points)
        tiles = [cut.inside(tree, center) for center in cut.centers(points)]
        counts = np.bincount(np.concatenate(tiles), minlength=4000)
        assert np.median(counts) in (3, 4)
        assert counts.min() >= 1

    def test_empty_ground_has_no_tiles(self):
        points = np.array([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
        np.testing.assert_allclose(tiling().centers(points), [[1.5, 1.5], [1000.5, 1.5]])


class TestLocal:
    def test_positions_in_a_sphere_are_relative_to_its_centre_and_radius(self):
        points = ORIGIN + np.array([[1.5, 0.0, 0.0], [0.0, -3.0, 0.75]])
        local = tiling(shape="sphere").local(points, ORIGIN)
        assert local.dtype == np.float32
        assert local.tolist() == [[0.5, 0.0, 0.0], [0.0, -1.0, 0.25]]

    @pytest.mark.parametrize("axes", [2, 3])
    def test_heights_in_a_column_are_above_its_ground(self, axes):
        points = ORIGIN + np.column_stack([np.zeros((101, 2)), 0.03 * np.arange(101)])
        points[:, 0] += 1.5
        local = tiling().local(points, ORIGIN[:axes])
        np.testing.assert_allclose(local[:, :2], [[0.5, 0.0]] * 101)
        # The ground is the third lowest of 101 points.
        np.testing.assert_allclose(local[:, 2], 0.01 * (np.arange(101) - 2), atol=1e-6)

    def test_georeferenced_points_keep_their_digits(self):
        points = scan()
        far = tiling().local(points, points[0])
        near = tiling().local(points - ORIGIN, points[0] - ORIGIN)
        np.testing.assert_allclose(far, near, atol=1e-7)


class TestParts:
    @pytest.mark.parametrize(
        ("count", "sizes"),
        [(0, [0]), (1, [1]), (50, [50]), (51, [50] * 2), (100, [50] * 2), (120, [50] * 3)],
    )
    def test_have_one_size_and_every_point(self, count, sizes):
        index = 3 * np.arange(count) + 5
        parts = list(tiling().parts(index, np.random.default_rng(0)))
        assert [len(part) for part in parts] == sizes
        for part in parts:
            assert part.tolist() == sorted(set(part.tolist()))
        occurrences = np.bincount(np.concatenate(parts), minlength=3 * count + 5)
        assert set(np.flatnonzero(occurrences).tolist()) == set(index.tolist())
        assert occurrences.max(initial=0) <= 2
        assert (occurrences == 2).sum() == sum(sizes) - count

    def test_the_division_is_random_and_reproducible(self):
        first, again, other = (
            next(tiling().parts(np.arange(100), np.random.default_rng(seed))).tolist()
            for seed in (0, 0, 1)
        )
        assert first == again != other
        assert first != list(range(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "Expected `radius` > 0 and `voxel_size` >= 0, got 0.0 and 0.0"),
        ({"radius": np.inf}, "Expected `radius` > 0 and `voxel_size` >= 0, got inf and 0.0"),
        ({"radius": np.nan}, "Expected `radius` > 0 and `voxel_size` >= 0, got nan and 0.0"),
        ({"voxel_size": -1.0}, "Expected `radius` > 0 and `voxel_size` >= 0, got 3.0 and -1.0"),
        ({"num_points": 0}, "Expected `num_points` >= 1, got 0"),
        ({"shape": "cube"}, r"Expected `shape` to be one of \('column', 'sphere'\), got 'cube'"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiling(**options)
