"""The stages of a fit, in reading order: pose in closed form, landmarks, then everything with parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fit3d import labels
from fit3d.camera import Camera
from fit3d.config import FitConfig
from fit3d.energy.losses import part_loss
from fit3d.errors import ObservationError
from fit3d.landmarks import LandmarkLayout
from fit3d.metrics import landmark_nme, part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.raster import rasterise_front
from fit3d.solve.adam import STEPS_PER_ITERATION, minimise_adam
from fit3d.solve.levenberg_marquardt import Descent, Outcome, minimise
from fit3d.solve.objective import Objective, hidden_landmarks, place_landmarks, surface_labels
from fit3d.solve.pose import pose_from_landmarks, pose_from_turn
from fit3d.solve.problem import POSE_SIZE, FaceGeometry, Parameters
from fit3d.solve.result import Fit
from fit3d.targets import (
    FEWEST_LANDMARKS,
    SMALLEST_PIECE,
    beyond_photo,
    crop_labels,
    enough_landmarks,
    label_points,
    make_targets,
    usable_landmarks,
)

GROUP = {"cpu": 8, "mps": 16, "cuda": 64}
"""Faces fitted in one tensor program, by kind of device: more gain nothing and take memory."""
MOST_LINEARISATIONS = 6
"""Of a model with joints, in the landmark stage: each leaves about the square of the error of the one before."""
LINEAR_ENOUGH = 1e-3
"""No further one is made where the last lowered the energy by less than this share."""
SETTLING_ITERATIONS = 4
"""With parts on the last linearisation of a model with joints."""
LANDMARK_DESCENT = Descent(iterations=20)
"""How the landmark stage goes down."""
ROUGHNESS = 0.1
"""Share of the energy with parts by which a step may raise it, see `Descent.roughness`."""
SUPPOSED_YAWS_DEG = (0.0, -40.0, 40.0)
"""Without landmarks the fit starts from whichever of these turns of the head overlaps best."""
COARSE_ANCHORS = 56
"""Denser grids of anchors are seen only from where this grid leads: they tell the same to a percent, for more work."""
FINE_ITERATIONS = 1
"""Steps with the denser grid; the energy there differs so little that more gain nothing."""
FEWEST_PARTS = 3
"""Fewer labelled parts do not tell where a face is."""
CUT_OFF_SHARE = 0.05
"""A larger share of landmarks outside the photo is reported."""
PROFILE_DEG = 55.0
"""A face turned further away than this, degrees, is reported: detectors guess its far side."""
HIDDEN_BEHIND_M = 0.008
"""A landmark that lies further than this, metres, behind the surface seen there is hidden. The head is still the mean
one when this is asked, so less would be chance."""
POOR_PART_IOU = 0.65
"""A fit with a mean Part IoU below this is not to be trusted."""
POOR_LANDMARK_NME = 0.025
"""Nor one with a landmark error above this; what fits well has 0.004 to 0.01."""
PARTS_RASTER_LIMIT = 1536
"""Longest side, px, at which the fitted parts are drawn; a larger head's label image is enlarged from it."""


@dataclass(frozen=True)
class Face:
    """One observed face of a photo, as it goes into a batch."""

    observation: Observation
    width: int
    """Of the photo, px."""
    height: int
    focal_px: float | None
    """Of the photo, px; None takes the default field of view of `config.focal`."""


def fit_observation(
    model: MorphableModel,
    observation: Observation,
    width: int,
    height: int,
    focal_px: float | None,
    config: FitConfig,
) -> Fit:
    """Fit `model` to one observed face of a photo of `width` x `height` px.

    `focal_px` is the photo's focal length in px; None starts from the default field of view of `config.focal`. The
    principal point is the photo's centre. A face without landmarks is fitted to its labelled parts alone. Raises
    ObservationError if neither landmarks nor parts suffice.
    """
    (fit,) = fit_observations(model, [Face(observation, width, height, focal_px)], config)
    return fit


