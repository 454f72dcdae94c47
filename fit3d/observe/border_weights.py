"""What `fit3d.observe.borders` knows of borders: weights of its `FEATURES`, by family of border points.

Learnt by `fit3d.evaluate.border_learning` from the borders that people drew on ten photos (Helen, CelebAMask-HQ); right
and left sides share their weights. They are 124 numbers and hold nothing of a photo.

`fit3d evaluate parser FOLDER --held-out` learns them anew for each photo from the other nine: so the mean Part IoU over
parts 1-7 is 84.7 %, with the weights below, which saw all ten, 86.8 %, and of the outlines alone 81.4 %. These outlines
(`fit3d.observe.contours`) and the constants of `fit3d.observe.skin` were set on the same ten photos. From the mesh's
plain rows of points, which were not (73.3 %), borders learnt from nine photos come to 83.5 %, with hidden parts taken
away to 84.1 %.

A positive weight of 'lightness' says that the outside is lighter, of 'redness' that it is redder: brows are darker than
what is around them, lips redder.
"""

from __future__ import annotations

BORDER_WEIGHTS: dict[str, tuple[float, ...]] = {
    "eye outer end": (-2.123, -0.614, 0.658, 0.0, 0.0, 0.0, -0.224, 1.527),
    "eye upper": (-1.054, 0.411, 0.802, 0.0, 0.0, 0.0, -0.502, 3.237),
    "eye inner end": (-1.691, 0.536, 0.656, 0.0, 0.0, 0.0, -1.13, 1.628),
    "eye lower": (-0.275, -0.589, -0.106, 0.0, 0.0, 0.0, 0.397, 3.734),
    "brow outer end": (2.513, 1.686, -0.351, 0.428, -0.7, 1.197, -0.288, 0.679),
    "brow upper": (3.271, 5.644, -1.47, 1.106, -0.06, 1.843, 1.111, 1.166),
    "brow inner end": (3.131, 3.327, -0.166, -0.797, 0.167, 0.833, -0.359, 0.398),
    "brow lower": (3.52, 0.998, 0.917, 1.685, 0.035, 0.834, 0.093, 2.272),
    "nose top": (-0.81, 3.087, -4.978, 0.275, -1.31, 2.032, 0.63, 0.963),
    "nose side": (-1.91, -0.683, 0.003, 0.319, 0.25, -1.224, 0.064, 1.287),
    "nose wing": (-1.031, 1.834, -0.116, -0.131, -1.107, -0.241, 0.264, 0.927),
    "nose base": (-0.166, 0.792, 1.092, -0.286, -0.423, -1.177, 0.132, 0.639),
    "mouth corner": (1.299, -0.146, 0.568, -2.126, -3.08, -2.47, -0.159, 1.681),
    "mouth upper": (-1.375, 0.303, -3.628, -0.726, -4.365, -5.037, 1.161, 1.848),
    "mouth lower": (-0.024, 0.64, 0.675, -3.547, -2.321, -4.112, 0.036, 1.722),
    "upper lip inside": (-1.384, 0.365, 0.784, -0.972, -0.536, 0.874, 0.531, 2.637),
    "lower lip inside": (-2.762, -1.94, 0.135, -2.992, -2.612, -0.977, 0.802, 1.727),
}
