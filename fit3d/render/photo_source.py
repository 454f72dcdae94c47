"""Where in a photo which kind of surface may be read, and the reading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera
from fit3d.labels import (
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    NOSE,
    OTHER,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.raster import rasterise
from fit3d.render.atlas import FACE, FACE_LABELS, MOUTH, Atlas
from fit3d.render.light import to_linear
from fit3d.render.visibility import DepthMap, faces_camera

GRAZING_COSINE, FULL_COSINE = 0.2, 0.55
"""Cosine between normal and view at which the photo begins to count and counts fully."""

SKIN_MARGIN, EYE_MARGIN = 0.005, 0.0008
"""How far inside their region in the photo skin and eyes are trusted, metres."""

HAIRLINE = 0.010
"""Within this distance of the face's border, metres, a pixel must also have the colour of skin to count as skin."""

CELL = 0.00035
"""Side of the finest cell in which trust is told, metres."""

STRAND_WINDOW, STRAND_MARGIN = 0.016, 0.0015
"""Metres: a strand of hair or the rim of glasses differs from the skin in a window of this width around it, and skin
this near to it is not trusted either."""

NEAR_LASHES = 0.006
"""Within this distance of brows and eyes, metres, strands are their own; from twice as far on they are not."""

THICKEST_STRAND, FRINGE = 0.006, 0.012
"""Metres: what is thicker is a shadow, unless it is this near to the face's border and may be a fringe."""

STRAND_DARK, STRAND_TINT = 0.8, 0.4
"""By how much a strand is darker than the skin around it and by how much its tint differs, natural logarithms; half as
much is suspect. Blotchy skin is given more room: this many times its own usual difference at least."""
USUAL_DIFFERENCE = 8.0


