"""Label images as paint programs save them: the colours of `fit3d.labels` back to label ids.

A paint program may turn a palette picture into RGB or RGBA, reorder the palette or soften the border of a stroke.
The ids are then told by colour.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

from fit3d.labels import BACKGROUND, PART_COLOURS

NEAR = 12
"""Largest difference of a channel between a colour and the part's it stands for. No mixture of two parts' colours comes
nearer than 13 to that of a third."""

MIXED = 32
"""Largest difference of a channel between a softened border's colour and the nearest even mixture of the parts'
colours; mixtures in linear light differ."""

REACH_PX = 3
"""A softened border is at most this far from pixels of the parts on its sides."""

MOST_MIXED = 0.5
"""Largest share of pixels on softened borders; a picture with more of them is no label image."""

_COLOURS = np.array(PART_COLOURS, np.int16)
_PAIRS, _TRIPLES = (np.array(list(itertools.combinations(range(len(PART_COLOURS)), count))) for count in (2, 3))
_SHARES = np.array([(a, b, 8 - a - b) for a in range(9) for b in range(9 - a)], np.float32) / 8.0
"""(45, 3) shares in a mixture of three."""
_UNKNOWN = 255


class UnknownColoursError(ValueError):
    """Some pixels have the colour of no part; the message names a few colours and places."""


def labels_of_palette(palette: np.ndarray, used: np.ndarray) -> np.ndarray | None:
    """Label id of each entry of a palette (P, 3) uint8 by its colour; None where colours do not tell.

    They tell where the entries `used` (N,) have, but for `NEAR`, the colours of parts, each that of another.

    Returns:
        (P,) uint8; entries not used may be wrong.
    """
    if used.max(initial=0) >= len(palette):
        return None
    distance = _distances(palette)
    labels = distance.argmin(1).astype(np.uint8)
    near = distance[used].min(1) <= NEAR
    return labels if near.all() and len(np.unique(labels[used])) == len(used) else None


def labels_of_colours(pixels: np.ndarray) -> np.ndarray:
    """Label ids by colour. Softened borders are snapped to the part whose colour is nearer.

    Args:
        pixels: (H, W, 3) or (H, W, 4) uint8; where alpha is below one half, there is background.

    Returns:
        (H, W) uint8.

    Raises:
        UnknownColoursError: a colour is neither a part's nor a mixture of those of parts beside it.
    """
    labels = np.full(pixels.shape[:2], _UNKNOWN, np.uint8)
    packed = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):
        packed = packed << 8 | pixels[..., channel]
    for label, (red, green, blue) in enumerate(PART_COLOURS):
        labels[packed == (red << 16 | green << 8 | blue)] = label
    if pixels.shape[2] == 4:
        labels[pixels[..., 3] < 128] = BACKGROUND

    unknown = np.nonzero(labels == _UNKNOWN)
    colours, which = np.unique(packed[unknown], return_inverse=True)
    distance = _distances(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1))
    snapped = np.where(distance.min(1) <= NEAR, distance.argmin(1), _UNKNOWN) if len(colours) else colours
    labels[unknown] = snapped[which.reshape(-1)]

    unknown = np.nonzero(labels == _UNKNOWN)
    if len(unknown[0]) > MOST_MIXED * labels.size:
        raise UnknownColoursError(_named(pixels, unknown))
    if len(unknown[0]):
        labels[unknown] = _labels_of_mixtures(pixels, labels, unknown)
        unknown = np.nonzero(labels == _UNKNOWN)
        if len(unknown[0]):
            raise UnknownColoursError(_named(pixels, unknown))
    return labels


def _labels_of_mixtures(pixels: np.ndarray, labels: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
    """Labels (M,) of pixels at `places` (rows, columns) whose colour is mixed; `_UNKNOWN` where it cannot be.

    A mixture lies between the colours of two or three parts within `REACH_PX`.
    """
    rows, columns = places
    window = tuple(
        slice(max(int(at.min()) - REACH_PX, 0), int(at.max()) + REACH_PX + 1) for at in (rows, columns)
    )  # only here may a border be
    near = np.zeros((len(rows), len(PART_COLOURS)), bool)
    for label in range(len(PART_COLOURS)):
        around = ndimage.maximum_filter((labels[window] == label).astype(np.uint8), size=2 * REACH_PX + 1)
        near[:, label] = around[rows - window[0].start, columns - window[1].start] > 0
    colours = pixels[rows, columns, :3].astype(np.float32)
    result = np.full(len(rows), _UNKNOWN, np.uint8)
    # a part that is one pixel wide may have no pixel of its own colour: then one part of a mixture need not be near
    for far in (0, 1):
        for mixtures, chunk in ((_of_two, 4096), (_of_three, 128)):
            unknown = np.flatnonzero((result == _UNKNOWN) & near.any(1))
            for start in range(0, len(unknown), chunk):  # 66 pairs or 9900 mixtures of three for each pixel
                part = unknown[start : start + chunk]
                result[part] = mixtures(colours[part], near[part], far)
    return result


def _of_two(colours: np.ndarray, near: np.ndarray, far: int) -> np.ndarray:
    """Labels (M,) of mixtures (M, 3) of the colours of two parts, all but `far` of them `near` (M, 12); `_UNKNOWN`
    where they are none."""
    first, second = _COLOURS[_PAIRS[:, 0]].astype(np.float32), _COLOURS[_PAIRS[:, 1]].astype(np.float32)
    line = second - first
    share = np.clip(((colours[:, None] - first) * line).sum(-1) / (line * line).sum(-1), 0.0, 1.0)
    off = np.abs(first + share[..., None] * line - colours[:, None]).max(-1)
    off[near[:, _PAIRS].sum(-1) < 2 - far] = np.inf
    best, every = off.argmin(1), np.arange(len(colours))
    side = (share[every, best] > 0.5).astype(int)
    return np.where(off[every, best] <= MIXED, _PAIRS[best, side], _UNKNOWN).astype(np.uint8)


def _of_three(colours: np.ndarray, near: np.ndarray, far: int) -> np.ndarray:
    """The same for mixtures of three."""
    mixtures = np.einsum("sk,tkc->tsc", _SHARES, _COLOURS[_TRIPLES].astype(np.float32))
    off = np.abs(mixtures - colours[:, None, None]).max(-1)
    off[near[:, _TRIPLES].sum(-1) < 3 - far] = np.inf
    off = off.reshape(len(colours), -1)
    best = off.argmin(1)
    triple, shares = np.divmod(best, len(_SHARES))
    label = _TRIPLES[triple, _SHARES[shares].argmax(1)]
    return np.where(off[np.arange(len(colours)), best] <= MIXED, label, _UNKNOWN).astype(np.uint8)


def _distances(colours: np.ndarray) -> np.ndarray:
    """(N, 12) largest difference of a channel between colours (N, 3) and those of the parts."""
    return np.abs(colours[:, None].astype(np.int16) - _COLOURS).max(-1)


def _named(pixels: np.ndarray, places: tuple[np.ndarray, ...]) -> str:
    """A few of the colours at `places` (rows, columns), each with a place."""
    colours, first = np.unique(pixels[places][:, :3], axis=0, return_index=True)
    shown = [
        f"#{red:02x}{green:02x}{blue:02x} at pixel {places[1][at]}, {places[0][at]}"
        for (red, green, blue), at in zip(colours[:3].tolist(), first[:3], strict=True)
    ]
    return "; ".join(shown) + ("; ..." if len(colours) > 3 else "")
