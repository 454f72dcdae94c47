"""Error in millimetres on heads of known shape: drawn from a model, seen by perfect or erring detectors, fitted.

Each head is photographed twice, with another pose and expression, so that two fits of one person can be compared. The
model that the heads come from need not be the one that is fitted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize
from trimesh.triangles import closest_point

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera
from fit3d.config import FitConfig
from fit3d.evaluate.plausibility import BLIND
from fit3d.labels import PRDL_PARTS
from fit3d.landmarks import LandmarkLayout
from fit3d.metrics import part_iou
from fit3d.morphable.model import MorphableModel, SurfacePoints
from fit3d.observe.base import Backend, LandmarkDetector, Landmarks, Observation
from fit3d.photo import Photo
from fit3d.render.overlay import BACKDROP
from fit3d.render.shade import over, shade
from fit3d.solve.fit import Face, fit_observations, geometry_at, visible_parts
from fit3d.solve.objective import place_landmarks
from fit3d.solve.problem import Parameters
from fit3d.solve.result import Fit
from fit3d.targets import face_crop

Seen = Literal["noise", "smooth", "clay"]
"""How landmarks err, see `disturbed` and `seen_in_clay`."""
LAYOUT: LandmarkLayout = "mediapipe478"
"""Of the landmarks that the heads are seen by."""

PHOTO_PX = 512
"""Side of the imagined photos."""
FOV_DEG = 30.0
DISTANCE_M = 0.7
"""From the camera to the face at that field of view; at another, so far that the face is as large in the photo."""
FOV_RANGE_DEG = (15.0, 60.0)
"""Of lenses that nobody tells of: from a long portrait lens to a telephone held near."""
YAW_LIMIT_DEG, PITCH_LIMIT_DEG, ROLL_LIMIT_DEG = 40.0, 15.0, 15.0
ACTIVE_EXPRESSIONS = 4
"""Expressions (a left and its right twin counting once) that a random face shows at a time."""
STRONGEST_EXPRESSION = 0.6
CORRELATION_PX = 12.0
"""Distance, crop px, at which the correlation of a smooth random shift has fallen to 1/e: the border of a lip is drawn
too high or too low as a whole, another part's otherwise."""
BATCH = 16
"""Photos between two moves of the progress bar."""
SURFACE_POINTS = 2000
"""Points spread over the true face from which distances to another model's surface are measured."""
ICP_STEPS = 30
ICP_TOLERANCE = 1e-4
"""The alignment of surfaces ends with a step shorter than this, see `Similarity.stepped`."""
CANDIDATES = 10
"""Triangles, by nearest centroid, among which the nearest surface point is sought."""

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
class KnownPhoto:
    """A photo of a known head."""

    person: int
    """Number of the head; other photos of it have the same."""
    head: KnownHead
    seen: Observation
    """Exact part labels; landmarks exact or as a detector finds them."""


@dataclass(frozen=True)
class GeometryScore:
    """How near a fit came to a known head. Distances are those of a `Ruler`."""

    neutral_mm: float
    """Mean distance without expression, after the best similarity: scale unknown, as from one photo it is."""
    neutral_p90_mm: float
    """90th percentile of the same."""
    posed_mm: float
    """Mean distance with expression, after the best similarity."""
    metric_mm: float
    """Mean distance without expression, after the best rigid motion: the head's size counts."""
    mean_head_mm: float
    """`neutral_mm` of the fitted model's mean head: what knowing nothing gives."""
    rotation_deg: float
    focal_error: float
    """Of the camera, as a share of the true focal length."""
    part_iou: float
    """Mean over parts 1-7, with the noiseless label image."""
    identity_rms: float


class Ruler(Protocol):
    """Measures how far heads of a model are from true ones."""

    @property
    def model(self) -> MorphableModel:
        """The model whose heads are measured."""
        ...

    def errors_mm(self, vertices: Tensor, true_vertices: Tensor, with_scale: bool) -> Tensor:
        """Distances (N,) of the face, mm, of a mesh (V, 3) of `model`, metres, moved onto the true one (V', 3) by the
        best rigid motion or, with `with_scale`, the best similarity."""
        ...


@dataclass(frozen=True)
class VertexRuler:
    """Between corresponding vertices: the true head is of the same model."""

    model: MorphableModel
    face: Tensor
    """(N,) int64, see `face_vertices`."""

    def errors_mm(self, vertices: Tensor, true_vertices: Tensor, with_scale: bool) -> Tensor:
        return aligned_errors_mm(vertices[self.face], true_vertices[self.face], with_scale)


