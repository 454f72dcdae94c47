"""Small corrections in the picture: the fitted rims of lids and lips moved onto the ones that the parser saw.

A linear model misses rims by a few pixels, which would leave a line of lip or lash on the wrong side of every opening
that an edit makes. The corrections go with the surface through the edit, but where an opening closes its two rims must
meet: there they take one correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fit3d.labels import LEFT_EYE, LOWER_LIP, RIGHT_EYE, UPPER_LIP
from fit3d.morphable.model import MorphableModel
from fit3d.synthesise.geometry import Projection
from fit3d.synthesise.opening import area

SPREAD_M = 0.005
"""A rim's correction dies away over this distance on the skin, metres."""
LARGEST = 0.2
"""A rim that is further off than this, in widths of its opening, was not seen well: it stays as fitted."""
FEWEST_PX = 24
"""Pixels of a part that tell of its rim."""
DEGREE = 4
"""Of the polynomial through a rim's pixels."""

_SEEN = {
    "right_eye": ((RIGHT_EYE, "first"), (RIGHT_EYE, "last")),
    "left_eye": ((LEFT_EYE, "first"), (LEFT_EYE, "last")),
    "inner_mouth": ((UPPER_LIP, "last"), (LOWER_LIP, "first")),
}
"""Which label's first or last pixel from above is the upper and the lower rim."""


@dataclass(frozen=True)
class Rim:
    """One rim of an opening, and how far from the photo's it was fitted."""

    ids: np.ndarray
    """(N,) vertex ids, from the person's right to left."""
    offset: np.ndarray
    """(N, 2) px from the fitted rim to the one seen."""


@dataclass(frozen=True)
class Registration:
    """The corrections of all openings that were seen."""

    openings: tuple[tuple[Rim, Rim], ...]
    """Upper and lower rim of each."""
    influence: tuple[tuple[np.ndarray, np.ndarray], ...]
    """For each upper and lower rim (V, N): share of each of its vertices' corrections that a vertex takes."""

    def shift(self, head: Projection, fitted: Projection) -> Tensor:
        """(V, 2) px by which the vertices of `head`, which may be edited, are to be moved; `fitted` is as in the
        photo."""
        total = np.zeros(tuple(head.px.shape))
        for (upper, lower), (above, below) in zip(self.openings, self.influence, strict=True):
            open_share = _open_share(head, fitted, upper.ids, lower.ids)
            middle_u = 0.5 * (upper.offset + _along(lower.offset, len(upper.offset)))
            middle_l = 0.5 * (lower.offset + _along(upper.offset, len(lower.offset)))
            total += above @ (middle_u + open_share * (upper.offset - middle_u))
            total += below @ (middle_l + open_share * (lower.offset - middle_l))
        return torch.from_numpy(total)


def register(model: MorphableModel, fitted: Projection, parts: np.ndarray) -> Registration:
    """Compare the fitted rims with the photo's label image (H, W)."""
    openings, influence = [], []
    apart = model.mean.double().numpy() + _apart(model)
    for name, (upper, lower) in model.annotation.rims.items():
        rims = [_seen_rim(fitted, upper, lower, side, parts, name) for side in (0, 1)]
        if any(rim is None for rim in rims):
            continue
        both = np.concatenate([upper.numpy(), lower.numpy()[1:-1]])
        away = np.linalg.norm(apart[:, None] - apart[None, both], axis=2)
        weight = np.exp(-0.5 * (away / SPREAD_M) ** 2)
        weight *= (weight.max(1) / np.maximum(weight.sum(1), 1e-9))[:, None]
        count = len(upper)
        below = np.zeros((len(apart), len(lower)))
        below[:, 1:-1] = weight[:, count:]
        openings.append((rims[0], rims[1]))
        influence.append((weight[:, :count], below))
    return Registration(tuple(openings), tuple(influence))  # type: ignore[arg-type]  # None was left out


