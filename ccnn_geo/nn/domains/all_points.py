"""The domain on which every point of a cloud sees all others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ccnn_geo.nn.bandlimit import Bandlimit, point_bandlimit
from ccnn_geo.nn.checks import check_finite, check_points
from ccnn_geo.nn.domains.domain import Convolution, PointDomain, keep_norm
from ccnn_geo.ops.grid_positions import per_axis_period
from ccnn_geo.ops.neighbor_backends.checks import check_clouds
from ccnn_geo.ops.periodic import Period
from ccnn_geo.ops.point_backends.checks import as_pair


@dataclass(frozen=True, eq=False)
class AllPoints(PointDomain):
    """Points of one or several clouds without a graph; features are rows, `[N, C]`.

    Kernels are summed over all points of a cloud, see `ccnn_geo.ops.nufft_conv`.

    Args:
        source: Positions of the sources, `[S, D]`, in the unit of the kernels' extent.
        target: Positions of the targets, `[T, D]`; the same tensor unless they differ.
        source_batch: Cloud of every source, sorted, `[S]`; one cloud unless given.
        batch: Cloud of every target, `[T]`; the same tensor unless targets differ.
        weight: Quadrature weight of every source, `[S]`.
        batch_size: Number of clouds, B.
        tolerance: Relative error of a convolution.
        period: See `Points`.
        bandlimit: Frequency per axis at which the sines of a kernel are attenuated by half.
        norms: See `Domain`.
    """

    source: Tensor
    target: Tensor
    source_batch: Tensor | None = None
    batch: Tensor | None = None
    weight: Tensor | None = None
    batch_size: int | None = None
    tolerance: float = 1e-3
    period: Period | None = None
    bandlimit: tuple[float, ...] | None = None
    norms: list[Tensor] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        pos: Tensor | tuple[Tensor, Tensor],
        batch: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        channels: int,
        dim: int,
        weight: Tensor | None = None,
        batch_size: int | None = None,
        tolerance: float = 1e-3,
        period: float | tuple[float | None, ...] | None = None,
        bandlimit: Bandlimit = None,
        norms: list[Tensor] | None = None,
    ) -> AllPoints:
        """Check features and describe points.

        Args:
            x: Features of the sources, `[S, C]`.
            pos: Positions `[N, D]`, or a pair (sources `[S, D]`, targets `[T, D]`).
            batch: Cloud of every point, sorted, `[N]`, or a pair; one cloud unless given.
            channels: Expected size of the features.
            dim: Expected number of coordinates.
            weight: Quadrature weight of every source, `[S]`.
            batch_size: Number of clouds, B.
            tolerance: Relative error of a convolution.
            period: Period of the positions, a number or one per axis, None where there is none.
            bandlimit: See `CKConvMP.forward`.
            norms: See `Domain`.

        Raises:
            TypeError: If features or positions are not floating-point tensors.
            ValueError: If shapes do not fit, (on the CPU) a value is not finite, `batch` is not
                sorted, or a period or bandlimit is out of range.
        """
        source, target = as_pair("pos", pos)
        clouds, target_clouds = as_pair("batch", batch)
        check_points(x, (source, target), weight, dim, channels)
        check_finite(x=x, weight=weight)
        check_clouds(source, clouds)
        if target is not source or target_clouds is not clouds:
            check_clouds(target, target_clouds)
        return cls(
            source,
            target,
            clouds,
            target_clouds,
            weight,
            batch_size,
            tolerance,
            per_axis_period(period, dim),
            point_bandlimit(bandlimit, source, clouds),
            norms,
        )

    @property
    def clouds(self) -> tuple[Tensor | None, Tensor | None]:
        """Clouds of the sources and of the targets; None if there is only one."""
        return self.source_batch, self.batch

    def convolve(self, conv: Convolution, features: Tensor) -> Tensor:
        """Evaluate a convolution on `[S, C_in]`, giving `[T, C_out]`."""
        evaluated = conv.convolve_all_points(features, self, with_norm=self.norms is not None)
        return keep_norm(self.norms, *evaluated)
