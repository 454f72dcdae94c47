"""Photos with another expression: the picture follows the head, and what is written about it is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d import Photo, Reconstruction, fit, load_model
from fit3d.labels import INNER_MOUTH, LEFT_EYE, OTHER, RIGHT_EYE, SKIN
from fit3d.observe.registry import face_parser, landmark_detector
from fit3d.synthesise.confirm import confirm
from fit3d.synthesise.edit import Edit, edit_expression, edit_photo
from fit3d.synthesise.lids import settle_lids
from fit3d.synthesise.lips import settle_lips
from fit3d.synthesise.recipes import IDENTITY, Recipe, choose_recipes
from fit3d.synthesise.warp import extend, resample

SHUT = Recipe("shut", "", {"eyeBlink": (1.0, 1.0)})
WIDE = Recipe("wide", "", {"jawOpen": (0.5, 0.5), "mouthClose": (0.0, 0.0)})
UPPER_LIP_BOTTOM, LOWER_LIP_TOP = 13, 14
"""Of 'mediapipe478', the middle of the inner lips."""


@pytest.fixture(scope="module")
def reconstruction(astronaut: Path) -> Reconstruction:
    with Image.open(astronaut) as image:
        pixels = np.asarray(image.convert("RGB").crop((80, 0, 400, 320)))
    return fit(pixels, texture_size=64)


@pytest.fixture(scope="module")
def shut(reconstruction: Reconstruction) -> Edit:
    return edit_photo(reconstruction, SHUT)


@pytest.fixture(scope="module")
def wide(reconstruction: Reconstruction) -> Edit:
    return edit_photo(reconstruction, WIDE)


def count(parts: np.ndarray, *labels: int) -> int:
    return int(np.isin(parts, labels).sum())


def test_the_identity_is_the_photo_bit_by_bit(reconstruction: Reconstruction) -> None:
    edit = edit_photo(reconstruction, IDENTITY)
    assert np.array_equal(edit.image, reconstruction.photo.pixels)


def test_what_moves_nothing_that_is_seen_changes_no_bit(reconstruction: Reconstruction) -> None:
    # goes all the way through warping and painting, unlike the identity
    hair = edit_photo(
        reconstruction, Recipe("hair's breadth", "", {}, {"jawOpen": (1e-4, 1e-4), "eyeBlink": (1e-4, 1e-4)})
    )
    assert np.array_equal(hair.image, reconstruction.photo.pixels)


def test_far_from_the_face_the_photo_stays_bit_by_bit(reconstruction: Reconstruction, wide: Edit) -> None:
    left, top, right, bottom = reconstruction.observation.landmarks.box_px
    room = 0.6 * max(right - left, bottom - top)
    y, x = np.mgrid[:320, :320] + 0.5
    far = (x < left - room) | (x > right + room) | (y < top - room) | (y > bottom + room)
    assert far.sum() > 10_000
    assert np.array_equal(wide.image[far], reconstruction.photo.pixels[far])
    assert not np.array_equal(wide.image, reconstruction.photo.pixels)


def test_the_same_recipe_and_seed_give_the_same_bytes(reconstruction: Reconstruction) -> None:
    (recipe,) = choose_recipes(["mouth_open_3"])
    one, other, third = (edit_photo(reconstruction, recipe, seed) for seed in (7, 7, 8))
    assert one.image.tobytes() == other.image.tobytes() and one.parts.tobytes() == other.parts.tobytes()
    assert one.expression == other.expression and one.doubts == other.doubts == ()
    for layout in one.landmarks:
        assert np.array_equal(one.landmarks[layout].points_px, other.landmarks[layout].points_px)
    assert one.image.tobytes() != third.image.tobytes()


def test_closed_eyes_have_no_label_and_skin_over_them(reconstruction: Reconstruction, shut: Edit) -> None:
    before = edit_photo(reconstruction, IDENTITY)
    eyes = np.isin(before.parts, (RIGHT_EYE, LEFT_EYE))
    assert eyes.sum() > 60
    assert count(shut.parts, RIGHT_EYE, LEFT_EYE) <= 2
    assert (shut.parts[eyes] == SKIN).mean() > 0.9
    # the whites and pupils are gone: what is there now has the colour of skin, but for the line of lashes
    skin = np.median(before.image[before.parts == SKIN].astype(float), axis=0)
    away = [np.median(np.abs(edit.image[eyes] - skin).mean(-1)) for edit in (before, shut)]
    assert away[1] < 0.6 * away[0]


def test_an_opened_mouth_shows_its_dark_inside(reconstruction: Reconstruction, wide: Edit) -> None:
    before = edit_photo(reconstruction, IDENTITY)
    inside = wide.parts == INNER_MOUTH
    assert inside.sum() > 1.5 * count(before.parts, INNER_MOUTH) + 40
    assert wide.image[inside].mean() < 0.75 * wide.image[wide.parts == SKIN].mean()


def test_landmarks_lie_on_the_borders_of_the_labels(wide: Edit, shut: Edit) -> None:
    points = wide.landmarks["mediapipe478"].points_px
    top, bottom = points[UPPER_LIP_BOTTOM], points[LOWER_LIP_TOP]
    rows = np.flatnonzero(wide.parts[:, int((top + bottom)[0] / 2.0)] == INNER_MOUTH)
    assert top[1] == pytest.approx(rows[0], abs=1.5) and bottom[1] == pytest.approx(rows[-1] + 1, abs=1.5)
    # lids that are shut meet: 37, 38 over 41, 40 and 43, 44 over 47, 46 of iBUG's points
    lids = shut.landmarks["ibug68"].points_px
    gap = np.linalg.norm(lids[[37, 38, 43, 44]] - lids[[41, 40, 47, 46]], axis=1)
    width = np.linalg.norm(lids[36] - lids[39])
    assert (gap < 0.15 * width).all()


def test_landmarks_are_the_projected_surface_points(reconstruction: Reconstruction) -> None:
    unseen = replace(
        reconstruction, observation=replace(reconstruction.observation, parts=np.zeros((320, 320), np.uint8))
    )  # no labels, so nothing to correct the rims by
    expression = reconstruction.fit.expression.clone()
    expression[reconstruction.model.expression_names.index("jawOpen")] = 0.4
    edit = edit_expression(unseen, expression)
    model = reconstruction.model
    vertices = settle_lips(model, model.vertices(reconstruction.fit.identity, expression))
    for layout, embedding in model.landmarks.items():
        fixed = np.setdiff1d(np.arange(len(embedding.points.vertices)), embedding.sliding.numpy())
        expected = reconstruction.fit.camera.project(embedding.points.of(vertices)).numpy()[fixed]
        assert np.abs(edit.landmarks[layout].points_px[fixed] - expected).max() < 0.05


def test_lids_meet_on_any_face() -> None:
    model = load_model("anny")
    generator = torch.Generator().manual_seed(3)
    names = model.expression_names
    for _ in range(5):
        identity = torch.randn(len(model.identity), generator=generator, dtype=torch.float64)
        expression = torch.zeros(len(names), dtype=torch.float64)
        expression[names.index("browInnerUp")] = 0.5
        assert torch.equal(settle_lids(model, identity, expression), model.vertices(identity, expression))
        expression[names.index("eyeBlinkLeft")] = 1.0
        shut = settle_lids(model, identity, expression)
        upper, lower = (shut[rim] for rim in model.annotation.rims["left_eye"])
        assert float(torch.cdist(upper, lower).amin(1).max()) < 0.0025  # a rim's vertices are 2 to 3 mm apart
        upper, lower = upper[:, 1], lower[:, 1]
        assert float((upper.mean() - lower.mean()).abs()) < 0.0005


def test_the_field_beside_the_face_dies_away() -> None:
    known = np.zeros((200, 260), bool)
    known[80:120, 100:160] = True
    field = np.zeros((200, 260, 2))
    field[known] = (3.0, -2.0)
    wide = extend(field, known, reach_px=50.0)
    assert np.array_equal(wide[known], field[known].astype(np.float32))
    rows, columns = np.nonzero(~known)
    away = np.hypot(
        np.maximum(np.maximum(80 - rows, rows - 119), 0), np.maximum(np.maximum(100 - columns, columns - 159), 0)
    )
    x, y = wide[~known].T
    assert (x[away > 54.0] == 0.0).all() and (y[away > 54.0] == 0.0).all()
    assert x.min() >= -1e-6 and x.max() <= 3.0 + 1e-6 and y.min() >= -2.0 - 1e-6 and y.max() <= 1e-6
    down = wide[120:175, 130, 0]
    assert (np.diff(down) <= 1e-4).all() and np.abs(np.diff(wide[100:175, 130, 0])).max() < 0.3


def test_resampling_by_a_known_displacement_is_that_displacement() -> None:
    y, x = np.mgrid[:60, :80].astype(np.float32)
    image = np.stack([x, y, 100.0 + 40.0 * np.sin(x / 9.0) * np.cos(y / 7.0)], -1)
    field = np.zeros((60, 80, 2))
    field[10:50, 10:70] = (2.5, -1.25)
    moved = resample(image, field)
    inner = (slice(15, 45), slice(15, 60))
    expected = np.stack([x + 2.5, y - 1.25, 100.0 + 40.0 * np.sin((x + 2.5) / 9.0) * np.cos((y - 1.25) / 7.0)], -1)
    assert np.abs(moved[inner] - expected[inner]).max() < 0.2
    still = (field == 0.0).all(-1)
    assert np.array_equal(moved[still], image[still])


def test_what_covers_the_face_stays_where_it_is(reconstruction: Reconstruction) -> None:
    photo, observation = reconstruction.photo, reconstruction.observation
    x, y = np.nanmean(observation.landmarks.points_px, axis=0)
    box = (slice(int(y) + 14, int(y) + 50), slice(int(x) - 25, int(x) + 25))  # over the mouth
    pixels, parts = photo.pixels.copy(), observation.parts.copy()
    pixels[box], parts[box] = (20, 200, 40), OTHER
    covered = replace(reconstruction, photo=Photo.from_array(pixels), observation=replace(observation, parts=parts))
    edit = edit_photo(covered, WIDE)
    inside = tuple(slice(side.start + 4, side.stop - 4) for side in box)  # parsers' corners are never so sharp
    assert np.array_equal(edit.image[inside], pixels[inside])
    assert (edit.parts[box] == OTHER).mean() > 0.9
    assert edit.doubts == ("the mouth is covered",)
    green = (edit.image[..., 1].astype(int) - edit.image[..., 0] > 100).sum()
    assert green < 1.15 * 36 * 50  # no second one beside it
    lips = edit.landmarks["mediapipe478"]
    assert not lips.visible[UPPER_LIP_BOTTOM] and lips.visible[33]


def test_confirms_what_is_true_and_drops_what_is_not(reconstruction: Reconstruction, shut: Edit, wide: Edit) -> None:
    detector, parser = landmark_detector("mediapipe"), face_parser("embedded")
    before = edit_photo(reconstruction, IDENTITY)
    for edit in (before, shut, wide):
        seen = confirm(edit, detector, parser)
        assert seen.is_confirmed, seen.reasons
        assert seen.reasons == () and seen.landmark_nme < 0.02 and seen.part_iou["mean"] > 0.65
    # the labels and landmarks of one expression on the picture of another
    wrong = confirm(replace(before, parts=wide.parts, landmarks=wide.landmarks), detector, parser)
    assert not wrong.is_confirmed and wrong.reasons
    asleep = confirm(replace(before, parts=shut.parts), detector, parser)
    assert asleep.reasons == ("right_eye is seen where none is written", "left_eye is seen where none is written")
    swapped = confirm(replace(before, parts=np.roll(before.parts, 12, axis=1)), detector, parser)
    assert not swapped.is_confirmed
    doubtful = confirm(replace(wide, doubts=("the mouth is covered",)), detector, parser)
    assert doubtful.reasons == ("the mouth is covered",) and not doubtful.is_confirmed
    nobody = confirm(replace(before, image=np.zeros_like(before.image)), detector, parser)
    assert nobody.reasons == ("no face is found",) and np.isnan(nobody.landmark_nme) and nobody.part_iou == {}