@dataclass(frozen=True)
class SurfaceRuler:
    """From points of the true face to the nearest point of the surface: the true head may be of any model."""

    model: MorphableModel
    triangles: Tensor
    """(T, 3) int64: the model's outer surface."""
    true_points: SurfacePoints
    """(N, 3): spread evenly over the face of the true head's model."""
    landmarks: SurfacePoints
    """(M, 3): of the model; where the alignment starts."""
    true_landmarks: SurfacePoints
    """(M, 3): the same of the true head's model."""

    def errors_mm(self, vertices: Tensor, true_vertices: Tensor, with_scale: bool) -> Tensor:
        return surface_errors_mm(
            vertices[self.triangles],
            self.true_points.of(true_vertices),
            (self.landmarks.of(vertices), self.true_landmarks.of(true_vertices)),
            with_scale,
        )


def vertex_ruler(model: MorphableModel) -> VertexRuler:
    """Compares heads of `model` with each other."""
    return VertexRuler(model, face_vertices(model))


def surface_ruler(model: MorphableModel, truth: MorphableModel, layout: LandmarkLayout) -> SurfaceRuler:
    """Compares heads of `model` with those of `truth`; both need landmarks of `layout`."""
    theirs, ours = truth.landmarks[layout], model.landmarks[layout]
    fixed = torch.ones(len(theirs.points.weights), dtype=torch.bool)
    fixed[theirs.sliding] = False
    fixed[ours.sliding] = False
    return SurfaceRuler(
        model,
        model.annotation.triangles[model.annotation.fixed_label < 0],
        _spread_over_face(truth),
        *(SurfacePoints(each.points.vertices[fixed], each.points.weights[fixed]) for each in (ours, theirs)),
    )


def known_heads(
    model: MorphableModel, count: int, seed: int, fov_deg: tuple[float, float] = (FOV_DEG, FOV_DEG)
) -> list[KnownHead]:
    """Heads with standard normal identity, a few expressions of random strength, a random pose and, between the two
    `fov_deg`, a random field of view."""
    generator = torch.Generator().manual_seed(seed)
    lenses = torch.Generator().manual_seed(seed)
    names = model.expression_names
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if not name.startswith(("eyeLook", "neck")) and name not in ("tongueOut", "mouthClose"):
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
        fov = fov_deg[0] + (fov_deg[1] - fov_deg[0]) * float(torch.rand((), generator=lenses))
        camera = _camera(uniform(YAW_LIMIT_DEG), uniform(PITCH_LIMIT_DEG), uniform(ROLL_LIMIT_DEG), fov)
        heads.append(KnownHead(identity, expression, camera))
    return heads


def photographed_twice(
    model: MorphableModel,
    count: int,
    seed: int,
    config: FitConfig,
    fov_deg: tuple[float, float] = (FOV_DEG, FOV_DEG),
    detector: LandmarkDetector | None = None,
) -> list[KnownPhoto]:
    """Two photos each of `known_heads`, the second with the expression and camera of another draw.

    With a detector what it finds in clay, see `seen_in_clay`; photos in which it finds no face are left out.
    """
    heads = known_heads(model, 2 * count, seed, fov_deg)
    photos = []
    for index, head in enumerate(heads):
        head = replace(head, identity=heads[index % count].identity)
        exact = observe_known(model, head, LAYOUT, 0.0, np.random.default_rng(seed), config)
        seen = exact if detector is None else seen_in_clay(model, head, exact, detector)
        if seen is not None:
            photos.append(KnownPhoto(index % count, head, seen))
    return photos


def observe_known(
    model: MorphableModel,
    head: KnownHead,
    layout: LandmarkLayout,
    noise_px: float,
    generator: np.random.Generator,
    config: FitConfig,
) -> Observation:
    """What detectors would say of a known head: exact part labels, landmarks with independent Gaussian noise.

    `noise_px` is the standard deviation in crop px, in which one pixel is about a millimetre.
    """
    geometry = geometry_at(model, layout, config.device, head.identity, head.expression)
    pose = head.camera.cam_from_world.to(geometry.surface.mean)
    coefficients = torch.cat([head.identity, head.expression]).to(geometry.surface.mean)
    at = Parameters.of_one(coefficients, pose[:3, :3], pose[:3, 3], head.camera.focal_px, head.camera.principal_px)
    parts = visible_parts(geometry, coefficients, head.camera)
    px = place_landmarks(geometry, at).projected.px[0].cpu().double().numpy()
    exact = Observation(Landmarks(layout, px, TRUTH), parts, TRUTH)
    return with_noise(exact, noise_px, generator, config)


