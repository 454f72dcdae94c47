"""Which part each point of the bundled head belongs to, as signed fields over its vertices. Used by `annotate.py`.

Lids and lips follow edge loops of the mesh, the other borders are lines drawn through its vertices. Only the person's
left half is described, the right half is its mirror image.
"""

from __future__ import annotations

import numpy as np
from head_mesh import HEAD_CENTRE, MOUTH_CORNER, Head, Lines, between, resample
from scipy.spatial import cKDTree

from fit3d.morphable.annotation import FAR_OUTSIDE_M

# Where people draw the borders of nose, brows and lower lip was compared on ten photos whose parts people had drawn,
# with the labels carried to the mean head: the height of the nose's root, the width of its bridge and wings, height and
# thickness of the brows and the fullness of the lower lip at its sides follow the medians. Those of five photos and of
# the other five differ by half a millimetre, at most 1.6 mm.

NOSE_SIDE: tuple[tuple[int, int, float], ...] = (
    (136, 136, 0.0),
    (2350, 2344, 0.4),
    (2340, 2340, 0.0),
    (2341, 2335, 0.6),
    (2342, 2336, 0.7),
    (2343, 2337, 0.5),
    (2425, 2425, 0.0),
    (3795, 3793, 0.55),
    (3794, 3792, 0.85),
    (2413, 3633, 0.5),
    (3638, 2409, 0.1),
    (3639, 2488, 0.6),
    (3641, 2487, 0.7),
    (2537, 2537, 0.0),
    (3602, 2538, 0.5),
    (2534, 3603, 0.5),
    (2517, 2535, 0.5),
    (2516, 2516, 0.0),
    (2491, 2491, 0.0),
    (2531, 2531, 0.0),
    (2490, 2490, 0.0),
    (2512, 2512, 0.0),
    (2514, 2514, 0.0),
    (317, 312, 0.3),
)
"""Border of the nose from its root down the left side to the columella: points (a, b, t), a + t (b - a)."""

BROW_ACROSS = (0.20, 0.32, 0.45, 0.58, 0.66, 0.77, 0.85, 0.93, 1.05)
"""Places along the left eyebrow, distance from the middle of the face in units of that between the eyes' centres."""
BROW_TOP = (0.277, 0.328, 0.360, 0.385, 0.389, 0.367, 0.325, 0.242, 0.080)
BROW_BOTTOM = (0.178, 0.192, 0.226, 0.261, 0.277, 0.271, 0.252, 0.229, 0.180)
"""Its upper and lower border there, height above the eyes' centres in the same unit; beyond their crossing there is
no brow."""
BROW_ENDS = (0.203, 0.935)
"""Where it begins and ends."""

LOWER_LIP_FULLNESS = {12: 0.15, 13: 0.3, 14: 0.5, 15: 0.6, 16: 0.5, 17: 0.25, 18: 0.12}
"""Share of the way from the ring at the border of the red to the ring around it at which the red ends, by index."""

FACE_OUTLINE = (
    *(747, 2884, 2885, 3059, 3060, 3029, 3492, 3030, 3031, 3032, 3033, 3050, 3049, 3007),
    *(4290, 4281, 4296, 3931, 3012, 2469, 2476, 2477, 2455, 2454, 1664),
)
"""Border of the face's skin from below the chin along the jaw, before the ear and along the hairline to its middle."""
HAIR_LINE = ((-0.040, 0.010), (-0.060, 0.016), (-0.095, 0.012), (-0.106, -0.020), (-0.118, -0.055), (-0.30, -0.055))
"""Lower border of the hair behind the face seen from the side, (z, y)."""


def make_fields(head: Head, lines: Lines) -> dict[str, np.ndarray]:
    """Signed field (V,) of each part on the mean head, positive inside, about metres to the border."""
    points = head.mean
    left = points * np.where(points[:, :1] < 0, [-1.0, 1.0, 1.0], 1.0)
    on_left, on_right = points[:, 0] > -1e-6, points[:, 0] < 1e-6

    eye = _eye(head, lines, left)
    lips, upper_side = _lips(head, lines, left)
    half = between(head, NOSE_SIDE)
    half[[0, -1], 0] = 0.0
    in_nose = _inside(_closed(half)[:, :2], points[:, :2]) & (points[:, 2] > 0.0)
    nose = np.where(in_nose, 1.0, -1.0) * _distance(half, left)
    half = points[list(FACE_OUTLINE)]
    in_face = _inside(_directions(resample(_closed(half))), _directions(points))
    face = np.where(in_face, 1.0, -1.0) * _distance(half, left)
    hair_z, hair_y = np.array(HAIR_LINE).T
    above_hair_line = points[:, 1] - np.interp(-points[:, 2], -hair_z, hair_y)
    above, below, inner = _brow_borders(lines, left)
    brow = _brow(head, np.stack([above, below, inner]))

    # The brows are narrower than the triangles, so that each of their borders is a field of the skin of its own, and
    # the brow is where all of these are negative.
    skin = np.minimum.reduce([face, -nose, -lips, -eye])
    return {
        "right_eye": np.where(on_right, eye, FAR_OUTSIDE_M),
        "left_eye": np.where(on_left, eye, FAR_OUTSIDE_M),
        "right_eyebrow": np.where(on_right, brow, FAR_OUTSIDE_M),
        "left_eyebrow": np.where(on_left, brow, FAR_OUTSIDE_M),
        "nose": nose,
        "upper_lip": np.minimum(lips, upper_side),
        "lower_lip": np.minimum(lips, -upper_side),
        "skin": np.minimum(skin, inner),
        "skin/above_brows": np.minimum(skin, above),
        "skin/below_brows": np.minimum(skin, below),
        "hair": np.minimum(-face, above_hair_line),
        "other": np.minimum(-face, -above_hair_line),
    }


