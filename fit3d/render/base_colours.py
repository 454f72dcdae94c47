"""One smooth colour per vertex, from what is seen, its mirror and what is usual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from fit3d.labels import SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind, piece_kind
from fit3d.render.atlas import Atlas, head_object
from fit3d.render.colours import DEFAULT_SKIN, FLAT_COLOUR, LUMA, MOUTH, NEIGHBOUR_COLOUR, SCLERA, TEETH, TONGUE
from fit3d.render.photo_source import Sample

SEEN_COLOUR = 4.0
"""Pull to what is fully seen, per edge."""

MIRRORED_COLOUR = 1.0
"""The same for what is seen of the mirrored side only."""

TINT = 0.5
"""Share of the light's tint, as the skin shows it, that teeth and eyes that are not seen take on."""

OF_PIECES: dict[PieceKind, tuple[float, float, float]] = {"eye": SCLERA, "tongue": TONGUE, "teeth": TEETH}
"""What pieces look like that are not seen."""


@dataclass(frozen=True)
class BaseColours:
    """Smooth colours in even light."""

    colours: np.ndarray
    """(V, 3) float32, sRGB in [0, 1]."""
    tone: np.ndarray
    """(3,) by how much eyes and teeth that are not seen are darkened and tinted to suit the photo."""


def base_colours(even: Sample, model: MorphableModel, atlas: Atlas) -> BaseColours:
    """Minimises, over the mesh's edges ij and vertices i,
    sum |x_i - x_j|^2 + sum d_i |x_i - seen_i|^2 + sum m_i |x_i - seen_mirrored_i|^2 + sum p_i |x_i - prior_i|^2,
    with d_i the trust in the photo around vertex i and m_i a share of that around its mirrored partner.

    Args:
        even: what the photo shows, in even light.
    """
    count = atlas.from_vertices.shape[1]
    few = slice(None, None, 3)
    weights, trusted = atlas.some(even.texels[few]), even.trust[few]
    spread = weights.T @ np.column_stack([trusted[:, None] * even.rgb[few], trusted])
    seen = spread[:, :3] / np.maximum(spread[:, 3:], 1e-6)
    trust = spread[:, 3] / np.maximum(atlas.texels_around / 3.0, 1e-6)
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    mirrored_trust = np.where((atlas.mirror >= 0) & _skin_vertices(model, atlas), trust[partner], 0.0) * (1.0 - trust)

    skin = _skin_colour(seen, trust * _vertex_area(model) * (atlas.label == SKIN))
    tone = _tone(skin)
    prior = np.tile(skin, (count, 1))
    pull = np.full(count, NEIGHBOUR_COLOUR)
    for index, name in enumerate(model.objects):
        colour = OF_PIECES.get(piece_kind(name))
        if colour is not None:
            ids = model.faces[model.face_objects == index]
            prior[ids[ids >= 0]], pull[ids[ids >= 0]] = tone * colour, FLAT_COLOUR
    prior[atlas.inner_mouth], pull[atlas.inner_mouth] = tone * MOUTH, FLAT_COLOUR

    i, j = atlas.edges.T
    # squared, because what is seen at a slant or near hair is the darker for it
    data, half = SEEN_COLOUR * trust**2, MIRRORED_COLOUR * mirrored_trust**2
    degree = np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
    neighbours = sparse.coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count))
    system = sparse.diags(degree + data + half + pull) - neighbours - neighbours.T
    right = data[:, None] * seen + half[:, None] * seen[partner] + pull[:, None] * prior
    # the system is symmetric and its diagonal dominates: no pivoting, and an order that knows it
    factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solved = factors.solve(right)
    return BaseColours(np.asarray(solved, np.float32).clip(0.0, 1.0), tone)


def _skin_vertices(model: MorphableModel, atlas: Atlas) -> np.ndarray:
    """(V,) bool: vertices of the head, without the mouth's cavity."""
    skin = np.zeros(len(atlas.label), bool)
    ids = model.faces[model.face_objects == head_object(model)]
    skin[ids[ids >= 0]] = True
    return np.asarray(skin & ~atlas.inner_mouth)


def _tone(skin: np.ndarray) -> np.ndarray:
    """(3,) see `BaseColours.tone`; the darker and the redder the skin appears, the darker and redder is the light."""
    brightness = float(skin @ LUMA) / float(np.dot(DEFAULT_SKIN, LUMA))
    exposure = math.sqrt(min(max(brightness, 0.4), 1.0))
    tint = np.maximum(skin, 0.02) / (brightness * np.asarray(DEFAULT_SKIN))
    return np.asarray(exposure * (tint**TINT).clip(0.75, 1.15))


def _skin_colour(seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(3,) the weighted median of vertex colours `seen` (V, 3), by channel; a default where hardly any counts."""
    good = np.flatnonzero(weight > 0.0)
    if len(good) < 20:
        return np.asarray(DEFAULT_SKIN, np.float32)
    median = []
    for channel in seen[good].T:
        order = np.argsort(channel, kind="stable")
        total = np.cumsum(weight[good][order])
        median.append(channel[order][np.searchsorted(total, 0.5 * total[-1])])
    return np.asarray(median, np.float32)


@lru_cache(maxsize=1)
def _vertex_area(model: MorphableModel) -> np.ndarray:
    """(V,) area of the mean mesh around each vertex, square metres."""
    triangles, mean = model.triangles, model.mean.double().numpy()
    a, b, c = (mean[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    return np.bincount(triangles.ravel(), np.repeat(area, 3), len(mean))
