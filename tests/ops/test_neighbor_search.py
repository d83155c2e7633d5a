"""Neighbour search against a plain sort of all distances."""

import importlib.util
import inspect
import itertools
import sys

import numpy as np
import pytest
import torch
from torch_geometric.nn import knn_graph as pygs_knn_graph
from torch_geometric.nn import radius_graph as pygs_radius_graph

from ccnn_geo import knn_graph, radius_graph
from ccnn_geo.ops import nearest_neighbors
from ccnn_geo.ops.neighbor_backends.registry import choose
from clouds_helpers import random_clouds


def available(backend: str):
    missing = importlib.util.find_spec(backend) is None
    return pytest.param(backend, marks=pytest.mark.skipif(missing, reason=f"{backend} is missing"))


BACKENDS = [available(name) for name in ("torch", "scipy", "torch_cluster")]


def plain_knn(pos, k, batch):
    """Every point's k nearest by sorting all distances, itself first."""
    edges = set()
    for i in range(len(pos)):
        distance = (pos - pos[i]).square().sum(-1)
        distance[batch != batch[i]] = float("inf")
        distance[i] = -1
        count = min(k, int((batch == batch[i]).sum()))
        edges |= {(int(j), i) for j in distance.argsort()[:count]}
    return edges


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_knn_equals_a_full_sort_for_clouds_of_different_sizes(backend, dim, k):
    _, pos, batch = random_clouds(30, 1, 12, dim=dim)
    edge_index = knn_graph(pos, k, batch, backend=backend, loop=True)
    assert {(int(j), int(i)) for j, i in edge_index.T} == plain_knn(pos, k, batch)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_are_sorted_by_target_and_begin_with_the_point_itself(backend):
    _, pos, batch = random_clouds(30, 25)
    source, target = knn_graph(pos, 5, batch, backend=backend, loop=True)
    assert torch.equal(target, torch.arange(55).repeat_interleave(5))
    assert torch.equal(source.view(-1, 5)[:, 0], torch.arange(55))
    distance = (pos[source] - pos[target]).norm(dim=1).view(-1, 5)
    assert bool((distance.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_point_itself_is_kept_among_many_at_the_same_place(backend):
    pos = torch.zeros(50, 3)
    source, target = knn_graph(pos, 4, backend=backend, loop=True)
    assert torch.equal(source.view(-1, 4)[:, 0], torch.arange(50))
    assert all(len(set(row)) == 4 for row in source.view(-1, 4).tolist())
    assert torch.equal(target, torch.arange(50).repeat_interleave(4))


@pytest.mark.parametrize("backend", ["torch", "scipy"])
@pytest.mark.parametrize(("sizes", "k"), [((1024,) * 6, 3), ((3000,), 1500)])
def test_clouds_too_large_for_one_chunk_are_searched_whole(backend, sizes, k):
    _, pos, batch = random_clouds(*sizes, dim=2)
    table = nearest_neighbors(pos, k, batch, backend=backend).index.view(-1, k)
    start = 0
    for cloud in pos.split(sizes):
        rows = torch.tensor([0, len(cloud) // 2, len(cloud) - 1])
        expected = torch.cdist(cloud[rows], cloud).topk(k, largest=False).indices + start
        assert torch.equal(table[rows + start], expected)
        start += len(cloud)


def test_far_from_the_origin_the_same_neighbours_are_found():
    pos = torch.rand(64, 3)
    assert torch.equal(knn_graph(pos, 8, loop=True), knn_graph(pos.double() + 1000, 8, loop=True))


def test_without_loops_there_are_k_others():
    _, pos, _ = random_clouds(20)
    source, target = knn_graph(pos, 4, loop=False)
    assert bool((source != target).all())
    assert torch.equal(torch.bincount(target), torch.full((20,), 4))


@pytest.mark.parametrize("backend", ["torch", "scipy"])
@pytest.mark.parametrize("loop", [True, False])
def test_radius_graph_holds_exactly_the_pairs_within_the_radius(backend, loop):
    _, pos, batch = random_clouds(30, 1, 12)
    source, target = radius_graph(pos, 0.8, batch, loop=loop, backend=backend)
    near = (torch.cdist(pos, pos) <= 0.8) & (batch[:, None] == batch)
    if not loop:
        near.fill_diagonal_(False)
    found = torch.zeros_like(near)
    found[target, source] = True
    assert torch.equal(found, near)
    assert len(source) == int(near.sum())
    assert bool((target.diff() >= 0).all())


@pytest.mark.parametrize("period", [None, 2.0])
def test_every_backend_gives_the_same_edges_of_clouds_too_large_for_one_chunk(period):
    _, pos, batch = random_clouds(3000, 2500, dim=2)
    edges = [radius_graph(pos, 0.03, batch, period=period, backend=b) for b in ("torch", "scipy")]
    assert torch.equal(*edges)
    assert edges[0].size(1) > 5000


def test_radius_graph_keeps_the_nearest_where_there_are_too_many():
    _, pos, batch = random_clouds(40, 20)
    nearest = knn_graph(pos, 3, batch, loop=True)
    assert torch.equal(radius_graph(pos, 10.0, batch, max_num_neighbors=3, loop=True), nearest)


def test_no_points_have_no_neighbours():
    assert knn_graph(torch.zeros(0, 3), 4, loop=True).shape == (2, 0)
    assert radius_graph(torch.zeros(0, 3), 1.0, loop=True).shape == (2, 0)


def test_a_cloud_number_without_points_is_passed_over():
    pos = torch.rand(6, 3)
    batch = torch.tensor([0, 0, 0, 2, 2, 2])
    assert torch.equal(
        knn_graph(pos, 2, batch, loop=True), knn_graph(pos, 2, batch.clamp(max=1), loop=True)
    )


@pytest.mark.parametrize("autocast", [torch.bfloat16])
def test_autocast_does_not_blur_the_search(autocast):
    pos = torch.rand(64, 3)
    expected = knn_graph(pos, 8, loop=True)
    with torch.autocast("cpu", dtype=autocast):
        assert torch.equal(knn_graph(pos, 8, loop=True), expected)


@pytest.mark.parametrize(
    ("pos", "k", "batch", "error", "match"),
    [
        (torch.rand(4, 3), 0, None, ValueError, r"`k` >= 1, got 0"),
        (torch.rand(4, 3), float("inf"), None, TypeError, "`k` to be a whole number, got inf"),
        (torch.rand(4, 3), 1.5, None, TypeError, "`k` to be a whole number, got 1.5"),
        (np.zeros((4, 3)), 1, None, TypeError, "`pos` to be a tensor, got a numpy.ndarray"),
        (torch.rand(4), 1, None, ValueError, r"`pos` of shape \[N, D\], got \[4\]"),
        (torch.ones(4, 3, dtype=torch.int64), 1, None, TypeError, r"call pos.float\(\) first"),
        (torch.rand(4, 3).half(), 1, None, TypeError, "float16"),
        (torch.full((4, 3), torch.nan), 1, None, ValueError, "finite `pos`"),
        (torch.full((4, 3), torch.inf), 1, None, ValueError, "finite `pos`"),
        (torch.rand(4, 3), 1, torch.tensor([0, 1, 0, 1]), ValueError, "sorted"),
        (torch.rand(4, 3), 1, torch.tensor([-1, 0, 0, 1]), ValueError, "not negative"),
        (torch.rand(4, 3), 1, torch.tensor([0, 0, 1]), ValueError, r"`batch` of shape \[4\]"),
        (torch.rand(4, 3), 1, torch.zeros(4), TypeError, "`batch` to be int64"),
        (
            torch.rand(4, 3),
            1,
            torch.zeros(4, dtype=torch.int64, device="meta"),
            ValueError,
            "`batch` on cpu like `pos`, got meta",
        ),
    ],
)
def test_bad_input_is_named(pos, k, batch, error, match):
    with pytest.raises(error, match=match):
        knn_graph(pos, k, batch, loop=True)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"r": 0.0}, "`r` to be positive and finite, got 0.0"),
        ({"r": float("nan")}, "`r` to be positive and finite, got nan"),
        ({"r": float("inf")}, "`r` to be positive and finite, got inf"),
        ({"r": 1.0, "flow": "both"}, "`flow` to be 'source_to_target' or"),
        ({"r": 1.0, "max_num_neighbors": 0}, "`max_num_neighbors` >= 1"),
        ({"r": 1.0, "backend": "torch_cluster"}, "`backend` to be auto, torch or scipy"),
        ({"r": 1.0, "backend": "faiss"}, "one of auto, torch"),
    ],
)
def test_bad_radius_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        radius_graph(torch.rand(4, 3), **arguments)


