"""Measures of labels of points, without Lightning."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["segmentation_scores"]


def segmentation_scores(
    labels: np.ndarray, target: np.ndarray, num_classes: int, *, ignore_index: int = -1
) -> dict[str, Any]:
    """Compare the labels of a scan with the true ones.

    Args:
        labels: Predicted classes, `[N]`.
        target: True classes, `[N]`.
        num_classes: Number of classes, C.
        ignore_index: True class of points that are not counted.

    Returns:
        `accuracy`; the intersection over union of every class that is predicted or true as `iou`,
        None for the others, `[C]`; and their mean as `mean_iou`. All are None without a point that
        counts.
    """
    counted = target != ignore_index
    pairs = target[counted] * num_classes + labels[counted]
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    overlap, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    iou = [
        int(part) / int(whole) if whole else None
        for part, whole in zip(overlap, union, strict=True)
    ]
    known = [value for value in iou if value is not None]
    return {
        "accuracy": float(overlap.sum() / counts.sum()) if counted.any() else None,
        "mean_iou": sum(known) / len(known) if known else None,
        "iou": iou,
    }