def with_noise(
    observation: Observation, noise_px: float, generator: np.random.Generator, config: FitConfig
) -> Observation:
    """Landmarks with independent Gaussian noise of standard deviation `noise_px`, crop px."""
    points = observation.landmarks.points_px
    points = points + generator.normal(size=points.shape) * noise_px * _px_per_unit(observation, config)
    return replace(observation, landmarks=replace(observation.landmarks, points_px=points))


def seen_in_clay(
    model: MorphableModel, head: KnownHead, exact: Observation, detector: LandmarkDetector
) -> Observation | None:
    """What a real landmark detector finds on the head, drawn in clay; None where it finds no face.

    Its errors are of one piece, as on photos, and it means other points of the surface than the model's landmarks do.
    Landmarks that clay does not show are left out.
    """
    camera = head.camera
    layer = shade(model.vertices(head.identity, head.expression), model.triangles[model.opaque], camera)
    picture = over(np.full((camera.height, camera.width, 3), BACKDROP, np.uint8), layer)
    faces = detector.detect(Photo.from_array(picture, "<clay>"))
    if not faces:
        return None
    points = faces[0].points_px.copy()
    points[list(BLIND[faces[0].layout])] = np.nan
    return replace(exact, landmarks=replace(faces[0], points_px=points))


def disturbed(
    observation: Observation,
    seen: Seen,
    landmark_noise_px: float,
    label_noise_px: float,
    generator: np.random.Generator,
    config: FitConfig,
) -> Observation:
    """An exact observation with errors of given standard deviations, crop px, in x and in y.

    Labels are shifted by a smooth random field, `smooth_shift`, because parsers and people draw a whole stretch of a
    border too far in or out. Landmarks err each by itself ('noise'), together with their neighbours by another such
    field ('smooth'), or not here at all, as they come from a detector ('clay').
    """
    hw, unit = observation.parts.shape, _px_per_unit(observation, config)
    length = CORRELATION_PX * unit
    shift = smooth_shift(hw, label_noise_px * unit, length, generator)
    shifted = replace(observation, parts=resampled(observation.parts, shift))
    if seen == "clay":
        return shifted
    if seen == "noise":
        return with_noise(shifted, landmark_noise_px, generator, config)
    points = observation.landmarks.points_px
    column, row = (np.clip(points[:, axis].astype(int), 0, hw[1 - axis] - 1) for axis in (0, 1))
    points = points + smooth_shift(hw, landmark_noise_px * unit, length, generator)[row, column]
    return replace(shifted, landmarks=replace(observation.landmarks, points_px=points))


def smooth_shift(
    hw: tuple[int, ...], sd_px: float, correlation_px: float, generator: np.random.Generator
) -> np.ndarray:
    """(H, W, 2) shift in x and y, px, of every pixel of an image: a Gaussian random field.

    White noise under a Gaussian of standard deviation s has the correlation exp(-d^2 / (4 s^2)), so s is half the
    distance `correlation_px` at which that is 1/e, and the variance 1 / (4 pi s^2), which is scaled to `sd_px`^2.
    """
    s = 0.5 * correlation_px
    white = generator.normal(size=(2, *hw))
    smooth = np.stack([gaussian_filter(each, s, mode="wrap") for each in white], axis=-1)
    return smooth * (sd_px * 2.0 * math.sqrt(math.pi) * s)


