"""What an edit does to the eyes: skin where a lid came down, and a line of lashes along its rim."""

from __future__ import annotations

import cv2
import numpy as np

from fit3d.labels import BACKGROUND, HAIR, LEFT_EYEBROW, OTHER, RIGHT_EYEBROW
from fit3d.render.light import harmonics
from fit3d.synthesise.opening import Opening, from_line
from fit3d.synthesise.picture import disc, mapped, membrane, polygon

STRETCHED, SMEARED = 0.55, 0.3
"""Share of a source pixel that a pixel shows, at which skin begins to be painted anew, and from which on it all is."""
GRAIN_SHIFT = 0.6
"""How far below an eye skin is looked at for its pores and grain, widths of the eye."""
NEAR = 0.3
"""Beside an eye up to this distance, widths of the eye, there is skin or a thin frame."""
GROWN = 0.34
"""An eye is looked for so far around the opening that was fitted, widths of the eye."""
UNLIKE = 0.13
"""What differs from skin by more than this share of its brightness is none."""
FURTHEST = 0.15
"""A line of lashes goes on beyond the fitted corners by so many widths of the eye at most."""
RISING = 0.25
"""See `lash_rim`."""
NO_SKIN = (BACKGROUND, RIGHT_EYEBROW, LEFT_EYEBROW, HAIR, OTHER)
CHEEK = 0.12
"""So far below an eye the skin is brighter than on the lid, in most light."""
LASH_WIDTH = 0.02
"""Half thickness of the lash line of a closed eye, widths of the eye."""
LASH_FRINGE = 0.05
"""How far lashes reach below it."""


class EyeShape(Opening):
    """One eye."""

    @property
    def closing(self) -> float:
        """From 0, as open as in the photo, to 1, shut."""
        return float(np.clip(1.0 - self.growth, 0.0, 1.0))

    @property
    def shut(self) -> float:
        """1 where what remains of the opening is slivers at its corners, which show nothing of the eye."""
        return float(np.clip((self.closing - 0.8) / 0.1, 0.0, 1.0))

    @property
    def opening(self) -> float:
        """Area that the eye gains, as a share of the one in the photo."""
        return max(self.growth - 1.0, 0.0)


def shrinkage(field: np.ndarray) -> np.ndarray:
    """(h, w) share of a source pixel that each pixel shows: the determinant of the map `q + field(q)`."""
    dx_y, dx_x = np.gradient(field[..., 0])
    dy_y, dy_x = np.gradient(field[..., 1])
    return np.asarray(np.abs((1.0 + dx_x) * (1.0 + dy_y) - dx_y * dy_x))


def find_eye(photo: np.ndarray, eye: EyeShape, parts: np.ndarray) -> np.ndarray:
    """(h, w) float32 in [0, 1]: the eye in the photo with its lashes: the opening, and what is next to it and not of
    the colour of the skin around. Parsers' eyes end short of the corners, and lose whites that are seen from below.

    Args:
        photo: (h, w, 3) float32 sRGB 0 ... 255.
        parts: (h, w) uint8 observed labels.
    """
    was = eye.mask((photo.shape[0], photo.shape[1]), before=True)
    box = _box(eye, photo.shape)
    if box is None:
        return was
    cut, seen, inside = photo[box], parts[box], was[box]
    near = cv2.dilate(inside, disc(GROWN * eye.width)) > 0.5
    other = cv2.dilate(np.isin(seen, NO_SKIN).astype(np.uint8), disc(0.05 * eye.width)) > 0
    around = membrane(cut, near | other, eye.width)
    unlike = np.abs(cut - around).mean(-1) > UNLIKE * float(np.median(around))
    found = ((unlike & near & ~other) | (inside > 0.5)).astype(np.uint8)
    count, pieces = cv2.connectedComponents(found, connectivity=4)
    touched = np.isin(np.arange(count), np.unique(pieces[(inside > 0.5) & (found > 0)]))
    touched[0] = False
    whole = cv2.morphologyEx(touched[pieces].astype(np.uint8), cv2.MORPH_CLOSE, disc(0.06 * eye.width))
    result = was.copy()
    result[box] = np.maximum(inside, cv2.GaussianBlur(whole.astype(np.float32), (0, 0), 0.5))
    return result


