"""Finds photos and their label images in folders, and reads label images of any layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fit3d.errors import LabelImageError, ModelFileError, UsageError
from fit3d.morphable.restricted_pickle import load_npy
from fit3d.observe.label_image import FORMATS, read_label_image
from fit3d.observe.label_layouts import CELEBAMASK_CLASSES, LAYOUTS, LayoutName
from fit3d.photo import Photo, quiet_pillow

LABELS_SUFFIX = "_parts.png"
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LARGEST_SCALE = 8
"""A label image may be this many times smaller than its photo, by a whole factor, as CelebAMask-HQ's are."""
HELEN_MASKS = 11
"""Masks X_lbl00.png to X_lbl10.png of a photo, one for each class, as soft as the annotators' agreement."""
_CELEBA_PHOTOS, _CELEBA_MASKS = "CelebA-HQ-img", ("CelebAMask-HQ-mask-anno", "CelebAMaskHQ-mask-anno")

Form = Literal["image", "celebamask masks", "helen masks", "3ddfa-v3 npy"]
"""How labels are stored: one picture of ids; a picture for each part; the .npy of 3DDFA-V3's demo."""


@dataclass(frozen=True)
class LabelFile:
    """Where the labels of one photo are."""

    path: Path
    """The file; of 'celebamask masks' FOLDER/00012, which ends in '_skin.png' and so on; of 'helen masks' the folder of
    the masks."""
    layout: LayoutName = "fit3d"
    form: Form = "image"

    @property
    def files(self) -> list[Path]:
        """All that is read."""
        if self.form == "celebamask masks":
            return sorted(self.path.parent.glob(f"{self.path.name}_*.png"))
        return sorted(self.path.glob("*.png")) if self.form == "helen masks" else [self.path]


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its part labels drawn by people."""

    photo: Path
    labels: LabelFile

    @property
    def digest(self) -> str:
        """SHA-256 of what both are made of."""
        whole = sha256(self.photo.read_bytes())
        for file in self.labels.files:
            whole.update(file.read_bytes())
        return whole.hexdigest()


def labelled_photos(folder: Path, labels: LayoutName | Literal["auto"] = "auto") -> list[LabelledPhoto]:
    """The labelled photos of a folder, by name: X.png (or .jpg, .jpeg, .webp) with X_parts.png beside it, or a data set
    as it is given away.

    - LaPa, Helen: images/X.jpg with labels/X.png, or Helen's masks labels/X/X_lbl00.png, ...
    - CelebAMask-HQ: CelebA-HQ-img/12.jpg with CelebAMask-HQ-mask-anno/0/00012_skin.png, ..., or with
      CelebAMaskHQ-mask/12.png.

    'auto' goes by these names: X_parts.png has fit3d's ids, and masks have names. Pictures in labels/ may have any.

    Raises:
        UsageError: there are none, or nothing tells which ids they have.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of photos X.png or X.jpg with label images X{LABELS_SUFFIX}")
    named: LayoutName = "fit3d" if labels == "auto" else labels
    pairs = [
        LabelledPhoto(photo, LabelFile(path, named))
        for path in sorted(folder.glob(f"*{LABELS_SUFFIX}"))
        if (photo := _photo(folder, path.name.removesuffix(LABELS_SUFFIX))) is not None
    ]
    pairs = pairs or _celebamask(folder, labels) or _in_labels(folder, labels)
    if not pairs:
        raise UsageError(
            f"{folder}: no photo X.png or X.jpg with a label image X{LABELS_SUFFIX} found, nor LaPa, Helen or "
            "CelebAMask-HQ as they are given away"
        )
    return pairs


