"""One edited photo: another expression on a fitted face, with exact labels and landmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    OTHER,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    UPPER_LIP,
)
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.reconstruction import Reconstruction
from fit3d.solve.fit import HIDDEN_BEHIND_M
from fit3d.synthesise.cover import Cover, find_cover
from fit3d.synthesise.eyes import NEAR, EyeShape, find_eye, paint_lid, under_hair
from fit3d.synthesise.geometry import Projection, View, Window, landmarks_of, look_at, outer_surface
from fit3d.synthesise.glasses import wears_glasses
from fit3d.synthesise.inside import Teeth
from fit3d.synthesise.lashes import draw_lashes
from fit3d.synthesise.lids import settle_lids
from fit3d.synthesise.lips import settle_lips
from fit3d.synthesise.mouth import MouthShape, clean_lips, paint_mouth, skin_of
from fit3d.synthesise.picture import disc, membrane, square
from fit3d.synthesise.recipes import Recipe, draw_expression, shapes_of
from fit3d.synthesise.register import register
from fit3d.synthesise.warp import STILL_PX, extend, resample, resample_nearest
from fit3d.synthesise.wrinkles import lit_skin, relight

ROOM = 0.3
"""Room around the face in which the photo follows an edit, heights of the face."""
SEAM = 0.004
"""Softness of the rims of lids and lips, heights of the face."""

EDGE = 0.008
"""Rim of the face's outline that is not taken from the mesh, heights of the window."""

OUTLINE = 0.025
"""So near to the face's outline nothing is taken for uncovered, heights of the face."""

JUMP_PX = 1.5
"""Neighbouring pixels whose displacements differ by more are not of one surface."""

LEAST_CHANGE = 0.05
"""Of any coefficient, below which nobody sees a recipe's doing."""

MOST_HIDDEN = 0.5
"""Share of an eye or of the mouth that may be covered where an edit moves it."""

BENT = 0.008
"""Brows that move by more, heights of the face, visibly bend the frame of glasses before them."""

_OPENINGS: dict[str, tuple[type[EyeShape] | type[MouthShape], tuple[int, ...]]] = {
    "right_eye": (EyeShape, (RIGHT_EYE,)),
    "left_eye": (EyeShape, (LEFT_EYE,)),
    "inner_mouth": (MouthShape, (UPPER_LIP, LOWER_LIP, INNER_MOUTH)),
}


@dataclass(frozen=True)
class EditedLandmarks:
    """Landmarks of one layout in an edited photo."""

    points_px: np.ndarray
    """(N, 2) float64, photo px."""
    visible: np.ndarray
    """(N,) bool: not hidden by the head itself or by what covers the face, and within the photo."""


@dataclass(frozen=True)
class Edit:
    """A photo with another expression, and all that is known of it."""

    image: np.ndarray
    """(H, W, 3) uint8 sRGB."""
    parts: np.ndarray
    """(H, W) uint8 label image, ids of `fit3d.labels`."""
    landmarks: dict[LandmarkLayout, EditedLandmarks]
    identity: Tensor
    """(K,) float64, standard deviations, as fitted."""
    expression: dict[str, float]
    """Coefficients by the model's names."""
    camera: Camera
    recipe: str
    seed: int
    doubts: tuple[str, ...] = ()
    """Why the picture is not what the recipe says, a phrase each: what it moves is hidden in the photo."""


def edit_photo(reconstruction: Reconstruction, recipe: Recipe, seed: int = 0) -> Edit:
    """The photo with the expression that `recipe` draws with `seed`: the same bytes for the same three.

    Raises:
        UsageError: the model has no expression that the recipe names.
    """
    model, fit = reconstruction.model, reconstruction.fit
    expression = draw_expression(recipe, model, fit.expression, seed)
    edit = edit_expression(reconstruction, expression, recipe.name, seed)
    if recipe.at_least and float((expression - fit.expression).abs().max()) < LEAST_CHANGE:
        return replace(edit, doubts=(*edit.doubts, "the face has this expression already"))
    return edit


def edit_expression(reconstruction: Reconstruction, expression: Tensor, recipe: str = "", seed: int = 0) -> Edit:
    """The photo with `expression` (L,) in place of the fitted one; `recipe` is only told, `seed` draws teeth."""
    model, fit = reconstruction.model, reconstruction.fit
    scene = _Scene.of(reconstruction, expression, seed)
    image, parts = reconstruction.photo.pixels.copy(), reconstruction.observation.parts.copy()
    rows, columns = scene.window.rows, scene.window.columns
    if not torch.equal(expression, fit.expression):
        image[rows, columns] = scene.picture()
    parts[rows, columns] = scene.labels
    return Edit(
        image=image,
        parts=parts,
        landmarks={layout: scene.landmarks(layout) for layout in model.landmarks},
        identity=fit.identity,
        expression=dict(zip(model.expression_names, expression.tolist(), strict=True)),
        camera=fit.camera,
        recipe=recipe,
        seed=seed,
        doubts=scene.doubts(),
    )


