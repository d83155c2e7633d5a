"""Neighbour lists: their two forms, and what they refuse."""

import numpy as np
import pytest
import torch

from ccnn_geo import CKConvMP
from ccnn_geo.ops import Neighborhood


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


@pytest.mark.parametrize(
    ("table", "num_sources", "error", "match"),
    [
        (
            torch.tensor([[0, 3]]),
            3,
            ValueError,
            r"every source in `table` in \[-1, 2\], got 0 to 3",
        ),
        (torch.tensor([[0, -2]]), 3, ValueError, "got -2 to 0"),
        (torch.tensor([[0, -1]]), -1, ValueError, r"\[-1, -2\]"),
        (torch.tensor([[0, 1]]), 2.5, TypeError, "`num_sources` to be a whole number, got 2.5"),
        (np.zeros((2, 2), dtype=np.int64), 2, TypeError, "`table` to be a tensor, got a ndarray"),
    ],
)
def test_tables_that_name_missing_sources_are_refused(table, num_sources, error, match):
    with pytest.raises(error, match=match):
        Neighborhood.from_table(table, num_sources)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"index": torch.zeros(4)}, TypeError, "`index` to be int64"),
        ({"degree": 3}, ValueError, "2 targets times `degree` 3, got 4 entries"),
        ({"degree": True}, TypeError, "`degree` to be a whole number"),
        ({"num_targets": 1.0}, TypeError, "`num_targets` to be a whole number, got 1.0"),
        ({"pointer": torch.tensor([0, 4])}, ValueError, "`pointer` of 3 entries, got 2"),
    ],
)
def test_fields_that_do_not_fit_are_refused(arguments, error, match):
    fitting = {"index": torch.zeros(4).long(), "num_sources": 3, "num_targets": 2, "degree": 2}
    Neighborhood(**fitting)
    with pytest.raises(error, match=match):
        Neighborhood(**{**fitting, **arguments})


def test_without_a_degree_or_a_pointer_there_are_no_neighbours():
    nobody = Neighborhood(torch.empty(0, dtype=torch.int64), num_sources=3, num_targets=2)
    assert (nobody.degree, nobody.num_slots) == (0, 0)
    pointer = torch.tensor([0, 2, 3])
    assert Neighborhood(torch.tensor([0, 1, 2]), 3, 2, pointer=pointer).degree == 0


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_sparse_transposed_adjacency_is_a_graph(layout):
    conv = CKConvMP(3, 4, dim=2, omega_0=1.0, window_width=0.5)
    x, source, target = torch.randn(6, 3), torch.rand(6, 2), torch.rand(4, 2)
    edge_index = torch.tensor([[5, 0, 3, 2], [1, 0, 1, 3]])
    dense = torch.zeros(4, 6)
    dense[edge_index[1], edge_index[0]] = 1
    expected = conv(x, (source, target), edge_index)
    adjacency = dense.to_sparse(layout=layout)
    torch.testing.assert_close(conv(x, (source, target), adjacency), expected)
    if layout == torch.sparse_coo:  # with a vector of attributes for every edge
        hybrid = torch.sparse_coo_tensor(
            edge_index.flip(0), torch.randn(4, 2), (4, 6, 2), check_invariants=True
        )
        torch.testing.assert_close(conv(x, (source, target), hybrid), expected)
    with pytest.raises(ValueError, match=r"adjacency of shape \[4, 6\], got \[6, 4\]"):
        conv(x, (source, target), dense.T.contiguous().to_sparse())
