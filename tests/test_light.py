"""The light on skin: found from colours and normals, and taken away."""

from __future__ import annotations

import numpy as np
import pytest

from fit3d.render.light import (
    FEWEST_SAMPLES,
    LEAST_SHADING,
    MOST_SHADING,
    estimate_light,
    harmonics,
    to_linear,
    to_srgb,
)

SKIN = np.array([0.45, 0.28, 0.2])
"""Linear."""


def seen_normals(count: int = 6000) -> np.ndarray:
    """(N, 3) unit, of the half that a camera in front sees."""
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return normals * np.where(normals[:, 2:] < 0, [1, 1, -1], 1)


def lamp(normals: np.ndarray) -> np.ndarray:
    """(N, 3) linear: a reddish lamp from the left and above, bluish light from everywhere."""
    direction = np.array([0.7, 0.4, 0.6]) / np.linalg.norm([0.7, 0.4, 0.6])
    return (normals @ direction).clip(0.0)[:, None] * [0.9, 0.7, 0.5] + [0.25, 0.3, 0.4]


def test_srgb_there_and_back() -> None:
    values = np.linspace(0.0, 1.0, 1001)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-12)
    assert to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)  # of the standard's own table


def test_harmonics_are_orthogonal_on_the_sphere() -> None:
    directions = np.random.default_rng(0).normal(size=(400_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    values = harmonics(directions)
    product = values.T @ values / len(values)
    scale = np.sqrt(np.diag(product))
    np.testing.assert_allclose(product / np.outer(scale, scale), np.eye(9), atol=0.01)


def test_light_of_harmonics_is_found_exactly_but_for_the_ridge() -> None:
    normals = seen_normals()
    coefficients = np.zeros((9, 3))
    coefficients[0], coefficients[1], coefficients[3] = 1.0, [0.3, 0.25, 0.2], 0.15
    shade = harmonics(normals) @ coefficients
    light = estimate_light(to_srgb(SKIN * 0.8 * shade), normals, np.ones(len(normals)))
    assert light is not None
    np.testing.assert_allclose(light.shading(normals), shade / shade.mean(0), atol=0.03)


def test_removed_light_leaves_even_skin_with_its_marks() -> None:
    """Under a lamp the same skin varies threefold; without it, little; brows and spots stay what they were."""
    normals = seen_normals()
    generator = np.random.default_rng(1)
    albedo = SKIN * (1.0 + 0.05 * generator.normal(size=(len(normals), 1)))
    dark = generator.random(len(normals)) < 0.12
    albedo[dark] *= 0.2
    rgb = to_srgb((albedo * lamp(normals)).clip(0.0, 1.0))
    light = estimate_light(rgb, normals, np.ones(len(normals)))
    assert light is not None
    even = to_linear(light.removed(rgb, normals))

    def spread(colours: np.ndarray) -> float:
        return float(np.std(np.log(colours[~dark].sum(1) / albedo[~dark].sum(1))))

    before, after = spread(to_linear(rgb)), spread(even)
    assert before > 0.25 and after < 0.3 * before, (before, after)
    ratio = np.median(even[dark].sum(1)) / np.median(even[~dark].sum(1))
    assert ratio == pytest.approx(0.2, rel=0.15)
    # what is taken away is the variation, not the skin's own colour on the whole
    np.testing.assert_allclose(np.median(even[~dark], 0), np.median(to_linear(rgb)[~dark], 0), rtol=0.15)


def test_what_is_not_trusted_has_no_say() -> None:
    normals = seen_normals()
    rgb = to_srgb(SKIN * lamp(normals))
    spoilt, weight = rgb.copy(), np.ones(len(normals))
    weight[::3], spoilt[::3] = 0.0, 0.9
    one = estimate_light(rgb[weight > 0], normals[weight > 0], weight[weight > 0])
    two = estimate_light(spoilt, normals, weight)
    assert one is not None and two is not None
    np.testing.assert_allclose(one.coefficients, two.coefficients, rtol=1e-9)


def test_shading_is_bounded_where_nothing_was_seen() -> None:
    """Skin seen in a narrow cone only: elsewhere the light is a guess that must not burn or blacken."""
    normals = seen_normals(20_000)
    narrow = normals[normals[:, 2] > 0.8]
    light = estimate_light(to_srgb(SKIN * lamp(narrow)), narrow, np.ones(len(narrow)))
    assert light is not None
    everywhere = light.shading(np.concatenate([normals, -normals]))
    assert everywhere.min() >= LEAST_SHADING and everywhere.max() <= MOST_SHADING
    assert 0.6 < np.median(everywhere) < 1.4


def test_too_little_skin_tells_nothing() -> None:
    normals = seen_normals(FEWEST_SAMPLES - 1)
    assert estimate_light(to_srgb(SKIN * lamp(normals)), normals, np.ones(len(normals))) is None
