"""FaRL and RetinaFace as the facer package runs them: its own code on small networks whose answers are known.

Photos are painted, see `painted_faces`.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fit3d.errors import ObservationError, UsageError
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
from fit3d.landmarks import LandmarkLayout
from fit3d.observe import weights
from fit3d.observe.base import Backend, Landmarks, Parsing
from fit3d.photo import Photo
from painted_faces import (
    FIVE,
    NOTHING,
    PARTS,
    SIDE,
    VARIANTS,
    ByColour,
    ByPlace,
    Face,
    colours_of,
    near_borders,
    painted,
)

RETINAFACE_NAME = "mobilenet0.25_Final.pth"
FARL_NAMES = {
    "lapa": "face_parsing.farl.lapa.main_ema_136500_jit191.pt",
    "celebm": "face_parsing.farl.celebm.main_ema_181500_jit.pt",
}


# facer


@pytest.fixture(scope="module")
def backend() -> Iterator[ModuleType]:
    """`fit3d.observe.facer`, on machines too where the compiled part of torchvision does not load.

    There torchvision's Python code asks for operators that are missing; they get stubs, which nothing here calls.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for _ in range(50):
        try:
            import torchvision  # noqa: F401

            break
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}() -> ()")
            forget("torchvision")
    forget("facer", "fit3d.observe.facer")  # what failed before leaves halves behind
    import fit3d.observe.facer

    yield fit3d.observe.facer
    del library


def forget(*packages: str) -> None:
    for name in list(sys.modules):
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which facer looks, empty; whoever downloads fails."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def download(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for variant in VARIANTS:
        files = weights.BACKENDS[f"facer:{variant}"]
        assert {file.name for file in files} == {FARL_NAMES[variant], RETINAFACE_NAME}
        unchecked = tuple(replace(file, size=None, sha256=None) for file in files)
        monkeypatch.setitem(weights.BACKENDS, f"facer:{variant}", unchecked)
    for name in ("FARL_LAPA", "FARL_CELEBM", "RETINAFACE"):
        monkeypatch.setattr(weights, name, replace(getattr(weights, name), size=None, sha256=None))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def put(hub: Path, variant: str, network: torch.nn.Module) -> None:
    """Write a network where facer looks for FaRL, and something that is none where it looks for RetinaFace."""
    torch.jit.script(network.eval()).save(str(hub / FARL_NAMES[variant]))
    (hub / RETINAFACE_NAME).write_bytes(b"\0no network\0")


def names_of(backend: ModuleType, variant: str) -> list[str]:
    names: list[str] = backend.facer.face_parsing.farl.pretrain_settings[f"{variant}/448"]["label_names"]
    assert len(names) == len(PARTS[variant])
    return names


FACES = {
    "upright": (Face(150.0, 110.0, 26.0), 300, 280),
    "turned": (Face(160.0, 150.0, 24.0, 0.6), 300, 330),
    "lying": (Face(170.3, 140.7, 24.0, -math.pi / 2), 300, 320),
    "upside down": (Face(140.0, 190.0, 25.0, math.pi), 300, 280),
    "large": (Face(460.0, 380.0, 110.0, 0.1), 940, 900),
    "small, in the corner": (Face(420.0, 40.0, 9.0), 500, 470),
    "cut off": (Face(20.0, 60.0, 25.0), 220, 240),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FACES)
def test_labels_lie_where_the_photo_shows_them(backend: ModuleType, hub: Path, variant: str, name: str) -> None:
    """There and back through facer's alignment, and each class under its label, sides included."""
    face, height, width = FACES[name]
    photo, expected = painted(face, height, width, variant, names_of(backend, variant))
    put(hub, variant, ByColour(colours_of(variant)))
    layout: LandmarkLayout = "mediapipe478" if name == "turned" else "ibug68"
    parsing = backend.FacerParser(variant=variant).parse(photo, face.landmarks(layout))
    assert parsing.labels.dtype == np.uint8 and parsing.labels.shape == (height, width)
    # a border is as sharp as a pixel of the crop, where that is larger than one of the photo
    crop_px = face.unit / (105.0 / 2 if variant == "lapa" else 448.0 / 8.06)
    sure = ~near_borders(expected, max(1.0, 2.0 * crop_px))
    if variant == "lapa":  # compressed far from the face
        u, v = (face.px(np.zeros(2))[:, None, None] - np.mgrid[0:height, 0:width][::-1] - 0.5) / face.unit
        sure &= np.hypot(u, v) < 3.0
    wrong = sure & (parsing.labels != expected)
    assert not wrong.any(), (np.argwhere(wrong)[:5], parsing.labels[wrong][:5], expected[wrong][:5])
    features = {
        "cut off": {LEFT_EYE, NOSE, SKIN},
        "small, in the corner": {NOSE, SKIN, HAIR},
    }.get(name, {*range(1, 10), HAIR})
    assert features <= set(np.unique(expected[sure]))  # the comparison says something of each of them


