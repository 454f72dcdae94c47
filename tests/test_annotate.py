"""Annotating a model from another one, by registration and by votes, and the annotation of ICT-FaceKit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.annotate.agreement import compare
from fit3d.annotate.annotate import annotate, annotate_alone, unannotated
from fit3d.annotate.file import as_json, write_annotation
from fit3d.annotate.from_renders import annotate_from_renders, first_hits
from fit3d.annotate.mesh import Mesh, edges_of, places_of, triangles_of
from fit3d.annotate.mirror import MIRRORED_LANDMARKS
from fit3d.annotate.picture import surface_labels
from fit3d.annotate.register import Registration, register, skin_of
from fit3d.annotate.transfer import Annotated, transfer
from fit3d.annotate.views import turned_view
from fit3d.annotate.vote import Votes, cast_votes
from fit3d.camera import Camera
from fit3d.errors import ModelFileError
from fit3d.labels import INNER_MOUTH, LEFT_EYE, MIRRORED_PART, PRDL_PARTS, RIGHT_EYE
from fit3d.morphable import ict
from fit3d.morphable.annotation import load_annotation
from fit3d.morphable.anny import load_anny
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.raw import RawModel, with_annotation
from fit3d.observe.base import Backend, Landmarks, Parsing
from fit3d.photo import Photo
from fit3d.raster import rasterise_front
from fit3d.resources import asset_path
from synthetic import synthetic_model


def without_annotation(model: MorphableModel) -> MorphableModel:
    """What is known of a model before it is annotated."""
    raw = RawModel(
        name=model.name,
        version=model.version,
        licence=model.licence,
        source=model.source,
        mean=model.mean.numpy(),
        identity=model.identity.numpy(),
        expression=model.expression.numpy(),
        expression_names=model.expression_names,
        expression_bounds=model.expression_bounds.numpy(),
        faces=model.faces,
        uv=model.uv,
        uv_faces=model.uv_faces,
        objects=model.objects,
        face_objects=model.face_objects,
    )
    return unannotated(raw)


@pytest.fixture(scope="module")
def truth() -> MorphableModel:
    """A head of another topology, shape, size and place than the source, whose annotation is known."""
    other = synthetic_model(4.0)
    coefficients = torch.tensor([0.8, -0.6, 0.7, 0.5, -1.0, 0.6, 0.5, -0.8])
    mean = other.mean + torch.einsum("k,kvc->vc", coefficients, other.identity)
    return replace(other, mean=1.04 * mean + torch.tensor([0.0, 0.004, -0.003]))


@pytest.fixture(scope="module")
def laid(truth: MorphableModel) -> Registration:
    return register(synthetic_model(3.0), without_annotation(truth))


@pytest.fixture(scope="module")
def carried(truth: MorphableModel, laid: Registration) -> Annotated:
    return transfer(synthetic_model(3.0), without_annotation(truth), laid)


def test_the_surfaces_come_together(laid: Registration) -> None:
    assert laid.distance_m < 5e-5


def test_parts_are_carried_over(truth: MorphableModel, carried: Annotated) -> None:
    """The known annotation of the other topology comes out: the lips' thin corners are what is hardest."""
    shares = compare(carried.on(truth), truth).parts
    assert len(shares) == len(PRDL_PARTS)
    assert min(shares["right_eye"], shares["left_eye"], shares["nose"], shares["skin"]) > 0.98, shares
    assert min(shares["right_eyebrow"], shares["left_eyebrow"]) > 0.95, shares
    assert min(shares["upper_lip"], shares["lower_lip"]) > 0.9, shares


