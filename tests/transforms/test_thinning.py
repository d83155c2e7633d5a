"""Random thinning of clouds, and the category of an object as a feature of its points."""

import math

import pytest
import torch
from torch_geometric.data import Data

from ccnn_geo.transforms import AppendCategory, RandomThinning


def cloud(count: int = 2000) -> Data:
    """Points in a cube, numbered by their labels."""
    pos = torch.rand(count, 3, generator=torch.Generator().manual_seed(1))
    return Data(
        pos=pos,
        x=pos + 1,
        y=torch.arange(count),
        edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]),
        category=torch.tensor([4]),
    )


def thinning(seed: int = 0, **options) -> RandomThinning:
    return RandomThinning(**{"generator": torch.Generator().manual_seed(seed), **options})


class TestRandomThinning:
    def test_attributes_stay_beside_their_points(self):
        whole = cloud()
        thin = thinning(shares=(0.3, 0.3))(whole)
        assert 500 < thin.num_nodes < 700
        assert torch.equal(thin.pos, whole.pos[thin.y])
        assert torch.equal(thin.x, whole.x[thin.y])
        assert torch.equal(thin.y, thin.y.unique())
        assert thin.category.tolist() == [4]
        assert thin.num_nodes == len(thin.pos) == len(thin.y)
        start, end = thin.edge_index
        edges = set(zip(thin.y[start].tolist(), thin.y[end].tolist(), strict=True))
        kept = set(thin.y.tolist())
        assert edges == {pair for pair in ((0, 1), (1, 2), (2, 0)) if set(pair) <= kept}

    def test_the_cloud_itself_is_left_alone(self):
        whole = cloud()
        thinning(shares=(0.3, 0.3))(whole)
        assert whole.num_nodes == len(whole.pos) == 2000

    def test_all_orders_of_magnitude_of_the_share_are_equally_likely(self):
        transform, data = thinning(shares=(0.01, 1.0), min_points=1), cloud()
        shares = torch.tensor([transform(data).num_nodes / 2000 for _ in range(300)])
        logs = shares.log10()
        assert logs.mean() == pytest.approx(-1, abs=0.1)
        assert logs.std() == pytest.approx(2 / math.sqrt(12), abs=0.08)
        assert 0.005 < shares.min() < 0.015
        assert 0.9 < shares.max() <= 1

    def test_a_share_of_one_keeps_everything(self):
        assert thinning(shares=(1.0, 1.0))(cloud()).y.tolist() == list(range(2000))

    def test_an_even_cloud_is_as_dense_on_all_sides(self):
        for seed in range(5):
            thin = thinning(seed, shares=(0.5, 0.5))(cloud())
            sides = (thin.pos > 0.5).sum(0) / (cloud().pos > 0.5).sum(0)
            torch.testing.assert_close(sides, torch.full((3,), 0.5), atol=0.08, rtol=0)

    def test_an_uneven_cloud_has_fewer_points_on_one_side_of_a_plane_through_its_mean(self):
        transform = thinning(shares=(1.0, 1.0), uneven=1.0, factors=(4.0, 4.0))
        whole = cloud()
        directions = []
        for _ in range(10):
            lost = torch.ones(2000, dtype=torch.bool)
            lost[transform(whole).y] = False
            # Three quarters of the half of all points.
            assert lost.float().mean() == pytest.approx(3 / 8, abs=0.06)
            centred = whole.pos - whole.pos.mean(0)
            direction = centred[lost].mean(0)
            ahead = centred @ direction > 0
            assert lost[ahead].float().mean() > 0.6
            assert lost[~ahead].float().mean() < 0.12
            directions.append(direction / direction.norm())
        spread = torch.stack(directions) @ directions[0]
        assert spread.min() < 0 < spread.max()

    def test_clouds_are_uneven_with_a_probability(self):
        transform = thinning(shares=(1.0, 1.0), uneven=0.3, factors=(4.0, 4.0))
        whole = cloud(200)
        uneven = sum(transform(whole).num_nodes < 200 for _ in range(300))
        assert uneven == pytest.approx(90, abs=30)

    @pytest.mark.parametrize(("count", "kept"), [(8, 8), (16, 16), (20, 16), (2000, 20)])
    def test_a_few_points_stay(self, count, kept):
        sizes = {thinning(seed, shares=(0.01, 0.01))(cloud(count)).num_nodes for seed in range(5)}
        if count < 2000:
            assert sizes == {kept}
        else:
            assert min(sizes) >= 16
            assert sum(sizes) / len(sizes) == pytest.approx(kept, abs=5)

    def test_the_generator_determines_the_points(self):
        first, again, other = (thinning(seed)(cloud()).y.tolist() for seed in (0, 0, 1))
        assert first == again != other
        torch.manual_seed(3)
        default = RandomThinning()(cloud()).y.tolist()
        torch.manual_seed(3)
        assert RandomThinning()(cloud()).y.tolist() == default

    def test_works_far_from_the_origin_and_in_two_dimensions(self):
        data = cloud()
        data.pos = 5e5 + data.pos[:, :2].double()
        thin = thinning(shares=(1.0, 1.0), uneven=1.0, factors=(4.0, 4.0))(data)
        assert 1150 < thin.num_nodes < 1350
        assert torch.equal(thin.pos, data.pos[thin.y])

    def test_shows_its_options(self):
        shown = repr(RandomThinning(uneven=0.3))
        assert "shares=(0.1, 1.0), uneven=0.3" in shown

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"shares": (0.0, 1.0)},
                r"`shares` \(low, high\) with 0 < low <= high <= 1, got \(0.0",
            ),
            ({"shares": (0.5, 0.4)}, r"`shares` .* got \(0.5, 0.4\)"),
            ({"shares": (0.5, 1.1)}, r"`shares` .* got \(0.5, 1.1\)"),
            ({"shares": (0.5,)}, r"`shares` .* got \(0.5,\)"),
            ({"uneven": -0.1}, r"Expected `uneven` in \[0, 1\].*, got -0.1"),
            ({"uneven": 1.1}, r"Expected `uneven` in \[0, 1\].*, got 1.1"),
            ({"factors": (0.5, 2.0)}, r"`factors` .* with 1 <= low <= high, got \(0.5, 2.0\)"),
            ({"factors": (4.0, 2.0)}, r"`factors` .* got \(4.0, 2.0\)"),
            ({"factors": (1.0, math.inf)}, r"`factors` .* got \(1.0, inf\)"),
            ({"min_points": 0}, "Expected `min_points` to be at least 1, got 0"),
        ],
    )
    def test_arguments_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            RandomThinning(**options)

    def test_numbers_that_are_not_whole(self):
        with pytest.raises(TypeError, match="Expected `min_points` to be a whole number, got 2.0"):
            RandomThinning(min_points=2.0)

    def test_positions_are_needed(self):
        with pytest.raises(ValueError, match="Expected data with a tensor `pos`, got `x`"):
            thinning()(Data(x=torch.rand(3, 2)))