@dataclass(frozen=True)
class Box:
    """The part of the photo that holds the mesh, no finer than the texture."""

    rgb: np.ndarray
    """(h, w, 3) uint8."""
    labels: np.ndarray
    """(h', w') uint8, coarser where that is fine enough to tell what may be read."""
    left: float
    top: float
    width: float
    height: float
    """Of the photo's part, photo px."""
    cells_per_metre: float
    """Cells of `labels` along a metre on the face."""

    def grid(self, px: np.ndarray) -> Tensor:
        """(1, 1, n, 2) of `grid_sample` for photo places (n, 2)."""
        grid = np.empty(px.shape, np.float32)
        grid[:, 0] = (px[:, 0] - self.left) * (2.0 / self.width) - 1.0
        grid[:, 1] = (px[:, 1] - self.top) * (2.0 / self.height) - 1.0
        return torch.from_numpy(grid)[None, None]

    def cell(self, px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column (n,) int64 in `labels` of photo places (n, 2)."""
        height, width = self.labels.shape
        column = ((px[:, 0] - self.left) * (width / self.width)).astype(np.int64).clip(0, width - 1)
        row = ((px[:, 1] - self.top) * (height / self.height)).astype(np.int64).clip(0, height - 1)
        return row, column

    @property
    def coarse(self) -> np.ndarray:
        """(h', w', 3) uint8: `rgb` at the resolution of `labels`."""
        height, width = self.labels.shape
        if self.rgb.shape[:2] == (height, width):
            return self.rgb
        return np.asarray(Image.fromarray(self.rgb).resize((width, height), Image.Resampling.BOX))


@dataclass(frozen=True)
class Source:
    """A photo and where each kind of surface may be read from it."""

    box: Box
    trust: np.ndarray
    """(4, h', w') float32 in [0, 1], by kind of surface."""
    depth: DepthMap
    camera: Camera

    def read(self, texels: np.ndarray, seen_by: np.ndarray, atlas: Atlas) -> Sample:
        """What the photo shows at `texels` (n,), indices into the atlas's, whose vertices are `seen_by` (V, 4)."""
        at = atlas.at(texels, seen_by)
        kind = atlas.kind[texels]
        # teeth and tongue lie in a hole and are rough: their slope says little
        rough = np.flatnonzero(kind == MOUTH)
        slope = at[rough, 3]
        at[rough, 3] = np.where(slope > -0.5, np.maximum(slope, FULL_COSINE), 0.0)
        some = np.flatnonzero((at[:, 3] > GRAZING_COSINE) & (at[:, 2] > 1e-6))
        # column by column: numpy is several times slower over so short an axis
        x, y, depth, cosine = (column.take(some) for column in at.T)
        x /= depth
        y /= depth
        inside = np.flatnonzero((x >= 0.0) & (y >= 0.0) & (x <= self.camera.width) & (y <= self.camera.height))
        some, depth, cosine = some.take(inside), depth.take(inside), cosine.take(inside)
        px = np.stack([x.take(inside), y.take(inside)], 1)
        fade = smooth_step((cosine - GRAZING_COSINE) / (FULL_COSINE - GRAZING_COSINE))
        trust = fade * self._allowed(px, kind.take(some))
        may = np.flatnonzero(trust > 0.0)
        px, trust = px.take(may, axis=0), trust.take(may)
        trust = trust * self.depth.sees(px, depth.take(may), cosine.take(may))
        seen = np.flatnonzero(trust > 0.0)
        rgb = _lookup(self._image, self.box.grid(px.take(seen, axis=0))).T
        return Sample(texels.take(some.take(may.take(seen))), rgb, trust.take(seen))

    @cached_property
    def _image(self) -> Tensor:
        """(1, 3, h, w) float32, sRGB in [0, 1]: the box's pixels for `_lookup`."""
        return torch.from_numpy(np.ascontiguousarray(self.box.rgb.transpose(2, 0, 1)))[None].float().div_(255.0)

    def _allowed(self, px: np.ndarray, kind: np.ndarray) -> np.ndarray:
        """(n,) float32 in [0, 1]: trust of the kinds of surface (n,) at photo places (n, 2)."""
        grid, allowed = self.box.grid(px), np.empty(len(kind), np.float32)
        for each, trust in enumerate(torch.from_numpy(self.trust)):
            here = np.flatnonzero(kind == each)
            allowed[here] = _lookup(trust[None, None], grid[:, :, torch.from_numpy(here)])[0]
        return allowed

    def candidates(self, seen_by: np.ndarray, atlas: Atlas, of: np.ndarray) -> np.ndarray:
        """(n,) int64: all texels that may be read, on triangles `of` (T,) bool with vertices `seen_by` (V, 4).

        A triangle whose three corners are turned away, or in whose box nothing may be read, holds none.
        """
        corners = seen_by[atlas.triangles]
        depth, cosine = corners[..., 2], _highest(corners[..., 3])
        px = corners[..., :2] / np.maximum(depth[..., None], 1e-6)
        good = of & (cosine > np.where(atlas.rough, -0.5, GRAZING_COSINE)) & (_highest(depth) > 1e-6)
        height, width = self.trust.shape[1:]
        total = self._readable
        scale = np.array([width / self.box.width, height / self.box.height], np.float32)
        at = (px - np.array([self.box.left, self.box.top], np.float32)) * scale
        # bilinear reading looks one cell further
        low = np.floor((-_highest(-at)).clip(-1e6, 1e6) - 1.0).astype(np.int64).clip(0, [width, height])
        high = np.ceil(_highest(at).clip(-1e6, 1e6) + 1.0).astype(np.int64).clip(0, [width, height])
        (x0, y0), (x1, y1) = low.T, high.T
        good &= (-_highest(-depth) <= 1e-6) | (total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] > 0)
        return np.flatnonzero(good.take(atlas.triangle))

    @cached_property
    def _readable(self) -> np.ndarray:
        """(h' + 1, w' + 1) int32: how many cells above and left of each corner of a cell may be read."""
        height, width = self.trust.shape[1:]
        total = np.zeros((height + 1, width + 1), np.int32)
        np.cumsum((self.trust > 0.0).any(0), axis=1, dtype=np.int32, out=total[1:, 1:])
        np.cumsum(total[1:, 1:], axis=0, dtype=np.int32, out=total[1:, 1:])
        return total


@dataclass(frozen=True)
class Sample:
    """What the photo shows at n texels."""

    texels: np.ndarray
    """(n,) int64 indices into the atlas's texels, ascending."""
    rgb: np.ndarray
    """(n, 3) float32, sRGB in [0, 1]."""
    trust: np.ndarray
    """(n,) float32 in (0, 1]; texels that are hidden, turned away or covered by something else are not there."""