def _photo(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in PHOTO_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _celebamask(folder: Path, labels: LayoutName | Literal["auto"]) -> list[LabelledPhoto]:
    photos = [path for path in (folder / _CELEBA_PHOTOS).glob("*.jpg") if path.stem.isdecimal()]
    photos.sort(key=lambda path: int(path.stem))
    masks = next((folder / name for name in _CELEBA_MASKS if (folder / name).is_dir()), None)
    pairs = []
    for photo in photos:
        number = int(photo.stem)
        image = folder / "CelebAMaskHQ-mask" / f"{number}.png"
        prefix = (masks or folder) / str(number // 2000) / f"{number:05d}"
        if masks is not None and any(prefix.parent.glob(f"{prefix.name}_*.png")):
            pairs.append(LabelledPhoto(photo, LabelFile(prefix, "celebamask", "celebamask masks")))
        elif image.is_file():
            pairs.append(LabelledPhoto(photo, LabelFile(image, "celebamask" if labels == "auto" else labels)))
    return pairs


def _in_labels(folder: Path, labels: LayoutName | Literal["auto"]) -> list[LabelledPhoto]:
    pairs = []
    for path in sorted((folder / "labels").glob("*")):
        photo = _photo(folder / "images", path.stem)
        if photo is None:
            continue
        if path.is_dir():
            pairs.append(LabelledPhoto(photo, LabelFile(path, "helen", "helen masks")))
        elif labels == "auto":
            raise UsageError(
                f"{folder}: nothing tells which ids {path} has; give --labels, of {', '.join(LAYOUTS)} (LaPa and Helen "
                "have the same)"
            )
        else:
            pairs.append(LabelledPhoto(photo, LabelFile(path, labels)))
    return pairs


def predicted_labels(folder: Path, stem: str, layout: LayoutName | Literal["auto"]) -> LabelFile:
    """The labels that a tool gave the photo X, whose stem is `stem`: of fit3d X/X_parts.png or X_parts.png; of 3DDFA-V3
    X.npy or X/X.npy, beside which its demo leaves a sheet of pictures X.png; of others X.png or X/X.png.

    Raises:
        LabelImageError: there are none, or nothing tells which ids they have.
    """
    ours = [folder / stem / f"{stem}{LABELS_SUFFIX}", folder / f"{stem}{LABELS_SUFFIX}"]
    theirs = [folder / f"{stem}.png", folder / stem / f"{stem}.png"]
    arrays = [folder / f"{stem}.npy", folder / stem / f"{stem}.npy"]
    others = (*arrays, *theirs) if layout in ("auto", "3ddfa-v3") else (*theirs, *arrays)
    for path in (*ours, *others):
        if not path.is_file():
            continue
        if path in arrays:
            return LabelFile(path, "3ddfa-v3", "3ddfa-v3 npy")
        if layout == "auto" and path in theirs:
            raise LabelImageError(f"{path}: nothing tells which ids it has; give --predicted-labels")
        return LabelFile(path, "fit3d" if layout == "auto" else layout)
    raise LabelImageError(
        f"{folder}: no prediction for {stem}; expected {stem}/{stem}{LABELS_SUFFIX}, {stem}{LABELS_SUFFIX}, {stem}.png "
        f"or {stem}.npy"
    )


def read_labels(file: LabelFile, photo: Photo) -> np.ndarray:
    """Label image (H, W) uint8 of a photo with the ids of `fit3d.labels`.

    Raises:
        LabelImageError: it cannot be read, does not belong to the photo or has ids that its layout does not know.
    """
    if file.layout == "fit3d" and file.form == "image":
        return read_label_image(file.path, photo)
    read: Callable[[LabelFile, Photo], np.ndarray] = {
        "image": lambda file, photo: _ids(file.path, photo),
        "celebamask masks": _celebamask_ids,
        "helen masks": _helen_ids,
        "3ddfa-v3 npy": _npy_ids,
    }[file.form]
    try:
        return LAYOUTS[file.layout].to_fit3d(read(file, photo))
    except ValueError as error:
        raise LabelImageError(f"{file.path}: {error}; check --labels") from error


def _ids(path: Path, photo: Photo) -> np.ndarray:
    """(H, W) uint8 values of a grey or palette picture, at the photo's size."""
    try:
        with quiet_pillow(), Image.open(path, formats=FORMATS) as image:
            scale = _scale(path, image.size, photo)
            if image.format == "JPEG":
                raise LabelImageError(f"{path}: JPEG blurs label ids; give an 8-bit grey or palette PNG")
            image.load()
            mode, values = image.mode, np.array(image)
    except LabelImageError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on broken data
        raise LabelImageError(f"{path}: not a readable label image; give an 8-bit grey or palette PNG") from error
    if mode in ("RGB", "RGBA") and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if mode == "1":
        values = values.astype(np.uint8)
    if values.dtype != np.uint8 or values.ndim != 2:
        raise LabelImageError(f"{path}: a label image of mode {mode}; give an 8-bit grey or palette PNG of ids")
    return values.repeat(scale, 0).repeat(scale, 1)


def _scale(path: Path, size: tuple[int, int], photo: Photo) -> int:
    """How many times smaller a label image of `size` (width, height) is than its photo."""
    scale = max(photo.width // max(size[0], 1), 1)
    if scale > LARGEST_SCALE or (size[0] * scale, size[1] * scale) != (photo.width, photo.height):
        raise LabelImageError(
            f"{path}: the label image is {size[0]} x {size[1]} px, its photo {photo.path} is {photo.width} x "
            f"{photo.height} px (upright); give labels of the same size or smaller by a whole factor up to "
            f"{LARGEST_SCALE}"
        )
    return scale


def _celebamask_ids(file: LabelFile, photo: Photo) -> np.ndarray:
    ids = np.zeros((photo.height, photo.width), np.uint8)
    for number, name in enumerate(CELEBAMASK_CLASSES):
        mask = file.path.with_name(f"{file.path.name}_{name}.png")
        if number and mask.is_file():
            ids[_ids(mask, photo) > 127] = number
    return ids


def _helen_ids(file: LabelFile, photo: Photo) -> np.ndarray:
    """The class whose soft mask is highest."""
    highest, ids = np.zeros((photo.height, photo.width), np.uint8), np.zeros((photo.height, photo.width), np.uint8)
    for number in range(HELEN_MASKS):
        path = file.path / f"{file.path.name}_lbl{number:02d}.png"
        if not path.is_file():
            raise LabelImageError(f"{path}: this one of Helen's {HELEN_MASKS} masks is missing")
        mask = _ids(path, photo)
        ids[mask > highest] = number
        highest = np.maximum(mask, highest)
    return ids


def _npy_ids(file: LabelFile, photo: Photo) -> np.ndarray:
    """`seg_visible` of the dict that 3DDFA-V3's demo saves: (H, W, 1), 0 to 8; read without running the pickle."""
    try:
        ids = np.asarray(load_npy(file.path)["seg_visible"])
    except (ModelFileError, KeyError, TypeError, IndexError) as error:
        raise LabelImageError(
            f"{file.path}: not the .npy of 3DDFA-V3's demo with its visible segmentation (--seg_visible 1): {error}"
        ) from error
    ids = ids[..., 0] if ids.ndim == 3 and ids.shape[2] == 1 else ids
    if ids.shape != (photo.height, photo.width) or ids.dtype.kind not in "iuf":
        raise LabelImageError(
            f"{file.path}: seg_visible is {ids.dtype} of shape {ids.shape}; expected numbers of the photo's size, "
            f"{photo.height} x {photo.width}"
        )
    whole = np.nan_to_num(ids, nan=255.0).clip(0, 255).astype(np.uint8)
    return np.where(whole == ids, whole, np.uint8(255))


def digest_of(pairs: Iterable[LabelledPhoto]) -> str:
    """SHA-256 of names, photos and labels."""
    return sha256("".join(f"{pair.photo.name} {pair.digest}\n" for pair in pairs).encode()).hexdigest()
