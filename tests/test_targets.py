"""What the energy compares with: which pixels of photo and model count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fit3d.camera import Camera
from fit3d.config import FitConfig, PartsConfig
from fit3d.energy.losses import part_loss
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.labels import BACKGROUND, HAIR, NOSE, OTHER, PRDL_PARTS, RIGHT_EYEBROW, SKIN, UPPER_LIP
from fit3d.observe.base import Observation
from fit3d.solve.fit import face_geometry
from fit3d.solve.objective import Objective
from fit3d.solve.problem import Parameters
from fit3d.targets import Targets, make_targets
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

CONFIG = FitConfig(loss="prdl", anchors=16)


def seen(camera: Camera) -> tuple[KnownHead, Observation]:
    """A head and what perfect detectors say of it."""
    model = synthetic_model()
    head = KnownHead(synthetic_identity(model, 2).float(), torch.zeros(len(model.expression)), camera)
    return head, observe_known(model, head, "ibug68", 0.0, np.random.default_rng(0), CONFIG)


def relabelled(observation: Observation, where: np.ndarray | tuple[slice, slice], label: int) -> Observation:
    parts = observation.parts.copy()
    parts[where] = label
    return replace(observation, parts=parts)


def targets_of(*observations: Observation) -> Targets:
    return make_targets(observations, CONFIG, part_loss(CONFIG))


def objective_of(*observations: Observation) -> Objective:
    geometry, loss = face_geometry(synthetic_model(), "ibug68", "cpu"), part_loss(CONFIG)
    unknown = torch.zeros(len(observations), dtype=torch.bool)
    return Objective.build(geometry, make_targets(observations, CONFIG, loss), CONFIG, loss, unknown)


def true_parameters(head: KnownHead, camera: Camera, targets: Targets) -> Parameters:
    """Of the head in the first crop."""
    pose, within = camera.cam_from_world.float(), camera.in_crop(targets.crops[0])
    coefficients = torch.cat([head.identity, head.expression])
    return Parameters.of_one(coefficients, pose[:3, :3], pose[:3, 3], within.focal_px, within.principal_px)


def changed_parts(one: Observation, two: Observation) -> set[int]:
    """Labels of the parts that the anchors see differently in two observations."""
    both = targets_of(one, two)
    assert torch.equal(both.part_weights[0] > 0, both.part_weights[1] > 0)
    differs = torch.zeros(len(PRDL_PARTS), dtype=torch.bool)
    for seen in (both.described.nearest, both.described.furthest, both.described.mean):
        assert seen.shape[:2] == (2, len(PRDL_PARTS)) and seen.shape[2] > 100
        differs |= (seen[0] != seen[1]).any(1) & (both.part_weights[0] > 0)
    return {part for part, changed in zip(PRDL_PARTS, differs.tolist(), strict=True) if changed}


def corner(targets: Targets, side_px: int) -> tuple[slice, slice]:
    """A square of the photo just within the crop's top left corner, where there is no face."""
    (crop,) = targets.crops
    left, top = round(max(crop.left, 0.0)) + 2, round(max(crop.top, 0.0)) + 2
    return slice(top, top + side_px), slice(left, left + side_px)


@pytest.mark.parametrize("label", [NOSE, UPPER_LIP, RIGHT_EYEBROW])
def test_specks_far_away_say_nothing(label: int) -> None:
    """Label noise of a few pixels, which 'max' would see from everywhere; a piece of some size does count."""
    _, observation = seen(synthetic_camera())
    targets = targets_of(observation)
    speck, piece = corner(targets, 4), corner(targets, 24)
    assert not observation.parts[piece].any()
    assert targets_of(relabelled(observation, speck, SKIN)).crops[0].scale * 4 > 1.5  # the raster sees it
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

    objective = objective_of(observation, cut)
    at = true_parameters(head, camera, objective.targets)
    whole, without = objective.evaluate(Parameters.stack([at, at])).terms["prdl"].tolist()
    assert without == whole
    # photo and crop have different pixels: a part's border may differ by one, which is far less than a forehead
    assert without < 0.5 * sum(CONFIG.parts.weights) * CONFIG.prdl.weight


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
    assert targets_of(observation).above_brows.any()
    assert not targets_of(blind).above_brows.any()
    assert changed_parts(blind, relabelled(blind, forehead(camera, blind), BACKGROUND)) == {SKIN}