def fit_observations(model: MorphableModel, faces: Sequence[Face], config: FitConfig, threads: int = 1) -> list[Fit]:
    """Fit `model` to each of several faces with landmarks of one layout, many in one tensor program.

    Each face converges and stops on its own; on a CPU its result has the same bits in any company. Faces go in groups
    of `GROUP`, so working memory does not grow with their number; `threads` groups at a time, which helps on a CPU.
    Raises ObservationError if a face has neither landmarks nor parts enough.
    """
    size = GROUP.get(torch.device(config.device).type, GROUP["cpu"])
    groups = [faces[start : start + size] for start in range(0, len(faces), size)]
    if threads == 1:
        return [fit for group in groups for fit in _fit_group(model, group, config)]
    with ThreadPoolExecutor(threads) as pool:
        return [fit for fits in pool.map(lambda group: _fit_group(model, group, config), groups) for fit in fits]


def _fit_group(model: MorphableModel, faces: Sequence[Face], config: FitConfig) -> list[Fit]:
    if model.articulation is not None:
        return [_fit_articulated(model, face, config) for face in faces]
    batch = prepare(model, faces, config)
    stage = fit_landmarks(batch)
    outcomes = [stage]
    if batch.objective.part_loss is not None:
        outcomes.append(refine_with_parts(batch, stage.at))
    return results(batch, outcomes)


def _fit_articulated(model: MorphableModel, face: Face, config: FitConfig) -> Fit:
    """Fit a model with joints to one face: each descent is on a linearisation, made anew where the last one ended.

    Linearisations are exact in value and slope where they are made, so what is told of the end is the model's own.
    """
    batch = prepare(model, [face], config)
    outcomes = []
    for _ in range(MOST_LINEARISATIONS):
        outcome = fit_landmarks(batch)
        outcomes.append(outcome)
        batch = _linearised_anew(model, batch, outcome.at)
        if float(outcome.energy_end) >= (1.0 - LINEAR_ENOUGH) * float(outcome.energy_start):
            break
    first = 0
    if batch.objective.part_loss is not None:
        first = len(outcomes)
        for iterations in (config.iterations, SETTLING_ITERATIONS):
            objective = replace(batch.objective, config=replace(config, iterations=iterations))
            outcomes.append(refine_with_parts(replace(batch, objective=objective), batch.start))
            batch = _linearised_anew(model, batch, outcomes[-1].at)
    begin, reasons = outcomes[first].terms_start, outcomes[first].stop_reasons
    end = batch.objective.evaluate(batch.start).terms
    (fit,) = results(
        batch, [*outcomes[:-1], replace(outcomes[-1], terms_start=begin, terms_end=end, stop_reasons=reasons)]
    )
    return fit


def _linearised_anew(model: MorphableModel, batch: FaceBatch, at: Parameters) -> FaceBatch:
    """The batch of one face with the model's linearisation at `at`, from where it goes on."""
    layout, count = batch.faces[0].observation.landmarks.layout, batch.objective.geometry.identity_count
    (coefficients,) = at.coefficients.cpu()
    geometry = geometry_at(model, layout, batch.config.device, coefficients[:count], coefficients[count:])
    return replace(batch, objective=replace(batch.objective, geometry=geometry), start=at)


@dataclass(frozen=True)
class FaceBatch:
    """Faces, and the problem they pose."""

    faces: tuple[Face, ...]
    focal_px: tuple[float, ...]
    """Of each photo, px, as known or assumed."""
    objective: Objective
    """With parts, unless the loss is 'landmarks'."""
    start: Parameters
    """The mean head of each face at the closed-form pose of its landmarks, or else of its parts."""

    @property
    def config(self) -> FitConfig:
        return self.objective.config


def prepare(model: MorphableModel, faces: Sequence[Face], config: FitConfig) -> FaceBatch:
    """Check, crop and describe the faces. Arguments and errors: `fit_observations`."""
    for face in faces:
        present = usable_landmarks(face.observation.landmarks)
        if config.loss == "landmarks" and present < FEWEST_LANDMARKS:
            raise ObservationError(f"only {present} landmarks are usable; a pose needs at least {FEWEST_LANDMARKS}")
    (layout,) = {face.observation.landmarks.layout for face in faces}
    geometry = face_geometry(model, layout, config.device)
    loss = part_loss(config)
    targets = make_targets([face.observation for face in faces], config, loss)
    half_fov = math.radians(config.focal.default_fov_deg) / 2.0
    focal = tuple(
        max(face.width, face.height) / (2.0 * math.tan(half_fov)) if face.focal_px is None else face.focal_px
        for face in faces
    )
    free = torch.tensor([face.focal_px is None and config.focal.refine_sd > 0 for face in faces])
    objective = Objective.build(geometry, targets, config, loss, free)
    start = start_from_pose(objective, faces, focal)
    return FaceBatch(tuple(faces), focal, _without_hidden_landmarks(objective, start, faces), start)