def lash_rim(eye: EyeShape, whole: np.ndarray) -> np.ndarray:
    """(N, 2) px: the upper rim of the edited eye, to the corners of the `whole` eye (h, w) of `find_eye`.

    Corners stay up while a lid goes down: so that its line has no hooks, it rises towards them by `RISING` at most.
    """
    axes = np.stack([(eye.down[1], -eye.down[0]), eye.down])
    rim = (eye.after_upper - eye.before_upper[0]) @ axes.T
    rows, columns = np.nonzero(whole > 0.5)
    if len(rows) < 8 or len(rim) < 8:
        return eye.after_upper
    reach = (np.stack([columns, rows], 1) + 0.5 - eye.before_upper[0]) @ axes[0]
    first, last = np.quantile(reach, (0.02, 0.98))
    inner = rim[2:-2]
    most = FURTHEST * eye.width
    left = np.clip(first, rim[0, 0] - most, rim[0, 0])
    right = np.clip(last, rim[-1, 0], rim[-1, 0] + most)
    ends = []
    for at, corner, inside in ((left, rim[0], inner[0]), (right, rim[-1], inner[-1])):
        most = RISING * abs(at - inside[0])
        ends.append((at, inside[1] + np.clip(corner[1] - inside[1], -most, most)))
    line = np.concatenate([[ends[0]], inner, [ends[1]]])
    return np.asarray(line @ axes + eye.before_upper[0])


def paint_lid(
    picture: np.ndarray,
    field: np.ndarray,
    eye: EyeShape,
    points: np.ndarray,
    middle: np.ndarray,
    light: np.ndarray | None,
    brows: np.ndarray,
    hidden: np.ndarray,
    whole: np.ndarray,
) -> np.ndarray:
    """Skin on a lid that came down, in place of the few pixels of it that the photo shows, stretched.

    Its colour runs on harmonically from the skin around, lit as on the eyeball that it lies on; its grain is that of
    the skin below the eye.

    Args:
        picture: (h, w, 3) float32 sRGB 0 ... 255, the warped photo.
        field: (h, w, 2) px, where it came from.
        points: (h, w, 3) world points of the edited surface, metres.
        middle: (3,) of the eyeball, world.
        light: (9, 3) of `fit3d.render.light`, or None.
        brows: (h, w) bool: of the edit, which tell nothing of the lid's skin.
        hidden: (h, w) bool: hair, hats and whatever else is no skin.
        whole: (h, w) of `find_eye`.
    """
    width = eye.width
    box = _box(eye, picture.shape[:2])
    if box is None:
        return picture
    rows, columns = box
    cut, part = picture[rows, columns], field[rows, columns]
    local = EyeShape(
        *(
            rim - (columns.start, rows.start)
            for rim in (eye.before_upper, eye.before_lower, eye.after_upper, eye.after_lower)
        )
    )
    size = rows.stop - rows.start, columns.stop - columns.start
    opening = local.mask(size, before=False) * (1.0 - local.shut)
    was = local.mask(size, before=True)
    # all of an eye that closes goes; one that narrows keeps its own lashes
    stain = np.maximum(was, whole[rows, columns] * eye.shut)
    smear = ((STRETCHED - shrinkage(part)) / (STRETCHED - SMEARED)).clip(0.0, 1.0)
    near = cv2.dilate(polygon(np.concatenate([local.before_upper, local.after_lower[::-1]]), size), disc(0.12 * width))
    below = _below(local, size)
    lashes = mapped(np.maximum(cv2.dilate(was, disc(0.09 * width)), cv2.dilate(stain, disc(0.03 * width))), part)
    upper = cv2.morphologyEx(np.maximum(smear * near, lashes).astype(np.float32), cv2.MORPH_CLOSE, disc(0.06 * width))
    # soft towards the brow, but cut off sharply by the rim: so it goes on beyond the rim while it is blurred
    upper = np.maximum(upper * (1.0 - below), cv2.dilate(upper, disc(0.15 * width)) * below)
    upper = cv2.GaussianBlur(upper, (0, 0), max(0.045 * width, 0.6)) * (1.0 - cv2.GaussianBlur(below, (0, 0), 0.6))
    lower = mapped(cv2.dilate(stain, disc(0.025 * width)), part) * below
    left = cv2.GaussianBlur(cv2.dilate(mapped(stain, part), np.ones((3, 3))), (0, 0), 0.5)
    lower_matte = cv2.GaussianBlur(lower, (0, 0), max(0.015 * width, 0.5))
    matte = np.maximum.reduce([upper, lower_matte, left * eye.shut]).clip(0.0, 1.0)
    fresh = np.maximum(upper, lower)
    unknown = cv2.dilate(np.maximum.reduce([fresh, opening, stain]), disc(0.05 * width)) > 0.3
    # next to the eye parsers take shade for hair and hats, which hardly come so near
    unknown |= (hidden[rows, columns] > 0.5) & (cv2.dilate(was, disc(NEAR * width)) < 0.5)
    unknown |= (brows[rows, columns] > 0.5) | (_distance_below(local, size) < CHEEK * width)
    colour = membrane(cut, unknown, width)
    colour *= _relief(points[rows, columns], middle, light, unknown, width)
    colour += _grain(cut, local, width)
    matte = (matte * (1.0 - opening))[..., None]
    result = picture.copy()
    result[rows, columns] = cut + matte * (colour - cut)
    return np.asarray(result)