def cut_box(photo: np.ndarray, parts: np.ndarray, seen_by: np.ndarray, atlas: Atlas, camera: Camera) -> Box:
    """Cut the mesh's box out of the photo and shrink it to the texture's resolution."""
    height, width = parts.shape
    front = seen_by[:, 2] > 0
    px = seen_by[front, :2] / seen_by[front, 2:3] if front.any() else np.zeros((1, 2), np.float32)
    low = np.clip(np.floor(px.min(0)) - 2, 0, [width - 1, height - 1]).astype(int)
    high = np.maximum(np.clip(np.ceil(px.max(0)) + 2, 0, [width, height]).astype(int), low + 1)
    pixels = photo[low[1] : high[1], low[0] : high[0]]
    labels = parts[low[1] : high[1], low[0] : high[0]]
    # photo pixels per texel, where the texture is finest: shrink by area averaging so that nothing aliases
    ratio = _pixels_per_texel(seen_by, atlas)
    if ratio > 1.2:
        shape = (max(round(pixels.shape[1] / ratio), 1), max(round(pixels.shape[0] / ratio), 1))
        pixels = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BOX))
    per_metre = camera.focal_px / float(np.median(seen_by[:, 2])) if front.any() else 1.0
    shrink = min(1.0 / (CELL * per_metre), 1.0)
    if shrink < 1.0:
        shape = (max(round(labels.shape[1] * shrink), 1), max(round(labels.shape[0] * shrink), 1))
        labels = np.asarray(Image.fromarray(labels).resize(shape, Image.Resampling.NEAREST))
    extent = (high - low).astype(float)
    return Box(pixels, labels, float(low[0]), float(low[1]), extent[0], extent[1], shrink * per_metre)


def label_trust(box: Box) -> np.ndarray:
    """(h', w') float32 in [0, 1]: where the labels say skin, well inside the face, for a first look at its light."""
    face = np.isin(box.labels, FACE_LABELS)
    skin = (box.labels == SKIN) | (box.labels == NOSE)
    return soft(face, SKIN_MARGIN * box.cells_per_metre) * skin


def make_source(
    box: Box, vertices_world: Tensor, shading: np.ndarray, bare: np.ndarray, atlas: Atlas, depth: DepthMap,
    camera: Camera,
) -> Source:  # fmt: skip
    """Mark what may be read where.

    Args:
        vertices_world: (V, 3) metres.
        shading: (V, 3) linear light, taken away before skin colours are compared.
        bare: (V,) in [0, 1]: where skin grows neither brows nor beard, so that strands are something in front.
    """
    labels, per_metre = box.labels, box.cells_per_metre
    under = _drawn(np.column_stack([shading, bare]), vertices_world, atlas, box, camera)
    # channel by channel, here and in what follows: numpy is several times slower over so short an axis
    linear = to_linear(np.moveaxis(box.coarse, 2, 0).astype(np.float32, order="C") / 255.0) / under[:3]
    face = np.isin(labels, FACE_LABELS)
    skin = (labels == SKIN) | (labels == NOSE)
    eye, mouth = (labels == RIGHT_EYE) | (labels == LEFT_EYE), labels == INNER_MOUTH
    likeness = _skin_likeness(linear, skin, face, HAIRLINE * per_metre)
    free = _free_of_strands(linear, skin * likeness, face, under[3], per_metre)
    beside = np.where(labels == OTHER, likeness, face)
    # labels are no finer than a strand of hair: near the border the colour must be that of skin as well
    face_skin = np.where(labels == SKIN, likeness, face)
    # the white of the eye and the teeth are not painted on lids and lips
    clear = free * soft(~(eye | mouth), EYE_MARGIN * per_metre)
    trust = [
        soft(face_skin, SKIN_MARGIN * per_metre) * clear,
        soft(np.maximum(face_skin, beside * (labels == OTHER)), SKIN_MARGIN * per_metre) * clear,
        soft(eye, EYE_MARGIN * per_metre),
        soft(mouth, EYE_MARGIN * per_metre),
    ]
    return Source(box, np.stack(trust), depth, camera)


