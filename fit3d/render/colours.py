"""Colours of what a photo does not show, sRGB in [0, 1]."""

from __future__ import annotations

import numpy as np

DEFAULT_SKIN = (0.78, 0.62, 0.54)
SCLERA = (0.80, 0.77, 0.74)
IRIS = (0.34, 0.24, 0.17)
TEETH = (0.76, 0.72, 0.65)
MOUTH = (0.42, 0.18, 0.17)
TONGUE = (0.62, 0.33, 0.32)

NEIGHBOUR_COLOUR = 0.02
"""Pull of unseen skin to the mean skin colour, per edge: colours run on for about seven edges beyond what is seen."""

FLAT_COLOUR = 0.6
"""The same for teeth, tongue and mouth cavity, which hardly take colour from their neighbours."""

LUMA = np.array([0.3, 0.6, 0.1], np.float32)
"""Weights of red, green and blue in brightness."""