def _without_hidden_landmarks(objective: Objective, at: Parameters, faces: Sequence[Face]) -> Objective:
    """The objective without the landmarks that the head itself hides at `at`: detectors guess those.

    Of faces whose detector did not say itself how sure it is of each.
    """
    silent = torch.tensor([face.observation.landmarks.confidence is None for face in faces])
    if not bool(silent.any()):
        return objective
    landmarks = objective.targets.landmarks
    weight = landmarks.weight.clone()
    photos = torch.nonzero(silent).squeeze(1).to(weight.device)
    hidden = hidden_landmarks(objective.take(photos), at.take(photos), HIDDEN_BEHIND_M)
    weight[photos] = weight[photos].masked_fill(hidden, 0.0)
    return replace(objective, targets=replace(objective.targets, landmarks=replace(landmarks, weight=weight)))


def fit_landmarks(batch: FaceBatch) -> Outcome[Parameters]:
    """From pose alone to pose, identity and expression from landmarks alone, where there are any."""
    return minimise(replace(batch.objective, part_loss=None), batch.start, LANDMARK_DESCENT)


def refine_with_parts(batch: FaceBatch, start: Parameters) -> Outcome[Parameters]:
    """Go on with parts added, with the solver of the configuration.

    With more than `COARSE_ANCHORS` the energies told are those of the dense grid, from where the coarse one ended;
    steps and evaluations are of both, and the stop reason is the coarse one's.
    """
    config = batch.config
    if config.solver == "adam":
        return minimise_adam(batch.objective, start, config.iterations * STEPS_PER_ITERATION)
    descent = Descent(config.iterations, tolerance=3e-3, roughness=ROUGHNESS, retries=4)
    if config.anchors <= COARSE_ANCHORS:
        return minimise(batch.objective, start, descent)
    coarse = part_loss(replace(config, anchors=COARSE_ANCHORS))
    assert coarse is not None
    first = minimise(batch.objective.with_loss(coarse), start, descent)
    last = minimise(batch.objective, first.at, replace(descent, iterations=FINE_ITERATIONS))
    steps, evaluations = first.steps + last.steps, first.evaluations + last.evaluations
    return replace(last, steps=steps, evaluations=evaluations, stop_reasons=first.stop_reasons)


@lru_cache(maxsize=4)
def face_geometry(model: MorphableModel, layout: LandmarkLayout, device: str) -> FaceGeometry:
    """The model arranged for the fit, kept for the next photo; one with joints is linearised without any turn."""
    rest = model.linear_at(torch.zeros(len(model.identity)), torch.zeros(len(model.expression_names)))
    return FaceGeometry.from_model(rest, layout, torch.float32, device)


def geometry_at(
    model: MorphableModel, layout: LandmarkLayout, device: str, identity: Tensor, expression: Tensor
) -> FaceGeometry:
    """The model arranged for the fit; one with joints is linearised at identity (K,) and expression (L,)."""
    if model.articulation is None:
        return face_geometry(model, layout, device)
    return FaceGeometry.from_model(model.linear_at(identity, expression), layout, torch.float32, device)


def start_from_pose(objective: Objective, faces: Sequence[Face], focal: Sequence[float]) -> Parameters:
    """See `FaceBatch.start`; `focal` is the focal length of each photo, px, as known or assumed."""
    starts = []
    for index, face in enumerate(faces):
        crop = objective.targets.crops[index]
        centre = crop.crop_from_px(torch.tensor([face.width / 2.0, face.height / 2.0], dtype=torch.float64))
        lens = (focal[index] * crop.scale, (float(centre[0]), float(centre[1])))
        photo = torch.tensor([index])
        if enough_landmarks(face.observation.landmarks):
            starts.append(_start_from_landmarks(objective.take(photo), *lens))
        else:
            starts.append(_start_from_parts(objective.take(photo.expand(len(SUPPOSED_YAWS_DEG))), face, *lens))
    return Parameters.stack(starts)


