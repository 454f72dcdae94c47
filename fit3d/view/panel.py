"""The panel beside the scene: buttons and sliders, and what is said about the head."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Protocol

import viser

from fit3d.morphable.model import MorphableModel
from fit3d.view.groups import expression_groups
from fit3d.view.state import ViewState

DECIMALS = 3
"""Of a value as a slider shows it; the state keeps it all."""
STEPS = 100
"""Steps of a slider from end to end."""
OPEN_GROUPS = ("Jaw", "Mouth")
"""Groups of expressions that are unfolded at first."""
PREVIOUS, NEXT = "previous", "next"
NEUTRAL, FITTED = "neutral", "fitted"
PHOTO_CAMERA, FRONT = "photo camera", "front"
OBJ, GLB = "OBJ", "GLB"


class Actions(Protocol):
    """What the panel asks for. Its callbacks come from viser's threads and must return at once."""

    def change(self, change: Callable[[ViewState], None]) -> None:
        """Change what is shown."""

    def pose(self, name: str) -> None:
        """'neutral' or 'fitted'."""

    def look_from(self, name: str, client: viser.ClientHandle) -> None:
        """'photo camera' or 'front'."""

    def export(self, name: str) -> None:
        """'OBJ' or 'GLB'."""

    def step(self, by: int) -> None:
        """Another result: 1 is the next, -1 the previous one."""


class Panel:
    """The panel's elements. Their values follow the state only when told to, by `follow`."""

    def __init__(self, gui: viser.GuiApi, actions: Actions, several: bool) -> None:
        self._gui, self._actions = gui, actions
        self._about = gui.add_html("")
        if several:
            self._on_click("Result", (PREVIOUS, NEXT), lambda name, _: actions.step(1 if name == NEXT else -1))
        self._looks: viser.GuiButtonGroupHandle | None = None
        self._on_click("Pose", (NEUTRAL, FITTED), lambda name, _: actions.pose(name))
        self._on_click("View", (PHOTO_CAMERA, FRONT), actions.look_from)
        self._opacity = gui.add_slider("Photo opacity", min=0.0, max=1.0, step=1.0 / STEPS, initial_value=1.0)
        self._on_move(self._opacity, lambda state, value: setattr(state, "photo_opacity", value))
        self._on_click("Export", (OBJ, GLB), lambda name, _: actions.export(name))
        self._message = gui.add_html("")
        self._model: MorphableModel | None = None
        self._folders: list[viser.GuiFolderHandle] = []
        self._expressions: dict[int, viser.GuiSliderHandle[float]] = {}
        self._identities: list[viser.GuiSliderHandle[float]] = []

    def say(self, text: str, warning: bool = False) -> None:
        """A line under the buttons; empty takes it away."""
        colour = "#e8a33d" if warning else "inherit"
        self._message.content = f'<div style="padding:0 .7em;color:{colour}">{_breakable(text)}</div>' if text else ""

    def show(self, state: ViewState, about: str) -> None:
        """Another head: what there is to say of it, its looks and its sliders."""
        lines = [f"<b>{_breakable(state.subject.name)}</b> {html.escape(about)}"]
        lines += [f'<span style="color:#e8a33d">{_breakable(line)}</span>' for line in state.subject.missing]
        self._about.content = f'<div style="padding:.3em .7em">{"<br>".join(lines)}</div>'
        if self._looks is not None:
            self._looks.remove()
        self._looks = self._on_click("Look", state.looks, self._choose_look, order=self._opacity.order - 0.5)
        if state.subject.model is not self._model:
            self._make_sliders(state)
        self.follow(state)

    def follow(self, state: ViewState) -> None:
        """Bring all sliders to what the state says."""
        for place, slider in self._expressions.items():
            _set(slider, float(state.expression[place]), state.expression_range(place))
        for place, slider in enumerate(self._identities):
            _set(slider, float(state.identity[place]), state.identity_range(place))
        _set(self._opacity, state.photo_opacity, (0.0, 1.0))

    def _choose_look(self, name: str, client: viser.ClientHandle) -> None:
        self._actions.change(lambda state: state.choose_look(name))

    def _make_sliders(self, state: ViewState) -> None:
        for folder in self._folders:
            folder.remove()
        self._folders, self._expressions, self._identities = [], {}, []
        self._model = state.subject.model
        if self._model is None:
            return
        for group, places in expression_groups(self._model.expression_names).items():
            folder = self._gui.add_folder(group, expand_by_default=group in OPEN_GROUPS)
            self._folders.append(folder)
            with folder:
                for place in places:
                    name = self._model.expression_names[place]
                    slider = self._slider(name, state.expression_range(place), float(state.expression[place]))
                    self._expressions[place] = slider
                    self._on_move(slider, partial(_set_expression, place))
        folder = self._gui.add_folder("Identity, standard deviations", expand_by_default=False)
        self._folders.append(folder)
        with folder:
            for place in range(state.identity_sliders):
                slider = self._slider(f"shape {place + 1}", state.identity_range(place), float(state.identity[place]))
                self._identities.append(slider)
                self._on_move(slider, partial(_set_identity, place))

    def _slider(self, name: str, bounds: tuple[float, float], value: float) -> viser.GuiSliderHandle[float]:
        low, high = bounds
        step = max((high - low) / STEPS, 1e-6)
        shown = _shown(value, bounds)
        return self._gui.add_slider(name, min=low, max=max(high, low + step), step=step, initial_value=shown)

    def _on_move(self, slider: viser.GuiSliderHandle[float], change: Callable[[ViewState, float], None]) -> None:
        async def moved(event: viser.GuiEvent[viser.GuiSliderHandle[float]]) -> None:
            if event.client_id is None:  # set by us
                return
            value = float(event.target.value)
            self._actions.change(lambda state: change(state, value))

        slider.on_update(moved)

    def _on_click(
        self,
        label: str,
        names: tuple[str, ...],
        act: Callable[[str, viser.ClientHandle], None],
        order: float | None = None,
    ) -> viser.GuiButtonGroupHandle:
        group = self._gui.add_button_group(label, names, order=order)

        async def clicked(event: viser.GuiEvent[viser.GuiButtonGroupHandle]) -> None:
            if event.client is not None:
                act(event.target.value, event.client)

        group.on_click(clicked)
        return group


def _set_expression(place: int, state: ViewState, value: float) -> None:
    state.set_expression(place, value)


def _set_identity(place: int, state: ViewState, value: float) -> None:
    state.set_identity(place, value)


def _set(slider: viser.GuiSliderHandle[float], value: float, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if (slider.min, slider.max) != (low, high) and high > low:
        slider.min, slider.max = low, high
    shown = _shown(value, bounds)
    if slider.value != shown:
        slider.value = shown  # type: ignore[misc]  # viser parts the setter from its getter, which mypy cannot read


def _shown(value: float, bounds: tuple[float, float]) -> float:
    """`value` as the slider shows it."""
    return min(max(round(value, DECIMALS), bounds[0]), bounds[1])


def _breakable(text: str) -> str:
    """`text` as HTML that may be broken inside a path."""
    return f'<span style="overflow-wrap:anywhere">{html.escape(text)}</span>'
