"""PRDL and its rivals on the same photos: overlap, plausibility, work, and from how far away each finds the face."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.config import FitConfig, Loss, Statistic
from fit3d.errors import PhotoError
from fit3d.evaluate.geometry import aligned_errors_mm, disturbed, face_vertices, known_heads, observe_known
from fit3d.evaluate.label_files import LabelledPhoto
from fit3d.evaluate.parts import Observed, look_labelled
from fit3d.evaluate.vertex_samples import VertexObjective
from fit3d.metrics import part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.solve.fit import Face, FaceBatch, fit_landmarks, part_centres, prepare, refine_with_parts, results
from fit3d.solve.problem import Parameters
from fit3d.solve.result import Fit

PART_LOSSES: tuple[Loss, ...] = ("prdl", "prdl+icp", "icp", "chamfer", "density-chamfer", "silhouette")
"""The losses that look at parts."""

FAILED_IOU = 0.5
"""A fit whose mean Part IoU is below this has failed."""

TURN_LIMIT_DEG, SHIFT_LIMIT, SCALE_LIMIT = 40.0, 0.3, 1.5
"""How far starts are disturbed: yaw, pitch and roll; share of the crop's side; factor."""
RECOVERED_SHARE = 0.9
"""A fit has recovered that reaches this share of the mean Part IoU that its loss reaches undisturbed."""

WEIGHTS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Energies of a squared crop px that `--tune` tries."""
IDENTITY_RMS_LIMIT = 0.7
"""Mean identity RMS up to which a weight is eligible by photos."""

LAYOUT: Literal["mediapipe478"] = "mediapipe478"
"""Landmarks of the known heads."""
HEAD_NOISE_PX, HEAD_LABEL_NOISE_PX = 1.5, 0.75
"""Standard deviations, crop px, by which landmarks and labels of known heads are off, see `geometry.disturbed`. Labels
so disturbed overlap the true ones by 83 %, about as the embedded parser's overlap people's."""


@dataclass(frozen=True)
class LabelledFace:
    """The labelled face of a photo as it is fitted, and what people drew."""

    photo: str
    face: Face
    truth: np.ndarray
    """(H, W) uint8: part labels drawn by people."""

    def without_landmarks(self) -> LabelledFace:
        """The same to be fitted from its labels alone."""
        return replace(self, face=replace(self.face, observation=_without_landmarks(self.face.observation)))


@dataclass(frozen=True)
class SeenHead:
    """A head of known shape as noisy detectors see it."""

    identity: Tensor
    """(K,) standard deviations."""
    face: Face

    def without_landmarks(self) -> SeenHead:
        """The same to be fitted from its labels alone."""
        return replace(self, face=replace(self.face, observation=_without_landmarks(self.face.observation)))


@dataclass(frozen=True)
class PhotoScore:
    """One fit of one photo."""

    photo: str
    part_iou: dict[str, float]
    """With the people's labels, by part name; 'mean' over parts 1-7."""
    identity_rms: float
    """Standard deviations."""
    steps: int
    """Accepted, with parts."""
    evaluations: int
    """Of the energy with parts, the first not counted."""
    fit_s: float


@dataclass(frozen=True)
class LossScore:
    """Fits of all photos, and of known heads where there are any, with one configuration."""

    photos: tuple[PhotoScore, ...]
    neutral_mm: tuple[float, ...]
    """Of each known head: mean distance of the face's vertices without expression, after the best similarity."""
    failures: dict[str, str]
    """By photo: why it could not be fitted, or how little its parts overlap, see FAILED_IOU. Fits that raised an error
    are in no mean."""

    @property
    def part_iou(self) -> dict[str, float]:
        """Means over the photos, each part over those where people drew it."""
        seen: dict[str, list[float]] = {}
        for score in self.photos:
            for name, value in score.part_iou.items():
                if math.isfinite(value):
                    seen.setdefault(name, []).append(value)
        return {name: statistics.fmean(values) for name, values in seen.items()}

    def mean(self, figure: Callable[[PhotoScore], float]) -> float:
        """Over the photos; NaN where none was fitted."""
        return statistics.fmean(map(figure, self.photos)) if self.photos else math.nan

    def summary(self) -> dict[str, Any]:
        """What the tables show."""
        return {
            "part_iou": self.part_iou,
            "identity_rms": self.mean(lambda score: score.identity_rms),
            "identity_rms_max": max((score.identity_rms for score in self.photos), default=math.nan),
            "steps": self.mean(lambda score: score.steps),
            "evaluations": self.mean(lambda score: score.evaluations),
            "fit_s": statistics.median(score.fit_s for score in self.photos) if self.photos else math.nan,
            "neutral_mm": statistics.fmean(self.neutral_mm) if self.neutral_mm else None,
            "failures": self.failures,
        }