def test_landmarks_are_carried_over(truth: MorphableModel, carried: Annotated) -> None:
    positions = truth.mean.double().numpy()
    for layout, embedding in truth.landmarks.items():
        found = carried.landmarks[layout]
        apart = np.linalg.norm(places_of(found.points, positions) - places_of(embedding.points, positions), axis=1)
        # a few of the nameless ones lie on eyeballs and teeth, which have no counterpart on the surface
        assert np.percentile(apart, 90) < 0.0005, layout
        assert found.sliding.equal(embedding.sliding)
        along = np.linalg.norm(places_of(found.paths, positions) - places_of(embedding.paths, positions), axis=2)
        assert along.max() < 0.0005, layout
    irises = places_of(carried.landmarks["mediapipe478"].points, positions)[468:]
    true_irises = places_of(truth.landmarks["mediapipe478"].points, positions)[468:]
    assert np.abs(irises - true_irises).max() < 0.001


def test_rims_are_those_of_the_mesh(truth: MorphableModel, carried: Annotated) -> None:
    """Of the mouth too, whose rims lie in one place and have one normal."""
    for name, rims in truth.annotation.rims.items():
        for found, true in zip(carried.parts.rims[name], rims, strict=True):
            assert found.tolist() == true.tolist(), name


def test_the_file_says_the_same(truth: MorphableModel, carried: Annotated, tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    write_annotation(carried, truth, path)
    parts, landmarks = load_annotation(path, truth.mean, truth.faces)
    assert parts.triangles.equal(carried.parts.triangles)
    assert parts.fixed_label.equal(carried.parts.fixed_label)
    listed = carried.parts.fields > -0.02
    assert (parts.fields - carried.parts.fields.clamp(max=0.02)).abs()[:, np.unique(parts.triangles)][
        listed[:, np.unique(parts.triangles)]
    ].max() < 1e-5
    for layout, embedding in carried.landmarks.items():
        assert landmarks[layout].points.vertices.equal(embedding.points.vertices)
        assert (landmarks[layout].points.weights - embedding.points.weights).abs().max() < 2e-4


def test_twice_the_same(truth: MorphableModel, carried: Annotated) -> None:
    target, source = without_annotation(truth), synthetic_model(3.0)
    assert as_json(transfer(source, target, register(source, target)), target) == as_json(carried, target)


def test_a_head_that_looks_elsewhere_is_refused(truth: MorphableModel) -> None:
    lost = replace(without_annotation(truth), mean=truth.mean * torch.tensor([1.0, 1.0, -1.0]) * 3.0)
    with pytest.raises(ModelFileError, match="could not be laid onto"):
        register(synthetic_model(3.0), lost)


class TrueLandmarks:
    """Finds the true landmarks of `model` in its renders, which `vote` draws in the order of shapes and views."""

    backend = Backend("truth", "1")

    def __init__(self, cameras: list[tuple[Camera, Tensor]], model: MorphableModel) -> None:
        self.cameras, self.model = iter(cameras), model
        self.parts: np.ndarray | None = None

    def detect(self, photo: Photo) -> list[Landmarks]:
        view, positions = next(self.cameras)
        marks = self.model.landmarks["mediapipe478"].points.of(positions)
        cam = view.to_cam(positions)
        triangles = self.model.annotation.triangles
        fragments = rasterise_front(view.project(positions), cam[:, 2], triangles, photo.height, photo.width)
        self.parts = surface_labels(self.model.annotation, fragments)
        return [Landmarks("mediapipe478", view.project(marks).double().numpy(), self.backend)]

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        assert self.parts is not None
        return Parsing(self.parts)


def test_votes_of_a_perfect_detector_are_the_truth(truth: MorphableModel) -> None:
    """Labels and landmarks drawn from the known annotation come back from the renders to the surface."""
    from fit3d.annotate import vote

    views = [
        turned_view(yaw, pitch, vote.PICTURE_PX, vote.PICTURE_HALF_M, vote.PICTURE_CENTRE_M)
        for yaw, pitch in vote.VIEWS_DEG
    ]
    positions = truth.mean.double()
    perfect = TrueLandmarks([(view, positions) for view in views] * 2, truth)
    source = synthetic_model(3.0)
    outcome = annotate(without_annotation(truth), source, "vote", perfect, perfect, shapes=0)
    assert outcome.votes is not None and outcome.agreement is not None
    assert outcome.votes.renders == len(views)
    shares = compare(outcome.annotated.on(truth), truth).parts
    assert min(shares.values()) > 0.75, shares
    assert shares["nose"] > 0.9 and shares["skin"] > 0.97, shares
    names = [33, 133, 362, 263, 61, 291, 4, 1, 105, 334]
    found = places_of(outcome.annotated.landmarks["mediapipe478"].points, truth.mean.double().numpy())[names]
    true = places_of(truth.landmarks["mediapipe478"].points, truth.mean.double().numpy())[names]
    assert np.linalg.norm(found - true, axis=1).max() < 0.002


def test_a_model_is_annotated_by_votes_alone() -> None:
    """The bundled head's own annotation, drawn, comes back from its renders with no model's help but its rims."""
    from fit3d.annotate import vote

    anny = load_anny()
    positions = anny.mean.double()
    views = [
        turned_view(yaw, pitch, vote.PICTURE_PX, vote.PICTURE_HALF_M, vote.PICTURE_CENTRE_M)
        for yaw, pitch in (*vote.VIEWS_DEG, *vote.OUTLINE_VIEWS_DEG)
    ]
    perfect = TrueLandmarks([(view, positions) for view in views] * 2, anny)
    rims = {name: (upper.numpy(), lower.numpy()) for name, (upper, lower) in anny.annotation.rims.items()}
    bare = replace(anny, annotation=replace(anny.annotation, rims={}), landmarks={})
    outcome = annotate_alone(bare, rims, perfect, perfect, shapes=0)
    found = outcome.annotated.on(anny)
    shares = compare(found, anny).parts
    assert min(shares[name] for name in ("nose", "skin", "upper_lip", "lower_lip")) > 0.9, shares
    assert min(shares.values()) > 0.8, shares
    points = anny.mean.double().numpy()
    for layout, mean_mm in (("ibug68", 1.5), ("mediapipe478", 1.0)):
        embedding, true = found.landmarks[layout], anny.landmarks[layout]
        assert embedding.sliding.equal(true.sliding)
        apart = np.linalg.norm(places_of(embedding.points, points) - places_of(true.points, points), axis=1)
        fixed = np.delete(apart, true.sliding.numpy())
        assert 1000.0 * fixed.mean() < mean_mm, layout
        mirrored = places_of(embedding.points, points)[MIRRORED_LANDMARKS[layout]] * [-1.0, 1.0, 1.0]
        assert np.abs(mirrored - places_of(embedding.points, points)).max() < 0.002
    for name, pair in outcome.annotated.parts.rims.items():
        assert [rim.tolist() for rim in pair] == [rim.tolist() for rim in rims[name]]


def test_votes_on_another_layout_are_refused() -> None:
    anny = load_anny()
    nothing = np.zeros(0)
    votes = Votes("ibug68", *(nothing,) * 7, renders=9, seen=nothing, yaws_deg=nothing, twin=nothing)
    with pytest.raises(ModelFileError, match="use a detector of mediapipe478"):
        annotate_from_renders(anny, {}, votes)


def test_rays_meet_the_nearest_triangle_first() -> None:
    """Two triangles behind each other, and one beside."""
    points = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 3], [1, 0, 3], [0, 1, 3]], float)
    mesh = Mesh(points, np.array([[0, 1, 2], [3, 5, 4]]))
    starts = np.array([[0.2, 0.3, 9.0], [0.2, 0.3, -9.0], [0.9, 0.05, 2.0]])
    down = np.array([0.0, 0.0, -2.0])
    hits = first_hits(mesh, starts, np.array([down, -down, -down]))
    assert np.allclose(hits, [[0.2, 0.3, 3.0], [0.2, 0.3, 1.0], [0.9, 0.05, 3.0]])
    with pytest.raises(ModelFileError, match="misses the head"):
        first_hits(mesh, starts[:1] + [0.9, 0.0, 0.0], down[None])


