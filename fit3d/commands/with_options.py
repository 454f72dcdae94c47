"""Options that always go together, as one dataclass, for commands of typer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def with_options(command: Callable[..., int]) -> Callable[..., int]:
    """A command as typer wants it: each parameter that is a dataclass of options becomes its fields, one by one."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[name] = kind
            of_fields = get_type_hints(kind, include_extras=True)
            flat += [
                parameter.replace(name=each.name, default=each.default, annotation=of_fields[each.name])
                for each in fields(kind)
            ]
        else:
            flat.append(parameter.replace(annotation=hints[name]))

    def run(*args: Any, **values: Any) -> int:
        built = {name: kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        return command(*args, **values, **built)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in flat]
    )
    run.__annotations__ = {each.name: each.annotation for each in flat}
    return run
