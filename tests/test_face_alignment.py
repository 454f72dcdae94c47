"""FAN and the face detectors of the face-alignment package: its own code on weights whose answers are known.

The photos show 68 soft dots in place of a face, both of a pair in one colour. `_colour_fan` is FAN's own architecture
with weights that answer with the colours of the midline's dots; `DotNetwork` stands for a trained FAN: it knows all
dots, tells left from right by their place beside the midline, and guesses, unsure, that a face that lies stands.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import face_alignment
import numpy as np
import pytest
import torch
from face_alignment import api, utils
from face_alignment.detection.blazeface import blazeface_detector
from face_alignment.detection.blazeface.net_blazeface import BlazeFace
from face_alignment.detection.scrfd import scrfd_detector
from face_alignment.detection.sfd import sfd_detector
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.detection.yunet import yunet_detector
from face_alignment.models import FAN
from torch.nn import functional

from fit3d.errors import ObservationError, UsageError
from fit3d.observe import face_alignment as backend
from fit3d.observe import weights
from fit3d.observe.base import Landmarks
from fit3d.observe.face_alignment import FaceAlignmentLandmarks, read_heatmaps, surface_contour_share
from fit3d.observe.registry import landmark_detector
from fit3d.photo import Photo

PAIRS = (
    *((right, 16 - right) for right in range(8)),
    *((17 + step, 26 - step) for step in range(5)),
    *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (58, 56), (59, 55), (60, 64), (61, 63), (67, 65)),
)
"""iBUG's points on the person's right, which lie left in a photo, and their partners."""
MIDLINE = (27, 28, 29, 30, 33, 51, 62, 66, 57, 8)
"""From the nasion down to the chin."""
SPACING = 6.0 / 64.0
"""Between dots, in sides of FAN's crop."""
DOT = 1.2 / 64.0
"""Standard deviation of a dot, in sides of FAN's crop."""
FILES = (weights.FAN_2D, weights.FAN_3D, weights.SFD, weights.BLAZEFACE, weights.BLAZEFACE_ANCHORS)


def _colours(count: int) -> np.ndarray:
    """(count, 3) unit vectors, far apart."""
    at = np.arange(count) + 0.5
    height, turn = 1.0 - 2.0 * at / count, np.pi * (1.0 + 5.0**0.5) * at
    radius = np.sqrt(1.0 - height**2)
    return np.column_stack([radius * np.cos(turn), radius * np.sin(turn), height])


COLOUR = np.empty((68, 3))
"""Of each landmark's dot, from grey; both of a pair have the same."""
PLACE = np.empty((68, 2))
"""Of each dot, from the middle of the crop, in sides of the crop."""
_each = _colours(len(MIDLINE) + len(PAIRS))
for _row, _point in enumerate(MIDLINE):
    COLOUR[_point], PLACE[_point] = _each[_row], (0.0, _row - 4.5)