def test_a_detector_that_sees_nothing_gives_no_vote(truth: MorphableModel) -> None:
    class Blind:
        backend = Backend("blind", "1")

        def detect(self, photo: Photo) -> list[Landmarks]:
            return []

        def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
            raise AssertionError

    with pytest.raises(ModelFileError, match="in 0 renders only"):
        cast_votes(without_annotation(truth), synthetic_model(3.0), Blind(), Blind(), shapes=0)


def test_paths_follow_edges_and_lines() -> None:
    """A path on a grid of quads keeps to its line, and never crosses a quad."""
    size = 9
    index = np.arange(size * size).reshape(size, size)
    faces = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1).reshape(-1, 4)
    y, x = np.divmod(np.arange(size * size), size)
    mesh = Mesh(np.stack([x, y, np.zeros_like(x)], 1) * 0.001, triangles_of(faces))
    edges = edges_of(faces)
    assert len(edges) == 2 * size * (size - 1)
    row = index[4]
    assert mesh.path(edges, mesh.traits[row], (int(row[0]), int(row[-1])), 0.0007) == row.tolist()
    assert mesh.path(edges[:0], mesh.traits[row], (int(row[0]), int(row[-1])), 0.0007) == []


def facekit_raw(shared_models: Path) -> RawModel:
    """ICT-FaceKit as its loader reads it, from one file."""
    with np.load(shared_models / "ict" / "ict_facekit.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ranges = {
        str(name): slice(*span) for name, span in zip(arrays["region_names"], arrays["region_ranges"], strict=True)
    }
    balls = [arrays["neutral_cm"][ranges[name]] for name in ("eyeball_left", "eyeball_right")]
    middle = np.mean([(ball.min(0) + ball.max(0)) / 2.0 for ball in balls], axis=0)
    objects = tuple(dict.fromkeys(ict.OBJECTS.values()))
    names = [ict.arkit_name(name) for name in arrays["expression_names"].tolist()]
    return RawModel(
        name="ict",
        version="1",
        licence="MIT",
        source="ICT-FaceKit",
        mean=((arrays["neutral_cm"] - middle) * 0.01).astype(np.float32),
        identity=arrays["identity_cm"] * np.float32(0.01),
        expression=arrays["expression_cm"] * np.float32(0.01),
        expression_names=tuple(names),
        expression_bounds=np.tile(np.array([0.0, 1.0], np.float32), (len(names), 1)),
        faces=arrays["faces"],
        uv=arrays["uv"],
        uv_faces=arrays["uv_faces"],
        objects=objects,
        face_objects=np.array([objects.index(ict.OBJECTS[str(m)]) for m in arrays["face_materials"]], np.uint8),
        landmarks68=arrays["landmarks68"],
    )


