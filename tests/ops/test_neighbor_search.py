"""Neighbour search against a plain sort of all distances."""

import pytest
import torch
from clouds_helpers import random_clouds

from ccnn_geo import knn_graph, radius_graph
from ccnn_geo.ops import Neighborhood, nearest_neighbors
from ccnn_geo.ops import neighbor_search as neighbors_module


def available(backend: str):
    module = {"torch": "torch"}.get(backend, backend)
    missing = neighbors_module._installed(module) is False
    return pytest.param(backend, marks=pytest.mark.skipif(missing, reason=f"{module} is missing"))


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
    edge_index = knn_graph(pos, k, batch, backend=backend)
    assert {(int(j), int(i)) for j, i in edge_index.T} == plain_knn(pos, k, batch)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_are_sorted_by_target_and_begin_with_the_point_itself(backend):
    _, pos, batch = random_clouds(30, 25)
    source, target = knn_graph(pos, 5, batch, backend=backend)
    assert torch.equal(target, torch.arange(55).repeat_interleave(5))
    assert torch.equal(source.view(-1, 5)[:, 0], torch.arange(55))
    distance = (pos[source] - pos[target]).norm(dim=1).view(-1, 5)
    assert bool((distance.diff(dim=1) >= 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_point_itself_is_kept_among_many_at_the_same_place(backend):
    pos = torch.zeros(50, 3)
    source, target = knn_graph(pos, 4, backend=backend)
    assert torch.equal(source.view(-1, 4)[:, 0], torch.arange(50))
    assert all(len(set(row)) == 4 for row in source.view(-1, 4).tolist())
    assert torch.equal(target, torch.arange(50).repeat_interleave(4))


def test_searching_in_chunks_changes_nothing(monkeypatch):
    _, pos, batch = random_clouds(40, 40)
    whole = knn_graph(pos, 6, batch, backend="torch")
    monkeypatch.setattr(neighbors_module, "_CHUNK_ELEMENTS", 100)
    assert torch.equal(knn_graph(pos, 6, batch, backend="torch"), whole)
    assert torch.equal(knn_graph(pos, 6, batch, backend="scipy"), whole)


def test_far_from_the_origin_the_same_neighbours_are_found():
    pos = torch.rand(64, 3)
    assert torch.equal(knn_graph(pos, 8), knn_graph(pos.double() + 1000, 8))


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


def test_radius_graph_keeps_the_nearest_where_there_are_too_many():
    _, pos, batch = random_clouds(40, 20)
    nearest = knn_graph(pos, 3, batch)
    assert torch.equal(radius_graph(pos, 10.0, batch, max_num_neighbors=3), nearest)


def test_no_points_have_no_neighbours():
    assert knn_graph(torch.zeros(0, 3), 4).shape == (2, 0)
    assert radius_graph(torch.zeros(0, 3), 1.0).shape == (2, 0)


def test_a_cloud_number_without_points_is_passed_over():
    pos = torch.rand(6, 3)
    batch = torch.tensor([0, 0, 0, 2, 2, 2])
    assert torch.equal(knn_graph(pos, 2, batch), knn_graph(pos, 2, batch.clamp(max=1)))


@pytest.mark.parametrize("autocast", [torch.bfloat16])
def test_autocast_does_not_blur_the_search(autocast):
    pos = torch.rand(64, 3)
    expected = knn_graph(pos, 8)
    with torch.autocast("cpu", dtype=autocast):
        assert torch.equal(knn_graph(pos, 8), expected)


@pytest.mark.parametrize(
    ("pos", "k", "batch", "error", "match"),
    [
        (torch.rand(4, 3), 0, None, ValueError, r"`k` >= 1, got 0"),
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
        knn_graph(pos, k, batch)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"r": 0.0}, "`r` > 0"),
        ({"r": float("nan")}, "`r` > 0"),
        ({"r": 1.0, "max_num_neighbors": 0}, "`max_num_neighbors` >= 1"),
        ({"r": 1.0, "backend": "torch_cluster"}, "`backend` to be auto, torch or scipy"),
        ({"r": 1.0, "backend": "faiss"}, "one of auto, torch"),
    ],
)
def test_bad_radius_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        radius_graph(torch.rand(4, 3), **arguments)


def test_a_missing_backend_is_named(monkeypatch):
    monkeypatch.setattr(neighbors_module, "_installed", lambda module: False)
    with pytest.raises(RuntimeError, match="'scipy' is not installed"):
        knn_graph(torch.rand(4, 3), 2, backend="scipy")


def test_neighborhood_of_a_graph_with_unequal_degrees():
    edge_index = torch.tensor([[3, 0, 1, 2], [2, 0, 2, 0]])
    neighbors = Neighborhood.from_edge_index(edge_index, 4)
    assert neighbors.pointer.tolist() == [0, 2, 2, 4, 4]
    assert neighbors.index.tolist() == [0, 2, 3, 1]
    assert neighbors.target.tolist() == [0, 0, 2, 2]


def test_neighborhood_table_with_empty_slots_is_an_edge_list_without_them():
    neighbors = Neighborhood.from_table(torch.tensor([[1, -1], [0, 1]]))
    assert neighbors.edge_index.tolist() == [[1, 0, 1], [0, 1, 1]]
    pointer, targets = neighbors.reversed
    grouped = [targets[a:b].tolist() for a, b in zip(pointer[:-1], pointer[1:], strict=True)]
    assert grouped == [[1], [0, 1]]


@pytest.mark.parametrize(
    ("edge_index", "match"),
    [
        (torch.tensor([[0, 4], [0, 0]]), r"every source in `edge_index` to lie in \[0, 3\]"),
        (torch.tensor([[0, 0], [-1, 0]]), r"every target in `edge_index` to lie in \[0, 3\]"),
        (torch.zeros(3, 2, dtype=torch.int64), r"`edge_index` of shape \[2, E\]"),
        (torch.zeros(2, 3), r"type int64"),
    ],
)
def test_bad_edges_are_named(edge_index, match):
    with pytest.raises(ValueError, match=match):
        Neighborhood.from_edge_index(edge_index, 4)


def test_bad_tables_are_named():
    with pytest.raises(ValueError, match=r"`table` of shape \[T, K\]"):
        Neighborhood.from_table(torch.zeros(3))


def test_neighbours_in_any_order_are_the_same_ones():
    _, pos, batch = random_clouds(40, 40, 7)
    ordered, free = (nearest_neighbors(pos, 9, batch, ordered=o).edge_index for o in (True, False))
    assert {tuple(e) for e in ordered.T.tolist()} == {tuple(e) for e in free.T.tolist()}
    assert torch.equal(ordered[1], free[1])


def test_auto_takes_the_tree_for_large_clouds_only():
    small, large = torch.rand(100, 3), torch.rand(5000, 3)
    choose = neighbors_module._choose
    assert choose("auto", small, 8, 100) is neighbors_module._search_torch
    assert choose("auto", large, 8, 5000) is neighbors_module._search_scipy
    assert nearest_neighbors(large, 8).degree == 8