def resampled(parts: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """A label image (H, W) that shows at each pixel the one `shift_px` (H, W, 2) away, or the last before the edge."""
    rows, columns = np.indices(parts.shape)
    columns = np.clip(np.rint(columns + shift_px[..., 0]).astype(int), 0, parts.shape[1] - 1)
    rows = np.clip(np.rint(rows + shift_px[..., 1]).astype(int), 0, parts.shape[0] - 1)
    return parts[rows, columns]


def fit_known(
    model: MorphableModel,
    photos: Sequence[KnownPhoto],
    observations: Sequence[Observation],
    config: FitConfig,
    focal_is_known: bool = True,
) -> list[Fit]:
    """Fit what was observed of known heads."""
    faces = []
    for photo, seen in zip(photos, observations, strict=True):
        camera = photo.head.camera
        faces.append(Face(seen, camera.width, camera.height, camera.focal_px if focal_is_known else None))
    return fit_observations(model, faces, config)


def score_known(truth: MorphableModel, photo: KnownPhoto, fit: Fit, ruler: Ruler) -> GeometryScore:
    """Measure a fit of `ruler.model` to a photo of a head of `truth`."""
    head, model = photo.head, ruler.model
    neutral = neutral_vertices(model, fit)
    posed = model.vertices(fit.identity.float(), fit.expression.float())
    true_neutral = truth.vertices(head.identity, torch.zeros_like(head.expression))
    true_posed = truth.vertices(head.identity, head.expression)
    errors = ruler.errors_mm(neutral, true_neutral, with_scale=True)
    turn = fit.camera.cam_from_world[:3, :3] @ head.camera.cam_from_world[:3, :3].mT
    return GeometryScore(
        neutral_mm=float(errors.mean()),
        neutral_p90_mm=float(errors.quantile(0.9)),
        posed_mm=float(ruler.errors_mm(posed, true_posed, with_scale=True).mean()),
        metric_mm=float(ruler.errors_mm(neutral, true_neutral, with_scale=False).mean()),
        mean_head_mm=float(ruler.errors_mm(model.mean, true_neutral, with_scale=True).mean()),
        rotation_deg=math.degrees(math.acos(max(-1.0, min(1.0, (float(turn.trace()) - 1.0) / 2.0)))),
        focal_error=abs(fit.camera.focal_px / head.camera.focal_px - 1.0),
        part_iou=part_iou(fit.parts, photo.seen.parts)["mean"],
        identity_rms=float(fit.identity.square().mean().sqrt()),
    )


def neutral_vertices(model: MorphableModel, fit: Fit) -> Tensor:
    """(V, 3) metres: the fitted person without expression."""
    return model.vertices(fit.identity.float(), torch.zeros(len(fit.expression)))


def fits_apart_mm(model: MorphableModel, photos: Sequence[KnownPhoto], fits: Sequence[Fit]) -> list[float]:
    """How far two photos of one person give two people, for each person with two: mean distance between corresponding
    vertices of the faces without expression, after the best similarity."""
    face, people, apart = face_vertices(model), dict[int, Tensor](), []
    for photo, fit in zip(photos, fits, strict=True):
        shape = neutral_vertices(model, fit)[face]
        first = people.setdefault(photo.person, shape)
        if first is not shape:
            apart.append(float(aligned_errors_mm(shape, first, with_scale=True).mean()))
    return apart


def average_geometry(scores: Sequence[GeometryScore]) -> GeometryScore:
    """Each figure's mean over the photos."""
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

    With `with_scale` by the best similarity.
    """
    motion = Similarity.best(points.double(), truth.double(), with_scale)
    return (motion.of(points.double()) - truth.double()).norm(dim=1) * 1000.0


def surface_errors_mm(corners: Tensor, truth: Tensor, start: tuple[Tensor, Tensor], with_scale: bool) -> Tensor:
    """Distances (N,), mm, from true points (N, 3) to the surface of triangles (T, 3, 3), metres, moved onto them.

    The motion minimises the squared distances by Gauss-Newton steps, for which the surface is flat around the point
    nearest to each true point (iterated closest point with planes, Chen and Medioni 1992). It starts from the motion of
    a few points (M, 3) onto the same ones of the truth, `start`. The surface moves, not the true points: the reverse
    would shrink them onto it.
    """
    triangles, target = corners.double().numpy(), truth.double()
    tree = cKDTree(triangles.mean(1))
    motion = Similarity.best(start[0].double(), start[1].double(), with_scale)
    for _ in range(ICP_STEPS):
        nearest, normal = _nearest_on_surface(motion.back(target), triangles, tree)
        motion, step = motion.stepped(nearest, normal, target, with_scale)
        if step < ICP_TOLERANCE:
            break
    nearest, _ = _nearest_on_surface(motion.back(target), triangles, tree)
    return (motion.of(nearest) - target).norm(dim=1) * 1000.0


def _nearest_on_surface(points: Tensor, triangles: np.ndarray, tree: cKDTree) -> tuple[Tensor, Tensor]:
    """For each of points (N, 3) the nearest point (N, 3) of triangles (T, 3, 3), whose centroids are in `tree`, and the
    unit normal (N, 3) there."""
    _, candidates = tree.query(points.numpy(), k=min(CANDIDATES, len(triangles)))
    count = candidates.shape[1]
    near = closest_point(triangles[candidates.reshape(-1)], np.repeat(points.numpy(), count, axis=0))
    near = torch.from_numpy(near).view(-1, count, 3)
    best = (near - points[:, None]).norm(dim=2).argmin(1)
    rows = torch.arange(len(points))
    a, b, c = torch.from_numpy(triangles)[torch.from_numpy(candidates)[rows, best]].unbind(1)
    return near[rows, best], normalize(torch.linalg.cross(b - a, c - a), dim=1)


@dataclass(frozen=True)
class Similarity:
    """`scale rotation x + shift`."""

    scale: float
    rotation: Tensor
    """(3, 3) float64."""
    shift: Tensor
    """(3,) float64."""

    @classmethod
    def best(cls, source: Tensor, target: Tensor, with_scale: bool) -> Similarity:
        """Of least squares, from points (N, 3) to points (N, 3) (Umeyama 1991); with scale 1 unless `with_scale`."""
        from_middle, to_middle = source.mean(0), target.mean(0)
        source, target = source - from_middle, target - to_middle
        u, singular, vh = torch.linalg.svd(target.mT @ source)
        sign = torch.ones(3, dtype=torch.float64)
        sign[2] = torch.sign(torch.linalg.det(u @ vh))
        rotation = u @ torch.diag(sign) @ vh
        scale = float((singular * sign).sum() / source.square().sum()) if with_scale else 1.0
        return cls(scale, rotation, to_middle - scale * rotation @ from_middle)

    def stepped(self, points: Tensor, normals: Tensor, target: Tensor, with_scale: bool) -> tuple[Similarity, float]:
        """The motion that brings the planes through points (N, 3) with unit normals (N, 3) nearer to points (N, 3), and
        the length of the step to it: the largest of its turn in radians, its shift in metres and its growth."""
        here, normal = self.of(points), normals @ self.rotation.mT
        middle = here.mean(0)
        arm = here - middle
        growth = (arm * normal).sum(1, keepdim=True) if with_scale else arm.new_zeros(len(arm), 1)
        rows = torch.cat([torch.linalg.cross(arm, normal), normal, growth], 1)
        gap = ((target - here) * normal).sum(1)
        step = torch.linalg.lstsq(rows, gap[:, None], driver="gelsd").solution.squeeze(1)
        (x, y, z), scale = step[:3].tolist(), math.exp(float(step[6]))
        turn = torch.linalg.matrix_exp(step.new_tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
        shift = scale * turn @ (self.shift - middle) + middle + step[3:6]
        return Similarity(scale * self.scale, turn @ self.rotation, shift), float(step.abs().max())

    def of(self, points: Tensor) -> Tensor:
        """(N, 3) moved."""
        return self.scale * points @ self.rotation.mT + self.shift

    def back(self, points: Tensor) -> Tensor:
        """(N, 3) moved by the inverse."""
        return (points - self.shift) @ self.rotation / self.scale


def _spread_over_face(model: MorphableModel) -> SurfacePoints:
    """(SURFACE_POINTS, 3): points of the face, no openings, evenly random over the area of the mean head."""
    annotation = model.annotation
    is_face = torch.zeros(len(model.mean), dtype=torch.bool)
    is_face[face_vertices(model)] = True
    triangles = annotation.triangles[annotation.fixed_label < 0]
    triangles = triangles[is_face[triangles].all(1)]
    a, b, c = model.mean[triangles].double().unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(area, SURFACE_POINTS, replacement=True, generator=generator)
    u, v = torch.rand(2, SURFACE_POINTS, generator=generator)
    u, v = torch.where(u + v > 1.0, 1.0 - u, u), torch.where(u + v > 1.0, 1.0 - v, v)
    return SurfacePoints(triangles[chosen], torch.stack([1.0 - u - v, u, v], 1))


def _px_per_unit(observation: Observation, config: FitConfig) -> float:
    """Photo px per crop px of the configuration."""
    return config.crop.unit_px / face_crop(observation, config).scale


def _camera(yaw_deg: float, pitch_deg: float, roll_deg: float, fov_deg: float) -> Camera:
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
    half, usual = (math.tan(math.radians(angle) / 2.0) for angle in (fov_deg, FOV_DEG))
    pose[:3, 3] = torch.tensor([0.0, 0.0, DISTANCE_M * usual / half], dtype=torch.float64) - rotation @ middle
    focal = 0.5 * PHOTO_PX / half
    return Camera(PHOTO_PX, PHOTO_PX, focal, (PHOTO_PX / 2.0, PHOTO_PX / 2.0), pose)
