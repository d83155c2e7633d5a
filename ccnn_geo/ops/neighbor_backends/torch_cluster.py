"""The search of torch-cluster, where it is installed."""

from __future__ import annotations

from torch import Tensor

from ccnn_geo.ops.neighbor_backends.tables import with_self_first
from ccnn_geo.ops.periodic import Period


def nearest(cloud: Tensor, k: int, ordered: bool, period: Period | None) -> Tensor:
    """Return the k nearest of every point of a cloud `[n, D]`, itself first, `[n, k]`.

    There must not be a period.
    """
    from torch_cluster import knn

    table = knn(cloud.contiguous(), cloud.contiguous(), k)[1].view(-1, k)
    distance = (cloud[table] - cloud.unsqueeze(1)).square().sum(-1)
    return with_self_first(table.gather(1, distance.argsort(dim=1, stable=True)))
