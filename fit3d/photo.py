"""A photo as the rest of fit3d sees it: upright sRGB pixels, and what EXIF says about the lens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Photo:
    """One decoded photo."""

    path: str
    """Where it came from, as the user wrote it; '<array>' for pixels given from Python."""
    pixels: np.ndarray
    """(H, W, 3) uint8, sRGB, EXIF orientation applied."""
    sha256: str
    """Of the file's bytes."""
    focal_px: float | None = None
    """Focal length in pixels of `pixels`, from EXIF; None where EXIF does not tell."""
    exif: dict[str, str | float | int] = field(default_factory=dict)
    """The few EXIF entries that matter: camera make and model, orientation, focal lengths."""
    warnings: tuple[str, ...] = ()
    """What the user should know, one sentence each."""

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])