def _apart(model: MorphableModel) -> np.ndarray:
    """(V, 3) metres: opens the mean head's mouth, so that what is near one lip is not near the other."""
    names = model.expression_names
    if "jawOpen" not in names:
        return np.zeros(tuple(model.mean.shape))
    return 0.6 * model.expression[names.index("jawOpen")].double().numpy()


def _seen_rim(fitted: Projection, upper: Tensor, lower: Tensor, side: int, parts: np.ndarray, name: str) -> Rim | None:
    """The upper (0) or lower (1) rim; None where the labels do not tell."""
    if name not in _SEEN:
        return None
    label, which = _SEEN[name][side]
    ids = (upper, lower)[side].numpy()
    corners = fitted.px[upper[[0, -1]]].numpy()
    along = corners[1] - corners[0]
    width = float(np.linalg.norm(along))
    if width < 6.0:
        return None
    along = along / width
    down = np.array([-along[1], along[0]])  # clockwise in the picture from the person's right to left
    middle = corners.mean(0)
    low, high = corners.min(0) - 0.5 * width, corners.max(0) + 0.5 * width
    left, top = np.maximum(np.floor(low), 0).astype(int)
    rows, columns = np.nonzero(parts[top : max(int(high[1]), 0), left : max(int(high[0]), 0)] == label)
    if len(rows) < FEWEST_PX:
        return None
    pixels = np.stack([columns + left + 0.5, rows + top + 0.5], 1) - middle
    s, v = pixels @ along, pixels @ down
    observed = _outline(s, v, which)
    if observed is None:
        return None
    first, last, curve = observed
    rim = fitted.px[torch.from_numpy(ids)].numpy() - middle
    rim_s, rim_v = rim @ along, rim @ down
    if name == "inner_mouth":  # lips go on beyond the corners of the opening
        first, last = max(first, rim_s.min()), min(last, rim_s.max())
    share = (rim_s - rim_s[0]) / max(rim_s[-1] - rim_s[0], 1e-6)
    seen_s = first + share * (last - first)
    offset = (seen_s - rim_s)[:, None] * along + (curve(seen_s) - rim_v)[:, None] * down
    if np.median(np.linalg.norm(offset, axis=1)) > LARGEST * width:
        return None
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    return Rim(ids, offset * np.minimum(1.0, LARGEST * width / np.maximum(length, 1e-6)))


def _outline(s: np.ndarray, v: np.ndarray, which: str) -> tuple[float, float, np.polynomial.Polynomial] | None:
    """From where to where the pixels reach along `s` (N,), and their first or last `v` (N,) as a smooth curve."""
    column = np.floor(s).astype(int)
    columns = np.unique(column)
    if len(columns) < 2 * DEGREE:
        return None
    slot = np.searchsorted(columns, column)
    edge = np.full(len(columns), np.inf if which == "first" else -np.inf)
    (np.minimum if which == "first" else np.maximum).at(edge, slot, v)
    edge += -0.5 if which == "first" else 0.5
    curve = np.polynomial.Polynomial.fit(columns + 0.5, edge, DEGREE)
    return float(s.min() - 0.5), float(s.max() + 0.5), curve


def _open_share(head: Projection, fitted: Projection, upper: np.ndarray, lower: np.ndarray) -> float:
    """How far an opening is open, over how far it was; 1 where it is wider."""
    now, before = (area(*(each.px[torch.from_numpy(rim)].numpy() for rim in (upper, lower))) for each in (head, fitted))
    return min(now / max(before, 1e-6), 1.0)


def _along(values: np.ndarray, count: int) -> np.ndarray:
    """(count, 2): values (N, 2) along one rim at the places of another with `count` vertices."""
    at = np.linspace(0.0, 1.0, count)
    here = np.linspace(0.0, 1.0, len(values))
    return np.stack([np.interp(at, here, values[:, axis]) for axis in (0, 1)], 1)