def bare_skin(mean: np.ndarray, atlas: Atlas) -> np.ndarray:
    """(V,) float32 in [0, 1]: skin of the upper face that is neither brow nor lid, by the model's mean head (V, 3)."""

    lips = np.isin(atlas.label, (UPPER_LIP, LOWER_LIP))
    if not atlas.lids.any() or not lips.any():
        return np.zeros(len(mean), np.float32)
    marked = atlas.lids | lips | np.isin(atlas.label, (RIGHT_EYEBROW, LEFT_EYEBROW, INNER_MOUTH))
    low, high = mean[lips, 1].mean(), mean[atlas.lids, 1].mean()
    # from just below the middle of the nose upwards: what glasses and fringe can cover; nostrils seen from below may
    # reach high, so of the nose only the bridge
    share = (mean[:, 1] - low) / (high - low)
    lowest = np.where(atlas.label == NOSE, 0.75, 0.45)
    away = cKDTree(mean[marked]).query(mean)[0]
    bare = smooth_step((share - lowest) / 0.15) * smooth_step((away - NEAR_LASHES) / NEAR_LASHES)
    return bare.astype(np.float32)


def smooth_step(values: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, with level ends between."""
    inside = values.clip(0.0, 1.0)
    return np.asarray(inside * inside * (3.0 - 2.0 * inside))


def soft(mask: np.ndarray, margin: float) -> np.ndarray:
    """(h, w) float32: 1 where `mask` in [0, 1] holds for `margin` px all around, falling to 0 at its border.

    The picture's own border counts as a border: beyond it nothing is known.
    """
    radius = max(round(margin / 2.0), 1)
    side = 2 * radius + 1
    # an erosion, then a box blur of the same width, which stays inside the mask
    kept = cv2.erode(mask.astype(np.float32), _square(side), borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
    return _blurred(np.asarray(kept), side)


def _square(side: int) -> np.ndarray:
    """What OpenCV erodes and dilates with."""
    return np.ones((side, side), np.uint8)


def _blurred(image: np.ndarray, width: int) -> np.ndarray:
    """(h, w) float32: means of squares of `width` px; beyond the picture is 0."""
    for axis in (0, 1):
        image = ndimage.uniform_filter1d(image, width, axis=axis, mode="constant", cval=0.0)
    return image


def _lookup(image: Tensor, grid: Tensor) -> np.ndarray:
    """(C, n) float32: `image` (1, C, h, w) at `grid` (1, 1, n, 2), bilinear."""
    return np.asarray(functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].numpy())


def _highest(at_corners: np.ndarray) -> np.ndarray:
    """(T, ...) the highest of values (T, 3, ...): numpy's own `max` over so short an axis is several times slower."""
    return np.maximum(np.maximum(at_corners[:, 0], at_corners[:, 1]), at_corners[:, 2])


def _pixels_per_texel(seen_by: np.ndarray, atlas: Atlas) -> float:
    """Photo pixels per texel (linear), a low quantile over the head's texels that face the camera."""
    here = np.arange(0, len(atlas.texels) - 1, 61)
    here = here[(atlas.kind[here] <= FACE + 1) & (atlas.texels[here + 1] == atlas.texels[here] + 1)]
    a, b = atlas.at(here, seen_by), atlas.at(here + 1, seen_by)
    good = (a[:, 3] > FULL_COSINE) & (a[:, 2] > 0) & (b[:, 2] > 0)
    if not good.any():
        return 1.0
    step = np.linalg.norm(b[good, :2] / b[good, 2:3] - a[good, :2] / a[good, 2:3], axis=1)
    return float(np.quantile(step, 0.2))


def _drawn(values: np.ndarray, vertices_world: Tensor, atlas: Atlas, box: Box, camera: Camera) -> np.ndarray:
    """(4, h', w') float32: vertex values (V, 4) on the mesh in the photo, at the resolution of `box.labels`; beside the
    mesh light is 1 and nothing is bare. Drawn coarsely, because they vary slowly."""
    height, width = box.labels.shape
    scale = min(1.0, 200.0 / max(height, width))
    small = max(round(height * scale), 1), max(round(width * scale), 1)
    cam = camera.to_cam(vertices_world)
    px = camera.project(vertices_world)
    at = (px - px.new_tensor([box.left, box.top])) * px.new_tensor([small[1] / box.width, small[0] / box.height])
    triangles = torch.from_numpy(atlas.triangles).long()
    triangles = triangles[faces_camera(px, triangles)]
    seen = rasterise(at.float(), cam[:, 2].float(), triangles, *small)
    covered = seen.triangle >= 0
    drawn = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(*small, 4).clone()
    corners = torch.from_numpy(values.astype(np.float32))[triangles[seen.triangle[covered]]]
    drawn[covered] = (corners * seen.barycentric[covered][..., None]).sum(1)
    large = functional.interpolate(drawn.permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False)
    return np.asarray(large[0].numpy())


def _skin_likeness(linear: np.ndarray, skin: np.ndarray, face: np.ndarray, margin: float) -> np.ndarray:
    """(h, w) float32: 1 deep inside the `face`, elsewhere how much a pixel has this person's skin colour.

    Skin colour is a normal distribution of tint and log brightness over the `skin` further than `margin` px from the
    face's border; likeness falls from 1 to 0 between Mahalanobis distances of 2.2 and 3.2. `linear` (3, h, w) is
    without the light's changes.
    """
    deep = soft(face, margin) > 0.99
    known = np.flatnonzero(skin & deep)
    if len(known) < 200:
        return face.astype(np.float32)

    def features(pixels: np.ndarray) -> np.ndarray:
        r, g, b = (channel.take(pixels) for channel in linear)
        total = r + g + b + 0.003
        return np.stack([r / total, g / total, np.log(total) / 6.0], 1)

    sample = features(known[:: max(len(known) // 5000, 1)])
    mean, covariance = sample.mean(0), np.cov(sample.T) + 1e-5 * np.eye(3)
    likeness = np.ones(face.shape, np.float32)
    rest = np.flatnonzero(~deep)
    away = features(rest) - mean
    x, y, z = ((away @ np.linalg.inv(covariance)) * away).T
    likeness.ravel()[rest] = (3.2 - np.sqrt(x + y + z)).clip(0.0, 1.0)
    return likeness


def _free_of_strands(
    linear: np.ndarray, skin: np.ndarray, face: np.ndarray, bare: np.ndarray, per_metre: float
) -> np.ndarray:
    """(h, w) float32: 0 on what differs from the skin around it where skin is `bare` (h, w), as strands of hair and
    rims of glasses do, 1 elsewhere.

    Compared with the mean of the `skin` (h, w) in a window, computed twice, the second time without what differed.
    """
    window = 2 * round(0.5 * STRAND_WINDOW * per_metre) + 1
    off = np.zeros(bare.shape, np.float32)
    weight = skin.astype(np.float32)
    colour = np.log(linear + 0.02)
    inside = weight * bare > 0.5
    for _ in range(2):
        kept = weight * (1.0 - off)
        share = np.maximum(_blurred(kept, window), 1e-6)
        r, g, b = (channel - _blurred(kept * channel, window) / share for channel in colour)
        dark = -(r + g + b) / np.float32(3.0)
        tint = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
        if not inside.any():
            break
        dark = dark / max(STRAND_DARK, USUAL_DIFFERENCE * float(np.median(np.abs(dark[inside]))))
        tint = tint / max(STRAND_TINT, USUAL_DIFFERENCE * float(np.median(tint[inside])))
        off = weight * (share > 0.02) * bare * (2.0 * np.maximum(dark, tint) - 1.0).clip(0.0, 1.0)
    thick, side = off, 2 * round(0.5 * THICKEST_STRAND * per_metre) + 1
    thick = cv2.dilate(cv2.erode(thick, _square(side)), _square(side))
    off = np.maximum(off - thick * soft(face, FRINGE * per_metre), 0.0)
    margin = 2 * max(round(STRAND_MARGIN * per_metre), 1) + 1
    off = np.asarray(cv2.dilate(off, _square(margin)))
    return np.asarray(1.0 - _blurred(off, margin).clip(0.0, 1.0))
