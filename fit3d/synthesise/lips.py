"""Lips that part in a curve: a linear model's open mouth is a diamond, with a straight line from corner to middle."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind

ROUND = 0.8
"""Each rim bows at least as (1 - u^2)^ROUND of its height, u being -1 and 1 in the corners: 0.5 is an ellipse, 1 a
parabola."""
CREST = 0.9
"""Of a rim's height in the middle that the bow has: rounding gives back the area that this takes."""
TIP = 0.92
"""Of the same, what no point of a rim exceeds: the model's lower lip has a tip."""
MIDDLE = 0.25
"""Up to this |u| a rim's height is looked at."""
OPEN_M = (0.002, 0.006)
"""Height between the rims, metres, from which on and up to which the bow is made: lips that only part keep their
form."""
SPREAD_M = 0.010
"""Skin follows the rims over this distance, metres."""


def settle_lips(model: MorphableModel, vertices: Tensor) -> Tensor:
    """Vertices (V, 3) float64, metres, world, of a head, with the rims of an open mouth bowed."""
    if "inner_mouth" not in model.annotation.rims:
        return vertices
    rims = model.annotation.rims["inner_mouth"]
    right, left = vertices[rims[0][0]], vertices[rims[0][-1]]
    width = torch.linalg.norm(left - right)
    along = (left - right) / width
    up = vertices.new_tensor((0.0, 1.0, 0.0))
    up = torch.nn.functional.normalize(up - (up @ along) * along, dim=0)
    middle = 0.5 * (left + right)
    places = [((vertices[rim] - middle) @ along / (0.5 * width)).clamp(-1.0, 1.0) for rim in rims]
    heights = [(vertices[rim] - middle) @ up for rim in rims]
    upper, lower = (
        height[place.abs() < MIDDLE].mean() if bool((place.abs() < MIDDLE).any()) else height.new_zeros(())
        for place, height in zip(places, heights, strict=True)
    )
    low, high = OPEN_M
    sure = float(((upper - lower - low) / (high - low)).clamp(0.0, 1.0))
    if sure == 0.0:
        return vertices
    moves = []
    for place, height, crest, sign in zip(places, heights, (upper, lower), (1.0, -1.0), strict=True):
        most = (sign * crest).clamp(min=0.0)
        # of a smile's upper rim, which hangs below the corners, nothing is to be bowed
        bowed = float((most / OPEN_M[0]).clamp(max=1.0))
        short = (CREST * most * (1.0 - place**2) ** ROUND - sign * height).clamp(min=0.0)
        tip = (TIP * most - sign * height).clamp(max=0.0)
        outwards = sign * bowed * (short + tip)
        moves.append(sure * outwards[:, None] * up)
    return vertices + _spread(model, vertices, rims, moves)


def _spread(model: MorphableModel, vertices: Tensor, rims: tuple[Tensor, Tensor], moves: list[Tensor]) -> Tensor:
    """(V, 3): the moves (N, 3) of each rim carried to the skin on its side; teeth and tongue stay."""
    near = [torch.cdist(vertices, vertices[rim]) for rim in rims]
    total = torch.zeros_like(vertices)
    sides = [each.amin(1) for each in near]
    for own, rim, distance, move in zip((0, 1), rims, near, moves, strict=True):
        weight = torch.exp(-0.5 * (distance / SPREAD_M) ** 2)
        nearest = torch.exp(-0.5 * (distance / (0.4 * SPREAD_M)) ** 2) + 1e-9 * weight
        share = weight.amax(1, keepdim=True) * nearest / nearest.sum(1, keepdim=True).clamp(min=1e-30)
        moved = torch.where((sides[own] <= sides[1 - own])[:, None], share @ move, 0.0)
        moved[rim] = move
        total = torch.where(moved != 0.0, moved, total)
    for index, name in enumerate(model.objects):
        if piece_kind(name) in ("teeth", "tongue", "eye"):
            ids = torch.from_numpy(model.faces[model.face_objects == index].astype("int64")).unique()
            total[ids[ids >= 0]] = 0.0
    return total
