"""The light on skin that an expression bends: the ratio of the light on the edited surface to that on the fitted one.

A warp moves colours and leaves their shading as it was. What light a surface gets follows from its normal and the
photo's own light (`fit3d.render.light`), so that where the expression turns the skin its brightness changes by a known
ratio ("expression ratio images": Liu, Shan, Zhang, SIGGRAPH 2001). The model's mesh is too coarse for the folds that
faces make; those are furrows laid on it along fixed lines, as deep as the expression that makes them is strong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import torch

from fit3d.labels import INNER_MOUTH, LEFT_EYEBROW, NOSE, RIGHT_EYE, RIGHT_EYEBROW, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.render.light import harmonics
from fit3d.render.shade import vertex_normals
from fit3d.synthesise.geometry import Projection, View, outer_surface
from fit3d.synthesise.picture import square

LEAST, MOST = 0.72, 1.28
"""Of the ratio of linear light."""
SMOOTH = 0.008
"""Blur of the ratio of the mesh, heights of the face: it is that of a few triangles."""
OCCLUSION = 0.35
"""How much less light falls into a furrow, for a slope of 1."""
FADE = 0.08
"""Over so much the light on skin that turned goes over into the photo's at the face's outline, heights of the face."""

RIM = 0.01
"""Skin so near to eyes and lips is not lit anew, heights of the face."""
GAMMA = 2.2
STEP = 4
"""px between the places by which furrows are looked for in the picture."""

Point = tuple[int, float, float]
"""An iBUG landmark, and millimetres outwards from the middle of the face and upwards from it."""


@dataclass(frozen=True, eq=False)
class Furrow:
    """A fold of the skin on one side of the face; the other side has its mirror image."""

    makers: Mapping[str, float]
    """ARKit's expressions, without their side, that fold the skin here, and how much each does."""
    line: tuple[Point, ...]
    """On the person's right side of the mean face."""
    depth_mm: float
    """In an adult's face at full strength."""
    half_width_mm: float


FURROWS: tuple[Furrow, ...] = (
    # between the brows
    Furrow({"browDown": 1.0}, ((21, -4.5, -6.0), (21, -4.0, 2.0), (21, -2.0, 10.0)), 0.55, 1.5),
    # across the root of the nose, and down its sides
    Furrow({"noseSneer": 0.8, "browDown": 0.35}, ((27, 0.0, 2.0), (27, 6.0, 3.0)), 0.35, 1.4),
    Furrow({"noseSneer": 1.0}, ((28, 3.0, 1.0), (28, 8.0, -1.0), (28, 12.0, -5.0)), 0.35, 1.3),
    Furrow({"noseSneer": 1.0}, ((28, 4.0, -4.0), (28, 8.0, -6.0), (28, 11.0, -9.0)), 0.3, 1.2),
    # from the wing of the nose around the corner of the mouth
    Furrow(
        {"noseSneer": 0.7, "mouthSmile": 1.0, "mouthUpperUp": 0.6, "mouthStretch": 0.4, "mouthFrown": 0.3},
        ((31, 7.0, 5.0), (31, 14.0, -3.0), (48, 8.0, 10.0), (48, 9.0, -1.0)),
        0.8,
        2.6,
    ),
    # across the forehead
    Furrow({"browOuterUp": 0.8, "browInnerUp": 0.6}, ((17, -6.0, 16.0), (19, 0.0, 13.0), (21, 0.0, 14.0)), 0.4, 1.8),
    Furrow({"browOuterUp": 0.7, "browInnerUp": 0.6}, ((18, 0.0, 21.0), (19, 0.0, 21.0), (21, 0.0, 22.0)), 0.4, 1.8),
    # beside the eye
    Furrow({"eyeSquint": 0.7, "mouthSmile": 0.4}, ((36, 6.0, 2.0), (36, 14.0, 6.0)), 0.3, 1.2),
    Furrow({"eyeSquint": 0.7, "mouthSmile": 0.4}, ((36, 6.0, -2.0), (36, 15.0, -4.0)), 0.3, 1.2),
    # below the lower lip, whose corners are down
    Furrow({"mouthFrown": 0.8}, ((48, 3.0, -4.0), (48, 6.0, -13.0)), 0.5, 2.0),
)

