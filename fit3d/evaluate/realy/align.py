"""Moving a predicted mesh onto a scan: as a whole by keypoints, then rigidly onto one region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit3d.evaluate.realy.surface import Surface

MOST_ITERATIONS = 100
STEADY = 1e-6
"""The alignment of a region ends when the mean squared distance changes by less, in the scan's unit squared."""


@dataclass(frozen=True)
class Motion:
    """`scale rotation x + shift`."""

    scale: float
    rotation: np.ndarray
    """(3, 3) float64."""
    shift: np.ndarray
    """(3,) float64."""

    @classmethod
    def none(cls) -> Motion:
        return cls(1.0, np.eye(3), np.zeros(3))

    def of(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) moved."""
        return self.scale * points @ self.rotation.T + self.shift

    def back(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) moved by the inverse."""
        return (points - self.shift) @ self.rotation / self.scale

    def after(self, other: Motion) -> Motion:
        """This one after `other`."""
        return Motion(self.scale * other.scale, self.rotation @ other.rotation, self.of(other.shift[None])[0])


def global_alignment(source: np.ndarray, target: np.ndarray) -> Motion:
    """The similarity from keypoints (K, 3) to keypoints (K, 3), as REALY takes it.

    The rotation is that of least squares. The scale is not: it is the ratio of the sums of all absolute coordinates,
    about the means and after the rotation, and so depends on the axes of the scan.

    Raises:
        ValueError: the keypoints of the one are a mirror image of the other's, or all one point.
    """
    from_middle, to_middle = source.mean(0), target.mean(0)
    product = (target - to_middle).T @ (source - from_middle)
    rotation, mirrored = _rotation(product)
    if mirrored:
        raise ValueError("its keypoints are a mirror image of the scan's")
    spread = np.abs((source - from_middle) @ rotation.T).sum()
    if not spread > 0.0:
        raise ValueError("its keypoints are all one point")
    scale = float(np.abs(target - to_middle).sum() / spread)
    return Motion(scale, rotation, to_middle - scale * rotation @ from_middle)


def regional_alignment(
    surface: Surface, points: np.ndarray, keypoints: np.ndarray, scan_keypoints: np.ndarray, repeat: int
) -> Motion:
    """The rigid motion of a predicted `surface` onto a region of the scan, by iterated closest points.

    Each of the region's `points` (N, 3) pairs with the nearest point of the surface, and each of the prediction's
    `keypoints` (K, 3) with the same one of the scan, counted `repeat` times. As in REALY, the motion found last, with
    which the error changes no more, is not applied.
    """
    weight = np.repeat([1.0, float(repeat)], [len(points), len(keypoints)])
    target = np.concatenate([points, scan_keypoints])
    motion, error = Motion.none(), 0.0
    for _ in range(MOST_ITERATIONS):
        source = motion.of(np.concatenate([surface.nearest(motion.back(points)), keypoints]))
        step = _rigid(source, target, weight)
        before, error = error, float(np.average(((step.of(source) - target) ** 2).sum(1), weights=weight))
        if abs(error - before) < STEADY:
            break
        motion = step.after(motion)
    return motion


def _rigid(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Motion:
    """Of least squares, from points (N, 3) to points (N, 3) with weights (N,)."""
    from_middle, to_middle = (np.average(each, axis=0, weights=weight) for each in (source, target))
    rotation, _ = _rotation(((target - to_middle) * weight[:, None]).T @ (source - from_middle))
    return Motion(1.0, rotation, to_middle - rotation @ from_middle)


def _rotation(product: np.ndarray) -> tuple[np.ndarray, bool]:
    """The rotation nearest to a matrix (3, 3), and whether a reflection would be nearer still."""
    u, _, vh = np.linalg.svd(product)
    mirrored = bool(np.linalg.det(u @ vh) < 0.0)
    return u @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0]) @ vh, mirrored
