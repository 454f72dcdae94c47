"""The networks of the face-alignment package: its own code on weights whose answers are known.

`_colour_fan` is FAN's own architecture with weights that answer with the colours of the midline's dots.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
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

from dot_faces import COLOUR, DOT, MIDLINE, DotNetwork, Finder, Head, assert_found, draw
from fit3d.errors import UsageError
from fit3d.observe import face_alignment as backend
from fit3d.observe import weights
from fit3d.observe.face_alignment import FaceAlignmentLandmarks, read_heatmaps
from fit3d.observe.registry import landmark_detector


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
