"""Error in millimetres on heads of known shape: drawn from the model, seen by perfect or noisy detectors, fitted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera
from fit3d.config import FitConfig
from fit3d.labels import PRDL_PARTS
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.fit import face_geometry, fit_observation, visible_parts
from fit3d.solve.objective import Objective
from fit3d.solve.problem import Parameters, project
from fit3d.targets import make_targets, unit_px

PHOTO_PX = 512
"""Side of the imagined photos."""
FOV_DEG = 30.0
DISTANCE_M = 0.7
YAW_LIMIT_DEG, PITCH_LIMIT_DEG, ROLL_LIMIT_DEG = 40.0, 15.0, 15.0
ACTIVE_EXPRESSIONS = 4
"""Expressions (a left and its right twin counting once) that a random face shows at a time."""
STRONGEST_EXPRESSION = 0.6

TRUTH = Backend("known head", "1")


@dataclass(frozen=True)
class KnownHead:
    """A head whose shape is known, before a known camera."""

    identity: Tensor
    """(K,) standard deviations."""
    expression: Tensor
    """(L,)"""
    camera: Camera


@dataclass(frozen=True)
class GeometryScore:
    """How near a fit came to a known head. Distances are between corresponding vertices of the face."""

    neutral_mm: float
    """Mean distance without expression, after the best similarity: scale unknown, as from one photo it is."""
    neutral_p90_mm: float
    """90th percentile of the same."""
    posed_mm: float
    """Mean distance with expression, after the best similarity."""
    metric_mm: float
    """Mean distance without expression, after the best rigid motion: the head's size counts."""
    mean_head_mm: float
    """`neutral_mm` of the model's mean head: what knowing nothing gives."""
    rotation_deg: float
    part_iou: float
    """Mean over parts 1-7, with the noiseless label image."""
    identity_rms: float


def known_heads(model: MorphableModel, count: int, seed: int) -> list[KnownHead]:
    """Heads with standard normal identity, a few expressions of random strength, and a random pose."""
    generator = torch.Generator().manual_seed(seed)
    names = model.expression_names
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if not name.startswith("eyeLook") and name not in ("tongueOut", "mouthClose"):
            groups.setdefault(name.removesuffix("Left").removesuffix("Right"), []).append(index)
    kinds = list(groups.values())

    def uniform(limit: float) -> float:
        return limit * (2.0 * float(torch.rand((), generator=generator)) - 1.0)

    heads = []
    for _ in range(count):
        identity = torch.randn(len(model.identity), generator=generator)
        expression = torch.zeros(len(names))
        for kind in torch.randperm(len(kinds), generator=generator)[:ACTIVE_EXPRESSIONS].tolist():
            strength = STRONGEST_EXPRESSION * float(torch.rand((), generator=generator))
            expression[kinds[kind]] = strength * model.expression_bounds[kinds[kind], 1]
        camera = _camera(uniform(YAW_LIMIT_DEG), uniform(PITCH_LIMIT_DEG), uniform(ROLL_LIMIT_DEG))
        heads.append(KnownHead(identity, expression, camera))
    return heads


def observe_known(
    model: MorphableModel,
    head: KnownHead,
    layout: LandmarkLayout,
    noise_px: float,
    generator: np.random.Generator,
    config: FitConfig,
) -> Observation:
    """What detectors would say of a known head: exact part labels, landmarks with Gaussian noise.

    `noise_px` is the standard deviation in crop px, in which one pixel is about a millimetre.
    """
    geometry = face_geometry(model, layout, config.device)
    pose = head.camera.cam_from_world.to(geometry.surface.mean)
    coefficients = torch.cat([head.identity, head.expression]).to(geometry.surface.mean)
    at = Parameters(coefficients, pose[:3, :3], pose[:3, 3], head.camera.focal_px, head.camera.principal_px)
    parts = visible_parts(geometry, at, head.camera)
    fixed = project(geometry.landmarks.at(coefficients), at).px.double().cpu().numpy()
    placed = Observation(Landmarks(layout, fixed, TRUTH), parts, TRUTH)
    targets = make_targets(placed, config)
    # contour landmarks slide to where they lie under this pose
    points = Objective.build(geometry, targets, config, with_parts=False).landmark_points(at)
    px = project(points.at(coefficients), at).px.double().cpu().numpy()
    px = px + generator.normal(size=px.shape) * noise_px * unit_px(config) / targets.crop.scale
    return replace(placed, landmarks=Landmarks(layout, px, TRUTH))


