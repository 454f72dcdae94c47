"""A contact sheet: what the recipes make of a few photos, before a whole data set is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fit3d.batch.plan import Call
from fit3d.batch.thumbnail import cut_out
from fit3d.camera import Crop
from fit3d.errors import PhotoError
from fit3d.observe.registry import face_parser, landmark_detector
from fit3d.pipeline import fit
from fit3d.reconstruction import Reconstruction
from fit3d.synthesise.confirm import confirm, poor_fit
from fit3d.synthesise.edit import edit_photo
from fit3d.synthesise.options import Draw, SynthesisOptions, draws
from fit3d.synthesise.sample import encode

PHOTOS = 6
"""Of a folder that are shown at most."""
CELL = 224
"""Side of a picture, px."""
COLUMNS = 9
"""Pictures side by side at most; a photo with more takes several rows."""
ROOM = 1.5
"""Side of what is shown, in longer sides of the landmarks' box."""
LIFT = 0.06
"""Share of it by which it is moved up: foreheads reach beyond the landmarks."""
_GAP, _STRIP = 4, 40
_BACK, _TEXT = (24, 25, 27), (225, 225, 225)
_FRAMES = {"rejected": (226, 74, 51), "skipped": (232, 176, 48)}
"""Colours of frames and captions."""


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet."""

    picture: np.ndarray
    """(CELL, CELL, 3) uint8."""
    caption: str
    why: str = ""
    """Second line: why it is not confirmed."""
    status: str = "confirmed"


def preview_sheet(
    call: Call,
    device: str = "cpu",
    on_photo: Callable[[str], None] = lambda photo: None,
    on_failure: Callable[[str], None] = lambda message: None,
) -> np.ndarray | None:
    """The sheet: a row or more for each photo, the photo first and then one edit of each recipe. None where no photo
    could be fitted.

    The edits are those that the data set has as soon as it has as many of a photo as there are recipes.

    Args:
        call: its options are `SynthesisOptions`; of its photos up to `PHOTOS`, evenly spread, are shown.
        device: torch device of fit, detector and parser.
        on_photo: told of each photo that was done.
        on_failure: told, in a message, of each that could not be fitted.

    Returns:
        (H, W, 3) uint8.
    """
    options = call.options
    assert isinstance(options, SynthesisOptions)
    entries = call.listing.entries
    rows: list[list[Cell]] = []
    for place in np.linspace(0, len(entries) - 1, min(PHOTOS, len(entries))).round().astype(int):
        entry = entries[place]
        try:
            with call.listing.photos.fetch(entry.name) as path:
                cells = _cells(_fitted(path, options, device), entry.name, options, device)
            rows += [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
            on_photo(entry.name)
        except PhotoError as error:
            on_failure(str(error))
        except OSError as error:  # from a store
            on_failure(f"{entry.name}: cannot be read ({error.strerror or error})")
    return _sheet(rows) if rows else None


def _fitted(path: Path, options: SynthesisOptions, device: str) -> Reconstruction:
    assert options.face != "all"
    return fit(
        path,
        model=options.model,
        landmarks=options.landmarks,
        parser=options.parser,
        face=options.face,
        focal_px=options.focal_px,
        texture_size=options.texture_size,
        config=replace(options.config, device=device),
    )


def _cells(reconstruction: Reconstruction, name: str, options: SynthesisOptions, device: str) -> list[Cell]:
    photo = reconstruction.photo
    left, top, right, bottom = reconstruction.observation.landmarks.box_px
    side = ROOM * max(right - left, bottom - top, 1.0)
    crop = Crop((left + right - side) / 2.0, (top + bottom - side) / 2.0 - LIFT * side, side, CELL)
    mistrust = "; ".join(reconstruction.fit.mistrust)
    status = "skipped" if mistrust else "confirmed"
    cells = [Cell(cut_out(photo.pixels, crop, Image.Resampling.BICUBIC), name, mistrust, status)]
    every = draws(replace(options, per_photo=len(options.recipes)), photo.sha256)
    by_recipe = {draw.recipe.name: draw for draw in every}
    for recipe in options.recipes:
        cells.append(_edited(reconstruction, by_recipe[recipe.name], crop, options, device))
    return cells


def _edited(reconstruction: Reconstruction, draw: Draw, crop: Crop, options: SynthesisOptions, device: str) -> Cell:
    edit = edit_photo(reconstruction, draw.recipe, draw.seed)
    if reasons := (*poor_fit(reconstruction), *edit.doubts):
        status, why = "skipped", reasons
    else:
        edit = encode(edit, options.image_format).edit
        seen = confirm(edit, landmark_detector(options.landmarks, device), face_parser(options.parser, device))
        status, why = "confirmed" if seen.is_confirmed else "rejected", seen.reasons
    return Cell(cut_out(edit.image, crop, Image.Resampling.BICUBIC), draw.recipe.name, "; ".join(why), status)


def _sheet(rows: Sequence[Sequence[Cell]]) -> np.ndarray:
    """(H, W, 3) uint8."""
    columns = max(map(len, rows))
    step_x, step_y = CELL + _GAP, CELL + _STRIP + _GAP
    canvas = Image.new("RGB", (columns * step_x + _GAP, len(rows) * step_y + _GAP), _BACK)
    draw = ImageDraw.Draw(canvas)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            x, y = _GAP + column * step_x, _GAP + row * step_y
            canvas.paste(Image.fromarray(cell.picture), (x, y))
            colour = _FRAMES.get(cell.status, _TEXT)
            if cell.status in _FRAMES:
                draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=colour, width=3)
                draw.line((x, y + CELL - 1, x + CELL - 1, y), fill=colour, width=1)
            first = cell.caption if cell.status == "confirmed" else f"{cell.caption}: {cell.status}"
            for line, text, size in ((0, first, 14), (1, cell.why, 11)):
                fitting, font = _fitting(draw, text, size)
                draw.text((x + 2, y + CELL + 3 + 19 * line), fitting, fill=colour, font=font)
    return np.asarray(canvas)


def _fitting(
    draw: ImageDraw.ImageDraw, text: str, size: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """As much of `text` as a cell is wide."""
    font = ImageFont.load_default(size)
    while text and draw.textlength(text, font=font) > CELL - 4:
        text = f"{text.rstrip('.')[:-1]}..." if len(text) > 4 else ""
    return text, font
