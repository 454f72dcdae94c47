"""The stages of a fit, in reading order: pose in closed form, landmarks, then everything with parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fit3d import labels
from fit3d.camera import Camera
from fit3d.config import FitConfig
from fit3d.errors import ObservationError
from fit3d.landmarks import LandmarkLayout
from fit3d.metrics import landmark_nme, part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.raster import rasterise_front
from fit3d.solve.adam import STEPS_PER_ITERATION, AdamOutcome, minimise_adam
from fit3d.solve.levenberg_marquardt import Outcome, minimise, minimise_rough
from fit3d.solve.objective import Evaluation, Objective, surface_labels
from fit3d.solve.pose import pose_from_landmarks
from fit3d.solve.problem import POSE_SIZE, FaceGeometry, Parameters
from fit3d.solve.result import Fit
from fit3d.targets import Targets, beyond_photo, make_targets

LANDMARK_ITERATIONS = 20
"""Most Levenberg-Marquardt steps of the landmark stage."""
FEWEST_LANDMARKS = 12
"""Fewer usable landmarks do not tell a pose."""
CUT_OFF_SHARE = 0.05
"""A larger share of landmarks outside the photo is reported."""
PROFILE_DEG = 55.0
"""A face turned further away than this, degrees, is reported: detectors guess its far side."""
POOR_PART_IOU = 0.65
"""A mean Part IoU below this is reported."""
PARTS_RASTER_LIMIT = 1536
"""Longest side, px, at which the fitted parts are drawn; a larger head's label image is enlarged from it."""


def fit_observation(
    model: MorphableModel,
    observation: Observation,
    width: int,
    height: int,
    focal_px: float | None,
    config: FitConfig,
) -> Fit:
    """Fit `model` to one observed face of a photo of `width` x `height` px.

    `focal_px` is the photo's focal length in px; None takes the default field of view of `config.focal`. The
    principal point is the photo's centre. Raises ObservationError if too few landmarks are present.
    """
    stage = fit_landmarks(model, observation, width, height, focal_px, config)
    begin, end, steps, stop = stage.outcome.start, stage.outcome.end, stage.outcome.steps, stage.outcome.stop_reason
    if config.loss == "prdl":
        refined = refine_with_parts(stage, config)
        begin, end, stop = refined.start, refined.end, refined.stop_reason
        steps += refined.steps
    return _result(stage, observation, begin, end, steps, stop)


@dataclass(frozen=True)
class LandmarkStage:
    """A face fitted to its landmarks, and the problem as it goes on to the next stage."""

    objective: Objective
    """Without parts."""
    outcome: Outcome[Evaluation]
    width: int
    """Of the photo, px."""
    height: int
    focal_px: float
    """Of the photo, px."""


def fit_landmarks(
    model: MorphableModel,
    observation: Observation,
    width: int,
    height: int,
    focal_px: float | None,
    config: FitConfig,
) -> LandmarkStage:
    """Pose in closed form, then pose, identity and expression from landmarks alone. Arguments: `fit_observation`."""
    present = int(np.isfinite(observation.landmarks.points_px).all(1).sum())
    if present < FEWEST_LANDMARKS:
        raise ObservationError(f"only {present} landmarks are usable; a pose needs at least {FEWEST_LANDMARKS}")
    geometry = face_geometry(model, observation.landmarks.layout, config.device)
    targets = make_targets(observation, config)
    if focal_px is None:
        focal_px = max(width, height) / (2.0 * math.tan(math.radians(config.focal.default_fov_deg) / 2.0))
    objective = Objective.build(geometry, targets, config, with_parts=False)
    start = start_from_pose(geometry, targets, focal_px, (width / 2.0, height / 2.0))
    outcome = minimise(
        objective.evaluate(start),
        objective.quadratic,
        lambda from_, step: objective.evaluate(_clamped(from_.at.moved(step), geometry)),
        lambda from_: _room(from_, geometry),
        LANDMARK_ITERATIONS,
    )
    return LandmarkStage(objective, outcome, width, height, focal_px)


def refine_with_parts(stage: LandmarkStage, config: FitConfig) -> Outcome[Evaluation] | AdamOutcome:
    """Go on from the landmarks with PRDL added, with the solver of `config`."""
    objective = replace(stage.objective, with_parts=True)
    geometry = objective.geometry
    start = objective.evaluate(stage.outcome.end.at)
    if config.solver == "adam":
        return minimise_adam(objective, start, config.iterations * STEPS_PER_ITERATION)
    return minimise_rough(
        start,
        objective.quadratic,
        lambda from_, step: objective.evaluate(_clamped(from_.at.moved(step), geometry)),
        lambda from_: _room(from_, geometry),
        config.iterations,
    )


@lru_cache(maxsize=4)
def face_geometry(model: MorphableModel, layout: LandmarkLayout, device: str) -> FaceGeometry:
    """The model arranged for the fit, kept for the next photo."""
    return FaceGeometry.from_model(model, layout, torch.float32, device)