def see_labelled(pair: LabelledPhoto, *, observed: Observed, landmarks: str, parser: str) -> LabelledFace:
    """Look at a labelled photo once, for all fits of it."""
    sighting, truth = look_labelled(pair, observed=observed, landmarks=landmarks, parser=parser)
    photo = sighting.photo
    face = Face(sighting.observations[0], photo.width, photo.height, photo.focal_px)
    return LabelledFace(pair.photo.name, face, truth)


def see_heads(model: MorphableModel, count: int, seed: int, config: FitConfig) -> list[SeenHead]:
    """Heads drawn from the model, with landmarks and labels disturbed by smooth fields."""
    generator = np.random.default_rng(seed)
    heads = []
    for head in known_heads(model, count, seed):
        exact = observe_known(model, head, LAYOUT, 0.0, generator, config)
        seen = disturbed(exact, "smooth", HEAD_NOISE_PX, HEAD_LABEL_NOISE_PX, generator, config)
        heads.append(SeenHead(head.identity, Face(seen, head.camera.width, head.camera.height, head.camera.focal_px)))
    return heads


@dataclass(frozen=True)
class Variant:
    """One way to fit that is compared with others."""

    config: FitConfig
    vertices: tuple[bool, bool] | None = None
    """`by_area` and `seen_only` of `VertexObjective`; None for pixels."""

    def prepare(self, model: MorphableModel, face: Face) -> FaceBatch:
        """The problem of one face."""
        batch = prepare(model, [face], self.config)
        if self.vertices is None:
            return batch
        by_area, seen_only = self.vertices
        return replace(batch, objective=VertexObjective.like(batch.objective, by_area=by_area, seen_only=seen_only))


def score_loss(
    model: MorphableModel, faces: Sequence[LabelledFace], heads: Sequence[SeenHead], variant: Variant
) -> LossScore:
    """Fit each photo and each known head by itself."""
    scores, failures = [], {}
    for labelled in faces:
        try:
            score = _score_photo(model, labelled, variant)
        except PhotoError as error:
            failures[labelled.photo] = str(error)
            continue
        scores.append(score)
        if not score.part_iou["mean"] >= FAILED_IOU:
            failures[labelled.photo] = f"mean Part IoU {100.0 * score.part_iou['mean']:.0f} %"
    chosen = face_vertices(model)
    errors = []
    for number, head in enumerate(heads, 1):
        try:
            fit, _, _ = _fit(variant.prepare(model, head.face))
        except PhotoError as error:
            failures[f"known head {number}"] = str(error)
            continue
        expressionless = torch.zeros(len(model.expression))
        found, truth = (model.vertices(a, expressionless)[chosen] for a in (fit.identity.float(), head.identity))
        errors.append(float(aligned_errors_mm(found, truth, with_scale=True).mean()))
    return LossScore(tuple(scores), tuple(errors), failures)


def _score_photo(model: MorphableModel, labelled: LabelledFace, variant: Variant) -> PhotoScore:
    start = time.perf_counter()
    fit, steps, evaluations = _fit(variant.prepare(model, labelled.face))
    fit_s = time.perf_counter() - start
    return PhotoScore(
        photo=labelled.photo,
        part_iou=part_iou(fit.parts, labelled.truth),
        identity_rms=float(fit.identity.square().mean().sqrt()),
        steps=steps,
        evaluations=evaluations,
        fit_s=fit_s,
    )


def _fit(batch: FaceBatch) -> tuple[Fit, int, int]:
    """The fit of a batch of one, with the steps and evaluations of its last stage."""
    outcomes = [fit_landmarks(batch)]
    if batch.objective.part_loss is not None:
        outcomes.append(refine_with_parts(batch, outcomes[0].at))
    (fit,) = results(batch, outcomes)
    return fit, int(outcomes[-1].steps), int(outcomes[-1].evaluations)


# From how far away the face is found