def draw_lashes(picture: np.ndarray, photo: np.ndarray, eye: EyeShape, whole: np.ndarray) -> np.ndarray:
    """The dark line of lashes along the rim of a lid that came down, and their fringe below it; `whole` (h, w) of
    `find_eye`."""
    closing = float(np.clip((eye.closing - 0.3) / 0.5, 0.0, 1.0))
    box = _box(eye, picture.shape[:2])
    if closing == 0.0 or box is None:
        return picture
    rows, columns = box
    offset = (columns.start, rows.start)
    rim = _smooth(lash_rim(eye, whole) - offset)
    distance, share, below = from_line(rim, (rows.stop - rows.start, columns.stop - columns.start), eye.down)
    taper = np.clip(np.minimum(share, 1.0 - share) / 0.25, 0.0, 1.0) ** 0.7
    thin = LASH_WIDTH * eye.width * (0.45 + 0.55 * taper)
    blur = softness(photo, eye)
    half = np.hypot(thin, blur)
    # a line blurred wider is fainter
    line = np.exp(-((distance / half) ** 2)) * (0.35 + 0.65 * taper) * np.sqrt(thin / half)
    fringe = 0.4 * np.exp(-distance / np.hypot(LASH_FRINGE * eye.width, blur)) * below * taper
    inside = (share > 0.0) & (share < 1.0)
    alpha = (closing * np.maximum(0.85 * line, fringe) * np.where(inside, 1.0, np.exp(-distance / half)))[..., None]
    cut = picture[rows, columns]
    result = picture.copy()
    result[rows, columns] = cut + alpha * (np.minimum(_lash_colour(photo, eye), cut) - cut)
    return np.asarray(result)


def softness(photo: np.ndarray, eye: EyeShape) -> float:
    """Standard deviation, px, of the blur of the photo's edges across the upper lid: contrast over slope."""
    steps = np.arange(-0.15 * eye.width, 0.2 * eye.width, 0.5)
    profile = _across_rim(photo, eye, steps).mean(-1)
    slope = np.abs(np.diff(profile, axis=1)).max(1) / 0.5
    contrast = np.ptp(profile, axis=1)
    return float(np.clip(np.median(contrast / np.maximum(slope, 1e-3)) / 2.5, 0.6, max(0.08 * eye.width, 0.6)))