@pytest.fixture(scope="module")
def facekit(shared_models: Path) -> MorphableModel:
    """ICT-FaceKit with the annotation that comes with fit3d."""
    return with_annotation(facekit_raw(shared_models), asset_path("ict/annotation.json"))


def seen(model: MorphableModel, **expression: float) -> np.ndarray:
    """(800, 800) labels of the face from the front, with expressions by name."""
    amounts = torch.tensor([expression.get(name, 0.0) for name in model.expression_names])
    positions = model.vertices(torch.zeros(len(model.identity)), amounts).double()
    view = turned_view(0.0, 0.0, 800, 0.1, (0.0, -0.03, 0.0))
    depth = view.to_cam(positions)[:, 2]
    parts = model.annotation
    return surface_labels(parts, rasterise_front(view.project(positions), depth, parts.triangles, 800, 800))


def test_facekit_has_every_part(facekit: MorphableModel) -> None:
    """Sizes of the parts as people have them, in square millimetres as seen from the front."""
    labels = seen(facekit)
    area = np.bincount(labels.ravel(), minlength=12) * (200.0 / 800.0) ** 2
    bounds = {1: (180, 350), 2: (180, 350), 3: (250, 600), 4: (250, 600), 5: (1200, 2200), 6: (250, 500), 7: (350, 700)}
    for label, (low, high) in bounds.items():
        assert low < area[label] < high, (label, area[label])
    assert area[INNER_MOUTH] < 40  # the lips of the mean head touch