def _start_from_landmarks(objective: Objective, focal_px: float, principal_px: tuple[float, float]) -> Parameters:
    """Of one face. Contour landmarks, which slide, are left out where there are enough others."""
    geometry = objective.geometry
    (px,), (weight,) = objective.targets.landmarks.px.cpu(), objective.targets.landmarks.weight.cpu()
    without_contour = weight.clone()
    without_contour[geometry.sliding.cpu()] = 0.0
    if int((without_contour > 0).sum()) >= FEWEST_LANDMARKS:
        weight = without_contour
    points = geometry.landmarks.mean[: geometry.landmark_count].cpu()
    return _mean_head(geometry, pose_from_landmarks(points, px, weight, focal_px, principal_px), focal_px, principal_px)


def _start_from_parts(
    objective: Objective, face: Face, focal_px: float, principal_px: tuple[float, float]
) -> Parameters:
    """Of one face, which the objective holds once for each of SUPPOSED_YAWS_DEG: the turn of lowest energy."""
    geometry, crop = objective.geometry, objective.targets.crops[0]
    observed, _ = crop_labels(face.observation.parts, crop)
    seen = [(label, label_points(observed, label)) for label in labels.IOU_PARTS]
    found = [(label, torch.from_numpy(points.mean(0))) for label, points in seen if len(points) >= SMALLEST_PIECE]
    if len(found) < FEWEST_PARTS:
        names = ", ".join(labels.PART_NAMES[label] for label, _ in found) or "none"
        raise ObservationError(
            f"fewer than {FEWEST_LANDMARKS} landmarks are usable and of eyes, brows, nose and lips only {names} "
            f"labelled; a pose needs {FEWEST_LANDMARKS} landmarks or {FEWEST_PARTS} parts"
        )
    centres = part_centres(geometry)[[label for label, _ in found]]
    px, weights = torch.stack([centre for _, centre in found]), torch.ones(len(found))
    poses = [pose_from_turn(centres, px, weights, focal_px, principal_px, yaw) for yaw in SUPPOSED_YAWS_DEG]
    starts = Parameters.stack([_mean_head(geometry, pose, focal_px, principal_px) for pose in poses])
    return starts.take(objective.evaluate(starts).energy.argmin()[None])


def _mean_head(
    geometry: FaceGeometry, pose: tuple[Tensor, Tensor], focal_px: float, principal_px: tuple[float, float]
) -> Parameters:
    mean = geometry.surface.mean
    coefficients = mean.new_zeros(geometry.parameter_count - POSE_SIZE)
    return Parameters.of_one(coefficients, pose[0].to(mean), pose[1].to(mean), focal_px, principal_px)


def part_centres(geometry: FaceGeometry) -> Tensor:
    """(9, 3) float64, metres: centre of area of each label from 0 to 8 on the mean head; NaN where there is none."""
    corners = geometry.surface.mean[geometry.triangles].cpu().double()
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)[:, None]
    label = geometry.triangle_label.cpu()
    centres = []
    for index in range(len(labels.PRDL_PARTS) + 1):
        chosen = label == index
        centres.append((corners[chosen].mean(1) * area[chosen]).sum(0) / area[chosen].sum())
    return torch.stack(centres)


def results(batch: FaceBatch, outcomes: Sequence[Outcome[Parameters]]) -> list[Fit]:
    """What the stages' outcomes, of which the last tells, mean for each face."""
    last, objective = outcomes[-1], batch.objective
    at, geometry = last.at, objective.geometry
    placed = place_landmarks(geometry, at).projected.px.cpu().double().numpy()
    trusted = (objective.targets.landmarks.weight > 0).cpu().numpy()
    fits = []
    for index, face in enumerate(batch.faces):
        crop = objective.targets.crops[index]
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = _nearest_rotation(at.rotation[index].cpu().double())
        pose[:3, 3] = at.translation[index].cpu().double()
        focal = batch.focal_px[index]
        if bool(objective.zoom_is_free[index]):
            focal = float(at.focal_px[index]) / crop.scale
        camera = Camera(face.width, face.height, focal, (face.width / 2.0, face.height / 2.0), pose)
        coefficients = at.coefficients[index]
        parts = visible_parts(geometry, coefficients, camera)
        overlap = part_iou(parts, face.observation.parts)
        error = landmark_nme(
            placed[index] / crop.scale + np.array([crop.left, crop.top]),
            np.where(trusted[index][:, None], face.observation.landmarks.points_px, np.nan),
        )
        mistrust = _mistrust(overlap["mean"], error)
        fits.append(
            Fit(
                identity=coefficients[: geometry.identity_count].cpu().double(),
                expression=coefficients[geometry.identity_count :].cpu().double(),
                camera=camera,
                crop=crop,
                parts=parts,
                part_iou=overlap,
                landmark_nme=error,
                energy_start={name: float(values[index]) for name, values in last.terms_start.items()},
                energy_end={name: float(values[index]) for name, values in last.terms_end.items()},
                iterations=sum(int(each.steps[index]) for each in outcomes),
                stop_reason=last.stop_reasons[index],
                mistrust=mistrust,
                warnings=(*_doubts(face.observation, pose), *mistrust),
            )
        )
    return fits


