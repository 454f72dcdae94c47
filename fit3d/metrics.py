"""How good a fit is: overlap of parts and landmark error."""

from __future__ import annotations

import numpy as np

from fit3d import labels


def part_iou(fitted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Intersection over union of each part between two label images (H, W), by part name.

    Parts 1 to 8; a part absent from `observed` is left out, one absent from `fitted` alone scores 0. 'mean' averages
    parts 1 to 7 (skin not), as the paper does; NaN where none of them is observed.
    """
    size = len(labels.PART_NAMES)
    pairs = np.bincount(
        observed.astype(np.int64).ravel() * size + fitted.astype(np.int64).ravel(), minlength=size * size
    ).reshape(size, size)
    scores: dict[str, float] = {}
    for label in labels.PRDL_PARTS:
        seen = int(pairs[label].sum())
        if seen:
            both = int(pairs[label, label])
            scores[labels.PART_NAMES[label]] = both / (seen + int(pairs[:, label].sum()) - both)
    counted = [scores[labels.PART_NAMES[label]] for label in labels.IOU_PARTS if labels.PART_NAMES[label] in scores]
    scores["mean"] = float(np.mean(counted)) if counted else float("nan")
    return scores


def landmark_nme(fitted_px: np.ndarray, observed_px: np.ndarray) -> float:
    """Mean distance between landmarks (N, 2) over the diagonal of the observed landmarks' box; NaN points are left out.

    The diagonal does not shrink on turned heads as the distance between the eyes does.
    """
    present = np.isfinite(observed_px).all(1)
    observed = observed_px[present]
    diagonal = float(np.linalg.norm(observed.max(0) - observed.min(0)))
    return float(np.linalg.norm(fitted_px[present] - observed, axis=1).mean()) / diagonal