def test_facekit_is_symmetric(facekit: MorphableModel) -> None:
    labels = seen(facekit)
    mirrored = np.array(MIRRORED_PART)[labels[:, ::-1]]
    assert (labels != mirrored).mean() < 0.002
    mesh = skin_of(facekit)
    assert mesh.mirror is not None
    for right, left in zip(*(facekit.annotation.rims[name] for name in ("right_eye", "left_eye")), strict=True):
        assert mesh.mirror[left.numpy()][::-1].tolist() == right.tolist()
    jaw = places_of(facekit.landmarks["ibug68"].points, facekit.mean.double().numpy())[:17]
    assert np.abs(jaw * [-1.0, 1.0, 1.0] - jaw[::-1]).max() < 0.002


def test_facekit_lids_close(facekit: MorphableModel) -> None:
    """At a full blink nothing is left but the edges of the lids; ICT's own blink shows a slit of the eyeball."""
    wide, closed = seen(facekit), seen(facekit, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    half = seen(facekit, eyeBlinkLeft=0.5, eyeBlinkRight=0.5)
    winking = seen(facekit, eyeBlinkLeft=1.0)
    for eye in (RIGHT_EYE, LEFT_EYE):
        full = (wide == eye).sum()
        assert (closed == eye).sum() < 0.18 * full
        assert 0.4 * full < (half == eye).sum() < 0.75 * full
    assert (winking == RIGHT_EYE).sum() == (wide == RIGHT_EYE).sum()
    assert (winking == LEFT_EYE).sum() == (closed == LEFT_EYE).sum()


def test_facekit_mouth_opens(facekit: MorphableModel) -> None:
    """The opening between the lips is a patch of many square millimetres when the jaw drops, above the lower lip."""
    labels = seen(facekit, jawOpen=0.5)
    assert (labels == INNER_MOUTH).sum() > 10 * max(1, (seen(facekit) == INNER_MOUTH).sum())
    rows = {label: np.nonzero(labels == label)[0].mean() for label in (6, INNER_MOUTH, 7)}
    assert rows[6] < rows[INNER_MOUTH] < rows[7]


def test_facekit_landmarks_are_where_its_makers_have_them(facekit: MorphableModel, shared_models: Path) -> None:
    """ICT's own iBUG-68 vertices; brows excepted, which lie lower than people's, and the contour, which slides."""
    with np.load(shared_models / "ict" / "ict_facekit.npz", allow_pickle=False) as stored:
        theirs = facekit.mean.double().numpy()[stored["landmarks68"]]
    ours = places_of(facekit.landmarks["ibug68"].points, facekit.mean.double().numpy())
    apart = np.linalg.norm(ours - theirs, axis=1)
    assert apart[27:36].mean() < 0.002  # nose
    assert apart[36:48].mean() < 0.0015  # lids
    assert apart[[48, 51, 54, 57, 60, 62, 64, 66]].mean() < 0.0015  # corners and middle of the lips


def test_facekit_holds_no_geometry() -> None:
    """The committed file names vertices and weights, never coordinates."""
    content = json.loads(asset_path("ict/annotation.json").read_text(encoding="utf-8"))
    assert set(content) == {"schema", "model", "vertex_count", "parts", "openings", "surface", "landmarks"}
    assert content["vertex_count"] == ict.VERTICES
    for part in content["parts"].values():
        assert set(part) == {"vertices", "field_m"}