def score_known(model: MorphableModel, head: KnownHead, observation: Observation, config: FitConfig) -> GeometryScore:
    """Fit an observed known head, the focal length being known, and measure."""
    camera = head.camera
    fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, config)
    silent = torch.zeros_like(head.expression)
    face = face_vertices(model)
    truth, posed = model.vertices(head.identity, silent)[face], model.vertices(head.identity, head.expression)[face]
    neutral = model.vertices(fit.identity.float(), silent)[face]
    errors = aligned_errors_mm(neutral, truth, with_scale=True)
    turn = fit.camera.cam_from_world[:3, :3] @ camera.cam_from_world[:3, :3].mT
    return GeometryScore(
        neutral_mm=float(errors.mean()),
        neutral_p90_mm=float(errors.quantile(0.9)),
        posed_mm=float(
            aligned_errors_mm(
                model.vertices(fit.identity.float(), fit.expression.float())[face], posed, with_scale=True
            ).mean()
        ),
        metric_mm=float(aligned_errors_mm(neutral, truth, with_scale=False).mean()),
        mean_head_mm=float(aligned_errors_mm(model.mean[face], truth, with_scale=True).mean()),
        rotation_deg=math.degrees(math.acos(max(-1.0, min(1.0, (float(turn.trace()) - 1.0) / 2.0)))),
        part_iou=fit.part_iou["mean"],
        identity_rms=float(fit.identity.square().mean().sqrt()),
    )


def average_geometry(scores: Sequence[GeometryScore]) -> GeometryScore:
    """Each figure's mean over the heads."""
    return GeometryScore(
        **{name: statistics.fmean(getattr(score, name) for score in scores) for name in vars(scores[0])}
    )


def face_vertices(model: MorphableModel) -> Tensor:
    """(N,) int64: vertices of the outer surface that belong to parts 1 to 8: no ears, neck, scalp or mouth."""
    annotation = model.annotation
    label = annotation.field_labels[annotation.fields.argmax(0)]
    used = torch.zeros(len(model.mean), dtype=torch.bool)
    used[annotation.triangles.unique()] = True
    return torch.nonzero(used & torch.isin(label, torch.tensor(PRDL_PARTS))).squeeze(1)


def aligned_errors_mm(points: Tensor, truth: Tensor, with_scale: bool) -> Tensor:
    """Distances (N,), mm, from `truth` (N, 3) to `points` (N, 3), metres, moved onto it by the best rigid motion.

    With `with_scale` by the best similarity (Umeyama 1991, least squares over all points).
    """
    source, target = points.double(), truth.double()
    source, target = source - source.mean(0), target - target.mean(0)
    u, singular, vh = torch.linalg.svd(target.mT @ source)
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.sign(torch.linalg.det(u @ vh))
    rotation = u @ torch.diag(sign) @ vh
    scale = (singular * sign).sum() / source.square().sum() if with_scale else 1.0
    return (scale * source @ rotation.mT - target).norm(dim=1) * 1000.0


def _camera(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Camera:
    """A camera before the face, which is turned by these angles and lies in the middle of the photo."""
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    turns = []
    for angle, (first, second) in ((yaw, (2, 0)), (pitch, (1, 2)), (roll, (0, 1))):
        turn = torch.eye(3, dtype=torch.float64)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        turns.append(turn)
    about_y, about_x, about_z = turns
    rotation = about_z @ torch.tensor(CAM_FROM_FRONTAL_WORLD, dtype=torch.float64) @ about_x @ about_y
    middle = torch.tensor([0.0, -0.03, 0.0], dtype=torch.float64)  # between the eyes and the mouth
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.tensor([0.0, 0.0, DISTANCE_M], dtype=torch.float64) - rotation @ middle
    focal = 0.5 * PHOTO_PX / math.tan(math.radians(FOV_DEG) / 2.0)
    return Camera(PHOTO_PX, PHOTO_PX, focal, (PHOTO_PX / 2.0, PHOTO_PX / 2.0), pose)
