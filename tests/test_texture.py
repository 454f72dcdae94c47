"""The texture, its atlas, and the drawing of meshes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    NOSE,
    OTHER,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
)
from fit3d.morphable.model import MorphableModel
from fit3d.raster import rasterise
from fit3d.render.atlas import PADDING, Atlas, make_atlas, triangulate
from fit3d.render.light import to_linear, to_srgb
from fit3d.render.shade import draw_textured, shade, three_quarter_camera, vertex_normals
from fit3d.render.texture import Texture, project_texture
from fit3d.render.visibility import depth_map, faces_camera
from synthetic import EYE_X, synthetic_camera, synthetic_identity, synthetic_model

SIZE = 512
BARE = np.array([200, 150, 120], np.uint8)


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def atlas(model: MorphableModel) -> Atlas:
    return make_atlas(model, SIZE)


@pytest.fixture(scope="module")
def vertices(model: MorphableModel) -> Tensor:
    return model.vertices(synthetic_identity(model), torch.zeros(len(model.expression_names)).double())


def label_image(model: MorphableModel, vertices: Tensor, camera: Camera) -> np.ndarray:
    """The parts that a perfect parser would see."""
    annotation = model.annotation
    cam = camera.to_cam(vertices)
    seen = rasterise(camera.project(vertices), cam[:, 2], annotation.triangles, camera.height, camera.width)
    triangle = seen.triangle.clamp(min=0)
    fields = (annotation.fields[:, annotation.triangles[triangle]] * seen.barycentric).sum(-1)
    labels = annotation.field_labels[fields.argmax(0)]
    fixed = annotation.fixed_label[triangle]
    labels = torch.where(fixed >= 0, fixed, labels)
    return torch.where(seen.triangle >= 0, labels, BACKGROUND).numpy().astype(np.uint8)


def render(
    model: MorphableModel, vertices: Tensor, camera: Camera, colour: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """A photo of the mesh painted with `colour` of the world position, on dark grey."""
    triangles = torch.from_numpy(model.triangles).long()
    cam = camera.to_cam(vertices)
    seen = rasterise(camera.project(vertices), cam[:, 2], triangles, camera.height, camera.width)
    covered = seen.triangle >= 0
    points = (vertices[triangles[seen.triangle[covered]]] * seen.barycentric[covered][..., None]).sum(1)
    photo = np.full((camera.height, camera.width, 3), 40, np.uint8)
    photo[covered.numpy()] = np.rint(255.0 * colour(points.numpy()))
    return photo


def painted(labels: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> np.ndarray:
    """A photo that shows one colour per label."""
    photo = np.full((*labels.shape, 3), 40, np.uint8)
    for label, colour in colours.items():
        photo[labels == label] = colour
    return photo


def at_texels(texture: Texture, atlas: Atlas) -> np.ndarray:
    return texture.image.reshape(-1, 3)[atlas.texels].astype(np.float32) / 255.0


def slopes(points: np.ndarray) -> np.ndarray:
    """A colour that changes linearly over the head, in every direction."""
    return 0.5 + np.stack([3.0 * points[:, 0], 2.5 * points[:, 1], 2.5 * points[:, 2] + 0.1], 1)


def test_atlas_interpolates_like_the_rasteriser(model: MorphableModel, atlas: Atlas) -> None:
    uv_px = torch.from_numpy(model.uv * [1.0, -1.0] + [0.0, 1.0]) * SIZE
    triangles = torch.from_numpy(triangulate(model.uv_faces))
    seen = rasterise(uv_px, torch.ones(len(uv_px), dtype=uv_px.dtype), triangles, SIZE, SIZE)
    covered = np.zeros(SIZE * SIZE, bool)
    covered[atlas.texels] = True
    other = (seen.triangle >= 0).numpy().ravel()
    assert (covered ^ other).sum() <= 0.001 * covered.sum()
    both = np.flatnonzero(covered & other)
    corners = model.mean[torch.from_numpy(model.triangles).long()[seen.triangle.ravel()[both]]].double()
    expected = (corners * seen.barycentric.reshape(-1, 3)[both][..., None]).sum(1).numpy()
    here = np.searchsorted(atlas.texels, both)
    np.testing.assert_allclose((atlas.from_vertices @ model.mean.numpy())[here], expected, atol=2e-5)
    np.testing.assert_allclose(np.asarray(atlas.from_vertices.sum(1)).ravel(), 1.0, atol=1e-5)
    assert atlas.from_vertices.data.min() >= 0.0


def test_texels_on_shared_uv_edges_are_filled_once() -> None:
    """Two triangles of a square whose sides and diagonal pass through texel centres leave no gap and no rim."""
    square = synthetic_model()
    corner = np.array([[2.5, 2.5], [10.5, 2.5], [10.5, 10.5], [2.5, 10.5]]) / 16.0
    flat = replace(
        square,
        mean=square.mean[:4],
        faces=np.array([[0, 1, 2, 3]], np.int32),
        uv=corner.astype(np.float32),
        uv_faces=np.array([[0, 1, 2, 3]], np.int32),
        face_objects=np.zeros(1, np.uint8),
        annotation=replace(
            square.annotation,
            triangles=torch.tensor([[0, 1, 2], [0, 2, 3]]),
            fixed_label=torch.tensor([-1, -1]),
            fields=square.annotation.fields[:, :4],
            rims={},
        ),
    )
    atlas = make_atlas(flat, 16)
    assert len(atlas.texels) == 64


def test_padding_surrounds_every_island(atlas: Atlas) -> None:
    from scipy.ndimage import distance_transform_edt

    covered = np.zeros((SIZE, SIZE), bool)
    covered.ravel()[atlas.texels] = True
    distance = distance_transform_edt(~covered)
    filled = covered.copy()
    filled.ravel()[atlas.padding] = True
    assert filled[distance <= 0.7 * PADDING].all()
    assert len(np.unique(atlas.padding)) == len(atlas.padding)
    assert not covered.ravel()[atlas.padding].any()
    come = atlas.texels[atlas.padding_source]
    away = np.hypot(come // SIZE - atlas.padding // SIZE, come % SIZE - atlas.padding % SIZE)
    assert (away <= 1.5 * distance.ravel()[atlas.padding] + 1.0).all()


def test_mirror_partners(model: MorphableModel, atlas: Atlas) -> None:
    assert (atlas.mirror >= 0).all()
    np.testing.assert_allclose(model.mean.numpy()[atlas.mirror] * [-1, 1, 1], model.mean.numpy(), atol=1e-6)
    np.testing.assert_array_equal(atlas.mirror[atlas.mirror], np.arange(len(model.mean)))
    # the closed lips lie upon each other, and still upper finds upper
    for rim in model.annotation.rims["inner_mouth"]:
        assert set(atlas.mirror[rim.numpy()]) == set(rim.tolist())


@pytest.mark.parametrize("yaw", [0.0, 25.0])
def test_the_texture_shows_what_the_photo_shows(
    model: MorphableModel, atlas: Atlas, vertices: Tensor, yaw: float
) -> None:
    # wide and near: strong perspective
    camera = synthetic_camera(600, 750, yaw_deg=yaw, distance=0.4, fov_deg=50.0)
    labels = label_image(model, vertices, camera)
    photo = render(model, vertices, camera, slopes)
    texture = project_texture(photo, vertices, model, camera, labels, SIZE)
    points = (atlas.from_vertices @ vertices.numpy().astype(np.float32)).astype(np.float64)
    normals = vertex_normals(camera.to_cam(vertices), torch.from_numpy(model.triangles).long())
    view = -torch.nn.functional.normalize(camera.to_cam(vertices), dim=1)
    cosine = atlas.from_vertices @ (normals * view).sum(1).numpy().astype(np.float32)
    on_face = atlas.from_vertices @ (atlas.label == SKIN).astype(np.float32) > 0.99
    inside = depth_map(vertices, torch.from_numpy(model.triangles).long(), camera)
    px = camera.project(torch.from_numpy(points)).numpy()
    seen = inside.sees(px, camera.to_cam(torch.from_numpy(points))[:, 2].numpy(), cosine) == 1.0
    good = on_face & seen & (cosine > 0.65) & (atlas.face_object == 0)
    # away from the border of the face, where the photo is trusted fully
    row, column = np.floor(px[good]).astype(int).T[::-1]
    deep = _deep(np.isin(labels, range(3, 9)), 24)[row, column]
    error = np.abs(at_texels(texture, atlas)[good][deep] - slopes(points)[good][deep]) * 255.0
    assert len(error) > 5000
    # a few texels at the silhouette of the nose are half hidden
    assert np.quantile(error, 0.999) < 3.0
    assert error.max() < 8.0
    assert error.mean() < 0.6


def _deep(mask: np.ndarray, margin: int) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return binary_erosion(mask, np.ones((2 * margin + 1, 2 * margin + 1)))


def test_what_the_nose_hides_does_not_get_its_colour(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    # a nose so long that it hides much of a cheek that faces the camera
    long = vertices.clone()
    long[:, 2] += 0.06 * torch.exp(-((vertices[:, 0] / 0.008) ** 2) - ((vertices[:, 1] + 0.03) / 0.012) ** 2)
    camera = synthetic_camera(600, 750, yaw_deg=28.0)
    labels = label_image(model, long, camera)
    colours = dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)) | {NOSE: (255, 0, 0)}
    texture = at_texels(project_texture(painted(labels, colours), long, model, camera, labels, SIZE), atlas)
    places = camera.project(torch.from_numpy(atlas.from_vertices @ long.numpy().astype(np.float32)).double()).numpy()
    column, row = np.floor(places).astype(int).clip(0, [599, 749]).T
    on_nose = atlas.from_vertices @ _grown(atlas, atlas.label == NOSE, 2).astype(np.float32) > 0.0
    behind = _deep(labels == NOSE, 4)[row, column] & ~on_nose & (atlas.face_object == 0)
    front = atlas.from_vertices @ vertex_normals(long, torch.from_numpy(model.triangles).long()).numpy().astype(
        np.float32
    )
    towards = front @ camera.cam_from_world[2, :3].numpy().astype(np.float32)
    behind &= towards < -0.5
    assert behind.sum() > 100
    redness = texture[:, 0] - texture[:, 1]
    assert redness[behind].max() < (BARE[0] - BARE[1]) / 255.0 + 0.1
    assert np.median(redness[atlas.from_vertices @ (atlas.label == NOSE).astype(np.float32) > 0.99]) > 0.7


def _grown(atlas: Atlas, vertices: np.ndarray, rings: int) -> np.ndarray:
    for _ in range(rings):
        i, j = atlas.edges.T
        touched = np.concatenate([j[vertices[i]], i[vertices[j]]])
        vertices = vertices.copy()
        vertices[touched] = True
    return vertices


@pytest.mark.parametrize("label", [HAIR, OTHER, BACKGROUND])
def test_what_stands_in_front_is_not_painted_on_the_face(
    model: MorphableModel, atlas: Atlas, vertices: Tensor, label: int
) -> None:
    camera = synthetic_camera(600, 750)
    labels = label_image(model, vertices, camera)
    colours = dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE))
    photo = painted(labels, colours)
    # a band over one cheek and the forehead; a hand has the colour of skin, but not the face's labels
    labels[200:700, 200:260] = label
    photo[200:700, 200:260] = (0, 255, 0)
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    skin = (atlas.face_object == 0) & ~atlas.inner
    off = np.abs(texture[skin] - BARE / 255.0).max(1)
    assert off.max() < 0.03


def test_neck_is_read_where_it_is_skin_and_cloth_is_not(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    camera = synthetic_camera(600, 900, distance=0.9)
    labels = label_image(model, vertices, camera)
    generator = np.random.default_rng(0)
    photo = painted(labels, dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)))
    photo = np.clip(photo + generator.normal(0.0, 6.0, photo.shape), 0, 255).astype(np.uint8)
    neck_rows = camera.project(torch.tensor([[0.0, -0.13, -0.03]]).double())[0, 1]
    top, cloth = int(neck_rows) - 12, int(neck_rows) + 25
    darker = np.rint(BARE * 0.94)
    photo[top:cloth][labels[top:cloth] == OTHER] = darker
    photo[cloth:][labels[cloth:] == OTHER] = (20, 40, 220)
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    points = atlas.from_vertices @ vertices.numpy().astype(np.float32)
    row = camera.project(torch.from_numpy(points).double())[:, 1].numpy()
    front = (points[:, 2] > -0.05) & (atlas.face_object == 0) & (np.abs(points[:, 0]) < 0.02)
    neck = front & (row > top + 12) & (row < cloth - 12) & (points[:, 1] < -0.115)
    assert neck.sum() > 50
    np.testing.assert_allclose(np.median(texture[neck], axis=0), darker / 255.0, atol=0.01)
    below = front & (row > cloth)
    assert (texture[below][:, 2] < texture[below][:, 0]).all()


def test_the_unseen_side_is_mirrored(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    camera = synthetic_camera(600, 750, yaw_deg=75.0)  # shows the person's left
    labels = label_image(model, vertices, camera)
    assert (labels == RIGHT_EYEBROW).sum() < 0.2 * (labels == LEFT_EYEBROW).sum()
    colours = dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)) | {LEFT_EYEBROW: (60, 40, 30)}
    texture = at_texels(project_texture(painted(labels, colours), vertices, model, camera, labels, SIZE), atlas)
    for brow in (LEFT_EYEBROW, RIGHT_EYEBROW):
        inside = atlas.from_vertices @ (atlas.label == brow).astype(np.float32) > 0.99
        assert inside.sum() > 30
        assert np.median(texture[inside, 0]) < 0.45, brow
    # the head as a whole stays skin
    assert np.median(np.abs(texture[atlas.face_object == 0] - BARE / 255.0)) < 0.02


def test_eyes_are_completed(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    camera = synthetic_camera(900, 1100)
    labels = label_image(model, vertices, camera)
    photo = painted(labels, dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)))
    photo[(labels == LEFT_EYE) | (labels == RIGHT_EYE)] = (225, 215, 205)
    # irises that look to the person's left
    rows, columns = np.mgrid[0:1100, 0:900] + 0.5
    gaze = np.array([0.35, 0.0, np.sqrt(1.0 - 0.35**2)])
    middles = {}
    for name, x in (("left_eyeball", EYE_X), ("right_eyeball", -EYE_X)):
        ids = model.faces[model.face_objects == model.objects.index(name)]
        middles[name] = vertices[np.unique(ids[ids >= 0])].mean(0).numpy()
        pupil = camera.project(torch.from_numpy(middles[name] + 0.012 * gaze)[None])[0].numpy()
        rim = camera.project(torch.from_numpy(middles[name] + 0.012 * gaze + [0.0055, 0.0, 0.0])[None])[0].numpy()
        disc = np.hypot(columns - pupil[0], rows - pupil[1]) < np.linalg.norm(rim - pupil)
        photo[disc & ((labels == LEFT_EYE) | (labels == RIGHT_EYE))] = (40, 70, 110)
        assert abs(middles[name][0] - x) < 0.01
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    for name, middle in middles.items():
        ball = atlas.face_object == model.objects.index(name)
        way = atlas.from_vertices[np.flatnonzero(ball)] @ (vertices.numpy() - middle).astype(np.float32)
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        angle = np.degrees(np.arccos((way @ gaze).clip(-1.0, 1.0)))
        colour = texture[ball]
        iris = (angle > 14.0) & (angle < 20.0)
        assert (colour[iris][:, 2] > colour[iris][:, 0] + 0.1).mean() > 0.97, name
        white = angle > 45.0
        np.testing.assert_allclose(np.median(colour[white], axis=0), np.array([225, 215, 205]) / 255.0, atol=0.05)


def test_eyes_that_are_closed_look_ahead(model: MorphableModel, atlas: Atlas) -> None:
    blink = torch.zeros(len(model.expression_names)).double()
    blink[[model.expression_names.index("eyeBlinkLeft"), model.expression_names.index("eyeBlinkRight")]] = 1.0
    vertices = model.vertices(torch.zeros(len(model.identity)).double(), blink)
    camera = synthetic_camera(600, 750)
    labels = label_image(model, vertices, camera)
    photo = painted(labels, dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)))
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    ball = atlas.face_object == model.objects.index("left_eyeball")
    places = atlas.from_vertices[np.flatnonzero(ball)] @ vertices.numpy().astype(np.float32)
    front, back = places[:, 2] > 0.0115, places[:, 2] < 0.0
    assert texture[ball][front].max() < 0.4
    assert texture[ball][np.argmax(places[:, 2])].max() < 0.15
    assert texture[ball][back].min() > 0.65  # white, a little of the skin's tint


def test_teeth_are_read_through_the_open_mouth_only(model: MorphableModel, atlas: Atlas) -> None:
    jaw = torch.zeros(len(model.expression_names)).double()
    jaw[model.expression_names.index("jawOpen")] = 0.6
    vertices = model.vertices(torch.zeros(len(model.identity)).double(), jaw)
    camera = synthetic_camera(600, 750)
    labels = label_image(model, vertices, camera)
    assert (labels == INNER_MOUTH).sum() > 300
    photo = painted(labels, dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)) | {INNER_MOUTH: (0, 255, 255)})
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    cyan = (texture[:, 1] > 0.9) & (texture[:, 0] < 0.2)
    assert cyan[atlas.face_object == model.objects.index("teeth")].mean() > 0.1
    assert not cyan[atlas.face_object == 0].any()


@pytest.mark.parametrize("case", ["no labels", "face out of the photo", "face half out", "one colour", "tiny"])
def test_nothing_to_see_gives_a_whole_texture(model: MorphableModel, atlas: Atlas, vertices: Tensor, case: str) -> None:
    camera = synthetic_camera(300, 380)
    labels = label_image(model, vertices, camera)
    if case == "no labels":
        labels[:] = 0
    elif case == "face out of the photo":
        camera = replace(camera, principal_px=(3000.0, 190.0))
    elif case == "face half out":
        camera = replace(camera, principal_px=(300.0, 190.0))
        labels = label_image(model, vertices, camera)
    elif case == "tiny":
        camera = replace(camera, width=1, height=1)
        labels = labels[:1, :1]
    photo = painted(labels, dict.fromkeys(range(12), tuple(int(c) for c in BARE)))
    texture = project_texture(photo, vertices, model, camera, labels, SIZE)
    assert texture.image.shape == (SIZE, SIZE, 3)
    assert texture.image.dtype == np.uint8
    skin = at_texels(texture, atlas)[(atlas.face_object == 0) & ~atlas.inner]
    # some skin colour everywhere: red above green above blue
    assert (skin[:, 0] > skin[:, 1]).all()
    assert (skin[:, 1] > skin[:, 2]).all()


def test_a_finer_photo_is_averaged_not_skipped(model: MorphableModel, vertices: Tensor) -> None:
    small = make_atlas(model, 128)
    camera = synthetic_camera(800, 1000)
    labels = label_image(model, vertices, camera)
    noise = np.random.default_rng(0).integers(-60, 60, (1000, 800, 1))
    photo = np.clip(BARE.astype(int) + noise, 0, 255).astype(np.uint8)
    texture = at_texels(project_texture(photo, vertices, model, camera, labels, 128), small)
    nose = small.from_vertices @ (small.label == NOSE).astype(np.float32) > 0.99
    assert nose.sum() > 30
    assert 255.0 * texture[nose, 0].std() < 10.0  # 35 in the photo


def test_the_same_bytes_twice(model: MorphableModel, vertices: Tensor) -> None:
    camera = synthetic_camera(300, 380, yaw_deg=20.0)
    labels = label_image(model, vertices, camera)
    photo = render(model, vertices, camera, slopes)
    first = project_texture(photo, vertices, model, camera, labels, 256)
    second = project_texture(photo.copy(), vertices.clone(), model, camera, labels, 256)
    assert np.array_equal(first.image, second.image)


def lamp(normals: np.ndarray) -> np.ndarray:
    """(N, 3) linear light: a lamp from the person's left, warm, over weak light from everywhere."""
    towards = np.array([0.75, 0.25, 0.6]) / np.linalg.norm([0.75, 0.25, 0.6])
    return (normals @ towards).clip(0.0)[:, None] * [0.75, 0.65, 0.5] + [0.25, 0.27, 0.3]


