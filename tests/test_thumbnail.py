"""Small pictures of fits for the report of a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fit3d.batch.record import FaceRecord, Record
from fit3d.batch.thumbnail import BEYOND, LEAST_ROOM, ROOM, SIDE, fitted_thumbnail, photo_thumbnail, thumbnail_name
from fit3d.camera import Camera
from fit3d.config import FitConfig
from fit3d.export.result_json import Source
from fit3d.labels import LEFT_EYE, PART_COLOURS, RIGHT_EYE
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.photo import Photo
from fit3d.reconstruction import Reconstruction
from fit3d.solve.fit import face_geometry, visible_parts
from synthetic import synthetic_camera, synthetic_identity, synthetic_model
from test_export import make_fit

LAYOUT = "mediapipe478"


def ramp(width: int, height: int) -> np.ndarray:
    """A photo whose colours tell the place: red runs along x, green along y."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([255 * x / width, 255 * y / height, np.full_like(x, 255.0)], -1).astype(np.uint8)


def reconstruction(camera: Camera) -> Reconstruction:
    """A synthetic head that `camera` sees in a photo that is a ramp."""
    model: MorphableModel = synthetic_model()
    identity, expression = synthetic_identity(model), torch.zeros(len(model.expression_names)).double()
    vertices = model.vertices(identity, expression)
    parts = visible_parts(face_geometry(model, LAYOUT, "cpu"), torch.cat([identity, expression]).float(), camera)
    points = camera.project(model.landmarks[LAYOUT].points.of(vertices)).numpy()
    assert len(points) == LANDMARK_COUNTS[LAYOUT]
    return Reconstruction(
        photo=Photo(path="a.jpg", pixels=ramp(camera.width, camera.height), sha256=""),
        observation=Observation(Landmarks(LAYOUT, points, Backend("mediapipe", "1")), parts, Backend("contours", "1")),
        model=model,
        fit=replace(make_fit(model), camera=camera, parts=parts),
        vertices=vertices,
        neutral_vertices=vertices,
        texture=np.zeros((8, 8, 3), np.uint8),
        config=FitConfig(),
        source=Source("default", 1, None, 8),
        timings_s={},
    )


def shifted(camera: Camera, x: float, y: float) -> Camera:
    cx, cy = camera.principal_px
    return replace(camera, principal_px=(cx + x, cy + y))


@pytest.mark.parametrize(
    ("camera", "room"),
    [
        (synthetic_camera(1200, 900, distance=1.0), ROOM),  # much room
        (shifted(synthetic_camera(1200, 900, distance=1.0), 470.0, -260.0), ROOM),  # in a corner: moved into the photo
        (synthetic_camera(300, 340, distance=0.68), None),  # little room: smaller than wanted
        (synthetic_camera(150, 500, distance=0.6), LEAST_ROOM),  # too narrow: reaches beyond the photo
    ],
)
def test_crop_and_head_lie_where_they_are_in_the_photo(camera: Camera, room: float | None) -> None:
    made = reconstruction(camera)
    picture = fitted_thumbnail(made)
    assert picture.shape == (SIDE, 2 * SIDE + 2, 3) and picture.dtype == np.uint8
    # the colours of the plain pixels tell the square that was cut: a line through them gives its edge and size
    left, right = picture[:, :SIDE].astype(float), picture[:, SIDE + 2 :].astype(float)
    inside = (left[..., 2] > 253) & (right[..., 2] > 253)  # neither outline nor head nor beyond the photo
    rows, columns = np.nonzero(inside)
    scale_x, first_x = np.polyfit(columns + 0.5, (left[inside][:, 0] + 0.5) * camera.width / 255, 1)
    scale_y, first_y = np.polyfit(rows + 0.5, (left[inside][:, 1] + 0.5) * camera.height / 255, 1)
    assert scale_x == pytest.approx(scale_y, rel=0.02)
    x0, y0, x1, y1 = made.observation.landmarks.box_px
    longer = max(x1 - x0, y1 - y0)
    if room is None:
        assert LEAST_ROOM * longer < min(camera.width, camera.height) < ROOM * longer
        assert scale_x * SIDE == pytest.approx(min(camera.width, camera.height), rel=0.02)
    else:
        assert scale_x * SIDE == pytest.approx(room * longer, rel=0.02)
    reaches_beyond = scale_x * SIDE > 1.02 * min(camera.width, camera.height)
    assert (left == BEYOND).all(-1).any() == reaches_beyond
    # the head covers the pixels whose rays meet it
    px = camera.project(made.vertices[made.model.triangles[made.model.opaque]].mean(1)).numpy()
    at = np.floor((px - (first_x, first_y)) / (scale_x, scale_y)).astype(int)
    at = at[((at > 1) & (at < SIDE - 2)).all(1)]
    clay = np.ptp(right, axis=-1) < 40
    assert clay[at[:, 1], at[:, 0]].mean() > 0.95  # the lids leave gaps
    corners = (camera.project(made.vertices).numpy() - (first_x, first_y)) / (scale_x, scale_y)
    low, high = (np.clip(np.rint(each).astype(int), 0, SIDE) for each in (corners.min(0) - 2, corners.max(0) + 2))
    around = (left != BEYOND).any(-1)
    around[low[1] : high[1], low[0] : high[0]] = False
    assert (right[around][:, 2] > 240).all()  # the photo's blue