@dataclass(frozen=True)
class _Scene:
    """The head before and after, in the window of the photo that changes."""

    reconstruction: Reconstruction
    before: Projection
    after: Projection
    window: Window
    view: View
    """The edited surface."""
    then: View
    """The fitted surface."""
    field: np.ndarray
    """(h, w, 2) px from each pixel to where it comes from."""
    growth: Tensor
    """(L,) by how much each coefficient of the expression is larger than the fitted one."""
    seed: int
    """Of what is drawn that the photo does not tell."""

    @classmethod
    def of(cls, reconstruction: Reconstruction, expression: Tensor, seed: int) -> _Scene:
        model, fit = reconstruction.model, reconstruction.fit
        fitted, edited = (
            Projection.of(settle_lips(model, settle_lids(model, fit.identity, each)), fit.camera)
            for each in (fit.expression, expression)
        )
        registration = register(model, fitted, reconstruction.observation.parts)
        before = fitted.shifted(registration.shift(fitted, fitted))
        after = edited.shifted(registration.shift(edited, fitted))
        window = _window(model, before, after, fit.camera)
        view, then = (look_at(model, head, window) for head in (after, before))
        field = _field(model, before, after, view, window)
        return cls(
            reconstruction, before, after, window, view, then, field, (expression - fit.expression).double(), seed
        )

    @property
    def model(self) -> MorphableModel:
        return self.reconstruction.model

    @property
    def patch(self) -> np.ndarray:
        """(h, w) uint8: the label of the opening that each pixel of the edit shows, 0 beside."""
        return np.asarray(outer_surface(self.model).patch[self.view.fragments.triangle.numpy()] * self.view.covered)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        return self.window.height, self.window.width

    def picture(self) -> np.ndarray:
        """(h, w, 3) uint8."""
        photo = self.window.cut(self.reconstruction.photo.pixels).astype(np.float32)
        cover = self.cover(photo)
        result = resample(photo if cover is None else cover.face, self.field)
        result = self._uncovered(result)
        still = (np.abs(self.field) < STILL_PX).all(-1)
        result[still] = photo[still]
        result = self._relit(result)
        seam = max(SEAM * self.face_height, 0.5)
        for eye in ("right_eye", "left_eye"):
            if eye in self.model.annotation.rims:
                result = self._with_eye(result, photo, eye, seam)
        if "inner_mouth" in self.model.annotation.rims:
            result = self._with_mouth(result, photo, seam)
        if cover is not None:
            result = cover.over(result, photo)
        return np.asarray(np.rint(result.clip(0.0, 255.0)).astype(np.uint8))

    def _uncovered(self, picture: np.ndarray) -> np.ndarray:
        """The warped photo, filled from around where the surface that is seen now lay behind other surface then."""
        depth = self.view.interpolate(self.before.depth.numpy()[:, None], outer_surface(self.model))[..., 0]
        front = cv2.erode(self.then.fragments.depth.numpy().astype(np.float32), np.ones((3, 3)))
        front = resample_nearest(front, self.field)
        picture = self._without_jags(picture)
        skin = (self.view.labels >= RIGHT_EYE) & (self.patch == 0)
        hidden = skin & (front > 0.0) & (depth > front + HIDDEN_BEHIND_M) & (np.abs(self.field).max(-1) > 0.5)
        hidden &= resample_nearest(self.then.labels, self.field) != self.view.labels
        # not along the face's outline, where the mesh turns away and its labels end a little off the photo's
        face = ((self.view.labels >= RIGHT_EYE) & (self.view.labels <= INNER_MOUTH)).astype(np.uint8)
        hidden &= cv2.erode(face, square(OUTLINE * self.face_height)) > 0
        if not hidden.any():
            return picture
        wide = cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3))) > 0
        around = membrane(picture, wide, 0.4 * self.face_height)
        matte = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), 0.7)[..., None]
        return np.asarray(picture + matte * (around - picture))

    def _without_jags(self, picture: np.ndarray) -> np.ndarray:
        """Blurred by a pixel where neighbours come from far apart: there one surface hides another, pixel by pixel."""
        jump = np.zeros(self.shape, np.uint8)
        down, across = (np.abs(np.diff(self.field, axis=axis)).max(-1) > JUMP_PX for axis in (0, 1))
        jump[1:] |= down
        jump[:-1] |= down
        jump[:, 1:] |= across
        jump[:, :-1] |= across
        matte = cv2.GaussianBlur(cv2.dilate(jump, np.ones((3, 3))).astype(np.float32), (0, 0), 0.7)[..., None]
        return np.asarray(picture + matte * (cv2.GaussianBlur(picture, (0, 0), 1.2) - picture))

    def _relit(self, picture: np.ndarray) -> np.ndarray:
        """The warped photo, lit as the edited skin is; eyes, lips and what is no skin keep their light."""
        if self.light is None:
            return picture
        hidden = np.isin(self.labels, (BACKGROUND, HAIR, OTHER))
        where = lit_skin(self.view.labels, hidden, self.face_height)
        heads = self.before, self.after
        grown = {name: float(self.growth @ shape / (shape @ shape)) for name, shape in shapes_of(self.model).items()}
        return relight(picture, self.model, heads, self.view, self.light, grown, where, self.face_height)

    def cover(self, photo: np.ndarray) -> Cover | None:
        """What stands before the face in `photo` (h, w, 3), the window's."""
        observed, fitted = self.window.cut(self.reconstruction.observation.parts), self.then.labels
        face = (fitted >= RIGHT_EYE) & (fitted <= INNER_MOUTH)
        for name in ("right_eye", "left_eye"):
            if name in self.model.annotation.rims:
                eye = EyeShape(*self._rims(name))
                face &= cv2.dilate(eye.mask(self.shape, before=True), disc(NEAR * eye.width)) < 0.5
        return find_cover(photo, observed, face, self.face_height)

    @property
    def light(self) -> np.ndarray | None:
        """(9, 3) of `fit3d.render.light`, None where too little skin was seen to tell."""
        light = self.reconstruction.source.light
        return None if light is None else np.asarray(light)

    @property
    def face_height(self) -> float:
        """px, about: the longer side of the landmarks' box."""
        return max(self.window.height, self.window.width) / (1.0 + 2.0 * ROOM)

    def _with_eye(self, picture: np.ndarray, photo: np.ndarray, name: str, seam: float) -> np.ndarray:
        eye = EyeShape(*self._rims(name))
        if not eye.moves:
            return picture
        matte = cv2.GaussianBlur(eye.mask(self.shape, before=False) * (1.0 - eye.shut), (0, 0), seam)[..., None]
        surface = outer_surface(self.model)
        points = self.view.interpolate(self.after.vertices.numpy(), surface)
        middle = self._ball_middle(name)
        brows = np.isin(self.view.labels, (RIGHT_EYEBROW, LEFT_EYEBROW))
        hidden = np.isin(self.labels, (BACKGROUND, HAIR, OTHER))
        parts = self.window.cut(self.reconstruction.observation.parts)
        whole = eye.mask(self.shape, before=True) if self.glasses else find_eye(photo, eye, parts)
        painted = paint_lid(picture, self.field, eye, points, middle, self.light, brows, hidden, whole, self.seed)
        # the eyeball stays; beyond what was seen of it, what was seen is stretched
        still = cv2.GaussianBlur(cv2.erode(eye.mask(self.shape, before=True), np.ones((3, 3))), (0, 0), seam)[..., None]
        inside = picture + still * max(1.0 - eye.opening / 0.05, 0.0) * (photo - picture)
        painted = painted + matte * (inside - painted)
        painted = draw_lashes(painted, photo, eye, whole, -1.0 if name == "right_eye" else 1.0, self.seed)
        return under_hair(painted, picture, eye, hidden)

    def _with_mouth(self, picture: np.ndarray, photo: np.ndarray, seam: float) -> np.ndarray:
        mouth = MouthShape(*self._rims("inner_mouth"))
        opening = mouth.mask(self.shape, before=False)
        if opening.max() == 0.0 or not mouth.moves:
            return picture
        picture = clean_lips(picture, self.field, mouth)
        skin = skin_of(self.window.cut(self.reconstruction.observation.parts))
        teeth = Teeth.of(self.reconstruction.fit.identity.numpy(), self.seed)
        inside = paint_mouth(photo, self.model, self.before, self.after, self.window, mouth, skin, self.light, teeth)
        matte = cv2.GaussianBlur(opening, (0, 0), seam)[..., None] * (1.0 - mouth.stretch_weight)
        return np.asarray(picture + matte * (inside - picture))

    def _rims(self, name: str) -> tuple[np.ndarray, ...]:
        upper, lower = self.model.annotation.rims[name]
        before, after = (head.in_window(self.window) for head in (self.before, self.after))
        return before[upper], before[lower], after[upper], after[lower]

    def _ball_middle(self, eye: str) -> np.ndarray:
        """(3,) of the eyeball, or of the rims where the model has none."""
        side = eye.split("_")[0]
        for index, name in enumerate(self.model.objects):
            if piece_kind(name) == "eye" and side in name.lower():
                ids = np.unique(self.model.faces[self.model.face_objects == index])
                return np.asarray(self.after.vertices[torch.from_numpy(ids[ids >= 0].astype(np.int64))].mean(0).numpy())
        rims = torch.cat(self.model.annotation.rims[eye])
        return np.asarray(self.after.vertices[rims].mean(0).numpy()) - (0.0, 0.0, 0.012)

    @cached_property
    def labels(self) -> np.ndarray:
        """(h, w) uint8: the surface's own labels on the face, the photo's, moved along, around and before it."""
        seen = resample_nearest(self.window.cut(self.reconstruction.observation.parts), self.field)
        own = self.view.labels
        face = (own >= RIGHT_EYE) & (own <= INNER_MOUTH)
        covered = np.isin(seen, (HAIR, OTHER)) & face
        around = np.where(np.isin(seen, (BACKGROUND, HAIR, OTHER)), seen, OTHER)
        return np.where(face & ~covered, own, np.where(covered, seen, around)).astype(np.uint8)

    def doubts(self) -> tuple[str, ...]:
        """See `Edit.doubts`."""
        observed, fitted = self.window.cut(self.reconstruction.observation.parts), self.then.labels
        found = []
        for name, (shape, parts) in _OPENINGS.items():
            if name not in self.model.annotation.rims or not shape(*self._rims(name)).moves:
                continue
            place = np.isin(fitted, parts)
            hidden = np.isin(observed, (HAIR, OTHER)) & place
            if not place.any():
                found.append(f"the {name.replace('inner_', '').replace('_', ' ')} is turned away")
            elif hidden.sum() > MOST_HIDDEN * place.sum():
                found.append(f"the {name.replace('inner_', '').replace('_', ' ')} is covered")
        brows = np.isin(self.view.labels, (RIGHT_EYEBROW, LEFT_EYEBROW))
        bent = np.abs(self.field[brows]).max() if brows.any() else 0.0
        if bent > BENT * self.face_height and self.glasses:
            found.append("the glasses bend")
        return tuple(found)

    @property
    def glasses(self) -> bool:
        """Whether the photo shows some."""
        if not {"right_eye", "left_eye"} <= set(self.model.annotation.rims):
            return False
        right, left = self._rims("right_eye")[0][-1], self._rims("left_eye")[0][0]
        return wears_glasses(self.window.cut(self.reconstruction.photo.pixels), right, left)

    def landmarks(self, layout: LandmarkLayout) -> EditedLandmarks:
        camera = self.reconstruction.fit.camera
        px, depth = landmarks_of(self.model, self.after, camera, layout)
        in_photo = ((px >= 0.0) & (px < (camera.width, camera.height))).all(1)
        column, row = np.floor(px - (self.window.left, self.window.top)).astype(int).T
        in_window = (row >= 0) & (row < self.window.height) & (column >= 0) & (column < self.window.width)
        row, column = row.clip(0, self.window.height - 1), column.clip(0, self.window.width - 1)
        surface = self.view.fragments.depth.numpy()[row, column]
        hidden = depth > surface + HIDDEN_BEHIND_M
        hidden[self.model.landmarks[layout].sliding.numpy()] = False
        hidden |= np.isin(self.labels[row, column], (HAIR, OTHER)) & self.view.covered[row, column]
        return EditedLandmarks(px, in_photo & ~(hidden & in_window))


