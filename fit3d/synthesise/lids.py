"""Lids that close: the rims meet, whatever the identity, and the skin between rim and crease follows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fit3d.labels import LEFT_EYEBROW, RIGHT_EYEBROW
from fit3d.morphable.model import MorphableModel

FREE, TIGHT = 0.35, 0.75
"""Blink coefficients up to which lids are the model's own, and from which on their rims are placed exactly."""
SPREAD_M = 0.0035
"""The skin of the lid follows its rim over this distance, metres."""

BROW_ROOM_M = 0.004
"""Skin so near to the brow, metres, takes less and less part in a blink."""
RISE = 0.12
"""Share of the opening by which the lower lid comes up to meet the upper."""

_EYES = {"right_eye": "eyeBlinkRight", "left_eye": "eyeBlinkLeft"}


def settle_lids(model: MorphableModel, identity: Tensor, expression: Tensor) -> Tensor:
    """Vertices (V, 3) float64, metres, world, of a head whose lids close by their blink coefficients exactly.

    A blink is a straight displacement made for the mean face: on other faces the upper rim stops short of the lower or
    passes it. Here the gap between the rims at coefficient b is 1 - b of that of the same face with open lids.
    """
    vertices = model.vertices(identity, expression)
    for eye, name in _EYES.items():
        if name not in model.expression_names or eye not in model.annotation.rims:
            continue
        place = model.expression_names.index(name)
        blink = float(expression[place])
        sure = min(max((blink - FREE) / (TIGHT - FREE), 0.0), 1.0)
        if sure == 0.0:
            continue
        awake = expression.clone()
        awake[place] = 0.0
        opened = model.vertices(identity, awake)
        upper, lower = model.annotation.rims[eye]
        gap = opened[upper] - _across(opened, upper, lower)
        seam = _across(opened, upper, lower) + RISE * blink * gap
        wanted_upper = seam + (1.0 - RISE) * (1.0 - blink) * gap
        wanted_lower = _carried(seam, opened, upper, lower)
        vertices = vertices + sure * (
            _spread(opened, upper, lower, wanted_upper - vertices[upper])
            + _spread(opened, lower, upper, wanted_lower - vertices[lower])
        )
        # the lid's skin slides under the brow, which stays
        vertices = opened + (1.0 - sure * _on_brow(model))[:, None] * (vertices - opened)
    return vertices


@lru_cache(maxsize=2)
def _on_brow(model: MorphableModel) -> Tensor:
    """(V,) float64: 1 on the brows, 0 from `BROW_ROOM_M` below and above them."""
    brows = torch.isin(model.annotation.field_labels, torch.tensor([RIGHT_EYEBROW, LEFT_EYEBROW]))
    if not bool(brows.any()):
        return torch.zeros(len(model.mean), dtype=torch.float64)
    inside = model.annotation.fields[brows].amax(0).double()
    return (1.0 + inside / BROW_ROOM_M).clamp(0.0, 1.0)


def _across(vertices: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """(N, 3): the points of the lower rim that the upper rim's vertices come down upon, by their share of the way
    between the corners."""
    points = vertices[lower]
    axis = vertices[upper[-1]] - vertices[upper[0]]

    def share(ids: Tensor) -> np.ndarray:
        along = ((vertices[ids] - vertices[upper[0]]) @ axis / (axis @ axis)).numpy()
        return np.asarray(np.maximum.accumulate(along))

    at, here = share(upper), share(lower)
    return torch.from_numpy(np.stack([np.interp(at, here, points[:, k].numpy()) for k in range(3)], 1))


def _carried(seam: Tensor, opened: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """(M, 3): the seam's points (N, 3), told at the upper rim's vertices, at those of the lower rim."""
    axis = opened[upper[-1]] - opened[upper[0]]
    here, at = (((opened[ids] - opened[upper[0]]) @ axis / (axis @ axis)).numpy() for ids in (upper, lower))
    here = np.maximum.accumulate(here)
    return torch.from_numpy(np.stack([np.interp(at, here, seam[:, k].numpy()) for k in range(3)], 1))


def _spread(opened: Tensor, upper: Tensor, lower: Tensor, moves: Tensor) -> Tensor:
    """(V, 3): the moves (N, 3) of the rim `upper` carried to the skin on its side, `lower` being the other rim."""
    distance = torch.cdist(opened, opened[upper])
    weight = torch.exp(-0.5 * (distance / SPREAD_M) ** 2)
    share = weight.amax(1, keepdim=True) * weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    nearer = distance.amin(1) <= torch.cdist(opened, opened[lower]).amin(1)
    moved = torch.where(nearer[:, None], share @ moves, 0.0)
    moved[upper] = moves
    return moved