Kind = Literal["yaw", "pitch", "roll", "shift", "scale", "together"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Disturbance:
    """How a start differs from the reference pose."""

    kind: Kind | None
    """None for the reference itself."""
    level: float
    """Share of the limit; of 'together', whose members are drawn one by one, 1."""
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Pitch, yaw and roll as a rotation vector about the head's axes x (to its left), y (up) and z (forwards)."""
    shift: tuple[float, float] = (0.0, 0.0)
    """To the right and down, shares of the crop's side."""
    scale: float = 1.0
    """Size in the image over that of the reference."""


def disturbances(starts: int, generator: np.random.Generator) -> list[Disturbance]:
    """`starts` of each kind: at even levels up to the limit, in random directions; 'together' all drawn evenly within
    the limits, the scale by its logarithm."""

    def sign() -> float:
        return float(generator.choice((-1.0, 1.0)))

    def shift_of(length: float) -> tuple[float, float]:
        angle = generator.uniform(0.0, 2.0 * math.pi)
        return length * SHIFT_LIMIT * math.cos(angle), length * SHIFT_LIMIT * math.sin(angle)

    drawn = []
    for level in ((index + 1) / starts for index in range(starts)):
        for axis, kind in ((1, "yaw"), (0, "pitch"), (2, "roll")):
            turn = [0.0, 0.0, 0.0]
            turn[axis] = sign() * level * TURN_LIMIT_DEG
            drawn.append(Disturbance(kind, level, turn_deg=(turn[0], turn[1], turn[2])))  # type: ignore[arg-type]
        drawn.append(Disturbance("shift", level, shift=shift_of(level)))
        drawn.append(Disturbance("scale", level, scale=SCALE_LIMIT ** (sign() * level)))
        pitch, yaw, roll = (float(v) for v in generator.uniform(-TURN_LIMIT_DEG, TURN_LIMIT_DEG, 3))
        shift, scale = shift_of(math.sqrt(generator.uniform())), SCALE_LIMIT ** generator.uniform(-1.0, 1.0)
        drawn.append(Disturbance("together", 1.0, (pitch, yaw, roll), shift, scale))
    return sorted(drawn, key=lambda each: KINDS.index(each.kind or "together"))


def disturb(at: Parameters, disturbance: Disturbance, middle: Tensor, side_px: float) -> Parameters:
    """One face moved: turned about the point `middle` (3,) of the head, metres, which is shifted in a crop of
    `side_px` and comes nearer or goes further away along its ray."""
    turn = torch.tensor(disturbance.turn_deg, dtype=torch.float64).deg2rad()
    x, y, z = turn.tolist()
    skew = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    before = at.rotation[0].cpu().double()
    rotation = before @ torch.linalg.matrix_exp(skew)
    place = (before @ middle + at.translation[0].cpu().double()) / disturbance.scale
    px = torch.tensor([*disturbance.shift, 0.0], dtype=torch.float64) * side_px
    place = place + px * place[2] / float(at.focal_px[0])
    translation = place - rotation @ middle
    return replace(at, rotation=rotation[None].to(at.rotation), translation=translation[None].to(at.translation))


@dataclass(frozen=True)
class Attempt:
    """A fit from a disturbed start, from segmentation alone."""

    photo: str
    disturbance: Disturbance
    part_iou: float
    """Mean over parts 1-7, with the people's labels."""
    recovered: bool


@dataclass(frozen=True)
class Basin:
    """How often fits of one loss recover from disturbed starts."""

    undisturbed_iou: float
    """Mean over the photos, from the reference pose."""
    attempts: tuple[Attempt, ...]

    def share(self, kind: Kind | None = None, furthest: bool = False) -> float:
        """Of the attempts of one kind, or of all, those that recovered; `furthest`: of those at the limit."""
        found = [
            each.recovered
            for each in self.attempts
            if kind in (None, each.disturbance.kind) and (each.disturbance.level == 1.0 or not furthest)
        ]
        return statistics.fmean(found) if found else math.nan

    @property
    def mean_iou(self) -> float:
        """Over all attempts: a loss that reaches little recovers it more easily."""
        return statistics.fmean(each.part_iou for each in self.attempts)

    def summary(self) -> dict[str, Any]:
        """What the table shows."""
        return {
            "undisturbed_iou": self.undisturbed_iou,
            "mean_iou": self.mean_iou,
            "starts": len(self.attempts),
            "recovered": self.share(),
            "by_kind": {kind: {"all": self.share(kind), "furthest": self.share(kind, True)} for kind in KINDS},
        }


def reference_poses(
    model: MorphableModel, faces: Sequence[LabelledFace], config: FitConfig
) -> list[tuple[Tensor, Tensor]]:
    """Rotation (3, 3) and translation (3,), metres, of each face by its landmarks alone, at the assumed focal length,
    which is where the fits start."""
    held = replace(config, loss="landmarks", focal=replace(config.focal, refine_sd=0.0))
    batch = prepare(model, [labelled.face for labelled in faces], held)
    at = fit_landmarks(batch).at
    return list(zip(at.rotation, at.translation, strict=True))


def measure_basin(
    model: MorphableModel,
    faces: Sequence[LabelledFace],
    poses: Sequence[tuple[Tensor, Tensor]],
    config: FitConfig,
    starts: int,
    seed: int,
) -> Basin:
    """Fit each photo from segmentation alone, from the mean shape at its reference pose, and from there disturbed.

    The disturbances of a photo are the same for every loss. All fits of a photo are one batch.
    """
    undisturbed, attempts = [], []
    for index, (labelled, pose) in enumerate(zip(faces, poses, strict=True)):
        drawn = disturbances(starts, np.random.default_rng([seed, index]))
        reached, *others = _fit_from(
            model, labelled.without_landmarks(), pose, config, [Disturbance(None, 0.0), *drawn]
        )
        undisturbed.append(reached)
        for disturbance, iou in zip(drawn, others, strict=True):
            attempts.append(Attempt(labelled.photo, disturbance, iou, iou >= RECOVERED_SHARE * reached))
    return Basin(statistics.fmean(undisturbed), tuple(attempts))


def _fit_from(
    model: MorphableModel,
    labelled: LabelledFace,
    pose: tuple[Tensor, Tensor],
    config: FitConfig,
    disturbances: Sequence[Disturbance],
) -> list[float]:
    """Mean Part IoU reached from each start."""
    one, face, count = prepare(model, [labelled.face], config), labelled.face, len(disturbances)
    objective = one.objective
    crop, geometry = objective.targets.crops[0], objective.geometry
    middle = part_centres(geometry)[1:].nanmean(0)
    pose_4x4 = torch.eye(4, dtype=torch.float64)
    camera = Camera(face.width, face.height, one.focal_px[0], (face.width / 2.0, face.height / 2.0), pose_4x4)
    within = camera.in_crop(crop)
    flat = geometry.surface.mean.new_zeros(geometry.surface.basis.shape[-1])
    reference = Parameters.of_one(flat, *pose, within.focal_px, within.principal_px)
    start = Parameters.stack([disturb(reference, each, middle, crop.resolution) for each in disturbances])
    same = objective.take(torch.zeros(count, dtype=torch.int64))
    batch = FaceBatch((face,) * count, one.focal_px * count, same, start)
    fits = results(batch, [refine_with_parts(batch, start)])
    return [part_iou(fit.parts, labelled.truth)["mean"] for fit in fits]


# What matters within PRDL


@dataclass(frozen=True)
class Ablation:
    """One choice within PRDL."""

    group: str
    value: str
    variant: Variant


def ablations(config: FitConfig) -> list[Ablation]:
    """One thing changed at a time; the rest is as in `config`, which must be of the loss 'prdl'."""
    every: tuple[Statistic, ...] = get_args(Statistic)
    subsets = [subset for size in (1, 2, 3) for subset in itertools.combinations(every, size)]
    grids = [count for count in (8, 16, 32, 56, 112, 224) if count <= config.crop.resolution]
    samples: list[tuple[str, tuple[bool, bool] | None]] = [
        ("pixels of the raster", None),
        ("vertices", (False, False)),
        ("vertices, visible", (False, True)),
        ("vertices by area", (True, False)),
        ("vertices by area, visible", (True, True)),
    ]
    return [
        *(
            Ablation(
                "statistics", ", ".join(chosen), Variant(replace(config, prdl=replace(config.prdl, statistics=chosen)))
            )
            for chosen in subsets
        ),
        *(Ablation("anchors", f"{count} x {count}", Variant(replace(config, anchors=count))) for count in grids),
        *(
            Ablation(
                "extent", f"{100.0 * extent:.0f} %", Variant(replace(config, prdl=replace(config.prdl, extent=extent)))
            )
            for extent in (1.0, 0.6, 0.4)
        ),
        *(
            Ablation("brow cut", name, Variant(replace(config, parts=replace(config.parts, forehead=forehead))))
            for name, forehead in (("cut", False), ("whole forehead", True))
        ),
        *(
            Ablation("hair", name, Variant(replace(config, parts=replace(config.parts, under_hair=counts))))
            for name, counts in (("says nothing", False), ("not skin", True))
        ),
        *(Ablation("model's points", name, Variant(config, vertices)) for name, vertices in samples),
    ]


# Which weight each loss deserves


def with_weight(config: FitConfig, weight: float) -> FitConfig:
    """The configuration with another energy of a squared crop px of its loss; of 'prdl+icp' of the outlines, PRDL
    keeping its ratio to them."""
    loss = config.loss
    if loss == "prdl":
        return replace(config, prdl=replace(config.prdl, weight=weight))
    if loss == "prdl+icp":
        both = config.combined
        return replace(config, combined=replace(both, prdl=weight * both.prdl / both.icp, icp=weight))
    field = loss.replace("-", "_")
    assert field in {each.name for each in fields(config.rivals)}
    return replace(config, rivals=replace(config.rivals, **{field: weight}))


@dataclass(frozen=True)
class Tuning:
    """One loss with several weights, and which of them are chosen for photos and heads that had no say."""

    scores: dict[float, LossScore]
    """By weight."""

    @property
    def photos(self) -> list[str]:
        """Those that were fitted with every weight."""
        names = [[photo.photo for photo in score.photos] for score in self.scores.values()]
        return [name for name in names[0] if all(name in others for others in names)]

    @property
    def by_photos(self) -> list[float]:
        """The weight that all photos but one choose, for each photo; of a single photo its own."""
        return [self.choose_by_photos(name if len(self.photos) > 1 else None) for name in self.photos]

    def choose_by_photos(self, left_out: str | None = None) -> float:
        """Highest mean Part IoU among weights whose mean identity RMS is at most IDENTITY_RMS_LIMIT, and where there is
        none the lowest identity RMS; over the photos but one."""

        def over_others(figure: Callable[[PhotoScore], float], weight: float) -> float:
            names = [name for name in self.photos if name != left_out]
            return statistics.fmean(figure(self.photo(weight, name)) for name in names)

        rms = {weight: over_others(lambda score: score.identity_rms, weight) for weight in self.scores}
        eligible = [weight for weight in rms if rms[weight] <= IDENTITY_RMS_LIMIT]
        if not eligible:
            return min(rms, key=rms.__getitem__)
        return max(eligible, key=lambda weight: over_others(lambda score: score.part_iou["mean"], weight))

    def photo(self, weight: float, name: str) -> PhotoScore:
        """The fit of one photo with one weight."""
        return next(score for score in self.scores[weight].photos if score.photo == name)

    @property
    def by_heads(self) -> list[float]:
        """The weight that all heads but one choose, for each head; of a single head its own."""
        count = len(next(iter(self.scores.values())).neutral_mm)
        return [self.choose_by_heads(head if count > 1 else None) for head in range(count)]

    def choose_by_heads(self, left_out: int | None = None) -> float:
        """Lowest mean error of the neutral shape, over the heads but number `left_out`."""
        errors = {
            weight: statistics.fmean(mm for index, mm in enumerate(score.neutral_mm) if index != left_out)
            for weight, score in self.scores.items()
        }
        return min(errors, key=errors.__getitem__)

    def summary(self) -> dict[str, Any]:
        """What the table shows; held-out figures are those of each photo or head with the weight the others chose."""
        photos = [self.photo(weight, name) for name, weight in zip(self.photos, self.by_photos, strict=True)]
        heads = [self.scores[weight].neutral_mm[index] for index, weight in enumerate(self.by_heads)]
        return {
            "weights": {f"{weight:g}": score.summary() for weight, score in self.scores.items()},
            "by_photos": _counts(self.by_photos),
            "held_out_iou": statistics.fmean(score.part_iou["mean"] for score in photos) if photos else None,
            "held_out_identity_rms": statistics.fmean(score.identity_rms for score in photos) if photos else None,
            "by_heads": _counts(self.by_heads),
            "held_out_mm": statistics.fmean(heads) if heads else None,
        }


def _counts(weights: Sequence[float]) -> Mapping[str, int]:
    """How often each weight is chosen, the most frequent first."""
    counts = {f"{weight:g}": weights.count(weight) for weight in sorted(set(weights))}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _without_landmarks(observation: Observation) -> Observation:
    points = np.full_like(observation.landmarks.points_px, np.nan)
    return replace(observation, landmarks=replace(observation.landmarks, points_px=points))
