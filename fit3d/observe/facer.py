"""Part labels from FaRL, a network that was trained to label pixels, as the facer package runs it.

facer turns the face upright and to a standard size by five of its points (eye centres, tip of the nose, corners of the
mouth), labels a square of 448 x 448 px and carries the answer back. It takes the points from its face detector
RetinaFace; here they are taken from the landmarks, which are more exact and say which face is meant. RetinaFace is
asked only where the landmarks lack one of the five.

Two networks: 'lapa' sees nearly the whole photo, with what is far from the face compressed, and knows eleven classes,
in which ears belong to the skin and there are no glasses; 'celebm' sees a plain square around the head and knows
nineteen, ears, neck, glasses, hat, jewels and cloth among them.

**Left and right.** facer's class names are those of the data sets with the sides exchanged (what FaRL's own reader of
LaPa calls 'lb', facer calls 'rb'), and so taken for the person's own. As nothing else would show a mistake in this, the
landmarks have the last word: where most pixels of eyes and eyebrows lie nearer to the other eye, the sides are
exchanged.

**Confidence** of a part: the mean probability with which its pixels were given to it, times the share of it that lies
inside the photo (the network completes a face that the photo cuts off).

F. Zheng et al., 'General Facial Representation Learning in a Visual-Linguistic Manner', CVPR 2022.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fit3d.devices import on_cpu
from fit3d.errors import ObservationError, UsageError
from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    MIRRORED_PART,
    NOSE,
    OTHER,
    PART_NAMES,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LandmarkLayout
from fit3d.observe import weights
from fit3d.observe.base import Backend, FaceParser, Landmarks, Parsing
from fit3d.observe.label_image import labels_of_face
from fit3d.photo import Photo


def _torchvision_advice(problem: BaseException) -> str:
    """What to do where facer's import of torchvision fails, in one line."""
    said = " ".join(str(problem).split())
    release, _, build = torch.__version__.partition("+")
    major, minor = release.split(".")[:2]
    # torchvision 0.15 came with torch 2.0, and so on ever since
    wanted = f'"torchvision==0.{int(minor) + 15}.*"' if major == "2" else "torchvision"
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return (
        f"--parser facer: the compiled part of torchvision does not fit torch {torch.__version__} ({said}); "
        f"run: pip install --force-reinstall --no-deps {wanted}{index}"
    )


try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm says that facer should import it otherwise
        import facer
        from facer.face_detection import retinaface
        from facer.transform import tanh_warp_transform
except ModuleNotFoundError:
    raise
except Exception as problem:  # RuntimeError, OSError or, the second time, AttributeError
    raise UsageError(_torchvision_advice(problem)) from problem

Variant = Literal["lapa", "celebm"]

BATCH = 8
"""Faces that go through the network at once on an accelerator."""
STRIP_PIXELS = 1 << 20
"""Pixels of the photo that are labelled at once: bounds the memory."""
RETINAFACE_CONFIDENCE = 0.3
"""Low: that there is a face is known from the landmarks."""
RETINAFACE_VIEW, RETINAFACE_PX = 3.0, 640
"""Side of what RetinaFace sees, over that of the landmarks' box, and its size, px."""
LEAST_OVERLAP = 0.2
"""A face of RetinaFace is the one of the landmarks if their boxes overlap at least so far (intersection over union)."""

_PARTS: dict[str, int] = {
    "background": BACKGROUND,
    "face": SKIN,
    "rb": RIGHT_EYEBROW,
    "lb": LEFT_EYEBROW,
    "re": RIGHT_EYE,
    "le": LEFT_EYE,
    "nose": NOSE,
    "ulip": UPPER_LIP,
    "imouth": INNER_MOUTH,
    "llip": LOWER_LIP,
    "hair": HAIR,
    "neck": OTHER,
    "cloth": OTHER,
    "rr": OTHER,  # ears
    "lr": OTHER,
    "eyeg": OTHER,  # glasses
    "hat": OTHER,
    "earr": OTHER,  # earring
    "neck_l": OTHER,  # necklace
}
"""Label of each of the package's class names."""

_FIVE_POINTS: dict[LandmarkLayout, tuple[tuple[int, ...], ...]] = {
    "ibug68": ((36, 39), (42, 45), (30,), (48,), (54,)),
    "mediapipe478": ((33, 133), (362, 263), (4,), (61,), (291,)),
}
"""Landmarks whose means are the right and the left eye, the tip of the nose, the right and the left mouth corner."""


