"""Pictures by which a person judges a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.config import Overlay
from fit3d.labels import HAIR, NOSE, PART_COLOURS, RIGHT_EYE, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.photo import Photo
from fit3d.render.drawing import draw_parts, draw_wireframe, side_by_side
from fit3d.render.overlay import LARGEST_PHOTO, contact_view, overlay
from fit3d.render.shade import over, shade
from fit3d.solve.fit import face_geometry, visible_parts
from fit3d.solve.result import Fit
from synthetic import synthetic_camera, synthetic_identity, synthetic_model
from test_export import make_fit

GREY = 128


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def vertices(model: MorphableModel) -> Tensor:
    return model.vertices(synthetic_identity(model), torch.zeros(len(model.expression_names)).double())


def seen(model: MorphableModel, vertices: Tensor, width: int, height: int) -> tuple[Photo, Observation, Fit]:
    """A grey photo, what is found of the head in it, and a fit that found the same."""
    camera = synthetic_camera(width, height, distance=1.5 * max(width, 380) / 380)
    flat = torch.cat([synthetic_identity(model), torch.zeros(len(model.expression_names)).double()]).float()
    labels = visible_parts(face_geometry(model, "mediapipe478", "cpu"), flat, camera)
    points = camera.project(model.landmarks["mediapipe478"].points.of(vertices)).numpy()
    landmarks = Landmarks("mediapipe478", points, Backend("mediapipe", "1"))
    photo = Photo(path="a.jpg", pixels=np.full((height, width, 3), GREY, np.uint8), sha256="")
    fit = replace(make_fit(model), camera=camera, parts=labels, part_iou={"mean": 0.8125})
    return photo, Observation(landmarks, labels, Backend("contours", "1")), fit


TEXTURE = np.full((16, 16, 3), (40, 200, 90), np.uint8)


@pytest.mark.parametrize(("width", "height"), [(300, 380), (90, 110), (1400, 900), (701, 1003)])
def test_a_sheet_has_two_rows_of_three(model: MorphableModel, vertices: Tensor, width: int, height: int) -> None:
    photo, observation, fit = seen(model, vertices, width, height)
    sheet = overlay(photo, observation, model, vertices, fit, TEXTURE)
    assert sheet is not None and sheet.dtype == np.uint8
    assert 800 <= sheet.shape[0] <= 1700
    column = sheet.shape[1] // 3
    rows = sheet.shape[0] - column  # the textured views are as high as a column is wide, but for their caption
    # the photo alone at the top left, the texture's colour in the middle of the lower row, at every width
    assert (sheet[10 : rows // 2, 10 : column // 2] == GREY).all()
    assert tuple(sheet[rows + column // 2 - sheet.shape[0] // 40, 3 * column // 2]) == (40, 200, 90)
    silent = overlay(photo, observation, model, vertices, replace(fit, part_iou={}), TEXTURE)
    assert silent is not None and not np.array_equal(sheet, silent)  # no figure, no claim


def test_single_pictures_show_the_whole_photo(model: MorphableModel, vertices: Tensor) -> None:
    photo, observation, fit = seen(model, vertices, 300, 380)
    clay = over(photo.pixels, shade(vertices, model.triangles, fit.camera))
    kinds: tuple[Overlay, ...] = ("shaded", "wireframe", "parts")
    pictures = {kind: overlay(photo, observation, model, vertices, fit, TEXTURE, kind) for kind in kinds}
    assert all(picture is not None and picture.shape == (380, 300, 3) for picture in pictures.values())
    assert np.array_equal(pictures["shaded"], clay)  # type: ignore[arg-type]
    assert overlay(photo, observation, model, vertices, fit, TEXTURE, "none") is None
    large = seen(model, vertices, 4000, 3000)
    drawn = overlay(*large[:2], model, vertices, large[2], TEXTURE, "wireframe")
    assert drawn is not None and max(drawn.shape) == LARGEST_PHOTO


def test_found_is_filled_and_fitted_is_outlined(model: MorphableModel, vertices: Tensor) -> None:
    photo, observation, fit = seen(model, vertices, 300, 380)
    nothing = np.zeros_like(fit.parts)
    found = overlay(photo, observation, model, vertices, replace(fit, parts=nothing), TEXTURE, "parts")
    fitted = overlay(photo, replace(observation, parts=nothing), model, vertices, fit, TEXTURE, "parts")
    assert found is not None and fitted is not None
    inside = fit.parts > 0
    dimmed = round(0.75 * GREY)
    assert (found[~inside] == dimmed).all() and (fitted[~inside] == dimmed).all()
    assert (found[inside] != dimmed).any(1).all()
    assert 0.01 < (fitted[inside] != dimmed).any(1).mean() < 0.2


def test_wires_are_the_visible_edges(model: MorphableModel, vertices: Tensor) -> None:
    camera = synthetic_camera(600, 760, yaw_deg=30.0)
    plain = np.full((760, 600, 3), 20, np.uint8)
    drawn = draw_wireframe(plain, vertices, model, camera, 1.0)
    lit = drawn[..., 0] > 60
    covered = shade(vertices, model.triangles, camera)[..., 3] > 0
    grown = covered.copy()
    for axis in (0, 1):
        grown |= np.roll(covered, 2, axis) | np.roll(covered, -2, axis)
    assert not (lit & ~grown).any() and 0.05 < lit[covered].mean() < 0.9
    # half of the head cannot be seen: removing it changes no line
    normals = torch.zeros_like(vertices)
    a, b, c = vertices[torch.from_numpy(model.triangles).long()].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    normals.index_add_(0, torch.from_numpy(model.triangles).long().T.reshape(-1), across.repeat(3, 1))
    away = (camera.to_cam(vertices) * (normals @ camera.cam_from_world[:3, :3].mT)).sum(1) > 0
    hidden = away[torch.from_numpy(np.maximum(model.faces, 0)).long()].all(1).numpy()
    front = replace(
        model,
        faces=model.faces[~hidden],
        uv_faces=model.uv_faces[~hidden],
        face_objects=model.face_objects[~hidden],
    )
    assert 0.2 < hidden.mean() < 0.7
    assert (draw_wireframe(plain, vertices, front, camera, 1.0) != drawn).any(2).mean() < 0.01


def test_parts_are_drawn_with_outlines() -> None:
    parts = np.zeros((60, 60), np.uint8)
    parts[20:40, 20:40] = NOSE
    parts[5:10, :] = HAIR
    picture = np.full((60, 60, 3), 100, np.uint8)
    outlined = draw_parts(picture, parts, fill=0.0)
    filled = draw_parts(picture, parts, fill=0.5)
    colour = np.array([120, 220, 120])
    assert (outlined[20, 20:40] == colour).all()
    assert (outlined[21:39, 21:39] == 100).all()
    assert (outlined[19, 20:40] == 100).all()
    assert (filled[30, 30] == (colour + 100) // 2).all()
    assert (filled[50, 50] == 100).all()
    assert not (filled[7, 7] == 100).all()
    assert (outlined[7, 7] == 100).all()


def test_captions_fit_under_narrow_pictures() -> None:
    narrow = np.zeros((400, 120, 3), np.uint8)
    row = side_by_side([narrow, narrow], ["a caption that is far too long for its picture", "b"])
    assert row[400:, 125:].any()
    gap = row[402:, 118:123].astype(int)
    assert np.ptp(gap, axis=1).max() == 0  # no letter crosses into the neighbour


def test_contact_view(model: MorphableModel, vertices: Tensor) -> None:
    clay = contact_view(vertices, model, size=96)
    assert clay.shape == (96, 3 * 96, 3)
    textured = contact_view(vertices, model, np.full((8, 8, 3), (10, 200, 30), np.uint8), size=96, yaws_deg=(0.0,))
    assert tuple(textured[48, 48]) == (10, 200, 30)


def test_over_blends_by_alpha() -> None:
    layer = np.zeros((1, 3, 4), np.uint8)
    layer[..., :3] = 200
    layer[0, :, 3] = (0, 51, 255)
    assert over(np.full((1, 3, 3), 100, np.uint8), layer)[0, :, 0].tolist() == [100, 120, 200]


@pytest.mark.parametrize(("height", "width"), [(40, 50), (1400, 3), (2, 2), (1, 1000)])
def test_parts_are_mixed_as_the_formula_says(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (height, width, 3), np.uint8)
    parts = np.kron(generator.integers(0, 12, (-(-height // 8), -(-width // 8))), np.ones((8, 8), int))
    parts = parts[:height, :width].astype(np.uint8)
    fill, line = 0.42, 0.9
    thickness = max(round(max(height, width) / 450.0), 1)
    expected = picture.copy()
    for y in range(height):
        for x in range(width):
            label = parts[y, x]
            around = parts[max(y - thickness, 0) : y + thickness + 1, max(x - thickness, 0) : x + thickness + 1]
            face = RIGHT_EYE <= label <= SKIN + 1
            opacity = np.float32(fill if face else 0.5 * fill if label > SKIN + 1 else 0.0)
            if face and (around != label).any():
                opacity = np.float32(line)
            below, colour = picture[y, x].astype(np.float32), np.array(PART_COLOURS[label], np.float32)
            expected[y, x] = np.rint(below * (1 - opacity) + colour * opacity)
    assert np.array_equal(draw_parts(picture, parts, fill, line), expected)


def test_over_rounds_to_the_nearest_level() -> None:
    below, above, alpha = (v.ravel() for v in np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 3), np.arange(256)))
    picture = np.repeat(below[None, :, None], 3, 2).astype(np.uint8)
    layer = np.stack([above, above, above, alpha], -1)[None].astype(np.uint8)
    expected = np.rint((below * (255 - alpha) + above * alpha) / 255.0)
    assert np.array_equal(over(picture, layer)[0, :, 1], expected)
