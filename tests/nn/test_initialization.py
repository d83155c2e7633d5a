"""Offsets and second moments for the exact initialisation."""

import pytest
import torch

from ccnn_geo.nn.initialization import typical_offsets


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_typical_neighbours_lie_in_half_of_the_cloud(dim):
    """At the end of [-1, 1] they reach to the middle; on a circle or sphere to its equator."""
    offsets = typical_offsets(dim, 256)
    assert offsets.shape == (32 * 256, dim)
    farthest = float(offsets.norm(dim=1).max())
    assert farthest == pytest.approx(1.0 if dim == 1 else 2**0.5, rel=0.1)
    assert (offsets == 0).all(dim=1).sum() == 32
    assert torch.equal(offsets, typical_offsets(dim, 256))