for _number, (_right, _left) in enumerate(PAIRS):
    COLOUR[[_right, _left]] = _each[len(MIDLINE) + _number]
    PLACE[_right] = (-(_number // 8) - 1.0, _number % 8 - 3.5)
    PLACE[_left] = (_number // 8 + 1.0, _number % 8 - 3.5)
PLACE *= SPACING


@dataclass(frozen=True)
class Head:
    """A face of dots."""

    x: float
    y: float
    """Where the middle of FAN's crop belongs, photo px."""
    face: float
    """Side of the box that a detector would draw, photo px."""
    turn: float = 0.0
    """Radians clockwise, as seen."""

    @property
    def side(self) -> float:
        """Of FAN's crop, photo px: the package takes 200 / 195 times width and height together."""
        return 200.0 * 2.0 * self.face / 195.0

    @property
    def points(self) -> np.ndarray:
        """(68, 2) photo px."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.array([self.x, self.y]) + self.side * PLACE @ np.array([[cos, sin], [-sin, cos]])

    def box(self) -> np.ndarray:
        """(5,) what a detector says of it upright; the package's crop is centred 0.12 box heights above the box's."""
        x, y = self.x, self.y + 0.12 * self.face
        return np.array([x - self.face / 2, y - self.face / 2, x + self.face / 2, y + self.face / 2, 0.9])


def draw(width: int, height: int, *heads: Head, only: tuple[int, ...] = tuple(range(68))) -> Photo:
    """A grey photo with dots at the points of some faces."""
    pixels = np.full((height, width, 3), 0.5)
    for head in heads:
        spread = DOT * head.side
        reach = int(np.ceil(4.0 * spread))
        for point in only:
            x, y = head.points[point]
            left, right = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
            top, bottom = max(int(y) - reach, 0), min(int(y) + reach + 1, height)
            if left >= right or top >= bottom:
                continue
            columns, rows = np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y
            dot = np.exp(-(columns[None] ** 2 + rows[:, None] ** 2) / (2.0 * spread**2))
            pixels[top:bottom, left:right] += 0.45 * dot[..., None] * COLOUR[point]
    return Photo.from_array(np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8))


def _gaussians(at: np.ndarray, height: np.ndarray | float = 1.0) -> np.ndarray:
    """Heatmaps (N, 64, 64) with a peak at each of `at` (N, 2), px from the corner, as FAN was trained to draw them."""
    centres = np.arange(64) + 0.5
    squared = (centres - at[:, :1])[:, None, :] ** 2 + (centres - at[:, 1:])[:, :, None] ** 2
    return np.asarray(height).reshape(-1, 1, 1) * np.exp(-squared / (2.0 * 1.75**2))


class DotNetwork(torch.nn.Module):
    """Heatmaps (N, 68, 64, 64) of crops (N, 3, 256, 256), as a trained FAN gives them."""

    def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
        colour = torch.from_numpy(COLOUR).to(crops)
        crops = torch.where(crops.sum(1, keepdim=True) < 0.1, 0.5, crops)  # beyond the photo
        seen = torch.einsum("pc,nchw->nphw", colour, functional.avg_pool2d(crops, 4) - 0.5) / 0.45
        grid = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy"))
        for each in seen:
            nasion, chin = (grid.flatten(1)[:, each[point].argmax()] for point in (27, 8))
            down = (chin - nasion) / (chin - nasion).norm().clamp(min=1e-3)
            left = (grid - nasion[:, None, None]).mul(torch.stack([down[1], -down[0]])[:, None, None]).sum(0) > 0.0
            for point_right, point_left in PAIRS:
                each[point_right] *= ~left
                each[point_left] *= left
            if down[1] < 0.5:
                each[:] = 0.15 * torch.from_numpy(_gaussians(64.0 * PLACE + 32.0)).to(each)
            else:
                each *= 0.05 + 0.85 * float(down[1]) ** 2
        return [torch.zeros_like(seen), seen]


class Finder:
    """A detector that sees faces of dots which stand upright and are at least `least_px` large in the picture."""

    reference_scale = 195

    def __init__(self, least_px: float = 24.0) -> None:
        self.least_px = least_px
        self.shapes: list[tuple[int, ...]] = []

    def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
        self.shapes.append(picture.shape)
        shown = cv2.GaussianBlur(picture.astype(np.float32) / 255.0 - 0.5, (0, 0), 0.8)
        # the dots of lids and lips give the same colour again at the border to black, but fainter
        nasion, chin = (self._brightest(shown @ COLOUR[point].astype(np.float32)) for point in (27, 8))
        if nasion is None or chin is None or chin[1] - nasion[1] <= 3.0 * abs(chin[0] - nasion[0]):
            return []
        side = np.linalg.norm(chin - nasion) / (9.0 * SPACING)
        head = Head(*(nasion + chin) / 2.0, face=side * 195.0 / 400.0)
        return [head.box()] if head.face >= self.least_px else []

    def detect_from_batch(self, batch: torch.Tensor) -> list[list[np.ndarray]]:
        return [self.detect_from_image(picture.permute(1, 2, 0).numpy()) for picture in batch]

    @staticmethod
    def _brightest(response: np.ndarray) -> np.ndarray | None:
        row, column = np.unravel_index(response.argmax(), response.shape)
        return np.array([column + 0.5, row + 0.5]) if response[row, column] > 0.2 else None


class Boxes:
    """A detector that knows the faces of a photo of some size and sees them in any upright view of all of it."""

    reference_scale = 195

    def __init__(self, width: int, *heads: Head) -> None:
        self.width, self.heads, self.looks = width, heads, 0

    def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
        self.looks += 1
        return [np.append(head.box()[:4] * picture.shape[1] / self.width, 0.9) for head in self.heads]


# Weights


def _spread(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, all zero (variances one), in a file of a few kilobytes: one number stands for a tensor."""
    return {
        name: torch.full((), 1.0 - 1e-5 if name.endswith("running_var") else 0.0, dtype=tensor.dtype).expand(
            tensor.shape
        )
        for name, tensor in state.items()
    }


def _pass_on(state: dict[str, torch.Tensor], *names: str, channels: int = 3, value: float = 1.0) -> None:
    """Let convolutions hand on the first channels, and normalisations all of them."""
    for name in names:
        tensor = state[f"{name}.weight"].clone()
        if tensor.ndim == 1:
            tensor[:] = 1.0
        for channel in range(channels if tensor.ndim == 4 else 0):
            tensor[channel, channel, tensor.shape[2] // 2, tensor.shape[3] // 2] = value
        state[f"{name}.weight"] = tensor


def _colour_fan() -> dict[str, torch.Tensor]:
    """FAN's state dict: heatmap i of the midline is u_i . (colour - grey) / 0.45, the others are 0.6 throughout."""
    state = _spread(FAN(4).state_dict())
    _pass_on(state, "bn1", "conv2.downsample.0", "conv4.downsample.0", "conv_last3", "bn_end3", "m3.b3_4.bn1")
    _pass_on(state, "conv2.downsample.2", "conv4.downsample.2")
    _pass_on(state, "m3.b3_4.conv1", value=-1.0)  # takes away what comes back from the hourglass's coarser levels
    first = state["conv1.weight"].clone()
    for channel in range(3):
        first[channel, channel, 3:5, 3:5] = 0.25  # with the pooling behind it, the mean of 4 x 4 px
    state["conv1.weight"] = first
    last, bias = state["l3.weight"].clone(), torch.full((68,), 0.6)
    for point in MIDLINE:
        last[point, :3, 0, 0] = torch.from_numpy(COLOUR[point] / 0.45)
        bias[point] = -0.5 * float(COLOUR[point].sum()) / 0.45
    state["l3.weight"], state["l3.bias"] = last, bias
    return state


CELL = 16
"""Stride of the level of S3FD that answers here; its boxes are 64 px."""


def _cell_s3fd(box_px: float) -> dict[str, torch.Tensor]:
    """S3FD's state dict: a face of `box_px` wherever a cell of 16 px holds anything red enough."""
    state = _spread(s3fd().state_dict())
    names = [
        name[:-7] for name in state if name.endswith(".weight") and name[:5] in ("conv2", "conv3", "conv4", "conv5")
    ]
    names = [name for name in names if "norm" not in name]
    _pass_on(state, *names, channels=1)
    first, bias = state["conv1_1.weight"].clone(), state["conv1_1.bias"].clone()
    # the package hands over blue - 104, green - 117, red - 123
    first[0, 2, 1, 1], first[0, 1, 1, 1] = 1.0, -1.0
    bias[0] = 123.0 - 117.0 - 150.0
    state["conv1_1.weight"], state["conv1_1.bias"] = first, bias
    _pass_on(state, "conv1_2", channels=1)
    for level in ("conv3_3", "conv4_3", "conv5_3"):
        state[f"{level}_norm.weight"] = torch.full_like(state[f"{level}_norm.weight"], 5.0)
    for name in [name for name in state if name.endswith("conf.bias")]:
        nothing = torch.zeros(state[name].shape)
        nothing[-1] = -9.0
        state[name] = nothing
    sure = state["conv5_3_norm_mbox_conf.weight"].clone()
    sure[1, 0, 1, 1] = 3.6  # 5 where the normalised channel is on, 0 elsewhere: 18 - 9
    state["conv5_3_norm_mbox_conf.weight"] = sure
    size = torch.zeros(4)
    size[2:] = 5.0 * float(np.log(box_px / 64.0))
    state["conv5_3_norm_mbox_loc.bias"] = size
    return state


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where the package looks for weights; asking for a download fails."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError(f"a download was asked for: {arguments}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(utils, "download_url_to_file", refuse)
    # the files written here have other sizes than the real ones
    monkeypatch.setattr(weights, "state_of", lambda file: "present" if file.path.is_file() else "missing")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Any]:
    """Contents of weight files by name; each architecture is built once."""
    blaze = {name: torch.zeros_like(tensor) for name, tensor in BlazeFace(back_model=True).state_dict().items()}
    blaze["classifier_8.bias"] += 3.0
    blaze["classifier_16.bias"] += 3.0
    for level in ("regressor_8", "regressor_16"):  # no shift, width and height as the anchor has them
        blaze[f"{level}.bias"].reshape(-1, 16)[:, 2:4] = 256.0
    return {
        weights.FAN_2D.name: _colour_fan(),
        weights.FAN_3D.name: _colour_fan(),
        weights.SFD.name: _cell_s3fd(96.0),
        weights.BLAZEFACE.name: blaze,
    }


@pytest.fixture
def stored(hub: Path, checkpoints: dict[str, Any]) -> Path:
    """The folder with weights for SFD and BlazeFace."""
    for name, state in checkpoints.items():
        torch.save(state, hub / name)
    return hub


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FaceAlignmentLandmarks]:
    """A backend whose FAN is the network of dots; `finder` stands in for its detector."""

    def made(finder: Any = None, **keywords: Any) -> FaceAlignmentLandmarks:
        networks = SimpleNamespace(face_alignment_net=DotNetwork(), face_detector=finder or Finder())
        with monkeypatch.context() as patch:
            patch.setattr(weights, "require", lambda name: None)
            patch.setattr(face_alignment, "FaceAlignment", lambda *kind, **keywords: networks)
            return FaceAlignmentLandmarks(**keywords)

    return made


def assert_found(found: Landmarks, head: Head, points: np.ndarray | None = None, tolerance: float = 0.03) -> None:
    """Each landmark at its dot: within `tolerance` pixels of a heatmap, which is far less than half a crop px."""
    apart = np.abs(found.points_px - (head.points if points is None else points)).max(1)
    assert found.layout == "ibug68"
    assert apart.max() < tolerance * head.side / 64.0, (apart.argmax(), apart.max())


# Weights and loading


def test_files_are_those_that_the_package_looks_for() -> None:
    assert Path(api.models_urls["2DFAN-4"]).name == weights.FAN_2D.name
    assert Path(api.models_urls["3DFAN-4"]).name == weights.FAN_3D.name
    assert sfd_detector.models_urls["s3fd"] == weights.SFD.address
    assert blazeface_detector.models_urls["blazeface_back_weights"] == weights.BLAZEFACE.address
    assert blazeface_detector.models_urls["blazeface_back_anchors"] == weights.BLAZEFACE_ANCHORS.address
    assert yunet_detector.model_url == weights.YUNET.address
    assert scrfd_detector.model_url == weights.SCRFD.address


@pytest.mark.parametrize("three_d", [False, True])
@pytest.mark.parametrize("variant", ["sfd", "blazeface", "yunet", "scrfd"])
def test_missing_weights_are_named_and_not_downloaded(hub: Path, variant: Any, three_d: bool) -> None:
    name = f"face-alignment{'-3d' if three_d else ''}:{variant}"
    network = weights.FAN_3D if three_d else weights.FAN_2D
    with pytest.raises(UsageError, match=rf"{network.name}.* fit3d weights pull {name}$") as caught:
        FaceAlignmentLandmarks(variant=variant, three_d=three_d)
    assert "\n" not in str(caught.value)
    assert list(hub.iterdir()) == []


def test_broken_weights_are_reported_in_one_line(stored: Path) -> None:
    whole = (stored / weights.FAN_2D.name).read_bytes()
    (stored / weights.FAN_2D.name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cannot load its weights .*fit3d weights verify") as caught:
        FaceAlignmentLandmarks()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [weights.FAN_2D, weights.SFD, weights.BLAZEFACE], ids=lambda file: file.name)
def test_weights_cannot_run_code(stored: Path, tmp_path: Path, file: weights.WeightFile) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    np.save(stored / weights.BLAZEFACE_ANCHORS.name, np.zeros((896, 4)))
    torch.save({"conv1.weight": Harmful()}, stored / file.name)
    with pytest.raises(UsageError, match="cannot load its weights"):
        FaceAlignmentLandmarks(variant="blazeface" if file is weights.BLAZEFACE else "sfd")
    assert not (tmp_path / "harmed").exists()


def test_device_is_handed_on(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(face_alignment, "FaceAlignment", lambda *kind, **keywords: asked.update(keywords, kind=kind))
    assert FaceAlignmentLandmarks(device="cuda:1")._batched
    assert asked["device"] == "cuda:1" and asked["compile"] is False
    assert asked["face_detector_kwargs"] == {"path_to_detector": str(stored / weights.SFD.name)}
    assert asked["kind"] == (api.LandmarksType.TWO_D,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_absent_device_is_reported(stored: Path) -> None:
    with pytest.raises(UsageError, match="on 'cuda'"):
        FaceAlignmentLandmarks(device="cuda")


def test_it_needs_no_torchvision_and_compiles_nothing() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import fit3d.observe.face_alignment\n"
        "from face_alignment import utils\n"
        "assert not utils._get_preds_fromhm.signatures and not utils.transform_np.signatures"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert result.stdout == b"" and result.stderr == b""


# The package's own networks


def test_real_networks_find_the_dots(stored: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # in the first view, of 320 px, the face is 96 px, and its red spot fills one cell of the detector
    shrink = 1.5
    head = Head(8 * CELL * shrink + 12.0, (8.5 * CELL - 0.12 * 96.0) * shrink, face=96.0 * shrink)
    photo = draw(480, 400, head, only=MIDLINE)
    cell = (slice(round(8 * CELL * shrink + 6), round(9 * CELL * shrink - 6)),) * 2
    photo.pixels[cell] = (255, 30, 90)
    detector = landmark_detector("face-alignment:sfd")
    assert isinstance(detector, FaceAlignmentLandmarks)
    (face,) = detector.detect(photo)
    middle = list(MIDLINE)
    hidden = [row for row, point in enumerate(middle) if _covers(cell, head.points[point], 4.0 * DOT * head.side)]
    seen = [point for row, point in enumerate(middle) if row not in hidden]
    assert len(seen) >= 6
    assert np.abs(face.points_px[seen] - head.points[seen]).max() < 0.03 * head.side / 64.0
    assert face.confidence is not None
    assert np.all(face.confidence[seen] > 0.75) and np.all(face.confidence <= 1.0)
    np.testing.assert_allclose(np.delete(face.confidence, middle), 0.6, atol=1e-5)
    ((again,),) = detector.detect_batch([photo])
    np.testing.assert_array_equal(again.points_px, face.points_px)
    np.testing.assert_array_equal(again.confidence, face.confidence)
    assert capfd.readouterr() == ("", "")


def _covers(cell: tuple[slice, slice], point: np.ndarray, reach: float) -> bool:
    rows, columns = cell
    return bool(
        rows.start - reach < point[1] < rows.stop + reach and columns.start - reach < point[0] < columns.stop + reach
    )


@torch.inference_mode()
def test_batches_of_the_real_detector_give_what_single_pictures_give(stored: Path) -> None:
    detector = FaceAlignmentLandmarks()
    pictures = [np.full((128, 160, 3), 128, np.uint8) for _ in range(4)]
    for picture, cells in zip(pictures, ([(2, 3)], [(2, 3)], [], [(5, 1), (2, 7)]), strict=True):
        for row, column in cells:
            picture[row * CELL + 5 : row * CELL + 11, column * CELL + 5 : column * CELL + 11] = (255, 30, 90)
    pictures[1][0] = 0
    pictures.append(pictures[3][:112].copy())
    single = detector._boxes(pictures)
    assert [len(boxes) for boxes in single] == [1, 1, 0, 2, 2]
    np.testing.assert_allclose(single[0][0][:4], [56 - 48, 40 - 48, 56 + 48, 40 + 48], atol=1e-3)
    detector._batched = True
    for one, other in zip(single, detector._boxes(pictures), strict=True):
        np.testing.assert_allclose(np.reshape(other, (-1, 5)), np.reshape(one, (-1, 5)), atol=1e-3)


@torch.inference_mode()
def test_random_weights_of_the_true_architecture_run(stored: Path) -> None:
    torch.save(FAN(4).state_dict(), stored / weights.FAN_2D.name)
    detector = FaceAlignmentLandmarks()
    picture = np.random.default_rng(1).integers(0, 255, (256, 256, 3), np.uint8)
    (heatmaps,) = detector._heatmaps([picture])
    assert heatmaps.shape == (68, 64, 64) and heatmaps.dtype == np.float32
    # half of what the package itself adds up
    network = detector._package.face_alignment_net
    crops = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0
    summed = network(crops)[-1] + utils.flip(network(utils.flip(crops))[-1], is_label=True)
    np.testing.assert_allclose(heatmaps, summed[0].numpy() / 2.0, atol=1e-5)
    at, confidence = read_heatmaps(heatmaps)
    assert np.all((at > 0.0) & (at < 64.0)) and np.all((confidence >= 0.0) & (confidence <= 1.0))


def test_blazeface_boxes_come_back_to_the_photo(stored: Path) -> None:
    # every anchor is the same box: one face in each view, at the same place of the view
    np.save(stored / weights.BLAZEFACE_ANCHORS.name, np.tile([0.5, 0.46, 0.25, 0.25], (896, 1)))
    detector = FaceAlignmentLandmarks(variant="blazeface")
    detector._package.face_alignment_net = DotNetwork()
    # the view is a square of 600 px around the photo, 100 px of it above the photo
    head = Head(300.0, 0.46 * 600.0 - 100.0 - 0.12 * 150.0, face=150.0)
    photo = draw(600, 400, head)
    (face,) = detector.detect(photo)
    assert_found(face, head)
    detector._batched = True
    for faces in detector.detect_batch([photo, photo]):
        assert_found(faces[0], head)


def test_yunet_gets_its_weights_and_its_boxes_are_used(
    stored: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    head = Head(200.0, 150.0, face=120.0)
    (stored / weights.YUNET.name).write_bytes(b"weights")
    made: list[str] = []

    class Network:
        def setInputSize(self, size: tuple[int, int]) -> None:
            self.scale = size[0] / 400.0

        def detect(self, picture: np.ndarray) -> tuple[int, np.ndarray]:
            left, top, right, bottom, score = head.box()
            box = np.array([left, top, right - left, bottom - top]) * self.scale
            return 1, np.concatenate([box, np.zeros(10), [score]])[None]

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda path, *rest: made.append(path) or Network())
    detector = FaceAlignmentLandmarks(variant="yunet")
    detector._package.face_alignment_net = DotNetwork()
    (face,) = detector.detect(draw(400, 300, head))
    assert made == [str(stored / weights.YUNET.name)]
    assert np.abs(face.points_px - head.points).max() < 0.03 * head.side / 64.0
    assert not recwarn.list


def test_scrfd_without_its_package_says_what_to_install(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stored / weights.SCRFD.name).write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"face-alignment:scrfd needs .*pip install onnxruntime"):
        FaceAlignmentLandmarks(variant="scrfd")


# Where the landmarks come to lie


@pytest.mark.parametrize(
    ("width", "height", "head"),
    [
        (512, 512, Head(260.3, 244.8, face=180.0)),
        (700, 400, Head(581.2, 191.7, face=140.0)),
        (400, 701, Head(190.0, 540.4, face=150.0)),
        (480, 480, Head(239.7, 241.1, face=205.0)),
        (3000, 2000, Head(1700.4, 911.9, face=700.0)),
        (300, 200, Head(149.6, 101.3, face=40.0)),
        (1600, 1200, Head(410.5, 733.2, face=60.0)),
    ],
    ids=["square", "wide", "tall", "filling", "six megapixels", "40 px", "small"],
)
def test_every_landmark_lies_on_its_dot(
    make: Callable[..., FaceAlignmentLandmarks], width: int, height: int, head: Head
) -> None:
    detector, points, photo = make(), head.points, draw(width, height, head)
    for _ in range(4):
        (face,) = detector.detect(photo)
        assert_found(face, head, points)
        assert face.confidence is not None
        assert face.confidence.min() > 0.5 and face.confidence.max() <= 0.95 and face.confidence.mean() > 0.7
        # a quarter turn against the clock takes (x, y) to (y, width - x)
        photo = Photo.from_array(np.rot90(photo.pixels))
        points = np.column_stack([points[:, 1], photo.height - points[:, 0]])


@pytest.mark.parametrize("degrees", [-40.0, -17.0, 8.0, 30.0, 75.0, 130.0])
def test_tilted_faces_are_cut_upright(make: Callable[..., FaceAlignmentLandmarks], degrees: float) -> None:
    class Tilted(Finder):
        """Sees a face up to 50 degrees from upright; its box stands upright all the same."""

        def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
            shown = picture.astype(np.float32) / 255.0 - 0.5
            nasion, chin = (self._brightest(shown @ COLOUR[point].astype(np.float32)) for point in (27, 8))
            if nasion is None or chin is None:
                return []
            if abs(np.degrees(np.arctan2(nasion[0] - chin[0], chin[1] - nasion[1]))) > 50.0:
                return []
            face = float(np.linalg.norm(chin - nasion)) / (9.0 * SPACING) * 195.0 / 400.0
            return [Head(*(nasion + chin) / 2.0, face=face).box()]

    head = Head(402.0, 377.0, face=200.0, turn=float(np.radians(degrees)))
    (face,) = make(Tilted()).detect(draw(800, 700, head))
    assert_found(face, head)


def test_a_lying_face_taken_for_upright_is_turned(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    for turns in (1, 2, 3):
        head = Head(250.0, 250.0, face=150.0)
        photo = Photo.from_array(np.rot90(draw(500, 500, head).pixels, turns))
        points = head.points - 250.0
        for _ in range(turns):
            points = np.column_stack([points[:, 1], -points[:, 0]])
        finder = Boxes(500, Head(250.0, 250.0 - 0.12 * 150.0, face=150.0))
        (face,) = make(finder).detect(photo)
        assert_found(face, head, points + 250.0, tolerance=0.05)
        assert finder.looks == 1


def test_faces_come_largest_first(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    heads = (Head(150.0, 160.0, face=60.0), Head(480.0, 300.0, face=120.0), Head(170.0, 480.0, face=80.0))
    photo = draw(700, 600, *heads)
    found = make(Boxes(700, *heads, heads[1])).detect(photo)
    assert len(found) == 3
    for face, head in zip(found, (heads[1], heads[2], heads[0]), strict=True):
        assert_found(face, head)


def test_the_first_look_is_coarse_and_a_finer_one_follows_only_where_needed(
    make: Callable[..., FaceAlignmentLandmarks],
) -> None:
    large, small = Finder(), Finder()
    make(large).detect(draw(2000, 1500, Head(900.0, 700.0, face=500.0)))
    assert large.shapes == [(240, 320, 3)]
    make(small).detect(draw(2000, 1500, Head(900.0, 700.0, face=60.0)))
    assert small.shapes[-1] == (960, 1280, 3) and (320, 240, 3) in small.shapes


def test_what_fan_does_not_recognise_is_no_face(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    assert make(Boxes(400, Head(200.0, 150.0, face=100.0))).detect(draw(400, 300)) == []
    assert make().detect(draw(90, 64)) == []


@pytest.mark.parametrize("shape", [(32, 2000), (2000, 32)])
def test_strips_are_searched(make: Callable[..., FaceAlignmentLandmarks], shape: tuple[int, int]) -> None:
    finder = Finder()
    assert make(finder).detect(draw(*shape)) == []
    assert all(min(each[:2]) >= 64 for each in finder.shapes)


def test_batches_give_what_single_photos_give(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    heads = [
        Head(210.0, 150.0, face=120.0),
        Head(200.0, 170.0, face=40.0),
        Head(190.0, 140.0, face=90.0, turn=np.pi / 2),
    ]
    photos = [draw(400, 300, heads[0]), draw(400, 300), draw(500, 400, heads[1]), draw(400, 300, heads[2])]
    detector = make()
    single = [detector.detect(photo) for photo in photos]
    assert [len(faces) for faces in single] == [1, 0, 1, 1]
    for batched in (False, True):
        detector._batched = batched
        together = detector.detect_batch(photos)
        for one, other in zip(single, together, strict=True):
            assert len(one) == len(other)
            for face, again in zip(one, other, strict=True):
                assert again.confidence is not None and face.confidence is not None
                np.testing.assert_allclose(again.points_px, face.points_px, atol=0.0 if not batched else 1e-3)
                np.testing.assert_allclose(again.confidence, face.confidence, atol=0.0 if not batched else 1e-5)


def test_broken_detector_boxes_are_passed_over(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    head = Head(200.0, 150.0, face=100.0)

    class Broken(Boxes):
        def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
            nonsense = [[np.nan, 0, 10, 10, 1], [50, 50, 40, 60, 1], [0, 0, np.inf, 9, 1]]
            return [*map(np.array, nonsense), *super().detect_from_image(picture)]

    (face,) = make(Broken(400, head)).detect(draw(400, 300, head))
    assert_found(face, head)


def test_scores_that_are_not_numbers_are_reported(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    class Broken(DotNetwork):
        def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
            heatmaps = super().forward(crops)
            heatmaps[-1][:, 40, 3, 3] = torch.nan
            return heatmaps

    detector = make()
    detector._package.face_alignment_net = Broken()
    with pytest.raises(ObservationError, match="not numbers"):
        detector.detect(draw(400, 300, Head(200.0, 150.0, face=120.0)))


# Heatmaps


def test_peaks_are_read_between_pixels() -> None:
    at = np.random.default_rng(2).uniform(4.0, 60.0, (200, 2))
    found, _ = read_heatmaps(_gaussians(at))
    np.testing.assert_allclose(found, at, atol=1e-6)


def test_peaks_agree_with_the_package_to_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    at = np.random.default_rng(3).uniform(2.0, 62.0, (68, 2))
    heatmaps = _gaussians(at).astype(np.float32)
    # the same code without minutes of compilation
    monkeypatch.setattr(utils, "transform_np", utils.transform_np.py_func)
    monkeypatch.setattr(utils, "_get_preds_fromhm", utils._get_preds_fromhm.py_func)
    theirs, _, scores = utils.get_preds_fromhm(heatmaps[None])
    ours, confidence = read_heatmaps(heatmaps)
    assert np.abs(ours - theirs[0]).max() <= 0.2501  # it moves a quarter of a pixel towards the higher neighbour
    np.testing.assert_allclose(confidence, scores[0])


def test_confidence_is_the_height_of_the_peak() -> None:
    at = np.full((5, 2), 20.5)
    heights = np.array([-0.5, 0.0, 0.3, 0.9, 1.7])
    _, confidence = read_heatmaps(_gaussians(at, heights))
    np.testing.assert_allclose(confidence, [0.0, 0.0, 0.3, 0.9, 1.0], atol=1e-12)
    # smeared by the uncertainty s, the Gaussian keeps the share s0^2 / (s0^2 + s^2) of its height
    sharp = _gaussians(np.array([[32.5, 32.5]]))[0]
    _, smeared = read_heatmaps(cv2.GaussianBlur(sharp, (0, 0), 1.75)[None])
    assert smeared[0] == pytest.approx(0.5, abs=0.01)


def test_peaks_at_the_border_and_plateaus_stay_at_pixels() -> None:
    heatmaps = np.zeros((4, 64, 64))
    heatmaps[0, 0, 63] = heatmaps[1, 63, 0] = 1.0
    heatmaps[2] = 0.4
    heatmaps[3, 5, 5] = np.nan
    at, confidence = read_heatmaps(heatmaps)
    np.testing.assert_array_equal(at[:3], [[63.5, 0.5], [0.5, 63.5], [0.5, 0.5]])
    assert np.isfinite(at).all()
    np.testing.assert_array_equal(confidence, [1.0, 1.0, 0.4, np.nan])


# 3D-FAN


def _jaw(yaw_deg: float, roll: float = 0.0) -> np.ndarray:
    """Points (68, 2) of a simple head, px: the jaw 70 mm to either side and 90 mm behind the nasion."""
    head = np.zeros((68, 3))
    for point in range(17):
        share = (point - 8) / 8.0
        head[point] = (70.0 * share, 110.0 * (1.0 - share**2), -90.0 * share**2)
    head[36:42], head[42:48] = (-30.0, 5.0, -20.0), (30.0, 5.0, -20.0)
    yaw = np.radians(yaw_deg)
    seen = np.column_stack([head[:, 0] * np.cos(yaw) + head[:, 2] * np.sin(yaw), head[:, 1]])
    return seen @ np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])


def test_contour_of_the_surface_has_no_say_where_a_cheek_hides_it() -> None:
    np.testing.assert_array_equal(surface_contour_share(_jaw(0.0)), 1.0)
    np.testing.assert_array_equal(surface_contour_share(_jaw(7.0)), 1.0)
    for yaw, far, near in ((30.0, range(9, 17), range(8)), (-30.0, range(8), range(9, 17))):
        share = surface_contour_share(_jaw(yaw, roll=2.0))
        np.testing.assert_array_equal(share[list(far)], 0.0)
        np.testing.assert_array_equal(share[[*near, *range(17, 68), 8]], 1.0)
    between = surface_contour_share(_jaw(13.0))
    assert 0.0 < between.min() < 1.0


def test_three_d_takes_its_own_network_and_no_depth(stored: Path) -> None:
    (stored / weights.FAN_2D.name).unlink()
    detector = FaceAlignmentLandmarks(three_d=True)
    detector._package.face_alignment_net, detector._package.face_detector = DotNetwork(), Finder()
    head = Head(230.0, 200.0, face=150.0)
    (face,) = detector.detect(draw(500, 400, head))
    assert_found(face, head)
    assert detector.backend.name == "face-alignment-3d:sfd"
    shifted = face.points_px.copy()
    shifted[:8] += 0.8 * (shifted[27] - shifted[:8])
    share = detector._trust(backend._Face(None, shifted, np.full(68, 0.5)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(share, np.where(np.arange(68) < 8, 0.0, 0.5))
