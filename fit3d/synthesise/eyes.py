"""What an edit does to the eyes: skin where a lid came down."""

from __future__ import annotations

import cv2
import numpy as np

from fit3d.labels import BACKGROUND, HAIR, LEFT_EYEBROW, OTHER, RIGHT_EYEBROW
from fit3d.render.light import harmonics
from fit3d.synthesise.grain import grain
from fit3d.synthesise.opening import Opening, from_line
from fit3d.synthesise.picture import disc, mapped, membrane, polygon

STRETCHED, SMEARED = 0.65, 0.35
"""Share of a source pixel that a pixel shows, at which skin begins to be painted anew, and from which on it all is."""
NEAR = 0.3
"""Beside an eye up to this distance, widths of the eye, there is skin or a thin frame."""
GROWN = 0.34
"""An eye is looked for so far around the opening that was fitted, widths of the eye."""
UNLIKE = 0.13
"""What differs from skin by more than this share of its brightness is none."""
NO_SKIN = (BACKGROUND, RIGHT_EYEBROW, LEFT_EYEBROW, HAIR, OTHER)
CHEEK = 0.12
"""So far below an eye the skin is brighter than on the lid, in most light."""
VEIL = 0.1
"""Hair further from the fitted eye than this, widths of the eye, is hair."""
CHEEK_GRAIN = (0.3, 0.85)
"""From how far to how far below an eye skin is looked at for its grain, widths of the eye."""
COARSEST = 0.07
"""Standard deviation of the blur that takes away what is too coarse for grain, widths of the eye."""
CREASE = 0.07
"""How far above the rim of the open eye the fold of the lid stays when it shuts, widths of the eye."""
FOLD, FOLD_WIDTH = 0.10, 0.035
"""How much darker the skin is in this fold, and how wide it is."""


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
    box = eye_box(eye, photo.shape)
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
    seed: int,
) -> np.ndarray:
    """Skin on a lid that came down, in place of the few pixels of it that the photo shows, stretched.

    Its colour runs on harmonically from the skin around, lit as on the eyeball that it lies on; its grain is that of
    the skin below the eye; where skin is only stretched, it gets the grain that it lost. Above it stays the fold in
    which the open lid lay.

    Args:
        picture: (h, w, 3) float32 sRGB 0 ... 255, the warped photo.
        field: (h, w, 2) px, where it came from.
        points: (h, w, 3) world points of the edited surface, metres.
        middle: (3,) of the eyeball, world.
        light: (9, 3) of `fit3d.render.light`, or None.
        brows: (h, w) bool: of the edit, which tell nothing of the lid's skin.
        hidden: (h, w) bool: hair, hats and whatever else is no skin.
        whole: (h, w) of `find_eye`.
        seed: of the grain.
    """
    width = eye.width
    box = eye_box(eye, picture.shape[:2])
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
    shown = shrinkage(part)
    smear = ((STRETCHED - shown) / (STRETCHED - SMEARED)).clip(0.0, 1.0)
    lid = polygon(np.concatenate([local.before_upper, local.after_lower[::-1]]), size)
    brow = cv2.GaussianBlur(cv2.dilate(brows[rows, columns].astype(np.float32), disc(0.02 * width)), (0, 0), 1.0)
    near = cv2.dilate(lid, disc(0.3 * width)) * (1.0 - brow)
    below = _below(local, size)
    lashes = mapped(np.maximum(cv2.dilate(was, disc(0.09 * width)), cv2.dilate(stain, disc(0.04 * width))), part)
    upper = cv2.morphologyEx(np.maximum(smear * near, lashes).astype(np.float32), cv2.MORPH_CLOSE, disc(0.06 * width))
    # soft towards the brow, but cut off sharply by the rim: so it goes on beyond the rim while it is blurred
    upper = np.maximum(upper * (1.0 - below), cv2.dilate(upper, disc(0.15 * width)) * below)
    upper = cv2.GaussianBlur(upper, (0, 0), max(0.045 * width, 0.6)) * (1.0 - cv2.GaussianBlur(below, (0, 0), 0.6))
    # a shut lid lies on the edge of the lower one and its lashes
    lower = mapped(cv2.dilate(stain, disc((0.025 + 0.05 * eye.shut) * width)), part) * below
    left = cv2.GaussianBlur(cv2.dilate(mapped(stain, part), disc(0.03 * width)), (0, 0), max(0.025 * width, 0.5))
    lower_matte = cv2.GaussianBlur(lower, (0, 0), max((0.015 + 0.02 * eye.shut) * width, 0.5))
    matte = np.maximum.reduce([upper, lower_matte, left * eye.shut]).clip(0.0, 1.0)
    fresh = np.maximum(upper, lower)
    unknown = cv2.dilate(np.maximum.reduce([fresh, opening, stain]), disc(0.05 * width)) > 0.3
    # next to the eye parsers take shade for hair and hats, which hardly come so near
    unknown |= (hidden[rows, columns] > 0.5) & (cv2.dilate(was, disc(NEAR * width)) < 0.5)
    unknown |= (brows[rows, columns] > 0.5) | (_distance_below(local, size) < CHEEK * width)
    colour = membrane(cut, unknown, width)
    colour *= _relief(points[rows, columns], middle, light, unknown, width)
    colour *= _fold(local, size)[..., None]
    rough = _rough(cut, local, seed)
    lost = (1.0 - shown).clip(0.0, 1.0) * near * eye.closing
    matte = matte[..., None]
    fine = cut + rough * (lost[..., None] * (1.0 - matte))
    result = picture.copy()
    result[rows, columns] = cut + (1.0 - opening[..., None]) * (fine + matte * (colour + rough - fine) - cut)
    return np.asarray(result)