def lit_photo(model: MorphableModel, vertices: Tensor, camera: Camera, labels: np.ndarray) -> np.ndarray:
    """Bare skin under `lamp`, with dark brows and no other mark."""
    triangles = torch.from_numpy(model.triangles).long()
    cam = camera.to_cam(vertices)
    seen = rasterise(camera.project(vertices), cam[:, 2], triangles, camera.height, camera.width)
    covered = seen.triangle >= 0
    corners = vertex_normals(vertices, triangles)[triangles[seen.triangle[covered]]]
    normals = (corners * seen.barycentric[covered][..., None]).sum(1).numpy()
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    albedo = np.tile(to_linear(BARE / 255.0), (len(normals), 1))
    albedo[np.isin(labels[covered.numpy()], (LEFT_EYEBROW, RIGHT_EYEBROW))] *= 0.15
    photo = np.full((camera.height, camera.width, 3), 40, np.uint8)
    photo[covered.numpy()] = np.rint(255.0 * to_srgb(albedo * lamp(normals)))
    return photo


def skin_spread(texture: Texture, atlas: Atlas) -> float:
    """How much bare skin of the face varies: deviation of its log linear brightness."""
    skin = atlas.from_vertices @ (atlas.label == SKIN).astype(np.float32) > 0.99
    return float(np.log(to_linear(at_texels(texture, atlas)[skin]).mean(1)).std())


