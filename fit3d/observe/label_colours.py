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

MOST_COLOURS = 2**18
"""Most colours of a picture; those `NEAR` the parts' are fewer."""

MOST_MIXTURES = 2**15
"""Most mixed colours of a picture, each counted once for every choice of parts around it."""

MOST_NAMED_PX = 2**12
"""Pixels among which those that a message names are looked for."""

_COLOURS = np.array(PART_COLOURS, np.int16)
_PAIRS, _TRIPLES = (np.array(list(itertools.combinations(range(len(PART_COLOURS)), count))) for count in (2, 3))
_SHARES = np.array([(a, b, 8 - a - b) for a in range(9) for b in range(9 - a)], np.float32) / 8.0
"""(45, 3) shares in a mixture of three."""
_UNKNOWN, _NOT_TRIED = 255, 254
_CASES_AT_ONCE = 256
"""Mixtures that are looked for at once; the memory goes with it."""


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

    unknown = labels == _UNKNOWN
    if not unknown.any():
        return labels
    found = packed[unknown]
    by_colour = np.zeros(2**24, np.uint8)
    by_colour[found] = 1
    colours = np.flatnonzero(by_colour)
    if len(colours) > MOST_COLOURS:
        raise UnknownColoursError(_named(pixels, np.nonzero(unknown)))
    distance = _distances(_unpacked(colours))
    by_colour[colours] = np.where(distance.min(1) <= NEAR, distance.argmin(1), _UNKNOWN)
    labels[unknown] = by_colour[found]

    unknown = labels == _UNKNOWN
    count = np.count_nonzero(unknown)
    if count > MOST_MIXED * labels.size or np.count_nonzero(by_colour[colours] == _UNKNOWN) > MOST_MIXTURES:
        raise UnknownColoursError(_named(pixels, np.nonzero(unknown)))
    if count:
        places = np.nonzero(unknown)
        labels[places] = mixed = _labels_of_mixtures(packed[places], labels, places)
        if (mixed == _UNKNOWN).any():
            raise UnknownColoursError(_named(pixels, tuple(at[mixed == _UNKNOWN] for at in places)))
    return labels


def _labels_of_mixtures(packed: np.ndarray, labels: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
    """Labels (M,) of pixels at `places` (rows, columns) whose colour (M,), three bytes of a number, is mixed.

    A mixture lies between the colours of two or three parts within `REACH_PX`. Once some are `_UNKNOWN`, because they
    are none, others are `_NOT_TRIED`.
    """
    rows, columns = places
    window = tuple(
        slice(max(int(at.min()) - REACH_PX, 0), int(at.max()) + REACH_PX + 1) for at in (rows, columns)
    )  # only here may a border be
    case = packed.astype(np.int64) << len(PART_COLOURS)  # the colour, and a bit for each part that is near
    for label in range(len(PART_COLOURS)):
        around = ndimage.maximum_filter((labels[window] == label).astype(np.uint8), size=2 * REACH_PX + 1)
        case |= around[rows - window[0].start, columns - window[1].start].astype(np.int64) << label
    cases, which = np.unique(case, return_inverse=True)
    if len(cases) > MOST_MIXTURES:
        return np.full(len(case), _UNKNOWN, np.uint8)
    colours = _unpacked(cases >> len(PART_COLOURS)).astype(np.float32)
    near = (cases[:, None] >> np.arange(len(PART_COLOURS)) & 1).astype(bool)
    return _labels_of_cases(colours, near)[which.reshape(-1)]


def _labels_of_cases(colours: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Labels (M,) of mixtures (M, 3) of the colours of parts `near` (M, 12); see `_labels_of_mixtures`."""
    result = np.where(near.any(1), _NOT_TRIED, _UNKNOWN).astype(np.uint8)
    if (result == _UNKNOWN).any():
        return result
    # spread over the picture's colours, so that one which is no mixture is met soon
    count = -(-len(colours) // _CASES_AT_ONCE)
    for start in range(count):
        part = np.arange(start, len(colours), count)
        # a part that is one pixel wide may have no pixel of its own colour: then one part of a mixture need not be near
        for far in (0, 1):
            for members, mixtures in ((_PAIRS, _of_two), (_TRIPLES, _of_three)):
                unknown = part[result[part] >= _NOT_TRIED]
                # those with the same parts around have the same mixtures to be compared with
                kinds, kind = np.unique(near[unknown], axis=0, return_inverse=True)
                for index, around in enumerate(kinds):
                    allowed = members[around[members].sum(-1) >= members.shape[1] - far]
                    these = unknown[kind.reshape(-1) == index]
                    if len(allowed):
                        result[these] = mixtures(colours[these], allowed)
        if (result[part] == _UNKNOWN).any():
            return result
    return result


def _of_two(colours: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Labels (M,) of mixtures (M, 3) of the colours of `pairs` (P, 2) of parts; `_UNKNOWN` where they are none."""
    first, second = (_COLOURS[pairs[:, side]].astype(np.float32) for side in (0, 1))
    line = second - first
    share = np.clip(((colours[:, None] - first) * line).sum(-1) / (line * line).sum(-1), 0.0, 1.0)
    off = np.abs(first + share[..., None] * line - colours[:, None]).max(-1)
    best, every = off.argmin(1), np.arange(len(colours))
    side = (share[every, best] > 0.5).astype(int)
    return np.where(off[every, best] <= MIXED, pairs[best, side], _UNKNOWN).astype(np.uint8)


def _of_three(colours: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """The same for mixtures of `triples` (T, 3)."""
    mixtures = np.einsum("sk,tkc->tsc", _SHARES, _COLOURS[triples].astype(np.float32)).reshape(-1, 3)
    off = np.abs(mixtures - colours[:, None]).max(-1)
    best = off.argmin(1)
    triple, shares = np.divmod(best, len(_SHARES))
    label = triples[triple, _SHARES[shares].argmax(1)]
    return np.where(off[np.arange(len(colours)), best] <= MIXED, label, _UNKNOWN).astype(np.uint8)


def _distances(colours: np.ndarray) -> np.ndarray:
    """(N, 12) largest difference of a channel between colours (N, 3) and those of the parts."""
    return np.abs(colours[:, None].astype(np.int16) - _COLOURS).max(-1)


def _unpacked(packed: np.ndarray) -> np.ndarray:
    """(N, 3) channels of colours (N,) that are three bytes of a number."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1)


def _named(pixels: np.ndarray, places: tuple[np.ndarray, ...]) -> str:
    """A few of the colours at `places` (rows, columns), each with a place."""
    places = tuple(at[:MOST_NAMED_PX] for at in places)
    colours, first = np.unique(pixels[places][:, :3], axis=0, return_index=True)
    shown = [
        f"#{red:02x}{green:02x}{blue:02x} at pixel {places[1][at]}, {places[0][at]}"
        for (red, green, blue), at in zip(colours[:3].tolist(), first[:3], strict=True)
    ]
    return "; ".join(shown) + ("; ..." if len(colours) > 3 else "")