def test_outlines_are_those_of_the_fitted_parts() -> None:
    made = reconstruction(synthetic_camera(800, 900, distance=0.9))
    shown = fitted_thumbnail(made)[:, :SIDE].astype(int)
    moved = np.where(made.fit.parts == LEFT_EYE, 0, made.fit.parts)
    without = fitted_thumbnail(replace(made, fit=replace(made.fit, parts=moved.astype(np.uint8))))[:, :SIDE]
    changed = np.abs(shown - without).max(-1) > 60
    assert 8 < changed.sum() < 400
    to_colour, to_former = (np.abs(each[changed] - PART_COLOURS[LEFT_EYE]).sum(1) for each in (shown, without))
    assert (to_colour < to_former).mean() > 0.7
    assert (np.argwhere(changed)[:, 1] > SIDE / 2).all()  # the person's left is on the right
    assert (made.fit.parts == RIGHT_EYE).any()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (3000, 2000, (312, 208)),
        (2000, 3000, (139, 208)),
        (4000, 100, (416, 10)),
        (32, 9000, (1, 208)),
        (60, 40, (60, 40)),
    ],
)
def test_a_photo_without_fit_is_shown_whole(width: int, height: int, expected: tuple[int, int]) -> None:
    photo = Photo(path="a.jpg", pixels=ramp(width, height), sha256="")
    picture = photo_thumbnail(photo)
    assert picture.shape == (expected[1], expected[0], 3)
    difference = picture.astype(int) - ramp(*expected)
    assert np.abs(difference[..., 1]).max() <= 4 or expected[1] < 20


def record(**changes: Any) -> Record:
    plain: dict[str, Any] = {
        "photo": "a/b.jpg",
        "sha256": "0123456789abcdef" * 4,
        "size": 3,
        "version": "1",
        "status": "no_face",
        "message": "",
        "part_iou": None,
        "landmark_nme": None,
        "seconds": 1.0,
        "timings_s": {},
        "folder": None,
        "faces": (),
        "options": "x",
    }
    return Record(**plain | changes)


def test_names() -> None:
    assert thumbnail_name(record(folder="a/b", status="ok")) == "thumbnails/a/b.jpg"
    assert thumbnail_name(FaceRecord(2, "ok", "", {}, 0.1, "a/b-face2")) == "thumbnails/a/b-face2.jpg"
    assert thumbnail_name(FaceRecord(2, "failed", "", None, None, None)) is None
    assert thumbnail_name(record()) == "thumbnails/without-fit/0123456789abcdef0123456789abcdef.jpg"
    assert thumbnail_name(record(sha256=None)) is None
    assert thumbnail_name(record(status="unreadable")) is None
