"""Clouds of any density: neighbours by distance, weights by density, weighted readouts."""

import math

import pytest
import torch
from torch_geometric.data import Batch, Data

from ccnn_geo import CCNN
from ccnn_geo.ops import quadrature_weights, radius_graph
from ccnn_geo.ops.neighbor_search import neighbors_within

SETTINGS = {"hidden_channels": 8, "num_blocks": 2, "kernel_channels": 4, "omega_0": 1.0}


def lattice(count: int) -> torch.Tensor:
    """Points that are evenly distributed on the unit sphere, along a spiral."""
    turns = torch.arange(count, dtype=torch.float64)
    height = 1 - (2 * turns + 1) / count
    angle = turns * math.pi * (3 - math.sqrt(5))
    around = (1 - height**2).sqrt()
    return torch.stack([around * angle.cos(), around * angle.sin(), height], 1)


def sphere(count: int, seed: int = 0) -> torch.Tensor:
    """Points that are uniform on the unit sphere."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return points / points.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("count", [500, 4000])
def test_weights_add_up_to_the_area(count):
    weight = quadrature_weights(sphere(count))
    assert float(weight.sum()) == pytest.approx(4 * math.pi, rel=0.05)


def test_weights_of_an_uneven_cloud_share_the_area_evenly():
    pos = torch.rand(8000, 2, dtype=torch.float64)
    kept = (pos[:, 0] < 0.5) | (torch.rand(8000) < 0.2)
    weight = quadrature_weights(pos[kept], density=3.0)
    left = pos[kept][:, 0] < 0.5
    for half in (left, ~left):
        assert float(weight[half].sum()) == pytest.approx(1.5, rel=0.08)


def test_weights_do_not_depend_on_the_other_clouds_and_follow_the_unit():
    pos, batch = torch.rand(60, 3), torch.tensor([0] * 20 + [1] * 40)
    weight = quadrature_weights(pos, batch)
    torch.testing.assert_close(weight[:20], quadrature_weights(pos[:20]))
    torch.testing.assert_close(weight[20:], quadrature_weights(pos[20:]))
    torch.testing.assert_close(quadrature_weights(10 * pos, batch), 100 * weight)
    torch.testing.assert_close(quadrature_weights(10 * pos, batch, dim=3).shape, weight.shape)


def test_weights_in_a_periodic_box_are_those_of_its_repetition():
    pos = torch.rand(50, 2, dtype=torch.float64)
    shifts = torch.cartesian_prod(*[torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64)] * 2)
    repeated = (pos + shifts[:, None]).reshape(-1, 2)
    weight = quadrature_weights(pos, period=1.0)
    torch.testing.assert_close(weight, quadrature_weights(repeated)[:50])


def test_single_and_coinciding_points_have_finite_weights():
    assert quadrature_weights(torch.zeros(1, 3)).tolist() == [1.0]
    assert quadrature_weights(torch.zeros(9, 3)).tolist() == [0.0] * 9
    network = CCNN(3, 2, dim=3, radius=0.5, density=10.0, **SETTINGS).eval()
    x = torch.ones(9, 3)
    assert bool(network(x, torch.zeros(9, 3)).isfinite().all())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"density": 0.0}, ValueError, "`density` to be positive and finite, got 0.0"),
        ({"dim": 0}, ValueError, "`dim` >= 1|`dim`"),
        ({"num_neighbors": 1.5}, TypeError, "`num_neighbors`"),
    ],
)
def test_weights_of_arguments_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        quadrature_weights(torch.rand(9, 3), **options)


@pytest.mark.parametrize("name", ["radius", "density"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_network_of_settings_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be positive and finite, got"):
        CCNN(3, 2, dim=3, **{name: value}, **SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "period"), [(300, None), (2500, None), (300, 2.0)])
def test_neighbours_within_a_distance_are_the_edges_of_the_radius_graph(dtype, count, period):
    pos, batch = (
        torch.rand(count, 3, dtype=dtype),
        torch.arange(3).repeat_interleave(count // 3 + 1),
    )
    batch = batch[:count]
    neighbors = neighbors_within(pos, 0.2, batch, period=period)
    expected = radius_graph(pos, 0.2, batch, loop=True, period=period)
    found = torch.stack([neighbors.source, neighbors.target])
    assert set(map(tuple, found.t().tolist())) == set(map(tuple, expected.t().tolist()))
    assert bool((found[1].diff() >= 0).all())


def test_a_network_with_a_radius_sees_all_points_within_it():
    pos, x = torch.rand(80, 3), torch.rand(80, 3)
    network = CCNN(3, 2, dim=3, radius=0.4, **SETTINGS).eval()
    graph = radius_graph(pos, 0.4, loop=True)
    torch.testing.assert_close(network(x, pos), network(x, pos, edge_index=graph))
    others = CCNN(3, 2, dim=3, radius=0.2, **SETTINGS).eval()
    others.load_state_dict(network.state_dict())
    assert not torch.allclose(network(x, pos), others(x, pos), atol=1e-6)


def test_a_network_with_a_density_weighs_points_by_it():
    pos, x = torch.rand(80, 3), torch.rand(80, 3)
    network = CCNN(3, 2, dim=3, radius=0.4, density=50.0, **SETTINGS).eval()
    weight = quadrature_weights(pos, density=50.0)
    torch.testing.assert_close(network(x, pos), network(x, pos, weight=weight))
    assert not torch.allclose(network(x, pos), network(x, pos, weight=torch.ones(80)), atol=1e-6)


@torch.no_grad()
def test_a_network_with_radius_and_density_depends_less_on_the_number_of_points():
    def spread(**settings) -> float:
        torch.manual_seed(0)
        network = CCNN(3, 4, dim=3, window_width=0.2, **settings, **SETTINGS).double().eval()
        outputs = [network(pos, pos) for pos in (lattice(1200), lattice(400))]
        return float((outputs[0] - outputs[1]).norm() / outputs[0].norm())

    assert spread(radius=0.7, density=80.0) < 0.25 * spread(num_neighbors=100)


def test_the_mean_of_a_readout_has_the_weights():
    pos, x = torch.rand(12, 3), torch.rand(12, 3)
    weight, batch = torch.rand(12), torch.tensor([0] * 5 + [1] * 7)
    pooled = CCNN(3, 2, dim=3, **SETTINGS).eval()
    points = CCNN(3, 2, dim=3, readout=None, **SETTINGS).eval()
    points.load_state_dict(pooled.state_dict())
    rows = points(x, pos, batch, weight=weight)
    expected = torch.stack(
        [
            (weight[own, None] * rows[own]).sum(0) / weight[own].sum()
            for own in (batch == 0, batch == 1)
        ]
    )
    torch.testing.assert_close(pooled(x, pos, batch, weight=weight), expected)
    none = torch.zeros(12)
    torch.testing.assert_close(
        pooled(x, pos, batch, weight=none),
        torch.stack(
            [points(x, pos, batch, weight=none)[own].mean(0) for own in (batch == 0, batch == 1)]
        ),
    )


def test_settings_survive_saving(tmp_path):
    network = CCNN(3, 2, dim=3, radius=0.4, density=50.0, **SETTINGS).eval()
    network.save_pretrained(tmp_path)
    loaded = CCNN.from_pretrained(tmp_path)
    assert (loaded.radius, loaded.density) == (0.4, 50.0)
    batch = Batch.from_data_list([Data(pos=torch.rand(30, 3)) for _ in range(2)])
    torch.testing.assert_close(
        loaded(batch.pos, batch.pos, batch.batch), network(batch.pos, batch.pos, batch.batch)
    )
