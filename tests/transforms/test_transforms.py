"""The transforms between a mesh or a raw cloud and what a network takes in."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform, Compose

from ccnn_geo.transforms.augment import GaussianJitter, PointSubset, RandomRotateZ, RandomScale
from ccnn_geo.transforms.functional import normalize_positions, sample_surface, subset_indices
from ccnn_geo.transforms.mesh import EstimateNormals, NormalizePositions, SampleMesh, StackFeatures
from datasets_helpers import open3d

RANDOM: dict[str, Callable[..., BaseTransform]] = {
    "sample": lambda **options: SampleMesh(40, **options),
    "subset": lambda **options: PointSubset(3, **options),
    "jitter": GaussianJitter,
    "scale": RandomScale,
    "rotate": RandomRotateZ,
}
DETERMINISTIC = {
    "box": NormalizePositions(),
    "ball": NormalizePositions("ball"),
    "stack": StackFeatures(),
}


@pytest.fixture
def needs_open3d() -> None:
    open3d()


def prism() -> Data:
    """Returns an open wedge of four triangles, with attributes on its vertices."""
    pos = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 3, 0], [0, 3, 0], [0, 0, 1], [4, 0, 1]])
    face = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 1, 5], [0, 5, 4]]).t()
    normal = torch.nn.functional.normalize(pos + 1, dim=1)
    return Data(pos=pos, face=face, normal=normal, mass=torch.ones(6), y=torch.tensor([3]))


def ball(num_points: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(num_points, 3, generator=generator), dim=1)


def snapshot(data: Data) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in data.to_dict().items()}


def assert_same(first: Data, second: Data) -> None:
    assert set(first.keys()) == set(second.keys())
    for key in first.keys():
        assert torch.equal(first[key], second[key]), key


class TestEveryTransform:
    @pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)
    def test_random_ones_leave_their_input_as_it_was(self, make):
        data = prism()
        before = snapshot(data)
        make()(data)
        assert_same(data, Data.from_dict(before))

    @pytest.mark.parametrize("transform", DETERMINISTIC.values(), ids=DETERMINISTIC)
    def test_deterministic_ones_leave_their_input_as_it_was(self, transform):
        data = prism()
        before = snapshot(data)
        transform(data)
        assert_same(data, Data.from_dict(before))

    @pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)
    def test_random_ones_repeat_under_torchs_global_seed_and_differ_otherwise(self, make):
        transform = make()
        torch.manual_seed(7)
        first, second = transform(prism()), transform(prism())
        torch.manual_seed(7)
        assert_same(first, transform(prism()))
        assert not torch.equal(first.pos, second.pos)

    @pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)
    def test_random_ones_draw_from_the_generator_alone_where_there_is_one(self, make):
        first = make(generator=torch.Generator().manual_seed(3))(prism())
        state = torch.get_rng_state()
        second = make(generator=torch.Generator().manual_seed(3))(prism())
        assert_same(first, second)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("make", [*RANDOM.values(), NormalizePositions, StackFeatures])
    def test_names_what_is_missing(self, make):
        with pytest.raises(ValueError, match="Expected data with a tensor `(pos|normal)`, got `y`"):
            make()(Data(y=torch.tensor([1])))

    def test_says_what_it_was_made_with(self):
        assert repr(SampleMesh(10)) == "SampleMesh(num_points=10)"
        assert repr(RandomScale((0.5, 2.0))) == "RandomScale(scales=(0.5, 2.0))"

    def test_work_one_after_the_other(self):
        chain = Compose([SampleMesh(64, seed=0), NormalizePositions(), StackFeatures()])
        data = chain(prism())
        assert data.x.shape == (64, 6)
        assert torch.equal(data.x, torch.cat([data.normal, data.pos], dim=1))


class TestSampleMesh:
    def test_draws_faces_in_proportion_to_their_area(self):
        data = SampleMesh(40_000, seed=0)(prism())
        # Two triangles of area 6 in the plane z = 0, two of area 2 in the plane y = 0.
        on_ground = (data.normal[:, 2].abs() > 0.5).float().mean().item()
        assert on_ground == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 40_000) ** 0.5)

    def test_draws_uniformly_within_a_face(self):
        vertices, faces = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
        points, _ = sample_surface(vertices, faces, 40_000, seed=0)
        assert (points >= 0).all()
        assert (points.sum(axis=1) <= 1 + 1e-12).all()
        # The mean of a triangle is its centroid; its coordinates have variance 1/18.
        assert np.abs(points.mean(axis=0) - [1 / 3, 1 / 3, 0]).max() < 4 * (1 / 18 / 40_000) ** 0.5

    def test_points_lie_on_their_faces_and_carry_unit_normals_of_them(self):
        data = SampleMesh(200, seed=1)(prism())
        ground = data.normal[:, 2].abs() > 0.5
        assert torch.equal(
            data.normal[ground].abs(), torch.tensor([[0.0, 0, 1]]).expand(ground.sum(), 3)
        )
        assert data.pos[ground, 2].abs().max() == 0
        assert data.pos[~ground, 1].abs().max() == 0

    def test_normals_follow_the_order_of_the_corners(self):
        flipped = prism()
        flipped.face = flipped.face.flip(0)
        first, second = SampleMesh(50, seed=2)(prism()), SampleMesh(50, seed=2)(flipped)
        assert torch.equal(
            first.normal[:, 2].abs().sort().values, second.normal[:, 2].abs().sort().values
        )
        assert first.normal[first.normal[:, 2] != 0][0, 2] == 1
        assert second.normal[second.normal[:, 2] != 0][0, 2] == -1

    def test_same_seed_same_points(self):
        transform = SampleMesh(100, seed=5)
        assert torch.equal(transform(prism()).pos, transform(prism()).pos)
        assert not torch.equal(transform(prism()).pos, SampleMesh(100, seed=6)(prism()).pos)

    def test_never_draws_a_face_without_area(self):
        data = prism()
        degenerate = torch.tensor([[0, 0, 1], [2, 2, 2], [3, 1, 3]]).t()
        data.face = torch.cat([degenerate, data.face, degenerate], dim=1)
        data.pos = torch.cat([data.pos, data.pos.new_tensor([[2.0, 0, 0]])])
        data.face = torch.cat([data.face, torch.tensor([[0], [6], [1]])], dim=1)  # on one line
        sampled = SampleMesh(1000, seed=0)(data)
        assert torch.allclose(sampled.normal.norm(dim=1), torch.ones(1000))
        assert torch.equal(sampled.pos, SampleMesh(1000, seed=0)(prism()).pos)

    @pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
    def test_works_at_any_scale(self, size):
        vertices = size * prism().pos.numpy().astype(np.float64)
        points, normals = sample_surface(vertices, prism().face.t().numpy(), 100, seed=0)
        reference, _ = sample_surface(vertices / size, prism().face.t().numpy(), 100, seed=0)
        np.testing.assert_allclose(points / size, reference, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-12)

    def test_what_belonged_to_the_vertices_goes_and_the_label_stays(self):
        data = SampleMesh(10)(prism())
        assert sorted(data.keys()) == ["normal", "pos", "y"]
        assert data.y.item() == 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_the_type_of_the_positions(self, dtype):
        data = prism()
        data.pos = data.pos.to(dtype)
        assert SampleMesh(10)(data).pos.dtype == SampleMesh(10)(data).normal.dtype == dtype

    def test_refuses_a_mesh_without_area(self):
        line = torch.linspace(0, 1, 6).double()[:, None] * torch.tensor([[0.1, 0.2, 0.3]]).double()
        for pos in (torch.ones(6, 3), line, 100 + line, line.float(), 100 + line.float()):
            data = Data(pos=pos, face=prism().face)
            with pytest.raises(ValueError, match="got zero area in all 4 faces"):
                SampleMesh(10)(data)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"face": torch.empty(3, 0, dtype=torch.long)}, "got zero area in all 0 faces"),
            ({"pos": torch.full((6, 3), torch.nan)}, "`vertices` to be finite"),
            ({"pos": torch.ones(6, 2)}, r"`pos` of shape \[N, 3\], got \[6, 2\]"),
            (
                {"face": torch.zeros(4, 2, dtype=torch.long)},
                r"`face` of shape \[3, F\], got \[4, 2\]",
            ),
            ({"face": torch.tensor([[0], [1], [6]])}, "`face` to index 6 vertices"),
            ({"face": torch.tensor([[0], [1], [-1]])}, "`face` to index 6 vertices"),
        ],
    )
    def test_refuses_a_broken_mesh(self, change, message):
        data = prism()
        data.update(change)
        with pytest.raises(ValueError, match=message):
            SampleMesh(10)(data)

    def test_refuses_to_draw_no_points(self):
        with pytest.raises(ValueError, match="`num_points` to be at least 1, got 0"):
            SampleMesh(0)


class TestNormalizePositions:
    def test_box_touches_the_unit_box_about_the_centre_of_mass(self):
        pos = NormalizePositions()(Data(pos=ball() * 30 + 100)).pos
        assert pos.mean(0).abs().max() < 1e-5
        assert pos.abs().max() == 1

    def test_ball_touches_the_unit_ball_about_the_centre_of_mass(self):
        pos = NormalizePositions("ball")(Data(pos=ball() * 30 + 100)).pos
        assert pos.mean(0).abs().max() < 1e-5
        assert pos.norm(dim=1).max().item() == pytest.approx(1)

    @pytest.mark.parametrize("method", ["box", "ball"])
    def test_neither_moving_nor_scaling_the_input_changes_the_result(self, method):
        pos = ball().double()
        reference = normalize_positions(pos, method)
        torch.testing.assert_close(normalize_positions(1e-3 * pos + 50, method), reference)

    @pytest.mark.parametrize("method", ["box", "ball"])
    @pytest.mark.parametrize("num_points", [1, 1000])
    def test_identical_points_all_go_to_the_origin(self, method, num_points):
        pos = torch.full((num_points, 3), 0.1)
        assert torch.equal(
            NormalizePositions(method)(Data(pos=pos)).pos, torch.zeros(num_points, 3)
        )

    def test_arrays_and_tensors_give_the_same(self):
        pos = ball().double()
        np.testing.assert_allclose(normalize_positions(pos.numpy()), normalize_positions(pos))
        assert normalize_positions(pos.numpy()[:0]).shape == (0, 3)

    def test_works_in_any_number_of_dimensions(self):
        pos = NormalizePositions()(Data(pos=torch.tensor([[0.0], [4.0]]))).pos
        assert torch.equal(pos, torch.tensor([[-1.0], [1.0]]))

    def test_refuses_an_unknown_method(self):
        with pytest.raises(ValueError, match="`method` to be 'box' or 'ball', got 'cube'"):
            NormalizePositions("cube")

    @pytest.mark.parametrize("pos", [torch.empty(0, 3), torch.tensor([[0.0, torch.inf, 0]])])
    def test_refuses_positions_that_are_empty_or_not_finite(self, pos):
        with pytest.raises(ValueError, match="`pos` with at least one point, all of them finite"):
            NormalizePositions()(Data(pos=pos))


class TestEstimateNormals:
    def test_normals_of_a_ball_look_outwards(self, needs_open3d):
        data = Data(pos=ball() + 5)
        normal = EstimateNormals()(data).normal
        assert "normal" not in data
        assert normal.dtype == torch.float32
        assert ((normal * ball()).sum(1) > 0.97).all()

    def test_normals_of_a_plane_stand_on_it(self, needs_open3d):
        pos = torch.cat(
            [torch.rand(100, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(100, 1)], 1
        )
        normal = EstimateNormals(num_neighbors=10)(Data(pos=pos)).normal
        torch.testing.assert_close(normal.abs(), torch.tensor([[0.0, 0, 1]]).expand(100, 3))

    def test_refuses_too_few_points(self):
        with pytest.raises(ValueError, match="at least 3 points to estimate normals, got 2"):
            EstimateNormals()(Data(pos=torch.rand(2, 3)))
        with pytest.raises(ValueError, match="`num_neighbors` to be at least 3, got 2"):
            EstimateNormals(2)

    def test_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "open3d", None)
        with pytest.raises(
            ImportError, match=r"open3d to estimate normals: pip install 'ccnn_geo\[mesh\]'"
        ):
            EstimateNormals()(Data(pos=torch.rand(9, 3)))


class TestPointSubset:
    def test_keeps_distinct_points_with_all_that_belongs_to_them(self):
        data = Data(
            pos=torch.arange(300.0).view(100, 3), index=torch.arange(100), y=torch.tensor([4])
        )
        subset = PointSubset(30)(data)
        assert len(subset.index.unique()) == 30
        assert torch.equal(subset.pos, data.pos[subset.index])
        assert subset.y.tolist() == [4]

    def test_every_point_is_equally_likely(self):
        torch.manual_seed(0)
        counts = torch.zeros(10)
        for _ in range(4000):
            counts[subset_indices(10, 3)] += 1
        assert (counts / 4000 - 0.3).abs().max() < 4 * (0.3 * 0.7 / 4000) ** 0.5

    def test_a_seed_makes_it_the_same_every_time(self):
        data = Data(pos=ball())
        transform = PointSubset(30, seed=1)
        assert torch.equal(transform(data).pos, transform(data).pos)

    @pytest.mark.parametrize("num_points", [6, 100])
    def test_a_smaller_cloud_is_kept_whole_and_in_order(self, num_points):
        assert torch.equal(PointSubset(num_points)(prism()).pos, prism().pos)

    def test_refuses_to_keep_no_points(self):
        with pytest.raises(ValueError, match="`num_points` to be at least 1, got -1"):
            PointSubset(-1)


class TestAugmentation:
    def test_jitter_stays_within_its_clip(self):
        torch.manual_seed(0)
        step = GaussianJitter(sigma=0.02, clip=0.03)(Data(pos=ball(5000))).pos - ball(5000)
        assert step.abs().max().item() == pytest.approx(0.03, abs=1e-6)
        assert step.abs().min() < 1e-4
        assert GaussianJitter(sigma=0)(Data(pos=ball())).pos.equal(ball())

    def test_scale_is_one_factor_within_its_range(self):
        torch.manual_seed(0)
        factors = []
        for _ in range(100):
            data = RandomScale((0.5, 2.0))(prism())
            factors.append((data.pos[1, 0] / 4).item())
            torch.testing.assert_close(data.pos, factors[-1] * prism().pos)
            assert torch.equal(data.normal, prism().normal)
        assert 0.5 <= min(factors) < 0.6
        assert 1.9 < max(factors) <= 2.0

    def test_rotation_turns_normals_with_positions_and_keeps_the_vertical(self):
        torch.manual_seed(0)
        data = RandomRotateZ()(prism())
        assert not torch.allclose(data.pos, prism().pos)
        assert torch.equal(data.pos[:, 2], prism().pos[:, 2])
        torch.testing.assert_close(data.pos @ data.normal.t(), prism().pos @ prism().normal.t())
        torch.testing.assert_close(data.pos @ data.pos.t(), prism().pos @ prism().pos.t())
        torch.testing.assert_close(torch.linalg.det(data.pos[[1, 3, 4]]), torch.tensor(12.0))

    def test_rotation_works_without_normals_and_keeps_within_its_limit(self):
        torch.manual_seed(0)
        east = Data(pos=torch.tensor([[1.0, 0, 0]]))
        angles = [
            torch.atan2(p[1], p[0]).item()
            for p in (RandomRotateZ(30)(east).pos[0] for _ in range(200))
        ]
        limit = torch.pi / 6
        assert -limit <= min(angles) < -0.9 * limit
        assert 0.9 * limit < max(angles) <= limit
        assert torch.equal(RandomRotateZ(0)(east).pos, east.pos)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: GaussianJitter(sigma=-1), "`sigma` and `clip` >= 0, got -1 and 0.05"),
            (
                lambda: RandomScale((0, 1)),
                r"`scales` \(low, high\) with 0 < low <= high, got \(0, 1\)",
            ),
            (lambda: RandomScale((2, 1)), r"got \(2, 1\)"),
            (lambda: RandomRotateZ(-5), "`max_degrees` >= 0, got -5"),
        ],
    )
    def test_refuses_ranges_that_make_no_sense(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestStackFeatures:
    def test_stacks_normals_then_positions_by_default(self):
        x = StackFeatures()(prism()).x
        assert torch.equal(x, torch.cat([prism().normal, prism().pos], dim=1))

    def test_stacks_what_it_is_told(self):
        data = prism()
        data.colour = torch.rand(6, 2)
        x = StackFeatures(["pos", "colour"])(data).x
        assert torch.equal(x, torch.cat([data.pos, data.colour], dim=1))

    def test_makes_batches(self):
        batch = Batch.from_data_list([StackFeatures(["pos"])(prism()) for _ in range(2)])
        assert batch.x.shape == (12, 3)

    def test_names_the_missing_attribute(self):
        with pytest.raises(ValueError, match="Expected data with a tensor `normal`, got `pos`"):
            StackFeatures()(Data(pos=ball()))

    def test_refuses_attributes_that_are_no_columns(self):
        with pytest.raises(ValueError, match=r"`mass` of shape \[N, C\], got \[6\]"):
            StackFeatures(["pos", "mass"])(prism())
        for attributes in ("pos", []):
            with pytest.raises(ValueError, match="`attributes` to be a sequence of names"):
                StackFeatures(attributes)