def _across_rim(photo: np.ndarray, eye: EyeShape, steps: np.ndarray) -> np.ndarray:
    """(N, S, 3): the photo `steps` (S,) px below the vertices of the upper rim, but for its ends."""
    x = eye.before_upper[2:-2, None, 0] + steps * eye.down[0] - 0.5
    y = eye.before_upper[2:-2, None, 1] + steps * eye.down[1] - 0.5
    picture = np.ascontiguousarray(photo, np.float32)
    return np.asarray(
        cv2.remap(
            picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    )


def _lash_colour(photo: np.ndarray, eye: EyeShape) -> np.ndarray:
    """(3,) the dark of the photo's lashes: of the darkest pixels along the upper rim."""
    found = _across_rim(photo, eye, np.linspace(-0.06, 0.03, 7) * eye.width).reshape(-1, 3)
    dark = found[np.argsort(found.sum(1))[: max(len(found) // 8, 3)]].mean(0)
    return np.asarray(dark * 0.9, np.float32)


def _relief(
    points: np.ndarray, middle: np.ndarray, light: np.ndarray | None, unknown: np.ndarray, width: float
) -> np.ndarray:
    """(h, w, 1) how much brighter skin on the eyeball is than the skin around it continued."""
    if light is None:
        return np.ones((*unknown.shape, 1), np.float32)
    normals = points - middle
    seen = np.abs(points).sum(-1) > 0
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    shading = (harmonics(normals.reshape(-1, 3)) @ light.mean(1)).reshape(unknown.shape).clip(0.3, 2.0)
    shading = cv2.GaussianBlur(np.where(seen, shading, 1.0).astype(np.float32), (0, 0), max(0.05 * width, 0.5))
    around = membrane(shading[..., None], unknown, width)
    return np.asarray(((shading[..., None] / np.maximum(around, 0.2)) ** (1.0 / 2.2)).clip(0.7, 1.3))


def _grain(picture: np.ndarray, eye: EyeShape, width: float) -> np.ndarray:
    """(h, w, 3) the fine detail of the skin below the eye, moved up onto the lid."""
    smooth = cv2.GaussianBlur(picture, (0, 0), max(0.03 * width, 1.0))
    detail = (picture - smooth).clip(-12.0, 12.0)
    shift = GRAIN_SHIFT * width * eye.down
    h, w = picture.shape[:2]
    x = np.arange(w, dtype=np.float32)[None].repeat(h, 0) + np.float32(round(float(shift[0])))
    y = np.arange(h, dtype=np.float32)[:, None].repeat(w, 1) + np.float32(round(float(shift[1])))
    return np.asarray(cv2.remap(detail, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT))


def _below(eye: EyeShape, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float32: 1 below the lower rim of the edited eye."""
    _, _, below = from_line(eye.after_lower, shape, eye.down)
    return below.astype(np.float32)


def _distance_below(eye: EyeShape, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) px below the lower rim of the edited eye; infinite above it."""
    distance, share, below = from_line(eye.after_lower, shape, eye.down)
    return np.where(below & (share > 0.0) & (share < 1.0), distance, np.inf)


def _smooth(line: np.ndarray) -> np.ndarray:
    """(32, 2) a smooth curve through a polyline (N, 2), with its ends."""
    step = np.linalg.norm(np.diff(line, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(step)]) / max(float(step.sum()), 1e-6)
    where = np.linspace(0.0, 1.0, 32)
    return np.stack([np.polynomial.Polynomial.fit(at, line[:, k], 5)(where) for k in (0, 1)], 1)


def _box(eye: EyeShape, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns around the eye, with room for the skin by which lids are coloured."""
    points = np.concatenate([eye.before_upper, eye.before_lower, eye.after_upper, eye.after_lower])
    if eye.width < 4.0 or not np.isfinite(points).all():
        return None
    room = np.array([0.5, 1.0]) * eye.width
    low = np.maximum(np.floor(points.min(0) - room), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + room), (shape[1], shape[0])).astype(int)
    if (high - low < 8).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
