"""`fit3d models`: which face models there are, and what each is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fit3d.commands.console import json_line

NAME_WIDTH = 12


def models_list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model and line.")] = False,
) -> None:
    """List the face models that `fit --model` knows."""
    from fit3d.morphable.registry import MODEL_NAMES, load_model

    for name in MODEL_NAMES:
        model = load_model(name)
        if as_json:
            print(json_line(_facts(model)))
        else:
            print(
                f"{name:{NAME_WIDTH}} {model.version}  {len(model.mean)} vertices, {len(model.identity)} identity and "
                f"{len(model.expression)} expression coefficients"
            )


def models_info_command(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a face model is: size, source, licence, expressions, annotation."""
    from fit3d.morphable.registry import load_model

    facts = _facts(load_model(name))
    if as_json:
        print(json_line(facts))
        return
    for key, value in facts.items():
        text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
        print(f"{key:{NAME_WIDTH}} {text}")


def _facts(model: Any) -> dict[str, Any]:
    """What there is to say of a `MorphableModel`, ready for JSON."""
    from fit3d.labels import PART_NAMES

    labelled = set(model.annotation.field_labels.tolist()) | set(model.annotation.fixed_label.tolist())
    return {
        "name": model.name,
        "version": model.version,
        "licence": model.licence,
        "source": model.source,
        "units": "metres",
        "vertices": len(model.mean),
        "faces": len(model.faces),
        "identity": len(model.identity),
        "expression": list(model.expression_names),
        "objects": list(model.objects),
        "parts": [PART_NAMES[label] for label in sorted(labelled) if label >= 0],
        "landmarks": sorted(model.landmarks),
    }