def test_borders_have_no_bias(backend: ModuleType, hub: Path) -> None:
    """Areas and centroids come back to a fraction of a pixel, so no half pixel is lost between the three grids."""
    # Grey skin and features in pure colours: a mixture of two is like no third.
    colour_of = {
        **{"face": (128, 128, 128), "nose": (0, 0, 255), "rb": (255, 0, 0), "lb": (0, 255, 0)},
        **{"re": (255, 255, 0), "le": (0, 255, 255), "background": (0, 0, 0)},
    }
    for variant in VARIANTS:
        names = names_of(backend, variant)
        colours = np.array([colour_of.get(name, (9999, 9999, 9999)) for name in names])
        put(hub, variant, ByColour(colours))
        for face, height, width in (
            (Face(231.25, 190.75, 51.0, 0.3), 420, 440),
            (Face(420.5, 380.0, 110.0, -0.2), 860, 840),
        ):
            classes = face.classes(height, width, [name if name in colour_of else "" for name in names])
            photo, expected = Photo.from_array(colours[classes].astype(np.uint8)), np.array(PARTS[variant])[classes]
            labels = backend.FacerParser(variant=variant).parse(photo, face.landmarks()).labels
            for part in (RIGHT_EYE, LEFT_EYE, RIGHT_EYEBROW, LEFT_EYEBROW, NOSE):
                found, true = (np.argwhere(of == part) for of in (labels, expected))
                # a tenth of a pixel of the crop or of the photo, whichever is larger
                assert np.abs(found.mean(0) - true.mean(0)).max() < 0.1 * max(1.0, face.unit / 52.0), (variant, part)
                assert abs(len(found) / len(true) - 1.0) < 0.03, (variant, part)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_sees_the_face_upright_where_it_was_trained_to(
    backend: ModuleType, hub: Path, variant: str
) -> None:
    put(hub, variant, ByColour(colours_of(variant)))
    names = names_of(backend, variant)
    parser = backend.FacerParser(variant=variant)
    # facer's standard face of 512 px, and its square around the head, at 448 px
    expected = {
        "lapa": np.array([(196.0, 226.0), (316.0, 226.0)]) * 447.0 / 512.0,
        "celebm": 224.0 + 448.0 / 8.064 * (FIVE[:2] - (0.0, 0.224)),
    }[variant]
    for name, (face, height, width) in FACES.items():
        photo, _ = painted(face, height, width, variant, names)
        for layout in ("ibug68", "mediapipe478"):
            points = parser._five_points(photo, face.landmarks(layout))
            np.testing.assert_allclose(points.numpy(), face.px(FIVE), atol=1e-3)
            crop = parser._crop(photo, points)
            half_px = 0.5 * max(52.0 / face.unit, 1.0)  # facer counts from pixel centres; turned, that goes any way
            np.testing.assert_allclose(crop.eyes.numpy(), expected, atol=0.3 + math.sqrt(2.0) * half_px)
            if name != "cut off":
                seen = crop.image[0, :, crop.eyes[:, 1].long(), crop.eyes[:, 0].long()].T.numpy() * 255.0
                eyes = colours_of(variant)[[names.index("re"), names.index("le")]]
                np.testing.assert_allclose(seen, eyes, atol=2.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_facer_itself_does_it(backend: ModuleType, hub: Path, variant: str) -> None:
    """Its way from photo to logits of the photo, which takes far more memory; landmarks counted from pixel centres."""
    put(hub, variant, ByColour(colours_of(variant), sharpness=200.0))
    face, height, width = FACES["turned"]
    photo, _ = painted(face, height, width, variant, names_of(backend, variant))
    parser = backend.FacerParser(variant=variant)
    image = torch.from_numpy(photo.pixels).permute(2, 0, 1)[None]
    points = torch.from_numpy(face.px(FIVE)[None] - 0.5).float()
    logits = parser._network(image, {"points": points, "image_ids": torch.tensor([0])})["seg"]["logits"][0]
    expected = np.array(PARTS[variant])[logits.argmax(0).numpy()]
    labels = parser.parse(photo, face.landmarks()).labels
    inside = ~near_borders(expected, 1.0)
    assert (labels == expected)[inside].mean() > 0.999 and (labels == expected).mean() > 0.98


@pytest.mark.parametrize("variant", VARIANTS)
def test_landmarks_have_the_last_word_on_left_and_right(backend: ModuleType, hub: Path, variant: str) -> None:
    names = names_of(backend, variant)
    face = Face(150.0, 110.0, 26.0, 0.2)
    photo, expected = painted(face, 300, 280, variant, names)
    colours = colours_of(variant).copy()
    for right, left in (("rb", "lb"), ("re", "le")):
        pair = [names.index(right), names.index(left)]
        colours[pair] = colours[pair[::-1]]
    put(hub, variant, ByColour(colours))
    labels = backend.FacerParser(variant=variant).parse(photo, face.landmarks()).labels
    for part in (RIGHT_EYE, LEFT_EYE, RIGHT_EYEBROW, LEFT_EYEBROW):
        assert (labels == part).sum() > 100 and not (
            (labels == part) & (expected != part) & ~near_borders(expected, 1)
        ).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_faces_are_left_out(backend: ModuleType, hub: Path, variant: str) -> None:
    names = names_of(backend, variant)
    faces = [Face(110.0, 100.0, 20.0), Face(290.0, 105.0, 20.0)]
    both, alone = np.zeros((2, 240, 400), np.int64)
    for face in faces:
        classes = face.classes(240, 400, [name for name in names if name != "hair"])
        both[classes > 0] = classes[classes > 0]
    alone = np.where(np.arange(400) < 200, both, 0)
    put(hub, variant, ByColour(colours_of(variant)))
    photo = Photo.from_array(colours_of(variant)[both])
    labels = backend.FacerParser(variant=variant).parse(photo, faces[0].landmarks()).labels
    for part in range(RIGHT_EYE, INNER_MOUTH + 1):
        assert not (labels == part)[:, 200:].any(), part
        assert (labels == part).sum() > 0.6 * (np.array(PARTS[variant])[alone] == part).sum() > 0, part


# Confidence


def test_confidence_is_the_probability_of_the_part(backend: ModuleType, hub: Path) -> None:
    """A part's probability is the sum over its classes, and its confidence the mean over its pixels."""
    names = names_of(backend, "celebm")
    chances = torch.full((len(names), SIDE, SIDE), 1e-6)
    # No class of `other` is as likely as skin, all together are more so.
    regions = {
        "left third": (slice(0, 150), {"face": 0.4, "neck": 0.35, "cloth": 0.25}),
        "middle": (slice(150, 300), {"nose": 0.9, "face": 0.1}),
        "right third": (slice(300, 448), {"hair": 0.7, "hat": 0.3}),
    }
    for columns, chance in regions.values():
        for name, value in chance.items():
            chances[names.index(name), :, columns] = value
    put(hub, "celebm", ByPlace(chances.log()))
    face = Face(200.0, 180.0, 30.0)
    photo = Photo.from_array(np.zeros((500, 400, 3), np.uint8))
    parsing = backend.FacerParser(variant="celebm").parse(photo, face.landmarks())
    assert set(np.unique(parsing.labels)) == {BACKGROUND, OTHER, NOSE, HAIR}
    assert parsing.confidence is not None and parsing.confidence.shape == (12,)
    expected = {OTHER: 0.6, NOSE: 0.9, HAIR: 0.7}
    for part, confidence in enumerate(parsing.confidence):
        if part != BACKGROUND:
            assert confidence == pytest.approx(expected.get(part, 0.0), abs=0.012), part


def test_confidence_counts_what_the_photo_shows(backend: ModuleType, hub: Path) -> None:
    """The network labels its whole square; here a third of the nose lies beyond the photo's left end."""
    names = names_of(backend, "celebm")
    logits = torch.zeros(len(names), SIDE, SIDE)
    logits[names.index("face")] = 5.0
    logits[names.index("nose"), 100:300, 120:270] = 50.0
    put(hub, "celebm", ByPlace(logits))
    parser = backend.FacerParser(variant="celebm")
    face = Face(200.0, 180.0, 25.0)
    whole = parser.parse(Photo.from_array(np.zeros((500, 500, 3), np.uint8)), face.landmarks())
    nose = np.flatnonzero((whole.labels == NOSE).any(0))
    cut = int(nose[0] + (nose[-1] + 1 - nose[0]) / 3)
    parsing = parser.parse(
        Photo.from_array(np.zeros((500, 500 - cut, 3), np.uint8)), replace(face, x=face.x - cut).landmarks()
    )
    np.testing.assert_array_equal(parsing.labels, whole.labels[:, cut:])
    assert whole.confidence is not None and parsing.confidence is not None
    assert whole.confidence[NOSE] == pytest.approx(1.0, abs=0.01)
    assert parsing.confidence[NOSE] == pytest.approx(2.0 / 3.0, abs=0.015)


def test_nothing_is_said_of_what_the_network_did_not_see(backend: ModuleType, hub: Path) -> None:
    for variant in VARIANTS:
        names = names_of(backend, variant)
        logits = torch.zeros(len(names), SIDE, SIDE)
        logits[names.index("hair")] = 50.0
        put(hub, variant, ByPlace(logits))
        face = Face(700.0, 600.0, 10.0, 0.4)
        parser = backend.FacerParser(variant=variant)
        labels = parser.parse(Photo.from_array(np.zeros((1200, 1400, 3), np.uint8)), face.landmarks()).labels
        inside = np.argwhere(labels == HAIR) + 0.5
        if (
            variant == "celebm"
        ):  # a square that reaches as far as twice the distance of the eyes, or 1.8 times that to the mouth
            side = 2.0 * face.unit * max(2.0 * 2.0, 1.8 * 2.24)
        else:  # 512 / 60 units, and as far again as an arctanh of 0.999 leads
            side = 512.0 / 60.0 * face.unit * (0.2 + 0.8 * math.atanh(0.999))
        assert len(inside) == pytest.approx(side**2, rel=0.01), variant
        from_face = inside[:, ::-1] - (face.x, face.y)
        corner = np.hypot(*from_face.T).max()
        assert corner == pytest.approx(side / math.sqrt(2.0), rel=0.2), variant


# Batches


def test_batches_give_what_single_photos_give(backend: ModuleType, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU one by one, on an accelerator so many at once: the same labels, whatever the sizes of the photos."""
    sizes = []
    put(hub, "lapa", ByColour(colours_of("lapa"), sharpness=40.0))
    parser = backend.FacerParser()
    faces = [FACES[name] for name in ("upright", "small, in the corner", "cut off")]
    photos = [painted(face, *size, "lapa", names_of(backend, "lapa"))[0] for face, *size in faces]
    landmarks = [face.landmarks() for face, *_ in faces]
    singles = [parser.parse(photo, face) for photo, face in zip(photos, landmarks, strict=True)]

    forward = parser._network.forward_warped

    def counted(images: torch.Tensor, return_preds: bool, forward: object = forward) -> torch.Tensor:
        sizes.append(len(images))
        result: torch.Tensor = forward(images, return_preds=return_preds)  # type: ignore[operator]
        return result

    parser._network.forward_warped = counted
    assert_same(parser.parse_batch(photos, landmarks), singles, 0.0)
    assert sizes == [1] * 3
    sizes.clear()
    with monkeypatch.context() as patch:
        patch.setattr(backend, "on_cpu", lambda tensor: False)
        patch.setattr(backend, "BATCH", 2)
        assert_same(parser.parse_batch(photos, landmarks), singles, 1e-5)
    assert sizes == [2, 1]
    sizes.clear()
    assert parser.parse_batch([], []) == []


def assert_same(found: list[Parsing], expected: list[Parsing], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.confidence is not None and other.confidence is not None
        np.testing.assert_allclose(one.confidence, other.confidence, atol=tolerance, rtol=0.0)


def test_same_bytes_from_the_first_to_the_last_call(backend: ModuleType, hub: Path) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa"), sharpness=40.0))
    face, height, width = FACES["turned"]
    photo, _ = painted(face, height, width, "lapa", names_of(backend, "lapa"))
    parser = backend.FacerParser()
    assert parser.backend == Backend("facer:lapa", backend.version("pyfacer"))
    first, *others = [parser.parse(photo, face.landmarks()) for _ in range(4)]
    assert_same(others, [first] * 3, 0.0)


def test_memory_of_a_large_photo_is_bounded_by_strips(
    backend: ModuleType, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa")))
    parser = backend.FacerParser()
    face, height, width = FACES["turned"]
    photo, _ = painted(face, height, width, "lapa", names_of(backend, "lapa"))
    whole = parser.parse(photo, face.landmarks())
    monkeypatch.setattr(backend, "STRIP_PIXELS", 7 * width)
    largest = []
    sampled = parser._sampled
    monkeypatch.setattr(
        parser, "_sampled", lambda *arguments: largest.append(sampled(*arguments).shape) or sampled(*arguments)
    )
    assert_same([parser.parse(photo, face.landmarks())], [whole], 1e-5)
    assert len(largest) == math.ceil(height / 7) and {shape[1] for shape in largest[:-1]} == {7}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gives_what_the_cpu_gives(backend: ModuleType, hub: Path) -> None:
    for variant in VARIANTS:
        put(hub, variant, ByColour(colours_of(variant)))
        faces = list(FACES.values())
        photos = [painted(face, *size, variant, names_of(backend, variant))[0] for face, *size in faces]
        landmarks = [face.landmarks() for face, *_ in faces]
        cpu, gpu = (backend.FacerParser(device, variant).parse_batch(photos, landmarks) for device in ("cpu", "cuda"))
        for one, other in zip(cpu, gpu, strict=True):
            assert (one.labels == other.labels).mean() > 0.9999
            np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-3)


# RetinaFace

ANCHOR_PX, STRIDE_PX = 256, 32
"""The smaller of the two sizes of the coarsest of RetinaFace's three grids of anchors."""


def put_retinaface(backend: ModuleType, hub: Path) -> None:
    """RetinaFace's own architecture, whose heads say, whatever they see: a face at each such anchor."""
    torch.manual_seed(0)
    network = backend.retinaface.RetinaFace(backend.retinaface.cfg_mnet, phase="test")
    with torch.no_grad():
        for level in range(3):
            for head in (network.ClassHead, network.BboxHead, network.LandmarkHead):
                head[level].conv1x1.weight.zero_()
                head[level].conv1x1.bias.zero_()
            # for each of two sizes of anchors: no face, face
            certain = torch.tensor([0.0, 9.0, 9.0, 0.0] if level == 2 else [9.0, 0.0, 9.0, 0.0])
            network.ClassHead[level].conv1x1.bias.copy_(certain)
            # five points relative to the anchor's centre, in a tenth of its size
            five = torch.from_numpy((FIVE - (0.0, 1.0)) * 0.12 / 0.1).float().reshape(-1)
            network.LandmarkHead[level].conv1x1.bias.copy_(five.repeat(2))
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, hub / RETINAFACE_NAME
    )


@pytest.mark.parametrize("missing", [30, 36, 54])
def test_retinaface_is_asked_for_points_that_landmarks_lack(backend: ModuleType, hub: Path, missing: int) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa")))
    put_retinaface(backend, hub)
    face = Face(1060.0, 700.0, 110.0)
    photo = Photo.from_array(np.zeros((1600, 2100, 3), np.uint8))
    complete = face.landmarks()
    lacking = replace(complete, points_px=complete.points_px.copy())
    lacking.points_px[missing] = np.nan
    parser = backend.FacerParser()
    found = parser._five_points(photo, lacking).numpy()

    # The anchor that overlaps the landmarks' box best of those that are left: its lattice, seen in photo px
    left, top, right, bottom = lacking.box_px
    side = 3.0 * max(right - left, bottom - top)
    low = np.floor(np.array([left + right, top + bottom]) / 2 - side / 2).clip(0)
    high = np.minimum(np.ceil(np.array([left + right, top + bottom]) / 2 + side / 2), (photo.width, photo.height))
    view = np.rint((high - low) * 640.0 / (high - low).max())
    px = (high - low) / view
    middle = found.mean(0) - ((FIVE - (0.0, 1.0)) * 0.12 * ANCHOR_PX).mean(0) * px
    np.testing.assert_allclose(found, middle + (FIVE - (0.0, 1.0)) * 0.12 * ANCHOR_PX * px, atol=0.05)
    cell = (middle - low) / px / STRIDE_PX - 0.5
    np.testing.assert_allclose(cell, np.rint(cell), atol=0.002)
    assert np.abs(middle - [(left + right) / 2, (top + bottom) / 2]).max() < 0.6 * ANCHOR_PX * px.max()


def test_retinaface_is_not_read_where_landmarks_suffice(backend: ModuleType, hub: Path) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa")))
    face, height, width = FACES["upright"]
    photo, _ = painted(face, height, width, "lapa", names_of(backend, "lapa"))
    landmarks = face.landmarks()
    landmarks.points_px[[0, 8, 60]] = np.nan
    parser = backend.FacerParser()
    parser.parse(photo, landmarks)
    landmarks.points_px[48] = np.nan
    with pytest.raises(UsageError, match=r"mobilenet0\.25_Final\.pth .*; run: fit3d weights pull facer:lapa"):
        parser.parse(photo, landmarks)


def test_retinaface_sees_nothing(backend: ModuleType, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa")))
    put_retinaface(backend, hub)
    parser = backend.FacerParser()
    landmarks = Face(100.0, 80.0, 8.0).landmarks()  # far smaller than the anchor that stands for a face
    landmarks.points_px[30] = np.nan
    for place in (0.0, 5000.0):  # beyond the photo even
        shifted = replace(landmarks, points_px=landmarks.points_px + place)
        with pytest.raises(ObservationError, match=r"^p\.jpg: facer needs eyes.*--parser\)$") as caught:
            parser.parse(Photo.from_array(np.zeros((200, 220, 3), np.uint8), name="p.jpg"), shifted)
        assert "\n" not in str(caught.value)


# Errors


def test_points_in_one_place(backend: ModuleType, hub: Path) -> None:
    for variant in VARIANTS:
        put(hub, variant, ByColour(colours_of(variant)))
        landmarks = Landmarks("ibug68", np.full((68, 2), 30.0), NOTHING)
        photo = Photo.from_array(np.zeros((60, 70, 3), np.uint8), name="p.jpg")
        with pytest.raises(ObservationError, match=r"^p\.jpg: .*in one place"):
            backend.FacerParser(variant=variant).parse(photo, landmarks)


def test_missing_weights_name_the_command(backend: ModuleType) -> None:
    for variant in VARIANTS:
        with pytest.raises(UsageError, match=rf"run: fit3d weights pull facer:{variant}$") as caught:
            backend.FacerParser(variant=variant)
        assert FARL_NAMES[variant] in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_weights_name_the_file(
    backend: ModuleType, hub: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put(hub, "lapa", ByColour(colours_of("lapa")))
    file = hub / FARL_NAMES["lapa"]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        UsageError, match=r"facer:lapa: cannot read .*jit191\.pt .*; run: fit3d weights pull facer:lapa$"
    ) as caught:
        backend.FacerParser()
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""
    file.write_bytes(content)
    monkeypatch.setattr(weights, "FARL_LAPA", replace(weights.FARL_LAPA, sha256="0123456789"))
    with pytest.raises(UsageError, match="SHA-256"):  # TorchScript is a program: not run unless it is the right one
        backend.FacerParser()


def test_torchvision_that_does_not_load(backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its compiled part is for another torch, whatever this machine has; asked twice, the same answer."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.split(".")[0] in ("torchvision", "facer"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fit3d.observe.facer")
    commands = {
        "2.13.0+cpu": '"torchvision==0.28.*" --index-url https://download.pytorch.org/whl/cpu',
        "2.6.0+cu124": '"torchvision==0.21.*" --index-url https://download.pytorch.org/whl/cu124',
        "2.2.1": '"torchvision==0.17.*"',
        "3.0.0": "torchvision",
    }
    for torch_version, command in [*commands.items(), *commands.items()]:
        monkeypatch.setattr(torch, "__version__", torch_version)
        with pytest.raises(UsageError) as caught:
            importlib.import_module("fit3d.observe.facer")
        assert str(caught.value) == (
            f"--parser facer: the compiled part of torchvision does not fit torch {torch_version} (operator "
            f"torchvision::nms does not exist); run: pip install --force-reinstall --no-deps {command}"
        )
