"""`fit3d models arkit`: makes ARKit's shapes that a face model lacks from the expressions that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.commands.console import Console
from fit3d.commands.options import QuietOption

if TYPE_CHECKING:
    from fit3d.annotate.register import Registration
    from fit3d.morphable.arkit import Combination
    from fit3d.morphable.model import MorphableModel
    from fit3d.morphable.store import StoredModel


def models_arkit_command(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    source: Annotated[
        str, typer.Option("--source", help="The annotated model whose shapes are to be met.", metavar="NAME")
    ] = "anny",
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find, for each of ARKit's 52 shapes that a face model has no expression for, the combination of its expressions
    that comes nearest, and keep it beside the model: GLB files offer it by ARKit's name, and say how near it is.

    The bundled head, which has all 52, is laid onto the model; what each shape does to it is what is to be met. `fit3d
    models annotate` ends with this; it is to be done again where annotation or model have changed.
    """
    from fit3d.annotate.register import register
    from fit3d.errors import UsageError
    from fit3d.morphable.raw import with_annotation
    from fit3d.morphable.registry import BUNDLED, load_model, needed_annotation
    from fit3d.morphable.store import read_stored, stored_model

    if name == BUNDLED:
        raise UsageError(f"'{BUNDLED}' has all of ARKit's shapes itself")
    stored = stored_model(name)
    target = with_annotation(read_stored(name), needed_annotation(stored))
    giver = load_model(source)
    laid = register(giver, target) if lacking(target, giver) else None
    lines, facts = keep_combinations(stored, target, giver, laid)
    Console(quiet=quiet, as_json=as_json).result("\n".join(lines), facts)


def lacking(target: MorphableModel, source: MorphableModel) -> bool:
    """Whether `source` has shapes of ARKit's that `target` could make of its expressions."""
    from fit3d.annotate.arkit import sought

    return bool(sought(source, target))


def keep_combinations(
    stored: StoredModel, target: MorphableModel, source: MorphableModel, laid: Registration | None
) -> tuple[list[str], dict[str, Any]]:
    """Find and write the combinations for a stored model; what to say of them, in words and as data. Without `laid`,
    `source` on the mean head of `target`, there are none to find."""
    from fit3d.annotate.arkit import combinations, write_combinations
    from fit3d.export.files import usage_errors
    from fit3d.morphable.arkit import read_combinations
    from fit3d.morphable.store import ARKIT_FILE

    path = stored.path.parent / ARKIT_FILE
    found = {} if laid is None else combinations(source, target, laid)
    with usage_errors(path):
        if found:
            write_combinations(path, stored, source.name, found)
            found = read_combinations(path, stored.sha256, stored.expression_names)  # what was written can be read
        else:
            path.unlink(missing_ok=True)
    facts = arkit_facts(stored.expression_names, found)
    lines = [f"{name:20} {each.size_mm:6.2f} mm, residual {each.residual:.2f}" for name, each in found.items()]
    if found:
        lines.append(f"wrote {path}")
    return [*lines, in_words(stored.name, facts)], {"file": str(path) if found else None, **facts}


def arkit_facts(names: tuple[str, ...], found: dict[str, Combination]) -> dict[str, Any]:
    """Which of ARKit's names a model with expressions `names` serves: itself, by sums of a left and a right expression,
    by combinations that are near enough, with their residuals; and which it does not."""
    from fit3d.morphable.arkit import ARKIT_NAMES, arkit_shapes, near_enough

    shapes, near = arkit_shapes(names), near_enough(found)
    return {
        "arkit": len(shapes),
        "arkit_sums": {name: [names[index] for index in parts] for name, parts in shapes.items() if len(parts) > 1},
        "arkit_nearly": {name: round(each.residual, 4) for name, each in near.items()},
        "arkit_missing": [name for name in ARKIT_NAMES if name not in shapes and name not in near],
    }


def in_words(name: str, facts: dict[str, Any]) -> str:
    """One line of what `arkit_facts` found."""
    line = f"{name} offers {facts['arkit']} of ARKit's 52 shapes itself"
    if facts["arkit_nearly"]:
        line += f", nearly {residuals_in_words(facts['arkit_nearly'])}"
    missing = facts["arkit_missing"]
    return f"{line}; not: {', '.join(missing)}" if missing else line


def residuals_in_words(residuals: dict[str, float]) -> str:
    """How many shapes there are, at least one, and how near."""
    mean = sum(residuals.values()) / len(residuals)
    worst = max(residuals, key=lambda name: residuals[name])
    return f"{len(residuals)} (residual {mean:.2f} on average, {residuals[worst]:.2f} at worst, {worst})"