@pytest.mark.parametrize("yaw", [0.0, 40.0])
def test_delight_gives_the_skin_its_one_colour_back(
    model: MorphableModel, atlas: Atlas, vertices: Tensor, yaw: float
) -> None:
    camera = synthetic_camera(600, 750, yaw_deg=yaw)
    labels = label_image(model, vertices, camera)
    photo = lit_photo(model, vertices, camera, labels)
    lit = project_texture(photo, vertices, model, camera, labels, SIZE)
    even = project_texture(photo, vertices, model, camera, labels, SIZE, delight=True)
    assert skin_spread(lit, atlas) > 0.1
    assert skin_spread(even, atlas) < 0.4 * skin_spread(lit, atlas)
    # the colours of the light are gone too: one tint, that of the skin on the whole
    skin = atlas.from_vertices @ (atlas.label == SKIN).astype(np.float32) > 0.99
    tint = to_linear(at_texels(even, atlas)[skin])
    assert np.std(np.log(tint[:, 0] / tint[:, 2])) < 0.04
    # brows are no shadow
    for brow in (LEFT_EYEBROW, RIGHT_EYEBROW):
        inside = atlas.from_vertices @ (atlas.label == brow).astype(np.float32) > 0.99
        assert np.median(at_texels(even, atlas)[inside].mean(1)) < 0.7 * np.median(at_texels(even, atlas)[skin].mean(1))
    assert even.light is not None and even.light.coefficients.shape == (9, 3)


