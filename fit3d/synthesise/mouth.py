"""The inside of an opened mouth: what the photo shows of it where it went, else teeth, tongue and the dark behind."""

from __future__ import annotations

import cv2
import numpy as np

from fit3d.labels import SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.synthesise.geometry import Projection, Window, look_inside
from fit3d.synthesise.inside import LOWER, TONGUE, UPPER, MouthLight, Teeth, draw_inside, kind_of_triangle, settle_jaw
from fit3d.synthesise.open_mouth import Rims, follow_jaws
from fit3d.synthesise.opening import Opening, area, from_line
from fit3d.synthesise.picture import disc, mapped, membrane

NARROW = 0.06
"""A mouth that gapes less than this, height over width, is as good as closed."""
TEETH_SEEN = 0.012
"""Area of teeth in the photo, squares of the mouth's width, that tells how bright they are."""
FEWEST_PX = 12
"""Pixels of the inside of a mouth that tell how dark it is."""
CRUMBS = 0.03
"""Rim of the lips that may show teeth instead, widths of the mouth."""


class MouthShape(Opening):
    """The opening between the lips."""

    @property
    def gape(self) -> float:
        """How open it is in the photo: mean height over width."""
        return area(self.before_upper, self.before_lower) / max(self.width, 1e-6) ** 2

    @property
    def stretch_weight(self) -> float:
        """How far the photo's own mouth, stretched, is the better picture: it is as good as closed and grows little."""
        if self.gape >= NARROW:
            return 0.0
        stretched = np.clip((1.35 - self.growth) / 0.3, 0.0, 1.0)
        after = area(self.after_upper, self.after_lower) / max(self.width, 1e-6) ** 2
        shut = np.clip((1.3 * NARROW - after) / (0.6 * NARROW), 0.0, 1.0)  # a slit of the model's is no opening
        return float(max(stretched, shut))