def _eye(head: Head, lines: Lines, left: np.ndarray) -> np.ndarray:
    """Field of both eyes on the surface: the edges of the lids from the visible rim back to the patch."""
    rim = lines.lid_rim[0] + lines.lid_rim[1][::-1]
    edge: set[int] = set()
    frontier = set(lines.lid_inner_ring)
    while frontier:
        edge |= frontier
        frontier = {n for v in frontier for n in head.neighbours[v]} - edge - set(rim)
    within = np.zeros(len(left), bool)
    within[list(edge)] = True
    field = np.where(within | within[head.mirror], 1.0, -1.0) * _distance(head.mean[rim], left)
    field[rim + head.mirrored(rim)] = 0.0
    return np.asarray(field)


def _lips(head: Head, lines: Lines, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Field of both lips together, and distance from the line through the corners, positive on the upper lip."""
    rings, count = lines.lip_rings, len(lines.lip_rings[0])
    outwards = np.zeros((count, 1))
    for index, share in LOWER_LIP_FULLNESS.items():
        outwards[[index, count - index]] = share
    border = head.mean[rings[0]] + outwards * (head.mean[lines.lip_roll] - head.mean[rings[0]])
    red = np.zeros(len(left), bool)
    red[[v for ring in rings for v in ring]] = True
    field = np.where(red, 1.0, -1.0) * _distance(np.concatenate([border, border[:1]]), head.mean)

    upper = np.zeros(len(left), bool)
    upper[[v for ring in rings for v in ring[:MOUTH_CORNER] + ring[count - MOUTH_CORNER + 1 :]]] = True
    corner = [ring[MOUTH_CORNER] for ring in rings]
    side = np.where(upper, 1.0, -1.0) * _distance(head.mean[corner], left)
    side[corner + [ring[count - MOUTH_CORNER] for ring in rings]] = 0.0
    return field, side


def _brow_borders(lines: Lines, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance above the brow, below it and towards the middle of its inner end, (V,) each."""
    across = np.clip(left[:, 0] / lines.unit, BROW_ACROSS[0], BROW_ACROSS[-1])

    def height_above(border: tuple[float, ...]) -> np.ndarray:
        slope = (np.interp(across + 0.01, BROW_ACROSS, border) - np.interp(across - 0.01, BROW_ACROSS, border)) / 0.02
        height = left[:, 1] - lines.eye_height - lines.unit * np.interp(across, BROW_ACROSS, border)
        return np.asarray(height / np.hypot(1.0, slope))

    return height_above(BROW_TOP), -height_above(BROW_BOTTOM), lines.unit * BROW_ENDS[0] - left[:, 0]


def _brow(head: Head, borders: np.ndarray) -> np.ndarray:
    """Field of the brow (V,): 0 on the corners of all triangles it touches, so that there the borders (3, V) alone
    decide, falling off beyond."""
    ahead = head.mean[:, 2] > -0.03
    triangles = head.faces[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    grid = np.array([[a, b, 8 - a - b] for a in range(9) for b in range(9 - a)]) / 8.0
    outside = np.einsum("sc,ftc->fts", grid, borders[:, triangles]).max(0)  # (T, samples)
    touched = (outside < 0.0).any(1) & ahead[triangles].all(1)
    field = np.where(ahead, np.minimum(-borders.max(0), -0.001), FAR_OUTSIDE_M)
    field[np.unique(triangles[touched])] = 0.0
    return np.asarray(field)


def _inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 2) lie in the closed polygon (M, 2)."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    rise = b[:, 1] - a[:, 1]
    slope = np.divide(b[:, 0] - a[:, 0], rise, out=np.zeros(len(a)), where=rise != 0)
    crosses = (a[:, 1] > points[:, None, 1]) != (b[:, 1] > points[:, None, 1])
    left_of = points[:, None, 0] < a[:, 0] + slope * (points[:, None, 1] - a[:, 1])
    return np.asarray((crosses & left_of).sum(1) % 2 == 1)


def _distance(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) distance of points (N, 3) to a line (M, 3)."""
    return np.asarray(cKDTree(resample(line)).query(points)[0])


def _directions(points: np.ndarray) -> np.ndarray:
    """Azimuth from straight ahead and elevation (N, 2) of points (N, 3) as seen from the middle of the head."""
    x, y, z = (points - HEAD_CENTRE).T
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], axis=1)


def _closed(half: np.ndarray) -> np.ndarray:
    """A line that starts and ends in the middle, closed through its mirror image."""
    return np.concatenate([half, half[::-1] * [-1.0, 1.0, 1.0]])