def _window(model: MorphableModel, before: Projection, after: Projection, camera: Camera) -> Window:
    """The face, as it was and as it is, with room around, within the photo."""
    ids = torch.unique(torch.cat([model.landmarks["ibug68"].points.vertices.ravel()]))
    face = torch.cat([before.px[ids], after.px[ids]]).numpy()
    room = ROOM * float((face.max(0) - face.min(0)).max())
    size = np.array([camera.width, camera.height])
    low = np.floor(face.min(0) - room).clip(0, size - 8).astype(int)
    high = np.ceil(face.max(0) + room).clip(low + 8, size).astype(int)
    return Window(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _field(model: MorphableModel, before: Projection, after: Projection, view: View, window: Window) -> np.ndarray:
    """(h, w, 2) float32 px, see `_Scene.field`."""
    surface = outer_surface(model)
    labels, triangle = view.labels, view.fragments.triangle.numpy()
    face = (labels >= RIGHT_EYE) & (labels <= INNER_MOUTH) & (surface.patch[triangle] == 0) & view.covered
    # of the difference, because weights that are right in space are not quite so in the picture
    field = view.interpolate((before.px - after.px).numpy(), surface)
    # not its outermost pixels: surface seen edge-on runs to the far side within one
    edge = max(round(EDGE * window.height), 1)
    whole = (labels >= RIGHT_EYE) & (labels <= INNER_MOUTH) & view.covered
    face &= cv2.erode(whole.astype(np.uint8), np.ones((2 * edge + 1, 2 * edge + 1), np.uint8)) > 0
    field = np.where(face[..., None], field, 0.0)
    return extend(field, face, ROOM * window.height / (1.0 + 2.0 * ROOM))