def paint_mouth(
    photo: np.ndarray,
    model: MorphableModel,
    before: Projection,
    after: Projection,
    window: Window,
    mouth: MouthShape,
    skin: np.ndarray,
    light: np.ndarray | None,
    teeth: Teeth,
) -> np.ndarray:
    """(h, w, 3) float32 sRGB 0 ... 255: the inside of the mouth; of use within its opening only.

    Args:
        photo: (h, w, 3) float32 sRGB 0 ... 255, the window of the photo.
        skin: (h, w) bool: where the photo shows the face's skin, by which the light is judged.
        light: (9, 3) of `fit3d.render.light`, or None.
        teeth: how to draw those that the photo does not show.
    """
    is_open = mouth.gape >= NARROW
    chosen = np.isin(kind_of_triangle(model), (TONGUE,) if is_open else (UPPER, LOWER, TONGUE))
    settled = settle_jaw(model, after, mouth, teeth)
    now, then = (look_inside(model, head, window, chosen) for head in (settled, before))
    place = now.triangle.numpy(), now.barycentric.numpy()
    drawn = draw_inside(model, settled, place, mouth, MouthLight.of(photo, skin, light), teeth)
    if not is_open:
        return _with_photo(drawn, photo, model, before, window, place, then.triangle.numpy(), mouth)
    inside = photo[mouth.mask((window.height, window.width), before=True) > 0.9]
    if len(inside) >= FEWEST_PX:  # no brighter than the dark that was seen
        seen = inside[np.argsort(inside.sum(1))[: max(len(inside) // 8, 3)]].mean(0)
        dark = drawn[mouth.mask((window.height, window.width), before=False) > 0.5]
        drawn *= (seen / np.maximum(np.median(dark, axis=0), 1.0)).clip(0.3, 1.0).astype(np.float32)
    side = 2 * len(mouth.before_lower) // 5  # in the middle, where the lip is next to the teeth
    jaw = (mouth.after_lower - mouth.before_lower)[side:-side].mean(0)
    bright = float(np.median(photo[skin].mean(-1))) if skin.any() else 128.0
    return follow_jaws(photo, drawn, Rims.of(mouth.before_upper, mouth.before_lower), jaw, bright)


def clean_lips(picture: np.ndarray, field: np.ndarray, mouth: MouthShape) -> np.ndarray:
    """The edited photo without what lips took along of the teeth or the dark behind them: parsers miss rims by a pixel
    or two. Where a rim moved, its last pixels are continued from the lip further out.

    Args:
        picture: (h, w, 3) float32 sRGB 0 ... 255, the warped photo.
        field: (h, w, 2) px, where it came from.
    """
    shape = picture.shape[0], picture.shape[1]
    opening = mouth.mask(shape, before=False)
    was = cv2.dilate(mouth.mask(shape, before=True), disc(max(CRUMBS * mouth.width, 1.5)))
    lower = from_line(mouth.after_lower, shape, mouth.down)[2]  # light falls on the lower lip, and shows them
    stained = mapped(was, field) * (opening < 0.99) * lower
    moved = (np.hypot(*field.transpose(2, 0, 1)) / (0.05 * mouth.width)).clip(0.0, 1.0)
    if mouth.gape < NARROW or not (stained * moved > 0.1).any():
        return picture
    away = membrane(picture, (stained > 0.1) | (opening > 0.01), mouth.width)
    matte = cv2.GaussianBlur(stained * moved, (0, 0), max(0.3 * CRUMBS * mouth.width, 0.5))[..., None]
    return np.asarray(picture + matte * (away - picture))


def _with_photo(
    picture: np.ndarray,
    photo: np.ndarray,
    model: MorphableModel,
    before: Projection,
    window: Window,
    now: tuple[np.ndarray, np.ndarray],
    then: np.ndarray,
    mouth: MouthShape,
) -> np.ndarray:
    """Upper teeth that the photo shows between lips that hardly part, where they are now; else what was drawn."""
    triangle, weights = now
    shape = window.height, window.width
    shown = cv2.erode(mouth.mask(shape, before=True), np.ones((3, 3), np.uint8))
    if shown.max() < 0.5 or mouth.gape < 0.5 * NARROW:
        return picture
    corners = model.triangles[np.maximum(triangle, 0)]
    source = (before.in_window(window)[corners] * weights[..., None]).sum(-2)
    # the cavity's pixels have no place of their own; what moves least is above
    still = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1)
    source = np.where((triangle >= 0)[..., None], source, still).astype(np.float32)
    x, y = source[..., 0] - 0.5, source[..., 1] - 0.5
    moved = cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).clip(0.0, 255.0)
    kind = kind_of_triangle(model)
    there = np.where(then >= 0, kind[np.maximum(then, 0)], 0)
    here = np.where(triangle >= 0, kind[np.maximum(triangle, 0)], 0)
    column, row = (np.rint(v).astype(int).clip(0, size - 1) for v, size in ((x, shape[1]), (y, shape[0])))
    # little is seen below the upper teeth, and what it is is a guess
    trust = cv2.remap(shown, x, y, cv2.INTER_LINEAR) * ((there[row, column] == UPPER) & (here == UPPER))
    sure = (trust > 0.5) & (here == UPPER)
    if sure.sum() >= TEETH_SEEN * mouth.width**2:  # as dark as the photo's own, which lips may shade
        ratio = np.median(moved[sure], axis=0) / np.maximum(np.median(picture[sure], axis=0), 1.0)
        picture = np.where((here == UPPER)[..., None], picture * ratio.clip(0.1, 1.6), picture).astype(np.float32)
    trust = cv2.GaussianBlur(trust.astype(np.float32), (0, 0), max(0.01 * mouth.width, 0.6))[..., None]
    return np.asarray(picture + trust * (moved - picture))


def skin_of(parts: np.ndarray) -> np.ndarray:
    """(h, w) bool: the skin of a label image."""
    return np.asarray(parts == SKIN)
