"""How good a fit is: overlap of parts and landmark error."""

from __future__ import annotations

import numpy as np

from fit3d import labels


def part_iou(fitted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Intersection over union of each part between two label images (H, W), by part name.

    Parts 1 to 8; a part absent from `observed` is left out, one absent from `fitted` alone scores 0. 'mean' averages
    parts 1 to 7 (skin not), as the paper does; NaN where none of them is observed.
    """
    rows, columns = _box_of_parts(fitted, observed)
    fitted, observed = fitted[rows, columns], observed[rows, columns]
    scores: dict[str, float] = {}
    for label in labels.PRDL_PARTS:
        there, here = observed == label, fitted == label
        seen = int(np.count_nonzero(there))
        if seen:
            both = int(np.count_nonzero(there & here))
            scores[labels.PART_NAMES[label]] = both / (seen + int(np.count_nonzero(here)) - both)
    counted = [scores[labels.PART_NAMES[label]] for label in labels.IOU_PARTS if labels.PART_NAMES[label] in scores]
    scores["mean"] = float(np.mean(counted)) if counted else float("nan")
    return scores


def _box_of_parts(*images: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold all pixels of parts 1 to 8 in any of the label images (H, W): of a large photo the
    face is a small share."""
    low, high = min(labels.PRDL_PARTS), max(labels.PRDL_PARTS)
    rows, columns = (np.zeros(length, bool) for length in images[0].shape)
    for image in images:
        parts = (image >= low) & (image <= high)
        rows |= parts.any(1)
        columns |= parts.any(0)
    return _extent(rows), _extent(columns)


def _extent(line: np.ndarray) -> slice:
    """From the first True to the last."""
    at = np.flatnonzero(line)
    return slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0)


def landmark_nme(fitted_px: np.ndarray, observed_px: np.ndarray) -> float:
    """Mean distance between landmarks (N, 2) over the diagonal of the observed landmarks' box; NaN points are left out.

    NaN if all are missing. The diagonal does not shrink on turned heads as the distance between the eyes does.
    """
    present = np.isfinite(observed_px).all(1)
    if not present.any():
        return float("nan")
    observed = observed_px[present]
    diagonal = float(np.linalg.norm(observed.max(0) - observed.min(0)))
    return float(np.linalg.norm(fitted_px[present] - observed, axis=1).mean()) / diagonal