@dataclass(frozen=True)
class _Crop:
    """What the network sees of one photo."""

    image: Tensor
    """(1, 3, 448, 448) float32 from 0 to 1."""
    crop_from_photo: Tensor
    """(1, 3, 3) map from photo px to the crop before its edges are compressed, both corner-based."""
    inside: Tensor
    """(448, 448) bool: crop pixels whose centres lie in the photo."""
    eyes: Tensor
    """(2, 2) right and left eye, crop px."""


class FacerParser(FaceParser):
    """Labels by FaRL; those of other faces in the photo become background."""

    def __init__(self, device: str = "cpu", variant: Variant = "lapa") -> None:
        """Raises UsageError where weights are missing or damaged; nothing is ever downloaded."""
        name = f"facer:{variant}"
        weights.require(name)
        self.backend = Backend(name, version("pyfacer"))
        self._device = torch.device(device)

        def load(file: weights.WeightFile) -> torch.nn.Module:
            weights.check(file, file.path)  # TorchScript is a program
            # Given a path instead of an address, facer has nothing to download.
            return facer.face_parser(f"farl/{variant}/448", device=self._device, model_path=str(file.path))

        self._network: Any = _loaded(name, weights.FARL_LAPA if variant == "lapa" else weights.FARL_CELEBM, load)
        classes = torch.tensor([_PARTS[label] for label in self._network.label_names], device=self._device)
        self._part_from_class = functional.one_hot(classes, len(PART_NAMES)).float()

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        """Labels of the face that `landmarks` outlines.

        Raises:
            ObservationError: the landmarks lack one of the five points and RetinaFace does not see the face either.
        """
        return self.parse_batch([photo], [landmarks])[0]

    def parse_batch(self, photos: Sequence[Photo], landmarks: Sequence[Landmarks]) -> list[Parsing]:
        """`parse` of each face, given with its photo.

        On an accelerator up to BATCH faces go through the network together. A CPU takes them one by one: together they
        would be no faster, and the last bits of what it gives for one would depend on the others.
        """
        size = 1 if on_cpu(self._part_from_class) else BATCH
        faces = list(zip(photos, landmarks, strict=True))
        return [parsing for start in range(0, len(faces), size) for parsing in self._chunk(faces[start : start + size])]

    @torch.inference_mode()
    def _chunk(self, faces: Sequence[tuple[Photo, Landmarks]]) -> list[Parsing]:
        crops = [self._crop(photo, self._five_points(photo, face)) for photo, face in faces]
        # Optimised on the fly, the network's first answers would differ from later ones in the last bits.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            logits = self._network.forward_warped(torch.cat([crop.image for crop in crops]), return_preds=False)
        # The probability of a part is the sum over its classes: none loses because it is divided.
        chances = torch.einsum("bchw,cp->bphw", logits.float().softmax(1), self._part_from_class)
        return [
            self._parsing(photo, face, crop, chance)
            for (photo, face), crop, chance in zip(faces, crops, chances, strict=True)
        ]

    def _crop(self, photo: Photo, points_px: Tensor) -> _Crop:
        """Cut out what the network wants to see of the face with these five points (5, 2), photo px."""
        settings = self._network.setting
        # facer counts points from the centre of the first pixel, and pixels of its grids from the corner.
        with np.errstate(invalid="ignore"):
            crop_from_photo = settings["get_matrix_fn"](points_px[None] - 0.5)
        if not crop_from_photo.isfinite().all():
            raise ObservationError(
                f"{photo.path}: eyes, nose and mouth are all in one place; try another detector (--landmarks)"
            )
        # A large photo is shrunk by whole pixels first, so that sampling it does not alias.
        scale = math.sqrt(abs(float(torch.linalg.det(crop_from_photo[0, :2, :2]))))
        shrink = max(int(1.0 / scale), 1) if scale > 0 else 1
        pixels = torch.from_numpy(photo.pixels).to(self._device).permute(2, 0, 1)[None].float() / 255.0
        pixels = functional.avg_pool2d(pixels, shrink, ceil_mode=True)
        height, width = pixels.shape[2:]
        crop_from_small = crop_from_photo @ torch.diag(pixels.new_tensor([shrink, shrink, 1.0]))
        grid = settings["get_grid_fn"](matrix=crop_from_small, orig_shape=(height, width))
        image = functional.grid_sample(pixels, grid, mode="bilinear", align_corners=False)
        ends = grid.new_tensor([photo.width / (width * shrink), photo.height / (height * shrink)]) * 2.0 - 1.0
        inside = ((grid[0] >= -1.0) & (grid[0] <= ends)).all(-1)
        eyes = self._crop_px(points_px[None, :2], crop_from_photo)[0]
        return _Crop(image.clamp(0.0, 1.0), crop_from_photo, inside, eyes)

    def _crop_px(self, points_px: Tensor, crop_from_photo: Tensor) -> Tensor:
        """Where photo points (1, N, 2) lie in the crop, its compressed edges included."""
        keywords = self._network.setting["get_grid_fn"].keywords
        return tanh_warp_transform(points_px, crop_from_photo, keywords["warp_factor"], keywords["warped_shape"])

    def _parsing(self, photo: Photo, landmarks: Landmarks, crop: _Crop, chances: Tensor) -> Parsing:
        """Labels and confidence from the parts' probabilities (12, 448, 448) in the crop."""
        if _sides_exchanged(chances, crop.eyes):
            chances = chances[torch.tensor(MIRRORED_PART, device=self._device)]
        labels = np.zeros((photo.height, photo.width), np.uint8)
        sure = np.zeros((photo.height, photo.width), np.float32)
        for rows, columns in self._strips(photo, crop):
            chance = self._sampled(chances, crop, rows, columns)
            best = chance.max(0)
            labels[rows, columns] = best.indices.to(torch.uint8).cpu().numpy()
            sure[rows, columns] = best.values.cpu().numpy()
        labels = labels_of_face(labels, landmarks)

        everywhere = chances.argmax(0)
        counts, seen, whole = (
            np.bincount(of.reshape(-1), minlength=len(PART_NAMES))
            for of in (labels, everywhere[crop.inside].cpu().numpy(), everywhere.cpu().numpy())
        )
        sums = np.bincount(labels.reshape(-1), weights=sure.reshape(-1), minlength=len(PART_NAMES))
        confidence = sums / np.maximum(counts, 1) * seen / np.maximum(whole, 1)
        return Parsing(labels, confidence.clip(0.0, 1.0))

    def _strips(self, photo: Photo, crop: _Crop) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the photo that together cover what the network saw of it."""
        keywords = self._network.setting["get_grid_fn"].keywords
        reach = _reach(keywords["warp_factor"])
        half = torch.tensor(keywords["warped_shape"][::-1], dtype=torch.float32) / 2.0
        corners = half * (1.0 + reach * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]))
        photo_from_crop = torch.linalg.inv(crop.crop_from_photo[0].cpu())
        ends = corners @ photo_from_crop[:2, :2].T + photo_from_crop[:2, 2]
        low, high = ends.amin(0).floor().int().tolist(), ends.amax(0).ceil().int().tolist()
        columns = slice(max(low[0], 0), min(high[0], photo.width))
        top, bottom = max(low[1], 0), min(high[1], photo.height)
        if columns.start < columns.stop:
            step = max(STRIP_PIXELS // (columns.stop - columns.start), 1)
            for start in range(top, bottom, step):
                yield slice(start, min(start + step, bottom)), columns

    def _sampled(self, chances: Tensor, crop: _Crop, rows: slice, columns: slice) -> Tensor:
        """The parts' probabilities (12, h, w) at the centres of photo pixels; 0 where the network saw nothing."""
        settings = self._network.setting
        shift = torch.eye(3, device=self._device)
        shift[0, 2], shift[1, 2] = columns.start, rows.start
        size = (rows.stop - rows.start, columns.stop - columns.start)
        grid = settings["get_inv_grid_fn"](matrix=crop.crop_from_photo @ shift, orig_shape=size)
        # where facer's map from crop to photo ends; the way back, a tanh, never does
        end = 1.0 - _ARCTANH_MARGIN * settings["get_inv_grid_fn"].keywords["warp_factor"]
        sampled = functional.grid_sample(
            chances[None], grid, mode="bilinear", padding_mode="border", align_corners=False
        )[0]
        return sampled * (grid[0].abs() <= end).all(-1)

    def _five_points(self, photo: Photo, landmarks: Landmarks) -> Tensor:
        """Eyes, tip of the nose and corners of the mouth (5, 2), photo px, the person's right first."""
        points = landmarks.points_px
        five = np.stack([points[list(indices)].mean(axis=0) for indices in _FIVE_POINTS[landmarks.layout]])
        if not np.isfinite(five).all():
            five = self._points_of_retinaface(photo, landmarks)
        return torch.from_numpy(five).float().to(self._device)

    def _points_of_retinaface(self, photo: Photo, landmarks: Landmarks) -> np.ndarray:
        """The five points (5, 2), photo px, of the face that RetinaFace sees where the landmarks are."""
        box = np.array(landmarks.box_px)
        middle, side = (box[:2] + box[2:]) / 2, RETINAFACE_VIEW * float((box[2:] - box[:2]).max())
        left, top = np.maximum(np.floor(middle - side / 2), 0).astype(int)
        right, bottom = np.minimum(np.ceil(middle + side / 2), (photo.width, photo.height)).astype(int)
        found = np.zeros((0, 10), np.float32), np.zeros((0, 4), np.float32)
        if left < right and top < bottom:
            view = torch.from_numpy(photo.pixels[top:bottom, left:right]).to(self._device).permute(2, 0, 1)[None]
            scale = min(RETINAFACE_PX / max(right - left, bottom - top), 1.0)
            size = [max(round(scale * length), 32) for length in (bottom - top, right - left)]
            view = functional.interpolate(view.float(), size, mode="bilinear", antialias=True, align_corners=False)
            with torch.inference_mode():
                faces = retinaface.batch_detect(self._retinaface, view, RETINAFACE_CONFIDENCE)
            photo_from_view = np.array([(right - left) / size[1], (bottom - top) / size[0]])
            found = tuple(
                (faces[key].cpu().numpy().reshape(-1, count, 2) * photo_from_view + (left, top))
                for key, count in (("points", 5), ("rects", 2))
            )
        overlaps = [_overlap(box, rect.reshape(4)) for rect in found[1]]
        if not overlaps or max(overlaps) < LEAST_OVERLAP:
            raise ObservationError(
                f"{photo.path}: facer needs eyes, tip of the nose and corners of the mouth; the landmarks lack one of "
                "them, and RetinaFace sees no face there; try another parser (--parser)"
            )
        return found[0][int(np.argmax(overlaps))]

    @cached_property
    def _retinaface(self) -> torch.nn.Module:
        def load(file: weights.WeightFile) -> torch.nn.Module:
            # As facer does it, but for what torch versions before 2.6 would run of a file that is not what it seems.
            parameters = torch.load(file.path, map_location="cpu", weights_only=True)
            parameters = retinaface.remove_prefix(parameters.get("state_dict", parameters), "module.")
            network = retinaface.RetinaFace(retinaface.cfg_mnet, phase="test")
            missing = network.load_state_dict(parameters, strict=False).missing_keys
            if missing:
                raise ValueError(f"no {missing[0]}")
            return network.eval().to(self._device)

        return _loaded(self.backend.name, weights.RETINAFACE, load)