def test_a_missing_backend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(RuntimeError, match="'scipy' is not installed"):
        knn_graph(torch.rand(4, 3), 2, backend="scipy", loop=True)


def test_neighbours_in_any_order_are_the_same_ones():
    _, pos, batch = random_clouds(40, 40, 7)
    ordered, free = (nearest_neighbors(pos, 9, batch, ordered=o).edge_index for o in (True, False))
    assert {tuple(e) for e in ordered.T.tolist()} == {tuple(e) for e in free.T.tolist()}
    assert torch.equal(ordered[1], free[1])


def test_auto_takes_the_tree_for_large_clouds_only():
    small, large = torch.rand(100, 3), torch.rand(5000, 3)
    assert choose("auto", small, 8, 100) == "torch"
    assert choose("auto", large, 8, 5000) == "scipy"
    # Brute force is slower modulo a period.
    assert choose("auto", small, 8, 1000) == "torch"
    assert choose("auto", small, 8, 1000, period=(1.0, None, None)) == "scipy"
    assert nearest_neighbors(large, 8).degree == 8


@pytest.mark.parametrize("backend", ["torch", "scipy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [0.1, 0.25, 1 / 3])
def test_pairs_at_exactly_the_radius_are_neighbours_for_every_backend(backend, dtype, step):
    axis = torch.arange(8, dtype=dtype) * step
    pos = torch.cartesian_prod(axis, axis, axis)
    difference = pos[:, None] - pos
    distance = difference.square().sum(-1).sqrt()
    expected = distance <= torch.tensor(step, dtype=dtype)
    expected.fill_diagonal_(False)
    source, target = radius_graph(pos, step, backend=backend)
    found = torch.zeros_like(expected)
    found[target, source] = True
    assert torch.equal(found, expected)


def test_every_backend_gives_the_same_edges_in_the_same_order():
    pos = torch.cartesian_prod(*[torch.arange(6.0)] * 3) * 0.1
    one = radius_graph(pos, 0.2, loop=True, backend="torch")
    assert torch.equal(radius_graph(pos, 0.2, loop=True, backend="scipy"), one)


@pytest.mark.parametrize("offset", [5e5, 1e7])
def test_coordinates_far_from_the_origin_keep_their_neighbours(offset):
    pos = torch.rand(3000, 3, dtype=torch.float64)
    near = nearest_neighbors(pos, 9).edge_index
    assert torch.equal(nearest_neighbors(pos + offset, 9, backend="torch").edge_index, near)
    assert torch.equal(nearest_neighbors(pos + offset, 9, backend="scipy").edge_index, near)


def test_the_signatures_begin_with_those_of_pyg():
    for ours, theirs in ((knn_graph, pygs_knn_graph), (radius_graph, pygs_radius_graph)):
        expected = inspect.signature(theirs).parameters
        own = {"backend", "period"}
        shared = [name for name in inspect.signature(ours).parameters if name not in own]
        assert shared == list(expected)[: len(shared)]
        for name in set(shared) - {"max_num_neighbors"}:
            assert inspect.signature(ours).parameters[name].default == expected[name].default


def test_the_flow_swaps_the_rows():
    pos = torch.rand(20, 3)
    for graph, size in ((knn_graph, 4), (radius_graph, 0.5)):
        forward = graph(pos, size)
        assert torch.equal(graph(pos, size, flow="target_to_source"), forward.flip(0))


def test_the_cosine_ignores_lengths():
    pos = torch.nn.functional.normalize(torch.randn(30, 3, dtype=torch.float64), dim=1)
    scaled = pos * (1 + torch.rand(30, 1, dtype=torch.float64))
    assert torch.equal(knn_graph(scaled, 5, cosine=True), knn_graph(pos, 5))


@pytest.mark.parametrize("places", [1, 3, 400])
def test_neighbours_among_many_coinciding_points(places):
    pos = torch.cat([torch.rand(places, 3)[torch.randint(places, (2500,))], torch.rand(200, 3)])
    table = nearest_neighbors(pos, 12, backend="scipy").index.view(-1, 12)
    distance = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")
    expected = distance.topk(12, largest=False).values
    torch.testing.assert_close(distance.gather(1, table).sort().values, expected)
    assert torch.equal(table[:, 0], torch.arange(len(pos)))
    assert bool((table.sort(1).values.diff(dim=1) > 0).all())


@pytest.mark.parametrize("period", [None, 1.0])
def test_very_many_points_may_coincide(period):
    # In time N log N; the leaf of a tree that holds them all would be searched for each of them.
    pos = torch.cat([torch.zeros(200_000, 3), torch.rand(50, 3)])
    table = nearest_neighbors(pos, 4, period=period, backend="scipy").index.view(-1, 4)
    assert torch.equal(table[:, 0], torch.arange(len(pos)))
    assert bool((pos[table[:200_000]] == 0).all())


PERIODIC = ["torch", "scipy"]
PERIODS = [
    pytest.param(1.5, id="every axis"),
    pytest.param((1.5, None, 0.9), id="two axes"),
    pytest.param((None, 1.1, None), id="one axis"),
]


def lengths_of(period, dim):
    return (period,) * dim if isinstance(period, float) else period


def image_distances(pos, period, reach=5):
    """The distance of every two points between nearest images, by a loop over all images."""
    lengths = lengths_of(period, pos.size(1))
    nearest = torch.full((len(pos), len(pos)), torch.inf, dtype=pos.dtype)
    for shift in itertools.product(*(range(-reach, reach + 1) if p else (0,) for p in lengths)):
        moved = pos + torch.tensor(
            [s * (p or 0.0) for s, p in zip(shift, lengths, strict=True)], dtype=pos.dtype
        )
        nearest = nearest.minimum((pos[:, None] - moved).square().sum(-1).sqrt())
    return nearest


def as_matrix(edge_index, size):
    found = torch.zeros(size, size, dtype=torch.bool)
    found[edge_index[1], edge_index[0]] = True
    return found


@pytest.mark.parametrize("backend", PERIODIC)
@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("k", [1, 9])
def test_the_nearest_in_a_box_are_those_with_the_nearest_images(backend, period, k):
    _, pos, batch = random_clouds(40, 25)
    found = nearest_neighbors(2 * pos, k, batch, period=period, backend=backend)
    distance = image_distances(2 * pos, period)
    distance[batch[:, None] != batch] = torch.inf
    assert torch.equal(found.index.view(-1, k), distance.argsort(1)[:, :k])


@pytest.mark.parametrize("backend", PERIODIC)
@pytest.mark.parametrize("period", PERIODS)
def test_a_radius_in_a_box_holds_exactly_the_pairs_with_images_within_it(backend, period):
    _, pos, batch = random_clouds(40, 25)
    found = radius_graph(2 * pos, 0.4, batch, period=period, backend=backend)
    near = (image_distances(2 * pos, period) <= 0.4) & (batch[:, None] == batch)
    near.fill_diagonal_(False)
    assert torch.equal(as_matrix(found, len(pos)), near)
    assert found.size(1) == int(near.sum()) > radius_graph(2 * pos, 0.4, batch).size(1)


def test_more_neighbours_than_half_a_box_holds_are_the_nearest_images_of_all_points():
    pos = torch.rand(12, 2, dtype=torch.float64)
    for backend in PERIODIC:
        table = nearest_neighbors(pos, 12, period=0.5, backend=backend).index.view(12, 12)
        assert torch.equal(table, image_distances(pos, 0.5).argsort(1))


@pytest.mark.parametrize("backend", PERIODIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_in_other_boxes_have_the_same_neighbours(backend, dtype):
    # All coordinates are exact in single precision, but not all differences.
    pos = torch.randint(2**9, (200, 3)).to(dtype) / 2**6
    moved = pos + 8.0 * torch.randint(-(2**15), 2**15, (200, 3)).to(dtype)
    for graph, size in ((radius_graph, 3.0), (knn_graph, 8)):
        edges = [as_matrix(graph(p, size, period=8.0, backend=backend), 200) for p in (pos, moved)]
        if graph is radius_graph:
            assert torch.equal(*edges)
        else:  # of neighbours at the same distance, some are chosen
            distance = image_distances(pos.double(), 8.0, reach=1)
            assert torch.equal(*((distance * e).sort(1).values for e in edges))


@pytest.mark.parametrize("backend", PERIODIC)
def test_far_from_the_origin_a_box_keeps_all_digits(backend):
    pos = torch.randint(2**20, (300, 3)).double() / 2**17
    far = pos + 1e6
    expected = nearest_neighbors(pos, 9, period=10.0, backend=backend)
    found = nearest_neighbors(far, 9, period=10.0, backend=backend)
    assert torch.equal(found.index, expected.index)
    edges = [radius_graph(p, 2.0, period=10.0, backend=backend) for p in (pos, far)]
    assert torch.equal(*edges)


@pytest.mark.parametrize("backend", PERIODIC)
@pytest.mark.parametrize("period", [0.1, 1 / 3, 7.0])
def test_points_at_the_ends_of_a_box_are_one_place(backend, period):
    below = -torch.finfo(torch.float64).tiny
    places = [0.0, period, -period, below, 2 * period, period / 3]
    pos = torch.tensor(places, dtype=torch.float64).unsqueeze(1)
    found = radius_graph(pos, period / 4, period=period, backend=backend)
    near = torch.ones(6, 6, dtype=torch.bool).fill_diagonal_(False)
    near[5], near[:, 5] = False, False
    assert torch.equal(as_matrix(found, 6), near)


@pytest.mark.parametrize("backend", PERIODIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_away_from_the_boundary_a_period_changes_no_pair_at_exactly_the_radius(backend, dtype):
    pos = torch.rand(40, 3, dtype=dtype) - 0.5
    for r in (pos[0] - pos[1:]).square().sum(-1).sqrt().tolist():
        expected = radius_graph(pos, r)
        assert torch.equal(radius_graph(pos, r, period=100.0, backend=backend), expected)


def test_every_backend_gives_the_same_edges_of_a_periodic_lattice_in_the_same_order():
    pos = torch.cartesian_prod(*[torch.arange(6.0)] * 3) * 0.1
    one = radius_graph(pos, 0.2001, period=0.6, loop=True, backend="torch")
    assert torch.equal(radius_graph(pos, 0.2001, period=0.6, loop=True, backend="scipy"), one)
    assert torch.equal(torch.bincount(one[1]), torch.full((216,), 33))


def test_the_nearest_of_a_periodic_radius_are_kept():
    _, pos, batch = random_clouds(40, 20)
    nearest = knn_graph(pos, 3, batch, loop=True, period=2.0)
    found = radius_graph(pos, 1.0, batch, max_num_neighbors=3, loop=True, period=2.0)
    assert torch.equal(found, nearest)


@pytest.mark.parametrize("backend", PERIODIC)
def test_neighbours_among_points_that_coincide_across_the_boundary(backend):
    places = torch.tensor([[0.0, 0.5], [1.0, 0.5], [-1.0, 0.5], [0.4, 0.9]], dtype=torch.float64)
    pos = torch.cat([places[torch.arange(600) % 4], torch.rand(100, 2).double()])
    table = nearest_neighbors(pos, 12, period=1.0, backend=backend).index.view(-1, 12)
    distance = image_distances(pos, 1.0, reach=2)
    expected = distance.topk(12, largest=False).values
    torch.testing.assert_close(distance.gather(1, table).sort().values, expected)
    assert torch.equal(table[:, 0], torch.arange(len(pos)))
    assert bool((table.sort(1).values.diff(dim=1) > 0).all())


@pytest.mark.parametrize(
    "period",
    [0.0, -1.0, float("nan"), float("inf"), (), (1.0, 1.0), (1.0, 0.0, None), (None, None)],
)
def test_bad_periods_are_named(period):
    for graph, size in ((knn_graph, 2), (radius_graph, 0.1)):
        with pytest.raises(ValueError, match="Expected `period` to be positive, one number or 3"):
            graph(torch.rand(4, 3), size, period=period)


def test_a_period_of_no_axis_is_none():
    pos = torch.rand(30, 3)
    assert torch.equal(knn_graph(pos, 4, period=(None,) * 3), knn_graph(pos, 4))


def test_what_is_not_possible_in_a_box_is_named():
    pos = torch.rand(4, 2)
    with pytest.raises(ValueError, match="`period` of at least twice the radius, 0.6, .* got 1.1"):
        radius_graph(pos, 0.6, period=(None, 1.1))
    assert radius_graph(pos, 0.6, period=1.2).size(0) == 2
    with pytest.raises(ValueError, match="Expected no `period` with `cosine`, got 1.0"):
        knn_graph(pos, 2, cosine=True, period=1.0)


@pytest.mark.skipif(importlib.util.find_spec("torch_cluster") is None, reason="it is missing")
def test_torch_cluster_refuses_periods():
    with pytest.raises(RuntimeError, match="knows no periodic boxes: use 'torch' or 'scipy'"):
        knn_graph(torch.rand(4, 2), 2, period=1.0, backend="torch_cluster")


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1.0, 1e25, 1e37])
@pytest.mark.parametrize("backend", ["torch", "scipy"])
@pytest.mark.parametrize("periodic", [False, True])
def test_neighbours_do_not_depend_on_the_unit(scale, backend, periodic):
    # Squares of these coordinates are not numbers of single precision.
    unit = torch.rand(60, 2, dtype=torch.float64)
    pos = (unit * scale).float()
    period = scale if periodic else None
    offsets = (pos.double()[:, None] - pos.double()) / scale
    if periodic:
        offsets = offsets - offsets.round()
    distance = offsets.norm(dim=-1)
    found = nearest_neighbors(pos, 7, period=period, backend=backend).index.view(60, 7)
    nearest = distance.sort(1).values[:, :7]
    torch.testing.assert_close(distance.gather(1, found), nearest, rtol=1e-4, atol=1e-6)
    source, target = radius_graph(pos, 0.2 * scale, loop=True, period=period, backend=backend)
    within = torch.zeros(60, 60, dtype=torch.bool)
    within[target, source] = True
    clear = (distance - 0.2).abs() > 1e-5
    assert torch.equal(within[clear], (distance < 0.2)[clear])


def test_directions_do_not_depend_on_lengths():
    pos = torch.randn(30, 3)
    expected = knn_graph(pos, 4, cosine=True)
    lengths = torch.logspace(-30, 30, 30).unsqueeze(1)
    assert torch.equal(knn_graph(pos * lengths, 4, cosine=True), expected)


def test_numbers_of_clouds_may_have_large_gaps():
    pos, batch = torch.rand(20, 2), torch.arange(2).repeat_interleave(10)
    assert torch.equal(knn_graph(pos, 3, batch * 10**15), knn_graph(pos, 3, batch))
    assert torch.equal(radius_graph(pos, 0.3, batch * 10**15), radius_graph(pos, 0.3, batch))


def test_a_limit_beyond_all_neighbours_keeps_them_all():
    pos = torch.rand(20, 2)
    expected = radius_graph(pos, 0.3)
    assert expected.numel() > 0
    assert torch.equal(radius_graph(pos, 0.3, max_num_neighbors=2**63), expected)


def test_positions_without_data_or_that_stand_for_many_are_refused():
    pos = torch.rand(20, 2)
    with pytest.raises(ValueError, match="Expected tensors that hold data, got `pos` on the meta"):
        knn_graph(pos.to("meta"), 3)
    with pytest.raises(TypeError, match="Expected `pos` to be a tensor, got a NoneType"):
        knn_graph(None, 3)
    with pytest.raises(TypeError, match="Expected `pos` to be dense, got torch.sparse_coo"):
        knn_graph(pos.to_sparse(), 3)
    with pytest.raises(ValueError, match="`torch.func.vmap` does not map over"):
        torch.func.vmap(lambda each: knn_graph(each, 3))(pos.expand(2, -1, -1))