def test_what_is_mirrored_is_lit_as_its_own_side_is(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    """A head turned away, lit from the side that is seen: the other side is not as bright, but has its brow."""
    camera = synthetic_camera(600, 750, yaw_deg=45.0)
    labels = label_image(model, vertices, camera)
    texture = at_texels(
        project_texture(lit_photo(model, vertices, camera, labels), vertices, model, camera, labels, SIZE), atlas
    )
    triangles = torch.from_numpy(model.triangles).long()
    normals = vertex_normals(vertices, triangles).numpy().astype(np.float32)
    across = atlas.from_vertices @ normals
    skin = atlas.from_vertices @ (atlas.label == SKIN).astype(np.float32) > 0.99
    front, far = (
        skin & (across[:, 0] > 0.35) & (across[:, 2] > 0.5),
        skin & (across[:, 0] < -0.35) & (across[:, 2] > 0.5),
    )
    truth = to_srgb(to_linear(BARE / 255.0) * lamp(np.array([[-0.5, 0.0, 0.85]])))[0].mean()
    assert abs(np.median(texture[far].mean(1)) - truth) < 0.1
    assert np.median(texture[far].mean(1)) < np.median(texture[front].mean(1)) - 0.08
    brow = atlas.from_vertices @ (atlas.label == RIGHT_EYEBROW).astype(np.float32) > 0.99
    assert np.median(texture[brow].mean(1)) < 0.75 * np.median(texture[far].mean(1))


def test_rims_and_strands_that_the_labels_miss_are_left_out(
    model: MorphableModel, atlas: Atlas, vertices: Tensor
) -> None:
    camera = synthetic_camera(600, 750)
    labels = label_image(model, vertices, camera)
    photo = painted(labels, dict.fromkeys(range(1, 12), tuple(int(c) for c in BARE)))
    clean = at_texels(project_texture(photo, vertices, model, camera, labels, SIZE), atlas)
    # half way from the brows to the hair
    brows = np.flatnonzero(np.isin(labels, (LEFT_EYEBROW, RIGHT_EYEBROW)).any(1))[0]
    row = (brows + np.flatnonzero(labels[:brows, 300] == SKIN)[0]) // 2
    strand = photo.copy()
    strand[row - 3 : row + 3, 200:400] = (30, 20, 15)
    assert (labels[row - 3 : row + 3, 280:320] == SKIN).all()
    texture = at_texels(project_texture(strand, vertices, model, camera, labels, SIZE), atlas)
    skin = atlas.from_vertices @ (atlas.label == SKIN).astype(np.float32) > 0.99
    assert np.abs(texture[skin] - clean[skin]).max() < 0.06


@pytest.mark.parametrize("delight", [False, True])
def test_no_seam_where_islands_meet(model: MorphableModel, atlas: Atlas, vertices: Tensor, delight: bool) -> None:
    """A point on a UV border has the same colour on both sides."""
    camera = synthetic_camera(600, 750, yaw_deg=25.0)
    labels = label_image(model, vertices, camera)
    photo = lit_photo(model, vertices, camera, labels)
    image = project_texture(photo, vertices, model, camera, labels, SIZE, delight).image.astype(np.float32)
    corners, uv = model.faces, model.uv_faces
    head = model.face_objects == model.objects.index("head")
    quads = head & (corners[:, 3] >= 0)
    sides: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for face, of in zip(corners[quads].tolist(), uv[quads].tolist(), strict=True):
        for k in range(4):
            a, b = (face[k], of[k]), (face[(k + 1) % 4], of[(k + 1) % 4])
            (i, s), (j, t) = sorted([a, b])
            sides.setdefault((i, j), []).append((s, t))
    seams = [pair for pair in sides.values() if len(pair) == 2 and set(pair[0]) != set(pair[1])]
    assert len(seams) > 10
    off = []
    for share in (0.25, 0.5, 0.75):
        read = []
        for side in (0, 1):
            place = np.array([(1 - share) * model.uv[p[side][0]] + share * model.uv[p[side][1]] for p in seams])
            column, row = (place * [1, -1] + [0, 1]).T * SIZE
            read.append(image[row.astype(int).clip(0, SIZE - 1), column.astype(int).clip(0, SIZE - 1)])
        off.append(np.abs(read[0] - read[1]).max(1))
    assert np.max(off) <= 8.0


def test_the_same_bytes_on_one_thread_and_on_two(model: MorphableModel, vertices: Tensor) -> None:
    camera = synthetic_camera(300, 380, yaw_deg=20.0)
    labels = label_image(model, vertices, camera)
    photo = lit_photo(model, vertices, camera, labels)
    before = torch.get_num_threads()
    try:
        images = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(project_texture(photo, vertices, model, camera, labels, 256, delight=True).image)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(images[0], images[1])


def test_depth_map_sees_the_front_and_not_the_back(model: MorphableModel, vertices: Tensor) -> None:
    camera = synthetic_camera(600, 750)
    triangles = torch.from_numpy(model.triangles).long()
    cam = camera.to_cam(vertices)
    normals = vertex_normals(cam, triangles)
    cosine = -(normals * torch.nn.functional.normalize(cam, dim=1)).sum(1)
    share = depth_map(vertices, triangles, camera).sees(
        camera.project(vertices).numpy(), cam[:, 2].numpy(), cosine.numpy()
    )
    head = np.unique(model.faces[model.face_objects == 0])
    head = head[head >= 0]
    front = head[(cosine[head] > 0.3).numpy() & (vertices[head, 2] > -0.06).numpy()]
    back = head[(vertices[head, 2] < -0.1).numpy()]
    assert share[front].mean() > 0.98
    assert share[back].max() == 0.0


def test_shading_covers_the_mesh_and_nothing_else(model: MorphableModel, vertices: Tensor) -> None:
    camera = synthetic_camera(200, 260, yaw_deg=30.0)
    picture = shade(vertices, model.triangles, camera)
    assert picture.shape == (260, 200, 4)
    triangles = torch.from_numpy(model.triangles).long()
    # at the corners of the eyes one looks into the hollow head, which is not drawn
    triangles = triangles[faces_camera(camera.project(vertices), triangles)]
    seen = rasterise(camera.project(vertices), camera.to_cam(vertices)[:, 2], triangles, 260, 200)
    covered = (seen.triangle >= 0).numpy()
    assert (picture[_deep(covered, 1), 3] == 255).mean() > 0.999  # but for slits narrower than a pixel
    assert (picture[_deep(~covered, 1), 3] == 0).all()
    edge = picture[..., 3]
    assert ((edge > 0) & (edge < 255)).sum() > 100
    # lit from the upper left: the forehead's left half is lighter than its right half, and nothing is black
    assert picture[covered & (edge == 255)][:, 0].min() > 40
    row = picture[100, :, 0].astype(float)
    solid = np.flatnonzero(edge[100] == 255)
    assert row[solid[: len(solid) // 3]].mean() > row[solid[-len(solid) // 3 :]].mean()


@pytest.mark.parametrize("yaw", [0.0, 35.0, -90.0, 180.0])
def test_three_quarter_camera_holds_the_head(vertices: Tensor, yaw: float) -> None:
    camera = three_quarter_camera(vertices, yaw, 300)
    points = camera.project(vertices)
    assert float(points.min()) > 5.0
    assert float(points.max()) < 295.0
    # it fills the picture
    assert float((points.amax(0) - points.amin(0)).max()) > 250.0
    # x to the person's left is to the right of the picture from the front
    left_right = camera.project(torch.tensor([[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]]).double())[:, 0]
    assert bool(left_right[0] > left_right[1]) == (abs(yaw) < 90.0) or abs(yaw) == 90.0
    np.testing.assert_allclose(np.linalg.det(camera.cam_from_world[:3, :3].numpy()), 1.0, atol=1e-12)


def test_a_mesh_out_of_sight_gives_an_empty_picture(model: MorphableModel, vertices: Tensor) -> None:
    camera = replace(synthetic_camera(40, 50), principal_px=(-5000.0, 20.0))
    assert not shade(vertices, model.triangles, camera).any()
    behind = synthetic_camera(40, 50, distance=-1.0)
    assert not shade(vertices, model.triangles, behind).any()


def test_drawing_a_texture_gives_its_colours_back(model: MorphableModel, atlas: Atlas, vertices: Tensor) -> None:
    texture = np.zeros((SIZE, SIZE, 3), np.uint8)
    values = np.rint(255.0 * slopes(atlas.from_vertices @ vertices.numpy().astype(np.float32)).clip(0.0, 1.0))
    texture.reshape(-1, 3)[atlas.texels] = values
    texture.reshape(-1, 3)[atlas.padding] = values[atlas.padding_source]
    camera = synthetic_camera(300, 380, yaw_deg=-20.0)
    drawn = draw_textured(vertices, model.triangles, model.uv, triangulate(model.uv_faces), texture, camera)
    photo = render(model, vertices, camera, lambda points: slopes(points).clip(0.0, 1.0))
    solid = _deep(drawn[..., 3] == 255, 2)
    off = np.abs(drawn[..., :3].astype(int) - photo)[solid]
    assert np.quantile(off, 0.99) <= 6
    assert solid.sum() > 10000