_ARCTANH_MARGIN = 0.001
"""facer's tanh stops so far before its limits, see `facer.transform`."""


def _reach(warp_factor: float) -> float:
    """Half the side of what the network sees, over half the side that it would have without compressed edges."""
    return 1.0 - warp_factor + warp_factor * math.atanh(1.0 - _ARCTANH_MARGIN) if warp_factor > 0 else 1.0


def _sides_exchanged(chances: Tensor, eyes: Tensor) -> bool:
    """Whether more pixels of eyes and eyebrows are nearer to the other eye, from probabilities (12, H, W) and the eyes
    (2, 2), crop px."""
    labels = chances.argmax(0)
    y, x = torch.meshgrid(*(torch.arange(length, device=labels.device) + 0.5 for length in labels.shape), indexing="ij")
    to_right, to_left = ((x - eye[0]) ** 2 + (y - eye[1]) ** 2 for eye in eyes)
    right = (labels == RIGHT_EYE) | (labels == RIGHT_EYEBROW)
    left = (labels == LEFT_EYE) | (labels == LEFT_EYEBROW)
    wrong = (right & (to_left < to_right)) | (left & (to_right < to_left))
    return 2 * int(wrong.sum()) > int((right | left).sum())


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    common = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0.0))
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
    return float(common / (areas - common)) if areas > common else 0.0


def _loaded(name: str, file: weights.WeightFile, load: Callable[[weights.WeightFile], torch.nn.Module]) -> Any:
    """A network from its file of weights, in one line if that fails."""
    try:
        # facer reports any failure as one of a download, torch that TorchScript will be given up
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(file)
    except Exception as error:  # what is said of broken archives and pickles depends on where they are broken
        said = " ".join(str(error).split())
        raise UsageError(f"{name}: cannot read {file.path} ({said:.200}); run: fit3d weights pull {name}") from error