def test_hidden_is_hair_and_what_lies_beyond_the_photo() -> None:
    camera = synthetic_camera(width=200)
    _, observation = seen(camera)
    targets = targets_of(observation)
    (crop,), (hidden,) = targets.crops, targets.hidden.numpy()
    at = (np.arange(crop.resolution) + 0.5) / crop.scale
    rows, columns = np.floor(at + crop.top).astype(int), np.floor(at + crop.left).astype(int)
    inside = ((rows >= 0) & (rows < camera.height))[:, None] & ((columns >= 0) & (columns < camera.width))[None, :]
    under = observation.parts[rows.clip(0, camera.height - 1)][:, columns.clip(0, camera.width - 1)]
    assert (~inside).any() and hidden[~inside].all()
    assert not hidden[inside & (under != OTHER)].any()

    fringe = relabelled(observation, (slice(130, 190), slice(40, 160)), HAIR)
    hair = ((rows >= 130) & (rows < 190))[:, None] & ((columns >= 40) & (columns < 160))[None, :]
    assert hair.sum() > 3000 and targets_of(fringe).hidden[0].numpy()[hair].all()


def test_parts_beyond_the_photo_do_not_count() -> None:
    """The chin lies beyond the photo: at the truth, that it is not seen is no error."""
    camera = synthetic_camera(height=500)
    head, observation = seen(camera)
    rows = np.nonzero(np.isin(observation.parts, PRDL_PARTS).any(1))[0]
    height = int(rows[0] + 0.8 * (rows[-1] - rows[0]))
    cut = replace(observation, parts=observation.parts[:height])
    objective = objective_of(cut)
    targets = objective.targets
    (crop,), (hidden,) = targets.crops, targets.hidden
    bottom = int((height - crop.top) * crop.scale) + 1
    assert bottom < crop.resolution and bool(hidden[bottom:].all())
    energy = objective.evaluate(true_parameters(head, camera, targets)).terms["prdl"]
    assert float(energy) < 0.5 * sum(CONFIG.parts.weights) * CONFIG.prdl.weight


def test_faces_of_a_batch_have_targets_of_their_own() -> None:
    """The same bits as alone, in any company and order, and taken from the batch."""
    ones = [seen(synthetic_camera(yaw_deg=yaw))[1] for yaw in (0.0, 30.0)]
    ones.append(relabelled(ones[0], ones[0].parts == NOSE, HAIR))
    batch, turned = targets_of(*ones), targets_of(*reversed(ones))
    assert len(batch) == 3
    for index, observation in enumerate(ones):
        alone = targets_of(observation)
        check_same(batch.take(torch.tensor([index])), alone)
        check_same(turned.take(torch.tensor([2 - index])), alone)
    check_same(batch.take(torch.tensor([2, 0])), targets_of(ones[2], ones[0]))
    nose = PRDL_PARTS.index(NOSE)
    assert (batch.part_weights[:, nose] > 0).tolist() == [True, True, False]


def check_same(one: Targets, two: Targets) -> None:
    assert one.crops == two.crops and one.landmarks.outlier_px == two.landmarks.outlier_px
    for name in ("part_weights", "hidden", "above_brows"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for name in ("nearest", "furthest", "mean"):
        assert torch.equal(getattr(one.described, name), getattr(two.described, name)), name
    assert torch.equal(one.landmarks.px, two.landmarks.px)
    assert torch.equal(one.landmarks.weight, two.landmarks.weight)


def test_without_a_loss_between_parts_nothing_is_described() -> None:
    targets = make_targets([seen(synthetic_camera())[1]], CONFIG, None)
    assert targets.described is None
    assert targets.take(torch.tensor([0])).described is None


def test_forehead_and_what_hair_covers_count_if_asked_to() -> None:
    """The two ways to leave out what cannot be trusted can be turned off one by one."""
    camera = synthetic_camera()
    _, observation = seen(camera)
    fringe = relabelled(observation, forehead(camera, observation), HAIR)

    def made(**parts: bool) -> Targets:
        config = replace(CONFIG, parts=PartsConfig(**parts))
        return make_targets([observation, fringe], config, part_loss(config))

    def sees_the_fringe(targets: Targets) -> bool:
        skin = targets.described.furthest[:, PRDL_PARTS.index(SKIN)]
        return not torch.equal(skin[0], skin[1])

    assert not sees_the_fringe(made()) and sees_the_fringe(made(forehead=True))
    assert not sees_the_fringe(made(under_hair=True))
    assert made().above_brows.any() and not made(forehead=True).above_brows.any()
    assert made().hidden[1].any() and not made(under_hair=True).hidden.any()