_MIRRORED = {17: 26, 18: 25, 19: 24, 20: 23, 21: 22, 31: 35, 36: 45, 48: 54}
"""iBUG's landmarks of the person's left for those of the right."""


def lit_skin(labels: np.ndarray, hidden: np.ndarray, face_height: float) -> np.ndarray:
    """(h, w) float32 in [0, 1]: where skin is to be lit anew; eyes and lips keep their light, and what hides skin.

    Args:
        labels: (h, w) uint8 of the edited surface.
        hidden: (h, w) bool: what is no skin in the picture.
    """
    skin = np.isin(labels, (SKIN, NOSE, RIGHT_EYEBROW, LEFT_EYEBROW)) & ~hidden
    rim = RIM * face_height
    inner = cv2.erode(skin.astype(np.uint8), square(rim)).astype(np.float32)
    face = (labels >= RIGHT_EYE) & (labels <= INNER_MOUTH)
    # towards the outline less and less, or the change would end in a line
    inward = cv2.distanceTransform(face.astype(np.uint8), cv2.DIST_L2, 5)
    fade = np.minimum(inward / (FADE * face_height), 1.0) ** 2
    return np.asarray(cv2.GaussianBlur(inner, (0, 0), max(0.5 * rim, 0.5)) * skin * fade)


def relight(
    picture: np.ndarray,
    model: MorphableModel,
    heads: tuple[Projection, Projection],
    view: View,
    light: np.ndarray,
    strengths: Mapping[str, float],
    where: np.ndarray,
    face_height: float,
) -> np.ndarray:
    """(h, w, 3) float32: `picture` (h, w, 3), the warped photo, under the light that its bent skin gets.

    Args:
        heads: the fitted and the edited one.
        view: of the edited one.
        light: (9, 3) of `fit3d.render.light`.
        strengths: by ARKit's name, by how much each coefficient grew.
        where: (h, w) float32 in [0, 1]: skin that is to be lit anew.
        face_height: px.
    """
    shape = where.shape[0], where.shape[1]
    faces = torch.from_numpy(model.triangles.astype(np.int64))
    before, after = (vertex_normals(head.vertices, faces).numpy() for head in heads)
    grey = light.mean(1)
    then, now = ((harmonics(normals) @ grey).clip(0.3, 2.0) for normals in (before, after))
    values = np.concatenate([(now / then)[:, None], after, 1e3 * model.mean.double().numpy()[:, :2]], 1)
    skin = where > 0.0
    shown = view.interpolate(values, outer_surface(model), skin)
    seen = skin & view.covered
    ratio = cv2.GaussianBlur(np.where(seen, shown[..., 0], 1.0).astype(np.float32), (0, 0), SMOOTH * face_height)
    ratio = 1.0 + where * (ratio - 1.0)
    for furrow, side, strength in _made(strengths):
        box, factor = _furrow(model, furrow, side, strength, shown[..., 1:4], shown[..., 4:], seen, grey)
        if box is not None:
            ratio[box] *= 1.0 + where[box] * (factor - 1.0)
    ratio = ratio.clip(LEAST, MOST) ** (1.0 / GAMMA)
    assert ratio.shape == shape
    return np.asarray(picture * ratio[..., None], np.float32)


def _made(strengths: Mapping[str, float]) -> list[tuple[Furrow, float, float]]:
    """The furrows that an expression makes: on which side, right -1 and left 1, and how strongly."""
    found = []
    for furrow in FURROWS:
        for side, word in ((-1.0, "Right"), (1.0, "Left")):
            total = sum(
                weight * max(strengths.get(name, strengths.get(name + word, 0.0)), 0.0)
                for name, weight in furrow.makers.items()
            )
            if total > 0.02:
                found.append((furrow, side, min(total, 1.2)))
    return found


