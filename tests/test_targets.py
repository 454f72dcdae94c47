"""What the energy compares with: which pixels of photo and model count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fit3d.camera import Camera
from fit3d.config import FitConfig
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.labels import BACKGROUND, HAIR, NOSE, OTHER, PRDL_PARTS, RIGHT_EYEBROW, SKIN, UPPER_LIP
from fit3d.observe.base import Observation
from fit3d.solve.fit import face_geometry
from fit3d.solve.objective import Objective
from fit3d.solve.problem import Parameters
from fit3d.targets import Targets, make_targets
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

CONFIG = FitConfig(anchors=16)
DESCRIPTOR = ("nearest", "furthest", "mean")


def seen(camera: Camera) -> tuple[KnownHead, Observation]:
    """A head and what perfect detectors say of it."""
    model = synthetic_model()
    head = KnownHead(synthetic_identity(model, 2).float(), torch.zeros(len(model.expression)), camera)
    return head, observe_known(model, head, "ibug68", 0.0, np.random.default_rng(0), CONFIG)


def relabelled(observation: Observation, where: np.ndarray | tuple[slice, slice], label: int) -> Observation:
    parts = observation.parts.copy()
    parts[where] = label
    return replace(observation, parts=parts)


def changed_parts(one: Observation, two: Observation) -> set[int]:
    """Labels of the parts that the anchors see differently in two observations."""
    before, after = ({part.label: part for part in make_targets(each, CONFIG).parts} for each in (one, two))
    assert before.keys() == after.keys()
    return {
        label
        for label, part in before.items()
        if any(not torch.equal(getattr(part, name), getattr(after[label], name)) for name in DESCRIPTOR)
    }


def corner(targets: Targets, side_px: int) -> tuple[slice, slice]:
    """A square of the photo just within the crop's top left corner, where there is no face."""
    left, top = round(max(targets.crop.left, 0.0)) + 2, round(max(targets.crop.top, 0.0)) + 2
    return slice(top, top + side_px), slice(left, left + side_px)


@pytest.mark.parametrize("label", [NOSE, UPPER_LIP, RIGHT_EYEBROW])
def test_specks_far_away_say_nothing(label: int) -> None:
    """Label noise of a few pixels, which 'max' would see from everywhere; a piece of some size does count."""
    _, observation = seen(synthetic_camera())
    targets = make_targets(observation, CONFIG)
    speck, piece = corner(targets, 4), corner(targets, 24)
    assert not observation.parts[piece].any()
    assert make_targets(relabelled(observation, speck, SKIN), CONFIG).crop.scale * 4 > 1.5  # the raster sees it
    assert changed_parts(observation, relabelled(observation, speck, label)) == set()
    assert changed_parts(observation, relabelled(observation, piece, label)) == {label}


def forehead(camera: Camera, observation: Observation) -> np.ndarray:
    """(H, W) bool: skin of the observed photo above the brows of a frontal head, however the picture is turned."""
    origin, up = camera.project(torch.tensor([[0.0, 0.03, 0.0], [0.0, 0.04, 0.0]])).double().numpy()
    rows, columns = np.indices(observation.parts.shape)
    above = (columns + 0.5 - origin[0]) * (up - origin)[0] + (rows + 0.5 - origin[1]) * (up - origin)[1] > 0
    skin = above & (observation.parts == SKIN)
    assert skin.sum() > 0.15 * (observation.parts == SKIN).sum()
    return skin