def under_hair(painted: np.ndarray, picture: np.ndarray, eye: EyeShape, hidden: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32: a `painted` lid, with the `picture` as it was before where hair and hats lie over it.

    What parsers take for them right next to the eye is its own shade.

    Args:
        hidden: (h, w) bool: hair, hats and whatever else is no skin.
    """
    box = eye_box(eye, hidden.shape)
    if box is None:
        return painted
    near = cv2.dilate(eye.mask((hidden.shape[0], hidden.shape[1]), before=True)[box], disc(VEIL * eye.width)) > 0.5
    veil = cv2.GaussianBlur((hidden[box] & ~near).astype(np.float32), (0, 0), max(0.02 * eye.width, 0.5))[..., None]
    result = painted.copy()
    result[box] += veil * (picture[box] - painted[box])
    return np.asarray(result)


def _fold(eye: EyeShape, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) by how much the fold above a shut lid dims the skin: it falls steeply above, slowly below."""
    distance, share, below = from_line(eye.before_upper - CREASE * eye.width * eye.down, shape, eye.down)
    taper = np.clip(np.minimum(share, 1.0 - share) / 0.35, 0.0, 1.0) * ((share > 0.0) & (share < 1.0))
    reach = np.where(below, 0.6, 1.6) * FOLD_WIDTH * eye.width
    return np.asarray(1.0 - FOLD * eye.closing * taper * np.exp(-((distance / reach) ** 2)), np.float32)


def _rough(picture: np.ndarray, eye: EyeShape, seed: int) -> np.ndarray:
    """(h, w, 3) the grain of the skin below the eye, of the smoothest of three places: elsewhere are hairs, frames."""
    middle = 0.5 * (eye.before_lower[0] + eye.before_lower[-1])
    across = np.array([eye.down[1], -eye.down[0]])
    near, far = CHEEK_GRAIN
    half = 0.5 * (far - near) * eye.width
    patches = []
    for aside in (-0.35, 0.0, 0.35):
        centre = middle + eye.width * (0.5 * (near + far) * eye.down + aside * across)
        low, high = (np.rint(centre + sign * half).astype(int).clip(0) for sign in (-1.0, 1.0))
        patches.append(picture[low[1] : high[1], low[0] : high[0]])
    coarsest = max(COARSEST * eye.width, 1.0)
    fit = [patch for patch in patches if min(patch.shape[:2]) >= 0.6 * half]
    if not fit:
        return np.zeros_like(picture)
    smoothest = min(fit, key=lambda patch: float((patch - cv2.GaussianBlur(patch, (0, 0), coarsest)).std()))
    return grain(smoothest, coarsest, (picture.shape[0], picture.shape[1]), seed)


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


def _below(eye: EyeShape, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float32: 1 below the lower rim of the edited eye."""
    _, _, below = from_line(eye.after_lower, shape, eye.down)
    return below.astype(np.float32)


def _distance_below(eye: EyeShape, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) px below the lower rim of the edited eye; infinite above it."""
    distance, share, below = from_line(eye.after_lower, shape, eye.down)
    return np.where(below & (share > 0.0) & (share < 1.0), distance, np.inf)


def eye_box(eye: EyeShape, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
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
