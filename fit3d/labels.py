"""Part labels: the ids that annotations, parsers, metrics and files share. 'Left' and 'right' are the person's own."""

from __future__ import annotations

PART_NAMES: tuple[str, ...] = (
    "background",
    "right_eye",
    "left_eye",
    "right_eyebrow",
    "left_eyebrow",
    "nose",
    "upper_lip",
    "lower_lip",
    "skin",
    "inner_mouth",
    "hair",
    "other",  # ears, neck, glasses, hat, hand, cloth
)
"""Name of each label id: `PART_NAMES[id]`."""

PART_IDS: dict[str, int] = {name: index for index, name in enumerate(PART_NAMES)}
"""Id of each label name."""

BACKGROUND, RIGHT_EYE, LEFT_EYE, RIGHT_EYEBROW, LEFT_EYEBROW = range(5)
NOSE, UPPER_LIP, LOWER_LIP, SKIN, INNER_MOUTH, HAIR, OTHER = range(5, 12)

PRDL_PARTS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
"""Parts that the Part Re-projection Distance Loss compares."""

IOU_PARTS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
"""Parts that the mean Part IoU averages, as the paper does; skin is reported beside it."""

MIRRORED_PART: tuple[int, ...] = (0, 2, 1, 4, 3, 5, 6, 7, 8, 9, 10, 11)
"""Label id after mirroring the picture left to right."""

PART_COLOURS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (64, 160, 255),
    (0, 96, 224),
    (255, 200, 64),
    (224, 144, 0),
    (120, 220, 120),
    (255, 96, 128),
    (200, 32, 96),
    (232, 190, 172),
    (96, 0, 48),
    (120, 80, 48),
    (128, 128, 128),
)
"""sRGB colour of each label in pictures."""
