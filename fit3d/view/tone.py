"""Undoes the page's tone mapping, so that the head's texture has the colours of the photo behind it.

viser's page draws with three.js's default of react-three-fiber, the filmic curve that S. Hill fitted to ACES
(`ACESFilmicToneMapping`); it darkens and bleaches what is not exempt, and GLB materials are not. With M and N the
matrices into and out of its space and e the exposure, a linear colour x becomes N f(M x e), per channel
f(v) = (v (v + a) - b) / (v (c v + d) + g).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

_EXPOSURE = 1.0 / 0.6
_INTO = np.array([[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]])
_OUT_OF = np.array([[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]])
_A, _B, _C, _D, _G = 0.0245786, 0.000090537, 0.983729, 0.4329510, 0.238081

_GRID = 33
GAIN = 4.0
"""Brightest linear value that is asked for: the curve reaches white only at infinity, and 4 gives 96 % of it."""


def tone_mapped(linear: np.ndarray) -> np.ndarray:
    """What the page makes of linear colours (..., 3): linear, in [0, 1]."""
    v = (linear * _EXPOSURE) @ _INTO.T
    return np.clip(((v * (v + _A) - _B) / (v * (_C * v + _D) + _G)) @ _OUT_OF.T, 0.0, 1.0)


def before_tone_mapping(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """sRGB pixels (H, W, 3) uint8 that, times the gain that comes with them, the page shows as `pixels`.

    The gain is a factor of linear colours. Colours that the curve cannot reach become the nearest of each channel.
    """
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(_table())), GAIN


@lru_cache(maxsize=1)
def _table() -> ImageFilter.Color3DLUT:
    """The inverse at the colours of a grid, between which Pillow interpolates."""
    ramp = np.linspace(0.0, 1.0, _GRID)
    blue, green, red = np.meshgrid(ramp, ramp, ramp, indexing="ij")  # red varies fastest
    encoded = np.stack([red, green, blue], -1).reshape(-1, 3)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    goal = np.clip(linear @ np.linalg.inv(_OUT_OF).T, 0.0, 0.99)
    # f(v) = y is a quadratic in v, whose larger root is the one on the rising side
    square, single, rest = 1.0 - _C * goal, _A - _D * goal, -_B - _G * goal
    v = (np.sqrt(single * single - 4.0 * square * rest) - single) / (2.0 * square)
    wanted = np.clip(v @ np.linalg.inv(_INTO).T / (_EXPOSURE * GAIN), 0.0, 1.0)
    table = np.where(wanted <= 0.0031308, 12.92 * wanted, 1.055 * wanted ** (1.0 / 2.4) - 0.055)
    return ImageFilter.Color3DLUT(_GRID, table.ravel().tolist())