def start_from_pose(
    geometry: FaceGeometry, targets: Targets, focal_px: float, principal_px: tuple[float, float]
) -> Parameters:
    """The mean head at the closed-form pose; `focal_px` and `principal_px` are the photo's."""
    crop = targets.crop
    focal_crop = focal_px * crop.scale
    x, y = crop.crop_from_px(torch.tensor(principal_px, dtype=torch.float64)).tolist()
    without_contour = targets.landmarks.weight.clone()
    without_contour[geometry.sliding] = 0.0
    enough = int((without_contour > 0).sum()) >= FEWEST_LANDMARKS
    rotation, translation = pose_from_landmarks(
        geometry.landmarks.mean.cpu(),
        targets.landmarks.px.cpu(),
        (without_contour if enough else targets.landmarks.weight).cpu(),
        focal_crop,
        (x, y),
    )
    mean = geometry.surface.mean
    return Parameters(
        coefficients=mean.new_zeros(geometry.parameter_count - POSE_SIZE),
        rotation=rotation.to(mean),
        translation=translation.to(mean),
        focal_px=focal_crop,
        principal_px=(x, y),
    )


def _room(evaluation: Evaluation, geometry: FaceGeometry) -> tuple[Tensor, Tensor]:
    """Lowest and highest step (P,) float64 that keeps the expression within its bounds."""
    count, bounds = geometry.identity_count, geometry.expression_bounds.cpu().double()
    high = torch.full((geometry.parameter_count,), torch.inf, dtype=torch.float64)
    low = -high
    expression = evaluation.at.coefficients[count:].cpu().double()
    low[count:-POSE_SIZE] = bounds[:, 0] - expression
    high[count:-POSE_SIZE] = bounds[:, 1] - expression
    return low, high


def _clamped(at: Parameters, geometry: FaceGeometry) -> Parameters:
    """Bounds again after rounding."""
    count, bounds = geometry.identity_count, geometry.expression_bounds
    coefficients = at.coefficients.clone()
    coefficients[count:] = torch.minimum(torch.maximum(coefficients[count:], bounds[:, 0]), bounds[:, 1])
    return replace(at, coefficients=coefficients)


def _result(
    stage: LandmarkStage, observation: Observation, begin: Evaluation, end: Evaluation, steps: int, stop_reason: str
) -> Fit:
    at, geometry, crop = end.at, stage.objective.geometry, stage.objective.targets.crop
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = _nearest_rotation(at.rotation.double().cpu())
    pose[:3, 3] = at.translation.double().cpu()
    principal = (stage.width / 2.0, stage.height / 2.0)
    camera = Camera(stage.width, stage.height, stage.focal_px, principal, pose)
    parts = visible_parts(geometry, at, camera)
    overlap = part_iou(parts, observation.parts)
    px = end.landmark_positions.px.double().cpu().numpy() / crop.scale + np.array([crop.left, crop.top])
    return Fit(
        identity=at.coefficients[: geometry.identity_count].double().cpu(),
        expression=at.coefficients[geometry.identity_count :].double().cpu(),
        camera=camera,
        crop=crop,
        parts=parts,
        part_iou=overlap,
        landmark_nme=landmark_nme(px, observation.landmarks.points_px),
        energy_start=begin.terms,
        energy_end=end.terms,
        iterations=steps,
        stop_reason=stop_reason,
        warnings=_doubts(observation, pose, overlap["mean"]),
    )


def _doubts(observation: Observation, pose: Tensor, overlap: float) -> tuple[str, ...]:
    """What the user should check by eye, one sentence each."""
    doubts = []
    if beyond_photo(observation.landmarks, observation.parts.shape).mean() > CUT_OFF_SHARE:
        doubts.append("the face reaches beyond the photo: what lies outside is guessed")
    away = math.degrees(math.acos(max(-1.0, min(1.0, -float(pose[2, 2])))))  # between the face's and the camera's axis
    if away > PROFILE_DEG:
        doubts.append(
            f"the face is turned {away:.0f} degrees away from the camera: landmarks of its far side are guesses, "
            "so check the overlay"
        )
    if overlap < POOR_PART_IOU:
        doubts.append(
            f"the fitted parts overlap the observed ones by only {100.0 * overlap:.0f} %: check the overlay, and "
            "whether the face is partly hidden"
        )
    return tuple(doubts)


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """Undo the drift of repeated products in single precision."""
    u, _, vh = torch.linalg.svd(matrix)
    return u @ vh


def visible_parts(geometry: FaceGeometry, at: Parameters, camera: Camera) -> np.ndarray:
    """(H, W) uint8: part labels of the fitted surface at the photo's size; background where there is no model.

    A head that fills more than `PARTS_RASTER_LIMIT` px is drawn at that size and enlarged.
    """
    positions = geometry.surface.at(at.coefficients)
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