class TestAppendCategory:
    def test_every_point_has_a_channel_for_each_category(self):
        data = Data(x=torch.tensor([[7.0, 8.0], [9.0, 1.0]]), category=torch.tensor([2]))
        found = AppendCategory(4)(data)
        assert found.x.tolist() == [[7, 8, 0, 0, 1, 0], [9, 1, 0, 0, 1, 0]]
        assert data.x.shape == (2, 2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_the_type_of_the_features(self, dtype):
        data = Data(x=torch.ones(2, 1, dtype=dtype), category=torch.tensor(0))
        found = AppendCategory(1)(data).x
        assert found.dtype == dtype
        assert found.tolist() == [[1, 1], [1, 1]]

    @pytest.mark.parametrize("category", [[-1], [3], [0, 1], []])
    def test_a_category_out_of_range(self, category):
        data = Data(x=torch.ones(2, 1), category=torch.tensor(category, dtype=torch.long))
        with pytest.raises(ValueError, match="`category` to be one index below 3, got"):
            AppendCategory(3)(data)

    @pytest.mark.parametrize("missing", ["x", "category"])
    def test_a_missing_attribute(self, missing):
        data = Data(x=torch.ones(2, 1), category=torch.tensor([0]))
        del data[missing]
        with pytest.raises(ValueError, match=f"Expected data with a tensor `{missing}`"):
            AppendCategory(3)(data)

    def test_numbers_of_categories(self):
        with pytest.raises(ValueError, match="Expected `num_categories` to be at least 1, got 0"):
            AppendCategory(0)
        with pytest.raises(TypeError, match="Expected `num_categories` to be a whole number"):
            AppendCategory(2.0)