@pytest.mark.parametrize("roll", [0, 70, 180])
def test_skin_above_the_brows_does_not_count(roll: float) -> None:
    """Neither in the photo, where hair or a hat may end it anywhere, nor on the model."""
    camera = synthetic_camera(width=500, roll_deg=roll)
    head, observation = seen(camera)
    bare = forehead(camera, observation)
    cut = relabelled(observation, bare, BACKGROUND)
    assert changed_parts(observation, cut) == set()

    model = synthetic_model()
    crop = make_targets(observation, CONFIG).crop
    pose, within = camera.cam_from_world.float(), camera.in_crop(crop)
    coefficients = torch.cat([head.identity, head.expression])
    at = Parameters(coefficients, pose[:3, :3], pose[:3, 3], within.focal_px, within.principal_px)
    geometry = face_geometry(model, "ibug68", "cpu")
    whole, without = (
        Objective.build(geometry, make_targets(each, CONFIG), CONFIG, with_parts=True).evaluate(at)
        for each in (observation, cut)
    )
    assert without.terms["prdl"] == whole.terms["prdl"]
    # photo and crop have different pixels: a part's border may differ by one, which is far less than a forehead
    assert without.terms["prdl"] < 0.5 * sum(CONFIG.prdl.part_weights) * CONFIG.prdl.weight


def test_skin_below_the_brows_counts() -> None:
    camera = synthetic_camera()
    _, observation = seen(camera)
    chin = (observation.parts == SKIN) & (np.indices(observation.parts.shape)[0] > 330)
    assert chin.sum() > 1000
    assert changed_parts(observation, relabelled(observation, chin, BACKGROUND)) == {SKIN}


def test_without_landmarks_of_a_brow_all_skin_counts() -> None:
    camera = synthetic_camera()
    _, observation = seen(camera)
    points = observation.landmarks.points_px.copy()
    points[17:22] = np.nan
    blind = replace(observation, landmarks=replace(observation.landmarks, points_px=points))
    assert make_targets(observation, CONFIG).above_brows.any()
    assert not make_targets(blind, CONFIG).above_brows.any()
    assert changed_parts(blind, relabelled(blind, forehead(camera, blind), BACKGROUND)) == {SKIN}


def test_hidden_is_hair_and_what_lies_beyond_the_photo() -> None:
    camera = synthetic_camera(width=200)
    _, observation = seen(camera)
    targets = make_targets(observation, CONFIG)
    crop, hidden = targets.crop, targets.hidden.numpy()
    at = (np.arange(crop.resolution) + 0.5) / crop.scale
    rows, columns = np.floor(at + crop.top).astype(int), np.floor(at + crop.left).astype(int)
    inside = ((rows >= 0) & (rows < camera.height))[:, None] & ((columns >= 0) & (columns < camera.width))[None, :]
    under = observation.parts[rows.clip(0, camera.height - 1)][:, columns.clip(0, camera.width - 1)]
    assert (~inside).any() and hidden[~inside].all()
    assert not hidden[inside & (under != OTHER)].any()

    fringe = relabelled(observation, (slice(130, 190), slice(40, 160)), HAIR)
    hair = ((rows >= 130) & (rows < 190))[:, None] & ((columns >= 40) & (columns < 160))[None, :]
    assert hair.sum() > 3000 and make_targets(fringe, CONFIG).hidden.numpy()[hair].all()


def test_parts_beyond_the_photo_do_not_count() -> None:
    """The chin lies beyond the photo: at the truth, that it is not seen is no error."""
    camera = synthetic_camera(height=500)
    head, observation = seen(camera)
    model = synthetic_model()
    rows = np.nonzero(np.isin(observation.parts, PRDL_PARTS).any(1))[0]
    height = int(rows[0] + 0.8 * (rows[-1] - rows[0]))
    cut = replace(observation, parts=observation.parts[:height])
    targets = make_targets(cut, CONFIG)
    bottom = int((height - targets.crop.top) * targets.crop.scale) + 1
    assert bottom < targets.crop.resolution and bool(targets.hidden[bottom:].all())

    within = camera.in_crop(targets.crop)
    pose = camera.cam_from_world.float()
    coefficients = torch.cat([head.identity, head.expression])
    at = Parameters(coefficients, pose[:3, :3], pose[:3, 3], within.focal_px, within.principal_px)
    objective = Objective.build(face_geometry(model, "ibug68", "cpu"), targets, CONFIG, with_parts=True)
    assert objective.evaluate(at).terms["prdl"] < 0.5 * sum(CONFIG.prdl.part_weights) * CONFIG.prdl.weight
