"""Fits keep to the device they are told: tensors on a CPU pretend to lie on an accelerator, and what one would refuse
is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import fit3d.energy.search
from fit3d.config import CropConfig, FitConfig, FocalConfig
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.evaluate.vertex_samples import VertexObjective
from fit3d.morphable.model import MorphableModel
from fit3d.solve.adam import differentiable_energy
from fit3d.solve.fit import Face, face_geometry, fit_landmarks, fit_observations, prepare, refine_with_parts, results
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

CONFIG = FitConfig(anchors=8, iterations=2, crop=CropConfig(resolution=64), focal=FocalConfig(refine_sd=0.2))


class Pretend(TorchFunctionMode):
    """Follows which device each tensor pretends to lie on, all of them in truth on the CPU.

    Raises RuntimeError where one operation takes tensors of several devices (single numbers and indices may come from
    the CPU), where NumPy is to read an accelerator's memory, and where 'mps' is given float64 or a scattered minimum of
    whole numbers, which it has not; nor does it copy to float64 on the CPU in one step.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.__name__, dict(kwargs or {})
        if name == "__get__":  # an attribute
            asked = getattr(func, "__self__", None)
            if asked is Tensor.device:
                return torch.device(device_of(args[0]))
            if asked is Tensor.is_cuda:
                return device_of(args[0]) == "cuda"
        given = [*tensors_in(args), *tensors_in(kwargs)]
        wanted, source = [kwargs.pop("device", None)], None
        if name in ("to", "cpu"):
            source = device_of(args[0])
            wanted += ["cpu"] if name == "cpu" else args[1:]
            args = (args[0], *(each for each in args[1:] if not isinstance(each, str | torch.device)))
            place = ([device_named(each) for each in wanted if device_named(each)] or [source])[0]
        else:
            place = device_named(wanted[0]) or self.common_device(name, args, given)
        result = func(*args, **kwargs)
        for each in tensors_in(result):
            if device_of(each) != place:
                if each is args[0]:  # nothing to do on a CPU, but a copy elsewhere
                    result = each = each.view_as(each)
                each.pretended = place  # type: ignore[attr-defined]
            exotic = each.dtype == torch.float64 or (name == "scatter_reduce_" and not each.is_floating_point())
            if exotic and "mps" in (place, source):
                raise RuntimeError(f"mps has no {name} of {each.dtype}")
        return result

    def common_device(self, name: str, args: tuple[Any, ...], given: list[Tensor]) -> str:
        """Where an operation takes place."""
        if name in ("__getitem__", "__setitem__"):  # which may take their indices from the CPU
            given = [args[0], *(each for each in given if device_of(each) != "cpu"), *tensors_in(args[2:])]
        places = {device_of(each) for each in given if each.ndim or name in ("cat", "stack")}
        places |= {device_of(each) for each in given} - {"cpu"}
        if len(places) > 1:
            raise RuntimeError(f"{name} of tensors on {' and '.join(sorted(places))}")
        if name in ("numpy", "__array__") and places - {"cpu"}:
            raise RuntimeError(f"{name} of a tensor on {places}")
        return places.pop() if places else "cpu"


def device_of(tensor: Tensor) -> str:
    return getattr(tensor, "pretended", "cpu")


def device_named(value: object) -> str | None:
    """The kind of device that an argument of `Tensor.to` or of a factory names."""
    if isinstance(value, Tensor):
        return device_of(value)
    return torch.device(value).type if isinstance(value, str | torch.device) else None


def tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    several = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for each in several for tensor in tensors_in(each)]


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def faces(model: MorphableModel) -> list[Face]:
    """Two that stop at different steps; the second is seen by an unknown lens."""
    seen = []
    for seed in range(2):
        camera = synthetic_camera(width=200, height=240, yaw_deg=10.0 * seed)
        expression = torch.zeros(len(model.expression))
        head = KnownHead(synthetic_identity(model, seed, 0.7).float(), expression, camera)
        observation = observe_known(model, head, "ibug68", 1.0, np.random.default_rng(seed), CONFIG)
        seen.append(Face(observation, camera.width, camera.height, None if seed else camera.focal_px))
    return seen


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A pretended device. What is kept of it goes afterwards, because a true one may bear its name."""
    monkeypatch.setattr(fit3d.energy.search, "_fused_search", lambda device: None)  # a program for true devices only
    face_geometry.cache_clear()
    with Pretend():
        yield request.param
    face_geometry.cache_clear()


@pytest.mark.parametrize("loss", ["prdl+icp", "prdl", "silhouette"])
def test_a_fit_keeps_to_its_device(model: MorphableModel, faces: list[Face], device: str, loss: Any) -> None:
    for fit in fit_observations(model, faces, replace(CONFIG, loss=loss, device=device)):
        assert fit.part_iou["mean"] > 0.8
        assert device_of(fit.identity) == device_of(fit.expression) == device_of(fit.camera.cam_from_world) == "cpu"
        assert fit.identity.dtype == fit.expression.dtype == torch.float64


def test_the_reference_solver_keeps_to_its_device(model: MorphableModel, faces: list[Face], device: str) -> None:
    batch = prepare(model, faces[:1], replace(CONFIG, loss="prdl", device=device))
    step = torch.zeros(1, batch.objective.geometry.parameter_count, device=device, requires_grad=True)
    energy = differentiable_energy(batch.objective, fit_landmarks(batch).at, step)
    assert device_of(energy) == device_of(torch.autograd.grad(energy, step)[0]) == device


def test_vertices_keep_to_their_device(model: MorphableModel, faces: list[Face], device: str) -> None:
    batch = prepare(model, faces, replace(CONFIG, loss="prdl", device=device))
    batch = replace(batch, objective=VertexObjective.like(batch.objective, by_area=True, seen_only=True))
    outcome = refine_with_parts(batch, fit_landmarks(batch).at)
    assert device_of(outcome.at.coefficients) == device
    assert len(results(batch, [outcome])) == len(faces)


REFUSED: list[tuple[str, Callable[[Tensor, Tensor], object]]] = [
    ("add", lambda here, there: here + there),
    ("index_copy", lambda here, there: there.index_copy(0, here.long(), there)),
    ("cat", lambda here, there: torch.cat([here, there])),
    ("stack", lambda here, there: torch.stack([here[0], there[0]])),
    ("__getitem__", lambda here, there: here[there.long()]),
    ("__setitem__", lambda here, there: there.__setitem__(slice(None), here)),
    ("numpy", lambda here, there: there.numpy()),
    ("float64", lambda here, there: there.double()),
    ("float64", lambda here, there: here.double().to(there.device)),
    ("float64", lambda here, there: there.to(here.double())),
    ("float64", lambda here, there: torch.zeros(1, dtype=torch.float64, device=there.device)),
    ("int64", lambda here, there: there.long().scatter_reduce_(0, there.long(), there.long(), "amin")),
]


@pytest.mark.parametrize(("message", "operation"), REFUSED)
def test_what_a_device_refuses_is_noticed(message: str, operation: Callable[[Tensor, Tensor], object]) -> None:
    with Pretend():
        here = torch.zeros(2)
        there = here.to("mps")
        with pytest.raises(RuntimeError, match=message):
            operation(here, there)


def test_what_a_device_takes_is_let_through() -> None:
    with Pretend():
        here = torch.arange(2.0)
        there = here.to("mps")
        assert here.device.type == "cpu" and there.device.type == "mps" and there.cpu().device.type == "cpu"
        places = [there * here[1], there[here.long()], there.new_zeros(3), torch.zeros_like(there), here.to(there)]
        assert {each.device.type for each in places} == {"mps"}
        assert there.cpu().double().to(there).dtype == torch.float32
