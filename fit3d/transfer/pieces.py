"""Places what is not skin: eyeballs where the source has its own, teeth and tongue behind lips, lashes on lids."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from fit3d.annotate.register import skin_faces
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind, piece_kind
from fit3d.transfer.person import Head, similarity_between
from fit3d.transfer.sheet import Laid

FOLLOWED = 8
"""Skin vertices around an attached one whose motion it takes."""


def piece_kinds(model: MorphableModel) -> tuple[PieceKind, ...]:
    """What each of the model's objects is: films, and skin that does not belong to the head, are attached to it."""
    skin = set(np.unique(model.face_objects[skin_faces(model)]).tolist())
    kinds: list[PieceKind] = []
    for index, name in enumerate(model.objects):
        kind = piece_kind(name)
        kinds.append("skin" if index in skin else "attached" if kind in ("skin", "film") else kind)
    return tuple(kinds)


def place_pieces(
    source: Head, target: MorphableModel, start: np.ndarray, laid: Laid, motion: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Neutral and posed vertices (V, 3) of the target with all its pieces.

    Eyeballs take place, size and turn of the source's; teeth and tongue keep their shape and follow the lips' shift and
    the model's own motion; what is attached to the skin, such as lashes, moves as the skin nearest to it.

    Args:
        start: (V, 3) the head as the target describes it.
        laid: its skin on the source.
        motion: (V, 3) from neutral to posed: of the skin as it shall be, of the rest as the model has it.
    """
    neutral, motion = laid.neutral.copy(), motion.copy()
    shift = laid.neutral - start
    near = cKDTree(start[laid.ids])
    rims = target.annotation.rims
    mouth = np.concatenate([rim.numpy() for rim in rims["inner_mouth"]]) if "inner_mouth" in rims else laid.ids
    theirs = _eyeballs(source.model, source.neutral)
    for index, kind in enumerate(piece_kinds(target)):
        ids = _vertices(target, index)
        if kind == "skin" or len(ids) == 0:
            continue
        if kind == "eye":
            ball = theirs.get(_side(start[ids]))
            if ball is None:
                lids = laid.ids[near.query(start[ids].mean(0), k=50)[1]]
                neutral[ids] = start[ids] + shift[lids].mean(0)
                continue
            middle, radius = sphere(start[ids])
            their_middle, their_radius = sphere(source.neutral[ball])
            neutral[ids] = their_middle + (start[ids] - middle) * (their_radius / radius)
            turn = similarity_between(source.neutral[ball], source.posed[ball], scaled=False)
            motion[ids] = turn.of(neutral[ids]) - neutral[ids]
        elif kind == "attached":
            distance, found = near.query(start[ids], k=min(FOLLOWED, len(laid.ids)))
            weights = 1.0 / (distance.reshape(len(ids), -1) + 1e-6)
            weights /= weights.sum(1, keepdims=True)
            followed = laid.ids[found.reshape(len(ids), -1)]
            neutral[ids] = start[ids] + np.einsum("nk,nkc->nc", weights, shift[followed])
            motion[ids] = np.einsum("nk,nkc->nc", weights, motion[followed])
        else:
            neutral[ids] = start[ids] + shift[mouth].mean(0)
    return neutral, neutral + motion


def sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle (3,) and radius of the sphere through points (N, 3) in least squares of |x|^2 = 2 c.x + k."""
    origin = points.mean(0)
    near = points - origin
    solution, *_ = np.linalg.lstsq(np.column_stack([2.0 * near, np.ones(len(near))]), (near**2).sum(1), rcond=None)
    middle = solution[:3]
    return origin + middle, float(np.sqrt(max(solution[3] + middle @ middle, 1e-12)))


def _eyeballs(model: MorphableModel, points: np.ndarray) -> dict[int, np.ndarray]:
    """Vertex ids of the model's eyeballs by side, 1 being the person's left."""
    found: dict[int, list[np.ndarray]] = {}
    for index, kind in enumerate(piece_kinds(model)):
        ids = _vertices(model, index)
        if kind == "eye" and len(ids) > 0:
            found.setdefault(_side(points[ids]), []).append(ids)
    return {side: np.unique(np.concatenate(ids)) for side, ids in found.items()}


def _side(points: np.ndarray) -> int:
    return 1 if points[:, 0].mean() > 0 else -1


def _vertices(model: MorphableModel, index: int) -> np.ndarray:
    ids = np.unique(model.faces[model.face_objects == index])
    return np.asarray(ids[ids >= 0])