def _furrow(
    model: MorphableModel,
    furrow: Furrow,
    side: float,
    strength: float,
    normals: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
    grey: np.ndarray,
) -> tuple[tuple[slice, slice] | None, np.ndarray]:
    """The rectangle that a furrow darkens and brightens, and (h', w') by how much.

    Args:
        normals: (h, w, 3) of the edited surface, world.
        places: (h, w, 2) of the mean face, mm, that each pixel shows.
        where: (h, w) bool: skin.
        grey: (9,) light.
    """
    line = _line(model, furrow, side)
    reach = 3.0 * furrow.half_width_mm
    low, high = line.min(0) - reach, line.max(0) + reach
    rough = ((places[::STEP, ::STEP] > low) & (places[::STEP, ::STEP] < high)).all(-1) & where[::STEP, ::STEP]
    rows, columns = (STEP * np.flatnonzero(rough.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None, np.empty(0)
    box = tuple(slice(max(int(each[0]) - STEP, 0), int(each[-1]) + STEP) for each in (rows, columns))
    near = ((places[box] > low) & (places[box] < high)).all(-1) & where[box]
    away, share = _from_line(places[box], line)
    distance = np.hypot(*away.transpose(2, 0, 1)) / furrow.half_width_mm
    taper = np.sin(np.pi * share.clip(0.0, 1.0)) ** 0.7
    steep = strength * furrow.depth_mm / furrow.half_width_mm * taper * np.exp(-(distance**2))
    # the height is -depth exp(-d^2): it rises away from the line
    slope = 2.0 * (steep / furrow.half_width_mm)[..., None] * away
    own = normals[box]
    bent = own.copy()
    bent[..., :2] -= slope
    bent /= np.maximum(np.linalg.norm(bent, axis=-1, keepdims=True), 1e-6)
    flat = near.shape
    lit = [(harmonics(each.reshape(-1, 3)) @ grey).clip(0.3, 2.0).reshape(flat) for each in (own, bent)]
    factor = lit[1] / lit[0] * (1.0 - OCCLUSION * steep)
    return (box[0], box[1]), np.where(near, factor, 1.0)


@lru_cache(maxsize=64)
def _line(model: MorphableModel, furrow: Furrow, side: float) -> np.ndarray:
    """(24, 2) mm of the mean face: a smooth curve through the furrow's points."""
    landmarks = 1e3 * model.landmarks["ibug68"].points.of(model.mean.double()).numpy()
    points = []
    for index, outwards, up in furrow.line:
        x, y = landmarks[_MIRRORED.get(index, index) if side > 0 else index, :2]
        points.append((x + side * outwards, y + up))
    knots = np.array(points)
    at = np.linspace(0.0, 1.0, len(knots))
    where = np.linspace(0.0, 1.0, 24)
    degree = min(len(knots) - 1, 3)
    return np.stack([np.polynomial.Polynomial.fit(at, knots[:, k], degree)(where) for k in (0, 1)], 1)


def _from_line(places: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 2) from the nearest point of a polyline (N, 2) to each place (h, w, 2), and (h, w) where on it that is."""
    best = np.full(places.shape[:2], np.inf)
    away, share = np.zeros_like(places), np.zeros(places.shape[:2])
    for index, (start, end) in enumerate(pairwise(line)):
        step = end - start
        t = (((places - start) @ step) / max(float(step @ step), 1e-9)).clip(0.0, 1.0)
        off = places - start - t[..., None] * step
        distance = (off**2).sum(-1)
        closer = distance < best
        best = np.where(closer, distance, best)
        away = np.where(closer[..., None], off, away)
        share = np.where(closer, (index + t) / (len(line) - 1), share)
    return away, share