def _mistrust(overlap: float, error: float) -> tuple[str, ...]:
    """Why a fit with this mean Part IoU and landmark error is not to be trusted, a sentence each; NaN is no reason."""
    reasons = []
    if overlap < POOR_PART_IOU:
        reasons.append(
            f"the fitted parts overlap the observed ones by only {100.0 * overlap:.0f} %: check the overlay, and "
            "whether the face is partly hidden"
        )
    if error > POOR_LANDMARK_NME:
        reasons.append(
            f"the fitted landmarks miss the observed ones by {100.0 * error:.1f} % of the face's size: check the "
            "overlay, and whether this is a face"
        )
    return tuple(reasons)


def _doubts(observation: Observation, pose: Tensor) -> tuple[str, ...]:
    """What the user should check by eye, one sentence each."""
    doubts = []
    if not np.isin(observation.parts, labels.IOU_PARTS).any():
        doubts.append("no eye, brow, nose or lip is labelled: the fit follows the landmarks alone")
    if beyond_photo(observation.landmarks, observation.parts.shape).mean() > CUT_OFF_SHARE:
        doubts.append("the face reaches beyond the photo: what lies outside is guessed")
    away = math.degrees(math.acos(max(-1.0, min(1.0, -float(pose[2, 2])))))  # between the face's and the camera's axis
    if away > PROFILE_DEG:
        doubts.append(
            f"the face is turned {away:.0f} degrees away from the camera: landmarks of its far side are guesses, "
            "so check the overlay"
        )
    return tuple(doubts)


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """Undo the drift of repeated products in single precision."""
    u, _, vh = torch.linalg.svd(matrix)
    return u @ vh


def visible_parts(geometry: FaceGeometry, coefficients: Tensor, camera: Camera) -> np.ndarray:
    """(H, W) uint8: part labels of the surface with `coefficients` (K + L,) at the photo's size; background elsewhere.

    A head that fills more than `PARTS_RASTER_LIMIT` px is drawn at that size and enlarged.
    """
    (positions,) = geometry.surface.at(coefficients[None])
    cam, px = camera.to_cam(positions), camera.project(positions)
    left, top = (int(v) for v in px.amin(0).floor().clamp(min=0))
    right, bottom = (min(int(v) + 1, size) for v, size in zip(px.amax(0), (camera.width, camera.height), strict=True))
    parts = np.full((camera.height, camera.width), labels.BACKGROUND, dtype=np.uint8)
    if right <= left or bottom <= top:
        return parts
    reduction = max(1.0, max(right - left, bottom - top) / PARTS_RASTER_LIMIT)
    height, width = round((bottom - top) / reduction), round((right - left) / reduction)
    scale = px.new_tensor([width / (right - left), height / (bottom - top)])
    fragments = rasterise_front((px - px.new_tensor([left, top])) * scale, cam[:, 2], geometry.triangles, height, width)
    drawn = surface_labels(geometry, fragments).to(torch.uint8).cpu().numpy()
    rows = ((np.arange(bottom - top) + 0.5) * height / (bottom - top)).astype(int)
    columns = ((np.arange(right - left) + 0.5) * width / (right - left)).astype(int)
    parts[top:bottom, left:right] = drawn[rows[:, None], columns[None, :]]
    return parts
